//! A store in memory with the trait's semantics: for tests of what lies above it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use apiserver::storage::Layout;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use store::{
    Batch, Compare, Event, EventKind, KeyValue, Op, Outcome, RangePage, Result, Revision, Store,
    Txn, WatchStream,
};
use tokio::sync::watch;

#[derive(Default)]
struct State {
    live: BTreeMap<Bytes, KeyValue>,
    log: Vec<Batch>,
    revision: Revision,
}

/// The store.
pub struct Memory {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<Revision>,
}

impl Memory {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Arc::default(),
            changed: watch::Sender::new(0),
        })
    }
}

impl State {
    fn apply(&mut self, op: Op) -> Option<Event> {
        let revision = self.revision;
        match op {
            Op::Put { key, value, .. } => {
                let prev = self.live.get(&key).cloned();
                let kv = KeyValue {
                    key: key.clone(),
                    value,
                    create_revision: prev.as_ref().map_or(revision, |p| p.create_revision),
                    mod_revision: revision,
                    version: prev.as_ref().map_or(1, |p| p.version + 1),
                };
                self.live.insert(key, kv.clone());
                Some(Event {
                    kind: EventKind::Put,
                    kv,
                    prev,
                })
            }
            Op::Delete { key } => {
                let prev = self.live.remove(&key)?;
                let kv = KeyValue {
                    key,
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
        }
    }
}

/// Whatever store it is, a value is read as it was written: upstream's form must not change it.
fn check(op: &Op) {
    static LAYOUT: LazyLock<Layout> = LazyLock::new(|| Layout::new(registry::kinds()));
    let Op::Put { key, value, .. } = op else {
        return;
    };
    if let Some(form) = LAYOUT.of(key) {
        let stored = form.write(value).expect("it can be stored");
        let back = form.read(&stored).expect("it can be read");
        assert_eq!(
            String::from_utf8_lossy(&back),
            String::from_utf8_lossy(value)
        );
    }
}

impl Store for Memory {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        txn.ops.iter().for_each(check);
        let mut s = self.state.lock();
        let key = |c: &Compare| match c {
            Compare::ModRevision(k, _) | Compare::Exists(k) => k.clone(),
        };
        let holds = txn.compare.iter().all(|c| {
            let have = s.live.get(&key(c)).map_or(0, |kv| kv.mod_revision);
            match c {
                Compare::ModRevision(_, want) => have == *want,
                Compare::Exists(_) => have != 0,
            }
        });
        let outcome = if holds {
            s.revision += 1;
            let revision = s.revision;
            let events: Vec<Event> = txn.ops.into_iter().filter_map(|op| s.apply(op)).collect();
            s.log.push(Batch { revision, events });
            self.changed.send_replace(revision);
            Outcome::Committed(revision)
        } else {
            Outcome::Refused(
                txn.compare
                    .iter()
                    .map(|c| s.live.get(&key(c)).cloned())
                    .collect(),
            )
        };
        Box::pin(std::future::ready(Ok(outcome)))
    }

    fn get(&self, key: Bytes, _: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        let found = self.state.lock().live.get(&key).cloned();
        Box::pin(std::future::ready(Ok(found)))
    }

    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        _: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        let s = self.state.lock();
        let mut items: Vec<KeyValue> = s
            .live
            .range(start..)
            .take_while(|(k, _)| k.starts_with(&prefix))
            .map(|(_, kv)| kv.clone())
            .collect();
        let all = items.len();
        if limit > 0 {
            items.truncate(limit);
        }
        let page = RangePage {
            more: items.len() < all,
            remaining: (all - items.len()) as u64,
            items,
            revision: s.revision,
        };
        Box::pin(std::future::ready(Ok(page)))
    }

    fn watch(&self, _: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        let (state, mut rx) = (self.state.clone(), self.changed.subscribe());
        let stream = async_stream::stream! {
            let mut next = usize::try_from(after).unwrap_or(usize::MAX);
            loop {
                rx.borrow_and_update();
                loop {
                    let batch = state.lock().log.get(next).cloned();
                    let Some(batch) = batch else { break };
                    next += 1;
                    yield Ok(batch);
                }
                if rx.changed().await.is_err() {
                    return;
                }
            }
        };
        Box::pin(std::future::ready(Ok(stream.boxed())))
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        let r = self.state.lock().revision;
        Box::pin(std::future::ready(Ok(r)))
    }

    fn compact(&self, _: Revision) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn expiries(&self) -> BoxFuture<'_, Result<HashMap<Bytes, u32>>> {
        Box::pin(std::future::ready(Ok(HashMap::new())))
    }
}
