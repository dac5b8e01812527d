//! Allocation, case by case: what is there, what is claimed, what comes of it on a node.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::node::Node;
use crate::plugins::testing::{Cluster, node};

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

/// A class that selects the devices of its driver.
fn class(name: &str, selectors: &[&str]) -> Value {
    let selectors: Vec<Value> = selectors
        .iter()
        .map(|s| json!({"cel": {"expression": s}}))
        .collect();
    json!({"metadata": {"name": name}, "spec": {"selectors": selectors}})
}

fn device(name: &str, more: Value) -> Value {
    let mut out = json!({"name": name});
    for (key, value) in more.as_object().into_iter().flatten() {
        out[key] = value.clone();
    }
    out
}

/// A slice of driver `d`, of devices on node `a`.
fn slice(name: &str, pool: &str, devices: Vec<Value>) -> Value {
    json!({"metadata": {"name": name}, "spec": {"driver": "d", "nodeName": "a",
        "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1}, "devices": devices}})
}

fn exact(name: &str, more: Value) -> Value {
    let mut exactly = json!({"deviceClassName": "c"});
    for (key, value) in more.as_object().into_iter().flatten() {
        exactly[key] = value.clone();
    }
    json!({"name": name, "exactly": exactly})
}

fn claim(name: &str, requests: Vec<Value>) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": name},
        "spec": {"devices": {"requests": requests}}})
}

fn has(mut claim: Value, devices: Vec<Value>) -> Value {
    claim["status"]["allocation"]["devices"]["results"] = devices.into();
    claim
}

fn result(device: &str) -> Value {
    json!({"request": "r", "driver": "d", "pool": "p", "device": device})
}

struct Case {
    classes: Vec<Value>,
    slices: Vec<Value>,
    /// Of others.
    claims: Vec<Value>,
}

impl Case {
    fn new(slices: Vec<Value>) -> Self {
        Self {
            classes: vec![class("c", &["device.driver == \"d\""])],
            slices,
            claims: Vec::new(),
        }
    }

    fn devices(&self, wanted: &[Value]) -> Devices {
        let mut out = Devices::default();
        for class in &self.classes {
            let name = class["metadata"]["name"].as_str().expect("a name");
            out.set_class(name, Some(&typed(class.clone())));
        }
        for slice in &self.slices {
            let name = slice["metadata"]["name"].as_str().expect("a name");
            out.set_slice(name, Some(&typed(slice.clone())));
        }
        for claim in self.claims.iter().chain(wanted) {
            let name = claim["metadata"]["name"].as_str().expect("a name");
            out.set_claim(format!("n/{name}").into(), Some(&typed(claim.clone())));
        }
        out
    }

    /// The allocations of these claims on node `a`.
    fn allocations(&self, wanted: &[Value]) -> Result<Vec<k8s::AllocationResult>, String> {
        let devices = self.devices(wanted);
        let cluster = Cluster::new([node("a", "4", "8Gi")]);
        let node: &Node = cluster.snapshot.node("a").expect("a node");
        let keys: Vec<String> = wanted
            .iter()
            .map(|c| format!("n/{}", c["metadata"]["name"].as_str().expect("a name")))
            .collect();
        let claims: Result<Vec<WantedClaim<'_>>, String> = keys
            .iter()
            .map(|key| WantedClaim::read(key, devices.claim(key).expect("a claim"), &devices))
            .collect();
        let (claims, all) = (claims?, devices.pools());
        let (pools, before) = (all.on(node), devices.allocated());
        let matches = Matches::default();
        let found = allocate(&claims, node, &pools, &before, &matches);
        let found = found.map_err(|f| format!("{f:?}"))?;
        let mut share = || "share".to_owned();
        let each = claims.iter().zip(&found);
        Ok(each
            .map(|(claim, chosen)| allocation(claim, chosen, "a", &mut share))
            .collect())
    }

