//! Upstream's layout at the edge to the store: keys, encodings, both directions, and what an
//! independent implementation makes of it.

mod common;
#[path = "../../schema/tests/common/mod.rs"]
mod full;

use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::cache::encode;
use apiserver::storage::{Layout, Upstream};
use bytes::Bytes;
use common::ships::{install, ships};
use common::{ask, get, post};
use http::Method;
use k8s_pb::api::core::v1::{ConfigMap, Endpoints, Pod, RangeAllocation, Service};
use k8s_pb::apimachinery::pkg::runtime::{TypeMeta, Unknown};
use prost::Message;
use registry::kinds::type_name;
use serde_json::{Value, json};
use store::{Embedded, KeyValue, Op, Options, Outcome, Store, Txn};
use tokio_util::sync::CancellationToken;

const PRIVATE: &str = "/tiphys/";
const CMS: &str = "/api/v1/namespaces/default/configmaps";

/// Where upstream's objects lie that do not lie under their resource's name.
const SPECIAL: &[(&str, &str)] = &[
    ("/replicationcontrollers", "/registry/controllers"),
    ("/endpoints", "/registry/services/endpoints"),
    ("/nodes", "/registry/minions"),
    ("/services", "/registry/services/specs"),
    ("networking.k8s.io/ingresses", "/registry/ingress"),
    (
        "apiextensions.k8s.io/customresourcedefinitions",
        "/registry/apiextensions.k8s.io/customresourcedefinitions",
    ),
    (
        "apiregistration.k8s.io/apiservices",
        "/registry/apiregistration.k8s.io/apiservices",
    ),
];

/// Versions in which upstream's v1.36 stores what it does not store in its preferred one.
const OLDER: &[(&str, &str)] = &[
    ("events.k8s.io/events", "v1"),
    (
        "coordination.k8s.io/leasecandidates",
        "coordination.k8s.io/v1beta1",
    ),
    (
        "admissionregistration.k8s.io/mutatingadmissionpolicies",
        "admissionregistration.k8s.io/v1beta1",
    ),
    (
        "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
        "admissionregistration.k8s.io/v1beta1",
    ),
    (
        "certificates.k8s.io/clustertrustbundles",
        "certificates.k8s.io/v1beta1",
    ),
    (
        "certificates.k8s.io/podcertificaterequests",
        "certificates.k8s.io/v1beta1",
    ),
    (
        "resource.k8s.io/devicetaintrules",
        "resource.k8s.io/v1alpha3",
    ),
    (
        "resource.k8s.io/resourcepoolstatusrequests",
        "resource.k8s.io/v1alpha3",
    ),
    ("scheduling.k8s.io/workloads", "scheduling.k8s.io/v1alpha2"),
    ("scheduling.k8s.io/podgroups", "scheduling.k8s.io/v1alpha2"),
];

fn stored_rows() -> impl Iterator<Item = &'static Arc<registry::Row>> {
    let rows = registry::kinds::kinds().rows().iter();
    rows.filter(|r| !r.virtual_kind)
}

#[test]
fn prefixes_and_versions_are_upstreams() {
    for row in stored_rows() {
        let name = format!("{}/{}", row.group, row.resource);
        let special = SPECIAL.iter().find(|(n, _)| *n == name).map(|(_, p)| *p);
        let plain = format!("/registry/{}", row.resource);
        assert_eq!(&*row.storage_prefix, special.unwrap_or(&plain), "{name}");
        let older = OLDER.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        let preferred = match &*row.group {
            "" => row.versions[0].version.to_string(),
            group => format!("{group}/{}", row.versions[0].version),
        };
        assert_eq!(
            row.storage_api_version(),
            older.unwrap_or(&preferred),
            "{name}"
        );
    }
}

/// A full object of a row's storage version, as the server would store it.
fn sample(row: &registry::Row) -> Bytes {
    let table = schema::builtin();
    let name = type_name(&row.storage_group, &row.storage_version, &row.kind);
    let id = table.by_name(&name).unwrap_or_else(|| panic!("no {name}"));
    let mut object = full::full(table, id);
    object["kind"] = (&*row.kind).into();
    object["apiVersion"] = row.storage_api_version().into();
    let meta = object["metadata"].as_object_mut().expect("metadata");
    meta.remove("resourceVersion");
    meta.remove("selfLink");
    let normal = schema::decode::value(table, id, object).expect("fits its type");
    encode(&normal.value)
}

