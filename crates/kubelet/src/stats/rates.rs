//! Rates of CPU use, made of two questions.

use jiff::Timestamp;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};

/// Turns CPU counters into rates: each question is compared with an earlier one.
#[derive(Debug, Default)]
pub struct Rates {
    last: Mutex<HashMap<String, (Timestamp, u64, u64)>>,
}

/// Samples closer together than this say little; the older one is kept.
const APART_NANOS: i128 = 5_000_000_000;

impl Rates {
    /// Forgets all groups but these: those of containers that ended never come back.
    pub fn retain(&self, groups: &BTreeSet<&str>) {
        let mut last = self.last.lock();
        last.retain(|group, _| groups.contains(group.as_str()));
    }

    /// Thousand-millionths of a CPU in use by a group; none at the first question.
    pub fn nano_cores(&self, group: &str, at: Timestamp, nanos: u64) -> Option<u64> {
        let mut last = self.last.lock();
        let Some((then, before, rate)) = last.get(group).copied() else {
            last.insert(group.to_owned(), (at, nanos, 0));
            return None;
        };
        let passed = at.as_nanosecond() - then.as_nanosecond();
        if passed < APART_NANOS {
            return (rate > 0).then_some(rate);
        }
        let used = i128::from(nanos.saturating_sub(before));
        let rate = u64::try_from(used * 1_000_000_000 / passed).unwrap_or(0);
        last.insert(group.to_owned(), (at, nanos, rate));
        Some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_two_samples_that_lie_apart() {
        let rates = Rates::default();
        let at = |s| Timestamp::from_second(s).unwrap();
        assert_eq!(rates.nano_cores("g", at(0), 0), None);
        assert_eq!(rates.nano_cores("g", at(1), 1_000_000_000), None);
        assert_eq!(
            rates.nano_cores("g", at(10), 5_000_000_000),
            Some(500_000_000)
        );
        assert_eq!(
            rates.nano_cores("g", at(11), 9_000_000_000),
            Some(500_000_000)
        );
    }

    #[test]
    fn groups_that_are_gone_are_forgotten() {
        let rates = Rates::default();
        let at = |s| Timestamp::from_second(s).unwrap();
        for n in 0..100 {
            rates.nano_cores(&format!("/pod/{n}"), at(n), 0);
        }
        rates.retain(&["/pod/99", "/"].into());
        assert_eq!(rates.last.lock().len(), 1);
        assert_eq!(
            rates.nano_cores("/pod/99", at(109), 10_000_000_000),
            Some(1_000_000_000)
        );
    }
}
