//! A queue of keys: each is in it once, is worked on by one worker at a time, and comes back
//! later when its work failed (with back-off) or asked to be woken.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// First wait after a failure; doubled for each further one.
const FIRST_BACK_OFF: Duration = Duration::from_millis(5);
/// Longest wait. Upstream's is 1,000 s, which people mistake for a hang.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

struct State<K> {
    ready: VecDeque<K>,
    /// In `ready`, or to be put there when its worker is done.
    wanted: HashSet<K>,
    working: HashSet<K>,
    later: BTreeMap<(Instant, u64), K>,
    /// The time at which a key of `later` is due, so that it is there once.
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    count: u64,
}

/// Clones share the queue.
pub struct Queue<K> {
    state: Arc<Mutex<State<K>>>,
    changed: Arc<Notify>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            changed: self.changed.clone(),
        }
    }
}

impl<K: Clone + Eq + Hash + Debug> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            wanted: HashSet::new(),
            working: HashSet::new(),
            later: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            count: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            changed: Arc::default(),
        }
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add(&mut self, key: K) {
        if self.wanted.insert(key.clone()) && !self.working.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: K, at: Instant) {
        if let Some(old) = self.due.get(&key) {
            if old.0 <= at {
                return;
            }
            let old = *old;
            self.later.remove(&old);
        }
        self.count += 1;
        self.due.insert(key.clone(), (at, self.count));
        self.later.insert((at, self.count), key);
    }

    fn move_due(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key);
        }
    }
}

impl<K: Clone + Eq + Hash + Debug> Queue<K> {
    pub fn add(&self, key: K) {
        self.state.lock().add(key);
        self.changed.notify_one();
    }

    /// The earlier of this time and one that was asked for before counts.
    pub fn add_after(&self, key: K, wait: Duration) {
        if wait.is_zero() {
            return self.add(key);
        }
        self.state.lock().add_at(key, Instant::now() + wait);
        self.changed.notify_one();
    }

    /// After a failure: later each time.
    pub fn retry(&self, key: K) {
        let mut state = self.state.lock();
        let failures = state.failures.entry(key.clone()).or_default();
        let wait = FIRST_BACK_OFF
            .saturating_mul(1 << (*failures).min(16))
            .min(LONGEST_BACK_OFF);
        *failures += 1;
        state.add_at(key, Instant::now() + wait);
        drop(state);
        self.changed.notify_one();
    }

    /// The work on the key went well: its next failure is its first.
    pub fn forget(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }

    /// The worker is done with the key, which may have been added again meanwhile.
    pub fn done(&self, key: &K) {
        let mut state = self.state.lock();
        state.working.remove(key);
        if state.wanted.contains(key) {
            state.ready.push_back(key.clone());
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The next key to work on.
    pub async fn next(&self) -> K {
        loop {
            let wake = {
                let mut state = self.state.lock();
                state.move_due(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.wanted.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        // Another worker may sleep while there is more.
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.later.first_key_value().map(|((at, _), _)| *at)
            };
            match wake {
                None => self.changed.notified().await,
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
            }
        }
    }

    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keys_are_worked_on_once_and_again_when_added_meanwhile() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "b", "a is being worked on");
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn later_keys_come_in_time() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after("slow", Duration::from_secs(10));
        queue.add_after("fast", Duration::from_secs(1));
        queue.add_after("slow", Duration::from_secs(5));
        assert_eq!(queue.next().await, "fast");
        assert_eq!(queue.next().await, "slow");
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off() {
        let queue = Queue::default();
        let mut waits = Vec::new();
        for _ in 0..3 {
            let start = Instant::now();
            queue.retry("a");
            queue.next().await;
            queue.done(&"a");
            waits.push(start.elapsed().as_millis());
        }
        assert!(waits[0] < waits[1] && waits[1] < waits[2], "{waits:?}");
        queue.forget(&"a");
        let start = Instant::now();
        queue.retry("a");
        queue.next().await;
        assert!(start.elapsed().as_millis() <= waits[0]);
    }
}
