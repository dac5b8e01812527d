//! A stored value that cannot be read: every verb says so, no list and no watch goes on as if there
//! were no such object, nothing else is harmed, and all is well once it is mended or removed.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use apiserver::storage::Upstream;
use apiserver::{ApiServer, Config};
use bytes::Bytes;
use common::memory::Checked;
use common::ships::watch;
use common::{ask, get, post};
use futures::StreamExt;
use futures::future::BoxFuture;
use http::Method;
use serde_json::{Value, json};
use store::{
    Embedded, KeyValue, Layer, Op, Options, Outcome, RangePage, Result, Revision, Store, Txn,
    WatchStream,
};
use tokio_util::sync::CancellationToken;

const CMS: &str = "/api/v1/namespaces/default/configmaps";
const ELSEWHERE: &str = "/api/v1/namespaces/kube-system/configmaps";
const TORN: &str = "/registry/configmaps/default/torn";

struct Place {
    _dir: tempfile::TempDir,
    raw: Arc<Embedded>,
    server: ApiServer,
}

async fn server_on(raw: &Arc<Embedded>) -> ApiServer {
    server_with(raw, common::open_config()).await
}

async fn server_with(raw: &Arc<Embedded>, config: Config) -> ApiServer {
    let store = Upstream::new(raw.clone(), registry::kinds::kinds());
    ApiServer::new(config, Arc::new(store), CancellationToken::new())
        .await
        .expect("one bad value keeps no server from its start")
}

fn map(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "labels": { "a": name } },
    })
}

impl Place {
    /// A server with the objects `torn` and `whole`, and one in another namespace.
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let raw = Arc::new(Embedded::open(dir.path(), Options::default()).expect("open"));
        let server = server_on(&raw).await;
        server.bootstrap().await.expect("first objects");
        for (uri, name) in [(CMS, "torn"), (CMS, "whole"), (ELSEWHERE, "other")] {
            let (code, made) = post(&server, uri, map(name)).await;
            assert_eq!(code, 201, "{made}");
        }
        Self {
            _dir: dir,
            raw,
            server,
        }
    }

    async fn stored(&self) -> Bytes {
        let found = self.raw.get(TORN.into(), 0).await.expect("get");
        found.expect("it is stored").value
    }

    async fn write(&self, op: Op) -> u64 {
        let txn = Txn {
            compare: Vec::new(),
            ops: vec![op],
        };
        match self.raw.commit(txn).await.expect("commit") {
            Outcome::Committed(revision) => revision,
            Outcome::Refused(_) => panic!("refused"),
        }
    }

    async fn put(&self, value: impl Into<Bytes>) -> u64 {
        self.write(Op::Put {
            key: TORN.into(),
            value: value.into(),
            expires_after_seconds: None,
        })
        .await
    }
}

fn reason((code, answer): &(u16, Value)) -> (u16, &str) {
    (*code, answer["reason"].as_str().unwrap_or_default())
}

/// What each verb says while it cannot be read.
async fn judge(server: &ApiServer, why: &str) {
    let uri = format!("{CMS}/torn");
    let change = json!({ "data": { "a": "b" } });
    for (method, body) in [
        (Method::GET, Value::Null),
        (Method::PUT, map("torn")),
        (Method::PATCH, change),
        (Method::DELETE, Value::Null),
    ] {
        let said = ask(server, method.clone(), &uri, body).await;
        assert_eq!(reason(&said), (500, "InternalError"), "{method} {said:?}");
        let message = said.1["message"].as_str().unwrap_or_default();
        let key = "corrupt object, Code: 7, Key: /configmaps/default/torn,";
        assert!(message.contains(key), "{method} {message}");
        assert!(message.contains(why), "{method} {message}");
    }
    for uri in [CMS.to_owned(), format!("{CMS}?dryRun=All")] {
        let said = post(server, &uri, map("torn")).await;
        assert_eq!(reason(&said), (409, "AlreadyExists"), "{uri} {said:?}");
    }
    for uri in [
        CMS.to_owned(),
        "/api/v1/configmaps".to_owned(),
        format!("{CMS}?resourceVersion=0"),
        format!("{CMS}?limit=1"),
        format!("{CMS}?labelSelector=a%3Dwhole"),
        format!("{CMS}?fieldSelector=metadata.name%3Dtorn"),
        format!("{CMS}?watch=true"),
        format!("{CMS}?watch=true&resourceVersion=1"),
    ] {
        let said = get(server, &uri).await;
        assert_eq!(reason(&said), (500, "StorageReadError"), "{uri} {said:?}");
        assert_eq!(
            said.1["message"],
            "failed to read one or more configmaps from the storage"
        );
        let causes = said.1["details"]["causes"].as_array().expect("causes");
        let keys: Vec<_> = causes.iter().map(|cause| &cause["field"]).collect();
        assert_eq!(keys, [TORN], "{uri}");
    }
    let said = ask(server, Method::DELETE, CMS, Value::Null).await;
    assert_eq!(reason(&said), (500, "StorageReadError"), "{said:?}");
    // What it is not is as ever.
    for uri in [
        format!("{CMS}/whole"),
        format!("{CMS}?fieldSelector=metadata.name%3Dwhole"),
        ELSEWHERE.to_owned(),
        "/api/v1/secrets".to_owned(),
    ] {
        let (code, answer) = get(server, &uri).await;
        assert_eq!(code, 200, "{uri} {answer}");
    }
}

