//! The plan of a Deployment: which ReplicaSet is the new one, how far each may grow or must
//! shrink now. One step at a time; each step's effect is seen before the next.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use control::action::{Action, Plan, Target, reference};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::progress;
use crate::common::{
    controller_reference, int_or_percent, is_deleting, key_of, safe_hash, uid_of, value_of,
};
use crate::ownership::{Parent, any};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
/// Letters of a template's hash, the last part of a ReplicaSet's name.
const HASH_LENGTH: usize = 10;
/// Letters of the longest name that an object can have.
const NAME_LENGTH: usize = 253;
/// Letters of the list of a ReplicaSet's earlier revisions; beyond, the first ones go.
const HISTORY_LENGTH: usize = 2_000;
/// Annotations of a Deployment that say nothing about its ReplicaSets.
const NOT_COPIED: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
];
const DEPRECATED_ROLLBACK: &str = "deprecated.deployment.rollback.to";

/// A Deployment, the ReplicaSets that are or could be its own (or stand in the way by name), and
/// the owners of these sets' pods that have not ended.
#[derive(Clone)]
pub struct Observed {
    pub deployment: Arc<Deployment>,
    pub sets: Vec<Arc<ReplicaSet>>,
    /// UID of the ReplicaSet, once for each pod.
    pub running_pods: Vec<String>,
    /// Why the new ReplicaSet could not be made the last time that this was tried.
    pub failure: Option<String>,
}

/// What is decided on: the Deployment with its new and old ReplicaSets.
pub(super) struct Rollout<'a> {
    pub deployment: &'a Deployment,
    pub spec: &'a DeploymentSpec,
    pub about: ObjectReference,
    pub new: Option<&'a ReplicaSet>,
    /// Oldest first.
    pub old: Vec<&'a ReplicaSet>,
    pub now_millis: i64,
    /// Names of sets created by this plan.
    pub created: Option<String>,
    pub collided: bool,
    /// As in [`Observed`].
    pub failure: Option<&'a str>,
}

pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|s| s.available_replicas)
        .unwrap_or(0)
}
pub(super) fn existing(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas)
}

fn annotation<'a>(of: Option<&'a BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    of?.get(key).map(String::as_str)
}

/// A number of replicas that an annotation keeps; what is none was written by somebody else.
fn noted(set: &ReplicaSet, key: &str) -> Option<i32> {
    let text = annotation(set.metadata.annotations.as_ref(), key)?;
    text.parse::<i32>().ok().filter(|n| *n >= 0)
}

/// What the names of a Deployment's ReplicaSets begin with: its own, as far as there is room for
/// the hash.
pub(super) fn name_prefix(deployment: &str) -> &str {
    deployment
        .get(..NAME_LENGTH - HASH_LENGTH - 1)
        .unwrap_or(deployment)
}

fn revision(set: &ReplicaSet) -> i64 {
    annotation(set.metadata.annotations.as_ref(), REVISION)
        .and_then(|r| r.parse().ok())
        .unwrap_or(0)
}

/// The template as compared: without the label that distinguishes ReplicaSets.
fn comparable(template: &impl serde::Serialize) -> Value {
    let mut value = value_of(template);
    if let Some(labels) = value
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.remove(HASH);
    }
    value
}

