//! What a server answers whose store's watch stands still: its cache has the past, the store the
//! present.

use std::sync::Arc;

use apiserver::ApiServer;
use bytes::Bytes;
use clock::watch;
use futures::StreamExt;
use futures::future::BoxFuture;
use http::Method;
use http::header::{ACCEPT, HeaderValue};
use serde_json::{Value, json};
use store::{Layer, Result, Revision, Store, WatchStream};
use tokio_util::sync::CancellationToken;

use crate::common::memory::Checked;
use crate::common::ships;
use crate::common::{JSON, ask, get, post, raw, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A store whose watch can be held back; everything else goes on.
struct Held {
    inner: Arc<Checked>,
    flows: watch::Sender<bool>,
}

impl Layer for Held {
    fn below(&self) -> &dyn Store {
        &*self.inner
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        let flows = self.flows.subscribe();
        Box::pin(async move {
            let stream = self.below().watch(prefix, after).await?;
            let held = stream.then(move |batch| {
                let mut flows = flows.clone();
                async move {
                    // The store outlives its watches.
                    let _ = flows.wait_for(|flows| *flows).await;
                    batch
                }
            });
            Ok(held.boxed())
        })
    }
}

impl Held {
    fn hold(&self) {
        self.flows.send_replace(false);
    }

    /// Lets the watch go on, and waits for the server's cache.
    async fn release(&self, server: &ApiServer) {
        self.flows.send_replace(true);
        let newest = server.store().revision().await.expect("revision");
        let (code, said) = get(server, &format!("{MAPS}?resourceVersion={newest}")).await;
        assert_eq!(code, 200, "{said}");
    }
}

/// A server whose cache has some maps.
async fn server(maps: &[&str]) -> (Arc<Held>, ApiServer) {
    let store = Arc::new(Held {
        inner: Checked::new(),
        flows: watch::Sender::new(true),
    });
    let config = crate::common::open_config();
    let server = ApiServer::new(config, store.clone(), CancellationToken::new())
        .await
        .expect("the store is readable");
    server.bootstrap().await.expect("first objects");
    for name in maps {
        make(&server, name).await;
    }
    store.release(&server).await;
    (store, server)
}

async fn make(server: &ApiServer, name: &str) {
    let (code, said) = post(server, MAPS, map(name)).await;
    assert_eq!(code, 201, "{said}");
}

fn map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "labels": { "name": name } } })
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().map(Vec::as_slice);
    let items = items.unwrap_or_default().iter();
    items
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect()
}

/// An object, or what a list or a table has in it, in the form that is asked for.
async fn content(server: &ApiServer, uri: &str, accept: &'static str) -> (u16, Value) {
    let mut asked = request(Method::GET, uri, JSON, "");
    asked
        .headers_mut()
        .insert(ACCEPT, HeaderValue::from_static(accept));
    let (code, mut said) = raw(server, asked).await;
    // The last cell is an age.
    let rows = said.get_mut("rows").and_then(Value::as_array_mut);
    for row in rows.into_iter().flatten() {
        row["cells"].as_array_mut().and_then(Vec::pop);
    }
    let mut parts = ["items", "rows"].into_iter();
    let parts = parts.find_map(|part| said.get(part).cloned());
    (code, parts.unwrap_or(said))
}

