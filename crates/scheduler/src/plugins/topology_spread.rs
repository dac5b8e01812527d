//! `topologySpreadConstraints`: how unevenly a set of pods may be spread over the values of a
//! node label (documentation "Pod Topology Spread Constraints").

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Check, Events, MAX_SCORE, Plugin, Prepare, Reason, Verdict, tolerates_node};
use crate::node::Node;
use crate::pod::{Pod, Spread};
use crate::snapshot::Snapshot;

pub struct PodTopologySpread;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// A required constraint with what there is now.
struct Required<'a> {
    spread: &'a Spread,
    /// Matching pods per value of the label.
    counts: HashMap<Arc<str>, i64>,
    /// How many values have how many pods: the first is the least.
    levels: BTreeMap<i64, usize>,
    /// One when the pod itself is of the set.
    own: i64,
}

struct Spreading<'a> {
    pod: &'a Pod,
    snapshot: &'a Snapshot,
    required: Vec<Required<'a>>,
    wished: Vec<&'a Spread>,
}

/// Whether another pod is of the set; those that are leaving do not count.
fn of_set(pod: &Pod, spread: &Spread, other: &Pod) -> bool {
    !other.terminating && other.namespace == pod.namespace && spread.selector.matches(&other.labels)
}

/// Pods of the set on a node.
fn matching(pod: &Pod, spread: &Spread, node: &Node) -> i64 {
    let pods = node.pods.iter().filter(|p| of_set(pod, spread, p));
    i64::try_from(pods.count()).unwrap_or(i64::MAX)
}

fn counts(pod: &Pod, spread: &Spread, node: &Node) -> bool {
    (!spread.honors_affinity || pod.wants.allows(&node.name, &node.labels))
        && (!spread.honors_taints || tolerates_node(&pod.wants.tolerations, node))
}

fn has_all<'a>(node: &Node, mut of: impl Iterator<Item = &'a Spread>) -> bool {
    of.all(|s| node.labels.get(&s.topology_key).is_some())
}

impl<'a> Required<'a> {
    fn new(spread: &'a Spread, pod: &Pod, snapshot: &Snapshot) -> Self {
        let mut counts_by_value: HashMap<Arc<str>, i64> = HashMap::new();
        let all = || pod.wants.spread.iter().filter(|s| s.required);
        for node in snapshot.nodes().filter(|n| has_all(n, all())) {
            if let Some(value) = node.labels.get(&spread.topology_key)
                && counts(pod, spread, node)
            {
                let count = counts_by_value.entry(value.clone()).or_default();
                *count += matching(pod, spread, node);
            }
        }
        let mut levels = BTreeMap::new();
        for count in counts_by_value.values() {
            *levels.entry(*count).or_default() += 1;
        }
        Self {
            spread,
            counts: counts_by_value,
            levels,
            own: i64::from(spread.selector.matches(&pod.labels)),
        }
    }

    /// The pods where there are fewest; none while there are too few values.
    fn least(&self) -> i64 {
        let domains = i64::try_from(self.counts.len()).unwrap_or(i64::MAX);
        if domains < self.spread.min_domains {
            return 0;
        }
        self.levels.first_key_value().map_or(0, |(least, _)| *least)
    }

    fn count(&mut self, value: &Arc<str>, by: i64) {
        let Some(count) = self.counts.get_mut(value) else {
            return;
        };
        let before = *count;
        *count += by;
        let after = *count;
        *self.levels.entry(after).or_default() += 1;
        if let Some(values) = self.levels.get_mut(&before) {
            *values = values.saturating_sub(1);
            if *values == 0 {
                self.levels.remove(&before);
            }
        }
    }

    fn check(&self, node: &Node) -> Verdict {
        let Some(value) = node.labels.get(&self.spread.topology_key) else {
            return Verdict::Never(Reason::one(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ));
        };
        let here = self.counts.get(value).copied().unwrap_or(0);
        if here + self.own - self.least() > self.spread.max_skew {
            return Verdict::NotNow(Reason::one(
                "node(s) didn't match pod topology spread constraints",
            ));
        }
        Verdict::Fits
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
            .with(Events::NODE_LABELS)
            .with(Events::NODE_TAINTS)
            .with(Events::POD_ADDED)
            .with(Events::POD_REMOVED)
    }
    fn prepare<'a>(&self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        if pod.wants.spread.is_empty() {
            return Ok(None);
        }
        let (required, wished): (Vec<_>, Vec<_>) =
            pod.wants.spread.iter().partition(|s| s.required);
        let required = required
            .into_iter()
            .map(|s| Required::new(s, pod, snapshot))
            .collect();
        Ok(Some(Box::new(Spreading {
            pod,
            snapshot,
            required,
            wished,
        })))
    }
}

