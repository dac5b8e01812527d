//! Migrations of storage against the real API server, over a store whose values have upstream's form:
//! what lies there is looked at below the server.
#![expect(clippy::disallowed_methods, reason = "a real server, in real time")]

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use apiserver::admission::{Admit, Operation, Review};
use apiserver::filters::authz::AlwaysAllow;
use apiserver::storage::Upstream;
use apiserver::{ApiServer, State, UserInfo};
use client::Informers;
use common::{create, until};
use control::{Controller, Recorder};
use controllers::storage_migration::Migrations;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::storagemigration::v1beta1::StorageVersionMigration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use registry::Row;
use serde_json::{Value, json};
use store::{Memory, Op, Store, Txn};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How values begin that are stored as protobuf.
const PROTOBUF: &[u8] = b"k8s\0";

struct Cluster {
    client: Client,
    /// Below everything.
    store: Arc<dyn Store>,
    stop: CancellationToken,
    _end: DropGuard,
}

impl Cluster {
    /// Over what is stored already, with a plugin of admission more.
    async fn start(stored: &[(&str, Value)], admit: Option<Arc<dyn Admit>>) -> Self {
        let clock = clock::Clock::system();
        let store: Arc<dyn Store> = Arc::new(Memory::new(clock));
        for (key, value) in stored {
            let put = Op::Put {
                key: (*key).to_owned().into(),
                value: value.to_string().into(),
                expires_after_seconds: None,
            };
            let txn = Txn {
                compare: Vec::new(),
                ops: vec![put],
            };
            store.commit(txn).await.expect("stored");
        }
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let mut config = apiserver::Config::new(address, 6443, clock, clock::Random::system());
        let gates = ["StorageVersionMigrator=true"];
        let features = registry::Features::read(&gates).expect("a known gate");
        let apis = ["storagemigration.k8s.io/v1beta1=true"];
        let served = registry::served_versions::configured(&apis, &features).expect("a known API");
        config.settings.kinds = served.kinds;
        config.settings.features = Arc::new(features);
        config.authorizers = vec![Arc::new(AlwaysAllow)];
        config.admission.extend(admit);
        let stop = CancellationToken::new();
        let layered = Upstream::new(store.clone(), registry::kinds());
        let server = ApiServer::new(config, Arc::new(layered), stop.clone()).await;
        let server = server.expect("server");
        server.bootstrap().await.expect("first objects");
        let user = UserInfo::new("tester", &["system:masters"]);
        Self {
            client: client::in_process(server.local_service(user)),
            store,
            _end: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Has the controller do its work.
    fn migrate(&self) {
        let clock = clock::Clock::system();
        let informers = Informers::new(self.client.clone(), clock, clock::Random::system());
        let migrations = Migrations::new(&informers, self.client.clone());
        let recorder = Recorder::new(self.client.clone(), Migrations::NAME, "", clock);
        let (client, stop) = (self.client.clone(), self.stop.clone());
        tokio::spawn(control::run(migrations, client, recorder, stop));
    }

    async fn stored(&self, key: &str) -> Option<Vec<u8>> {
        let found = self.store.get(key.to_owned().into(), 0).await;
        found.expect("store").map(|kv| kv.value.to_vec())
    }

    fn migrations(&self) -> Api<StorageVersionMigration> {
        Api::all(self.client.clone())
    }

    /// Asks for a migration, and gives it as it is when nothing is left to be done.
    async fn ended(&self, name: &str) -> Value {
        let all = until(&self.migrations(), |all| {
            let found = all.iter().find(|one| one.name_any() == name);
            let one = found.map(value).unwrap_or_default();
            let ended = ["Succeeded", "Failed"].map(|kind| state(&one, kind) == "True");
            ended.contains(&true) && state(&one, "Running") != "True"
        })
        .await;
        let found = all.iter().find(|one| one.name_any() == name);
        found.map(value).expect("a migration")
    }
}

fn value<K: serde::Serialize>(object: &K) -> Value {
    serde_json::to_value(object).expect("a value")
}

static NOTHING: Value = Value::Null;

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|c| c["type"] == kind);
    found.unwrap_or(&NOTHING)
}

/// Of a condition; empty where it is not there.
fn state<'a>(object: &'a Value, kind: &str) -> &'a str {
    condition(object, kind)["status"]
        .as_str()
        .unwrap_or_default()
}

fn migration(name: &str, group: &str, resource: &str) -> Value {
    json!({ "metadata": { "name": name },
        "spec": { "resource": { "group": group, "resource": resource } } })
}

fn number(version: Option<&str>) -> u64 {
    version.and_then(|v| v.parse().ok()).expect("a version")
}

const MAPS: &str = "/registry/configmaps/default";

