//! The embedded engine: one writer thread, an append-only checksummed log in segments with
//! snapshots, and a multi-version index in memory. Values are shared bytes: a reader gets what
//! the writer stored, without a copy. It knows no kinds.

mod disk;
pub mod fault;
mod record;
mod snapshot;
mod state;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::{
    Batch, KeyValue, Op, Outcome, RangePage, Result, Revision, Store, StoreError, Txn, WatchStream,
};
pub use state::History;
use state::State;

/// Transactions that wait at most; beyond it committers wait, which bounds memory on a slow disk.
const QUEUE_TXNS: usize = 1024;

/// Limits and neighbours of the engine.
#[derive(Clone)]
pub struct Options {
    /// Largest value in bytes. 3 MiB, the API's largest body; etcd's is 1.5 MiB.
    pub value_bytes: usize,
    pub history: History,
    /// Bytes of a segment after which a new one is begun and a snapshot written. 64 MiB: read at
    /// start in well under a second.
    pub segment_bytes: u64,
    /// Seconds since the epoch.
    pub clock: fn() -> i64,
    pub faults: fault::Faults,
}

fn wall_clock() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since
        .ok()
        .and_then(|d| i64::try_from(d.as_secs()).ok())
        .unwrap_or(0)
}

impl Default for Options {
    fn default() -> Self {
        Self {
            value_bytes: 3 << 20,
            history: History::default(),
            segment_bytes: 64 << 20,
            clock: wall_clock,
            faults: fault::none(),
        }
    }
}

type Answer = oneshot::Sender<Result<Outcome>>;

struct Job {
    txn: Txn,
    answer: Answer,
    _place: OwnedSemaphorePermit,
}

enum Request {
    Commit(Box<Job>),
    Special(Special),
}

/// What ends a group.
enum Special {
    /// The newest revision becomes at least this one.
    Raise(Revision, oneshot::Sender<Result<Revision>>),
    /// Older versions were forgotten: the log may be worth shortening.
    Compacted,
    Close,
}

struct Shared {
    state: RwLock<State>,
    newest: watch::Sender<Revision>,
    room: Arc<Semaphore>,
    options: Options,
}

/// A handle to the engine; clones share it. The writer ends when the last handle is dropped.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Request>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

fn gone() -> StoreError {
    StoreError::Unavailable("the writer has ended".into())
}

impl Embedded {
    /// Opens or creates the store in `dir`, repairing a torn tail of the log.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        let (state, log) = disk::open(dir, options.history, options.faults.clone())?;
        let shared = Arc::new(Shared {
            newest: watch::Sender::new(state.revision()),
            state: RwLock::new(state),
            room: Arc::new(Semaphore::new(QUEUE_TXNS)),
            options,
        });
        let (queue, requests) = mpsc::channel();
        let writer = writer::Writer::new(shared.clone(), log, requests);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| StoreError::Unavailable(format!("starting the writer: {e}")))?;
        Ok(Self {
            shared,
            queue,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// Ends the writer after what it has taken, and frees the folder. Later writes are refused.
    pub fn close(&self) {
        // The writer may have ended already.
        let _ = self.queue.send(Request::Special(Special::Close));
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    /// The newest durable revision, as it grows. An acknowledgement comes after its revision is
    /// here.
    pub fn newest(&self) -> watch::Receiver<Revision> {
        self.shared.newest.subscribe()
    }

    fn check(&self, txn: &Txn) -> Result<()> {
        let limit = self.shared.options.value_bytes;
        let mut keys: Vec<&Bytes> = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            let (Op::Put { key, .. } | Op::Delete { key }) = op;
            keys.push(key);
            if let Op::Put { value, .. } = op
                && value.len() > limit
            {
                return Err(StoreError::TooLarge {
                    bytes: value.len(),
                    limit,
                });
            }
        }
        keys.sort();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(StoreError::Invalid("it names a key twice".into()));
        }
        Ok(())
    }
}

