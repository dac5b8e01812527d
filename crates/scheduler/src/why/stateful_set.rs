//! Why a StatefulSet does not progress: its pods come one after another, and change so.

use std::collections::BTreeMap;

use control::ready::is_pod_ready;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::pod;
use super::report::{Answer, Profiles, WhyError};
use super::reported;
use super::state::{self, State};

/// The label of a pod with the revision of its template.
const REVISION: &str = "controller-revision-hash";

/// Its pods by their numbers.
fn pods<'a>(state: &'a State, of: &StatefulSet) -> BTreeMap<i32, &'a Pod> {
    let name = of.name_any();
    let numbered = |pod: &'a Pod| {
        let whole = pod.name_any();
        let (base, number) = whole.rsplit_once('-')?;
        let number: i32 = number.parse().ok()?;
        (base == name).then_some((number, pod))
    };
    state::pods_of(state, of).filter_map(numbered).collect()
}

pub fn explain(
    state: &State,
    of: &StatefulSet,
    profiles: Profiles<'_>,
) -> Result<Answer, WhyError> {
    let (namespace, name) = (of.namespace().unwrap_or_default(), of.name_any());
    let about = format!("statefulset {namespace}/{name}");
    if let Some(held) = state::held(of) {
        return Ok(Answer::of(about, held));
    }
    let spec = of.spec.clone().unwrap_or_default();
    let wanted = spec.replicas.unwrap_or(1);
    if wanted == 0 {
        let answer = Answer::of(about, "it is to have no pods (replicas: 0)");
        return Ok(answer.change("scale it up"));
    }
    let first = spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0);
    let numbers = first..first.saturating_add(wanted.max(0));
    let pods = pods(state, of);
    let is_ready = |number: &i32| {
        let found = pods.get(number);
        found.is_some_and(|p| is_pod_ready(p) && p.metadata.deletion_timestamp.is_none())
    };
    // There may be very many numbers, of which there are few pods.
    let own = pods.range(numbers.clone());
    let ready = own.clone().filter(|(n, _)| is_ready(n)).count();
    let Some(lowest) = numbers.clone().find(|n| !is_ready(n)) else {
        let kept: Vec<&Pod> = own.map(|(_, pod)| *pod).collect();
        return Ok(rolled_out(about, of, &spec, &kept));
    };
    let said = format!("{ready} of {wanted} pods are ready");
    let in_order = spec.pod_management_policy.as_deref() != Some("Parallel");
    // In order, the lowest that is not ready holds up all others.
    let stuck = match (pods.get(&lowest), in_order) {
        (found, true) => found.copied(),
        (_, false) => {
            let all: Vec<&Pod> = own.map(|(_, pod)| *pod).collect();
            pod::stuck(&all)
        }
    };
    let mut answer = match stuck {
        Some(pod) => Answer::of_part(about, &said, pod::explain(state, pod, profiles)?),
        None => {
            let said = format!("{said}; pod {name}-{lowest} has not been made yet");
            reported::not_made(state, of, about, &said, "statefulset")
        }
    };
    let waits = |n: &i32| *n > lowest && !pods.contains_key(n);
    let ends = numbers.clone().find(waits).zip(numbers.rev().find(waits));
    let which = match ends {
        Some((first, last)) if first == last => format!("pod {name}-{first} waits"),
        Some((first, last)) => format!("pods {name}-{first} to {name}-{last} wait"),
        None => return Ok(answer),
    };
    if in_order {
        answer = answer.note(format!(
            "{which} for {name}-{lowest}: each comes when those before it are ready"
        ));
    }
    Ok(answer)
}

/// What there is to be said when all pods are ready: which of them are of an older template, and why
/// they stay so.
fn rolled_out(about: String, of: &StatefulSet, spec: &StatefulSetSpec, pods: &[&Pod]) -> Answer {
    let said = format!("all {} pods are ready", pods.len());
    let newest = of.status.as_ref().and_then(|s| s.update_revision.as_ref());
    let older: Vec<String> = pods
        .iter()
        .filter(|p| newest.is_some() && p.labels().get(REVISION) != newest)
        .map(|p| p.name_any())
        .collect();
    if older.is_empty() {
        return Answer::of(about, said);
    }
    let said = format!("{said}; of an older template: {}", older.join(", "));
    let strategy = spec.update_strategy.as_ref();
    if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
        let cause = format!("{said}: its update strategy is OnDelete");
        return Answer::of(about, cause).change(format!("delete {}", older.join(", ")));
    }
    let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
    let partition = rolling.and_then(|r| r.partition).unwrap_or(0);
    if partition > 0 {
        let cause = format!("{said}: pods below the partition {partition} keep theirs");
        return Answer::of(about, cause).change("lower updateStrategy.rollingUpdate.partition");
    }
    Answer::of(
        about,
        format!("{said}; they are replaced one after another"),
    )
}
