//! The store in memory, which refuses what upstream's form would change: whatever the store is, a
//! value is read as it was written.

use std::sync::{Arc, LazyLock};

use apiserver::storage::Layout;
use clock::Clock;
use futures::future::BoxFuture;
use store::{Layer, Op, Outcome, Result, Store, Txn};

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

impl Layer for Checked {
    fn below(&self) -> &dyn Store {
        &self.0
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        txn.ops.iter().for_each(check);
        self.0.commit(txn)
    }
}
