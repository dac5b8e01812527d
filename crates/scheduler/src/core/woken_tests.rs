//! Whom events wake: no pod that fits or may displace others is left waiting, and none is tried for what
//! helps only others.

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::decide::decide;

fn node(name: &str, cpu: usize, closed: bool) -> k8s::Node {
    let node = json!({"metadata": {"name": name}, "spec": {"unschedulable": closed},
        "status": {"allocatable": {"cpu": cpu.to_string(), "memory": "8Gi", "pods": "9"}}});
    serde_json::from_value(node).expect("a node")
}

fn pod(name: &str, priority: i32, cpu: usize, node: Option<&str>) -> k8s::Pod {
    with_status(name, priority, cpu, node, json!({}))
}

fn with_status(
    name: &str,
    priority: i32,
    cpu: usize,
    node: Option<&str>,
    status: Value,
) -> k8s::Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"priority": priority, "nodeName": node, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu.to_string()}}}]},
        "status": status,
    }))
    .expect("a pod")
}

fn core(nodes: &[(&str, usize)]) -> Core {
    // Only what happens has a pod tried again.
    let waits = Waits {
        flush_ms: u64::MAX,
        ..Waits::default()
    };
    let mut core = Core::new(vec![Profile::default()], waits);
    for (name, cpu) in nodes {
        core.node_changed(None, Some(&node(name, *cpu, false)));
    }
    core
}

fn begins(step: Option<Step>) -> (Arc<Pod>, Room) {
    match step {
        Some(Step::Unschedulable {
            pod,
            nomination: Nomination::Begins(room),
            ..
        }) => (pod, room),
        other => panic!("{other:?}"),
    }
}

fn tries(core: &Core, name: &str) -> u32 {
    core.queue().history(name).map_or(0, |h| h.tries)
}

#[test]
fn a_victim_that_ends_wakes_only_the_pod_whose_room_it_made() {
    let nodes = ["a", "b", "c"];
    let mut core = core(&nodes.map(|name| (name, 2)));
    let low = nodes.map(|at| pod(&format!("low-{at}"), 0, 2, Some(at)));
    for low in &low {
        core.pod_changed(None, Some(low), 0);
    }
    let mut rooms = Vec::new();
    for high in ["x", "y", "z"] {
        core.pod_changed(None, Some(&pod(high, 9, 2, None)), 0);
        let (pod, room) = begins(core.step(1, 0));
        core.made_room(&pod.uid, true, 0);
        rooms.push((pod.name.clone(), room.node));
    }
    // Nobody waits for what is on its way already.
    assert!(core.step(2, 0).is_none());
    for (high, at) in &rooms {
        let gone = low
            .iter()
            .find(|l| l.metadata.name == Some(format!("low-{at}")));
        core.pod_changed(gone, None, 10);
        match core.step(3, 10) {
            Some(Step::Bind { pod, node }) => assert_eq!((&pod.name, &node), (high, at)),
            other => panic!("{other:?}"),
        }
        assert!(core.step(4, 10).is_none(), "the others have nothing of it");
    }
}

#[test]
fn who_waits_for_several_victims_takes_no_other_room_meanwhile() {
    let mut core = core(&[("a", 2), ("b", 4)]);
    let low = ["low-1", "low-2"].map(|name| pod(name, 0, 1, Some("a")));
    for low in &low {
        core.pod_changed(None, Some(low), 0);
    }
    core.pod_changed(None, Some(&pod("other", 20, 4, Some("b"))), 0);
    core.pod_changed(None, Some(&pod("high", 9, 2, None)), 0);
    let (high, room) = begins(core.step(1, 0));
    assert_eq!(room.victims.len(), 2);
    core.made_room(&high.uid, true, 0);
    core.pod_changed(Some(&low[0]), None, 10);
    assert!(core.step(2, 10).is_none());
    // Tried for another reason, it still waits for the second.
    core.queue_mut().wake_one(&high.uid, "NodeAdd", 10);
    match core.step(3, 10) {
        Some(Step::Unschedulable {
            message,
            nomination: Nomination::Stays,
            ..
        }) => assert!(message.ends_with(message::STILL_TERMINATING), "{message}"),
        other => panic!("{other:?}"),
    }
    core.pod_changed(Some(&low[1]), None, 20);
    assert!(matches!(core.step(4, 20), Some(Step::Bind { .. })));
}

