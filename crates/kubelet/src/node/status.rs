//! The status of the node as the API shows it. Pure.

use super::machine::{Identity, Resources};
use crate::config::Config;
use crate::devices::Amount;
use crate::pod::fit::Pressure;
use host::runtime::{Health as RuntimeHealth, Image};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use std::collections::BTreeMap;

/// How the node is.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Why it is not ready.
    pub problems: Vec<String>,
    /// Name and version of the runtime.
    pub runtime_version: String,
    /// Images that are here.
    pub images: Vec<Image>,
    /// What is short.
    pub pressure: Pressure,
    /// Volumes that may not be detached.
    pub volumes_in_use: Vec<String>,
    /// Devices of plugins, by resource.
    pub devices: BTreeMap<String, Amount>,
    /// What the runtime can do; none while it does not say.
    pub abilities: Option<RuntimeHealth>,
}

pub(super) fn status_of(
    config: &Config,
    resources: &Resources,
    identity: &Identity,
    old: &Node,
    health: &Health,
    now: Timestamp,
) -> NodeStatus {
    // In the form in which the server stores it: 16777216Ki comes back as 16Gi, and would be written
    // again at each look.
    let canonical = |v: String| match v.parse::<api::quantity::Quantity>() {
        Ok(quantity) => Quantity(quantity.to_string()),
        Err(_) => Quantity(v),
    };
    let quantities = |table: std::collections::BTreeMap<String, String>| {
        let all = table.into_iter();
        Some(all.map(|(k, v)| (k, canonical(v))).collect())
    };
    let address = |kind: &str, address: String| NodeAddress {
        type_: kind.to_owned(),
        address,
    };
    let (mut capacity, mut allocatable) = (resources.capacity(), resources.allocatable());
    for (name, amount) in declared(old) {
        capacity.insert(name.clone(), amount.clone());
        allocatable.insert(name, amount);
    }
    for (name, amount) in &health.devices {
        capacity.insert(name.clone(), amount.capacity.to_string());
        allocatable.insert(name.clone(), amount.allocatable.to_string());
    }
    let abilities = health.abilities.as_ref();
    NodeStatus {
        declared_features: Some(api::declared_features::OURS.map(str::to_owned).into()),
        features: abilities.map(|a| NodeFeatures {
            supplemental_groups_policy: Some(a.strict_groups),
        }),
        runtime_handlers: abilities.map(handlers).filter(|all| !all.is_empty()),
        addresses: Some(
            config
                .node_ips()
                .into_iter()
                .map(|ip| address("InternalIP", ip))
                .chain([address("Hostname", config.node_name.clone())])
                .collect(),
        ),
        capacity: quantities(capacity),
        allocatable: quantities(allocatable),
        conditions: Some(conditions(old, health, now)),
        // Port 0 where nobody listens: the API shows it so, and a status that differs from what is
        // stored would be written again at each look.
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: config.listen.map_or(0, |at| i32::from(at.port())),
            }),
        }),
        images: Some(images(&health.images, config.status_images)),
        volumes_in_use: Some(health.volumes_in_use.clone()),
        node_info: Some(NodeSystemInfo {
            architecture: api::version::architecture().to_owned(),
            boot_id: identity.boot_id.clone(),
            container_runtime_version: health.runtime_version.clone(),
            kernel_version: identity.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: api::version::KUBERNETES.to_owned(),
            machine_id: identity.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: identity.os_image.clone(),
            swap: (identity.swap > 0).then(|| NodeSwapStatus {
                capacity: i64::try_from(identity.swap).ok(),
            }),
            system_uuid: identity.system_uuid.clone(),
        }),
        ..Default::default()
    }
}

