//! What a pod asks for and the node gives, or refuses: resizes, limits of the pod as a whole, and
//! demands that this node's runtime cannot meet.

use anyhow::{Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, pod};

/// The first container's CPU quota and memory limit, as the kernel has them.
fn kernel(cx: &Context, pod: &str) -> Result<(String, String)> {
    let of = |files: &str| cx.sh(pod, &format!("cat {files} 2>/dev/null | head -n 1; true"));
    let cpu = of("/sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max")?;
    let memory = of("/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max")?;
    let quota = cpu.split_whitespace().next().unwrap_or_default().to_owned();
    Ok((quota, memory.trim().to_owned()))
}

fn resize(cx: &Context, name: &str, resources: &Value) -> Result<()> {
    let path = format!("{}/{name}/resize", pods(cx));
    // Again where the pod's agent wrote in between.
    loop {
        let (_, mut object) = cx.api(Method::GET, &path, &Value::Null)?;
        object["spec"]["containers"][0]["resources"] = resources.clone();
        let (code, answer) = cx.api(Method::PUT, &path, &object)?;
        if code != 409 {
            ensure!(code == 200, "{answer}");
            return Ok(());
        }
    }
}

fn pods(cx: &Context) -> String {
    format!("/api/v1/namespaces/{}/pods", cx.ns)
}

fn resources(cpu: &str, memory: &str) -> Value {
    json!({ "requests": { "cpu": cpu, "memory": memory }, "limits": { "cpu": cpu, "memory": memory } })
}

/// The pod's object once a resize is all done.
fn resized(cx: &Context, name: &str) -> Result<Value> {
    eventually("the resize is done", || {
        let pod = cx.json(&format!("get pod {name}"))?;
        let status = &pod["status"];
        ensure!(
            status["observedGeneration"] == pod["metadata"]["generation"],
            "{status:#}"
        );
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let open = |c: &Value| {
            c["type"]
                .as_str()
                .is_some_and(|t| t.starts_with("PodResize"))
        };
        ensure!(!conditions.iter().any(open), "{conditions:#?}");
        let given = &status["containerStatuses"][0]["resources"];
        ensure!(
            given == &pod["spec"]["containers"][0]["resources"],
            "{status:#}"
        );
        Ok(pod)
    })
}

/// How much CPU time a group gets beside others, as the kernel has it: the one at a path from that of a
/// pod on.
fn weight(cx: &Context, node: &str, uid: &str, path: &str) -> Result<u64> {
    let line = format!(
        "for d in $(find /sys/fs/cgroup -type d -name 'pod{uid}' 2>/dev/null); do \
             cat $d{path}/cpu.shares $d{path}/cpu.weight 2>/dev/null; done; true"
    );
    let text = cx.cluster.in_node(node, &line)?.ok()?;
    let all: Vec<&str> = text.split_whitespace().collect();
    ensure!(all.len() == 1, "{path} of {uid}: {all:?}");
    Ok(all[0].parse()?)
}

/// Version 1's shares in the words of the kernel that runs: version 2 has weights, as runc makes them.
fn in_kernels_words(shares: u64) -> u64 {
    let has_weights = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if has_weights {
        1 + (shares - 2) * 9_999 / 262_142
    } else {
        shares
    }
}

/// As runc 1.4 and other newer runtimes make weights of them: so that the usual 1024 become the usual 100.
fn in_newer_runtimes_words(shares: u64) -> u64 {
    let old = in_kernels_words(shares);
    if old == shares || shares <= 2 {
        return old;
    }
    let log = f64::from(u32::try_from(shares).unwrap_or(u32::MAX)).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // At most 10000.
    let weight = 10_f64.powf(exponent).ceil();
    (1..=10_000_u32)
        .find(|w| f64::from(*w) >= weight)
        .map_or(old, u64::from)
}

