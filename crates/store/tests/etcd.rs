//! What only a cluster of processes can do wrong: members die, hang, fill up, and refuse
//! certificates. Each test has an etcd of its own.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clock::Instant;

use bytes::Bytes;
use common::etcd::Cluster;
use common::pki::Pki;
use futures::StreamExt;
use rustix::process::Signal;
use store::{
    Compare, ConnectError, Etcd, EtcdConfig, EtcdTls, EventKind, Op, Outcome, Revision, Store,
    StoreError, Txn,
};

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

async fn commit(store: &Etcd, txn: Txn) -> Revision {
    match store.commit(txn).await.expect("commit") {
        Outcome::Committed(revision) => revision,
        Outcome::Refused(seen) => panic!("refused: {seen:?}"),
    }
}

/// Tries until it is acknowledged: for what a test needs, not for what it tests.
async fn commit_at_last(store: &Etcd, txn: &Txn) -> Revision {
    loop {
        if let Ok(Outcome::Committed(revision)) = store.commit(txn.clone()).await {
            return revision;
        }
    }
}

/// The same of a read: the members may choose a leader once more.
async fn read_at_last<T>(read: impl AsyncFn() -> Result<T, StoreError>) -> T {
    loop {
        match read().await {
            Err(StoreError::Unavailable(_)) => {}
            answered => return answered.expect("a read"),
        }
    }
}

/// What one writer knows in the end: of each of its keys the acknowledged value, and of writes
/// without an answer the value that may be there, too.
#[derive(Default)]
struct WriterRecord {
    acknowledged: BTreeMap<Bytes, Revision>,
    unknown: Vec<Bytes>,
    refused: Vec<Bytes>,
    longest_gap: Duration,
}

/// Creates one key after another until asked to stop; each key is tried once.
async fn create_many(store: Etcd, writer: usize, stop: Arc<AtomicBool>) -> WriterRecord {
    let mut known = WriterRecord::default();
    let mut last = Instant::now();
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let key = format!("c/{writer}/{n:06}");
        let guard = Compare::ModRevision(bytes(&key), 0);
        let txn = Txn {
            compare: vec![guard],
            ..put(&key, "made")
        };
        match store.commit(txn).await {
            Ok(Outcome::Committed(revision)) => {
                known.acknowledged.insert(bytes(&key), revision);
                known.longest_gap = known.longest_gap.max(last.elapsed());
                last = Instant::now();
            }
            Ok(Outcome::Refused(seen)) => panic!("{key} was never written before: {seen:?}"),
            Err(StoreError::Unknown(_)) => known.unknown.push(bytes(&key)),
            Err(StoreError::Unavailable(_)) => known.refused.push(bytes(&key)),
            Err(e) => panic!("{e}"),
        }
    }
    known
}

/// Counts one key up with compare-and-swap. Returns how often it is known to have done so, and
/// how often that is not known.
async fn count_up(store: Etcd, stop: Arc<AtomicBool>) -> (u64, u64) {
    let (mut sure, mut unsure) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        let Ok(Some(now)) = store.get(bytes("n"), 0).await else {
            continue;
        };
        let n: u64 = std::str::from_utf8(&now.value)
            .expect("text")
            .parse()
            .expect("number");
        let txn = Txn {
            compare: vec![Compare::ModRevision(bytes("n"), now.mod_revision)],
            ..put("n", &(n + 1).to_string())
        };
        match store.commit(txn).await {
            Ok(Outcome::Committed(_)) => sure += 1,
            Ok(Outcome::Refused(_)) => {}
            Err(StoreError::Unknown(_)) => unsure += 1,
            Err(_) => {}
        }
    }
    (sure, unsure)
}

