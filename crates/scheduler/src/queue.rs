//! The pods that wait for a node. Times are milliseconds of a clock of the caller.
//!
//! ```text
//! put ─→ active ─take→ in flight ─→ removed when it is seen bound
//!          ↑  ↑            │ retry ─→ back-off ─(due)→ active
//!          │  └── wake ────┴ failed ─→ unschedulable
//! gated ───┘ (its gates are gone)
//! ```
//!
//! A wait after a refusal keeps others from starving; where nobody else waits, it serves nobody, and
//! such a pod is taken at once. A wait after an error spares whoever could not answer: it is kept.

mod back_off;
mod unschedulable;
mod word;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use back_off::BackOff;
pub use back_off::Waits;
use unschedulable::Unschedulable;

use crate::plugins::Refused;
use crate::pod::Pod;

/// Priority first, then the pod that waits longer, then the older pod.
type Rank = (Reverse<i32>, u64, i64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueState {
    Active(Rank),
    BackOff {
        due_ms: u64,
        /// Its priority, where it may be taken before.
        early: Option<i32>,
    },
    Unschedulable,
    Gated,
    InFlight,
}

struct Entry {
    pod: Arc<Pod>,
    tries: u32,
    came_ms: u64,
    last_try_ms: u64,
    /// The plugins that refused it at the last try.
    refused: Refused,
    place: QueueState,
    /// Room is being made for it: it is not tried before that is done.
    held: bool,
    /// What would have woken it happened while it was held.
    missed: bool,
    /// Nothing has happened that would have woken it: it is tried because it waited long.
    was_flushed: bool,
}

/// What has become of a pod so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub tries: u32,
    pub came_ms: u64,
    /// Its last try was made because it waited long, not because of an event.
    pub was_flushed: bool,
}

/// See the drawing above.
#[derive(Default)]
pub struct Queue {
    waits: Waits,
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeSet<(Rank, Arc<str>)>,
    back_off: BackOff,
    unschedulable: Unschedulable,
    /// How many wait for their gates to go.
    gated: usize,
    count: u64,
    /// How many came into which queue, and why, since [`Queue::take_incoming`].
    incoming: BTreeMap<(&'static str, &'static str), u64>,
}

/// How many pods are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    pub active: usize,
    pub back_off: usize,
    pub unschedulable: usize,
    pub gated: usize,
    pub all: usize,
}

impl Queue {
    pub fn new(waits: Waits) -> Self {
        Self {
            waits,
            ..Self::default()
        }
    }

    pub fn lengths(&self) -> Lengths {
        Lengths {
            active: self.active.len(),
            back_off: self.back_off.len(),
            unschedulable: self.unschedulable.len(),
            gated: self.gated,
            all: self.entries.len(),
        }
    }

    pub fn history(&self, uid: &str) -> Option<History> {
        self.entries.get(uid).map(|e| History {
            tries: e.tries,
            came_ms: e.came_ms,
            was_flushed: e.was_flushed,
        })
    }

    /// How many pods came into a queue for a reason since this was last asked: the queue, the reason,
    /// both in upstream's words.
    pub fn take_incoming(&mut self) -> BTreeMap<(&'static str, &'static str), u64> {
        std::mem::take(&mut self.incoming)
    }

    /// How many unschedulable pods of a profile which plugins refused.
    pub fn refusals(&self) -> &BTreeMap<(Arc<str>, Refused), usize> {
        self.unschedulable.refusals()
    }

    fn came(&mut self, queue: &'static str, why: &'static str) {
        *self.incoming.entry((queue, why)).or_default() += 1;
    }

    pub fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    fn take_out(&mut self, uid: &Arc<str>) {
        if let Some(entry) = self.entries.get(uid) {
            match entry.place {
                QueueState::Active(rank) => {
                    self.active.remove(&(rank, uid.clone()));
                }
                QueueState::BackOff { due_ms, early } => self.back_off.remove(due_ms, early, uid),
                QueueState::Unschedulable => self.unschedulable.remove(uid),
                QueueState::Gated => self.gated = self.gated.saturating_sub(1),
                QueueState::InFlight => {}
            }
        }
    }

