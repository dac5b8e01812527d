//! Counts of pods that the invariants ask for at each revision: kept as pods come and go, so that a
//! cluster with thousands of them can be watched.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::values::{is_active, is_finished, owner, requested, text};

/// Pods by their keys, and what each requests, in thousandths of a processor.
type Requests = BTreeMap<String, i64>;

#[derive(Default)]
pub(crate) struct Pods {
    /// By node, those that have not finished.
    on: BTreeMap<String, Requests>,
    /// By the UID of the owner, those that are neither finished nor about to go.
    of: BTreeMap<String, Requests>,
    /// The same, by namespace.
    within: BTreeMap<String, Requests>,
}

fn sum(all: Option<&Requests>) -> (i64, i64) {
    let all = all.into_iter().flatten();
    all.fold((0, 0), |(count, cpu), (_, one)| (count + 1, cpu + one))
}

impl Pods {
    /// Takes a change of a pod in.
    pub fn note(&mut self, key: &str, old: Option<&Value>, new: Option<&Value>) {
        if let Some(pod) = old {
            for (of, name) in self.places(pod) {
                if let Some(all) = of.get_mut(&name) {
                    all.remove(key);
                }
            }
        }
        if let Some(pod) = new {
            let cpu = requested(pod);
            for (of, name) in self.places(pod) {
                of.entry(name).or_default().insert(key.to_owned(), cpu);
            }
        }
    }

    fn places(&mut self, pod: &Value) -> Vec<(&mut BTreeMap<String, Requests>, String)> {
        let mut out = Vec::new();
        let node = text(pod, "/spec/nodeName");
        if !is_finished(pod) && !node.is_empty() {
            out.push((&mut self.on, node.to_owned()));
        }
        if is_active(pod) {
            out.push((&mut self.of, owner(pod).to_owned()));
            let namespace = text(pod, "/metadata/namespace").to_owned();
            out.push((&mut self.within, namespace));
        }
        out
    }

    /// How many have a place on a node, and what they request together.
    pub fn on(&self, node: &str) -> (i64, i64) {
        sum(self.on.get(node))
    }

    /// How many of an owner are active.
    pub fn active_of(&self, owner: &str) -> i64 {
        sum(self.of.get(owner)).0
    }

    /// How many of a namespace are active, and what they request together.
    pub fn active_in(&self, namespace: &str) -> (i64, i64) {
        sum(self.within.get(namespace))
    }
}
