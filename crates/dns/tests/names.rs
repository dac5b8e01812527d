//! The names of the specification, one after another.

use dns::answer::{QueryType, Zone, answer};
use dns::index::Index;
use expect_test::{Expect, expect};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

fn zone() -> Zone {
    Zone::new("cluster.local", 30, 5)
}

fn service(index: &mut Index, name: &str, spec: Value) {
    let metadata = json!({"namespace": "default", "name": name});
    let object = serde_json::from_value(json!({"metadata": metadata, "spec": spec}));
    index.service_event(Event::Apply(object.expect("a Service")));
}

fn slice(index: &mut Index, name: &str, service: &str, ports: Value, endpoints: Value) {
    let object = serde_json::from_value(json!({
        "metadata": {
            "namespace": "default", "name": name,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    }))
    .expect("an EndpointSlice");
    index.slice_event(Event::Apply(object));
}

fn index() -> Index {
    let mut index = Index::default();
    for namespace in ["default", "empty"] {
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}}));
        index.namespace_event(Event::Apply(object.expect("a Namespace")));
    }
    service(
        &mut index,
        "web",
        json!({
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::10"],
            "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        }),
    );
    service(
        &mut index,
        "db",
        json!({
            "clusterIP": "None", "ports": [{"name": "sql", "port": 5432}],
        }),
    );
    service(&mut index, "idle", json!({"clusterIP": "None"}));
    service(
        &mut index,
        "away",
        json!({"type": "ExternalName", "externalName": "Example.com"}),
    );
    service(
        &mut index,
        "alias",
        json!({
            "type": "ExternalName", "externalName": "web.default.svc.cluster.local",
        }),
    );
    let ports = json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]);
    slice(
        &mut index,
        "db-1",
        "db",
        ports.clone(),
        json!([
            {"addresses": ["10.244.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.244.1.6"], "conditions": {"ready": true}},
            {"addresses": ["10.244.1.7"], "conditions": {"ready": false}},
        ]),
    );
    slice(
        &mut index,
        "web-1",
        "web",
        json!([{"name": "http", "port": 8080}]),
        json!([
            {"addresses": ["10.244.0.9"]},
        ]),
    );
    index
}

fn check(name: &str, kind: QueryType, expected: Expect) {
    let answer = answer(&index(), &zone(), name, kind);
    expected.assert_eq(&answer.map_or("forward\n".to_owned(), |answer| answer.to_string()));
}

const ABSENT: &str = "cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 5\n";

fn check_nonexistent(name: &str) {
    let answer = answer(&index(), &zone(), name, QueryType::A).expect("ours");
    assert_eq!(
        answer.to_string(),
        format!("NXDOMAIN\nauthority {ABSENT}"),
        "{name}"
    );
}

fn check_empty(name: &str, kind: QueryType) {
    let answer = answer(&index(), &zone(), name, kind).expect("ours");
    assert_eq!(answer.to_string(), format!("authority {ABSENT}"), "{name}");
}

