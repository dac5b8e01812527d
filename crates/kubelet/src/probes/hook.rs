//! Lifecycle hooks: what a container wants done after its start and before its stop.

use super::ask::{self, Answer, Target};
use crate::pod::deps::Deps;
use crate::pod::spec;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use std::time::Duration;

/// Runs a hook to its end.
pub async fn run(
    deps: &Deps,
    pod: &Pod,
    container: &Container,
    handler: &LifecycleHandler,
    id: &str,
    ip: Option<&str>,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        let answer = deps
            .runtime
            .exec_sync(id, command, None)
            .await
            .map_err(|e| e.message())?;
        if answer.exit_code == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&answer.stderr).into_owned();
        return Err(format!(
            "Exec lifecycle hook ({command:?}) for Container \"{}\" in Pod \"{}\" failed - error: command exited with {}, message: \"{text}\"",
            container.name,
            spec::full_name(pod),
            answer.exit_code
        ));
    }
    if let Some(get) = &handler.http_get {
        let own = deps.config.node_ip.to_string();
        let host = ip.filter(|_| !spec::host_network(pod)).unwrap_or(&own);
        let target = Target {
            runtime: &*deps.runtime,
            container,
            id,
            host,
        };
        // A hook's answer is not looked at, as upstream: only whether it could be asked.
        return match ask::http_get(&target, get, ask::HOOK).await {
            Answer::Good | Answer::Warned(_) => Ok(()),
            Answer::Bad(text) if text.starts_with("HTTP probe failed") => Ok(()),
            Answer::Bad(text) | Answer::Unknown(text) => Err(text),
        };
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(
            u64::try_from(sleep.seconds).unwrap_or(0),
        ))
        .await;
        return Ok(());
    }
    Err("invalid handler".into())
}
