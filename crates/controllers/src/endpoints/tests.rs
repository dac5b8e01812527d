//! Slices of a Service.

use std::sync::Arc;

use control::Action;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::legacy;
use super::plan::{Observed, plan};

fn service() -> Service {
    serde_json::from_value(json!({
        "metadata": { "name": "s", "namespace": "a", "uid": "s" },
        "spec": { "clusterIP": "10.96.0.7", "ipFamilies": ["IPv4"], "selector": { "app": "a" },
                  "ports": [{ "name": "http", "port": 80, "targetPort": "web" }] },
    }))
    .unwrap()
}

fn pod(i: usize, ready: bool) -> Arc<Pod> {
    let pod = json!({
        "metadata": { "name": format!("p{i}"), "namespace": "a", "uid": format!("u{i}") },
        "spec": { "nodeName": "n", "containers": [{ "name": "c", "ports": [{ "name": "web", "containerPort": 8080 }] }] },
        "status": { "podIP": format!("10.0.{}.{}", i / 250, i % 250), "phase": "Running",
                    "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn observed(pods: Vec<Arc<Pod>>) -> Observed {
    Observed {
        namespace: "a".into(),
        name: "s".into(),
        service: Some(Arc::new(service())),
        pods: Some(pods),
        zones: [("n".to_owned(), "z".to_owned())].into(),
        cpus: None,
        slices: Vec::new(),
    }
}

/// The same Service and pods with these Endpoints.
fn with_endpoints(seen: &Observed, endpoints: Option<Endpoints>) -> legacy::Observed {
    legacy::Observed {
        namespace: seen.namespace.clone(),
        name: seen.name.clone(),
        service: seen.service.clone(),
        pods: seen.pods.clone(),
        endpoints: endpoints.map(Arc::new),
        service_went: false,
    }
}

/// What the plan makes of the Endpoints; `None` when it leaves them.
fn written(seen: &legacy::Observed) -> Option<Option<Endpoints>> {
    let plan = legacy::plan(seen);
    assert!(plan.actions.len() < 2);
    plan.actions.into_iter().next().map(|action| match action {
        Action::Create { object, .. } | Action::Update { object, .. } => {
            Some(serde_json::from_value(object).unwrap())
        }
        Action::Delete { .. } => None,
        other => panic!("{other:?}"),
    })
}

/// Does what is planned; returns the number of actions.
fn apply(seen: &mut Observed, now: i64) -> usize {
    let plan = plan(seen, now);
    let n = plan.actions.len();
    for action in plan.actions {
        let (target, object) = match action {
            Action::Create { target, object } | Action::Update { target, object, .. } => {
                (target, object)
            }
            Action::Delete { target, .. } => (target, Value::Null),
            other => panic!("{other:?}"),
        };
        seen.slices
            .retain(|s| s.metadata.name.as_deref() != Some(&target.name));
        seen.slices.extend(
            serde_json::from_value::<EndpointSlice>(object)
                .ok()
                .map(Arc::new),
        );
    }
    n
}

#[test]
fn slices_follow_pods_and_settle() {
    let mut seen = observed(Vec::new());
    assert_eq!(apply(&mut seen, 1), 1, "an empty slice");
    assert_eq!(apply(&mut seen, 2), 0);
    seen.pods = Some((0..250).map(|i| pod(i, i != 0)).collect());
    apply(&mut seen, 3);
    assert_eq!(apply(&mut seen, 4), 0);
    let mut sizes: Vec<usize> = seen
        .slices
        .iter()
        .map(|s| s.endpoints.iter().flatten().count())
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
    let one = seen
        .slices
        .iter()
        .flat_map(|s| s.endpoints.iter().flatten())
        .find(|e| e.addresses == ["10.0.0.0"]);
    let conditions = one.and_then(|e| e.conditions.clone()).unwrap();
    assert_eq!(
        (conditions.ready, conditions.serving, conditions.terminating),
        (Some(false), Some(false), Some(false))
    );
    // One pod turns ready: one slice is written.
    seen.pods.as_mut().unwrap()[0] = pod(0, true);
    assert_eq!(apply(&mut seen, 5), 1);
    seen.service = None;
    apply(&mut seen, 6);
    assert!(seen.slices.is_empty());
}

#[test]
fn a_slice_says_when_that_happened_which_it_was_written_for() {
    let made = "2026-01-01T00:00:00Z";
    let ready_since = |i: usize, ready: bool, time: &str| {
        let mut pod = (*pod(i, ready)).clone();
        let status = pod.status.as_mut().unwrap();
        let condition = &mut status.conditions.as_mut().unwrap()[0];
        condition.last_transition_time = serde_json::from_value(json!(time)).unwrap();
        Arc::new(pod)
    };
    let early = "2026-01-01T00:00:05Z";
    let late = "2026-01-01T00:00:09Z";
    let mut seen = observed(vec![ready_since(0, true, early)]);
    let mut service = service();
    service.metadata.creation_timestamp = serde_json::from_value(json!(made)).unwrap();
    seen.service = Some(Arc::new(service));
    let said = |seen: &mut Observed| {
        apply(seen, 1);
        assert_eq!(apply(seen, 2), 0, "it settles");
        let notes = seen.slices[0].metadata.annotations.clone();
        notes.unwrap_or_default().into_values().next()
    };
    assert_eq!(said(&mut seen).as_deref(), Some(made), "a new Service");
    let both = vec![ready_since(0, true, early), ready_since(1, true, late)];
    seen.pods = Some(both);
    assert_eq!(said(&mut seen).as_deref(), Some(late), "a pod more");
    seen.pods = Some(vec![ready_since(1, true, late)]);
    assert_eq!(said(&mut seen), None, "a pod went, which says nothing");
    seen.pods = Some(vec![ready_since(1, false, "2026-01-01T00:00:20Z")]);
    let unready = said(&mut seen);
    assert_eq!(unready.as_deref(), Some("2026-01-01T00:00:20Z"));
}

#[test]
fn endpoints_follow_pods_and_settle() {
    let mut seen = observed(Vec::new());
    let empty = written(&with_endpoints(&seen, None)).flatten();
    assert!(empty.is_some(), "empty Endpoints");
    assert_eq!(written(&with_endpoints(&seen, empty.clone())), None);
    seen.pods = Some((0..250).map(|i| pod(i, i != 0)).collect());
    let full = written(&with_endpoints(&seen, empty)).flatten().unwrap();
    assert_eq!(written(&with_endpoints(&seen, Some(full.clone()))), None);
    let subset = full.subsets.as_ref().unwrap()[0].clone();
    assert_eq!(subset.addresses.map(|a| a.len()), Some(249));
    assert_eq!(subset.ports.unwrap()[0].port, 8080);
    seen.service = None;
    assert_eq!(written(&with_endpoints(&seen, Some(full))), Some(None));
    // What people keep without a Service stays.
    assert_eq!(
        written(&with_endpoints(&seen, Some(Endpoints::default()))),
        None
    );
}

#[test]
fn a_service_may_publish_pods_that_are_not_ready() {
    let mut ends = (*pod(2, true)).clone();
    ends.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let mut starts = (*pod(3, false)).clone();
    let status = starts.status.as_mut().unwrap();
    (status.phase, status.conditions) = (Some("Pending".to_owned()), None);
    let mut failed = (*pod(4, false)).clone();
    failed.status.as_mut().unwrap().phase = Some("Failed".to_owned());
    let mut seen = observed(vec![
        pod(0, true),
        pod(1, false),
        Arc::new(ends),
        Arc::new(starts),
        Arc::new(failed),
    ]);
    // By address: whether it is ready, serving, terminating. One that has ended has none.
    let mut conditions = |publish: bool| {
        let mut new = service();
        let spec = new.spec.as_mut().unwrap();
        spec.cluster_ip = Some("None".to_owned());
        spec.publish_not_ready_addresses = Some(publish);
        seen.service = Some(Arc::new(new));
        apply(&mut seen, 1);
        assert_eq!(apply(&mut seen, 2), 0, "it settles");
        let mut all: Vec<_> = seen
            .slices
            .iter()
            .flat_map(|s| s.endpoints.iter().flatten())
            .collect();
        all.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let of = |e: &k8s_openapi::api::discovery::v1::Endpoint| {
            let c = e.conditions.clone().unwrap();
            [c.ready, c.serving, c.terminating].map(Option::unwrap)
        };
        let conditions: Vec<[bool; 3]> = all.into_iter().map(of).collect();
        let endpoints = written(&with_endpoints(&seen, None)).flatten().unwrap();
        let subsets = endpoints.subsets.unwrap();
        let count = |of: fn(&k8s_openapi::api::core::v1::EndpointSubset) -> usize| {
            subsets.iter().map(of).sum::<usize>()
        };
        let ready = count(|s| s.addresses.iter().flatten().count());
        let others = count(|s| s.not_ready_addresses.iter().flatten().count());
        (conditions, ready, others)
    };
    let hidden = [
        [true, true, false],
        [false, false, false],
        [false, true, true],
        [false, false, false],
    ];
    assert_eq!(conditions(false), (hidden.to_vec(), 1, 2));
    let shown = hidden.map(|[_, serving, terminating]| [true, serving, terminating]);
    assert_eq!(conditions(true), (shown.to_vec(), 4, 0));
    assert_eq!(conditions(false).0, hidden, "and back");
}

#[test]
fn hints_follow_the_traffic_distribution_of_the_service() {
    let mut seen = observed(vec![pod(0, true), pod(1, false)]);
    let mut hinted = |distribution: Option<&str>| {
        let mut new = service();
        if let Some(spec) = new.spec.as_mut() {
            spec.traffic_distribution = distribution.map(str::to_owned);
        }
        seen.service = Some(Arc::new(new));
        apply(&mut seen, 1);
        assert_eq!(apply(&mut seen, 2), 0, "it settles");
        let slices = seen.slices.iter();
        let mut all: Vec<_> = slices
            .flat_map(|s| s.endpoints.iter().flatten())
            .map(|e| (e.addresses[0].clone(), json!(e.hints)))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.into_iter().map(|(_, hints)| hints).collect::<Vec<_>>()
    };
    let zone = json!({ "forZones": [{ "name": "z" }] });
    let node = json!({ "forZones": [{ "name": "z" }], "forNodes": [{ "name": "n" }] });
    assert_eq!(hinted(None), [Value::Null, Value::Null]);
    assert_eq!(hinted(Some("PreferSameZone")), [zone.clone(), Value::Null]);
    assert_eq!(hinted(Some("PreferSameNode")), [node, Value::Null]);
    assert_eq!(hinted(Some("PreferClose")), [zone, Value::Null]);
    assert_eq!(hinted(None), [Value::Null, Value::Null]);
}

#[test]
fn zones_get_endpoints_by_their_cpu_where_a_service_asks() {
    let on = |i: usize, node: &str, ready: bool| {
        let mut one = pod(i, ready);
        let spec = Arc::make_mut(&mut one).spec.as_mut().unwrap();
        spec.node_name = Some(node.to_owned());
        one
    };
    let mut seen = observed(vec![
        on(0, "n", true),
        on(1, "n", true),
        on(2, "n", true),
        on(3, "m", true),
        on(4, "m", false),
    ]);
    seen.zones.insert("m".to_owned(), "y".to_owned());
    seen.cpus = Some([("z".to_owned(), 2_000), ("y".to_owned(), 2_000)].into());
    let mut service = service();
    let mode = "service.kubernetes.io/topology-mode".to_owned();
    service.metadata.annotations = Some([(mode, "Auto".to_owned())].into());
    // The annotation outranks the field.
    service.spec.as_mut().unwrap().traffic_distribution = Some("PreferSameNode".to_owned());
    seen.service = Some(Arc::new(service));
    let made = plan(&seen, 0);
    let [Action::Event { reason, .. }, Action::Create { object, .. }] = &made.actions[..] else {
        panic!("{made:?}");
    };
    assert_eq!(*reason, "TopologyAwareHintsEnabled");
    let endpoints = object["endpoints"].as_array().unwrap();
    let hints: Vec<&Value> = endpoints.iter().map(|e| &e["hints"]["forZones"]).collect();
    let zone = |name: &str| json!([{ "name": name }]);
    assert_eq!(
        hints,
        [&zone("y"), &zone("z"), &zone("z"), &zone("y"), &Value::Null]
    );
    assert!(endpoints[0]["hints"]["forNodes"].is_null());
    // They stay as they are, and nothing is said again.
    seen.slices = vec![Arc::new(serde_json::from_value(object.clone()).unwrap())];
    let again = plan(&seen, 0);
    assert!(again.actions.is_empty(), "{again:?}");
    seen.cpus = None;
    let without = plan(&seen, 0);
    let [Action::Event { reason, .. }, Action::Update { object, .. }] = &without.actions[..] else {
        panic!("{without:?}");
    };
    assert_eq!(*reason, "TopologyAwareHintsDisabled");
    assert!(object["endpoints"][0]["hints"].is_null());
}

/// Names of the slices that are there, and how many endpoints each has.
fn shape(seen: &Observed) -> Vec<(String, usize)> {
    let name = |s: &EndpointSlice| s.metadata.name.clone().unwrap_or_default();
    let count = |s: &EndpointSlice| s.endpoints.iter().flatten().count();
    let mut all: Vec<_> = seen.slices.iter().map(|s| (name(s), count(s))).collect();
    all.sort();
    all
}

#[test]
fn slices_whose_ports_nobody_has_any_more_are_used_again() {
    let mut seen = observed(Vec::new());
    apply(&mut seen, 1);
    let placeholder = shape(&seen);
    seen.pods = Some(vec![pod(0, true)]);
    assert_eq!(apply(&mut seen, 2), 1, "the empty slice becomes the first");
    assert_eq!(shape(&seen), [(placeholder[0].0.clone(), 1)]);
    seen.pods = Some((0..250).map(|i| pod(i, true)).collect());
    apply(&mut seen, 3);
    let names = |seen: &Observed| shape(seen).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
    let before = names(&seen);
    // Another port: the same slices say so.
    let mut other = service();
    other.spec.as_mut().unwrap().ports = serde_json::from_value(json!([{ "port": 81 }])).unwrap();
    seen.service = Some(Arc::new(other));
    assert_eq!(apply(&mut seen, 4), 3);
    assert_eq!(names(&seen), before);
    let mut ports = seen.slices.iter().flat_map(|s| s.ports.iter().flatten());
    assert!(ports.all(|p| p.port == Some(81)));
    assert_eq!(apply(&mut seen, 5), 0, "it settles");
    // Nobody is left: one of them stays, empty.
    seen.pods = Some(Vec::new());
    assert_eq!(apply(&mut seen, 6), 3);
    let left = shape(&seen);
    let [(last, 0)] = &left[..] else {
        panic!("{left:?}");
    };
    assert!(before.contains(last));
    assert_eq!(apply(&mut seen, 7), 0, "it settles");
}

#[test]
fn each_family_has_a_slice_though_nobody_is_there() {
    let mut seen = observed(Vec::new());
    let mut both = service();
    both.spec.as_mut().unwrap().ip_families = Some(vec!["IPv4".into(), "IPv6".into()]);
    seen.service = Some(Arc::new(both));
    assert_eq!(apply(&mut seen, 1), 2);
    let mut families: Vec<_> = seen.slices.iter().map(|s| &*s.address_type).collect();
    families.sort_unstable();
    assert_eq!(families, ["IPv4", "IPv6"]);
    assert_eq!(apply(&mut seen, 2), 0, "it settles");
}

#[test]
fn slices_of_an_earlier_service_of_that_name_are_not_used() {
    let mut seen = observed(vec![pod(0, true)]);
    apply(&mut seen, 1);
    let before = shape(&seen);
    let mut later = service();
    later.metadata.uid = Some("later".into());
    seen.service = Some(Arc::new(later));
    assert_eq!(
        apply(&mut seen, 2),
        2,
        "a new one is made, the old one ended"
    );
    let after = shape(&seen);
    let [(name, 1)] = &after[..] else {
        panic!("{after:?}");
    };
    assert_ne!(*name, before[0].0);
    assert_eq!(apply(&mut seen, 3), 0, "it settles");
}

#[test]
fn a_service_without_selector_leaves_what_is_published() {
    let mut seen = observed(vec![pod(0, true)]);
    apply(&mut seen, 1);
    let endpoints = written(&with_endpoints(&seen, None)).flatten();
    // Its pods are not selected any more, and somebody else keeps the slices from now on.
    seen.pods = None;
    assert_eq!(apply(&mut seen, 2), 0);
    assert_eq!(written(&with_endpoints(&seen, endpoints.clone())), None);
    let mut outside = service();
    outside.spec.as_mut().unwrap().type_ = Some("ExternalName".into());
    seen.service = Some(Arc::new(outside));
    seen.pods = Some(vec![pod(1, true)]);
    assert_eq!(apply(&mut seen, 3), 0);
    assert_eq!(written(&with_endpoints(&seen, endpoints)), None);
}

#[test]
fn of_a_service_that_ends_slices_are_kept_and_none_is_made() {
    let mut seen = observed(vec![pod(0, true)]);
    apply(&mut seen, 1);
    let endpoints = written(&with_endpoints(&seen, None)).flatten();
    let mut ends = service();
    let time = json!("2026-01-01T00:00:00Z");
    ends.metadata.deletion_timestamp = serde_json::from_value(time).unwrap();
    seen.service = Some(Arc::new(ends));
    assert_eq!(apply(&mut seen, 2), 0);
    assert_eq!(written(&with_endpoints(&seen, endpoints.clone())), None);
    seen.pods = Some(vec![pod(0, true), pod(1, true)]);
    assert_eq!(apply(&mut seen, 3), 1, "who still asks is answered rightly");
    assert_eq!(shape(&seen)[0].1, 2);
    let more = written(&with_endpoints(&seen, endpoints)).flatten();
    let subsets = more.and_then(|e| e.subsets).unwrap();
    assert_eq!(subsets[0].addresses.iter().flatten().count(), 2);
    // The garbage collector ends them; nothing comes in their place.
    seen.slices.clear();
    assert_eq!(apply(&mut seen, 4), 0);
    assert_eq!(written(&with_endpoints(&seen, None)), None);
}

#[test]
fn target_ports_are_found_by_number_and_name() {
    let named = |name: &str, port: i32, protocol: &str| {
        json!({ "name": "c", "ports": [
        { "name": "other", "containerPort": 1 },
        { "name": name, "containerPort": port, "protocol": protocol }] })
    };
    let sidecar = |mut container: Value| {
        container["restartPolicy"] = json!("Always");
        container
    };
    let (none, web) = (json!([]), json!([named("web", 8080, "TCP")]));
    for (target, containers, init, want) in [
        (json!(93), none.clone(), none.clone(), Some(93)),
        (json!(93), web.clone(), none.clone(), Some(93)),
        (json!(0), web.clone(), none.clone(), Some(80)),
        (Value::Null, web.clone(), none.clone(), Some(80)),
        (json!("web"), web.clone(), none.clone(), Some(8080)),
        (
            json!("web"),
            json!([{ "name": "a" }, named("web", 9, "TCP")]),
            none.clone(),
            Some(9),
        ),
        (json!("web"), none.clone(), none.clone(), None),
        (
            json!("web"),
            json!([named("web", 9, "UDP")]),
            none.clone(),
            None,
        ),
        (
            json!("web"),
            none.clone(),
            json!([named("web", 9, "TCP")]),
            None,
        ),
        (
            json!("web"),
            none.clone(),
            json!([sidecar(named("web", 9, "TCP"))]),
            Some(9),
        ),
        (
            json!("web"),
            web.clone(),
            json!([sidecar(named("web", 9, "TCP"))]),
            Some(8080),
        ),
    ] {
        let row = format!("{target} {containers} {init}");
        let pod: Pod = serde_json::from_value(json!({ "metadata": {},
            "spec": { "containers": containers, "initContainers": init } }))
        .unwrap();
        let mut service = service();
        let spec = service.spec.as_mut().unwrap();
        let port = json!([{ "port": 80, "targetPort": target }]);
        spec.ports = serde_json::from_value(port).unwrap();
        let ports = super::plan::ports_of(spec, &pod);
        let got = ports.first().map(|p| p["port"].as_i64().unwrap());
        assert_eq!(got, want, "{row}");
    }
}

#[test]
fn labels_of_slices_are_those_of_the_service_but_for_reserved_ones() {
    let manager = "endpointslice.kubernetes.io/managed-by";
    let name = "kubernetes.io/service-name";
    let headless = "service.kubernetes.io/headless";
    for (given, ip, mut want) in [
        (json!({}), "10.96.0.7", json!({})),
        (json!({ "a": "b" }), "10.96.0.7", json!({ "a": "b" })),
        (
            json!({ "a": "b" }),
            "None",
            json!({ "a": "b", headless: "" }),
        ),
        (json!({ headless: "x" }), "10.96.0.7", json!({})),
        (json!({ headless: "x" }), "None", json!({ headless: "" })),
        (
            json!({ name: "other", manager: "other" }),
            "10.96.0.7",
            json!({}),
        ),
    ] {
        let mut seen = observed(vec![pod(0, true)]);
        apply(&mut seen, 1);
        let mut new = service();
        new.metadata.labels = serde_json::from_value(given.clone()).unwrap();
        new.spec.as_mut().unwrap().cluster_ip = Some(ip.to_owned());
        seen.service = Some(Arc::new(new));
        apply(&mut seen, 2);
        assert_eq!(apply(&mut seen, 3), 0, "it settles: {given}");
        want[name] = json!("s");
        want[manager] = json!("endpointslice-controller.k8s.io");
        assert_eq!(json!(seen.slices[0].metadata.labels), want, "{given} {ip}");
    }
}

#[test]
fn endpoints_go_with_the_service_that_was_there() {
    let mut seen = observed(Vec::new());
    seen.service = None;
    let by_hand = Endpoints::default();
    let mut left = with_endpoints(&seen, Some(by_hand));
    assert_eq!(written(&left), None, "no Service was ever seen");
    left.service_went = true;
    assert_eq!(written(&left), Some(None));
}

#[test]
fn endpoints_say_when_that_happened_which_they_were_written_for() {
    let ready_since = |i: usize, time: &str| {
        let mut pod = (*pod(i, true)).clone();
        let status = pod.status.as_mut().unwrap();
        let condition = &mut status.conditions.as_mut().unwrap()[0];
        condition.last_transition_time = serde_json::from_value(json!(time)).unwrap();
        Arc::new(pod)
    };
    let [made, early, late] = [0, 5, 9].map(|s| format!("2026-01-01T00:00:0{s}Z"));
    let mut seen = observed(vec![ready_since(0, &early)]);
    let mut service = service();
    service.metadata.creation_timestamp = serde_json::from_value(json!(made)).unwrap();
    seen.service = Some(Arc::new(service));
    let mut before = None;
    for (pods, want) in [
        (vec![ready_since(0, &early)], Some(&made)),
        (
            vec![ready_since(0, &early), ready_since(1, &late)],
            Some(&late),
        ),
        (vec![ready_since(1, &late)], None),
    ] {
        seen.pods = Some(pods);
        let now = written(&with_endpoints(&seen, before)).flatten().unwrap();
        let notes = now.metadata.annotations.clone().unwrap_or_default();
        assert_eq!(notes.values().next(), want);
        before = Some(now);
    }
}

#[test]
fn a_headless_service_may_have_no_ports_but_not_miss_them() {
    for (ip, ports, want) in [
        ("None", json!([]), 1),
        ("10.96.0.7", json!([]), 0),
        ("None", json!([{ "port": 80, "targetPort": "unknown" }]), 0),
        ("None", json!([{ "port": 80 }]), 1),
    ] {
        let mut seen = observed(vec![pod(0, true)]);
        let mut new = service();
        let spec = new.spec.as_mut().unwrap();
        spec.cluster_ip = Some(ip.to_owned());
        spec.ports = serde_json::from_value(ports.clone()).unwrap();
        seen.service = Some(Arc::new(new));
        let made = written(&with_endpoints(&seen, None)).flatten().unwrap();
        let count = made.subsets.map_or(0, |all| all.len());
        assert_eq!(count, want, "{ip} {ports}");
    }
}
