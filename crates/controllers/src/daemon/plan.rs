//! The plan of a DaemonSet: a pod on every node that fits, none elsewhere, failed ones again; when
//! that is so, pods of an older template are replaced.

use std::sync::Arc;

use control::action::{Action, Plan};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::place::{Fit, fit, template_for, tolerations};
use super::rolling::{self, Changes};
use super::state::{Daemon, GENERATION_LABEL, Pods, generation, sorted};
use super::status;
use crate::common::{count, is_deleting, is_ready, phase, uid_of, value_of, wake_at};
use crate::failed_pods::Failures;
use crate::ownership::{Parent, any};
use crate::pods::{self, BURST};
use crate::revisions::{HASH_LABEL, History, hash_of};

/// A set, all nodes, and what is or could be its own.
#[derive(Clone)]
pub struct Observed {
    pub set: Arc<DaemonSet>,
    pub nodes: Vec<Arc<Node>>,
    pub pods: Vec<Arc<Pod>>,
    pub revisions: Vec<Arc<ControllerRevision>>,
}

pub fn plan(seen: &Observed, failures: &mut Failures, now_millis: i64) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = seen.set.spec.as_ref() else {
        return plan;
    };
    // Its pods and its history may go in any order: nothing can be said of one that ends.
    if is_deleting(&*seen.set) {
        return plan;
    }
    let parent = Parent::selecting(&*seen.set, Some(&spec.selector));
    let own = parent.claim(&seen.pods, any, any, &mut plan);
    let revisions = parent.claim(&seen.revisions, any, any, &mut plan);
    let history = History::new(&revisions, &spec.template);
    let (set, taken) = (&*seen.set, &seen.revisions);
    let collisions = set.status.as_ref().and_then(|s| s.collision_count);
    if history.renew(&parent, set, &spec.template, taken, collisions, &mut plan) {
        return plan;
    }
    let Some(current) = history.current else {
        return plan;
    };
    let pod_spec = spec.template.spec.clone().unwrap_or_default();
    let tolerated = tolerations(&pod_spec);
    let daemon = Daemon::new(set, spec, current, &history, &own, now_millis)
        .with_nodes(&seen.nodes, |node| fit(&pod_spec, &tolerated, node));
    let mut changes = manage(&daemon, &parent, failures, &mut plan);
    if changes.is_empty() && daemon.rolls() {
        changes = rolling::changes(&daemon);
    }
    let template = template(&daemon, &value_of(&spec.template));
    for (number, node) in changes.create.iter().take(BURST).enumerate() {
        let template = template_for(&template, &tolerated, node);
        let base = format!("{}-", parent.name);
        let pod = pods::numbered(&parent, &template, &base, now_millis, number);
        plan.actions.push(pods::create(&parent, pod));
    }
    let delete = changes.delete.iter().take(BURST);
    plan.actions
        .extend(delete.map(|p| pods::delete(&parent, p)));
    let limit = spec.revision_history_limit.unwrap_or(10);
    let hash = |p: &Arc<Pod>| p.metadata.labels.as_ref()?.get(HASH_LABEL).cloned();
    let live: Vec<String> = own.iter().filter_map(|p| hash(p)).collect();
    let is_live = |r: &ControllerRevision| live.iter().any(|h| h == hash_of(r));
    // Other than a StatefulSet's, those that pods are of count in the limit.
    let in_use = count(history.others.iter().filter(|r| is_live(r)));
    let unused = limit.saturating_sub(in_use).max(0);
    plan.actions.extend(history.truncate(unused, is_live));
    status::report_status(&daemon, &mut plan);
    plan
}

/// The template with the labels that name the one that a pod is made of.
fn template(daemon: &Daemon<'_>, template: &Value) -> Value {
    let mut template = template.clone();
    let labels = &mut template["metadata"]["labels"];
    if labels.is_null() {
        *labels = json!({});
    }
    labels[HASH_LABEL] = json!(daemon.hash);
    if let Some(generation) = generation(daemon.set) {
        labels[GENERATION_LABEL] = json!(generation);
    }
    template
}

