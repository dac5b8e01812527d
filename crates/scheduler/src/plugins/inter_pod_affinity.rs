//! Pods that want to be, or must be, with or apart from other pods
//! (documentation "Inter-pod affinity and anti-affinity"). Required anti-affinity and all
//! preferences hold both ways: those of pods that are there already count, too.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Check, Events, MAX_SCORE, Plugin, Prepare, Reason, Verdict};
use crate::node::Node;
use crate::pod::Pod;
use crate::selector_terms::PodTerm;
use crate::snapshot::Snapshot;

/// What a required affinity of a pod that is there counts as a wish to have the new one near.
const REQUIRED_AS_WISH: i64 = 1;

pub struct InterPodAffinity;

/// How often each value of a label was met.
type Values = HashMap<Arc<str>, i64>;
/// Labels and their values.
type Pairs = HashMap<Arc<str>, Values>;

struct Affinity<'a> {
    pod: &'a Pod,
    snapshot: &'a Snapshot,
    /// For each required affinity term, where there are pods that match all terms.
    near: Vec<(&'a PodTerm, Values)>,
    /// It would be the first of pods that want to be with each other.
    fits_itself: bool,
    /// Where there are pods that it must not be with.
    apart: Pairs,
    /// Where there are pods that must not be with it.
    shunned: Pairs,
}

fn note(pairs: &mut Pairs, term: &PodTerm, node: &Node, by: i64) {
    if let Some(value) = node.labels.get(&term.topology_key) {
        count(
            pairs.entry(term.topology_key.clone()).or_default(),
            value,
            by,
        );
    }
}

fn count(values: &mut Values, value: &Arc<str>, by: i64) {
    let times = values.entry(value.clone()).or_default();
    *times += by;
    if *times == 0 {
        values.remove(value);
    }
}

fn within(pairs: &Pairs, node: &Node) -> bool {
    pairs
        .iter()
        .any(|(key, values)| node.labels.get(key).is_some_and(|v| values.contains_key(v)))
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
            .with(Events::NODE_LABELS)
            .with(Events::POD_ADDED)
            .with(Events::POD_REMOVED)
            .with(Events::NAMESPACE_LABELS)
    }
    fn prepare<'a>(&self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        if !pod.wants.has_pod_terms() && !snapshot.any_pods_with_terms() {
            return Ok(None);
        }
        let mut out = Affinity {
            pod,
            snapshot,
            near: pod.wants.near.iter().map(|t| (t, Values::new())).collect(),
            fits_itself: false,
            apart: Pairs::new(),
            shunned: Pairs::new(),
        };
        out.look_at_pods();
        out.look_at_terms_of_others();
        Ok(Some(Box::new(out)))
    }
}

impl<'a> Affinity<'a> {
    /// What the pod's own required terms say about the pods that are there.
    fn look_at_pods(&mut self) {
        let (pod, snapshot) = (self.pod, self.snapshot);
        if pod.wants.near.is_empty() && pod.wants.apart.is_empty() {
            return;
        }
        for node in snapshot.nodes() {
            for other in &node.pods {
                self.own_terms(other, node, 1);
            }
        }
        let mut near = pod.wants.near.iter();
        self.fits_itself = near.all(|t| self.means(t, pod));
    }

    fn look_at_terms_of_others(&mut self) {
        for (other, node) in self.snapshot.pods_with_terms() {
            self.terms_of(other, node, 1);
        }
    }

    fn means(&self, term: &PodTerm, pod: &Pod) -> bool {
        let snapshot = self.snapshot;
        term.matches(&pod.namespace, &pod.labels, |n| {
            snapshot.namespace_labels(n)
        })
    }

    /// Counts another pod where the pod's own terms mean it.
    fn own_terms(&mut self, other: &Pod, node: &Node, by: i64) {
        let wants = &self.pod.wants;
        if !wants.near.is_empty() && wants.near.iter().all(|t| self.means(t, other)) {
            for (term, values) in &mut self.near {
                if let Some(value) = node.labels.get(&term.topology_key) {
                    count(values, value, by);
                }
            }
        }
        for term in &wants.apart {
            if self.means(term, other) {
                note(&mut self.apart, term, node, by);
            }
        }
    }

    /// Counts where another pod's terms mean the pod.
    fn terms_of(&mut self, other: &Pod, node: &Node, by: i64) {
        for term in &other.wants.apart {
            if self.means(term, self.pod) {
                note(&mut self.shunned, term, node, by);
            }
        }
    }

    fn is_near(&self, node: &Node) -> bool {
        let mut all = true;
        for (term, values) in &self.near {
            match node.labels.get(&term.topology_key) {
                None => return false,
                Some(value) => all &= values.contains_key(value),
            }
        }
        all || (self.fits_itself && self.near.iter().all(|(_, values)| values.is_empty()))
    }

