//! Backups on both stores: one revision while writers go on, whole or refused, restored into
//! either store, never with revisions that go back.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use common::etcd::Cluster;
use store::backup::{self, BackupError};
use store::fault::{Fault, Point};
use store::{Embedded, Op, Options, Outcome, Revision, Store, StoreError, Txn};

const MARGIN: Revision = 500;
/// 2026-01-01T00:00:00Z.
const SAVED_AT: i64 = 1_767_225_600;

fn bytes(text: &str) -> Bytes {
    text.to_owned().into()
}

fn put(key: &str, value: impl Into<Bytes>) -> Op {
    Op::Put {
        key: bytes(key),
        value: value.into(),
        expires_after_seconds: None,
    }
}

async fn commit(store: &dyn Store, ops: Vec<Op>) -> Revision {
    let txn = Txn {
        compare: vec![],
        ops,
    };
    match store.commit(txn).await.expect("commit") {
        Outcome::Committed(revision) => revision,
        Outcome::Refused(_) => panic!("refused without a comparison"),
    }
}

async fn content(store: &dyn Store) -> BTreeMap<Bytes, Bytes> {
    let page = store.range(bytes(""), bytes(""), 0, 0).await;
    let items = page.expect("range").items.into_iter();
    items.map(|kv| (kv.key, kv.value)).collect()
}

fn embedded(dir: &Path) -> Embedded {
    Embedded::open(dir, Options::default()).expect("open")
}

/// What makes a backup interesting: many keys, large and empty values, deletions, expiry.
async fn fill(store: &dyn Store) {
    let keys: Vec<usize> = (0..2500).collect();
    for some in keys.chunks(100) {
        let ops = some
            .iter()
            .map(|n| put(&format!("/registry/k/{n:05}"), format!("value of {n}")));
        commit(store, ops.collect()).await;
    }
    let gone = Op::Delete {
        key: bytes("/registry/k/00007"),
    };
    commit(store, vec![gone]).await;
    commit(store, vec![put("/registry/large", vec![7; 1 << 20])]).await;
    commit(store, vec![put("/registry/none", "")]).await;
    commit(store, vec![put("/tiphys/cluster", "its record")]).await;
    let event = Op::Put {
        key: bytes("/registry/event"),
        value: bytes("x"),
        expires_after_seconds: Some(3600),
    };
    commit(store, vec![event]).await;
}

/// Restores and checks what every restored store must be.
async fn restored(store: &dyn Store, path: &Path, expected: &BTreeMap<Bytes, Bytes>) {
    let before = backup::status(path).expect("status");
    let done = backup::restore(store, path, MARGIN).await.expect("restore");
    assert_eq!(done.header, before);
    assert!(!backup::is_unfinished(store).await.expect("state"));
    assert_eq!(&content(store).await, expected);
    let page = store.range(bytes(""), bytes(""), 0, 0).await.expect("all");
    let above = before.revision + MARGIN;
    assert!(page.items.iter().all(|kv| kv.mod_revision > above));
    assert_eq!(store.revision().await.expect("revision"), done.revision);
    // Whoever resumes from what it saw before lists again.
    let resumed = store.watch(bytes(""), before.revision).await.map(drop);
    assert!(
        matches!(resumed, Err(StoreError::Compacted { .. })),
        "{resumed:?}"
    );
    let left = store.expiries().await.expect("expiries");
    assert_eq!(left.keys().collect::<Vec<_>>(), ["/registry/event"]);
    assert!((3000..=3660).contains(&left[&bytes("/registry/event")]));
    assert!(commit(store, vec![put("/registry/next", "1")]).await > done.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_either_store_is_restored_into_either() {
    let dir = tempfile::tempdir().expect("dir");
    let source = embedded(&dir.path().join("source"));
    fill(&source).await;
    let expected = content(&source).await;
    let first = dir.path().join("first");
    let header = backup::save(&source, &first, "ours", SAVED_AT)
        .await
        .expect("save");
    assert_eq!(header.keys as usize, expected.len());
    assert_eq!(header.revision, source.revision().await.expect("revision"));
    assert_eq!(header.cluster, "ours");

    let target = embedded(&dir.path().join("target"));
    restored(&target, &first, &expected).await;
    target.close();
    // The jump of the revision is durable, and the past stays unreadable.
    let target = embedded(&dir.path().join("target"));
    assert!(target.revision().await.expect("revision") > header.revision + MARGIN);
    let past = target.watch(bytes(""), header.revision).await.map(drop);
    assert!(
        matches!(past, Err(StoreError::Compacted { .. })),
        "{past:?}"
    );

    let cluster = Cluster::start(1, &[]).await;
    let etcd = cluster.connect().await;
    restored(&etcd, &first, &expected).await;
    let second = dir.path().join("second");
    let header = backup::save(&etcd, &second, "ours", SAVED_AT)
        .await
        .expect("save");
    assert_eq!(header.keys as usize, expected.len() + 1);
    let back = embedded(&dir.path().join("back"));
    let expected = content(&etcd).await;
    restored(&back, &second, &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_of_one_revision_while_writers_go_on() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Arc::new(embedded(&dir.path().join("source")));
    fill(store.as_ref()).await;
    // Both of these always change together, at the two ends of the order of keys.
    let pair = |n: u64| vec![put("/a", n.to_string()), put("/z", n.to_string())];
    commit(store.as_ref(), pair(0)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let mut n = 0;
            while !stop.load(Ordering::SeqCst) {
                n += 1;
                commit(store.as_ref(), pair(n)).await;
                if n % 50 == 0 {
                    // It may compact the very revision that is being saved.
                    let now = store.revision().await.expect("revision");
                    store.compact(now).await.expect("compact");
                }
            }
        }
    });
    let path = dir.path().join("backup");
    for round in 0..5 {
        let header = backup::save(store.as_ref(), &path, "", SAVED_AT)
            .await
            .expect("save");
        let target = embedded(&dir.path().join(format!("target-{round}")));
        backup::restore(&target, &path, 0).await.expect("restore");
        let found = content(&target).await;
        assert_eq!(found[&bytes("/a")], found[&bytes("/z")]);
        assert_eq!(found.len() as u64, header.keys);
    }
    stop.store(true, Ordering::SeqCst);
    writer.await.expect("writer");
}

#[tokio::test]
async fn every_damage_of_a_backup_is_found_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("dir");
    let source = embedded(&dir.path().join("source"));
    for n in 0..5 {
        commit(&source, vec![put(&n.to_string(), vec![n; 20])]).await;
    }
    let path = dir.path().join("backup");
    backup::save(&source, &path, "ours", SAVED_AT)
        .await
        .expect("save");
    let good = std::fs::read(&path).expect("file");
    let target = embedded(&dir.path().join("target"));
    let is_refused = |damaged: Vec<u8>, what: String| {
        std::fs::write(&path, damaged).expect("damage");
        match backup::status(&path) {
            Err(BackupError::Damaged { path: named, .. }) => assert_eq!(named, path),
            other => panic!("{what}: {other:?}"),
        }
    };
    for at in 0..good.len() {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        is_refused(damaged, format!("bit at {at}"));
        is_refused(good[..at].to_vec(), format!("cut at {at}"));
    }
    is_refused([&good[..], b"x"].concat(), "more".into());
    let refused = backup::restore(&target, &path, 0).await;
    assert!(matches!(refused, Err(BackupError::Damaged { .. })));
    assert_eq!(target.revision().await.expect("revision"), 0);
    let none = backup::status(&dir.path().join("none"));
    assert!(matches!(none, Err(BackupError::File { .. })), "{none:?}");
}

