//! The garbage of custom kinds against the real API server in this process: owners and dependents of
//! kinds that came while it ran, in namespaces and without, in each way of deletion, and kinds that
//! go meanwhile.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use apiserver::filters::authz::AlwaysAllow;
use apiserver::{ApiServer, UserInfo};
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SHIPS: &str = "/apis/sea.example.com/v1/namespaces/default/ships";
const FLEETS: &str = "/apis/sea.example.com/v1/fleets";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Cluster {
    client: Client,
    _stop: DropGuard,
}

impl Cluster {
    /// With both kinds: ships in namespaces, fleets without.
    async fn start() -> Self {
        let stop = CancellationToken::new();
        let clock = clock::Clock::system();
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let random = clock::Random::system();
        let mut config = apiserver::Config::new(address, 6443, clock, random.clone());
        config.authorizers = vec![Arc::new(AlwaysAllow)];
        let store = Arc::new(store::Memory::new(clock));
        let server = ApiServer::new(config, store, stop.clone()).await;
        let server = server.expect("server");
        server.bootstrap().await.expect("first objects");
        let user = UserInfo::new("tester", &["system:masters"]);
        let client = client::in_process(server.local_service(user));
        let name = <controllers::garbage::Garbage as control::Controller>::NAME;
        let recorder = control::Recorder::new(client.clone(), name, "", clock);
        let informers = client::Informers::new(client.clone(), clock, random);
        let garbage = controllers::garbage::Garbage::new(&informers, client.clone());
        let running = control::run(garbage, client.clone(), recorder, stop.clone());
        tokio::spawn(running);
        let cluster = Self {
            client,
            _stop: stop.drop_guard(),
        };
        cluster.define("ships", "Ship", "Namespaced").await;
        cluster.define("fleets", "Fleet", "Cluster").await;
        cluster
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", kind).body(body);
        match self
            .client
            .request::<Value>(request.expect("request"))
            .await
        {
            Ok(value) => (200, value),
            Err(kube::Error::Api(status)) => (status.code, json!({ "message": status.message })),
            Err(e) => panic!("{path}: {e}"),
        }
    }

    /// Asks until the answer is as wanted.
    async fn until(&self, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
        let mut last = (0, Value::Null);
        for _ in 0..6000 {
            last = self.ask(Method::GET, path, &Value::Null).await;
            if wanted(last.0, &last.1) {
                return last.1;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{path}: {last:?}");
    }

    async fn gone(&self, path: &str) {
        self.until(path, |code, _| code == 404).await;
    }

    async fn define(&self, plural: &str, kind: &str, scope: &str) {
        let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        let version = json!({ "name": "v1", "served": true, "storage": true,
            "schema": { "openAPIV3Schema": schema } });
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{plural}.sea.example.com") },
            "spec": { "group": "sea.example.com", "scope": scope, "versions": [version],
                "names": { "plural": plural, "kind": kind } },
        });
        let (code, made) = self.ask(Method::POST, CRDS, &definition).await;
        assert_eq!(code, 200, "{made}");
        // Until then its objects may still be served as they were defined before.
        let is_established = |_: u16, crd: &Value| {
            let conditions = crd["status"]["conditions"].as_array();
            let mut all = conditions.into_iter().flatten();
            all.any(|c| c["type"] == "Established" && c["status"] == "True")
        };
        let definition = at(CRDS, &format!("{plural}.sea.example.com"));
        self.until(&definition, is_established).await;
        let objects = format!("/apis/sea.example.com/v1/{plural}");
        self.until(&objects, |code, _| code == 200).await;
    }

    async fn create(&self, path: &str, name: &str, owners: &[&Value], holds: bool) -> Value {
        let (api_version, kind) = match path {
            MAPS => ("v1", "ConfigMap"),
            SHIPS => ("sea.example.com/v1", "Ship"),
            _ => ("sea.example.com/v1", "Fleet"),
        };
        let finalizers: &[&str] = if holds { &["test/hold"] } else { &[] };
        let owners: Vec<Value> = owners.iter().map(|o| owner(o)).collect();
        let object = json!({ "apiVersion": api_version, "kind": kind, "metadata": {
            "name": name, "ownerReferences": owners, "finalizers": finalizers } });
        let (code, made) = self.ask(Method::POST, path, &object).await;
        assert_eq!(code, 200, "{made}");
        made
    }

    async fn delete(&self, path: &str, policy: &str) {
        let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1",
            "propagationPolicy": policy });
        let (code, said) = self.ask(Method::DELETE, path, &options).await;
        assert_eq!(code, 200, "{said}");
    }

    async fn let_go(&self, path: &str) {
        let patch = json!({ "metadata": { "finalizers": null } });
        assert_eq!(self.ask(Method::PATCH, path, &patch).await.0, 200);
    }
}

fn owner(object: &Value) -> Value {
    json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "blockOwnerDeletion": true,
        "name": object["metadata"]["name"], "uid": object["metadata"]["uid"],
    })
}

