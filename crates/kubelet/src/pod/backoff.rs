//! Doubling delays between restarts, per container. Pure: time is an argument.

use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;

/// Delays by key.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: SignedDuration,
    max: SignedDuration,
    entries: HashMap<String, (SignedDuration, Timestamp)>,
}

impl Backoff {
    /// Delays that start at `initial` and double up to `max`; after twice `max` without a
    /// failure they start anew.
    #[must_use]
    pub fn new(initial: std::time::Duration, max: std::time::Duration) -> Self {
        let signed =
            |d: std::time::Duration| SignedDuration::try_from(d).unwrap_or(SignedDuration::MAX);
        Self {
            initial: signed(initial),
            max: signed(max),
            entries: HashMap::new(),
        }
    }

    /// How long the delay is and when it ends, if something that failed at `since` must
    /// still wait.
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
        let until = since.checked_add(*delay).ok()?;
        (now < until).then_some((*delay, until))
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
    fn delays_double_up_to_the_most_and_start_anew() {
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
