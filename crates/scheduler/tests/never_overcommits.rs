//! Whatever the order in which decisions, bindings, refusals, deletions and news of them come:
//! no node gets more than it has, and no pod is lost.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use scheduler::core::{Core, Step};
use scheduler::decide::Profile;
use scheduler::queue::Waits;
use serde_json::json;

#[derive(Clone, Debug)]
enum Act {
    AddNode(i64),
    RemoveNode(usize),
    AddPod {
        cpu: i64,
        priority: i32,
    },
    Decide,
    /// The API accepts a binding, or refuses it.
    Answer(usize, bool),
    DeletePod(usize),
    FinishPod(usize),
    /// The next news of pods or of nodes reaches the scheduler.
    HearPod,
    HearNode,
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => (0i64..8).prop_map(|c| Act::AddNode(c * 500)),
        1 => (0usize..8).prop_map(Act::RemoveNode),
        6 => (0i64..6, 0i32..3).prop_map(|(c, priority)| Act::AddPod { cpu: c * 250, priority }),
        8 => Just(Act::Decide),
        6 => (0usize..32, prop::bool::weighted(0.8)).prop_map(|(i, ok)| Act::Answer(i, ok)),
        2 => (0usize..32).prop_map(Act::DeletePod),
        1 => (0usize..32).prop_map(Act::FinishPod),
        10 => Just(Act::HearPod),
        3 => Just(Act::HearNode),
        2 => (0u64..20_000).prop_map(Act::Wait),
    ]
}

/// The API as it is, and what the scheduler has not heard yet.
#[derive(Default)]
struct World {
    nodes: BTreeMap<String, (Node, i64)>,
    /// By name: the pod and its CPU.
    pods: BTreeMap<String, (Pod, i64)>,
    pod_news: VecDeque<(Option<Pod>, Option<Pod>)>,
    node_news: VecDeque<(Option<Node>, Option<Node>)>,
    in_flight: Vec<(Arc<scheduler::Pod>, String)>,
    capacity: BTreeMap<String, i64>,
    count: usize,
    now: u64,
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Succeeded")
}

