//! `nodeSelector` and node affinity, required and preferred
//! (documentation "Assigning Pods to Nodes").

use std::sync::Arc;

use super::{Check, Events, Plugin, Prepare, Reason, Verdict, normalize};
use crate::node::Node;
use crate::pod::{Pod, Wants};
use crate::selector_terms::NodeTerm;
use crate::snapshot::Snapshot;

#[derive(Default)]
pub struct NodeAffinity {
    /// What all pods of the profile want, beside their own.
    pub added_required: Option<Vec<NodeTerm>>,
    pub added_preferred: Vec<(i64, NodeTerm)>,
}

struct Affinity<'a>(&'a Wants, &'a NodeAffinity);

/// The only nodes that a pod may be on, where each of its terms names its nodes, as those of DaemonSets
/// do.
fn named(wants: &Wants) -> Option<Vec<&str>> {
    let terms = wants.node_required.as_ref().filter(|t| !t.is_empty())?;
    let names: Option<Vec<Vec<&str>>> = terms.iter().map(NodeTerm::names).collect();
    Some(names?.into_iter().flatten().collect())
}

impl NodeAffinity {
    fn allows(&self, node: &Node) -> bool {
        let added = self.added_required.as_ref();
        added.is_none_or(|all| all.iter().any(|t| t.matches(&node.name, &node.labels)))
    }
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED.with(Events::NODE_LABELS)
    }
    fn is_local(&self) -> bool {
        true
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, _: &'a Snapshot) -> Prepare<'a> {
        let w = &pod.wants;
        let silent = w.node_labels.is_empty()
            && w.node_required.is_none()
            && w.node_preferred.is_empty()
            && self.added_required.is_none()
            && self.added_preferred.is_empty();
        // What each of its terms asks for, no node can be.
        if named(w).is_some_and(|names| names.is_empty()) {
            return Err(Reason::one("pod affinity terms conflict"));
        }
        Ok((!silent).then(|| Box::new(Affinity(w, self)) as Box<dyn Check>))
    }
}

