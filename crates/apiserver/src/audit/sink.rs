//! Queues between requests and the back ends of the audit log. A queue has a bound in events and
//! in bytes; what finds no place is counted and gone, so that no request waits for a disk or for
//! somebody outside. Only in the blocking modes a request waits until its event is where it belongs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clock::Instant;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::metrics::audit::AuditMetrics;

/// Bytes of events that wait for one back end, in KiB: a few minutes of a busy cluster's writes.
const QUEUE_KIB: u32 = 64 << 10;
/// How often the server's log speaks of a loss.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Whether requests wait for a back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Never.
    Batch,
    /// Until their events have arrived.
    Blocking,
    /// As `Blocking`, and a request whose first event did not arrive is refused.
    BlockingStrict,
}

/// An event in a queue.
pub struct Entry {
    pub line: Bytes,
    /// Who waits for it, and hears whether it has arrived.
    pub told: Option<oneshot::Sender<bool>>,
    _room: OwnedSemaphorePermit,
}

impl Entry {
    /// Says what became of it.
    pub fn settle(&mut self, arrived: bool) {
        if let Some(waiting) = self.told.take() {
            // A request that has ended does not hear it.
            let _ = waiting.send(arrived);
        }
    }
}

/// The request's end of a queue.
pub struct Sink {
    /// Of the back end: `log`, `webhook`.
    name: &'static str,
    mode: Mode,
    /// Events that are larger lose their bodies, if that is asked for; in bytes.
    pub truncate: Option<usize>,
    queue: mpsc::Sender<Entry>,
    room: Arc<Semaphore>,
    losses: Losses,
}

impl Sink {
    /// A queue of so many events, and its other end.
    pub fn new(
        name: &'static str,
        mode: Mode,
        truncate: Option<usize>,
        events: usize,
        metrics: &AuditMetrics,
    ) -> (Self, mpsc::Receiver<Entry>) {
        let (queue, other_end) = mpsc::channel(events.max(1));
        let sink = Self {
            name,
            mode,
            truncate,
            queue,
            room: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            losses: Losses::new(metrics.clone()),
        };
        (sink, other_end)
    }

    /// Whether a request is refused whose event does not arrive.
    pub fn is_strict(&self) -> bool {
        self.mode == Mode::BlockingStrict
    }

    /// Passes an event on, and waits if that is the mode; whether it has arrived, as far as is
    /// known.
    pub async fn send(&self, line: Bytes) -> bool {
        if self.mode == Mode::Batch {
            return self.offer(line);
        }
        let Ok(room) = self.room.clone().acquire_many_owned(kib(&line)).await else {
            return false;
        };
        let (told, answer) = oneshot::channel();
        let entry = Entry {
            line,
            told: Some(told),
            _room: room,
        };
        if self.queue.send(entry).await.is_err() {
            self.losses
                .count(self.name, 1, "the server is shutting down");
            return false;
        }
        answer.await.unwrap_or(false)
    }

    /// Passes an event on if there is a place for it.
    pub fn offer(&self, line: Bytes) -> bool {
        let room = self.room.clone().try_acquire_many_owned(kib(&line)).ok();
        let sent = room.and_then(|room| {
            let entry = Entry {
                line,
                told: None,
                _room: room,
            };
            self.queue.try_send(entry).ok()
        });
        if sent.is_none() {
            let why = format!("the queue of the {} is full", self.name);
            self.losses.count("buffered", 1, &why);
        }
        sent.is_some()
    }
}

/// The next events of a queue, at most so many; none when it is closed and empty.
pub async fn next(
    queue: &mut mpsc::Receiver<Entry>,
    entries: &mut Vec<Entry>,
    most: usize,
    closing: &CancellationToken,
) -> usize {
    tokio::select! {
        biased;
        () = closing.cancelled() => queue.close(),
        some = queue.recv_many(entries, most) => return some,
    }
    queue.recv_many(entries, most).await
}

fn kib(line: &Bytes) -> u32 {
    let kib = u32::try_from(line.len() / 1024 + 1).unwrap_or(u32::MAX);
    kib.min(QUEUE_KIB)
}

/// Events that are lost: counted, and logged now and then.
pub struct Losses {
    metrics: AuditMetrics,
    /// When it was logged last, and how many are lost since.
    told: Mutex<(Option<Instant>, u64)>,
}

impl Losses {
    pub fn new(metrics: AuditMetrics) -> Self {
        Self {
            metrics,
            told: Mutex::default(),
        }
    }

    pub fn count(&self, plugin: &'static str, events: u64, why: &str) {
        self.metrics.lost(plugin, events);
        let mut told = self.told.lock();
        told.1 += events;
        if told.0.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
            tracing::error!("audit: {} events are lost: {why}", told.1);
            *told = (Some(Instant::now()), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_finds_no_place_is_counted_and_nobody_waits() {
        let metrics = AuditMetrics::default();
        let (sink, mut other_end) = Sink::new("log", Mode::Batch, None, 2, &metrics);
        let line = || Bytes::from_static(b"{}");
        assert!(sink.send(line()).await);
        assert!(sink.send(line()).await);
        assert!(!sink.send(line()).await);
        assert_eq!(metrics.losses("buffered"), 1);
        drop(other_end.recv().await);
        assert!(sink.send(line()).await);
        // By bytes, too, and an event of any size has a place in an empty queue.
        let (sink, mut other_end) = Sink::new("log", Mode::Batch, None, 100, &metrics);
        let large = Bytes::from(vec![b'x'; (QUEUE_KIB as usize + 1) << 10]);
        assert!(sink.send(large).await);
        assert!(!sink.send(line()).await);
        drop(other_end.recv().await);
        assert!(sink.send(line()).await);
    }

    #[tokio::test]
    async fn who_is_to_wait_hears_what_became_of_it() {
        let metrics = AuditMetrics::default();
        let (sink, mut other_end) = Sink::new("log", Mode::Blocking, None, 2, &metrics);
        let writer = async {
            other_end.recv().await.expect("first").settle(true);
            other_end.recv().await.expect("second").settle(false);
            // The third is forgotten.
            drop(other_end.recv().await);
        };
        let request = async {
            let mut heard = Vec::new();
            for _ in 0..3 {
                heard.push(sink.send(Bytes::from_static(b"{}")).await);
            }
            heard
        };
        let (heard, ()) = tokio::join!(request, writer);
        assert_eq!(heard, [true, false, false]);
    }
}