/// What every node should have, whatever the template.
fn manage<'a>(
    daemon: &Daemon<'a>,
    parent: &Parent,
    failures: &mut Failures,
    plan: &mut Plan,
) -> Changes<'a> {
    let mut changes = Changes::default();
    for (node, fit) in &daemon.fits {
        let Fit {
            should_run,
            may_stay,
        } = *fit;
        let Some(pods) = daemon.pods.get(node) else {
            if should_run {
                changes.create.push(node.clone());
            }
            continue;
        };
        if !may_stay {
            let stay = pods.iter().filter(|p| !is_deleting(&****p));
            changes.delete.extend(stay);
            continue;
        }
        let (running, waits) = ended(daemon, parent, node, failures, &mut changes, plan);
        // What failed a moment ago is not replaced yet; upstream forgets this while a set surges.
        keep_one(daemon, node, running, should_run && !waits, &mut changes);
    }
    // Nobody else deletes what waits for a node that is gone.
    for (_, pods) in daemon
        .pods
        .iter()
        .filter(|(n, _)| !daemon.fits.contains_key(*n))
    {
        let node = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.clone());
        let waits = |p: &&&Arc<Pod>| node(p).unwrap_or_default().is_empty() && !is_deleting(&****p);
        changes.delete.extend(pods.iter().filter(|p| waits(p)));
    }
    changes
}

/// Removes what has ended on a node; what runs, or will, and whether something that failed waits
/// for its replacement.
fn ended<'a>(
    daemon: &Daemon<'a>,
    parent: &Parent,
    node: &str,
    failures: &mut Failures,
    changes: &mut Changes<'a>,
    plan: &mut Plan,
) -> (Pods<'a>, bool) {
    let (mut running, mut waits) = (Vec::new(), false);
    let pods = daemon.pods.get(node).into_iter().flatten();
    for pod in pods.copied().filter(|p| !is_deleting(&***p)) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let (reason, what) = match phase(pod) {
            "Failed" => {
                let generation = daemon
                    .set
                    .status
                    .as_ref()
                    .and_then(|s| s.observed_generation);
                let key = format!("{}/{}/{node}", uid_of(daemon.set), generation.unwrap_or(0));
                if let Err(left) = failures.replace(key, daemon.now_millis) {
                    let due = daemon.now_millis.saturating_add(left);
                    wake_at(Some(due), daemon.now_millis, plan);
                    waits = true;
                    continue;
                }
                ("FailedDaemonPod", ("failed", "will try to kill it"))
            }
            "Succeeded" => ("SucceededDaemonPod", ("succeeded", "will try to delete it")),
            _ => {
                running.push(pod);
                continue;
            }
        };
        let namespace = &parent.namespace;
        plan.actions.push(Action::Event {
            about: parent.about.clone(),
            warning: reason == "FailedDaemonPod",
            reason,
            message: format!(
                "Found {} daemon pod {namespace}/{name} on node {node}, {}",
                what.0, what.1
            ),
        });
        changes.delete.push(pod);
    }
    (running, waits)
}

/// One pod a node; while the set surges, one of the old template beside one of the new.
fn keep_one<'a>(
    daemon: &Daemon<'a>,
    node: &str,
    running: Pods<'a>,
    should_run: bool,
    changes: &mut Changes<'a>,
) {
    if !daemon.surges() {
        changes.delete.extend(sorted(running).into_iter().skip(1));
        return;
    }
    if running.is_empty() && should_run {
        changes.create.push(node.to_owned());
    }
    if running.len() <= 1 {
        return;
    }
    let (mut new, mut old) = (None, None);
    for pod in sorted(running) {
        let first = if daemon.is_updated(pod) {
            &mut new
        } else {
            &mut old
        };
        if first.is_none() {
            *first = Some(pod);
        } else {
            changes.delete.push(pod);
        }
    }
    if let (Some(new), Some(old)) = (new, old)
        && (!is_ready(old) || daemon.is_available(new))
    {
        changes.delete.push(old);
    }
}
