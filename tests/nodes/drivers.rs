//! Plugins of nodes, which are killed and started again: a CSI driver with its volumes, a device
//! plugin, a driver of dynamic resources.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tests::command::eventually;
use tests::context::{STAY, pod};
use tests::plugins::folders;
use tests::{Context, Running};

use crate::faults::restarts;

pub const NODE: &str = "node-1";
/// The kubelet's folder within a node.
pub const ROOT: &str = "/var/lib/kubelet";

/// A plugin that runs within the node; killed when dropped.
pub struct Plugin(pub Running);

impl Plugin {
    /// To the plugin itself: nsenter alone would leave it.
    pub fn send(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.0.child_pid()?)?;
        let pid = Pid::from_raw(pid).context("no process")?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.send(Signal::KILL);
    }
}

/// Starts a plugin within the node; its end is that of the answer.
pub fn plugin(cx: &Context, words: &[&str]) -> Result<Plugin> {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--target={}", cx.cluster.pid(NODE)?))
        .args(["--mount", "--net", "--pid"])
        .arg(env!("CARGO_BIN_EXE_node_plugin"))
        .args(words);
    Running::start(command).map(Plugin)
}

fn driver(cx: &Context, name: &str) -> Result<Plugin> {
    let data = format!("/run/{name}");
    let running = plugin(cx, &["csi", name, ROOT, &data])?;
    running.0.line(|l| l.contains("registered: true"))?;
    Ok(running)
}

/// A driver's object, a volume of it, and a claim that is bound to the volume.
fn volume(cx: &Context, driver: &str, attach: bool) -> Result<()> {
    cx.apply_json(
        &json!({ "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
        "metadata": { "name": driver }, "spec": { "attachRequired": attach,
            "podInfoOnMount": true, "volumeLifecycleModes": ["Persistent", "Ephemeral"] } }),
    )?;
    cx.apply_json(&json!({ "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": { "name": driver },
        "spec": { "capacity": { "storage": "2Gi" }, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "by-hand",
            "csi": { "driver": driver, "volumeHandle": "vol-1" },
            "claimRef": { "namespace": cx.ns, "name": "c" } } }))?;
    cx.apply_json(
        &json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": "c" }, "spec": { "accessModes": ["ReadWriteOnce"],
            "storageClassName": "by-hand", "volumeName": driver,
            "resources": { "requests": { "storage": "1Gi" } } } }),
    )?;
    cx.wait("pvc/c", "jsonpath={.status.phase}=Bound")
}

fn user(name: &str, driver: &str) -> Value {
    let mut pod = pod(name, STAY);
    pod["spec"]["nodeName"] = NODE.into();
    pod["spec"]["volumes"] = json!([
        { "name": "data", "persistentVolumeClaim": { "claimName": "c" } },
        { "name": "own", "csi": { "driver": driver } },
    ]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        { "name": "data", "mountPath": "/data" }, { "name": "own", "mountPath": "/own" }]);
    pod
}

/// What the node says of a volume of a pod.
fn usage(cx: &Context, pod: &str, volume: &str) -> Result<Value> {
    let path = format!("get --raw /api/v1/nodes/{NODE}/proxy/stats/summary");
    let all: Value = serde_json::from_str(&cx.kubectl(&path)?)?;
    let pods = all["pods"].as_array().context("no pods")?;
    let of_pod =
        |p: &&Value| p["podRef"]["name"] == pod && p["podRef"]["namespace"] == cx.ns.as_str();
    let found = pods.iter().find(of_pod).context("no such pod")?;
    let volumes = found["volume"].as_array().context("no volumes")?;
    let found = volumes.iter().find(|v| v["name"] == volume);
    found
        .cloned()
        .with_context(|| format!("no {volume} among {volumes:?}"))
}

/// Mounts of the driver's volumes within the node.
fn mounts(cx: &Context, driver: &str) -> Result<String> {
    let line = format!(
        "grep -e /run/{driver} -e '{driver}/mount' -e 'csi/{driver}/' /proc/self/mountinfo | cut -d' ' -f5"
    );
    Ok(cx.cluster.in_node(NODE, &line)?.out)
}

