//! Whether a container that ended is started again, by the pod's policy and the container's own rules.
//! When is a matter of [`super::backoff`]. Pure.

use super::runtime_state::SeenContainer;
use super::spec;
use k8s_openapi::api::core::v1::{Container, Pod};

/// Restart policy of the pod.
fn of_pod(pod: &Pod) -> &str {
    spec::of(pod).restart_policy.as_deref().unwrap_or("Always")
}

/// What a container's own rules say of its end; none if no rule matches its exit code.
fn rule_action(container: &Container, exit_code: i32) -> Option<&str> {
    let rules = container.restart_policy_rules.iter().flatten();
    let mut matching = rules.filter(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    });
    matching.next().map(|rule| rule.action.as_str())
}

/// The rule by which all containers of the pod are started again.
const RESTART_ALL: &str = "RestartAllContainers";

/// Whether an ended container is to be started again.
#[must_use]
pub fn should_restart(pod: &Pod, container: &Container, ended: &SeenContainer) -> bool {
    if matches!(
        rule_action(container, ended.exit_code),
        Some("Restart" | RESTART_ALL)
    ) {
        return true;
    }
    match container
        .restart_policy
        .as_deref()
        .unwrap_or_else(|| of_pod(pod))
    {
        "Never" => false,
        "OnFailure" => ended.exit_code != 0,
        _ => true,
    }
}

/// Whether the end of a container starts all of the pod's containers again.
#[must_use]
pub fn restarts_all(container: &Container, exit_code: i32) -> bool {
    rule_action(container, exit_code) == Some(RESTART_ALL)
}

/// Whether the end of some container may start all again.
#[must_use]
pub fn may_restart_all(pod: &Pod) -> bool {
    let all = spec::init_containers(pod)
        .iter()
        .chain(spec::containers(pod));
    let mut rules = all.flat_map(|c| c.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == RESTART_ALL)
}
