//! What is attached and detached, step by step.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Informer;
use control::action::Action;
use k8s_openapi::api::core::v1::{
    Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use serde_json::{Value, json};

use super::plan::{DesiredVolume, Elsewhere, Observed, plan, trouble, wanted};
use super::{attached_of, needs_volumes};

const UNIQUE: &str = "kubernetes.io/csi/d^h";

fn id() -> String {
    api::csi::attachment_name("d", "h", "n")
}

fn volume(mode: &str) -> DesiredVolume {
    let volume = json!({ "metadata": { "name": "pv" }, "spec": { "accessModes": [mode],
        "csi": { "driver": "d", "volumeHandle": "h" } } });
    let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
    let (name, mut wanted) = wanted(&volume, "n").unwrap();
    assert_eq!(name, id());
    wanted.pods.push(ObjectReference {
        name: Some("p".into()),
        ..Default::default()
    });
    wanted
}

fn attachment(status: Value) -> Arc<VolumeAttachment> {
    let object = json!({ "metadata": { "name": id(), "uid": "1" }, "spec": { "attacher": "d",
        "nodeName": "n", "source": { "persistentVolumeName": "pv" } }, "status": status });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn node(attached: bool, used: bool, more: Value) -> Option<Arc<Node>> {
    let mut node = json!({ "metadata": { "name": "n" }, "status": {
        "conditions": [{ "type": "Ready", "status": "True" }] } });
    if attached {
        node["status"]["volumesAttached"] = json!([{ "name": UNIQUE, "devicePath": "" }]);
    }
    if used {
        node["status"]["volumesInUse"] = json!([UNIQUE]);
    }
    crate::common::merge(&mut node, &more);
    Some(Arc::new(serde_json::from_value(node).unwrap()))
}

fn seen(
    node: Option<Arc<Node>>,
    volume: Option<DesiredVolume>,
    attachment: Option<Arc<VolumeAttachment>>,
) -> Observed {
    Observed {
        name: "n".into(),
        node,
        wanted: volume.map(|v| (id(), v)).into_iter().collect(),
        attachments: attachment.into_iter().collect(),
        since: BTreeMap::from([(id(), 0)]),
    }
}

fn done(seen: &Observed, now: i64) -> Vec<String> {
    let said = |action: &Action| match action {
        Action::Create { .. } => "attach".to_owned(),
        Action::Delete { uid, .. } => format!("detach {}", uid.as_deref().unwrap_or_default()),
        Action::Patch { patch, .. } => {
            let control::action::Patch::Merge(value) = patch else {
                panic!("{patch:?}");
            };
            let list = value["status"]["volumesAttached"].as_array().unwrap();
            format!("list {}", list.len())
        }
        Action::Event { reason, .. } => (*reason).to_owned(),
        other => panic!("{other:?}"),
    };
    plan(seen, now).actions.iter().map(said).collect()
}

#[test]
fn what_is_wanted_is_attached_and_listed() {
    let once = || Some(volume("ReadWriteOnce"));
    let here = |attached, used| node(attached, used, json!({}));
    assert_eq!(done(&seen(here(false, false), once(), None), 0), ["attach"]);
    let waits = attachment(json!({ "attached": false }));
    assert!(done(&seen(here(false, true), once(), Some(waits)), 0).is_empty());
    let there = || Some(attachment(json!({ "attached": true })));
    let first = done(&seen(here(false, true), once(), there()), 0);
    assert_eq!(first, ["SuccessfulAttachVolume", "list 1"]);
    assert!(done(&seen(here(true, true), once(), there()), 0).is_empty());
    assert!(done(&seen(None, once(), None), 0).is_empty());
}

#[test]
fn what_is_not_wanted_is_taken_from_the_list_before_it_is_detached() {
    let there = || Some(attachment(json!({ "attached": true })));
    let here = |attached, used| node(attached, used, json!({}));
    assert!(done(&seen(here(true, true), None, there()), 0).is_empty());
    assert_eq!(done(&seen(here(true, false), None, there()), 0), ["list 0"]);
    assert_eq!(
        done(&seen(here(false, false), None, there()), 0),
        ["detach 1"]
    );
    // It began to use it meanwhile: it has not seen it in the list, and lets go.
    assert!(done(&seen(here(false, true), None, there()), 0).is_empty());
    assert_eq!(done(&seen(None, None, there()), 0), ["detach 1"]);
}

#[test]
fn what_others_attach_is_theirs() {
    let mut other = (*attachment(json!({ "attached": true }))).clone();
    for name in ["va-of-somebody", "csi-", &id()[..60]] {
        other.metadata.name = Some(name.to_owned());
        let seen = seen(
            node(false, false, json!({})),
            None,
            Some(Arc::new(other.clone())),
        );
        assert_eq!(done(&seen, i64::MAX / 2), [""; 0], "{name}");
    }
}

#[test]
fn a_node_that_is_off_or_silent_for_long_loses_its_volumes() {
    let there = || Some(attachment(json!({ "attached": true })));
    let off = json!({ "spec": { "taints": [{ "key": "node.kubernetes.io/out-of-service",
        "effect": "NoExecute" }] } });
    assert_eq!(
        done(&seen(node(true, true, off.clone()), None, there()), 0),
        ["list 0"]
    );
    assert_eq!(
        done(&seen(node(false, true, off), None, there()), 0),
        ["detach 1"]
    );
    let silent = json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } });
    let silent = || node(true, true, silent.clone());
    let before = plan(&seen(silent(), None, there()), 60_000);
    assert_eq!(
        (before.actions.len(), before.wake_after_millis),
        (0, Some(300_000))
    );
    assert_eq!(done(&seen(silent(), None, there()), 360_000), ["list 0"]);
    let ready = node(true, true, json!({}));
    assert!(done(&seen(ready, None, there()), 360_000).is_empty());
}