#[test]
fn who_lost_the_room_that_was_made_looks_again_when_all_victims_have_gone() {
    let mut core = core(&[("a", 2)]);
    let low = ["low-1", "low-2"].map(|name| pod(name, 0, 1, Some("a")));
    for low in &low {
        core.pod_changed(None, Some(low), 0);
    }
    core.pod_changed(None, Some(&pod("high", 9, 2, None)), 0);
    let (high, _) = begins(core.step(1, 0));
    core.made_room(&high.uid, true, 0);
    core.pod_changed(Some(&low[0]), None, 10);
    assert!(core.step(2, 10).is_none());
    // A more important one takes what is free, for which its room does not count.
    core.pod_changed(None, Some(&pod("first", 20, 1, None)), 20);
    assert!(matches!(core.step(3, 20), Some(Step::Bind { .. })));
    let before = tries(&core, "high");
    core.pod_changed(Some(&low[1]), None, 30);
    match core.step(4, 30) {
        Some(Step::Unschedulable {
            pod,
            nomination: Nomination::Ends,
            ..
        }) => assert_eq!(pod.name, "high"),
        other => panic!("{other:?}"),
    }
    assert_eq!(tries(&core, "high"), before + 1);
}

#[test]
fn room_that_was_made_and_is_not_needed_is_for_others() {
    let status = json!({"nominatedNodeName": "a"});
    let coming = with_status("coming", 9, 2, None, status);
    // It goes, gets another node, or the API shows that the room is not for it any more.
    for way in 0..3 {
        let mut core = core(&[("a", 2)]);
        let other = pod("other", 9, 2, Some("a"));
        core.pod_changed(None, Some(&other), 0);
        core.pod_changed(None, Some(&coming), 0);
        assert!(matches!(core.step(1, 0), Some(Step::Unschedulable { .. })));
        core.snapshot.nominate(
            "a".into(),
            core.queue.pod("coming").expect("it waits").clone(),
        );
        core.pod_changed(None, Some(&pod("late", 9, 2, None)), 10);
        assert!(matches!(core.step(2, 10), Some(Step::Unschedulable { .. })));
        match way {
            0 => core.pod_changed(Some(&coming), None, 20),
            1 => {
                let bound = pod("coming", 9, 2, Some("b"));
                core.pod_changed(Some(&coming), Some(&bound), 20);
            }
            _ => {
                // What it asks for is another matter.
                let mut plain = pod("coming", 9, 2, None);
                plain.spec.as_mut().expect("a spec").scheduler_name = Some("nobody".into());
                core.pod_changed(Some(&coming), Some(&plain), 20);
            }
        }
        let early = core.step(3, 20);
        assert!(!matches!(early, Some(Step::Bind { .. })), "{way}");
        core.pod_changed(Some(&other), None, 30);
        match core.step(4, 30) {
            Some(Step::Bind { pod, .. }) => assert_eq!(pod.name, "late", "{way}"),
            other => panic!("{way}: {other:?}"),
        }
    }
}

#[test]
fn what_lets_a_pod_displace_others_wakes_it() {
    for (way, wakes) in [
        ("an equal pod ends", true),
        ("an equal pod asks for less", true),
        ("the node grows", true),
        ("a lesser pod ends", false),
        ("it displaces nobody", false),
    ] {
        let mut core = core(&[("a", 5)]);
        let (equal, less) = (pod("equal", 9, 2, Some("a")), pod("equal", 9, 1, Some("a")));
        let low = pod("low", 0, 2, Some("a"));
        for there in [&equal, &pod("first", 20, 1, Some("a")), &low] {
            core.pod_changed(None, Some(there), 0);
        }
        let mut waiting = pod("waiting", 9, 3, None);
        if way == "it displaces nobody" {
            let spec = waiting.spec.as_mut().expect("a spec");
            spec.preemption_policy = Some("Never".into());
        }
        core.pod_changed(None, Some(&waiting), 0);
        match core.step(1, 0) {
            Some(Step::Unschedulable {
                nomination: Nomination::Stays,
                ..
            }) => {}
            other => panic!("{way}: {other:?}"),
        }
        match way {
            "an equal pod asks for less" => core.pod_changed(Some(&equal), Some(&less), 10),
            "the node grows" => core.node_changed(None, Some(&node("a", 6, false))),
            "a lesser pod ends" => core.pod_changed(Some(&low), None, 10),
            _ => core.pod_changed(Some(&equal), None, 10),
        }
        if !wakes {
            assert!(core.step(2, 10).is_none(), "{way}");
            continue;
        }
        let (_, room) = begins(core.step(2, 10));
        let victims: Vec<&str> = room.victims.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(victims, ["low"], "{way}");
    }
}

