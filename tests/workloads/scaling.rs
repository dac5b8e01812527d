//! What pods use, and what an autoscaler makes of it.

use anyhow::{Context as _, Result, ensure};
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
    // One pod: what it uses, and the same as the sum.
    eventually("top shows the pod and the sum", || {
        let shown = cx.kubectl("top pod -l app=burn --no-headers --sum")?;
        let rows: Vec<Vec<&str>> = shown
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        let (pod, sum) = (rows.first(), rows.last());
        ensure!(
            pod.is_some_and(|pod| pod.len() == 3)
                && pod.and_then(|pod| pod.get(1..)) == sum.map(|s| &**s),
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
            "minReplicas": 1, "maxReplicas": 5,
            "metrics": [{ "type": "Resource", "resource": { "name": "cpu",
                "target": { "type": "Utilization", "averageUtilization": 50 } } }],
            // At most two more at a time, and at once; down two at a time, and only to what was
            // enough for 20 seconds.
            "behavior": {
                "scaleUp": { "stabilizationWindowSeconds": 0,
                    "policies": [{ "type": "Pods", "value": 2, "periodSeconds": 15 }] },
                "scaleDown": { "stabilizationWindowSeconds": 20,
                    "policies": [{ "type": "Pods", "value": 2, "periodSeconds": 15 }] },
            },
        },
    }))?;
    cx.wait("deployment/burn", "jsonpath={.status.readyReplicas}=5")?;
    // The autoscaler reports a step after it.
    let up = eventually("it reports each step up", || {
        let events = cx.kubectl("describe hpa burn")?;
        ensure!(
            events.contains("SuccessfulRescale") && events.contains("above target"),
            "{events}"
        );
        let up = rescales(cx)?;
        ensure!(up.last() == Some(&5) && by_two_at_most(1, &up), "{up:?}");
        Ok(up)
    })?;
    let stopped = jiff::Timestamp::now();
    eventually("all are stopped and the autoscaler takes four away", || {
        for pod in cx.pods("app=burn")? {
            // One that goes meanwhile needs no stop.
            cx.run(&format!("exec {pod} -- touch /stop"))?;
        }
        let left = cx.pods("app=burn")?;
        ensure!(left.len() == 1, "{left:?}");
        Ok(())
    })?;
    cx.wait("hpa/burn", "jsonpath={.status.desiredReplicas}=1")?;
    eventually("it reports each step down", || {
        let all = rescales(cx)?;
        let down = all.get(up.len()..).unwrap_or_default();
        ensure!(
            down.last() == Some(&1) && by_two_at_most(5, down),
            "{all:?}"
        );
        Ok(())
    })?;
    // At least two steps, of which each but the first waited for the policy's period.
    let took = jiff::Timestamp::now() - stopped;
    ensure!(took.get_seconds() >= 15, "down after {took:?} already");
    Ok(())
}

/// Whether sizes change by no more than the policies allow at once.
fn by_two_at_most(from: i64, sizes: &[i64]) -> bool {
    let before = std::iter::once(&from).chain(sizes);
    sizes
        .iter()
        .zip(before)
        .all(|(to, from)| (to - from).abs() <= 2)
}

/// The sizes that the autoscaler chose, in their order.
fn rescales(cx: &Context) -> Result<Vec<i64>> {
    let events = cx.json("get events --field-selector reason=SuccessfulRescale")?;
    let mut all: Vec<(&str, i64)> = Vec::new();
    for event in events["items"].as_array().into_iter().flatten() {
        let said = event["message"].as_str().unwrap_or_default();
        let size = said
            .strip_prefix("New size: ")
            .and_then(|s| s.split(';').next());
        let size = size.and_then(|s| s.parse().ok()).context("no size")?;
        let at = event["lastTimestamp"]
            .as_str()
            .or(event["eventTime"].as_str());
        all.push((at.unwrap_or_default(), size));
    }
    all.sort_unstable();
    Ok(all.into_iter().map(|(_, size)| size).collect())
}
