//! `topologySpreadConstraints`: how unevenly a set of pods may be spread over the values of a
//! node label (documentation "Pod Topology Spread Constraints"). Pods that say nothing are spread
//! by the cluster's defaults, as one of what their Services and controller select.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::selector::LabelSelector;

use super::{Check, Events, MAX_SCORE, Plugin, Prepare, Reason, Verdict, tolerates_node};
use crate::node::Node;
use crate::pod::{Pod, Spread};
use crate::snapshot::Snapshot;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

pub struct PodTopologySpread {
    /// For pods without constraints; their selectors are not looked at.
    pub defaults: Vec<Spread>,
    /// The defaults are upstream's: a node without one of the labels counts for the others.
    pub system: bool,
}

impl Default for PodTopologySpread {
    fn default() -> Self {
        Self {
            defaults: vec![Spread::wish(HOSTNAME, 3), Spread::wish(ZONE, 5)],
            system: true,
        }
    }
}

impl Spread {
    /// A constraint that only costs points.
    fn wish(topology_key: &str, max_skew: i64) -> Self {
        Self {
            max_skew,
            topology_key: topology_key.into(),
            required: false,
            selector: LabelSelector::nothing(),
            min_domains: 1,
            honors_affinity: true,
            honors_taints: false,
        }
    }
}

impl PodTopologySpread {
    /// The pod's constraints, or the defaults with its set.
    fn constraints<'a>(&self, pod: &'a Pod, snapshot: &Snapshot) -> Cow<'a, [Spread]> {
        if !pod.wants.spread.is_empty() || self.defaults.is_empty() {
            return Cow::Borrowed(&pod.wants.spread);
        }
        let Some(selector) = snapshot.selectors().of(pod) else {
            return Cow::Borrowed(&[]);
        };
        let defaults = self.defaults.iter().map(|default| Spread {
            selector: selector.clone(),
            ..default.clone()
        });
        Cow::Owned(defaults.collect())
    }
}

/// A required constraint with what there is now.
struct Required {
    /// Its place among the constraints.
    at: usize,
    /// Matching pods per value of the label.
    counts: HashMap<Arc<str>, i64>,
    /// How many values have how many pods: the first is the least.
    levels: BTreeMap<i64, usize>,
    min_domains: i64,
    /// One when the pod itself is of the set.
    own: i64,
}

struct Spreading<'a> {
    pod: &'a Pod,
    snapshot: &'a Snapshot,
    constraints: Cow<'a, [Spread]>,
    required: Vec<Required>,
    /// Nodes that lack one of the labels are out of it.
    all_labels: bool,
}

/// Whether another pod is of the set; those that are leaving do not count.
fn of_set(pod: &Pod, spread: &Spread, other: &Pod) -> bool {
    !other.terminating && other.namespace == pod.namespace && spread.selector.matches(&other.labels)
}

/// Counts the pods of the set on nodes.
struct Matching<'a> {
    pod: &'a Pod,
    spread: &'a Spread,
    place: Option<usize>,
}

impl<'a> Matching<'a> {
    fn new(pod: &'a Pod, spread: &'a Spread, snapshot: &Snapshot) -> Self {
        Self {
            pod,
            spread,
            place: snapshot.counted(&pod.namespace, &spread.selector),
        }
    }
    fn on(&self, node: &Node) -> i64 {
        if let Some(place) = self.place {
            return i64::from(node.count(place));
        }
        let pods = node.pods.iter();
        let pods = pods.filter(|p| of_set(self.pod, self.spread, p));
        i64::try_from(pods.count()).unwrap_or(i64::MAX)
    }
}

fn counts(pod: &Pod, spread: &Spread, node: &Node) -> bool {
    (!spread.honors_affinity || pod.wants.allows(&node.name, &node.labels))
        && (!spread.honors_taints || tolerates_node(&pod.wants.tolerations, node))
}

fn has_all<'a>(node: &Node, mut of: impl Iterator<Item = &'a Spread>) -> bool {
    of.all(|s| node.labels.get(&s.topology_key).is_some())
}

impl Required {
    fn new(at: usize, spread: &Spread, all: &[Spread], pod: &Pod, snapshot: &Snapshot) -> Self {
        let mut counts_by_value: HashMap<Arc<str>, i64> = HashMap::new();
        let matching = Matching::new(pod, spread, snapshot);
        let required = || all.iter().filter(|s| s.required);
        for node in snapshot.nodes().filter(|n| has_all(n, required())) {
            if let Some(value) = node.labels.get(&spread.topology_key)
                && counts(pod, spread, node)
            {
                let count = counts_by_value.entry(value.clone()).or_default();
                *count += matching.on(node);
            }
        }
        let mut levels = BTreeMap::new();
        for count in counts_by_value.values() {
            *levels.entry(*count).or_default() += 1;
        }
        Self {
            at,
            counts: counts_by_value,
            levels,
            min_domains: spread.min_domains,
            own: i64::from(spread.selector.matches(&pod.labels)),
        }
    }

