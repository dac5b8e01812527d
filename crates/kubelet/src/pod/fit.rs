//! Whether a pod may be on this node beside what is there: upstream's checks at the kubelet's
//! door, for pods that no scheduler or an outdated one sent. Pure.

use super::admit::Refusal;
use super::reserved::{NoRoom, Short};
use super::resources::{Qos, qos};
use super::spec;
use api::selector::{NodeTerm, Required};
use api::taint;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration,
};
use std::collections::BTreeMap;

/// From this priority on a pod is one of those that the cluster itself needs.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// Whether the cluster itself needs a pod: a node that is short of something takes it all the
/// same.
#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    spec::of(pod).priority.unwrap_or(0) >= CRITICAL_PRIORITY
}

/// Which resources of the node are short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Disk or inodes.
    pub disk: bool,
    /// Process ids.
    pub pid: bool,
}

/// Whether a node under pressure takes a pod.
pub fn under_pressure(pod: &Pod, pressure: &Pressure) -> Result<(), Refusal> {
    let rows = [
        ("MemoryPressure", pressure.memory),
        ("DiskPressure", pressure.disk),
        ("PIDPressure", pressure.pid),
    ];
    let short: Vec<&str> = rows.iter().filter(|r| r.1).map(|r| r.0).collect();
    if short.is_empty() || is_critical(pod) {
        return Ok(());
    }
    if short == ["MemoryPressure"] {
        let taint = taint::Taint {
            key: "node.kubernetes.io/memory-pressure",
            value: "",
            effect: "NoSchedule",
        };
        if qos(pod) != Qos::BestEffort || is_tolerated(pod, &taint) {
            return Ok(());
        }
    }
    Err(Refusal {
        reason: "Evicted".into(),
        message: format!("The node had condition: [{}]. ", short.join(" ")),
    })
}

