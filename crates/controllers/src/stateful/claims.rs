//! The claims of a StatefulSet's pods: their names, how they are made, and what owns them, which
//! says when the garbage collector deletes them.

use std::sync::Arc;

use control::action::{Action, Target};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};

use super::names::{first_ordinal, ordinal, pod_name};
use crate::common::{uid_of, value_of};
use crate::ownership::Parent;
use crate::pods::BURST;

pub fn templates(spec: &StatefulSetSpec) -> &[PersistentVolumeClaim] {
    spec.volume_claim_templates.as_deref().unwrap_or_default()
}

/// The volume that a claim's template gives pods.
pub fn volume(template: &PersistentVolumeClaim) -> &str {
    template.metadata.name.as_deref().unwrap_or_default()
}

pub fn name(template: &PersistentVolumeClaim, set: &str, ordinal: i32) -> String {
    format!("{}-{}", volume(template), pod_name(set, ordinal))
}

/// Whether a claim's name is one that the set gives.
pub fn is_named_by(set: &StatefulSet, claim: &str) -> bool {
    let own = set.metadata.name.as_deref().unwrap_or_default();
    let all = set.spec.as_ref().map(templates).unwrap_or_default();
    all.iter().any(|template| {
        let rest = claim.strip_prefix(volume(template));
        let rest = rest.and_then(|r| r.strip_prefix('-')?.strip_prefix(own)?.strip_prefix('-'));
        rest.is_some_and(|number| number.parse::<i32>().is_ok())
    })
}

/// The names of all claims that a plan may ask for: those of its pods, and of as many missing
/// ones as one plan creates.
pub fn names(set: &StatefulSet, pods: &[Arc<Pod>]) -> Vec<String> {
    let Some(spec) = set.spec.as_ref().filter(|s| !templates(s).is_empty()) else {
        return Vec::new();
    };
    let own = set.metadata.name.as_deref().unwrap_or_default();
    let first = first_ordinal(spec);
    let at_most = i32::try_from(pods.len() + BURST).unwrap_or(i32::MAX);
    let range = first..first.saturating_add(spec.replicas.unwrap_or(1).min(at_most));
    let others = pods.iter().filter_map(|p| ordinal(own, p));
    let others = others.filter(|n| !range.contains(n));
    let all = range.clone().chain(others);
    all.flat_map(|n| templates(spec).iter().map(move |t| name(t, own, n)))
        .collect()
}

/// Creates the claim of a template for a pod, reported by events on the set.
pub fn create(
    parent: &Parent,
    spec: &StatefulSetSpec,
    template: &PersistentVolumeClaim,
    ordinal: i32,
) -> Action {
    let (claim, pod) = (
        name(template, &parent.name, ordinal),
        pod_name(&parent.name, ordinal),
    );
    let mut object = value_of(template);
    object["status"] = Value::Null;
    object["metadata"]["name"] = json!(claim);
    object["metadata"]["namespace"] = json!(parent.namespace);
    let labels = template.metadata.labels.iter().flatten();
    let selected = spec.selector.match_labels.iter().flatten();
    let labels: std::collections::BTreeMap<_, _> = labels.chain(selected).collect();
    if !labels.is_empty() {
        object["metadata"]["labels"] = json!(labels);
    }
    let target = Target::of::<PersistentVolumeClaim>(&parent.namespace, &claim);
    let what = format!(
        "Create Claim {claim} Pod {pod} in StatefulSet {}",
        parent.name
    );
    Action::Create { target, object }.noted(
        &parent.about,
        ("SuccessfulCreate", format!("{what} success")),
        ("FailedCreate", format!("{what} failed error: {{error}}")),
    )
}

/// When claims go: with the set, with a pod that scaling down removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub deleted_with_set: bool,
    pub deleted_when_scaled: bool,
}

impl Retention {
    pub fn of(spec: &StatefulSetSpec) -> Self {
        let policy = spec.persistent_volume_claim_retention_policy.as_ref();
        let deletes = |p: Option<&String>| p.is_some_and(|p| p == "Delete");
        Self {
            deleted_with_set: deletes(policy.and_then(|p| p.when_deleted.as_ref())),
            deleted_when_scaled: deletes(policy.and_then(|p| p.when_scaled.as_ref())),
        }
    }
}

/// A pod as a claim's owner; one that is not there yet has no UID.
#[derive(Clone, Copy, Debug)]
pub struct PodOwner<'a> {
    pub name: &'a str,
    pub uid: &'a str,
    /// Outside of the numbers that the set wants.
    pub is_condemned: bool,
}