    /// Points per label and value: of the pod's wishes, and of others' wishes about the pod.
    fn points(&self) -> HashMap<(&'a Arc<str>, Arc<str>), i64> {
        let (pod, snapshot) = (self.pod, self.snapshot);
        let mut points = HashMap::new();
        let mut add = |term: &'a PodTerm, weight: i64, about: &Pod, node: &Node| {
            if let Some(value) = node.labels.get(&term.topology_key)
                && term.matches(&about.namespace, &about.labels, |n| {
                    snapshot.namespace_labels(n)
                })
            {
                *points
                    .entry((&term.topology_key, value.clone()))
                    .or_default() += weight;
            }
        };
        let wants = &pod.wants;
        if !wants.near_preferred.is_empty() || !wants.apart_preferred.is_empty() {
            for node in snapshot.nodes() {
                for other in &node.pods {
                    for (weight, term) in &wants.near_preferred {
                        add(term, *weight, other, node);
                    }
                    for (weight, term) in &wants.apart_preferred {
                        add(term, -weight, other, node);
                    }
                }
            }
        }
        for (other, node) in snapshot.pods_with_terms() {
            for term in &other.wants.near {
                add(term, REQUIRED_AS_WISH, pod, node);
            }
            for (weight, term) in &other.wants.near_preferred {
                add(term, *weight, pod, node);
            }
            for (weight, term) in &other.wants.apart_preferred {
                add(term, -weight, pod, node);
            }
        }
        points
    }
}

impl Check for Affinity<'_> {
    fn filter(&self, node: &Node) -> Verdict {
        if !self.is_near(node) {
            return Verdict::Never(Reason::one("node(s) didn't match pod affinity rules"));
        }
        if within(&self.apart, node) {
            return Verdict::NotNow(Reason::one("node(s) didn't match pod anti-affinity rules"));
        }
        if within(&self.shunned, node) {
            return Verdict::NotNow(Reason::one(
                "node(s) didn't satisfy existing pods anti-affinity rules",
            ));
        }
        Verdict::Fits
    }

    fn moved(&mut self, other: &Pod, node: &Node, came: bool) {
        let by = if came { 1 } else { -1 };
        self.own_terms(other, node, by);
        self.terms_of(other, node, by);
    }

    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        let points = self.points();
        if points.is_empty() {
            return false;
        }
        let mut by_label: HashMap<&Arc<str>, HashMap<Arc<str>, i64>> = HashMap::new();
        for ((label, value), weight) in points {
            by_label.entry(label).or_default().insert(value, weight);
        }
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            let labels = by_label.iter().filter_map(|(label, values)| {
                let value = node.labels.get(label)?;
                values.get(value)
            });
            *score = labels.sum();
        }
        let most = scores.iter().copied().max().unwrap_or(0);
        let least = scores.iter().copied().min().unwrap_or(0);
        for score in scores {
            *score = match most - least {
                0 => 0,
                range => MAX_SCORE * (*score - least) / range,
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

    fn cluster() -> Cluster {
        let node = |name: &str, zone: &str| json!({"metadata": {"name": name, "labels": {"zone": zone, "host": name}}});
        Cluster::new([node("a1", "a"), node("a2", "a"), node("b1", "b")])
    }

    fn term(key: &str, app: &str) -> Value {
        json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}})
    }

    fn pod(app: &str, kind: &str, term: &Value) -> Value {
        json!({"metadata": {"labels": {"app": app}}, "spec": {"affinity": {
            kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
    }

    #[test]
    fn required_terms_bind_and_part() {
        let far = "never, node(s) didn't match pod affinity rules";
        let close = "not now, node(s) didn't match pod anti-affinity rules";
        let (near, apart) = ("podAffinity", "podAntiAffinity");
        let mut elsewhere = term("zone", "db");
        elsewhere["namespaces"] = json!(["other"]);
        let mut anywhere = term("zone", "db");
        anywhere["namespaceSelector"] = json!({});
        let cases = [
            (pod("web", near, &term("zone", "db")), ["fits", "fits", far]),
            (pod("web", near, &term("host", "db")), ["fits", far, far]),
            (pod("web", near, &term("rack", "db")), [far, far, far]),
            (pod("web", near, &elsewhere), [far, far, far]),
            (pod("web", near, &anywhere), ["fits", "fits", far]),
            // The first of a set that wants to be together.
            (pod("web", near, &term("zone", "web")), ["fits"; 3]),
            (
                pod("web", apart, &term("zone", "db")),
                [close, close, "fits"],
            ),
            (
                pod("web", apart, &term("host", "db")),
                [close, "fits", "fits"],
            ),
        ];
        for (pod, [a1, a2, b1]) in cases {
            let mut c = cluster();
            c.place("a1", json!({"metadata": {"labels": {"app": "db"}}}));
            assert_eq!(
                verdicts(&InterPodAffinity, &c, pod.clone()),
                format!("a1: {a1}\na2: {a2}\nb1: {b1}"),
                "{pod}"
            );
        }
    }

    #[test]
    fn pods_that_are_there_keep_others_away() {
        let mut c = cluster();
        c.place("a1", pod("db", "podAntiAffinity", &term("zone", "web")));
        let shunned = "not now, node(s) didn't satisfy existing pods anti-affinity rules";
        let web = json!({"metadata": {"labels": {"app": "web"}}, "spec": {}});
        assert_eq!(
            verdicts(&InterPodAffinity, &c, web),
            format!("a1: {shunned}\na2: {shunned}\nb1: fits")
        );
    }

    #[test]
    fn wishes_of_both_sides_count() {
        let mut c = cluster();
        c.place("a1", json!({"metadata": {"labels": {"app": "db"}}}));
        c.place("b1", pod("cache", "podAffinity", &term("host", "web")));
        let wish = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"affinity": {
            "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 10, "podAffinityTerm": term("host", "db")}]}}}});
        assert_eq!(scores(&InterPodAffinity, &c, wish), [100, 0, 10]);
    }
}
