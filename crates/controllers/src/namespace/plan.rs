//! Decides for a namespace that is being deleted: what its conditions say, how long pods may
//! still take, when to look again. Reasons and messages are those that clients of Kubernetes
//! know.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use client::discovery::{DiscoveredResources, Served};
use control::action::{Propagation, Target};
use control::{Action, Plan};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;
use kube::core::ApiResource;

use crate::common::{millis_of, time_at, value_of};

/// The finalizer of a namespace's spec that this controller takes away.
pub const FINALIZER: &str = "kubernetes";

/// What could not be deleted, by group and resource, and why.
pub type Failures = BTreeMap<(String, String), String>;

/// What is known of a namespace that is being deleted.
pub struct Observed {
    pub namespace: Arc<Namespace>,
    pub content: Content,
    /// Of the last time.
    pub failures: Failures,
    /// The last look saw the same objects that nobody had deleted, and deleted them: they stay.
    pub again: bool,
}

/// An object that is still there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    pub name: String,
    pub deleting: bool,
    pub finalizers: Vec<String>,
}

impl Item {
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            name: meta.name.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
        }
    }
}

/// The objects of one resource.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Items {
    pub items: Vec<Item>,
    /// So long after the namespace's deletion they may still end by themselves.
    pub grace_seconds: i64,
}

/// What a namespace holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Content {
    /// What went wrong on the way.
    pub round: Round,
    pub resources: Vec<(Served, Items)>,
}

impl Content {
    /// It could not be found out which kinds there are.
    pub fn unknown(why: String) -> Self {
        let round = Round {
            discovery_failure: Some(why),
            ..Round::default()
        };
        Self {
            round,
            ..Self::default()
        }
    }

    /// Nothing is known but what discovery failed to list.
    pub fn of(found: &DiscoveredResources) -> Self {
        Self {
            round: Round::of(found),
            ..Self::default()
        }
    }

    /// Takes in what a list said.
    pub fn add(&mut self, served: &Served, items: Result<Items, kube::Error>) {
        match items {
            Ok(items) if items.items.is_empty() && served.can("list") => {}
            Ok(items) => self.resources.push((served.clone(), items)),
            // There is no such thing any more, or no such verb for it.
            Err(kube::Error::Api(s)) if matches!(s.code, 404 | 405) => {}
            Err(e) => self
                .round
                .content_failures
                .push(failure(&served.resource, &e)),
        }
    }

    /// A number for the objects that nobody has deleted; zero when there is none.
    pub fn fresh(&self) -> u64 {
        let mut sum = 0u64;
        for (served, items) in &self.resources {
            for item in items.items.iter().filter(|i| !i.deleting) {
                let mut hash = DefaultHasher::new();
                (&served.resource, &item.name).hash(&mut hash);
                // Lists come in any order.
                sum = sum.wrapping_add(hash.finish() | 1);
            }
        }
        sum
    }

    /// Nothing is there, and that is known.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.round.content_failures.is_empty()
    }
}

/// A failure to list or delete a resource, as the condition says it.
pub fn failure(resource: &ApiResource, error: &kube::Error) -> String {
    let r = resource;
    format!("{}/{}, Resource={}: {error}", r.group, r.version, r.plural)
}

pub fn has_finalizer(ns: &Namespace) -> bool {
    let finalizers = ns.spec.iter().flat_map(|s| &s.finalizers).flatten();
    finalizers.into_iter().any(|f| f == FINALIZER)
}

/// What is to be done: what is there and not being deleted is deleted; what was deleted and stays
/// is reported and waited for; a namespace without any of both is let go.
pub fn plan(observed: &Observed, now_millis: i64) -> Plan {
    let ns = &*observed.namespace;
    let name = ns.name_any();
    let deleted = millis_of(ns.metadata.deletion_timestamp.as_ref()).unwrap_or(now_millis);
    let mut round = observed.content.round.clone();
    round
        .content_failures
        .extend(observed.failures.values().cloned());
    let mut actions = Vec::new();
    for (served, items) in &observed.content.resources {
        actions.extend(deletions(served, items, &name));
        let linger = now_millis.saturating_sub(deleted) < items.grace_seconds.saturating_mul(1_000);
        let ending = items.items.iter().filter(|i| i.deleting || observed.again);
        let (left, wrong) = judge(served, &name, linger, ending.map(|i| &*i.finalizers));
        round.left.extend(left);
        round.content_failures.extend(wrong);
    }
    let is_new = !observed.again && observed.content.fresh() != 0;
    if round.is_clean() && is_new {
        // Most is gone at once, so that there is nothing to say.
        return Plan {
            actions,
            wake_after_millis: Some(0),
            ..Plan::default()
        }
        .because("its content is deleted");
    }
    let done = round.is_clean();
    actions.extend(report(ns, &round, done, now_millis));
    let (then, wake) = match done {
        true => (vec![finalize(ns)], None),
        false => (Vec::new(), Some(wait_millis(deleted, now_millis))),
    };
    Plan {
        actions,
        then,
        wake_after_millis: wake,
        ..Plan::default()
    }
}

