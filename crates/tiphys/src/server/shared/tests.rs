//! Servers that make, join and are refused clusters, on an embedded store that stands for any.

use std::os::unix::fs::PermissionsExt;

use store::Embedded;

use super::*;

const NOW: i64 = 1_790_000_000;

struct Bench {
    dir: tempfile::TempDir,
    store: Embedded,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let store = Embedded::open(&dir.path().join("store"), store::Options::default());
        Self {
            store: store.expect("store"),
            dir,
        }
    }

    fn server(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).expect("dir");
        dir
    }

    async fn settle(&self, dir: &Path, token: Option<&Path>, adopt: bool) -> Result<String> {
        let terms = Terms {
            dir,
            token_file: token,
            adopt,
            now: NOW,
        };
        Ok(terms.settle(&self.store).await?.cluster_id)
    }

    async fn put(&self, key: &'static str) {
        let txn = Txn {
            compare: Vec::new(),
            ops: vec![Op::Put {
                key: key.into(),
                value: "x".into(),
                expires_after_seconds: None,
            }],
        };
        self.store.commit(txn).await.expect("put");
    }

    async fn revision(&self) -> u64 {
        self.store.revision().await.expect("revision")
    }
}

fn ca(dir: &Path) -> String {
    fs::read_to_string(dir.join("pki/ca.key")).expect("key")
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).expect("folder").count()
}

#[tokio::test]
async fn several_servers_get_the_same_keys() {
    let bench = Bench::new();
    let (one, two) = (bench.server("1"), bench.server("2"));
    let id = bench.settle(&one, None, false).await.expect("made");
    let token = one.join("server-token");
    assert_eq!(
        bench
            .settle(&two, Some(&token), false)
            .await
            .expect("joined"),
        id
    );
    assert_eq!(ca(&one), ca(&two));
    for file in FILES
        .map(|f| one.join("pki").join(f))
        .iter()
        .chain([&token])
    {
        let mode = fs::metadata(file).expect("file").permissions().mode() & 0o777;
        let expected = if file.ends_with("ca.crt") {
            0o644
        } else {
            0o600
        };
        assert_eq!(mode, expected, "{}", file.display());
    }
    let before = bench.revision().await;
    let again = bench.settle(&one, None, false).await.expect("again");
    assert_eq!((again, bench.revision().await), (id, before));
    let stored = bench
        .store
        .get(key(), 0)
        .await
        .expect("get")
        .expect("record");
    let stored = String::from_utf8_lossy(&stored.value).into_owned();
    assert!(!stored.contains("PRIVATE KEY"));
}

#[tokio::test]
async fn of_several_that_start_at_once_one_makes_the_cluster() {
    let bench = Bench::new();
    let token = bench.dir.path().join("token");
    pki::write_private(&token, wire::seal::new_token().as_bytes()).expect("token");
    let dirs = ["1", "2", "3"].map(|n| bench.server(n));
    let all = dirs.iter().map(|d| bench.settle(d, Some(&token), false));
    let ids: Vec<String> = futures::future::try_join_all(all).await.expect("all");
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert!(dirs.iter().all(|d| ca(d) == ca(&dirs[0])));
}

#[tokio::test]
async fn without_the_right_token_nothing_is_written() {
    let bench = Bench::new();
    let (one, two) = (bench.server("1"), bench.server("2"));
    bench.settle(&one, None, false).await.expect("made");
    let before = bench.revision().await;
    let missing = bench.settle(&two, None, false).await.expect_err("no token");
    assert!(
        missing.to_string().contains("needs its server token"),
        "{missing}"
    );
    let wrong = bench.dir.path().join("wrong");
    fs::write(&wrong, wire::seal::new_token()).expect("token");
    let refused = bench
        .settle(&two, Some(&wrong), false)
        .await
        .expect_err("wrong");
    assert!(
        refused.to_string().contains("is not that of the cluster"),
        "{refused}"
    );
    fs::write(&wrong, "short").expect("token");
    let short = bench
        .settle(&two, Some(&wrong), false)
        .await
        .expect_err("short");
    assert!(short.to_string().contains("too short"), "{short}");
    assert_eq!((bench.revision().await, files(&two)), (before, 0));
}

#[tokio::test]
async fn another_clusters_data_is_refused_and_foreign_data_only_adopted_when_asked() {
    let (first, second) = (Bench::new(), Bench::new());
    let (one, two) = (first.server("1"), second.server("2"));
    first.settle(&one, None, false).await.expect("made");
    second.settle(&two, None, false).await.expect("made");
    let error = second.settle(&one, None, false).await.expect_err("other");
    assert!(
        error.to_string().contains("belongs to the cluster"),
        "{error}"
    );

    let foreign = Bench::new();
    foreign.put("/registry/namespaces/default").await;
    let (three, before) = (foreign.server("3"), foreign.revision().await);
    let error = foreign
        .settle(&three, None, false)
        .await
        .expect_err("foreign");
    assert!(error.to_string().contains("--adopt-etcd"), "{error}");
    assert_eq!((foreign.revision().await, files(&three)), (before, 0));
    foreign.settle(&three, None, true).await.expect("adopted");
}

#[tokio::test]
async fn a_server_that_was_alone_takes_its_keys_along() {
    let bench = Bench::new();
    let dir = bench.server("1");
    let alone = Bundle::generate(NOW).expect("keys");
    alone.write(&dir).expect("write");
    let error = bench.settle(&dir, None, false).await.expect_err("empty");
    assert!(error.to_string().contains("snapshot save"), "{error}");
    bench.put("/registry/namespaces/default").await;
    bench.settle(&dir, None, true).await.expect("adopted");
    let other = bench.server("2");
    let token = dir.join("server-token");
    bench
        .settle(&other, Some(&token), false)
        .await
        .expect("joined");
    assert_eq!(ca(&other), alone.ca_key);
}

#[test]
fn every_case_is_decided() {
    let id = |s: &str| s.to_owned();
    let (a, b) = (StoreContents::Cluster(id("a")), Before::Cluster(id("b")));
    let cases = [
        (StoreContents::Nothing, Before::Nothing, true, true),
        (StoreContents::Nothing, Before::Alone, false, true),
        (StoreContents::Nothing, b.clone(), false, true),
        (StoreContents::Objects, Before::Nothing, false, true),
        (StoreContents::Objects, Before::Alone, false, true),
        (StoreContents::Objects, b.clone(), false, true),
        (a.clone(), Before::Nothing, true, true),
        (a.clone(), Before::Alone, false, false),
        (a.clone(), b, false, false),
        (a, Before::Cluster(id("a")), true, true),
    ];
    for (found, before, plain, adopting) in cases {
        assert_eq!(
            decide(&found, &before, false).is_ok(),
            plain,
            "{found:?} {before:?}"
        );
        assert_eq!(
            decide(&found, &before, true).is_ok(),
            adopting,
            "{found:?} {before:?}"
        );
    }
}
