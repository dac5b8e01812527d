//! Addresses of Services in clusters of both families: given, kept, added and given back, by a real
//! server.

mod common;

use std::collections::BTreeSet;

use apiserver::ApiServer;
use common::{ask, get, post, server_with};
use http::Method;
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

async fn cluster(ranges: &str) -> ApiServer {
    let mut config = common::open_config();
    config.settings.service_cidrs = ranges.parse().expect("ranges");
    server_with(config).await
}

fn service(name: &str, spec: Value) -> Value {
    let mut whole = json!({ "ports": [{ "port": 80 }], "selector": { "app": "a" } });
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": whole })
}

fn ips(object: &Value) -> Vec<String> {
    let list = object["spec"]["clusterIPs"].as_array();
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// Names of all addresses that are had.
async fn had(s: &ApiServer) -> BTreeSet<String> {
    let (_, list) = get(s, ADDRESSES).await;
    let items = list["items"].as_array().expect("a list");
    let names = items.iter().filter_map(|a| a["metadata"]["name"].as_str());
    names.map(str::to_owned).collect()
}

async fn patched(s: &ApiServer, name: &str, spec: Value) -> (u16, Value) {
    let uri = format!("{SERVICES}/{name}");
    ask(s, Method::PATCH, &uri, json!({ "spec": spec })).await
}

#[tokio::test]
async fn a_cluster_of_both_families_begins_with_addresses_of_both() {
    let s = cluster("10.96.0.0/16,fd00:10:96::/112").await;
    let (_, range) = get(&s, "/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await;
    let both = json!(["10.96.0.0/16", "fd00:10:96::/112"]);
    assert_eq!(range["spec"]["cidrs"], both);
    let (_, own) = get(&s, &format!("{SERVICES}/kubernetes")).await;
    assert_eq!(ips(&own), ["10.96.0.1"]);
    let (_, dns) = get(&s, "/api/v1/namespaces/kube-system/services/kube-dns").await;
    assert_eq!(ips(&dns), ["10.96.0.10", "fd00:10:96::a"]);
    assert_eq!(dns["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));

    let alone = cluster("fd00:10:96::/112").await;
    let (_, own) = get(&alone, &format!("{SERVICES}/kubernetes")).await;
    assert_eq!(ips(&own), ["fd00:10:96::1"]);
    let (_, dns) = get(&alone, "/api/v1/namespaces/kube-system/services/kube-dns").await;
    assert_eq!(dns["spec"]["ipFamilyPolicy"], "SingleStack");
    let (code, web) = post(&alone, SERVICES, service("web", json!({}))).await;
    assert_eq!((code, &web["spec"]["ipFamilies"]), (201, &json!(["IPv6"])));
}

#[tokio::test]
async fn a_service_gets_a_second_address_and_gives_it_back() {
    let s = cluster("10.96.0.0/16,fd00:10:96::/112").await;
    let (_, one) = post(&s, SERVICES, service("web", json!({}))).await;
    let first = ips(&one);
    assert!(first.len() == 1 && first[0].starts_with("10.96."), "{one}");
    let (code, two) = patched(&s, "web", json!({ "ipFamilyPolicy": "RequireDualStack" })).await;
    let both = ips(&two);
    assert_eq!((code, both.len(), &both[0]), (200, 2, &first[0]), "{two}");
    assert!(both[1].starts_with("fd00:10:96::"), "{two}");
    assert!(had(&s).await.contains(&both[1]));
    // Nobody else gets it while it is had.
    let named = json!({ "clusterIP": both[1] });
    let (code, taken) = post(&s, SERVICES, service("twin", named.clone())).await;
    let said = taken["message"].as_str().unwrap_or_default();
    assert_eq!(code, 422, "{taken}");
    assert!(said.contains("provided IP is already allocated"), "{said}");
    // A write that leaves out what the server chose keeps it.
    let mut again = service("web", json!({}));
    again["metadata"]["resourceVersion"] = two["metadata"]["resourceVersion"].clone();
    let (code, kept) = ask(&s, Method::PUT, &format!("{SERVICES}/web"), again).await;
    assert_eq!((code, ips(&kept)), (200, both.clone()), "{kept}");

    let (code, back) = patched(&s, "web", json!({ "ipFamilyPolicy": "SingleStack" })).await;
    assert_eq!((code, ips(&back)), (200, first.clone()), "{back}");
    assert!(!had(&s).await.contains(&both[1]));
    let (code, twin) = post(&s, SERVICES, service("twin", named)).await;
    assert_eq!((code, ips(&twin)), (201, vec![both[1].clone()]), "{twin}");

    let require = json!({ "ipFamilyPolicy": "RequireDualStack" });
    let (_, new) = post(&s, SERVICES, service("new", require)).await;
    assert_eq!(ips(&new).len(), 2, "{new}");
    let uri = format!("{SERVICES}/new");
    ask(&s, Method::DELETE, &uri, Value::Null).await;
    let left = had(&s).await;
    assert!(ips(&new).iter().all(|ip| !left.contains(ip)), "{left:?}");
}

#[tokio::test]
async fn what_the_cluster_has_not_is_refused_where_it_was_asked_for() {
    let s = cluster("10.96.0.0/16").await;
    for (spec, field) in [
        (
            json!({ "ipFamilyPolicy": "RequireDualStack" }),
            "spec.ipFamilyPolicy",
        ),
        (json!({ "ipFamilies": ["IPv6"] }), "spec.ipFamilies[0]"),
        (
            json!({ "clusterIP": "fd00:10:96::5" }),
            "spec.clusterIPs[0]",
        ),
    ] {
        let (code, status) = post(&s, SERVICES, service("web", spec.clone())).await;
        assert_eq!(code, 422, "{spec}: {status}");
        assert_eq!(status["details"]["causes"][0]["field"], field, "{status}");
    }
    let prefer = json!({ "ipFamilyPolicy": "PreferDualStack" });
    let (code, one) = post(&s, SERVICES, service("web", prefer)).await;
    assert_eq!((code, ips(&one).len()), (201, 1), "{one}");
    let bare = json!({ "clusterIP": "None", "selector": null });
    let (code, headless) = post(&s, SERVICES, service("bare", bare)).await;
    assert_eq!(code, 201, "{headless}");
    assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
}