    /// `request=device` of all claims.
    fn found(&self, wanted: &[Value]) -> String {
        match self.allocations(wanted) {
            Ok(all) => {
                let results = all.iter().flat_map(|a| a.devices.iter());
                let results = results.flat_map(|d| d.results.iter().flatten());
                let each = results.map(|r| format!("{}={}", r.request, r.device));
                each.collect::<Vec<_>>().join(" ")
            }
            Err(why) => why,
        }
    }
}

fn two() -> Case {
    Case::new(vec![slice(
        "s",
        "p",
        vec![device("x", json!({})), device("y", json!({}))],
    )])
}

#[test]
fn devices_are_taken_in_their_order_and_once() {
    let mut case = two();
    let one = || exact("r", json!({}));
    assert_eq!(case.found(&[claim("w", vec![one()])]), "r=x");
    assert_eq!(
        case.found(&[claim("w", vec![exact("r", json!({"count": 2}))])]),
        "r=x r=y"
    );
    assert_eq!(
        case.found(&[claim("v", vec![one()]), claim("w", vec![one()])]),
        "r=x r=y"
    );
    let three = exact("r", json!({"count": 3}));
    assert_eq!(case.found(&[claim("w", vec![three])]), "None");
    case.claims = vec![has(claim("other", vec![one()]), vec![result("x")])];
    assert_eq!(case.found(&[claim("w", vec![one()])]), "r=y");
    case.slices = vec![slice("s", "p", vec![])];
    assert_eq!(case.found(&[claim("w", vec![one()])]), "None");
}

#[test]
fn all_devices_are_all_or_nothing() {
    let mut case = two();
    let all = || claim("w", vec![exact("r", json!({"allocationMode": "All"}))]);
    assert_eq!(case.found(&[all()]), "r=x r=y");
    case.claims = vec![has(claim("o", vec![]), vec![result("y")])];
    assert_eq!(case.found(&[all()]), "None");
    case.claims.clear();
    // At least one is needed.
    case.slices = vec![slice("s", "p", vec![])];
    assert_eq!(case.found(&[all()]), "None");
    // What is being updated is not all.
    let mut part = slice("s", "p", vec![device("x", json!({}))]);
    part["spec"]["pool"]["resourceSliceCount"] = json!(2);
    case.slices = vec![part];
    assert_eq!(
        case.found(&[all()]),
        "Wrong(\"claim n/w, request r: asks for all devices, but resource pool d/p is currently \
         being updated\")"
    );
    let many = (0..33).map(|i| device(&format!("d{i}"), json!({})));
    case.slices = vec![slice("s", "p", many.collect())];
    assert!(
        case.found(&[all()])
            .contains("33 exceeds the claim limit of 32")
    );
}