fn is_set(owner: &OwnerReference, parent: &Parent) -> bool {
    owner.api_version == "apps/v1" && owner.kind == "StatefulSet" && owner.name == parent.name
}

fn is_pod(owner: &OwnerReference, pod: PodOwner<'_>) -> bool {
    owner.api_version == "v1" && owner.kind == "Pod" && owner.name == pod.name
}

/// Whether the claim is about to be deleted with an earlier pod of the same name, so that a new
/// one may not use it.
pub fn is_stale(claim: &PersistentVolumeClaim, pod: PodOwner<'_>) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    owners
        .into_iter()
        .any(|o| is_pod(o, pod) && o.uid != pod.uid)
}

/// The owners that a claim should have; `None` when it has them, or is not to be touched: it is
/// owned by an earlier set or pod of the same name, or somebody else controls it.
pub fn owners(
    claim: &PersistentVolumeClaim,
    parent: &Parent,
    pod: PodOwner<'_>,
    retention: Retention,
) -> Option<Vec<Value>> {
    let now: Vec<&OwnerReference> = claim.metadata.owner_references.iter().flatten().collect();
    let stale = |o: &&OwnerReference| is_set(o, parent) && o.uid != parent.uid;
    if now.iter().any(stale) || is_stale(claim, pod) {
        return None;
    }
    let ours = |o: &OwnerReference| is_set(o, parent) || is_pod(o, pod);
    let by_set = now.iter().find(|o| is_set(o, parent));
    let by_pod = now.iter().find(|o| is_pod(o, pod));
    let controls = |o: &OwnerReference| o.controller == Some(true);
    let others: Vec<&OwnerReference> = now.iter().copied().filter(|o| !ours(o)).collect();
    let deletes = retention.deleted_with_set || retention.deleted_when_scaled;
    let foreign = deletes && others.iter().any(|o| controls(o));
    let goes_with_pod = !foreign && retention.deleted_when_scaled && pod.is_condemned;
    let goes_with_set = !foreign && retention.deleted_with_set && !goes_with_pod;
    let half = [by_set, by_pod].into_iter().flatten().any(|o| !controls(o));
    if !half && by_set.is_some() == goes_with_set && by_pod.is_some() == goes_with_pod {
        return None;
    }
    let mut wanted: Vec<Value> = others.into_iter().map(value_of).collect();
    if goes_with_set {
        wanted.push(parent.reference.clone());
    }
    if goes_with_pod {
        wanted.push(
            json!({ "apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid,
            "controller": true, "blockOwnerDeletion": true }),
        );
    }
    Some(wanted)
}

/// Gives a claim its owners.
pub fn give(claim: &PersistentVolumeClaim, owners: Vec<Value>) -> Action {
    let (namespace, name) = crate::common::key_of(claim);
    let mut object = value_of(claim);
    object["metadata"]["ownerReferences"] = Value::Array(owners);
    Action::Update {
        target: Target::of::<PersistentVolumeClaim>(&namespace, &name),
        subresource: "",
        object,
    }
}

/// The pod of a number as an owner.
pub fn owner<'a>(name: &'a str, uid: &'a str, is_condemned: bool) -> PodOwner<'a> {
    PodOwner {
        name,
        uid,
        is_condemned,
    }
}

