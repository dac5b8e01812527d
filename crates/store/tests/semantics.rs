//! One suite of semantics for every store, written against the trait: revisions, transactions,
//! reads at a revision, compaction, watches, expiry. It runs unchanged on the embedded engine and
//! on a real etcd that each test starts for itself.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use common::etcd::Cluster;
use futures::StreamExt;
use store::{
    Batch, Compare, Embedded, EventKind, Op, Options, Outcome, Revision, Store, StoreError, Txn,
    WatchStream,
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

    async fn etcd() -> Self {
        let cluster = Cluster::start(1, &[]).await;
        Self {
            store: Arc::new(cluster.connect().await),
            _dir: None,
            _etcd: Some(cluster),
        }
    }
}

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let subject = super::Subject::embedded().await;
                super::$name(&subject.store).await;
            })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let subject = super::Subject::etcd().await;
                super::$name(&subject.store).await;
            })*
        }
    };
}

suite!(
    every_transaction_has_its_own_revision,
    comparisons_decide,
    a_transaction_may_only_compare,
    reads_at_a_revision_see_the_past,
    many_keys_come_in_pages_at_one_revision,
    prefixes_and_odd_keys_are_exact,
    compaction_forgets_the_past_only,
    watches_replay_and_follow_without_gaps,
    a_watch_shows_progress_for_what_it_leaves_out,
    a_watch_resumes_anywhere_with_the_same_history,
    concurrent_writers_lose_no_update,
    a_revision_is_never_older_than_a_write_before_it,
    too_large_values_and_doubled_keys_are_refused,
    large_values_come_back_whole,
    values_expire_and_are_kept_by_a_later_put,
    many_keys_are_deleted_by_transactions,
);

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

async fn every_transaction_has_its_own_revision(store: &Arc<dyn Store>) {
    let first = commit(store, vec![put("a", "1"), put("b", "1")]).await;
    let second = commit(store, vec![put("a", "2")]).await;
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
    assert_eq!(commit(store, vec![delete("none")]).await, second);
    // A deleted key begins anew.
    commit(store, vec![delete("a")]).await;
    let again = commit(store, vec![put("a", "3")]).await;
    let a = store.get(bytes("a"), 0).await.expect("get").expect("a");
    assert_eq!((a.create_revision, a.version), (again, 1));
}

async fn comparisons_decide(store: &Arc<dyn Store>) {
    let absent = || Compare::ModRevision(bytes("a"), 0);
    let made = store
        .commit(txn(vec![absent()], vec![put("a", "1")]))
        .await
        .expect("create");
    let Outcome::Committed(revision) = made else {
        panic!("{made:?}")
    };
    let other = Compare::ModRevision(bytes("none"), 0);
    let again = store
        .commit(txn(
            vec![absent(), other],
            vec![put("a", "2"), put("c", "x")],
        ))
        .await;
    let Ok(Outcome::Refused(seen)) = again else {
        panic!("{again:?}")
    };
    assert_eq!(seen.len(), 2, "every compared key, in order");
    assert_eq!(seen[0].as_ref().map(|kv| kv.mod_revision), Some(revision));
    assert_eq!(
        seen[0].as_ref().map(|kv| kv.value.clone()),
        Some(bytes("1"))
    );
    assert_eq!(seen[1], None);
    assert_eq!(
        value(store, "c", 0).await,
        None,
        "nothing of a refused transaction is there"
    );
    assert_eq!(store.revision().await.expect("revision"), revision);
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
    let guarded = store
        .commit(txn(vec![exists("a")], vec![put("z", "1"), delete("a")]))
        .await;
    assert!(matches!(guarded, Ok(Outcome::Committed(_))));
    assert_eq!(value(store, "a", 0).await, None);
}