pub fn a_drivers_volumes_outlive_driver_and_kubelet(cx: &Context) -> Result<()> {
    let name = format!("{}.tests", cx.ns);
    let running = driver(cx, &name)?;
    eventually("the driver is listed", || {
        let node = cx.json(&format!("get csinode {NODE}"))?;
        let drivers = node["spec"]["drivers"].as_array().context("none")?;
        let found = drivers.iter().find(|d| d["name"] == name.as_str());
        let found = found.with_context(|| format!("{drivers:?}"))?;
        ensure!(found["nodeID"] == "id-of-node" && found["allocatable"]["count"] == 9);
        Ok(())
    })?;
    volume(cx, &name, false)?;
    cx.apply_json(&user("first", &name))?;
    cx.wait_ready("first")?;
    cx.sh("first", "echo kept > /data/file")?;
    let told = cx.sh("first", "cat /own/told")?;
    ensure!(told.contains("csi.storage.k8s.io/pod.name=first"), "{told}");
    ensure!(told.contains("csi.storage.k8s.io/ephemeral=true"), "{told}");
    let is_shown = || {
        let used = usage(cx, "first", "data")?;
        ensure!(
            used["capacityBytes"] == folders::TOTAL && used["usedBytes"] == folders::USED,
            "{used}"
        );
        ensure!(used["pvcRef"]["name"] == "c", "{used}");
        Ok(())
    };
    eventually("what the driver says is shown", is_shown)?;
    // A driver that hangs hides nothing: what it said last is shown, and the node's CPU and memory are
    // not its business.
    running.send(Signal::STOP)?;
    is_shown()?;
    let resource = format!("get --raw /api/v1/nodes/{NODE}/proxy/metrics/resource");
    let figures = cx.kubectl(&resource)?;
    ensure!(figures.contains("resource_scrape_error 0"), "{figures}");

    // The kubelet starts again while the driver is away: what is mounted stays.
    drop(running);
    cx.cluster.kill_agent(NODE)?;
    cx.cluster.wait_agent(NODE)?;
    let text = eventually("exec works again", || cx.sh("first", "cat /data/file"))?;
    ensure!(
        text == "kept\n"
            && cx.field("pod first", ".status.containerStatuses[0].restartCount")? == "0"
    );

    // Nobody can take the volumes back, so the pod waits for the driver.
    cx.kubectl("delete pod first --wait=false --grace-period=1")?;
    eventually("its container has ended", || {
        let state = cx.field("pod first", ".status.containerStatuses[0].state")?;
        ensure!(state.contains("terminated"), "{state}");
        Ok(())
    })?;
    ensure!(!mounts(cx, &name)?.is_empty());
    let _again = driver(cx, &name)?;
    cx.wait("pod/first", "delete")?;
    ensure!(mounts(cx, &name)?.is_empty(), "{}", mounts(cx, &name)?);
    let left = cx.cluster.in_node(NODE, &format!("ls /run/{name}"))?.ok()?;
    ensure!(left.trim() == "vol-1", "{left}");

    // The next pod has what the first one wrote.
    cx.apply_json(&user("second", &name))?;
    cx.wait_ready("second")?;
    ensure!(cx.sh("second", "cat /data/file")? == "kept\n");
    cx.kubectl("delete pod second --now")?;
    cx.wait("pod/second", "delete")?;
    clean(cx, &name)
}

/// The test attaches, as a driver's controller would.
pub fn an_attached_volume_is_used_when_it_is_there(cx: &Context) -> Result<()> {
    let name = format!("{}.tests", cx.ns);
    let _running = driver(cx, &name)?;
    volume(cx, &name, true)?;
    cx.apply_json(&user("first", &name))?;
    let attachment = eventually("the volume is to be attached", || {
        let all = cx.json("get volumeattachments")?;
        let items = all["items"].as_array().context("no items")?;
        let own = items
            .iter()
            .find(|a| a["spec"]["attacher"] == name.as_str());
        let own = own.with_context(|| format!("{items:?}"))?;
        ensure!(own["spec"]["nodeName"] == NODE, "{own}");
        let found = own["metadata"]["name"].as_str().context("no name")?;
        Ok(found.to_owned())
    })?;
    let used = || cx.field(&format!("node {NODE}"), ".status.volumesInUse");
    let unique = format!("kubernetes.io/csi/{name}^vol-1");
    eventually("the node says that it uses it", || {
        ensure!(used()?.contains(&unique));
        Ok(())
    })?;
    ensure!(cx.field("pod first", ".status.phase")? == "Pending");
    cx.kubectl(&format!(
        "patch volumeattachment {attachment} --subresource=status --type=merge -p '{{\"status\":{{\"attached\":true}}}}'"
    ))?;
    cx.wait_ready("first")?;
    cx.wait_event("SuccessfulAttachVolume", &name).map(drop)?;
    // On another node it has to wait.
    let mut elsewhere = user("elsewhere", &name);
    elsewhere["spec"]["nodeName"] = "node-2".into();
    cx.apply_json(&elsewhere)?;
    cx.wait_event("FailedAttachVolume", "Multi-Attach error")
        .map(drop)?;
    cx.kubectl("delete pod elsewhere first --now")?;
    cx.wait("pod/first", "delete")?;
    cx.wait(&format!("volumeattachment/{attachment}"), "delete")?;
    eventually("the node does not use it any more", || {
        let used = used()?;
        ensure!(!used.contains(&unique), "{used}");
        let attached = cx.field(&format!("node {NODE}"), ".status.volumesAttached")?;
        ensure!(!attached.contains(&unique), "{attached}");
        Ok(())
    })?;
    clean(cx, &name)
}