impl Rollout<'_> {
    pub fn desired(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
    pub fn recreates(&self) -> bool {
        self.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
    }
    /// Seconds until a rollout that does not move has failed; none: it never has.
    pub fn deadline(&self) -> Option<i32> {
        let given = self.spec.progress_deadline_seconds;
        given.filter(|d| *d != i32::MAX)
    }
    pub fn paused(&self) -> bool {
        self.spec.paused.unwrap_or(false)
    }
    fn bound(&self, surge: bool) -> i32 {
        let rolling = self
            .spec
            .strategy
            .as_ref()
            .and_then(|s| s.rolling_update.as_ref());
        let given = rolling.and_then(|r| {
            if surge {
                r.max_surge.as_ref()
            } else {
                r.max_unavailable.as_ref()
            }
        });
        let default = IntOrString::String("25%".into());
        int_or_percent(given.unwrap_or(&default), self.desired(), surge)
    }
    pub fn max_surge(&self) -> i32 {
        if self.recreates() {
            0
        } else {
            self.bound(true)
        }
    }
    pub fn max_unavailable(&self) -> i32 {
        if self.recreates() || self.desired() == 0 {
            return 0;
        }
        // Both nought would never move.
        let n = match (self.bound(false), self.max_surge()) {
            (0, 0) => 1,
            (n, _) => n,
        };
        n.min(self.desired())
    }
    /// One more than those of the old sets.
    fn next_revision(&self) -> i64 {
        self.old.iter().map(|s| revision(s)).max().unwrap_or(0) + 1
    }
    pub fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().copied().chain(self.new)
    }
    fn namespace(&self) -> &str {
        self.deployment
            .metadata
            .namespace
            .as_deref()
            .unwrap_or_default()
    }
    fn name(&self) -> &str {
        self.deployment.metadata.name.as_deref().unwrap_or_default()
    }
    pub fn target(&self) -> Target {
        Target::of::<Deployment>(self.namespace(), self.name())
    }

    /// Sizes a set; the annotations keep what the size was computed from.
    fn scale(&self, set: &ReplicaSet, to: i32, plan: &mut Plan) {
        let from = size(set);
        let annotations = json!({ DESIRED: self.desired().to_string(), MAX: (self.desired() + self.max_surge()).to_string() });
        let changed = ["deployment.kubernetes.io/desired-replicas", MAX]
            .iter()
            .any(|k| annotation(set.metadata.annotations.as_ref(), k) != annotations[*k].as_str());
        if from == to && !changed {
            return;
        }
        let (namespace, name) = key_of(set);
        let patch = json!({
            "metadata": { "resourceVersion": set.metadata.resource_version, "annotations": annotations },
            "spec": { "replicas": to },
        });
        let action = Action::merge(Target::of::<ReplicaSet>(&namespace, &name), patch);
        if from == to {
            plan.actions.push(action);
            return;
        }
        let way = if to > from { "up" } else { "down" };
        let text = format!("Scaled {way} replica set {name} from {from} to {to}");
        let failed = format!("Failed to scale replica set {name}: {{error}}");
        plan.actions.push(action.noted(
            &self.about,
            ("ScalingReplicaSet", text),
            ("ReplicaSetScaleError", failed),
        ));
    }
}

pub fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let mut plan = Plan::default();
    let deployment = &*seen.deployment;
    let Some(spec) = deployment.spec.as_ref() else {
        return plan;
    };
    let about = reference(deployment);
    let own = claim(seen, &mut plan);
    let wanted = comparable(&spec.template);
    let same = |s: &&&ReplicaSet| {
        s.spec
            .as_ref()
            .is_some_and(|s| comparable(&s.template) == wanted)
    };
    // Of several equal ones the oldest is the new set.
    let new = own
        .iter()
        .filter(same)
        .min_by_key(|s| s.metadata.creation_timestamp.as_ref().map(|t| t.0))
        .copied();
    let mut old: Vec<&ReplicaSet> = own
        .into_iter()
        .filter(|s| new.is_none_or(|n| uid_of(n) != uid_of(*s)))
        .collect();
    old.sort_by_key(|s| {
        (
            s.metadata.creation_timestamp.as_ref().map(|t| t.0),
            s.metadata.name.clone(),
        )
    });
    let mut rollout = Rollout {
        deployment,
        spec,
        about,
        new,
        old,
        now_millis,
        created: None,
        collided: false,
        failure: seen.failure.as_deref(),
    };
    if is_deleting(deployment) {
        progress::report_status(&rollout, &mut plan);
        return plan;
    }
    let rescaled = rollout
        .all()
        .any(|s| size(s) > 0 && noted(s, DESIRED).is_some_and(|d| d != rollout.desired()));
    // Without a new set all are sized when it is there: to size the old ones first let the sum pass
    // the surge (storm 8834).
    if rollout.paused() || (rescaled && rollout.new.is_some()) {
        if let Some(new) = rollout.new {
            annotate(&rollout, new, rollout.next_revision(), &mut plan);
        }
        // Sizes follow when what was noted is seen.
        if plan.actions.is_empty() {
            rescale(&rollout, &mut plan);
        }
    } else {
        advance(&mut rollout, seen, &mut plan);
    }
    if rollout.paused() || progress::is_complete(&rollout) {
        clean_up(&rollout, &mut plan);
    }
    progress::report_status(&rollout, &mut plan);
    plan
}