#[test]
fn a_volume_for_one_node_waits_for_the_other() {
    let elsewhere = |mode: &str, pods: &[&str]| {
        let mut volume = volume(mode);
        volume.elsewhere = Some(Elsewhere {
            pods: pods.iter().map(|p| (*p).to_owned()).collect(),
        });
        volume.trouble = trouble(&volume, None);
        volume
    };
    let here = || node(false, false, json!({}));
    let alone = elsewhere("ReadWriteOnce", &["q"]);
    let text = alone.trouble.clone().unwrap();
    assert_eq!(
        text,
        "Multi-Attach error for volume \"pv\" Volume is already used by pod(s) q"
    );
    assert_eq!(
        done(&seen(here(), Some(alone), None), 0),
        ["FailedAttachVolume"]
    );
    let shared = elsewhere("ReadWriteMany", &["q"]);
    assert_eq!(done(&seen(here(), Some(shared), None), 0), ["attach"]);
}

#[test]
fn a_failed_attachment_is_told() {
    let failed = attachment(json!({ "attached": false, "attachError": { "message": "full" } }));
    let mut volume = volume("ReadWriteOnce");
    volume.trouble = trouble(&volume, Some(&failed));
    let text = volume.trouble.clone().unwrap();
    assert_eq!(text, "AttachVolume.Attach failed for volume \"pv\" : full");
    let all = seen(node(false, true, json!({})), Some(volume), Some(failed));
    assert_eq!(done(&all, 0), ["FailedAttachVolume"]);
}

#[test]
fn a_pod_needs_its_volumes_until_its_containers_end() {
    let pod = |status: Value, deleted: bool| -> Pod {
        let mut pod = json!({ "metadata": { "name": "p" }, "status": status });
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(pod).unwrap()
    };
    let state = |state: Value| {
        json!({ "phase": "Running", "containerStatuses": [{ "name": "c", "ready": true,
            "restartCount": 0, "image": "", "imageID": "", "state": state }] })
    };
    let runs = || state(json!({ "running": {} }));
    let ended = || state(json!({ "terminated": { "exitCode": 0 } }));
    assert!(needs_volumes(&pod(json!({ "phase": "Pending" }), false)));
    assert!(needs_volumes(&pod(runs(), true)));
    assert!(needs_volumes(&pod(ended(), false)));
    assert!(!needs_volumes(&pod(ended(), true)));
    assert!(!needs_volumes(&pod(json!({ "phase": "Succeeded" }), false)));
}

#[test]
fn only_the_volume_that_is_a_claims_own_is_attached_for_it() {
    let csi = json!({ "driver": "d", "volumeHandle": "h" });
    let to = |uid: &str| json!({ "namespace": "ns", "name": "c", "uid": uid });
    let unbound = json!({ "namespace": "ns", "name": "c" });
    // The claim's volume; what that is, and the claim that it is bound to; whether its driver
    // attaches, where it says so; and whether something is to be attached.
    let rows = [
        ("pv", json!({ "csi": csi, "claimRef": to("u") }), None, true),
        (
            "pv",
            json!({ "csi": csi, "claimRef": to("u") }),
            Some(true),
            true,
        ),
        (
            "pv",
            json!({ "csi": csi, "claimRef": to("u") }),
            Some(false),
            false,
        ),
        (
            "pv",
            json!({ "csi": csi, "claimRef": to("other") }),
            None,
            false,
        ),
        (
            "pv",
            json!({ "csi": csi, "claimRef": unbound }),
            None,
            false,
        ),
        ("pv", json!({ "csi": csi }), None, false),
        (
            "pv",
            json!({ "hostPath": { "path": "/" }, "claimRef": to("u") }),
            None,
            false,
        ),
        ("", json!({ "csi": csi, "claimRef": to("u") }), None, false),
        (
            "none",
            json!({ "csi": csi, "claimRef": to("u") }),
            None,
            false,
        ),
    ];
    for (names, spec, attaches, wanted) in rows {
        let claim = json!({ "metadata": { "namespace": "ns", "name": "c", "uid": "u" },
            "spec": { "volumeName": names } });
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        let volume = json!({ "metadata": { "name": "pv" }, "spec": spec });
        let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
        let driver = attaches.map(|attaches: bool| -> CSIDriver {
            let driver =
                json!({ "metadata": { "name": "d" }, "spec": { "attachRequired": attaches } });
            serde_json::from_value(driver).unwrap()
        });
        let (claims, volumes) = (Informer::fixed([claim]), Informer::fixed([volume]));
        let found = attached_of(&claims, &volumes, &Informer::fixed(driver), "ns/c");
        assert_eq!(found.is_some(), wanted, "{names} {spec} {attaches:?}");
    }
}
