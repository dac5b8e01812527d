//! One suite of semantics for every store: revisions, transactions, reads at a revision,
//! compaction, watches. It is written against the trait, so that another engine passes it
//! unchanged.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use store::{
    Batch, Compare, Embedded, EventKind, Op, Options, Outcome, Revision, Store, StoreError, Txn,
    WatchStream,
};

fn open() -> (tempfile::TempDir, Arc<dyn Store>) {
    let dir = tempfile::tempdir().expect("dir");
    let store = Embedded::open(dir.path(), Options::default()).expect("open");
    (dir, Arc::new(store))
}

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

async fn next(watch: &mut WatchStream) -> Batch {
    watch.next().await.expect("a batch").expect("no error")
}

#[tokio::test]
async fn every_transaction_has_its_own_revision() {
    let (_dir, store) = open();
    let first = commit(&store, vec![put("a", "1"), put("b", "1")]).await;
    let second = commit(&store, vec![put("a", "2")]).await;
    assert_eq!(second, first + 1);
    let a = store.get(bytes("a"), 0).await.expect("get").expect("a");
    assert_eq!(
        (a.create_revision, a.mod_revision, a.version),
        (first, second, 2)
    );
    let b = store.get(bytes("b"), 0).await.expect("get").expect("b");
    assert_eq!(
        (b.create_revision, b.mod_revision, b.version),
        (first, first, 1)
    );
    assert_eq!(store.revision().await.expect("revision"), second);
    // Deleting nothing is no change.
    assert_eq!(commit(&store, vec![delete("none")]).await, second);
}

#[tokio::test]
async fn comparisons_decide() {
    let (_dir, store) = open();
    let absent = || Compare::ModRevision(bytes("a"), 0);
    let made = store
        .commit(txn(vec![absent()], vec![put("a", "1")]))
        .await
        .expect("create");
    let Outcome::Committed(revision) = made else {
        panic!("{made:?}")
    };
    let again = store
        .commit(txn(vec![absent()], vec![put("a", "2"), put("c", "x")]))
        .await;
    let Ok(Outcome::Refused(seen)) = again else {
        panic!("{again:?}")
    };
    assert_eq!(seen[0].as_ref().map(|kv| kv.mod_revision), Some(revision));
    assert_eq!(
        value(&store, "c", 0).await,
        None,
        "nothing of a refused transaction is there"
    );
    let exact = Compare::ModRevision(bytes("a"), revision);
    let changed = store
        .commit(txn(vec![exact.clone()], vec![put("a", "2")]))
        .await;
    assert!(matches!(changed, Ok(Outcome::Committed(_))));
    let stale = store.commit(txn(vec![exact], vec![put("a", "3")])).await;
    assert!(matches!(stale, Ok(Outcome::Refused(_))));
    let exists = |key| Compare::Exists(bytes(key));
    let guarded = store
        .commit(txn(vec![exists("a"), exists("b")], vec![put("z", "1")]))
        .await;
    assert!(matches!(guarded, Ok(Outcome::Refused(_))));
}

#[tokio::test]
async fn reads_at_a_revision_see_the_past() {
    let (_dir, store) = open();
    let first = commit(
        &store,
        vec![put("k/1", "a"), put("k/2", "b"), put("other", "x")],
    )
    .await;
    let second = commit(&store, vec![put("k/1", "c"), delete("k/2")]).await;
    assert_eq!(value(&store, "k/1", first).await.as_deref(), Some("a"));
    assert_eq!(value(&store, "k/2", first).await.as_deref(), Some("b"));
    assert_eq!(value(&store, "k/2", second).await, None);
    let old = store
        .range(bytes("k/"), bytes("k/"), 1, first)
        .await
        .expect("page");
    assert_eq!((old.items.len(), old.more, old.remaining), (1, true, 1));
    let rest = store
        .range(bytes("k/"), bytes("k/1\0"), 0, first)
        .await
        .expect("page");
    assert_eq!(rest.items[0].key, bytes("k/2"));
    let now = store
        .range(bytes("k/"), bytes(""), 0, 0)
        .await
        .expect("list");
    assert_eq!(
        (now.items.len(), now.more, now.revision),
        (1, false, second)
    );
    let future = store.get(bytes("k/1"), second + 1).await;
    assert!(matches!(future, Err(StoreError::Future { current, .. }) if current == second));
}

