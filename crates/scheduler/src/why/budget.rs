//! Why a PodDisruptionBudget lets no pod go, and of a closed node, which budgets keep its pods there.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;

use super::pod;
use super::report::{Answer, Profiles, WhyError};
use super::state::{self, State};
use crate::pod::is_terminal;
use crate::selector_terms;

/// Whether the budget selects a pod of its namespace.
fn means(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let spec = budget.spec.as_ref();
    let selector = selector_terms::selector(spec.and_then(|s| s.selector.as_ref()));
    let selects = !selector.nothing && selector.matches(pod.labels());
    selects && pod.namespace() == budget.namespace()
}

/// How many evictions it lets through now.
fn allowed(budget: &PodDisruptionBudget) -> i32 {
    let status = budget.status.as_ref();
    status.and_then(|s| s.disruptions_allowed).unwrap_or(0)
}

/// Of the pods of a node, those that budgets keep there: one line each.
pub fn keeps(state: &State, node: &str) -> Vec<String> {
    let on_it: Vec<&Pod> = state
        .pods
        .iter()
        .filter(|p| {
            let place = p.spec.as_ref().and_then(|s| s.node_name.as_deref());
            place == Some(node) && !is_terminal(p) && p.metadata.deletion_timestamp.is_none()
        })
        .collect();
    let held = |budget: &PodDisruptionBudget| {
        let pod = on_it.iter().find(|p| means(budget, p))?;
        let namespace = budget.namespace().unwrap_or_default();
        (allowed(budget) <= 0).then(|| {
            format!(
                "poddisruptionbudget {namespace}/{0} lets no pod go, such as {1}: ask why pdb/{0}",
                budget.name_any(),
                pod.name_any()
            )
        })
    };
    state.budgets.iter().filter_map(held).collect()
}

pub fn explain(
    state: &State,
    of: &PodDisruptionBudget,
    profiles: Profiles<'_>,
) -> Result<Answer, WhyError> {
    let (namespace, name) = (of.namespace().unwrap_or_default(), of.name_any());
    let about = format!("poddisruptionbudget {namespace}/{name}");
    if let Some(held) = state::held(of) {
        return Ok(Answer::of(about, held));
    }
    let Some(status) = &of.status else {
        return Ok(Answer::of(about, "nobody has looked at it yet"));
    };
    let mut conditions = status.conditions.iter().flatten();
    if let Some(failed) = conditions.find(|c| c.reason == "SyncFailed") {
        let cause = format!(
            "it lets no pod go, since its pods cannot be counted: {}",
            failed.message
        );
        return Ok(Answer::of(about, cause).change(
            "let it select pods of workloads with a number of replicas, or say minAvailable",
        ));
    }
    let number = |n: Option<i32>| n.unwrap_or(0);
    let (all, healthy) = (number(status.expected_pods), number(status.current_healthy));
    let least = number(status.desired_healthy);
    let counts = format!("{healthy} of its {all} pods are healthy, and {least} must be");
    if allowed(of) > 0 {
        let cause = format!("it lets {} more pods go: {counts}", allowed(of));
        return Ok(Answer::of(about, cause));
    }
    let pods: Vec<&Pod> = state.pods.iter().filter(|p| means(of, p)).collect();
    if all == 0 && pods.is_empty() {
        let answer = Answer::of(about, "it selects no pod, so it keeps none");
        return Ok(answer.change("let its selector have the labels of the pods that are meant"));
    }
    if least >= all {
        let cause = format!("it never lets a pod go: {least} of its {all} pods must be healthy");
        return Ok(Answer::of(about, cause).change(
            "have more pods, or let it allow a disruption: a lower minAvailable, a higher \
             maxUnavailable",
        ));
    }
    let cause = format!("it lets no pod go now: {counts}");
    if let Some(names) = status.disrupted_pods.as_ref().filter(|all| !all.is_empty()) {
        let names: Vec<&str> = names.keys().map(String::as_str).collect();
        let note = format!("evictions that have not ended yet: {}", names.join(", "));
        return Ok(Answer::of(about, cause).note(note));
    }
    let live: Vec<&Pod> = pods.into_iter().filter(|p| !is_terminal(p)).collect();
    match pod::stuck(&live) {
        Some(stuck) => Ok(Answer::of_part(
            about,
            &cause,
            pod::explain(state, stuck, profiles)?,
        )),
        None => Ok(Answer::of(about, cause)),
    }
}
