//! What clients are answered when the store fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apiserver::{ApiServer, UserInfo};
use futures::future::BoxFuture;
use http::Method;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::{Value, json};
use store::{Layer, Outcome, Result, Revision, Store, StoreError, Txn};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::common::memory::Checked;
use crate::common::{JSON, ask, get, post, request};
use crate::stores::etcd::Cluster;
use crate::test_store::{TestStore, until};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A store that fails as it is asked to.
struct Faulty {
    inner: Arc<Checked>,
    writes: Mutex<Option<StoreError>>,
    reads: Mutex<Option<StoreError>>,
    set_back_to: Mutex<Option<Revision>>,
}

impl Layer for Faulty {
    fn below(&self) -> &dyn Store {
        &*self.inner
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        match self.writes.lock().clone() {
            None => self.below().commit(txn),
            Some(e) => Box::pin(std::future::ready(Err(e))),
        }
    }
    fn revision(&self) -> BoxFuture<'_, Result<Revision>> {
        if let Some(revision) = *self.set_back_to.lock() {
            return Box::pin(std::future::ready(Ok(revision)));
        }
        match self.reads.lock().clone() {
            None => self.below().revision(),
            Some(e) => Box::pin(std::future::ready(Err(e))),
        }
    }
}

async fn server() -> (Arc<Faulty>, ApiServer) {
    server_of(crate::common::open_config()).await
}

async fn server_of(config: apiserver::Config) -> (Arc<Faulty>, ApiServer) {
    let store = Arc::new(Faulty {
        inner: Checked::new(),
        writes: Mutex::default(),
        reads: Mutex::default(),
        set_back_to: Mutex::default(),
    });
    let server = ApiServer::new(config, store.clone(), CancellationToken::new())
        .await
        .expect("the store is readable");
    server.bootstrap().await.expect("first objects");
    (store, server)
}

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } })
}

#[tokio::test]
async fn each_failure_of_a_write_has_its_answer() {
    let (store, server) = server().await;
    let secret = || "of the machine".to_owned();
    for (error, code, reason) in [
        (StoreError::Unknown(secret()), 504, json!("Timeout")),
        (
            StoreError::Unavailable(secret()),
            503,
            json!("ServiceUnavailable"),
        ),
        (StoreError::NoSpace(secret()), 500, Value::Null),
        (
            StoreError::TooLarge { bytes: 9, limit: 8 },
            413,
            json!("RequestEntityTooLarge"),
        ),
        (StoreError::Invalid(secret()), 500, json!("InternalError")),
        (StoreError::Corrupt(secret()), 500, json!("InternalError")),
    ] {
        *store.writes.lock() = Some(error.clone());
        let (got, status) = post(&server, MAPS, map("m")).await;
        assert_eq!(
            (got, &status["reason"]),
            (code, &reason),
            "{error} {status}"
        );
        assert_eq!(status["status"], "Failure");
        assert!(!status.to_string().contains(&secret()), "{status}");
        // Clients that are asked to try again do so many times before they say anything.
        assert!(status["details"]["retryAfterSeconds"].is_null(), "{status}");
    }
    // Reads went on, and nothing half made is left.
    *store.writes.lock() = None;
    assert_eq!(get(&server, &format!("{MAPS}/m")).await.0, 404);
    assert_eq!(post(&server, MAPS, map("m")).await.0, 201);
}

#[tokio::test]
async fn readiness_names_the_store() {
    let (store, server) = server().await;
    let (code, text) = get(&server, "/readyz?verbose").await;
    assert_eq!(code, 200, "{text}");
    assert!(
        text.as_str().is_some_and(|t| t.contains("[+]etcd ok")),
        "{text}"
    );
    *store.reads.lock() = Some(StoreError::Unavailable("of the machine".into()));
    let (code, text) = get(&server, "/readyz?verbose").await;
    assert_eq!(code, 500, "{text}");
    let text = text.as_str().unwrap_or_default();
    assert!(
        text.contains("[-]etcd failed") && text.contains("[+]ping ok"),
        "{text}"
    );
    let (code, text) = get(&server, "/readyz/etcd").await;
    assert_eq!(code, 500, "{text}");
    // A read that must be new says so; one that need not be goes on.
    let (code, status) = get(&server, MAPS).await;
    assert_eq!(
        (code, &status["reason"]),
        (503, &json!("ServiceUnavailable"))
    );
    assert_eq!(
        get(&server, &format!("{MAPS}?resourceVersion=0")).await.0,
        200
    );
    *store.reads.lock() = None;
    assert_eq!(get(&server, "/readyz").await.0, 200);
    // A backup was put in its place: what the server knows is no longer so.
    *store.set_back_to.lock() = Some(3);
    let (code, text) = get(&server, "/readyz/etcd").await;
    assert_eq!(code, 500);
    assert!(
        text.as_str().is_some_and(|t| t.contains("set back")),
        "{text}"
    );
    assert_eq!(get(&server, MAPS).await.0, 503);
}

