//! How long nothing has flowed in a connection's streams. What keeps a connection alive (pings of
//! WebSocket and SPDY) is not asked about: it says that the client's program is there, not that
//! anybody uses it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use clock::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{BoxIo, lock};

/// When something flowed last. Clones are of the same connection.
#[derive(Clone, Debug)]
pub struct Activity(Arc<Mutex<Instant>>);

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Activity {
    /// Something flows.
    pub fn mark(&self) {
        *lock(&self.0) = Instant::now();
    }

    fn last(&self) -> Instant {
        *lock(&self.0)
    }

    /// Waits until nothing has flowed for so long; for ever where there is no limit.
    pub async fn idle_for(&self, limit: Option<Duration>) {
        loop {
            let last = self.last();
            let until = limit.and_then(|limit| last.checked_add(limit));
            let Some(until) = until else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(until).await;
            if self.last() == last {
                return;
            }
        }
    }
}

/// A connection whose bytes are noticed.
struct Watched {
    inner: BoxIo,
    activity: Activity,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.mark();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        if matches!(polled, Poll::Ready(Ok(n)) if n > 0) {
            self.activity.mark();
        }
        polled
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// The connection, with what flows in it noted.
#[must_use]
pub fn watched(inner: BoxIo, activity: &Activity) -> BoxIo {
    let activity = activity.clone();
    Box::new(Watched { inner, activity })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn what_flows_puts_the_end_off() {
        let activity = Activity::default();
        let (near, mut far) = duplex(100);
        tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(LIMIT / 2).await;
                let _ = far.write_all(b"word").await;
            }
            std::future::pending::<()>().await;
        });
        let began = Instant::now();
        let mut connection = watched(Box::new(near), &activity);
        let reading = async {
            let mut all = Vec::new();
            let _ = connection.read_to_end(&mut all).await;
        };
        tokio::select! {
            biased;
            () = reading => panic!("the connection has ended"),
            () = activity.idle_for(Some(LIMIT)) => {}
        }
        assert_eq!(began.elapsed().as_secs(), (LIMIT / 2 * 3 + LIMIT).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_idle() {
        let activity = Activity::default();
        let waited = tokio::time::timeout(LIMIT * 1000, activity.idle_for(None)).await;
        assert!(waited.is_err());
    }
}
