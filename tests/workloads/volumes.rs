//! Every kind of volume, read inside.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, pod};

/// A pod with one volume at /v.
fn with_volume(name: &str, volume: Value) -> Value {
    let mut pod = pod(name, STAY);
    let mut volume = volume;
    volume["name"] = "v".into();
    pod["spec"]["volumes"] = json!([volume]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    pod
}

pub fn configuration_and_secrets_are_read(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap settings --from-literal=colour=blue --from-literal=size=big")?;
    cx.kubectl("create secret generic password --from-literal=word=open")?;
    cx.apply_json(&with_volume("cm", json!({ "configMap": { "name": "settings", "items": [{ "key": "colour", "path": "deep/colour", "mode": 0o440 }] } })))?;
    cx.apply_json(&with_volume(
        "secret",
        json!({ "secret": { "secretName": "password", "defaultMode": 0o400 } }),
    ))?;
    cx.wait_ready("cm")?;
    cx.wait_ready("secret")?;
    ensure!(
        cx.sh(
            "cm",
            "cat /v/deep/colour; stat -L -c %a /v/deep/colour; ls /v"
        )? == "blue440\ndeep\n"
    );
    ensure!(cx.sh("secret", "cat /v/word; stat -L -c %a /v/word")? == "open400\n");
    let kind = cx.sh("secret", "stat -f -c %T /v")?;
    ensure!(
        kind.trim() == "tmpfs",
        "a secret is kept in memory alone: {kind}"
    );
    Ok(())
}

pub fn scratch_space_is_shared_and_may_be_memory(cx: &Context) -> Result<()> {
    for (name, source) in [
        ("disk", json!({})),
        ("memory", json!({ "medium": "Memory", "sizeLimit": "8Mi" })),
    ] {
        let mut pod = with_volume(name, json!({ "emptyDir": source }));
        let mut second = pod["spec"]["containers"][0].clone();
        second["name"] = "second".into();
        if let Some(containers) = pod["spec"]["containers"].as_array_mut() {
            containers.push(second);
        }
        cx.apply_json(&pod)?;
        cx.wait_ready(name)?;
        cx.sh(name, "echo hello > /v/file")?;
        ensure!(cx.sh_in(name, "second", "cat /v/file")? == "hello\n");
    }
    ensure!(cx.sh("memory", "stat -f -c %T /v")?.trim() == "tmpfs");
    ensure!(cx.sh("disk", "stat -f -c %T /v")?.trim() != "tmpfs");
    let full = cx
        .run("exec memory -- dd if=/dev/zero of=/v/big bs=1M count=9")?
        .failed()?;
    ensure!(full.contains("No space left"), "{full}");
    Ok(())
}

pub fn a_folder_of_the_node_is_mounted(cx: &Context) -> Result<()> {
    let dir = format!("/run/test-{}", cx.ns);
    let mut pod = with_volume(
        "p",
        json!({ "hostPath": { "path": dir, "type": "DirectoryOrCreate" } }),
    );
    pod["spec"]["nodeName"] = "node-1".into();
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    cx.sh("p", "echo hello > /v/file")?;
    let seen = cx
        .cluster
        .in_node("node-1", &format!("cat {dir}/file"))?
        .ok()?;
    ensure!(seen == "hello\n", "{seen}");
    let mut wrong = with_volume(
        "wrong",
        json!({ "hostPath": { "path": "/run/none-such", "type": "Directory" } }),
    );
    wrong["spec"]["nodeName"] = "node-1".into();
    cx.apply_json(&wrong)?;
    cx.wait_event("FailedMount", "hostPath type check failed")
        .map(drop)
}

pub fn a_pod_reads_about_itself(cx: &Context) -> Result<()> {
    let field = |path: &str, from: &str| json!({ "path": path, "fieldRef": { "fieldPath": from } });
    let items = json!([
        field("name", "metadata.name"), field("labels", "metadata.labels"), field("uid", "metadata.uid"),
        { "path": "memory", "resourceFieldRef": { "containerName": "main", "resource": "limits.memory" } },
    ]);
    let mut pod = with_volume("p", json!({ "downwardAPI": { "items": items } }));
    pod["spec"]["containers"][0]["resources"] = json!({ "limits": { "memory": "64Mi" } });
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    ensure!(cx.sh("p", "cat /v/name")? == "p");
    ensure!(cx.sh("p", "cat /v/uid")? == cx.field("pod p", ".metadata.uid")?);
    ensure!(cx.sh("p", "cat /v/memory")? == "67108864");
    ensure!(cx.sh("p", "cat /v/labels")?.trim() == "app=\"p\"");
    cx.kubectl("label pod p more=yes")?;
    eventually("the new label is in the file", || {
        let labels = cx.sh("p", "cat /v/labels")?;
        ensure!(labels.contains("more=\"yes\""), "{labels}");
        Ok(())
    })
}

pub fn sources_are_projected_together(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap settings --from-literal=colour=blue")?;
    cx.kubectl("create secret generic password --from-literal=word=open")?;
    cx.apply_json(&with_volume("p", json!({ "projected": { "sources": [
        { "configMap": { "name": "settings" } },
        { "secret": { "name": "password" } },
        { "downwardAPI": { "items": [{ "path": "name", "fieldRef": { "fieldPath": "metadata.name" } }] } },
        { "serviceAccountToken": { "path": "token", "audience": "somebody", "expirationSeconds": 3600 } },
    ] } })))?;
    cx.wait_ready("p")?;
    ensure!(cx.sh("p", "cat /v/colour /v/word /v/name")? == "blueopenp");
    let token = cx.sh("p", "cat /v/token")?;
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token, "audiences": ["somebody"] } });
    let answer = cx
        .run_with("create -o json -f -", &review.to_string())?
        .ok()?;
    let answer: Value = serde_json::from_str(&answer)?;
    ensure!(answer["status"]["authenticated"] == true, "{answer:#}");
    ensure!(
        answer["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"][0] == "p",
        "{answer:#}"
    );
    Ok(())
}

