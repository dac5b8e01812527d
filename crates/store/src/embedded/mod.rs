//! The embedded engine: one writer thread, an append-only checksummed log in segments with
//! snapshots, and a multi-version index in memory. Values are shared bytes: a reader gets what
//! the writer stored, without a copy. It knows no kinds.

mod disk;
pub mod fault;
mod record;
mod snapshot;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use clock::{Clock, watch};
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::contract::{
    Batch, KeyValue, Outcome, RangePage, Result, Revision, Store, StoreError, Txn, WatchStream,
};
use crate::cursor::{self, Ring};
use crate::state::{History, State};
use crate::transaction::{VALUE_BYTES, check};

/// Transactions that wait at most; beyond it committers wait, which bounds memory on a slow disk.
const QUEUE_TXNS: usize = 1024;

/// Limits and neighbours of the engine.
#[derive(Clone)]
pub struct Options {
    /// Largest value in bytes.
    pub value_bytes: usize,
    pub history: History,
    /// Bytes of a segment after which a new one is begun and a snapshot written. 64 MiB: read at
    /// start in well under a second.
    pub segment_bytes: u64,
    pub clock: Clock,
    pub faults: fault::Faults,
}

impl Default for Options {
    #[expect(
        clippy::disallowed_methods,
        reason = "what expires on a real disk does so in real time; tests give another clock"
    )]
    fn default() -> Self {
        Self {
            value_bytes: VALUE_BYTES,
            history: History::default(),
            segment_bytes: 64 << 20,
            clock: Clock::system(),
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
    dir: PathBuf,
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
            dir: dir.to_owned(),
        });
        let (queue, requests) = mpsc::channel();
        let writer = writer::Writer::new(shared.clone(), log, requests);
        #[expect(
            clippy::disallowed_methods,
            reason = "the one writer waits for the disk; what is decided has one order all the same"
        )]
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
}

impl Ring for Shared {
    fn since(&self, after: Revision) -> Result<Vec<Arc<Batch>>> {
        self.state.read().since(after)
    }
}

impl Store for Embedded {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            check(&txn, self.shared.options.value_bytes)?;
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

    fn revisions(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<Vec<(Bytes, Revision)>>> {
        let state = self.shared.state.read();
        let found = state.revisions(&prefix, start, limit, at);
        Box::pin(std::future::ready(found))
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        let can_start = self.shared.state.read().can_watch(after);
        let stream = |()| cursor::stream(self.shared.clone(), self.newest(), prefix, after);
        Box::pin(std::future::ready(can_start.map(stream)))
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

    fn disk_bytes(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        let bytes = disk::bytes(&self.shared.dir).map(Some);
        Box::pin(std::future::ready(bytes))
    }

    fn expiries(&self) -> BoxFuture<'_, Result<HashMap<Bytes, u32>>> {
        let now = self.shared.options.clock.seconds();
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
