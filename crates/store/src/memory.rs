//! The store in memory alone: the engine's state and decisions without its log and its thread.
//! Nothing outlives the process. It has no time of its own: values expire, and versions are
//! forgotten, by the clock that it was given, whenever somebody looks. So with virtual time all of
//! it is a function of what was asked in which order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clock::{Clock, watch};
use futures::future::{BoxFuture, ready};
use parking_lot::Mutex;

use crate::contract::{
    Batch, KeyValue, Op, Outcome, RangePage, Result, Revision, Store, StoreError, Txn, WatchStream,
};
use crate::cursor::{self, Ring};
use crate::state::{History, State};
use crate::transaction::{VALUE_BYTES, batch_of, check, logged, refusal};

/// Longest sleep of a watch when something is to expire: the clock may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// A handle to the store; clones share it.
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    newest: watch::Sender<Revision>,
    clock: Clock,
    history: History,
}

#[derive(Default)]
struct Inner {
    state: State,
    /// When time was last looked at for history, and the newest revision then: what is before it
    /// goes at the next look.
    looked: (i64, Revision),
}

impl Memory {
    /// An empty store.
    pub fn new(clock: Clock) -> Self {
        let inner = Inner {
            state: State::default(),
            looked: (clock.seconds(), 0),
        };
        Self(Arc::new(Shared {
            inner: Mutex::new(inner),
            newest: watch::Sender::new(0),
            clock,
            history: History::default(),
        }))
    }
}

impl Shared {
    /// Runs on the state as it is now: without what has expired.
    fn with<T>(&self, run: impl FnOnce(&mut Inner, i64) -> T) -> T {
        let mut inner = self.inner.lock();
        let now = self.clock.seconds();
        let expired = inner.state.expired(now, usize::MAX);
        for key in expired {
            // One revision for each, as clients' deletions have.
            self.apply(&mut inner, vec![Op::Delete { key }], now);
        }
        self.forget_old(&mut inner, now);
        run(&mut inner, now)
    }

    fn apply(&self, inner: &mut Inner, ops: Vec<Op>, now: i64) -> Revision {
        let ops = logged(ops, now);
        let revision = inner.state.revision() + 1;
        let batch = batch_of(revision, &ops, |key| inner.state.live(key));
        if batch.events.is_empty() {
            return inner.state.revision();
        }
        inner.state.apply(Arc::new(batch), &ops, self.history);
        self.newest.send_replace(revision);
        revision
    }

    fn forget_old(&self, inner: &mut Inner, now: i64) {
        let (since, revision) = inner.looked;
        // A clock that was set back begins again.
        if (0..self.history.seconds).contains(&(now - since)) {
            return;
        }
        if since <= now && revision > inner.state.oldest() {
            inner.state.forget(revision);
        }
        inner.looked = (now, inner.state.revision());
    }

    fn commit(&self, txn: Txn) -> Result<Outcome> {
        check(&txn, VALUE_BYTES)?;
        self.with(|inner, now| {
            let current = |key: &[u8]| inner.state.live(key);
            if let Some(refused) = refusal(&txn.compare, &current) {
                return Ok(refused);
            }
            Ok(Outcome::Committed(self.apply(inner, txn.ops, now)))
        })
    }
}

impl Ring for Shared {
    fn since(&self, after: Revision) -> Result<Vec<Arc<Batch>>> {
        self.with(|inner, _| inner.state.since(after))
    }

    fn look_again(&self) -> Option<Duration> {
        let at = self.inner.lock().state.next_deadline()?;
        let seconds = u64::try_from(at - self.clock.seconds()).unwrap_or(0);
        // Not at once again when a clock that is set back has moved the deadline away.
        Some(Duration::from_secs(seconds).clamp(Duration::from_millis(100), LONGEST_SLEEP))
    }
}

impl Store for Memory {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(ready(self.0.commit(txn)))
    }

    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        Box::pin(ready(self.0.with(|inner, _| inner.state.get(&key, at))))
    }

    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        let page = |inner: &mut Inner, _| inner.state.range(&prefix, start, limit, at);
        Box::pin(ready(self.0.with(page)))
    }

    fn revisions(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<Vec<(Bytes, Revision)>>> {
        let page = |inner: &mut Inner, _| inner.state.revisions(&prefix, start, limit, at);
        Box::pin(ready(self.0.with(page)))
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        let can_start = self.0.with(|inner, _| inner.state.can_watch(after));
        let stream = |()| cursor::stream(self.0.clone(), self.0.newest.subscribe(), prefix, after);
        Box::pin(ready(can_start.map(stream)))
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(ready(Ok(self.0.with(|inner, _| inner.state.revision()))))
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        let compacted = self.0.with(|inner, _| {
            let before = inner.state.check(before)?;
            inner.state.forget(before);
            Ok::<_, StoreError>(())
        });
        Box::pin(ready(compacted))
    }

    fn expiries(&self) -> BoxFuture<'_, Result<HashMap<Bytes, u32>>> {
        Box::pin(ready(Ok(self
            .0
            .with(|inner, now| inner.state.expiries(now)))))
    }

    fn raise(&self, to: Revision) -> BoxFuture<'_, Result<Revision>> {
        let raised = self.0.with(|inner, _| {
            if inner.state.revision() < to {
                inner.state.raise(to);
                self.0.newest.send_replace(to);
            }
            inner.state.revision()
        });
        Box::pin(ready(Ok(raised)))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use jiff::Timestamp;

    use super::*;
    use crate::contract::{EventKind, Outcome};

    fn store() -> Memory {
        Memory::new(Clock::virtual_from(Timestamp::UNIX_EPOCH))
    }

    async fn put(store: &Memory, key: &'static str, seconds: Option<u32>) -> Revision {
        let op = Op::Put {
            key: key.into(),
            value: "x".into(),
            expires_after_seconds: seconds,
        };
        let txn = Txn {
            ops: vec![op],
            ..Txn::default()
        };
        match Store::commit(store, txn).await.unwrap() {
            Outcome::Committed(revision) => revision,
            Outcome::Refused(_) => panic!("refused"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_sees_what_expires_while_nobody_writes() {
        let store = store();
        put(&store, "e", Some(3_600)).await;
        let mut watch = store.watch("e".into(), 1).await.unwrap();
        let begun = clock::Instant::now();
        let gone = watch.next().await.unwrap().unwrap();
        assert_eq!(
            (gone.revision, &gone.events[0].kind),
            (2, &EventKind::Delete)
        );
        assert_eq!(begun.elapsed().as_secs(), 3_600);
    }

    #[tokio::test(start_paused = true)]
    async fn versions_go_by_their_age() {
        let store = store();
        for _ in 0..3 {
            put(&store, "k", None).await;
        }
        for (seconds, readable) in [(299, true), (2, true), (298, true), (2, false)] {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let old = store.get("k".into(), 2).await;
            assert_eq!(old.is_ok(), readable, "{old:?}");
        }
        assert_eq!(store.get("k".into(), 0).await.unwrap().unwrap().version, 3);
    }
}