    /// The pods where there are fewest; none while there are too few values.
    fn least(&self) -> i64 {
        let domains = i64::try_from(self.counts.len()).unwrap_or(i64::MAX);
        if domains < self.min_domains {
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

    fn check(&self, spread: &Spread, node: &Node) -> Verdict {
        let Some(value) = node.labels.get(&spread.topology_key) else {
            return Verdict::Never(Reason::one(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ));
        };
        let here = self.counts.get(value).copied().unwrap_or(0);
        if here + self.own - self.least() > spread.max_skew {
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
    /// One of a set that the pod is spread with.
    fn heeds(&self, pod: &Pod, other: &Pod, snapshot: &Snapshot) -> bool {
        let constraints = self.constraints(pod, snapshot);
        let mut required = constraints.iter().filter(|s| s.required);
        other.namespace == pod.namespace && required.any(|s| s.selector.matches(&other.labels))
    }
    fn index(&self, pod: &Pod, on: &mut Snapshot) {
        let mut last: Option<&LabelSelector> = None;
        for spread in self.constraints(pod, on).iter() {
            if last != Some(&spread.selector) {
                on.keep_count(&pod.namespace, &spread.selector);
                last = Some(&spread.selector);
            }
        }
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        let constraints = self.constraints(pod, snapshot);
        if constraints.is_empty() {
            return Ok(None);
        }
        let required = constraints.iter().enumerate().filter(|(_, s)| s.required);
        let required = required.map(|(at, s)| Required::new(at, s, &constraints, pod, snapshot));
        Ok(Some(Box::new(Spreading {
            required: required.collect(),
            pod,
            snapshot,
            constraints,
            all_labels: !pod.wants.spread.is_empty() || !self.system,
        })))
    }
}

impl Spreading<'_> {
    fn wished(&self) -> impl Iterator<Item = &Spread> {
        self.constraints.iter().filter(|s| !s.required)
    }

    fn is_in(&self, node: &Node) -> bool {
        !self.all_labels || has_all(node, self.wished())
    }

    /// Matching pods per value of the label, for values that a node to score has.
    fn wished_counts(&self, spread: &Spread, nodes: &[&Node]) -> HashMap<Arc<str>, i64> {
        let values = nodes
            .iter()
            .filter(|n| self.is_in(n))
            .filter_map(|n| n.labels.get(&spread.topology_key));
        let mut out: HashMap<Arc<str>, i64> = values.map(|v| (v.clone(), 0)).collect();
        let matching = Matching::new(self.pod, spread, self.snapshot);
        for node in self.snapshot.nodes() {
            let here = matching.on(node);
            if here > 0
                && self.is_in(node)
                && counts(self.pod, spread, node)
                && let Some(value) = node.labels.get(&spread.topology_key)
                && let Some(count) = out.get_mut(value)
            {
                *count += here;
            }
        }
        out
    }
}

impl Check for Spreading<'_> {
    fn filter(&self, node: &Node) -> Verdict {
        for required in &self.required {
            let Some(spread) = self.constraints.get(required.at) else {
                continue;
            };
            match required.check(spread, node) {
                Verdict::Fits => {}
                verdict => return verdict,
            }
        }
        Verdict::Fits
    }

    fn advice(&self, node: &Node) -> Option<String> {
        let texts = self.required.iter().filter_map(|required| {
            let spread = self.constraints.get(required.at)?;
            let key = &spread.topology_key;
            let Some(value) = node.labels.get(key) else {
                return Some(format!("label it with {key}"));
            };
            if required.check(spread, node) == Verdict::Fits {
                return None;
            }
            let here = required.counts.get(value).copied().unwrap_or(0);
            let (least, most) = (required.least(), spread.max_skew);
            Some(format!(
                "{here} pods of its set are in {key}={value} and {least} where there are fewest, \
                 with maxSkew {most}"
            ))
        });
        let texts: Vec<String> = texts.collect();
        (!texts.is_empty()).then(|| texts.join(" and "))
    }

    fn moved(&mut self, other: &Pod, node: &Node, came: bool) {
        let pod = self.pod;
        let all = self.constraints.iter().filter(|s| s.required);
        if self.required.is_empty() || !has_all(node, all) {
            return;
        }
        let by = if came { 1 } else { -1 };
        for required in &mut self.required {
            if let Some(spread) = self.constraints.get(required.at)
                && of_set(pod, spread, other)
                && counts(pod, spread, node)
                && let Some(value) = node.labels.get(&spread.topology_key)
            {
                required.count(value, by);
            }
        }
    }

    /// Fewer pods of the set are better; values of which there are many weigh more.
    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        if self.wished().next().is_none() {
            return false;
        }
        let mut sums = vec![0f64; nodes.len()];
        for spread in self.wished() {
            let by_node = &*spread.topology_key == HOSTNAME;
            let by_value = if by_node {
                HashMap::new()
            } else {
                self.wished_counts(spread, nodes)
            };
            let mut scored = nodes.iter().filter(|n| self.is_in(n));
            let values = if by_node {
                scored.count()
            } else {
                // Those without the label are together one more.
                let lacks = |n: &&Node| n.labels.get(&spread.topology_key).is_none();
                by_value.len() + usize::from(scored.any(lacks))
            };
            let weight = ((values + 2) as f64).ln();
            let matching = Matching::new(self.pod, spread, self.snapshot);
            for (node, sum) in nodes.iter().zip(&mut sums) {
                let Some(value) = node.labels.get(&spread.topology_key) else {
                    continue;
                };
                let count = if by_node {
                    matching.on(node)
                } else {
                    by_value.get(value).copied().unwrap_or(0)
                };
                *sum += count as f64 * weight + (spread.max_skew - 1) as f64;
            }
        }
        let complete: Vec<Option<i64>> = nodes
            .iter()
            .zip(&sums)
            .map(|(n, s)| self.is_in(n).then_some(s.round() as i64))
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
mod tests;