/// Neither an object nor a token is refused for what the store alone can say.
#[tokio::test]
async fn what_a_silent_store_may_hold_is_not_called_missing() {
    let mut config = crate::common::open_config();
    config.admission = apiserver::admission::standard(&Default::default());
    config.authenticators = apiserver::filters::authenticators();
    let (store, server) = server_of(config).await;
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": { "token": "abcdef.0123456789abcdef" },
    });
    let asked = [
        ("/api/v1/namespaces/none/configmaps", map("m"), 404),
        ("/apis/authentication.k8s.io/v1/tokenreviews", review, 201),
    ];
    for (uri, body, code) in &asked {
        let (got, answer) = post(&server, uri, body.clone()).await;
        assert_eq!(got, *code, "{answer}");
    }
    *store.reads.lock() = Some(StoreError::Unavailable("of the machine".into()));
    for (uri, body, _) in asked {
        let (got, status) = post(&server, uri, body).await;
        assert_eq!(
            (got, &status["reason"]),
            (503, &json!("ServiceUnavailable")),
            "{status}"
        );
    }
}

/// Whether somebody may do something, a store that is silent may know: until it speaks nobody is refused
/// for good, and nobody is let in either. Whoever is known to may goes on.
#[tokio::test]
async fn a_permission_that_a_silent_store_may_hold_is_not_refused() {
    let mut config = crate::common::open_config();
    config.authorizers = apiserver::filters::authorizers();
    config.admission = apiserver::admission::standard(&Default::default());
    let (store, server) = server_of(config).await;
    let jane = UserInfo::new("jane", &["dev"]);
    let as_jane = async |method: Method, uri: &str, body: Value| {
        let text = match &body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let asked = request(method, uri, JSON, text);
        let answer = server.local_service(jane.clone()).oneshot(asked).await;
        let answer = answer.expect("infallible");
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.expect("body").to_bytes();
        let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        (code, said["reason"].clone())
    };
    const CACHED: &str = "/api/v1/namespaces/default/configmaps?resourceVersion=0";
    let role = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": { "name": "r", "namespace": "default" },
        "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] }] });
    const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let questions = [
        (Method::GET, CACHED, Value::Null),
        (Method::POST, MAPS, map("m")),
        (Method::POST, ROLES, role),
        (Method::DELETE, MAPS, Value::Null),
        (Method::GET, "/metrics", Value::Null),
    ];
    for (method, uri, body) in &questions {
        let (code, reason) = as_jane(method.clone(), uri, body.clone()).await;
        assert_eq!(
            (code, &reason),
            (403, &json!("Forbidden")),
            "{method} {uri}"
        );
    }
    *store.reads.lock() = Some(StoreError::Unavailable("of the machine".into()));
    for (method, uri, body) in &questions {
        let (code, reason) = as_jane(method.clone(), uri, body.clone()).await;
        assert!((500..600).contains(&code), "{method} {uri}: {code}");
        assert_ne!(reason, "Forbidden", "{method} {uri}");
    }
    // As an administrator.
    assert_eq!(get(&server, CACHED).await.0, 200);
    *store.reads.lock() = None;
    let (code, _) = as_jane(Method::GET, CACHED, Value::Null).await;
    assert_eq!(code, 403);
}

