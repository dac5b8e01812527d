//! What each pod of the cluster asks for and is limited to, as the scheduler counts it: upstream's page
//! `/metrics/resources`, written when it is asked for. Pods that have ended ask for nothing.

use std::fmt::Write;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::interned::Strings;
use crate::pod::scheduler_of;
use crate::resources::{self, Resources};

pub const PATH: &str = "/metrics/resources";

/// What is read of a pod for a family.
type Of = fn(&Pod, &mut Strings) -> Resources;

/// The lines of the page for these pods.
pub fn page(pods: &[Arc<Pod>]) -> String {
    let mut strings = Strings::default();
    let mut text = String::new();
    let families: [(&str, &str, Of); 2] = [
        (
            "kube_pod_resource_limit",
            "Resources limit for workloads on the cluster, broken down by pod",
            resources::limits,
        ),
        (
            "kube_pod_resource_request",
            "Resources requested by workloads on the cluster, broken down by pod",
            resources::requests,
        ),
    ];
    for (name, help, of) in families {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for pod in pods.iter().filter(|pod| !has_ended(pod)) {
            lines(&mut text, name, pod, &of(pod, &mut strings));
        }
    }
    text
}

/// One without a node cannot have ended.
fn has_ended(pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    node.is_some_and(|n| !n.is_empty()) && matches!(phase, Some("Succeeded" | "Failed"))
}

fn lines(text: &mut String, name: &str, pod: &Pod, amounts: &Resources) {
    let Some(spec) = &pod.spec else { return };
    let own = [
        ("cpu", "cores", amounts.cpu_millis),
        ("ephemeral-storage", "bytes", amounts.ephemeral_bytes),
        ("memory", "bytes", amounts.memory_bytes),
    ];
    let other = amounts.other.iter().map(|(n, v)| (&**n, unit(n), *v));
    let all = own.into_iter().chain(other);
    for (resource, unit, amount) in all.filter(|(.., amount)| *amount != 0) {
        let value = match resource {
            "cpu" => amount as f64 / 1_000.0,
            _ => amount as f64,
        };
        let priority = spec.priority.map(|p| p.to_string()).unwrap_or_default();
        let _ = writeln!(
            text,
            "{name}{{namespace={:?},pod={:?},node={:?},scheduler={:?},priority={priority:?},\
             resource={resource:?},unit={unit:?}}} {value}",
            pod.metadata.namespace.as_deref().unwrap_or_default(),
            pod.metadata.name.as_deref().unwrap_or_default(),
            spec.node_name.as_deref().unwrap_or_default(),
            scheduler_of(spec),
        );
    }
}

/// The unit of a resource that is neither CPU nor memory: upstream's.
fn unit(resource: &str) -> &'static str {
    match resource {
        "storage" => "bytes",
        r if r.starts_with("hugepages-") => "bytes",
        r if r.starts_with("attachable-volumes-") => "integer",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str, spec: Value) -> Arc<Pod> {
        let mut pod = json!({"metadata": {"name": name, "namespace": "d"},
            "spec": spec, "status": {"phase": phase}});
        pod["spec"]["nodeName"] = json!(node);
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn pods_show_what_they_ask_for_and_are_limited_to() {
        let of = |requests: Value, limits: Value| {
            json!({"priority": 7, "containers": [{"name": "c",
                "resources": {"requests": requests, "limits": limits}}]})
        };
        let asks = json!({"cpu": "250m", "memory": "64Mi", "a.example/gpu": "2"});
        let pods = [
            pod(
                "runs",
                Some("n"),
                "Running",
                of(asks, json!({"memory": "128Mi"})),
            ),
            pod(
                "ended",
                Some("n"),
                "Failed",
                of(json!({"cpu": "1"}), json!({})),
            ),
            pod(
                "waits",
                None,
                "Pending",
                of(json!({"hugepages-2Mi": "4Mi"}), json!({})),
            ),
        ];
        let text = page(&pods);
        let runs = "namespace=\"d\",pod=\"runs\",node=\"n\",scheduler=\"default-scheduler\",\
            priority=\"7\"";
        let waits = "namespace=\"d\",pod=\"waits\",node=\"\",scheduler=\"default-scheduler\",\
            priority=\"7\"";
        let (limit, request) = ("kube_pod_resource_limit", "kube_pod_resource_request");
        let want = [
            format!("{limit}{{{runs},resource=\"memory\",unit=\"bytes\"}} 134217728"),
            format!("{request}{{{runs},resource=\"cpu\",unit=\"cores\"}} 0.25"),
            format!("{request}{{{runs},resource=\"memory\",unit=\"bytes\"}} 67108864"),
            format!("{request}{{{runs},resource=\"a.example/gpu\",unit=\"\"}} 2"),
            format!("{request}{{{waits},resource=\"hugepages-2Mi\",unit=\"bytes\"}} 4194304"),
        ];
        let got: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(got, want);
        assert!(
            text.contains("# TYPE kube_pod_resource_limit gauge\n"),
            "{text}"
        );
    }
}
