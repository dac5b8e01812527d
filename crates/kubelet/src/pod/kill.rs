//! Stopping containers: preStop hook, turn, then the runtime's stop with what is left of the grace.

use super::deps::Deps;
use super::plan::Kill;
use super::runtime_state::{Run, SeenPod};
use super::spec;
use crate::events::Severity;
use crate::probes::hook;
use clock::{Instant, watch};
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashSet;
use std::time::Duration;

/// What a container gets at least after its preStop hook used the grace up; upstream's value.
const MINIMUM_SECONDS: i64 = 2;

/// Carries out all kills at once; what became of each.
pub(super) async fn all(deps: &Deps, pod: &Pod, seen: &SeenPod, kills: Vec<Kill>) -> Vec<bool> {
    let down = watch::Sender::new(HashSet::new());
    let one_by_one = kills
        .into_iter()
        .map(|kill| one(deps, pod, seen, kill, &down));
    futures::future::join_all(one_by_one).await
}

/// `down`: ids of the containers of the same round that ended.
async fn one(
    deps: &Deps,
    pod: &Pod,
    seen: &SeenPod,
    kill: Kill,
    down: &watch::Sender<HashSet<String>>,
) -> bool {
    let start = Instant::now();
    if !kill.message.is_empty() {
        let text = kill.message.clone();
        deps.recorder
            .pod(pod, Some(&kill.name), Severity::Normal, "Killing", text);
    }
    pre_stop(deps, pod, seen, &kill).await;
    await_turn(&kill, start, &mut down.subscribe()).await;
    let used = start.elapsed().as_secs();
    let grace = if used == 0 {
        kill.grace_seconds
    } else {
        left(&kill, used).max(MINIMUM_SECONDS)
    };
    let stopped = deps.runtime.stop_container(&kill.id, grace).await;
    // Those after it need not wait for what cannot be stopped.
    down.send_if_modified(|all| all.insert(kill.id.clone()));
    match stopped {
        Ok(()) => true,
        Err(e) => {
            let name = &kill.name;
            tracing::warn!(pod = spec::full_name(pod), container = name, error = %e, "stopping a container failed");
            deps.recorder.pod(
                pod,
                None,
                Severity::Warning,
                "FailedKillPod",
                format!("error killing pod: failed to \"KillContainer\" for \"{name}\" with KillContainerError: \"{e}\""),
            );
            false
        }
    }
}

fn left(kill: &Kill, used_seconds: u64) -> i64 {
    kill.grace_seconds
        .saturating_sub(i64::try_from(used_seconds).unwrap_or(i64::MAX))
}

/// Runs the hook, for as long as there is time.
async fn pre_stop(deps: &Deps, pod: &Pod, seen: &SeenPod, kill: &Kill) {
    let container = spec::container(pod, &kill.name);
    let hook = container.and_then(|c| Some((c, c.lifecycle.as_ref()?.pre_stop.as_ref()?)));
    let runs = seen
        .containers
        .iter()
        .any(|c| c.id == kill.id && c.run == Run::Running);
    let Some((container, handler)) = hook.filter(|_| runs && kill.grace_seconds > 0) else {
        return;
    };
    let ip = seen.ready_sandbox().and_then(|s| s.ips.first().cloned());
    let limit = Duration::from_secs(u64::try_from(kill.grace_seconds).unwrap_or(0));
    let running = hook::run(deps, pod, container, handler, &kill.id, ip.as_deref());
    if let Ok(Err(e)) = tokio::time::timeout(limit, running).await {
        tracing::debug!(pod = spec::full_name(pod), container = kill.name, error = %e, "preStop hook");
        deps.recorder.pod(
            pod,
            Some(&kill.name),
            Severity::Warning,
            "FailedPreStopHook",
            "PreStopHook failed",
        );
    }
}

/// Waits until those before it ended, for as long as there is time.
async fn await_turn(kill: &Kill, start: Instant, down: &mut watch::Receiver<HashSet<String>>) {
    let limit = Duration::from_secs(u64::try_from(kill.grace_seconds).unwrap_or(0));
    let its_turn = down.wait_for(|all| kill.after.iter().all(|id| all.contains(id)));
    // Without time, all end at once. A pod may ask for more than there is.
    match start.checked_add(limit) {
        Some(until) => drop(tokio::time::timeout_at(until, its_turn).await),
        None => drop(its_turn.await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_container_waits_for_its_turn_or_until_its_time_is_over() {
        let kill = Kill {
            grace_seconds: 30,
            after: vec!["a".into(), "b".into()],
            ..Default::default()
        };
        let down = watch::Sender::new(HashSet::new());
        let start = Instant::now();
        let waits = async {
            await_turn(&kill, start, &mut down.subscribe()).await;
            start.elapsed().as_secs()
        };
        let ends = async {
            for (id, seconds) in [("a", 3), ("b", 4)] {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                down.send_if_modified(|all| all.insert(id.into()));
            }
        };
        assert_eq!(tokio::join!(waits, ends).0, 7);
        let patient = Kill {
            grace_seconds: i64::MAX,
            after: vec!["a".into()],
            ..Default::default()
        };
        await_turn(&patient, Instant::now(), &mut down.subscribe()).await;
        assert_eq!(left(&kill, 7), 23);
        let start = Instant::now();
        let down = watch::Sender::new(HashSet::new());
        await_turn(&kill, start, &mut down.subscribe()).await;
        assert_eq!(start.elapsed().as_secs(), 30);
    }
}
