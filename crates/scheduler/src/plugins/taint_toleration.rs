//! Taints keep pods off that do not tolerate them
//! (documentation "Taints and Tolerations").

use k8s_openapi::api::core::v1::Toleration;

use super::{Check, Events, Plugin, Prepare, Reason, Verdict, normalize};
use crate::node::{Effect, Node, Taint};
use crate::pod::Pod;
use crate::snapshot::Snapshot;

/// Taints by which a node says how it is: nothing is won where a pod tolerates them.
const OF_STATE: &str = "node.kubernetes.io/";
/// The one of them that a person sets, by closing the node.
const OF_CLOSED: &str = "node.kubernetes.io/unschedulable";
/// How the advice begins to mend a node.
pub const MEND_NODE: &str = "mend the node";

pub struct TaintToleration;
struct Tolerations<'a> {
    tolerations: &'a [Toleration],
    /// Some node has a taint that keeps pods off only where there are others.
    any_soft: bool,
}

/// Whether a toleration means a taint.
pub fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let effect = match taint.effect {
        Effect::NoSchedule => "NoSchedule",
        Effect::PreferNoSchedule => "PreferNoSchedule",
        Effect::NoExecute => "NoExecute",
    };
    let taint = api::taint::Taint {
        key: &taint.key,
        value: &taint.value,
        effect,
    };
    api::taint::Toleration::of(&t.key, &t.operator, &t.value, &t.effect).tolerates(&taint)
}

fn tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

/// Whether no taint of the node keeps the pod off.
pub fn tolerates_node(tolerations: &[Toleration], node: &Node) -> bool {
    node.taints
        .iter()
        .all(|t| t.effect == Effect::PreferNoSchedule || tolerated(tolerations, t))
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED.with(Events::NODE_TAINTS)
    }
    fn is_local(&self) -> bool {
        true
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        Ok(snapshot.any_taints().then(|| {
            Box::new(Tolerations {
                tolerations: &pod.wants.tolerations,
                any_soft: snapshot.any_soft_taints(),
            }) as Box<dyn Check>
        }))
    }
}

