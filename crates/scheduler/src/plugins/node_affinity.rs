//! `nodeSelector` and node affinity, required and preferred
//! (documentation "Assigning Pods to Nodes").

use super::{Check, Events, Plugin, Prepare, Reason, Verdict, normalize};
use crate::node::Node;
use crate::pod::{Pod, Wants};
use crate::snapshot::Snapshot;

pub struct NodeAffinity;
struct Affinity<'a>(&'a Wants);

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
    fn prepare<'a>(&self, pod: &'a Pod, _: &'a Snapshot) -> Prepare<'a> {
        let w = &pod.wants;
        let silent =
            w.node_labels.is_empty() && w.node_required.is_none() && w.node_preferred.is_empty();
        Ok((!silent).then(|| Box::new(Affinity(w)) as Box<dyn Check>))
    }
}

impl Check for Affinity<'_> {
    fn filter(&self, node: &Node) -> Verdict {
        if self.0.allows(&node.name, &node.labels) {
            Verdict::Fits
        } else {
            Verdict::Never(Reason::one(
                "node(s) didn't match Pod's node affinity/selector",
            ))
        }
    }

    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        if self.0.node_preferred.is_empty() {
            return false;
        }
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            let wishes = self.0.node_preferred.iter();
            *score = wishes
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
            let out = verdicts(&NodeAffinity, &cluster(), spec.clone());
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
    fn wishes_add_up() {
        let wish = |weight: i64, value: &str| {
            json!({"weight": weight, "preference": {"matchExpressions": [
                {"key": "disk", "operator": "In", "values": [value]}]}})
        };
        let spec = json!({"affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [wish(40, "ssd"), wish(10, "hdd")]}}});
        assert_eq!(scores(&NodeAffinity, &cluster(), spec), [100, 25, 0]);
    }
}