#[test]
fn selectors_choose_by_attributes_and_capacity() {
    let gpu = |name: &str, model: &str, memory: &str, version: &str| {
        device(
            name,
            json!({"attributes": {"model": {"string": model}, "v.example/fw": {"version": version}},
                   "capacity": {"memory": {"value": memory}}}),
        )
    };
    let mut case = Case::new(vec![slice(
        "s",
        "p",
        vec![
            gpu("small", "a", "10Gi", "1.0.0"),
            gpu("large", "b", "40Gi", "2.1.0"),
        ],
    )]);
    for (selector, found) in [
        ("device.attributes[\"d\"].model == \"b\"", "r=large"),
        ("device.attributes['d'].model != 'b'", "r=small"),
        (
            "device.capacity[\"d\"].memory.compareTo(quantity(\"20Gi\")) >= 0",
            "r=large",
        ),
        (
            "device.attributes[\"v.example\"].fw.isGreaterThan(semver(\"2.0.0\"))",
            "r=large",
        ),
        ("has(device.attributes[\"other.example\"].x)", "None"),
        (
            "\"other.example\" in device.attributes && device.attributes[\"other.example\"].x",
            "None",
        ),
        ("device.allowMultipleAllocations", "None"),
    ] {
        let with = json!({"selectors": [{"cel": {"expression": selector}}]});
        assert_eq!(
            case.found(&[claim("w", vec![exact("r", with)])]),
            found,
            "{selector}"
        );
    }
    // What cannot be evaluated is an error, not a device that does not suit.
    let with = json!({"selectors": [{"cel": {"expression": "device.attributes[\"d\"].none"}}]});
    let error = case.found(&[claim("w", vec![exact("r", with)])]);
    assert!(
        error.contains("claim n/w: selector #0: CEL runtime error: no such key: none"),
        "{error}"
    );
    for (selector, why) in [
        ("device.drivr", "CEL compile error"),
        (
            "device.driver",
            "must evaluate to bool or the unknown type, not string",
        ),
    ] {
        let with = json!({"selectors": [{"cel": {"expression": selector}}]});
        let error = case.found(&[claim("w", vec![exact("r", with)])]);
        assert!(error.contains(why), "{error}");
    }
    case.classes = vec![class(
        "c",
        &[
            "device.driver == \"d\"",
            "device.attributes[\"d\"].model == \"b\"",
        ],
    )];
    assert_eq!(
        case.found(&[claim("w", vec![exact("r", json!({}))])]),
        "r=large"
    );
    case.classes.clear();
    assert_eq!(
        case.found(&[claim("w", vec![exact("r", json!({}))])]),
        "request r: device class c does not exist"
    );
}

#[test]
fn the_first_alternative_that_works_is_taken() {
    let slow = class("slow", &["device.attributes[\"d\"].kind == \"slow\""]);
    let fast = class("fast", &["device.attributes[\"d\"].kind == \"fast\""]);
    let of =
        |name: &str, kind: &str| device(name, json!({"attributes": {"kind": {"string": kind}}}));
    let devices = vec![of("s1", "slow"), of("s2", "slow"), of("f1", "fast")];
    let mut case = Case::new(vec![slice("s", "p", devices)]);
    case.classes.extend([slow, fast]);
    let either = || {
        json!({"name": "r", "firstAvailable": [
            {"name": "fast", "deviceClassName": "fast"},
            {"name": "slow", "deviceClassName": "slow", "count": 2}]})
    };
    assert_eq!(case.found(&[claim("w", vec![either()])]), "r/fast=f1");
    case.claims = vec![has(claim("o", vec![]), vec![result("f1")])];
    assert_eq!(
        case.found(&[claim("w", vec![either()])]),
        "r/slow=s1 r/slow=s2"
    );
    case.claims.clear();
    // A later request needs what the first alternative would take.
    let needs = json!({"name": "q", "exactly": {"deviceClassName": "fast"}});
    assert_eq!(
        case.found(&[claim("w", vec![either(), needs])]),
        "r/slow=s1 r/slow=s2 q=f1"
    );
    // One that would give too many devices is passed over.
    let huge = json!({"name": "r", "firstAvailable": [
        {"name": "all", "deviceClassName": "slow", "count": 33},
        {"name": "one", "deviceClassName": "slow"}]});
    assert_eq!(case.found(&[claim("w", vec![huge])]), "r/one=s1");
}

#[test]
fn constraints_hold_between_devices() {
    let on = |name: &str, numa: i64| device(name, json!({"attributes": {"numa": {"int": numa}}}));
    let devices = vec![
        on("a0", 0),
        on("b1", 1),
        on("c1", 1),
        device("none", json!({})),
    ];
    let case = Case::new(vec![slice("s", "p", devices)]);
    let with = |constraint: Value, requests: Vec<Value>| {
        let mut claim = claim("w", requests);
        claim["spec"]["devices"]["constraints"] = json!([constraint]);
        claim
    };
    let pair = || exact("r", json!({"count": 2}));
    assert_eq!(
        case.found(&[with(json!({"matchAttribute": "d/numa"}), vec![pair()])]),
        "r=b1 r=c1"
    );
    assert_eq!(
        case.found(&[with(json!({"distinctAttribute": "d/numa"}), vec![pair()])]),
        "r=a0 r=b1"
    );
    let triple = exact("r", json!({"count": 3}));
    assert_eq!(
        case.found(&[with(json!({"distinctAttribute": "d/numa"}), vec![triple])]),
        "None"
    );
    // It is about the requests that it names.
    let two = vec![exact("r", json!({})), exact("q", json!({}))];
    assert_eq!(
        case.found(&[with(
            json!({"matchAttribute": "d/numa", "requests": ["q"]}),
            two
        )]),
        "r=a0 q=b1"
    );
}

