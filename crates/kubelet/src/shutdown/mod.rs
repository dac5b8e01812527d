//! What happens when the machine is told to go down: the node takes no more pods and says so, and
//! those that it has end, the least important first, each with the time that its priority has. Who
//! tells is [`logind`].

mod logind;

use crate::events::Severity;
use crate::pod::deps::Deps;
use crate::pod::handle::{End, Snapshot};
use crate::pod::manager::Pods;
use crate::pod::spec;
use clock::Instant;
use logind::{Announced, Logind};
use std::sync::Arc;
use std::time::Duration;

/// From this priority on pods are critical; upstream's.
const CRITICAL: i32 = 2_000_000_000;
/// Between looks whether the pods have ended.
const LOOK: Duration = Duration::from_millis(100);
/// Before whoever tells is asked again, when nobody could be asked.
const AGAIN: Duration = Duration::from_secs(10);

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
fn step_of(plan: &[Step], priority: i32) -> usize {
    plan.iter()
        .rposition(|s| s.priority <= priority)
        .unwrap_or_default()
}

/// Waits for the machine's end, as long as the kubelet runs.
pub async fn run(deps: Arc<Deps>, pods: Arc<Pods>) {
    let plan = deps.config.shutdown.plan();
    let whole: Duration = plan.iter().map(|s| s.grace).sum();
    if whole.is_zero() {
        return std::future::pending().await;
    }
    let mut complained = false;
    loop {
        match Logind::ask(whole).await {
            Ok(logind) => follow(&deps, &pods, &plan, logind).await,
            Err(e) if !complained => {
                complained = true;
                tracing::warn!(error = %e, "nobody tells this kubelet when the machine goes down: pods will not get the time that shutdownGracePeriod gives them");
            }
            Err(e) => tracing::debug!(error = %e, "logind cannot be asked"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Until logind cannot be followed any more.
async fn follow(deps: &Deps, pods: &Pods, plan: &[Step], mut logind: Logind) {
    loop {
        match logind.next().await {
            Ok(Announced::Shutdown) => {
                set(deps, true);
                end_all(pods, plan).await;
                // Now the machine may go on.
                logind.release();
            }
            Ok(Announced::Cancelled) => {
                set(deps, false);
                if let Err(e) = logind.hold().await {
                    tracing::warn!(error = %e, "the machine's end cannot be delayed any more");
                    return;
                }
            }
            Err(e) => {
                tracing::warn!(error = %e, "logind cannot be followed any more; asking again");
                return;
            }
        }
    }
}

fn set(deps: &Deps, to: bool) {
    let node = &deps.config.node_name;
    if deps.going_down.send_replace(to) != to && to {
        let text = "Shutdown manager detected shutdown event";
        deps.recorder
            .node(node, Severity::Normal, "NodeShutdown", text);
    }
    tracing::info!(going_down = to, "the machine");
    deps.node_changed.notify_one();
}

/// Ends all pods, step by step; no step takes longer than it may, and none waits for nothing.
async fn end_all(pods: &Pods, plan: &[Step]) {
    for (n, step) in plan.iter().enumerate() {
        let until = Instant::now() + step.grace;
        let of_step = |s: &Arc<Snapshot>| {
            let priority = spec::of(&s.pod).priority.unwrap_or_default();
            !s.over && step_of(plan, priority) == n
        };
        for snapshot in pods.snapshots().iter().filter(|s| of_step(s)) {
            pods.end(spec::uid(&snapshot.pod), end(snapshot, *step));
        }
        while Instant::now() < until && pods.snapshots().iter().any(of_step) {
            tokio::time::sleep(LOOK).await;
        }
        let left = pods.snapshots().iter().filter(|s| of_step(s)).count();
        if left > 0 {
            tracing::warn!(
                priority = step.priority,
                left,
                "pods have not ended in their time"
            );
        }
    }
}

fn end(snapshot: &Snapshot, step: Step) -> End {
    let most = i64::try_from(step.grace.as_secs()).unwrap_or(i64::MAX);
    End {
        reason: "Terminated".into(),
        message: "Pod was terminated in response to imminent node shutdown.".into(),
        grace_seconds: spec::grace_seconds(&snapshot.pod).min(most),
    }
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
