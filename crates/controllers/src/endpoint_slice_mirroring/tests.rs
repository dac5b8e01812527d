//! Endpoints and what becomes of them.

use std::sync::Arc;

use control::Action;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::plan::{Observed, plan};
use super::subsets::repack;

fn endpoints(subsets: Value) -> Endpoints {
    let value = json!({
        "metadata": {
            "name": "s", "namespace": "a", "uid": "e", "labels": { "app": "x" },
            "annotations": {
                "note": "y", "kubectl.kubernetes.io/last-applied-configuration": "{}",
            },
        },
        "subsets": subsets,
    });
    serde_json::from_value(value).unwrap()
}

/// Does what is planned until there is nothing to be done; the slices, and all events' reasons.
fn settle(endpoints: Option<Endpoints>, mut slices: Vec<Value>) -> (Vec<Value>, Vec<&'static str>) {
    let (endpoints, mut events) = (endpoints.map(Arc::new), Vec::new());
    for turn in 0..5 {
        let seen = Observed {
            endpoints: endpoints.clone(),
            slices: slices
                .iter()
                .map(|s| Arc::new(serde_json::from_value::<EndpointSlice>(s.clone()).unwrap()))
                .collect(),
        };
        let plan = plan(&seen, turn);
        if plan.is_empty() {
            return (slices, events);
        }
        for action in plan.actions {
            match action {
                Action::Create { mut object, .. } => {
                    object["metadata"]["uid"] = object["metadata"]["name"].clone();
                    slices.push(object);
                }
                Action::Update { target, object, .. } => {
                    slices.retain(|s| s["metadata"]["name"] != target.name.as_str());
                    slices.push(object);
                }
                Action::Delete { target, .. } => {
                    slices.retain(|s| s["metadata"]["name"] != target.name.as_str());
                }
                Action::Event { reason, .. } => events.push(reason),
                other => panic!("{other:?}"),
            }
        }
    }
    panic!("it does not settle");
}

fn mirrored(endpoints: Endpoints, slices: Vec<Value>) -> (Vec<Value>, Vec<&'static str>) {
    settle(Some(endpoints), slices)
}

#[test]
fn an_endpoints_object_becomes_a_slice_per_family() {
    let (slices, events) = mirrored(
        endpoints(json!([{
            "addresses": [
                { "ip": "10.0.0.1", "hostname": "h", "nodeName": "n" }, { "ip": "fd00::1" },
            ],
            "notReadyAddresses": [{ "ip": "10.0.0.2" }],
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "appProtocol": "h2c" }],
        }])),
        Vec::new(),
    );
    assert!(events.is_empty());
    assert_eq!(slices.len(), 2);
    let four = &slices[0];
    assert_eq!(four["addressType"], "IPv4");
    assert_eq!(
        four["metadata"]["labels"],
        json!({
            "app": "x", "kubernetes.io/service-name": "s",
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
        })
    );
    assert_eq!(four["metadata"]["annotations"], json!({ "note": "y" }));
    assert_eq!(four["metadata"]["ownerReferences"][0]["kind"], "Endpoints");
    assert_eq!(
        four["ports"],
        json!([{ "name": "http", "port": 80, "protocol": "TCP", "appProtocol": "h2c" }])
    );
    assert_eq!(
        four["endpoints"],
        json!([
            {
                "addresses": ["10.0.0.1"], "conditions": { "ready": true },
                "hostname": "h", "nodeName": "n",
            },
            { "addresses": ["10.0.0.2"], "conditions": { "ready": false } },
        ])
    );
    assert_eq!(slices[1]["endpoints"][0]["addresses"], json!(["fd00::1"]));
}

#[test]
fn a_change_is_written_into_the_slice_that_is_there() {
    let with =
        |ip: &str| endpoints(json!([{ "addresses": [{ "ip": ip }], "ports": [{ "port": 80 }] }]));
    let (before, _) = mirrored(with("10.0.0.1"), Vec::new());
    let (after, _) = mirrored(with("10.0.0.2"), before.clone());
    assert_eq!(after.len(), 1);
    assert_eq!(after[0]["metadata"]["name"], before[0]["metadata"]["name"]);
    assert_eq!(after[0]["endpoints"][0]["addresses"], json!(["10.0.0.2"]));
    // Other ports are another slice; the old one goes.
    let other =
        endpoints(json!([{ "addresses": [{ "ip": "10.0.0.2" }], "ports": [{ "port": 81 }] }]));
    let (last, _) = mirrored(other, after);
    assert_eq!(last.len(), 1);
    assert_eq!(last[0]["ports"][0]["port"], 81);
}

#[test]
fn what_nobody_wants_mirrored_goes() {
    let subsets = json!([{ "addresses": [{ "ip": "10.0.0.1" }], "ports": [{ "port": 80 }] }]);
    let (before, _) = mirrored(endpoints(subsets.clone()), Vec::new());
    assert!(settle(None, before.clone()).0.is_empty());
    let mut skipped = endpoints(subsets.clone());
    skipped.metadata.labels = Some(
        [(
            "endpointslice.kubernetes.io/skip-mirror".into(),
            "true".into(),
        )]
        .into(),
    );
    assert!(mirrored(skipped, before.clone()).0.is_empty());
    let mut lock = endpoints(subsets);
    lock.metadata.annotations = Some(
        [(
            "control-plane.alpha.kubernetes.io/leader".into(),
            "{}".into(),
        )]
        .into(),
    );
    assert!(mirrored(lock, before).0.is_empty());
}

#[test]
fn too_many_and_wrong_addresses_are_reported() {
    let mut all: Vec<Value> = (0..1_001)
        .map(|i| json!({ "ip": format!("10.0.{}.{}", i / 250, i % 250) }))
        .collect();
    all.push(json!({ "ip": "example.com" }));
    let (slices, events) = mirrored(
        endpoints(json!([{ "addresses": all, "ports": [{ "port": 80 }] }])),
        Vec::new(),
    );
    assert_eq!(slices[0]["endpoints"].as_array().map(Vec::len), Some(1_000));
    assert_eq!(events, ["InvalidIPAddress", "TooManyAddressesToMirror"]);
}

#[test]
fn subsets_are_grouped_by_what_their_ports_share() {
    let written = endpoints(json!([
        { "addresses": [{ "ip": "10.0.0.1" }], "ports": [{ "name": "a", "port": 1 }] },
        { "addresses": [{ "ip": "10.0.0.1" }], "ports": [{ "name": "b", "port": 2 }] },
        { "notReadyAddresses": [{ "ip": "10.0.0.2" }], "ports": [{ "name": "c", "port": 3 }] },
        { "addresses": [{ "ip": "10.0.0.2" }], "ports": [{ "name": "c", "port": 3 }] },
        { "addresses": [{ "ip": "10.0.0.3" }] },
    ]));
    let packed = repack(written.subsets.as_deref().unwrap());
    let shown: Vec<String> = packed
        .iter()
        .map(|s| {
            let ports: Vec<i32> = s.ports.iter().map(|p| p.1).collect();
            let addresses = s.addresses.iter();
            let addresses: Vec<_> = addresses.map(|(a, r)| (a.ip.as_str(), *r)).collect();
            format!("{ports:?} {addresses:?}")
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#"[] [("10.0.0.3", true)]"#,
            r#"[1, 2] [("10.0.0.1", true)]"#,
            r#"[3] [("10.0.0.2", false)]"#,
        ]
    );
}
