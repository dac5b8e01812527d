//! Which pod goes first. Pure.

use super::thresholds::Signal;
use crate::pod::spec;
use crate::quantity;
use crate::stats::OfPod;

/// A pod as the choice sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its priority; pods of the node's own software are out of the question.
    pub priority: i32,
    /// What it uses of what is short.
    pub used: u64,
    /// What it asked for.
    pub asked: u64,
}

/// Pods of this priority and above are never evicted: the node needs them.
const CRITICAL: i32 = 2_000_000_000;

pub(super) fn candidate(pod: &OfPod, signal: Signal) -> Candidate {
    let asked = |name: &str| -> u64 {
        let sum: i64 = spec::containers(&pod.pod)
            .iter()
            .filter_map(|c| quantity::amount(c.resources.as_ref()?.requests.as_ref(), name))
            .sum();
        u64::try_from(sum).unwrap_or(0)
    };
    let (used, asked) = match signal {
        Signal::Memory => (pod.stats.working_set_bytes, asked("memory")),
        Signal::Disk => {
            let own: u64 = pod
                .containers
                .iter()
                .map(|c| c.layer_bytes + c.log_bytes)
                .sum();
            (
                own + pod.volumes.iter().map(|v| v.1).sum::<u64>(),
                asked("ephemeral-storage"),
            )
        }
        Signal::Pid => (pod.stats.tasks, 0),
    };
    Candidate {
        priority: spec::of(&pod.pod).priority.unwrap_or(0),
        used,
        asked,
    }
}

/// The place of the pod to end: one that uses more than it asked for, of the lowest priority,
/// the furthest above its request.
#[must_use]
pub fn choose(all: &[Candidate]) -> Option<usize> {
    let over = |c: &Candidate| c.used.saturating_sub(c.asked);
    all.iter()
        .enumerate()
        .filter(|(_, c)| c.priority < CRITICAL)
        .max_by_key(|(_, c)| (c.used > c.asked, std::cmp::Reverse(c.priority), over(c)))
        .map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_uses_more_than_asked_goes_first_then_the_least_important() {
        let c = |priority, used, asked| Candidate {
            priority,
            used,
            asked,
        };
        assert_eq!(choose(&[c(0, 10, 20), c(5, 30, 20)]), Some(1));
        assert_eq!(choose(&[c(0, 30, 20), c(5, 90, 20)]), Some(0));
        assert_eq!(choose(&[c(0, 30, 20), c(0, 35, 20)]), Some(1));
        assert_eq!(choose(&[c(CRITICAL, 99, 0)]), None);
        assert_eq!(choose(&[]), None);
    }
}
