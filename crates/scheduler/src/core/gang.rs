//! Gangs that cannot be complete now. Their pods that wait with nodes give them back: else a gang would
//! hold in vain what others could use, and two gangs what each of them lacks. They are tried again
//! together, after the back-off of those that had nodes: the first that gets one calls the others. Nor
//! do they take the room of less important pods unless all that are lacking would get nodes by it.

use std::sync::Arc;

use super::binding::Stage;
use super::gang_trial::{Trial, VainTrials};
use super::{Core, Nomination, Step};
use crate::gangs::GroupState;
use crate::message;
use crate::plugins::Refused;
use crate::pod::Pod;
use crate::preempt::{self, Candidate, Preemption};

/// The plugin that keeps the pods of a group together.
const PLUGIN: &str = "GangScheduling";
/// So long a trial that came to nothing counts if nothing happens before, in milliseconds.
const VAIN_FOR: u64 = 1_000;
/// So many pods of a gang that are not alike make trials in that time. A trial looks for a place for
/// each pod that is lacking: were it made for each, a large gang would keep all others waiting.
const TRIALS: usize = 8;

impl Core {
    /// How many pods of a group must have nodes at once; none where each goes by itself.
    fn least_of(&self, group: &str) -> Option<i64> {
        let gangs = self.snapshot.gangs();
        let least = gangs.least(group).filter(|_| gangs.are_served());
        least.filter(|least| *least > 0)
    }

    /// As if the plugin had refused a pod that waits for the others of its gang.
    fn refused_for(&self, pod: &Pod) -> Refused {
        let plugins = self.profile(&pod.scheduler).map(|p| p.plugins.as_slice());
        let mut plugins = plugins.unwrap_or_default().iter();
        let place = plugins.position(|(plugin, _)| plugin.name() == PLUGIN);
        place.map_or(Refused::EVERYBODY, |place| Refused::NOBODY.and(place))
    }

    /// Whether a pod has a node, or room is being made for it.
    fn has_room(&self, uid: &str) -> bool {
        self.snapshot.place(uid).is_some() || self.snapshot.nomination(uid).is_some()
    }

    /// Whether all pods that the gang of this one lacks could have nodes if it took the room of the best
    /// of these candidates, and others that of pods elsewhere. A pod without a gang is alone.
    pub(super) fn gang_gets_room(
        &mut self,
        pod: &Arc<Pod>,
        candidates: &[Arc<Candidate>],
        seed: u64,
        now_ms: u64,
    ) -> bool {
        let Some(group) = pod.wants.group.clone() else {
            return true;
        };
        let Some(least) = self.least_of(&group) else {
            return true;
        };
        let (mut lacking, mut others) = (least - 1, Vec::new());
        let members = self.snapshot.gangs().members(&group);
        for uid in members.filter(|uid| **uid != pod.uid) {
            if self.has_room(uid) {
                lacking -= 1;
            } else if self.queue.can_be_called(uid) {
                others.extend(self.queue.pod(uid).cloned());
            }
        }
        if lacking <= 0 {
            return true;
        }
        if self.is_in_vain(&group, pod, now_ms) {
            return false;
        }
        let gets = self.trial(pod, candidates, (lacking, others.as_slice()), &group, seed);
        if !gets {
            let vain = self.vain.entry(group).or_insert_with(|| VainTrials {
                of: Vec::new(),
                until_ms: now_ms.saturating_add(VAIN_FOR),
            });
            vain.of.push(pod.clone());
        }
        gets
    }

    /// Whether a trial for this pod would come to nothing, as those did which were made just now.
    fn is_in_vain(&mut self, group: &Arc<str>, pod: &Pod, now_ms: u64) -> bool {
        let Some(vain) = self.vain.get(group) else {
            return false;
        };
        if vain.until_ms <= now_ms || !self.happened.is_empty() {
            self.vain.remove(group);
            return false;
        }
        vain.of.len() >= TRIALS || vain.of.iter().any(|other| other.is_like(pod))
    }

