//! Disks that are full or fail.

use std::ffi::CStr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures::StreamExt;
use rustix::mount::{MountFlags, UnmountFlags};
use store::fault::{Fault, Point};
use store::{Embedded, Options, Store, StoreError};

use super::{bytes, content, files, put};

#[tokio::test]
async fn no_space_refuses_writes_until_there_is_some() {
    let dir = tempfile::tempdir().expect("dir");
    let full = Arc::new(AtomicU32::new(0));
    let seen = full.clone();
    let faults = move |point| match point {
        Point::MidWrite if seen.load(Ordering::SeqCst) > 0 => Fault::NoSpace,
        _ => Fault::None,
    };
    let options = Options {
        faults: Arc::new(faults),
        ..Options::default()
    };
    let store = Embedded::open(dir.path(), options).expect("open");
    store.commit(put("a", "1")).await.expect("put");
    full.store(1, Ordering::SeqCst);
    assert!(matches!(
        store.commit(put("b", "2")).await,
        Err(StoreError::NoSpace(_))
    ));
    assert_eq!(content(&store).await.len(), 1, "reads go on");
    full.store(0, Ordering::SeqCst);
    store.commit(put("c", "3")).await.expect("space is back");
    store.close();
    let again = Embedded::open(dir.path(), Options::default()).expect("open");
    assert_eq!(
        content(&again).await.into_keys().collect::<Vec<_>>(),
        ["a", "c"]
    );
}

#[tokio::test]
async fn no_space_for_segments_and_snapshots_stops_no_write() {
    let dir = tempfile::tempdir().expect("dir");
    let full = Arc::new(AtomicBool::new(true));
    let seen = full.clone();
    let options = Options {
        segment_bytes: 400,
        faults: Arc::new(move |point| match point {
            Point::MidRotation | Point::MidSnapshot if seen.load(Ordering::SeqCst) => {
                Fault::NoSpace
            }
            _ => Fault::None,
        }),
        ..Options::default()
    };
    // A new store needs its first segment.
    Embedded::open(dir.path(), Options::default())
        .expect("open")
        .close();
    let store = Embedded::open(dir.path(), options).expect("open");
    for n in 0..50 {
        let key = (n % 7).to_string();
        store.commit(put(&key, "value")).await.expect("put");
    }
    // The last try to begin one comes after the answer.
    while files(dir.path(), "log-").len() > 1 {
        tokio::task::yield_now().await;
    }
    full.store(false, Ordering::SeqCst);
    for n in 0..50 {
        let key = (n % 7).to_string();
        store.commit(put(&key, "newer")).await.expect("put");
    }
    store.close();
    assert_eq!(files(dir.path(), "snapshot-").len(), 1);
    let again = Embedded::open(dir.path(), Options::default()).expect("open");
    assert_eq!(content(&again).await.len(), 7);
    assert_eq!(again.revision().await.expect("revision"), 100);
}

#[tokio::test]
async fn a_failed_sync_is_the_end_of_writing_and_not_of_reading() {
    let dir = tempfile::tempdir().expect("dir");
    let syncs = Arc::new(AtomicU32::new(0));
    let options = Options {
        faults: Arc::new(move |point| match point {
            Point::BeforeSync if syncs.fetch_add(1, Ordering::SeqCst) == 2 => Fault::Crash,
            _ => Fault::None,
        }),
        ..Options::default()
    };
    let store = Embedded::open(dir.path(), options).expect("open");
    for key in ["a", "b"] {
        store.commit(put(key, "1")).await.expect("put");
    }
    let failed = store.commit(put("c", "1")).await;
    assert!(matches!(failed, Err(StoreError::Unknown(_))), "{failed:?}");
    // The disk would sync again; what it kept of the failed group, nobody knows.
    for _ in 0..3 {
        let later = store.commit(put("d", "1")).await;
        assert!(
            matches!(&later, Err(StoreError::Unavailable(why)) if why.contains("opened again")),
            "{later:?}"
        );
    }
    assert_eq!(content(&store).await.len(), 2, "reads go on");
    assert_eq!(store.revision().await.expect("revision"), 2);
    store.close();
    let again = Embedded::open(dir.path(), Options::default()).expect("open");
    let found: Vec<_> = content(&again).await.into_keys().collect();
    assert!(found == ["a", "b"] || found == ["a", "b", "c"], "{found:?}");
    again.commit(put("d", "1")).await.expect("put");
}

/// A small file system of the test's own; it goes with the value.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(size: &CStr) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, size).expect("mount");
        Self(dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH).expect("unmount");
    }
}

#[tokio::test]
async fn a_disk_that_is_really_full_refuses_writes_until_there_is_space() {
    if !rustix::process::geteuid().is_root() {
        // Mounting needs a namespace of one's own.
        let status = Command::new("unshare")
            .args(["--map-root-user", "--mount", "--"])
            .arg(std::env::current_exe().expect("own binary"))
            .args([
                "--exact",
                "full::a_disk_that_is_really_full_refuses_writes_until_there_is_space",
            ])
            .status();
        assert!(status.expect("unshare").success());
        return;
    }
    let disk = Disk::of(c"size=1m");
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 300 << 10]).expect("ballast");
    let dir = disk.0.path().join("store");
    let options = || Options {
        segment_bytes: 100 << 10,
        ..Options::default()
    };
    let store = Embedded::open(&dir, options()).expect("open");
    let mut watch = store.watch(bytes(""), 0).await.expect("watch");
    let value = "x".repeat(5_000);
    let mut written = Vec::new();
    let mut refusals = 0;
    // A snapshot that ends, or is given up, may give some space back.
    while refusals < 5 {
        let key = format!("{:04}", written.len());
        match store.commit(put(&key, &value)).await {
            Ok(_) => {
                written.push(bytes(&key));
                refusals = 0;
            }
            Err(StoreError::NoSpace(_)) => refusals += 1,
            Err(e) => panic!("{e}"),
        }
        assert!(written.len() < 1000, "the disk is never full");
    }
    let keys = async |store: &Embedded| -> Vec<_> { content(store).await.into_keys().collect() };
    assert_eq!(keys(&store).await, written, "reads go on");
    let mut shown = 0;
    while shown < written.len() as u64 {
        let batch = watch.next().await.expect("a batch").expect("no error");
        shown = batch.revision;
    }
    // Opening needs no space.
    store.close();
    let store = Embedded::open(&dir, options()).expect("open on a full disk");
    assert_eq!(keys(&store).await, written);
    std::fs::remove_file(&ballast).expect("free");
    for n in 0..20 {
        store
            .commit(put("z", &n.to_string()))
            .await
            .expect("it goes on by itself");
    }
    written.push(bytes("z"));
    store.close();
    let store = Embedded::open(&dir, options()).expect("open");
    assert_eq!(keys(&store).await, written);
}
