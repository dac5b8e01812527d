//! Processes that are killed while they write: at random moments, and at points of the write path.
//! What was acknowledged is there, what was not is there whole or not at all.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use store::fault::{Fault, Point};
use store::{Compare, Embedded, Op, Options, Outcome, Store, Txn};

use super::{bytes, content, put};

#[tokio::test]
async fn a_crash_at_any_point_loses_no_acknowledged_write() {
    for (i, point) in POINTS.into_iter().cycle().take(60).enumerate() {
        let dir = tempfile::tempdir().expect("dir");
        let passed = Arc::new(AtomicU32::new(0));
        let at = u32::try_from(i / POINTS.len()).expect("small") * 7;
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
        // A new store needs its first segment.
        let first = Embedded::open(dir.path(), Options::default()).expect("open");
        first.close();
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

/// Kills in all: short in the everyday run, many in the soak.
fn kills() -> usize {
    if std::env::var_os("TIPHYS_SOAK").is_some() {
        360
    } else {
        24
    }
}

const DIR: &str = "TIPHYS_STORE_TEST_DIR";
/// A point, and how often it is passed before it kills.
const KILL_AT: &str = "TIPHYS_STORE_TEST_KILL_AT";

const POINTS: [Point; 6] = [
    Point::BeforeWrite,
    Point::MidWrite,
    Point::BeforeSync,
    Point::AfterSync,
    Point::MidRotation,
    Point::MidSnapshot,
];
const WRITERS: usize = 4;
/// Keys of one writer that are there at once.
const KEPT: usize = 50;

/// Kills this very process at a point.
fn killer(kill_at: &str) -> store::fault::Faults {
    let (name, count) = kill_at.split_once(':').expect("point:count");
    let left = AtomicU32::new(count.parse().expect("number"));
    let point = POINTS.into_iter().find(|p| format!("{p:?}") == name);
    let point = point.expect("a point");
    Arc::new(move |now| {
        if now == point && left.fetch_sub(1, Ordering::SeqCst) == 0 {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("kill");
        }
        Fault::None
    })
}

/// One writer's next transaction: a new key, the number of the newest, and an old key's end.
fn next_txn(writer: usize, n: usize) -> Txn {
    let mut txn = put(&format!("{writer}/{n:09}"), &format!("value of {n}"));
    txn.ops
        .extend(put(&format!("{writer}/last"), &n.to_string()).ops);
    if n >= KEPT {
        let key = bytes(&format!("{writer}/{:09}", n - KEPT));
        txn.compare.push(Compare::Exists(key.clone()));
        txn.ops.push(Op::Delete { key });
    }
    txn
}

/// Where a writer is: the number of its newest transaction.
fn last(found: &BTreeMap<Bytes, Bytes>, writer: usize) -> Option<usize> {
    let value = found.get(&bytes(&format!("{writer}/last")))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Run as a child: writes for ever and prints what is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let kill_at = std::env::var(KILL_AT).ok();
    let options = Options {
        segment_bytes: 8 << 10,
        faults: kill_at.map_or_else(store::fault::none, |at| killer(&at)),
        ..Options::default()
    };
    let store = Embedded::open(Path::new(&dir), options).expect("open");
    let found = content(&store).await;
    let writers = (0..WRITERS).map(|writer| {
        let (store, first) = (store.clone(), last(&found, writer).map_or(0, |n| n + 1));
        tokio::spawn(async move {
            for n in first.. {
                let outcome = store.commit(next_txn(writer, n)).await.expect("put");
                assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
                println!("\nacknowledged {writer} {n}");
            }
        })
    });
    futures::future::join_all(writers).await;
}

fn child(dir: &Path, kill_at: Option<String>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("own binary"));
    command
        .args(["--exact", "kills::child_that_writes", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(at) = kill_at {
        command.env(KILL_AT, at);
    }
    command.spawn().expect("child")
}

/// Reads what a child acknowledges until it ends; kills it after `most` lines, if that is given.
fn acknowledged(
    child: &mut Child,
    most: Option<usize>,
    last: &mut [Option<usize>; WRITERS],
) -> usize {
    let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut count = 0;
    for line in lines.map_while(Result::ok) {
        let mut words = line.split(' ');
        // A last line may be torn by the kill.
        if let (Some("acknowledged"), Some(writer), Some(n)) =
            (words.next(), words.next(), words.next())
        {
            let writer: usize = writer.parse().expect("writer");
            last[writer] = last[writer].max(n.parse().ok());
            count += 1;
        }
        if most == Some(count) {
            child.kill().expect("kill");
        }
    }
    count
}

/// The store holds exactly what the acknowledged transactions leave, and of those without an
/// answer all or nothing.
async fn check(dir: &Path, acknowledged: &mut [Option<usize>; WRITERS], what: &str) {
    let store = Embedded::open(dir, Options::default())
        .unwrap_or_else(|e| panic!("open after {what}: {e}"));
    let found = content(&store).await;
    let mut expected = BTreeMap::new();
    for (writer, sure) in acknowledged.iter_mut().enumerate() {
        let now = last(&found, writer);
        let next = sure.map_or(0, |n| n + 1);
        assert!(
            now == *sure || now == Some(next),
            "{what}: writer {writer} was answered {sure:?}, and is at {now:?}"
        );
        if let Some(n) = now {
            expected.insert(bytes(&format!("{writer}/last")), bytes(&n.to_string()));
            for n in (n + 1).saturating_sub(KEPT)..=n {
                let key = bytes(&format!("{writer}/{n:09}"));
                expected.insert(key, bytes(&format!("value of {n}")));
            }
        }
        *sure = now;
    }
    assert!(
        found == expected,
        "{what}: {found:?}\nexpected {expected:?}"
    );
    store.close();
}

#[tokio::test]
async fn kills_at_random_moments_lose_no_acknowledged_write() {
    let dir = tempfile::tempdir().expect("dir");
    let mut last = [None; WRITERS];
    for kill in 0..kills() / 2 {
        let mut child = child(dir.path(), None);
        // A different moment each time: after so many acknowledgements.
        acknowledged(&mut child, Some(20 + (kill * 37) % 311), &mut last);
        child.wait().expect("wait");
        check(dir.path(), &mut last, &format!("kill {kill}")).await;
    }
}

#[tokio::test]
async fn kills_at_each_point_of_the_write_path_lose_no_acknowledged_write() {
    let dir = tempfile::tempdir().expect("dir");
    let mut last = [None; WRITERS];
    let mut written = 0;
    for kill in 0..kills() / 2 {
        let point = POINTS[kill % POINTS.len()];
        let round = kill / POINTS.len();
        let passes = match point {
            Point::MidRotation | Point::MidSnapshot => round % 5,
            _ => (round * 13 + kill) % 90,
        };
        let what = format!("{point:?}:{passes}");
        let mut child = child(dir.path(), Some(what.clone()));
        written += acknowledged(&mut child, None, &mut last);
        let status = child.wait().expect("wait");
        assert_eq!(status.signal(), Some(9), "{what} was reached");
        check(dir.path(), &mut last, &what).await;
    }
    assert!(written > 0, "something was acknowledged");
}
