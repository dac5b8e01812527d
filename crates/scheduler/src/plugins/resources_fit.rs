//! A pod goes where there is room for what it asks; better where more is left over.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{Check, Events, MAX_SCORE, Plugin, Prepare, Reason, Verdict};
use crate::devices::extended;
use crate::node::Node;
use crate::pod::Pod;
use crate::resources::{self, Name};
use crate::snapshot::Snapshot;

/// How the place that is left over counts.
#[derive(Clone, Debug)]
pub enum Strategy {
    /// The emptier the better.
    LeastAllocated,
    /// The fuller the better.
    MostAllocated,
    /// Points at some shares of use in percent, ascending; between them in proportion.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

pub struct NodeResourcesFit {
    /// Extended resources that somebody else looks after, such as an extender.
    pub ignored: Vec<String>,
    /// The part before the slash of such.
    pub ignored_groups: Vec<String>,
    pub strategy: Strategy,
    /// What counts for scores, and how much.
    pub resources: Vec<(String, i64)>,
}

impl Default for NodeResourcesFit {
    fn default() -> Self {
        Self {
            ignored: Vec::new(),
            ignored_groups: Vec::new(),
            strategy: Strategy::LeastAllocated,
            resources: vec![("cpu".into(), 1), ("memory".into(), 1)],
        }
    }
}

impl NodeResourcesFit {
    /// Only of extended resources: those of nodes themselves nobody else looks after.
    fn ignores(&self, name: &str) -> bool {
        if !name.contains('/') || name.contains("kubernetes.io/") {
            return false;
        }
        let group = name.split_once('/').map(|(group, _)| group);
        self.ignored.iter().any(|i| i == name)
            || group.is_some_and(|g| self.ignored_groups.iter().any(|i| i == g))
    }
}

struct Room<'a> {
    pod: &'a Pod,
    plugin: &'a NodeResourcesFit,
    /// Resources that classes of devices stand for.
    of_devices: BTreeSet<&'a str>,
}

