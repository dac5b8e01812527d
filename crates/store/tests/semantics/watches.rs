//! Watches: every revision, in order, once; resumed anywhere with the same history.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use store::{EventKind, Store, StoreError};

use super::{bytes, commit, delete, next, put, suite};

suite!(
    watches_replay_and_follow_without_gaps,
    a_watch_shows_progress_for_what_it_leaves_out,
    a_watch_resumes_anywhere_with_the_same_history,
);

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
