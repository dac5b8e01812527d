//! A store whose every call ends: what takes too long is an error, and how long calls take is
//! counted. A write without an answer may have been applied; its error says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use clock::Instant;
use futures::future::BoxFuture;
use store::{KeyValue, Outcome, RangePage, Result, Revision, Store, StoreError, Txn, WatchStream};

use crate::metrics::StoreMetrics;

/// For a call that concerns a few keys: longer than an election among etcd's members takes, and
/// well below the 60 s that a request has.
const POINT: Duration = Duration::from_secs(10);
/// For a call that reads everything.
const WHOLE: Duration = Duration::from_secs(60);

/// Wraps a store.
pub struct Bounded {
    inner: Arc<dyn Store>,
    metrics: StoreMetrics,
}

impl Bounded {
    pub fn new(inner: Arc<dyn Store>, metrics: StoreMetrics) -> Self {
        Self { inner, metrics }
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        limit: Duration,
        mut call: BoxFuture<'_, Result<T>>,
    ) -> Result<T> {
        let started = Instant::now();
        let at_once = futures::poll!(&mut call);
        let done = match at_once {
            // What a store has at hand, as its revision for each read, needs no timer.
            Poll::Ready(done) => done,
            Poll::Pending => {
                let done = tokio::time::timeout(limit, call).await;
                done.unwrap_or_else(|_| Err(late(operation, limit)))
            }
        };
        self.metrics
            .call(operation, started.elapsed(), done.is_err());
        done
    }
}

const COMMIT: &str = "txn";

fn late(operation: &str, limit: Duration) -> StoreError {
    let why = format!("no answer to {operation} within {} s", limit.as_secs());
    if operation == COMMIT {
        StoreError::Unknown(why)
    } else {
        StoreError::Unavailable(why)
    }
}

impl Store for Bounded {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(self.timed(COMMIT, POINT, self.inner.commit(txn)))
    }

    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        Box::pin(self.timed("get", POINT, self.inner.get(key, at)))
    }

    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        Box::pin(self.timed("list", WHOLE, self.inner.range(prefix, start, limit, at)))
    }

    fn revisions(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<Vec<(Bytes, Revision)>>> {
        let found = self.inner.revisions(prefix, start, limit, at);
        Box::pin(self.timed("list", WHOLE, found))
    }

    /// The stream itself has no end; the cache sees to it that it goes on.
    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        Box::pin(self.timed("watch", POINT, self.inner.watch(prefix, after)))
    }

    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(self.timed("revision", POINT, self.inner.revision()))
    }

    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.timed("compact", WHOLE, self.inner.compact(before)))
    }

    fn is_outdated(&self, key: Bytes) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.timed("get", POINT, self.inner.is_outdated(key)))
    }

    fn disk_bytes(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        Box::pin(self.timed("size", POINT, self.inner.disk_bytes()))
    }

    fn expiries(&self) -> BoxFuture<'_, Result<HashMap<Bytes, u32>>> {
        Box::pin(self.timed("expiries", WHOLE, self.inner.expiries()))
    }

    /// For a restore, before a server has the store; it takes as long as it takes.
    fn raise(&self, to: Revision) -> BoxFuture<'_, Result<Revision>> {
        self.inner.raise(to)
    }
}