fn conditions(old: &Node, health: &Health, now: Timestamp) -> Vec<NodeCondition> {
    let p = &health.pressure;
    let ready = health.problems.is_empty();
    let rows = [
        (
            "MemoryPressure",
            p.memory,
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        (
            "DiskPressure",
            p.disk,
            "KubeletHasDiskPressure",
            "kubelet has disk pressure",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        (
            "PIDPressure",
            p.pid,
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
    ];
    let mut out: Vec<NodeCondition> = rows
        .into_iter()
        .map(|(kind, is, reason, message, no_reason, no_message)| {
            let (reason, message) = if is {
                (reason, message)
            } else {
                (no_reason, no_message)
            };
            condition(old, kind, is, reason, message.to_owned(), now)
        })
        .collect();
    let (reason, message) = if ready {
        ("KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        (
            "KubeletNotReady",
            format!("[{}]", health.problems.join(", ")),
        )
    };
    let message = if health.problems.len() == 1 {
        health.problems.join("")
    } else {
        message
    };
    out.push(condition(old, "Ready", ready, reason, message, now));
    out
}

fn condition(
    old: &Node,
    kind: &str,
    is: bool,
    reason: &str,
    message: String,
    now: Timestamp,
) -> NodeCondition {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let status = if is { "True" } else { "False" };
    let before = old
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .find(|c| c.type_ == kind && c.status == status);
    NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: before
            .and_then(|c| c.last_transition_time.clone())
            .or(Some(Time(now))),
    }
}

/// Resources that others declared in the node's object, such as by hand: they stay, and pods can
/// have all of them.
fn declared(old: &Node) -> Vec<(String, String)> {
    let capacity = old.status.as_ref().and_then(|s| s.capacity.as_ref());
    let is_extended = |name: &str| name.contains('/') && !name.contains("kubernetes.io/");
    let all = capacity.into_iter().flatten();
    all.filter(|(name, _)| is_extended(name))
        .map(|(name, q)| (name.clone(), q.0.clone()))
        .collect()
}

fn handlers(runtime: &RuntimeHealth) -> Vec<NodeRuntimeHandler> {
    let all = runtime.handlers.iter();
    all.map(|h| NodeRuntimeHandler {
        name: Some(h.name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(h.recursive_read_only),
            user_namespaces: Some(h.user_namespaces),
        }),
    })
    .collect()
}

/// At most so many, the largest first.
fn images(images: &[Image], most: Option<usize>) -> Vec<ContainerImage> {
    let mut sorted: Vec<&Image> = images.iter().collect();
    sorted.sort_by(|a, b| (b.bytes, &a.id).cmp(&(a.bytes, &b.id)));
    sorted
        .into_iter()
        .take(most.unwrap_or(usize::MAX))
        .map(|i| ContainerImage {
            // At most five names each, as upstream.
            names: Some(i.digests.iter().chain(&i.tags).take(5).cloned().collect()),
            size_bytes: i64::try_from(i.bytes).ok(),
        })
        .collect()
}

/// Whether the condition Ready is true.
pub(super) fn is_ready(status: Option<&NodeStatus>) -> bool {
    status
        .into_iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What is said of a condition that has become true, and of one that has become false.
const TRANSITIONS: [(&str, &str, &str); 4] = [
    (
        "MemoryPressure",
        "NodeHasInsufficientMemory",
        "NodeHasSufficientMemory",
    ),
    (
        "DiskPressure",
        "NodeHasDiskPressure",
        "NodeHasNoDiskPressure",
    ),
    (
        "PIDPressure",
        "NodeHasInsufficientPID",
        "NodeHasSufficientPID",
    ),
    ("Ready", "NodeReady", "NodeNotReady"),
];

/// Upstream's words for what has changed of the node's conditions. Of a new node it is said how it is,
/// but not that it is ready: it may never have been anything else.
pub(super) fn transitions(old: Option<&NodeStatus>, new: &NodeStatus) -> Vec<&'static str> {
    let of = |status: Option<&NodeStatus>, kind: &str| {
        let all = status
            .into_iter()
            .flat_map(|s| s.conditions.iter().flatten());
        let mut all = all.filter(|c| c.type_ == kind);
        all.next().map(|c| c.status.clone())
    };
    let changed = TRANSITIONS.into_iter().filter_map(|(kind, yes, no)| {
        let (was, is) = (of(old, kind), of(Some(new), kind)?);
        if was.as_ref() == Some(&is) || (was.is_none() && kind == "Ready") {
            return None;
        }
        match is.as_str() {
            "True" => Some(yes),
            "False" => Some(no),
            _ => None,
        }
    });
    changed.collect()
}

/// Whether somebody keeps new pods from the node.
pub(super) fn is_closed(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    spec.and_then(|s| s.unschedulable).unwrap_or(false)
}

/// Upstream's word for what has changed of that, if it has.
pub(super) fn opened_or_closed(was_closed: bool, is_closed: bool) -> Option<&'static str> {
    match (was_closed, is_closed) {
        (false, true) => Some("NodeNotSchedulable"),
        (true, false) => Some("NodeSchedulable"),
        _ => None,
    }
}

/// Whether anything but the heartbeat differs.
pub(super) fn differs(old: Option<&NodeStatus>, new: &NodeStatus) -> bool {
    let Some(old) = old else { return true };
    let plain = |s: &NodeStatus| {
        let mut conditions: Vec<NodeCondition> = new
            .conditions
            .iter()
            .flatten()
            .filter_map(|n| {
                s.conditions
                    .iter()
                    .flatten()
                    .find(|c| c.type_ == n.type_)
                    .cloned()
            })
            .collect();
        for c in &mut conditions {
            c.last_heartbeat_time = None;
            c.last_transition_time = None;
        }
        let some = |list: &Option<Vec<ContainerImage>>| list.clone().unwrap_or_default();
        (
            conditions,
            s.addresses.clone(),
            s.capacity.clone(),
            s.allocatable.clone(),
            s.node_info.clone(),
            some(&s.images),
            s.volumes_in_use.clone().unwrap_or_default(),
            s.daemon_endpoints.clone(),
            s.declared_features.clone(),
            // What cannot be asked now may be as it was.
            new.features.is_some().then(|| s.features.clone()),
            new.runtime_handlers
                .is_some()
                .then(|| s.runtime_handlers.clone()),
        )
    };
    plain(old) != plain(new)
}

