//! Why a pod has no node, or why it has this one; and where it has one, why it does not run.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::ready::is_pod_ready;
use k8s_openapi::api::core::v1 as k8s;
use kube::ResourceExt;

use super::report::{self, Answer, NodeAnswer, Profiles, Refusal, WhyError};
use super::state::{self, State};
use super::{claim, readiness, reported};
use crate::core::Core;
use crate::decide::{Checks, Outcome, Profile, decide, filter_for};
use crate::node::Node;
use crate::plugins::{MEND_NODE, Verdict};
use crate::pod::{Pod, is_terminal};
use crate::preempt::{Preemption, preempt};
use crate::snapshot::Snapshot;

/// Seconds that pods usually have to end: what is longer is said.
const LONG_GRACE: i64 = 30;
/// What TaintToleration advises where a closed node has no other taint.
const OF_CLOSED: &str = "tolerate the taint node.kubernetes.io/unschedulable:";

pub fn explain(state: &State, pod: &k8s::Pod, profiles: Profiles<'_>) -> Result<Answer, WhyError> {
    let about = format!(
        "pod {}/{}",
        pod.namespace().unwrap_or_default(),
        pod.name_any()
    );
    if is_terminal(pod) {
        let phase = pod.status.as_ref().and_then(|s| s.phase.clone());
        let cause = format!("it has run to its end ({})", phase.unwrap_or_default());
        let cause = match ended(pod) {
            Some(why) => format!("{cause}: {why}"),
            None => cause,
        };
        return Ok(Answer::of(about, cause));
    }
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
    match node.filter(|n| !n.is_empty()) {
        Some(node) => on_its_node(state, pod, node, about, profiles),
        None => without_node(state, pod, about, profiles),
    }
}

/// How a pod ended that has failed: by a container, or by what is said of the whole.
pub fn ended(pod: &k8s::Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().flatten();
    let mut all = all.chain(status.container_statuses.iter().flatten());
    let by_container = all.find_map(|c| {
        let ended = c.state.as_ref()?.terminated.as_ref()?;
        let why = ended.reason.as_deref().unwrap_or("it ended");
        let text = format!("container {}: {why}, exit code {}", c.name, ended.exit_code);
        (ended.exit_code != 0).then_some(text)
    });
    let said = report::quoted(status.reason.as_deref(), status.message.as_deref());
    // One that its node has ended says why there, and not in its containers.
    if said.is_empty() {
        by_container
    } else {
        Some(said)
    }
}

/// The container that waits for something that went wrong.
fn waiting(status: &k8s::PodStatus) -> Option<String> {
    let init = status.init_container_statuses.iter().flatten();
    let mut all = init.chain(status.container_statuses.iter().flatten());
    let (c, reason, message) = all.find_map(|c| {
        let waiting = c.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        let plain = matches!(reason, "ContainerCreating" | "PodInitializing");
        (!plain).then_some((c, reason, waiting.message.as_deref()))
    })?;
    let ended = c.last_state.as_ref().and_then(|s| s.terminated.as_ref());
    let ended = ended.map(|t| {
        let why = t.reason.as_deref().unwrap_or("it ended");
        format!("; last: {why}, exit code {}", t.exit_code)
    });
    let message = message.map(|m| format!(": {m}")).unwrap_or_default();
    let name = &c.name;
    Some(format!(
        "container {name}: {reason}{message}{}",
        ended.unwrap_or_default()
    ))
}

/// What keeps containers from running or from being ready, if anything does.
pub fn not_running(pod: &k8s::Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    waiting(status).or_else(|| readiness::unready(pod, status))
}

/// The pod that says most about what is wrong: one without a node, one whose containers do not
/// run, one that is not ready.
pub fn stuck<'a>(pods: &[&'a k8s::Pod]) -> Option<&'a k8s::Pod> {
    let without = |p: &&k8s::Pod| {
        p.spec
            .as_ref()
            .and_then(|s| s.node_name.as_deref())
            .is_none()
    };
    let mut each = pods.iter().copied();
    each.clone()
        .find(without)
        .or_else(|| each.clone().find(|p| not_running(p).is_some()))
        .or_else(|| each.find(|p| !is_pod_ready(p)))
}

