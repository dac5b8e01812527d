//! Probes, restarts, ends.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, pod};
use tests::pods_on_any_runtime::{Program, rules};

/// For probes by commands: how fast a loaded machine runs one is not what they find out.
const PROBE_SECONDS: u32 = 60;
const RESTARTED: &str = "jsonpath={.status.containerStatuses[0].restartCount}=1";

/// The runtime in memory is asked the same (`crates/sim/tests/pods_on_any_runtime.rs`).
pub fn pods_live_by_their_rules(cx: &Context) -> Result<()> {
    let program = |does: Program| {
        let line = match does {
            Program::Stays => STAY.to_owned(),
            Program::Ends(code) => format!("sleep 1; exit {code}"),
        };
        json!({ "image": tests::BUSYBOX, "command": ["sh", "-c", line] })
    };
    let rules = rules(&program);
    for rule in &rules {
        cx.apply_json(&rule.pod)?;
    }
    for rule in &rules {
        eventually(rule.name, || {
            let pod = cx.json(&format!("get pod {}", rule.name))?;
            (rule.holds)(&pod).map_err(anyhow::Error::msg)
        })?;
    }
    Ok(())
}

pub fn a_failed_liveness_probe_restarts_on_the_same_node(cx: &Context) -> Result<()> {
    let mut pod = pod("p", "touch /tmp/alive; exec sleep 1000000");
    let alive = |failures: u32| {
        json!({ "exec": { "command": ["test", "-e", "/tmp/alive"] }, "periodSeconds": 1,
            "failureThreshold": failures, "timeoutSeconds": PROBE_SECONDS })
    };
    let container = &mut pod["spec"]["containers"][0];
    // However long it takes to begin.
    container["startupProbe"] = alive(100_000);
    container["livenessProbe"] = alive(2);
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

/// A container that takes its time to start is not restarted for it; its commands know its variables.
pub fn other_probes_wait_for_the_startup_probe(cx: &Context) -> Result<()> {
    let mut pod = pod("p", STAY);
    let is_up = || {
        json!({ "exec": { "command": ["test", "-e", "$(MARK)"] },
            "periodSeconds": 1, "timeoutSeconds": PROBE_SECONDS })
    };
    let (mut startup, mut liveness) = (is_up(), is_up());
    startup["failureThreshold"] = 100_000.into();
    liveness["failureThreshold"] = 1.into();
    let container = &mut pod["spec"]["containers"][0];
    container["env"] = json!([{ "name": "MARK", "value": "/tmp/up" }]);
    container["startupProbe"] = startup;
    container["livenessProbe"] = liveness;
    container["readinessProbe"] = is_up();
    cx.apply_json(&pod)?;
    cx.wait_event("Unhealthy", "Startup probe failed")?;
    let of = |field: &str| cx.field("pod p", &format!(".status.containerStatuses[0].{field}"));
    ensure!(of("started")? == "false" && of("ready")? == "false");
    cx.sh("p", "touch /tmp/up")?;
    cx.wait_ready("p")?;
    ensure!(of("started")? == "true" && of("restartCount")? == "0");
    let events = cx.kubectl("get events --field-selector reason=Unhealthy")?;
    ensure!(!events.contains("Liveness"), "{events}");
    ensure!(!events.contains("Readiness"), "{events}");
    Ok(())
}

pub fn a_class_of_runtimes_chooses_the_handler(cx: &Context) -> Result<()> {
    let class = |name: &str, handler: &str| {
        json!({ "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
            "metadata": { "name": name }, "handler": handler })
    };
    let (known, unknown) = (format!("{}-known", cx.ns), format!("{}-unknown", cx.ns));
    cx.apply_json(&class(&known, "runc"))?;
    cx.apply_json(&class(&unknown, "no-such-handler"))?;
    for (name, class) in [("good", &known), ("bad", &unknown)] {
        let mut pod = pod(name, STAY);
        pod["spec"]["runtimeClassName"] = class.as_str().into();
        cx.apply_json(&pod)?;
    }
    cx.wait_ready("good")?;
    cx.wait_event("FailedCreatePodSandBox", "no-such-handler")?;
    ensure!(cx.field("pod bad", ".status.phase")? == "Pending");
    cx.kubectl("delete pod good bad")?;
    cx.kubectl(&format!("delete runtimeclass {known} {unknown}"))?;
    Ok(())
}

pub fn readiness_follows_its_probe(cx: &Context) -> Result<()> {
    let mut pod = pod("p", STAY);
    pod["spec"]["containers"][0]["readinessProbe"] = json!({
        "exec": { "command": ["test", "-e", "/tmp/ready"] }, "periodSeconds": 1, "failureThreshold": 1,
        "timeoutSeconds": PROBE_SECONDS,
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

/// What is said of a pod from outside is not the kubelet's to write, nor to repair.
pub fn readiness_follows_its_gate(cx: &Context) -> Result<()> {
    let mut pod = pod("p", STAY);
    pod["spec"]["readinessGates"] = json!([{ "conditionType": "example.com/gate" }]);
    cx.apply_json(&pod)?;
    cx.wait("pod/p", "condition=ContainersReady")?;
    for gate in ["True", "False", "True", "False"] {
        let body = json!({ "status": { "conditions": [
            { "type": "example.com/gate", "status": gate },
        ] } });
        cx.kubectl(&format!("patch pod p --subresource=status -p '{body}'"))?;
        cx.wait("pod/p", &format!("condition=Ready={gate}"))?;
        let path = ".status.conditions[?(@.type==\"example.com/gate\")].status";
        ensure!(cx.field("pod p", path)? == gate);
    }
    Ok(())
}

/// Its probes go on while it has time to end.
pub fn a_pod_that_ends_may_be_unready(cx: &Context) -> Result<()> {
    let line = "trap 'rm /tmp/ready' TERM; touch /tmp/ready; while true; do sleep 0.2; done";
    let mut pod = pod("p", line);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(3_600);
    pod["spec"]["containers"][0]["readinessProbe"] = json!({
        "exec": { "command": ["test", "-e", "/tmp/ready"] }, "periodSeconds": 1, "failureThreshold": 1,
        "timeoutSeconds": PROBE_SECONDS,
    });
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    cx.kubectl("delete pod p --wait=false")?;
    cx.wait("pod/p", "condition=Ready=False")?;
    let shown = cx.json("get pod p")?;
    ensure!(shown["status"]["phase"] == "Running", "{shown:#}");
    ensure!(shown["metadata"]["deletionTimestamp"].is_string());
    cx.kubectl("delete pod p --force --grace-period=0")
        .map(drop)
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
        "trap 'echo term >> /v/end; exit 0' TERM; touch /v/up; while true; do sleep 0.1; done",
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
    // Before its trap is set it would not hear the signal.
    let up = format!("test -e {dir}/up");
    eventually("its trap is set", || {
        cx.cluster.in_node("node-1", &up)?.ok()
    })?;
    cx.kubectl("delete pod p")?;
    let seen = cx
        .cluster
        .in_node("node-1", &format!("cat {dir}/end"))?
        .ok()?;
    ensure!(seen == "pre\nterm\n", "{seen}");
    Ok(())
}

pub fn an_image_that_is_not_there_is_reported(cx: &Context) -> Result<()> {
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

pub fn a_hook_that_fails_backs_off(cx: &Context) -> Result<()> {
    let mut pod = pod("p", STAY);
    pod["spec"]["containers"][0]["lifecycle"] =
        json!({ "postStart": { "exec": { "command": ["false"] } } });
    let began = std::time::Instant::now();
    cx.apply_json(&pod)?;
    cx.wait_event("FailedPostStartHook", "PostStartHook failed")?;
    cx.wait_event(
        "BackOff",
        "Back-off restarting failed container main in pod p",
    )?;
    // The first restart comes soon, the next ones 10, 20, 40 … seconds after one another,
    // whatever wakes the kubelet meanwhile.
    let restarts = cx.field("pod p", ".status.containerStatuses[0].restartCount")?;
    let most = (began.elapsed().as_secs_f64() / 10.0 + 1.0).log2() + 1.0;
    ensure!(restarts.parse::<f64>()? <= most, "{restarts} of {most}");
    Ok(())
}

pub fn containers_wait_for_ever_after_a_failed_init_container(cx: &Context) -> Result<()> {
    let mut pod = pod("p", STAY);
    pod["spec"]["restartPolicy"] = "Never".into();
    pod["spec"]["initContainers"] =
        json!([{ "name": "init", "image": tests::BUSYBOX, "command": ["false"] }]);
    cx.apply_json(&pod)?;
    cx.wait("pod/p", "jsonpath={.status.phase}=Failed")?;
    let state = cx.json("get pod p")?["status"]["containerStatuses"][0]["state"].clone();
    ensure!(state["waiting"]["reason"] == "PodInitializing", "{state:#}");
    Ok(())
}

/// Each writes the time of its end, so that the order is seen.
const WRITE_TERMINATION_MESSAGE: &str =
    "trap 'echo $NAME >> /v/ends; exit 0' TERM; touch /v/up-$NAME; while true; do sleep 0.1; done";

pub fn sidecars_end_one_by_one(cx: &Context) -> Result<()> {
    let container = |name: &str| {
        json!({
            "name": name, "image": tests::BUSYBOX, "command": ["sh", "-c", WRITE_TERMINATION_MESSAGE],
            "env": [{ "name": "NAME", "value": name }],
            "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
        })
    };
    let sidecar = |name: &str| {
        let mut sidecar = container(name);
        sidecar["restartPolicy"] = "Always".into();
        sidecar
    };
    let dir = format!("/run/test-{}", cx.ns);
    let mut pod = pod("p", WRITE_TERMINATION_MESSAGE);
    pod["spec"]["nodeName"] = "node-1".into();
    pod["spec"]["terminationGracePeriodSeconds"] = 60.into();
    pod["spec"]["volumes"] =
        json!([{ "name": "v", "hostPath": { "path": dir, "type": "DirectoryOrCreate" } }]);
    pod["spec"]["initContainers"] = json!([sidecar("one"), sidecar("two"), sidecar("three")]);
    pod["spec"]["containers"] = json!([container("main")]);
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    let conditions = cx.json("get pod p")?["status"]["conditions"].clone();
    let reasons = conditions.as_array().into_iter().flatten();
    for condition in reasons.filter(|c| c["status"] == "True") {
        ensure!(condition["reason"].is_null(), "{condition:#}");
    }
    // All have their traps, when all have written that they are up.
    let up = format!("cd {dir}; test -e up-one -a -e up-two -a -e up-three -a -e up-main");
    eventually("all are up", || cx.cluster.in_node("node-1", &up)?.ok())?;
    cx.kubectl("delete pod p")?;
    let ends = cx
        .cluster
        .in_node("node-1", &format!("cat {dir}/ends; rm -r {dir}"))?;
    let ends = ends.ok()?;
    ensure!(ends == "main\nthree\ntwo\none\n", "{ends}");
    Ok(())
}

pub fn what_others_write_over_a_status_is_repaired(cx: &Context) -> Result<()> {
    cx.apply_json(&pod("p", STAY))?;
    cx.wait_ready("p")?;
    let ip = cx.field("pod p", ".status.podIP")?;
    for status in [
        json!({ "conditions": [{ "type": "Ready", "status": "False", "reason": "NodeNotReady" }] }),
        json!({ "phase": "Pending", "reason": "NodeLost" }),
        json!({ "podIP": "10.255.255.1" }),
        json!({ "containerStatuses": [] }),
    ] {
        let body = json!({ "status": status });
        let wrong = cx.kubectl(&format!(
            "patch pod p --subresource=status -o json -p '{body}'"
        ))?;
        let wrong: serde_json::Value = serde_json::from_str(&wrong)?;
        eventually("the kubelet writes its own again", || {
            let now = cx.json("get pod p")?;
            ensure!(now["metadata"]["resourceVersion"] != wrong["metadata"]["resourceVersion"]);
            let mut ready = now["status"]["conditions"].as_array().into_iter().flatten();
            let ready = ready.find(|c| c["type"] == "Ready");
            let ready = ready.context("no condition Ready")?;
            ensure!(
                ready["status"] == "True" && ready["reason"].is_null(),
                "{ready:#}"
            );
            let status = &now["status"];
            ensure!(
                status["phase"] == "Running" && status["reason"].is_null(),
                "{status:#}"
            );
            ensure!(status["podIP"] == ip.as_str(), "{status:#}");
            ensure!(
                status["containerStatuses"][0]["ready"] == true,
                "{status:#}"
            );
            Ok(())
        })?;
    }
    cx.wait_ready("p")
}

pub fn all_containers_start_again_for_one_that_ends(cx: &Context) -> Result<()> {
    let mount = json!([{ "name": "v", "mountPath": "/v" }]);
    let mut pod = pod(
        "p",
        "if test -e /v/second; then exec sleep 1000000; fi; touch /v/second; exit 42",
    );
    let spec = &mut pod["spec"];
    spec["restartPolicy"] = json!("Never");
    spec["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    spec["initContainers"] = json!([{ "name": "init", "image": tests::BUSYBOX,
        "command": ["sh", "-c", "echo once >> /v/inits"], "volumeMounts": mount }]);
    spec["containers"][0]["volumeMounts"] = mount;
    spec["containers"][0]["restartPolicy"] = json!("Never");
    spec["containers"][0]["restartPolicyRules"] = json!([{
        "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [42] } }]);
    let mut other = spec["containers"][0].clone();
    other["name"] = json!("other");
    other["command"] = json!(["sh", "-c", STAY]);
    if let Some(all) = spec["containers"].as_array_mut() {
        all.push(other);
    }
    cx.apply_json(&pod)?;
    eventually("both containers run for the second time", || {
        let status = cx.json("get pod p")?["status"].clone();
        let all = status["containerStatuses"].as_array().context("none yet")?;
        ensure!(
            all.len() == 2
                && all
                    .iter()
                    .all(|c| c["restartCount"] == 1 && c["ready"] == true),
            "{status:#}"
        );
        ensure!(
            status["initContainerStatuses"][0]["restartCount"] == 1,
            "{status:#}"
        );
        ensure!(status["phase"] == "Running", "{status:#}");
        Ok(())
    })?;
    ensure!(cx.sh("p", "cat /v/inits")? == "once\nonce\n");
    let status = cx.json("get pod p")?["status"].clone();
    let last = |i: usize| status["containerStatuses"][i]["lastState"]["terminated"].clone();
    ensure!(last(0)["exitCode"] == 42, "{status:#}");
    ensure!(last(1)["reason"] == "RestartingAllContainers", "{status:#}");
    cx.wait("pod/p", "condition=AllContainersRestarting=False")
}