/// The state of a watch: where it is, and whether it has ended.
struct Cursor {
    shared: Arc<Shared>,
    newest: watch::Receiver<Revision>,
    prefix: Bytes,
    after: Revision,
    ended: bool,
}

impl Cursor {
    /// The next batches that concern the prefix.
    async fn next(mut self) -> Option<(Vec<Result<Batch>>, Self)> {
        while !self.ended {
            self.newest.borrow_and_update();
            let found = self.shared.state.read().since(self.after);
            match found {
                Err(e) => {
                    self.ended = true;
                    return Some((vec![Err(e)], self));
                }
                Ok(found) => {
                    if let Some(last) = found.last() {
                        self.after = last.revision;
                        return Some((parts_of(&found, &self.prefix), self));
                    }
                    self.newest.changed().await.ok()?;
                }
            }
        }
        None
    }
}

/// What concerns the prefix, and the newest revision as progress.
fn parts_of(batches: &[Arc<Batch>], prefix: &Bytes) -> Vec<Result<Batch>> {
    let mut parts: Vec<_> = batches.iter().filter_map(|b| part_of(b, prefix)).collect();
    let newest = batches.last().map(|b| b.revision);
    if let Some(revision) = newest.filter(|&r| parts.last().is_none_or(|p| p.revision < r)) {
        parts.push(Batch {
            revision,
            events: Vec::new(),
        });
    }
    parts.into_iter().map(Ok).collect()
}

fn part_of(batch: &Batch, prefix: &Bytes) -> Option<Batch> {
    let events: Vec<_> = batch
        .events
        .iter()
        .filter(|e| e.kv.key.starts_with(prefix))
        .cloned()
        .collect();
    (!events.is_empty()).then(|| Batch {
        revision: batch.revision,
        events,
    })
}

impl Store for Embedded {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            self.check(&txn)?;
            let place = self
                .shared
                .room
                .clone()
                .acquire_owned()
                .await
                .map_err(|_| gone())?;
            let (answer, outcome) = oneshot::channel();
            let job = Box::new(Job {
                txn,
                answer,
                _place: place,
            });
            self.queue.send(Request::Commit(job)).map_err(|_| gone())?;
            outcome.await.map_err(|_| gone())?
        })
    }

    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        Box::pin(std::future::ready(self.shared.state.read().get(&key, at)))
    }

    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        Box::pin(std::future::ready(
            self.shared.state.read().range(&prefix, start, limit, at),
        ))
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        let start = || {
            let state = self.shared.state.read();
            if after > state.revision() {
                return Err(StoreError::Future {
                    asked: after,
                    current: state.revision(),
                });
            }
            state.since(after)?;
            let (shared, newest) = (self.shared.clone(), self.newest());
            let cursor = Cursor {
                shared,
                newest,
                prefix,
                after,
                ended: false,
            };
            Ok(futures::stream::unfold(cursor, Cursor::next)
                .flat_map(futures::stream::iter)
                .boxed())
        };
        Box::pin(std::future::ready(start()))
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(std::future::ready(Ok(self.shared.state.read().revision())))
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        let compacted = || {
            let mut state = self.shared.state.write();
            let before = state.check(before)?;
            state.forget(before);
            drop(state);
            // Only a writer that has ended does not hear of it, and it keeps nothing short.
            let _ = self.queue.send(Request::Special(Special::Compacted));
            Ok(())
        };
        Box::pin(std::future::ready(compacted()))
    }

    fn expiries(&self) -> BoxFuture<'_, Result<HashMap<Bytes, u32>>> {
        let now = (self.shared.options.clock)();
        let left = self.shared.state.read().expiries(now);
        Box::pin(std::future::ready(Ok(left)))
    }

    fn raise(&self, to: Revision) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move {
            let (answer, raised) = oneshot::channel();
            let request = Request::Special(Special::Raise(to, answer));
            self.queue.send(request).map_err(|_| gone())?;
            raised.await.map_err(|_| gone())?
        })
    }
}