async fn names(server: &ApiServer) -> Vec<String> {
    let (code, list) = get(server, CMS).await;
    assert_eq!(code, 200, "{list}");
    let items = list["items"].as_array().expect("items").iter();
    items
        .filter_map(|item| Some(item["metadata"]["name"].as_str()?.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_says_that_an_object_cannot_be_read() {
    let p = Place::new().await;
    let good = p.stored().await;
    let bad: [(&'static [u8], &str); 3] = [
        (b"k8s\0broken", "object not decodable revision="),
        (b"{", "object not decodable revision="),
        (
            b"k8s:enc:aescbc:v1:gone:?",
            "data from the storage is not transformable",
        ),
    ];
    for (value, why) in bad {
        p.put(value).await;
        // One that saw it change, and one that starts.
        judge(&p.server, why).await;
        judge(&server_on(&p.raw).await, why).await;
    }
    // Neither a restart nor another write of somebody else makes it go.
    assert_eq!(p.stored().await, bad[2].0);
    let late = server_on(&p.raw).await;
    p.put(good).await;
    for server in [&p.server, &late] {
        let (code, read) = get(server, &format!("{CMS}/torn")).await;
        assert_eq!(
            (code, &read["metadata"]["labels"]["a"]),
            (200, &json!("torn"))
        );
        assert!(names(server).await.contains(&"torn".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_in_the_store_is_gone() {
    let p = Place::new().await;
    p.put("?").await;
    let late = server_on(&p.raw).await;
    assert_eq!(get(&p.server, CMS).await.0, 500);
    let key = TORN.into();
    p.write(Op::Delete { key }).await;
    for server in [&p.server, &late] {
        let said = get(server, &format!("{CMS}/torn")).await;
        assert_eq!(reason(&said), (404, "NotFound"), "{said:?}");
        let left = names(server).await;
        assert!(left.contains(&"whole".to_owned()) && !left.contains(&"torn".to_owned()));
    }
    let (code, made) = post(&p.server, CMS, map("torn")).await;
    assert_eq!(code, 201, "{made}");
}

/// As upstream, whose informers have not begun then: who is ready would not ask the webhook.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_not_ready_before_it_has_read_what_configures_it() {
    const READY: &str = "/readyz/informer-sync";
    let p = Place::new().await;
    let hook = |name: &str| Bytes::from(format!("/registry/{name}/torn"));
    let break_one = |key| Op::Put {
        key,
        value: "?".into(),
        expires_after_seconds: None,
    };
    for kind in [
        "validatingwebhookconfigurations",
        "validatingadmissionpolicybindings",
        "clusterroles",
        "apiextensions.k8s.io/customresourcedefinitions",
    ] {
        p.write(break_one(hook(kind))).await;
        // What was read before holds.
        assert_eq!(get(&p.server, "/readyz").await.0, 200, "{kind}");
        let late = server_on(&p.raw).await;
        let (code, text) = get(&late, READY).await;
        assert_eq!(code, 500, "{kind}");
        let said = text.as_str().unwrap_or_default();
        assert!(said.contains("never been readable"), "{kind}: {said}");
        assert_eq!(get(&late, "/livez").await.0, 200, "{kind}");
        p.write(Op::Delete { key: hook(kind) }).await;
        assert_eq!(get(&late, READY).await.0, 200, "{kind}");
        // It was ready once.
        p.write(break_one(hook(kind))).await;
        assert_eq!(get(&late, READY).await.0, 200, "{kind}");
        p.write(Op::Delete { key: hook(kind) }).await;
    }
    // Nobody is configured by others.
    p.put("?").await;
    let late = server_on(&p.raw).await;
    assert_eq!(get(&late, READY).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_a_revision_is_what_it_was_or_an_error() {
    let p = Place::new().await;
    let good = p.stored().await;
    let before = p.server.store().revision().await.expect("revision");
    let broken = p.put("?").await;
    let mended = p.put(good).await;
    let at = |revision: u64| format!("{CMS}?resourceVersion={revision}&resourceVersionMatch=Exact");
    assert_eq!(get(&p.server, &at(before)).await.0, 200);
    let said = get(&p.server, &at(broken)).await;
    assert_eq!(reason(&said), (500, "StorageReadError"), "{said:?}");
    assert_eq!(get(&p.server, &at(mended)).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_watch_ends_with_an_error() {
    let p = Place::new().await;
    let good = p.stored().await;
    let (_, list) = get(&p.server, CMS).await;
    let from = list["metadata"]["resourceVersion"]
        .as_str()
        .expect("revision");
    let uri = format!("{CMS}?watch=true&resourceVersion={from}");
    let mut open = watch(&p.server, &uri).await;
    let mut elsewhere = watch(
        &p.server,
        &format!("{ELSEWHERE}?watch=true&resourceVersion={from}"),
    )
    .await;
    p.put("?").await;
    let event = open.next().await.expect("an event");
    assert_eq!(event["type"], "ERROR", "{event}");
    assert_eq!(event["object"]["code"], 500, "{event}");
    assert_eq!(event["object"]["reason"], "StorageReadError", "{event}");
    assert_eq!(open.next().await, None);
    // Others are to list again, which they can.
    let event = elsewhere.next().await.expect("an event");
    assert_eq!(event["object"]["code"], 410, "{event}");
    assert_eq!(get(&p.server, ELSEWHERE).await.0, 200);

    let mended = p.put(good).await;
    p.server.state().reach(mended).await.expect("it is seen");
    // Nobody goes on from where it could be read as if nothing had been in between.
    let event = watch(&p.server, &uri).await.next().await.expect("an event");
    assert_eq!(event["object"]["code"], 410, "{event}");
    let mut whole = watch(&p.server, &format!("{CMS}?watch=true")).await;
    let mut seen = Vec::new();
    while !seen.contains(&json!("torn")) {
        let event = whole.next().await.expect("an event");
        assert_eq!(event["type"], "ADDED", "{event}");
        seen.push(event["object"]["metadata"]["name"].clone());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_gate_it_can_be_removed() {
    const OPTION: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
    let p = Place::new().await;
    let mut config = common::open_config();
    let gates = ["AllowUnsafeMalformedObjectDeletion=true"];
    let features = registry::Features::read(&gates).expect("a known gate");
    config.settings.features = Arc::new(features);
    let gated = server_with(&p.raw, config).await;
    let (torn, whole) = (format!("{CMS}/torn"), format!("{CMS}/whole"));
    let remove = async |server: &ApiServer, uri: &str, also: Value| {
        let mut options = also;
        options["kind"] = "DeleteOptions".into();
        options["apiVersion"] = "v1".into();
        options[OPTION] = true.into();
        ask(server, Method::DELETE, uri, options).await
    };
    p.put("?").await;
    // Without the gate the option says nothing.
    let said = remove(&p.server, &torn, json!({})).await;
    assert_eq!(reason(&said), (500, "InternalError"), "{said:?}");
    let said = ask(&gated, Method::DELETE, &torn, Value::Null).await;
    assert_eq!(reason(&said), (500, "InternalError"), "{said:?}");
    for (uri, also, why) in [
        (CMS, json!({}), "is not allowed with DELETECOLLECTION"),
        (
            &*whole,
            json!({}),
            "is exclusively used to delete corrupt object(s)",
        ),
        (
            &*torn,
            json!({ "gracePeriodSeconds": 0 }),
            "cannot be set together with .gracePeriodSeconds",
        ),
        (
            &*torn,
            json!({ "dryRun": ["All"] }),
            "cannot be set together with .dryRun",
        ),
    ] {
        let said = remove(&gated, uri, also).await;
        assert_eq!(reason(&said), (422, "Invalid"), "{said:?}");
        let message = said.1["message"].as_str().unwrap_or_default();
        assert!(message.contains(why), "{message}");
    }
    let said = remove(&gated, &torn, json!({})).await;
    assert_eq!(said.0, 200, "{said:?}");
    assert_eq!(said.1["status"], "Success", "{said:?}");
    assert_eq!(
        said.1["details"],
        json!({ "name": "torn", "kind": "ConfigMap" })
    );
    for server in [&p.server, &gated] {
        let said = get(server, &torn).await;
        assert_eq!(reason(&said), (404, "NotFound"), "{said:?}");
        assert!(names(server).await.contains(&"whole".to_owned()));
    }
    let said = remove(&gated, &torn, json!({})).await;
    assert_eq!(reason(&said), (422, "Invalid"), "{said:?}");
}

/// A store whose keys may be away: then a value cannot be read, though nobody has changed it.
struct Locked {
    inner: Arc<Checked>,
    is_locked: Arc<AtomicBool>,
}

fn seen(is_locked: &AtomicBool, mut kv: KeyValue) -> KeyValue {
    if is_locked.load(Ordering::Relaxed) && kv.key == TORN {
        kv.value = "k8s:enc:kms:v2:away:?".into();
    }
    kv
}

impl Layer for Locked {
    fn below(&self) -> &dyn Store {
        &*self.inner
    }

    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        Box::pin(async move {
            let found = self.below().get(key, at).await?;
            Ok(found.map(|kv| seen(&self.is_locked, kv)))
        })
    }

    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        Box::pin(async move {
            let mut page = self.below().range(prefix, start, limit, at).await?;
            let items = std::mem::take(&mut page.items).into_iter();
            page.items = items.map(|kv| seen(&self.is_locked, kv)).collect();
            Ok(page)
        })
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        let is_locked = self.is_locked.clone();
        Box::pin(async move {
            let stream = self.below().watch(prefix, after).await?;
            let shown = stream.map(move |batch| {
                batch.map(|mut batch| {
                    for event in &mut batch.events {
                        event.kv = seen(&is_locked, event.kv.clone());
                    }
                    batch
                })
            });
            Ok(shown.boxed())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_served_again_when_its_key_is_back() {
    let is_locked = Arc::new(AtomicBool::new(false));
    let store = Arc::new(Locked {
        inner: Checked::new(),
        is_locked: is_locked.clone(),
    });
    let start = async || {
        let config = common::open_config();
        ApiServer::new(config, store.clone(), CancellationToken::new())
            .await
            .expect("the store is readable")
    };
    let server = start().await;
    server.bootstrap().await.expect("first objects");
    let (code, made) = post(&server, CMS, map("torn")).await;
    assert_eq!(code, 201, "{made}");
    let uri = format!("{CMS}/torn");
    // The cache has it before the key is lost.
    assert_eq!(get(&server, &uri).await.0, 200);
    is_locked.store(true, Ordering::Relaxed);
    let change = json!({ "data": { "a": "b" } });
    let (code, changed) = ask(&server, Method::PATCH, &uri, change).await;
    assert_eq!(code, 200, "{changed}");
    let late = start().await;
    for server in [&server, &late] {
        let said = get(server, &uri).await;
        assert_eq!(reason(&said), (500, "InternalError"), "{said:?}");
    }
    is_locked.store(false, Ordering::Relaxed);
    for server in [&server, &late] {
        let mut said = get(server, &uri).await;
        for _ in 0..60 {
            if said.0 == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            said = get(server, &uri).await;
        }
        assert_eq!(
            (said.0, &said.1["data"]["a"]),
            (200, &json!("b")),
            "{said:?}"
        );
        assert!(names(server).await.contains(&"torn".to_owned()));
    }
}