fn clean(cx: &Context, name: &str) -> Result<()> {
    cx.kubectl("delete pvc c")?;
    cx.kubectl(&format!("delete pv {name}"))?;
    cx.kubectl(&format!("delete csidriver {name}"))?;
    let line =
        format!("rm -r /run/{name} {ROOT}/plugins/{name} {ROOT}/plugins_registry/{name}-reg.sock");
    cx.cluster.in_node(NODE, &line)?.ok()?;
    eventually("the driver is not listed any more", || {
        let node = cx.json(&format!("get csinode {NODE}"))?;
        ensure!(!node["spec"].to_string().contains(name), "{node}");
        Ok(())
    })
}

/// How many of a resource the node has, and how many can be had.
fn amounts(cx: &Context, resource: &str) -> Result<(String, String)> {
    let status = cx.json(&format!("get node {NODE}"))?["status"].clone();
    let of = |list: &str| status[list][resource].as_str().unwrap_or("none").to_owned();
    Ok((of("capacity"), of("allocatable")))
}

fn wait_amounts(cx: &Context, resource: &str, want: (&str, &str)) -> Result<()> {
    eventually(&format!("there are {want:?}"), || {
        let now = amounts(cx, resource)?;
        ensure!((now.0.as_str(), now.1.as_str()) == want, "{now:?}");
        Ok(())
    })
}

/// Kills a pod's container from within, and waits until it was started again: a command that the
/// container's end took along may have killed it all the same, so it may have been more than once.
fn starts_again(cx: &Context, pod: &str) -> Result<()> {
    let mut killed = false;
    eventually("the container is started again", || {
        if restarts(cx, pod)? != "0" {
            return Ok(());
        }
        if !killed {
            cx.sh(pod, "kill -USR1 1")?;
            killed = true;
        }
        bail!("not yet")
    })
}

/// What a command in a pod says, once its container runs.
fn still_has(cx: &Context, pod: &str, line: &str, said: &str) -> Result<()> {
    eventually(&format!("{line:?} in {pod} says {said:?}"), || {
        let now = cx.sh(pod, line)?;
        ensure!(now == said, "{now:?}");
        Ok(())
    })?;
    cx.wait_ready(pod)
}

