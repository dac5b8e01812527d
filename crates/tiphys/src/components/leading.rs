//! Tests that what leads by Lease writes with its fence: on a server of its own, with the client
//! seen through.

use std::sync::Arc;
use std::time::Duration;

use apiserver::filters::authz::AlwaysAllow;
use http::{Method, Request};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;

/// A write, as the server got it.
struct Write {
    method: Method,
    path: String,
    fence: Option<String>,
}

impl Write {
    /// Those of the election itself come before there is a fence.
    fn is_election(&self) -> bool {
        self.path.contains("/namespaces/kube-system/leases")
    }
}

async fn server(dir: &std::path::Path) -> ApiServer {
    let store = store::Embedded::open(dir, store::Options::default()).expect("store");
    let address = "192.0.2.1".parse().expect("address");
    let mut config = apiserver::Config::new(
        address,
        6443,
        clock::Clock::system(),
        clock::Random::system(),
    );
    config.authorizers = vec![Arc::new(AlwaysAllow)];
    let stop = CancellationToken::new();
    let server = ApiServer::new(config, Arc::new(store), stop).await;
    let server = server.expect("server");
    server.bootstrap().await.expect("first objects");
    server
}

/// A client that reports the writes that pass.
fn watched(server: &ApiServer) -> (kube::Client, mpsc::UnboundedReceiver<Write>) {
    let inner = local(server, "leader", &["system:masters"]);
    let (sender, writes) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Body>| {
        let fence = request.headers().get(api::Fence::HEADER);
        let write = Write {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            fence: fence.and_then(|v| v.to_str().ok()).map(str::to_owned),
        };
        if write.method != Method::GET {
            // The test may have seen enough.
            let _ = sender.send(write);
        }
        let inner = inner.clone();
        async move { inner.send(request).await }
    });
    (kube::Client::new(service, "default"), writes)
}

async fn create(server: &ApiServer, path: &str, object: Value) {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(object.to_string().into_bytes())
        .expect("request");
    let client = local(server, "tester", &["system:masters"]);
    client.request_text(request).await.expect("created");
}

/// Waits for a write below `path`; all until then carry the fence of `lease`.
async fn fenced_until(writes: &mut mpsc::UnboundedReceiver<Write>, lease: &str, path: &str) {
    let lease = format!("kube-system/{lease}=");
    loop {
        let write = writes.recv().await.expect("the part runs");
        if write.is_election() {
            continue;
        }
        let fenced = write.fence.as_ref().is_some_and(|f| f.starts_with(&lease));
        assert!(fenced, "{} {}: {:?}", write.method, write.path, write.fence);
        if write.path.ends_with(path) {
            return;
        }
    }
}

fn times() -> Option<Times> {
    let second = Duration::from_secs(1);
    Some(Times::new(2 * second, second, second / 5).expect("times"))
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_carry_the_schedulers_fence() {
    let dir = tempfile::tempdir().expect("dir");
    let server = server(dir.path()).await;
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n" },
        "status": {
            "allocatable": { "cpu": "4", "memory": "4Gi", "pods": "10" },
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    });
    create(&server, "/api/v1/nodes", node).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    create(&server, "/api/v1/namespaces/default/pods", pod).await;
    let (client, mut writes) = watched(&server);
    let stop = CancellationToken::new();
    let informers = Informers::new(
        client.clone(),
        clock::Clock::system(),
        clock::Random::system(),
    );
    let running = tokio::spawn(run_scheduler(
        client,
        informers,
        SchedulerFile::default(),
        times(),
        stop.clone(),
    ));
    fenced_until(&mut writes, "kube-scheduler", "/pods/p/binding").await;
    stop.cancel();
    running.await.expect("no panic").expect("a clean end");
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_writes_carry_their_fence() {
    let dir = tempfile::tempdir().expect("dir");
    let server = server(dir.path()).await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "d" },
        "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": {
            "metadata": { "labels": { "a": "b" } },
            "spec": { "containers": [{ "name": "c", "image": "i" }] } } },
    });
    let path = "/apis/apps/v1/namespaces/default/deployments";
    create(&server, path, deployment).await;
    let (client, mut writes) = watched(&server);
    let stop = CancellationToken::new();
    let config = controllers::Config::default();
    let informers = Informers::new(
        client.clone(),
        clock::Clock::system(),
        clock::Random::system(),
    );
    let accounts = Accounts::shared(client);
    let running = run_controllers(accounts, informers, config, times(), stop.clone());
    let running = tokio::spawn(running);
    let lease = "kube-controller-manager";
    fenced_until(&mut writes, lease, "/namespaces/default/pods").await;
    stop.cancel();
    running.await.expect("no panic").expect("a clean end");
}
