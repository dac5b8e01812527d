//! Equal pods for which there is no room: why each node was not taken is kept, and what trials to make
//! room there came to. For the next such pod only nodes are judged again where something has happened,
//! as in a batch of pods that fit. So a thousand pods that make room for themselves, or wait for it, cost
//! little more than one, however many nodes there are.

use std::sync::Arc;

use crate::alike::Alike;
use crate::decide::{Checks, Decision, Outcome, Profile, few, rejection};
use crate::plugins::Verdict;
use crate::pod::Pod;
use crate::preempt::Trials;
use crate::rejections::Rejections;
use crate::snapshot::Snapshot;

/// What is known of nodes about pods that none of them takes.
pub struct Refusals {
    alike: Alike,
    /// Of all nodes, sorted by them; shared with the decisions.
    rejections: Arc<Rejections>,
    /// Which of them do not hold any more: the pods fit there now.
    open: Vec<usize>,
    trials: Trials,
    /// What had happened when this held.
    mark: usize,
}

impl Refusals {
    /// None where what was said of nodes does not hold for other pods.
    pub fn begin(
        snapshot: &Snapshot,
        checks: &Checks<'_>,
        pod: &Arc<Pod>,
        profile: usize,
        decision: &Decision,
    ) -> Option<Self> {
        // Where room is made for it, it may go, and no other.
        let has_room = snapshot.nomination(&pod.uid).is_some();
        if has_room || decision.refused.is_some() || decision.rejections.len() != snapshot.len() {
            return None;
        }
        Some(Self {
            alike: Alike::new(checks, pod, profile)?,
            rejections: decision.rejections.clone(),
            open: Vec::new(),
            trials: Trials::default(),
            mark: snapshot.mark(),
        })
    }

    /// Whether a pod, with its profile at this place, is one of these.
    pub fn means(&self, pod: &Pod, profile: usize) -> bool {
        self.alike.means(pod, profile)
    }

    /// The decision about a pod that is one of these. None where all nodes have to be looked at: what is
    /// known does not hold, or not for a pod for which room is made, or there are nodes to choose among.
    pub fn next(&mut self, snapshot: &Snapshot, pod: &Pod, profile: &Profile) -> Option<Decision> {
        // What is kept is of a pod for which no room is made.
        let any = self.alike.pod().clone();
        let mut checks = self.alike.checks(snapshot, &any, profile)?;
        let changed = snapshot.changed_since(self.mark)?;
        let mut again = std::mem::take(&mut self.open);
        let of = |place: &usize| self.rejections.nth_of(*place);
        again.extend(changed.iter().filter_map(of));
        again.sort_unstable();
        again.dedup();
        let only = few(&checks);
        for nth in again {
            let place = self.rejections.get(nth)?.node;
            let node = snapshot.slots().get(place)?;
            self.trials.forget(nth);
            match rejection(snapshot, &any, profile, &mut checks, only.as_ref(), node) {
                None => self.open.push(nth),
                Some((plugin, verdict)) => self.refuse(nth, plugin, verdict),
            }
        }
        self.mark = snapshot.mark();
        let mut decision = Decision {
            outcome: Outcome::Unschedulable,
            nodes: snapshot.len(),
            feasible: self.open.len(),
            rejections: Arc::default(),
            refused: None,
            scores: Vec::new(),
        };
        if let Some(nth) = self.room_of(snapshot, pod) {
            let place = self.rejections.get(nth)?.node;
            let node = snapshot.slots().get(place)?;
            match rejection(snapshot, pod, profile, &mut checks, only.as_ref(), node) {
                None => {
                    decision.outcome = Outcome::Node(node.name.clone());
                    decision.feasible = 1;
                    return Some(decision);
                }
                Some((plugin, verdict)) if self.rejections.says(nth, plugin, &verdict) => {}
                Some(_) => return None,
            }
        }
        match self.open.as_slice() {
            [] => decision.rejections = self.rejections.clone(),
            [one] => {
                let place = self.rejections.get(*one)?.node;
                let node = snapshot.slots().get(place)?;
                decision.outcome = Outcome::Node(node.name.clone());
            }
            _ => return None,
        }
        Some(decision)
    }