#[tokio::test(start_paused = true)]
async fn the_newest_state_is_read_in_the_store() {
    let (store, server) = server(&["a", "b", "c"]).await;
    store.hold();
    make(&server, "d").await;
    // Writes go on, too: they begin with what the store has.
    let mut changed = map("a");
    changed["data"] = json!({ "x": "y" });
    let (code, said) = ask(&server, Method::PUT, &format!("{MAPS}/a"), changed).await;
    assert_eq!(code, 200, "{said}");
    let (code, said) = ask(&server, Method::DELETE, &format!("{MAPS}/b"), Value::Null).await;
    assert_eq!(code, 200, "{said}");
    let (_, cached) = get(&server, &format!("{MAPS}?resourceVersion=0")).await;
    assert_eq!(names(&cached), ["a", "b", "c"], "the cache stands still");

    let (code, list) = get(&server, MAPS).await;
    assert_eq!((code, names(&list)), (200, vec!["a", "c", "d"]), "{list}");
    let newest = server.store().revision().await.expect("revision");
    assert_eq!(
        list["metadata"]["resourceVersion"],
        newest.to_string().as_str()
    );
    let (code, a) = get(&server, &format!("{MAPS}/a")).await;
    assert_eq!((code, &a["data"]["x"]), (200, &json!("y")), "{a}");
    let dry_run = format!("{MAPS}?dryRun=All");
    assert_eq!(post(&server, &dry_run, map("b")).await.0, 201);
    assert_eq!(post(&server, &dry_run, map("d")).await.0, 409);

    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
    const METADATA: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    let mut questions: Vec<(String, &'static str)> = [JSON, TABLE, METADATA]
        .map(|accept| (MAPS.to_owned(), accept))
        .into();
    for query in [
        "?limit=2",
        "?labelSelector=name%20in%20(b,d)",
        "?fieldSelector=metadata.name%3Da",
    ] {
        questions.push((format!("{MAPS}{query}"), JSON));
    }
    questions.push(("/api/v1/configmaps".to_owned(), JSON));
    for name in ["a", "b", "d"] {
        for accept in [JSON, TABLE, PROTOBUF] {
            questions.push((format!("{MAPS}/{name}"), accept));
        }
    }
    let mut answers = Vec::new();
    for (uri, accept) in &questions {
        answers.push(content(&server, uri, accept).await);
    }
    store.release(&server).await;
    for ((uri, accept), from_store) in questions.iter().zip(answers) {
        let from_cache = content(&server, uri, accept).await;
        assert_eq!(from_store, from_cache, "{uri} as {accept}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_began_in_the_store_goes_on_there() {
    let (store, server) = server(&["a"]).await;
    store.hold();
    for name in ["b", "c"] {
        make(&server, name).await;
    }
    let (_, page) = get(&server, &format!("{MAPS}?limit=1")).await;
    assert_eq!(names(&page), ["a"]);
    assert_eq!(page["metadata"]["remainingItemCount"], 2);
    let token = page["metadata"]["continue"].as_str().expect("more");
    make(&server, "bb").await;
    let rest = format!("{MAPS}?limit=5&continue={token}");
    let (code, rest) = get(&server, &rest).await;
    assert_eq!((code, names(&rest)), (200, vec!["b", "c"]), "{rest}");
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        page["metadata"]["resourceVersion"]
    );
    // A revision that the store does not have either.
    let none = format!("{MAPS}?limit=1&resourceVersion=1000000");
    let (code, said) = get(&server, &none).await;
    assert_eq!((code, &said["reason"]), (504, &json!("Timeout")), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_from_a_list_that_the_store_had() {
    let (store, server) = server(&["a"]).await;
    store.hold();
    for name in ["b", "c"] {
        make(&server, name).await;
    }
    let (_, list) = get(&server, MAPS).await;
    let listed = list["metadata"]["resourceVersion"].as_str().expect("one");
    let uri = format!("{MAPS}?watch=1&resourceVersion={listed}");
    let mut events = ships::watch(&server, &uri).await;
    store.release(&server).await;
    make(&server, "d").await;
    let first = events.next().await.expect("an event");
    assert_eq!(first["type"], "ADDED", "{first}");
    assert_eq!(first["object"]["metadata"]["name"], "d", "{first}");
}

/// A watch that begins with the newest objects goes on from them, which only the cache can.
#[tokio::test(start_paused = true)]
async fn a_watch_that_lists_fails_as_upstreams() {
    let (store, server) = server(&["a"]).await;
    store.hold();
    make(&server, "b").await;
    for query in [
        "watch=1",
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
    ] {
        let mut events = ships::watch(&server, &format!("{MAPS}?{query}")).await;
        let only = events.next().await.expect("an event");
        assert_eq!(only["type"], "ERROR", "{only}");
        let status = &only["object"];
        assert_eq!(
            (&status["code"], &status["details"]["causes"][0]["reason"]),
            (&json!(504), &json!("ResourceVersionTooLarge")),
            "{only}"
        );
        assert_eq!(events.next().await, None);
    }
}

/// Of Secrets, which nothing else in this program reads while a watch stands still.
#[tokio::test(start_paused = true)]
async fn what_was_read_in_the_store_is_counted() {
    const SECRETS: &str = "/api/v1/namespaces/default/secrets";
    let (store, server) = server(&[]).await;
    store.hold();
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" } });
    assert_eq!(post(&server, SECRETS, secret).await.0, 201);
    assert_eq!(get(&server, SECRETS).await.0, 200);
    assert_eq!(get(&server, &format!("{SECRETS}/s")).await.0, 200);
    let (_, text) = get(&server, "/metrics").await;
    let text = text.as_str().unwrap_or_default();
    let labels = "group=\"\",resource=\"secrets\"";
    for line in [
        format!(
            "apiserver_watch_cache_consistent_read_total{{{labels},success=\"true\",fallback=\"true\"}} 2"
        ),
        format!("apiserver_storage_list_total{{{labels}}} 1"),
    ] {
        assert!(text.contains(&line), "{line} in {text}");
    }
}