    /// Whether so many of these others would get nodes if a pod took the room of the best of these
    /// candidates.
    fn trial(
        &mut self,
        pod: &Arc<Pod>,
        candidates: &[Arc<Candidate>],
        (mut lacking, others): (i64, &[Arc<Pod>]),
        group: &Arc<str>,
        seed: u64,
    ) -> bool {
        let best = preempt::best(candidates.to_vec());
        let Preemption::Possible { node, victims } = best else {
            return false;
        };
        let group = group.clone();
        let mut trial = Trial::begin(&mut self.snapshot, &self.profiles, group, seed);
        if !trial.take(pod, &node, &victims) {
            return false;
        }
        let mut left = i64::try_from(others.len()).unwrap_or(i64::MAX);
        for other in others {
            // Not all of them need to be tried to know that they are too few.
            if left < lacking {
                return false;
            }
            left -= 1;
            lacking -= i64::from(trial.place(other));
            if lacking == 0 {
                return true;
            }
        }
        false
    }

    /// Notes what has become of the group of a pod, if it has one: its pod has got a node, or not. As long
    /// as too few of a gang are there, nothing has.
    pub(super) fn tell_of_group(&mut self, pod: &Pod, state: GroupState) {
        let Some(group) = &pod.wants.group else {
            return;
        };
        let gangs = self.snapshot.gangs();
        if !gangs.is_news(group, state) {
            return;
        }
        if state != GroupState::Scheduled {
            let least = gangs.least(group).unwrap_or(0).max(1);
            let (mut all, mut placed, mut with_room) = (0_i64, 0_i64, 0_i64);
            for uid in gangs.members(group) {
                all += 1;
                placed += i64::from(self.snapshot.place(uid).is_some());
                with_room += i64::from(self.has_room(uid));
            }
            // That one more than it wants has no node says nothing of the group.
            let is_one_more = state == GroupState::Unschedulable && with_room >= least;
            if all < least || placed >= least || is_one_more {
                return;
            }
        }
        self.snapshot.gangs_mut().tell(group, state);
    }

    /// What has become of groups (`namespace/name`) since this was asked last.
    pub fn take_group_news(&mut self) -> Vec<(Arc<str>, GroupState)> {
        if !self.snapshot.gangs().has_news() {
            return Vec::new();
        }
        self.snapshot.gangs_mut().take_news()
    }

    /// A pod has got no node; nobody makes room for it unless it is nominated.
    pub(super) fn has_no_node(&mut self, pod: &Pod, now_ms: u64) {
        let Some(group) = &pod.wants.group else {
            return;
        };
        if self.asked.is_some() {
            return;
        }
        if self.snapshot.nomination(&pod.uid).is_some() {
            return self.tell_of_group(pod, GroupState::AwaitsRoom);
        }
        self.tell_of_group(pod, GroupState::Unschedulable);
        let why = format!("pod {:?} has no node", pod.name);
        if self.give_back(group, &why, now_ms) {
            // What the others have given back would wake it alone.
            let refused = self.refused_for(pod);
            self.queue.set_aside(&pod.uid, refused, now_ms);
        }
    }

    /// A pod waits with a node: the others of its gang are tried, whatever they wait for.
    pub(super) fn call_others(&mut self, uid: &str, now_ms: u64) {
        let waiting = self.waiting.get(uid).filter(|w| w.stage == Stage::Permit);
        let Some(group) = waiting.and_then(|w| w.pod.wants.group.clone()) else {
            return;
        };
        let Some(least) = self.least_of(&group) else {
            return;
        };
        let all: Vec<Arc<str>> = self.snapshot.gangs().members(&group).cloned().collect();
        let possible = |uid: &&Arc<str>| self.has_room(uid) || self.queue.can_be_called(uid);
        let possible = all.iter().filter(possible).count();
        if i64::try_from(possible).is_ok_and(|possible| possible < least) {
            self.give_back(&group, "not all of them can be tried now", now_ms);
            return;
        }
        for uid in &all {
            self.queue.call(uid, now_ms);
        }
    }

