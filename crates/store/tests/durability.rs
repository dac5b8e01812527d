//! What the embedded engine keeps when the disk or the machine fails: every acknowledged write,
//! no half of an unacknowledged one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;
use store::fault::{Fault, Point};
use store::{Compare, Embedded, Op, Options, Outcome, Store, StoreError, Txn};

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
    let again = Embedded::open(dir.path(), small_segments()).expect("open again");
    assert_eq!(content(&again).await, before);
    assert_eq!(again.revision().await.expect("revision"), revision);
    assert_eq!(again.get(bytes("k9"), 0).await.expect("get"), one);
    let files = std::fs::read_dir(dir.path()).expect("dir").count();
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

fn newest_log(dir: &Path) -> std::path::PathBuf {
    let mut logs: Vec<_> = std::fs::read_dir(dir)
        .expect("dir")
        .map(|e| e.expect("entry").path())
        .filter(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("log-"))
        })
        .collect();
    logs.sort();
    logs.pop().expect("a log")
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
    let log = std::fs::read(newest_log(dir.path())).expect("log");
    for at in 8..first as usize {
        let mut damaged = log.clone();
        damaged[at] ^= 1;
        std::fs::write(newest_log(dir.path()), &damaged).expect("damage");
        let opened = Embedded::open(dir.path(), Options::default()).map(drop);
        assert!(
            matches!(&opened, Err(StoreError::Corrupt(why)) if why.contains("log-")),
            "at {at}: {opened:?}"
        );
    }
}

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
async fn a_crash_at_any_point_loses_no_acknowledged_write() {
    let points = [
        Point::BeforeWrite,
        Point::MidWrite,
        Point::BeforeSync,
        Point::AfterSync,
        Point::MidRotation,
        Point::MidSnapshot,
    ];
    for (i, point) in points.into_iter().cycle().take(60).enumerate() {
        let dir = tempfile::tempdir().expect("dir");
        let passed = Arc::new(AtomicU32::new(0));
        let at = u32::try_from(i / points.len()).expect("small") * 7;
        let faults = move |now| {
            let hit = now == point
                && passed.fetch_add(1, Ordering::SeqCst)
                    >= at.min(
                        if matches!(point, Point::MidRotation | Point::MidSnapshot) {
                            1
                        } else {
                            u32::MAX
                        },
                    );
            if hit { Fault::Crash } else { Fault::None }
        };
        let options = Options {
            faults: Arc::new(faults),
            segment_bytes: 512,
            ..Options::default()
        };
        let store = Embedded::open(dir.path(), options).expect("open");
        let mut acknowledged = BTreeMap::new();
        let mut unknown = None;
        for n in 0..100 {
            let (key, value) = (format!("k{}", n % 9), format!("value {n} of some length"));
            match store.commit(put(&key, &value)).await {
                Ok(_) => drop(acknowledged.insert(bytes(&key), bytes(&value))),
                Err(_) => {
                    unknown = Some((bytes(&key), bytes(&value)));
                    break;
                }
            }
        }
        store.close();
        let again = Embedded::open(dir.path(), Options::default())
            .unwrap_or_else(|e| panic!("{point:?}: {e}"));
        let mut found = content(&again).await;
        if let Some((key, value)) = unknown
            && found.get(&key) == Some(&value)
        {
            // It may have become durable before its writer learned of it: whole, never half.
            acknowledged.insert(key, value);
        }
        assert_eq!(
            std::mem::take(&mut found),
            acknowledged,
            "{point:?} after {at}"
        );
    }
}

static CLOCK: AtomicI64 = AtomicI64::new(1_000);

#[tokio::test]
async fn values_expire_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let clock: fn() -> i64 = || CLOCK.load(Ordering::SeqCst);
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
    let gone = watch.next().await.expect("a batch").expect("no error");
    assert_eq!(gone.events[0].kv.key, bytes("e"));
    assert_eq!(
        content(&store).await.into_keys().collect::<Vec<_>>(),
        ["kept", "tick"]
    );
}

/// Counts the kills: short in the everyday run, many in the soak.
fn kills() -> u32 {
    if std::env::var_os("TIPHYS_SOAK").is_some() {
        300
    } else {
        12
    }
}

