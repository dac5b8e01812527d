//! What people hear of their pods: the kubelet's events, with upstream's reasons and words, which
//! they search for and alarms are set on.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::context::{STAY, pod};

/// An event about a pod, with its type; the message holds the words.
fn said(cx: &Context, severity: &str, pod: &str, reason: &str, words: &str) -> Result<()> {
    tests::command::eventually(&format!("{reason} of {pod}: {words}"), || {
        let fields = format!("involvedObject.name={pod},reason={reason}");
        let events = cx.json(&format!("get events --field-selector {fields}"))?;
        let all = events["items"].as_array().cloned().unwrap_or_default();
        let has = |e: &Value| e["message"].as_str().is_some_and(|m| m.contains(words));
        let found = all.iter().find(|e| has(e));
        let seen: Vec<&Value> = all.iter().map(|e| &e["message"]).collect();
        let found = found.ok_or_else(|| anyhow::anyhow!("seen: {seen:?}"))?;
        ensure!(found["type"] == severity, "{found:#}");
        ensure!(found["source"]["component"] == "kubelet", "{found:#}");
        Ok(())
    })
}

/// Answers each request with a redirection to another host, once it has read the empty line at its end.
const REDIRECTS: &str = "while true; do nc -l -p 8080 -e sh -c \
    'while read -r line && [ ${#line} -gt 1 ]; do :; done; \
     printf \"HTTP/1.1 302 Found\\r\\nLocation: http://elsewhere.invalid/\\r\\nContent-Length: 0\\r\\n\\r\\n\"'; done";

pub fn probes_and_hooks_say_what_they_met(cx: &Context) -> Result<()> {
    let probed = |name: &str, line: &str, kind: &str, probe: Value| {
        let mut pod = pod(name, line);
        let mut probe = probe;
        probe["periodSeconds"] = json!(1);
        // What a probe met is of interest, not how long a loaded machine takes for it.
        probe["timeoutSeconds"] = json!(10);
        pod["spec"]["containers"][0][kind] = probe;
        pod
    };
    let get = |path: &str| json!({ "httpGet": { "path": path, "port": 8080 } });
    cx.apply_json(&probed("away", REDIRECTS, "readinessProbe", get("/")))?;
    cx.apply_json(&probed("nobody", STAY, "readinessProbe", get("/")))?;
    let fails = json!({ "exec": { "command": ["sh", "-c", "echo no good; exit 1"] } });
    cx.apply_json(&probed("sick", STAY, "livenessProbe", fails))?;
    // Its hook has all the time that it needs; when it has failed, the container ends at once.
    let mut hooked = pod("hooked", "trap 'exit 0' TERM; sleep 1000000 & wait");
    hooked["spec"]["terminationGracePeriodSeconds"] = json!(120);
    hooked["spec"]["containers"][0]["lifecycle"] =
        json!({ "preStop": { "exec": { "command": ["sh", "-c", "exit 3"] } } });
    cx.apply_json(&hooked)?;
    cx.wait_ready("hooked")?;
    cx.kubectl("delete pod hooked --wait=false")?;
    for (severity, pod, reason, words) in [
        (
            "Warning",
            "away",
            "ProbeWarning",
            "Readiness probe warning: Probe terminated redirects",
        ),
        ("Warning", "nobody", "Unhealthy", "Readiness probe failed: "),
        (
            "Warning",
            "sick",
            "Unhealthy",
            "Liveness probe failed: no good",
        ),
        (
            "Normal",
            "sick",
            "Killing",
            "Container main failed liveness probe, will be restarted",
        ),
        (
            "Warning",
            "hooked",
            "FailedPreStopHook",
            "PreStopHook failed",
        ),
        ("Normal", "hooked", "Killing", "Stopping container main"),
    ] {
        said(cx, severity, pod, reason, words)?;
    }
    Ok(())
}

pub fn what_keeps_a_pod_from_running_is_said(cx: &Context) -> Result<()> {
    let mut unnamed = pod("unnamed", STAY);
    unnamed["spec"]["volumes"] = json!([{ "name": "v", "configMap": { "name": "none" } }]);
    unnamed["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    let mut never = pod("never", STAY);
    never["spec"]["containers"][0]["image"] = "tiphys.local/none:1".into();
    never["spec"]["containers"][0]["imagePullPolicy"] = "Never".into();
    let mut program = pod("program", STAY);
    program["spec"]["containers"][0]["command"] = json!(["/no/such/program"]);
    // With the cluster's own they are one too many.
    let mut names = pod("names", STAY);
    names["spec"]["dnsConfig"] = json!({ "nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3"] });
    for pod in [&unnamed, &never, &program, &names, &pod("crash", "exit 1")] {
        cx.apply_json(pod)?;
    }
    cx.wait_ready("names")?;
    let whole = cx.field("pod crash", ".metadata.uid")?;
    let back_off = format!(
        "Back-off restarting failed container main in pod crash_{}({whole})",
        cx.ns
    );
    let (exceeded, missing) = (
        "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: ",
        "MountVolume.SetUp failed for volume \"v\" : configmap \"none\" not found",
    );
    let never = "Container image \"tiphys.local/none:1\" is not present with pull policy of Never";
    for (severity, pod, reason, words) in [
        ("Warning", "names", "DNSConfigForming", exceeded),
        ("Warning", "unnamed", "FailedMount", missing),
        ("Warning", "never", "ErrImageNeverPull", never),
        ("Warning", "never", "Failed", "Error: ErrImageNeverPull"),
        ("Warning", "program", "Failed", "Error: "),
        ("Warning", "crash", "BackOff", back_off.as_str()),
        ("Normal", "crash", "Created", "Container created"),
        ("Normal", "crash", "Started", "Container started"),
    ] {
        said(cx, severity, pod, reason, words)?;
    }
    Ok(())
}
