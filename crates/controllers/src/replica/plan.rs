//! The plan of both kinds: adopt and release pods, create what is missing, delete what is too
//! much (the least useful first), and tell how many there are.

use std::collections::HashMap;
use std::sync::Arc;

use api::LabelSelector;
use control::action::{Action, Plan, Target};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::ApiResource;
use serde_json::{Value, json};

use crate::common::{
    Labels, controller_of, is_active, is_available, is_deleting, is_finished, is_ready, key_of,
    phase, ready_since, suffix, uid_of,
};

/// Pods created or deleted by one plan at most, so that one large set does not starve the others.
const BURST: usize = 500;

/// What the status tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub replicas: i32,
    pub fully_labeled: i32,
    pub ready: i32,
    pub available: i32,
    /// Not told by ReplicationControllers.
    pub terminating: Option<i32>,
}

/// A set and the pods that are, or could be, its own.
#[derive(Clone)]
pub struct Observed {
    pub resource: ApiResource,
    pub about: ObjectReference,
    pub owner: Value,
    pub meta: ObjectMeta,
    pub replicas: i32,
    pub min_ready_seconds: i32,
    pub selector: LabelSelector,
    /// The set itself.
    pub object: Value,
    pub template_labels: Labels,
    pub pods: Vec<Arc<Pod>>,
    pub told: Counts,
    /// Whether the kind's status tells of pods that end.
    pub tells_terminating: bool,
    pub told_generation: i64,
}

pub fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let mut plan = Plan::default();
    let uid = seen.meta.uid.clone().unwrap_or_default();
    let mut own: Vec<&Arc<Pod>> = Vec::new();
    for pod in &seen.pods {
        let matches = seen.selector.matches(&pod.metadata.labels);
        match controller_of(&**pod) {
            Some(_) if matches => own.push(pod),
            Some(_) => plan.actions.extend(release(pod, &uid)),
            None if matches && is_active(pod) && seen.meta.deletion_timestamp.is_none() => {
                plan.actions.push(adopt(pod, &seen.owner));
                own.push(pod);
            }
            None => {}
        }
    }
    let active: Vec<&Arc<Pod>> = own.iter().copied().filter(|p| is_active(p)).collect();
    if seen.meta.deletion_timestamp.is_none() {
        let wanted = usize::try_from(seen.replicas).unwrap_or(0);
        if active.len() < wanted {
            create(
                seen,
                (wanted - active.len()).min(BURST),
                now_millis,
                &mut plan,
            );
        } else if active.len() > wanted {
            let too_many = (active.len() - wanted).min(BURST);
            for pod in least_useful(&active, too_many, now_millis) {
                plan.actions.push(delete(seen, pod));
            }
        }
    }
    tell(seen, &own, &active, now_millis, &mut plan);
    plan
}

fn pod_target(pod: &Pod) -> Target {
    let (namespace, name) = key_of(pod);
    Target::of::<Pod>(&namespace, &name)
}

fn release(pod: &Pod, owner_uid: &str) -> Option<Action> {
    if is_deleting(pod) {
        return None;
    }
    let others: Vec<_> = pod
        .metadata
        .owner_references
        .iter()
        .flatten()
        .filter(|o| o.uid != owner_uid)
        .collect();
    let patch = json!({ "metadata": { "uid": uid_of(pod), "ownerReferences": others } });
    Some(Action::merge(pod_target(pod), patch))
}

fn adopt(pod: &Pod, owner: &Value) -> Action {
    let mut owners: Vec<Value> = pod
        .metadata
        .owner_references
        .iter()
        .flatten()
        .map(crate::common::value_of)
        .collect();
    owners.push(owner.clone());
    Action::merge(
        pod_target(pod),
        json!({ "metadata": { "uid": uid_of(pod), "ownerReferences": owners } }),
    )
}

fn create(seen: &Observed, count: usize, now_millis: i64, plan: &mut Plan) {
    let namespace = seen.meta.namespace.clone().unwrap_or_default();
    let set = seen.meta.name.clone().unwrap_or_default();
    let uid = seen.meta.uid.clone().unwrap_or_default();
    for number in 0..count {
        let base = format!("{set}-");
        let name = api::names::generate_name(&base, &suffix(&uid, now_millis, number));
        let template = &seen.object["spec"]["template"];
        let mut metadata = template
            .get("metadata")
            .cloned()
            .unwrap_or_else(|| json!({}));
        metadata["name"] = json!(name);
        metadata["generateName"] = json!(base);
        metadata["namespace"] = json!(namespace);
        metadata["ownerReferences"] = json!([seen.owner]);
        let spec = template.get("spec").cloned().unwrap_or_default();
        let object =
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
        let action = Action::Create {
            target: Target::of::<Pod>(&namespace, &name),
            object,
        };
        let done = format!("Created pod: {name}");
        plan.actions.push(action.noted(
            &seen.about,
            ("SuccessfulCreate", done),
            ("FailedCreate", "Error creating: {error}".into()),
        ));
    }
}

