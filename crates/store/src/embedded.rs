//! The embedded engine: one writer thread, an append-only checksummed log, and an in-memory
//! multi-version index. It knows no kinds. First slice: one log file, no snapshots yet.

use crate::{
    Batch, Compare, Event, EventKind, KeyValue, Op, Outcome, RangePage, Result, Revision, Store,
    StoreError, Txn, WatchStream, log,
};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, mpsc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// Transactions waiting at most; beyond it committers wait (bounds memory under a slow disk).
const QUEUE_TXNS: usize = 1024;
/// Transactions under one fdatasync at most (bounds the latency of the first of a group).
const GROUP_TXNS: usize = 256;

/// Limits of the engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Largest value in bytes; etcd's default request limit is 1.5 MiB.
    pub value_bytes: usize,
    /// Batches of history kept for watches and reads at a revision.
    pub history_batches: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            value_bytes: 1_572_864,
            history_batches: 10_000,
        }
    }
}

#[derive(Default)]
struct State {
    revision: Revision,
    oldest: Revision,
    keys: BTreeMap<Bytes, Vec<(Revision, Option<KeyValue>)>>,
    ring: VecDeque<Arc<Batch>>,
}

impl State {
    fn live(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    fn check(&self, at: Revision) -> Result<Revision> {
        match at {
            0 => Ok(self.revision),
            at if at > self.revision => Err(StoreError::Future {
                asked: at,
                current: self.revision,
            }),
            at if at < self.oldest => Err(StoreError::Compacted {
                asked: at,
                oldest: self.oldest,
            }),
            at => Ok(at),
        }
    }

    fn apply(&mut self, batch: Arc<Batch>, keep: usize) {
        for event in &batch.events {
            let kv = (event.kind == EventKind::Put).then(|| event.kv.clone());
            self.keys
                .entry(event.kv.key.clone())
                .or_default()
                .push((batch.revision, kv));
        }
        self.revision = batch.revision;
        self.ring.push_back(batch);
        while self.ring.len() > keep {
            let Some(first) = self.ring.front().map(|b| b.revision) else {
                break;
            };
            self.forget(first);
        }
    }

    /// Makes `before` the oldest readable revision, dropping what only older reads need.
    fn forget(&mut self, before: Revision) {
        self.oldest = self.oldest.max(before);
        while self.ring.front().is_some_and(|b| b.revision <= before) {
            let Some(batch) = self.ring.pop_front() else {
                break;
            };
            for event in &batch.events {
                let Some(versions) = self.keys.get_mut(&event.kv.key) else {
                    continue;
                };
                let shown = versions.partition_point(|v| v.0 <= before);
                versions.drain(..shown.saturating_sub(1));
                if versions.len() == 1
                    && versions
                        .first()
                        .is_some_and(|v| v.0 <= before && v.1.is_none())
                {
                    self.keys.remove(&event.kv.key);
                }
            }
        }
    }
}

struct Shared {
    state: RwLock<State>,
    newest: watch::Sender<Revision>,
    room: Arc<Semaphore>,
    options: Options,
}

struct Job {
    txn: Txn,
    answer: oneshot::Sender<Result<Outcome>>,
    _permit: OwnedSemaphorePermit,
}

/// A handle to the engine; clones share it. The writer ends when the last handle is dropped.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

impl Embedded {
    /// Opens or creates the store in `dir`, repairing a torn tail of the log.
    pub fn open(dir: &Path, options: Options) -> Result<Embedded> {
        let fail = |e: std::io::Error| StoreError::Unavailable(format!("{}: {e}", dir.display()));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(fail)?;
        let (file, end, records) = log::open(dir)?;
        let mut state = State::default();
        for (revision, ops) in records {
            let batch = Arc::new(batch_of(revision, &ops, |key| state.live(key).cloned()));
            state.apply(batch, options.history_batches);
        }
        let shared = Arc::new(Shared {
            newest: watch::Sender::new(state.revision),
            state: RwLock::new(state),
            room: Arc::new(Semaphore::new(QUEUE_TXNS)),
            options,
        });
        let (jobs, queue) = mpsc::channel();
        let theirs = shared.clone();
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || write(&theirs, &queue, &file, end))
            .map_err(fail)?;
        Ok(Embedded { shared, jobs })
    }