fn deletions(served: &Served, items: &Items, namespace: &str) -> Vec<Action> {
    let target = |name: &str| Target {
        resource: served.resource.clone(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let mut fresh = items.items.iter().filter(|i| !i.deleting).peekable();
    if served.can("deletecollection") && (fresh.peek().is_some() || !served.can("list")) {
        return vec![Action::DeleteCollection {
            target: target(""),
            propagation: Some(Propagation::Background),
        }];
    }
    let delete = |item: &Item| Action::Delete {
        target: target(&item.name),
        uid: None,
        resource_version: None,
        grace_seconds: None,
        propagation: Some(Propagation::Background),
    };
    fresh.map(delete).collect()
}

fn report(ns: &Namespace, round: &Round, done: bool, now_millis: i64) -> Option<Action> {
    // A namespace that vanishes the next moment need not say so.
    let spec = ns.spec.iter().flat_map(|s| &s.finalizers).flatten();
    if done && ns.finalizers().is_empty() && spec.count() == 1 {
        return None;
    }
    let status = ns.status.as_ref();
    let old = status.and_then(|s| s.conditions.as_deref()).unwrap_or(&[]);
    let now = time_at(now_millis.div_euclid(1_000) * 1_000);
    let changed = conditions(old, round, &now);
    let terminating = status.and_then(|s| s.phase.as_deref()) == Some("Terminating");
    if changed.is_empty() && terminating {
        return None;
    }
    // Upstream's role lets this controller update the status and not patch it; the version that
    // was read guards what others say.
    let mut published = ns.clone();
    let status = published.status.get_or_insert_default();
    status.phase = Some("Terminating".into());
    merge(status.conditions.get_or_insert_default(), changed);
    Some(Action::Update {
        target: Target::of::<Namespace>("", &ns.name_any()),
        subresource: "status",
        object: value_of(&published),
    })
}

/// Takes the finalizer away; a namespace without others is gone then.
fn finalize(ns: &Namespace) -> Action {
    let mut changed = ns.clone();
    // The conditions may just have been written.
    changed.metadata.resource_version = None;
    let spec = changed.spec.as_mut().and_then(|s| s.finalizers.as_mut());
    if let Some(finalizers) = spec {
        finalizers.retain(|f| f != FINALIZER);
    }
    Action::Update {
        target: Target::of::<Namespace>("", &ns.name_any()),
        subresource: "finalize",
        object: value_of(&changed),
    }
}

/// What is left of one resource.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Left {
    /// `resource.group`, as in the condition's message.
    pub resource: String,
    pub count: usize,
    /// Finalizer → objects that it holds.
    pub finalizers: BTreeMap<String, usize>,
}

/// What one round of deleting came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Round {
    pub discovery_failure: Option<String>,
    pub version_failure: Option<String>,
    pub content_failures: Vec<String>,
    pub left: Vec<Left>,
}

impl Round {
    /// A round that knows what discovery failed to list.
    pub fn of(found: &DiscoveredResources) -> Self {
        let failing = found.failed.len();
        let discovery_failure = (failing > 0).then(|| {
            let groups: Vec<String> = found
                .failed
                .iter()
                .map(|g| format!("{g}: stale GroupVersion discovery: {g}"))
                .collect();
            format!(
                "Discovery failed for some groups, {failing} failing: unable to retrieve the complete list of server APIs: {}",
                groups.join(", ")
            )
        });
        let version_failure = found
            .malformed
            .first()
            .map(|v| format!("unexpected GroupVersion string: {v}"));
        Self {
            discovery_failure,
            version_failure,
            ..Self::default()
        }
    }

    /// Nothing is left, and nothing went wrong: the finalizer may go.
    pub fn is_clean(&self) -> bool {
        self.left.is_empty() && !self.has_failed()
    }

    pub fn has_failed(&self) -> bool {
        self.discovery_failure.is_some()
            || self.version_failure.is_some()
            || !self.content_failures.is_empty()
    }

    /// Objects that are left.
    pub fn count(&self) -> usize {
        self.left.iter().map(|l| l.count).sum()
    }

    fn content_failure(&self) -> Option<String> {
        let mut all = self.content_failures.clone();
        all.sort();
        (!all.is_empty()).then(|| {
            format!(
                "Failed to delete all resource types, {} remaining: {}",
                all.len(),
                all.join(", ")
            )
        })
    }

    fn content_remaining(&self) -> Option<String> {
        let mut all: Vec<String> = self
            .left
            .iter()
            .map(|l| format!("{} has {} resource instances", l.resource, l.count))
            .collect();
        all.sort();
        (!all.is_empty()).then(|| format!("Some resources are remaining: {}", all.join(", ")))
    }

