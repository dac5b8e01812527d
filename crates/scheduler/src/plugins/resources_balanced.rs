//! Prefers nodes whose CPU and memory would be used more evenly with the pod than without it.

use super::{Check, Events, MAX_SCORE, Plugin, Prepare};
use crate::node::Node;
use crate::pod::Pod;
use crate::resources::Name;
use crate::snapshot::Snapshot;

pub struct NodeResourcesBalancedAllocation {
    /// The resources whose shares are compared.
    pub resources: Vec<String>,
}

impl Default for NodeResourcesBalancedAllocation {
    fn default() -> Self {
        Self {
            resources: vec!["cpu".into(), "memory".into()],
        }
    }
}

struct Balance<'a> {
    pod: &'a Pod,
    resources: &'a [String],
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
    fn wakes_on(&self) -> Events {
        Events::NONE
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, _: &'a Snapshot) -> Prepare<'a> {
        let resources = self.resources.as_slice();
        let asks = resources.iter().any(|r| pod.request.of(r) > 0);
        Ok(asks.then(|| Box::new(Balance { pod, resources }) as Box<dyn Check>))
    }
}

/// How even the shares are, 50 to 100: a hundred less their standard deviation in percent. One
/// share alone is even.
fn evenness(shares: &[f64]) -> i64 {
    let count = shares.len() as f64;
    let deviation = match shares {
        [] | [_] => 0.0,
        [one, other] => ((one - other) / 2.0).abs(),
        _ => {
            let mean = shares.iter().sum::<f64>() / count;
            let squares = shares.iter().map(|s| (s - mean) * (s - mean));
            (squares.sum::<f64>() / count).sqrt()
        }
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

fn share(used: i64, all: i64) -> f64 {
    (used as f64 / all as f64).min(1.0)
}

impl Check for Balance<'_> {
    fn is_steady(&self) -> bool {
        true
    }

    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        let names = self.resources.iter().map(|name| Name::of(name));
        let asked = names.map(|name| (name, self.pod.request.get(name)));
        // An extended resource that the pod does not ask for says nothing.
        let asked = asked.filter(|(n, asked)| *asked > 0 || !matches!(n, Name::Other(_)));
        let asked: Vec<(Name<'_>, i64)> = asked.collect();
        let mut before = Vec::with_capacity(asked.len());
        let mut after = Vec::with_capacity(asked.len());
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            before.clear();
            after.clear();
            for (name, asked) in &asked {
                let all = node.allocatable.get(*name);
                if all == 0 {
                    continue;
                }
                let used = node.requested.get(*name);
                before.push(share(used, all));
                after.push(share(used.saturating_add(*asked), all));
            }
            let gain = evenness(&after) - evenness(&before);
            *score = MAX_SCORE / 2 + (MAX_SCORE / 2 + gain) / 2;
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
        let out = scores(
            &NodeResourcesBalancedAllocation::default(),
            &cluster,
            asks("0", "2Gi"),
        );
        assert_eq!(out, [81, 68]);
    }

    /// CPU, memory and devices, as text; nothing of what is empty.
    type Amounts = (&'static str, &'static str, &'static str);
    /// What nodes `a` and `b` have, what a pod on each asks for, what the pod asks for; the scores.
    type Case = ([Amounts; 2], [Amounts; 2], Amounts, [i64; 2]);

    #[test]
    fn scores_are_upstreams() {
        let amounts = |(cpu, memory, gpu): Amounts| -> serde_json::Value {
            let all = [("cpu", cpu), ("memory", memory), ("x.example/gpu", gpu)];
            let all = all.into_iter().filter(|(_, amount)| !amount.is_empty());
            all.map(|(name, amount)| (name.to_owned(), json!(amount)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let asks = |asked: Amounts| json!({"containers": [{"name": "c", "resources": {"requests": amounts(asked)}}]});
        let (none, some) = (("", "", ""), ("3", "5000", ""));
        let equal = [("10", "20000", ""); 2];
        let gpus = ("3500m", "40000", "8");
        let cases: [Case; 7] = [
            (
                [("4", "10000", ""), ("6", "10000", "")],
                [none; 2],
                some,
                [68, 75],
            ),
            (equal, [("3", "", ""), some], some, [73, 74]),
            (
                [equal[0], ("10", "50000", "")],
                [("3", "", ""), some],
                some,
                [73, 70],
            ),
            (
                [("3", "5000", ""); 2],
                [("3", "", ""), none],
                ("", "5000", ""),
                [100, 50],
            ),
            (
                [("6", "10000", ""); 2],
                [("3", "", ""), some],
                ("3", "", ""),
                [62, 62],
            ),
            (
                [gpus; 2],
                [("3", "5000", "3"), some],
                ("0", "0", "1"),
                [75, 76],
            ),
            // What the pod does not ask for says nothing.
            ([gpus, ("3500m", "40000", "")], [none; 2], some, [56, 56]),
        ];
        let plugin = NodeResourcesBalancedAllocation {
            resources: ["cpu", "memory", "x.example/gpu"].map(str::to_owned).into(),
        };
        for (nodes, placed, asked, expected) in cases {
            let [a, b] = nodes.map(amounts);
            let node = |name: &str, has: serde_json::Value| json!({"metadata": {"name": name}, "status": {"allocatable": has}});
            let mut c = Cluster::new([node("a", a), node("b", b)]);
            for (on, there) in ["a", "b"].into_iter().zip(placed) {
                c.place(on, json!({"spec": asks(there)}));
            }
            let out = scores(&plugin, &c, asks(asked));
            assert_eq!(out, expected, "{nodes:?} {placed:?} {asked:?}");
        }
        let nothing = scores(&plugin, &Cluster::new([]), asks(none));
        assert_eq!(nothing, [0; 0]);
    }
}
