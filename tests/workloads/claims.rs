//! Persistent volumes and their claims: bound, mounted, kept, grown and given back.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, pod};

fn claim(name: &str, class: Option<&str>, size: &str) -> Value {
    let mut claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": name }, "spec": { "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": size } } } });
    if let Some(class) = class {
        claim["spec"]["storageClassName"] = json!(class);
    }
    claim
}

/// A pod with a claim's volume at /data.
fn with_claim(name: &str, claim: &str) -> Value {
    let mut pod = pod(name, STAY);
    pod["spec"]["volumes"] =
        json!([{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "data", "mountPath": "/data" }]);
    pod
}

/// A volume on node-1 for the claim of this name.
fn local(cx: &Context, claim: &str, local: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": { "name": format!("{}-{claim}", cx.ns) },
        "spec": { "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "", "local": local,
            "claimRef": { "namespace": cx.ns, "name": claim },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"] }] }] } } } })
}

/// The claim's volume, when it is bound.
fn volume_of(cx: &Context, claim: &str) -> Result<Value> {
    cx.wait(&format!("pvc/{claim}"), "jsonpath={.status.phase}=Bound")?;
    let name = cx.field(&format!("pvc {claim}"), ".spec.volumeName")?;
    cx.json(&format!("get pv {name}"))
}

/// Whether a path exists in a node.
fn is_in_node(cx: &Context, node: &str, path: &str) -> Result<bool> {
    let seen = cx
        .cluster
        .in_node(node, &format!("ls -d {path} 2>/dev/null"))?;
    Ok(!seen.out.trim().is_empty())
}

pub fn a_claim_is_bound_to_a_volume_that_a_person_made(cx: &Context) -> Result<()> {
    let (name, dir) = (format!("{}-v", cx.ns), format!("/run/test-{}", cx.ns));
    let volume = json!({ "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": { "name": name },
        "spec": { "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "by-hand", "hostPath": { "path": dir },
            "claimRef": { "namespace": cx.ns, "name": "c" } } });
    cx.apply_json(&volume)?;
    cx.wait(&format!("pv/{name}"), "jsonpath={.status.phase}=Available")?;
    cx.apply_json(&claim("c", Some("by-hand"), "512Mi"))?;
    let bound = volume_of(cx, "c")?;
    ensure!(bound["metadata"]["name"] == name.as_str(), "{bound}");
    cx.wait(&format!("pv/{name}"), "jsonpath={.status.phase}=Bound")?;
    ensure!(cx.field("pvc c", ".status.capacity.storage")? == "1Gi");

    let mut writer = with_claim("writer", "c");
    writer["spec"]["nodeName"] = "node-1".into();
    cx.apply_json(&writer)?;
    cx.wait_ready("writer")?;
    cx.sh("writer", "echo hello > /data/file")?;
    ensure!(
        cx.cluster
            .in_node("node-1", &format!("cat {dir}/file"))?
            .ok()?
            == "hello\n"
    );
    // It stays as long as a pod uses it.
    cx.kubectl("delete pvc c --wait=false")?;
    let held = cx.field("pvc c", ".metadata.finalizers[*]")?;
    ensure!(held.contains("kubernetes.io/pvc-protection"), "{held}");
    let described = cx.kubectl("describe pvc c")?;
    ensure!(
        described.contains("Used By:") && described.contains("writer"),
        "{described}"
    );
    cx.kubectl("delete pod writer --now")?;
    cx.wait("pvc/c", "delete")?;
    cx.wait(&format!("pv/{name}"), "jsonpath={.status.phase}=Released")?;
    // Another claim of that name does not get what the first one left.
    cx.apply_json(&claim("c", Some("by-hand"), "512Mi"))?;
    cx.wait_event("ProvisioningFailed", "by-hand").map(drop)?;
    ensure!(cx.field("pvc c", ".status.phase")? == "Pending");
    cx.kubectl("delete pvc c")?;
    cx.kubectl(&format!("delete pv {name}"))?;
    // What a person made is never removed by the cluster.
    ensure!(is_in_node(cx, "node-1", &dir)?);
    cx.cluster
        .in_node("node-1", &format!("rm -r {dir}"))?
        .ok()?;
    Ok(())
}

pub fn a_claim_gets_a_volume_on_its_nodes_disk(cx: &Context) -> Result<()> {
    cx.apply_json(&claim("c", None, "64Mi"))?;
    ensure!(cx.field("pvc c", ".spec.storageClassName")? == "local");
    cx.wait_event("WaitForFirstConsumer", "waiting for first consumer")
        .map(drop)?;
    let mut first = with_claim("first", "c");
    first["spec"]["securityContext"] = json!({ "runAsUser": 1000, "fsGroup": 2000 });
    cx.apply_json(&first)?;
    cx.wait_ready("first")?;
    let node = cx.field("pod first", ".spec.nodeName")?;
    let volume = volume_of(cx, "c")?;
    let path = volume["spec"]["local"]["path"].as_str();
    let path = path.context("no path")?.to_owned();
    let wants = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0];
    ensure!(
        wants["matchExpressions"][0]["values"] == json!([node]),
        "{volume}"
    );
    cx.sh("first", "echo kept > /data/file")?;
    ensure!(cx.sh("first", "stat -c %g /data/file")? == "2000\n");
    ensure!(is_in_node(cx, &node, &format!("{path}/file"))?);

    // The next pod goes where the data is.
    cx.kubectl("delete pod first --now")?;
    let mut second = with_claim("second", "c");
    second["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = "part".into();
    let all = json!({ "name": "data", "mountPath": "/all", "readOnly": true });
    second["spec"]["containers"][0]["volumeMounts"]
        .as_array_mut()
        .context("no mounts")?
        .push(all);
    cx.apply_json(&second)?;
    cx.wait_ready("second")?;
    ensure!(cx.field("pod second", ".spec.nodeName")? == node);
    ensure!(cx.sh("second", "cat /all/file; touch /data/x; ls /all/part")? == "kept\nx\n");
    ensure!(
        cx.sh("second", "touch /all/y 2>&1 || echo refused")?
            .contains("refused")
    );

    // It grows where it is.
    let more = r#"{"spec":{"resources":{"requests":{"storage":"96Mi"}}}}"#;
    cx.kubectl(&format!("patch pvc c -p '{more}'"))?;
    cx.wait("pvc/c", "jsonpath={.status.capacity.storage}=96Mi")?;

    // With its claim it goes, folder and all, when nobody uses it any more.
    let name = cx.field("pvc c", ".spec.volumeName")?;
    cx.kubectl("delete pvc c --wait=false")?;
    ensure!(is_in_node(cx, &node, &format!("{path}/file"))?);
    cx.kubectl("delete pod second --now")?;
    cx.wait("pvc/c", "delete")?;
    cx.wait(&format!("pv/{name}"), "delete")?;
    ensure!(!is_in_node(cx, &node, &path)?, "the folder is left");
    Ok(())
}

pub fn a_stateful_set_keeps_its_data(cx: &Context) -> Result<()> {
    let mut template = pod("x", STAY);
    let template =
        json!({ "metadata": { "labels": { "app": "db" } }, "spec": template["spec"].take() });
    let mut set = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "name": "db" },
        "spec": { "replicas": 2, "serviceName": "db",
            "selector": { "matchLabels": { "app": "db" } }, "template": template,
            "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {
                "accessModes": ["ReadWriteOncePod"],
                "resources": { "requests": { "storage": "16Mi" } } } }] } });
    set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "data", "mountPath": "/data" }]);
    let said = cx.apply_json(&set)?;
    ensure!(!said.contains("Warning"), "{said}");
    cx.wait_rollout("sts/db")?;
    for name in ["db-0", "db-1"] {
        cx.sh(name, &format!("echo {name} > /data/who"))?;
    }
    cx.kubectl("delete pod db-0 db-1 --now")?;
    cx.wait_rollout("sts/db")?;
    for name in ["db-0", "db-1"] {
        // The set may not have heard yet that its pods went when it is asked for its rollout.
        eventually(&format!("{name} finds its data"), || {
            ensure!(cx.sh(name, "cat /data/who")?.trim() == name);
            Ok(())
        })?;
    }
    cx.kubectl("scale sts db --replicas=0")?;
    eventually("all pods are gone", || {
        ensure!(cx.pods("app=db")?.is_empty());
        Ok(())
    })?;
    cx.kubectl("scale sts db --replicas=1")?;
    cx.wait_rollout("sts/db")?;
    eventually("the one that came again finds its data", || {
        ensure!(cx.sh("db-0", "cat /data/who")?.trim() == "db-0");
        Ok(())
    })?;
    cx.kubectl("delete sts db")?;
    cx.kubectl("delete pvc data-db-0 data-db-1").map(drop)
}

