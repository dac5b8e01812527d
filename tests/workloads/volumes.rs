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