pub fn devices_of_a_plugin_go_to_pods(cx: &Context) -> Result<()> {
    let resource = format!("{}.example.com/dongle", cx.ns);
    let file = format!("/run/{}-devices", cx.ns);
    let write = |lines: &str| {
        let line = format!("printf '{lines}' > {file}.new && mv {file}.new {file}");
        cx.cluster.in_node(NODE, &line)?.ok()
    };
    let start = || -> Result<Plugin> {
        let running = plugin(cx, &["device", &resource, ROOT, &file])?;
        running.0.line(|l| l.starts_with("registered"))?;
        Ok(running)
    };
    write("one\\ntwo\\n")?;
    let running = start()?;
    wait_amounts(cx, &resource, ("2", "2"))?;

    let user = |name: &str, count: u32| {
        let mut pod = pod(name, "trap 'exit 3' USR1; while :; do sleep 0.2; done");
        pod["spec"]["containers"][0]["resources"] =
            json!({ "limits": { resource.as_str(): count } });
        pod
    };
    cx.apply_json(&user("first", 1))?;
    cx.wait_ready("first")?;
    ensure!(cx.field("pod first", ".spec.nodeName")? == NODE);
    let own = cx.sh("first", "echo $DEVICES; test -c /dev/dongle && echo there")?;
    ensure!(own == "one\nthere\n", "{own}");
    cx.apply_json(&user("greedy", 2))?;
    cx.wait_event("FailedScheduling", &resource).map(drop)?;
    cx.kubectl("delete pod greedy --now")?;

    // A device that fails shows in the pod's status.
    write("one unhealthy\\ntwo\\n")?;
    wait_amounts(cx, &resource, ("2", "1"))?;
    let health = ".status.containerStatuses[0].allocatedResourcesStatus[0].resources[0].health";
    cx.wait("pod/first", &format!("jsonpath={{{health}}}=Unhealthy"))?;
    write("one\\ntwo\\n")?;
    wait_amounts(cx, &resource, ("2", "2"))?;

    // The kubelet starts again: the pod keeps its device, also when its container starts again.
    cx.cluster.kill_agent(NODE)?;
    cx.cluster.wait_agent(NODE)?;
    // What the node says may be what it said before: the next pod needs a kubelet that knows the plugin.
    running.0.line(|l| l.starts_with("registered"))?;
    wait_amounts(cx, &resource, ("2", "2"))?;
    starts_again(cx, "first")?;
    still_has(cx, "first", "echo $DEVICES", "one\n")?;
    cx.apply_json(&user("second", 1))?;
    cx.wait_ready("second")?;
    ensure!(cx.sh("second", "echo $DEVICES")? == "two\n");

    // Without its plugin no device can be had; pods keep theirs.
    drop(running);
    wait_amounts(cx, &resource, ("2", "0"))?;
    let _again = start()?;
    wait_amounts(cx, &resource, ("2", "2"))?;
    cx.kubectl("delete pod first second --now")?;
    cx.cluster.in_node(NODE, &format!("rm {file}"))?.ok()?;
    Ok(())
}

/// A claim that is allocated by hand, as the scheduler would for these pods.
fn allocate(cx: &Context, driver: &str, pods: &[&str]) -> Result<()> {
    let mut reserved = Vec::new();
    for pod in pods {
        let uid = cx.field(&format!("pod {pod}"), ".metadata.uid")?;
        reserved.push(json!({ "resource": "pods", "name": pod, "uid": uid }));
    }
    let status = json!({ "status": {
        "allocation": { "devices": { "results": [
            { "driver": driver, "pool": "pool", "device": "device", "request": "one" }] } },
        "reservedFor": reserved,
    } });
    let path = format!(
        "/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims/c/status",
        cx.ns
    );
    let (code, answer) = cx.api(Method::PATCH, &path, &status)?;
    ensure!(code == 200, "{answer}");
    Ok(())
}

/// A pod of the node that uses the claim; no scheduler sees it.
fn claimant(name: &str) -> Value {
    let mut pod = pod(name, "trap 'exit 3' USR1; while :; do sleep 0.2; done");
    pod["spec"]["nodeName"] = NODE.into();
    pod["spec"]["resourceClaims"] = json!([{ "name": "own", "resourceClaimName": "c" }]);
    pod["spec"]["containers"][0]["resources"] = json!({ "claims": [{ "name": "own" }] });
    pod
}

