//! Features that a node declares (`status.declaredFeatures`): those that are so new that not every node
//! of a cluster need have them. A pod that needs one is for nodes that declare it.

use serde_json::Value;

/// The kubelet speaks WebSocket with clients itself.
pub const WEB_SOCKETS: &str = "ExtendWebSocketsToKubelet";
/// What a pod asks for as a whole is resized in place.
pub const POD_LEVEL_RESIZE: &str = "InPlacePodLevelResourcesVerticalScaling";
/// What init containers ask for, other than sidecars, is resized in place.
pub const INIT_CONTAINER_RESIZE: &str = "InPlacePodVerticalScalingInitContainers";
/// The rule of a container may restart all of its pod.
pub const RESTART_ALL: &str = "RestartAllContainersOnContainerExits";
/// A pod in the node's network may have users of its own.
pub const USERS_IN_HOST_NETWORK: &str = "UserNamespacesHostNetworkSupport";

/// What our nodes do, in the order of the API.
pub const OURS: [&str; 4] = [
    WEB_SOCKETS,
    POD_LEVEL_RESIZE,
    INIT_CONTAINER_RESIZE,
    RESTART_ALL,
];

/// What a change of a pod needs of the node that it is on.
#[must_use]
pub fn of_change(old: &Value, new: &Value) -> Vec<&'static str> {
    let mut needed = Vec::new();
    let whole = |pod: &Value| {
        pod.pointer("/spec/resources")
            .filter(|r| !r.is_null())
            .cloned()
    };
    if whole(old) != whole(new) {
        needed.push(POD_LEVEL_RESIZE);
    }
    if once(old) != once(new) {
        needed.push(INIT_CONTAINER_RESIZE);
    }
    needed
}

/// What the init containers ask for that are not sidecars.
fn once(pod: &Value) -> Vec<(&Value, &Value)> {
    let all = pod
        .pointer("/spec/initContainers")
        .and_then(Value::as_array);
    let all = all.into_iter().flatten();
    all.filter(|c| c["restartPolicy"] != "Always")
        .map(|c| (&c["name"], &c["resources"]))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_needs_what_it_is_about() {
        let pod = |whole: Value, init: &str, sidecar: &str| {
            let asks = |cpu: &str| json!({ "requests": { "cpu": cpu } });
            json!({ "spec": { "resources": whole, "containers": [{ "name": "c" }],
                "initContainers": [{ "name": "i", "resources": asks(init) },
                    { "name": "s", "restartPolicy": "Always", "resources": asks(sidecar) }] } })
        };
        let before = pod(Value::Null, "1", "1");
        assert!(of_change(&before, &pod(Value::Null, "1", "2")).is_empty());
        let init = of_change(&before, &pod(Value::Null, "2", "1"));
        assert_eq!(init, [INIT_CONTAINER_RESIZE]);
        let asks = json!({ "requests": { "cpu": "3" } });
        assert_eq!(of_change(&before, &pod(asks, "1", "1")), [POD_LEVEL_RESIZE]);
        assert!(OURS.is_sorted());
    }
}
