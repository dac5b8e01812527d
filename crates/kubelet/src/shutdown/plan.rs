//! Which pods end when, and how long they may take. Pure.

use std::time::Duration;

/// From this priority on pods are critical; upstream's.
const CRITICAL: i32 = 2_000_000_000;

/// How long pods may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graceful {
    /// All of it, with that of critical pods; zero for none.
    pub whole: Duration,
    /// What of it critical pods have, after all others.
    pub critical: Duration,
    /// By priority, in place of both.
    pub steps: Vec<Step>,
}

/// Pods of this priority and above, up to the next step's, end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The lowest priority.
    pub priority: i32,
    /// How long they may take.
    pub grace: Duration,
}

impl Graceful {
    /// The steps in their order; none where nothing is to be waited for.
    #[must_use]
    pub fn plan(&self) -> Vec<Step> {
        let mut steps = self.steps.clone();
        if steps.is_empty() && !self.whole.is_zero() {
            let ordinary = self.whole.saturating_sub(self.critical);
            steps = vec![
                Step {
                    priority: 0,
                    grace: ordinary,
                },
                Step {
                    priority: CRITICAL,
                    grace: self.critical,
                },
            ];
        }
        steps.sort_by_key(|s| s.priority);
        steps
    }
}

/// The step at which a pod of this priority ends: that of the highest priority that is not above it,
/// else the first.
#[must_use]
pub fn step_of(plan: &[Step], priority: i32) -> usize {
    plan.iter()
        .rposition(|s| s.priority <= priority)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(priority: i32, seconds: u64) -> Step {
        Step {
            priority,
            grace: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn critical_pods_have_their_part_of_the_time() {
        let graceful = Graceful {
            whole: Duration::from_secs(30),
            critical: Duration::from_secs(10),
            steps: Vec::new(),
        };
        assert_eq!(graceful.plan(), [step(0, 20), step(CRITICAL, 10)]);
        assert!(Graceful::default().plan().is_empty());
    }

    #[test]
    fn each_priority_ends_at_its_step() {
        let graceful = Graceful {
            steps: vec![step(1000, 20), step(0, 60), step(100, 10)],
            ..Graceful::default()
        };
        let plan = graceful.plan();
        let order: Vec<i32> = plan.iter().map(|s| s.priority).collect();
        assert_eq!(order, [0, 100, 1000]);
        for (priority, at) in [(-5, 0), (0, 0), (99, 0), (100, 1), (5000, 2)] {
            assert_eq!(step_of(&plan, priority), at, "{priority}");
        }
    }
}