/// As a server wrote it that stored JSON.
fn old_map(name: &str) -> Value {
    json!({ "kind": "ConfigMap", "apiVersion": "v1", "data": { "k": "v" }, "metadata": {
        "name": name, "namespace": "default", "uid": format!("uid-of-{name}"),
        "creationTimestamp": "2026-01-01T00:00:00Z" } })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_in_an_older_encoding_is_stored_again() {
    let keys = ["a", "b"].map(|name| format!("{MAPS}/{name}"));
    let stored = [(&*keys[0], old_map("a")), (&*keys[1], old_map("b"))];
    let c = Cluster::start(&stored, None).await;
    let maps: Api<ConfigMap> = Api::namespaced(c.client.clone(), "default");
    let before = maps.get("a").await.expect("read in its old form");
    for key in &keys {
        let bytes = c.stored(key).await.expect("stored");
        assert!(bytes.starts_with(b"{"), "it lies there as it did");
    }
    c.migrate();
    create(&c.migrations(), migration("m", "", "configmaps")).await;
    let done = c.ended("m").await;
    assert_eq!(state(&done, "Succeeded"), "True", "{done}");
    let succeeded = condition(&done, "Succeeded");
    assert_eq!(succeeded["reason"], "StorageVersionMigrationSucceeded");
    let running = condition(&done, "Running");
    assert_eq!(running["status"], "False");
    assert_eq!(running["reason"], "MigrationCompleted");
    for key in &keys {
        let bytes = c.stored(key).await.expect("stored");
        assert!(bytes.starts_with(PROTOBUF), "{key} is stored as others are");
    }
    let after = maps.get("a").await.expect("there");
    assert_eq!((&after.data, after.uid()), (&before.data, before.uid()));
    let bound = number(done["status"]["resourceVersion"].as_str());
    let versions = [&before, &after].map(|map| number(map.resource_version().as_deref()));
    assert!(versions[0] <= bound && bound < versions[1], "{done}");
    // Once is enough: nothing is written where nothing would change.
    create(&c.migrations(), migration("again", "", "configmaps")).await;
    let done = c.ended("again").await;
    assert_eq!(state(&done, "Succeeded"), "True", "{done}");
    let again = maps.get("a").await.expect("there");
    assert_eq!(again.resource_version(), after.resource_version());
}

/// Of the kind that moves from one version to another.
fn ships(client: &Client, version: &str) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "sea.example.com".to_owned(),
        version: version.to_owned(),
        api_version: format!("sea.example.com/{version}"),
        kind: "Ship".to_owned(),
        plural: "ships".to_owned(),
    };
    Api::namespaced_with(client.clone(), "default", &resource)
}

const SHIPS: &str = "/registry/sea.example.com/ships/default";
const DEFINITION: &str = "ships.sea.example.com";

fn versions(stores: &str) -> Value {
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let version = |name: &str| {
        json!({ "name": name, "served": true, "storage": name == stores,
            "schema": { "openAPIV3Schema": schema } })
    };
    json!([version("v1"), version("v2")])
}

impl Cluster {
    fn definitions(&self) -> Api<CustomResourceDefinition> {
        Api::all(self.client.clone())
    }

    async fn definition(&self) -> Value {
        let found = self.definitions().get(DEFINITION).await;
        value(&found.expect("a definition"))
    }

    /// A kind that is stored as v1 at first, with an object of each name.
    async fn ships(&self, names: &[&str]) {
        let definition = json!({
            "metadata": { "name": DEFINITION },
            "spec": { "group": "sea.example.com", "scope": "Namespaced", "versions": versions("v1"),
                "names": { "plural": "ships", "kind": "Ship" } },
        });
        create(&self.definitions(), definition).await;
        until(&self.definitions(), |all| {
            let mut all = all.iter().map(value);
            all.any(|one| state(&one, "Established") == "True")
        })
        .await;
        for name in names {
            self.ship(name).await;
        }
    }

    async fn ship(&self, name: &str) -> DynamicObject {
        let ship = json!({ "apiVersion": "sea.example.com/v1", "kind": "Ship",
            "metadata": { "name": name } });
        let ship = serde_json::from_value(ship).expect("a ship");
        let api = ships(&self.client, "v1");
        let made = api.create(&PostParams::default(), &ship).await;
        made.expect("created")
    }

    async fn scrap(&self, name: &str) {
        let api = ships(&self.client, "v1");
        let deleted = api.delete(name, &DeleteParams::default()).await;
        deleted.expect("deleted");
    }

