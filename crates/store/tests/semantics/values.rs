//! Values: how large they may be, and how they expire.

use std::sync::Arc;

use store::{EventKind, Store, StoreError};

use super::{Subject, bytes, commit, delete, expiring, next, put, suite, txn, value, zeros};

suite!(
    too_large_values_and_doubled_keys_are_refused,
    large_values_come_back_whole,
    values_expire_and_are_kept_by_a_later_put,
);

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
    let kept = commit(store, vec![put("e/kept", "for good"), put("e/other", "1")]).await;
    let left = store.expiries().await.expect("expiries");
    // The one of two seconds may have gone by now.
    let mut keys: Vec<_> = left.keys().filter(|k| **k != bytes("e/gone")).collect();
    keys.sort();
    assert_eq!(keys, [&bytes("e/long")]);
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
        .range(bytes("e/"), bytes(""), 0, gone.revision.max(kept))
        .await
        .expect("range");
    let keys: Vec<_> = page.items.into_iter().map(|kv| kv.key).collect();
    assert_eq!(keys, [bytes("e/kept"), bytes("e/long"), bytes("e/other")]);
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
