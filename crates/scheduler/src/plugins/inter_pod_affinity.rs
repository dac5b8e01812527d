//! Pods that want to be, or must be, with or apart from other pods
//! (documentation "Inter-pod affinity and anti-affinity"). Required anti-affinity and all
//! preferences hold both ways: those of pods that are there already count, too.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::{Check, Events, MAX_SCORE, Plugin, Prepare, Reason, Verdict};
use crate::node::Node;
use crate::pod::Pod;
use crate::selector_terms::PodTerm;
use crate::snapshot::Snapshot;
use crate::tally::{Says, Values, count};

pub struct InterPodAffinity {
    /// What a required affinity of a pod that is there counts as a wish to have the new one near.
    pub hard_weight: i64,
    /// Wishes of pods that are there do not count for pods without terms of their own.
    pub ignore_wishes_of_others: bool,
}

impl Default for InterPodAffinity {
    fn default() -> Self {
        Self {
            hard_weight: 1,
            ignore_wishes_of_others: false,
        }
    }
}

/// Pods per value of a label, as they are and as a trial moves them.
struct Counts<'a> {
    there: Cow<'a, Values>,
    moved: Values,
    all: i64,
}

impl<'a> Counts<'a> {
    fn new(there: Cow<'a, Values>) -> Self {
        Self {
            all: there.values().sum(),
            there,
            moved: Values::new(),
        }
    }
    fn get(&self, value: &Arc<str>) -> i64 {
        let there = self.there.get(value).copied().unwrap_or(0);
        there + self.moved.get(value).copied().unwrap_or(0)
    }
    fn add(&mut self, value: &Arc<str>, by: i64) {
        count(&mut self.moved, value, by);
        self.all += by;
    }
}

/// Each term with the pods that all of these terms mean.
fn ask<'a>(terms: &'a [Arc<PodTerm>], snapshot: &'a Snapshot) -> Vec<(&'a PodTerm, Counts<'a>)> {
    let values: Vec<Cow<'a, Values>> = match snapshot.ask(terms) {
        Cow::Borrowed(known) => known.iter().map(Cow::Borrowed).collect(),
        Cow::Owned(own) => own.into_iter().map(Cow::Owned).collect(),
    };
    let terms = terms.iter().map(|t| &**t);
    terms.zip(values.into_iter().map(Counts::new)).collect()
}

struct Affinity<'a> {
    plugin: &'a InterPodAffinity,
    pod: &'a Pod,
    snapshot: &'a Snapshot,
    /// For each required affinity term, where there are pods that match all terms.
    near: Vec<(&'a PodTerm, Counts<'a>)>,
    /// It would be the first of pods that want to be with each other.
    fits_itself: bool,
    /// For each required anti-affinity term, where there are pods that it must not be with.
    apart: Vec<(&'a PodTerm, Counts<'a>)>,
    /// By label: where there are pods that must not be with it.
    shunned: HashMap<&'a str, Vec<&'a Values>>,
    /// The same, as a trial moves them.
    shunned_moved: HashMap<Arc<str>, Values>,
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
    /// One that the pod's terms mean, or whose terms mean the pod.
    fn heeds(&self, pod: &Pod, other: &Pod, snapshot: &Snapshot) -> bool {
        let means = |term: &PodTerm, pod: &Pod| {
            term.matches(&pod.namespace, &pod.labels, |n| {
                snapshot.namespace_labels(n)
            })
        };
        let mut own = pod.wants.near.iter().chain(&pod.wants.apart);
        own.any(|term| means(term, other)) || other.wants.apart.iter().any(|term| means(term, pod))
    }
    fn index(&self, pod: &Pod, on: &mut Snapshot) {
        let wants = &pod.wants;
        if !wants.near.is_empty() {
            on.keep_answer(&wants.near);
        }
        let preferred = wants.near_preferred.iter().chain(&wants.apart_preferred);
        for term in wants.apart.iter().chain(preferred.map(|(_, t)| t)) {
            on.keep_answer(std::slice::from_ref(term));
        }
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        if !pod.wants.has_pod_terms() && snapshot.terms().is_empty() {
            return Ok(None);
        }
        let wants = &pod.wants;
        let one = |t: &'a Arc<PodTerm>| ask(std::slice::from_ref(t), snapshot);
        let mut out = Affinity {
            plugin: self,
            pod,
            snapshot,
            near: if wants.near.is_empty() {
                Vec::new()
            } else {
                ask(&wants.near, snapshot)
            },
            fits_itself: false,
            apart: wants.apart.iter().flat_map(one).collect(),
            shunned: HashMap::new(),
            shunned_moved: HashMap::new(),
        };
        out.fits_itself = wants.near.iter().all(|t| out.means(t, pod));
        for (term, says, values) in snapshot.terms().iter() {
            if says == Says::Apart && out.means(term, pod) {
                let of_label = out.shunned.entry(&term.topology_key).or_default();
                of_label.push(values);
            }
        }
        Ok(Some(Box::new(out)))
    }
}

/// What a wish is worth, by values of its label.
struct WeightedTerm<'a> {
    label: &'a str,
    weight: i64,
    values: Cow<'a, Values>,
}

impl<'a> Affinity<'a> {
    fn means(&self, term: &PodTerm, pod: &Pod) -> bool {
        let snapshot = self.snapshot;
        term.matches(&pod.namespace, &pod.labels, |n| {
            snapshot.namespace_labels(n)
        })
    }

    fn is_near(&self, node: &Node) -> bool {
        let mut all = true;
        for (term, counts) in &self.near {
            match node.labels.get(&term.topology_key) {
                None => return false,
                Some(value) => all &= counts.get(value) > 0,
            }
        }
        all || (self.fits_itself && self.near.iter().all(|(_, counts)| counts.all == 0))
    }

