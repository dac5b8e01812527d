//! Ways by which containers got out of themselves, elsewhere and in other years: each is tried with a
//! real container, and must lead nowhere. A race at a `subPath` is tried in [`crate::volumes`].

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::{eventually, run};
use tests::context::{STAY, pod};

/// The kubelet's folder within a node.
const ROOT: &str = "/var/lib/kubelet";

/// What a container waits for.
fn waiting(cx: &Context, pod: &str) -> Result<String> {
    cx.field(
        &format!("pod {pod}"),
        ".status.containerStatuses[0].state.waiting",
    )
}

/// A pod that puts a link into its volume, and then wants to see what lies behind it.
fn behind(name: &str, link: &str, mount: Value) -> Value {
    let mut out = pod(name, STAY);
    out["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    out["spec"]["initContainers"] = json!([{ "name": "links", "image": tests::BUSYBOX,
        "command": ["sh", "-c", link], "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }]);
    let mut mount = mount;
    mount["name"] = "v".into();
    mount["mountPath"] = "/behind".into();
    out["spec"]["containers"][0]["volumeMounts"] = json!([mount]);
    out["spec"]["containers"][0]["env"] = json!([{ "name": "WHERE", "value": "to" }]);
    out
}

pub fn links_in_volumes_lead_to_nothing_outside(cx: &Context) -> Result<()> {
    let tries = [
        ("absolute", "ln -s /etc /v/to", json!({ "subPath": "to" })),
        (
            "upwards",
            "ln -s ../../../../../../../../etc /v/to",
            json!({ "subPath": "to" }),
        ),
        (
            "through",
            "mkdir /v/a; ln -s / /v/a/root",
            json!({ "subPath": "a/root/etc" }),
        ),
        (
            "magic",
            "ln -s /proc/self/root /v/to",
            json!({ "subPath": "to/etc" }),
        ),
        (
            "file",
            "ln -s /etc/passwd /v/to",
            json!({ "subPath": "to" }),
        ),
        (
            "spelled",
            "ln -s /etc /v/to",
            json!({ "subPathExpr": "$(WHERE)" }),
        ),
    ];
    for (name, link, mount) in &tries {
        cx.apply_json(&behind(name, link, mount.clone()))?;
    }
    // A variable may hold what the path itself may not.
    let mut worded = behind("worded", "true", json!({ "subPathExpr": "$(WHERE)" }));
    worded["spec"]["containers"][0]["env"] = json!([{ "name": "WHERE", "value": "../../.." }]);
    cx.apply_json(&worded)?;
    for name in tries.iter().map(|t| t.0).chain(["worded"]) {
        eventually(&format!("{name} is not started"), || {
            let why = waiting(cx, name)?;
            ensure!(why.contains("CreateContainerConfigError"), "{why}");
            ensure!(why.contains("subPath"), "{why}");
            // What is on the node is not revealed.
            ensure!(!why.contains("/etc"), "{why}");
            Ok(())
        })?;
    }
    // A link that stays in its volume is followed.
    let inside = "mkdir -p /v/real && echo well > /v/real/file && ln -s real /v/to";
    cx.apply_json(&behind("inside", inside, json!({ "subPath": "to" })))?;
    cx.wait_ready("inside")?;
    ensure!(cx.sh("inside", "cat /behind/file")? == "well\n");
    cx.kubectl("delete pods --all --now").map(drop)
}

/// A file that is exchanged all the time is mounted as it is at some moment, and nothing of it keeps
/// the container from starting for long.
pub fn an_exchanged_file_is_mounted(cx: &Context) -> Result<()> {
    let line = "cd /v; while true; do echo well > new; mv new file; sleep 0.2; done";
    let mut shared = pod("p", line);
    shared["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    let main = &mut shared["spec"]["containers"][0];
    main["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    let reader = |i: usize| {
        json!({ "name": format!("reader-{i}"), "image": tests::BUSYBOX,
            "command": ["sh", "-c", format!("cat /file; {STAY}")],
            "volumeMounts": [{ "name": "v", "mountPath": "/file", "subPath": "file" }] })
    };
    shared["spec"]["initContainers"] = json!([{ "name": "first", "image": tests::BUSYBOX,
        "command": ["sh", "-c", "echo well > /v/file"],
        "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }]);
    if let Some(containers) = shared["spec"]["containers"].as_array_mut() {
        containers.extend((0..6).map(reader));
    }
    cx.apply_json(&shared)?;
    cx.wait_ready("p")?;
    for i in 0..6 {
        let said = cx.logs(&format!("p -c reader-{i}"))?;
        ensure!(said.lines().all(|l| l == "well"), "{said}");
    }
    cx.kubectl("delete pod p --now").map(drop)
}

pub fn paths_of_files_stay_in_their_volume(cx: &Context) -> Result<()> {
    cx.kubectl("create configmap settings --from-literal=key=value")?;
    for path in ["../out", "/etc/out", "a/../../out", "..data/out", ""] {
        for source in [
            json!({ "configMap": { "name": "settings", "items": [{ "key": "key", "path": path }] } }),
            json!({ "projected": { "sources": [{ "configMap": { "name": "settings",
                "items": [{ "key": "key", "path": path }] } }] } }),
            json!({ "downwardAPI": { "items": [{ "path": path,
                "fieldRef": { "fieldPath": "metadata.name" } }] } }),
            json!({ "projected": { "sources": [{ "serviceAccountToken": { "path": path } }] } }),
        ] {
            let mut out = pod("p", STAY);
            out["spec"]["volumes"] = json!([source]);
            out["spec"]["volumes"][0]["name"] = "v".into();
            let refused = cx
                .run_with("create -f -", &out.to_string())?
                .failed()
                .with_context(|| format!("{path:?} in {source}"))?;
            ensure!(refused.contains("spec.volumes[0]"), "{path:?}: {refused}");
        }
    }
    let bad = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "bad" },
        "data": { "../out": "value" } });
    let refused = cx.run_with("create -f -", &bad.to_string())?.failed()?;
    ensure!(refused.contains("data[../out]"), "{refused}");
    Ok(())
}

pub fn host_paths_are_what_their_types_say(cx: &Context) -> Result<()> {
    let on_node = |line: &str| cx.cluster.in_node("node-1", line)?.ok();
    let at = format!("/run/{}", cx.ns);
    on_node(&format!(
        "mkdir -p {at}/folder && echo well > {at}/file && ln -s {at}/new {at}/link"
    ))?;
    let with = |name: &str, path: &str, kind: &str| {
        let mut out = pod(name, STAY);
        out["spec"]["nodeName"] = "node-1".into();
        out["spec"]["volumes"] =
            json!([{ "name": "v", "hostPath": { "path": path, "type": kind } }]);
        out["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
        cx.apply_json(&out)
    };
    let wrong = [
        ("a", "none", "Directory", "is not a directory"),
        ("b", "file", "DirectoryOrCreate", "is not a directory"),
        ("c", "folder", "File", "is not a file"),
        ("d", "file", "Socket", "is not a socket file"),
        ("e", "file", "CharDevice", "is not a character device"),
        ("f", "file", "BlockDevice", "is not a block device"),
        // What is not there yet is not made behind a link.
        ("g", "link", "FileOrCreate", "link"),
    ];
    for (name, path, kind, _) in wrong {
        with(name, &format!("{at}/{path}"), kind)?;
    }
    with("right", &format!("{at}/file"), "File")?;
    with("device", "/dev/null", "CharDevice")?;
    with("made", &format!("{at}/deep/made"), "DirectoryOrCreate")?;
    for pod in ["right", "device", "made"] {
        cx.wait_ready(pod)?;
    }
    ensure!(cx.sh("right", "cat /v")? == "well\n");
    for (name, path, kind, why) in wrong {
        eventually(&format!("{path} as {kind} is refused"), || {
            let events = cx.json(&format!(
                "get events --field-selector involvedObject.name={name}"
            ))?;
            let said = events["items"].as_array().into_iter().flatten();
            let mut said = said.filter(|e| e["reason"] == "FailedMount");
            let found = said.any(|e| e["message"].as_str().is_some_and(|m| m.contains(why)));
            ensure!(found, "{events}");
            Ok(())
        })?;
        ensure!(cx.field(&format!("pod {name}"), ".status.phase")? == "Pending");
    }
    ensure!(on_node(&format!("ls -d {at}/new {at}/none 2>/dev/null; true"))?.is_empty());
    cx.kubectl("delete pods --all --now")?;
    on_node(&format!("rm -r {at}")).map(drop)
}

/// Files of the node in which a container's log and its termination message are: who may change the folders
/// must not make the kubelet read something else.
pub fn logs_and_last_words_are_not_read_through_links(cx: &Context) -> Result<()> {
    const SECRET: &str = "known to the node alone";
    let node = "node-1";
    let data = cx.cluster.data();
    let logs = format!("{}/nodes/{node}/pod-logs", data.display());
    let secret = format!("/run/{}-secret", cx.ns);
    let on_node = |line: &str| cx.cluster.in_node(node, line)?.ok();
    on_node(&format!("echo {SECRET} > {secret}"))?;
    let mut out = pod(
        "p",
        "echo said; while test ! -e /tmp/end; do sleep 0.1; done; exit 1",
    );
    out["spec"]["nodeName"] = node.into();
    out["spec"]["restartPolicy"] = "Never".into();
    cx.apply_json(&out)?;
    cx.wait_ready("p")?;
    cx.wait_logs("p", "said\n")?;
    let uid = cx.field("pod p", ".metadata.uid")?;
    let mut evil = pod("evil", STAY);
    evil["spec"]["nodeName"] = node.into();
    evil["spec"]["volumes"] = json!([
        { "name": "logs", "hostPath": { "path": logs } },
        { "name": "pods", "hostPath": { "path": format!("{ROOT}/pods") } }]);
    evil["spec"]["containers"][0]["volumeMounts"] = json!([
        { "name": "logs", "mountPath": "/logs" }, { "name": "pods", "mountPath": "/pods" }]);
    cx.apply_json(&evil)?;
    cx.wait_ready("evil")?;
    cx.sh("evil", &format!("ln -sf {secret} /logs/*_{uid}/main/0.log"))?;
    let refused = cx.refused("logs p")?;
    ensure!(!refused.contains(SECRET), "{refused}");
    let message = format!("/pods/{uid}/containers/main/0-message");
    cx.sh(
        "evil",
        &format!("ln -sf {secret} {message} && test -L {message}"),
    )?;
    cx.sh("p", "touch /tmp/end")?;
    cx.wait("pod/p", "jsonpath={.status.phase}=Failed")?;
    let status = cx.field("pod p", ".status")?;
    ensure!(!status.contains(SECRET), "{status}");
    cx.kubectl("delete pods --all --now")?;
    // What the links pointed to is not removed with them.
    eventually("the pods' logs are gone", || {
        let left = on_node(&format!("ls -d {logs}/*_{uid} 2>/dev/null; true"))?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })?;
    ensure!(on_node(&format!("cat {secret}"))?.trim() == SECRET);
    on_node(&format!("rm {secret}")).map(drop)
}

/// A container says at most so much at its end, wherever it says that it would.
pub fn last_words_are_short(cx: &Context) -> Result<()> {
    let line = "yes word | head -c 20000 > /../../tmp/words; exit 1";
    let mut out = pod("p", line);
    out["spec"]["restartPolicy"] = "Never".into();
    out["spec"]["containers"][0]["terminationMessagePath"] = "/../../tmp/words".into();
    cx.apply_json(&out)?;
    cx.wait("pod/p", "jsonpath={.status.phase}=Failed")?;
    let path = ".status.containerStatuses[0].state.terminated.message";
    let message = cx.field("pod p", path)?;
    ensure!(
        message.contains("word") && message.len() <= 4096,
        "{} bytes: {message}",
        message.len()
    );
    Ok(())
}

pub fn devices_and_the_kernels_state_are_out_of_reach(cx: &Context) -> Result<()> {
    cx.shell_pod("p", STAY)?;
    let fails = |line: &str| {
        let mut command = cx.command("exec p");
        command.args(["--", "sh", "-c", line]);
        run(command, "")?.failed().with_context(|| line.to_owned())
    };
    // Whoever makes a node of the machine's devices cannot open it.
    for node in ["b 7 0", "b 8 0", "c 1 1", "c 10 229"] {
        let said = fails(&format!(
            "mknod /tmp/d {node} && cat /tmp/d; e=$?; rm /tmp/d; exit $e"
        ))?;
        ensure!(said.contains("not permitted"), "{node}: {said}");
    }
    // These show nothing.
    let hidden = "cat /proc/kcore /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null; \
        ls /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | grep -v :; true";
    ensure!(cx.sh("p", hidden)?.trim().is_empty());
    // And these cannot be changed.
    for line in [
        "echo 1 > /proc/sys/kernel/panic",
        "echo c > /proc/sysrq-trigger",
        "echo 1 > /proc/irq/default_smp_affinity",
        // Of whichever version: the folders in which there are groups.
        "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do if test -e $d/cgroup.procs && mkdir $d/mine; then exit 0; fi; done; exit 1",
        "echo /x > /sys/kernel/uevent_helper",
        "mount -t tmpfs tmpfs /mnt",
        "mount -o remount,rw /sys",
    ] {
        fails(line)?;
    }
    // What takes the masks away needs a user namespace, as upstream.
    let mut unmasked = pod("unmasked", STAY);
    unmasked["spec"]["containers"][0]["securityContext"] = json!({ "procMount": "Unmasked" });
    let refused = cx
        .run_with("create -f -", &unmasked.to_string())?
        .failed()?;
    ensure!(refused.contains("procMount"), "{refused}");
    Ok(())
}

/// A container answers `kubectl cp` with an archive that leads out of the folder.
pub fn a_copied_archive_stays_in_its_folder(cx: &Context) -> Result<()> {
    cx.shell_pod("p", STAY)?;
    let dir = cx.cluster.scratch()?.join("evil");
    let inner = dir.join("inner/most");
    std::fs::create_dir_all(&inner)?;
    std::fs::write(dir.join("payload"), "evil")?;
    let mut made = std::process::Command::new("tar");
    made.current_dir(&dir).args([
        "-cPf",
        "evil.tar",
        "--transform=s,^payload$,file/../../../out,",
        "payload",
    ]);
    run(made, "")?.ok()?;
    cx.kubectl(&format!(
        "cp {} p:/tmp/evil.tar",
        dir.join("evil.tar").display()
    ))?;
    cx.sh(
        "p",
        "printf '#!/bin/sh\\ncat /tmp/evil.tar\\n' > /tmp/tar && chmod +x /tmp/tar && rm /bin/tar && mv /tmp/tar /bin/tar",
    )?;
    // Whether kubectl fails or leaves it out is its own matter.
    cx.run(&format!("cp p:/file {}", inner.join("file").display()))?;
    for at in [dir.join("out"), dir.join("inner/out"), inner.join("out")] {
        ensure!(!at.exists(), "{}", at.display());
    }
    std::fs::remove_dir_all(dir).map_err(Into::into)
}
