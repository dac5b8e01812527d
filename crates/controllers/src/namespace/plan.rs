//! Decides for a namespace that is being deleted: what its conditions say, how long pods may
//! still take, when to look again. Reasons and messages are those that clients of Kubernetes
//! know.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use control::action::{Propagation, Target};
use control::{Action, Plan};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;
use kube::core::ApiResource;

use crate::common::{millis_of, time_at, value_of};
use crate::discovery::{DiscoveredResources, Served};

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
    let all = status.conditions.get_or_insert_default();
    all.retain(|c| changed.iter().all(|new| new.type_ != c.type_));
    all.extend(changed);
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
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::common::time_at;

    fn time(seconds: i64) -> Time {
        Time(Timestamp::from_second(seconds).expect("time"))
    }

    fn served(
        group: &str,
        version: &str,
        plural: &str,
        namespaced: bool,
        verbs: &[&str],
    ) -> Served {
        Served {
            resource: kube::core::ApiResource {
                group: group.into(),
                version: version.into(),
                api_version: String::new(),
                kind: String::new(),
                plural: plural.into(),
            },
            namespaced,
            verbs: verbs.iter().map(|v| (*v).to_owned()).collect(),
        }
    }

    fn left(resource: &str, count: usize, finalizers: &[(&str, usize)]) -> Left {
        Left {
            resource: resource.into(),
            count,
            finalizers: finalizers
                .iter()
                .map(|(f, n)| ((*f).to_owned(), *n))
                .collect(),
        }
    }

    #[test]
    fn conditions_say_what_is_wrong_and_what_is_left() {
        let round = Round {
            content_failures: vec!["b".into(), "a".into()],
            left: vec![
                left("pods.", 2, &[("x/y", 1)]),
                left("jobs.batch", 1, &[("a/b", 1), ("x/y", 1)]),
            ],
            ..Round::of(&DiscoveredResources {
                failed: vec!["g/v1".into()],
                ..DiscoveredResources::default()
            })
        };
        assert!(!round.is_clean());
        assert_eq!(round.count(), 3);
        let made = conditions(&[], &round, &time(5));
        let text: Vec<String> = made
            .iter()
            .map(|c| {
                let part = |p: &Option<String>| p.clone().unwrap_or_default();
                format!(
                    "{}={} {}: {}",
                    c.type_,
                    c.status,
                    part(&c.reason),
                    part(&c.message)
                )
            })
            .collect();
        assert_eq!(
            text,
            [
                "NamespaceDeletionDiscoveryFailure=True DiscoveryFailed: Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: g/v1: stale GroupVersion discovery: g/v1",
                "NamespaceDeletionGroupVersionParsingFailure=False ParsedGroupVersions: All legacy kube types successfully parsed",
                "NamespaceDeletionContentFailure=True ContentDeletionFailed: Failed to delete all resource types, 2 remaining: a, b",
                "NamespaceContentRemaining=True SomeResourcesRemain: Some resources are remaining: jobs.batch has 1 resource instances, pods. has 2 resource instances",
                "NamespaceFinalizersRemaining=True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: a/b in 1 resource instances, x/y in 2 resource instances",
            ]
        );
    }

    #[test]
    fn conditions_are_written_when_they_change() {
        let bad = Round {
            left: vec![left("pods.", 2, &[])],
            ..Round::default()
        };
        let old = conditions(&[], &bad, &time(5));
        assert_eq!(old.len(), 5);
        assert!(conditions(&old, &bad, &time(6)).is_empty());
        // Another message with the same status keeps its time.
        let fewer = Round {
            left: vec![left("pods.", 1, &[])],
            ..Round::default()
        };
        let changed = conditions(&old, &fewer, &time(7));
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].last_transition_time, Some(time(5)));
        // Another status has its own.
        let changed = conditions(&old, &Round::default(), &time(8));
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].status, "False");
        assert_eq!(changed[0].last_transition_time, Some(time(8)));
    }

    #[test]
    fn running_pods_have_their_grace() {
        let pod = |phase: &str, grace: i64| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "p" },
                "spec": { "terminationGracePeriodSeconds": grace, "containers": [] },
                "status": { "phase": phase },
            }))
            .expect("pod")
        };
        for (pods, passed, linger) in [
            (vec![], 0, false),
            (vec![pod("Running", 30)], 29_999, true),
            (vec![pod("Running", 30)], 30_000, false),
            (vec![pod("Running", 5), pod("Pending", 60)], 59_000, true),
            (vec![pod("Failed", 60), pod("Succeeded", 60)], 1_000, false),
        ] {
            assert_eq!(passed < longest_grace(&pods) * 1_000, linger, "{pods:?}");
        }
        assert_eq!(time_at(1_000), time(1));
    }

    #[test]
    fn what_is_left_is_judged() {
        let pods = served("", "v1", "pods", true, &[]);
        let none: [&[String]; 0] = [];
        assert_eq!(judge(&pods, "n", false, none), (None, None));
        let free: &[String] = &[];
        let (some, wrong) = judge(&pods, "n", true, [free, free]);
        assert_eq!((some, wrong), (Some(left("pods.", 2, &[])), None));
        let (_, wrong) = judge(&pods, "n", false, [free]);
        assert_eq!(
            wrong.as_deref(),
            Some("unexpected items still remain in namespace: n for gvr: /v1, Resource=pods")
        );
        let held: &[String] = &["f".to_owned()];
        let (some, wrong) = judge(&pods, "n", false, [held, free]);
        assert_eq!((some, wrong), (Some(left("pods.", 2, &[("f", 1)])), None));
    }

    #[test]
    fn the_longer_something_stays_the_later_is_the_next_look() {
        let waits = [0, 100, 1_000, 6_000, 16_000, 900_000].map(|age| wait_millis(5, 5 + age));
        assert_eq!(waits, [100, 100, 500, 3_000, 8_000, 8_000]);
        assert_eq!(wait_millis(5_000, 1_000), 100);
    }

    fn ending(finalizers: &[&str]) -> Arc<Namespace> {
        let namespace = json!({
            "metadata": { "name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z",
                "resourceVersion": "7", "finalizers": finalizers },
            "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Terminating" },
        });
        Arc::new(serde_json::from_value(namespace).expect("a namespace"))
    }

    /// Half a second after the namespace was deleted.
    const NOW: i64 = 1_767_225_600_500;
    const VERBS: &[&str] = &["delete", "deletecollection", "list"];

    fn holding(items: &[(&str, bool, &[&str])]) -> Observed {
        let items = items.iter().map(|(name, deleting, finalizers)| Item {
            name: (*name).to_owned(),
            deleting: *deleting,
            finalizers: finalizers.iter().map(|f| (*f).to_owned()).collect(),
        });
        let items = Items {
            items: items.collect(),
            grace_seconds: 0,
        };
        let mut content = Content::default();
        content.add(&served("", "v1", "configmaps", true, VERBS), Ok(items));
        Observed {
            namespace: ending(&[]),
            content,
            failures: BTreeMap::new(),
            again: false,
        }
    }

    fn short(actions: &[Action]) -> Vec<String> {
        let one = |action: &Action| match action {
            Action::DeleteCollection { target, .. } => format!("delete {}", target.resource.plural),
            Action::Delete { target, .. } => format!("delete {}", target.name),
            Action::Update {
                subresource,
                object,
                ..
            } => {
                let conditions = object["status"]["conditions"].as_array();
                let wrong = conditions.into_iter().flatten();
                let wrong = wrong.filter(|c| c["status"] == "True");
                let wrong: Vec<_> = wrong.filter_map(|c| c["reason"].as_str()).collect();
                format!("{subresource} {}", wrong.join(" "))
            }
            other => format!("{other:?}"),
        };
        actions.iter().map(one).collect()
    }

    #[test]
    fn content_is_deleted_and_what_stays_is_reported() {
        // New objects: deleted, and looked at again at once, with nothing to say yet.
        let mut observed = holding(&[("a", false, &[]), ("b", false, &[])]);
        let first = plan(&observed, NOW);
        assert_eq!(short(&first.actions), ["delete configmaps"]);
        assert_eq!((first.then.len(), first.wake_after_millis), (0, Some(0)));
        // The same ones again: the deletion did nothing.
        observed.again = true;
        let second = plan(&observed, NOW);
        assert_eq!(
            short(&second.actions),
            [
                "delete configmaps",
                "status ContentDeletionFailed SomeResourcesRemain"
            ]
        );
        assert_eq!(
            (second.then.len(), second.wake_after_millis),
            (0, Some(250))
        );
        // Held by a finalizer: nobody's fault.
        let held = plan(&holding(&[("a", true, &["f"])]), NOW);
        assert_eq!(
            short(&held.actions),
            ["status SomeResourcesRemain SomeFinalizersRemain"]
        );
        // Gone: the finalizer goes, and the namespace need not say so.
        let done = plan(&holding(&[]), NOW);
        assert_eq!(
            (short(&done.actions).len(), short(&done.then)),
            (0, vec!["finalize ".into()])
        );
        let Some(Action::Update { object, .. }) = done.then.first() else {
            panic!("{:?}", done.then);
        };
        assert_eq!(object["spec"]["finalizers"], json!([]));
        assert_eq!(object["metadata"].get("resourceVersion"), None);
        // One that somebody else holds says that it is empty.
        let others = Observed {
            namespace: ending(&["theirs"]),
            ..holding(&[])
        };
        assert_eq!(short(&plan(&others, NOW).actions), ["status "]);
    }

    #[test]
    fn a_failed_deletion_is_said_and_tried_again() {
        let mut observed = holding(&[("a", false, &[])]);
        let key = ("".to_owned(), "configmaps".to_owned());
        observed.failures.insert(key, "no".into());
        let plan = plan(&observed, NOW);
        assert_eq!(
            short(&plan.actions),
            ["delete configmaps", "status ContentDeletionFailed"]
        );
        assert!(plan.then.is_empty());
    }

    #[test]
    fn pods_come_first_and_alone() {
        let found = DiscoveredResources {
            served: vec![
                served("", "v1", "configmaps", true, &["delete", "list"]),
                served("", "v1", "pods", true, &["delete", "list"]),
                served("", "v1", "bindings", true, &["create"]),
                served("", "v1", "nodes", false, &["delete", "list"]),
                served("metrics.k8s.io", "v1", "pods", true, &["delete"]),
            ],
            ..DiscoveredResources::default()
        };
        let (pods, rest) = content(&found);
        assert_eq!(pods.map(|p| p.resource.group.as_str()), Some(""));
        let names: Vec<_> = rest
            .iter()
            .map(|s| (s.resource.group.as_str(), s.resource.plural.as_str()))
            .collect();
        assert_eq!(names, [("", "configmaps"), ("metrics.k8s.io", "pods")]);
    }
}
