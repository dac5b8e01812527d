//! Pods as controllers make and delete them: from a template, with the events of upstream.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use control::action::{Action, Patch, Target};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::common::{
    is_active, is_ready, key_of, millis_of, phase, ready_since, suffix, time_text, uid_of,
};
use crate::ownership::Parent;

/// Pods created or deleted by one plan at most, so that one large object does not starve the
/// others.
pub const BURST: usize = 500;

/// The condition of pods that are ended though they have done nothing wrong.
pub const DISRUPTION_TARGET: &str = "DisruptionTarget";

pub fn target(pod: &Pod) -> Target {
    let (namespace, name) = key_of(pod);
    Target::of::<Pod>(&namespace, &name)
}

/// A pod of a template, owned by `parent`.
pub fn of_template(parent: &Parent, template: &Value, name: &str) -> Value {
    let given = |field: &str| template.get(field).cloned().filter(|v| !v.is_null());
    let mut metadata = given("metadata").unwrap_or_else(|| json!({}));
    metadata["name"] = json!(name);
    metadata["namespace"] = json!(parent.namespace);
    metadata["ownerReferences"] = json!([parent.reference]);
    let spec = given("spec").unwrap_or_else(|| json!({}));
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
}

/// A pod whose name is made of `base` and letters that differ by time and `number`.
pub fn numbered(
    parent: &Parent,
    template: &Value,
    base: &str,
    now_millis: i64,
    number: usize,
) -> Value {
    let name = api::names::generate_name(base, &suffix(&parent.uid, now_millis, number));
    let mut pod = of_template(parent, template, &name);
    pod["metadata"]["generateName"] = json!(base);
    pod
}

/// Creates a pod, reported by events on its parent.
pub fn create(parent: &Parent, pod: Value) -> Action {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let (target, done) = (
        Target::of::<Pod>(&parent.namespace, name),
        format!("Created pod: {name}"),
    );
    let action = Action::Create {
        target,
        object: pod,
    };
    action.noted(
        &parent.about,
        ("SuccessfulCreate", done),
        ("FailedCreate", "Error creating: {error}".into()),
    )
}

/// Deletes a pod, reported by events on its parent.
pub fn delete(parent: &Parent, pod: &Pod) -> Action {
    let target = target(pod);
    let name = target.name.clone();
    Action::delete(target, Some(uid_of(pod))).noted(
        &parent.about,
        ("SuccessfulDelete", format!("Deleted pod: {name}")),
        (
            "FailedDelete",
            format!("Error deleting pod {name:?}: {{error}}"),
        ),
    )
}

/// A strategic patch of a pod's status. The UID makes sure that it is not another pod that was made
/// under the same name meanwhile.
pub fn status_patch(pod: &Pod, status: Value) -> Action {
    Action::Patch {
        target: target(pod),
        subresource: "status",
        patch: Patch::Strategic(json!({ "metadata": { "uid": uid_of(pod) }, "status": status })),
    }
}

/// The condition that says why the control plane ends a pod.
pub fn disruption_target(pod: &Pod, reason: &str, message: &str, now_millis: i64) -> Value {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let mut same = conditions.into_iter().flatten();
    let same = same.find(|c| c.type_ == DISRUPTION_TARGET && c.status == "True");
    let since = same.and_then(|c| c.last_transition_time.as_ref());
    let since = since.map_or_else(|| json!(time_text(now_millis)), |t| json!(t));
    json!({
        "type": DISRUPTION_TARGET, "status": "True", "reason": reason, "message": message,
        "observedGeneration": pod.metadata.generation, "lastTransitionTime": since,
    })
}

/// Smaller is deleted earlier.
type Rank = (bool, u8, bool, i64, i64, i64, (i32, i32), i64, String);