/// What the nodes say of a pod, the best first.
pub fn node_answers(
    state: &State,
    pod: &k8s::Pod,
    profiles: Profiles<'_>,
) -> Result<Vec<NodeAnswer>, WhyError> {
    let core = state.core_of(profiles)?;
    let seen = PodWithProfile::of(&core, pod);
    Ok(seen.map(|seen| seen.nodes(&core)).unwrap_or_default())
}

fn on_its_node(
    state: &State,
    pod: &k8s::Pod,
    node: &str,
    about: String,
    profiles: Profiles<'_>,
) -> Result<Answer, WhyError> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Ok(leaving(state, pod, about));
    }
    let mut answer = match starting(state, pod).or_else(|| not_running(pod)) {
        Some(why) => Answer::of(about, format!("it is on node {node}: {why}")),
        None => Answer::of(about, format!("it is on node {node}")),
    };
    let Some(found) = state.nodes.iter().find(|n| n.name_any() == node) else {
        answer.cause = format!("it is on node {node}, which is gone");
        return Ok(answer);
    };
    // What is said of its containers is then what was heard last.
    if let Some((said, change)) = readiness::lost(found) {
        answer.cause = format!("it is on node {node}: {said}");
        return Ok(answer.change(change));
    }
    if !is_pod_ready(pod)
        && let Some(event) = reported::last_warning(state, pod, |reason| reason == "Unhealthy")
    {
        answer = answer.note(reported::quoted(event));
    }
    // As it would be decided now, without it.
    let mut before = state.clone();
    let mut free = pod.clone();
    if let Some(spec) = free.spec.as_mut() {
        spec.node_name = None;
    }
    before.pods.retain(|p| p.metadata.uid != pod.metadata.uid);
    let core = before.core_of(profiles)?;
    let Some(seen) = PodWithProfile::of(&core, &free) else {
        return Ok(answer);
    };
    answer.nodes = seen.nodes(&core);
    if let Some(here) = answer.nodes.iter().find(|n| n.node == node && !n.fits) {
        let plugins: Vec<&str> = here.refusals.iter().map(|r| r.plugin.as_str()).collect();
        let note = format!("it would not be put there now: {}", plugins.join(", "));
        return Ok(answer.clone().note(note));
    }
    Ok(answer)
}

/// Of a pod whose containers are being made: what its node could not do last.
fn starting(state: &State, pod: &k8s::Pod) -> Option<String> {
    let status = pod.status.as_ref();
    let phase = status.and_then(|s| s.phase.as_deref());
    if phase.is_some_and(|p| p != "Pending") || status.and_then(waiting).is_some() {
        return None;
    }
    let of_node = |reason: &str| reason != "FailedScheduling";
    let event = reported::last_warning(state, pod, of_node)?;
    Some(reported::quoted(event))
}

fn leaving(state: &State, pod: &k8s::Pod, about: String) -> Answer {
    let finalizers = pod.finalizers();
    if !finalizers.is_empty() {
        let held = finalizers.join(", ");
        return Answer::of(
            about,
            format!("it is being deleted; finalizers hold it: {held}"),
        )
        .change(format!("whoever set {held} must remove it"));
    }
    let name = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
    let name = name.unwrap_or_default();
    let node = state.nodes.iter().find(|n| n.name_any() == name);
    if let Some((said, _)) = node.and_then(readiness::lost) {
        return Answer::of(
            about,
            format!("it is being deleted, and its node {name} cannot confirm its end: {said}"),
        )
        .change(format!(
            "start node {name} again; if it is gone for good, delete it: kubectl delete node {name}"
        ));
    }
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    let answer = Answer::of(
        about,
        "it is being deleted; its node has not confirmed its end yet",
    );
    if grace > LONG_GRACE {
        return answer.note(format!("its containers have {grace} s to end"));
    }
    answer
}

