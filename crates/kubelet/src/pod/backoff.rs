//! Waits before something is tried again. Pure: time is an argument.
//!
//! Two kinds. What ended and is started again (a container, a sandbox) waits as upstream's
//! CrashLoopBackOff does, counted from its end. What failed and left nothing behind (a sandbox
//! that could not be made, volumes, a container whose description or creation failed) is held
//! back from its failure on, for a shorter time. Both are asked by the decision, so that no
//! event, however many there are, makes a pod try sooner. Times are those of the day, since the
//! runtime's are: a wait that is longer than it can be shows that the clock was set back, and is over.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;
use std::collections::HashMap;

/// Key of the pod's sandbox, and all that is made before it; a container's is [`of_container`].
pub const SANDBOX: &str = "/sandbox";
/// Key of bringing volumes up to date.
pub const VOLUMES: &str = "/volumes";
/// Key of stopping the sandbox.
pub const STOP: &str = "/stop";
/// Key of stopping containers.
pub const KILL: &str = "/kill";
/// Key of giving containers and the pod's group other limits.
pub const RESIZE: &str = "/resize";
/// Key of removing what is dead.
pub const REMOVE: &str = "/remove";
/// Key of giving back what is mounted.
pub const RELEASE: &str = "/release";
/// Key of deleting the object.
pub const DELETE: &str = "/delete";

/// Key of a container: with all that can change of it and may be what made it fail, so that a new
/// image, or other resources, are tried at once.
#[must_use]
pub fn of_container(container: &Container) -> String {
    let resources = container.resources.as_ref();
    let resources = resources.and_then(|r| serde_json::to_string(r).ok());
    format!(
        "{}/{}/{}",
        container.name,
        container.image.as_deref().unwrap_or_default(),
        resources.unwrap_or_default()
    )
}

/// Seconds that the first failure in a row holds its key back; each further one doubles it …
const HOLD_SECONDS: i64 = 1;
/// … up to this. Upstream tries such things again every 10 to 15 seconds; to begin sooner makes
/// up for what is only late, such as the network of a node that has just started.
const HOLD_MAX_SECONDS: i64 = 30;

/// Delays by key.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: SignedDuration,
    max: SignedDuration,
    /// The delay, and when the last try began.
    entries: HashMap<String, (SignedDuration, Timestamp)>,
    /// Failures in a row, and until when their key is held back.
    holds: HashMap<String, (u32, Timestamp)>,
}

impl Backoff {
    /// Delays that start at `initial` and double up to `max`; after twice `max` without a
    /// failure they start again.
    #[must_use]
    pub fn new(initial: std::time::Duration, max: std::time::Duration) -> Self {
        let signed =
            |d: std::time::Duration| SignedDuration::try_from(d).unwrap_or(SignedDuration::MAX);
        Self {
            initial: signed(initial),
            max: signed(max),
            entries: HashMap::new(),
            holds: HashMap::new(),
        }
    }

    /// Notes that a try failed.
    pub fn failed(&mut self, key: &str, now: Timestamp) {
        let failures = self.holds.get(key).map_or(0, |(failures, _)| *failures);
        let seconds = (HOLD_SECONDS << failures.min(16)).min(HOLD_MAX_SECONDS);
        let until = later(now, SignedDuration::from_secs(seconds));
        self.holds
            .insert(key.to_owned(), (failures.saturating_add(1), until));
    }

    /// Whether the last try failed.
    #[must_use]
    pub fn has_failed(&self, key: &str) -> bool {
        self.holds.contains_key(key)
    }

    /// Notes that a try succeeded.
    pub fn succeeded(&mut self, key: &str) {
        self.holds.remove(key);
    }

    /// Until when nothing may be tried after failures, if that is to come.
    #[must_use]
    pub fn held(&self, key: &str, now: Timestamp) -> Option<Timestamp> {
        let (_, until) = self.holds.get(key)?;
        let left = until.duration_since(now);
        let can_be = left <= SignedDuration::from_secs(HOLD_MAX_SECONDS);
        (now < *until && can_be).then_some(*until)
    }