/// The sets that the Deployment owns; matching ones without an owner are adopted.
fn claim<'a>(seen: &'a Observed, plan: &mut Plan) -> Vec<&'a ReplicaSet> {
    let selector = seen.deployment.spec.as_ref().map(|s| &s.selector);
    let parent = Parent::selecting(&*seen.deployment, selector);
    let own = parent.claim(&seen.sets, |_| true, any, plan);
    own.into_iter().map(|s| &**s).collect()
}

fn advance(rollout: &mut Rollout<'_>, seen: &Observed, plan: &mut Plan) {
    let top = rollout.next_revision();
    if rollout.recreates() {
        let mut shrinks = false;
        for set in rollout.old.iter().filter(|s| size(s) > 0) {
            rollout.scale(set, 0, plan);
            shrinks = true;
        }
        // Pods of sets that only stand in the way by name are none of its own.
        let old: Vec<String> = rollout.old.iter().map(|s| uid_of(*s)).collect();
        let waits = seen.running_pods.iter().any(|owner| old.contains(owner))
            || rollout.old.iter().any(|s| existing(s) > 0);
        if shrinks || (waits && rollout.new.is_none_or(|n| size(n) == 0)) {
            return;
        }
    }
    let Some(new) = rollout.new else {
        create(rollout, seen, top, plan);
        return;
    };
    annotate(rollout, new, top, plan);
    let desired = rollout.desired();
    if rollout.recreates() {
        rollout.scale(new, desired, plan);
        return;
    }
    let total: i32 = rollout.all().map(size).sum();
    let to = new_size(rollout, size(new), total);
    if to != size(new) {
        rollout.scale(new, to, plan);
        return;
    }
    shrink_old(rollout, new, plan);
}

/// How large the new set may be now.
fn new_size(rollout: &Rollout<'_>, now: i32, total: i32) -> i32 {
    let desired = rollout.desired();
    if rollout.recreates() || now >= desired {
        return desired;
    }
    let room = desired + rollout.max_surge() - total;
    now + room.clamp(0, desired - now)
}

/// Unhealthy old pods first, then as many as the available ones allow.
fn shrink_old(rollout: &Rollout<'_>, new: &ReplicaSet, plan: &mut Plan) {
    let olds: i32 = rollout.old.iter().map(|s| size(s)).sum();
    if olds == 0 {
        return;
    }
    let least = rollout.desired() - rollout.max_unavailable();
    let total = olds + size(new);
    let mut may_go = total - least - (size(new) - available(new));
    let available_now: i32 = rollout.all().map(available).sum();
    let mut spare = available_now - least;
    let mut sizes: Vec<i32> = rollout.old.iter().map(|s| size(s)).collect();
    for (to, set) in sizes.iter_mut().zip(&rollout.old) {
        let sick = (*to - available(set)).clamp(0, may_go.max(0));
        *to -= sick;
        may_go -= sick;
    }
    for (to, set) in sizes.iter_mut().zip(&rollout.old) {
        let healthy = (*to).min(available(set));
        let go = healthy.min(spare.max(0)).min(may_go.max(0));
        *to -= go;
        spare -= go;
        may_go -= go;
    }
    for (to, set) in sizes.into_iter().zip(&rollout.old) {
        if to != size(set) {
            rollout.scale(set, to, plan);
        }
    }
}