/// Writes and watches while `disturb` hurts the cluster; then compares what was acknowledged,
/// what is there and what the watch has shown.
async fn nothing_is_lost_while(
    cluster: &mut Cluster,
    disturb: impl AsyncFnOnce(&mut Cluster, &Etcd),
) {
    let store = cluster.connect().await;
    let start = commit(&store, put("n", "0")).await;
    let watch = store.watch(bytes(""), start).await.expect("watch");
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|w| tokio::spawn(create_many(store.clone(), w, stop.clone())))
        .collect();
    let counters: Vec<_> = (0..2)
        .map(|_| tokio::spawn(count_up(store.clone(), stop.clone())))
        .collect();
    disturb(cluster, &store).await;
    // It works again, and goes on for a while.
    for n in 0..50 {
        commit_at_last(&store, &put("after", &n.to_string())).await;
    }
    stop.store(true, Ordering::SeqCst);
    let (mut sure, mut unsure) = (0, 0);
    for counter in counters {
        let (s, u) = counter.await.expect("counter");
        (sure, unsure) = (sure + s, unsure + u);
    }
    let mut known = Vec::new();
    for writer in writers {
        known.push(writer.await.expect("writer"));
    }
    let end = commit_at_last(&store, &put("end", "1")).await;
    let page = read_at_last(async || store.range(bytes(""), bytes(""), 0, end).await).await;
    let there: BTreeMap<_, _> = page
        .items
        .into_iter()
        .map(|kv| (kv.key.clone(), kv))
        .collect();
    for k in &known {
        for (key, revision) in &k.acknowledged {
            assert_eq!(there[key].create_revision, *revision, "{key:?}");
        }
        for key in &k.refused {
            assert!(!there.contains_key(key), "{key:?} was called not written");
        }
    }
    let counted: u64 = String::from_utf8_lossy(&there[&bytes("n")].value)
        .parse()
        .expect("number");
    assert!(
        (sure..=sure + unsure).contains(&counted),
        "counted {counted}, {sure} acknowledged, {unsure} unknown"
    );
    let shown = follow(watch, start, end).await;
    let values = there
        .iter()
        .map(|(key, kv)| (key.clone(), kv.value.clone()));
    let mut expected: BTreeMap<_, _> = values.collect();
    if !shown.contains_key(&bytes("n")) {
        expected.remove(&bytes("n"));
    }
    assert_eq!(shown, expected, "the watch has shown all that is there");
    let made: usize = known.iter().map(|k| k.acknowledged.len()).sum();
    let open: usize = known.iter().map(|k| k.unknown.len()).sum();
    let gap = known.iter().map(|k| k.longest_gap).max();
    println!("{made} creations, {open} unknown, {counted} counted, longest gap {gap:?}");
}

/// Reads a watch up to a revision: every revision once, in order; what its events add up to.
async fn follow(
    mut watch: store::WatchStream,
    start: Revision,
    end: Revision,
) -> BTreeMap<Bytes, Bytes> {
    let (mut at, mut model) = (start, BTreeMap::new());
    while at < end {
        let batch = watch.next().await.expect("a batch").expect("no error");
        assert_eq!(batch.revision, at + 1, "every revision, in order");
        assert!(!batch.events.is_empty());
        for event in batch.events {
            assert_eq!(event.kv.mod_revision, batch.revision);
            match event.kind {
                EventKind::Put => model.insert(event.kv.key, event.kv.value),
                EventKind::Delete => model.remove(&event.kv.key),
            };
        }
        at = batch.revision;
    }
    model
}

/// Lets writers do something in the present state.
async fn let_them_write(store: &Etcd, key: &str) {
    for n in 0..30 {
        commit_at_last(store, &put(key, &n.to_string())).await;
    }
}

