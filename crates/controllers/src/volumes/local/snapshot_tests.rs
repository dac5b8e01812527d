//! Plans for snapshots and their contents, and where volumes begin with one.

use api::local_volumes::{CONTENT_BOUND, FINALIZER, NODE_LABEL, PROVISIONED_BY, SNAPSHOTS};
use client::custom_kinds::CustomKindEvent;
use control::action::{Action, Patch};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::super::BIND_COMPLETED;
use super::snapshot::{
    ObservedContent, ObservedSnapshot, SnapshotNode, plan, plan_content, plan_node,
};
use super::snapshot_objects::with_rooms;
use super::*;

const HOLDS: &str = "tiphys.io/local-snapshot";

fn object(kind: &str, value: &Value) -> Arc<DynamicObject> {
    let mut whole = json!({ "apiVersion": "snapshot.storage.k8s.io/v1", "kind": kind });
    crate::common::merge(&mut whole, value);
    Arc::new(serde_json::from_value(whole).unwrap())
}

fn snapshot(change: &Value) -> Arc<DynamicObject> {
    let mut value = json!({
        "metadata": { "name": "s", "namespace": "a", "uid": "u1", "finalizers": [HOLDS] },
        "spec": { "volumeSnapshotClassName": "ours", "source": { "persistentVolumeClaimName": "c" } } });
    crate::common::merge(&mut value, change);
    object("VolumeSnapshot", &value)
}

fn class(driver: &str) -> Arc<DynamicObject> {
    let class = json!({ "metadata": { "name": "ours", "annotations":
        { "snapshot.storage.kubernetes.io/is-default-class": "true" } },
        "driver": driver, "deletionPolicy": "Delete" });
    object("VolumeSnapshotClass", &class)
}

fn content(change: &Value) -> Arc<DynamicObject> {
    let mut value = json!({
        "metadata": { "name": "snapcontent-u1", "uid": "c1", "labels": { NODE_LABEL: "n1" },
            "finalizers": [FINALIZER, CONTENT_BOUND] },
        "spec": { "driver": PROVISIONER, "deletionPolicy": "Delete",
            "source": { "volumeHandle": "pvc-1" },
            "volumeSnapshotRef": { "namespace": "a", "name": "s", "uid": "u1" } } });
    crate::common::merge(&mut value, change);
    object("VolumeSnapshotContent", &value)
}

fn claim() -> Arc<PersistentVolumeClaim> {
    let claim = json!({ "metadata": { "name": "c", "namespace": "a", "uid": "k1",
            "annotations": { BIND_COMPLETED: "yes" } },
        "spec": { "volumeName": "pvc-1" } });
    Arc::new(serde_json::from_value(claim).unwrap())
}

fn volume(maker: &str) -> Arc<PersistentVolume> {
    let volume = json!({ "metadata": { "name": "pvc-1", "labels": { NODE_LABEL: "n1" },
            "annotations": { PROVISIONED_BY: maker } },
        "spec": { "capacity": { "storage": "2Gi" } } });
    Arc::new(serde_json::from_value(volume).unwrap())
}

fn seen(snapshot: Arc<DynamicObject>) -> ObservedSnapshot {
    ObservedSnapshot {
        snapshot,
        class: Some(class(PROVISIONER)),
        content: None,
        claim: Some(claim()),
        volume: Some(volume(PROVISIONER)),
        left_bytes: Some(4 << 30),
    }
}