#[test]
fn administrators_look_at_what_others_have() {
    let mut case = two();
    case.claims = vec![has(claim("o", vec![]), vec![result("x"), result("y")])];
    let admin = || exact("r", json!({"adminAccess": true}));
    let found = case
        .allocations(&[claim("w", vec![admin()])])
        .expect("devices");
    let results = found[0].devices.as_ref().and_then(|d| d.results.clone());
    let first = results.into_iter().flatten().next().expect("a device");
    assert_eq!((&*first.device, first.admin_access), ("x", Some(true)));
    // What they look at is not taken.
    let mut looks = has(claim("o", vec![]), vec![result("x")]);
    looks["status"]["allocation"]["devices"]["results"][0]["adminAccess"] = json!(true);
    case.claims = vec![looks];
    assert_eq!(
        case.found(&[claim("w", vec![exact("r", json!({}))])]),
        "r=x"
    );
    // In one claim a device is had once.
    let thrice = exact("r", json!({"adminAccess": true, "count": 3}));
    assert_eq!(case.found(&[claim("w", vec![thrice])]), "None");
}

#[test]
fn taints_keep_off_who_does_not_tolerate_them() {
    let taint = |effect: &str| json!({"taints": [{"key": "k", "value": "v", "effect": effect}]});
    for (effect, tolerations, found) in [
        ("NoSchedule", json!([]), "None"),
        ("NoExecute", json!([]), "None"),
        ("None", json!([]), "r=x"),
        ("NoSchedule", json!([{"operator": "Exists"}]), "r=x"),
        ("NoSchedule", json!([{"key": "k", "value": "v"}]), "r=x"),
        ("NoSchedule", json!([{"key": "k", "value": "w"}]), "None"),
        (
            "NoSchedule",
            json!([{"key": "k", "operator": "Exists", "effect": "NoExecute"}]),
            "None",
        ),
    ] {
        let case = Case::new(vec![slice("s", "p", vec![device("x", taint(effect))])]);
        let wanted = exact("r", json!({"tolerations": tolerations}));
        assert_eq!(case.found(&[claim("w", vec![wanted])]), found, "{effect}");
    }
}

#[test]
fn a_pool_is_its_newest_generation_and_whole() {
    let generation = |name: &str, generation: i64, count: i64, device_name: &str| {
        let mut slice = slice(name, "p", vec![device(device_name, json!({}))]);
        slice["spec"]["pool"]["generation"] = json!(generation);
        slice["spec"]["pool"]["resourceSliceCount"] = json!(count);
        slice
    };
    let one = || claim("w", vec![exact("r", json!({}))]);
    let case = Case::new(vec![
        generation("s1", 1, 1, "old"),
        generation("s2", 2, 1, "new"),
    ]);
    assert_eq!(case.found(&[one()]), "r=new");
    let case = Case::new(vec![generation("s1", 2, 2, "half")]);
    assert_eq!(case.found(&[one()]), "None");
    // A newer generation that is elsewhere replaces what was here.
    let mut elsewhere = generation("s2", 2, 1, "new");
    elsewhere["spec"]["nodeName"] = json!("b");
    let case = Case::new(vec![generation("s1", 1, 1, "old"), elsewhere]);
    assert_eq!(case.found(&[one()]), "None");
    let twice = vec![device("x", json!({})), device("x", json!({}))];
    let case = Case::new(vec![slice("s", "p", twice)]);
    assert_eq!(
        case.found(&[one()]),
        "Wrong(\"invalid resource pools were encountered\")"
    );
}

