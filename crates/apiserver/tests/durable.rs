//! On the embedded store: what was acknowledged is there after a restart, with its revision.

mod common;

use std::sync::Arc;

use apiserver::ApiServer;
use common::{get, post};
use serde_json::json;
use store::{Embedded, Options, Store};
use tokio_util::sync::CancellationToken;

async fn start(dir: &std::path::Path) -> (ApiServer, Arc<Embedded>, CancellationToken) {
    let store = Arc::new(Embedded::open(dir, Options::default()).expect("open"));
    let config = common::open_config();
    let stop = CancellationToken::new();
    let shared: Arc<dyn Store> = store.clone();
    let server = ApiServer::new(config, shared, stop.clone())
        .await
        .expect("start");
    server.bootstrap().await.expect("first objects");
    (server, store, stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_survive_a_restart() {
    let dir = tempfile::tempdir().expect("dir");
    let (server, store, stop) = start(dir.path()).await;
    let cm = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "k" } });
    let (code, made) = post(&server, "/api/v1/namespaces/default/configmaps", cm).await;
    assert_eq!(code, 201, "{made}");
    stop.cancel();
    store.close();
    drop((server, store));
    let (server, _store, _stop) = start(dir.path()).await;
    let (code, again) = get(&server, "/api/v1/namespaces/default/configmaps/k").await;
    assert_eq!((code, again), (200, made));
}
