//! Why a Deployment does not progress.

use control::ready::is_pod_ready;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::pod;
use super::report::{Answer, Profiles, WhyError};
use super::reported;
use super::state::{self, State};
use crate::pod::is_terminal;

/// The ReplicaSets of a Deployment.
fn sets<'a>(state: &'a State, of: &Deployment) -> Vec<&'a ReplicaSet> {
    let uid = of.uid().unwrap_or_default();
    let all = state.replica_sets.iter();
    all.filter(|s| state::controller(*s).is_some_and(|o| o.uid == uid))
        .collect()
}

fn revision(set: &ReplicaSet) -> i64 {
    let text = set.annotations().get("deployment.kubernetes.io/revision");
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// The one of the newest template.
pub fn newest_set<'a>(state: &'a State, of: &Deployment) -> Option<&'a ReplicaSet> {
    sets(state, of).into_iter().max_by_key(|s| revision(s))
}

/// Its pods that have not run to their end.
pub fn pods<'a>(state: &'a State, of: &Deployment) -> Vec<&'a Pod> {
    let sets: Vec<String> = sets(state, of).iter().filter_map(|s| s.uid()).collect();
    let all = state.pods.iter();
    all.filter(|p| {
        let owner = state::controller(*p);
        owner.is_some_and(|o| sets.contains(&o.uid)) && !is_terminal(p)
    })
    .collect()
}

/// What refuses its pods, or its ReplicaSet.
fn refusal(of: &Deployment, newest: Option<&ReplicaSet>) -> Option<String> {
    let is_failure = |kind: &str, status: &str| kind == "ReplicaFailure" && status == "True";
    let of_set = newest.and_then(|s| s.status.as_ref()).into_iter();
    let mut of_set = of_set.flat_map(|s| s.conditions.iter().flatten());
    let found = of_set.find(|c| is_failure(&c.type_, &c.status));
    let mut own = of.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut own = || own.find(|c| is_failure(&c.type_, &c.status));
    match found {
        Some(c) => c.message.clone(),
        None => own()?.message.clone(),
    }
}

pub fn explain(state: &State, of: &Deployment, profiles: Profiles<'_>) -> Result<Answer, WhyError> {
    let namespace = of.namespace().unwrap_or_default();
    let about = format!("deployment {namespace}/{}", of.name_any());
    let wanted = of.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    if let Some(held) = state::held(of) {
        return Ok(Answer::of(about, held));
    }
    let newest = newest_set(state, of);
    let uid = newest.and_then(ResourceExt::uid);
    let of_newest = |p: &&Pod| state::controller(*p).map(|o| &o.uid) == uid.as_ref();
    let all = pods(state, of);
    let current: Vec<&Pod> = all.iter().copied().filter(of_newest).collect();
    let ready = current.iter().filter(|p| is_pod_ready(p)).count();
    let paused = of.spec.as_ref().and_then(|s| s.paused) == Some(true);
    if paused {
        let answer = Answer::of(about, "it is paused: a new template is not rolled out");
        return Ok(answer.change("kubectl rollout resume"));
    }
    if wanted == 0 {
        let answer = Answer::of(about, "it is to have no pods (replicas: 0)");
        return Ok(answer.change("scale it up"));
    }
    if usize::try_from(wanted).is_ok_and(|n| ready >= n) && all.len() == current.len() {
        return Ok(Answer::of(about, format!("all {wanted} pods are ready")));
    }
    if let Some(message) = refusal(of, newest) {
        let cause = format!("its pods cannot be created: {message}");
        return Ok(reported::refused(Answer::of(about, cause), &message));
    }
    // One of an older template that does not go holds the others up, too.
    let goes = |p: &&Pod| p.metadata.deletion_timestamp.is_some() && !of_newest(p);
    let stuck = pod::stuck(&current).or_else(|| all.iter().copied().find(goes));
    let Some(stuck) = stuck else {
        let cause = format!("{ready} of {wanted} pods are ready; nothing stands in the way");
        return Ok(Answer::of(about, cause));
    };
    let said = format!("{ready} of {wanted} pods are ready");
    let mut answer = Answer::of_part(about, &said, pod::explain(state, stuck, profiles)?);
    let conditions = of.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let late = "ProgressDeadlineExceeded";
    if conditions
        .into_iter()
        .any(|c| c.reason.as_deref() == Some(late))
    {
        answer = answer.note("its progress deadline is over");
    }
    Ok(answer)
}
