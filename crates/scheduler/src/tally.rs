//! Counts that decisions ask for again and again, kept while pods come and go: so no decision walks
//! through all pods. What was not asked for lately is forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use api::selector::LabelSelector;

use crate::interned::Labels;
use crate::node::Node;
use crate::pod::Pod;
use crate::selector_terms::PodTerm;

/// Sets of pods that are counted per node: each costs four bytes a node, and a comparison for each
/// pod of its namespace that comes or goes.
const SETS: usize = 256;
/// Lists of terms that are counted per value of their label: each costs a comparison for each pod.
const QUESTIONS: usize = 128;

/// How many pods there are for each value of a label.
pub type Values = HashMap<Arc<str>, i64>;

pub fn count(values: &mut Values, value: &Arc<str>, by: i64) {
    let times = values.entry(value.clone()).or_default();
    *times += by;
    if *times == 0 {
        values.remove(value);
    }
}

/// Pods of a namespace that a selector means, without those that are leaving: per node.
#[derive(Default)]
pub struct Sets {
    by_namespace: HashMap<Arc<str>, Vec<Set>>,
    /// When each place of a node's counts was asked for last; none for one that is free.
    used: Vec<Option<u64>>,
    clock: u64,
}

struct Set {
    selector: LabelSelector,
    /// Its place in each node's counts.
    place: usize,
}

fn is_of(selector: &LabelSelector, pod: &Pod) -> bool {
    !pod.terminating && selector.matches(&pod.labels)
}

impl Sets {
    pub fn place(&self, namespace: &str, selector: &LabelSelector) -> Option<usize> {
        let sets = self.by_namespace.get(namespace)?;
        let set = sets.iter().find(|s| s.selector == *selector);
        set.map(|s| s.place)
    }

    /// Keeps the count from now on.
    pub fn keep(&mut self, namespace: &Arc<str>, selector: &LabelSelector, nodes: &mut [Node]) {
        self.clock += 1;
        let clock = self.clock;
        if let Some(place) = self.place(namespace, selector) {
            if let Some(used) = self.used.get_mut(place) {
                *used = Some(clock);
            }
            return;
        }
        let place = self.free_place();
        if let Some(used) = self.used.get_mut(place) {
            *used = Some(clock);
        }
        for node in nodes {
            let of = |p: &&Arc<Pod>| p.namespace == *namespace && is_of(selector, p);
            let count = node.pods.iter().filter(of).count();
            node.set_count(place, u32::try_from(count).unwrap_or(u32::MAX));
        }
        let sets = self.by_namespace.entry(namespace.clone()).or_default();
        sets.push(Set {
            selector: selector.clone(),
            place,
        });
    }

    /// A new place, or that of the set that was not asked for the longest.
    fn free_place(&mut self) -> usize {
        if self.used.len() < SETS {
            self.used.push(None);
            return self.used.len() - 1;
        }
        let oldest = self.used.iter().enumerate().min_by_key(|(_, used)| **used);
        let place = oldest.map_or(0, |(place, _)| place);
        self.by_namespace.retain(|_, sets| {
            sets.retain(|s| s.place != place);
            !sets.is_empty()
        });
        place
    }

    /// A pod came to a node, or left it.
    pub fn moved(&self, pod: &Pod, node: &mut Node, came: bool) {
        for set in self.by_namespace.get(&pod.namespace).into_iter().flatten() {
            if is_of(&set.selector, pod) {
                let before = node.count(set.place);
                let after = if came {
                    before.saturating_add(1)
                } else {
                    before.saturating_sub(1)
                };
                node.set_count(set.place, after);
            }
        }
    }
}

/// What a pod that is on a node says about others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Says {
    /// None of them must be near.
    Apart,
    /// It must be near one of them.
    Near,
    /// As much it wants them near; less than nothing: away.
    Wish(i64),
}

/// Terms of pods on nodes: the same ones are held once, with where those pods are.
#[derive(Default)]
pub struct Terms(HashMap<(Arc<PodTerm>, Says), Values>);

impl Terms {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn iter(&self) -> impl Iterator<Item = (&PodTerm, Says, &Values)> {
        self.0.iter().map(|((term, says), v)| (&**term, *says, v))
    }

    pub fn moved(&mut self, pod: &Pod, labels: &Labels, came: bool) {
        let wants = &pod.wants;
        if !wants.has_pod_terms() {
            return;
        }
        let apart = wants.apart.iter().map(|t| (t, Says::Apart));
        let near = wants.near.iter().map(|t| (t, Says::Near));
        let wishes = wants
            .near_preferred
            .iter()
            .map(|(w, t)| (t, Says::Wish(*w)));
        let others = wants
            .apart_preferred
            .iter()
            .map(|(w, t)| (t, Says::Wish(-w)));
        for (term, says) in apart.chain(near).chain(wishes).chain(others) {
            let Some(value) = labels.get(&term.topology_key) else {
                continue;
            };
            let key = (term.clone(), says);
            if came {
                count(self.0.entry(key).or_default(), value, 1);
            } else if let Some(values) = self.0.get_mut(&key) {
                count(values, value, -1);
                if values.is_empty() {
                    self.0.remove(&key);
                }
            }
        }
    }
}

/// Pods that all terms of a list mean, for each term by the values of its label.
#[derive(Default)]
pub struct Questions {
    all: HashMap<Vec<Arc<PodTerm>>, (Vec<Values>, u64)>,
    clock: u64,
}

fn all_mean<'a>(
    terms: &[Arc<PodTerm>],
    pod: &Pod,
    of_namespace: &impl Fn(&str) -> Option<&'a Labels>,
) -> bool {
    terms
        .iter()
        .all(|t| t.matches(&pod.namespace, &pod.labels, of_namespace))
}