impl World {
    fn add_node(&mut self, cpu: i64) {
        // Removed nodes come back under their name with what they had.
        let gone = self
            .capacity
            .iter()
            .find(|(name, _)| !self.nodes.contains_key(*name))
            .map(|(n, c)| (n.clone(), *c));
        let (name, cpu) = gone.unwrap_or((format!("n{}", self.capacity.len()), cpu));
        self.capacity.insert(name.clone(), cpu);
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name},
            "status": {"allocatable": {"cpu": format!("{cpu}m"), "memory": "64Gi", "pods": "7"}}
        }))
        .expect("a node");
        self.node_news.push_back((None, Some(node.clone())));
        self.nodes.insert(name, (node, cpu));
    }

    fn add_pod(&mut self, cpu: i64, priority: i32) {
        self.count += 1;
        let name = format!("p{}", self.count);
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"priority": priority, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": format!("{cpu}m")}}}]}
        }))
        .expect("a pod");
        self.pod_news.push_back((None, Some(pod.clone())));
        self.pods.insert(name, (pod, cpu));
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        if let Some((pod, _)) = self.pods.get_mut(name) {
            let old = pod.clone();
            change(pod);
            self.pod_news.push_back((Some(old), Some(pod.clone())));
        }
    }

    fn nth_pod(&self, i: usize) -> Option<String> {
        let len = self.pods.len().max(1);
        self.pods.keys().nth(i % len).cloned()
    }

    fn answer(&mut self, core: &mut Core, i: usize, accept: bool) {
        if self.in_flight.is_empty() {
            return;
        }
        let (pod, node) = self.in_flight.remove(i % self.in_flight.len());
        // The API knows only pods that are there.
        if accept && self.pods.contains_key(&pod.name) {
            self.change(&pod.name, |p| {
                if let Some(spec) = p.spec.as_mut() {
                    spec.node_name = Some(node);
                }
            });
        } else {
            core.not_bound(&pod.uid, self.now);
        }
    }

    fn hear_pod(&mut self, core: &mut Core) -> bool {
        let Some((old, new)) = self.pod_news.pop_front() else {
            return false;
        };
        core.pod_changed(old.as_ref(), new.as_ref(), self.now);
        true
    }

    fn hear_node(&mut self, core: &mut Core) -> bool {
        let Some((old, new)) = self.node_news.pop_front() else {
            return false;
        };
        core.node_changed(old.as_ref(), new.as_ref());
        true
    }

    fn decide(&mut self, core: &mut Core, seed: u64) -> bool {
        match core.step(seed, self.now) {
            None => false,
            Some(Step::Bind { pod, node }) => {
                self.in_flight.push((pod, node.to_string()));
                true
            }
            Some(Step::Ask(_)) => panic!("there are no extenders"),
            Some(Step::Unschedulable { .. } | Step::Prepare { .. } | Step::Failed { .. }) => true,
        }
    }

    fn act(&mut self, core: &mut Core, act: Act, seed: u64) {
        match act {
            Act::AddNode(cpu) => self.add_node(cpu),
            Act::RemoveNode(i) => {
                let name = self.nodes.keys().nth(i).cloned();
                if let Some((node, _)) = name.and_then(|n| self.nodes.remove(&n)) {
                    self.node_news.push_back((Some(node), None));
                }
            }
            Act::AddPod { cpu, priority } => self.add_pod(cpu, priority),
            Act::Decide => {
                self.decide(core, seed);
            }
            Act::Answer(i, accept) => self.answer(core, i, accept),
            Act::DeletePod(i) => {
                if let Some((pod, _)) = self.nth_pod(i).and_then(|n| self.pods.remove(&n)) {
                    self.pod_news.push_back((Some(pod), None));
                }
            }
            Act::FinishPod(i) => {
                if let Some(name) = self.nth_pod(i) {
                    self.change(&name, |p| {
                        p.status.get_or_insert_default().phase = Some("Succeeded".into());
                    });
                }
            }
            Act::HearPod => {
                self.hear_pod(core);
            }
            Act::HearNode => {
                self.hear_node(core);
            }
            Act::Wait(ms) => self.now += ms,
        }
    }

    /// What is on each node, or may be once bindings under way are answered.
    fn check(&self) {
        let mut used: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
        for (pod, cpu) in self.pods.values().filter(|(p, _)| is_running(p)) {
            let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
            if let Some(node) = node {
                let sum = used.entry(node).or_default();
                *sum = (sum.0 + cpu, sum.1 + 1);
            }
        }
        for (pod, node) in &self.in_flight {
            // A binding of a pod that is gone or done will not take room.
            if self.pods.get(&pod.name).is_some_and(|(p, _)| is_running(p)) {
                let sum = used.entry(node).or_default();
                *sum = (sum.0 + pod.request.cpu_millis, sum.1 + 1);
            }
        }
        for (node, (cpu, pods)) in used {
            let all = self.capacity.get(node).copied().unwrap_or(0);
            assert!(cpu <= all, "{node}: {cpu}m of {all}m");
            assert!(pods <= 7, "{node}: {pods} pods");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn in_any_order(acts in prop::collection::vec(act(), 1..250), seed: u64) {
        let mut world = World::default();
        let mut core = Core::new(vec![Profile::default()], Waits::default());
        for (i, act) in acts.into_iter().enumerate() {
            world.act(&mut core, act, seed.wrapping_add(i as u64));
            world.check();
        }
        // All is done: a pod without a node waits for one.
        loop {
            let mut any = world.decide(&mut core, seed);
            while !world.in_flight.is_empty() {
                world.answer(&mut core, 0, true);
                any = true;
            }
            any |= world.hear_node(&mut core);
            any |= world.hear_pod(&mut core);
            world.check();
            if !any {
                break;
            }
        }
        for (pod, _) in world.pods.values().filter(|(p, _)| is_running(p)) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let bound = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
            prop_assert_eq!(core.queue().contains(name), !bound, "{}", name);
        }
    }
}