pub fn claims_are_prepared_and_given_back(cx: &Context) -> Result<()> {
    let name = format!("{}.tests", cx.ns);
    let data = format!("/run/{name}");
    let start = |service: &str| -> Result<Plugin> {
        let running = plugin(cx, &["dra", &name, ROOT, &data, service])?;
        running.0.line(|l| l.contains("registered: true"))?;
        Ok(running)
    };
    let prepared = || -> Result<String> {
        let line = format!("ls {data} | grep -v health; ls /var/run/cdi | grep {name}; true");
        Ok(cx.cluster.in_node(NODE, &line)?.out)
    };
    let running = start("v1")?;
    cx.apply_json(
        &json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": { "name": "c" }, "spec": { "devices": { "requests": [
            { "name": "one", "exactly": { "deviceClassName": "by-hand" } }] } } }),
    )?;
    cx.apply_json(&claimant("first"))?;
    // Nobody has allocated it yet.
    cx.wait_event("FailedPrepareDynamicResources", "ResourceClaim c")
        .map(drop)?;
    ensure!(prepared()?.is_empty(), "{}", prepared()?);
    allocate(cx, &name, &["first"])?;
    cx.wait_ready("first")?;
    let own = cx.sh("first", "echo $CLAIM; test -c /dev/claimed && echo there")?;
    ensure!(own == "c\nthere\n", "{own}");
    ensure!(prepared()?.lines().count() == 2, "{}", prepared()?);

    // How its device is shows in its status.
    let status = ".status.containerStatuses[0].allocatedResourcesStatus[0]";
    cx.wait(
        "pod/first",
        &format!("jsonpath={{{status}.resources[0].health}}=Healthy"),
    )?;
    ensure!(cx.field("pod first", &format!("{status}.name"))? == "claim:own");
    let say = |word: &str| {
        cx.cluster
            .in_node(NODE, &format!("printf {word} > {data}/health"))
    };
    say("bad")?.ok()?;
    cx.wait(
        "pod/first",
        &format!("jsonpath={{{status}.resources[0].health}}=Unhealthy"),
    )?;
    say("good")?.ok()?;

    // Kubelet and driver start again, the driver with its older protocol; the pod keeps its device,
    // also when its container starts again.
    drop(running);
    cx.cluster.kill_agent(NODE)?;
    cx.cluster.wait_agent(NODE)?;
    let running = start("v1beta1")?;
    starts_again(cx, "first")?;
    still_has(cx, "first", "echo $CLAIM", "c\n")?;

    // Two share it; it is given back after the last one, when its driver is there.
    cx.apply_json(&claimant("second"))?;
    allocate(cx, &name, &["first", "second"])?;
    cx.wait_ready("second")?;
    cx.kubectl("delete pod first --now")?;
    ensure!(prepared()?.lines().count() == 2, "{}", prepared()?);
    drop(running);
    cx.kubectl("delete pod second --wait=false --grace-period=1")?;
    eventually("its container has ended", || {
        let state = cx.field("pod second", ".status.containerStatuses[0].state")?;
        ensure!(state.contains("terminated"), "{state}");
        Ok(())
    })?;
    ensure!(prepared()?.lines().count() == 2, "{}", prepared()?);
    let again = start("v1")?;
    cx.wait("pod/second", "delete")?;
    ensure!(prepared()?.is_empty(), "{}", prepared()?);
    let kept = cx.cluster.in_node(NODE, &format!("ls {ROOT}/dra"))?.ok()?;
    ensure!(kept.is_empty(), "{kept}");
    slices_go_with_their_driver(cx, &name, again)
}

/// What a driver offers goes when the driver is away for a while.
fn slices_go_with_their_driver(cx: &Context, name: &str, running: Plugin) -> Result<()> {
    cx.apply_json(
        &json!({ "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
        "metadata": { "name": name }, "spec": { "driver": name, "nodeName": NODE,
            "pool": { "name": "pool", "generation": 1, "resourceSliceCount": 1 },
            "devices": [{ "name": "device" }] } }),
    )?;
    drop(running);
    cx.wait(&format!("resourceslice/{name}"), "delete")?;
    let line =
        format!("rm -r /run/{name} {ROOT}/plugins/{name} {ROOT}/plugins_registry/{name}-reg.sock");
    cx.cluster.in_node(NODE, &line)?.ok()?;
    cx.kubectl("delete resourceclaim c").map(drop)
}

/// A pod whose claim is made of a template; the scheduler finds its node.
fn templated(name: &str) -> Value {
    let mut pod = claimant(name);
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.remove("nodeName");
    }
    pod["spec"]["resourceClaims"] =
        json!([{ "name": "own", "resourceClaimTemplateName": "dongles" }]);
    pod
}

/// What a driver publishes, a class of it, and a template of claims.
fn offer(cx: &Context, driver: &str) -> Result<()> {
    let selector = format!("device.driver == '{driver}' && device.attributes['{driver}'].fast");
    let request = json!({ "name": "one", "exactly": { "deviceClassName": driver } });
    for object in [
        json!({ "kind": "ResourceSlice", "metadata": { "name": driver },
            "spec": { "driver": driver, "nodeName": NODE,
                "pool": { "name": "pool", "generation": 1, "resourceSliceCount": 1 },
                "devices": [{ "name": "slow", "attributes": { "fast": { "bool": false } } },
                    { "name": "device", "attributes": { "fast": { "bool": true } } }] } }),
        json!({ "kind": "DeviceClass", "metadata": { "name": driver },
            "spec": { "selectors": [{ "cel": { "expression": selector } }] } }),
        json!({ "kind": "ResourceClaimTemplate", "metadata": { "name": "dongles" },
            "spec": { "spec": { "devices": { "requests": [request] } } } }),
    ] {
        let mut object = object;
        object["apiVersion"] = "resource.k8s.io/v1".into();
        cx.apply_json(&object)?;
    }
    Ok(())
}