#[test]
fn services_with_addresses() {
    let name = "web.default.svc.cluster.local.";
    check(
        name,
        QueryType::A,
        expect![[r#"
        web.default.svc.cluster.local. 30 A 10.96.0.10
    "#]],
    );
    check(
        name,
        QueryType::Aaaa,
        expect![[r#"
        web.default.svc.cluster.local. 30 AAAA fd00::10
    "#]],
    );
    check(
        name,
        QueryType::Srv,
        expect![[r#"
        web.default.svc.cluster.local. 30 SRV 0 100 80 web.default.svc.cluster.local.
        web.default.svc.cluster.local. 30 SRV 0 100 53 web.default.svc.cluster.local.
        additional web.default.svc.cluster.local. 30 A 10.96.0.10
        additional web.default.svc.cluster.local. 30 AAAA fd00::10
    "#]],
    );
    check(
        "_http._tcp.web.default.svc.cluster.local",
        QueryType::Srv,
        expect![[r#"
        _http._tcp.web.default.svc.cluster.local. 30 SRV 0 100 80 web.default.svc.cluster.local.
        additional web.default.svc.cluster.local. 30 A 10.96.0.10
        additional web.default.svc.cluster.local. 30 AAAA fd00::10
    "#]],
    );
    check_nonexistent("_http._udp.web.default.svc.cluster.local");
    check_nonexistent("_other._tcp.web.default.svc.cluster.local");
}

#[test]
fn headless_services() {
    check(
        "db.default.svc.cluster.local",
        QueryType::A,
        expect![[r#"
        db.default.svc.cluster.local. 30 A 10.244.0.5
        db.default.svc.cluster.local. 30 A 10.244.1.6
    "#]],
    );
    check(
        "db-0.db.default.svc.cluster.local",
        QueryType::A,
        expect![[r#"
        db-0.db.default.svc.cluster.local. 30 A 10.244.0.5
    "#]],
    );
    check(
        "10-244-1-6.db.default.svc.cluster.local",
        QueryType::A,
        expect![[r#"
        10-244-1-6.db.default.svc.cluster.local. 30 A 10.244.1.6
    "#]],
    );
    check(
        "_sql._tcp.db.default.svc.cluster.local",
        QueryType::Srv,
        expect![[r#"
        _sql._tcp.db.default.svc.cluster.local. 30 SRV 0 50 5432 10-244-1-6.db.default.svc.cluster.local.
        _sql._tcp.db.default.svc.cluster.local. 30 SRV 0 50 5432 db-0.db.default.svc.cluster.local.
        additional 10-244-1-6.db.default.svc.cluster.local. 30 A 10.244.1.6
        additional db-0.db.default.svc.cluster.local. 30 A 10.244.0.5
    "#]],
    );
    check_nonexistent("10-244-1-7.db.default.svc.cluster.local");
    check_nonexistent("idle.default.svc.cluster.local");
    check_empty("db.default.svc.cluster.local", QueryType::Aaaa);
}

#[test]
fn other_names() {
    check(
        "away.default.svc.cluster.local",
        QueryType::A,
        expect![[r#"
        away.default.svc.cluster.local. 30 CNAME example.com.
    "#]],
    );
    check(
        "alias.default.svc.cluster.local",
        QueryType::A,
        expect![[r#"
        alias.default.svc.cluster.local. 30 CNAME web.default.svc.cluster.local.
        web.default.svc.cluster.local. 30 A 10.96.0.10
    "#]],
    );
    check(
        "alias.default.svc.cluster.local",
        QueryType::Cname,
        expect![[r#"
        alias.default.svc.cluster.local. 30 CNAME web.default.svc.cluster.local.
    "#]],
    );
    check(
        "dns-version.cluster.local",
        QueryType::Txt,
        expect![[r#"
        dns-version.cluster.local. 30 TXT "1.1.0"
    "#]],
    );
    check(
        "10-1-2-3.default.pod.cluster.local",
        QueryType::A,
        expect![[r#"
        10-1-2-3.default.pod.cluster.local. 30 A 10.1.2.3
    "#]],
    );
    check_nonexistent("10-1-2-3.nowhere.pod.cluster.local");
    check_nonexistent("no-address.default.pod.cluster.local");
}

#[test]
fn names_of_addresses() {
    check(
        "10.0.96.10.in-addr.arpa",
        QueryType::Ptr,
        expect![[r#"
        10.0.96.10.in-addr.arpa. 30 PTR web.default.svc.cluster.local.
    "#]],
    );
    check(
        "5.0.244.10.in-addr.arpa",
        QueryType::Ptr,
        expect![[r#"
        5.0.244.10.in-addr.arpa. 30 PTR db-0.db.default.svc.cluster.local.
    "#]],
    );
    check(
        "11.0.96.10.in-addr.arpa.",
        QueryType::Ptr,
        expect![[r#"
        forward
    "#]],
    );
    check(
        "9.0.244.10.in-addr.arpa",
        QueryType::Ptr,
        expect![[r#"
        9.0.244.10.in-addr.arpa. 30 PTR 10-244-0-9.web.default.svc.cluster.local.
    "#]],
    );
    let v6 = "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    check(
        v6,
        QueryType::Ptr,
        expect![[r#"
        0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. 30 PTR web.default.svc.cluster.local.
    "#]],
    );
    check(
        "8.8.8.8.in-addr.arpa",
        QueryType::Ptr,
        expect![[r#"
        forward
    "#]],
    );
}

#[test]
fn what_exists_without_records_and_what_does_not_exist() {
    for name in [
        "cluster.local",
        "svc.cluster.local",
        "pod.cluster.local",
        "default.svc.cluster.local",
        "empty.svc.cluster.local",
        "_tcp.web.default.svc.cluster.local",
        "_http._tcp.web.default.svc.cluster.local",
    ] {
        check_empty(name, QueryType::A);
    }
    for name in [
        "x.cluster.local",
        "nowhere.svc.cluster.local",
        "x.default.svc.cluster.local",
        "web.empty.svc.cluster.local",
        "x.web.default.svc.cluster.local",
        "a.b.c.web.default.svc.cluster.local",
        "www.example.com.default.svc.cluster.local",
        "sub.away.default.svc.cluster.local",
    ] {
        check_nonexistent(name);
    }
    check_empty("web.default.svc.cluster.local", QueryType::Txt);
    check(
        "www.example.com",
        QueryType::A,
        expect![[r#"
        forward
    "#]],
    );
    check(
        "notcluster.local",
        QueryType::A,
        expect![[r#"
        forward
    "#]],
    );
}

#[test]
fn a_namespace_is_there_with_its_first_service() {
    let mut index = index();
    let exists = |index: &Index, namespace: &str| {
        let name = format!("{namespace}.svc.cluster.local");
        let answer = answer(index, &zone(), &name, QueryType::A).expect("ours");
        !answer.nonexistent
    };
    let of = |namespace: &str| {
        let metadata = json!({"namespace": namespace, "name": "web"});
        let object = json!({"metadata": metadata, "spec": {"clusterIP": "None"}});
        serde_json::from_value(object).expect("a Service")
    };
    // Its own object may come later.
    index.service_event(Event::Apply(of("new")));
    for (namespace, expected) in [("new", true), ("ne", false), ("new1", false), ("z", false)] {
        assert_eq!(exists(&index, namespace), expected, "{namespace}");
    }
    index.service_event(Event::Delete(of("new")));
    assert!(!exists(&index, "new") && exists(&index, "empty"));
}

#[test]
fn pods_that_are_published_before_they_are_ready_have_names() {
    let mut index = index();
    // As the control plane writes them of a Service with publishNotReadyAddresses: ready, though
    // they do not serve or are about to end.
    let ports = json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]);
    let endpoint = |ip: &str, host: &str, serving: bool, terminating: bool| {
        json!({"addresses": [ip], "hostname": host, "conditions": {
            "ready": true, "serving": serving, "terminating": terminating,
        }})
    };
    let endpoints = json!([
        endpoint("10.244.0.5", "db-0", false, false),
        endpoint("10.244.1.6", "db-1", true, true),
    ]);
    slice(&mut index, "db-1", "db", ports, endpoints);
    for (name, kind, expected) in [
        (
            "db.default.svc.cluster.local",
            QueryType::A,
            expect![[r#"
                db.default.svc.cluster.local. 30 A 10.244.0.5
                db.default.svc.cluster.local. 30 A 10.244.1.6
            "#]],
        ),
        (
            "db-0.db.default.svc.cluster.local",
            QueryType::A,
            expect![[r#"
                db-0.db.default.svc.cluster.local. 30 A 10.244.0.5
            "#]],
        ),
        (
            "db-1.db.default.svc.cluster.local",
            QueryType::A,
            expect![[r#"
                db-1.db.default.svc.cluster.local. 30 A 10.244.1.6
            "#]],
        ),
    ] {
        let answer = answer(&index, &zone(), name, kind).expect("ours");
        expected.assert_eq(&answer.to_string());
    }
}

#[test]
fn an_endpoint_of_several_slices_is_named_once() {
    let mut index = index();
    let ports = |names: &[&str]| -> Value {
        let port = |name: &&str| json!({"name": name, "port": 5432, "protocol": "TCP"});
        names.iter().map(port).collect()
    };
    let named = |ip: &str| json!([{"addresses": [ip], "hostname": "db-0"}]);
    // The same port under another name, the same host at another address, and an endpoint twice.
    slice(
        &mut index,
        "db-1",
        "db",
        ports(&["sql", "again"]),
        named("10.244.0.5"),
    );
    slice(
        &mut index,
        "db-2",
        "db",
        ports(&["sql"]),
        named("10.244.0.5"),
    );
    slice(
        &mut index,
        "db-3",
        "db",
        ports(&["sql"]),
        named("10.244.0.6"),
    );
    let name = "db.default.svc.cluster.local";
    let answer = answer(&index, &zone(), name, QueryType::Srv).expect("ours");
    expect![[r#"
        db.default.svc.cluster.local. 30 SRV 0 33 5432 db-0.db.default.svc.cluster.local.
        additional db-0.db.default.svc.cluster.local. 30 A 10.244.0.5
        additional db-0.db.default.svc.cluster.local. 30 A 10.244.0.6
    "#]]
    .assert_eq(&answer.to_string());
}

#[test]
fn addresses_of_several_objects_are_kept_apart() {
    let mut index = index();
    // The same pod behind two Services.
    let endpoints = json!([{"addresses": ["10.244.0.5"], "hostname": "db-0"}]);
    let spec = json!({"clusterIP": "None"});
    service(&mut index, "other", spec);
    slice(&mut index, "other-1", "other", json!([]), endpoints);
    let name = "5.0.244.10.in-addr.arpa";
    check_in(
        &index,
        name,
        expect![[r#"
        5.0.244.10.in-addr.arpa. 30 PTR db-0.db.default.svc.cluster.local.
        5.0.244.10.in-addr.arpa. 30 PTR db-0.other.default.svc.cluster.local.
    "#]],
    );
    slice(&mut index, "db-1", "db", json!([]), json!([]));
    check_in(
        &index,
        name,
        expect![[r#"
        5.0.244.10.in-addr.arpa. 30 PTR db-0.other.default.svc.cluster.local.
    "#]],
    );
    slice(&mut index, "other-1", "other", json!([]), json!([]));
    assert_eq!(answer(&index, &zone(), name, QueryType::Ptr), None);
}

/// The names of an address.
fn check_in(index: &Index, name: &str, expected: Expect) {
    let answer = answer(index, &zone(), name, QueryType::Ptr).expect("ours");
    expected.assert_eq(&answer.to_string());
}

#[test]
fn the_zone_names_its_server() {
    check(
        "cluster.local",
        QueryType::Ns,
        expect![[r#"
        cluster.local. 30 NS ns.dns.cluster.local.
    "#]],
    );
    check(
        "cluster.local",
        QueryType::Soa,
        expect![[r#"
        cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 5
    "#]],
    );
}

/// The answer by a zone with other rules.
fn say(zone: &Zone, name: &str) -> String {
    let answer = answer(&index(), zone, name, QueryType::A).expect("ours");
    answer.to_string()
}

#[test]
fn a_corefiles_rules_of_names() {
    let name = "10-1-2-3.default.pod.cluster.local";
    let without = Zone {
        pods: false,
        ..zone()
    };
    assert!(
        say(&without, name).starts_with("NXDOMAIN") && !say(&zone(), name).contains("NXDOMAIN")
    );

    let empty = Zone {
        ignore_empty_service: true,
        ..zone()
    };
    let mut index = index();
    let spec = json!({"clusterIP": "10.96.0.11", "ports": [{"port": 80}]});
    service(&mut index, "hollow", spec);
    let exists = |zone: &Zone, name: &str| {
        let name = format!("{name}.default.svc.cluster.local");
        let answer = answer(&index, zone, &name, QueryType::A).expect("ours");
        !answer.nonexistent
    };
    assert!(exists(&zone(), "hollow") && !exists(&empty, "hollow") && exists(&empty, "web"));
    assert!(exists(&empty, "away"), "it has never endpoints");

    let named = Zone {
        pod_names: true,
        ..zone()
    };
    let target = |name: &str| json!({"kind": "Pod", "name": name, "namespace": "default"});
    slice(
        &mut index,
        "db-2",
        "db",
        json!([{"name": "sql", "port": 5432}]),
        json!([
            {"addresses": ["10.244.2.8"], "targetRef": target("db-x7")},
            {"addresses": ["10.244.2.9"], "targetRef": target("a.b")},
        ]),
    );
    for (label, by_rule, by_default) in [
        ("db-x7", true, false),
        ("10-244-2-8", false, true),
        ("10-244-2-9", true, true),
        ("db-0", true, true),
    ] {
        let name = format!("{label}.db.default.svc.cluster.local");
        let exists = |zone: &Zone| {
            let answer = answer(&index, zone, &name, QueryType::A);
            !answer.expect("ours").nonexistent
        };
        assert_eq!(
            (exists(&named), exists(&zone())),
            (by_rule, by_default),
            "{label}"
        );
    }
}

#[test]
fn what_is_gone_is_gone() {
    let mut index = index();
    let before = index.version();
    let named = |name: &str| json!({"metadata": {"namespace": "default", "name": name}});
    let service = || serde_json::from_value(named("db")).expect("a Service");
    index.service_event(Event::Delete(service()));
    // A second time it changes nothing, the zone's serial number neither.
    index.service_event(Event::Delete(service()));
    let mut slice = named("db-1");
    slice["addressType"] = json!("IPv4");
    slice["endpoints"] = json!([]);
    let slice = serde_json::from_value(slice).expect("an EndpointSlice");
    index.slice_event(Event::Delete(slice));
    assert_eq!(index.version(), before + 2);
    let name = "db.default.svc.cluster.local";
    assert!(answer(&index, &zone(), name, QueryType::A).is_some_and(|answer| answer.nonexistent));
    assert_eq!(
        answer(&index, &zone(), "5.0.244.10.in-addr.arpa", QueryType::Ptr),
        None
    );
}