/// The patch: addresses have a merge key and must go as a whole.
pub(super) fn patch(status: &NodeStatus) -> Value {
    let mut body = serde_json::to_value(status).unwrap_or_default();
    if let Some(list) = body.get_mut("addresses").and_then(Value::as_array_mut) {
        list.insert(0, serde_json::json!({"$patch": "replace"}));
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_of_conditions_is_said_in_upstreams_words() {
        let status = |conditions: &[(&str, &str)]| NodeStatus {
            conditions: Some(
                conditions
                    .iter()
                    .map(|(kind, status)| NodeCondition {
                        type_: (*kind).to_owned(),
                        status: (*status).to_owned(),
                        ..Default::default()
                    })
                    .collect(),
            ),
            ..Default::default()
        };
        let well = status(&[("MemoryPressure", "False"), ("Ready", "True")]);
        assert_eq!(transitions(None, &well), ["NodeHasSufficientMemory"]);
        assert!(transitions(Some(&well), &well).is_empty());
        let short = status(&[("MemoryPressure", "True"), ("Ready", "False")]);
        assert_eq!(
            transitions(Some(&well), &short),
            ["NodeHasInsufficientMemory", "NodeNotReady"]
        );
        // The control plane has said that it does not know.
        let lost = status(&[("MemoryPressure", "Unknown"), ("Ready", "Unknown")]);
        assert_eq!(
            transitions(Some(&lost), &well),
            ["NodeHasSufficientMemory", "NodeReady"]
        );
    }

    #[test]
    fn it_is_said_when_a_node_takes_no_more_pods_and_when_it_does_again() {
        let node = |spec: Value| -> bool {
            is_closed(&serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap())
        };
        let open = node(serde_json::json!({}));
        let closed = node(serde_json::json!({ "unschedulable": true }));
        assert_eq!(opened_or_closed(open, closed), Some("NodeNotSchedulable"));
        assert_eq!(opened_or_closed(closed, open), Some("NodeSchedulable"));
        assert_eq!(opened_or_closed(closed, closed), None);
        assert_eq!(opened_or_closed(open, is_closed(&Node::default())), None);
    }

    #[test]
    fn heartbeats_alone_do_not_count_as_change() {
        let config = Config::new("n", "10.0.0.1".parse().unwrap());
        let of = |health: &Health, old: &Node, second| {
            let now = Timestamp::from_second(second).unwrap();
            status_of(
                &config,
                &Resources::default(),
                &Identity::default(),
                old,
                health,
                now,
            )
        };
        let first = of(&Health::default(), &Node::default(), 1);
        assert!(is_ready(Some(&first)));
        let node = Node {
            status: Some(first),
            ..Default::default()
        };
        let second = of(&Health::default(), &node, 9);
        assert!(!differs(node.status.as_ref(), &second));
        let sick = Health {
            problems: vec!["x".into()],
            ..Default::default()
        };
        let third = of(&sick, &node, 9);
        assert!(differs(node.status.as_ref(), &third) && !is_ready(Some(&third)));
        let text = "1".to_owned();
        let able = Health {
            abilities: Some(RuntimeHealth {
                strict_groups: true,
                handlers: vec![Default::default()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let fourth = of(&able, &node, 9);
        assert!(differs(node.status.as_ref(), &fourth));
        let features = fourth.features.clone().unwrap();
        assert_eq!(features.supplemental_groups_policy, Some(true));
        assert_eq!(fourth.runtime_handlers.clone().unwrap().len(), 1);
        // What others declare stays, and is not written again and again.
        let mut declaring = node.clone();
        if let Some(status) = &mut declaring.status {
            let capacity = status.capacity.get_or_insert_default();
            capacity.insert("example.com/dongle".into(), Quantity(text.clone()));
        }
        let fifth = of(&Health::default(), &declaring, 9);
        assert!(
            differs(declaring.status.as_ref(), &fifth),
            "allocatable lacks it"
        );
        let allocatable = fifth.allocatable.clone().unwrap();
        assert_eq!(allocatable.get("example.com/dongle"), Some(&Quantity(text)));
        declaring.status = Some(fifth);
        let sixth = of(&Health::default(), &declaring, 10);
        assert!(!differs(declaring.status.as_ref(), &sixth));
        // What a plugin says counts more than what somebody once declared.
        let plugged = Health {
            devices: BTreeMap::from([(
                "example.com/dongle".to_owned(),
                Amount {
                    capacity: 3,
                    allocatable: 2,
                },
            )]),
            ..Default::default()
        };
        let seventh = of(&plugged, &declaring, 10);
        assert!(differs(declaring.status.as_ref(), &seventh));
        let amount = |list: &Option<BTreeMap<String, Quantity>>| {
            let list = list.as_ref().unwrap();
            list["example.com/dongle"].0.clone()
        };
        let shown = (amount(&seventh.capacity), amount(&seventh.allocatable));
        assert_eq!(shown, ("3".to_owned(), "2".to_owned()));
        let ready = third.conditions.unwrap().pop().unwrap();
        assert_eq!(ready.last_transition_time.unwrap().0.as_second(), 9);
    }
}