#[test]
fn who_refused_a_pod_even_without_the_lesser_ones_says_what_wakes_it() {
    let mut core = core(&[]);
    let one = |key: &str, value: &str| Some([(key.to_owned(), value.to_owned())].into());
    for name in ["a", "b"] {
        let mut node = node(name, 2, false);
        node.metadata.labels = one("zone", "z");
        core.node_changed(None, Some(&node));
    }
    let mut feared = pod("feared", 9, 1, Some("b"));
    feared.metadata.labels = one("app", "x");
    let low = pod("low", 0, 2, Some("a"));
    for there in [&feared, &pod("first", 20, 1, Some("b")), &low] {
        core.pod_changed(None, Some(there), 0);
    }
    let mut waiting = pod("waiting", 9, 2, None);
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "x"}}}]}});
    waiting.spec.as_mut().expect("a spec").affinity =
        serde_json::from_value(apart).expect("an affinity");
    core.pod_changed(None, Some(&waiting), 0);
    assert!(matches!(
        core.step(1, 0),
        Some(Step::Unschedulable {
            nomination: Nomination::Stays,
            ..
        })
    ));
    // Both nodes are full, and stay so.
    core.pod_changed(Some(&feared), None, 10);
    let (_, room) = begins(core.step(2, 10));
    assert_eq!((&*room.node, room.victims.len()), ("a", 1));
}

#[test]
fn who_waits_for_victims_is_not_tried_for_others_that_it_may_displace() {
    let mut core = core(&[("a", 2), ("b", 4)]);
    let low = pod("low", 0, 2, Some("a"));
    let (equal, less) = (pod("equal", 9, 3, Some("b")), pod("equal", 9, 2, Some("b")));
    for there in [&low, &equal, &pod("low-b", 0, 1, Some("b"))] {
        core.pod_changed(None, Some(there), 0);
    }
    core.pod_changed(None, Some(&pod("high", 9, 2, None)), 0);
    let (high, room) = begins(core.step(1, 0));
    assert_eq!(&*room.node, "a");
    core.made_room(&high.uid, true, 0);
    core.pod_changed(Some(&equal), Some(&less), 10);
    assert!(core.step(2, 10).is_none());
    // Its node will not take it: it need not wait for anybody there.
    core.node_changed(None, Some(&node("a", 2, true)));
    let (_, room) = begins(core.step(3, 10));
    assert_eq!((&*room.node, room.victims.len()), ("b", 1));
}

#[derive(Clone, Debug)]
enum Act {
    /// A pod of another's on a node: node, priority, cores.
    Place(usize, i32, usize),
    /// One that is on a node goes.
    Remove(usize),
    /// One that is on a node asks for less.
    Shrink(usize),
    Node(usize, usize, bool),
    Ask(i32, usize),
    /// One that waits goes.
    Withdraw(usize),
    /// Requests for room were answered.
    Answer(usize, bool),
    /// One that was asked to make room has gone.
    Go(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => (0usize..3, 0i32..4, 1usize..3).prop_map(|(n, p, c)| Act::Place(n, p, c)),
        3 => (0usize..20).prop_map(Act::Remove),
        1 => (0usize..20).prop_map(Act::Shrink),
        2 => (0usize..3, 1usize..5, prop::bool::weighted(0.3))
            .prop_map(|(n, cpu, closed)| Act::Node(n, cpu, closed)),
        6 => (0i32..4, 1usize..4).prop_map(|(p, c)| Act::Ask(p, c)),
        2 => (0usize..20).prop_map(Act::Withdraw),
        5 => (0usize..20, prop::bool::weighted(0.9)).prop_map(|(i, all)| Act::Answer(i, all)),
        5 => (0usize..20).prop_map(Act::Go),
    ]
}

/// What is in the API, and what is being asked of it.
#[derive(Default)]
struct World {
    count: usize,
    placed: Vec<k8s::Pod>,
    waiting: Vec<k8s::Pod>,
    /// Who makes room for whom, not answered yet.
    rooms: Vec<(Arc<str>, Vec<Arc<str>>)>,
    leaving: Vec<Arc<str>>,
    now: u64,
}

