//! What is done for a pod that uses claims of devices, and for such a claim.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::Plan;
use control::action::{Action, Patch, Target, reference};
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimStatus, ResourceClaimTemplate};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::common::{
    controller_of, controller_reference, is_deleting, is_finished, key_of, uid_of, update_status,
    value_of,
};

/// Which of a pod's claims it was made for.
const CLAIM_OF_POD: &str = "resource.kubernetes.io/pod-claim-name";
/// The claim has devices; the scheduler sets it.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// The longest beginning of a generated name: a hyphen and five characters follow.
const LONGEST_BASE: usize = 57;

/// The claims that a pod wants.
pub fn wanted(pod: &Pod) -> impl Iterator<Item = &PodResourceClaim> {
    let spec = pod.spec.as_ref();
    spec.into_iter()
        .flat_map(|s| s.resource_claims.iter().flatten())
}

/// What a pod says of one of its claims: its name, or that none is needed; nothing while it has not
/// been made.
fn name_of(pod: &Pod, claim: &PodResourceClaim) -> Option<Option<String>> {
    if let Some(name) = &claim.resource_claim_name {
        return Some(Some(name.clone()));
    }
    let status = pod.status.as_ref();
    let mut all = status
        .into_iter()
        .flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let known = all.find(|s| s.name == claim.name)?;
    Some(known.resource_claim_name.clone())
}

/// The names of a pod's claims that have one.
pub fn names(pod: &Pod) -> impl Iterator<Item = String> {
    wanted(pod).filter_map(|c| name_of(pod, c).flatten())
}

/// The claim that the scheduler made for a pod's extended resources: the pod's status names it, and
/// its specification does not.
pub fn extended(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let made = status.extended_resource_claim_status.as_ref()?;
    Some(&*made.resource_claim_name).filter(|name| !name.is_empty())
}

/// The pod that a claim was made for: name and UID.
pub fn owner(claim: &ResourceClaim) -> Option<(&str, &str)> {
    let owner = controller_of(claim)?;
    (owner.kind == "Pod" && owner.api_version == "v1").then_some((&*owner.name, &*owner.uid))
}

/// The pods that a claim is reserved for: names and UIDs.
pub fn pods_of(claim: &ResourceClaim) -> impl Iterator<Item = (&str, &str)> {
    let status = claim.status.as_ref();
    let users = status
        .into_iter()
        .flat_map(|s| s.reserved_for.iter().flatten());
    users
        .filter(|u| u.resource == "pods" && u.api_group.as_deref().unwrap_or_default().is_empty())
        .map(|u| (&*u.name, &*u.uid))
}

/// Whether a pod will never use its claims any more.
pub fn is_done(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let node = spec
        .and_then(|s| s.node_name.as_deref())
        .unwrap_or_default();
    is_finished(pod) || is_deleting(pod) && node.is_empty()
}

/// What became of a pod that a claim names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumer {
    /// It may use the claim.
    Alive,
    /// It will not run any more, or is another pod by now.
    Gone,
    /// Nobody has looked.
    Unknown,
}

impl Consumer {
    pub fn of(pod: &Pod, uid: &str) -> Self {
        if uid_of(pod) == uid && !is_done(pod) {
            Self::Alive
        } else {
            Self::Gone
        }
    }
}

/// A pod that is not done, with what it uses, by names.
pub struct OfPod {
    pub pod: Arc<Pod>,
    /// Those that it names and those that were made for it.
    pub claims: BTreeMap<String, Arc<ResourceClaim>>,
    pub templates: BTreeMap<String, Arc<ResourceClaimTemplate>>,
}

pub struct OfClaim {
    pub claim: Arc<ResourceClaim>,
    /// By UID.
    pub consumers: BTreeMap<String, Consumer>,
    /// The pod that it was made for, if that is known.
    pub owner: Option<Consumer>,
}

fn is_made_for(pod: &Pod, claim: &ResourceClaim) -> bool {
    owner(claim).is_some_and(|(_, uid)| uid == uid_of(pod))
}

