//! Small readings of a pod's spec, with upstream's defaults where a field is absent.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};
use sha2::{Digest, Sha256};

/// The pod's spec; an empty one if the object has none.
#[must_use]
pub fn of(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// Ordinary containers.
#[must_use]
pub fn containers(pod: &Pod) -> &[Container] {
    &of(pod).containers
}

/// Init containers, restartable ones included.
#[must_use]
pub fn init_containers(pod: &Pod) -> &[Container] {
    of(pod).init_containers.as_deref().unwrap_or_default()
}

/// A container of any kind by name.
#[must_use]
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    init_containers(pod)
        .iter()
        .chain(containers(pod))
        .find(|c| c.name == name)
}

/// Containers that were added for debugging, as ordinary ones: they run once.
#[must_use]
pub fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    let all = of(pod).ephemeral_containers.as_deref().unwrap_or_default();
    // Both types have the same fields in JSON, but for the target.
    let plain = |e| serde_json::to_value(e).and_then(serde_json::from_value::<Container>);
    all.iter().filter_map(|e| plain(e).ok()).collect()
}

/// What is published of a container for debugging that has ended. It never begins again, also where the
/// runtime does not have it any more: the API takes no other status of it.
#[must_use]
pub fn ended_debugging<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let all = pod.status.as_ref()?.ephemeral_container_statuses.as_ref()?;
    all.iter().find(|c| c.name == name && has_ended(c))
}

/// Whether a status says that its container has ended.
#[must_use]
pub fn has_ended(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    state.is_some_and(|s| s.terminated.is_some())
}

/// A container of any kind by name, those for debugging included.
#[must_use]
pub fn find(pod: &Pod, name: &str) -> Option<Container> {
    container(pod, name).cloned().or_else(|| {
        ephemeral_containers(pod)
            .into_iter()
            .find(|c| c.name == name)
    })
}

/// The container whose processes a debugging one is to see.
#[must_use]
pub fn debug_target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let all = of(pod).ephemeral_containers.iter().flatten();
    all.filter(|e| e.name == name)
        .find_map(|e| e.target_container_name.as_deref())
        .filter(|t| !t.is_empty())
}

/// A restartable init container.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether the pod has an init container of that name.
#[must_use]
pub fn is_init(pod: &Pod, name: &str) -> bool {
    init_containers(pod).iter().any(|c| c.name == name)
}

/// Grace period: that of the deletion, else that of the spec, else upstream's 30 s.
#[must_use]
pub fn grace_seconds(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .filter(|_| pod.metadata.deletion_timestamp.is_some())
        .or(of(pod).termination_grace_period_seconds)
        .unwrap_or(30)
        .max(0)
}

/// `name_namespace(uid)`: how upstream's messages name a pod.
#[must_use]
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// UID of the pod.
#[must_use]
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Name of the pod.
#[must_use]
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Namespace of the pod.
#[must_use]
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// Whether it lives on the host's network.
#[must_use]
pub fn host_network(pod: &Pod) -> bool {
    of(pod).host_network.unwrap_or(false)
}

/// The user that all containers run as by their spec; none if one does not say, or they differ.
/// Containers for debugging do not count, as upstream.
#[must_use]
pub fn common_user(pod: &Pod) -> Option<i64> {
    let of_pod = of(pod).security_context.as_ref();
    let user = |c: &Container| {
        let own = c.security_context.as_ref().and_then(|s| s.run_as_user);
        own.or(of_pod.and_then(|s| s.run_as_user))
    };
    let mut all = init_containers(pod).iter().chain(containers(pod)).map(user);
    let first = all.next()??;
    all.all(|other| other == Some(first)).then_some(first)
}

/// Whether the API server says that it is over.
#[must_use]
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Hash of what a change of which means a restart. Only the image can change in a live pod
/// without meaning something else (resources are resized in place), so name and image count.
#[must_use]
pub fn hash(container: &Container) -> String {
    let text = format!(
        "{}\n{}",
        container.name,
        container.image.as_deref().unwrap_or_default()
    );
    Sha256::digest(text.as_bytes())
        .iter()
        .take(4)
        .map(|b| format!("{b:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn user(of_pod: Value, init: Value, main: Value) -> Option<i64> {
        let spec = json!({
            "securityContext": {"runAsUser": of_pod},
            "initContainers": [{"name": "i", "securityContext": {"runAsUser": init}}],
            "containers": [{"name": "a", "securityContext": {"runAsUser": main}}],
        });
        let pod = serde_json::from_value(json!({"metadata": {}, "spec": spec}));
        common_user(&pod.unwrap())
    }

    #[test]
    fn the_common_user_is_that_of_all_containers() {
        let none = Value::Null;
        assert_eq!(user(none.clone(), none.clone(), none.clone()), None);
        assert_eq!(user(json!(7), none.clone(), none.clone()), Some(7));
        assert_eq!(user(json!(7), none.clone(), json!(8)), None);
        assert_eq!(user(json!(7), json!(8), json!(8)), Some(8));
        assert_eq!(user(none.clone(), none.clone(), json!(8)), None);
        assert_eq!(user(none, json!(0), json!(0)), Some(0));
    }
}