/// Not yet on a node, not running, not ready, cheap by its own word, on a crowded node, ready
/// for a short time, often restarted, young.
fn rank(pod: &Pod, crowd: i64, now_millis: i64) -> Rank {
    let assigned = pod
        .spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .is_some_and(|n| !n.is_empty());
    let phase = match phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations
        .and_then(|a| {
            a.get("controller.kubernetes.io/pod-deletion-cost")?
                .parse::<i32>()
                .ok()
        })
        .map_or(0, i64::from);
    // On a logarithmic scale, as upstream, so that small differences do not count: of nanoseconds, as
    // there, so that the same pods are alike. What has no time is younger than all.
    let age = |since: i64| match now_millis.saturating_sub(since) {
        ..=0 => -1,
        millis => i64::from(millis.saturating_mul(1_000_000).ilog2()),
    };
    let ready_for = ready_since(pod).map_or(-2, age);
    let (restarts, of_sidecars) = most_restarts(pod);
    let created = millis_of(pod.metadata.creation_timestamp.as_ref()).map_or(-2, age);
    (
        assigned,
        phase,
        is_ready(pod),
        cost,
        -crowd,
        ready_for,
        (-restarts, -of_sidecars),
        created,
        uid_of(pod),
    )
}

/// How often the container started again that did so most: of the containers, and of the sidecars.
fn most_restarts(pod: &Pod) -> (i32, i32) {
    let init = pod.spec.iter().flat_map(|s| s.init_containers.iter());
    let init = init.flatten();
    let sidecars = init.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let sidecars: HashSet<&str> = sidecars.map(|c| &*c.name).collect();
    let Some(status) = &pod.status else {
        return (0, 0);
    };
    let containers = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    let of_sidecars = init.filter(|c| sidecars.contains(&*c.name));
    let most = |restarts: Option<i32>| restarts.unwrap_or(0);
    (
        most(containers.map(|c| c.restart_count).max()),
        most(of_sidecars.map(|c| c.restart_count).max()),
    )
}