    /// The durable revision, as it grows. An ack comes after its revision is here.
    pub fn newest(&self) -> watch::Receiver<Revision> {
        self.shared.newest.subscribe()
    }

    fn since(shared: &Shared, after: Revision) -> Result<Vec<Arc<Batch>>> {
        let state = shared.state.read();
        if after < state.oldest {
            return Err(StoreError::Compacted {
                asked: after,
                oldest: state.oldest,
            });
        }
        let from = state.ring.partition_point(|b| b.revision <= after);
        Ok(state.ring.range(from..).cloned().collect())
    }
}

fn batch_of(revision: Revision, ops: &[Op], before: impl Fn(&[u8]) -> Option<KeyValue>) -> Batch {
    let event = |op: &Op| match op {
        Op::Put { key, value, .. } => {
            let prev = before(key);
            let create_revision = prev.as_ref().map_or(revision, |p| p.create_revision);
            let version = prev.as_ref().map_or(1, |p| p.version + 1);
            let kv = KeyValue {
                key: key.clone(),
                value: value.clone(),
                create_revision,
                mod_revision: revision,
                version,
            };
            Some(Event {
                kind: EventKind::Put,
                kv,
                prev,
            })
        }
        Op::Delete { key } => {
            let prev = before(key)?;
            let kv = KeyValue {
                key: key.clone(),
                value: Bytes::new(),
                create_revision: 0,
                mod_revision: revision,
                version: 0,
            };
            Some(Event {
                kind: EventKind::Delete,
                kv,
                prev: Some(prev),
            })
        }
    };
    Batch {
        revision,
        events: ops.iter().filter_map(event).collect(),
    }
}

fn write(shared: &Shared, queue: &mpsc::Receiver<Job>, file: &File, mut end: u64) {
    let mut dead: Option<StoreError> = None;
    while let Ok(first) = queue.recv() {
        let mut group = vec![first];
        while group.len() < GROUP_TXNS {
            let Ok(job) = queue.try_recv() else { break };
            group.push(job);
        }
        let (answers, batches, bytes) = plan(shared, &group);
        let failed = match &dead {
            Some(error) => Some(error.clone()),
            None if bytes.is_empty() => None,
            None => log::append(file, end, &bytes).err(),
        };
        if let Some(error) = failed {
            if !matches!(error, StoreError::NoSpace(_)) {
                dead = Some(error.clone());
            }
            group
                .into_iter()
                .for_each(|job| drop(job.answer.send(Err(error.clone()))));
            continue;
        }
        end += bytes.len() as u64;
        let revision = {
            let mut state = shared.state.write();
            batches
                .into_iter()
                .for_each(|b| state.apply(b, shared.options.history_batches));
            state.revision
        };
        shared
            .newest
            .send_if_modified(|r| std::mem::replace(r, revision) != revision);
        group
            .into_iter()
            .zip(answers)
            .for_each(|(job, outcome)| drop(job.answer.send(Ok(outcome))));
    }
}

/// Decides a group against the state and what the group itself has pending.
fn plan(shared: &Shared, group: &[Job]) -> (Vec<Outcome>, Vec<Arc<Batch>>, Vec<u8>) {
    let state = shared.state.read();
    let mut pending: HashMap<Bytes, Option<KeyValue>> = HashMap::new();
    let (mut revision, mut answers, mut batches, mut bytes) =
        (state.revision, vec![], vec![], vec![]);
    for job in group {
        let now = |key: &[u8]| {
            pending
                .get(key)
                .cloned()
                .unwrap_or_else(|| state.live(key).cloned())
        };
        let holds = |compare: &Compare| match compare {
            Compare::ModRevision(key, wanted) => {
                now(key).map_or(0, |kv| kv.mod_revision) == *wanted
            }
            Compare::Exists(key) => now(key).is_some(),
        };
        if !job.txn.compare.iter().all(holds) {
            let key = |c: &Compare| match c {
                Compare::ModRevision(key, _) | Compare::Exists(key) => now(key),
            };
            answers.push(Outcome::Refused(job.txn.compare.iter().map(key).collect()));
            continue;
        }
        let batch = batch_of(revision + 1, &job.txn.ops, now);
        if !batch.events.is_empty() {
            revision += 1;
            log::encode(&mut bytes, revision, &job.txn.ops);
            for event in &batch.events {
                pending.insert(
                    event.kv.key.clone(),
                    (event.kind == EventKind::Put).then(|| event.kv.clone()),
                );
            }
            batches.push(Arc::new(batch));
        }
        answers.push(Outcome::Committed(revision));
    }
    (answers, batches, bytes)
}