#[test]
fn where_devices_can_be_used_is_where_the_claim_is() {
    let hostname = |value: &str| {
        json!({"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [value]}]}]})
    };
    let place = |key: &str, value: Value| {
        let mut slice = slice("s", "p", vec![device("x", json!({}))]);
        slice["spec"]
            .as_object_mut()
            .expect("a spec")
            .remove("nodeName");
        slice["spec"][key] = value;
        slice
    };
    let one = || claim("w", vec![exact("r", json!({}))]);
    let selector_of = |slice: Value| {
        let found = Case::new(vec![slice])
            .allocations(&[one()])
            .expect("a device");
        serde_json::to_value(&found[0].node_selector).expect("JSON")
    };
    let named = selector_of(place("nodeName", json!("a")));
    assert_eq!(
        named["nodeSelectorTerms"][0]["matchFields"][0]["values"],
        json!(["a"])
    );
    assert_eq!(selector_of(place("allNodes", json!(true))), Value::Null);
    assert_eq!(
        selector_of(place("nodeSelector", hostname("a"))),
        hostname("a")
    );
    let elsewhere = Case::new(vec![place("nodeSelector", hostname("b"))]);
    assert_eq!(elsewhere.found(&[one()]), "None");
    // Each device may have its own place.
    let mut own = place("perDeviceNodeSelection", json!(true));
    own["spec"]["devices"] = json!([
        {"name": "far", "nodeName": "b"}, {"name": "near", "nodeName": "a"}]);
    assert_eq!(Case::new(vec![own]).found(&[one()]), "r=near");
}

#[test]
fn partitions_share_the_counters_of_their_pool() {
    let part = |name: &str, memory: &str| {
        device(
            name,
            json!({"consumesCounters": [{"counterSet": "gpu",
                "counters": {"memory": {"value": memory}}}]}),
        )
    };
    let mut counters = slice("counters", "p", vec![]);
    counters["spec"] = json!({"driver": "d", "nodeName": "a",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 2},
        "sharedCounters": [{"name": "gpu", "counters": {"memory": {"value": "40Gi"}}}]});
    let mut parts = slice(
        "parts",
        "p",
        vec![
            part("whole", "40Gi"),
            part("half-1", "20Gi"),
            part("half-2", "20Gi"),
        ],
    );
    parts["spec"]["pool"]["resourceSliceCount"] = json!(2);
    let mut case = Case::new(vec![counters, parts]);
    let of = |count: i64| claim("w", vec![exact("r", json!({"count": count}))]);
    assert_eq!(case.found(&[of(1)]), "r=whole");
    assert_eq!(case.found(&[of(2)]), "r=half-1 r=half-2");
    assert_eq!(case.found(&[of(3)]), "None");
    case.claims = vec![has(claim("o", vec![]), vec![result("half-1")])];
    assert_eq!(case.found(&[of(1)]), "r=half-2");
    case.claims = vec![has(claim("o", vec![]), vec![result("whole")])];
    assert_eq!(case.found(&[of(1)]), "None");
}

#[test]
fn capacity_is_shared_as_far_as_it_goes() {
    let shared = device(
        "x",
        json!({"allowMultipleAllocations": true, "capacity": {"memory": {"value": "10Gi",
            "requestPolicy": {"default": "1Gi", "validRange": {"min": "1Gi", "step": "1Gi"}}}}}),
    );
    let mut case = Case::new(vec![slice("s", "p", vec![shared])]);
    let of = |name: &str, memory: &str| {
        claim(
            name,
            vec![exact(
                "r",
                json!({"capacity": {"requests": {"memory": memory}}}),
            )],
        )
    };
    assert_eq!(case.found(&[of("v", "4Gi"), of("w", "6Gi")]), "r=x r=x");
    assert_eq!(case.found(&[of("v", "5Gi"), of("w", "6Gi")]), "None");
    let found = case.allocations(&[of("w", "2500Mi")]).expect("a device");
    let devices = serde_json::to_value(&found[0].devices).expect("JSON");
    assert_eq!(devices["results"][0]["consumedCapacity"]["memory"], "3Gi");
    assert_eq!(devices["results"][0]["shareID"], "share");
    let mut share = result("x");
    share["shareID"] = json!("s");
    share["consumedCapacity"] = json!({"memory": "8Gi"});
    case.claims = vec![has(claim("o", vec![]), vec![share])];
    assert_eq!(case.found(&[of("w", "2Gi")]), "r=x");
    assert_eq!(case.found(&[of("w", "3Gi")]), "None");
}

#[test]
fn configurations_come_from_the_class_and_the_claim() {
    let mut case = two();
    case.classes[0]["spec"]["config"] =
        json!([{"opaque": {"driver": "d", "parameters": {"from": "class"}}}]);
    let mut wanted = claim("w", vec![exact("r", json!({})), exact("q", json!({}))]);
    let own = |requests: Value| json!({"requests": requests, "opaque": {"driver": "d", "parameters": {"from": "claim"}}});
    wanted["spec"]["devices"]["config"] =
        json!([own(json!([])), own(json!(["q"])), own(json!(["other"]))]);
    let found = case.allocations(&[wanted]).expect("devices");
    let config = serde_json::to_value(&found[0].devices).expect("JSON")["config"].clone();
    let each: Vec<String> = config
        .as_array()
        .expect("a list")
        .iter()
        .map(|c| {
            format!(
                "{} {}",
                c["source"].as_str().expect("a source"),
                c["requests"]
            )
        })
        .collect();
    assert_eq!(
        each,
        [
            "FromClass [\"r\",\"q\"]",
            "FromClaim []",
            "FromClaim [\"q\"]"
        ]
    );
}

#[test]
fn conditions_say_whether_devices_are_bound() {
    let with = |conditions: Value| -> Arc<k8s::ResourceClaim> {
        let mut bound = result("x");
        bound["bindingConditions"] = json!(["Attached"]);
        bound["bindingFailureConditions"] = json!(["Broken"]);
        let mut claim = has(claim("w", vec![]), vec![bound]);
        claim["status"]["devices"] =
            json!([{"driver": "d", "pool": "p", "device": "x", "conditions": conditions}]);
        Arc::new(typed(claim))
    };
    let is = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "reason": "R", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    assert_eq!(binding(&with(json!([]))), Binding::Waits);
    assert_eq!(
        binding(&with(json!([is("Attached", "False")]))),
        Binding::Waits
    );
    assert_eq!(
        binding(&with(json!([is("Attached", "True")]))),
        Binding::Ready
    );
    let failed = binding(&with(json!([is("Attached", "True"), is("Broken", "True")])));
    assert!(matches!(failed, Binding::Failed(why) if why.contains("reason=R")));
}

#[test]
fn a_search_has_a_bound() {
    // No two have the same, and so many pairs are tried in vain.
    let devices = (0..60).map(|i| {
        device(
            &format!("d{i}"),
            json!({"attributes": {"n": {"int": i / 3}}}),
        )
    });
    let case = Case::new(vec![slice("s", "p", devices.collect())]);
    let requests = (0..8).map(|i| exact(&format!("r{i}"), json!({"count": 3})));
    let mut wanted = claim("w", requests.collect());
    wanted["spec"]["devices"]["constraints"] = json!([{"matchAttribute": "d/n", "requests": ["r7"]},
               {"distinctAttribute": "d/n", "requests": ["r7"]}]);
    assert_eq!(case.found(&[wanted]), "TooLong");
}