async fn a_transaction_may_only_compare(store: &Arc<dyn Store>) {
    let revision = commit(store, vec![put("a", "1")]).await;
    let exact = Compare::ModRevision(bytes("a"), revision);
    let holds = store.commit(txn(vec![exact], vec![])).await;
    assert_eq!(holds.expect("commit"), Outcome::Committed(revision));
    let absent = Compare::ModRevision(bytes("a"), 0);
    let fails = store.commit(txn(vec![absent], vec![])).await;
    assert!(matches!(fails, Ok(Outcome::Refused(_))));
    assert_eq!(store.revision().await.expect("revision"), revision);
}

async fn reads_at_a_revision_see_the_past(store: &Arc<dyn Store>) {
    let first = commit(
        store,
        vec![put("k/1", "a"), put("k/2", "b"), put("other", "x")],
    )
    .await;
    let second = commit(store, vec![put("k/1", "c"), delete("k/2")]).await;
    assert_eq!(value(store, "k/1", first).await.as_deref(), Some("a"));
    assert_eq!(value(store, "k/2", first).await.as_deref(), Some("b"));
    assert_eq!(value(store, "k/2", second).await, None);
    let old = store
        .range(bytes("k/"), bytes("k/"), 1, first)
        .await
        .expect("page");
    assert_eq!((old.items.len(), old.more, old.remaining), (1, true, 1));
    assert_eq!(old.revision, first);
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
    assert!(
        matches!(future, Err(StoreError::Future { current, .. }) if current == second),
        "{future:?}"
    );
    let future = store.range(bytes(""), bytes(""), 0, second + 5).await;
    assert!(
        matches!(future, Err(StoreError::Future { .. })),
        "{future:?}"
    );
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

async fn many_keys_come_in_pages_at_one_revision(store: &Arc<dyn Store>) {
    let count = 1500;
    let full = fill(store, "many/", count).await;
    fill(store, "more/", 10).await;
    commit(
        store,
        vec![delete("many/000007"), put("many/000008", "new")],
    )
    .await;
    for (at, expected) in [(full, count), (0, count - 1)] {
        let whole = store
            .range(bytes("many/"), bytes(""), 0, at)
            .await
            .expect("all");
        assert_eq!(
            (whole.items.len(), whole.more, whole.remaining),
            (expected, false, 0)
        );
        let (mut start, mut got) = (bytes(""), Vec::new());
        loop {
            let page = store
                .range(bytes("many/"), start, 299, whole.revision)
                .await
                .expect("page");
            got.extend(page.items);
            assert_eq!(page.remaining as usize, expected - got.len());
            assert_eq!(page.more, got.len() < expected);
            assert_eq!(page.revision, whole.revision);
            if !page.more {
                break;
            }
            let last = &got.last().expect("an item").key;
            start = [&last[..], b"\0"].concat().into();
        }
        assert_eq!(got, whole.items, "in order, each once");
    }
    let large = store
        .range(bytes("many/"), bytes("many/0005"), 700, full)
        .await
        .expect("page");
    assert_eq!((large.items.len(), large.remaining), (700, 300));
    assert_eq!(large.items[0].key, bytes("many/000500"));
}

async fn prefixes_and_odd_keys_are_exact(store: &Arc<dyn Store>) {
    let keys: [&[u8]; 7] = [
        b"\0",
        b"p",
        b"p/",
        b"p/\0",
        b"p/\xff",
        b"p/\xff\xff\x01",
        b"p0",
    ];
    let puts = keys.map(|key| Op::Put {
        key: Bytes::from_static(key),
        value: Bytes::new(),
        expires_after_seconds: None,
    });
    commit(store, puts.into()).await;
    let under = async |prefix: &'static [u8], start: &'static [u8]| {
        let page = store
            .range(Bytes::from_static(prefix), Bytes::from_static(start), 0, 0)
            .await;
        page.expect("range")
            .items
            .into_iter()
            .map(|kv| kv.key)
            .collect::<Vec<_>>()
    };
    assert_eq!(under(b"", b"").await, keys);
    assert_eq!(under(b"p/", b"").await, keys[2..6]);
    assert_eq!(under(b"p/\xff", b"").await, keys[4..6]);
    assert_eq!(under(b"p/", b"p/\x01").await, keys[4..6]);
    assert!(
        under(b"p/", b"p0").await.is_empty(),
        "a start behind the prefix"
    );
    assert!(under(b"q", b"").await.is_empty());
}

async fn compaction_forgets_the_past_only(store: &Arc<dyn Store>) {
    let first = commit(store, vec![put("a", "1")]).await;
    let second = commit(store, vec![put("a", "2")]).await;
    let third = commit(store, vec![delete("a")]).await;
    store.compact(second).await.expect("compact");
    store
        .compact(second)
        .await
        .expect("compacting twice is no error");
    let old = store.get(bytes("a"), first).await;
    assert!(
        matches!(old, Err(StoreError::Compacted { oldest, .. }) if oldest == second),
        "{old:?}"
    );
    assert_eq!(value(store, "a", second).await.as_deref(), Some("2"));
    assert_eq!(value(store, "a", third).await, None);
    for after in [0, first] {
        let watch = store.watch(bytes(""), after).await.map(drop);
        assert!(
            matches!(watch, Err(StoreError::Compacted { oldest, .. }) if oldest == second),
            "{watch:?}"
        );
    }
    let mut watch = store.watch(bytes("a"), second).await.expect("watch");
    let gone = next(&mut watch).await;
    assert_eq!(
        (gone.revision, gone.events[0].kind.clone()),
        (third, EventKind::Delete)
    );
    store.compact(third).await.expect("compact");
    let future = store.compact(third + 1).await;
    assert!(
        matches!(future, Err(StoreError::Future { .. })),
        "{future:?}"
    );
    let older = store.compact(first).await;
    assert!(
        matches!(older, Err(StoreError::Compacted { .. })),
        "{older:?}"
    );
    assert_eq!(store.revision().await.expect("revision"), third);
}

async fn watches_replay_and_follow_without_gaps(store: &Arc<dyn Store>) {
    let first = commit(store, vec![put("w/a", "1"), put("x", "0")]).await;
    commit(store, vec![put("x", "1")]).await;
    let third = commit(store, vec![put("w/a", "2")]).await;
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
    let fourth = commit(store, vec![delete("w/a"), put("x", "2")]).await;
    for watch in [&mut all, &mut late] {
        let batch = next(watch).await;
        assert_eq!((batch.revision, batch.events.len()), (fourth, 1));
        assert_eq!(batch.events[0].kind, EventKind::Delete);
        assert_eq!(batch.events[0].kv.mod_revision, fourth);
        assert_eq!(batch.events[0].kv.value, bytes(""));
        let prev = batch.events[0].prev.as_ref().expect("what was deleted");
        assert_eq!(
            (prev.value.clone(), prev.mod_revision, prev.version),
            (bytes("2"), third, 2)
        );
    }
    let future = store.watch(bytes("w/"), fourth + 1).await.map(drop);
    assert!(
        matches!(future, Err(StoreError::Future { current, .. }) if current == fourth),
        "{future:?}"
    );
}

async fn a_watch_shows_progress_for_what_it_leaves_out(store: &Arc<dyn Store>) {
    let start = commit(store, vec![put("w/a", "1")]).await;
    let mut watch = store.watch(bytes("w/"), start).await.expect("watch");
    let mut seen = start;
    for round in 0..5 {
        commit(store, vec![put("x", &round.to_string())]).await;
        let newest = commit(store, vec![put("y", &round.to_string())]).await;
        while seen < newest {
            let batch = watch.next().await.expect("a batch").expect("no error");
            assert!(batch.events.is_empty());
            assert!(batch.revision > seen, "ascending");
            seen = batch.revision;
        }
        assert_eq!(seen, newest);
    }
}

async fn a_watch_resumes_anywhere_with_the_same_history(store: &Arc<dyn Store>) {
    let start = commit(store, vec![put("h/0", "0")]).await;
    let mut live = store.watch(bytes("h/"), start).await.expect("watch");
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            for n in 0..25 {
                let (a, b) = (
                    format!("h/{writer}"),
                    format!("h/{}", (writer + n) % 7 + 10),
                );
                let ops = match n % 5 {
                    4 => vec![delete(&a), put(&b, &n.to_string())],
                    _ => vec![put(&a, &n.to_string()), put(&b, &n.to_string())],
                };
                commit(&store, ops).await;
            }
        });
    }
    let mut history = Vec::new();
    for _ in 0..100 {
        history.push(next(&mut live).await);
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("writer");
    }
    let revisions: Vec<_> = history.iter().map(|b| b.revision).collect();
    let expected: Vec<_> = (start + 1..=start + 100).collect();
    assert_eq!(revisions, expected, "every revision, in order, each once");
    assert!(
        history.iter().all(|b| b.events.len() == 2),
        "all of a transaction's events"
    );
    for skipped in [0, 1, 37, 98] {
        let mut again = store
            .watch(bytes("h/"), revisions[skipped])
            .await
            .expect("watch");
        for batch in &history[skipped + 1..] {
            assert_eq!(&next(&mut again).await, batch);
        }
    }
    // What the history adds up to is what is there.
    let mut model = BTreeMap::from([(bytes("h/0"), bytes("0"))]);
    for event in history.iter().flat_map(|b| &b.events) {
        match event.kind {
            EventKind::Put => drop(model.insert(event.kv.key.clone(), event.kv.value.clone())),
            EventKind::Delete => drop(model.remove(&event.kv.key)),
        }
    }
    let page = store
        .range(bytes("h/"), bytes(""), 0, 0)
        .await
        .expect("range");
    let there = page.items.into_iter().map(|kv| (kv.key, kv.value));
    assert_eq!(there.collect::<BTreeMap<_, _>>(), model);
}

