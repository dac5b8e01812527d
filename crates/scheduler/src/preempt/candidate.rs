//! A node where pods can make room for another one: who would go, and how much is lost with them.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::pod::Pod;

/// How many nodes are worked out before the best of them is taken; upstream's.
#[derive(Clone, Copy, Debug)]
pub struct Candidates {
    /// Of the nodes where pods might make room, in percent.
    pub percent: usize,
    /// At least so many nodes.
    pub least: usize,
}

impl Default for Candidates {
    fn default() -> Self {
        Self {
            percent: 10,
            least: 100,
        }
    }
}

/// A node where pods can make room.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: Arc<str>,
    /// The most important first.
    pub victims: Vec<Arc<Pod>>,
    /// Victims whose budget does not allow it.
    pub violations: usize,
    pub(super) cost: Cost,
}

/// Less is better: victims against their budget, the highest priority of a victim, the sum of
/// priorities, the number of victims, and how long the most important of them have run.
type Cost = (usize, i32, i64, usize, Reverse<i64>);

impl Candidate {
    pub fn new(node: Arc<str>, victims: Vec<Arc<Pod>>, violations: usize) -> Self {
        Self {
            cost: cost(&victims, violations),
            node,
            victims,
            violations,
        }
    }
}

fn cost(victims: &[Arc<Pod>], violations: usize) -> Cost {
    let highest = victims.first().map_or(i32::MIN, |v| v.priority);
    // Shifted to be positive, so that more victims never cost less.
    let sum = victims
        .iter()
        .map(|v| i64::from(v.priority) - i64::from(i32::MIN) + 1)
        .sum();
    let top = victims.iter().filter(|v| v.priority == highest);
    let since = top.map(|v| v.started_seconds).min().unwrap_or(i64::MAX);
    (violations, highest, sum, victims.len(), Reverse(since))
}

/// The highest priority first, then the pod that runs longest.
pub(super) fn importance(pod: &Arc<Pod>) -> (Reverse<i32>, i64) {
    (Reverse(pod.priority), pod.started_seconds)
}
