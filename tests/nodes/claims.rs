//! What a claim holds when the node of its volume dies.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;

/// How often the plug of the node is pulled.
fn kills() -> usize {
    if tests::is_soak() { 20 } else { 2 }
}

/// Goes on from the number that it finds; a number counts when it is on the disk.
const WRITER: &str = "trap 'exit 0' TERM; n=$(tail -n 1 /data/numbers 2>/dev/null || echo 0); \
     while true; do n=$((n+1)); echo $n >> /data/numbers; sync /data/numbers; echo $n > /ack.new; \
     mv /ack.new /ack; \
     sleep 0.05 & wait $!; done";

fn writer() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "name": "numbers" },
        "spec": {
            "serviceName": "numbers", "replicas": 1,
            "selector": { "matchLabels": { "app": "numbers" } },
            "template": {
                "metadata": { "labels": { "app": "numbers" } },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "main", "image": tests::BUSYBOX,
                        "command": ["sh", "-c", WRITER],
                        "readinessProbe": { "exec": { "command": ["test", "-s", "/ack"] },
                            "periodSeconds": 1, "timeoutSeconds": 60 },
                        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                    }],
                },
            },
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" },
                "spec": { "accessModes": ["ReadWriteOnce"],
                    "resources": { "requests": { "storage": "16Mi" } } },
            }],
        },
    })
}

pub fn a_stateful_pod_finds_its_data_after_its_node_died(cx: &Context) -> Result<()> {
    cx.apply_json(&writer())?;
    cx.wait_rollout("statefulset/numbers")?;
    let node = cx.field("pod numbers-0", ".spec.nodeName")?;
    for _ in 0..kills() {
        let acknowledged: u64 = cx.sh("numbers-0", "cat /ack")?.trim().parse()?;
        let uid = cx.field("pod numbers-0", ".metadata.uid")?;
        cx.cluster
            .tiphys_on_data(&format!("node kill {node}"))?
            .ok()?;
        // Its identity is not given to a second pod while nobody knows what the node does.
        cx.wait("pod/numbers-0", "jsonpath={.metadata.deletionTimestamp}")?;
        ensure!(cx.field("pod numbers-0", ".metadata.uid")? == uid);
        let all = cx.json("get pods -l app=numbers")?;
        ensure!(all["items"].as_array().is_some_and(|a| a.len() == 1));
        cx.cluster
            .tiphys_on_data(&format!("node start {node}"))?
            .ok()?;
        eventually("another pod has its identity", || {
            ensure!(cx.field("pod numbers-0", ".metadata.uid")? != uid);
            Ok(())
        })?;
        cx.wait_ready("numbers-0")?;
        ensure!(cx.field("pod numbers-0", ".spec.nodeName")? == node);
        let text = cx.sh("numbers-0", "cat /data/numbers")?;
        // The last may be half written.
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        let numbers: Vec<u64> = whole
            .lines()
            .map(|l| l.parse().with_context(|| format!("{l:?}")))
            .collect::<Result<_>>()?;
        let last = numbers.last().copied().unwrap_or_default();
        ensure!(
            numbers.iter().copied().eq(1..=last) && last >= acknowledged,
            "{acknowledged} were written, and {} lines to {last} are left",
            numbers.len()
        );
    }
    cx.kubectl("delete statefulset numbers")?;
    cx.kubectl("delete pvc data-numbers-0").map(drop)
}