async fn concurrent_writers_lose_no_update(store: &Arc<dyn Store>) {
    let start = commit(store, vec![put("n", "0")]).await;
    let mut watch = store.watch(bytes("n"), start).await.expect("watch");
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
    assert_eq!(value(store, "n", 0).await, Some(total.to_string()));
    for n in 1..=total {
        let batch = next(&mut watch).await;
        assert_eq!(
            batch.events[0].kv.value,
            bytes(&n.to_string()),
            "in order, each once"
        );
    }
}

async fn a_revision_is_never_older_than_a_write_before_it(store: &Arc<dyn Store>) {
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            for n in 0..25 {
                let written =
                    commit(&store, vec![put(&format!("r/{writer}"), &n.to_string())]).await;
                let seen = store.revision().await.expect("revision");
                assert!(seen >= written, "wrote {written}, then saw {seen}");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("writer");
    }
}

fn zeros(key: &str, length: usize) -> Op {
    Op::Put {
        key: bytes(key),
        value: vec![0; length].into(),
        expires_after_seconds: None,
    }
}

async fn too_large_values_and_doubled_keys_are_refused(store: &Arc<dyn Store>) {
    let large = store
        .commit(txn(Vec::new(), vec![zeros("a", (3 << 20) + 1)]))
        .await;
    assert!(
        matches!(large, Err(StoreError::TooLarge { .. })),
        "{large:?}"
    );
    let doubled = store
        .commit(txn(Vec::new(), vec![put("a", "1"), delete("a")]))
        .await;
    assert!(
        matches!(doubled, Err(StoreError::Invalid(_))),
        "{doubled:?}"
    );
    assert_eq!(value(store, "a", 0).await, None);
    commit(store, vec![put("a", "still written")]).await;
}