/// etcd's own limit is 1.5 MiB; what it refuses must not look like a fault of the server.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_etcd_is_the_clients_to_shrink() {
    let place = TestStore::etcd().await;
    let server = place.server("192.0.2.1").await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "c", "image": "i", "args": ["z".repeat(2 << 20)] }] },
    });
    let (code, refused) = post(&server, "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(
        (code, &refused["reason"]),
        (413, &json!("RequestEntityTooLarge")),
        "{refused}"
    );
    assert_eq!(refused["message"], "etcdserver: request is too large");
    assert_eq!(
        get(&server, "/api/v1/namespaces/default/pods/p").await.0,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_refuses_writes_and_serves_reads() {
    let place = TestStore::etcd_with(&["--quota-backend-bytes=8388608"]).await;
    let server = place.server("192.0.2.1").await;
    // The write that crosses the quota may be applied though it is refused: its answer says so.
    let (mut made, mut open) = (0, 0);
    let refused = loop {
        let mut large = map(&format!("m{}", made + open));
        large["data"] = json!({ "x": "y".repeat(500 << 10) });
        match post(&server, MAPS, large).await {
            (201, _) => made += 1,
            (504, _) => open += 1,
            // A busy machine is slow for a while; nothing was written.
            (503, _) => {}
            other => break other,
        }
    };
    let (code, status) = refused;
    assert_eq!(code, 500, "{status}");
    assert_eq!(
        status["message"],
        "etcdserver: mvcc: database space exceeded"
    );
    let (code, list) = get(&server, MAPS).await;
    assert_eq!(code, 200);
    let there = list["items"].as_array().map_or(0, Vec::len);
    assert!(
        (made..=made + open).contains(&there),
        "{there} of {made} made and {open} open"
    );
    assert_eq!(get(&server, "/readyz/etcd").await.0, 200);
    // Room can be made: a deletion is not refused.
    let (code, gone) = ask(&server, Method::DELETE, &format!("{MAPS}/m0"), Value::Null).await;
    assert_eq!(code, 200, "{gone}");
}

/// What writers were answered about their increments.
#[derive(Default)]
struct Outcomes {
    done: AtomicUsize,
    /// May have been applied.
    open: AtomicUsize,
}

/// Counts up until it is to stop.
async fn increment(
    server: ApiServer,
    uri: Arc<str>,
    outcomes: Arc<Outcomes>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let (code, mut object) = get(&server, &uri).await;
        if code == 503 {
            continue;
        }
        assert_eq!(code, 200, "{object}");
        let now: usize = object["data"]["n"]
            .as_str()
            .expect("n")
            .parse()
            .expect("number");
        object["data"]["n"] = (now + 1).to_string().into();
        match ask(&server, Method::PUT, &uri, object).await {
            (200, _) => _ = outcomes.done.fetch_add(1, Ordering::SeqCst),
            (504, _) => _ = outcomes.open.fetch_add(1, Ordering::SeqCst),
            (409 | 503, _) => {}
            (code, answer) => panic!("{code} {answer}"),
        }
    }
}

impl Outcomes {
    /// Waits for so many more.
    async fn more(&self, count: usize) {
        let goal = self.done.load(Ordering::SeqCst) + count;
        until(|| async { self.done.load(Ordering::SeqCst) >= goal }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_survive_the_loss_of_etcds_leader() {
    let mut place = TestStore::on(Cluster::start(3, &[]).await).await;
    let servers = place.two().await;
    let mut object = map("n");
    object["data"] = json!({ "n": "0" });
    assert_eq!(post(&servers[0], MAPS, object).await.0, 201);
    let (outcomes, stop) = (Arc::new(Outcomes::default()), CancellationToken::new());
    let uri: Arc<str> = format!("{MAPS}/n").into();
    let writers: Vec<_> = (0..4)
        .map(|i| {
            let server = servers[i % 2].clone();
            tokio::spawn(increment(
                server,
                uri.clone(),
                outcomes.clone(),
                stop.clone(),
            ))
        })
        .collect();
    outcomes.more(20).await;
    let (cluster, first) = place.leader().await;
    cluster.kill(first);
    outcomes.more(20).await;
    cluster.launch(first);
    let (cluster, second) = place.leader().await;
    cluster.signal(second, Signal::STOP);
    outcomes.more(20).await;
    cluster.signal(second, Signal::CONT);
    outcomes.more(20).await;
    stop.cancel();
    for writer in writers {
        writer.await.expect("no panic");
    }
    let (done, open) = (
        outcomes.done.load(Ordering::SeqCst),
        outcomes.open.load(Ordering::SeqCst),
    );
    for server in &servers {
        // Its connection to the member that was held may be the last to come back.
        until(|| async { get(server, &uri).await.0 != 503 }).await;
        let (code, end) = get(server, &uri).await;
        assert_eq!(code, 200, "{end}");
        let n: usize = end["data"]["n"]
            .as_str()
            .expect("n")
            .parse()
            .expect("number");
        assert!(
            (done..=done + open).contains(&n),
            "{n} of {done} done and {open} open"
        );
    }
}