const CHILD: &str = "TIPHYS_STORE_TEST_CHILD";

/// Run as a child: writes forever and prints each acknowledged number.
#[tokio::test]
async fn child_that_writes() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let store = Embedded::open(
        Path::new(&dir),
        Options {
            segment_bytes: 16 << 10,
            ..Options::default()
        },
    )
    .expect("open");
    let first = content(&store).await.len();
    for n in first.. {
        let key = format!("{n:09}");
        let guard = Compare::ModRevision(bytes(&key), 0);
        let txn = Txn {
            compare: vec![guard],
            ..put(&key, &format!("value of {n}"))
        };
        let outcome = store.commit(txn).await.expect("put");
        assert!(matches!(outcome, Outcome::Committed(_)));
        println!("acknowledged {n}");
    }
}

#[tokio::test]
async fn kill_9_loses_no_acknowledged_write() {
    let dir = tempfile::tempdir().expect("dir");
    for kill in 0..kills() {
        let mut child = Command::new(std::env::current_exe().expect("own binary"))
            .args(["--exact", "child_that_writes", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("child");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        // A different moment each time: after so many acknowledgements.
        let wanted = 5 + (kill as usize * 37) % 90;
        let mut last = None;
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some(n) = line.split("acknowledged ").nth(1) {
                last = n.trim().parse::<usize>().ok();
            }
            if last.is_some_and(|n| n % 100 >= wanted) {
                break;
            }
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        for line in lines.map_while(Result::ok) {
            // A last line may be torn by the kill.
            if let Some(n) = line
                .strip_prefix("acknowledged ")
                .and_then(|n| n.parse().ok())
            {
                last = last.max(Some(n));
            }
        }
        let store = Embedded::open(dir.path(), Options::default()).expect("open after a kill");
        let found = content(&store).await;
        let last = last.expect("something was acknowledged");
        assert!(
            found.len() > last,
            "acknowledged {last}, found {}",
            found.len()
        );
        for (i, (key, value)) in found.iter().enumerate() {
            assert_eq!(
                (key, value),
                (&bytes(&format!("{i:09}")), &bytes(&format!("value of {i}")))
            );
        }
        store.close();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16),
    Delete(u8),
    Create(u8, u16),
    Reopen,
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6u8, any::<u16>()).prop_map(|(k, v)| Step::Put(k, v)),
        2 => (0..6u8).prop_map(Step::Delete),
        2 => (0..6u8, any::<u16>()).prop_map(|(k, v)| Step::Create(k, v)),
        1 => Just(Step::Reopen),
        1 => Just(Step::Compact),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn it_behaves_as_a_map(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let dir = tempfile::tempdir().expect("dir");
            let options = || Options { segment_bytes: 300, ..Options::default() };
            let mut store = Embedded::open(dir.path(), options()).expect("open");
            let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put(k, v) => {
                        store.commit(put(&k.to_string(), &v.to_string())).await.expect("put");
                        model.insert(bytes(&k.to_string()), bytes(&v.to_string()));
                    }
                    Step::Delete(k) => {
                        let ops = vec![Op::Delete { key: bytes(&k.to_string()) }];
                        store.commit(Txn { compare: vec![], ops }).await.expect("delete");
                        model.remove(&bytes(&k.to_string()));
                    }
                    Step::Create(k, v) => {
                        let key = bytes(&k.to_string());
                        let compare = vec![Compare::ModRevision(key.clone(), 0)];
                        let outcome = store.commit(Txn { compare, ..put(&k.to_string(), &v.to_string()) }).await.expect("create");
                        assert_eq!(matches!(outcome, Outcome::Committed(_)), !model.contains_key(&key));
                        model.entry(key).or_insert_with(|| bytes(&v.to_string()));
                    }
                    Step::Reopen => {
                        store.close();
                        store = Embedded::open(dir.path(), options()).expect("reopen");
                    }
                    Step::Compact => {
                        let now = store.revision().await.expect("revision");
                        if now > 0 {
                            store.compact(now).await.expect("compact");
                        }
                    }
                }
                assert_eq!(content(&store).await, model);
            }
        });
    }
}
