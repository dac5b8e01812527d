//! Decides for a namespace that is being deleted: what its conditions say, how long pods may
//! still take, when to look again. Reasons and messages are those that clients of Kubernetes
//! know.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NamespaceCondition, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::discovery::{Found, Served};

/// The finalizer of a namespace's spec that this controller takes away.
pub const FINALIZER: &str = "kubernetes";

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
    /// A round that knows what discovery could not tell.
    pub fn of(found: &Found) -> Self {
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

/// Whether pods that run may still take their time: the longest grace period of them has not
/// passed since the namespace's deletion.
pub fn may_linger<'a>(
    pods: impl IntoIterator<Item = &'a Pod>,
    deleted_at_millis: i64,
    now_millis: i64,
) -> bool {
    let grace = |p: &Pod| {
        p.spec
            .as_ref()
            .and_then(|s| s.termination_grace_period_seconds)
    };
    let longest = pods
        .into_iter()
        .filter(|p| !crate::common::is_finished(p))
        .filter_map(grace)
        .max()
        .unwrap_or(0);
    now_millis.saturating_sub(deleted_at_millis) < longest.saturating_mul(1_000)
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
const LONGEST_WAIT_MILLIS: u64 = 8_000;
const FIRST_WAIT_MILLIS: u64 = 100;

/// When to look again: soon while there is less each time, later and later when nothing moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Patience {
    left: Option<usize>,
    rounds: u32,
}

impl Patience {
    /// Milliseconds to wait after a round that left so many objects.
    pub fn wait_millis(&mut self, left: usize) -> u64 {
        if self.left.is_none_or(|before| left < before) {
            self.rounds = 0;
        }
        self.left = Some(left);
        let wait = FIRST_WAIT_MILLIS << self.rounds.min(10);
        self.rounds = self.rounds.saturating_add(1);
        wait.min(LONGEST_WAIT_MILLIS)
    }
}

/// What is deleted of what is served: pods first and alone, so that nothing that they use goes
/// before them; then all the rest.
pub fn content(found: &Found) -> (Option<&Served>, Vec<&Served>) {
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
            ..Round::of(&Found {
                failed: vec!["g/v1".into()],
                ..Found::default()
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
            assert_eq!(may_linger(&pods, 1_000, 1_000 + passed), linger, "{pods:?}");
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
    fn patience_grows_while_nothing_moves() {
        let mut p = Patience::default();
        let waits: Vec<u64> = [9, 9, 9, 5, 5]
            .into_iter()
            .map(|n| p.wait_millis(n))
            .collect();
        assert_eq!(waits, [100, 200, 400, 100, 200]);
        let last = (0..20).map(|_| p.wait_millis(5)).last();
        assert_eq!(last, Some(LONGEST_WAIT_MILLIS));
    }

    #[test]
    fn pods_come_first_and_alone() {
        let found = Found {
            served: vec![
                served("", "v1", "configmaps", true, &["delete", "list"]),
                served("", "v1", "pods", true, &["delete", "list"]),
                served("", "v1", "bindings", true, &["create"]),
                served("", "v1", "nodes", false, &["delete", "list"]),
                served("metrics.k8s.io", "v1", "pods", true, &["delete"]),
            ],
            ..Found::default()
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
