//! How much swap a container may use, by upstream's rules.

use super::deps::Deps;
use super::fit::is_critical;
use super::resources::{Qos, qos};
use crate::quantity::amount;
use k8s_openapi::api::core::v1::{Container, Pod};

/// What the node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Burstable pods may swap; else nobody may.
    pub limited: bool,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of swap.
    pub swap: u64,
}

/// Bytes of swap that a container may use: of a Burstable pod the part of the node's swap that its
/// request is of the node's memory; none where all that it may have is what it asks for.
#[must_use]
pub fn limit(pod: &Pod, c: &Container, node: Node) -> u64 {
    if !node.limited || qos(pod) != Qos::Burstable || is_critical(pod) {
        return 0;
    }
    let of = |list| amount(list, "memory").and_then(|b| u64::try_from(b).ok());
    let resources = c.resources.as_ref();
    let asked = of(resources.and_then(|r| r.requests.as_ref())).unwrap_or(0);
    let most = of(resources.and_then(|r| r.limits.as_ref()));
    if asked == 0 || Some(asked) == most || node.memory == 0 {
        return 0;
    }
    let part = u128::from(asked.min(node.memory)) * u128::from(node.swap);
    u64::try_from(part / u128::from(node.memory)).unwrap_or(node.swap)
}

/// The file of a container's group that limits its swap.
const FILE: &str = "memory.swap.max";

/// What the node has; none where the kernel does not count swap for groups of version 2, so that none can
/// be given.
#[must_use]
pub fn node(deps: &Deps) -> Option<Node> {
    let group = deps.cgroups.folder("memory", &deps.config.kubepods());
    if deps.cgroups.version() != 2 || !group.join(FILE).exists() {
        return None;
    }
    Some(Node {
        limited: deps.config.limited_swap,
        memory: deps.resources.memory_bytes,
        swap: crate::node::machine::memory().swap,
    })
}

/// What is written into the file of a container's group: no container may use more than its part, which is
/// nothing where nobody may swap.
#[must_use]
pub fn file(deps: &Deps, pod: &Pod, c: &Container) -> Option<(String, String)> {
    let node = node(deps)?;
    Some((FILE.to_owned(), limit(pod, c, node).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn burstable_pods_have_their_part_of_the_nodes_swap() {
        let node = Node {
            limited: true,
            memory: 16 << 30,
            swap: 4 << 30,
        };
        let of = |requests: &str, limits: &str, priority: i32, node: Node| {
            let list = |memory: &str| match memory {
                "" => json!({}),
                memory => json!({ "memory": memory }),
            };
            let resources = json!({ "requests": list(requests), "limits": list(limits) });
            let spec = json!({ "priority": priority,
                "containers": [{ "name": "a", "resources": resources },
                    { "name": "b", "resources": { "requests": { "cpu": "1" } } }] });
            let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
            limit(&pod, &pod.spec.as_ref().unwrap().containers[0], node)
        };
        assert_eq!(of("4Gi", "", 0, node), 1 << 30);
        assert_eq!(of("4Gi", "8Gi", 0, node), 1 << 30);
        assert_eq!(of("32Gi", "", 0, node), 4 << 30);
        assert_eq!(of("4Gi", "4Gi", 0, node), 0);
        assert_eq!(of("", "", 0, node), 0);
        assert_eq!(of("4Gi", "", 2_000_000_000, node), 0);
        let none = Node {
            limited: false,
            ..node
        };
        assert_eq!(of("4Gi", "", 0, none), 0);
        assert_eq!(of("4Gi", "", 0, Node { memory: 0, ..node }), 0);
    }
}
