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
