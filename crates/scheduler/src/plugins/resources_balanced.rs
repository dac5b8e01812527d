//! Prefers nodes whose CPU and memory would be used more evenly with the pod than without it.

use super::{Check, Events, MAX_SCORE, Plugin, Prepare};
use crate::node::Node;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

pub struct NodeResourcesBalancedAllocation;
struct Balance<'a>(&'a Pod);

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
    fn wakes_on(&self) -> Events {
        Events::NONE
    }
    fn prepare<'a>(&self, pod: &'a Pod, _: &'a Snapshot) -> Prepare<'a> {
        let asks = pod.request.cpu_millis > 0 || pod.request.memory_bytes > 0;
        Ok(asks.then(|| Box::new(Balance(pod)) as Box<dyn Check>))
    }
}

/// How even the shares of two resources are, 50 to 100: a hundred less their standard deviation
/// in percent. One resource alone is even.
fn evenness(cpu: (i64, i64), memory: (i64, i64)) -> i64 {
    let share = |(used, all): (i64, i64)| (used as f64 / all as f64).min(1.0);
    if cpu.1 <= 0 || memory.1 <= 0 {
        return MAX_SCORE;
    }
    let deviation = ((share(cpu) - share(memory)) / 2.0).abs();
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

impl Check for Balance<'_> {
    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        let asked = &self.0.request;
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            let (used, all) = (&node.requested, &node.allocatable);
            let before = evenness(
                (used.cpu_millis, all.cpu_millis),
                (used.memory_bytes, all.memory_bytes),
            );
            let after = evenness(
                (used.cpu_millis + asked.cpu_millis, all.cpu_millis),
                (used.memory_bytes + asked.memory_bytes, all.memory_bytes),
            );
            *score = MAX_SCORE / 2 + (MAX_SCORE / 2 + after - before) / 2;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Cluster, node, scores};

    #[test]
    fn evening_out_scores_more_than_tilting() {
        let asks = |cpu: &str, memory: &str| {
            json!({"containers": [{"name": "c", "resources":
                {"requests": {"cpu": cpu, "memory": memory}}}]})
        };
        let mut cluster = Cluster::new([node("cpu", "4", "8Gi"), node("memory", "4", "8Gi")]);
        cluster.place("cpu", json!({"spec": asks("2", "0")}));
        cluster.place("memory", json!({"spec": asks("0", "4Gi")}));
        let out = scores(&NodeResourcesBalancedAllocation, &cluster, asks("0", "2Gi"));
        assert_eq!(out, [81, 68]);
    }
}