pub fn a_changed_config_map_reaches_the_pod(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap settings --from-literal=colour=blue")?;
    cx.apply_json(&with_volume(
        "p",
        json!({ "configMap": { "name": "settings" } }),
    ))?;
    cx.wait_ready("p")?;
    ensure!(cx.sh("p", "cat /v/colour")? == "blue");
    cx.kubectl(r#"patch configmap settings -p '{"data":{"colour":"red"}}'"#)?;
    eventually("the file has the new value", || {
        let colour = cx.sh("p", "cat /v/colour")?;
        ensure!(colour == "red", "{colour}");
        Ok(())
    })
}

/// The name that a mount asks for is a folder at one time and a link to `/` at the next.
const FLIP: &str = "cd /f; mkdir d; while test ! -e stop; do ln -s / l; mv d h; mv l d; rm d; mv h d; done 2>/dev/null";
/// Sees the machine, if the link was followed outside of the container.
const LOOK: &str =
    "for name in proc etc sys; do if test -e /v/$name; then echo ESCAPED; ls -la /v; fi; done";
/// Containers with that mount in each pod; each is started until it once saw the folder.
const LOOKERS: usize = 8;

pub fn a_race_never_leads_a_sub_path_out_of_its_volume(cx: &Context) -> Result<()> {
    let names = ["race-1", "race-2", "race-3"];
    for name in names {
        let mut racer = pod(name, FLIP);
        // A start that the race spoiled is made again.
        racer["spec"]["restartPolicy"] = "OnFailure".into();
        racer["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
        let main = &mut racer["spec"]["containers"][0];
        main["volumeMounts"] = json!([{ "name": "v", "mountPath": "/f" }]);
        let looker = |i: usize| {
            json!({
                "name": format!("looker-{i}"), "image": tests::BUSYBOX, "command": ["sh", "-c", LOOK],
                "volumeMounts": [{ "name": "v", "mountPath": "/v", "subPath": "d" }],
            })
        };
        if let Some(containers) = racer["spec"]["containers"].as_array_mut() {
            containers.extend((0..LOOKERS).map(looker));
        }
        cx.apply_json(&racer)?;
    }
    for name in names {
        eventually("every container ran", || {
            let pod = cx.json(&format!("get pod {name}"))?;
            let list = pod["status"]["containerStatuses"].as_array();
            let ended = list
                .into_iter()
                .flatten()
                .filter(|c| c["name"] != "main" && c["state"]["terminated"]["exitCode"] == 0);
            let count = ended.count();
            ensure!(count == LOOKERS, "{count} of {LOOKERS}");
            Ok(())
        })?;
        for i in 0..LOOKERS {
            let said = cx.logs(&format!("{name} -c looker-{i}"))?;
            ensure!(said.is_empty(), "{name}: {said}");
        }
        // The container ends at once, and may take the command with it, or what it says.
        eventually("it stops", || {
            cx.run(&format!("exec {name} -c main -- touch /f/stop"))?;
            let phase = cx.field(&format!("pod {name}"), ".status.phase")?;
            ensure!(phase == "Succeeded", "{phase}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The image is one that was imported, and that no container has unpacked: the demo's is only
/// shown here, as files.
pub fn the_files_of_an_image_are_a_volume(cx: &Context) -> Result<()> {
    let mut shown = with_volume("p", json!({ "image": { "reference": tests::BUSYBOX } }));
    let mounts = &mut shown["spec"]["containers"][0]["volumeMounts"];
    if let Some(mounts) = mounts.as_array_mut() {
        mounts.push(json!({ "name": "v", "mountPath": "/part", "subPath": "bin" }));
        mounts.push(json!({ "name": "w", "mountPath": "/w" }));
    }
    if let Some(volumes) = shown["spec"]["volumes"].as_array_mut() {
        volumes.push(
            json!({ "name": "w", "image": { "reference": tests::BUSYBOX, "pullPolicy": "Never" } }),
        );
    }
    cx.apply_json(&shown)?;
    cx.wait_ready("p")?;
    let same = "cmp /v/bin/busybox /bin/busybox && cmp /part/busybox /w/bin/busybox && echo same";
    ensure!(cx.sh("p", same)? == "same\n");
    let refused = cx.run("exec p -- touch /v/file")?.failed()?;
    ensure!(refused.contains("Read-only file system"), "{refused}");
    let uid = cx.field("pod p", ".metadata.uid")?;
    let node = cx.field("pod p", ".spec.nodeName")?;
    cx.kubectl("delete pod p")?;
    eventually("the image is shown no more", || {
        let left = cx
            .cluster
            .in_node(&node, &format!("grep {uid} /proc/self/mountinfo"))?;
        ensure!(left.out.is_empty(), "{}", left.out);
        Ok(())
    })?;
    let never = json!({ "image": { "reference": "example.test/none:1", "pullPolicy": "Never" } });
    cx.apply_json(&with_volume("none", never))?;
    eventually("the container says which image is missing", || {
        let why = cx.field("pod none", ".status.containerStatuses[0].state.waiting")?;
        ensure!(
            why.contains("ErrImageNeverPull") && why.contains("example.test/none:1"),
            "{why}"
        );
        Ok(())
    })
}

pub fn parts_of_volumes_are_mounted(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap settings --from-literal=colour=blue")?;
    let mut parts = pod("p", STAY);
    parts["spec"]["securityContext"] =
        json!({ "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000 });
    parts["spec"]["volumes"] = json!([
        { "name": "v", "emptyDir": {} },
        { "name": "settings", "configMap": { "name": "settings" } },
    ]);
    let main = &mut parts["spec"]["containers"][0];
    main["env"] = json!([{ "name": "WHO", "value": "me" }]);
    main["volumeMounts"] = json!([
        { "name": "v", "mountPath": "/all" },
        { "name": "v", "mountPath": "/mine", "subPathExpr": "of/$(WHO)" },
        { "name": "settings", "mountPath": "/colour", "subPath": "colour" },
    ]);
    cx.apply_json(&parts)?;
    cx.wait_ready("p")?;
    // A folder that was missing belongs to the group and is written to, as the volume itself.
    cx.sh("p", "echo hello > /mine/file")?;
    ensure!(cx.sh("p", "cat /all/of/me/file; cat /colour")? == "hello\nblue");
    ensure!(cx.sh("p", "stat -c %g /all/of/me")? == "2000\n");
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let rights = cx.sh("p", &format!("stat -L -c '%a %u %g' {token}"))?;
    ensure!(rights == "640 1000 2000\n", "{rights}");
    // Nobody else on the machine looks into the folders of pods.
    let uid = cx.field("pod p", ".metadata.uid")?;
    let node = cx.field("pod p", ".spec.nodeName")?;
    let find = format!("find / -xdev -type d -name {uid} -path '*pods*' 2>/dev/null");
    let dir = cx.cluster.in_node(&node, &find)?.out;
    let dir = dir.lines().next().unwrap_or_default().to_owned();
    ensure!(!dir.is_empty(), "the pod's folder is not found");
    let modes = format!("stat -c %a {dir} {dir}/.. {dir}/volumes {dir}/volume-subpaths");
    let modes = cx.cluster.in_node(&node, &modes)?.ok()?;
    ensure!(modes == "750\n750\n750\n750\n", "{modes}");
    cx.kubectl("delete pod p")?;
    eventually("the pod's folder is gone, and no mount is left", || {
        let left = format!("ls -d {dir}; grep {uid} /proc/self/mountinfo");
        let left = cx.cluster.in_node(&node, &left)?.out;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

/// A privileged pod of node-1 with a folder of the node at /v, to or from which mounts spread.
fn spreading(name: &str, path: &str, propagation: &str) -> Value {
    let mut out = pod(name, STAY);
    out["spec"]["nodeName"] = "node-1".into();
    out["spec"]["volumes"] = json!([{ "name": "v", "hostPath": { "path": path } }]);
    let container = &mut out["spec"]["containers"][0];
    container["securityContext"] = json!({ "privileged": propagation == "Bidirectional" });
    container["volumeMounts"] =
        json!([{ "name": "v", "mountPath": "/v", "mountPropagation": propagation }]);
    out
}

pub fn mounts_spread_as_far_as_they_are_let(cx: &Context) -> Result<()> {
    let on_node = |line: &str| cx.cluster.in_node("node-1", line)?.ok();
    let at = format!("/run/{}", cx.ns);
    on_node(&format!("mkdir -p {at}/pods {at}/nodes"))?;
    for (name, propagation) in [
        ("both", "Bidirectional"),
        ("sees", "HostToContainer"),
        ("alone", "None"),
    ] {
        cx.apply_json(&spreading(name, &at, propagation))?;
    }
    for name in ["both", "sees", "alone"] {
        cx.wait_ready(name)?;
    }
    cx.sh(
        "both",
        "mount -t tmpfs none /v/pods && echo pod > /v/pods/file",
    )?;
    on_node(&format!(
        "mount -t tmpfs none {at}/nodes && echo node > {at}/nodes/file"
    ))?;
    ensure!(on_node(&format!("cat {at}/pods/file"))? == "pod\n");
    for name in ["both", "sees"] {
        ensure!(
            cx.sh(name, "cat /v/pods/file /v/nodes/file")? == "pod\nnode\n",
            "{name}"
        );
    }
    ensure!(
        cx.sh("alone", "ls /v/pods /v/nodes | grep -c file || true")?
            .trim()
            == "0"
    );
    cx.kubectl("delete pod both sees alone --now")?;
    on_node(&format!("umount {at}/pods {at}/nodes && rm -r {at}")).map(drop)
}

pub fn nothing_is_removed_through_what_a_pod_left_mounted(cx: &Context) -> Result<()> {
    let on_node = |line: &str| cx.cluster.in_node("node-1", line)?.ok();
    let at = format!("/run/{}", cx.ns);
    on_node(&format!("mkdir -p {at} && echo kept > {at}/file"))?;
    let mut out = spreading("p", &at, "None");
    out["spec"]["volumes"] = json!([
        { "name": "v", "hostPath": { "path": at } }, { "name": "e", "emptyDir": {} }]);
    let container = &mut out["spec"]["containers"][0];
    container["securityContext"]["privileged"] = true.into();
    container["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" },
        { "name": "e", "mountPath": "/e", "mountPropagation": "Bidirectional" }]);
    cx.apply_json(&out)?;
    cx.wait_ready("p")?;
    cx.sh(
        "p",
        "mkdir /e/deep /e/deep/er && mount -o bind /v /e/deep/er",
    )?;
    let uid = cx.field("pod p", ".metadata.uid")?;
    let folder = format!("/var/lib/kubelet/pods/{uid}");
    let left = format!("{folder}/volumes/kubernetes.io~empty-dir/e/deep/er/file");
    ensure!(on_node(&format!("cat {left}"))? == "kept\n");
    cx.kubectl("delete pod p --now")?;
    eventually("the pod's folder is gone", || {
        ensure!(on_node(&format!("ls -d {folder} 2>/dev/null; true"))?.is_empty());
        Ok(())
    })?;
    ensure!(on_node(&format!("cat {at}/file"))? == "kept\n");
    on_node(&format!("rm -r {at}")).map(drop)
}
