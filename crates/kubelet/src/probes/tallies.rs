//! How often probes had which result, and how long it took: for /metrics/probes, for as long as their
//! pods are here.

use crate::metrics::USUAL;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The result of a probe whose time does not count, as upstream: it may be the longest that there is.
pub const FAILED: &str = "failed";

/// Which probe of which container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// Such as `Readiness`.
    pub kind: &'static str,
    /// Name of the container.
    pub container: String,
    /// Name of the pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
}

/// What it came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// How often there was `successful`, `failed` or `unknown`.
    pub results: BTreeMap<&'static str, u64>,
    /// How many took no longer than each of the usual bounds.
    pub within: [u64; USUAL.len()],
    /// How many have a time.
    pub timed: u64,
    /// How long these took.
    pub seconds: f64,
}

impl Tally {
    fn add(&mut self, result: &'static str, took: Duration) {
        *self.results.entry(result).or_default() += 1;
        if result == FAILED {
            return;
        }
        let took = took.as_secs_f64();
        self.timed += 1;
        self.seconds += took;
        for (count, bound) in self.within.iter_mut().zip(USUAL) {
            *count += u64::from(took <= bound);
        }
    }

    /// Counts what another came to, too.
    pub fn join(&mut self, other: &Self) {
        for (result, count) in &other.results {
            *self.results.entry(*result).or_default() += count;
        }
        for (count, more) in self.within.iter_mut().zip(other.within) {
            *count += more;
        }
        self.timed += other.timed;
        self.seconds += other.seconds;
    }
}

/// Those of one pod.
#[derive(Debug, Default)]
pub struct Tallies(Mutex<BTreeMap<Asked, Tally>>);

/// Those of all pods that are here.
static ALL: Mutex<Vec<Weak<Tallies>>> = Mutex::new(Vec::new());

impl Tallies {
    /// Shown until the last who has them is gone.
    #[must_use]
    pub fn shown() -> Arc<Self> {
        let new = Arc::new(Self::default());
        let mut all = ALL.lock();
        all.retain(|tallies| tallies.strong_count() > 0);
        all.push(Arc::downgrade(&new));
        new
    }

    /// A probe was asked.
    pub fn add(&self, asked: Asked, result: &'static str, took: Duration) {
        self.0.lock().entry(asked).or_default().add(result, took);
    }
}

/// Those of all pods.
#[must_use]
pub fn all() -> BTreeMap<Asked, Tally> {
    let here: Vec<Arc<Tallies>> = ALL.lock().iter().filter_map(Weak::upgrade).collect();
    let mut out = BTreeMap::new();
    for tallies in here {
        out.extend(tallies.0.lock().clone());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_go_with_their_pod() {
        let asked = Asked {
            kind: "Liveness",
            container: "c".into(),
            pod: "p".into(),
            namespace: "n".into(),
            uid: "of-tallies".into(),
        };
        let tallies = Tallies::shown();
        for (result, took) in [("successful", 20), (FAILED, 900), ("successful", 70)] {
            tallies.add(asked.clone(), result, Duration::from_millis(took));
        }
        let tally = all().remove(&asked).unwrap();
        assert_eq!(
            tally.results,
            BTreeMap::from([(FAILED, 1), ("successful", 2)])
        );
        assert_eq!(tally.within, [0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!(tally.timed, 2);
        drop(tallies);
        assert!(!all().contains_key(&asked));
    }
}
