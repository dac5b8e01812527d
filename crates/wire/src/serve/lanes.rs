//! Where connections run. A runtime gives each of its tasks a turn, so a small request waits for the
//! turns of all that send large answers, and a thread that sends one is not at hand when the small
//! request arrives. So a connection that is sent much is moved to threads of its own, which give way
//! to all others where processors are short; once it is sent little again it comes back.
//!
//! A connection is a future, and its socket wakes whoever polls it: it may be polled by one task and
//! then by another. What it starts runs where it runs itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

/// A connection that is sent so many bytes within [`SOON`] is one of large answers, if they are
/// [`LARGE`]. A list of 1,500 pods has as many.
const MUCH: u64 = 4 << 20;
/// So many bytes for each request: a client that asks for thousands of single objects a second is sent
/// much, too, and waits for each of them.
const LARGE: u64 = 16 << 10;
const SOON: Duration = Duration::from_secs(1);
/// It is one of small answers again when it was sent fewer than this in [`CALM`].
const LITTLE: u64 = 1 << 20;
const CALM: Duration = Duration::from_secs(5);

/// The runtimes of a server's connections.
#[derive(Clone, Debug, Default)]
pub struct Lanes(Option<Two>);

#[derive(Clone, Debug)]
struct Two {
    small: Handle,
    large: Handle,
    soon: Duration,
    calm: Duration,
}

impl Lanes {
    /// All run where they are accepted.
    pub const ONE: Self = Self(None);

    /// Connections run on `small`, those that are sent much on `large`.
    pub fn new(small: Handle, large: Handle) -> Self {
        Self(Some(Two {
            small,
            large,
            soon: SOON,
            calm: CALM,
        }))
    }

    /// Starts a connection; `pace` counts what is written to it.
    pub(super) fn spawn(
        &self,
        pace: Arc<Pace>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let Some(lanes) = self.0.clone() else {
            tokio::spawn(connection);
            return;
        };
        lanes.begin(false, pace, Box::pin(connection));
    }
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Two {
    /// Has a connection run in a lane, from now on.
    fn begin(self, is_large: bool, pace: Arc<Pace>, running: Running) {
        let lane = if is_large { &self.large } else { &self.small };
        let lane = lane.clone();
        lane.spawn(Moving {
            running: Some(running),
            lanes: self,
            is_large,
            window: Window::of(&pace),
            pace,
        });
    }
}

/// What was written to a connection so far, and for how many requests.
#[derive(Debug, Default)]
pub struct Pace {
    bytes: AtomicU64,
    requests: AtomicU64,
}

impl Pace {
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A request has come.
    pub(super) fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Since when it is counted.
struct Window {
    bytes: u64,
    requests: u64,
    began: Instant,
}

impl Window {
    fn of(pace: &Pace) -> Self {
        Self {
            bytes: pace.bytes(),
            requests: pace.requests(),
            began: Instant::now(),
        }
    }

    /// Whether so many bytes are large answers; a stream may have begun long ago.
    fn is_of_large(&self, pace: &Pace, sent: u64) -> bool {
        let requests = pace.requests().saturating_sub(self.requests);
        sent / requests.max(1) >= LARGE
    }
}

/// A connection that changes its lane between two polls.
struct Moving {
    /// `None` once another task polls it.
    running: Option<Running>,
    lanes: Two,
    is_large: bool,
    window: Window,
    pace: Arc<Pace>,
}

impl Moving {
    fn is_in_wrong_lane(&mut self) -> bool {
        let sent = self.pace.bytes() - self.window.bytes;
        if !self.is_large {
            // Most are never sent that much: they cost no look at the clock.
            if sent < MUCH {
                return false;
            }
            let is_soon = self.window.began.elapsed() < self.lanes.soon;
            let is_large = self.window.is_of_large(&self.pace, sent);
            self.window = Window::of(&self.pace);
            return is_soon && is_large;
        }
        if self.window.began.elapsed() < self.lanes.calm {
            return false;
        }
        let is_large = self.window.is_of_large(&self.pace, sent);
        self.window = Window::of(&self.pace);
        sent < LITTLE || !is_large
    }
}

impl Future for Moving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.is_in_wrong_lane()
            && let Some(running) = this.running.take()
        {
            let (lanes, pace) = (this.lanes.clone(), this.pace.clone());
            lanes.begin(!this.is_large, pace, running);
            return Poll::Ready(());
        }
        match &mut this.running {
            Some(running) => running.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::runtime::{Builder, Runtime};
    use tokio::sync::oneshot;

    use super::*;

    fn runtime(name: &str) -> Runtime {
        let made = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build();
        made.expect("runtime")
    }

    /// Where each poll of a connection happens to which so much is written by each, for so many requests;
    /// it begins in a lane.
    fn polled(
        is_large: bool,
        calm: Duration,
        written: &'static [u64],
        requests: u64,
    ) -> Vec<String> {
        let (small, large) = (runtime("small"), runtime("large"));
        let lanes = Two {
            small: small.handle().clone(),
            large: large.handle().clone(),
            soon: Duration::MAX,
            calm,
        };
        let pace = Arc::<Pace>::default();
        let (end, ended) = oneshot::channel();
        let (mut end, counted, mut at) = (Some(end), pace.clone(), Vec::new());
        let connection = poll_fn(move |cx| {
            let thread = std::thread::current();
            at.push(thread.name().unwrap_or_default().to_owned());
            let Some(bytes) = written.get(at.len() - 1) else {
                if let Some(end) = end.take() {
                    let _ = end.send(std::mem::take(&mut at));
                }
                return Poll::Ready(());
            };
            counted.add(usize::try_from(*bytes).unwrap_or(usize::MAX));
            (0..requests).for_each(|_| counted.asked());
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        lanes.begin(is_large, pace, Box::pin(connection));
        let seen = ended.blocking_recv().expect("it ends");
        small.shutdown_background();
        large.shutdown_background();
        seen
    }

    #[test]
    fn a_connection_that_is_sent_much_gives_way_until_it_is_sent_little() {
        let never = Duration::MAX;
        assert_eq!(
            polled(false, never, &[1, MUCH, 0], 1),
            ["small", "small", "large", "large"]
        );
        assert_eq!(polled(false, never, &[1, 1, 1], 1), ["small"; 4]);
        assert_eq!(polled(true, never, &[MUCH, 0], 1), ["large"; 3]);
        assert_eq!(polled(true, Duration::ZERO, &[0, 0], 0), ["small"; 3]);
    }

    #[test]
    fn many_small_answers_are_no_large_ones() {
        let never = Duration::MAX;
        assert_eq!(polled(false, never, &[MUCH, MUCH], 1_000), ["small"; 3]);
        let back = polled(true, Duration::ZERO, &[MUCH, MUCH], 1_000);
        assert_eq!(back.last().map(String::as_str), Some("small"));
        // A stream that began before is one answer.
        assert_eq!(
            polled(false, never, &[MUCH, 0], 0),
            ["small", "large", "large"]
        );
    }
}
