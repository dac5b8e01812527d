//! A queue of keys: each is in it once, is worked on by one worker at a time, and comes back
//! later when its work failed (with back-off) or asked to be woken.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::workqueue_metrics::WorkMetrics;

/// First wait after a failure; doubled for each further one.
const FIRST_BACK_OFF: Duration = Duration::from_millis(5);
/// Longest wait. Upstream's is 1,000 s, which people mistake for a hang.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

struct State<K> {
    ready: VecDeque<K>,
    /// In `ready`, or to be put there when its worker is done; since when.
    wanted: HashMap<K, Instant>,
    /// Since when.
    working: HashMap<K, Instant>,
    later: BTreeMap<(Instant, u64), K>,
    /// The time at which a key of `later` is due, so that it is there once.
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    count: u64,
    metrics: Option<WorkMetrics>,
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
            wanted: HashMap::new(),
            working: HashMap::new(),
            later: BTreeMap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
            count: 0,
            metrics: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            changed: Arc::default(),
        }
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add(&mut self, key: K) {
        if self.wanted.contains_key(&key) {
            return;
        }
        self.wanted.insert(key.clone(), Instant::now());
        if let Some(metrics) = &self.metrics {
            metrics.adds.inc();
        }
        if !self.working.contains_key(&key) {
            self.make_ready(key);
        }
    }

    fn make_ready(&mut self, key: K) {
        self.ready.push_back(key);
        if let Some(metrics) = &self.metrics {
            metrics.depth.inc();
        }
    }

    fn take(&mut self, now: Instant) -> Option<K> {
        let key = self.ready.pop_front()?;
        let since = self.wanted.remove(&key);
        self.working.insert(key.clone(), now);
        if let Some(metrics) = &self.metrics {
            metrics.depth.dec();
            let waited = since.map(|at| now.saturating_duration_since(at));
            metrics
                .waits
                .observe(waited.unwrap_or_default().as_secs_f64());
        }
        Some(key)
    }

    fn done(&mut self, key: &K) {
        let since = self.working.remove(key);
        if let Some((metrics, at)) = self.metrics.as_ref().zip(since) {
            metrics.works.observe(at.elapsed().as_secs_f64());
        }
        if self.wanted.contains_key(key) {
            self.make_ready(key.clone());
        }
    }

    /// Seconds that all work under way has taken so far, and the longest of it.
    fn under_way(&self) -> (f64, f64) {
        let all = self.working.values().map(|at| at.elapsed().as_secs_f64());
        all.fold((0.0, 0.0), |(sum, most), s| (sum + s, f64::max(most, s)))
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

impl<K: Clone + Eq + Hash + Debug + Send + 'static> Queue<K> {
    /// A queue whose figures are shown under a name, as long as it lasts.
    pub fn named(name: &str) -> Self {
        let queue = Self::default();
        let metrics = WorkMetrics::of(name);
        queue.state.lock().metrics = Some(metrics.clone());
        let state = Arc::downgrade(&queue.state);
        metrics::before_reading(move || {
            let Some(state) = state.upgrade() else {
                metrics.under_way(0.0, 0.0);
                return false;
            };
            let (all, longest) = state.lock().under_way();
            metrics.under_way(all, longest);
            true
        });
        queue
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
        if let Some(metrics) = &state.metrics {
            metrics.retries.inc();
        }
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
        self.state.lock().done(key);
        self.changed.notify_one();
    }

    /// The next key to work on.
    pub async fn next(&self) -> K {
        loop {
            let wake = {
                let mut state = self.state.lock();
                state.move_due(Instant::now());
                if let Some(key) = state.take(Instant::now()) {
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
    async fn what_waits_and_what_is_worked_on_is_shown() {
        let queue = Queue::named("shown_queue");
        let shows = |line: &str| {
            let text = metrics::prometheus(&metrics::lines());
            assert!(text.contains(line), "{line} in {text}");
        };
        queue.add("a");
        queue.add("b");
        shows("workqueue_depth{name=\"shown_queue\"} 2");
        tokio::time::advance(Duration::from_secs(2)).await;
        queue.next().await;
        shows("workqueue_adds_total{name=\"shown_queue\"} 2");
        shows("workqueue_depth{name=\"shown_queue\"} 1");
        shows("workqueue_queue_duration_seconds_sum{name=\"shown_queue\"} 2");
        tokio::time::advance(Duration::from_secs(3)).await;
        shows("workqueue_unfinished_work_seconds{name=\"shown_queue\"} 3");
        shows("workqueue_longest_running_processor_seconds{name=\"shown_queue\"} 3");
        queue.retry("a");
        queue.done(&"a");
        shows("workqueue_retries_total{name=\"shown_queue\"} 1");
        shows("workqueue_work_duration_seconds_bucket{le=\"10\",name=\"shown_queue\"} 1");
        shows("workqueue_unfinished_work_seconds{name=\"shown_queue\"} 0");
        drop(queue);
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