/// The pods that are missed least, worst first. `related`: pods of others beside which they are a
/// crowd, too.
pub fn least_useful<'a>(
    active: &[&'a Arc<Pod>],
    related: &[Arc<Pod>],
    count: usize,
    now_millis: i64,
) -> Vec<&'a Arc<Pod>> {
    let node = |p: &Pod| {
        p.spec
            .as_ref()
            .and_then(|s| s.node_name.clone())
            .unwrap_or_default()
    };
    let mut crowds: HashMap<String, i64> = HashMap::new();
    let related = related.iter().filter(|p| is_active(p));
    for pod in active.iter().copied().chain(related) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;
    const HOUR: i64 = 3_600;

    /// A pod on a node: its phase, whether and since how many seconds it is ready, restarts of its
    /// container and of its sidecar, how many seconds ago it was made.
    fn on_node(state: &str, since: Option<i64>, restarts: (i32, i32), made: Option<i64>) -> Value {
        let ago = |seconds: Option<i64>| seconds.map(|s| time_text(NOW - s * 1_000));
        let status = |name: &str, n: i32| json!({ "name": name, "restartCount": n, "ready": true, "image": "i", "imageID": "i" });
        let (phase, ready) = match state {
            "Ready" => ("Running", "True"),
            phase => (phase, "False"),
        };
        json!({
            "metadata": { "name": "p", "uid": "p", "creationTimestamp": ago(made) },
            "spec": { "nodeName": "n", "containers": [{ "name": "c" }],
                "initContainers": [{ "name": "s", "restartPolicy": "Always" }] },
            "status": { "phase": phase,
                "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": ago(since) }],
                "containerStatuses": [status("c", restarts.0)],
                "initContainerStatuses": [status("s", restarts.1)] },
        })
    }

    fn ranked(pod: &Value, crowd: i64) -> Rank {
        let pod: Pod = serde_json::from_value(pod.clone()).expect("a pod");
        rank(&pod, crowd, NOW)
    }

    #[test]
    fn which_of_two_pods_is_missed_less() {
        let ready = |since: i64, made: i64| on_node("Ready", Some(since), (0, 0), Some(made));
        let mut nowhere = on_node("Pending", None, (0, 0), None);
        nowhere["spec"]["nodeName"] = Value::Null;
        let pending = on_node("Pending", None, (0, 0), None);
        let unknown = on_node("Unknown", None, (0, 0), None);
        let not_ready = on_node("Running", None, (0, 0), None);
        let timeless = on_node("Ready", None, (0, 0), None);
        let just_now = ready(0, 0);
        let month = ready(720 * HOUR, 720 * HOUR);
        let older = ready(0, 720 * HOUR);
        let restarted = on_node("Ready", Some(0), (9_001, 0), Some(0));
        let sidecar = on_node("Ready", Some(0), (9_001, 9_001), Some(0));
        let cost = |cost: &str| {
            let mut pod = older.clone();
            pod["metadata"]["annotations"] =
                json!({ "controller.kubernetes.io/pod-deletion-cost": cost });
            pod
        };
        let (cheap, dear, senseless) = (cost("10"), cost("100"), cost("9999999999"));
        // Each with the number of pods beside it; the first goes first.
        for (row, first, second) in [
            ("no node", (&nowhere, 1), (&pending, 2)),
            ("no node, crowded", (&nowhere, 2), (&pending, 1)),
            ("pending", (&pending, 1), (&unknown, 2)),
            ("unknown", (&unknown, 1), (&not_ready, 2)),
            ("not ready", (&not_ready, 1), (&timeless, 1)),
            ("no time", (&timeless, 1), (&just_now, 1)),
            ("crowded", (&just_now, 2), (&timeless, 1)),
            ("ready for less", (&just_now, 1), (&month, 1)),
            ("ready for less, crowded", (&just_now, 2), (&month, 1)),
            ("restarts", (&restarted, 1), (&just_now, 1)),
            ("restarts of the sidecar", (&sidecar, 1), (&restarted, 1)),
            ("restarts or a crowd", (&just_now, 2), (&restarted, 1)),
            ("made later", (&just_now, 1), (&older, 1)),
            ("made later or a crowd", (&older, 2), (&just_now, 1)),
            ("cost", (&cheap, 2), (&dear, 1)),
            ("cost, crowded", (&cheap, 1), (&dear, 2)),
            ("no cost", (&senseless, 1), (&cheap, 1)),
            (
                "two and five hours",
                (&ready(2 * HOUR, 720 * HOUR), 1),
                (&ready(5 * HOUR, 720 * HOUR), 1),
            ),
        ] {
            let (first, second) = (ranked(first.0, first.1), ranked(second.0, second.1));
            assert!(first < second, "{row}: {first:?} {second:?}");
        }
        // Differences that are small beside the age.
        let alike = |a: Value, b: Value| ranked(&a, 1) == ranked(&b, 1);
        assert!(alike(
            ready(5 * HOUR, 720 * HOUR),
            ready(8 * HOUR, 720 * HOUR)
        ));
        let waits = |made: i64| on_node("Pending", None, (0, 0), Some(made));
        assert!(alike(waits(5 * HOUR), waits(8 * HOUR)));
    }

    #[test]
    fn pods_whose_sidecars_restart_are_missed_less() {
        let pod = |name: &str, restarts: i32, of_sidecar: i32, of_init: i32| -> Arc<Pod> {
            let status = |name: &str, n: i32| json!({ "name": name, "restartCount": n, "ready": true, "image": "i", "imageID": "i" });
            let pod = json!({
                "metadata": { "name": name, "uid": name },
                "spec": { "containers": [{ "name": "c" }], "initContainers": [
                    { "name": "s", "restartPolicy": "Always" }, { "name": "i" }] },
                "status": {
                    "containerStatuses": [status("c", restarts)],
                    "initContainerStatuses": [status("s", of_sidecar), status("i", of_init)],
                },
            });
            Arc::new(serde_json::from_value(pod).expect("a pod"))
        };
        let all = [
            pod("a", 0, 0, 9),
            pod("b", 1, 0, 0),
            pod("c", 0, 2, 0),
            pod("d", 1, 1, 0),
        ];
        let all: Vec<&Arc<Pod>> = all.iter().collect();
        let order = least_useful(&all, &[], 4, 0);
        let order: Vec<_> = order.iter().map(|p| uid_of(&***p)).collect();
        assert_eq!(order, ["d", "b", "c", "a"]);
    }
}
