//! What pods use, and what an autoscaler makes of it.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::command::eventually;
use tests::{BUSYBOX, Context};

/// A Deployment that burns what it may have of a CPU until somebody stops it: twice its request.
pub fn load_scales_a_deployment_up_and_its_end_down(cx: &Context) -> Result<()> {
    cx.apply_json(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "burn" },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { "app": "burn" } },
            "template": {
                "metadata": { "labels": { "app": "burn" } },
                "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
                    "name": "main", "image": BUSYBOX,
                    "command": ["sh", "-c", "while [ ! -e /stop ]; do :; done; exec sleep 1000000"],
                    "resources": { "requests": { "cpu": "50m" }, "limits": { "cpu": "100m" } },
                }] },
            },
        },
    }))?;
    cx.wait_rollout("deployment/burn")?;
    eventually("top shows the load", || {
        let shown = cx.kubectl("top pod -l app=burn --no-headers --containers")?;
        let cpu = shown
            .split_whitespace()
            .find_map(|w| w.strip_suffix('m')?.parse::<u32>().ok());
        ensure!(
            cpu.is_some_and(|millis| (60..=120).contains(&millis)),
            "{shown}"
        );
        Ok(())
    })?;
    let nodes = cx.kubectl("top node --no-headers")?;
    ensure!(nodes.contains("node-1") && nodes.contains('%'), "{nodes}");
    cx.apply_json(&json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": "burn" },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "burn" },
            "minReplicas": 1, "maxReplicas": 3,
            "metrics": [{ "type": "Resource", "resource": { "name": "cpu",
                "target": { "type": "Utilization", "averageUtilization": 50 } } }],
            "behavior": { "scaleDown": { "stabilizationWindowSeconds": 0 } },
        },
    }))?;
    cx.wait("deployment/burn", "jsonpath={.status.readyReplicas}=3")?;
    let events = cx.kubectl("describe hpa burn")?;
    ensure!(
        events.contains("SuccessfulRescale") && events.contains("above target"),
        "{events}"
    );
    eventually("all are stopped and the autoscaler takes two away", || {
        for pod in cx.pods("app=burn")? {
            // One that goes meanwhile needs no stop.
            cx.run(&format!("exec {pod} -- touch /stop"))?;
        }
        let left = cx.pods("app=burn")?;
        ensure!(left.len() == 1, "{left:?}");
        Ok(())
    })?;
    cx.wait("hpa/burn", "jsonpath={.status.desiredReplicas}=1")
}