impl Spreading<'_> {
    /// Matching pods per value of the label, for values that a node to score has.
    fn wished_counts(&self, spread: &Spread, nodes: &[&Node]) -> HashMap<Arc<str>, i64> {
        let values = nodes
            .iter()
            .filter(|n| has_all(n, self.wished.iter().copied()))
            .filter_map(|n| n.labels.get(&spread.topology_key));
        let mut out: HashMap<Arc<str>, i64> = values.map(|v| (v.clone(), 0)).collect();
        if &*spread.topology_key == HOSTNAME {
            // Counted node by node when it is scored.
            return out;
        }
        for node in self.snapshot.nodes() {
            if has_all(node, self.wished.iter().copied())
                && counts(self.pod, spread, node)
                && let Some(value) = node.labels.get(&spread.topology_key)
                && let Some(count) = out.get_mut(value)
            {
                *count += matching(self.pod, spread, node);
            }
        }
        out
    }
}

impl Check for Spreading<'_> {
    fn filter(&self, node: &Node) -> Verdict {
        self.required
            .iter()
            .map(|r| r.check(node))
            .find(|v| *v != Verdict::Fits)
            .unwrap_or(Verdict::Fits)
    }

    fn moved(&mut self, other: &Pod, node: &Node, came: bool) {
        let pod = self.pod;
        let all = pod.wants.spread.iter().filter(|s| s.required);
        if self.required.is_empty() || !has_all(node, all) {
            return;
        }
        let by = if came { 1 } else { -1 };
        for required in &mut self.required {
            let spread = required.spread;
            if of_set(pod, spread, other)
                && counts(pod, spread, node)
                && let Some(value) = node.labels.get(&spread.topology_key)
            {
                required.count(value, by);
            }
        }
    }

    /// Fewer pods of the set are better; values of which there are many weigh more.
    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        if self.wished.is_empty() {
            return false;
        }
        let mut sums = vec![0f64; nodes.len()];
        for spread in &self.wished {
            let by_value = self.wished_counts(spread, nodes);
            let weight = ((by_value.len() + 2) as f64).ln();
            for (node, sum) in nodes.iter().zip(&mut sums) {
                let Some(value) = node.labels.get(&spread.topology_key) else {
                    continue;
                };
                let count = if &*spread.topology_key == HOSTNAME {
                    matching(self.pod, spread, node)
                } else {
                    by_value.get(value).copied().unwrap_or(0)
                };
                *sum += count as f64 * weight + (spread.max_skew - 1) as f64;
            }
        }
        let complete: Vec<Option<i64>> = nodes
            .iter()
            .zip(&sums)
            .map(|(n, s)| has_all(n, self.wished.iter().copied()).then_some(s.round() as i64))
            .collect();
        let most = complete.iter().flatten().copied().max().unwrap_or(0);
        let least = complete.iter().flatten().copied().min().unwrap_or(0);
        for (score, sum) in scores.iter_mut().zip(complete) {
            *score = match sum {
                None => 0,
                Some(_) if most == 0 => MAX_SCORE,
                Some(sum) => MAX_SCORE * (most + least - sum) / most,
            };
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Cluster, scores, verdicts};

    /// Zones a (two web pods on a1, none on a2), b (one) and a node without zone.
    fn cluster() -> Cluster {
        let node =
            |name: &str, zone: &str| json!({"metadata": {"name": name, "labels": {"zone": zone}}});
        let mut c = Cluster::new([
            node("a1", "a"),
            node("a2", "a"),
            node("b1", "b"),
            json!({"metadata": {"name": "none"}}),
        ]);
        let web = json!({"metadata": {"labels": {"app": "web"}}});
        for node in ["a1", "a1", "b1"] {
            c.place(node, web.clone());
        }
        c.place("b1", json!({"metadata": {"labels": {"app": "db"}}}));
        c.place(
            "b1",
            json!({"metadata": {"labels": {"app": "web"}, "namespace": "other"}}),
        );
        c
    }

    fn pod(skew: i64, when: &str, more: Value) -> Value {
        let mut spread = json!({"maxSkew": skew, "topologyKey": "zone",
            "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "web"}}});
        for (k, v) in more.as_object().into_iter().flatten() {
            spread[k] = v.clone();
        }
        json!({"metadata": {"labels": {"app": "web"}},
               "spec": {"topologySpreadConstraints": [spread]}})
    }

    #[test]
    fn required_constraints_limit_the_skew() {
        let full = "not now, node(s) didn't match pod topology spread constraints";
        let missing = "never, node(s) didn't match pod topology spread constraints \
                       (missing required label)";
        let cases = [
            (1, json!({}), [full, "fits"]),
            (2, json!({}), ["fits", "fits"]),
            // Two zones are fewer than three: the least counts as none.
            (2, json!({"minDomains": 3}), [full, "fits"]),
        ];
        for (skew, more, [a, b]) in cases {
            assert_eq!(
                verdicts(
                    &PodTopologySpread,
                    &cluster(),
                    pod(skew, "DoNotSchedule", more)
                ),
                format!("a1: {a}\na2: {a}\nb1: {b}\nnone: {missing}")
            );
        }
    }

    #[test]
    fn wished_constraints_prefer_emptier_zones() {
        let out = scores(
            &PodTopologySpread,
            &cluster(),
            pod(1, "ScheduleAnyway", json!({})),
        );
        assert_eq!(out, [33, 33, 100, 0]);
    }

    #[test]
    fn pods_without_constraints_cost_nothing() {
        assert_eq!(
            verdicts(&PodTopologySpread, &cluster(), json!({})),
            "nothing to say"
        );
    }
}