fn gone() -> StoreError {
    StoreError::Unavailable("the writer has ended".into())
}

impl Store for Embedded {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(async move {
            let limit = self.shared.options.value_bytes;
            for op in &txn.ops {
                match op {
                    Op::Put { value, .. } if value.len() > limit => {
                        return Err(StoreError::TooLarge {
                            bytes: value.len(),
                            limit,
                        });
                    }
                    _ => {}
                }
            }
            let permit = self
                .shared
                .room
                .clone()
                .acquire_owned()
                .await
                .map_err(|_| gone())?;
            let (answer, result) = oneshot::channel();
            self.jobs
                .send(Job {
                    txn,
                    answer,
                    _permit: permit,
                })
                .map_err(|_| gone())?;
            result.await.map_err(|_| gone())?
        })
    }

    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        Box::pin(async move {
            let state = self.shared.state.read();
            let at = state.check(at)?;
            let seen = |versions: &Vec<(Revision, Option<KeyValue>)>| {
                versions.iter().rfind(|v| v.0 <= at)?.1.clone()
            };
            Ok(state.keys.get(&key).and_then(seen))
        })
    }

    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        Box::pin(async move {
            let state = self.shared.state.read();
            let revision = state.check(at)?;
            let from = start.max(prefix.clone());
            let (mut items, mut remaining) = (vec![], 0);
            for (_, versions) in state
                .keys
                .range(from..)
                .take_while(|(key, _)| key.starts_with(&prefix))
            {
                let Some((_, Some(kv))) = versions.iter().rfind(|v| v.0 <= revision) else {
                    continue;
                };
                if limit == 0 || items.len() < limit {
                    items.push(kv.clone())
                } else {
                    remaining += 1
                }
            }
            Ok(RangePage {
                items,
                more: remaining > 0,
                remaining,
                revision,
            })
        })
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        Box::pin(async move {
            let newest = self.newest();
            Embedded::since(&self.shared, after)?;
            let start = (self.shared.clone(), newest, after, false);
            let batches =
                futures::stream::unfold(start, |(shared, mut newest, after, ended)| async move {
                    while !ended {
                        newest.borrow_and_update();
                        match Embedded::since(&shared, after) {
                            Err(error) => {
                                return Some((vec![Err(error)], (shared, newest, after, true)));
                            }
                            Ok(found) if found.is_empty() => newest.changed().await.ok()?,
                            Ok(found) => {
                                let last = found.last().map_or(after, |b| b.revision);
                                return Some((
                                    found.into_iter().map(Ok).collect(),
                                    (shared, newest, last, false),
                                ));
                            }
                        }
                    }
                    None
                });
            let pick = move |item: Result<Arc<Batch>>| {
                let prefix = prefix.clone();
                async move {
                    let batch = match item {
                        Ok(batch) => batch,
                        Err(error) => return Some(Err(error)),
                    };
                    let events: Vec<_> = batch
                        .events
                        .iter()
                        .filter(|e| e.kv.key.starts_with(&prefix))
                        .cloned()
                        .collect();
                    (!events.is_empty()).then_some(Ok(Batch {
                        revision: batch.revision,
                        events,
                    }))
                }
            };
            Ok(batches
                .flat_map(futures::stream::iter)
                .filter_map(pick)
                .boxed())
        })
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move { Ok(self.shared.state.read().revision) })
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut state = self.shared.state.write();
            let before = state.check(before)?;
            state.forget(before);
            Ok(())
        })
    }
}