    /// Ends all holds, since what the tries failed for may have come. The next failure holds
    /// longer all the same.
    pub fn let_go(&mut self) {
        for (_, until) in self.holds.values_mut() {
            *until = Timestamp::MIN;
        }
    }

    /// How long the delay is and when it ends, if something that ended at `since` must still
    /// wait. A try that began later and left nothing counts as an end.
    #[must_use]
    pub fn waiting(
        &self,
        key: &str,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<(SignedDuration, Timestamp)> {
        let (delay, last) = self.entries.get(key)?;
        if self.expired(*last, since.max(*last)) || now.duration_since(*last) > self.max * 2 {
            return None;
        }
        let until = later(since.max(*last), *delay);
        let can_be = until.duration_since(now) <= *delay;
        (now < until && can_be).then_some((*delay, until))
    }

    fn expired(&self, last: Timestamp, failed: Timestamp) -> bool {
        failed.duration_since(last) > self.max * 2
    }

    /// Notes that another try starts now.
    pub fn next(&mut self, key: &str, now: Timestamp) {
        let next = match self.entries.get(key) {
            Some((delay, last)) if !self.expired(*last, now) => (*delay * 2).min(self.max),
            _ => self.initial,
        };
        self.entries.insert(key.to_owned(), (next, now));
    }

    /// Forgets a key, after a success.
    pub fn reset(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

fn later(t: Timestamp, by: SignedDuration) -> Timestamp {
    t.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// A delay in Go's words: `10s`, `1m20s`, `5m0s`.
#[must_use]
pub fn words(delay: SignedDuration) -> String {
    let s = delay.as_secs();
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn failures_hold_back_for_longer_and_longer() {
        let mut b = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        let mut now = Timestamp::UNIX_EPOCH;
        assert_eq!(b.held("a", now), None);
        let mut holds = Vec::new();
        for _ in 0..40 {
            b.failed("a", now);
            let until = b.held("a", now).unwrap();
            holds.push(until.duration_since(now).as_secs());
            assert_eq!((b.held("a", until), b.held("b", now)), (None, None));
            now = until;
        }
        assert_eq!(&holds[..7], [1, 2, 4, 8, 16, 30, 30]);
        b.failed("a", now);
        b.let_go();
        assert_eq!(b.held("a", now), None);
        b.failed("a", now);
        assert_eq!(b.held("a", now).unwrap().duration_since(now).as_secs(), 30);
        b.succeeded("a");
        b.failed("a", now);
        assert_eq!(b.held("a", now).unwrap().duration_since(now).as_secs(), 1);
    }

    #[test]
    fn a_clock_that_is_set_makes_nothing_wait_for_hours() {
        let mut b = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        let now = Timestamp::from_second(1_000_000).unwrap();
        let hours = SignedDuration::from_hours(3);
        b.failed("a", now);
        b.next("a", now);
        assert!(b.held("a", now).is_some() && b.waiting("a", now, now).is_some());
        for set in [now - hours, now + hours] {
            assert_eq!((b.held("a", set), b.waiting("a", now, set)), (None, None));
        }
        // Beside an end that the runtime noted before the clock was set.
        assert_eq!(b.waiting("a", now + hours, now), None);
    }

    #[test]
    fn delays_double_up_to_the_most_and_start_again() {
        let mut b = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        let mut now = Timestamp::UNIX_EPOCH;
        assert_eq!(b.waiting("a", now, now), None);
        let mut delays = Vec::new();
        for _ in 0..7 {
            b.next("a", now);
            let (delay, until) = b.waiting("a", now, now).unwrap();
            delays.push(words(delay));
            assert_eq!(b.waiting("a", now, until), None);
            now = until;
        }
        assert_eq!(
            delays,
            ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]
        );
        now += SignedDuration::from_secs(601);
        assert_eq!(b.waiting("a", now, now), None);
        b.next("a", now);
        assert_eq!(
            b.waiting("a", now, now).unwrap().0,
            SignedDuration::from_secs(10)
        );
    }
}