    fn set(&mut self, uid: &Arc<str>, place: QueueState) {
        self.take_out(uid);
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        entry.place = place;
        match place {
            QueueState::Active(rank) => {
                self.active.insert((rank, uid.clone()));
            }
            QueueState::BackOff { due_ms, early } => self.back_off.insert(due_ms, early, uid),
            QueueState::Unschedulable => {
                let (refused, since_ms) = (entry.refused, entry.last_try_ms);
                self.unschedulable.insert(&entry.pod, refused, since_ms);
            }
            QueueState::Gated | QueueState::InFlight => {}
        }
    }

    fn activate(&mut self, uid: &Arc<str>, why: &'static str, now_ms: u64) {
        self.count += 1;
        self.came("active", why);
        let Some(pod) = self.entries.get(uid).map(|e| &e.pod) else {
            return;
        };
        let rank = (
            Reverse(pod.priority),
            now_ms,
            pod.created_seconds,
            self.count,
        );
        self.set(uid, QueueState::Active(rank));
    }

    /// A pod that has no node came or changed. `gated`: it is not to be tried before it changes.
    /// `spec_changed`: what it asks for is different, so that it may fit now.
    pub fn put(&mut self, pod: Arc<Pod>, gated: bool, spec_changed: bool, now_ms: u64) {
        let uid = pod.uid.clone();
        let Some(entry) = self.entries.get_mut(&uid) else {
            let entry = Entry {
                pod,
                tries: 0,
                came_ms: now_ms,
                last_try_ms: now_ms,
                refused: Refused::NOBODY,
                place: QueueState::Gated,
                held: false,
                missed: false,
                was_flushed: false,
            };
            self.entries.insert(uid.clone(), entry);
            self.gated += 1;
            match gated {
                // Upstream counts those that are gated among the unschedulable.
                true => self.came("unschedulable", word::CREATED),
                false => self.activate(&uid, word::CREATED, now_ms),
            }
            return;
        };
        entry.pod = pod;
        match entry.place {
            QueueState::Gated if !gated => self.activate(&uid, word::UNGATED, now_ms),
            QueueState::Active(_) if spec_changed => self.activate(&uid, word::CHANGED, now_ms),
            QueueState::Unschedulable if spec_changed => {
                self.after_refusal(&uid, word::CHANGED, now_ms);
            }
            _ => {}
        }
    }

    /// The pod needs no node any more.
    pub fn remove(&mut self, uid: &Arc<str>) {
        self.take_out(uid);
        self.entries.remove(uid);
    }

    /// The next pod to find a node for.
    pub fn take(&mut self, now_ms: u64) -> Option<Arc<Pod>> {
        self.move_due(now_ms);
        let active = self.active.first().map(|(_, uid)| uid.clone());
        let is_early = active.is_none();
        let uid = active.or_else(|| self.back_off.first_early().cloned())?;
        if is_early {
            self.came("active", word::EARLY);
        }
        self.set(&uid, QueueState::InFlight);
        let entry = self.entries.get_mut(&uid)?;
        entry.held = false;
        entry.tries = entry.tries.saturating_add(1);
        entry.last_try_ms = now_ms;
        Some(entry.pod.clone())
    }