/// A pod with the profile that decides about it.
struct PodWithProfile<'a> {
    pod: Arc<Pod>,
    profile: &'a Profile,
}

impl<'a> PodWithProfile<'a> {
    fn of(core: &'a Core, pod: &k8s::Pod) -> Option<Self> {
        let pod = Pod::read(pod, &mut crate::interned::Strings::default());
        let profile = core.profile(&pod.scheduler)?;
        Some(Self {
            pod: Arc::new(pod),
            profile,
        })
    }

    /// What all plugins say of all nodes, the best first.
    fn nodes(&self, core: &Core) -> Vec<NodeAnswer> {
        let snapshot = core.snapshot();
        let Ok(mut checks) = self.profile.prepare(&self.pod, snapshot) else {
            return Vec::new();
        };
        let nodes: Vec<&Node> = snapshot.nodes().collect();
        let mut out: Vec<NodeAnswer> = nodes.iter().map(|node| self.node(&checks, node)).collect();
        for (answer, node) in out.iter_mut().zip(&nodes) {
            // Room that is held for others shows only when it is counted in.
            if answer.fits
                && let Some((plugin, verdict)) = filter_for(snapshot, &self.pod, &mut checks, node)
            {
                answer.fits = false;
                let mut refusal = self.refusal(plugin, &verdict, None);
                refusal.change = Some("room here is held for a nominated pod".to_owned());
                answer.refusals.push(refusal);
            }
        }
        let fit: Vec<&Node> = nodes
            .iter()
            .zip(&out)
            .filter(|(_, a)| a.fits)
            .map(|(n, _)| *n)
            .collect();
        let mut totals = crate::decide::totals(&fit, &checks).into_iter();
        for answer in out.iter_mut().filter(|a| a.fits) {
            answer.score = totals.next();
        }
        out.sort_by(|a, b| rank(a).cmp(&rank(b)));
        out
    }

    fn node(&self, checks: &Checks<'_>, node: &Node) -> NodeAnswer {
        let refusals: Vec<Refusal> = checks
            .iter()
            .filter_map(|p| match p.check.filter(node) {
                Verdict::Fits => None,
                verdict => Some(self.refusal(p.plugin, &verdict, p.check.advice(node))),
            })
            .collect();
        NodeAnswer {
            node: node.name.to_string(),
            fits: refusals.is_empty(),
            score: None,
            refusals,
        }
    }

    fn refusal(&self, plugin: usize, verdict: &Verdict, change: Option<String>) -> Refusal {
        Refusal {
            plugin: self.profile.name_of(plugin).to_owned(),
            reasons: verdict.reasons().map(str::to_owned).collect(),
            change,
        }
    }
}

/// Fewer objections first, then those that are easier to meet, then more points, then by name.
fn rank(answer: &NodeAnswer) -> (usize, u8, i64, &str) {
    let texts = answer.refusals.iter().map(|r| r.reasons.len()).sum();
    let effort = answer.refusals.iter().map(effort).sum();
    (texts, effort, -answer.score.unwrap_or(0), &answer.node)
}

/// What it takes to meet an objection: a word to the node, a change of the pod, other room, or a
/// machine that works.
fn effort(refusal: &Refusal) -> u8 {
    let change = refusal.change.as_deref().unwrap_or_default();
    match refusal.plugin.as_str() {
        "NodeUnschedulable" => 0,
        "TaintToleration" if change.starts_with(MEND_NODE) => 3,
        "TaintToleration" | "NodeAffinity" => 1,
        _ => 2,
    }
}

