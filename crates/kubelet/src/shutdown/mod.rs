//! What happens when the machine is to go down: the node takes no more pods and says so, and
//! those that it has end, the least important first, each with the time that its priority has. It is
//! announced by [`logind`].

mod logind;
pub mod plan;

use crate::events::Severity;
use crate::metrics::COUNTS;
use crate::pod::deps::Deps;
use crate::pod::handle::{End, Snapshot};
use crate::pod::manager::Pods;
use crate::pod::spec;
use clock::Instant;
use logind::{Announced, Logind};
use plan::{Step, step_of};
use std::sync::Arc;
use std::time::Duration;

/// Between looks whether the pods have ended.
const LOOK: Duration = Duration::from_millis(100);
/// Before logind is asked again, when it could not be.
const AGAIN: Duration = Duration::from_secs(10);

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
                tracing::warn!(error = %e, "nobody announces to this kubelet when the machine goes down: pods will not get the time that shutdownGracePeriod gives them");
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
                COUNTS.shutdown_began(deps.clock.now());
                end_all(pods, plan).await;
                COUNTS.shutdown_ended(deps.clock.now());
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
    if deps.going_down.send_replace(to) != to {
        let what = if to { "event" } else { "cancellation" };
        let text = format!("Shutdown manager detected shutdown {what}");
        deps.recorder.node(node, Severity::Normal, "Shutdown", text);
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
