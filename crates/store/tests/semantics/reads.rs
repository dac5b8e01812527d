//! Reads now and at a revision, in pages, and what compaction takes from them.

use std::sync::Arc;

use bytes::Bytes;
use store::{EventKind, Op, Store, StoreError};

use super::{bytes, commit, delete, fill, next, put, suite, value};

suite!(
    reads_at_a_revision_see_the_past,
    many_keys_come_in_pages_at_one_revision,
    prefixes_and_odd_keys_are_exact,
    compaction_forgets_the_past_only,
);

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
        let (mut start, mut revisions) = (bytes("many/"), Vec::new());
        loop {
            let page = store.revisions(bytes("many/"), start, 299, whole.revision);
            let page = page.await.expect("page");
            let Some((last, _)) = page.last() else {
                break;
            };
            assert!(page.len() <= 299);
            start = [&last[..], b"\0"].concat().into();
            revisions.extend(page);
        }
        let items = whole.items.into_iter();
        let wanted: Vec<_> = items.map(|kv| (kv.key, kv.mod_revision)).collect();
        assert_eq!(revisions, wanted, "keys and revisions alone");
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
        .expect("compacting twice is not an error");
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