fn without_node(
    state: &State,
    pod: &k8s::Pod,
    about: String,
    profiles: Profiles<'_>,
) -> Result<Answer, WhyError> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Ok(leaving(state, pod, about));
    }
    let core = state.core_of(profiles)?;
    let Some(seen) = PodWithProfile::of(&core, pod) else {
        let spec = pod.spec.as_ref();
        let name = spec.map_or("", |s| crate::pod::scheduler_of(s));
        let cause = format!("it is for scheduler {name:?}, which is not this one");
        let change = format!("run a scheduler of that name, or a profile {name:?}");
        return Ok(Answer::of(about, cause).change(change));
    };
    if let Some((plugin, reason)) = seen.profile.gate(&seen.pod) {
        let gates = seen.pod.wants.gates.join(", ");
        let texts: Vec<&str> = reason.texts().collect();
        let cause = format!("{plugin}: {}: {gates}", texts.join(", "));
        let change = format!("remove the scheduling gates {gates}");
        return Ok(Answer::of(about, cause).change(change));
    }
    let snapshot = core.snapshot();
    if snapshot.is_empty() {
        return Ok(Answer::of(about, "the cluster has no nodes").change("add a node"));
    }
    let only = match seen.profile.prepare(&seen.pod, snapshot) {
        Ok(checks) => checks.iter().find_map(|p| p.check.only()),
        Err((plugin, reason)) => {
            let texts: Vec<&str> = reason.texts().collect();
            let plugin = seen.profile.name_of(plugin);
            let mut answer = Answer::of(about, format!("{plugin}: {}", texts.join(", ")));
            // Whoever is to make what it lacks may say why that is not made.
            let others = |reason: &str| reason != "FailedScheduling";
            if let Some(event) = reported::last_warning(state, pod, others) {
                answer = answer.note(reported::quoted(event));
            }
            return Ok(about_claims(state, &seen.pod, answer));
        }
    };
    let mut nodes = seen.nodes(&core);
    // Of a pod that is for one node, as a DaemonSet's, what others have against it says nothing.
    if let Some(only) = only {
        nodes.retain(|n| only.iter().any(|name| **name == *n.node));
        if nodes.is_empty() {
            let names: Vec<&str> = only.iter().map(|name| &**name).collect();
            let cause = format!("it is for {} alone, which is not there", names.join(", "));
            return Ok(Answer::of(about, cause));
        }
    }
    let all = nodes.len();
    let fit: Vec<&str> = nodes
        .iter()
        .filter(|n| n.fits)
        .map(|n| n.node.as_str())
        .collect();
    if let Some(best) = fit.first() {
        if let Some(claim) = unmade(state, &seen.pod) {
            let cause = format!(
                "it fits on {} of {all} nodes, and waits for a volume: {}: {}",
                fit.len(),
                claim.about,
                claim.cause
            );
            return Ok(Answer {
                about,
                cause,
                nodes: nodes.clone(),
                ..claim
            });
        }
        let waits = match lacking(&seen.pod, snapshot) {
            None => "it waits for its turn".to_owned(),
            Some(more) => format!("it waits until {more} more pods of its group have nodes"),
        };
        let cause = format!(
            "it fits on {} of {all} nodes, best on {best}; {waits}",
            fit.len()
        );
        return Ok(Answer {
            nodes: nodes.clone(),
            ..Answer::of(about, cause)
        });
    }
    let mut answer = Answer::of(about, no_node_fits(&nodes));
    answer.change = nodes.first().map(change_of);
    answer.nodes = nodes;
    Ok(about_preemption(&core, &seen, answer))
}

/// How many pods of its gang must have nodes besides this one and those that have; none where enough
/// have.
fn lacking(pod: &Pod, snapshot: &Snapshot) -> Option<i64> {
    let (group, gangs) = (pod.wants.group.as_deref()?, snapshot.gangs());
    let least = gangs.least(group).filter(|_| gangs.are_served())?;
    let members = gangs.members(group);
    let placed = members.filter(|uid| snapshot.place(uid).is_some()).count();
    let more = least - 1 - i64::try_from(placed).ok()?;
    (more > 0).then_some(more)
}

