//! A pod goes where there is room for what it asks; better where more is left over.

use std::borrow::Cow;

use super::{Check, Events, MAX_SCORE, Plugin, Prepare, Reason, Verdict};
use crate::node::Node;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

pub struct NodeResourcesFit;

struct Room<'a> {
    pod: &'a Pod,
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
            .with(Events::NODE_RESOURCES)
            .with(Events::POD_REMOVED)
    }
    fn is_local(&self) -> bool {
        true
    }
    fn prepare<'a>(&self, pod: &'a Pod, _: &'a Snapshot) -> Prepare<'a> {
        Ok(Some(Box::new(Room { pod })))
    }
}

/// What keeps a pod off a node.
#[derive(Default)]
struct Lacks {
    texts: Vec<Cow<'static, str>>,
    /// The whole node would not do.
    never: bool,
}

impl Lacks {
    fn check(&mut self, asked: i64, used: i64, all: i64, text: impl FnOnce() -> Cow<'static, str>) {
        if asked > 0 && asked > all.saturating_sub(used) {
            self.texts.push(text());
            self.never |= asked > all;
        }
    }
}

impl Check for Room<'_> {
    fn filter(&self, node: &Node) -> Verdict {
        let asked = &self.pod.request;
        let mut lacks = Lacks::default();
        let pods = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
        if pods >= node.allowed_pods {
            lacks.texts.push("Too many pods".into());
        }
        let (used, all) = (&node.requested, &node.allocatable);
        lacks.check(asked.cpu_millis, used.cpu_millis, all.cpu_millis, || {
            "Insufficient cpu".into()
        });
        lacks.check(
            asked.memory_bytes,
            used.memory_bytes,
            all.memory_bytes,
            || "Insufficient memory".into(),
        );
        lacks.check(
            asked.ephemeral_bytes,
            used.ephemeral_bytes,
            all.ephemeral_bytes,
            || "Insufficient ephemeral-storage".into(),
        );
        for (name, amount) in &asked.other {
            lacks.check(*amount, used.other(name), all.other(name), || {
                format!("Insufficient {name}").into()
            });
        }
        match lacks {
            Lacks { texts, .. } if texts.is_empty() => Verdict::Fits,
            Lacks { texts, never: true } => Verdict::Never(Reason::many(texts)),
            Lacks { texts, .. } => Verdict::NotNow(Reason::many(texts)),
        }
    }

    /// The mean of the shares of CPU and memory that are left over with the pod.
    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            let cpu = (
                node.weight.cpu_millis + self.pod.weight.cpu_millis,
                node.allocatable.cpu_millis,
            );
            let memory = (
                node.weight.memory_bytes + self.pod.weight.memory_bytes,
                node.allocatable.memory_bytes,
            );
            let (mut total, mut parts) = (0, 0);
            for (used, all) in [cpu, memory] {
                if all > 0 {
                    total += left(used, all);
                    parts += 1;
                }
            }
            *score = if parts > 0 { total / parts } else { 0 };
        }
        true
    }
}

fn left(used: i64, all: i64) -> i64 {
    // In 128 bits, since a hundred times the bytes of a large node may not fit 64.
    let part = i128::from(all.saturating_sub(used).max(0)) * i128::from(MAX_SCORE);
    i64::try_from(part / i128::from(all)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Cluster, node, scores, verdicts};

    fn asks(requests: serde_json::Value) -> serde_json::Value {
        json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
    }

    #[test]
    fn what_is_lacking_is_named() {
        let mut cluster = Cluster::new([node("a", "4", "8Gi")]);
        cluster.place(
            "a",
            json!({"spec": asks(json!({"cpu": "3", "memory": "1Gi"}))}),
        );
        let cases = [
            (json!({"cpu": "1"}), "fits"),
            (json!({"cpu": "1001m"}), "not now, Insufficient cpu"),
            (json!({"cpu": "5"}), "never, Insufficient cpu"),
            (
                json!({"cpu": "2", "memory": "7.5Gi"}),
                "not now, Insufficient cpu, Insufficient memory",
            ),
            (
                json!({"x.example/gpu": "1"}),
                "never, Insufficient x.example/gpu",
            ),
            (
                json!({"ephemeral-storage": "1Gi"}),
                "never, Insufficient ephemeral-storage",
            ),
            (json!({}), "fits"),
        ];
        for (requests, expected) in cases {
            assert_eq!(
                verdicts(&NodeResourcesFit, &cluster, asks(requests.clone())),
                format!("a: {expected}"),
                "{requests}"
            );
        }
    }

    #[test]
    fn a_full_node_takes_no_pod_even_without_requests() {
        let mut full = node("a", "4", "8Gi");
        full["status"]["allocatable"]["pods"] = json!("1");
        let mut cluster = Cluster::new([full]);
        cluster.place("a", json!({"spec": asks(json!({}))}));
        assert_eq!(
            verdicts(&NodeResourcesFit, &cluster, asks(json!({}))),
            "a: not now, Too many pods"
        );
    }

    #[test]
    fn emptier_nodes_are_better() {
        let mut cluster = Cluster::new([node("a", "4", "8Gi"), node("b", "4", "8Gi")]);
        cluster.place(
            "a",
            json!({"spec": asks(json!({"cpu": "2", "memory": "4Gi"}))}),
        );
        let asked = asks(json!({"cpu": "1", "memory": "2Gi"}));
        assert_eq!(scores(&NodeResourcesFit, &cluster, asked), [25, 75]);
    }
}