    /// From now on it is stored as v2: until what is stored is read so.
    async fn store_as_v2(&self) {
        let patch = json!({ "spec": { "versions": versions("v2") } });
        let patched = self
            .definitions()
            .patch(DEFINITION, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        patched.expect("patched");
        let key = format!("{SHIPS}/probe");
        loop {
            self.ship("probe").await;
            let bytes = self.stored(&key).await.unwrap_or_default();
            self.scrap("probe").await;
            if is_of(&bytes, "v2") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Whether a stored ship is of this version.
fn is_of(stored: &[u8], version: &str) -> bool {
    let read: Value = serde_json::from_slice(stored).unwrap_or_default();
    read["apiVersion"] == format!("sea.example.com/{version}")
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_custom_kind_older_versions_are_forgotten_when_nothing_lies_in_them() {
    let c = Cluster::start(&[], None).await;
    c.ships(&["argo", "boat"]).await;
    c.store_as_v2().await;
    let keys = ["argo", "boat"].map(|name| format!("{SHIPS}/{name}"));
    for key in &keys {
        assert!(is_of(&c.stored(key).await.expect("stored"), "v1"), "{key}");
    }
    let before = c.definition().await;
    assert_eq!(before["status"]["storedVersions"], json!(["v1", "v2"]));
    create(&c.migrations(), migration("m", "sea.example.com", "ships")).await;
    c.migrate();
    let done = c.ended("m").await;
    assert_eq!(state(&done, "Succeeded"), "True", "{done}");
    for key in &keys {
        assert!(is_of(&c.stored(key).await.expect("stored"), "v2"), "{key}");
    }
    let after = c.definition().await;
    assert_eq!(after["status"]["storedVersions"], json!(["v2"]));
    let told = condition(&after, "StorageMigrating");
    assert_eq!(told["status"], "False");
    assert_eq!(told["reason"], "MigrationSucceeded");
    assert_eq!(told["observedGeneration"], after["metadata"]["generation"]);
    assert_eq!(state(&after, "Established"), "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_or_changes_meanwhile_is_left_alone() {
    let c = Cluster::start(&[], None).await;
    c.ships(&["argo", "gone", "again"]).await;
    c.store_as_v2().await;
    // A migration that runs already: its version is noted, nothing was written yet.
    let made = create(&c.migrations(), migration("m", "sea.example.com", "ships")).await;
    let mut made = value(&made);
    let all = ships(&c.client, "v1").list(&Default::default()).await;
    let bound = all.expect("a list").metadata.resource_version;
    made["status"] = json!({ "resourceVersion": bound, "conditions": [
        { "type": "Running", "status": "True", "reason": "MigrationRunning", "message": "",
          "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
    let made = serde_json::from_value(made).expect("a migration");
    let noted = c
        .migrations()
        .replace_status("m", &PostParams::default(), &made)
        .await;
    noted.expect("noted");
    for name in ["gone", "again"] {
        c.scrap(name).await;
    }
    let again = c.ship("again").await;
    let before = c.definition().await;
    c.migrate();
    let done = c.ended("m").await;
    assert_eq!(state(&done, "Succeeded"), "True", "{done}");
    assert_eq!(done["status"]["resourceVersion"], json!(bound));
    let stored = c.stored(&format!("{SHIPS}/argo")).await.expect("stored");
    assert!(is_of(&stored, "v2"));
    assert_eq!(c.stored(&format!("{SHIPS}/gone")).await, None);
    let left = ships(&c.client, "v1").get("again").await.expect("there");
    assert_eq!(left.resource_version(), again.resource_version());
    // The definition does not say when it began: what may lie in which version is not known.
    let after = c.definition().await;
    let stored = |of: &Value| of["status"]["storedVersions"].clone();
    assert_eq!(stored(&after), stored(&before));
    let told = condition(&after, "StorageMigrating");
    assert_eq!(told["status"], "False");
    assert!(
        told["message"]
            .as_str()
            .is_some_and(|m| m.contains("generation mismatch")),
        "{told}"
    );
}

/// Refuses all updates of ConfigMaps.
struct Sealed;

impl Admit for Sealed {
    fn name(&self) -> &'static str {
        "Sealed"
    }
    fn handles(&self, operation: Operation, row: &Row, _: &str) -> bool {
        operation == Operation::Update && &*row.resource == "configmaps"
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let refused = review.forbidden("it is sealed");
        Box::pin(std::future::ready(Err(refused)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told() {
    let key = format!("{MAPS}/a");
    let c = Cluster::start(&[(&key, old_map("a"))], Some(Arc::new(Sealed))).await;
    c.migrate();
    for (name, resource, why) in [
        ("refused", "configmaps", "it is sealed"),
        // Served, but nobody can patch it.
        ("unfit", "componentstatuses", "componentstatuses"),
    ] {
        create(&c.migrations(), migration(name, "", resource)).await;
        let done = c.ended(name).await;
        let failed = condition(&done, "Failed");
        assert_eq!(failed["status"], "True", "{done}");
        assert_eq!(failed["reason"], "StorageVersionMigrationFailed");
        let message = failed["message"].as_str().unwrap_or_default();
        assert!(
            message.starts_with("migration encountered unhandled error: ") && message.contains(why),
            "{message}"
        );
        assert_eq!(state(&done, "Succeeded"), "");
    }
    assert!(c.stored(&key).await.expect("stored").starts_with(b"{"));
}