/// Which plugins object, those with the most nodes first.
pub fn no_node_fits(nodes: &[NodeAnswer]) -> String {
    let mut by_plugin: BTreeMap<&str, (usize, BTreeMap<&str, usize>)> = BTreeMap::new();
    for refusal in nodes.iter().flat_map(|n| &n.refusals) {
        let (count, reasons) = by_plugin.entry(&refusal.plugin).or_default();
        *count += 1;
        for reason in &refusal.reasons {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    let mut parts: Vec<_> = by_plugin.into_iter().collect();
    parts.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let texts = parts.into_iter().map(|(plugin, (count, reasons))| {
        let reasons: Vec<&str> = reasons.into_keys().collect();
        format!(
            "{plugin} refuses {count} of {} ({})",
            nodes.len(),
            reasons.join(", ")
        )
    });
    format!("no node fits: {}", texts.collect::<Vec<_>>().join("; "))
}

pub fn change_of(node: &NodeAnswer) -> String {
    // A closed node has a taint that goes when it is opened.
    let is_closed = node
        .refusals
        .iter()
        .any(|r| r.plugin == "NodeUnschedulable");
    let goes = |r: &&Refusal| {
        let change = r.change.as_deref().unwrap_or_default();
        is_closed && change.starts_with(OF_CLOSED) && !change.contains(" and ")
    };
    let changes = node.refusals.iter().filter(|r| !goes(r)).map(|r| {
        let reasons = || format!("{}: {}", r.plugin, r.reasons.join(", "));
        r.change.clone().unwrap_or_else(reasons)
    });
    format!(
        "on node {}: {}",
        node.node,
        changes.collect::<Vec<_>>().join("; and ")
    )
}

fn about_preemption(core: &Core, seen: &PodWithProfile<'_>, answer: Answer) -> Answer {
    let snapshot = core.snapshot();
    if let Some(node) = snapshot.nomination(&seen.pod.uid) {
        return answer.note(format!("room is being made for it on node {node}"));
    }
    let decision = decide(snapshot, &seen.pod, seen.profile, 0);
    if decision.outcome != Outcome::Unschedulable {
        return answer;
    }
    match preempt(snapshot, &seen.pod, seen.profile, &decision, 0) {
        Preemption::Possible { node, victims } => {
            let names = victims
                .iter()
                .map(|v| format!("{}/{}", v.namespace, v.name));
            let names: Vec<String> = names.collect();
            answer.note(format!(
                "it may preempt {} on node {node}",
                names.join(", ")
            ))
        }
        Preemption::NotEligible(why) => answer.note(format!("preemption: {why}")),
        Preemption::Hopeless(_) | Preemption::Off => answer,
    }
}

/// Of the claim whose volume is to be made where the pod is going, what that waits for.
fn unmade(state: &State, pod: &Pod) -> Option<Answer> {
    let each = pod.wants.claims.iter();
    let mut found = each.filter_map(|used| {
        let mut claims = state.claims.iter();
        claims.find(|c| state::is(*c, &pod.namespace, &used.name))
    });
    let claim = found.find(|c| claim::is_being_made(c))?;
    Some(claim::explain(state, claim))
}

/// Of the claim that keeps a pod from all nodes, why it does.
fn about_claims(state: &State, pod: &Pod, mut answer: Answer) -> Answer {
    for used in &pod.wants.claims {
        let mut claims = state.claims.iter();
        let Some(found) = claims.find(|c| state::is(*c, &pod.namespace, &used.name)) else {
            let made = if used.ephemeral {
                "is made"
            } else {
                "is created"
            };
            return answer.change(format!("a claim {} {made}", used.key));
        };
        if !claim::is_bound(found) {
            let about = claim::explain(state, found);
            answer.cause = format!("{}: {}: {}", answer.cause, about.about, about.cause);
            answer.change = about.change;
            answer.notes.extend(about.notes);
            return answer;
        }
    }
    answer
}
