//! Bindings in a pretended cluster, step by step until nothing is left to do.

use std::sync::Arc;

use control::action::Action;
use serde_json::{Value, json};

use super::super::{BEFORE_GROWTH, BOUND_BY_CONTROLLER, PROVISIONER_NAMES, SELECTED_NODE};
use super::*;
use crate::testing::World;

fn claim(name: &str, class: Option<&str>, size: &str) -> Value {
    let mut claim = json!({ "metadata": { "name": name, "namespace": "a" },
        "spec": { "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": size } } } });
    if let Some(class) = class {
        claim["spec"]["storageClassName"] = json!(class);
    }
    claim
}

fn volume(name: &str, class: &str, size: &str) -> Value {
    json!({ "metadata": { "name": name },
        "spec": { "accessModes": ["ReadWriteOnce"], "capacity": { "storage": size },
            "storageClassName": class, "hostPath": { "path": "/x" } } })
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({ "metadata": { "name": name }, "provisioner": provisioner, "volumeBindingMode": mode })
}

/// What the binder would see of the world now.
fn binder(world: &World) -> Binder {
    let all = Binder {
        claims: Informer::fixed(own(world.all("PersistentVolumeClaim"))),
        volumes: Informer::fixed(
            own(world.all::<PersistentVolume>("PersistentVolume"))
                .into_iter()
                .map(|mut v| {
                    v.metadata.namespace = None;
                    v
                }),
        ),
        classes: Informer::fixed(
            own(world.all::<StorageClass>("StorageClass"))
                .into_iter()
                .map(|mut c| {
                    c.metadata.namespace = None;
                    c
                }),
        ),
        pods: Informer::fixed(own(world.all("Pod"))),
        alive: Alive::default(),
    };
    index_pods(&all.pods);
    all.volumes
        .index(VOLUMES_BY_CLAIM, |v| claim_of(v).into_iter().collect());
    all.volumes
        .index(VOLUMES_BY_CLASS, |v| vec![class_of_volume(v).to_owned()]);
    all
}

fn own<K: Clone>(all: Vec<Arc<K>>) -> Vec<K> {
    all.into_iter().map(Arc::unwrap_or_clone).collect()
}

fn planned(world: &World, kind: &str, name: &str) -> Plan {
    let binder = binder(world);
    if kind == "PersistentVolumeClaim" {
        let seen = binder.claim("a", name);
        return seen.map(|s| claim::plan(&s)).unwrap_or_default();
    }
    let Some(mut seen) = binder.volume(name) else {
        return Plan::nothing();
    };
    let uid = seen.volume.spec.as_ref().and_then(|s| s.claim_ref.clone());
    let uid = uid.and_then(|r| r.uid);
    seen.claim = seen.claim.filter(|c| Some(uid_of(&**c)) == uid);
    volume::plan(&seen)
}

/// Does what is planned until nothing is left, one write after another; the events that came last.
fn settle(world: &mut World) -> Vec<String> {
    for _ in 0..20 {
        let (mut done, mut events) = (0, Vec::new());
        for kind in ["PersistentVolumeClaim", "PersistentVolume"] {
            for name in world.names(kind) {
                let plan = planned(world, kind, &name);
                for action in plan.actions.iter().chain(&plan.last) {
                    if let Action::Event { reason, .. } = action {
                        events.push((*reason).to_owned());
                    }
                }
                let mut plan = plan;
                for action in plan.actions.iter_mut().chain(&mut plan.last) {
                    // Volumes have no namespace, except in the pretended cluster.
                    if let Action::Update { object, .. } = action {
                        object["metadata"]["namespace"] = json!("a");
                    }
                }
                done += world.apply(plan);
            }
        }
        if done == 0 {
            return events;
        }
    }
    panic!("never at rest: {:?}", world.log);
}

fn phase(world: &mut World, kind: &str, name: &str) -> String {
    let phase = &world.at(kind, name)["status"]["phase"];
    phase.as_str().unwrap_or_default().to_owned()
}