/// Each container, each pod and each class of pods has its weight, so that what is asked for is there
/// when all want it at once.
pub fn the_kernel_weighs_pods_by_what_they_ask_for(cx: &Context) -> Result<()> {
    let node = "node-1";
    let cases = [
        ("guaranteed", resources("500m", "32Mi"), 512),
        ("burstable", json!({ "requests": { "cpu": "250m" } }), 256),
        ("besteffort", json!({}), 2),
    ];
    for (name, resources, _) in &cases {
        let mut pod = pod(name, STAY);
        // The scheduler waits until other checks have left room.
        pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
        pod["spec"]["containers"][0]["resources"] = resources.clone();
        cx.apply_json(&pod)?;
    }
    let mut uids = Vec::new();
    for (name, _, shares) in &cases {
        cx.wait_ready(name)?;
        let what = format!("pod {name}");
        let uid = cx.field(&what, ".metadata.uid")?;
        let id = cx.field(&what, ".status.containerStatuses[0].containerID")?;
        let id = id.rsplit('/').next().unwrap_or_default().to_owned();
        let wanted = in_kernels_words(*shares);
        let has = weight(cx, node, &uid, "")?;
        ensure!(has == wanted, "{name}: {has}, not {wanted}");
        // The container's is the runtime's to say.
        let has = weight(cx, node, &uid, &format!("/{id}"))?;
        let runtimes = [wanted, in_newer_runtimes_words(*shares)];
        ensure!(
            runtimes.contains(&has),
            "{name}/{id}: {has}, none of {runtimes:?}"
        );
        uids.push(uid);
    }
    let [guaranteed, _, besteffort] = &uids[..] else {
        anyhow::bail!("{uids:?}");
    };
    // The classes: what asks for nothing gets what is left, Burstable pods what they ask for together.
    let (least, own) = (in_kernels_words(2), in_kernels_words(256));
    let has = weight(cx, node, besteffort, "/..")?;
    ensure!(has == least, "besteffort: {has}, not {least}");
    let burstable = "/../../burstable";
    let before = eventually("Burstable pods weigh what they ask for", || {
        let has = weight(cx, node, besteffort, burstable)?;
        ensure!(has >= own, "{has}");
        Ok(has)
    })?;
    // Guaranteed pods are beside the classes, not in one; all pods weigh what the node can give.
    let all = weight(cx, node, guaranteed, "/..")?;
    ensure!(all > in_kernels_words(1024), "{all}");
    let same = weight(cx, node, besteffort, "/../..")?;
    ensure!(all == same, "{all} and {same}");
    cx.kubectl("delete pod burstable")?;
    cx.wait("pod/burstable", "delete")?;
    eventually("what was asked for is given back", || {
        let now = weight(cx, node, besteffort, burstable)?;
        ensure!(now < before, "{now}, as before");
        Ok(())
    })
}

pub fn a_pod_is_resized_in_place(cx: &Context) -> Result<()> {
    let mut pod = pod("p", STAY);
    pod["spec"]["containers"][0]["resources"] = resources("20m", "35Mi");
    pod["spec"]["containers"][0]["resizePolicy"] =
        json!([{ "resourceName": "memory", "restartPolicy": "RestartContainer" }]);
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    let before = cx.json("get pod p")?["status"]["containerStatuses"][0].clone();
    resize(cx, "p", &resources("50m", "35Mi"))?;
    let after = resized(cx, "p")?["status"]["containerStatuses"][0].clone();
    ensure!(after["containerID"] == before["containerID"], "{after:#}");
    ensure!(after["allocatedResources"]["cpu"] == "50m", "{after:#}");
    ensure!(kernel(cx, "p")? == ("5000".into(), "36700160".into()));
    // Memory asks for a new start.
    resize(cx, "p", &resources("30m", "40Mi"))?;
    eventually("the container starts again with its new limits", || {
        let last = resized(cx, "p")?["status"]["containerStatuses"][0].clone();
        ensure!(last["restartCount"] == 1, "{last:#}");
        ensure!(last["containerID"] != before["containerID"], "{last:#}");
        let has = kernel(cx, "p")?;
        ensure!(has == ("3000".into(), "41943040".into()), "{has:?}");
        Ok(())
    })
}