pub fn of_pod(seen: &OfPod) -> Plan {
    let (pod, mut plan) = (&*seen.pod, Plan::nothing());
    let mut found: Vec<Value> = Vec::new();
    for claim in wanted(pod) {
        let Some(template) = &claim.resource_claim_template_name else {
            continue;
        };
        match name_of(pod, claim) {
            // None is needed.
            Some(None) => continue,
            Some(Some(name)) => {
                let known = seen.claims.get(&name);
                if known.is_some_and(|c| is_made_for(pod, c)) {
                    continue;
                }
            }
            None => {}
        }
        // It may have been made, and the pod not have heard of it.
        let mut made = seen.claims.values().filter(|c| is_made_for(pod, c));
        let made = made.find(|c| c.annotations().get(CLAIM_OF_POD) == Some(&claim.name));
        if let Some(made) = made {
            found.push(json!({"name": claim.name, "resourceClaimName": made.name_any()}));
            continue;
        }
        match seen.templates.get(template) {
            Some(template) => plan.actions.push(create(pod, claim, template)),
            None => plan.actions.push(Action::Event {
                about: reference(pod),
                warning: true,
                reason: "FailedResourceClaimCreation",
                message: format!(
                    "PodResourceClaim {}: resource claim template {template:?}: \
                     resourceclaimtemplate.resource.k8s.io {template:?} not found",
                    claim.name
                ),
            }),
        }
    }
    let (namespace, name) = key_of(pod);
    if !found.is_empty() {
        plan.actions.push(Action::Patch {
            target: Target::of::<Pod>(&namespace, &name),
            subresource: "status",
            // The UID makes sure that it is not another pod of the same name.
            patch: Patch::Strategic(json!({"metadata": {"uid": uid_of(pod)},
                "status": {"resourceClaimStatuses": found}})),
        });
    }
    plan.actions.extend(reservations(seen));
    plan
}

/// Of a pod that has its node without a scheduler's work: claims that have devices are reserved.
fn reservations(seen: &OfPod) -> Vec<Action> {
    let pod = &*seen.pod;
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
    if node.unwrap_or_default().is_empty() {
        return Vec::new();
    }
    let uid = uid_of(pod);
    let used = wanted(pod).filter_map(|c| {
        let made = c.resource_claim_name.is_none();
        let claim = seen.claims.get(&name_of(pod, c)??)?;
        let status = claim.status.as_ref()?;
        let ours = !made || is_made_for(pod, claim);
        let reserved = pods_of(claim).any(|(_, of)| of == uid);
        (ours && status.allocation.is_some() && !reserved).then_some(claim)
    });
    used.map(|claim| {
        let mut status = value_of(&claim.status);
        let users = status["reservedFor"].take();
        let mut users = users.as_array().cloned().unwrap_or_default();
        users.push(json!({"resource": "pods", "name": pod.name_any(), "uid": uid}));
        status["reservedFor"] = users.into();
        update_status(&**claim, status)
    })
    .collect()
}

/// Both names, shortened alike where they are too long together.
fn base_name(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= LONGEST_BASE {
        return whole;
    }
    let part = |text: &str| {
        let most = text.len() * LONGEST_BASE / whole.len();
        text.get(..most).unwrap_or(text).to_owned()
    };
    format!("{}-{}", part(pod), part(claim))
}

fn create(pod: &Pod, claim: &PodResourceClaim, template: &ResourceClaimTemplate) -> Action {
    let namespace = pod.namespace().unwrap_or_default();
    let meta = template.spec.metadata.as_ref();
    let mut annotations = meta.and_then(|m| m.annotations.clone()).unwrap_or_default();
    annotations.insert(CLAIM_OF_POD.to_owned(), claim.name.clone());
    let mut owner = controller_reference(pod);
    if let Some(fields) = owner.as_object_mut() {
        fields.remove("blockOwnerDeletion");
    }
    let object = json!({
        "metadata": {
            "generateName": base_name(&pod.name_any(), &claim.name),
            "namespace": namespace,
            "ownerReferences": [owner],
            "annotations": annotations,
            "labels": meta.and_then(|m| m.labels.clone()),
        },
        "spec": value_of(&template.spec.spec),
    });
    let target = Target::of::<ResourceClaim>(&namespace, "");
    let failure = format!(
        "PodResourceClaim {}: create ResourceClaim : {{error}}",
        claim.name
    );
    Action::Create { target, object }
        .noted_failure(&reference(pod), ("FailedResourceClaimCreation", failure))
}

