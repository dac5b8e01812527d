//! A node that runs short of memory: it says so, gets no new pods, ends the pod that takes too
//! much, and recovers.

use anyhow::{Result, ensure};
use serde_json::json;
use tests::Context;
use tests::context::{STAY, pod};

use crate::NODE_MEMORY_MIB;

/// For how long the nodes of this suite stay under pressure after it went; upstream's five
/// minutes are too long for a test. Meanwhile the taint is seen, and two pods come and are looked at by the
/// scheduler: seconds, and a multiple of them in a burst.
pub const STAYS_SECONDS: u64 = 40;

/// What the greedy pod takes at once leaves so much: more than the node's own processes need.
const LEFT_MIB: u64 = 450;
/// Then it takes more, so much a second. The kubelet looks every 10 s: it sees that less than
/// 100 MiB are available before the kernel has to kill a process, which might be the kubelet.
const STEP_MIB: u64 = 5;

pub fn a_node_short_of_memory_gets_no_new_pods(cx: &Context) -> Result<()> {
    let taints = || cx.field("node node-1", ".spec.taints[*].key");
    let key = "node.kubernetes.io/memory-pressure";
    ensure!(!taints()?.contains(key), "it is short already");
    // Files of a memory volume are memory of the pod.
    let fill = format!(
        "dd if=/dev/zero of=/mem/first bs=1M count={}; i=0; \
         while [ $i -lt {} ]; do dd if=/dev/zero of=/mem/$i bs=1M count={STEP_MIB}; \
         i=$((i+1)); sleep 1; done; {STAY}",
        NODE_MEMORY_MIB - LEFT_MIB,
        LEFT_MIB / STEP_MIB,
    );
    let mut greedy = pod("greedy", &fill);
    greedy["spec"]["nodeName"] = "node-1".into();
    greedy["spec"]["volumes"] = json!([{ "name": "mem", "emptyDir": { "medium": "Memory" } }]);
    greedy["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "mem", "mountPath": "/mem" }]);
    cx.apply_json(&greedy)?;
    cx.wait("node/node-1", "condition=MemoryPressure")?;
    let path = format!("{{.spec.taints[?(@.key==\"{key}\")].effect}}");
    cx.wait("node/node-1", &format!("jsonpath={path}=NoSchedule"))?;
    let mut tied = pod("tied", STAY);
    tied["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": "node-1" });
    // Both at once: the taint goes a while after the greedy pod, however long it takes here to look.
    let both = json!({ "apiVersion": "v1", "kind": "List", "items": [tied, pod("free", STAY)] });
    cx.apply_json(&both)?;
    cx.wait_event("FailedScheduling", "untolerated taint")?;
    cx.wait_ready("free")?;
    ensure!(
        cx.field("pod free", ".spec.nodeName")? != "node-1",
        "a new pod was put on it"
    );
    // The pod that took more than it asked for goes.
    cx.wait("pod/greedy", "jsonpath={.status.phase}=Failed")?;
    ensure!(cx.field("pod greedy", ".status.reason")? == "Evicted");
    let message = cx.field("pod greedy", ".status.message")?;
    ensure!(
        message.contains("The node was low on resource: memory"),
        "{message}"
    );
    // The pressure goes with it, and the pod that waited comes.
    cx.wait("node/node-1", "condition=MemoryPressure=False")?;
    cx.wait_ready("tied")?;
    ensure!(cx.field("pod tied", ".spec.nodeName")? == "node-1");
    Ok(())
}