async fn large_values_come_back_whole(store: &Arc<dyn Store>) {
    let start = commit(store, vec![put("start", "")]).await;
    let (count, length) = (12, 1 << 20);
    for n in 0..count {
        commit(store, vec![zeros(&format!("large/{n:02}"), length + n)]).await;
    }
    let page = store
        .range(bytes("large/"), bytes(""), 0, 0)
        .await
        .expect("range");
    assert_eq!(page.items.len(), count);
    let mut watch = store.watch(bytes("large/"), start).await.expect("watch");
    for (n, kv) in page.items.iter().enumerate() {
        assert_eq!(kv.value.len(), length + n);
        assert_eq!(&next(&mut watch).await.events[0].kv, kv);
    }
    // Many in one transaction, as far as one request allows.
    let ops = (0..64).map(|n| zeros(&format!("many/{n}"), 16 << 10));
    let revision = commit(store, ops.collect()).await;
    let batch = next(
        &mut store
            .watch(bytes("many/"), revision - 1)
            .await
            .expect("watch"),
    )
    .await;
    assert_eq!((batch.revision, batch.events.len()), (revision, 64));
}

fn expiring(key: &str, seconds: u32) -> Op {
    Op::Put {
        key: bytes(key),
        value: bytes("x"),
        expires_after_seconds: Some(seconds),
    }
}

