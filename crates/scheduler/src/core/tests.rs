//! The scheduler's core, by what is reported to it and what it says is to be done.

use k8s_openapi::api::core::v1 as k8s;
use serde_json::{Value, json};

use super::*;
use crate::storage;

fn core(nodes: &[&str]) -> Core {
    let mut core = Core::new(vec![Profile::default()], Waits::default());
    for name in nodes {
        let node = json!({"metadata": {"name": name},
            "status": {"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "9"}}});
        let node: k8s::Node = serde_json::from_value(node).expect("a node");
        core.node_changed(None, Some(&node));
    }
    core
}

fn pod(name: &str, priority: i32, node: Option<&str>, status: Value) -> k8s::Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"priority": priority, "nodeName": node, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": "2"}}}]},
        "status": status,
    }))
    .expect("a pod")
}

fn room(step: Option<Step>) -> Room {
    match step {
        Some(Step::Unschedulable {
            nomination: Nomination::Begins(room),
            ..
        }) => room,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_is_not_tried_while_its_room_is_made() {
    let mut core = core(&["a"]);
    let low = pod("low", 0, Some("a"), json!({}));
    core.pod_changed(None, Some(&low), 0);
    core.pod_changed(None, Some(&pod("high", 9, None, json!({}))), 0);
    let room = room(core.step(1, 0));
    assert_eq!((&*room.node, room.victims.len()), ("a", 1));
    // The victim is gone before the request about it has been answered.
    core.pod_changed(Some(&low), None, 1_000);
    assert!(core.step(2, 2_000).is_none());
    core.made_room(&"high".into(), true, 2_000);
    assert!(matches!(core.step(3, 2_000), Some(Step::Bind { .. })));
}

#[test]
fn a_request_that_fails_is_made_again() {
    let mut core = core(&["a"]);
    core.pod_changed(None, Some(&pod("low", 0, Some("a"), json!({}))), 0);
    core.pod_changed(None, Some(&pod("high", 9, None, json!({}))), 0);
    room(core.step(1, 0));
    core.made_room(&"high".into(), false, 0);
    assert_eq!(room(core.step(2, 1_000)).victims.len(), 1);
}

#[test]
fn less_important_nominations_end() {
    let mut core = core(&["a"]);
    core.pod_changed(None, Some(&pod("low", 0, Some("a"), json!({}))), 0);
    core.pod_changed(None, Some(&pod("middle", 5, None, json!({}))), 0);
    room(core.step(1, 0));
    core.pod_changed(None, Some(&pod("high", 9, None, json!({}))), 0);
    let room = room(core.step(2, 0));
    let displaced: Vec<&str> = room.displaced.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(displaced, ["middle"]);
    assert_eq!(core.snapshot().nomination("middle"), None);
}

#[test]
fn a_nomination_ends_when_the_api_shows_so() {
    let mut core = core(&["a"]);
    let nominated = pod("p", 5, None, json!({"nominatedNodeName": "a"}));
    let plain = pod("p", 5, None, json!({}));
    core.pod_changed(None, Some(&nominated), 0);
    assert!(core.snapshot().nomination("p").is_some());
    core.pod_changed(Some(&nominated), Some(&plain), 0);
    assert_eq!(core.snapshot().nomination("p"), None);
}

#[test]
fn a_nomination_ends_where_nothing_can_come_of_it() {
    let off = || Profile {
        candidates: None,
        ..Profile::default()
    };
    let nominated = pod("p", 5, None, json!({"nominatedNodeName": "a"}));
    let ends = |core: &mut Core| {
        let step = core.step(1, 0);
        let Some(Step::Unschedulable { nomination, .. }) = step else {
            panic!("{step:?}")
        };
        assert!(matches!(nomination, Nomination::Ends), "{nomination:?}");
        assert_eq!(core.snapshot().nomination("p"), None);
    };
    // There are no nodes.
    let mut none = core(&[]);
    none.pod_changed(None, Some(&nominated), 0);
    ends(&mut none);
    // Nobody makes room.
    let mut alone = Core::new(vec![off()], Waits::default());
    let node = json!({"metadata": {"name": "a"},
        "status": {"allocatable": {"cpu": "1", "memory": "8Gi", "pods": "9"}}});
    let node: k8s::Node = serde_json::from_value(node).expect("a node");
    alone.node_changed(None, Some(&node));
    alone.pod_changed(None, Some(&nominated), 0);
    ends(&mut alone);
}

#[test]
fn a_pod_that_leaves_before_it_is_bound_gives_its_node_back() {
    let leaving = |pod: &k8s::Pod| {
        let mut leaving = pod.clone();
        leaving.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
        leaving
    };
    // It waits for its volumes.
    let mut core = core(&["a"]);
    let waits = with_claim(&mut core);
    core.pod_changed(None, Some(&waits), 0);
    assert!(matches!(core.step(1, 0), Some(Step::Prepare { .. })));
    core.pod_changed(Some(&waits), Some(&leaving(&waits)), 0);
    assert_eq!(core.snapshot().placed(), (0, 0));
    core.prepared(&"p".into(), Ok(()), 0);
    let next = pod("next", 0, None, json!({}));
    core.pod_changed(None, Some(&next), 0);
    assert!(matches!(core.step(2, 0), Some(Step::Bind { pod, .. }) if *pod.name == *"next"));
    // It is being bound: its room is its own until that is known, and it is not tried again.
    core.pod_changed(Some(&next), Some(&leaving(&next)), 0);
    assert_eq!(core.snapshot().placed(), (1, 1));
    core.not_bound(&"next".into(), 0);
    assert_eq!(core.snapshot().placed(), (0, 0));
    assert!(core.step(3, 60_000).is_none());
}

fn claim(more: Value) -> k8s::PersistentVolumeClaim {
    let mut claim = json!({"metadata": {"name": "c", "namespace": "d", "uid": "c"},
        "spec": {"storageClassName": "x", "resources": {"requests": {"storage": "1Gi"}}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        claim["spec"][key] = value.clone();
    }
    claim["metadata"]["annotations"] = more["annotations"].clone();
    serde_json::from_value(claim).expect("a claim")
}

fn with_claim(core: &mut Core) -> k8s::Pod {
    core.storage_changed(|s| {
        let class = json!({"metadata": {"name": "x"}, "provisioner": "csi.example",
            "volumeBindingMode": "WaitForFirstConsumer"});
        let class = serde_json::from_value(class).expect("a class");
        s.set_class("x", Some(storage::Class::read(&class)));
    });
    core.claim_changed(None, Some(&claim(json!({}))));
    let mut pod = pod("p", 0, None, json!({}));
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
    let volume = serde_json::from_value(volume).expect("a volume");
    pod.spec.as_mut().expect("a spec").volumes = Some(vec![volume]);
    pod
}

#[test]
fn a_pod_is_bound_after_its_volumes() {
    let mut core = core(&["a"]);
    let pod = with_claim(&mut core);
    core.pod_changed(None, Some(&pod), 0);
    let Some(Step::Prepare { writes, .. }) = core.step(1, 0) else {
        panic!("a node is selected for the claim")
    };
    assert!(matches!(&writes[..], [Write::SelectNode { .. }]));
    core.prepared(&"p".into(), Ok(()), 0);
    assert!(core.step(2, 0).is_none());
    let volume = json!({"metadata": {"name": "v"},
        "spec": {"claimRef": {"namespace": "d", "name": "c", "uid": "c"}}});
    let volume = serde_json::from_value(volume).expect("a volume");
    core.volume_changed(None, Some(&volume));
    assert!(core.step(3, 0).is_none());
    let bound = claim(json!({"volumeName": "v", "annotations": {
        "pv.kubernetes.io/bind-completed": "yes",
        "volume.kubernetes.io/selected-node": "a"}}));
    core.claim_changed(Some(&claim(json!({}))), Some(&bound));
    assert!(matches!(core.step(4, 0), Some(Step::Bind { .. })));
}

#[test]
fn volumes_that_are_never_bound_give_the_node_back() {
    let mut core = core(&["a"]);
    let pod = with_claim(&mut core);
    core.pod_changed(None, Some(&pod), 0);
    assert!(matches!(core.step(1, 0), Some(Step::Prepare { .. })));
    core.prepared(&"p".into(), Ok(()), 0);
    assert_eq!(core.next_due_ms(), Some(0), "its room on the node is news");
    assert!(core.step(1, 0).is_none());
    assert_eq!(core.next_due_ms(), Some(600_000));
    let Some(Step::Failed { message, .. }) = core.step(2, 600_000) else {
        panic!("it waited long enough")
    };
    assert_eq!(
        message,
        "running PreBind plugin \"VolumeBinding\": timed out"
    );
    assert!(matches!(core.step(3, 600_000), Some(Step::Prepare { .. })));
    // What could not be written frees the node, too.
    core.prepared(&"p".into(), Err("no".into()), 600_000);
    assert!(matches!(core.step(4, 600_000), Some(Step::Failed { .. })));
    assert!(core.snapshot().place("p").is_none());
}

#[test]
fn only_what_helps_wakes_a_pod() {
    let mut core = core(&["a", "b"]);
    for (name, node) in [("on-a", "a"), ("on-b", "b")] {
        core.pod_changed(None, Some(&pod(name, 5, Some(node), json!({}))), 0);
    }
    let mut picky = pod("picky", 0, None, json!({}));
    picky.spec.as_mut().expect("a spec").node_selector =
        Some([("disk".to_owned(), "ssd".to_owned())].into());
    core.pod_changed(None, Some(&picky), 0);
    assert!(matches!(core.step(1, 0), Some(Step::Unschedulable { .. })));
    // Room does not help: it was not the room.
    core.pod_changed(Some(&pod("on-a", 5, Some("a"), json!({}))), None, 9_000);
    assert!(core.step(2, 9_000).is_none());
    // Nor is a label that it does not want.
    let labelled = |value: &str| -> k8s::Node {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "labels": {"disk": value}},
            "status": {"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "9"}}}))
        .expect("a node")
    };
    core.node_changed(None, Some(&labelled("hdd")));
    assert!(core.step(3, 9_000).is_none());
    core.node_changed(None, Some(&labelled("ssd")));
    assert!(matches!(core.step(4, 9_000), Some(Step::Bind { .. })));
}

#[test]
fn each_profile_has_its_pods() {
    let other = Profile {
        scheduler: "other".into(),
        candidates: None,
        ..Profile::default()
    };
    let mut core = Core::new(vec![Profile::default(), other], Waits::default());
    for (name, scheduler) in [("mine", "default-scheduler"), ("his", "other"), ("no", "x")] {
        let mut pod = pod(name, 0, None, json!({}));
        pod.spec.as_mut().expect("a spec").scheduler_name = Some(scheduler.into());
        core.pod_changed(None, Some(&pod), 0);
    }
    let steps = std::iter::from_fn(|| core.step(1, 0));
    let steps: Vec<String> = steps
        .map(|step| match step {
            Step::Unschedulable { pod, .. } => pod.name.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(steps, ["mine", "his"]);
}
