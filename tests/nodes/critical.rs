//! A pod that the cluster needs comes to a node that is full, with real containers; what the kubelet
//! decides there is `crates/kubelet/src/pod/preempt.rs`.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::Context;
use tests::context::{STAY, pod};

use crate::NODE_CPU_MILLIS;
use crate::faults::nobody_leaves;

const NODE: &str = "node-2";

pub fn a_critical_pod_ends_another_one(cx: &Context) -> Result<()> {
    let of = |name: &str, millis: u64| {
        let mut pod = pod(name, STAY);
        pod["spec"]["nodeName"] = NODE.into();
        pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
        pod["spec"]["containers"][0]["resources"] =
            json!({ "requests": { "cpu": format!("{millis}m") } });
        pod
    };
    // Earlier checks filled the nodes.
    nobody_leaves(cx, NODE)?;
    cx.apply_json(&of("low", NODE_CPU_MILLIS * 3 / 4))?;
    cx.wait_ready("low")?;
    // One that is as low as that has to go elsewhere.
    cx.apply_json(&of("other", NODE_CPU_MILLIS / 2))?;
    cx.wait("pod/other", "jsonpath={.status.reason}=OutOfcpu")?;
    let mut needed = of("needed", NODE_CPU_MILLIS / 2);
    needed["spec"]["priorityClassName"] = "system-node-critical".into();
    cx.apply_json(&needed)?;
    let event = cx.wait_event("Preempting", "Preempted in order to admit critical pod")?;
    ensure!(event["involvedObject"]["name"] == "low", "{event:#}");
    ensure!(event["type"] == "Warning", "{event:#}");
    cx.wait("pod/low", "jsonpath={.status.phase}=Failed")?;
    ensure!(cx.field("pod low", ".status.reason")? == "Preempting");
    cx.wait_ready("needed")?;
    ensure!(cx.field("pod needed", ".status.containerStatuses[0].restartCount")? == "0");
    Ok(())
}