#[tokio::test]
async fn only_an_empty_store_is_restored_into_or_what_a_cut_off_restore_has_left() {
    let dir = tempfile::tempdir().expect("dir");
    let source = embedded(&dir.path().join("source"));
    fill(&source).await;
    let path = dir.path().join("backup");
    backup::save(&source, &path, "ours", SAVED_AT)
        .await
        .expect("save");
    let expected = content(&source).await;

    let full = embedded(&dir.path().join("full"));
    let revision = commit(&full, vec![put("a", "1")]).await;
    let refused = backup::restore(&full, &path, 0).await;
    assert!(
        matches!(refused, Err(BackupError::NotEmpty { keys: 1, .. })),
        "{refused:?}"
    );
    assert_eq!(full.revision().await.expect("revision"), revision);

    // A restore that ends in the middle, since the disk is full.
    let left = Arc::new(AtomicU32::new(8));
    let faults = {
        let left = left.clone();
        move |point| match point {
            Point::BeforeWrite if left.load(Ordering::SeqCst) == 0 => Fault::NoSpace,
            Point::BeforeWrite => {
                left.fetch_sub(1, Ordering::SeqCst);
                Fault::None
            }
            _ => Fault::None,
        }
    };
    let options = Options {
        faults: Arc::new(faults),
        ..Options::default()
    };
    let cut = Embedded::open(&dir.path().join("cut"), options).expect("open");
    let ended = backup::restore(&cut, &path, MARGIN).await;
    assert!(
        matches!(ended, Err(BackupError::Store(StoreError::NoSpace(_)))),
        "{ended:?}"
    );
    left.store(u32::MAX, Ordering::SeqCst);
    assert!(content(&cut).await.len() > 100);
    assert!(backup::is_unfinished(&cut).await.expect("state"));
    let saved = backup::save(&cut, &dir.path().join("other"), "", SAVED_AT).await;
    assert!(matches!(saved, Err(BackupError::Unfinished)), "{saved:?}");
    commit(&cut, vec![put("/left", "of before")]).await;
    restored(&cut, &path, &expected).await;
}

#[tokio::test]
async fn what_cannot_be_raised_by_writes_is_refused_and_left_empty() {
    let dir = tempfile::tempdir().expect("dir");
    let source = embedded(&dir.path().join("source"));
    source.raise(50_000_000).await.expect("raise");
    assert_eq!(
        commit(&source, vec![put("a", "1")]).await,
        50_000_001,
        "it goes on from there"
    );
    let path = dir.path().join("backup");
    backup::save(&source, &path, "ours", SAVED_AT)
        .await
        .expect("save");
    let cluster = Cluster::start(1, &[]).await;
    let etcd = cluster.connect().await;
    let refused = backup::restore(&etcd, &path, 0).await;
    assert!(
        matches!(&refused, Err(BackupError::Store(StoreError::Invalid(why))) if why.contains("writes")),
        "{refused:?}"
    );
    assert!(content(&etcd).await.is_empty());
}