impl Check for Affinity<'_> {
    /// What is wished is scored beside the other nodes.
    fn is_steady(&self) -> bool {
        self.0.node_preferred.is_empty() && self.1.added_preferred.is_empty()
    }

    fn filter(&self, node: &Node) -> Verdict {
        if !self.1.allows(node) {
            return Verdict::Never(Reason::one(
                "node(s) didn't match scheduler-enforced node affinity",
            ));
        }
        if self.0.allows(&node.name, &node.labels) {
            Verdict::Fits
        } else {
            Verdict::Never(Reason::one(
                "node(s) didn't match Pod's node affinity/selector",
            ))
        }
    }

    fn advice(&self, node: &Node) -> Option<String> {
        let missing = self.0.node_labels.iter().filter(|(k, v)| {
            let has = node.labels.get(k);
            has.is_none_or(|has| **has != **v)
        });
        let labels: Vec<String> = missing.map(|(k, v)| format!("{k}={v}")).collect();
        (!labels.is_empty()).then(|| format!("label it {}", labels.join(" and ")))
    }

    fn only(&self) -> Option<Vec<Arc<str>>> {
        let names = named(self.0)?.into_iter();
        Some(names.map(Arc::from).collect())
    }

    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        let wishes = || self.0.node_preferred.iter().chain(&self.1.added_preferred);
        if wishes().next().is_none() {
            return false;
        }
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            *score = wishes()
                .filter(|(_, t)| t.matches(&node.name, &node.labels))
                .map(|(w, _)| w)
                .sum();
        }
        normalize(scores, false);
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Cluster, scores, verdicts};
    use crate::selector_terms::node_terms;

    fn cluster() -> Cluster {
        Cluster::new([
            json!({"metadata": {"name": "a", "labels": {"disk": "ssd", "n": "3"}}}),
            json!({"metadata": {"name": "b", "labels": {"disk": "hdd"}}}),
            json!({"metadata": {"name": "c"}}),
        ])
    }

    #[test]
    fn selectors_choose_nodes() {
        let required = |terms: serde_json::Value| {
            json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        let term = |key: &str, operator: &str, values: serde_json::Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let cases = [
            (json!({"nodeSelector": {"disk": "ssd"}}), "a"),
            (
                required(json!([term("disk", "In", json!(["ssd", "hdd"]))])),
                "ab",
            ),
            (
                required(json!([term("disk", "NotIn", json!(["ssd"]))])),
                "bc",
            ),
            (required(json!([term("disk", "Exists", json!(null))])), "ab"),
            (
                required(json!([term("disk", "DoesNotExist", json!(null))])),
                "c",
            ),
            (required(json!([term("n", "Gt", json!(["2"]))])), "a"),
            (required(json!([term("n", "Lt", json!(["2"]))])), ""),
            (required(json!([{}])), ""),
            (
                required(json!([
                    term("disk", "In", json!(["hdd"])),
                    term("n", "Exists", json!(null))
                ])),
                "ab",
            ),
            (
                required(json!([{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": ["c"]}]}])),
                "c",
            ),
        ];
        for (spec, expected) in cases {
            let out = verdicts(&NodeAffinity::default(), &cluster(), spec.clone());
            let fit: String = out
                .lines()
                .filter_map(|l| l.strip_suffix(": fits"))
                .collect();
            assert_eq!(fit, expected, "{spec}");
            assert!(
                fit.len() == 3
                    || out.contains("never, node(s) didn't match Pod's node affinity/selector")
            );
        }
    }

    #[test]
    fn terms_that_name_other_nodes_than_they_ask_for_conflict() {
        let named =
            |name: &str| json!({"key": "metadata.name", "operator": "In", "values": [name]});
        let spec = |terms: serde_json::Value| {
            json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        let both = json!({"matchFields": [named("a"), named("b")]});
        let disk = json!({"matchExpressions": [
            {"key": "disk", "operator": "In", "values": ["hdd"]}]});
        let no = "never, node(s) didn't match Pod's node affinity/selector";
        let cases = [
            (json!([both]), "pod affinity terms conflict".to_owned()),
            (
                json!([both, both]),
                "pod affinity terms conflict".to_owned(),
            ),
            // Another term is not concerned.
            (json!([both, disk]), format!("a: {no}\nb: fits\nc: {no}")),
            (
                json!([both, {"matchFields": [named("c")]}]),
                format!("a: {no}\nb: {no}\nc: fits"),
            ),
            // Nor does a term conflict that asks for nothing, though no node is of it.
            (json!([{}]), format!("a: {no}\nb: {no}\nc: {no}")),
        ];
        for (terms, expected) in cases {
            let out = verdicts(&NodeAffinity::default(), &cluster(), spec(terms.clone()));
            assert_eq!(out, expected, "{terms}");
        }
        let mut cluster = cluster();
        let pod = cluster.pod(json!({"spec": spec(json!([{}]))}));
        let plugin = NodeAffinity::default();
        let check = plugin
            .prepare(&pod, &cluster.snapshot)
            .expect("no conflict");
        assert_eq!(check.expect("a check").only(), None);
    }

    #[test]
    fn wishes_add_up() {
        let wish = |weight: i64, value: &str| {
            json!({"weight": weight, "preference": {"matchExpressions": [
                {"key": "disk", "operator": "In", "values": [value]}]}})
        };
        let spec = json!({"affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [wish(40, "ssd"), wish(10, "hdd")]}}});
        assert_eq!(
            scores(&NodeAffinity::default(), &cluster(), spec),
            [100, 25, 0]
        );
    }

    #[test]
    fn the_profile_may_want_something_for_all() {
        let term = |value: &str| {
            let selector = json!({"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "disk", "operator": "In", "values": [value]}]}]});
            let read = node_terms(&serde_json::from_value(selector).expect("a selector"));
            read.into_iter().next().expect("a term")
        };
        let plugin = NodeAffinity {
            added_required: Some(vec![term("ssd"), term("hdd")]),
            added_preferred: vec![(1, term("hdd"))],
        };
        assert_eq!(
            verdicts(&plugin, &cluster(), json!({})),
            "a: fits\nb: fits\nc: never, node(s) didn't match scheduler-enforced node affinity"
        );
        assert_eq!(scores(&plugin, &cluster(), json!({})), [0, 100, 0]);
    }

    #[test]
    fn a_pod_of_one_node_is_compared_with_that_node_alone() {
        let mut cluster = cluster();
        let by_name = json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}});
        let pod = cluster.pod(json!({"spec": by_name}));
        let plugin = NodeAffinity::default();
        let check = plugin
            .prepare(&pod, &cluster.snapshot)
            .expect("fits")
            .expect("a check");
        assert_eq!(check.only(), Some(vec!["b".into()]));
        drop(check);
        let pod = cluster.pod(json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
        let check = plugin
            .prepare(&pod, &cluster.snapshot)
            .expect("fits")
            .expect("a check");
        assert_eq!(check.only(), None);
    }
}