    fn is_apart(&self, node: &Node) -> bool {
        self.apart.iter().all(|(term, counts)| {
            let value = node.labels.get(&term.topology_key);
            value.is_none_or(|v| counts.get(v) <= 0)
        })
    }

    fn is_shunned(&self, node: &Node) -> bool {
        let moved = |label: &str, value: &Arc<str>| {
            let values = self.shunned_moved.get(label);
            values.and_then(|v| v.get(value)).copied().unwrap_or(0)
        };
        let there = self.shunned.iter().any(|(label, all)| {
            node.labels.get(label).is_some_and(|value| {
                let there: i64 = all.iter().filter_map(|v| v.get(value)).sum();
                there + moved(label, value) > 0
            })
        });
        there
            || self.shunned_moved.iter().any(|(label, values)| {
                let new = !self.shunned.contains_key(&**label);
                let value = node.labels.get(label).filter(|_| new);
                value.is_some_and(|v| values.get(v).is_some_and(|n| *n > 0))
            })
    }

    /// A pod in the node's domain that stands in the way.
    fn culprit(&self, key: &str, node: &Node, is: impl Fn(&Pod) -> bool) -> Option<String> {
        let value = node.labels.get(key)?;
        let domain = self.snapshot.nodes();
        let domain = domain.filter(|n| n.labels.get(key) == Some(value));
        let mut pods = domain.flat_map(|n| &n.pods).filter(|p| is(p));
        let pod = pods.next()?;
        Some(format!(
            "without pod {}/{} in {key}={value}",
            pod.namespace, pod.name
        ))
    }

    /// The pod's wishes, and those of others about the pod.
    fn wishes(&self) -> Vec<WeightedTerm<'a>> {
        let (wants, snapshot) = (&self.pod.wants, self.snapshot);
        let near = wants.near_preferred.iter().map(|(w, t)| (*w, t));
        let apart = wants.apart_preferred.iter().map(|(w, t)| (-w, t));
        let mut out = Vec::new();
        for (weight, term) in near.chain(apart) {
            for (term, counts) in ask(std::slice::from_ref(term), snapshot) {
                out.push(WeightedTerm {
                    label: &term.topology_key,
                    weight,
                    values: counts.there,
                });
            }
        }
        if self.plugin.ignore_wishes_of_others && out.is_empty() {
            return out;
        }
        for (term, says, values) in snapshot.terms().iter() {
            let weight = match says {
                Says::Apart => continue,
                Says::Near => self.plugin.hard_weight,
                Says::Wish(weight) => weight,
            };
            if self.means(term, self.pod) {
                out.push(WeightedTerm {
                    label: &term.topology_key,
                    weight,
                    values: Cow::Borrowed(values),
                });
            }
        }
        out
    }
}

impl Check for Affinity<'_> {
    fn filter(&self, node: &Node) -> Verdict {
        if !self.is_near(node) {
            return Verdict::Never(Reason::one("node(s) didn't match pod affinity rules"));
        }
        if !self.is_apart(node) {
            return Verdict::NotNow(Reason::one("node(s) didn't match pod anti-affinity rules"));
        }
        if self.is_shunned(node) {
            return Verdict::NotNow(Reason::one(
                "node(s) didn't satisfy existing pods anti-affinity rules",
            ));
        }
        Verdict::Fits
    }

    fn advice(&self, node: &Node) -> Option<String> {
        if !self.is_near(node) {
            let labels = self.near.iter().map(|(t, _)| &*t.topology_key);
            let labels: Vec<&str> = labels.collect();
            return Some(format!(
                "a pod that its affinity means, with the same {}",
                labels.join(" and ")
            ));
        }
        let own = self.apart.iter().map(|(term, _)| *term);
        let own = own.filter_map(|term| {
            self.culprit(&term.topology_key, node, |other| self.means(term, other))
        });
        let keys = self.shunned.keys().copied();
        let others = keys.filter_map(|key| {
            self.culprit(key, node, |other| {
                let mut apart = other.wants.apart.iter();
                apart.any(|t| &*t.topology_key == key && self.means(t, self.pod))
            })
        });
        own.chain(others).next()
    }

    fn moved(&mut self, other: &Pod, node: &Node, came: bool) {
        let by = if came { 1 } else { -1 };
        let (pod, snapshot) = (self.pod, self.snapshot);
        let means = |term: &PodTerm, pod: &Pod| {
            term.matches(&pod.namespace, &pod.labels, |n| {
                snapshot.namespace_labels(n)
            })
        };
        if self.near.iter().all(|(t, _)| means(t, other)) {
            for (term, counts) in &mut self.near {
                if let Some(value) = node.labels.get(&term.topology_key) {
                    counts.add(value, by);
                }
            }
        }
        for (term, counts) in &mut self.apart {
            if means(term, other)
                && let Some(value) = node.labels.get(&term.topology_key)
            {
                counts.add(value, by);
            }
        }
        for term in &other.wants.apart {
            if means(term, pod)
                && let Some(value) = node.labels.get(&term.topology_key)
            {
                let label = term.topology_key.clone();
                count(self.shunned_moved.entry(label).or_default(), value, by);
            }
        }
    }

    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        let mut wishes = self.wishes();
        wishes.retain(|w| !w.values.is_empty());
        if wishes.is_empty() {
            return false;
        }
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            let points = wishes.iter().filter_map(|wish| {
                let value = node.labels.get(wish.label)?;
                Some(wish.values.get(value)? * wish.weight)
            });
            *score = points.sum();
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
                verdicts(&InterPodAffinity::default(), &c, pod.clone()),
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
            verdicts(&InterPodAffinity::default(), &c, web),
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
        assert_eq!(scores(&InterPodAffinity::default(), &c, wish), [100, 0, 10]);
    }
}
