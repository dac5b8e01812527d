//! Lists in pages over a store that forgets.

mod common;

use std::sync::Arc;

use apiserver::ApiServer;
use common::{get, post};
use serde_json::json;
use store::{Embedded, Op, Options, Outcome, Txn};
use tokio_util::sync::CancellationToken;

const CMS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_place_in_a_list_that_is_forgotten_can_be_continued_in_the_newest_state() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Arc::new(Embedded::open(dir.path(), Options::default()).expect("store"));
    let config = common::open_config();
    let s = ApiServer::new(config, store, CancellationToken::new())
        .await
        .expect("the store is readable");
    s.bootstrap().await.expect("first objects");
    for name in ["a", "b", "c"] {
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
        assert_eq!(post(&s, CMS, map).await.0, 201);
    }
    let (_, page) = get(&s, &format!("{CMS}?limit=1")).await;
    let token = page["metadata"]["continue"].as_str().expect("a place");
    let rest = format!("{CMS}?limit=5&continue={token}");
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "bb" } });
    assert_eq!(post(&s, CMS, map).await.0, 201);
    let (code, seen) = get(&s, &rest).await;
    assert_eq!(
        (code, seen["items"].as_array().map(Vec::len)),
        (200, Some(2))
    );

    // The ring of events still has that state; what counts is what the store promises.
    let newest = s.store().revision().await.expect("revision");
    s.store().compact(newest).await.expect("compacted");
    let (code, gone) = get(&s, &rest).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")), "{gone}");
    let token = gone["metadata"]["continue"]
        .as_str()
        .expect("another place");
    let (code, seen) = get(&s, &format!("{CMS}?limit=5&continue={token}")).await;
    assert_eq!(
        (code, seen["items"].as_array().map(Vec::len)),
        (200, Some(3)),
        "{seen}"
    );
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_counted_and_harms_no_other() {
    let dir = tempfile::tempdir().expect("dir");
    let store = Arc::new(Embedded::open(dir.path(), Options::default()).expect("store"));
    let config = common::open_config();
    let s = ApiServer::new(config, store, CancellationToken::new())
        .await
        .expect("the store is readable");
    s.bootstrap().await.expect("first objects");
    let put = Op::Put {
        key: "/registry/configmaps/default/torn".into(),
        value: "{".into(),
        expires_after_seconds: None,
    };
    let txn = Txn {
        compare: Vec::new(),
        ops: vec![put],
    };
    let done = s.store().commit(txn).await.expect("written");
    assert!(matches!(done, Outcome::Committed(_)));
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "whole" } });
    assert_eq!(post(&s, CMS, map).await.0, 201);
    let (code, whole) = get(&s, &format!("{CMS}/whole")).await;
    assert_eq!(code, 200, "{whole}");
    let (code, list) = get(&s, CMS).await;
    assert_eq!(code, 500, "{list}");
    let (_, figures) = get(&s, "/metrics").await;
    let line = "apiserver_storage_decode_errors_total{group=\"\",resource=\"configmaps\"} ";
    let figures = figures.as_str().unwrap_or_default();
    assert!(figures.contains(line), "{figures}");
}