fn add(terms: &[Arc<PodTerm>], to: &mut [Values], labels: &Labels, by: i64) {
    for (term, values) in terms.iter().zip(to) {
        if let Some(value) = labels.get(&term.topology_key) {
            count(values, value, by);
        }
    }
}

/// Walks through all pods.
pub fn ask<'a>(
    terms: &[Arc<PodTerm>],
    nodes: &[Node],
    of_namespace: impl Fn(&str) -> Option<&'a Labels>,
) -> Vec<Values> {
    let mut out = vec![Values::new(); terms.len()];
    for node in nodes.iter().filter(|n| n.exists) {
        for pod in &node.pods {
            if all_mean(terms, pod, &of_namespace) {
                add(terms, &mut out, &node.labels, 1);
            }
        }
    }
    out
}

impl Questions {
    pub fn answer(&self, terms: &[Arc<PodTerm>]) -> Option<&[Values]> {
        self.all.get(terms).map(|(values, _)| values.as_slice())
    }

    /// Keeps the answer from now on.
    pub fn keep<'a>(
        &mut self,
        terms: &[Arc<PodTerm>],
        nodes: &[Node],
        of_namespace: impl Fn(&str) -> Option<&'a Labels>,
    ) {
        self.clock += 1;
        if let Some((_, used)) = self.all.get_mut(terms) {
            *used = self.clock;
            return;
        }
        if self.all.len() >= QUESTIONS {
            let oldest = self.all.values().map(|(_, used)| *used).min();
            self.all.retain(|_, (_, used)| Some(*used) != oldest);
        }
        let values = ask(terms, nodes, of_namespace);
        self.all.insert(terms.to_vec(), (values, self.clock));
    }

    pub fn moved<'a>(
        &mut self,
        pod: &Pod,
        labels: &Labels,
        came: bool,
        of_namespace: impl Fn(&str) -> Option<&'a Labels>,
    ) {
        let by = if came { 1 } else { -1 };
        for (terms, (values, _)) in &mut self.all {
            if all_mean(terms, pod, &of_namespace) {
                add(terms, values, labels, by);
            }
        }
    }

    /// Labels of a node or a namespace changed: all is asked again when it is needed.
    pub fn forget(&mut self) {
        self.all.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::Cluster;

    fn node(name: usize, zone: usize) -> serde_json::Value {
        json!({"metadata": {"name": format!("n{name}"), "labels": {"zone": format!("z{zone}")}}})
    }

    fn pod(app: usize, apart: bool) -> serde_json::Value {
        let term = json!({"topologyKey": "zone", "labelSelector":
            {"matchLabels": {"app": format!("a{app}")}}});
        let affinity = json!({"podAntiAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        json!({"metadata": {"labels": {"app": format!("a{app}")}},
               "spec": {"affinity": if apart { affinity } else { json!({}) }}})
    }

    #[derive(Clone, Debug)]
    enum Act {
        Place(usize, usize, bool),
        Remove(usize),
        Relabel(usize, usize),
        RemoveNode(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            6 => (0usize..4, 0usize..3, any::<bool>()).prop_map(|(n, a, b)| Act::Place(n, a, b)),
            4 => (0usize..40).prop_map(Act::Remove),
            2 => (0usize..4, 0usize..3).prop_map(|(n, z)| Act::Relabel(n, z)),
            1 => (0usize..4).prop_map(Act::RemoveNode),
        ]
    }

    proptest! {
        /// Whatever comes and goes: what is kept is what walking through all pods gives.
        #[test]
        fn what_is_kept_is_what_is_there(acts in proptest::collection::vec(act(), 1..60)) {
            let mut c = Cluster::new((0..3).map(|n| node(n, n % 2)));
            let asking = c.pod(pod(1, true));
            let terms = asking.wants.apart.clone();
            let selector = crate::selector_terms::selector(Some(&serde_json::from_value(
                json!({"matchLabels": {"app": "a1"}})).expect("a selector")));
            let namespace = c.strings.get("default");
            let mut placed = Vec::new();
            for act in acts {
                c.snapshot.keep_answer(&terms);
                c.snapshot.keep_count(&namespace, &selector);
                match act {
                    Act::Place(n, app, apart) => {
                        placed.push(c.place(&format!("n{n}"), pod(app, apart)).uid.clone());
                    }
                    Act::Remove(i) if !placed.is_empty() => {
                        let uid = placed.swap_remove(i % placed.len());
                        c.snapshot.remove_pod(&uid);
                    }
                    Act::Remove(_) => {}
                    Act::Relabel(n, zone) => {
                        let offer = serde_json::from_value(node(n, zone)).expect("a node");
                        let offer = crate::node::Offer::read(&offer, &mut c.strings);
                        let name = c.strings.get(&format!("n{n}"));
                        c.snapshot.set_node(&name, offer);
                    }
                    Act::RemoveNode(n) => c.snapshot.remove_node(&format!("n{n}")),
                }
                let s = &c.snapshot;
                let fresh = ask(&terms, s.slots(), |n| s.namespace_labels(n));
                prop_assert_eq!(s.ask(&terms).into_owned(), fresh);
                if let Some(place) = s.counted(&namespace, &selector) {
                    for node in s.slots() {
                        let of = node.pods.iter().filter(|p| is_of(&selector, p)).count();
                        prop_assert_eq!(node.count(place) as usize, of);
                    }
                }
                let mut all = Terms::default();
                for node in s.slots() {
                    node.pods.iter().for_each(|p| all.moved(p, &node.labels, true));
                }
                prop_assert_eq!(&all.0, &s.terms().0);
            }
        }
    }
}