impl Check for Tolerations<'_> {
    /// Soft taints are scored beside those of the other nodes.
    fn is_steady(&self) -> bool {
        !self.any_soft
    }

    fn filter(&self, node: &Node) -> Verdict {
        if tolerates_node(self.tolerations, node) {
            Verdict::Fits
        } else {
            Verdict::Never(Reason::one("node(s) had untolerated taint(s)"))
        }
    }

    fn advice(&self, node: &Node) -> Option<String> {
        let hard = node
            .taints
            .iter()
            .filter(|t| t.effect != Effect::PreferNoSchedule);
        let untolerated = hard.filter(|t| !tolerated(self.tolerations, t));
        let untolerated: Vec<&Taint> = untolerated.collect();
        let texts = untolerated.iter().map(|t| {
            let value = if t.value.is_empty() { "" } else { "=" };
            format!("{}{value}{}:{:?}", t.key, t.value, t.effect)
        });
        let texts: Vec<String> = texts.collect();
        let says_how_it_is = |t: &&Taint| t.key.starts_with(OF_STATE) && *t.key != *OF_CLOSED;
        if untolerated.iter().any(says_how_it_is) {
            return Some(format!(
                "{MEND_NODE}: {} says how it is",
                texts.join(" and ")
            ));
        }
        Some(format!(
            "tolerate the taint {}, or remove it",
            texts.join(" and ")
        ))
    }

    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            let avoided = node.taints.iter().filter(|t| {
                t.effect == Effect::PreferNoSchedule && !tolerated(self.tolerations, t)
            });
            *score = i64::try_from(avoided.count()).unwrap_or(i64::MAX);
        }
        normalize(scores, true);
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Cluster, scores, verdicts};

    fn cluster() -> Cluster {
        let node = |name: &str, effect: &str| {
            json!({"metadata": {"name": name}, "spec": {"taints": [
                {"key": "for", "value": "gpu", "effect": effect}]}})
        };
        Cluster::new([
            node("no", "NoSchedule"),
            node("rather-not", "PreferNoSchedule"),
            node("out", "NoExecute"),
            json!({"metadata": {"name": "free"}}),
        ])
    }

    #[test]
    fn a_node_that_is_not_well_is_to_be_mended() {
        let node = |key: &str| {
            let cluster = Cluster::new([json!({"metadata": {"name": "a"}, "spec": {"taints": [
                {"key": key, "effect": "NoSchedule"}]}})]);
            let node = cluster.snapshot.nodes().next().expect("a node");
            let all = Tolerations {
                tolerations: &[],
                any_soft: false,
            };
            all.advice(node).expect("advice")
        };
        for (key, advice) in [
            ("node.kubernetes.io/unreachable", MEND_NODE),
            ("node.kubernetes.io/unschedulable", "tolerate the taint"),
            ("gpu", "tolerate the taint gpu:NoSchedule"),
        ] {
            assert!(node(key).starts_with(advice), "{key}: {}", node(key));
        }
    }

    #[test]
    fn untolerated_taints_keep_off() {
        let never = "never, node(s) had untolerated taint(s)";
        let cases = [
            (json!([]), [never, "fits", never, "fits"]),
            (json!([{"operator": "Exists"}]), ["fits"; 4]),
            (
                json!([{"key": "for", "operator": "Exists", "effect": "NoSchedule"}]),
                ["fits", "fits", never, "fits"],
            ),
            (json!([{"key": "for", "value": "gpu"}]), ["fits"; 4]),
            (
                json!([{"key": "for", "value": "cpu"}]),
                [never, "fits", never, "fits"],
            ),
            (
                json!([{"key": "other", "operator": "Exists"}]),
                [never, "fits", never, "fits"],
            ),
        ];
        for (tolerations, [a, b, c, d]) in cases {
            assert_eq!(
                verdicts(
                    &TaintToleration,
                    &cluster(),
                    json!({"tolerations": tolerations})
                ),
                format!("no: {a}\nrather-not: {b}\nout: {c}\nfree: {d}"),
                "{tolerations}"
            );
        }
    }

    #[test]
    fn soft_taints_cost_points() {
        assert_eq!(
            scores(&TaintToleration, &cluster(), json!({})),
            [100, 0, 100, 100]
        );
    }

    /// Keys and values of the taints that are tolerated, and with which effect; of each node its taints,
    /// all with another: the scores.
    #[test]
    fn the_more_untolerated_soft_taints_the_fewer_points() {
        let taints = |all: &[(&str, &str)], effect: &str| -> Vec<serde_json::Value> {
            let taint =
                |(key, value): &(&str, &str)| json!({"key": key, "value": value, "effect": effect});
            all.iter().map(taint).collect()
        };
        let (soft, hard) = ("PreferNoSchedule", "NoSchedule");
        let (cpu, disk) = (("cpu-type", "arm64"), ("disk-type", "ssd"));
        let (a, b, c) = (vec![], vec![cpu], vec![cpu, disk]);
        for (tolerated, of, nodes, expected) in [
            (
                vec![],
                soft,
                [(&a, soft), (&b, soft), (&c, soft)],
                [100_i64, 50, 0],
            ),
            (
                vec![cpu],
                soft,
                [(&a, soft), (&b, soft), (&c, soft)],
                [100, 100, 0],
            ),
            (
                vec![cpu, disk],
                soft,
                [(&a, soft), (&b, soft), (&c, soft)],
                [100; 3],
            ),
            // Who tolerates the hard ones does not tolerate the soft ones by it.
            (
                vec![cpu, disk],
                hard,
                [(&a, soft), (&b, hard), (&c, soft)],
                [100, 100, 0],
            ),
            (
                vec![cpu, disk],
                "",
                [(&a, soft), (&b, hard), (&c, soft)],
                [100; 3],
            ),
            // The hard ones have their say elsewhere.
            (vec![], soft, [(&a, hard), (&b, hard), (&c, hard)], [100; 3]),
        ] {
            let names = ["a", "b", "c"].into_iter().zip(nodes);
            let cluster = Cluster::new(names.map(|(name, (all, effect))| {
                json!({"metadata": {"name": name}, "spec": {"taints": taints(all, effect)}})
            }));
            let pod = json!({"tolerations": taints(&tolerated, of)});
            let out = scores(&TaintToleration, &cluster, pod);
            assert_eq!(out, expected, "{tolerated:?} {of:?} {nodes:?}");
        }
    }
}
