//! What the embedded engine keeps when the disk or the machine fails: every acknowledged write,
//! no half of an unacknowledged one.

mod damage;
mod full;
mod kills;
mod model;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use clock::Clock;
use futures::StreamExt;
use store::{Embedded, Op, Options, Store, StoreError, Txn};

fn bytes(text: &str) -> Bytes {
    text.to_owned().into()
}

fn put(key: &str, value: &str) -> Txn {
    let op = Op::Put {
        key: bytes(key),
        value: bytes(value),
        expires_after_seconds: None,
    };
    Txn {
        compare: Vec::new(),
        ops: vec![op],
    }
}

fn small_segments() -> Options {
    Options {
        segment_bytes: 4096,
        ..Options::default()
    }
}

async fn content(store: &Embedded) -> BTreeMap<Bytes, Bytes> {
    let page = store
        .range(bytes(""), bytes(""), 0, 0)
        .await
        .expect("range");
    page.items
        .into_iter()
        .map(|kv| (kv.key, kv.value))
        .collect()
}

#[tokio::test]
async fn a_store_is_the_same_after_it_was_closed() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Embedded::open(dir.path(), small_segments()).expect("open");
    for i in 0..500 {
        let key = format!("k{}", i % 50);
        store
            .commit(put(&key, &format!("value {i}")))
            .await
            .expect("put");
    }
    store
        .commit(Txn {
            compare: vec![],
            ops: vec![Op::Delete { key: bytes("k7") }],
        })
        .await
        .expect("delete");
    let (before, revision) = (
        content(&store).await,
        store.revision().await.expect("revision"),
    );
    let one = store.get(bytes("k9"), 0).await.expect("get");
    store.close();
    let files = || std::fs::read_dir(dir.path()).expect("dir").flatten();
    let lengths = files().map(|f| f.metadata().expect("a file").len());
    let size: u64 = lengths.sum();
    let said = store.disk_bytes().await.expect("size");
    assert!(size > 0 && said == Some(size), "{said:?}, not {size}");
    let again = Embedded::open(dir.path(), small_segments()).expect("open again");
    assert_eq!(content(&again).await, before);
    assert_eq!(again.revision().await.expect("revision"), revision);
    assert_eq!(again.get(bytes("k9"), 0).await.expect("get"), one);
    let files = files().count();
    assert!(
        files < 8,
        "old segments are removed, {files} files are there"
    );
}

#[tokio::test]
async fn only_one_process_has_the_folder() {
    let dir = tempfile::tempdir().expect("dir");
    let _first = Embedded::open(dir.path(), Options::default()).expect("open");
    let second = Embedded::open(dir.path(), Options::default()).map(drop);
    assert!(
        matches!(&second, Err(StoreError::Unavailable(why)) if why.contains("in use")),
        "{second:?}"
    );
}

fn time(seconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(seconds).expect("a time")
}

static CLOCK: AtomicI64 = AtomicI64::new(1_000);

#[tokio::test]
async fn values_expire_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let clock = Clock::read_by(|| time(CLOCK.load(Ordering::SeqCst)));
    let options = || Options {
        clock,
        ..Options::default()
    };
    let store = Embedded::open(dir.path(), options()).expect("open");
    let expiring = |key: &str| Op::Put {
        key: bytes(key),
        value: bytes("x"),
        expires_after_seconds: Some(60),
    };
    store
        .commit(Txn {
            compare: vec![],
            ops: vec![expiring("e"), expiring("kept")],
        })
        .await
        .expect("put");
    store.commit(put("kept", "for good")).await.expect("put");
    store.close();
    let store = Embedded::open(dir.path(), options()).expect("open");
    assert_eq!(content(&store).await.len(), 2);
    let mut watch = store
        .watch(bytes("e"), store.revision().await.expect("revision"))
        .await
        .expect("watch");
    CLOCK.store(1_061, Ordering::SeqCst);
    // Any write makes the writer look at the clock.
    store.commit(put("tick", "1")).await.expect("put");
    let gone = loop {
        let batch = watch.next().await.expect("a batch").expect("no error");
        if !batch.events.is_empty() {
            break batch;
        }
    };
    assert_eq!(gone.events[0].kv.key, bytes("e"));
    assert_eq!(
        content(&store).await.into_keys().collect::<Vec<_>>(),
        ["kept", "tick"]
    );
}

#[tokio::test]
async fn the_files_stay_as_small_as_what_is_live() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Embedded::open(dir.path(), small_segments()).expect("open");
    let value = "x".repeat(500);
    for n in 0..3_000 {
        let key = format!("k{}", n % 10);
        store.commit(put(&key, &value)).await.expect("put");
    }
    // A snapshot that is being written is complete.
    store.close();
    let bytes = bytes_in(dir.path());
    let (live, segment) = (10 * 600, small_segments().segment_bytes + 600);
    assert!(
        bytes < live + 10 * segment.max(live),
        "{bytes} bytes for {live} live ones"
    );
}

fn bytes_in(dir: &Path) -> u64 {
    // One that was just removed has none.
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    files(dir, "").iter().map(|p| size(p)).sum()
}

#[tokio::test]
async fn the_files_of_what_was_deleted_go() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Embedded::open(dir.path(), small_segments()).expect("open");
    let value = "x".repeat(500);
    for n in 0..200 {
        store
            .commit(put(&format!("k{n}"), &value))
            .await
            .expect("put");
    }
    store.close();
    let full = bytes_in(dir.path());
    assert!(full > 200 * 500, "{full}");
    let store = Embedded::open(dir.path(), small_segments()).expect("open");
    for n in 0..200 {
        let ops = vec![Op::Delete {
            key: bytes(&format!("k{n}")),
        }];
        let txn = Txn {
            compare: vec![],
            ops,
        };
        store.commit(txn).await.expect("delete");
    }
    // A snapshot that began before the last deletion is followed by another, at the next write.
    let most = 8 * small_segments().segment_bytes;
    while bytes_in(dir.path()) >= most {
        store.commit(put("tick", "1")).await.expect("put");
    }
    store.close();
}

#[tokio::test]
async fn versions_go_by_their_age() {
    static NOW: AtomicI64 = AtomicI64::new(1_000);
    let dir = tempfile::tempdir().expect("dir");
    let options = Options {
        clock: Clock::read_by(|| time(NOW.load(Ordering::SeqCst))),
        ..small_segments()
    };
    let store = Embedded::open(dir.path(), options).expect("open");
    let read = |at| store.get(bytes("k"), at);
    for value in ["one", "two"] {
        store.commit(put("k", value)).await.expect("put");
    }
    let then = store.revision().await.expect("revision") - 1;
    // The writer looks after it has answered: what it answers next comes after that look.
    let later = async |seconds| {
        NOW.fetch_add(seconds, Ordering::SeqCst);
        for value in ["x", "y"] {
            store.commit(put("other", value)).await.expect("put");
        }
    };
    // A look that notes where the store is, and later one that forgets what is older than that.
    for seconds in [299, 2, 298] {
        later(seconds).await;
        let old = read(then).await.expect("still there").expect("a value");
        assert_eq!(old.value, bytes("one"));
    }
    later(2).await;
    assert!(matches!(
        read(then).await,
        Err(StoreError::Compacted { .. })
    ));
    assert_eq!(
        read(0).await.expect("read").expect("live").value,
        bytes("two")
    );
}

/// Files of the store whose names begin so, in order.
fn files(dir: &Path, prefix: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("dir");
    let mut found: Vec<_> = entries.map(|e| e.expect("entry").path()).collect();
    found.retain(|p| {
        p.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with(prefix))
    });
    found.sort();
    found
}