fn uid(pod: &k8s::Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

impl World {
    fn name(&mut self) -> String {
        self.count += 1;
        format!("p{}", self.count)
    }

    fn gone(&mut self, core: &mut Core, gone: &str) {
        self.leaving.retain(|l| **l != *gone);
        let of = |pods: &mut Vec<k8s::Pod>| {
            let at = pods.iter().position(|p| uid(p) == gone)?;
            Some(pods.swap_remove(at))
        };
        let pod = of(&mut self.placed).or_else(|| of(&mut self.waiting));
        if let Some(pod) = pod {
            core.pod_changed(Some(&pod), None, self.now);
        }
    }

    fn act(&mut self, core: &mut Core, act: &Act) {
        match *act {
            Act::Place(at, priority, cpu) => {
                let pod = pod(&self.name(), priority, cpu, Some(&format!("n{at}")));
                core.pod_changed(None, Some(&pod), self.now);
                self.placed.push(pod);
            }
            Act::Remove(i) if !self.placed.is_empty() => {
                let pod = uid(&self.placed[i % self.placed.len()]).to_owned();
                self.gone(core, &pod);
            }
            Act::Shrink(i) if !self.placed.is_empty() => {
                let at = i % self.placed.len();
                let old = self.placed[at].clone();
                let least = [("cpu".to_owned(), Quantity("1".to_owned()))];
                let spec = self.placed[at].spec.as_mut().expect("a spec");
                spec.containers[0].resources = Some(k8s::ResourceRequirements {
                    requests: Some(least.into()),
                    ..k8s::ResourceRequirements::default()
                });
                core.pod_changed(Some(&old), Some(&self.placed[at]), self.now);
            }
            Act::Node(at, cpu, closed) => {
                core.node_changed(None, Some(&node(&format!("n{at}"), cpu, closed)));
            }
            Act::Ask(priority, cpu) => {
                let pod = pod(&self.name(), priority, cpu, None);
                core.pod_changed(None, Some(&pod), self.now);
                self.waiting.push(pod);
            }
            Act::Withdraw(i) if !self.waiting.is_empty() => {
                let pod = uid(&self.waiting[i % self.waiting.len()]).to_owned();
                self.gone(core, &pod);
            }
            Act::Answer(i, all) if !self.rooms.is_empty() => {
                let (of, victims) = self.rooms.swap_remove(i % self.rooms.len());
                if all {
                    self.leaving.extend(victims);
                }
                core.made_room(&of, all, self.now);
            }
            Act::Go(i) if !self.leaving.is_empty() => {
                let pod = self.leaving.swap_remove(i % self.leaving.len());
                self.gone(core, &pod);
            }
            _ => {}
        }
    }

    /// Decides until nothing is left to decide.
    fn settle(&mut self, core: &mut Core) {
        // More than enough: who is tried without end fails here.
        for seed in 0..2_000 {
            self.now += 1;
            match core.step(seed, self.now) {
                // Who waits after a request that failed is tried when that is over.
                None if core.queue.lengths().back_off > 0 => {
                    let due = core.next_due_ms().expect("one waits");
                    self.now = self.now.max(due);
                }
                None => return,
                Some(Step::Bind { pod, node }) => {
                    let at = self.waiting.iter().position(|p| uid(p) == &*pod.uid);
                    let old = self.waiting.swap_remove(at.expect("it waits"));
                    let mut new = old.clone();
                    new.spec.as_mut().expect("a spec").node_name = Some(node.to_string());
                    core.pod_changed(Some(&old), Some(&new), self.now);
                    self.placed.push(new);
                }
                Some(Step::Unschedulable {
                    pod,
                    nomination: Nomination::Begins(room),
                    ..
                }) => {
                    let victims = room.victims.iter().map(|v| v.uid.clone()).collect();
                    self.rooms.push((pod.uid.clone(), victims));
                }
                Some(Step::Unschedulable { .. }) => {}
                Some(other) => panic!("{other:?}"),
            }
        }
        panic!("no end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Compared with trying all again after each event: none of those that wait, and for which no room is
    /// being made at the moment, would find a node, or others to displace.
    #[test]
    fn no_pod_that_fits_or_could_preempt_is_left_waiting(
        acts in prop::collection::vec(act(), 1..80)
    ) {
        let mut core = core(&[("n0", 4), ("n1", 3), ("n2", 2)]);
        let (mut world, profile) = (World::default(), Profile::default());
        for act in &acts {
            world.act(&mut core, act);
            world.settle(&mut core);
            let held = |pod: &str| world.rooms.iter().any(|(of, _)| **of == *pod);
            for pod in world.waiting.iter().filter(|p| !held(uid(p))) {
                let pod = core.queue.pod(uid(pod)).expect("it waits");
                let decision = decide(&core.snapshot, pod, &profile, 1);
                prop_assert!(
                    !matches!(decision.outcome, Outcome::Node(_)),
                    "{} fits after {act:?}: {:?}",
                    pod.name,
                    decision.outcome
                );
                let others = preempt::preempt(&core.snapshot, pod, &profile, &decision, 1);
                prop_assert!(
                    !matches!(others, Preemption::Possible { .. }),
                    "{} may displace others after {act:?}: {others:?}",
                    pod.name,
                );
            }
        }
    }
}
