//! Why a DaemonSet does not progress: which of its pods is not ready, or why no node is to have one.

use control::ready::is_pod_ready;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::pod;
use super::report::{Answer, NodeAnswer, Profiles, WhyError};
use super::reported;
use super::state::{self, State};
use crate::pod::is_terminal;

const OTHERS: &str = "the others have not been made yet";
/// Taints that say how a node is: pods of DaemonSets come nevertheless.
const OF_CONDITIONS: &str = "node.kubernetes.io/";
/// The plugins that say for which nodes a DaemonSet is; what others say is said of its pods.
const ELIGIBLE_BY: [&str; 3] = ["NodeAffinity", "NodeName", "TaintToleration"];

/// Nodes that are named one by one of those that are not to have a pod.
const NAMED: usize = 10;

pub fn explain(state: &State, of: &DaemonSet, profiles: Profiles<'_>) -> Result<Answer, WhyError> {
    let mut answer = progress(state, of, profiles)?;
    let has_pods = state::pods_of(state, of).next().is_some();
    if !has_pods || state::held(of).is_some() {
        return Ok(answer);
    }
    // Whoever misses a pod on a node does not see it in the counts.
    let all = eligible(state, of, profiles)?;
    let without: Vec<&NodeAnswer> = all.iter().filter(|n| !n.fits).collect();
    for node in without.iter().take(NAMED) {
        let texts = node.refusals.iter().flat_map(|r| &r.reasons);
        let texts: Vec<&str> = texts.map(String::as_str).collect();
        let note = format!("{} is to have no pod: {}", node.node, texts.join(", "));
        answer = answer.note(match node.refusals.iter().find_map(|r| r.change.as_ref()) {
            Some(change) => format!("{note} ({change})"),
            None => note,
        });
    }
    if let Some(more) = without.len().checked_sub(NAMED).filter(|n| *n > 0) {
        answer = answer.note(format!("and {more} more nodes are to have none"));
    }
    Ok(answer)
}

fn progress(state: &State, of: &DaemonSet, profiles: Profiles<'_>) -> Result<Answer, WhyError> {
    let (namespace, name) = (of.namespace().unwrap_or_default(), of.name_any());
    let about = format!("daemonset {namespace}/{name}");
    if let Some(held) = state::held(of) {
        return Ok(Answer::of(about, held));
    }
    let all: Vec<&Pod> = state::pods_of(state, of)
        .filter(|p| !is_terminal(p))
        .collect();
    if all.is_empty() {
        return without_pods(state, of, about, profiles);
    }
    let status = of.status.clone().unwrap_or_default();
    let missing = usize::try_from(status.desired_number_scheduled)
        .unwrap_or(0)
        .saturating_sub(all.len());
    let wanted = all.len() + missing;
    let ready = all.iter().filter(|p| is_pod_ready(p)).count();
    let said = format!("{ready} of {wanted} pods are ready");
    if let Some(stuck) = pod::stuck(&all) {
        let why = pod::explain(state, stuck, profiles)?;
        return Ok(Answer::of_part(about, &said, why));
    }
    if missing > 0 {
        let said = format!("{said}; {OTHERS}");
        return Ok(reported::not_made(state, of, about, &said, "daemonset"));
    }
    let strategy = of.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let updated = status.updated_number_scheduled.unwrap_or(0);
    let older = status.desired_number_scheduled.saturating_sub(updated);
    if older > 0 && strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        let cause = format!(
            "all {wanted} pods are ready; {older} are of an older template: its update strategy is \
             OnDelete"
        );
        return Ok(Answer::of(about, cause).change("delete those pods"));
    }
    Ok(Answer::of(about, format!("all {wanted} pods are ready")))
}

/// Which nodes are to have a pod of it, as their labels and taints say.
fn eligible(
    state: &State,
    of: &DaemonSet,
    profiles: Profiles<'_>,
) -> Result<Vec<NodeAnswer>, WhyError> {
    let mut nodes = state.nodes.clone();
    for spec in nodes.iter_mut().filter_map(|n| n.spec.as_mut()) {
        spec.unschedulable = None;
        if let Some(taints) = spec.taints.as_mut() {
            taints.retain(|t| !t.key.starts_with(OF_CONDITIONS));
        }
    }
    let alone = State {
        nodes,
        ..State::default()
    };
    let template = of.spec.as_ref().map(|s| s.template.clone());
    let template = template.unwrap_or_default();
    let mut model = Pod {
        metadata: template.metadata.unwrap_or_default(),
        spec: template.spec,
        status: None,
    };
    model.metadata.namespace = of.namespace();
    if let Some(spec) = model.spec.as_mut() {
        // Of these nothing is known here, and they do not say where a pod is to be.
        spec.volumes = None;
        spec.resource_claims = None;
    }
    let mut answers = pod::node_answers(&alone, &model, profiles)?;
    for answer in &mut answers {
        let says = |plugin: &str| ELIGIBLE_BY.contains(&plugin);
        answer.refusals.retain(|r| says(&r.plugin));
        answer.fits = answer.refusals.is_empty();
    }
    Ok(answers)
}

/// Whether any node is to have a pod of it, and why none has.
fn without_pods(
    state: &State,
    of: &DaemonSet,
    about: String,
    profiles: Profiles<'_>,
) -> Result<Answer, WhyError> {
    if state.nodes.is_empty() {
        return Ok(Answer::of(about, "the cluster has no nodes").change("add a node"));
    }
    let answers = eligible(state, of, profiles)?;
    let fit = answers.iter().filter(|a| a.fits).count();
    if fit > 0 || answers.is_empty() {
        let said = format!("0 of {fit} pods are ready; {OTHERS}");
        return Ok(reported::not_made(state, of, about, &said, "daemonset"));
    }
    let mut out = Answer::of(about, pod::no_node_fits(&answers));
    out.change = answers.first().map(pod::change_of);
    out.nodes = answers;
    Ok(out)
}
