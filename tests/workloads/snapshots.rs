//! Snapshots and copies of volumes on a node's disk, and what is said of their sizes.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, pod};

const GROUP: &str = "snapshot.storage.k8s.io";

/// A kind: its name, its name in paths, and whether it is of namespaces.
const KINDS: [(&str, &str, bool); 3] = [
    ("VolumeSnapshotClass", "volumesnapshotclasses", false),
    ("VolumeSnapshot", "volumesnapshots", true),
    ("VolumeSnapshotContent", "volumesnapshotcontents", false),
];

/// As much of a definition as is needed to store such objects.
fn definition((kind, plural, of_namespaces): (&str, &str, bool)) -> Value {
    let object = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{GROUP}"), "annotations": {
            "api-approved.kubernetes.io": "unapproved, of a test" } },
        "spec": {
            "group": GROUP, "scope": if of_namespaces { "Namespaced" } else { "Cluster" },
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(),
                       "listKind": format!("{kind}List") },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                           "subresources": { "status": {} },
                           "schema": { "openAPIV3Schema": object } }],
        },
    })
}

fn claim(name: &str, size: &str, from: Option<Value>) -> Value {
    let mut claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": { "name": name }, "spec": { "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": size } } } });
    if let Some(from) = from {
        claim["spec"]["dataSource"] = from;
    }
    claim
}

/// A pod with claims at folders of their names.
fn with_claims(name: &str, line: &str, claims: &[&str]) -> Value {
    let mut pod = pod(name, line);
    let volume = |c: &&str| json!({ "name": c, "persistentVolumeClaim": { "claimName": c } });
    let mount = |c: &&str| json!({ "name": c, "mountPath": format!("/{c}") });
    pod["spec"]["volumes"] = claims.iter().map(volume).collect();
    pod["spec"]["containers"][0]["volumeMounts"] = claims.iter().map(mount).collect();
    pod
}

fn snapshot(name: &str, claim: &str) -> Value {
    json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "VolumeSnapshot",
        "metadata": { "name": name },
        "spec": { "volumeSnapshotClassName": "disks",
            "source": { "persistentVolumeClaimName": claim } } })
}