/// The claim that was made for a pod.
fn claim_of(cx: &Context, pod: &str) -> Result<String> {
    let path = ".status.resourceClaimStatuses[0].resourceClaimName";
    cx.field(&format!("pod {pod}"), path)
}

/// The second pod waits for the one device, and gets it when the first pod and its claim have gone. Gives
/// the second pod's claim, as `claim_of` finds it.
pub fn device_goes_on(
    cx: &Context,
    running: &Plugin,
    claim: &str,
    second: &Value,
    claim_of: impl Fn(&Context, &str) -> Result<String>,
) -> Result<String> {
    cx.apply_json(second)?;
    cx.wait_event("FailedScheduling", "cannot allocate all claims")
        .map(drop)?;
    cx.kubectl("delete pod first --now")?;
    running.0.line(|l| l == format!("unprepare: {claim}"))?;
    cx.wait(&format!("resourceclaim/{claim}"), "delete")?;
    cx.wait_ready("second")?;
    let next = claim_of(cx, "second")?;
    ensure!(next != claim && cx.sh("second", "echo $CLAIM")? == format!("{next}\n"));
    Ok(next)
}

/// From a template to a device in a container, back to the pool, to the next pod, and away from a
/// pod when the device gets a taint.
pub fn a_claim_goes_its_whole_way(cx: &Context) -> Result<()> {
    let name = format!("{}.tests", cx.ns);
    let running = plugin(cx, &["dra", &name, ROOT, &format!("/run/{name}"), "v1"])?;
    running.0.line(|l| l.contains("registered: true"))?;
    offer(cx, &name)?;
    cx.apply_json(&templated("first"))?;
    cx.wait_ready("first")?;
    ensure!(cx.field("pod first", ".spec.nodeName")? == NODE);
    let claim = claim_of(cx, "first")?;
    ensure!(claim.starts_with("first-own-"), "{claim}");
    let got = cx.json(&format!("get resourceclaim {claim}"))?;
    let result = &got["status"]["allocation"]["devices"]["results"][0];
    ensure!(
        result["device"] == "device" && result["driver"] == name.as_str(),
        "{got}"
    );
    ensure!(got["status"]["reservedFor"][0]["name"] == "first", "{got}");
    let own = cx.sh("first", "echo $CLAIM; test -c /dev/claimed && echo there")?;
    ensure!(own == format!("{claim}\nthere\n"), "{own}");
    running.0.line(|l| l == format!("prepare: {claim}"))?;

    // There is one such device: the next one waits, and says for what.
    let next = device_goes_on(cx, &running, &claim, &templated("second"), claim_of)?;

    // The driver finds its device broken.
    let taint = json!([{ "op": "add", "path": "/spec/devices/1/taints",
        "value": [{ "key": "example.com/broken", "effect": "NoExecute" }] }]);
    cx.kubectl(&format!(
        "patch resourceslice {name} --type=json -p '{taint}'"
    ))?;
    cx.wait_event("DeviceTaintManagerEviction", "Marking for deletion")
        .map(drop)?;
    cx.wait("pod/second", "delete")?;
    cx.wait(&format!("resourceclaim/{next}"), "delete")?;

    // What makes no sense is refused with its path.
    let bad = cx.run_with(
        "apply -f -",
        &json!({ "apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass",
            "metadata": { "name": format!("{name}-bad") },
            "spec": { "selectors": [{ "cel": { "expression": "device.driver" } }] } })
        .to_string(),
    )?;
    let complained = bad.failed()?;
    ensure!(
        complained.contains("spec.selectors[0].cel.expression: Invalid value"),
        "{complained}"
    );
    drop(running);
    cx.kubectl(&format!("delete deviceclass {name}"))?;
    cx.wait(&format!("resourceslice/{name}"), "delete")?;
    let line =
        format!("rm -r /run/{name} {ROOT}/plugins/{name} {ROOT}/plugins_registry/{name}-reg.sock");
    cx.cluster.in_node(NODE, &line)?.ok().map(drop)
}