pub fn a_resize_without_room_waits_and_says_so(cx: &Context) -> Result<()> {
    let mut small = pod("p", STAY);
    small["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "20m" } });
    cx.apply_json(&small)?;
    cx.wait_ready("p")?;
    // More than the node has: refused before anybody waits for it.
    let refused = resize(cx, "p", &json!({ "requests": { "cpu": "900" } }));
    let why = refused.err().map(|e| format!("{e:#}")).unwrap_or_default();
    ensure!(
        why.contains("node didn't have enough allocatable resources: cpu"),
        "{why}"
    );
    // More than is left beside another pod.
    let mut other = pod("q", STAY);
    // By the scheduler, which waits until other checks have left room.
    let node = cx.field("pod p", ".spec.nodeName")?;
    other["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
    other["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "100m" } });
    cx.apply_json(&other)?;
    cx.wait_ready("q")?;
    resize(cx, "p", &json!({ "requests": { "cpu": "3950m" } }))?;
    cx.wait(
        "pod/p",
        "jsonpath={.status.conditions[?(@.type==\"PodResizePending\")].reason}=Deferred",
    )?;
    cx.wait_event("ResizeDeferred", "Node didn't have enough resource: cpu")?;
    let given = cx.json("get pod p")?["status"]["containerStatuses"][0]["resources"].clone();
    ensure!(given["requests"]["cpu"] == "20m", "{given}");
    resize(cx, "p", &json!({ "requests": { "cpu": "30m" } }))?;
    resized(cx, "p")?;
    Ok(())
}

pub fn limits_of_the_pod_bind_its_containers(cx: &Context) -> Result<()> {
    let mut pod = pod("p", STAY);
    pod["spec"]["resources"] = json!({ "limits": { "cpu": "300m", "memory": "48Mi" } });
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    let has = kernel(cx, "p")?;
    ensure!(has == ("30000".into(), "50331648".into()), "{has:?}");
    ensure!(cx.field("pod p", ".status.qosClass")? == "Guaranteed");
    Ok(())
}

pub fn too_much_local_storage_evicts(cx: &Context) -> Result<()> {
    let line = "dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null; exec sleep 1000000";
    let mut pod = pod("p", line);
    pod["spec"]["containers"][0]["resources"] = json!({ "limits": { "ephemeral-storage": "2Mi" } });
    cx.apply_json(&pod)?;
    cx.wait("pod/p", "jsonpath={.status.reason}=Evicted")?;
    let message = cx.field("pod p", ".status.message")?;
    ensure!(
        message.contains("exceeds the total limit of containers 2097152"),
        "{message}"
    );
    Ok(())
}

/// Pods that ask for what the node cannot give do not run as something else.
pub fn what_cannot_be_given_is_refused(cx: &Context) -> Result<()> {
    let refused = [
        (
            "sysctl",
            json!({ "sysctls": [{ "name": "kernel.msgmax", "value": "8192" }] }),
            "SysctlForbidden",
        ),
        (
            "groups",
            json!({ "supplementalGroupsPolicy": "Strict" }),
            "SupplementalGroupsPolicyNotSupported",
        ),
    ];
    for (name, security, reason) in refused {
        let mut pod = pod(name, STAY);
        pod["spec"]["securityContext"] = security;
        cx.apply_json(&pod)?;
        cx.wait(&format!("pod/{name}"), "jsonpath={.status.phase}=Failed")?;
        let status = cx.json(&format!("get pod {name}"))?["status"].clone();
        ensure!(status["reason"] == reason, "{status:#}");
        ensure!(
            status["message"]
                .as_str()
                .is_some_and(|m| m.starts_with("Pod was rejected: ")),
            "{status:#}"
        );
    }
    let mut user = pod("user", STAY);
    user["spec"]["hostUsers"] = json!(false);
    cx.apply_json(&user)?;
    cx.wait_event(
        "FailedCreatePodSandBox",
        "can't set `spec.hostUsers: false`, runtime does not support user namespaces",
    )?;
    ensure!(cx.field("pod user", ".status.phase")? == "Pending");
    Ok(())
}

/// A pod that no scheduler sent must fit, too.
pub fn a_pod_that_does_not_fit_its_node_is_rejected(cx: &Context) -> Result<()> {
    let on_node = |name: &str| {
        let mut pod = pod(name, STAY);
        pod["spec"]["nodeName"] = json!("node-1");
        pod
    };
    let mut large = on_node("large");
    large["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "3999m" } });
    let mut other = large.clone();
    other["metadata"]["name"] = json!("other");
    let mut elsewhere = on_node("elsewhere");
    elsewhere["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": "node-2" });
    let mut port = on_node("port");
    port["spec"]["containers"][0]["ports"] =
        json!([{ "containerPort": 80, "hostPort": 30999, "hostIP": "127.0.0.1" }]);
    let mut same = port.clone();
    same["metadata"]["name"] = json!("same");
    let refused = |name: &str, reason: &str, message: &str| -> Result<()> {
        cx.wait(&format!("pod/{name}"), "jsonpath={.status.phase}=Failed")?;
        let status = cx.json(&format!("get pod {name}"))?["status"].clone();
        ensure!(status["reason"] == reason, "{status:#}");
        let shown = status["message"].as_str().unwrap_or_default();
        ensure!(shown.contains(message), "{shown}");
        Ok(())
    };
    cx.apply_json(&elsewhere)?;
    refused("elsewhere", "NodeAffinity", "Predicate NodeAffinity failed")?;
    cx.apply_json(&port)?;
    cx.wait_ready("port")?;
    cx.apply_json(&same)?;
    refused("same", "NodePorts", "didn't have free ports")?;
    // Whether the first finds room, beside the pods of other checks, or not: two never do.
    cx.apply_json(&large)?;
    cx.apply_json(&other)?;
    eventually("one of two is rejected", || {
        let pods = cx.json("get pods large other")?;
        let out = |p: &Value| p["status"]["reason"] == "OutOfcpu";
        ensure!(
            pods["items"]
                .as_array()
                .is_some_and(|all| all.iter().any(out)),
            "{pods:#}"
        );
        Ok(())
    })?;
    cx.wait_event(
        "OutOfcpu",
        "Node didn't have enough resource: cpu, requested: 3999",
    )
    .map(drop)
}