fn delete(seen: &Observed, pod: &Pod) -> Action {
    let target = pod_target(pod);
    let name = target.name.clone();
    Action::delete(target, Some(uid_of(pod))).noted(
        &seen.about,
        ("SuccessfulDelete", format!("Deleted pod: {name}")),
        (
            "FailedDelete",
            format!("Error deleting pod {name:?}: {{error}}"),
        ),
    )
}

/// Smaller is deleted earlier.
type Rank = (bool, u8, bool, i64, i64, i64, i64, i64, String);

/// Not yet on a node, not running, not ready, cheap by its own word, on a crowded node, ready
/// for a short time, often restarted, young.
fn rank(pod: &Pod, crowd: i64, now_millis: i64) -> Rank {
    let assigned = pod
        .spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .is_some_and(|n| !n.is_empty());
    let phase = match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations
        .and_then(|a| {
            a.get("controller.kubernetes.io/pod-deletion-cost")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    // On a logarithmic scale, as upstream, so that small differences do not count.
    let age = |since: i64| i64::from((now_millis - since).max(1_000).ilog2());
    let ready_for = ready_since(pod).map_or(0, age);
    let statuses = pod
        .status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref());
    let restarts = statuses
        .into_iter()
        .flatten()
        .map(|c| i64::from(c.restart_count))
        .max()
        .unwrap_or(0);
    let created = pod
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(now_millis, |t| t.0.as_millisecond());
    (
        assigned,
        phase,
        is_ready(pod),
        cost,
        -crowd,
        ready_for,
        -restarts,
        age(created),
        uid_of(pod),
    )
}

fn least_useful<'a>(active: &[&'a Arc<Pod>], count: usize, now_millis: i64) -> Vec<&'a Arc<Pod>> {
    let node = |p: &Pod| {
        p.spec
            .as_ref()
            .and_then(|s| s.node_name.clone())
            .unwrap_or_default()
    };
    let mut crowds: HashMap<String, i64> = HashMap::new();
    for pod in active {
        *crowds.entry(node(pod)).or_default() += 1;
    }
    let mut ranked: Vec<(Rank, &Arc<Pod>)> = active
        .iter()
        .map(|p| {
            (
                rank(p, crowds.get(&node(p)).copied().unwrap_or(0), now_millis),
                *p,
            )
        })
        .collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0));
    ranked.into_iter().take(count).map(|(_, p)| p).collect()
}

fn count(pods: impl Iterator) -> i32 {
    i32::try_from(pods.count()).unwrap_or(i32::MAX)
}

fn tell(
    seen: &Observed,
    own: &[&Arc<Pod>],
    active: &[&Arc<Pod>],
    now_millis: i64,
    plan: &mut Plan,
) {
    let labeled = |p: &&&Arc<Pod>| {
        seen.template_labels
            .iter()
            .all(|(k, v)| p.metadata.labels.as_ref().and_then(|l| l.get(k)) == Some(v))
    };
    let counts = Counts {
        replicas: count(active.iter()),
        fully_labeled: count(active.iter().filter(labeled)),
        ready: count(active.iter().filter(|p| is_ready(p))),
        available: count(
            active
                .iter()
                .filter(|p| is_available(p, seen.min_ready_seconds, now_millis)),
        ),
        terminating: seen.tells_terminating.then(|| {
            count(
                own.iter()
                    .filter(|p| is_deleting(&****p) && !is_finished(p)),
            )
        }),
    };
    if counts.ready > counts.available {
        let due = active
            .iter()
            .filter_map(|p| ready_since(p))
            .map(|t| t + i64::from(seen.min_ready_seconds) * 1_000);
        let next = due.filter(|t| *t > now_millis).min();
        plan.wake_after_millis = next.and_then(|t| u64::try_from(t - now_millis).ok());
    }
    let generation = seen.meta.generation.unwrap_or(0);
    if counts == seen.told && generation == seen.told_generation {
        return;
    }
    // Replaced as a whole, since upstream's roles let these controllers update a status and not
    // patch it: conditions that others set stay.
    let mut object = seen.object.clone();
    for (field, n) in [
        ("replicas", json!(counts.replicas)),
        ("fullyLabeledReplicas", json!(counts.fully_labeled)),
        ("readyReplicas", json!(counts.ready)),
        ("availableReplicas", json!(counts.available)),
        ("observedGeneration", json!(generation)),
        ("terminatingReplicas", json!(counts.terminating)),
    ] {
        object["status"][field] = n;
    }
    let target = Target {
        resource: seen.resource.clone(),
        namespace: seen.meta.namespace.clone().unwrap_or_default(),
        name: seen.meta.name.clone().unwrap_or_default(),
    };
    plan.last.push(Action::Update {
        target,
        subresource: "status",
        object,
    });
}