fn at(path: &str, name: &str) -> String {
    format!("{path}/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_background_dependents_of_all_kinds_go() {
    let c = Cluster::start().await;
    let argo = c.create(SHIPS, "argo", &[], false).await;
    let boat = c.create(SHIPS, "boat", &[&argo], false).await;
    c.create(MAPS, "of-argo", &[&argo], false).await;
    c.create(MAPS, "of-boat", &[&boat], false).await;
    // A built-in kind may own a custom one.
    let map = c.create(MAPS, "owner", &[], false).await;
    c.create(SHIPS, "of-map", &[&map], false).await;
    // One with another owner stays, and loses this one.
    let other = c.create(SHIPS, "other", &[], false).await;
    c.create(MAPS, "of-both", &[&argo, &other], false).await;

    // Custom kinds are deleted so by default.
    let (code, said) = c
        .ask(Method::DELETE, &at(SHIPS, "argo"), &Value::Null)
        .await;
    assert_eq!(code, 200, "{said}");
    for path in [
        at(SHIPS, "argo"),
        at(SHIPS, "boat"),
        at(MAPS, "of-argo"),
        at(MAPS, "of-boat"),
    ] {
        c.gone(&path).await;
    }
    let kept = c
        .until(&at(MAPS, "of-both"), |_, map| {
            let owners = map["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|all| all.len() == 1)
        })
        .await;
    assert_eq!(kept["metadata"]["ownerReferences"][0]["name"], "other");
    c.delete(&at(MAPS, "owner"), "Background").await;
    c.gone(&at(SHIPS, "of-map")).await;
    assert_eq!(
        c.ask(Method::GET, &at(SHIPS, "other"), &Value::Null)
            .await
            .0,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_foreground_an_owner_without_namespace_waits_for_its_dependents() {
    let c = Cluster::start().await;
    let black = c.create(FLEETS, "black", &[], false).await;
    let held = c.create(SHIPS, "held", &[&black], true).await;
    c.create(SHIPS, "free", &[&black], false).await;
    c.create(MAPS, "of-held", &[&held], false).await;
    c.delete(&at(FLEETS, "black"), "Foreground").await;
    c.gone(&at(SHIPS, "free")).await;
    let waiting = c
        .until(&at(SHIPS, "held"), |_, ship| {
            ship["metadata"]["deletionTimestamp"].is_string()
        })
        .await;
    // Dependents of what blocks are deleted in the foreground, too.
    let finalizers = waiting["metadata"]["finalizers"].to_string();
    assert!(finalizers.contains("test/hold"), "{finalizers}");
    let (code, fleet) = c.ask(Method::GET, &at(FLEETS, "black"), &Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(
        fleet["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    c.gone(&at(MAPS, "of-held")).await;
    c.let_go(&at(SHIPS, "held")).await;
    c.gone(&at(SHIPS, "held")).await;
    c.gone(&at(FLEETS, "black")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_a_custom_owner_stay_without_it() {
    let c = Cluster::start().await;
    let argo = c.create(SHIPS, "argo", &[], false).await;
    c.create(SHIPS, "boat", &[&argo], false).await;
    c.create(MAPS, "cargo", &[&argo], false).await;
    c.delete(&at(SHIPS, "argo"), "Orphan").await;
    c.gone(&at(SHIPS, "argo")).await;
    for path in [at(SHIPS, "boat"), at(MAPS, "cargo")] {
        let (code, left) = c.ask(Method::GET, &path, &Value::Null).await;
        assert_eq!(code, 200, "{path}");
        assert_eq!(left["metadata"].get("ownerReferences"), None, "{left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_objects_owned_goes_with_their_definition() {
    let c = Cluster::start().await;
    let argo = c.create(SHIPS, "argo", &[], false).await;
    let held = c.create(SHIPS, "held", &[], true).await;
    let black = c.create(FLEETS, "black", &[], false).await;
    c.create(MAPS, "of-argo", &[&argo], false).await;
    c.create(MAPS, "of-held", &[&held], false).await;
    c.create(MAPS, "of-argo-and-black", &[&argo, &black], false)
        .await;
    let definition = at(CRDS, "ships.sea.example.com");
    c.delete(&definition, "Background").await;
    c.gone(&at(SHIPS, "argo")).await;
    c.gone(&at(MAPS, "of-argo")).await;
    // As long as one object is held, its definition is, and what it owns.
    let (code, left) = c.ask(Method::GET, &definition, &Value::Null).await;
    assert_eq!(code, 200, "{left}");
    assert_eq!(
        c.ask(Method::GET, &at(MAPS, "of-held"), &Value::Null)
            .await
            .0,
        200
    );
    c.let_go(&at(SHIPS, "held")).await;
    c.gone(&definition).await;
    c.gone(&at(MAPS, "of-held")).await;
    // The other kind of the group is still there, and what it owns besides.
    let (code, both) = c
        .ask(Method::GET, &at(MAPS, "of-argo-and-black"), &Value::Null)
        .await;
    assert_eq!(code, 200, "{both}");
    c.delete(&at(FLEETS, "black"), "Background").await;
    c.gone(&at(MAPS, "of-argo-and-black")).await;
    // A kind that comes again collects again.
    c.define("ships", "Ship", "Namespaced").await;
    let again = c.create(SHIPS, "argo", &[], false).await;
    c.create(MAPS, "of-argo", &[&again], false).await;
    c.delete(&at(SHIPS, "argo"), "Background").await;
    c.gone(&at(MAPS, "of-argo")).await;
}
