//! Transactions: each at its own revision, decided by comparisons, never half applied, however
//! many write at once.

use std::sync::Arc;

use store::{Compare, EventKind, Op, Outcome, Store, StoreError};

use super::{bytes, commit, delete, fill, next, put, suite, txn, value};

suite!(
    every_transaction_has_its_own_revision,
    comparisons_decide,
    a_transaction_may_only_compare,
    concurrent_writers_lose_no_update,
    a_revision_is_never_older_than_a_write_before_it,
    many_keys_are_deleted_by_transactions,
    a_raised_store_goes_on_above,
);

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
    // Deleting nothing is not a change.
    assert_eq!(commit(store, vec![delete("none")]).await, second);
    // A deleted key begins again.
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

async fn concurrent_writers_lose_no_update(store: &Arc<dyn Store>) {
    let start = commit(store, vec![put("n", "0")]).await;
    let mut watch = store.watch(bytes("n"), start).await.expect("watch");
    let (writers, each) = (8_u32, 50);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..writers {
        let store = store.clone();
        tasks.spawn(async move {
            let mut unknown = 0;
            for _ in 0..each {
                loop {
                    let now = store.get(bytes("n"), 0).await.expect("get").expect("n");
                    let n: u32 = std::str::from_utf8(&now.value)
                        .expect("text")
                        .parse()
                        .expect("number");
                    let guard = Compare::ModRevision(bytes("n"), now.mod_revision);
                    let next = txn(vec![guard], vec![put("n", &(n + 1).to_string())]);
                    match store.commit(next).await {
                        Ok(Outcome::Committed(_)) => break,
                        Ok(_) => {}
                        // A slow disk: it may have come about, and it is tried once more.
                        Err(StoreError::Unknown(_)) => unknown += 1,
                        Err(e) => panic!("commit: {e}"),
                    }
                }
            }
            unknown
        });
    }
    let mut unknown = 0;
    while let Some(done) = tasks.join_next().await {
        unknown += done.expect("writer");
    }
    let total: u32 = value(store, "n", 0)
        .await
        .expect("n")
        .parse()
        .expect("number");
    let known = writers * each;
    assert!((known..=known + unknown).contains(&total), "{total}");
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

async fn a_raised_store_goes_on_above(store: &Arc<dyn Store>) {
    let before = commit(store, vec![put("a", "1"), put("b", "1")]).await;
    let raised = store.raise(before + 300).await.expect("raise");
    assert!(raised >= before + 300);
    assert_eq!(store.revision().await.expect("revision"), raised);
    assert_eq!(
        store.raise(before).await.expect("raise"),
        raised,
        "it is there already"
    );
    let a = store.get(bytes("a"), 0).await.expect("get").expect("a");
    assert_eq!((a.mod_revision, a.version), (before, 1), "as it was");
    let past = store.get(bytes("a"), before).await;
    assert!(
        matches!(past, Err(StoreError::Compacted { .. })),
        "{past:?}"
    );
    let next = commit(store, vec![put("a", "2"), delete("b")]).await;
    assert_eq!(next, raised + 1);
    let all = store.range(bytes(""), bytes(""), 0, 0).await.expect("all");
    assert_eq!(all.items.len(), 1, "nothing of the raising is left");
}
