//! One suite of semantics for every store, written against the trait: revisions, transactions,
//! reads at a revision, compaction, watches, expiry. It runs unchanged on the embedded engine, on
//! a real etcd that each test starts for itself, and on the store in memory.
#![expect(clippy::disallowed_methods, reason = "stores that live in real time")]

#[path = "../common/mod.rs"]
mod common;
mod reads;
mod transactions;
mod values;
mod watches;

use std::sync::Arc;

use bytes::Bytes;
use clock::Clock;
use common::etcd::Cluster;
use futures::StreamExt;
use store::{
    Batch, Compare, Embedded, Memory, Op, Options, Outcome, Revision, Store, Txn, WatchStream,
};

/// A store under test, with what has to live as long.
struct Subject {
    store: Arc<dyn Store>,
    _dir: Option<tempfile::TempDir>,
    _etcd: Option<Cluster>,
}

impl Subject {
    async fn embedded() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let store = Embedded::open(dir.path(), Options::default()).expect("open");
        Self {
            store: Arc::new(store),
            _dir: Some(dir),
            _etcd: None,
        }
    }

    fn memory() -> Self {
        Self {
            store: Arc::new(Memory::new(Clock::system())),
            _dir: None,
            _etcd: None,
        }
    }

    async fn etcd() -> Self {
        let cluster = Cluster::start(1, &[]).await;
        Self {
            store: Arc::new(cluster.connect().await),
            _dir: None,
            _etcd: Some(cluster),
        }
    }
}

/// Each test on every store.
macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let subject = crate::Subject::embedded().await;
                super::$name(&subject.store).await;
            })*
        }
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let subject = crate::Subject::memory();
                super::$name(&subject.store).await;
            })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let subject = crate::Subject::etcd().await;
                super::$name(&subject.store).await;
            })*
        }
    };
}
use suite;

fn put(key: &str, value: &str) -> Op {
    Op::Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        expires_after_seconds: None,
    }
}

fn delete(key: &str) -> Op {
    Op::Delete {
        key: key.to_owned().into(),
    }
}

fn txn(compare: Vec<Compare>, ops: Vec<Op>) -> Txn {
    Txn { compare, ops }
}

async fn commit(store: &Arc<dyn Store>, ops: Vec<Op>) -> Revision {
    match store.commit(txn(Vec::new(), ops)).await.expect("commit") {
        Outcome::Committed(revision) => revision,
        Outcome::Refused(_) => panic!("refused without a comparison"),
    }
}

fn bytes(text: &str) -> Bytes {
    text.to_owned().into()
}

async fn value(store: &Arc<dyn Store>, key: &str, at: Revision) -> Option<String> {
    let kv = store.get(bytes(key), at).await.expect("get")?;
    Some(String::from_utf8(kv.value.to_vec()).expect("text"))
}

/// The next batch with events.
async fn next(watch: &mut WatchStream) -> Batch {
    loop {
        let batch = watch.next().await.expect("a batch").expect("no error");
        if !batch.events.is_empty() {
            return batch;
        }
    }
}

/// Puts so many keys, a hundred in a transaction.
async fn fill(store: &Arc<dyn Store>, prefix: &str, count: usize) -> Revision {
    let keys: Vec<usize> = (0..count).collect();
    let mut revision = 0;
    for some in keys.chunks(100) {
        let ops = some
            .iter()
            .map(|n| put(&format!("{prefix}{n:06}"), &format!("value of {n}")));
        revision = commit(store, ops.collect()).await;
    }
    revision
}

fn zeros(key: &str, length: usize) -> Op {
    Op::Put {
        key: bytes(key),
        value: vec![0; length].into(),
        expires_after_seconds: None,
    }
}

fn expiring(key: &str, seconds: u32) -> Op {
    Op::Put {
        key: bytes(key),
        value: bytes("x"),
        expires_after_seconds: Some(seconds),
    }
}
