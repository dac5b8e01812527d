//! Making room for a pod by removing pods of lower priority
//! (documentation "Pod Priority and Preemption").

use std::cmp::Reverse;
use std::sync::Arc;

use crate::decide::{Checks, Decision, Profile, filter_for, mix, moved};
use crate::message;
use crate::node::Node;
use crate::plugins::{Reason, Refused, Verdict};
use crate::pod::Pod;
use crate::snapshot::Snapshot;

/// How many nodes are worked out before the best of them is taken; upstream's.
#[derive(Clone, Copy, Debug)]
pub struct Candidates {
    /// Of the nodes where pods might make room, in percent.
    pub percent: usize,
    /// At least so many nodes.
    pub least: usize,
}

impl Default for Candidates {
    fn default() -> Self {
        Self {
            percent: 10,
            least: 100,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Preemption {
    /// Without these pods the pod fits on this node.
    Possible {
        node: Arc<str>,
        victims: Vec<Arc<Pod>>,
    },
    /// The pod waits for its victims, or takes nobody's room: as the end of its message.
    NotEligible(&'static str),
    /// The profile has no preemption.
    Off,
    /// Nothing can be done: as the end of the pod's message.
    Hopeless(String),
}

/// A node where pods can make room.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: Arc<str>,
    /// The most important first.
    pub victims: Vec<Arc<Pod>>,
    /// Victims whose budget does not allow it.
    pub violations: usize,
    cost: Cost,
}

/// Less is better: victims against their budget, the highest priority of a victim, the sum of
/// priorities, the number of victims, and how long the most important of them have run.
type Cost = (usize, i32, i64, usize, Reverse<i64>);

impl Candidate {
    pub fn new(node: Arc<str>, victims: Vec<Arc<Pod>>, violations: usize) -> Self {
        Self {
            cost: cost(&victims, violations),
            node,
            victims,
            violations,
        }
    }
}

/// Why a trial came to nothing.
#[derive(Clone)]
struct Failure {
    /// The place of the plugin that refused the pod there; none where there was nobody to displace.
    plugin: Option<usize>,
    verdict: Verdict,
}

impl Failure {
    const NO_VICTIMS: Self = Self {
        plugin: None,
        verdict: Verdict::Never(Reason::one(message::NO_VICTIMS)),
    };
}

/// What trials on nodes came to, for pods that are alike; by the places of the nodes among the
/// rejections of their decision.
#[derive(Default)]
pub struct Trials {
    made: Vec<Option<Result<Arc<Candidate>, Failure>>>,
    /// The changes of budgets before them.
    budgets: usize,
}

impl Trials {
    /// Something has happened on this node.
    pub fn forget(&mut self, nth: usize) {
        if let Some(made) = self.made.get_mut(nth) {
            *made = None;
        }
    }

    /// Of so many nodes.
    fn begin(&mut self, snapshot: &Snapshot, nodes: usize) {
        let budgets = snapshot.budgets().changes();
        if self.budgets != budgets {
            self.made.clear();
            self.budgets = budgets;
        }
        self.made.resize(nodes, None);
    }

    /// The candidate of a node, if it is one. `make` says what it comes to, if that is not known.
    fn candidate(
        &mut self,
        nth: usize,
        make: impl FnOnce() -> Result<Candidate, Failure>,
    ) -> Option<&Arc<Candidate>> {
        let made = self.made.get_mut(nth)?;
        let made = made.get_or_insert_with(|| make().map(Arc::new));
        made.as_ref().ok()
    }

    /// Why a node is not a candidate.
    fn failure(&self, nth: usize) -> Option<&Verdict> {
        let failure = self.made.get(nth)?.as_ref()?.as_ref().err()?;
        Some(&failure.verdict)
    }

    /// The plugins that refused the pod even without those that it may displace.
    pub fn refused_by(&self) -> Refused {
        let made = self.made.iter().flatten();
        let failures = made.filter_map(|made| made.as_ref().err());
        let plugins = failures.filter_map(|failure| failure.plugin);
        plugins.fold(Refused::NOBODY, Refused::and)
    }
}

/// Looks for pods whose removal would let `pod` in, after `decision` found no node. `seed` says
/// where the search begins.
pub fn preempt(
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
    decision: &Decision,
    seed: u64,
) -> Preemption {
    let mut trials = Trials::default();
    match candidates(snapshot, pod, profile, decision, seed, &mut trials) {
        Ok(found) => best(found),
        Err(none) => none,
    }
}

/// The best of these nodes.
pub fn best(candidates: Vec<Arc<Candidate>>) -> Preemption {
    match candidates.into_iter().min_by_key(|c| c.cost) {
        Some(best) => Preemption::Possible {
            node: best.node.clone(),
            victims: best.victims.clone(),
        },
        None => Preemption::Hopeless(message::NO_CANDIDATE.to_owned()),
    }
}

/// The nodes where pods can make room; at least one. What is found by trials is noted.
///
/// # Errors
/// Why there is none.
pub fn candidates(
    snapshot: &Snapshot,
    pod: &Pod,
    profile: &Profile,
    decision: &Decision,
    seed: u64,
    trials: &mut Trials,
) -> Result<Vec<Arc<Candidate>>, Preemption> {
    let Some(Candidates { percent, least }) = profile.candidates else {
        return Err(Preemption::Off);
    };
    if let Some(why) = not_eligible(snapshot, pod, decision) {
        return Err(Preemption::NotEligible(why));
    }
    let rejections = &decision.rejections;
    let hopeful = rejections.hopeful();
    let enough = (hopeful.len() * percent / 100).max(least);
    let mut checks = match profile.prepare(pod, snapshot) {
        Ok(checks) if decision.refused.is_none() => checks,
        // No node would do, whoever made room.
        _ => return Err(Preemption::Hopeless(hopeless(decision, &[]))),
    };
    trials.begin(snapshot, rejections.len());
    // Where room is made for this pod alone, a trial is its own.
    let own = snapshot.nomination(&pod.uid);
    let own = own.and_then(|node| rejections.nth_of(snapshot.slot_of(node)?));
    if let Some(nth) = own {
        trials.forget(nth);
    }
    let (mut found, mut harmless) = (Vec::new(), false);
    let begin = usize::try_from(mix(seed) % hopeful.len().max(1) as u64).unwrap_or(0);
    let (before, after) = hopeful.split_at(begin.min(hopeful.len()));
    for nth in after.iter().chain(before) {
        let place = rejections.get(*nth).map(|r| r.node);
        let Some(node) = place.and_then(|place| snapshot.slots().get(place)) else {
            continue;
        };
        let made = trials.candidate(*nth, || victims_on(snapshot, node, pod, &mut checks));
        if let Some(candidate) = made {
            harmless |= candidate.violations == 0;
            found.push(candidate.clone());
        }
        if harmless && found.len() >= enough {
            break;
        }
    }
    let out = match found.is_empty() {
        false => Ok(found),
        true => {
            let failures = hopeful.iter().filter_map(|nth| trials.failure(*nth));
            let failures: Vec<&Verdict> = failures.collect();
            Err(Preemption::Hopeless(hopeless(decision, &failures)))
        }
    };
    if let Some(nth) = own {
        trials.forget(nth);
    }
    out
}

fn hopeless(decision: &Decision, failures: &[&Verdict]) -> String {
    let others = decision.nodes.saturating_sub(failures.len());
    let reasons = failures.iter().flat_map(|v| v.reasons());
    let rest = std::iter::repeat_n(message::NOT_HELPFUL, others);
    message::histogram(decision.nodes, reasons.chain(rest))
}

fn not_eligible(snapshot: &Snapshot, pod: &Pod, decision: &Decision) -> Option<&'static str> {
    if pod.wants.never_preempts {
        return Some(message::NEVER_PREEMPTS);
    }
    let place = snapshot.slot_of(snapshot.nomination(&pod.uid)?)?;
    let rejections = &decision.rejections;
    let rejection = rejections.nth_of(place).and_then(|nth| rejections.get(nth));
    let hopeless = rejection.is_some_and(|r| matches!(r.verdict, Verdict::Never(_)));
    (!hopeless && awaits_victims(snapshot, pod)).then_some(message::STILL_TERMINATING)
}

/// Whether less important pods are about to go from the node where room is made for a pod: until they
/// have gone, it displaces nobody elsewhere.
pub fn awaits_victims(snapshot: &Snapshot, pod: &Pod) -> bool {
    let node = snapshot.nomination(&pod.uid);
    let node = node.and_then(|name| snapshot.node(name));
    let leaving = |p: &Arc<Pod>| p.priority < pod.priority && snapshot.makes_room(p);
    node.is_some_and(|n| n.exists && n.pods.iter().any(leaving))
}

/// A node whose pods are taken off and put back for a trial.
struct Trial<'a, 'b> {
    snapshot: &'a Snapshot,
    pod: &'a Pod,
    node: Node,
    checks: &'a mut Checks<'b>,
}

impl Trial<'_, '_> {
    fn take(&mut self, pod: &Arc<Pod>) {
        self.node.remove(&pod.uid);
        moved(self.checks, pod, &self.node, false);
    }
    fn put(&mut self, pod: &Arc<Pod>) {
        self.node.add(pod.clone());
        moved(self.checks, pod, &self.node, true);
    }
    /// The place of the plugin that rejects the node now, and what it says.
    fn rejects(&mut self) -> Option<(usize, Verdict)> {
        filter_for(self.snapshot, self.pod, self.checks, &self.node)
    }

    /// Lets as many of these stay as possible, the first first; the others are victims. Says how
    /// many victims there are.
    fn spare<'p>(
        &mut self,
        pods: impl Iterator<Item = &'p Arc<Pod>>,
        victims: &mut Vec<Arc<Pod>>,
    ) -> usize {
        let before = victims.len();
        for pod in pods {
            self.put(pod);
            if self.rejects().is_some() {
                self.take(pod);
                victims.push(pod.clone());
            }
        }
        victims.len() - before
    }
}

/// The highest priority first, then the pod that runs longest.
fn importance(pod: &Arc<Pod>) -> (Reverse<i32>, i64) {
    (Reverse(pod.priority), pod.started_seconds)
}

/// The fewest and least important pods of lower priority without which the pod fits.
fn victims_on(
    snapshot: &Snapshot,
    node: &Node,
    pod: &Pod,
    checks: &mut Checks<'_>,
) -> Result<Candidate, Failure> {
    if !node.has_lower(pod.priority) {
        return Err(Failure::NO_VICTIMS);
    }
    let (left, mut lesser) = node.without_lower(pod.priority);
    lesser.sort_by_key(importance);
    for victim in &lesser {
        moved(checks, victim, &left, false);
    }
    let mut trial = Trial {
        snapshot,
        pod,
        node: left,
        checks,
    };
    if let Some((plugin, verdict)) = trial.rejects() {
        lesser.iter().for_each(|p| trial.put(p));
        return Err(Failure {
            plugin: Some(plugin),
            verdict,
        });
    }
    let violated = snapshot.budgets().violated_by(&lesser);
    let of = |kind: bool| {
        let marked = lesser.iter().zip(&violated);
        marked.filter(move |(_, v)| **v == kind).map(|(p, _)| p)
    };
    let mut victims = Vec::new();
    let violations = trial.spare(of(true), &mut victims);
    trial.spare(of(false), &mut victims);
    victims.iter().for_each(|p| trial.put(p));
    if victims.is_empty() {
        return Err(Failure::NO_VICTIMS);
    }
    victims.sort_by_key(importance);
    Ok(Candidate::new(node.name.clone(), victims, violations))
}

fn cost(victims: &[Arc<Pod>], violations: usize) -> Cost {
    let highest = victims.first().map_or(i32::MIN, |v| v.priority);
    // Shifted to be positive, so that more victims never cost less.
    let sum = victims
        .iter()
        .map(|v| i64::from(v.priority) - i64::from(i32::MIN) + 1)
        .sum();
    let top = victims.iter().filter(|v| v.priority == highest);
    let since = top.map(|v| v.started_seconds).min().unwrap_or(i64::MAX);
    (violations, highest, sum, victims.len(), Reverse(since))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use serde_json::{Value, json};

    use super::*;
    use crate::decide::decide;
    use crate::plugins::testing::{Cluster, node};

    fn pod(cpu: &str, priority: i32) -> Value {
        json!({"spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn try_it(cluster: &mut Cluster, value: Value) -> (String, Preemption) {
        let pod = cluster.pod(value);
        let profile = Profile::default();
        let decision = decide(&cluster.snapshot, &pod, &profile, 1);
        let out = preempt(&cluster.snapshot, &pod, &profile, &decision, 1);
        (decision.message(), out)
    }

    #[test]
    fn the_whole_message_is_upstreams() {
        let mut tainted = node("t", "4", "8Gi");
        tainted["spec"] = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let mut c = Cluster::new([tainted, node("a", "4", "8Gi"), node("b", "4", "8Gi")]);
        for name in ["a", "b"] {
            c.place(name, pod("3", 0));
        }
        let (message, preemption) = try_it(&mut c, pod("2", 0));
        let Preemption::Hopeless(why) = preemption else {
            panic!("equal priority preempts nobody")
        };
        assert_eq!(
            format!("{message} preemption: {why}"),
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. \
             preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, \
             2 No preemption victims found for incoming pod."
        );
    }

    #[test]
    fn the_least_important_pods_make_room() {
        let mut c = Cluster::new([node("a", "4", "8Gi"), node("b", "4", "8Gi")]);
        c.place("a", pod("4", 5));
        let small = c.place("b", pod("1", 1));
        c.place("b", pod("3", 2));
        let (_, preemption) = try_it(&mut c, pod("1", 10));
        let Preemption::Possible { node, victims } = preemption else {
            panic!("{preemption:?}")
        };
        assert_eq!((&*node, victims.len()), ("b", 1));
        assert_eq!(victims.first().map(|v| &v.uid), Some(&small.uid));
    }

    fn victims(cluster: &mut Cluster, value: Value) -> (String, Vec<String>) {
        match try_it(cluster, value).1 {
            Preemption::Possible { node, victims } => {
                let names = victims.iter().map(|v| v.name.clone());
                (node.to_string(), names.collect())
            }
            other => (format!("{other:?}"), Vec::new()),
        }
    }

    fn budget(allowed: i32, disrupted: &[&str]) -> PodDisruptionBudget {
        let disrupted = disrupted.iter().map(|n| (*n, "2026-01-01T00:00:00Z"));
        let disrupted: std::collections::BTreeMap<_, _> = disrupted.collect();
        serde_json::from_value(json!({
            "metadata": {"name": "b", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "db"}}},
            "status": {"disruptionsAllowed": allowed, "disruptedPods": disrupted,
                "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
        }))
        .expect("a budget")
    }

    #[test]
    fn budgets_come_before_priorities() {
        let labelled = |name: &str, priority: i32| {
            let mut pod = pod("4", priority);
            pod["metadata"] = json!({"name": name, "labels": {"app": "db"}});
            pod
        };
        for (allowed, disrupted, expected) in [
            (0, &[][..], ("b", "other")),
            (1, &[], ("a", "db")),
            (0, &["db"], ("a", "db")),
        ] {
            let mut c = Cluster::new([node("a", "4", "8Gi"), node("b", "4", "8Gi")]);
            c.place("a", labelled("db", 1));
            let mut other = pod("4", 5);
            other["metadata"]["name"] = json!("other");
            c.place("b", other);
            let budget = budget(allowed, disrupted);
            c.snapshot.budgets_mut().changed(None, Some(&budget));
            let (on, gone) = victims(&mut c, pod("1", 10));
            assert_eq!((&*on, gone.join(",").as_str()), expected, "{allowed}");
        }
        // Where only a violation helps, it happens; those that keep the budget go first.
        let mut c = Cluster::new([node("a", "4", "8Gi")]);
        for name in ["db-1", "db-2"] {
            let mut half = labelled(name, 1);
            half["spec"] = pod("2", 1)["spec"].clone();
            c.place("a", half);
        }
        c.snapshot
            .budgets_mut()
            .changed(None, Some(&budget(1, &[])));
        assert_eq!(victims(&mut c, pod("2", 10)).1, ["db-1"]);
        assert_eq!(victims(&mut c, pod("4", 10)).1.len(), 2);
    }

    /// Victims, by priority and the minute in which they started, and how many against their budgets: the
    /// node whose pods go.
    #[test]
    fn of_several_nodes_that_is_taken_where_the_least_is_lost() {
        type Node = (&'static [(i32, u32)], usize);
        let cases: [([Node; 3], usize); 7] = [
            // The fewest against their budgets, whatever their priority.
            ([(&[(1, 1)], 1), (&[(9, 1)], 0), (&[(1, 1)], 2)], 1),
            // The lowest of the highest priorities.
            (
                [
                    (&[(9, 1), (1, 1)], 0),
                    (&[(9, 1)], 0),
                    (&[(8, 1), (8, 1)], 0),
                ],
                2,
            ),
            // Of the same the least sum.
            (
                [
                    (&[(9, 1), (5, 1)], 0),
                    (&[(9, 1), (2, 1)], 0),
                    (&[(9, 1), (3, 1)], 0),
                ],
                1,
            ),
            // More pods are never less, though their priorities are below zero.
            (
                [
                    (&[(9, 1), (-5, 1)], 0),
                    (&[(9, 1), (-1, 1), (-1, 1)], 0),
                    (&[(9, 1)], 0),
                ],
                2,
            ),
            (
                [
                    (&[(0, 1), (-5, 1), (-5, 1)], 0),
                    (&[(0, 1), (4, 1)], 0),
                    (&[(0, 1), (-9, 1)], 0),
                ],
                2,
            ),
            // Of the same where the most important has started last.
            ([(&[(9, 1)], 0), (&[(9, 3)], 0), (&[(9, 2)], 0)], 1),
            // Of the most important the first to start counts, and no other.
            (
                [
                    (&[(9, 5), (9, 2)], 0),
                    (&[(9, 4), (9, 3)], 0),
                    (&[(9, 1), (9, 9)], 0),
                ],
                1,
            ),
        ];
        let mut c = Cluster::default();
        for (nodes, expected) in cases {
            let found = nodes.iter().enumerate().map(|(i, (victims, violations))| {
                let pods = victims.iter().map(|(priority, minute)| {
                    let mut victim = pod("1", *priority);
                    let started = format!("2026-01-01T00:{minute:02}:00Z");
                    victim["status"]["startTime"] = json!(started);
                    c.pod(victim)
                });
                let mut pods: Vec<Arc<Pod>> = pods.collect();
                pods.sort_by_key(importance);
                Arc::new(Candidate::new(
                    Arc::from(format!("n{i}")),
                    pods,
                    *violations,
                ))
            });
            let Preemption::Possible { node, .. } = best(found.collect()) else {
                panic!("there is one")
            };
            assert_eq!(*node, *format!("n{expected}"), "{nodes:?}");
        }
    }

    #[test]
    fn of_equal_pods_the_youngest_goes() {
        let mut c = Cluster::new([node("a", "4", "8Gi")]);
        for (name, started) in [
            ("old", "2026-01-01T00:00:00Z"),
            ("new", "2026-01-02T00:00:00Z"),
        ] {
            let mut half = pod("2", 0);
            half["metadata"]["name"] = json!(name);
            half["status"]["startTime"] = json!(started);
            c.place("a", half);
        }
        assert_eq!(victims(&mut c, pod("2", 1)).1, ["new"]);
    }

    #[test]
    fn what_others_count_over_several_nodes_is_counted_without_the_victims() {
        let zone = |name: &str, zone: &str| {
            let mut node = node(name, "4", "8Gi");
            node["metadata"]["labels"]["zone"] = json!(zone);
            node
        };
        let term = json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}}]);
        let own = |name: &str, priority: i32, key: &str, value: &Value| {
            let mut pod = pod("1", priority);
            pod["metadata"] = json!({"name": name, "labels": {"app": "a"}});
            pod["spec"][key] = value.clone();
            pod
        };
        let apart = json!({"podAntiAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": term}});
        let spread = json!([{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "a"}}}]);
        let none = json!(null);
        // It must not be with pods like itself, of which one is less important.
        let mut c = Cluster::new([zone("a", "1"), zone("b", "2")]);
        c.place("a", own("weak", 1, "affinity", &none));
        c.place("b", own("strong", 20, "affinity", &none));
        let (on, gone) = victims(&mut c, own("x", 10, "affinity", &apart));
        assert_eq!((&*on, gone), ("a", vec!["weak".to_owned()]));
        // Others must not be with it.
        let mut c = Cluster::new([zone("a", "1")]);
        c.place("a", own("shy", 1, "affinity", &apart));
        assert_eq!(victims(&mut c, own("x", 10, "affinity", &none)).1, ["shy"]);
        // Its zone has one too many; the other zone is full.
        let mut c = Cluster::new([zone("a", "1"), zone("b", "2")]);
        for name in ["a1", "a2"] {
            c.place("a", own(name, 1, "affinity", &none));
        }
        let mut full = pod("4", 20);
        full["metadata"]["name"] = json!("full");
        c.place("b", full);
        let (on, gone) = victims(&mut c, own("x", 10, "topologySpreadConstraints", &spread));
        assert_eq!((&*on, gone.len()), ("a", 2));
    }

    #[test]
    fn room_that_is_made_for_others_is_theirs() {
        let mut c = Cluster::new([node("a", "4", "8Gi")]);
        c.place("a", pod("1", 0));
        let coming = c.pod(pod("3", 5));
        let at = c.strings.get("a");
        c.snapshot.nominate(at, coming);
        let profile = Profile::default();
        for (priority, fits) in [(5, false), (4, false), (6, true)] {
            let pod = c.pod(pod("1", priority));
            let decision = decide(&c.snapshot, &pod, &profile, 1);
            assert_eq!(decision.feasible == 1, fits, "priority {priority}");
        }
        // A port is not different from other room.
        let mut with_port = pod("1", 5);
        with_port["spec"]["containers"][0]["ports"] =
            json!([{"containerPort": 80, "hostPort": 80}]);
        let mut c = Cluster::new([node("a", "4", "8Gi")]);
        let coming = c.pod(with_port.clone());
        let at = c.strings.get("a");
        c.snapshot.nominate(at, coming);
        let late = c.pod(with_port);
        assert_eq!(decide(&c.snapshot, &late, &profile, 1).feasible, 0);
    }

    #[test]
    fn who_waits_for_victims_takes_no_more() {
        let mut c = Cluster::new([node("a", "4", "8Gi"), node("b", "4", "8Gi")]);
        let mut leaving = pod("4", 0);
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        leaving["status"]["conditions"] = json!([{"type": "DisruptionTarget",
            "status": "True", "reason": "PreemptionByScheduler"}]);
        c.place("a", leaving);
        c.place("b", pod("4", 0));
        let waiting = c.pod(pod("4", 10));
        let at = c.strings.get("a");
        c.snapshot.nominate(at, waiting.clone());
        let profile = Profile::default();
        let out = |c: &Cluster| {
            let decision = decide(&c.snapshot, &waiting, &profile, 1);
            preempt(&c.snapshot, &waiting, &profile, &decision, 1)
        };
        assert!(
            matches!(out(&c), Preemption::NotEligible(why) if why == message::STILL_TERMINATING)
        );
        // Not for those on a node that is not there any more.
        c.snapshot.remove_node("a");
        assert!(matches!(out(&c), Preemption::Possible { node, .. } if *node == *"b"));
    }

    #[test]
    fn who_never_preempts_says_so() {
        let mut c = Cluster::new([node("a", "4", "8Gi")]);
        c.place("a", pod("4", 0));
        let mut polite = pod("1", 10);
        polite["spec"]["preemptionPolicy"] = json!("Never");
        let (_, preemption) = try_it(&mut c, polite);
        assert!(matches!(preemption, Preemption::NotEligible(why)
                if why == "not eligible due to preemptionPolicy=Never."));
    }
}