async fn values_expire_and_are_kept_by_a_later_put(store: &Arc<dyn Store>) {
    let made = commit(
        store,
        vec![
            expiring("e/gone", 2),
            expiring("e/kept", 2),
            expiring("e/long", 3600),
        ],
    )
    .await;
    commit(store, vec![put("e/kept", "for good"), put("e/other", "1")]).await;
    let left = store.expiries().await.expect("expiries");
    let mut keys: Vec<_> = left.keys().cloned().collect();
    keys.sort();
    assert_eq!(keys, [bytes("e/gone"), bytes("e/long")]);
    let long = left[&bytes("e/long")];
    assert!((3500..=3660).contains(&long), "{long} s are left");
    let mut watch = store.watch(bytes("e/gone"), made).await.expect("watch");
    let gone = next(&mut watch).await;
    assert_eq!(gone.events[0].kind, EventKind::Delete);
    assert_eq!(
        gone.events[0].prev.as_ref().map(|p| p.mod_revision),
        Some(made)
    );
    let page = store
        .range(bytes("e/"), bytes(""), 0, gone.revision)
        .await
        .expect("range");
    let keys: Vec<_> = page.items.into_iter().map(|kv| kv.key).collect();
    assert_eq!(keys, [bytes("e/kept"), bytes("e/long"), bytes("e/other")]);
}

async fn many_keys_are_deleted_by_transactions(store: &Arc<dyn Store>) {
    let full = fill(store, "d/", 1000).await;
    commit(store, vec![put("kept", "1")]).await;
    let mut watch = store.watch(bytes("d/"), full).await.expect("watch");
    let mut last = 0;
    loop {
        let page = store
            .range(bytes("d/"), bytes(""), 100, 0)
            .await
            .expect("page");
        if page.items.is_empty() {
            break;
        }
        let compare = page
            .items
            .iter()
            .map(|kv| Compare::ModRevision(kv.key.clone(), kv.mod_revision))
            .collect();
        let ops = page
            .items
            .into_iter()
            .map(|kv| Op::Delete { key: kv.key })
            .collect();
        let outcome = store.commit(txn(compare, ops)).await.expect("delete");
        let Outcome::Committed(revision) = outcome else {
            panic!("{outcome:?}")
        };
        let batch = next(&mut watch).await;
        assert_eq!((batch.revision, batch.events.len()), (revision, 100));
        assert!(batch.events.iter().all(|e| e.kind == EventKind::Delete));
        last = revision;
    }
    let page = store
        .range(bytes(""), bytes(""), 0, 0)
        .await
        .expect("range");
    assert_eq!((page.items.len(), page.revision), (1, last));
    let before = store
        .range(bytes("d/"), bytes(""), 1, full)
        .await
        .expect("range");
    assert_eq!((before.items.len(), before.remaining), (1, 999));
}

/// Each store has its own largest value, and takes one of just that size.
#[tokio::test]
async fn the_embedded_store_takes_the_largest_body_of_the_api() {
    let subject = Subject::embedded().await;
    commit(&subject.store, vec![zeros("a", 3 << 20)]).await;
    let a = subject
        .store
        .get(bytes("a"), 0)
        .await
        .expect("get")
        .expect("a");
    assert_eq!(a.value.len(), 3 << 20);
}