/// The wanted number has changed during a rollout, or the rollout is paused: each set takes its
/// share of the difference; the largest take the rest.
fn rescale(rollout: &Rollout<'_>, plan: &mut Plan) {
    let mut active: Vec<&ReplicaSet> = rollout.all().filter(|s| size(s) > 0).collect();
    if active.len() <= 1 {
        let newest = rollout.new.or(rollout.old.last().copied());
        let only = active.first().copied().or(newest);
        if let Some(only) = only {
            rollout.scale(only, rollout.desired(), plan);
        }
        return;
    }
    let new_uid = rollout.new.map(uid_of);
    // A set that is as large by chance was sized for another number.
    let is_saturated = |n: &ReplicaSet| {
        let all = [Some(size(n)), Some(available(n)), noted(n, DESIRED)];
        all.iter().all(|n| *n == Some(rollout.desired()))
    };
    let new_done = rollout.new.is_some_and(is_saturated);
    if new_done {
        for set in active.iter().filter(|s| Some(uid_of(**s)) != new_uid) {
            rollout.scale(set, 0, plan);
        }
        return;
    }
    let total: i32 = active.iter().map(|s| size(s)).sum();
    let allowed = if rollout.desired() > 0 {
        rollout.desired() + rollout.max_surge()
    } else {
        0
    };
    let mut left = allowed - total;
    // Of equal ones, the newest grows first and the oldest shrinks first.
    let created = |s: &ReplicaSet| s.metadata.creation_timestamp.as_ref().map(|t| t.0);
    match left > 0 {
        true => active.sort_by_key(|s| Reverse((size(s), created(s)))),
        false => active.sort_by_key(|s| (Reverse(size(s)), created(s))),
    }
    let published = rollout.deployment.status.as_ref().and_then(|s| s.replicas);
    let mut sizes: Vec<i32> = Vec::new();
    for set in &active {
        // Of how many it is a part; where nobody knows, it keeps its size.
        let before = noted(set, MAX).filter(|m| *m > 0).or(published);
        let before = i64::from(before.unwrap_or(0));
        let exact = i64::from(size(set)) * i64::from(allowed);
        let wanted = match before > 0 || allowed == 0 {
            true => (exact + before / 2).div_euclid(before.max(1)) - i64::from(size(set)),
            false => 0,
        };
        let wanted = i32::try_from(wanted).unwrap_or(0);
        let take = if left > 0 {
            wanted.clamp(0, left)
        } else {
            wanted.clamp(left, 0)
        };
        left -= take;
        sizes.push((size(set) + take).max(0));
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + left).max(0);
    }
    for (set, to) in active.into_iter().zip(sizes) {
        rollout.scale(set, to, plan);
    }
}

fn copied(rollout: &Rollout<'_>) -> BTreeMap<String, String> {
    let all = rollout.deployment.metadata.annotations.iter().flatten();
    all.filter(|(k, _)| !NOT_COPIED.contains(&k.as_str()) && *k != DEPRECATED_ROLLBACK)
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

fn create(rollout: &mut Rollout<'_>, seen: &Observed, top: i64, plan: &mut Plan) {
    let mut template = value_of(&rollout.spec.template);
    let collisions = rollout
        .deployment
        .status
        .as_ref()
        .and_then(|s| s.collision_count)
        .unwrap_or(0);
    let hash = safe_hash(
        format!("{}#{collisions}", comparable(&rollout.spec.template)).as_bytes(),
        HASH_LENGTH,
    );
    let name = format!("{}-{hash}", name_prefix(rollout.name()));
    let namespace = rollout.namespace().to_owned();
    if seen
        .sets
        .iter()
        .any(|s| s.metadata.name.as_deref() == Some(&name))
    {
        // Another template has this name: the next try counts the collision in.
        rollout.collided = true;
        return;
    }
    let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    labels[HASH] = json!(hash);
    let labels = labels.clone();
    let mut selector = value_of(&rollout.spec.selector);
    selector["matchLabels"][HASH] = json!(hash);
    let total: i32 = rollout.old.iter().map(|s| size(s)).sum();
    let replicas = new_size(rollout, 0, total);
    let mut annotations = copied(rollout);
    annotations.insert(REVISION.into(), top.to_string());
    annotations.insert(DESIRED.into(), rollout.desired().to_string());
    annotations.insert(
        MAX.into(),
        (rollout.desired() + rollout.max_surge()).to_string(),
    );
    let object = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": name, "namespace": namespace, "labels": labels, "annotations": annotations,
            "ownerReferences": [controller_reference(rollout.deployment)],
        },
        "spec": {
            "replicas": replicas, "selector": selector, "template": template,
            "minReadySeconds": rollout.spec.min_ready_seconds.unwrap_or(0),
        },
    });
    let action = Action::Create {
        target: Target::of::<ReplicaSet>(&namespace, &name),
        object,
    };
    let text = format!("Scaled up replica set {name} from 0 to {replicas}");
    let failed = format!("Failed to create new replica set {name:?}: {{error}}");
    let failed = ("ReplicaSetCreateError", failed);
    plan.actions.push(match replicas > 0 {
        true => action.noted(&rollout.about, ("ScalingReplicaSet", text), failed),
        false => action.noted_failure(&rollout.about, failed),
    });
    set_revision(rollout, top, plan);
    rollout.created = Some(name);
}

