//! What runs short over time: a soft threshold counts when it was crossed for long enough, and one that
//! counted does so until enough more than itself is there again. Pure.

use super::thresholds::{Resource, Share, Threshold};
use super::{GRACE_SECONDS, Left, Short};
use crate::config::Eviction;
use clock::Instant;
use std::collections::BTreeMap;

/// A threshold of a resource, and whether it is a soft one.
type Key = (Resource, bool);

/// Since when each threshold is crossed.
#[derive(Clone, Debug, Default)]
pub(super) struct Observed(BTreeMap<Key, Instant>);

/// What a look says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// What is short, for the node's conditions.
    pub short: Vec<Short>,
    /// For what pods are ended now, the most urgent first: what cannot wait before what can.
    pub due: Vec<Short>,
}

impl Observed {
    pub(super) fn look(&mut self, wanted: &Eviction, left: &Left, now: Instant) -> Looked {
        let mut out = Looked::default();
        for soft in [false, true] {
            let thresholds = if soft { &wanted.soft } else { &wanted.hard };
            for (resource, left) in left {
                let Some(threshold) = thresholds.get(*resource) else {
                    continue;
                };
                let key = (*resource, soft);
                let reclaim = wanted.minimum_reclaim.get(*resource);
                let counted = self.0.contains_key(&key);
                if !is_short(threshold, reclaim.filter(|_| counted), *left) {
                    self.0.remove(&key);
                    continue;
                }
                let since = *self.0.entry(key).or_insert(now);
                let short = Short {
                    resource: *resource,
                    threshold,
                    left: *left,
                    grace_seconds: if soft {
                        wanted.max_pod_grace_seconds
                    } else {
                        GRACE_SECONDS
                    },
                };
                let waits = wanted.soft_grace.get(resource.name()).filter(|_| soft);
                if waits.is_none_or(|waits| now.duration_since(since) >= *waits) {
                    out.due.push(short);
                }
                // Once, and by the one that cannot wait.
                if out.short.iter().all(|s| s.resource != *resource) {
                    out.short.push(short);
                }
            }
        }
        out
    }
}

/// Whether too little is left; `more` must be there beside the threshold.
fn is_short(threshold: Threshold, more: Option<Threshold>, left: Share) -> bool {
    let more = more.map_or(0, |t| t.of(left.whole));
    let enough = threshold.of(left.whole).saturating_add(more);
    left.whole > 0 && left.free < enough
}

#[cfg(test)]
mod tests {
    use super::super::tests::left_with;
    use super::*;
    use std::time::Duration;

    fn wanted() -> Eviction {
        Eviction {
            hard: "memory.available<100".parse().unwrap(),
            soft: "memory.available<1000,nodefs.available<1000"
                .parse()
                .unwrap(),
            soft_grace: [
                ("memory.available".to_owned(), Duration::from_secs(30)),
                ("nodefs.available".to_owned(), Duration::from_secs(60)),
            ]
            .into(),
            max_pod_grace_seconds: 20,
            minimum_reclaim: "memory.available<50".parse().unwrap(),
            ..Eviction::default()
        }
    }

    #[test]
    fn what_lasts_counts_and_what_cannot_wait_comes_first() {
        let (wanted, mut observed, start) = (wanted(), Observed::default(), Instant::now());
        let low = left_with(&[(Resource::Memory, 500), (Resource::NodeFs, 500)]);
        let first = observed.look(&wanted, &low, start);
        assert_eq!((first.short.len(), first.due.len()), (2, 0));
        let later = observed.look(&wanted, &low, start + Duration::from_secs(30));
        let due: Vec<_> = later
            .due
            .iter()
            .map(|s| (s.resource, s.grace_seconds))
            .collect();
        assert_eq!(due, [(Resource::Memory, 20)]);
        // It went for a moment: it must last again.
        let plenty = left_with(&[]);
        let none = observed.look(&wanted, &plenty, start + Duration::from_secs(31));
        assert_eq!(none, Looked::default());
        let again = observed.look(&wanted, &low, start + Duration::from_secs(40));
        assert!(again.due.is_empty());
        let gone = left_with(&[(Resource::Memory, 50)]);
        let now = observed.look(&wanted, &gone, start + Duration::from_secs(41));
        let due: Vec<_> = now
            .due
            .iter()
            .map(|s| (s.resource, s.grace_seconds))
            .collect();
        assert_eq!(due, [(Resource::Memory, GRACE_SECONDS)]);
    }

    #[test]
    fn what_was_short_is_so_until_enough_more_is_there() {
        let (wanted, mut observed, now) = (wanted(), Observed::default(), Instant::now());
        let mut hard = |free| {
            let left = left_with(&[(Resource::Memory, free)]);
            let looked = observed.look(&wanted, &left, now);
            looked.due.iter().any(|s| s.grace_seconds == GRACE_SECONDS)
        };
        assert!(!hard(149) && hard(99) && hard(149) && !hard(150) && !hard(149));
    }
}
