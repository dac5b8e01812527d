//! Files that are torn, damaged or missing: a torn tail is repaired, all else is named.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use store::fault::{Fault, Point};
use store::{Embedded, Options, Store, StoreError};

use super::{content, files, put};

fn newest_log(dir: &Path) -> PathBuf {
    files(dir, "log-").pop().expect("a log")
}

/// Opening fails with an error that names the file (and the place), and changes nothing.
fn must_name(dir: &Path, file: &Path, words: &str) {
    let all = |dir: &Path| -> Vec<_> {
        let files = files(dir, "").into_iter();
        files
            .map(|p| (std::fs::read(&p).expect("file"), p))
            .collect()
    };
    let before = all(dir);
    let opened = Embedded::open(dir, Options::default()).map(drop);
    let name = file.display().to_string();
    assert!(
        matches!(&opened, Err(StoreError::Corrupt(why)) if why.contains(&name) && why.contains(words)),
        "{name}, {words}: {opened:?}"
    );
    assert!(all(dir) == before, "opening has changed a file");
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_at_every_length() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Embedded::open(dir.path(), Options::default()).expect("open");
    store.commit(put("a", "1")).await.expect("put");
    let whole = std::fs::metadata(newest_log(dir.path()))
        .expect("log")
        .len();
    store.commit(put("b", "2")).await.expect("put");
    store.close();
    let log = std::fs::read(newest_log(dir.path())).expect("log");
    for length in whole..log.len() as u64 {
        std::fs::write(newest_log(dir.path()), &log[..length as usize]).expect("tear");
        let store = Embedded::open(dir.path(), Options::default()).expect("open");
        assert_eq!(content(&store).await.len(), 1, "torn at {length}");
        store.commit(put("c", "3")).await.expect("it goes on");
        store.close();
    }
}

#[tokio::test]
async fn damage_in_the_middle_is_named() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Embedded::open(dir.path(), Options::default()).expect("open");
    store.commit(put("a", "1")).await.expect("put");
    let first = std::fs::metadata(newest_log(dir.path()))
        .expect("log")
        .len();
    store.commit(put("b", "2")).await.expect("put");
    store.close();
    let path = newest_log(dir.path());
    let log = std::fs::read(&path).expect("log");
    for at in 8..first as usize {
        let mut damaged = log.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).expect("damage");
        must_name(dir.path(), &path, "at offset 8:");
    }
    for at in 0..8 {
        let mut damaged = log.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).expect("damage");
        must_name(dir.path(), &path, "at offset 0:");
    }
}

/// A log of several segments, since no snapshot could be written.
async fn segments(dir: &Path) -> Vec<PathBuf> {
    let options = Options {
        faults: Arc::new(|point| match point {
            Point::MidSnapshot => Fault::NoSpace,
            _ => Fault::None,
        }),
        segment_bytes: 300,
        ..Options::default()
    };
    let store = Embedded::open(dir, options).expect("open");
    for n in 0..60 {
        store
            .commit(put(&n.to_string(), "value"))
            .await
            .expect("put");
    }
    store.close();
    let found = files(dir, "log-");
    assert!(found.len() > 3, "{found:?}");
    assert!(files(dir, "snapshot-").is_empty(), "no half of a snapshot");
    found
}

#[tokio::test]
async fn every_segment_but_the_last_must_be_whole_and_there() {
    let dir = tempfile::tempdir().expect("dir");
    let found = segments(dir.path()).await;
    for path in &found[..2] {
        let good = std::fs::read(path).expect("log");
        for at in 0..good.len() {
            let mut damaged = good.clone();
            damaged[at] ^= 1;
            std::fs::write(path, &damaged).expect("damage");
            must_name(dir.path(), path, "at offset");
            std::fs::write(path, &good[..at]).expect("damage");
            let opened = Embedded::open(dir.path(), Options::default()).map(drop);
            assert!(
                matches!(opened, Err(StoreError::Corrupt(_))),
                "cut at {at}: {opened:?}"
            );
        }
        std::fs::remove_file(path).expect("remove");
        let next = &found[found.iter().position(|p| p == path).expect("it") + 1];
        must_name(dir.path(), next, "are missing");
        std::fs::write(path, &good).expect("repair");
    }
    let store = Embedded::open(dir.path(), Options::default()).expect("all is well again");
    assert_eq!(content(&store).await.len(), 60);
}

#[tokio::test]
async fn a_segment_that_could_not_be_begun_does_not_hide_a_torn_tail() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Embedded::open(dir.path(), Options::default()).expect("open");
    for n in 0..3 {
        store
            .commit(put(&n.to_string(), "value"))
            .await
            .expect("put");
    }
    store.close();
    let path = newest_log(dir.path());
    let good = std::fs::read(&path).expect("log");
    // Made after the second write, when the disk was full; the log went on in its segment.
    let begun = dir.path().join(format!("log-{:020}", 3));
    for (length, magic) in [(0, 0), (0, 8), (7, 0), (7, 8)] {
        std::fs::write(&path, &good[..good.len() - length]).expect("tear");
        std::fs::write(&begun, &good[..magic]).expect("begin");
        let store = Embedded::open(dir.path(), Options::default()).expect("open");
        let expected = if length == 0 { 3 } else { 2 };
        assert_eq!(content(&store).await.len(), expected);
        store.commit(put("next", "value")).await.expect("put");
        store.close();
        let store = Embedded::open(dir.path(), Options::default()).expect("open");
        assert_eq!(content(&store).await.len(), expected + 1);
        store.close();
    }
    // But what was whole when the next segment was begun must still be.
    let after = dir.path().join(format!("log-{:020}", 4));
    std::fs::write(&path, &good[..good.len() - 1]).expect("damage");
    std::fs::remove_file(&begun).ok();
    std::fs::write(&after, &good[..8]).expect("begin");
    must_name(dir.path(), &after, "revisions from 3 on are missing");
}

#[tokio::test]
async fn a_damaged_snapshot_is_named_and_so_is_a_log_that_is_gone() {
    let dir = tempfile::tempdir().expect("dir");
    let options = Options {
        segment_bytes: 300,
        ..Options::default()
    };
    let store = Embedded::open(dir.path(), options).expect("open");
    for n in 0..20 {
        store
            .commit(put(&(n % 5).to_string(), "value"))
            .await
            .expect("put");
    }
    store.close();
    std::fs::write(dir.path().join("snapshot-7.new"), "cut off").expect("leave");
    let path = files(dir.path(), "snapshot-0").pop().expect("a snapshot");
    Embedded::open(dir.path(), Options::default())
        .expect("open")
        .close();
    assert!(files(dir.path(), "snapshot-7").is_empty(), "removed");
    let good = std::fs::read(&path).expect("snapshot");
    for at in 0..good.len() {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).expect("damage");
        must_name(dir.path(), &path, "at offset");
        std::fs::write(&path, &good[..at]).expect("damage");
        must_name(dir.path(), &path, "at offset");
    }
    std::fs::write(&path, &good).expect("repair");
    for log in files(dir.path(), "log-") {
        std::fs::remove_file(log).expect("remove");
    }
    must_name(dir.path(), &path, "missing");
}
