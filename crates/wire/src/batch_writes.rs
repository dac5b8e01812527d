//! Gathers small writes of an HTTP/2 connection: its codec flushes after every DATA frame, so
//! that fifty watchers of one connection would cost fifty TLS records and fifty system calls for
//! each event. A flush that follows new bytes is put off until the connection's task runs again,
//! behind all tasks that are ready now and may have something to add.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

use crate::serve::lanes::Pace;

/// Bytes that are gathered at most: four TLS records, sent with one system call.
const MOST: usize = 64 * 1024;
/// Writes of at least this size gain nothing from being gathered: a whole TLS record.
const LARGE: usize = 16 * 1024;
/// Bytes for which a large write takes one unit of the 128 that a task has for each of its turns.
/// After 512 KiB (about 0.2 ms of encrypting and copying) it is others' turn: the runtime counts
/// writes, not bytes, and would let one connection send eight megabytes while small requests wait.
const PER_UNIT: usize = 4 * 1024;
/// Of one write, so that each fits into a turn.
const MOST_UNITS: usize = 32;

/// Takes what writing `len` bytes costs of the task's turn; waits for the next one if it is over.
fn poll_turn(cx: &mut Context<'_>, len: usize) -> Poll<()> {
    for _ in 0..(len / PER_UNIT).min(MOST_UNITS) {
        ready!(coop::poll_proceed(cx)).made_progress();
    }
    Poll::Ready(())
}

/// A stream whose small writes are sent together.
pub struct Gather<S> {
    inner: S,
    held: Vec<u8>,
    /// How much of `held` is sent.
    sent: usize,
    /// Bytes came since the last flush.
    fresh: bool,
    pace: Arc<Pace>,
}

impl<S> Gather<S> {
    /// `pace` counts the bytes that are written.
    pub fn new(inner: S, pace: Arc<Pace>) -> Self {
        Self {
            inner,
            held: Vec::new(),
            sent: 0,
            fresh: false,
            pace,
        }
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    /// Hands all that is held to the stream below.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.held.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        self.sent = 0;
        // A quiet connection holds no memory.
        self.held = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Makes room for `len` bytes; `true` if they are to be held, `false` if they go straight on.
    fn poll_room(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<bool>> {
        if len < LARGE && self.held.len() + len <= MOST {
            return Poll::Ready(Ok(true));
        }
        ready!(self.poll_drain(cx))?;
        Poll::Ready(Ok(len < LARGE))
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.held.capacity() == 0 {
            self.held.reserve(LARGE);
        }
        self.held.extend_from_slice(bytes);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.fresh = true;
        let held = ready!(self.poll_room(cx, buf.len()))?;
        let written = if held {
            self.hold(buf);
            buf.len()
        } else {
            ready!(poll_turn(cx, buf.len()));
            ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?
        };
        self.pace.add(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.fresh = true;
        let len = bufs.iter().map(|b| b.len()).sum();
        let held = ready!(self.poll_room(cx, len))?;
        let written = if held {
            bufs.iter().for_each(|b| self.hold(b));
            len
        } else {
            ready!(poll_turn(cx, len));
            ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs))?
        };
        self.pace.add(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.fresh) && !self.held.is_empty() {
            // A task that wakes itself runs again behind those that are ready now.
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// What has arrived, without waiting for more.
    async fn arrived(from: &mut tokio::io::DuplexStream) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        let read = poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *from).poll_read(cx, &mut buf) {
                Poll::Ready(_) => Poll::Ready(buf.filled().len()),
                Poll::Pending => Poll::Ready(0),
            }
        });
        let read = read.await;
        bytes.truncate(read);
        bytes
    }

    #[tokio::test]
    async fn small_writes_go_together_at_the_second_flush() {
        let (ours, mut theirs) = duplex(1 << 20);
        let mut gather = Gather::new(ours, Arc::default());
        for part in [b"a", b"b", b"c"] {
            gather.write_all(part).await.expect("write");
            gather.flush().await.expect("flush");
        }
        assert_eq!(arrived(&mut theirs).await, b"");
        gather.flush().await.expect("flush");
        assert_eq!(arrived(&mut theirs).await, b"abc");
    }

    #[tokio::test]
    async fn large_writes_keep_their_place() {
        let (ours, mut theirs) = duplex(1 << 20);
        let mut gather = Gather::new(ours, Arc::default());
        let large = vec![b'x'; LARGE];
        gather.write_all(b"a").await.expect("write");
        gather.write_all(&large).await.expect("write");
        gather.write_all(b"b").await.expect("write");
        gather.shutdown().await.expect("shutdown");
        drop(gather);
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await.expect("read");
        assert_eq!(all, [b"a", large.as_slice(), b"b"].concat());
    }

    #[tokio::test]
    async fn a_long_answer_lets_others_have_their_turn() {
        let (ours, _theirs) = duplex(8 << 20);
        let long = tokio::spawn(async move {
            let mut gather = Gather::new(ours, Arc::default());
            let piece = vec![b'x'; 64 * 1024];
            for _ in 0..32 {
                gather.write_all(&piece).await.expect("write");
            }
        });
        let others = tokio::spawn(async move { long.is_finished() });
        assert!(!others.await.expect("a task"), "two megabytes in one turn");
    }

    #[tokio::test]
    async fn a_full_stream_below_loses_nothing() {
        let (ours, mut theirs) = duplex(100);
        let mut gather = Gather::new(ours, Arc::default());
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            for part in sent.chunks(1_000) {
                gather.write_all(part).await.expect("write");
                gather.flush().await.expect("flush");
            }
            gather.shutdown().await.expect("shutdown");
        });
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await.expect("read");
        writing.await.expect("writer");
        assert_eq!(all, expected);
    }
}