fn world(claims: &[Value], volumes: &[Value], classes: &[Value]) -> World {
    let mut world = World::new();
    for (kind, all) in [
        ("PersistentVolumeClaim", claims),
        ("PersistentVolume", volumes),
        ("StorageClass", classes),
    ] {
        all.iter().for_each(|o| world.put(kind, o.clone()));
    }
    world
}

const CLAIM: &str = "PersistentVolumeClaim";
const VOLUME: &str = "PersistentVolume";

#[test]
fn a_claim_gets_the_smallest_volume_that_has_all() {
    let mut large = volume("large", "", "5Gi");
    large["metadata"]["labels"] = json!({ "disk": "fast" });
    let mut wide = volume("wide", "", "2Gi");
    wide["spec"]["accessModes"] = json!(["ReadWriteOnce", "ReadWriteMany"]);
    let volumes = [
        large,
        wide,
        volume("small", "", "1Gi"),
        volume("fits", "", "3Gi"),
        volume("classy", "x", "2Gi"),
    ];
    let mut world = world(&[claim("c", Some(""), "2Gi")], &volumes, &[]);
    settle(&mut world);
    assert_eq!(phase(&mut world, CLAIM, "c"), "Bound");
    let bound = world.at(CLAIM, "c").clone();
    // Fewer ways of access go before less room.
    assert_eq!(bound["spec"]["volumeName"], "fits");
    assert_eq!(bound["status"]["capacity"]["storage"], "3Gi");
    assert_eq!(bound["status"]["accessModes"], json!(["ReadWriteOnce"]));
    assert_eq!(bound["metadata"]["annotations"][BIND_COMPLETED], "yes");
    assert_eq!(phase(&mut world, VOLUME, "fits"), "Bound");
    assert_eq!(phase(&mut world, VOLUME, "small"), "Available");
    let uid = world.at(CLAIM, "c")["metadata"]["uid"].clone();
    assert_eq!(world.at(VOLUME, "fits")["spec"]["claimRef"]["uid"], uid);

    let mut choosy = claim("d", Some(""), "1Gi");
    choosy["spec"]["selector"] = json!({ "matchLabels": { "disk": "fast" } });
    world.put(CLAIM, choosy);
    settle(&mut world);
    assert_eq!(world.at(CLAIM, "d")["spec"]["volumeName"], "large");
}

#[test]
fn what_names_the_other_is_bound_to_it() {
    // The volume is kept for a claim, which may wait for a consumer else.
    let mut kept = volume("kept", "slow", "5Gi");
    kept["spec"]["claimRef"] = json!({ "namespace": "a", "name": "c" });
    let wait = class(
        "slow",
        "kubernetes.io/no-provisioner",
        "WaitForFirstConsumer",
    );
    let claims = [
        claim("c", Some("slow"), "1Gi"),
        claim("other", Some("slow"), "1Gi"),
    ];
    let mut w = world(&claims, &[kept, volume("free", "slow", "9Gi")], &[wait]);
    let events = settle(&mut w);
    assert_eq!(w.at(CLAIM, "c")["spec"]["volumeName"], "kept");
    let kept = w.at(VOLUME, "kept").clone();
    assert!(kept["metadata"]["annotations"][BOUND_BY_CONTROLLER].is_null());
    assert_eq!(phase(&mut w, CLAIM, "other"), "Pending");
    assert_eq!(events, ["WaitForFirstConsumer"]);

    // The claim names a volume, which must suit it.
    let mut named = claim("c", Some(""), "2Gi");
    named["spec"]["volumeName"] = json!("v");
    let mut w = world(&[named], &[volume("v", "", "1Gi")], &[]);
    assert_eq!(settle(&mut w), ["VolumeMismatch"]);
    assert_eq!(phase(&mut w, CLAIM, "c"), "Pending");
    w.at(VOLUME, "v")["spec"]["capacity"]["storage"] = json!("2Gi");
    settle(&mut w);
    assert_eq!(phase(&mut w, CLAIM, "c"), "Bound");

    let mut late = claim("late", Some(""), "1Gi");
    late["spec"]["volumeName"] = json!("v");
    w.put(CLAIM, late);
    assert_eq!(settle(&mut w), ["FailedBinding"]);
}