impl Room<'_> {
    /// Whether somebody else looks after a resource: an extender, or on a node without a plugin that
    /// offers it who gives pods their devices.
    fn leaves(&self, name: &str, node: &Node) -> bool {
        self.plugin.ignores(name)
            || self.of_devices.contains(name) && node.allocatable.other(name) == 0
    }
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
            .with(Events::NODE_RESOURCES)
            .with(Events::POD_REMOVED)
            .with(Events::DEVICE_CLASSES)
    }
    fn is_local(&self) -> bool {
        true
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        Ok(Some(Box::new(Room {
            pod,
            plugin: self,
            of_devices: extended::mapped(pod, snapshot.devices()),
        })))
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
    fn is_steady(&self) -> bool {
        true
    }

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
            if self.leaves(name, node) {
                continue;
            }
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

    fn advice(&self, node: &Node) -> Option<String> {
        let asked = &self.pod.request;
        let own = ["cpu", "memory", "ephemeral-storage"].into_iter();
        let others = asked.other.iter().map(|(name, _)| &**name);
        let others = others.filter(|name| !self.leaves(name, node));
        let lacks = own.chain(others).filter_map(|name| {
            let amount = asked.of(name);
            let used = node.requested.of(name);
            let lack = amount
                .saturating_add(used)
                .saturating_sub(node.allocatable.of(name));
            (amount > 0 && lack > 0)
                .then(|| format!("{} more {name}", resources::enough(name, lack)))
        });
        let mut texts: Vec<String> = lacks.collect();
        if i64::try_from(node.pods.len()).is_ok_and(|n| n >= node.allowed_pods) {
            texts.push("room for one more pod".to_owned());
        }
        (!texts.is_empty()).then(|| format!("{}, or ask for less", texts.join(" and ")))
    }

    /// The weighted mean of what each resource says of its use with the pod.
    fn score(&self, nodes: &[&Node], scores: &mut [i64]) -> bool {
        let names = self.plugin.resources.iter();
        let names: Vec<(Name<'_>, i64)> = names.map(|(n, w)| (Name::of(n), *w)).collect();
        // Of this strategy what earns nothing does not count.
        let silent = matches!(self.plugin.strategy, Strategy::RequestedToCapacityRatio(_));
        for (node, score) in nodes.iter().zip(scores.iter_mut()) {
            let (mut total, mut weights) = (0, 0);
            for (name, weight) in &names {
                let Some((used, all)) = use_of(*name, node, self.pod) else {
                    continue;
                };
                let points = self.plugin.strategy.points(used, all);
                if points > 0 || !silent {
                    total += points * weight;
                    weights += weight;
                }
            }
            *score = match &self.plugin.strategy {
                _ if weights == 0 => 0,
                Strategy::RequestedToCapacityRatio(_) => {
                    (total as f64 / weights as f64).round() as i64
                }
                _ => total / weights,
            };
        }
        true
    }
}

/// What is used of a resource with the pod, and all there is; none where there is none, or of an
/// extended resource that the pod does not ask for.
fn use_of(name: Name<'_>, node: &Node, pod: &Pod) -> Option<(i64, i64)> {
    let all = &node.allocatable;
    let (used, all) = match name {
        Name::Cpu => (
            node.weight.cpu_millis.saturating_add(pod.weight.cpu_millis),
            all.cpu_millis,
        ),
        Name::Memory => (
            node.weight
                .memory_bytes
                .saturating_add(pod.weight.memory_bytes),
            all.memory_bytes,
        ),
        Name::Ephemeral => (
            node.requested
                .ephemeral_bytes
                .saturating_add(pod.request.ephemeral_bytes),
            all.ephemeral_bytes,
        ),
        Name::Other(other) => {
            let asked = pod.request.other(other);
            if asked == 0 {
                return None;
            }
            (
                node.requested.other(other).saturating_add(asked),
                all.other(other),
            )
        }
    };
    (all > 0).then_some((used, all))
}

impl Strategy {
    fn points(&self, used: i64, all: i64) -> i64 {
        match self {
            Self::LeastAllocated => left(used, all),
            Self::MostAllocated => left(all.saturating_sub(used.min(all)), all),
            Self::RequestedToCapacityRatio(shape) => {
                let share = if used > all {
                    100
                } else {
                    left(all - used, all)
                };
                along(shape, share)
            }
        }
    }
}

/// The height at `x` of a line through these points; level before the first and after the last.
fn along(shape: &[(i64, i64)], x: i64) -> i64 {
    let after = shape.iter().position(|(at, _)| x <= *at);
    match after {
        None => shape.last().map_or(0, |(_, y)| *y),
        Some(0) => shape.first().map_or(0, |(_, y)| *y),
        Some(i) => {
            let (Some((x0, y0)), Some((x1, y1))) = (shape.get(i - 1), shape.get(i)) else {
                return 0;
            };
            y0 + (y1 - y0) * (x - x0) / (x1 - x0).max(1)
        }
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
                verdicts(
                    &NodeResourcesFit::default(),
                    &cluster,
                    asks(requests.clone())
                ),
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
            verdicts(&NodeResourcesFit::default(), &cluster, asks(json!({}))),
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
        assert_eq!(
            scores(&NodeResourcesFit::default(), &cluster, asked),
            [25, 75]
        );
    }

    #[test]
    fn other_strategies_count_otherwise() {
        let gpu = "x.example/gpu";
        let with_gpu = |name: &str| {
            let mut node = node(name, "4", "8Gi");
            node["status"]["allocatable"][gpu] = json!("4");
            node
        };
        let mut cluster = Cluster::new([with_gpu("a"), with_gpu("b")]);
        let half = json!({"cpu": "2", "memory": "4Gi", gpu: "2"});
        cluster.place("a", json!({"spec": asks(half)}));
        let asked = asks(json!({"cpu": "1", "memory": "2Gi", gpu: "1"}));
        let plugin = |strategy, resources: &[(&str, i64)]| NodeResourcesFit {
            strategy,
            resources: resources
                .iter()
                .map(|(n, w)| ((*n).to_owned(), *w))
                .collect(),
            ..NodeResourcesFit::default()
        };
        let both = [("cpu", 1), ("memory", 1)];
        let most = plugin(Strategy::MostAllocated, &both);
        assert_eq!(scores(&most, &cluster, asked.clone()), [75, 25]);
        // Up to a half nothing, then in proportion to ten.
        let shape = Strategy::RequestedToCapacityRatio(vec![(50, 0), (100, 100)]);
        let bins = plugin(shape, &[(gpu, 5), ("cpu", 1)]);
        assert_eq!(scores(&bins, &cluster, asked.clone()), [50, 0]);
        let ignoring = NodeResourcesFit {
            ignored_groups: vec!["x.example".into()],
            ..NodeResourcesFit::default()
        };
        let many = asks(json!({gpu: "9"}));
        assert_eq!(verdicts(&ignoring, &cluster, many), "a: fits\nb: fits");
        let native = NodeResourcesFit {
            ignored_groups: vec!["kubernetes.io".into()],
            ..NodeResourcesFit::default()
        };
        let some = asks(json!({"kubernetes.io/something": "1"}));
        let no = "never, Insufficient kubernetes.io/something";
        assert_eq!(
            verdicts(&native, &cluster, some),
            format!("a: {no}\nb: {no}")
        );
    }

    /// CPU, memory and devices, as text; nothing of what is empty.
    type Amounts = (&'static str, &'static str, &'static str);

    fn amounts((cpu, memory, gpu): Amounts) -> serde_json::Value {
        let all = [("cpu", cpu), ("memory", memory), ("x.example/gpu", gpu)];
        let all = all.into_iter().filter(|(_, amount)| !amount.is_empty());
        all.map(|(name, amount)| (name.to_owned(), json!(amount)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// A pod without containers, where it asks for nothing.
    fn pod(asked: Amounts) -> serde_json::Value {
        match asked {
            ("", "", "") => json!({"containers": []}),
            asked => asks(amounts(asked)),
        }
    }

    /// The strategy, the weights of CPU, memory and devices; what nodes `a` and `b` have, what pods on them
    /// ask for, what the pod asks for; the scores.
    type Case = (
        Strategy,
        [i64; 3],
        [Amounts; 2],
        &'static [(&'static str, Amounts)],
        Amounts,
        [i64; 2],
    );

    #[test]
    fn scores_are_upstreams() {
        let least = || Strategy::LeastAllocated;
        let most = || Strategy::MostAllocated;
        let falling = || Strategy::RequestedToCapacityRatio(vec![(0, 100), (100, 0)]);
        let rising = || Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 10)]);
        let (both, memory, all, devices) = ([1, 1, 0], [1, 2, 0], [1, 1, 1], [0, 0, 1]);
        let none: Amounts = ("", "", "");
        let some: Amounts = ("3000", "5000", "");
        let sizes = [("4000", "10000", ""), ("6000", "10000", "")];
        let equal = [("10000", "20000", ""); 2];
        let gpus = [("6000", "10000", "4"), ("6000", "10000", "10")];
        let one_has = [("6000", "10000", ""), ("6000", "10000", "4")];
        let one_more = [("", "", "8"), ("", "", "4")];
        let halves: &'static [(&'static str, Amounts)] =
            &[("a", ("3000", "0", "")), ("b", ("3000", "5000", ""))];
        let fuller: &'static [(&'static str, Amounts)] = &[
            ("a", ("3000", "0", "")),
            ("a", ("3000", "0", "")),
            ("b", ("3000", "0", "")),
            ("b", ("3000", "5000", "")),
        ];
        let alike: &'static [(&'static str, Amounts)] =
            &[("a", ("3000", "5000", "")), ("b", ("3000", "5000", ""))];
        let two = ("", "", "2");
        let cases: [Case; 17] = [
            (least(), both, sizes, &[], some, [37, 50]),
            (least(), both, equal, fuller, none, [70, 57]),
            (least(), both, equal, halves, some, [57, 45]),
            (least(), memory, sizes, &[], some, [41, 50]),
            (least(), all, gpus, &[], ("3000", "5000", "2"), [50, 60]),
            (
                least(),
                [1, 1, 2],
                one_has,
                &[],
                ("3000", "4000", ""),
                [55, 55],
            ),
            (most(), both, sizes, &[], some, [62, 50]),
            (most(), both, equal, fuller, none, [30, 42]),
            (most(), both, equal, halves, some, [42, 55]),
            (most(), memory, sizes, &[], some, [58, 50]),
            (most(), all, gpus, &[], ("3000", "5000", "2"), [50, 40]),
            (
                most(),
                [1, 1, 2],
                one_has,
                &[],
                ("3000", "4000", ""),
                [45, 45],
            ),
            (falling(), both, sizes, &[], some, [38, 50]),
            (falling(), both, sizes, alike, none, [38, 50]),
            (rising(), devices, one_more, &[], two, [2, 5]),
            (rising(), devices, one_more, &[], ("", "", "4"), [5, 10]),
            (
                rising(),
                devices,
                one_more,
                &[("b", ("", "", "2"))],
                two,
                [2, 10],
            ),
        ];
        for (strategy, weights, nodes, placed, asked, expected) in cases {
            let [a, b] = nodes.map(amounts);
            let node = |name: &str, has: serde_json::Value| json!({"metadata": {"name": name}, "status": {"allocatable": has}});
            let mut c = Cluster::new([node("a", a), node("b", b)]);
            for (on, asked) in placed {
                c.place(on, json!({"spec": pod(*asked)}));
            }
            let names = ["cpu", "memory", "x.example/gpu"].into_iter().zip(weights);
            let counted = names.filter(|(_, weight)| *weight > 0);
            let plugin = NodeResourcesFit {
                strategy,
                resources: counted.map(|(n, w)| (n.to_owned(), w)).collect(),
                ..NodeResourcesFit::default()
            };
            let out = scores(&plugin, &c, pod(asked));
            let strategy = &plugin.strategy;
            assert_eq!(
                out, expected,
                "{strategy:?} {weights:?} {nodes:?} {asked:?}"
            );
        }
    }
}
