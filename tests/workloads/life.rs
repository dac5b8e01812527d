//! Probes, restarts, ends.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::Context;
use tests::context::{STAY, pod};

const RESTARTED: &str = "jsonpath={.status.containerStatuses[0].restartCount}=1";

pub fn a_failed_liveness_probe_restarts_on_the_same_node(cx: &Context) -> Result<()> {
    let mut pod = pod("p", "touch /tmp/alive; exec sleep 1000000");
    pod["spec"]["containers"][0]["livenessProbe"] = json!({
        "exec": { "command": ["test", "-e", "/tmp/alive"] }, "periodSeconds": 1, "failureThreshold": 2, "initialDelaySeconds": 1,
    });
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    let (node, ip) = (cx.field("pod p", ".spec.nodeName")?, cx.pod_ip("p")?);
    cx.sh("p", "rm /tmp/alive")?;
    cx.wait("pod/p", RESTARTED)?;
    cx.wait_ready("p")?;
    ensure!(cx.field("pod p", ".spec.nodeName")? == node);
    ensure!(
        cx.pod_ip("p")? == ip,
        "the pod's address outlives its containers"
    );
    cx.wait_event("Unhealthy", "Liveness probe failed")?;
    cx.wait_event("Killing", "failed liveness probe, will be restarted")
        .map(drop)
}

pub fn readiness_follows_its_probe(cx: &Context) -> Result<()> {
    let mut pod = pod("p", STAY);
    pod["spec"]["containers"][0]["readinessProbe"] = json!({
        "exec": { "command": ["test", "-e", "/tmp/ready"] }, "periodSeconds": 1, "failureThreshold": 1,
    });
    cx.apply_json(&pod)?;
    cx.apply("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {app: p}, ports: [{port: 80}]}\n")?;
    cx.wait("pod/p", "jsonpath={.status.phase}=Running")?;
    ensure!(cx.field("pod p", ".status.conditions[?(@.type==\"Ready\")].status")? == "False");
    cx.wait_event("Unhealthy", "Readiness probe failed")?;
    cx.sh("p", "touch /tmp/ready")?;
    cx.wait_ready("p")?;
    cx.wait_endpoints("s", 1)?;
    cx.sh("p", "rm /tmp/ready")?;
    cx.wait("pod/p", "condition=Ready=False")?;
    cx.wait_endpoints("s", 0)?;
    ensure!(cx.field("pod p", ".status.containerStatuses[0].restartCount")? == "0");
    Ok(())
}

pub fn a_container_that_takes_too_much_memory_is_restarted(cx: &Context) -> Result<()> {
    let mut pod = pod(
        "p",
        "if test -e /v/second; then exec sleep 1000000; fi; touch /v/second; exec tail /dev/zero",
    );
    pod["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    pod["spec"]["containers"][0]["resources"] = json!({ "limits": { "memory": "24Mi" } });
    cx.apply_json(&pod)?;
    cx.wait("pod/p", RESTARTED)?;
    cx.wait_ready("p")?;
    let last =
        cx.json("get pod p")?["status"]["containerStatuses"][0]["lastState"]["terminated"].clone();
    ensure!(
        last["reason"] == "OOMKilled" && last["exitCode"] == 137,
        "{last:#}"
    );
    Ok(())
}

pub fn a_failing_container_backs_off(cx: &Context) -> Result<()> {
    cx.apply_json(&pod("p", "exit 1"))?;
    cx.wait(
        "pod/p",
        "jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff",
    )?;
    cx.wait_event(
        "BackOff",
        "Back-off restarting failed container main in pod p",
    )
    .map(drop)
}

pub fn a_pod_ends_as_its_policy_says(cx: &Context) -> Result<()> {
    for (name, line, policy, phase) in [
        ("good", "exit 0", "Never", "Succeeded"),
        ("bad", "exit 4", "Never", "Failed"),
        ("done", "exit 0", "OnFailure", "Succeeded"),
    ] {
        let mut pod = pod(name, line);
        pod["spec"]["restartPolicy"] = policy.into();
        cx.apply_json(&pod)?;
        cx.wait(
            &format!("pod/{name}"),
            &format!("jsonpath={{.status.phase}}={phase}"),
        )?;
    }
    ensure!(
        cx.field(
            "pod bad",
            ".status.containerStatuses[0].state.terminated.exitCode"
        )? == "4"
    );
    ensure!(
        cx.kubectl("get pod good --no-headers")?
            .contains("Completed")
    );
    Ok(())
}

pub fn a_pod_gets_time_to_end(cx: &Context) -> Result<()> {
    let dir = format!("/run/end-{}", cx.ns);
    let mut pod = pod(
        "p",
        "trap 'echo term >> /v/end; exit 0' TERM; while true; do sleep 0.1; done",
    );
    pod["spec"]["terminationGracePeriodSeconds"] = 60.into();
    pod["spec"]["nodeName"] = "node-1".into();
    pod["spec"]["volumes"] =
        json!([{ "name": "v", "hostPath": { "path": dir, "type": "DirectoryOrCreate" } }]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    pod["spec"]["containers"][0]["lifecycle"] =
        json!({ "preStop": { "exec": { "command": ["sh", "-c", "echo pre >> /v/end"] } } });
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    cx.kubectl("delete pod p")?;
    let seen = cx
        .cluster
        .in_node("node-1", &format!("cat {dir}/end"))?
        .ok()?;
    ensure!(seen == "pre\nterm\n", "{seen}");
    Ok(())
}

pub fn an_image_that_is_not_there_is_told(cx: &Context) -> Result<()> {
    let mut pod = pod("p", STAY);
    pod["spec"]["containers"][0]["image"] = "tiphys.local/none:1".into();
    pod["spec"]["containers"][0]["imagePullPolicy"] = "Never".into();
    cx.apply_json(&pod)?;
    cx.wait(
        "pod/p",
        "jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImageNeverPull",
    )?;
    let message = cx.field(
        "pod p",
        ".status.containerStatuses[0].state.waiting.message",
    )?;
    ensure!(
        message.contains("is not present with pull policy of Never"),
        "{message}"
    );
    // A better image, and the pod runs.
    cx.kubectl(&format!("set image pod/p main={}", tests::BUSYBOX))?;
    cx.wait_ready("p").context("after the image was corrected")
}