/// What the only patch of a plan writes.
fn patched(plan: &Plan) -> &Value {
    match &plan.actions[..] {
        [
            Action::Patch {
                patch: Patch::Merge(value),
                ..
            },
        ] => value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_snapshot_gets_a_content_on_its_volumes_node() {
    // It is held first.
    let fresh = seen(snapshot(&json!({ "metadata": { "finalizers": null } })));
    assert_eq!(
        patched(&plan(&fresh))["metadata"]["finalizers"],
        json!([HOLDS])
    );
    let made = plan(&seen(snapshot(&json!({}))));
    let [Action::Noted { action, .. }] = &made.actions[..] else {
        panic!("{made:?}");
    };
    let Action::Create { object, target } = &**action else {
        panic!("{action:?}");
    };
    assert_eq!(target.name, "snapcontent-u1");
    assert_eq!(object["metadata"]["labels"][NODE_LABEL], "n1");
    assert_eq!(object["spec"]["source"]["volumeHandle"], "pvc-1");
    assert_eq!(object["spec"]["deletionPolicy"], "Delete");
    assert_eq!(object["spec"]["volumeSnapshotRef"]["uid"], "u1");
}

#[test]
fn other_drivers_snapshots_are_left_alone() {
    let mut other = seen(snapshot(&json!({})));
    other.class = Some(class("csi.example"));
    assert!(plan(&other).is_empty());
    // Who names no class gets ours for our volumes alone.
    let unnamed = snapshot(&json!({ "spec": { "volumeSnapshotClassName": null } }));
    assert!(!plan(&seen(unnamed.clone())).is_empty());
    let mut of_others = seen(unnamed);
    of_others.volume = Some(volume("csi.example"));
    assert!(plan(&of_others).is_empty());
}

#[test]
fn what_cannot_be_taken_is_said_in_the_snapshot() {
    let error = |change: fn(&mut ObservedSnapshot)| {
        let mut seen = seen(snapshot(&json!({})));
        change(&mut seen);
        let plan = plan(&seen);
        assert!(plan.wake_after_millis.is_some());
        let status = &patched(&plan)["status"];
        assert_eq!(status["readyToUse"], json!(false));
        status["error"]["message"].as_str().unwrap().to_owned()
    };
    assert!(error(|s| s.claim = None).contains("not found"));
    assert!(error(|s| s.volume = None).contains("not found"));
    assert!(error(|s| s.volume = Some(volume("x"))).contains("was not made by"));
    assert!(error(|s| s.left_bytes = Some(1 << 30)).contains("has 1Gi left"));
    // Once is enough.
    let told =
        json!({ "status": { "error": { "message": "persistentvolumeclaim \"c\" not found" } } });
    let mut again = seen(snapshot(&told));
    again.claim = None;
    assert!(plan(&again).is_empty());
}

#[test]
fn a_snapshot_says_what_its_content_says() {
    let mut ready = seen(snapshot(&json!({})));
    ready.content = Some(content(&json!({ "status": { "readyToUse": true,
        "creationTime": 1_767_225_600_000_000_000_i64, "restoreSize": 2_i64 << 30,
        "snapshotHandle": "n1/snapshot-u1" } })));
    let told = plan(&ready);
    let status = &patched(&told)["status"];
    assert_eq!(status["boundVolumeSnapshotContentName"], "snapcontent-u1");
    assert_eq!(status["creationTime"], "2026-01-01T00:00:00Z");
    assert_eq!(
        (&status["readyToUse"], &status["restoreSize"]),
        (&json!(true), &json!("2Gi"))
    );
    ready.snapshot = snapshot(&json!({ "status": status }));
    assert!(plan(&ready).is_empty());
    // A content that a person made for it gets its UID; one of another snapshot is not its own.
    let by_hand = json!({ "spec": { "volumeSnapshotRef": { "uid": null } } });
    ready.content = Some(content(&by_hand));
    assert_eq!(
        patched(&plan(&ready))["spec"]["volumeSnapshotRef"]["uid"],
        "u1"
    );
    ready.content = Some(content(
        &json!({ "spec": { "volumeSnapshotRef": { "name": "t" } } }),
    ));
    let text = patched(&plan(&ready))["status"]["error"]["message"].to_string();
    assert!(text.contains("is for another snapshot"), "{text}");
}

#[test]
fn a_snapshot_goes_after_its_content_and_that_after_its_folder() {
    let gone = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
    let mut leaving = seen(snapshot(&gone));
    leaving.content = Some(content(&json!({})));
    let first = plan(&leaving);
    assert!(matches!(&first.actions[..], [Action::Delete { uid: Some(u), .. }] if u == "c1"));
    leaving.content = Some(content(&gone));
    assert!(plan(&leaving).is_empty());
    let of_content = |content, snapshot, node| {
        plan_content(&ObservedContent {
            content,
            snapshot,
            node,
        })
    };
    // Held as long as the snapshot is there and stays; then its node may remove the folder.
    assert!(of_content(content(&gone), Some(snapshot(&json!({}))), true).is_empty());
    let free = of_content(content(&gone), Some(snapshot(&gone)), true);
    assert_eq!(patched(&free)["metadata"]["finalizers"], json!([FINALIZER]));
    let mut held_by_node = gone.clone();
    held_by_node["metadata"]["finalizers"] = json!([FINALIZER]);
    assert!(of_content(content(&held_by_node), None, true).is_empty());
    let node_gone = of_content(content(&held_by_node), None, false);
    assert_eq!(patched(&node_gone)["metadata"]["finalizers"], json!([]));
    leaving.content = None;
    assert_eq!(
        patched(&plan(&leaving))["metadata"]["finalizers"],
        json!([])
    );
    // One that is kept does not hold its snapshot.
    leaving.content = Some(content(&json!({ "spec": { "deletionPolicy": "Retain" } })));
    assert_eq!(
        patched(&plan(&leaving))["metadata"]["finalizers"],
        json!([])
    );
}

#[test]
fn a_content_that_a_person_made_is_shown_to_its_node() {
    let by_hand = json!({ "metadata": { "labels": null, "finalizers": null },
        "spec": { "source": { "volumeHandle": null, "snapshotHandle": "n2/snapshot-7" } } });
    let shown = plan_content(&ObservedContent {
        content: content(&by_hand),
        snapshot: None,
        node: true,
    });
    let meta = &patched(&shown)["metadata"];
    assert_eq!(meta["labels"][NODE_LABEL], "n2");
    assert_eq!(meta["finalizers"], json!([FINALIZER, CONTENT_BOUND]));
}

#[test]
fn a_node_follows_snapshots_while_it_has_some() {
    let plan = |annotations: Value, has| {
        let node = json!({ "metadata": { "name": "n1", "annotations": annotations } });
        let node = Arc::new(serde_json::from_value(node).unwrap());
        plan_node(&SnapshotNode { node, has })
    };
    let told = plan(json!({}), true);
    assert_eq!(patched(&told)["metadata"]["annotations"][SNAPSHOTS], "true");
    assert!(plan(json!({ SNAPSHOTS: "true" }), true).is_empty());
    let ends = plan(json!({ SNAPSHOTS: "true" }), false);
    assert!(patched(&ends)["metadata"]["annotations"][SNAPSHOTS].is_null());
}

#[test]
fn a_volume_begins_with_a_claim_or_a_snapshot() {
    let known = SnapshotObjects::default();
    let nodes = Informer::fixed([]);
    let tell = |kind, object: Arc<DynamicObject>| {
        let event = Box::new(Event::Apply(DynamicObject::clone(&object)));
        known.take(CustomKindEvent::Objects(kind, event), &nodes)
    };
    let claims = Informer::fixed([PersistentVolumeClaim::clone(&claim())]);
    let volumes = Informer::fixed([PersistentVolume::clone(&volume(PROVISIONER))]);
    let caches = Caches {
        claims: &claims,
        volumes: &volumes,
        known: &known,
    };
    let source = |from: Value| {
        let claim = json!({ "metadata": { "name": "new", "namespace": "a" },
            "spec": { "dataSourceRef": from } });
        caches.source(&serde_json::from_value(claim).unwrap())
    };
    let copy = |folder: &str| DataSource::Copy {
        node: "n1".into(),
        folder: folder.into(),
        bytes: 2 << 30,
    };
    let of_claim = json!({ "kind": "PersistentVolumeClaim", "name": "c" });
    assert_eq!(source(of_claim), copy("pvc-1"));
    let missing = |from: Value| match source(from) {
        DataSource::Missing(why) => why,
        other => panic!("{other:?}"),
    };
    let of_snapshot =
        json!({ "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s" });
    assert!(missing(of_snapshot.clone()).contains("not found"));
    let keys = tell(
        SnapshotKind::Snapshot,
        snapshot(&json!({ "metadata": { "resourceVersion": "1" } })),
    );
    assert!(keys.contains(&Key::Content("snapcontent-u1".into())));
    assert!(missing(of_snapshot.clone()).contains("not ready"));
    let ready = json!({ "metadata": { "resourceVersion": "2" }, "status": { "readyToUse": true,
        "restoreSize": 2_i64 << 30, "snapshotHandle": "n1/snapshot-u1" } });
    tell(SnapshotKind::Snapshot, snapshot(&ready));
    let keys = tell(SnapshotKind::Content, content(&ready));
    assert!(keys.contains(&Key::SnapshotNode("n1".into())));
    // What the scheduler hears of the node's room changes with it.
    let room = |node: &str| Key::Room("class".into(), node.to_owned());
    let keys = with_rooms(keys, |node| vec![room(node)]);
    assert!(keys.contains(&room("n1")));
    assert_eq!(source(of_snapshot.clone()), copy("snapshot-u1"));
    assert_eq!(
        known.of_claim("a", "c"),
        [Key::Snapshot("a".into(), "s".into())]
    );
    let mut elsewhere = of_snapshot.clone();
    elsewhere["namespace"] = json!("b");
    assert!(missing(elsewhere).contains("another namespace"));
    let odd = json!({ "apiGroup": "x.io", "kind": "Populator", "name": "s" });
    assert!(missing(odd).contains("cannot be made from a Populator"));
    // The kinds go: nothing is known of them any more.
    known.take(CustomKindEvent::Kinds([].into()), &nodes);
    assert!(missing(of_snapshot).contains("not found"));
}
