//! Who a container is, what it may do, what it is called and whose processes it sees: by what the kernel
//! and its files say within it.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::command::eventually;
use tests::context::{STAY, pod};
use tests::{BUSYBOX, Context};

/// The words of a line of `/proc/1/status` in a pod's container, whose first process is its program.
fn said(status: &str, name: &str) -> Result<Vec<String>> {
    let mut lines = status.lines();
    let line = lines.find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let line = line.with_context(|| format!("nothing of {name} in {status}"))?;
    Ok(line.split_whitespace().map(str::to_owned).collect())
}

fn with_context(name: &str, context: Value) -> Value {
    let mut pod = pod(name, STAY);
    pod["spec"]["containers"][0]["securityContext"] = context;
    pod
}

pub fn a_container_may_do_what_its_security_context_says(cx: &Context) -> Result<()> {
    let mut limited = with_context(
        "limited",
        json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] } }),
    );
    limited["spec"]["securityContext"] = json!({ "runAsUser": 1234, "runAsGroup": 2345,
        "supplementalGroups": [3456], "fsGroup": 4567, "seccompProfile": { "type": "RuntimeDefault" } });
    limited["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    limited["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    let one = with_context(
        "one",
        json!({ "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] } }),
    );
    let root = with_context("root", json!({ "runAsNonRoot": true }));
    for pod in [&limited, &one, &root] {
        cx.apply_json(pod)?;
    }
    cx.wait_ready("limited")?;
    let status = cx.sh("limited", "cat /proc/1/status")?;
    let is = |name: &str, wanted: &str| -> Result<()> {
        let found = said(&status, name)?;
        ensure!(found.iter().all(|word| word == wanted), "{name}: {found:?}");
        Ok(())
    };
    is("Uid", "1234")?;
    is("Gid", "2345")?;
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        is(set, "0000000000000000")?;
    }
    is("NoNewPrivs", "1")?;
    is("Seccomp", "2")?;
    let groups = said(&status, "Groups")?;
    for group in ["3456", "4567"] {
        ensure!(groups.iter().any(|g| g == group), "{groups:?}");
    }
    let refused = cx.sh("limited", "touch /file 2>&1; true")?;
    ensure!(refused.contains("Read-only file system"), "{refused}");
    let file = cx.sh("limited", "touch /v/file && ls -ln /v/file")?;
    let words: Vec<&str> = file.split_whitespace().collect();
    let owners = words.get(2..4).unwrap_or_default();
    ensure!(owners == ["1234", "4567"], "{file}");
    cx.wait_ready("one")?;
    let status = cx.sh("one", "cat /proc/1/status")?;
    // The twelfth.
    ensure!(said(&status, "CapEff")? == ["0000000000001000"], "{status}");
    let reason = ".status.containerStatuses[0].state.waiting.reason";
    eventually("root is refused", || {
        let found = cx.field("pod root", reason)?;
        ensure!(found == "CreateContainerConfigError", "{found}");
        Ok(())
    })?;
    let message = ".status.containerStatuses[0].state.waiting.message";
    let message = cx.field("pod root", message)?;
    ensure!(message.contains("runAsNonRoot"), "{message}");
    Ok(())
}

pub fn a_pod_has_the_names_that_it_says(cx: &Context) -> Result<()> {
    let mut named = pod("named", STAY);
    let spec = &mut named["spec"];
    spec["hostname"] = json!("host");
    spec["subdomain"] = json!("sub");
    spec["hostAliases"] = json!([{ "ip": "192.0.2.7", "hostnames": ["other", "another"] }]);
    spec["dnsPolicy"] = json!("None");
    spec["dnsConfig"] = json!({ "nameservers": ["192.0.2.53"], "searches": ["example.test"],
        "options": [{ "name": "ndots", "value": "3" }] });
    cx.apply_json(&named)?;
    cx.wait_ready("named")?;
    let name = cx.sh("named", "cat /proc/sys/kernel/hostname")?;
    ensure!(name.trim() == "host", "{name}");
    let hosts = cx.sh("named", "cat /etc/hosts")?;
    let line = |address: &str| -> Option<Vec<String>> {
        let all = hosts.lines().map(|l| l.split_whitespace());
        let mut all = all.map(|words| words.map(str::to_owned).collect::<Vec<_>>());
        all.find(|words| words.first().is_some_and(|first| first == address))
    };
    let aliases = line("192.0.2.7").with_context(|| hosts.clone())?;
    ensure!(aliases[1..] == ["other", "another"], "{hosts}");
    let own = line(&cx.pod_ip("named")?.to_string()).with_context(|| hosts.clone())?;
    let full = format!("host.sub.{}.svc.", cx.ns);
    ensure!(own.iter().any(|n| n.starts_with(&full)), "{hosts}");
    let resolver = cx.sh("named", "cat /etc/resolv.conf")?;
    for line in [
        "nameserver 192.0.2.53",
        "search example.test",
        "options ndots:3",
    ] {
        ensure!(resolver.lines().any(|l| l.trim() == line), "{resolver}");
    }
    Ok(())
}

pub fn processes_are_seen_by_whom_the_pod_says(cx: &Context) -> Result<()> {
    let node = "node-1";
    for shares in [true, false] {
        let name = format!("shares-{shares}");
        let mut pair = pod(&name, STAY);
        pair["spec"]["shareProcessNamespace"] = json!(shares);
        pair["spec"]["containers"] = json!([
            { "name": "main", "image": BUSYBOX, "command": ["sh", "-c", STAY] },
            { "name": "other", "image": BUSYBOX, "command": ["sh", "-c", "exec sleep 7000123"] },
        ]);
        cx.apply_json(&pair)?;
        cx.wait_ready(&name)?;
        let seen = cx.sh_in(&name, "main", "ps | grep -c 'sleep [7]000123'; true")?;
        let wanted = if shares { "1" } else { "0" };
        ensure!(seen.trim() == wanted, "{name}: {seen}");
    }
    let line = "readlink /proc/self/ns/pid";
    let nodes = cx.cluster.in_node(node, line)?.ok()?;
    for shares in [true, false] {
        let name = format!("host-{shares}");
        let mut one = pod(&name, STAY);
        one["spec"]["nodeName"] = json!(node);
        one["spec"]["hostPID"] = json!(shares);
        cx.apply_json(&one)?;
        cx.wait_ready(&name)?;
        let own = cx.sh(&name, line)?;
        ensure!(
            (own.trim() == nodes.trim()) == shares,
            "{name}: {own} beside {nodes}"
        );
    }
    Ok(())
}

/// It comes into a pod that runs, sees the processes of the container that it is for, and restarts nothing.
pub fn a_container_for_debugging_joins_a_running_pod(cx: &Context) -> Result<()> {
    cx.shell_pod("p", "exec sleep 7000124")?;
    let before = cx.field("pod p", ".status.containerStatuses[0].containerID")?;
    cx.kubectl(&format!(
        "debug p --image={BUSYBOX} --container=doctor --target=main -- sleep 1000000"
    ))?;
    eventually("it runs", || {
        let started = ".status.ephemeralContainerStatuses[0].state.running.startedAt";
        let started = cx.field("pod p", started)?;
        ensure!(!started.is_empty(), "not yet");
        Ok(())
    })?;
    let seen = cx.sh_in("p", "doctor", "ps | grep -c 'sleep [7]000124'; true")?;
    ensure!(seen.trim() == "1", "{seen}");
    let after = cx.field("pod p", ".status.containerStatuses[0].containerID")?;
    ensure!(after == before, "{after} in place of {before}");
    cx.wait_ready("p")
}