pub fn snapshots_and_copies_hold_what_was_there(cx: &Context) -> Result<()> {
    for kind in KINDS {
        cx.apply_json(&definition(kind))?;
        cx.kubectl(&format!(
            "wait customresourcedefinition/{}.{GROUP} --for=condition=Established --timeout=280s",
            kind.1
        ))?;
    }
    let class = json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "VolumeSnapshotClass",
        "metadata": { "name": "disks" }, "driver": "tiphys.io/local", "deletionPolicy": "Delete" });
    cx.apply_json(&class)?;
    cx.apply_json(&claim("c", "64Mi", None))?;
    cx.apply_json(&with_claims("writer", STAY, &["c"]))?;
    cx.wait_ready("writer")?;
    cx.sh(
        "writer",
        "mkdir /c/dir; echo before > /c/dir/file; sync /c/dir/file",
    )?;
    // The scheduler hears how much room is left for such volumes.
    eventually("nodes say how much room they have", || {
        let all = cx.json("get csistoragecapacities --all-namespaces")?;
        let items = all["items"].as_array().context("no items")?;
        let ours = items.iter().filter(|c| c["storageClassName"] == "local");
        ensure!(ours.count() >= 2, "{all}");
        Ok(())
    })?;

    cx.apply_json(&snapshot("s", "c"))?;
    cx.wait("volumesnapshot/s", "jsonpath={.status.readyToUse}=true")?;
    ensure!(cx.field("volumesnapshot s", ".status.restoreSize")? == "64Mi");
    cx.wait_event("CopyingInUse", "while a pod has it")
        .map(drop)?;
    cx.sh("writer", "echo after > /c/dir/file; sync /c/dir/file")?;

    let from = json!({ "apiGroup": GROUP, "kind": "VolumeSnapshot", "name": "s" });
    cx.apply_json(&claim("restored", "64Mi", Some(from.clone())))?;
    let clone = json!({ "kind": "PersistentVolumeClaim", "name": "c" });
    cx.apply_json(&claim("copy", "96Mi", Some(clone)))?;
    cx.apply_json(&with_claims("reader", STAY, &["restored", "copy"]))?;
    cx.wait_ready("reader")?;
    ensure!(cx.sh("reader", "cat /restored/dir/file /copy/dir/file")? == "before\nafter\n");
    // They are where their originals are, and their own.
    let node = cx.field("pod writer", ".spec.nodeName")?;
    ensure!(cx.field("pod reader", ".spec.nodeName")? == node);
    cx.sh("reader", "echo mine > /copy/dir/file")?;
    ensure!(cx.sh("writer", "cat /c/dir/file")? == "after\n");
    cx.apply_json(&claim("small", "1Mi", Some(from)))?;
    cx.wait_event("ProvisioningFailed", "begins as a copy of")
        .map(drop)?;

    // A snapshot outlives its volume, and goes with its folder.
    let content = cx.field("volumesnapshot s", ".status.boundVolumeSnapshotContentName")?;
    let handle = cx.field(
        &format!("volumesnapshotcontent {content}"),
        ".status.snapshotHandle",
    )?;
    let folder = handle.split('/').nth(1).context("no folder")?.to_owned();
    let volume = cx.field("pvc c", ".spec.volumeName")?;
    let path = cx.field(&format!("pv {volume}"), ".spec.local.path")?;
    let (volumes, _) = path.rsplit_once('/').context("no path")?;
    let is_there = || -> Result<bool> {
        let line = format!("ls -d {volumes}/{folder} 2>/dev/null");
        Ok(!cx.cluster.in_node(&node, &line)?.out.trim().is_empty())
    };
    ensure!(is_there()?, "no folder {folder}");
    cx.kubectl("delete pod writer reader --now")?;
    cx.kubectl("delete pvc c restored copy small")?;
    ensure!(cx.field("volumesnapshot s", ".status.readyToUse")? == "true");
    cx.kubectl("delete volumesnapshot s --wait=false")?;
    cx.wait("volumesnapshot/s", "delete")?;
    eventually("the folder has gone, too", || {
        ensure!(!is_there()?, "the folder is left");
        Ok(())
    })?;
    for (_, plural, _) in KINDS {
        cx.kubectl(&format!("delete customresourcedefinition {plural}.{GROUP}"))?;
    }
    Ok(())
}

pub fn whether_a_volume_is_held_to_its_size_is_said(cx: &Context) -> Result<()> {
    cx.apply_json(&claim("c", "2Mi", None))?;
    let line = format!("head -c 6000000 /dev/zero > /c/file; echo $? > /code; {STAY}");
    cx.apply_json(&with_claims("writer", &line, &["c"]))?;
    cx.wait_ready("writer")?;
    let node = cx.field("pod writer", ".spec.nodeName")?;
    let kept = cx.json(&format!("get node {node}"))?;
    let kept = &kept["metadata"]["annotations"]["tiphys.io/local-volumes-quota"];
    if kept == "enforced" {
        cx.wait_event("ProvisioningSucceeded", "is enforced by the file system")
            .map(drop)?;
        eventually("the volume is full", || {
            ensure!(cx.sh("writer", "cat /code")?.trim() != "0");
            Ok(())
        })?;
    } else {
        ensure!(kept == "measured", "{kept}");
        cx.wait_event("ProvisioningSucceeded", "its size is not enforced")
            .map(drop)?;
        let told = cx.wait_event("VolumeOverfull", "more than its size of 2Mi")?;
        ensure!(told["type"] == "Warning", "{told}");
    }
    cx.kubectl("delete pod writer --now")?;
    cx.kubectl("delete pvc c").map(drop)
}