/// UID of a pod that may not be there.
pub fn uid(pod: Option<&Pod>) -> String {
    pod.map(uid_of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use api::LabelSelector;
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    fn parent() -> Parent {
        Parent {
            namespace: "a".into(),
            name: "s".into(),
            uid: "set".into(),
            about: ObjectReference::default(),
            reference: json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s",
                "uid": "set", "controller": true }),
            selector: LabelSelector::nothing(),
            deleting: false,
            finalizer: None,
        }
    }

    fn set_of(uid: &str, controller: bool) -> Value {
        json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": uid,
            "controller": controller })
    }

    fn pod_of(uid: &str, controller: bool) -> Value {
        json!({ "apiVersion": "v1", "kind": "Pod", "name": "s-1", "uid": uid,
            "controller": controller })
    }

    fn other(controller: bool) -> Value {
        json!({ "apiVersion": "v1", "kind": "Pod", "name": "other", "uid": "other",
            "controller": controller })
    }

    /// The UIDs of the owners that a claim gets, all of which but others control it.
    fn given(now: &[Value], retention: Retention, is_condemned: bool) -> Option<Vec<String>> {
        let claim = json!({ "metadata": { "name": "c-s-1", "ownerReferences": now } });
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).expect("a claim");
        let owners = owners(
            &claim,
            &parent(),
            owner("s-1", "pod", is_condemned),
            retention,
        )?;
        let uids = owners.iter().map(|o| {
            let uid = o["uid"].as_str().unwrap_or_default().to_owned();
            assert!(uid == "other" || o["controller"] == true, "{o}");
            uid
        });
        Some(uids.collect())
    }

    #[test]
    fn who_owns_a_claim_follows_from_the_policy() {
        // Whether it goes with the set and when that is scaled, whether its pod is one too many; who
        // must own it.
        for (with_set, scaled, condemned, set, pod) in [
            (false, false, false, false, false),
            (false, false, true, false, false),
            (true, false, false, true, false),
            (true, false, true, true, false),
            (false, true, false, false, false),
            (false, true, true, false, true),
            (true, true, false, true, false),
            (true, true, true, false, true),
        ] {
            let retention = Retention {
                deleted_with_set: with_set,
                deleted_when_scaled: scaled,
            };
            for now in 0..8 {
                let (has_set, has_pod, has_other) = (now & 1 != 0, now & 2 != 0, now & 4 != 0);
                let mut owners = Vec::new();
                owners.extend(has_pod.then(|| pod_of("pod", true)));
                owners.extend(has_set.then(|| set_of("set", true)));
                owners.extend(has_other.then(|| other(false)));
                let mut wanted: Vec<String> = Vec::new();
                wanted.extend(has_other.then(|| "other".to_owned()));
                wanted.extend(set.then(|| "set".to_owned()));
                wanted.extend(pod.then(|| "pod".to_owned()));
                let changes = (has_set, has_pod) != (set, pod);
                assert_eq!(
                    given(&owners, retention, condemned),
                    changes.then_some(wanted),
                    "{retention:?} {condemned} {owners:?}"
                );
            }
        }
    }

    #[test]
    fn a_claim_of_somebody_else_is_let_alone() {
        let retention = |with_set: bool, scaled: bool| Retention {
            deleted_with_set: with_set,
            deleted_when_scaled: scaled,
        };
        let both = retention(true, true);
        for (row, now, retention, condemned, expected) in [
            (
                "half a pod's",
                vec![pod_of("pod", false)],
                both,
                true,
                Some(vec!["pod"]),
            ),
            (
                "half a set's",
                vec![set_of("set", false)],
                both,
                false,
                Some(vec!["set"]),
            ),
            // An earlier one of the same name: the collector sees to it.
            (
                "of an earlier pod",
                vec![pod_of("earlier", true)],
                both,
                true,
                None,
            ),
            (
                "of an earlier set",
                vec![set_of("earlier", true)],
                both,
                false,
                None,
            ),
            (
                "of a set without a UID",
                vec![set_of("", true)],
                both,
                false,
                None,
            ),
            // Two that control it: ours gives way.
            (
                "and a pod's",
                vec![pod_of("pod", true), other(true)],
                both,
                true,
                Some(vec!["other"]),
            ),
            (
                "and a set's",
                vec![set_of("set", true), other(true)],
                both,
                false,
                Some(vec!["other"]),
            ),
            ("another's", vec![other(true)], both, false, None),
            (
                "another's, scaled",
                vec![other(true)],
                retention(false, true),
                true,
                None,
            ),
            (
                "another's, kept",
                vec![other(true)],
                retention(false, false),
                false,
                None,
            ),
            (
                "kept, and half a set's",
                vec![set_of("set", false)],
                retention(false, false),
                false,
                Some(vec![]),
            ),
        ] {
            let expected: Option<Vec<String>> =
                expected.map(|all| all.into_iter().map(str::to_owned).collect());
            assert_eq!(given(&now, retention, condemned), expected, "{row}");
        }
    }

    #[test]
    fn which_claims_a_set_names() {
        let set = |name: &str| -> StatefulSet {
            serde_json::from_value(json!({
                "metadata": { "name": name },
                "spec": { "selector": {}, "template": {}, "serviceName": "s",
                    "volumeClaimTemplates": [{ "metadata": { "name": "volume" } },
                        { "metadata": { "name": "long-volume" } }] },
            }))
            .expect("a set")
        };
        for (claim, expected) in [
            ("volume-my-set-2", true),
            ("long-volume-my-set-20", true),
            ("volume-2-my-set", false),
            ("volume-pod-2", false),
            ("volume-my-set-", false),
        ] {
            assert_eq!(is_named_by(&set("my-set"), claim), expected, "{claim}");
        }
    }
}
