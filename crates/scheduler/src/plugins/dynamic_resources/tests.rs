//! What the plugin does with claims and devices, on clusters of values.

use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::*;
use crate::core::{Core, Step};
use crate::decide::Profile;
use crate::plugins::testing::node;
use crate::queue::Waits;

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

fn claim(status: Value) -> k8s::ResourceClaim {
    typed(
        json!({"metadata": {"name": "gpu", "namespace": "n", "uid": "c1",
            "resourceVersion": "1"},
        "spec": {"devices": {"requests": [
            {"name": "r", "exactly": {"deviceClassName": "gpus"}}]}},
        "status": status}),
    )
}

fn pod(name: &str) -> core::Pod {
    typed(
        json!({"metadata": {"name": name, "namespace": "n", "uid": name},
        "spec": {"containers": [{"name": "c"}],
                 "resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}]}}),
    )
}

/// Nodes `a` and `b`, of which `b` has one device.
fn core() -> Core {
    let mut core = Core::new(vec![Profile::default()], Waits::default());
    for name in ["a", "b"] {
        core.node_changed(None, Some(&typed(node(name, "4", "8Gi"))));
    }
    let class: k8s::DeviceClass = typed(json!({"metadata": {"name": "gpus"}, "spec": {}}));
    core.device_class_changed("gpus", Some(&class));
    let slice: k8s::ResourceSlice = typed(json!({"metadata": {"name": "s"}, "spec": {
        "driver": "d", "nodeName": "b", "devices": [{"name": "x"}],
        "pool": {"name": "b", "generation": 1, "resourceSliceCount": 1}}}));
    core.devices_changed(|d| d.set_slice("s", Some(&slice)));
    core
}

fn message(step: Option<Step>) -> String {
    match step {
        Some(Step::Unschedulable { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_is_bound_after_its_devices_are_its_own() {
    let mut core = core();
    core.pod_changed(None, Some(&pod("p")), 0);
    assert!(message(core.step(1, 0)).contains("resourceclaim \"gpu\" not found"));
    core.device_claim_changed(None, Some(&claim(json!({}))));
    let Some(Step::Prepare { node, writes, .. }) = core.step(2, 60_000) else {
        panic!("it is reserved first")
    };
    assert_eq!(&*node, "b");
    let [
        Write::ReserveClaim {
            allocation: Some(allocation),
            pod: (name, uid),
            ..
        },
    ] = &writes[..]
    else {
        panic!("{writes:?}")
    };
    assert_eq!((name.as_str(), uid.as_str()), ("p", "p"));
    // Nobody else gets the device, and the claim is not allocated twice.
    core.pod_changed(None, Some(&pod("q")), 60_000);
    let why = message(core.step(3, 60_000));
    assert!(
        why.contains("resource claim n/gpu is in the process of being allocated"),
        "{why}"
    );
    core.prepared(&"p".into(), Ok(()), 60_000);
    let status = json!({"allocation": serde_json::to_value(&**allocation).expect("JSON"),
        "reservedFor": [{"resource": "pods", "name": "p", "uid": "p"}]});
    core.device_claim_changed(Some(&claim(json!({}))), Some(&claim(status)));
    let next = core.step(4, 60_000);
    assert!(
        matches!(&next, Some(Step::Bind { pod, .. }) if pod.name == "p"),
        "{next:?}"
    );
    // Claims are shared: the other one follows where the devices are.
    let Some(Step::Prepare { node, writes, .. }) = core.step(5, 600_000) else {
        panic!("it may use the claim, too")
    };
    assert_eq!(&*node, "b");
    assert!(matches!(
        &writes[..],
        [Write::ReserveClaim {
            allocation: None,
            ..
        }]
    ));
}

#[test]
fn devices_that_are_elsewhere_are_given_back_when_nobody_uses_them() {
    let allocated = |users: Value| {
        let here = json!({"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["gone"]}]}]});
        claim(json!({"allocation": {"nodeSelector": here}, "reservedFor": users}))
    };
    let gives_up = |users: Value| {
        let mut core = core();
        core.device_claim_changed(None, Some(&allocated(users)));
        core.pod_changed(None, Some(&pod("p")), 0);
        match core.step(1, 0) {
            Some(Step::Unschedulable {
                message, writes, ..
            }) => {
                assert!(
                    message.starts_with(
                        "0/2 nodes are available: 2 resourceclaim not available on the node."
                    ),
                    "{message}"
                );
                writes.len()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(gives_up(json!([])), 1);
    assert_eq!(
        gives_up(json!([{"resource": "pods", "name": "p", "uid": "p"}])),
        1
    );
    assert_eq!(
        gives_up(json!([{"resource": "pods", "name": "x", "uid": "x"}])),
        0
    );
}

#[test]
fn a_claim_is_in_use_when_it_can_be_reserved_for_nobody_more() {
    let mut core = core();
    let had = |count: usize| {
        let user = |i: usize| json!({"resource": "pods", "name": "u", "uid": format!("u{i}")});
        let users: Vec<Value> = (0..count).map(user).collect();
        claim(json!({"allocation": {"devices": {"results": []}}, "reservedFor": users}))
    };
    let full = had(256);
    core.device_claim_changed(None, Some(&full));
    core.pod_changed(None, Some(&pod("p")), 0);
    let why = message(core.step(1, 0));
    assert!(why.contains("resourceclaim in use"), "{why}");
    // Who is among them may go on.
    core.pod_changed(None, Some(&pod("u7")), 0);
    assert!(matches!(core.step(2, 0), Some(Step::Bind { .. })));
    core.device_claim_changed(Some(&full), Some(&had(255)));
    assert!(matches!(core.step(3, 60_000), Some(Step::Prepare { .. })));
}

#[test]
fn a_pod_waits_for_the_claim_that_is_made_for_it() {
    let mut core = core();
    let mut made = pod("p");
    let spec = made.spec.as_mut().expect("a spec");
    spec.resource_claims = Some(vec![typed(
        json!({"name": "gpu", "resourceClaimTemplateName": "t"}),
    )]);
    core.pod_changed(None, Some(&made), 0);
    let why = message(core.step(1, 0));
    assert!(
        why.contains("pod \"n/p\": ResourceClaim not created yet"),
        "{why}"
    );
    let mut knows = made.clone();
    knows.status = typed(json!({"resourceClaimStatuses": [
        {"name": "gpu", "resourceClaimName": "gpu"}]}));
    core.device_claim_changed(None, Some(&claim(json!({}))));
    core.pod_changed(Some(&made), Some(&knows), 60_000);
    let why = message(core.step(2, 60_000));
    assert!(
        why.contains("was not created for Pod n/p (Pod is not owner)"),
        "{why}"
    );
    let mut own = claim(json!({}));
    own.metadata.owner_references = typed(json!([
        {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]));
    let before = claim(json!({"reservedFor": []}));
    core.device_claim_changed(Some(&before), Some(&own));
    assert!(matches!(core.step(3, 600_000), Some(Step::Prepare { .. })));
}

#[test]
fn a_resource_that_a_class_stands_for_is_claimed_where_no_plugin_has_it() {
    let mut core = core();
    let class: k8s::DeviceClass = typed(json!({"metadata": {"name": "gpus"},
        "spec": {"extendedResourceName": "example.com/gpu"}}));
    core.device_class_changed("gpus", Some(&class));
    let asks = |name: &str| -> core::Pod {
        typed(
            json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {
                "containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}}),
        )
    };
    core.pod_changed(None, Some(&asks("p")), 0);
    let Some(Step::Prepare { node, writes, .. }) = core.step(1, 0) else {
        panic!("its claim is made first")
    };
    let [
        Write::MakeClaim {
            made, allocation, ..
        },
    ] = &writes[..]
    else {
        panic!("{writes:?}")
    };
    assert_eq!((&*node, made.mappings.len()), ("b", 1));
    // The only device is taken.
    core.pod_changed(None, Some(&asks("q")), 0);
    let why = message(core.step(2, 0));
    assert!(why.contains("cannot allocate all claims"), "{why}");
    core.prepared(&"p".into(), Ok(()), 0);
    assert!(core.step(3, 0).is_none(), "the claim was not seen yet");
    let mut claim = k8s::ResourceClaim::clone(&made.claim);
    claim.metadata.name = Some("p-extended-resources-1".to_owned());
    claim.status = typed(
        json!({"allocation": serde_json::to_value(&**allocation).expect("JSON"),
        "reservedFor": [{"resource": "pods", "name": "p", "uid": "p"}]}),
    );
    core.device_claim_changed(None, Some(&claim));
    let next = core.step(4, 60_000);
    assert!(
        matches!(&next, Some(Step::Bind { pod, .. }) if pod.name == "p"),
        "{next:?}"
    );
    // A claim that was left of a try that failed goes before the next one.
    let mut left = claim.clone();
    left.metadata.name = Some("q-extended-resources-1".to_owned());
    for owner in left.metadata.owner_references.iter_mut().flatten() {
        (owner.name, owner.uid) = ("q".to_owned(), "q".to_owned());
    }
    left.status = None;
    core.device_claim_changed(None, Some(&left));
    match core.step(5, 600_000) {
        Some(Step::Unschedulable { writes, .. }) => {
            assert!(
                matches!(&writes[..], [Write::RemoveClaim { .. }]),
                "{writes:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_waits_for_a_resource_hears_who_begins_to_offer_it() {
    let mut core = core();
    let asks = |name: &str| -> core::Pod {
        typed(
            json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": {
                "containers": [{"name": "c", "resources": {"requests": {"example.com/gpu": "1"}}}]}}),
        )
    };
    core.pod_changed(None, Some(&asks("p")), 0);
    let why = message(core.step(1, 0));
    assert!(why.contains("Insufficient example.com/gpu"), "{why}");
    // A class comes to stand for it.
    let class: k8s::DeviceClass = typed(json!({"metadata": {"name": "gpus"},
        "spec": {"extendedResourceName": "example.com/gpu"}}));
    core.device_class_changed("gpus", Some(&class));
    let next = core.step(2, 60_000);
    assert!(matches!(&next, Some(Step::Prepare { .. })), "{next:?}");
    core.pod_changed(None, Some(&asks("q")), 60_000);
    let why = message(core.step(3, 60_000));
    assert!(why.contains("cannot allocate all claims"), "{why}");
    // A plugin on a node has some.
    let before: core::Node = typed(node("a", "4", "8Gi"));
    let mut offers = node("a", "4", "8Gi");
    offers["status"]["allocatable"]["example.com/gpu"] = json!("1");
    core.node_changed(Some(&before), Some(&typed(offers)));
    let next = core.step(4, 120_000);
    assert!(
        matches!(&next, Some(Step::Bind { pod, node }) if pod.name == "q" && &**node == "a"),
        "{next:?}"
    );
}

#[test]
fn shares_have_identities_of_their_own() {
    let ids = [share("p", 1), share("p", 2), share("q", 1)];
    for id in &ids {
        let parts: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
    }
    assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
}
