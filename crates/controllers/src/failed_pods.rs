//! How long a failed pod stays before it is replaced: longer after each failure in a row, so that a
//! node that refuses the pod and a set that makes it again do not chase each other. For sets that
//! remove what failed: a DaemonSet by node, a StatefulSet by pod. Sets whose failed pods stay read
//! the same from them (`replica::plan`).

use std::collections::HashMap;

/// Wait after the second failure; doubled for each further one.
const FIRST_MILLIS: i64 = 1_000;
/// Longest wait, as upstream's.
const LONGEST_MILLIS: i64 = 15 * 60 * 1_000;
/// Without a failure for so long all counts as good again.
const FORGET_MILLIS: i64 = 2 * LONGEST_MILLIS;
/// Keys that are remembered; beyond, the oldest are forgotten.
const REMEMBERED: usize = 10_000;

#[derive(Clone, Copy)]
struct Failed {
    wait_millis: i64,
    at_millis: i64,
}

/// Failures by their keys: a set and what of it fails.
#[derive(Default)]
pub struct Failures(HashMap<String, Failed>);

impl Failures {
    /// Whether a failed pod may be replaced now, which is noted; else how many milliseconds are
    /// still to be waited.
    pub fn replace(&mut self, key: String, now_millis: i64) -> Result<(), i64> {
        let known = self.0.get(&key).copied();
        let known = known.filter(|f| now_millis - f.at_millis < FORGET_MILLIS);
        if let Some(failed) = known {
            let left = failed.at_millis + failed.wait_millis - now_millis;
            // More is left than there was: the clock was set back.
            if left > 0 && left <= failed.wait_millis {
                return Err(left);
            }
        }
        self.make_room(now_millis);
        let doubled = |f: Failed| (f.wait_millis * 2).min(LONGEST_MILLIS);
        let failed = Failed {
            wait_millis: known.map_or(FIRST_MILLIS, doubled),
            at_millis: now_millis,
        };
        self.0.insert(key, failed);
        Ok(())
    }

    fn make_room(&mut self, now_millis: i64) {
        if self.0.len() < REMEMBERED {
            return;
        }
        self.0
            .retain(|_, f| now_millis - f.at_millis < FORGET_MILLIS);
        while self.0.len() >= REMEMBERED {
            let oldest = self.0.iter().min_by_key(|(_, f)| f.at_millis);
            let Some(oldest) = oldest.map(|(k, _)| k.clone()) else {
                return;
            };
            self.0.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_waits_longer_up_to_a_bound() {
        let mut all = Failures::default();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..14 {
            assert_eq!(all.replace("a".into(), now), Ok(()));
            let wait = all.replace("a".into(), now).unwrap_err();
            waits.push(wait / 1_000);
            assert_eq!(
                all.replace("b".into(), i64::from(i32::MAX) * 100 + now * 100),
                Ok(())
            );
            now += wait;
        }
        assert_eq!(
            waits,
            [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900]
        );
        assert_eq!(all.replace("a".into(), now - 3_600_000), Ok(()));
        assert_eq!(all.replace("a".into(), now + FORGET_MILLIS), Ok(()));
        assert_eq!(all.replace("a".into(), now + FORGET_MILLIS), Err(1_000));
    }
}