pub fn an_ephemeral_claim_goes_with_its_pod(cx: &Context) -> Result<()> {
    let mut own = pod("p", STAY);
    own["spec"]["volumes"] = json!([{ "name": "scratch", "ephemeral": { "volumeClaimTemplate": {
        "metadata": { "labels": { "of": "p" } },
        "spec": { "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "16Mi" } } } } } }]);
    own["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "scratch", "mountPath": "/data" }]);
    cx.apply_json(&own)?;
    cx.wait_ready("p")?;
    cx.sh("p", "echo x > /data/file")?;
    let volume = volume_of(cx, "p-scratch")?;
    let name = volume["metadata"]["name"].as_str().context("no name")?;
    ensure!(cx.field("pvc p-scratch", ".metadata.labels.of")? == "p");
    // What it has of the claim is in the node's statistics.
    let node = cx.field("pod p", ".spec.nodeName")?;
    eventually("the claim is in the statistics", || {
        let summary = cx.kubectl(&format!(
            "get --raw /api/v1/nodes/{node}/proxy/stats/summary"
        ))?;
        let summary: Value = serde_json::from_str(&summary)?;
        let pods = summary["pods"].as_array().context("no pods")?;
        let own = pods
            .iter()
            .find(|p| p["podRef"]["name"] == "p" && p["podRef"]["namespace"] == cx.ns.as_str());
        let volumes = own.context("no pod")?["volume"].as_array();
        let found = volumes
            .into_iter()
            .flatten()
            .find(|v| v["pvcRef"]["name"] == "p-scratch");
        ensure!(found.is_some_and(|v| v["capacityBytes"].as_u64() > Some(0)));
        Ok(())
    })?;
    cx.kubectl("delete pod p --now")?;
    cx.wait("pvc/p-scratch", "delete")?;
    cx.wait(&format!("pv/{name}"), "delete")
}

pub fn what_a_claim_cannot_have_is_said(cx: &Context) -> Result<()> {
    cx.apply_json(&with_claim("p", "none"))?;
    cx.wait_event(
        "FailedScheduling",
        "persistentvolumeclaim \"none\" not found",
    )
    .map(drop)?;
    let mut many = claim("many", None, "1Mi");
    many["spec"]["accessModes"] = json!(["ReadWriteMany"]);
    cx.apply_json(&many)?;
    cx.apply_json(&with_claim("q", "many"))?;
    cx.wait_event("ProvisioningFailed", "cannot be ReadWriteMany")
        .map(drop)?;
    // A folder of the node that is not there.
    let name = format!("{}-away", cx.ns);
    cx.apply_json(&local(cx, "away", &json!({ "path": "/run/none-such" })))?;
    cx.apply_json(&claim("away", Some(""), "1Gi"))?;
    cx.apply_json(&with_claim("r", "away"))?;
    cx.wait_event("FailedMount", "does not exist").map(drop)?;
    // One that is forced onto another node than its volume's does not start there.
    let mut wrong = with_claim("s", "away");
    wrong["spec"]["nodeName"] = "node-2".into();
    cx.apply_json(&wrong)?;
    cx.wait_event("FailedMount", "NodeAffinity check failed")
        .map(drop)?;
    cx.kubectl("delete pod p q r s --now")?;
    cx.kubectl("delete pvc many away")?;
    cx.kubectl(&format!("delete pv {name}")).map(drop)
}

pub fn a_device_gets_a_file_system_and_keeps_it(cx: &Context) -> Result<()> {
    let node = |line: String| cx.cluster.in_node("node-1", &line)?.ok();
    let file = format!("/run/test-{}.img", cx.ns);
    let device = node(format!(
        "truncate -s 64M {file} && losetup -f --show {file}"
    ))?;
    let done = lives_on(cx, device.trim());
    node(format!("losetup -d {} && rm {file}", device.trim()))?;
    done
}

fn lives_on(cx: &Context, device: &str) -> Result<()> {
    cx.apply_json(&local(cx, "c", &json!({ "path": device })))?;
    cx.apply_json(&claim("c", Some(""), "32Mi"))?;
    let mut first = with_claim("first", "c");
    first["spec"]["securityContext"] = json!({ "fsGroup": 2000 });
    cx.apply_json(&first)?;
    cx.wait_ready("first")?;
    cx.sh("first", "echo kept > /data/file")?;
    let mounted = cx.sh("first", "grep ' /data ' /proc/mounts")?;
    ensure!(mounted.contains(" ext4 "), "{mounted}");
    ensure!(cx.sh("first", "stat -c %g /data/file")? == "2000\n");
    cx.kubectl("delete pod first --now")?;
    cx.apply_json(&with_claim("second", "c"))?;
    cx.wait_ready("second")?;
    ensure!(cx.sh("second", "cat /data/file")? == "kept\n");
    cx.kubectl("delete pod second --now")?;
    cx.kubectl("delete pvc c")?;
    // Who asks for another kind gets neither it nor what is there.
    let other = json!({ "path": device, "fsType": "xfs" });
    cx.apply_json(&local(cx, "other", &other))?;
    cx.apply_json(&claim("other", Some(""), "32Mi"))?;
    cx.apply_json(&with_claim("third", "other"))?;
    cx.wait_event("FailedMount", "it already contains ext4")
        .map(drop)?;
    cx.kubectl("delete pod third --now")?;
    cx.kubectl("delete pvc other")?;
    cx.kubectl(&format!("delete pv {0}-c {0}-other", cx.ns))
        .map(drop)
}