fn rounds() -> usize {
    if std::env::var_os("TIPHYS_SOAK").is_some() {
        20
    } else {
        2
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leaders_lose_no_acknowledged_write() {
    let mut cluster = Cluster::start(3, &[]).await;
    nothing_is_lost_while(&mut cluster, async |cluster, store| {
        for _ in 0..rounds() {
            let_them_write(store, "before").await;
            let leader = cluster.leader(store).await;
            cluster.kill(leader);
            let_them_write(store, "without").await;
            cluster.launch(leader);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_leaders_lose_no_acknowledged_write() {
    let mut cluster = Cluster::start(3, &[]).await;
    nothing_is_lost_while(&mut cluster, async |cluster, store| {
        for _ in 0..rounds() {
            let_them_write(store, "before").await;
            let leader = cluster.leader(store).await;
            cluster.signal(leader, Signal::STOP);
            let_them_write(store, "without").await;
            cluster.signal(leader, Signal::CONT);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_there_are_errors_and_with_it_all_is_well() {
    let mut cluster = Cluster::start(3, &[]).await;
    let store = cluster.connect().await;
    let first = commit(&store, put("a", "1")).await;
    let mut watch = store.watch(bytes(""), first).await.expect("watch");
    cluster.kill(0);
    cluster.kill(1);
    let write = store.commit(put("a", "2")).await;
    assert!(
        matches!(
            write,
            Err(StoreError::Unavailable(_) | StoreError::Unknown(_))
        ),
        "{write:?}"
    );
    let read = store.get(bytes("a"), 0).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    let revision = store.revision().await;
    assert!(
        matches!(revision, Err(StoreError::Unavailable(_))),
        "{revision:?}"
    );
    let again = Etcd::connect(&cluster.config()).await.map(drop);
    assert!(matches!(again, Err(ConnectError::Unready(_))), "{again:?}");
    cluster.launch(1);
    let last = commit_at_last(&store, &put("a", "3")).await;
    let a = read_at_last(async || store.get(bytes("a"), 0).await).await;
    let a = a.expect("a");
    assert_eq!((a.value, a.mod_revision), (bytes("3"), last));
    let mut at = first;
    while at < last {
        let batch = watch.next().await.expect("a batch").expect("no error");
        assert_eq!(batch.revision, at + 1);
        at = batch.revision;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_over_a_restart_and_ends_when_its_place_is_compacted() {
    let mut cluster = Cluster::start(1, &[]).await;
    let store = cluster.connect().await;
    let first = commit(&store, put("a", "1")).await;
    let mut goes_on = store.watch(bytes("a"), first).await.expect("watch");
    let mut left_behind = store.watch(bytes("a"), first).await.expect("watch");
    let second = commit(&store, put("a", "2")).await;
    assert_eq!(
        goes_on.next().await.expect("some").expect("ok").revision,
        second
    );
    cluster.kill(0);
    cluster.launch(0);
    // A try without an answer may have been applied, too.
    commit_at_last(&store, &put("a", "3")).await;
    let fourth = commit(&store, put("a", "4")).await;
    for expected in second + 1..=fourth {
        let batch = goes_on.next().await.expect("some").expect("ok");
        assert_eq!((batch.revision, batch.events.len()), (expected, 1));
        let prev = batch.events[0].prev.as_ref().map(|kv| kv.mod_revision);
        assert_eq!(prev, Some(expected - 1));
    }
    store.compact(fourth).await.expect("compact");
    // It was not read since the restart: whatever it still has comes first, then the end.
    let mut at = first;
    let end = loop {
        match left_behind.next().await.expect("an error ends it") {
            Ok(batch) => {
                assert_eq!(batch.revision, at + 1);
                at = batch.revision;
            }
            Err(e) => break e,
        }
    };
    assert!(
        matches!(end, StoreError::Compacted { oldest, .. } if oldest == fourth),
        "{end:?}"
    );
    assert!(left_behind.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_up_quota_refuses_writes_until_space_is_given_back() {
    let quota = (8 << 20).to_string();
    let cluster = Cluster::start(1, &["--quota-backend-bytes", &quota]).await;
    let store = cluster.connect().await;
    let large = |n: usize| Op::Put {
        key: bytes(&format!("large/{n}")),
        value: vec![n as u8; 1 << 20].into(),
        expires_after_seconds: None,
    };
    // The write that crosses the quota may be applied though it is refused: its answer says so.
    let (mut written, mut open) = (0, 0);
    let full = loop {
        let txn = Txn {
            compare: Vec::new(),
            ops: vec![large(written + open)],
        };
        match store.commit(txn).await {
            Ok(_) => written += 1,
            Err(StoreError::Unknown(_)) => open += 1,
            Err(e) => break e,
        }
        assert!(written + open < 100, "the quota is never used up");
    };
    assert!(matches!(full, StoreError::NoSpace(_)), "{full:?}");
    let small = store.commit(put("small", "1")).await;
    assert!(matches!(small, Err(StoreError::NoSpace(_))), "{small:?}");
    let leased = Op::Put {
        key: bytes("leased"),
        value: bytes("1"),
        expires_after_seconds: Some(60),
    };
    let txn = Txn {
        compare: vec![],
        ops: vec![leased],
    };
    let leased = store.commit(txn).await;
    assert!(matches!(leased, Err(StoreError::NoSpace(_))), "{leased:?}");
    let page = store
        .range(bytes("large/"), bytes(""), 0, 0)
        .await
        .expect("reads go on");
    let there = page.items.len();
    assert!((written..=written + open).contains(&there), "{there}");
    // Deleting is still possible, and is how space comes back.
    let ops = page
        .items
        .into_iter()
        .map(|kv| Op::Delete { key: kv.key })
        .collect();
    let gone = commit(
        &store,
        Txn {
            compare: vec![],
            ops,
        },
    )
    .await;
    store.compact(gone).await.expect("compact");
    loop {
        // Compaction runs beside; a defragmentation before it gives nothing back.
        store.reclaim_space().await.expect("reclaim");
        match store.commit(put("small", "2")).await {
            Ok(_) => break,
            Err(StoreError::NoSpace(_)) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_above_the_limit_is_named_and_one_below_is_taken() {
    let cluster = Cluster::start(1, &[]).await;
    let store = cluster.connect().await;
    let of = |length: usize| Txn {
        compare: vec![],
        ops: vec![Op::Put {
            key: bytes("a"),
            value: vec![1; length].into(),
            expires_after_seconds: None,
        }],
    };
    commit(&store, of((1536 << 10) - 1024)).await;
    for length in [1536 << 10, 2 << 20, 8 << 20] {
        let refused = store.commit(of(length)).await;
        assert!(
            matches!(refused, Err(StoreError::TooLarge { bytes, limit }) if bytes > limit),
            "{length}: {refused:?}"
        );
    }
    let many = (0..200).map(|n| Op::Delete {
        key: bytes(&n.to_string()),
    });
    let refused = store
        .commit(Txn {
            compare: vec![],
            ops: many.collect(),
        })
        .await;
    assert!(
        matches!(refused, Err(StoreError::Invalid(_))),
        "{refused:?}"
    );
}

async fn refusal(config: &EtcdConfig) -> ConnectError {
    match Etcd::connect(config).await {
        Ok(_) => panic!("connected with {config:?}"),
        Err(e) => {
            println!("{e}");
            e
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_connection_has_its_own_error() {
    let cluster = Cluster::start(1, &[]).await;
    let good = cluster.config();
    let ours = good.tls.clone().expect("TLS");
    let theirs = Pki::new("another CA").client();
    let with = |tls: EtcdTls| EtcdConfig {
        tls: Some(tls),
        ..good.clone()
    };
    let untrusted = refusal(&with(EtcdTls {
        ca: theirs.ca.clone(),
        ..ours.clone()
    }))
    .await;
    assert!(matches!(untrusted, ConnectError::Certificate { .. }));
    let unknown = refusal(&with(EtcdTls {
        ca: ours.ca.clone(),
        ..theirs.clone()
    }))
    .await;
    assert!(matches!(unknown, ConnectError::Certificate { .. }));
    let no_pem = refusal(&with(EtcdTls {
        ca: b"no certificate".to_vec(),
        ..ours.clone()
    }))
    .await;
    assert!(
        matches!(
            no_pem,
            ConnectError::Invalid(_) | ConnectError::Certificate { .. }
        ),
        "{no_pem:?}"
    );
    let plain = EtcdConfig {
        endpoints: vec![good.endpoints[0].replace("https", "http")],
        tls: None,
    };
    let plain = refusal(&plain).await;
    assert!(matches!(plain, ConnectError::NotEtcd { .. }), "{plain:?}");
    let to = |endpoint: String| EtcdConfig {
        endpoints: vec![endpoint],
        ..good.clone()
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let address = listener.local_addr().expect("address");
    #[expect(clippy::disallowed_methods, reason = "a peer that is not ours")]
    std::thread::spawn(move || {
        use std::io::Write;
        for stream in listener.incoming() {
            // The client may be gone already.
            let _ = stream.and_then(|mut s| s.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    let foreign = refusal(&to(format!("https://{address}"))).await;
    assert!(
        matches!(foreign, ConnectError::NotEtcd { .. }),
        "{foreign:?}"
    );
    // Nobody listens on port 1, and the kernel gives it to nobody.
    let down = refusal(&to("https://127.0.0.1:1".into())).await;
    assert!(matches!(down, ConnectError::Unreachable(_)), "{down:?}");
    let no_scheme = refusal(&to("not a url at all".into())).await;
    assert!(matches!(no_scheme, ConnectError::Invalid(_)));
    let none = EtcdConfig {
        endpoints: vec![],
        tls: None,
    };
    assert!(matches!(refusal(&none).await, ConnectError::Invalid(_)));
    let bare = EtcdConfig {
        tls: None,
        ..good.clone()
    };
    assert!(matches!(refusal(&bare).await, ConnectError::Invalid(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_two_clusters_are_not_one_store() {
    let one = Cluster::start(1, &[]).await;
    let other = Cluster::start_with(one.pki().clone(), 1, &[]).await;
    let (a, b) = (one.connect().await, other.connect().await);
    assert_ne!(a.cluster_id(), b.cluster_id());
    let both = EtcdConfig {
        endpoints: [one.endpoints(), other.endpoints()].concat(),
        ..one.config()
    };
    let mixed = refusal(&both).await;
    assert!(
        matches!(mixed, ConnectError::DifferentClusters { .. }),
        "{mixed:?}"
    );
}
