//! The provisioner's plans.

use api::local_volumes::{
    CAPACITY, ENFORCED, EVICT, FINALIZER, LIMIT, MEASURED, NODE_LABEL, OVERUSE, PATH, QUOTA, SOURCE,
};
use control::action::Action;
use serde_json::{Value, json};

use super::super::{PROVISIONED_BY, SELECTED_NODE};
use super::*;

fn node(name: &str, capacity: &str) -> Arc<Node> {
    let node = json!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name },
        "annotations": { PATH: "/data/volumes", CAPACITY: capacity } } });
    Arc::new(serde_json::from_value(node).unwrap())
}

fn seen(
    selected: Option<&str>,
    mode: &str,
    offers: &[(&str, &str, i64)],
) -> make::ClaimToProvision {
    let mut claim = json!({ "metadata": { "name": "c", "namespace": "a", "uid": "u1" },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "resources": { "requests": { "storage": "2Gi" } } } });
    if let Some(node) = selected {
        claim["metadata"]["annotations"] = json!({ SELECTED_NODE: node });
    }
    let class = json!({ "metadata": { "name": "local" }, "provisioner": PROVISIONER,
        "reclaimPolicy": "Retain", "volumeBindingMode": mode });
    let offer = |(name, capacity, promised): &(&str, &str, i64)| make::Offer {
        node: node(name, capacity),
        promised_bytes: *promised,
    };
    make::ClaimToProvision {
        claim: Arc::new(serde_json::from_value(claim).unwrap()),
        class: Arc::new(serde_json::from_value(class).unwrap()),
        selected: selected.map(str::to_owned),
        offers: offers.iter().map(offer).collect(),
        source: DataSource::Nothing,
    }
}

