//! Stopping containers: preStop hook, then the runtime's stop with what is left of the grace.

use super::deps::Deps;
use super::plan::Effect;
use super::seen::{Run, Seen};
use super::spec;
use crate::events::Severity;
use crate::probes::hook;
use k8s_openapi::api::core::v1::Pod;
use std::time::{Duration, Instant};

/// What a container gets at least after its preStop hook used the grace up; upstream's value.
const MINIMUM_SECONDS: i64 = 2;

/// Carries out all kills at once. True if all went well.
pub(super) async fn all(deps: &Deps, pod: &Pod, seen: &Seen, kills: Vec<Effect>) -> bool {
    let one_by_one = kills.into_iter().filter_map(|effect| match effect {
        Effect::Kill {
            id,
            name,
            grace_seconds,
            message,
        } => Some(one(deps, pod, seen, id, name, grace_seconds, message)),
        Effect::CreateSandbox { .. }
        | Effect::StopSandbox { .. }
        | Effect::Start { .. }
        | Effect::BackOff { .. }
        | Effect::Resize { .. }
        | Effect::LimitPod { .. }
        | Effect::WakeAt(_)
        | Effect::Release
        | Effect::DeleteObject => None,
    });
    futures::future::join_all(one_by_one)
        .await
        .into_iter()
        .all(|well| well)
}

async fn one(
    deps: &Deps,
    pod: &Pod,
    seen: &Seen,
    id: String,
    name: String,
    grace_seconds: i64,
    message: String,
) -> bool {
    if !message.is_empty() {
        deps.recorder
            .pod(pod, Some(&name), Severity::Normal, "Killing", message);
    }
    let mut grace = grace_seconds;
    let pre_stop = spec::container(pod, &name).and_then(|c| {
        c.lifecycle
            .as_ref()
            .and_then(|l| l.pre_stop.as_ref())
            .map(|h| (c, h))
    });
    let runs = seen
        .containers
        .iter()
        .any(|c| c.id == id && c.run == Run::Running);
    if let Some((container, handler)) = pre_stop.filter(|_| runs && grace > 0) {
        let start = Instant::now();
        let ip = seen.ready_sandbox().and_then(|s| s.ips.first().cloned());
        let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let ran = tokio::time::timeout(
            limit,
            hook::run(deps, pod, container, handler, &id, ip.as_deref()),
        )
        .await;
        if let Ok(Err(e)) = ran {
            tracing::debug!(pod = spec::full_name(pod), container = name, error = %e, "preStop hook");
            deps.recorder.pod(
                pod,
                Some(&name),
                Severity::Warning,
                "FailedPreStopHook",
                "PreStopHook failed",
            );
        }
        let used = i64::try_from(start.elapsed().as_secs()).unwrap_or(i64::MAX);
        grace = (grace - used).max(MINIMUM_SECONDS);
    }
    match deps.runtime.stop_container(&id, grace).await {
        Ok(()) => true,
        Err(e) => {
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
