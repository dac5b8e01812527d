//! The store in memory, which refuses what upstream's form would change: whatever the store is, a
//! value is read as it was written.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use apiserver::storage::Layout;
use bytes::Bytes;
use clock::Clock;
use futures::future::BoxFuture;
use store::{KeyValue, Op, Outcome, RangePage, Result, Revision, Store, Txn, WatchStream};

/// The store.
pub struct Checked(store::Memory);

impl Checked {
    #[expect(clippy::disallowed_methods, reason = "a real server, in real time")]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(store::Memory::new(Clock::system())))
    }
}

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

impl Store for Checked {
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        txn.ops.iter().for_each(check);
        self.0.commit(txn)
    }
    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        self.0.get(key, at)
    }
    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        self.0.range(prefix, start, limit, at)
    }
    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        self.0.watch(prefix, after)
    }
    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        self.0.revision()
    }
    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>> {
        self.0.compact(before)
    }
    fn expiries(&self) -> BoxFuture<'_, Result<HashMap<Bytes, u32>>> {
        self.0.expiries()
    }
}
