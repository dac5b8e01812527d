//! Addresses of Services in clusters of both families and of several ranges: given, kept, added and
//! given back, by a real server.

mod common;

use std::collections::BTreeSet;

use apiserver::{ApiServer, Config};
use common::{ask, get, post, server_with};
use http::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn config(ranges: &str) -> Config {
    let mut config = common::open_config();
    config.settings.service_cidrs = ranges.parse().expect("ranges");
    config
}

async fn cluster(ranges: &str) -> ApiServer {
    server_with(config(ranges)).await
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

/// A further range, which waits for its controller.
async fn add(s: &ApiServer, name: &str, cidrs: Value) -> (u16, Value) {
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": name, "finalizers": ["networking.k8s.io/service-cidr-finalizer"] },
        "spec": { "cidrs": cidrs },
    });
    post(s, RANGES, range).await
}

/// What the controller says of it.
async fn say(s: &ApiServer, name: &str, ready: &str) {
    let uri = format!("{RANGES}/{name}");
    let (_, mut range) = get(s, &uri).await;
    range["status"] = json!({ "conditions": [{ "type": "Ready", "status": ready, "reason": "",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
    let (code, answer) = ask(s, Method::PUT, &format!("{uri}/status"), range).await;
    assert_eq!(code, 200, "{answer}");
}

async fn refused(s: &ApiServer, name: &str, spec: Value) -> (u16, String) {
    let (code, status) = post(s, SERVICES, service(name, spec)).await;
    let said = status["message"].as_str().unwrap_or_default();
    (code, said.to_owned())
}

const FULL: &str = "Internal error occurred: failed to allocate a serviceIP for Service \"late\": \
                    range is full";

#[tokio::test]
async fn a_further_range_gives_addresses_from_when_it_is_ready_until_it_is_to_go() {
    // Fourteen addresses, two of which the server's own Services have.
    let s = cluster("10.96.0.0/28").await;
    for i in 0..12 {
        let (code, one) = post(&s, SERVICES, service(&format!("s{i}"), json!({}))).await;
        assert_eq!(code, 201, "{one}");
        assert!(ips(&one)[0].starts_with("10.96.0."), "{one}");
    }
    let full = || refused(&s, "late", json!({}));
    assert_eq!(full().await, (500, FULL.to_owned()));
    let (code, more) = add(&s, "more", json!(["10.97.0.0/28", "fd00:97::/112"])).await;
    assert_eq!(code, 201, "{more}");
    let named = json!({ "clusterIP": "10.97.0.5" });
    let mismatched = "Service \"late\" is invalid: spec.clusterIPs: Invalid value: [\"10.97.0.5\"]: \
                      failed to allocate IP 10.97.0.5: the provided network does not match the \
                      current range";
    for ready in ["", "Unknown", "False"] {
        if !ready.is_empty() {
            say(&s, "more", ready).await;
        }
        assert_eq!(full().await, (500, FULL.to_owned()), "{ready}");
        let no = refused(&s, "late", named.clone()).await;
        assert_eq!(no, (422, mismatched.to_owned()), "{ready}");
    }
    say(&s, "more", "True").await;
    let (code, first) = post(&s, SERVICES, service("first", named.clone())).await;
    assert_eq!((code, ips(&first)), (201, vec!["10.97.0.5".to_owned()]));
    let (code, second) = post(&s, SERVICES, service("second", json!({}))).await;
    assert!(
        code == 201 && ips(&second)[0].starts_with("10.97.0."),
        "{second}"
    );
    let (code, said) = refused(&s, "late", named.clone()).await;
    let taken = "failed to allocate IP 10.97.0.5: provided IP is already allocated";
    assert!(code == 422 && said.ends_with(taken), "{said}");
    for edge in ["10.97.0.0", "10.97.0.15"] {
        let (code, said) = refused(&s, "late", json!({ "clusterIP": edge })).await;
        assert!(
            code == 422 && said.contains("current range"),
            "{edge}: {said}"
        );
    }

    let uri = format!("{RANGES}/more");
    let (code, going) = ask(&s, Method::DELETE, &uri, Value::Null).await;
    assert_eq!(code, 200, "{going}");
    let (_, going) = get(&s, &uri).await;
    assert!(
        going["metadata"]["deletionTimestamp"].is_string(),
        "{going}"
    );
    assert_eq!(full().await, (500, FULL.to_owned()));
    let none = json!({ "clusterIP": "10.97.0.6" });
    let (code, said) = refused(&s, "late", none).await;
    assert!(code == 422 && said.contains("current range"), "{said}");
    // Who has an address of it keeps it.
    let labels = json!({ "metadata": { "labels": { "a": "b" } } });
    let web = format!("{SERVICES}/first");
    let (code, kept) = ask(&s, Method::PATCH, &web, labels).await;
    assert_eq!((code, ips(&kept)), (200, ips(&first)), "{kept}");
    assert!(had(&s).await.contains("10.97.0.5"));
    ask(&s, Method::DELETE, &web, Value::Null).await;
    assert!(!had(&s).await.contains("10.97.0.5"));
    // What is free in a range that stays is given first.
    ask(&s, Method::DELETE, &format!("{SERVICES}/s3"), Value::Null).await;
    let (code, again) = post(&s, SERVICES, service("late", json!({}))).await;
    assert!(
        code == 201 && ips(&again)[0].starts_with("10.96.0."),
        "{again}"
    );
}

#[tokio::test]
async fn a_range_of_both_families_gives_addresses_of_both() {
    let s = cluster("10.96.0.0/28,fd00:96::/124").await;
    add(&s, "more", json!(["fd00:97::/112", "10.97.0.0/24"])).await;
    say(&s, "more", "True").await;
    let spec = json!({ "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"],
        "clusterIP": "fd00:97::7", "clusterIPs": ["fd00:97::7", "10.97.0.7"] });
    let (code, both) = post(&s, SERVICES, service("named", spec)).await;
    assert_eq!(code, 201, "{both}");
    assert_eq!(ips(&both), ["fd00:97::7", "10.97.0.7"]);
    let mut seen = BTreeSet::new();
    for i in 0..20 {
        let spec = json!({ "ipFamilyPolicy": "RequireDualStack" });
        let (code, one) = post(&s, SERVICES, service(&format!("s{i}"), spec)).await;
        let got = ips(&one);
        assert!(code == 201 && got.len() == 2, "{one}");
        assert!(
            got[0].starts_with("10.9") && got[1].starts_with("fd00:9"),
            "{one}"
        );
        seen.extend(got);
    }
    assert_eq!(seen.len(), 40, "{seen:?}");
    let of = |start: &str| seen.iter().filter(|ip| ip.starts_with(start)).count();
    // The first ranges have fourteen and fifteen addresses; DNS has two of them, the server one.
    assert_eq!(
        (of("10.97."), of("fd00:97:")),
        (20 - 12, 20 - 14),
        "{seen:?}"
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_range_is_said() {
    let s = cluster("10.96.0.0/16").await;
    for (cidrs, message) in [
        (
            json!([]),
            "spec.cidrs: Required value: at least one CIDR required",
        ),
        (
            json!(["10.1.0.0/24", "fd00::/64", "10.2.0.0/24"]),
            "may only hold up to 2 values",
        ),
        (
            json!(["10.1.0.0/24", "10.2.0.0/24"]),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ),
        (
            json!(["10.1.0.1/24"]),
            "must not have bits set beyond the prefix length",
        ),
        (
            json!(["10.1.0.1"]),
            "spec.cidrs[0]: Invalid value: \"10.1.0.1\": must be a valid CIDR value",
        ),
    ] {
        let (code, status) = add(&s, "bad", cidrs.clone()).await;
        let said = status["message"].as_str().unwrap_or_default();
        assert!(code == 422 && said.contains(message), "{cidrs}: {status}");
    }
    assert_eq!(add(&s, "more", json!(["10.1.0.0/24"])).await.0, 201);
    let uri = format!("{RANGES}/more");
    let change = async |cidrs: Value| {
        let patch = json!({ "spec": { "cidrs": cidrs } });
        ask(&s, Method::PATCH, &uri, patch).await
    };
    for (cidrs, message) in [
        (
            json!(["10.2.0.0/24"]),
            "spec.cidrs[0]: Invalid value: \"10.2.0.0/24\": field is immutable",
        ),
        (
            json!(["fd00::/64", "10.1.0.0/24"]),
            "spec.cidrs[0]: Invalid value: \"fd00::/64\"",
        ),
        (
            json!(["10.1.0.0/24", "10.2.0.0/24"]),
            "no more than one IP for each IP family",
        ),
        (json!([]), "field is immutable"),
    ] {
        let (code, status) = change(cidrs.clone()).await;
        let said = status["message"].as_str().unwrap_or_default();
        assert!(code == 422 && said.contains(message), "{cidrs}: {status}");
    }
    let (code, both) = change(json!(["10.1.0.0/24", "fd00::/64"])).await;
    assert_eq!(code, 200, "{both}");
    assert_eq!(change(json!(["10.1.0.0/24"])).await.0, 422);
}

/// The flag makes the first range and adds a family to it; otherwise what is stored holds.
#[tokio::test]
async fn another_flag_is_told_of_and_moves_nothing() {
    let store = common::memory::Checked::new();
    let at = async |ranges: &str| {
        let stop = CancellationToken::new();
        let s = ApiServer::new(config(ranges), store.clone(), stop.clone()).await;
        let s = s.expect("the store is readable");
        s.bootstrap().await.expect("first objects");
        (s, stop.drop_guard())
    };
    let default = async |s: &ApiServer| {
        let (_, range) = get(s, &format!("{RANGES}/kubernetes")).await;
        let ready = &range["status"]["conditions"][0];
        assert_eq!(
            (&ready["type"], &ready["status"]),
            (&json!("Ready"), &json!("True"))
        );
        range["spec"]["cidrs"].clone()
    };
    {
        let (s, _end) = at("10.96.0.0/24").await;
        assert_eq!(default(&s).await, json!(["10.96.0.0/24"]));
    }
    {
        let (s, _end) = at("10.96.0.0/24,fd00:96::/112").await;
        assert_eq!(default(&s).await, json!(["10.96.0.0/24", "fd00:96::/112"]));
        let spec = json!({ "ipFamilyPolicy": "RequireDualStack" });
        let (code, both) = post(&s, SERVICES, service("both", spec)).await;
        assert!(code == 201 && ips(&both).len() == 2, "{both}");
    }
    let (s, _end) = at("10.98.0.0/16").await;
    assert_eq!(default(&s).await, json!(["10.96.0.0/24", "fd00:96::/112"]));
    let (_, own) = get(&s, &format!("{SERVICES}/kubernetes")).await;
    assert_eq!(ips(&own), ["10.96.0.1"]);
    let (code, web) = post(&s, SERVICES, service("web", json!({}))).await;
    assert!(code == 201 && ips(&web)[0].starts_with("10.96.0."), "{web}");
    let (_, events) = get(&s, "/api/v1/namespaces/default/events").await;
    let told = events["items"].as_array().expect("a list").iter();
    let told: Vec<_> = told
        .filter(|e| e["involvedObject"]["kind"] == "ServiceCIDR")
        .collect();
    assert_eq!(told.len(), 1, "{events}");
    assert_eq!(
        told[0]["reason"],
        "KubernetesDefaultServiceCIDRInconsistent"
    );
    assert_eq!(
        told[0]["message"],
        "The default ServiceCIDR [10.96.0.0/24 fd00:96::/112] does not match the controller flag \
         configurations [10.98.0.0/16]"
    );
}

/// Addresses that somebody deleted or wrote by hand: a server that starts mends them.
#[tokio::test]
async fn services_and_their_addresses_belong_together() {
    let store = common::memory::Checked::new();
    // It looks through the addresses from its bootstrap on.
    let idle = async || {
        let stop = CancellationToken::new();
        let s = ApiServer::new(config("10.96.0.0/16"), store.clone(), stop.clone()).await;
        (s.expect("the store is readable"), stop.drop_guard())
    };
    let at = async || {
        let (s, end) = idle().await;
        s.bootstrap().await.expect("first objects");
        (s, end)
    };
    let (s, end) = at().await;
    let both = [("lost", "10.96.9.1"), ("taken", "10.96.9.2")];
    for (name, ip) in both {
        let (code, one) = post(&s, SERVICES, service(name, json!({ "clusterIP": ip }))).await;
        assert_eq!(code, 201, "{one}");
    }
    drop(end);
    // By one that mends nothing meanwhile.
    let (s, end) = idle().await;
    for (_, ip) in both {
        let uri = format!("{ADDRESSES}/{ip}");
        assert_eq!(ask(&s, Method::DELETE, &uri, Value::Null).await.0, 200);
    }
    let by_hand = |ip: &str, name: &str, labels: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": { "name": ip, "labels": labels },
            "spec": { "parentRef": { "resource": "services", "namespace": "default", "name": name } },
        })
    };
    let ours = json!({ "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" });
    for (ip, name, labels) in [
        ("10.96.9.2", "nobody", json!({})),
        ("10.96.9.3", "nobody", ours),
        ("10.96.9.4", "nobody", json!({})),
    ] {
        let (code, made) = post(&s, ADDRESSES, by_hand(ip, name, labels)).await;
        assert_eq!(code, 201, "{made}");
    }
    drop(end);
    let (s, _end) = at().await;
    let owner = async |ip: &str| {
        let (_, address) = get(&s, &format!("{ADDRESSES}/{ip}")).await;
        address["spec"]["parentRef"]["name"]
            .as_str()
            .map(str::to_owned)
    };
    // The look begins with the server, and nobody waits for it.
    while owner("10.96.9.3").await.is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(owner("10.96.9.1").await.as_deref(), Some("lost"));
    assert_eq!(owner("10.96.9.2").await.as_deref(), Some("taken"));
    assert_eq!(owner("10.96.9.4").await.as_deref(), Some("nobody"));
    let (_, events) = get(&s, "/api/v1/namespaces/default/events").await;
    let about = |name: &str| {
        let all = events["items"].as_array().expect("a list").iter();
        let mut of_it = all.filter(|e| e["involvedObject"]["name"] == name);
        of_it.next().map(|e| e["reason"].clone())
    };
    assert_eq!(
        about("lost"),
        Some(json!("ClusterIPNotAllocated")),
        "{events}"
    );
    assert_eq!(
        about("taken"),
        Some(json!("ClusterIPNotAllocated")),
        "{events}"
    );
}

/// A sample of `/metrics`, by its whole name.
async fn sample(s: &ApiServer, series: &str) -> Option<f64> {
    let (_, page) = get(s, "/metrics").await;
    let lines = page.as_str().expect("text").lines();
    let mut values = lines.filter_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    values.next()
}

#[tokio::test]
async fn what_services_get_is_counted() {
    let s = cluster("10.96.0.0/28").await;
    let of = |what: &str, labels: &str| {
        format!("kube_apiserver_clusterip_allocator_{what}{{cidr=\"10.96.0.0/28\"{labels}}}")
    };
    let total = |scope: &str| of("allocation_total", &format!(",scope=\"{scope}\""));
    let errors = |scope: &str| of("allocation_errors_total", &format!(",scope=\"{scope}\""));
    // The server's own Service has one already.
    let mut began = Vec::new();
    for series in [
        of("allocated_ips", ""),
        total("static"),
        total("dynamic"),
        of("allocation_duration_seconds_count", ""),
    ] {
        began.push(sample(&s, &series).await.unwrap_or_default());
    }
    let [taken, named, drawn, timed] = began[..] else {
        panic!("{began:?}");
    };
    let asked = json!({ "type": "NodePort", "ports": [{ "port": 80, "nodePort": 30_001 }] });
    for object in [
        service("a", json!({ "clusterIP": "10.96.0.9" })),
        service("c", asked.clone()),
        service("b", json!({ "type": "NodePort" })),
    ] {
        let (code, said) = post(&s, SERVICES, object).await;
        assert_eq!(code, 201, "{said}");
    }
    // Nobody gets anything by a dry run, or has failed to: as upstream's, it does not look whether
    // an address is free.
    had(&s).await;
    let again = service("d", json!({ "clusterIP": "10.96.0.9" }));
    let dry = format!("{SERVICES}?dryRun=All");
    assert_eq!(post(&s, &dry, again.clone()).await.0, 201);
    let other = service("d", json!({ "type": "NodePort" }));
    assert_eq!(post(&s, &dry, other).await.0, 201);
    assert_eq!(sample(&s, &errors("static")).await, None);
    assert_eq!(post(&s, SERVICES, again).await.0, 422);
    let port = service(
        "d",
        json!({ "type": "NodePort",
        "ports": [{ "port": 80, "nodePort": 30_001 }] }),
    );
    assert_eq!(post(&s, SERVICES, port).await.0, 422);

    // A list is of now; the page shows what the cache has.
    had(&s).await;
    let now = taken + 3.0;
    let ports = |what: &str| format!("kube_apiserver_nodeport_allocator_{what}");
    for (series, wanted) in [
        (of("allocated_ips", ""), now),
        (of("available_ips", ""), 14.0 - now),
        (total("static"), named + 1.0),
        (total("dynamic"), drawn + 2.0),
        (errors("static"), 1.0),
        (of("allocation_duration_seconds_count", ""), timed + 3.0),
        (ports("allocated_ports"), 2.0),
        (ports("available_ports"), 2766.0),
        (ports("allocation_total{scope=\"static\"}"), 1.0),
        (ports("allocation_total{scope=\"dynamic\"}"), 1.0),
        (ports("allocation_errors_total{scope=\"static\"}"), 1.0),
    ] {
        assert_eq!(sample(&s, &series).await, Some(wanted), "{series}");
    }
    let (code, said) = ask(&s, Method::DELETE, &format!("{SERVICES}/c"), Value::Null).await;
    assert_eq!(code, 200, "{said}");
    had(&s).await;
    assert_eq!(sample(&s, &ports("allocated_ports")).await, Some(1.0));
    assert_eq!(sample(&s, &of("allocated_ips", "")).await, Some(now - 1.0));
}