/// The new set carries the highest revision; then so does the Deployment.
fn annotate(rollout: &Rollout<'_>, new: &ReplicaSet, top: i64, plan: &mut Plan) {
    let own = revision(new);
    let to = own.max(top);
    let have = new.metadata.annotations.clone().unwrap_or_default();
    let mut annotations = copied(rollout);
    annotations.retain(|k, v| have.get(k) != Some(v));
    if own < to {
        annotations.insert(REVISION.into(), to.to_string());
        if own > 0 {
            let mut history: Vec<String> = have
                .get(REVISION_HISTORY)
                .map(|h| h.split(',').map(str::to_owned).collect())
                .unwrap_or_default();
            history.retain(|h| *h != own.to_string());
            history.push(own.to_string());
            let length = |all: &[String]| all.iter().map(|h| h.len() + 1).sum::<usize>();
            while length(&history) > HISTORY_LENGTH + 1 {
                history.remove(0);
            }
            annotations.insert(REVISION_HISTORY.into(), history.join(","));
        }
    }
    let min_ready = rollout.spec.min_ready_seconds.unwrap_or(0);
    let set_min_ready = new
        .spec
        .as_ref()
        .and_then(|s| s.min_ready_seconds)
        .unwrap_or(0);
    if !annotations.is_empty() || min_ready != set_min_ready {
        let (namespace, name) = key_of(new);
        let patch = json!({ "metadata": { "annotations": annotations }, "spec": { "minReadySeconds": min_ready } });
        plan.actions.push(Action::merge(
            Target::of::<ReplicaSet>(&namespace, &name),
            patch,
        ));
    }
    set_revision(rollout, to, plan);
}

fn set_revision(rollout: &Rollout<'_>, to: i64, plan: &mut Plan) {
    let published = annotation(rollout.deployment.metadata.annotations.as_ref(), REVISION);
    if published != Some(&to.to_string()) {
        let mut object = value_of(rollout.deployment);
        object["metadata"]["annotations"][REVISION] = json!(to.to_string());
        plan.then.push(Action::Update {
            target: rollout.target(),
            subresource: "",
            object,
        });
    }
}

/// Empty old sets beyond the history are deleted, the lowest revision first: once the rollout is
/// complete, and while it is paused.
fn clean_up(rollout: &Rollout<'_>, plan: &mut Plan) {
    let keep = usize::try_from(rollout.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let mut empty: Vec<&&ReplicaSet> = rollout.old.iter().filter(|s| !is_deleting(**s)).collect();
    let too_many = empty.len().saturating_sub(keep);
    empty.sort_by_key(|s| revision(s));
    for set in empty.into_iter().take(too_many) {
        let settled =
            set.status.as_ref().and_then(|s| s.observed_generation) >= set.metadata.generation;
        if existing(set) == 0 && size(set) == 0 && settled {
            let (namespace, name) = key_of(*set);
            plan.actions.push(Action::delete(
                Target::of::<ReplicaSet>(&namespace, &name),
                Some(uid_of(*set)),
            ));
        }
    }
}