pub fn of_claim(seen: &OfClaim) -> Plan {
    let claim = &*seen.claim;
    let status = claim.status.clone().unwrap_or_default();
    let users = status.reserved_for.clone().unwrap_or_default();
    let gone = |uid: &str| seen.consumers.get(uid) == Some(&Consumer::Gone);
    let mut remaining = users.clone();
    // Of consumers that are no pods nothing is known: they stay.
    remaining.retain(|u| u.resource != "pods" || !gone(&u.uid));
    let finalizers = claim.finalizers();
    let ours = finalizers.iter().any(|f| f == FINALIZER);
    if remaining.len() < users.len() {
        // Who was the last gives the devices back, so that the next one may be elsewhere.
        let frees = remaining.is_empty() && ours;
        let status = ResourceClaimStatus {
            allocation: status.allocation.filter(|_| !frees),
            devices: status.devices.filter(|_| !frees),
            reserved_for: Some(remaining).filter(|r| !r.is_empty()),
        };
        return update_status(claim, value_of(&status)).into();
    }
    if !remaining.is_empty() {
        return Plan::nothing();
    }
    if is_deleting(claim) && ours {
        if status.allocation.is_some() {
            return update_status(claim, json!({})).into();
        }
        let (namespace, name) = key_of(claim);
        let mut object = value_of(claim);
        let others: Vec<&String> = finalizers.iter().filter(|f| *f != FINALIZER).collect();
        object["metadata"]["finalizers"] = json!(others);
        return Action::Update {
            target: Target::of::<ResourceClaim>(&namespace, &name),
            subresource: "",
            object,
        }
        .into();
    }
    if seen.owner == Some(Consumer::Gone) && !is_deleting(claim) {
        let (namespace, name) = key_of(claim);
        let target = Target::of::<ResourceClaim>(&namespace, &name);
        return Action::delete(target, Some(uid_of(claim))).into();
    }
    Plan::nothing()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn pod(status: Value, node: &str) -> Arc<Pod> {
        typed(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "p1"}, "status": status,
                "spec": {"containers": [], "nodeName": node, "resourceClaims": [
                    {"name": "gpu", "resourceClaimTemplateName": "t"},
                    {"name": "nic", "resourceClaimName": "shared"}]}}),
        )
    }

    fn claim(name: &str, owner: &str, status: Value) -> Arc<ResourceClaim> {
        let mut claim = json!({"metadata": {"name": name, "namespace": "n", "uid": name,
                "resourceVersion": "5", "finalizers": [FINALIZER]},
            "spec": {}, "status": status});
        if !owner.is_empty() {
            claim["metadata"]["annotations"] = json!({CLAIM_OF_POD: "gpu"});
            claim["metadata"]["ownerReferences"] = json!([
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]);
        }
        typed(claim)
    }

    fn seen(pod: Arc<Pod>, claims: &[Arc<ResourceClaim>], templates: bool) -> OfPod {
        let template: Arc<ResourceClaimTemplate> = typed(json!({"metadata": {"name": "t"},
            "spec": {"metadata": {"labels": {"a": "b"}}, "spec": {"devices": {"requests": [
                {"name": "r", "exactly": {"deviceClassName": "c"}}]}}}}));
        let templates = templates.then(|| ("t".to_owned(), template));
        OfPod {
            pod,
            claims: claims.iter().map(|c| (c.name_any(), c.clone())).collect(),
            templates: templates.into_iter().collect(),
        }
    }

    #[test]
    fn a_claim_is_made_of_its_template_once() {
        let new = of_pod(&seen(pod(json!({}), ""), &[], true));
        let [Action::Noted { action, .. }] = &new.actions[..] else {
            panic!("{new:?}");
        };
        let Action::Create { object, .. } = &**action else {
            panic!("{action:?}");
        };
        let meta = &object["metadata"];
        assert_eq!(meta["generateName"], "p-gpu-");
        assert_eq!(meta["annotations"], json!({CLAIM_OF_POD: "gpu"}));
        assert_eq!(meta["labels"], json!({"a": "b"}));
        assert_eq!(meta["ownerReferences"][0]["uid"], "p1");
        assert_eq!(object["spec"]["devices"]["requests"][0]["name"], "r");
        // It was made, and the pod has not heard of it.
        let made = claim("p-gpu-x", "p1", json!({}));
        let names = of_pod(&seen(pod(json!({}), ""), std::slice::from_ref(&made), true));
        let [
            Action::Patch {
                patch: Patch::Strategic(patch),
                ..
            },
        ] = &names.actions[..]
        else {
            panic!("{names:?}");
        };
        assert_eq!(
            patch["status"]["resourceClaimStatuses"],
            json!([{"name": "gpu", "resourceClaimName": "p-gpu-x"}])
        );
        let knows = json!({"resourceClaimStatuses": [
            {"name": "gpu", "resourceClaimName": "p-gpu-x"}]});
        let all = of_pod(&seen(pod(knows.clone(), ""), &[made], true));
        assert!(all.is_empty(), "{all:?}");
        // Somebody deleted it, or it is another pod's.
        for claims in [&[][..], &[claim("p-gpu-x", "p0", json!({}))]] {
            let again = of_pod(&seen(pod(knows.clone(), ""), claims, true));
            assert!(
                matches!(&again.actions[..], [Action::Noted { .. }]),
                "{again:?}"
            );
        }
        let missing = of_pod(&seen(pod(json!({}), ""), &[], false));
        assert!(
            matches!(&missing.actions[..], [Action::Event { reason, message, .. }]
                if *reason == "FailedResourceClaimCreation" && message.contains("\"t\" not found"))
        );
    }

    #[test]
    fn long_names_are_shortened_alike() {
        assert_eq!(base_name("p", "c"), "p-c-");
        let long = base_name(&"p".repeat(60), &"c".repeat(20));
        assert!(long.len() <= LONGEST_BASE, "{long}");
        assert!(long.starts_with("ppp") && long.ends_with("ccc"), "{long}");
    }

    #[test]
    fn a_pod_that_was_put_on_its_node_by_hand_gets_its_claims_reserved() {
        let none = json!({"resourceClaimStatuses": [{"name": "gpu"}]});
        let shared = claim(
            "shared",
            "",
            json!({"allocation": {}, "reservedFor": [
            {"resource": "pods", "name": "q", "uid": "q1"}]}),
        );
        let all = of_pod(&seen(
            pod(none.clone(), "node"),
            std::slice::from_ref(&shared),
            true,
        ));
        let [
            Action::Update {
                object,
                subresource,
                ..
            },
        ] = &all.actions[..]
        else {
            panic!("{all:?}");
        };
        assert_eq!(*subresource, "status");
        assert_eq!(object["status"]["reservedFor"][1]["uid"], "p1");
        // The scheduler does that for those that wait.
        assert!(of_pod(&seen(pod(none, ""), &[shared], true)).is_empty());
    }

    fn users(uids: &[&str]) -> Value {
        let each = uids
            .iter()
            .map(|uid| json!({"resource": "pods", "name": uid, "uid": uid}));
        json!({"allocation": {}, "reservedFor": each.collect::<Vec<_>>()})
    }

    fn of(claim: Arc<ResourceClaim>, gone: &[&str], owner: Option<Consumer>) -> Plan {
        let state = |uid: &str| {
            if gone.contains(&uid) {
                Consumer::Gone
            } else {
                Consumer::Alive
            }
        };
        let consumers = pods_of(&claim).map(|(_, uid)| (uid.to_owned(), state(uid)));
        let consumers = consumers.collect();
        of_claim(&OfClaim {
            claim,
            consumers,
            owner,
        })
    }

    fn status(plan: &Plan) -> Value {
        match &plan.actions[..] {
            [
                Action::Update {
                    object,
                    subresource: "status",
                    ..
                },
            ] => object["status"].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_is_gone_is_taken_off_and_the_last_frees_the_devices() {
        let two = || claim("c", "", users(&["a", "b"]));
        assert!(of(two(), &[], None).is_empty());
        let one_left = status(&of(two(), &["a"], None));
        assert_eq!(one_left["reservedFor"][0]["uid"], "b");
        assert!(one_left["allocation"].is_object());
        assert_eq!(status(&of(two(), &["a", "b"], None)), json!({}));
        // What is reserved for something else than a pod stays.
        let mut other = users(&[]);
        other["reservedFor"] = json!([{"resource": "jobs", "name": "j", "uid": "j"}]);
        assert!(of(claim("c", "", other), &["j"], None).is_empty());
    }

    #[test]
    fn a_claim_that_is_deleted_goes_when_nobody_uses_it() {
        let going = |status: Value| {
            let mut claim = (*claim("c", "", status)).clone();
            claim.metadata.deletion_timestamp = Some(crate::common::time_at(0));
            Arc::new(claim)
        };
        assert!(of(going(users(&["a"])), &[], None).is_empty());
        assert_eq!(status(&of(going(users(&[])), &[], None)), json!({}));
        let free = of(going(json!({})), &[], None);
        let [
            Action::Update {
                object,
                subresource: "",
                ..
            },
        ] = &free.actions[..]
        else {
            panic!("{free:?}");
        };
        assert_eq!(object["metadata"]["finalizers"], json!([]));
    }

    #[test]
    fn a_claim_of_a_pod_that_will_not_run_is_deleted() {
        let made = || claim("c", "p1", json!({}));
        for (owner, deleted) in [
            (None, false),
            (Some(Consumer::Alive), false),
            (Some(Consumer::Gone), true),
        ] {
            let plan = of(made(), &[], owner);
            assert_eq!(
                matches!(&plan.actions[..], [Action::Delete { .. }]),
                deleted,
                "{owner:?}"
            );
        }
    }
}