    /// Where too few pods of a group have nodes or are tried next, those that wait with one give it
    /// back, and the others are not tried before they are called. Whether any did.
    pub(super) fn give_back(&mut self, group: &str, why: &str, now_ms: u64) -> bool {
        let Some(least) = self.least_of(group) else {
            return false;
        };
        let (mut possible, mut waiting, mut next) = (0_i64, Vec::new(), Vec::new());
        for uid in self.snapshot.gangs().members(group) {
            possible += i64::from(self.has_room(uid) || self.queue.will_be_tried(uid));
            let waits = self.waiting.get(uid).filter(|w| w.stage == Stage::Permit);
            waiting.extend(waits.map(|w| w.pod.clone()));
            next.extend(self.queue.next_try(uid).cloned());
        }
        if possible >= least || waiting.is_empty() {
            return false;
        }
        for pod in waiting {
            self.not_bound(&pod.uid, now_ms);
            self.ready.push_back(Step::Unschedulable {
                pod,
                message: format!("{}: {why}", message::GANG_WAITS),
                nomination: Nomination::Ends,
                writes: Vec::new(),
            });
        }
        for pod in next {
            let refused = self.refused_for(&pod);
            self.queue.set_aside(&pod.uid, refused, now_ms);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as k8s;
    use serde_json::json;

    use super::*;
    use crate::decide::Profile;
    use crate::plugins::testing::node;
    use crate::queue::Waits;

    /// One node, and groups with the least number of their pods.
    fn core(cpu: &str, groups: &[(&str, i64)]) -> Core {
        let mut core = Core::new(vec![Profile::default()], Waits::default());
        let node = serde_json::from_value(node("a", cpu, "8Gi")).expect("a node");
        core.node_changed(None, Some(&node));
        core.pod_groups_served();
        for (group, least) in groups {
            core.pod_group_changed(&format!("n/{group}"), Some(*least));
        }
        core
    }

    fn pod(name: &str, group: Option<&str>, cpu: &str) -> k8s::Pod {
        let group = group.map(|group| json!({"podGroupName": group}));
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"schedulingGroup": group, "containers": [
                {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
        .expect("a pod")
    }

    /// Names of the pods that are bound until nothing is left to do at this time.
    fn bound(core: &mut Core, now_ms: u64) -> Vec<String> {
        let mut names = Vec::new();
        // More than enough: who is tried without end fails here.
        for seed in 0..1_000 {
            match core.step(seed, now_ms) {
                None => {
                    names.sort();
                    return names;
                }
                Some(Step::Bind { pod, .. }) => names.push(pod.name.clone()),
                Some(_) => {}
            }
        }
        panic!("no end: {names:?}");
    }

    /// The same in each of these seconds.
    fn bound_in(core: &mut Core, seconds: std::ops::Range<u64>) -> Vec<String> {
        let mut names = Vec::new();
        for second in seconds {
            names.append(&mut bound(core, second * 1_000));
        }
        names.sort();
        names
    }

    #[test]
    fn a_gang_that_does_not_fit_holds_nothing() {
        let mut core = core("4", &[("g", 6)]);
        let names = ["p0", "p1", "p2", "p3", "p4", "p5"];
        for name in names {
            core.pod_changed(None, Some(&pod(name, Some("g"), "1")), 0);
        }
        // However often they are tried.
        for second in 0..120 {
            assert!(bound(&mut core, second * 1_000).is_empty());
            assert_eq!(core.snapshot().placed(), (0, 0), "{second}");
        }
        // Others get the room, and the gang does when there is more.
        core.pod_changed(None, Some(&pod("alone", None, "4")), 120_500);
        assert_eq!(bound(&mut core, 120_500), ["alone"]);
        let large = serde_json::from_value(node("b", "6", "8Gi")).expect("a node");
        core.node_changed(None, Some(&large));
        assert_eq!(bound_in(&mut core, 121..140), names);
    }

    #[test]
    fn of_two_gangs_one_gets_the_room() {
        let mut core = core("3", &[("g", 3), ("h", 3)]);
        for (name, group) in [
            ("p", "g"),
            ("x", "h"),
            ("q", "g"),
            ("y", "h"),
            ("r", "g"),
            ("z", "h"),
        ] {
            core.pod_changed(None, Some(&pod(name, Some(group), "1")), 0);
        }
        assert_eq!(bound(&mut core, 0), ["p", "q", "r"]);
        assert_eq!(core.snapshot().placed().0, 3);
    }

    /// A pod of a priority: one of the gang, or one that runs.
    fn of(name: &str, priority: i32, node: Option<&str>) -> k8s::Pod {
        let group = node.is_none().then_some("g");
        let mut pod = pod(name, group, "1");
        let spec = pod.spec.as_mut().expect("a spec");
        spec.priority = Some(priority);
        spec.node_name = node.map(str::to_owned);
        pod
    }

    /// Of the gang alone.
    fn news(state: GroupState) -> Vec<(Arc<str>, GroupState)> {
        vec![("n/g".into(), state)]
    }

    /// Whose room is taken until nothing is left to do at this time, and the reports.
    fn victims(core: &mut Core, now_ms: u64) -> (Vec<String>, Vec<String>) {
        let (mut victims, mut reports) = (Vec::new(), Vec::new());
        while let Some(step) = core.step(1, now_ms) {
            let Step::Unschedulable {
                pod,
                message,
                nomination,
                ..
            } = step
            else {
                panic!("{step:?}")
            };
            reports.push(message);
            if let Nomination::Begins(room) = nomination {
                victims.extend(room.victims.iter().map(|v| v.name.clone()));
                core.made_room(&pod.uid, true, now_ms);
            }
        }
        (victims, reports)
    }

    #[test]
    fn no_pod_of_a_gang_takes_room_in_vain() {
        let mut core = core("2", &[("g", 2)]);
        let strong = of("strong", 20, Some("a"));
        for pod in [&of("weak", 0, Some("a")), &strong] {
            core.pod_changed(None, Some(pod), 0);
        }
        for name in ["p", "q"] {
            core.pod_changed(None, Some(&of(name, 9, None)), 0);
        }
        for second in 0..60 {
            let (gone, reports) = victims(&mut core, second * 1_000);
            assert_eq!(gone, [""; 0], "{reports:?}");
            if second == 0 {
                assert!(
                    reports.iter().any(|r| r.ends_with(message::GANG)),
                    "{reports:?}"
                );
            }
            assert_eq!(core.snapshot().placed(), (2, 0), "all is as before");
        }
        assert_eq!(core.take_group_news(), news(GroupState::Unschedulable));
        // Now one of them fits, and the other one needs what it may take.
        core.pod_changed(Some(&strong), None, 60_000);
        let mut gone = Vec::new();
        for second in 60..80 {
            gone.append(&mut victims(&mut core, second * 1_000).0);
        }
        assert_eq!(gone, ["weak"]);
        core.pod_changed(Some(&of("weak", 0, Some("a"))), None, 80_000);
        assert_eq!(bound_in(&mut core, 80..100), ["p", "q"]);
    }

    #[test]
    fn pods_that_are_alike_make_one_trial_as_long_as_nothing_happens() {
        let mut core = core("2", &[("g", 2)]);
        let strong = of("strong", 20, Some("a"));
        for pod in [&of("weak", 0, Some("a")), &strong] {
            core.pod_changed(None, Some(pod), 0);
        }
        for name in ["p", "q", "r"] {
            core.pod_changed(None, Some(&of(name, 9, None)), 0);
        }
        let made = |core: &Core| core.vain.get("n/g").map(|vain| vain.of.len());
        let (gone, reports) = victims(&mut core, 0);
        assert_eq!((gone.len(), reports.len(), made(&core)), (0, 3, Some(1)));
        assert!(reports.iter().all(|r| r.ends_with(message::GANG)));
        assert_eq!(core.take_group_news(), news(GroupState::Unschedulable));
        // What was in vain may not be so when something has happened, or one of them is another pod.
        core.pod_changed(Some(&of("p", 9, None)), Some(&of("p", 10, None)), 10);
        assert_eq!(made(&core), None);
        core.pod_changed(Some(&strong), None, 500);
        assert_eq!(victims(&mut core, 500).0, ["weak"]);
        // Though for one more than it wants there is none.
        assert_eq!(core.take_group_news(), news(GroupState::AwaitsRoom));
    }

    #[test]
    fn a_gang_takes_the_room_that_all_of_it_needs() {
        let mut core = core("2", &[("g", 2)]);
        let weak = ["one", "two"].map(|name| of(name, 0, Some("a")));
        for pod in &weak {
            core.pod_changed(None, Some(pod), 0);
        }
        for name in ["p", "q"] {
            core.pod_changed(None, Some(&of(name, 9, None)), 0);
        }
        let (mut gone, _) = victims(&mut core, 0);
        gone.sort();
        gone.dedup();
        assert_eq!(gone, ["one", "two"]);
        assert_eq!(core.take_group_news(), news(GroupState::AwaitsRoom));
        for pod in &weak {
            core.pod_changed(Some(pod), None, 1_000);
        }
        assert_eq!(bound_in(&mut core, 1..30), ["p", "q"]);
        assert_eq!(core.take_group_news(), news(GroupState::Scheduled));
    }

    #[test]
    fn a_node_is_kept_for_the_others_five_minutes() {
        let mut core = core("2", &[("g", 2)]);
        core.pod_changed(None, Some(&of("weak", 0, Some("a"))), 0);
        core.pod_changed(None, Some(&of("p", 9, None)), 0);
        core.pod_changed(None, Some(&of("q", 9, None)), 0);
        // The pod that is to make room never ends.
        let Some(Step::Unschedulable { nomination, .. }) = core.step(1, 0) else {
            panic!("one waits with its node, for the other one room is made")
        };
        assert!(matches!(nomination, Nomination::Begins(_)));
        assert!(core.step(2, 299_999).is_none());
        let Some(Step::Unschedulable { message, .. }) = core.step(3, 300_000) else {
            panic!("it waited long enough")
        };
        assert_eq!(
            message,
            "0/1 nodes are available: 1 rejected due to timeout after waiting 5m0s at plugin \
             GangScheduling."
        );
        assert!(core.snapshot().place("p").is_none());
    }

    #[test]
    fn a_gang_does_not_wait_with_nodes_for_a_pod_that_is_not_to_be_tried() {
        let mut core = core("8", &[("g", 3)]);
        let mut gated = pod("r", Some("g"), "1");
        if let Some(spec) = &mut gated.spec {
            spec.scheduling_gates = Some(vec![k8s::PodSchedulingGate { name: "w".into() }]);
        }
        for name in ["p", "q"] {
            core.pod_changed(None, Some(&pod(name, Some("g"), "1")), 0);
        }
        core.pod_changed(None, Some(&gated), 0);
        assert!(bound(&mut core, 0).is_empty());
        assert_eq!(core.snapshot().placed(), (0, 0));
        core.pod_changed(Some(&gated), None, 0);
        core.pod_changed(None, Some(&pod("s", Some("g"), "1")), 0);
        assert_eq!(bound_in(&mut core, 1..20), ["p", "q", "s"]);
    }
}