fn key(row: &registry::Row) -> String {
    match row.namespaced {
        true => format!("{}/ns/name", row.storage_prefix),
        false => format!("{}/name", row.storage_prefix),
    }
}

#[test]
fn every_kind_is_read_as_it_was_written() {
    let layout = Layout::new(registry::kinds::kinds());
    for row in stored_rows() {
        let form = layout.of(key(row).as_bytes()).expect("a form");
        let json = sample(row);
        let stored = form.write(&json).expect("can be written");
        let as_json = ["apiextensions.k8s.io", "apiregistration.k8s.io"];
        if as_json.contains(&&*row.group) {
            assert_eq!(stored, json, "{row:?}");
        } else {
            let raw = stored.strip_prefix(b"k8s\0").expect("the magic");
            let unknown = Unknown::decode(raw).expect("the envelope");
            let meta = unknown.type_meta.expect("a type");
            assert_eq!(meta.api_version, Some(row.storage_api_version()));
            assert_eq!(meta.kind.as_deref(), Some(&*row.kind));
        }
        // Else each write would store it again, also one that changes nothing.
        assert!(!form.is_outdated(&stored), "{row:?}");
        let back = form.read(&stored).expect("can be read");
        assert_eq!(text(&back), text(&json), "{row:?}");
        // What another server wrote as JSON is read, too, whatever its order.
        let other: Value = serde_json::from_slice(&json).expect("json");
        let other = Bytes::from(format!("{other}\n"));
        assert_eq!(form.is_outdated(&other), form.is_proto(), "{row:?}");
        assert_eq!(
            text(&form.read(&other).expect("can be read")),
            text(&json),
            "{row:?}"
        );
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// JSON → protobuf → JSON → the store → YAML, for every stored kind in each of its versions, with all
/// fields: what comes out is what went in. (That the protobuf is what another encoder makes of it:
/// `crates/schema/tests/k8s_pb.rs`.)
#[test]
fn an_object_stays_as_it_is_on_its_way_through_all_forms() {
    let layout = Layout::new(registry::kinds::kinds());
    let table = schema::builtin();
    let mut seen = 0;
    for row in stored_rows() {
        let stored = row.storage_api_version();
        for version in &row.versions {
            let (id, api_version) = (
                version.ty.id(),
                api::GroupVersion::new(&row.group, &version.version).to_string(),
            );
            let mut object = full::full(table, id);
            object["kind"] = (&*row.kind).into();
            object["apiVersion"] = api_version.as_str().into();
            let meta = object["metadata"].as_object_mut().expect("metadata");
            meta.remove("resourceVersion");
            meta.remove("selfLink");
            let json = object.to_string();
            let decoded = schema::decode::json(table, id, json.as_bytes()).expect("JSON");
            assert_eq!(decoded.value, object, "{row:?}");
            let mut now = decoded.value;
            if version.ty.table().get(id).has_proto() {
                let message = schema::proto::encode(table, id, &now).expect("protobuf");
                let mut back = schema::proto::decode(table, id, &message).expect("protobuf");
                for field in ["kind", "apiVersion"] {
                    back[field] = now[field].clone();
                }
                now = back;
            }
            if api_version == stored {
                let form = layout.of(key(row).as_bytes()).expect("a form");
                let written = form.write(&encode(&now)).expect("it can be stored");
                let read = form.read(&written).expect("it can be read");
                now = serde_json::from_slice(&read).expect("JSON");
            }
            let yaml = serde_norway::to_string(&now).expect("YAML");
            let read = schema::decode::yaml(yaml.as_bytes()).expect("YAML");
            assert_eq!(read.value, object, "{api_version} {row:?}");
            seen += 1;
        }
    }
    assert!(seen > 80, "{seen} kinds");
}

#[test]
fn keys_of_others_have_no_form() {
    let layout = Layout::new(registry::kinds::kinds());
    for key in [
        "/registry/example.com/widgets/default/w",
        "/registry/example.com/globals/g",
    ] {
        assert!(
            layout
                .of(key.as_bytes())
                .is_some_and(|form| !form.is_proto()),
            "{key}"
        );
    }
    for key in [
        format!("{PRIVATE}fences/kube-system/x"),
        "compact_rev_key".into(),
        "/registry/pods".into(),
        "/registry/health".into(),
        "/registry/example.com/widgets".into(),
        "/registry/example.com/widgets/default/w/more".into(),
    ] {
        assert!(layout.of(key.as_bytes()).is_none(), "{key}");
    }
}

struct ServerWithStore {
    _dir: tempfile::TempDir,
    raw: Arc<Embedded>,
    server: ApiServer,
}

async fn server_on(raw: &Arc<Embedded>) -> ApiServer {
    let config = common::open_config();
    let store = Upstream::new(raw.clone(), registry::kinds::kinds());
    ApiServer::new(config, Arc::new(store), CancellationToken::new())
        .await
        .expect("the store is readable")
}

async fn place() -> ServerWithStore {
    let dir = tempfile::tempdir().expect("dir");
    let raw = Arc::new(Embedded::open(dir.path(), Options::default()).expect("open"));
    let server = server_on(&raw).await;
    server.bootstrap().await.expect("first objects");
    ServerWithStore {
        _dir: dir,
        raw,
        server,
    }
}

impl ServerWithStore {
    async fn raw(&self, key: &str) -> KeyValue {
        let found = self.raw.get(key.to_owned().into(), 0).await.expect("get");
        found.unwrap_or_else(|| panic!("no {key}"))
    }

    async fn put(&self, key: &str, value: impl Into<Bytes>) -> u64 {
        let op = Op::Put {
            key: key.to_owned().into(),
            value: value.into(),
            expires_after_seconds: None,
        };
        let txn = Txn {
            compare: Vec::new(),
            ops: vec![op],
        };
        match self.raw.commit(txn).await.expect("commit") {
            Outcome::Committed(revision) => revision,
            Outcome::Refused(_) => panic!("refused"),
        }
    }

    async fn open<M: Message + Default>(&self, key: &str) -> M {
        let kv = self.raw(key).await;
        let raw = kv.value.strip_prefix(b"k8s\0").expect("the magic");
        let unknown = Unknown::decode(raw).expect("the envelope");
        M::decode(unknown.raw.unwrap_or_default().as_slice()).expect("the message")
    }
}

/// A message as upstream stores it.
fn closed(api_version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(TypeMeta {
            api_version: Some(api_version.into()),
            kind: Some(kind.into()),
        }),
        raw: Some(message.encode_to_vec()),
        content_encoding: Some(String::new()),
        content_type: Some(String::new()),
    };
    let mut out = b"k8s\0".to_vec();
    out.extend(unknown.encode_to_vec());
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn another_implementation_reads_what_is_stored() {
    let p = place().await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "labels": { "a": "b" } },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    let (code, made) = post(&p.server, "/api/v1/namespaces/default/pods", pod).await;
    assert_eq!(code, 201, "{made}");
    let pod: Pod = p.open("/registry/pods/default/p").await;
    let meta = pod.metadata.expect("metadata");
    assert_eq!(meta.uid.as_deref(), made["metadata"]["uid"].as_str());
    assert_eq!(meta.resource_version.unwrap_or_default(), "");
    assert_eq!(
        pod.spec.expect("spec").containers[0].image.as_deref(),
        Some("i")
    );

    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s" },
        "spec": { "type": "NodePort", "ports": [{ "port": 80 }] },
    });
    let (code, made) = post(&p.server, "/api/v1/namespaces/default/services", service).await;
    assert_eq!(code, 201, "{made}");
    let service: Service = p.open("/registry/services/specs/default/s").await;
    let spec = service.spec.expect("spec");
    assert_eq!(
        spec.cluster_ip.as_deref(),
        made["spec"]["clusterIP"].as_str()
    );
    let ports: RangeAllocation = p.open("/registry/ranges/servicenodeports").await;
    assert_eq!(ports.range.as_deref(), Some("30000-32767"));
    assert_eq!(
        ports
            .data
            .expect("bits")
            .iter()
            .map(|b| b.count_ones())
            .sum::<u32>(),
        1
    );
    let endpoints: Endpoints = p
        .open("/registry/services/endpoints/default/kubernetes")
        .await;
    assert_eq!(endpoints.subsets.len(), 1);

    // The next one sees the port that is taken.
    let taken = &made["spec"]["ports"][0]["nodePort"];
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "t" },
        "spec": { "type": "NodePort", "ports": [{ "port": 80, "nodePort": taken }] },
    });
    let (code, refused) = post(&p.server, "/api/v1/namespaces/default/services", service).await;
    assert_eq!(code, 422, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_implementation_stored_is_read() {
    let p = place().await;
    let mut cm = ConfigMap::default();
    let meta = cm.metadata.get_or_insert_default();
    (meta.name, meta.namespace) = (Some("theirs".into()), Some("default".into()));
    meta.uid = Some("u".into());
    cm.data.insert("a".into(), "b".into());
    let value = closed("v1", "ConfigMap", &cm);
    let revision = p.put("/registry/configmaps/default/theirs", value).await;
    // Once by the watch, once by a server that starts.
    for server in [p.server.clone(), server_on(&p.raw).await] {
        let (code, read) = get(&server, &format!("{CMS}/theirs")).await;
        assert_eq!((code, &read["data"]["a"]), (200, &json!("b")), "{read}");
        assert_eq!(read["metadata"]["resourceVersion"], revision.to_string());
    }
    let patch = json!({ "data": { "c": "d" } });
    let uri = format!("{CMS}/theirs");
    let (code, changed) = ask(&p.server, Method::PATCH, &uri, patch).await;
    assert_eq!(code, 200, "{changed}");
    let cm: ConfigMap = p.open("/registry/configmaps/default/theirs").await;
    assert_eq!(cm.data.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn older_versions_and_json_are_read() {
    let p = place().await;
    let mut hpa = k8s_pb::api::autoscaling::v1::HorizontalPodAutoscaler::default();
    let meta = hpa.metadata.get_or_insert_default();
    (meta.name, meta.namespace) = (Some("h".into()), Some("default".into()));
    let spec = hpa.spec.get_or_insert_default();
    (spec.max_replicas, spec.target_cpu_utilization_percentage) = (Some(7), Some(50));
    let value = closed("autoscaling/v1", "HorizontalPodAutoscaler", &hpa);
    p.put("/registry/horizontalpodautoscalers/default/h", value)
        .await;
    let uri = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h";
    let (code, read) = get(&p.server, uri).await;
    assert_eq!(
        (code, &read["spec"]["maxReplicas"]),
        (200, &json!(7)),
        "{read}"
    );
    assert_eq!(
        read["spec"]["metrics"][0]["resource"]["name"], "cpu",
        "{read}"
    );

    let crd = json!({
        "kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1beta1",
        "metadata": { "name": "as.x.io", "uid": "u", "creationTimestamp": null },
        "spec": {
            "group": "x.io", "version": "v1", "scope": "Namespaced",
            "names": { "plural": "as", "kind": "A" },
            "versions": [{ "name": "v1", "served": true, "storage": true }],
            "validation": { "openAPIV3Schema": { "type": "object" } },
        },
    });
    let key = "/registry/apiextensions.k8s.io/customresourcedefinitions/as.x.io";
    p.put(key, format!("{crd}\n")).await;
    let uri = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/as.x.io";
    let (code, read) = get(&p.server, uri).await;
    let schema = &read["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["type"];
    assert_eq!((code, schema), (200, &json!("object")), "{read}");
    assert_eq!(read["apiVersion"], "apiextensions.k8s.io/v1");
}

/// Upstream sorts the members of custom objects: some come before the type and the metadata, and
/// look like it.
#[tokio::test(flavor = "multi_thread")]
async fn custom_objects_are_json_below_group_and_resource() {
    const SHIPS: &str = "/apis/sea.example.com/v1/namespaces/default/ships";
    let p = place().await;
    install(&p.server, ships(&[])).await;
    let theirs = concat!(
        r#"{"apiVersion":"sea.example.com/v1","hold":{"metadata":{"a":"b"}},"kind":"Ship","#,
        r#""metadata":{"creationTimestamp":"2026-01-02T03:04:05Z","generation":1,"name":"argo","#,
        r#""namespace":"default","uid":"u"},"spec":{"helmsman":"tiphys"}}"#,
        "\n",
    );
    let key = "/registry/sea.example.com/ships/default/argo";
    let revision = p.put(key, theirs).await;
    p.server.state().reach(revision).await.expect("it is seen");
    let (code, found) = get(&p.server, &format!("{SHIPS}/argo")).await;
    assert_eq!((code, &found["spec"]["helmsman"]), (200, &json!("tiphys")));
    assert_eq!(found["metadata"]["resourceVersion"], revision.to_string());
    assert_eq!(found["hold"]["metadata"], json!({ "a": "b" }));
    let (_, list) = get(&p.server, SHIPS).await;
    assert_eq!(list["items"][0]["metadata"]["name"], "argo");
    assert_eq!(list["items"][0]["hold"], found["hold"]);

    let ours = json!({
        "apiVersion": "sea.example.com/v1", "kind": "Ship", "metadata": { "name": "pegasus" },
        "spec": { "helmsman": "nauplius" },
    });
    assert_eq!(post(&p.server, SHIPS, ours).await.0, 201);
    let stored = p
        .raw("/registry/sea.example.com/ships/default/pegasus")
        .await;
    let stored: Value = serde_json::from_slice(&stored.value).expect("JSON");
    assert_eq!(stored["spec"]["helmsman"], "nauplius");
    assert_eq!(stored["metadata"].get("resourceVersion"), None);
    // Those that were there are read by a server that starts.
    let again = server_on(&p.raw).await;
    install(&again, ships(&[])).await;
    let (_, list) = get(&again, SHIPS).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_are_upstreams_or_below_one_prefix() {
    let p = place().await;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "l" }, "spec": { "holderIdentity": "me" },
    });
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    assert_eq!(post(&p.server, leases, lease).await.0, 201);
    let page = p
        .raw
        .range(Bytes::new(), Bytes::new(), 0, 0)
        .await
        .expect("range");
    assert!(page.items.len() > 50);
    let mut private = Vec::new();
    for kv in &page.items {
        let key = text(&kv.key);
        match key.strip_prefix(PRIVATE) {
            Some(rest) => private.push(rest.to_owned()),
            None => assert!(key.starts_with("/registry/"), "{key}"),
        }
        assert!(!text(&kv.value).contains("\"resourceVersion\":"), "{key}");
    }
    assert_eq!(private, ["fences/kube-system/l"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_changes_nothing_writes_nothing() {
    let p = place().await;
    for (uri, object) in [
        (
            CMS,
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": {}, "immutable": false }),
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "spec": {
                    "selector": { "matchLabels": { "a": "b" } },
                    "template": {
                        "metadata": { "labels": { "a": "b" }, "annotations": {} },
                        "spec": { "containers": [{ "name": "c", "image": "i", "args": [] }] },
                    },
                },
            }),
        ),
        (
            "/api/v1/namespaces/default/services",
            json!({
                "apiVersion": "v1", "kind": "Service",
                "spec": { "ports": [{ "port": 80 }], "selector": {} },
            }),
        ),
    ] {
        let mut object = object;
        object["metadata"] = json!({ "name": "same" });
        let (code, made) = post(&p.server, uri, object.clone()).await;
        assert_eq!(code, 201, "{made}");
        let uri = format!("{uri}/same");
        let (_, read) = get(&p.server, &uri).await;
        let (code, put) = ask(&p.server, Method::PUT, &uri, read.clone()).await;
        assert_eq!(code, 200, "{put}");
        assert_eq!(
            put["metadata"]["resourceVersion"], read["metadata"]["resourceVersion"],
            "{uri}"
        );
    }
}
