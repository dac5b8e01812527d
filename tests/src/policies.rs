//! Network policies of tests, and pods that try to be faster than theirs.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::command::eventually;
use crate::context::{Context, STAY, pod};

/// A pod that serves its name at port 8080, on a node.
pub fn server(name: &str, node: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": crate::DEMO,
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "readinessProbe": { "httpGet": { "path": "/healthz", "port": "http" },
                    "periodSeconds": 1, "timeoutSeconds": 60 },
            }],
        },
    })
}

/// A policy for the pods of an app, of this spec.
pub fn policy(namespace: &str, app: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": format!("for-{app}"), "namespace": namespace },
        "spec": spec,
    });
    object["spec"]["podSelector"] = json!({ "matchLabels": { "app": app } });
    object
}

/// Pods that send to a pod of `server_node` before they do anything else, so many of them spread over
/// nodes: a policy keeps all of them from it. One more is not meant: what it sends comes out.
pub fn from_the_first_packet_on(
    cx: &Context,
    server_node: &str,
    nodes: &[String],
    hasty: usize,
) -> Result<()> {
    cx.apply_json(&server("server", server_node, &cx.ns))?;
    cx.wait_ready("server")?;
    cx.apply_json(&policy(
        &cx.ns,
        "hasty",
        json!({ "egress": [], "policyTypes": ["Egress"] }),
    ))?;
    let ip = cx.pod_ip("server")?;
    let line = |seconds: u32| {
        format!(
            "timeout {seconds} wget -q -O - http://{ip}:8080/hostname && echo out || echo kept; {STAY}"
        )
    };
    let pods: Vec<String> = (0..=hasty).map(|i| format!("hasty-{i}")).collect();
    for (i, name) in pods.iter().enumerate() {
        // What is kept is not waited for; what comes out has the time that it needs.
        let (app, seconds) = if i < hasty {
            ("hasty", 3)
        } else {
            ("free", 120)
        };
        let mut object = pod(name, &line(seconds));
        object["metadata"]["labels"] = json!({ "app": app });
        object["spec"]["nodeName"] = nodes[i % nodes.len()].clone().into();
        cx.apply_json(&object)?;
    }
    for (i, name) in pods.iter().enumerate() {
        let said = eventually(&format!("{name} has tried"), || {
            let said = cx.logs(name)?;
            ensure!(said.contains("out") || said.contains("kept"), "{said:?}");
            Ok(said)
        })?;
        let wanted = if i < hasty { "kept" } else { "out" };
        ensure!(said.contains(wanted), "{name}: {said}");
    }
    Ok(())
}