    fn finalizers_remaining(&self) -> Option<String> {
        let mut sums: BTreeMap<&str, usize> = BTreeMap::new();
        for (finalizer, count) in self.left.iter().flat_map(|l| &l.finalizers) {
            *sums.entry(finalizer).or_default() += count;
        }
        let all: Vec<String> = sums
            .iter()
            .map(|(f, n)| format!("{f} in {n} resource instances"))
            .collect();
        (!all.is_empty()).then(|| {
            format!(
                "Some content in the namespace has finalizers remaining: {}",
                all.join(", ")
            )
        })
    }
}

/// Type, what went wrong, and reason and message of the bad and the good case.
type Row = (
    &'static str,
    Option<String>,
    &'static str,
    &'static str,
    &'static str,
);

fn rows(round: &Round) -> [Row; 5] {
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            round.discovery_failure.clone(),
            "DiscoveryFailed",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            round.version_failure.clone(),
            "GroupVersionParsingFailed",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            round.content_failure(),
            "ContentDeletionFailed",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            round.content_remaining(),
            "SomeResourcesRemain",
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            round.finalizers_remaining(),
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ]
}

/// Puts conditions where those of their type are, so that a reader sees the same order each time;
/// new ones come last.
fn merge(all: &mut Vec<NamespaceCondition>, changed: Vec<NamespaceCondition>) {
    for new in changed {
        match all.iter_mut().find(|c| c.type_ == new.type_) {
            Some(old) => *old = new,
            None => all.push(new),
        }
    }
}

/// The conditions to write; empty when they are there already.
pub fn conditions(
    old: &[NamespaceCondition],
    round: &Round,
    now: &Time,
) -> Vec<NamespaceCondition> {
    let mut changed = Vec::new();
    for (type_, wrong, bad, good, fine) in rows(round) {
        let status = if wrong.is_some() { "True" } else { "False" };
        let reason = if wrong.is_some() { bad } else { good };
        let message = wrong.unwrap_or_else(|| fine.to_owned());
        let before = old.iter().find(|c| c.type_ == type_);
        let same = before.is_some_and(|c| {
            c.status == status
                && c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(&message)
        });
        if same {
            continue;
        }
        let since = before
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.clone());
        changed.push(NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
        });
    }
    changed
}

/// How long pods that run may take to end: the longest grace period of them, in seconds.
pub fn longest_grace<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> i64 {
    let grace = |p: &Pod| p.spec.as_ref()?.termination_grace_period_seconds;
    let running = pods.into_iter().filter(|p| !crate::common::is_finished(p));
    running.filter_map(grace).max().unwrap_or(0)
}

/// Judges what a resource has left after its deletion: objects that are held are waited for;
/// others should not be there any more.
pub fn judge<'a>(
    served: &Served,
    namespace: &str,
    linger: bool,
    finalizers: impl IntoIterator<Item = &'a [String]>,
) -> (Option<Left>, Option<String>) {
    let r = &served.resource;
    let mut left = Left {
        resource: format!("{}.{}", r.plural, r.group),
        ..Left::default()
    };
    for held_by in finalizers {
        left.count += 1;
        for f in held_by {
            *left.finalizers.entry(f.clone()).or_default() += 1;
        }
    }
    if left.count == 0 {
        return (None, None);
    }
    let unexpected = (!linger && left.finalizers.is_empty()).then(|| {
        format!(
            "unexpected items still remain in namespace: {namespace} for gvr: {}/{}, Resource={}",
            r.group, r.version, r.plural
        )
    });
    (Some(left), unexpected)
}

/// Longest wait between two looks at a namespace in which nothing moves: content that is held by
/// somebody's finalizer may be so for days.
const LONGEST_WAIT_MILLIS: i64 = 8_000;
const FIRST_WAIT_MILLIS: i64 = 100;

/// When to look again: the longer something stays, the later. What ends after a while is seen
/// within half as long again.
fn wait_millis(deleted_at_millis: i64, now_millis: i64) -> u64 {
    let age = now_millis.saturating_sub(deleted_at_millis);
    let wait = (age / 2).clamp(FIRST_WAIT_MILLIS, LONGEST_WAIT_MILLIS);
    u64::try_from(wait).unwrap_or(0)
}

/// What is deleted of what is served: pods first and alone, so that nothing that they use goes
/// before them; then all the rest.
pub fn content(found: &DiscoveredResources) -> (Option<&Served>, Vec<&Served>) {
    let all = found
        .served
        .iter()
        .filter(|s| s.namespaced && s.can("delete"));
    let (pods, rest): (Vec<_>, Vec<_>) = all.partition(|s| s.is("", "pods"));
    (pods.first().copied(), rest)
}

#[cfg(test)]
mod tests;
