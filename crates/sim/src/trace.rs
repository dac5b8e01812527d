//! What a run did: every change of every key, in order, with its virtual time and its bytes.

use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use clock::Instant;
use futures::StreamExt;
use host::runtime::fake::Running;
use parking_lot::Mutex;
use store::{EventKind, Store};

use crate::invariants::Invariants;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub revision: u64,
    /// Since the cluster was started.
    pub millis: u128,
    pub key: String,
    /// The value, which the store has, too; `None` for a deletion.
    pub value: Option<Bytes>,
}

impl Line {
    /// The value, for a reader.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (revision, millis, key) = (self.revision, self.millis, &self.key);
        match &self.value {
            Some(value) => {
                let hash = hash_of(value);
                write!(f, "{revision} {millis} ms {key} {hash:016x}")
            }
            None => write!(f, "{revision} {millis} ms {key} deleted"),
        }
    }
}

/// All changes so far.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    lines: Vec<Line>,
    invariants: Invariants,
}

impl Trace {
    /// Follows a store from its beginning, for as long as the runtime lives. Each change is held
    /// against the invariants; what breaks one is in [`Trace::broken`].
    pub(crate) fn follow(store: Arc<dyn Store>) -> Self {
        let (trace, start) = (Self::default(), Instant::now());
        let seen = trace.0.clone();
        tokio::spawn(async move {
            let Ok(mut batches) = store.watch(Bytes::new(), 0).await else {
                return;
            };
            while let Some(Ok(batch)) = batches.next().await {
                let mut seen = seen.lock();
                for event in batch.events {
                    let is_put = event.kind == EventKind::Put;
                    let line = Line {
                        revision: batch.revision,
                        millis: start.elapsed().as_millis(),
                        key: String::from_utf8_lossy(&event.kv.key).into_owned(),
                        value: is_put.then(|| event.kv.value.clone()),
                    };
                    seen.invariants.note(&line);
                    seen.lines.push(line);
                }
            }
        });
        trace
    }

    /// Holds the containers that run, on all nodes, against what may run.
    pub(crate) fn note_running(&self, running: Vec<Running>) {
        self.0.lock().invariants.note_running(&running);
    }

    /// The most writes of one key, and which; what says that somebody lives is left out.
    pub fn most_written(&self) -> (usize, String) {
        self.0.lock().invariants.most_written()
    }

    pub fn lines(&self) -> Vec<Line> {
        self.0.lock().lines.clone()
    }

    /// What no cluster may do, and this one did.
    pub fn broken(&self) -> Vec<String> {
        self.0.lock().invariants.broken()
    }
}

/// The same for the same bytes, in every run.
fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