    /// Which of them is of the node where room is made for a pod.
    fn room_of(&self, snapshot: &Snapshot, pod: &Pod) -> Option<usize> {
        let node = snapshot.nomination(&pod.uid)?;
        self.rejections.nth_of(snapshot.slot_of(node)?)
    }

    /// Mostly nothing is different: then what is counted of them holds.
    fn refuse(&mut self, nth: usize, plugin: usize, verdict: Verdict) {
        if !self.rejections.says(nth, plugin, &verdict) {
            Arc::make_mut(&mut self.rejections).set(nth, plugin, verdict);
        }
    }

    /// What trials came to that are of this decision: none where it is not one of these.
    pub fn trials(&mut self, decision: &Decision) -> Option<&mut Trials> {
        Arc::ptr_eq(&self.rejections, &decision.rejections).then_some(&mut self.trials)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use proptest::prelude::*;
    use proptest::test_runner::TestCaseError;
    use serde_json::{Value, json};

    use super::*;
    use crate::batch::{self, Batches};
    use crate::decide::{decide, filter_for, mix};
    use crate::decision_timings::Timings;
    use crate::plugins::testing::{Cluster, node};
    use crate::preempt::{Candidates, Preemption, best, candidates};

    /// Priority and halves of a core of pods that ask for a node.
    const KINDS: [(i32, usize); 3] = [(5, 2), (5, 3), (9, 2)];

    #[derive(Clone, Debug)]
    enum Act {
        Place {
            node: usize,
            priority: i32,
            halves: usize,
            db: bool,
        },
        Remove(usize),
        Resize(usize, usize),
        /// A node is closed to pods that come, or opened.
        Close(usize, bool),
        Budget(i32),
        /// A new pod of a kind; whether its victims go at once.
        Ask(usize, bool),
        /// One for which room is made is tried again.
        Return(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            6 => (0usize..4, 0i32..11, 1usize..4, any::<bool>()).prop_map(
                |(node, priority, halves, db)| Act::Place { node, priority, halves, db }),
            3 => (0usize..40).prop_map(Act::Remove),
            1 => (0usize..4, 1usize..5).prop_map(|(n, cpu)| Act::Resize(n, cpu)),
            1 => (0usize..4, any::<bool>()).prop_map(|(n, closed)| Act::Close(n, closed)),
            1 => (0i32..3).prop_map(Act::Budget),
            8 => (0usize..3, any::<bool>()).prop_map(|(kind, at_once)| Act::Ask(kind, at_once)),
            4 => (0usize..8).prop_map(Act::Return),
        ]
    }

    fn sized(n: usize, cpu: usize) -> Value {
        node(&format!("n{n}"), &cpu.to_string(), "8Gi")
    }

    /// The same cluster twice: one where what was found is kept, and one where nothing is.
    struct World {
        kept: Cluster,
        plain: Cluster,
        batches: Batches,
        profile: Profile,
        /// Pods on nodes, by UID.
        placed: Vec<Arc<str>>,
        /// Pods for which room is made, as either cluster knows them.
        coming: Vec<[Arc<Pod>; 2]>,
        allowed: Option<i32>,
        count: usize,
        seed: u64,
    }

    impl World {
        fn new(candidates: Candidates) -> Self {
            let nodes = || (0..4).map(|n| sized(n, 2 + n % 3));
            Self {
                kept: Cluster::new(nodes()),
                plain: Cluster::new(nodes()),
                batches: Batches::default(),
                profile: Profile {
                    candidates: Some(candidates),
                    ..Profile::default()
                },
                placed: Vec::new(),
                coming: Vec::new(),
                allowed: None,
                count: 0,
                seed: 0,
            }
        }

        fn both(&mut self) -> [&mut Cluster; 2] {
            [&mut self.kept, &mut self.plain]
        }

        /// A pod; no two have started at the same time.
        fn pod(&mut self, priority: i32, halves: usize, db: bool) -> Value {
            self.count += 1;
            let (hour, minute) = (self.count / 60, self.count % 60);
            let cpu = format!("{}m", halves * 500);
            json!({"metadata": {"labels": {"app": if db { "db" } else { "web" }}},
                "spec": {"priority": priority, "containers": [
                    {"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
                "status": {"startTime": format!("2026-01-01T{hour:02}:{minute:02}:00Z")}})
        }

        fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
            match *act {
                Act::Place {
                    node,
                    priority,
                    halves,
                    db,
                } => {
                    let pod = self.pod(priority, halves, db);
                    let name = format!("n{node}");
                    let [kept, _] = self.both().map(|c| c.place(&name, pod.clone()));
                    self.placed.push(kept.uid.clone());
                }
                Act::Remove(i) if !self.placed.is_empty() => {
                    let uid = self.placed.swap_remove(i % self.placed.len());
                    self.remove(&uid);
                }
                Act::Remove(_) => {}
                Act::Resize(n, cpu) => self.set_node(n, &sized(n, cpu)),
                Act::Close(n, closed) => {
                    let mut node = sized(n, 2 + n % 3);
                    node["spec"] = json!({"unschedulable": closed});
                    self.set_node(n, &node);
                }
                Act::Budget(allowed) => {
                    self.allowed = Some(allowed);
                    let budget = serde_json::from_value(json!({
                        "metadata": {"name": "b", "namespace": "default"},
                        "spec": {"selector": {"matchLabels": {"app": "db"}}},
                        "status": {"disruptionsAllowed": allowed, "currentHealthy": 1,
                            "desiredHealthy": 1, "expectedPods": 1},
                    }))
                    .expect("a budget");
                    for c in self.both() {
                        c.snapshot.budgets_mut().changed(None, Some(&budget));
                    }
                }
                Act::Ask(kind, at_once) => {
                    let (priority, halves) = KINDS[kind];
                    let pod = self.pod(priority, halves, false);
                    let pods = self.both().map(|c| c.pod(pod.clone()));
                    self.decide(pods, at_once)?;
                }
                Act::Return(i) if !self.coming.is_empty() => {
                    let pods = self.coming.swap_remove(i % self.coming.len());
                    self.decide(pods, true)?;
                }
                Act::Return(_) => {}
            }
            Ok(())
        }

        fn set_node(&mut self, n: usize, node: &Value) {
            for c in self.both() {
                let node = serde_json::from_value(node.clone()).expect("a node");
                let offer = crate::node::Offer::read(&node, &mut c.strings);
                let name = c.strings.get(&format!("n{n}"));
                c.snapshot.set_node(&name, offer);
            }
        }

        fn remove(&mut self, uid: &str) {
            for c in self.both() {
                c.snapshot.remove_pod(uid);
            }
        }

        /// Decides in either cluster, and does what was decided. Whether the pod gets a node or room.
        fn decide(&mut self, pods: [Arc<Pod>; 2], at_once: bool) -> Result<bool, TestCaseError> {
            self.seed += 1;
            let (seed, profile, [pod, same]) = (self.seed, &self.profile, &pods);
            let (snapshot, timings) = (&self.kept.snapshot, Timings::default());
            let own = (0, profile);
            let decision = batch::decide(&mut self.batches, snapshot, pod, own, seed, &timings);
            let slow = decide(&self.plain.snapshot, same, profile, seed);
            if let Outcome::Node(node) = &decision.outcome {
                prop_assert!(
                    matches!(slow.outcome, Outcome::Node(_)),
                    "{:?}",
                    slow.message()
                );
                let slots = self.plain.snapshot.slots();
                let place = slots.iter().position(|n| n.name == *node);
                prop_assert!(slow.rejections.iter().all(|r| Some(r.node) != place));
                self.placed.push(pod.uid.clone());
                for (c, pod) in [&mut self.kept, &mut self.plain].into_iter().zip(pods) {
                    c.snapshot.end_nomination(&pod.uid);
                    c.snapshot.assume(node, pod);
                }
                return Ok(true);
            }
            prop_assert_eq!(decision.message(), slow.message());
            prop_assert_eq!(decision.refused_by(), slow.refused_by());
            let mut none = Trials::default();
            let trials = self.batches.trials(&decision).unwrap_or(&mut none);
            let found = candidates(snapshot, pod, profile, &decision, seed, trials);
            let allowed = self.allowed;
            let expected = slowly(&mut self.plain, same, profile, allowed, &slow, seed);
            let (node, victims) = match found.map_or_else(|none| none, best) {
                Preemption::Possible { node, victims } => (node, victims),
                other => {
                    prop_assert!(expected.is_none(), "{:?}, and not {:?}", expected, other);
                    for (c, pod) in [&mut self.kept, &mut self.plain].into_iter().zip(&pods) {
                        c.snapshot.end_nomination(&pod.uid);
                    }
                    return Ok(false);
                }
            };
            let victims: Vec<Arc<str>> = victims.iter().map(|v| v.uid.clone()).collect();
            prop_assert_eq!(Some((node.clone(), victims.clone())), expected);
            for (c, pod) in [&mut self.kept, &mut self.plain].into_iter().zip(&pods) {
                c.snapshot.nominate(node.clone(), pod.clone());
            }
            self.coming.push(pods);
            if at_once {
                self.placed.retain(|uid| !victims.contains(uid));
                victims.iter().for_each(|uid| self.remove(uid));
            }
            Ok(true)
        }
    }

    fn fits(c: &Cluster, pod: &Pod, profile: &Profile, at: usize) -> bool {
        let mut checks = profile.prepare(pod, &c.snapshot).expect("checks");
        let node = &c.snapshot.slots()[at];
        filter_for(&c.snapshot, pod, &mut checks, node).is_none()
    }

    /// The same question, answered node by node: pods are really taken off and put back, and nothing is
    /// kept from one look to the next.
    fn slowly(
        c: &mut Cluster,
        pod: &Pod,
        profile: &Profile,
        allowed: Option<i32>,
        decision: &Decision,
        seed: u64,
    ) -> Option<(Arc<str>, Vec<Arc<str>>)> {
        let candidates = profile.candidates?;
        let hopeful = decision.rejections.iter();
        let hopeful = hopeful.filter(|r| matches!(r.verdict, Verdict::NotNow(_)));
        let mut places: Vec<usize> = hopeful.map(|r| r.node).collect();
        places.sort_unstable();
        let begin = mix(seed) % places.len().max(1) as u64;
        places.rotate_left(usize::try_from(begin).expect("a place"));
        let enough = (places.len() * candidates.percent / 100).max(candidates.least);
        let (mut found, mut harmless) = (Vec::new(), false);
        for at in places {
            let node = &c.snapshot.slots()[at];
            let name = node.name.clone();
            let mut lesser = node.pods.clone();
            lesser.retain(|p| p.priority < pod.priority);
            lesser.sort_by_key(|p| (Reverse(p.priority), p.started_seconds));
            for p in &lesser {
                c.snapshot.remove_pod(&p.uid);
            }
            let mut victims: Vec<Arc<Pod>> = Vec::new();
            let mut violations = 0;
            if !lesser.is_empty() && fits(c, pod, profile, at) {
                let mut left = allowed.unwrap_or(i32::MAX);
                let is_db = |p: &Pod| p.labels.get("app").is_some_and(|app| **app == *"db");
                let mut violates = |p: &Pod| {
                    left -= i32::from(is_db(p));
                    is_db(p) && left < 0
                };
                let mut marked: Vec<(bool, Arc<Pod>)> =
                    lesser.iter().map(|p| (violates(p), p.clone())).collect();
                marked.sort_by_key(|(violates, _)| !violates);
                for (violates, p) in marked {
                    c.snapshot.observe(&name, p.clone());
                    if !fits(c, pod, profile, at) {
                        c.snapshot.remove_pod(&p.uid);
                        violations += usize::from(violates);
                        victims.push(p);
                    }
                }
            }
            for p in lesser {
                c.snapshot.observe(&name, p);
            }
            victims.sort_by_key(|p| (Reverse(p.priority), p.started_seconds));
            let Some(first) = victims.first() else {
                continue;
            };
            let highest = first.priority;
            let sum: i64 = victims
                .iter()
                .map(|v| i64::from(v.priority) + (1_i64 << 32))
                .sum();
            let top = victims.iter().filter(|v| v.priority == highest);
            let since = Reverse(top.map(|v| v.started_seconds).min());
            let cost = (violations, highest, sum, victims.len(), since);
            let uids: Vec<Arc<str>> = victims.iter().map(|v| v.uid.clone()).collect();
            found.push((cost, (name, uids)));
            harmless |= violations == 0;
            if harmless && found.len() >= enough {
                break;
            }
        }
        let best = found.into_iter().min_by_key(|(cost, _)| *cost);
        best.map(|(_, found)| found)
    }

    proptest! {
        /// Whatever comes and goes: what is kept gives the same victims on the same node.
        #[test]
        fn what_is_kept_is_what_is_found(
            acts in proptest::collection::vec(act(), 1..80),
            sampled in any::<bool>(),
        ) {
            let candidates = match sampled {
                true => Candidates { percent: 30, least: 1 },
                false => Candidates::default(),
            };
            let mut world = World::new(candidates);
            for act in acts {
                world.act(&act)?;
            }
        }
    }

    #[test]
    fn pods_make_room_one_after_the_other_until_nobody_is_left() {
        let mut world = World::new(Candidates::default());
        // Nodes of 2, 3, 4 and 2 cores, full of halves.
        for (node, cores) in [2, 3, 4, 2].into_iter().enumerate() {
            for _ in 0..2 * cores {
                let place = Act::Place {
                    node,
                    priority: 0,
                    halves: 1,
                    db: false,
                };
                world.act(&place).expect("it is placed");
            }
        }
        let mut ask = || {
            let pod = world.pod(5, 2, false);
            let pods = world.both().map(|c| c.pod(pod.clone()));
            world.decide(pods, true).expect("both agree")
        };
        let rooms = (0..14).filter(|_| ask()).count();
        assert_eq!(rooms, 11);
        assert!(!ask());
    }

    #[test]
    fn equal_pods_share_what_is_said_of_nodes_until_one_fits() {
        let mut c = Cluster::new((0..3).map(|n| sized(n, 1)));
        let full = |priority: i32| {
            json!({"spec": {"priority": priority, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": "1"}}}]}})
        };
        let there = ["n0", "n1", "n2"].map(|name| c.place(name, full(9)));
        let (mut batches, profile) = (Batches::default(), Profile::default());
        let mut next = |c: &mut Cluster, priority: i32| {
            let (pod, timings) = (c.pod(full(priority)), Timings::default());
            batch::decide(&mut batches, &c.snapshot, &pod, (0, &profile), 1, &timings)
        };
        let first = next(&mut c, 5);
        let second = next(&mut c, 5);
        assert!(Arc::ptr_eq(&first.rejections, &second.rejections));
        // Another kind, and the first one again.
        assert!(!Arc::ptr_eq(
            &second.rejections,
            &next(&mut c, 6).rejections
        ));
        let third = next(&mut c, 5);
        assert!(!Arc::ptr_eq(&second.rejections, &third.rejections));
        c.snapshot.remove_pod(&there[1].uid);
        assert_eq!(next(&mut c, 5).outcome, Outcome::Node("n1".into()));
        assert_eq!(next(&mut c, 5).feasible, 1);
        c.place("n1", full(0));
        let refused = next(&mut c, 5);
        assert_eq!(refused.outcome, Outcome::Unschedulable);
        assert_eq!(refused.message(), first.message());
        // Of several nodes the best is chosen.
        c.snapshot.remove_pod(&there[0].uid);
        c.snapshot.remove_pod(&there[2].uid);
        assert_eq!(next(&mut c, 5).feasible, 2);
    }
}