fn made(plan: &Plan) -> Value {
    match &plan.actions[..] {
        [Action::Noted { action, .. }] => match &**action {
            Action::Create { object, .. } => object.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// What is said of a volume that was made.
fn told(plan: &Plan) -> &str {
    match &plan.actions[..] {
        [
            Action::Noted {
                success: Some((_, text)),
                ..
            },
        ] => text,
        other => panic!("{other:?}"),
    }
}

fn refused(plan: &Plan) -> &str {
    match &plan.actions[..] {
        [
            Action::Event {
                reason, message, ..
            },
            ..,
        ] if *reason == "ProvisioningFailed" => message,
        other => panic!("{other:?}"),
    }
}

const GIB: i64 = 1 << 30;

#[test]
fn a_volume_is_made_on_the_chosen_node() {
    let wait = "WaitForFirstConsumer";
    let volume = made(&make::plan(&seen(Some("n1"), wait, &[("n1", "10Gi", GIB)])));
    assert_eq!(volume["metadata"]["name"], "pvc-u1");
    assert_eq!(volume["metadata"]["labels"][NODE_LABEL], "n1");
    assert_eq!(volume["spec"]["local"]["path"], "/data/volumes/pvc-u1");
    assert_eq!(volume["spec"]["capacity"]["storage"], "2Gi");
    assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain");
    assert_eq!(volume["spec"]["claimRef"]["uid"], "u1");
    // It is not made before a node is chosen.
    let nothing = make::plan(&seen(None, wait, &[("n1", "10Gi", 0)]));
    assert!(nothing.is_empty());
    // Where the class does not wait, the node with the most room has it.
    let all = [("n1", "10Gi", 9 * GIB), ("n2", "5Gi", 0), ("n3", "1Gi", 0)];
    let volume = made(&make::plan(&seen(None, "Immediate", &all)));
    assert_eq!(volume["metadata"]["labels"][NODE_LABEL], "n2");
}

#[test]
fn without_room_the_choice_goes_back_to_the_scheduler() {
    let plan = make::plan(&seen(
        Some("n1"),
        "WaitForFirstConsumer",
        &[("n1", "10Gi", 9 * GIB)],
    ));
    assert!(refused(&plan).contains("1Gi left"), "{plan:?}");
    let [_, Action::Update { object, .. }] = &plan.actions[..] else {
        panic!("{plan:?}");
    };
    assert!(object["metadata"]["annotations"][SELECTED_NODE].is_null());
    assert!(plan.wake_after_millis.is_none());
    let gone = make::plan(&seen(Some("n1"), "WaitForFirstConsumer", &[]));
    assert!(refused(&gone).contains("not found"));
    // Nobody chose: there may be room later.
    let full = make::plan(&seen(None, "Immediate", &[("n1", "1Gi", 0)]));
    assert!(refused(&full).contains("no node has that much"));
    assert!(full.wake_after_millis.is_some());
}

#[test]
fn what_a_folder_cannot_be_is_refused() {
    let mut many = seen(Some("n1"), "Immediate", &[("n1", "10Gi", 0)]);
    let spec = Arc::make_mut(&mut many.claim).spec.as_mut().unwrap();
    spec.access_modes = Some(vec!["ReadWriteMany".into()]);
    assert!(refused(&make::plan(&many)).contains("ReadWriteMany"));
    let mut block = seen(Some("n1"), "Immediate", &[("n1", "10Gi", 0)]);
    let spec = Arc::make_mut(&mut block.claim).spec.as_mut().unwrap();
    spec.volume_mode = Some("Block".into());
    assert!(refused(&make::plan(&block)).contains("block device"));
    let mut odd = seen(Some("n1"), "Immediate", &[("n1", "10Gi", 0)]);
    let class = Arc::make_mut(&mut odd.class);
    class.parameters = Some([("type".to_owned(), "fast".to_owned())].into());
    assert!(refused(&make::plan(&odd)).contains("\"type\""));
}

#[test]
fn whether_a_size_is_enforced_is_said() {
    let mut seen = seen(Some("n1"), "Immediate", &[("n1", "10Gi", 0)]);
    assert!(told(&make::plan(&seen)).contains("not enforced, and an event says"));
    let class = Arc::make_mut(&mut seen.class);
    class.parameters = Some([("overuse".to_owned(), EVICT.to_owned())].into());
    let plan = make::plan(&seen);
    assert!(told(&plan).contains("pods are evicted"));
    assert_eq!(made(&plan)["metadata"]["annotations"][OVERUSE], EVICT);
    let node = Arc::make_mut(&mut seen.offers[0].node);
    let all = node.metadata.annotations.get_or_insert_default();
    all.insert(QUOTA.to_owned(), ENFORCED.to_owned());
    assert!(told(&make::plan(&seen)).contains("is enforced by the file system"));
    let class = Arc::make_mut(&mut seen.class);
    class.parameters = Some([("overuse".to_owned(), "sometimes".to_owned())].into());
    assert!(refused(&make::plan(&seen)).contains("\"sometimes\""));
}

#[test]
fn a_copy_is_made_where_its_original_is() {
    let mut seen = seen(Some("n1"), "WaitForFirstConsumer", &[("n1", "10Gi", 0)]);
    let copy = |bytes| DataSource::Copy {
        node: "n1".into(),
        folder: "pvc-0".into(),
        bytes,
    };
    seen.source = copy(GIB);
    let volume = made(&make::plan(&seen));
    assert_eq!(volume["metadata"]["annotations"][SOURCE], "pvc-0");
    seen.source = copy(3 * GIB);
    let plan = make::plan(&seen);
    assert!(refused(&plan).contains("which has 3Gi"), "{plan:?}");
    // The scheduler has nothing to choose: what it chose stays, and it is looked again.
    assert_eq!(plan.actions.len(), 1);
    assert!(plan.wake_after_millis.is_some());
    seen.source = DataSource::Missing("volumesnapshot \"s\" is not ready to use".into());
    let plan = make::plan(&seen);
    assert!(refused(&plan).contains("is not ready") && plan.wake_after_millis.is_some());
}

#[test]
fn the_scheduler_is_told_how_much_room_there_is() {
    let class = Arc::new(
        serde_json::from_value(
            json!({ "metadata": { "name": "local" }, "provisioner": PROVISIONER }),
        )
        .unwrap(),
    );
    let seen = |promised: Option<i64>, known: Option<Value>| room::NodeRoom {
        class: "local".into(),
        node: "n1".into(),
        found: Some(Arc::clone(&class)),
        offer: promised.map(|promised_bytes| make::Offer {
            node: node("n1", "10Gi"),
            promised_bytes,
        }),
        known: known.map(|k| Arc::new(serde_json::from_value(k).unwrap())),
    };
    let first = room::plan(&seen(Some(GIB), None));
    let [Action::Create { object, .. }] = &first.actions[..] else {
        panic!("{first:?}");
    };
    assert_eq!(object["capacity"], "9Gi");
    assert_eq!(
        object["nodeTopology"]["matchLabels"]["kubernetes.io/hostname"],
        "n1"
    );
    let known: CSIStorageCapacity = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(
        room::of(&known),
        Some(("local".to_owned(), "n1".to_owned()))
    );
    let again = |promised| room::plan(&seen(promised, Some(object.clone())));
    assert!(again(Some(GIB)).is_empty());
    let less = again(Some(11 * GIB));
    let [
        Action::Update {
            object: changed, ..
        },
    ] = &less.actions[..]
    else {
        panic!("{less:?}");
    };
    assert_eq!(changed["capacity"], "0");
    let gone = again(None);
    assert!(matches!(&gone.actions[..], [Action::Delete { .. }]));
    assert!(room::plan(&seen(None, None)).is_empty());
}

fn volume(phase: &str, policy: &str, deleting: bool) -> Arc<PersistentVolume> {
    let mut volume = json!({ "metadata": { "name": "pvc-u1", "uid": "v1",
            "labels": { NODE_LABEL: "n1" }, "annotations": { PROVISIONED_BY: PROVISIONER },
            "finalizers": [FINALIZER, "x/y"] },
        "spec": { "persistentVolumeReclaimPolicy": policy, "capacity": { "storage": "2Gi" } },
        "status": { "phase": phase } });
    if deleting {
        volume["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    Arc::new(serde_json::from_value(volume).unwrap())
}

#[test]
fn a_released_volume_goes_and_waits_for_its_node() {
    let plan = |phase, policy, deleting, node| {
        let volume = volume(phase, policy, deleting);
        release::plan(&release::VolumeToReclaim { volume, node })
    };
    assert!(plan("Bound", "Delete", false, true).is_empty());
    assert!(plan("Released", "Retain", false, true).is_empty());
    let deletes = plan("Released", "Delete", false, true);
    assert!(matches!(&deletes.actions[..], [Action::Delete { uid: Some(u), .. }] if u == "v1"));
    assert!(plan("Released", "Delete", true, true).is_empty());
    let lets_go = plan("Released", "Delete", true, false);
    let [Action::Noted { action, .. }] = &lets_go.actions[..] else {
        panic!("{lets_go:?}");
    };
    let Action::Update { object, .. } = &**action else {
        panic!("{action:?}");
    };
    assert_eq!(object["metadata"]["finalizers"], json!(["x/y"]));
}

#[test]
fn a_claim_grows_when_its_node_holds_it_to_more() {
    let claim = json!({ "metadata": { "name": "c", "namespace": "a", "uid": "u1",
            "annotations": { BIND_COMPLETED: "yes" } },
        "spec": { "volumeName": "pvc-u1", "resources": { "requests": { "storage": "4Gi" } } },
        "status": { "phase": "Bound", "capacity": { "storage": "2Gi" },
            "conditions": [{ "type": "Resizing", "status": "True" }] } });
    let mut seen = grow::ClaimToExpand {
        claim: Arc::new(serde_json::from_value(claim).unwrap()),
        volume: volume("Bound", "Delete", false),
        offer: Some(make::Offer {
            node: node("n1", "3Gi"),
            promised_bytes: 2 * GIB,
        }),
    };
    let full = grow::plan(&seen);
    assert!(
        matches!(&full.actions[..], [Action::Event { reason, .. }] if *reason == "VolumeResizeFailed")
    );
    if let Some(offer) = &mut seen.offer {
        offer.node = node("n1", "9Gi");
    }
    let first = grow::plan(&seen);
    let [Action::Update { object, .. }] = &first.actions[..] else {
        panic!("{first:?}");
    };
    assert_eq!(object["spec"]["capacity"]["storage"], "4Gi");
    let hold = |limit: Option<&str>| {
        let mut volume = object.clone();
        volume["metadata"]["annotations"][LIMIT] = json!(limit);
        Arc::new(serde_json::from_value(volume).unwrap())
    };
    // Its node has not heard of it yet: the claim says so, once.
    let mut object = object.clone();
    object["metadata"]["annotations"][LIMIT] = json!("2Gi");
    seen.volume = Arc::new(serde_json::from_value(object).unwrap());
    let waits = grow::plan(&seen);
    let [Action::Update { object, .. }] = &waits.actions[..] else {
        panic!("{waits:?}");
    };
    let pending = &object["status"]["conditions"][1];
    assert_eq!(pending["type"], "FileSystemResizePending");
    assert_eq!(object["status"]["capacity"]["storage"], "2Gi");
    let claim = std::mem::replace(
        &mut seen.claim,
        Arc::new(serde_json::from_value(object.clone()).unwrap()),
    );
    assert!(grow::plan(&seen).is_empty());
    seen.claim = claim;
    for limit in [Some(MEASURED), Some("8Gi")] {
        seen.volume = hold(limit);
        assert_eq!(grow::plan(&seen).then.len(), 1, "{limit:?}");
    }
    seen.volume = hold(Some("4Gi"));
    let second = grow::plan(&seen);
    let [
        Action::Update {
            object,
            subresource,
            ..
        },
    ] = &second.actions[..]
    else {
        panic!("{second:?}");
    };
    assert_eq!(
        (*subresource, &object["status"]["capacity"]["storage"]),
        ("status", &json!("4Gi"))
    );
    assert_eq!(object["status"]["conditions"], json!([]));
}