    fn move_due(&mut self, now_ms: u64) {
        while let Some((due, uid)) = self.back_off.first().cloned() {
            if due > now_ms {
                break;
            }
            self.activate(&uid, word::WAITED, now_ms);
        }
        while let Some((since, uid)) = self.unschedulable.first().cloned() {
            if since.saturating_add(self.waits.flush_ms) > now_ms {
                break;
            }
            self.activate(&uid, word::FLUSHED, now_ms);
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.was_flushed = true;
            }
        }
    }

    /// No node fits, as these plugins say.
    pub fn failed(&mut self, uid: &Arc<str>, refused: Refused) {
        self.take_out(uid);
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.refused = refused;
            entry.was_flushed = false;
            // It is in no set any more; what follows puts it into one.
            entry.place = QueueState::InFlight;
            self.set(uid, QueueState::Unschedulable);
            self.came("unschedulable", word::FAILED);
        }
    }

    /// These plugins, too, stand in the way of an unschedulable pod.
    pub fn also_refused(&mut self, uid: &Arc<str>, refused: Refused) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        let all = entry.refused.with(refused);
        if entry.place == QueueState::Unschedulable && entry.refused != all {
            entry.refused = all;
            self.unschedulable
                .insert(&entry.pod, all, entry.last_try_ms);
        }
    }

    /// A pod that is to be tried next, or is unschedulable, waits from now on for what may make these
    /// plugins change their minds, or until it is called.
    pub fn set_aside(&mut self, uid: &Arc<str>, refused: Refused, now_ms: u64) {
        let waits =
            |e: &Entry| matches!(e.place, QueueState::Active(_) | QueueState::Unschedulable);
        if !self.entries.get(uid).is_some_and(waits) {
            return;
        }
        self.take_out(uid);
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.refused = refused;
            entry.last_try_ms = now_ms;
            entry.place = QueueState::InFlight;
        }
        self.set(uid, QueueState::Unschedulable);
    }

    /// A pod that is to be tried next.
    pub fn next_try(&self, uid: &str) -> Option<&Arc<Pod>> {
        let entry = self.entries.get(uid)?;
        matches!(entry.place, QueueState::Active(_)).then_some(&entry.pod)
    }

    /// Whether a pod is tried whatever happens: at once, or after its back-off.
    pub fn will_be_tried(&self, uid: &str) -> bool {
        let tried =
            |e: &Entry| matches!(e.place, QueueState::Active(_) | QueueState::BackOff { .. });
        self.entries.get(uid).is_some_and(tried)
    }

    /// A pod that waits here, wherever.
    pub fn pod(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.entries.get(uid).map(|e| &e.pod)
    }

    /// Whether a pod is tried once [`Queue::call`] calls it.
    pub fn can_be_called(&self, uid: &str) -> bool {
        let waits = |e: &Entry| e.place == QueueState::Unschedulable && !e.held;
        self.will_be_tried(uid) || self.entries.get(uid).is_some_and(waits)
    }

    /// Another pod of its group has a node and waits for it: it is tried at once. One for which room is
    /// being made is tried when that is done.
    pub fn call(&mut self, uid: &Arc<str>, now_ms: u64) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        match entry.place {
            QueueState::Unschedulable if entry.held => entry.missed = true,
            QueueState::Unschedulable | QueueState::BackOff { .. } => {
                self.activate(uid, word::GROUP, now_ms);
            }
            QueueState::Active(_) | QueueState::Gated | QueueState::InFlight => {}
        }
    }

    /// Room is being made for an unschedulable pod: nothing wakes it before [`Queue::release`],
    /// so that it does not ask for more room meanwhile.
    pub fn hold(&mut self, uid: &Arc<str>) {
        if let Some(entry) = self.entries.get_mut(uid) {
            (entry.held, entry.missed) = (true, false);
        }
    }

    /// An unschedulable pod lost the room that was being made for it: it looks for another node.
    pub fn displaced(&mut self, uid: &Arc<str>, now_ms: u64) {
        let waits = |e: &Entry| e.place == QueueState::Unschedulable;
        if self.entries.get(uid).is_some_and(waits) {
            self.after_refusal(uid, word::CHANGED, now_ms);
        }
    }

    /// Ends [`Queue::hold`]. `anyway`: something went wrong, and it is to be tried again whatever
    /// has happened.
    pub fn release(&mut self, uid: &Arc<str>, anyway: bool, now_ms: u64) {
        let Some(entry) = self.entries.get_mut(uid).filter(|e| e.held) else {
            return;
        };
        entry.held = false;
        if entry.place == QueueState::Unschedulable {
            match (anyway, entry.missed) {
                (true, _) => self.after_back_off(uid, false, word::ROOM, now_ms),
                (false, true) => self.after_refusal(uid, word::ROOM, now_ms),
                (false, false) => {}
            }
        }
    }

    /// Something went wrong that has nothing to do with the nodes: later again.
    pub fn retry(&mut self, uid: &Arc<str>, now_ms: u64) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.was_flushed = false;
        }
        self.after_back_off(uid, false, word::FAILED, now_ms);
    }

    fn after_refusal(&mut self, uid: &Arc<str>, why: &'static str, now_ms: u64) {
        self.after_back_off(uid, true, why, now_ms);
    }

    fn after_back_off(
        &mut self,
        uid: &Arc<str>,
        may_be_early: bool,
        why: &'static str,
        now_ms: u64,
    ) {
        let Some(entry) = self.entries.get(uid) else {
            return;
        };
        let due_ms = entry
            .last_try_ms
            .saturating_add(self.waits.after(entry.tries));
        let early = may_be_early.then_some(entry.pod.priority);
        if due_ms <= now_ms {
            self.activate(uid, why, now_ms);
        } else {
            self.set(uid, QueueState::BackOff { due_ms, early });
            self.came("backoff", why);
        }
    }

    /// How many kinds of unschedulable pods there are: each is looked at once.
    pub fn kinds(&self) -> usize {
        self.unschedulable.kinds()
    }

    /// Something happened: of the unschedulable pods that were refused by whom it `concerns`, those that it
    /// `helps`, who waits longest first, and how. That is asked once for all pods that are alike, about one
    /// for which no room is made where there are several.
    pub fn helped<T: Copy>(
        &self,
        concerns: impl Fn(Refused) -> bool,
        helps: impl Fn(&Pod, Refused) -> Option<T>,
    ) -> Vec<(Arc<str>, T)> {
        self.unschedulable.helped(concerns, helps)
    }

    /// Something happened that helps this pod: where it is unschedulable, it is tried again. The event
    /// is named in upstream's words.
    pub fn wake_one(&mut self, uid: &Arc<str>, why: &'static str, now_ms: u64) {
        match self.entries.get_mut(uid) {
            Some(entry) if entry.place != QueueState::Unschedulable => {}
            Some(entry) if entry.held => entry.missed = true,
            Some(_) => self.after_refusal(uid, why, now_ms),
            None => {}
        }
    }

    /// The plugins that refused a pod which is unschedulable.
    pub fn refused(&self, uid: &str) -> Option<Refused> {
        let entry = self.entries.get(uid)?;
        (entry.place == QueueState::Unschedulable).then_some(entry.refused)
    }

    /// When the next pod can be taken if nothing happens.
    pub fn next_due_ms(&self) -> Option<u64> {
        if !self.active.is_empty() || self.back_off.first_early().is_some() {
            return Some(0);
        }
        let back_off = self.back_off.first().map(|(due, _)| *due);
        let flush = self.unschedulable.first();
        let flush = flush.map(|(since, _)| since.saturating_add(self.waits.flush_ms));
        back_off.into_iter().chain(flush).min()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::Cluster;

    const EVENT: &str = "NodeAdd";

    fn pod(cluster: &mut Cluster, name: &str, priority: i32) -> Arc<Pod> {
        cluster.pod(json!({"metadata": {"name": name}, "spec": {"priority": priority}}))
    }

    fn wake(queue: &mut Queue, concerns: impl Fn(Refused) -> bool, helps: bool) {
        for (uid, why) in queue.helped(concerns, |_, _| helps.then_some(EVENT)) {
            queue.wake_one(&uid, why, 100);
        }
    }

    #[test]
    fn priority_goes_first_then_who_waits_longer() {
        let mut c = Cluster::default();
        let mut queue = Queue::default();
        for (name, priority, at) in [("late", 0, 2), ("early", 0, 1), ("high", 9, 3)] {
            queue.put(pod(&mut c, name, priority), false, false, at);
        }
        let order: Vec<String> =
            std::iter::from_fn(|| queue.take(5).map(|p| p.name.clone())).collect();
        assert_eq!(order, ["high", "early", "late"]);
    }

    #[test]
    fn back_off_doubles_up_to_its_limit() {
        let mut c = Cluster::default();
        let mut queue = Queue::default();
        let p = pod(&mut c, "a", 0);
        queue.put(p.clone(), false, false, 0);
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..6 {
            assert!(queue.take(now).is_some());
            queue.retry(&p.uid, now);
            let due = queue.next_due_ms().unwrap_or(0);
            assert!(queue.take(due - 1).is_none());
            waits.push(due - now);
            now = due;
        }
        assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
    }

    #[test]
    fn only_what_helps_wakes_an_unschedulable_pod() {
        let mut c = Cluster::default();
        let mut queue = Queue::default();
        let p = pod(&mut c, "a", 0);
        queue.put(p.clone(), false, false, 0);
        queue.take(0);
        queue.failed(&p.uid, Refused::NOBODY.and(2));
        wake(&mut queue, |refused| refused.has(1), true);
        assert_eq!(queue.lengths().unschedulable, 1);
        wake(&mut queue, |_| true, false);
        assert_eq!(queue.lengths().unschedulable, 1);
        wake(&mut queue, |refused| refused.has(2), true);
        assert_eq!(queue.next_due_ms(), Some(0));
        assert!(queue.take(100).is_some(), "nobody else waits");
        queue.failed(&p.uid, Refused::NOBODY);
        assert_eq!(queue.next_due_ms(), Some(300_100));
        assert!(queue.take(300_100).is_some());
    }

    #[test]
    fn a_wait_after_a_refusal_only_lets_others_go_first() {
        let mut c = Cluster::default();
        let mut queue = Queue::default();
        let mut all = Vec::new();
        for (name, priority) in [("low", 0), ("high", 9), ("broken", 20)] {
            let p = pod(&mut c, name, priority);
            queue.put(p.clone(), false, false, 0);
            all.push(p);
        }
        while queue.take(0).is_some() {}
        let [low, high, broken] = &all[..] else {
            panic!("three pods")
        };
        for p in [low, high] {
            queue.failed(&p.uid, Refused::NOBODY.and(2));
        }
        queue.retry(&broken.uid, 0);
        wake(&mut queue, |_| true, true);
        assert_eq!(queue.lengths().back_off, 3);
        queue.put(pod(&mut c, "new", -1), false, false, 200);
        let taken = std::iter::from_fn(|| queue.take(200).map(|p| p.name.clone()));
        // Who waits for a first try goes first; then the more important; errors wait.
        assert_eq!(taken.collect::<Vec<String>>(), ["new", "high", "low"]);
        assert_eq!(queue.next_due_ms(), Some(1_000));
        assert!(queue.take(1_000).is_some_and(|p| *p.name == *"broken"));
    }

    #[test]
    fn gates_hold_a_pod_until_they_are_gone() {
        let mut c = Cluster::default();
        let mut queue = Queue::default();
        let gated = c.pod(json!({"spec": {"schedulingGates": [{"name": "wait"}]}}));
        queue.put(gated.clone(), true, false, 0);
        assert!(queue.take(0).is_none());
        let mut free = Pod::clone(&gated);
        free.wants.gates.clear();
        queue.put(Arc::new(free), false, true, 1);
        assert!(queue.take(1).is_some());
    }

    #[test]
    fn who_came_into_which_queue_is_counted_with_the_reason() {
        let mut c = Cluster::default();
        let mut queue = Queue::default();
        let p = pod(&mut c, "a", 0);
        let gated = c.pod(json!({"spec": {"schedulingGates": [{"name": "wait"}]}}));
        queue.put(gated, true, false, 0);
        queue.put(p.clone(), false, false, 0);
        queue.take(0);
        let refused = Refused::NOBODY.and(2);
        queue.failed(&p.uid, refused);
        let key = (p.scheduler.clone(), refused);
        assert_eq!(queue.refusals().get(&key), Some(&1));
        wake(&mut queue, |_| true, true);
        assert!(queue.refusals().is_empty());
        assert!(queue.take(100).is_some());
        queue.retry(&p.uid, 100);
        assert!(queue.take(60_000).is_some());
        queue.failed(&p.uid, refused);
        assert!(queue.take(400_000).is_some());
        assert!(queue.history(&p.uid).is_some_and(|h| h.was_flushed));
        let counted: Vec<(&str, &str)> = queue.take_incoming().into_keys().collect();
        assert_eq!(
            counted,
            [
                ("active", "BackoffComplete"),
                ("active", "PopFromBackoffQ"),
                ("active", "UnschedulablePodAdd"),
                ("active", "UnschedulableTimeout"),
                ("backoff", "NodeAdd"),
                ("backoff", "ScheduleAttemptFailure"),
                ("unschedulable", "ScheduleAttemptFailure"),
                ("unschedulable", "UnschedulablePodAdd"),
            ]
        );
        assert!(queue.take_incoming().is_empty());
        queue.remove(&p.uid);
        assert!(queue.refusals().is_empty());
    }
}