/// The first reason against a pod, in upstream's order: resources, labels, ports, taints. `room`:
/// what the node's accounts say. That resources are short is none against a critical pod: others end
/// for it.
pub fn check(pod: &Pod, node: &Node, room: Result<(), NoRoom>) -> Result<(), Refusal> {
    let room = room.err().unwrap_or_default();
    if let Some(short) = room.short.first().filter(|_| !is_critical(pod)) {
        return Err(too_little(short));
    }
    if !is_wanted(pod, node) {
        return Err(failed(
            "NodeAffinity",
            "node(s) didn't match Pod's node affinity/selector",
        ));
    }
    if room.port_taken {
        return Err(failed(
            "NodePorts",
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    if !tolerates(pod, node) {
        return Err(failed(
            "TaintToleration",
            "node(s) had taints that the pod didn't tolerate",
        ));
    }
    Ok(())
}

/// Whether nothing of the node's own is against a pod.
#[must_use]
pub fn is_welcome(pod: &Pod, node: &Node) -> bool {
    is_wanted(pod, node) && tolerates(pod, node)
}

fn too_little(short: &Short) -> Refusal {
    let Short {
        resource,
        requested,
        used,
        capacity,
    } = short;
    Refusal {
        reason: format!("OutOf{resource}"),
        message: format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    }
}

fn failed(name: &str, why: &str) -> Refusal {
    Refusal {
        reason: name.into(),
        message: format!("Predicate {name} failed: {why}"),
    }
}

/// Whether the pod's own selector and required affinity mean the node.
#[must_use]
pub fn is_wanted(pod: &Pod, node: &Node) -> bool {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&NONE);
    let selector = spec::of(pod).node_selector.iter().flatten();
    if !selector
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
    {
        return false;
    }
    let affinity = spec::of(pod).affinity.as_ref();
    let required = affinity.and_then(|a| {
        let of_node = a.node_affinity.as_ref()?;
        of_node
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    required.is_none_or(|r| selects(r, node))
}

/// Whether one of the selector's terms means the node.
#[must_use]
pub fn selects(selector: &NodeSelector, node: &Node) -> bool {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&NONE);
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let mut terms = selector.node_selector_terms.iter();
    terms.any(|term| term_of(term).matches(name, labels))
}

fn term_of(term: &NodeSelectorTerm) -> NodeTerm {
    fn read(e: &NodeSelectorRequirement) -> Required<'_> {
        (&e.key, &e.operator, e.values.as_deref())
    }
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    NodeTerm::new(labels.map(read), fields.map(read))
}

/// Whether the pod tolerates all taints that would end it.
fn tolerates(pod: &Pod, node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let mut ending = taints.filter(|t| t.effect == "NoExecute").map(read_taint);
    ending.all(|taint| is_tolerated(pod, &taint))
}

fn read_taint(taint: &Taint) -> taint::Taint<'_> {
    taint::Taint::of(&taint.key, &taint.value, &taint.effect)
}

fn is_tolerated(pod: &Pod, taint: &taint::Taint) -> bool {
    let read = |t: &Toleration| {
        taint::Toleration::of(&t.key, &t.operator, &t.value, &t.effect).tolerates(taint)
    };
    spec::of(pod).tolerations.iter().flatten().any(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod")
    }

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd", "cores": "4"}},
            "spec": {"taints": [
                {"key": "gone", "effect": "NoExecute"},
                {"key": "closed", "effect": "NoSchedule"}]}
        }))
        .expect("a node")
    }

    const CALM: [(&str, &str); 2] = [("operator", "Exists"), ("effect", "NoExecute")];

    fn reason(mut spec: Value, room: Result<(), NoRoom>) -> Option<String> {
        if spec.get("tolerations").is_none() {
            spec["tolerations"] = json!([BTreeMap::from(CALM)]);
        }
        spec["containers"] = json!([]);
        check(&pod(spec), &node(), room).err().map(|r| r.reason)
    }

    #[test]
    fn labels_and_taints_of_the_node_count() {
        let affinity = |term: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [term]}}}})
        };
        let expression = |key: &str, operator: &str, values: Value| {
            affinity(json!({"matchExpressions":
                [{"key": key, "operator": operator, "values": values}]}))
        };
        let name = |name: &str| {
            affinity(json!({"matchFields":
                [{"key": "metadata.name", "operator": "In", "values": [name]}]}))
        };
        let not = Some("NodeAffinity".to_owned());
        for (spec, want) in [
            (json!({}), None),
            (json!({"nodeSelector": {"disk": "ssd"}}), None),
            (json!({"nodeSelector": {"disk": "hdd"}}), not.clone()),
            (expression("disk", "In", json!(["ssd", "hdd"])), None),
            (expression("disk", "NotIn", json!(["ssd"])), not.clone()),
            (expression("cores", "Gt", json!(["3"])), None),
            (expression("cores", "Lt", json!(["3"])), not.clone()),
            (expression("none", "DoesNotExist", json!(null)), None),
            (name("n"), None),
            (name("m"), not.clone()),
            (affinity(json!({})), not),
            (json!({"tolerations": []}), Some("TaintToleration".into())),
        ] {
            assert_eq!(reason(spec.clone(), Ok(())), want, "{spec}");
        }
    }

    #[test]
    fn the_first_reason_is_reported() {
        let short = Short {
            resource: "cpu".into(),
            requested: 500,
            used: 600,
            capacity: 1000,
        };
        let room = |short: Vec<Short>, port_taken| Err(NoRoom { short, port_taken });
        let none = json!({"nodeSelector": {"disk": "hdd"}, "tolerations": []});
        let found = check(
            &pod(json!({"containers": []})),
            &node(),
            room(vec![short.clone()], true),
        );
        assert_eq!(
            found,
            Err(Refusal {
                reason: "OutOfcpu".into(),
                message: "Node didn't have enough resource: cpu, requested: 500, used: 600, capacity: 1000".into(),
            })
        );
        assert_eq!(
            reason(none, room(Vec::new(), true)).as_deref(),
            Some("NodeAffinity")
        );
        let ports = reason(json!({"tolerations": []}), room(Vec::new(), true));
        assert_eq!(ports.as_deref(), Some("NodePorts"));
        let critical = json!({"priority": CRITICAL_PRIORITY});
        assert_eq!(reason(critical, room(vec![short], false)), None);
    }

    #[test]
    fn a_node_under_pressure_takes_few() {
        let asks = json!([{"name": "c", "resources": {"requests": {"cpu": "1"}}}]);
        let free = json!([{"name": "c"}]);
        let tolerant = json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]);
        let memory = Pressure {
            memory: true,
            ..Default::default()
        };
        let both = Pressure {
            disk: true,
            ..memory.clone()
        };
        for (spec, in_memory, in_both) in [
            (json!({"containers": free}), false, false),
            (json!({"containers": asks}), true, false),
            (
                json!({"containers": free, "tolerations": tolerant}),
                true,
                false,
            ),
            (
                json!({"containers": free, "priority": CRITICAL_PRIORITY}),
                true,
                true,
            ),
        ] {
            let pod = pod(spec.clone());
            assert_eq!(under_pressure(&pod, &memory).is_ok(), in_memory, "{spec}");
            assert_eq!(under_pressure(&pod, &both).is_ok(), in_both, "{spec}");
            assert_eq!(under_pressure(&pod, &Pressure::default()), Ok(()));
        }
        let refused = under_pressure(&pod(json!({"containers": []})), &both);
        let message = refused.expect_err("refused").message;
        assert_eq!(
            message,
            "The node had condition: [MemoryPressure DiskPressure]. "
        );
    }
}