#[test]
fn a_claim_without_a_class_gets_the_default_one_later() {
    let mut w = world(&[claim("c", None, "1Gi")], &[], &[]);
    assert_eq!(settle(&mut w), ["FailedBinding"]);
    let mut default = class("d", "x.io/p", "Immediate");
    default["metadata"]["annotations"] =
        json!({ "storageclass.kubernetes.io/is-default-class": "true" });
    w.put("StorageClass", default);
    assert_eq!(settle(&mut w), ["ExternalProvisioning"]);
    let c = w.at(CLAIM, "c");
    assert_eq!(c["spec"]["storageClassName"], "d");
    assert_eq!(c["metadata"]["annotations"][PROVISIONER_NAMES[0]], "x.io/p");
    // Who asks for none gets none.
    let mut w = world(&[claim("c", Some(""), "1Gi")], &[], &[]);
    assert_eq!(settle(&mut w), ["FailedBinding"]);
}

#[test]
fn a_volume_is_asked_for_when_a_node_is_chosen() {
    let wait = class("slow", "x.io/p", "WaitForFirstConsumer");
    let mut w = world(&[claim("c", Some("slow"), "1Gi")], &[], &[wait]);
    w.put(
        "Pod",
        json!({ "metadata": { "name": "p", "namespace": "a" }, "spec": { "containers": [],
        "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }] } }),
    );
    assert_eq!(settle(&mut w), ["WaitForPodScheduled"]);
    assert!(w.at(CLAIM, "c")["metadata"]["annotations"].is_null());
    w.at(CLAIM, "c")["metadata"]["annotations"] = json!({ SELECTED_NODE: "n" });
    assert_eq!(settle(&mut w), ["ExternalProvisioning"]);
    let unknown = world(&[claim("c", Some("none"), "1Gi")], &[], &[]);
    let mut unknown = unknown;
    assert_eq!(settle(&mut unknown), ["ProvisioningFailed"]);
}

#[test]
fn a_volume_without_its_claim_is_released() {
    let mut w = world(
        &[claim("c", Some(""), "1Gi")],
        &[volume("v", "", "1Gi")],
        &[],
    );
    settle(&mut w);
    w.objects.remove(&(CLAIM.into(), "c".into()));
    assert!(settle(&mut w).is_empty());
    assert_eq!(phase(&mut w, VOLUME, "v"), "Released");
    // Another claim of that name does not get what the first one left.
    w.put(CLAIM, claim("c", Some(""), "1Gi"));
    settle(&mut w);
    assert_eq!(phase(&mut w, CLAIM, "c"), "Pending");
    assert_eq!(phase(&mut w, VOLUME, "v"), "Released");
    // A person's volume is deleted by nobody, and says so.
    w.at(VOLUME, "v")["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
    w.done();
    settle(&mut w);
    assert_eq!(phase(&mut w, VOLUME, "v"), "Failed");
    assert!(w.done().contains(&"Event VolumeFailedDelete".to_owned()));
    // Who has made one deletes it.
    w.at(VOLUME, "v")["status"]["phase"] = json!("Released");
    w.at(VOLUME, "v")["metadata"]["annotations"] =
        json!({ super::super::PROVISIONED_BY: "x.io/p" });
    settle(&mut w);
    assert_eq!(phase(&mut w, VOLUME, "v"), "Released");
}

#[test]
fn a_claim_without_its_volume_is_lost() {
    let mut w = world(
        &[claim("c", Some(""), "1Gi")],
        &[volume("v", "", "1Gi")],
        &[],
    );
    settle(&mut w);
    let kept = w.objects.remove(&(VOLUME.into(), "v".into())).unwrap();
    w.done();
    settle(&mut w);
    assert_eq!(phase(&mut w, CLAIM, "c"), "Lost");
    assert!(w.done().contains(&"Event ClaimLost".to_owned()));
    // With its volume it is found again.
    w.objects.insert((VOLUME.into(), "v".into()), kept);
    settle(&mut w);
    assert_eq!(phase(&mut w, CLAIM, "c"), "Bound");
}

#[test]
fn two_volumes_for_one_claim_are_one_too_many() {
    let mut second = volume("second", "", "1Gi");
    let mut w = world(
        &[claim("c", Some(""), "1Gi")],
        &[volume("v", "", "1Gi")],
        &[],
    );
    settle(&mut w);
    let uid = w.at(CLAIM, "c")["metadata"]["uid"].clone();
    second["spec"]["claimRef"] = json!({ "namespace": "a", "name": "c", "uid": uid });
    second["metadata"]["annotations"] = json!({ BOUND_BY_CONTROLLER: "yes" });
    w.put(VOLUME, second);
    settle(&mut w);
    assert_eq!(phase(&mut w, VOLUME, "second"), "Available");
    assert!(w.at(VOLUME, "second")["spec"]["claimRef"].is_null());
    assert_eq!(phase(&mut w, CLAIM, "c"), "Bound");
}

#[test]
fn block_and_file_system_do_not_match() {
    let mut block = volume("v", "", "1Gi");
    block["spec"]["volumeMode"] = json!("Block");
    let mut w = world(&[claim("c", Some(""), "1Gi")], &[block], &[]);
    assert_eq!(settle(&mut w), ["FailedBinding"]);
    assert_eq!(phase(&mut w, VOLUME, "v"), "Available");
}

#[test]
fn a_claim_has_what_its_file_system_has() {
    for (before, want) in [(None, "3Gi"), (Some("1Gi"), "1Gi"), (Some("none"), "3Gi")] {
        let mut grown = volume("v", "", "3Gi");
        if let Some(before) = before {
            grown["metadata"]["annotations"] = json!({ BEFORE_GROWTH: before });
        }
        let mut w = world(&[claim("c", Some(""), "2Gi")], &[grown], &[]);
        settle(&mut w);
        assert_eq!(phase(&mut w, CLAIM, "c"), "Bound");
        let capacity = &w.at(CLAIM, "c")["status"]["capacity"];
        assert_eq!(*capacity, json!({ "storage": want }), "{before:?}");
    }
}

/// Before: the volume's size, the name and UID of the claim that it names (`!`: by the binder) and its
/// phase; the claim's size, its volume and phase (`+`: its binding was completed). After: the phases
/// of both, whose the volume is, and the last event. The claim is `c` with the UID `u`.
type Row = (
    (&'static str, &'static str, &'static str),
    (&'static str, &'static str, &'static str),
    (&'static str, &'static str, &'static str),
    &'static str,
);

#[test]
fn bindings_are_completed_from_whatever_step_they_were_left_at() {
    let rows: [Row; 16] = [
        (
            ("1Gi", "", "Available"),
            ("1Gi", "", "Pending"),
            ("Bound", "Bound", "c/u!"),
            "",
        ),
        (
            ("1Gi", "", "Available"),
            ("9Gi", "", "Bound"),
            ("Available", "Pending", ""),
            "FailedBinding",
        ),
        (
            ("9Gi", "c/", "Available"),
            ("1Gi", "", "Pending"),
            ("Bound", "Bound", "c/u"),
            "",
        ),
        (
            ("9Gi", "c/u", "Available"),
            ("1Gi", "", "Pending"),
            ("Bound", "Bound", "c/u"),
            "",
        ),
        (
            ("9Gi", "c/x", "Released"),
            ("1Gi", "", "Pending"),
            ("Released", "Pending", "c/x"),
            "FailedBinding",
        ),
        (
            ("1Gi", "c/u!", "Available"),
            ("1Gi", "", "Pending"),
            ("Bound", "Bound", "c/u!"),
            "",
        ),
        (
            ("1Gi", "c/u!", "Bound"),
            ("1Gi", "", "Pending"),
            ("Bound", "Bound", "c/u!"),
            "",
        ),
        (
            ("1Gi", "c/u!", "Bound"),
            ("1Gi", "v+", "Pending"),
            ("Bound", "Bound", "c/u!"),
            "",
        ),
        (
            ("1Gi", "", "Available"),
            ("1Gi", "v", "Pending"),
            ("Bound", "Bound", "c/u!"),
            "",
        ),
        (
            ("1Gi", "c/", "Available"),
            ("1Gi", "v", "Pending"),
            ("Bound", "Bound", "c/u"),
            "",
        ),
        (
            ("1Gi", "", "Available"),
            ("2Gi", "v", "Bound"),
            ("Available", "Pending", ""),
            "VolumeMismatch",
        ),
        (
            ("1Gi", "", "Available"),
            ("1Gi", "w", "Bound"),
            ("Available", "Pending", ""),
            "",
        ),
        (
            ("1Gi", "", "Available"),
            ("1Gi", "v+", "Pending"),
            ("Bound", "Bound", "c/u!"),
            "",
        ),
        (
            ("1Gi", "", "Available"),
            ("1Gi", "+", "Bound"),
            ("Available", "Lost", ""),
            "",
        ),
        (
            ("1Gi", "", "Available"),
            ("1Gi", "w+", "Bound"),
            ("Available", "Lost", ""),
            "",
        ),
        (
            ("1Gi", "c/x", "Released"),
            ("1Gi", "v+", "Pending"),
            ("Released", "Lost", "c/x"),
            "",
        ),
    ];
    for row in rows {
        let ((size, named, volume_phase), (asked, has, claim_phase), after, event) = row;
        let mut v = volume("v", "", size);
        v["status"] = json!({ "phase": volume_phase });
        if named.ends_with('!') {
            v["metadata"]["annotations"] = json!({ BOUND_BY_CONTROLLER: "yes" });
        }
        if let Some((name, uid)) = named.trim_end_matches('!').split_once('/') {
            v["spec"]["claimRef"] = json!({ "namespace": "a", "name": name });
            if !uid.is_empty() {
                v["spec"]["claimRef"]["uid"] = json!(uid);
            }
        }
        let mut c = claim("c", Some(""), asked);
        c["metadata"]["uid"] = json!("u");
        c["status"] = json!({ "phase": claim_phase });
        let name = has.trim_end_matches('+');
        if !name.is_empty() {
            c["spec"]["volumeName"] = json!(name);
        }
        if has.ends_with('+') {
            c["metadata"]["annotations"] = json!({ BIND_COMPLETED: "yes" });
        }
        let mut w = world(&[c], &[v], &[]);
        let events = settle(&mut w);
        let phases = (phase(&mut w, VOLUME, "v"), phase(&mut w, CLAIM, "c"));
        assert_eq!((&*phases.0, &*phases.1), (after.0, after.1), "{row:?}");
        let v = w.at(VOLUME, "v");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let by_us = v["metadata"]["annotations"][BOUND_BY_CONTROLLER].is_string();
        let reference = &v["spec"]["claimRef"];
        let whose = match reference.is_null() {
            true => String::new(),
            false => format!("{}/{}", text(&reference["name"]), text(&reference["uid"])),
        };
        let whose = if by_us { format!("{whose}!") } else { whose };
        assert_eq!(whose, after.2, "{row:?}");
        let last = events.last().map_or("", String::as_str);
        assert_eq!(last, event, "{row:?}");
    }
}