#[tokio::test]
async fn compaction_forgets_the_past_only() {
    let (_dir, store) = open();
    let first = commit(&store, vec![put("a", "1")]).await;
    let second = commit(&store, vec![put("a", "2")]).await;
    let third = commit(&store, vec![delete("a")]).await;
    store.compact(second).await.expect("compact");
    assert!(
        matches!(store.get(bytes("a"), first).await, Err(StoreError::Compacted { oldest, .. }) if oldest == second)
    );
    assert_eq!(value(&store, "a", second).await.as_deref(), Some("2"));
    assert_eq!(value(&store, "a", third).await, None);
    assert!(matches!(
        store.watch(bytes(""), first).await.map(drop),
        Err(StoreError::Compacted { .. })
    ));
}

#[tokio::test]
async fn watches_replay_and_follow_without_gaps() {
    let (_dir, store) = open();
    let first = commit(&store, vec![put("w/a", "1"), put("x", "0")]).await;
    commit(&store, vec![put("x", "1")]).await;
    let third = commit(&store, vec![put("w/a", "2")]).await;
    let mut all = store.watch(bytes("w/"), 0).await.expect("watch");
    let mut late = store.watch(bytes("w/"), first).await.expect("watch");
    assert_eq!(next(&mut all).await.revision, first);
    for watch in [&mut all, &mut late] {
        let batch = next(watch).await;
        assert_eq!((batch.revision, batch.events.len()), (third, 1));
        assert_eq!(
            batch.events[0].prev.as_ref().map(|p| p.value.clone()),
            Some(bytes("1"))
        );
    }
    let fourth = commit(&store, vec![delete("w/a"), put("x", "2")]).await;
    for watch in [&mut all, &mut late] {
        let batch = next(watch).await;
        assert_eq!((batch.revision, batch.events.len()), (fourth, 1));
        assert_eq!(batch.events[0].kind, EventKind::Delete);
        assert_eq!(batch.events[0].kv.mod_revision, fourth);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_lose_no_update() {
    let (_dir, store) = open();
    commit(&store, vec![put("n", "0")]).await;
    let mut watch = store.watch(bytes("n"), 1).await.expect("watch");
    let (writers, each) = (8, 50);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..writers {
        let store = store.clone();
        tasks.spawn(async move {
            for _ in 0..each {
                loop {
                    let now = store.get(bytes("n"), 0).await.expect("get").expect("n");
                    let n: u32 = std::str::from_utf8(&now.value)
                        .expect("text")
                        .parse()
                        .expect("number");
                    let guard = Compare::ModRevision(bytes("n"), now.mod_revision);
                    let next = txn(vec![guard], vec![put("n", &(n + 1).to_string())]);
                    if let Outcome::Committed(_) = store.commit(next).await.expect("commit") {
                        break;
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("writer");
    }
    let total = writers * each;
    assert_eq!(value(&store, "n", 0).await, Some(total.to_string()));
    for n in 1..=total {
        let batch = next(&mut watch).await;
        assert_eq!(
            batch.events[0].kv.value,
            bytes(&n.to_string()),
            "in order, each once"
        );
    }
}

#[tokio::test]
async fn too_large_values_and_doubled_keys_are_refused() {
    let (_dir, store) = open();
    let large = Op::Put {
        key: bytes("a"),
        value: vec![0; (3 << 20) + 1].into(),
        expires_after_seconds: None,
    };
    assert!(matches!(
        store.commit(txn(Vec::new(), vec![large])).await,
        Err(StoreError::TooLarge { .. })
    ));
    assert!(
        store
            .commit(txn(Vec::new(), vec![put("a", "1"), delete("a")]))
            .await
            .is_err()
    );
    let fits = Op::Put {
        key: bytes("a"),
        value: vec![7; 3 << 20].into(),
        expires_after_seconds: None,
    };
    commit(&store, vec![fits]).await;
    assert_eq!(
        store
            .get(bytes("a"), 0)
            .await
            .expect("get")
            .expect("a")
            .value
            .len(),
        3 << 20
    );
}
