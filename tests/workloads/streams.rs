//! What flows between kubectl and containers: commands, files, logs, connections.

use std::io::Write;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::command::eventually;
use tests::context::{STAY, pod};
use tests::{Context, DEMO, traffic};

pub fn commands_run_in_containers(cx: &Context) -> Result<()> {
    cx.shell_pod("p", STAY)?;
    ensure!(cx.kubectl("exec p -- echo a b")? == "a b\n");
    for code in [0, 1, 7, 130] {
        let ran = cx.run(&format!("exec p -- sh -c 'exit {code}'"))?;
        ensure!(ran.code == code, "{ran:?}");
    }
    let ran = cx.run("exec p -- sh -c 'echo out; echo err >&2'")?;
    ensure!(ran.out == "out\n" && ran.err.contains("err"), "{ran:?}");
    let ran = cx.run("exec p -- /bin/none")?;
    ensure!(
        ran.code == 126 || ran.code == 127 || ran.code == 1,
        "{ran:?}"
    );
    let output = cx.refused("exec p -c none -- true")?;
    ensure!(output.contains("none"), "{output}");
    // Large output arrives whole.
    let big = cx.kubectl("exec p -- sh -c 'head -c 3000000 /dev/zero | tr \"\\0\" x'")?;
    ensure!(big.len() == 3_000_000, "{} bytes", big.len());
    Ok(())
}

pub fn standard_input_ends(cx: &Context) -> Result<()> {
    cx.shell_pod("p", STAY)?;
    ensure!(cx.run_with("exec -i p -- cat", "x\n")?.ok()? == "x\n");
    let big = "0123456789abcdef".repeat(100_000);
    let count = cx.run_with("exec -i p -- wc -c", &big)?.ok()?;
    ensure!(count.trim() == big.len().to_string(), "{count}");
    // A terminal, made by `script`: kubectl finds one and asks for one.
    let mut tty = std::process::Command::new("script");
    tty.args([
        "-qec",
        &format!(
            "kubectl exec -it p --namespace {} -- sh -c 'test -t 0 && stty size && tty'",
            cx.ns
        ),
        "/dev/null",
    ]);
    tty.env("KUBECONFIG", cx.cluster.kubeconfig());
    let shown = tests::command::run(tty, "")?.ok()?;
    ensure!(shown.contains("/dev/pts/"), "{shown}");
    Ok(())
}

/// Commands that sleep for as many seconds, in a pod.
fn sleepers(cx: &Context, pod: &str, seconds: &str) -> Result<usize> {
    // The brackets keep the search from finding itself.
    let (first, rest) = seconds.split_at(1);
    let line = format!("ps | grep -c 'sleep [{first}]{rest}'; true");
    Ok(cx.sh(pod, &line)?.trim().parse()?)
}

/// A client that is killed says nothing; its command ends all the same, with what it started, and
/// nobody else's does.
pub fn a_command_ends_with_its_client(cx: &Context) -> Result<()> {
    cx.shell_pod("p", STAY)?;
    let others = cx.start("exec p -- sh -c 'echo here; sleep 7000001; true'")?;
    others.line(|l| l == "here")?;
    let plain = cx.start("exec p -- sh -c 'echo here; sleep 7000002; true'")?;
    plain.line(|l| l == "here")?;
    let mut tty = std::process::Command::new("script");
    tty.args([
        "-qec",
        &format!(
            "kubectl exec -it p --namespace {} -- sh -c 'echo here; sleep 7000003; true'",
            cx.ns
        ),
        "/dev/null",
    ]);
    tty.env("KUBECONFIG", cx.cluster.kubeconfig());
    let tty = tests::command::Running::start(tty)?;
    tty.line(|l| l.trim() == "here")?;
    for seconds in ["7000001", "7000002", "7000003"] {
        // It is started after the word that was waited for.
        eventually(&format!("{seconds} runs"), || {
            ensure!(sleepers(cx, "p", seconds)? > 0, "it does not");
            Ok(())
        })?;
    }
    // Dropping them kills them.
    drop((plain, tty));
    for seconds in ["7000002", "7000003"] {
        eventually("the command has ended", || {
            let count = sleepers(cx, "p", seconds)?;
            ensure!(count == 0, "{count} of {seconds}");
            Ok(())
        })?;
    }
    ensure!(sleepers(cx, "p", "7000001")? > 0, "another's has ended");
    ensure!(others.is_running());
    // The container's own process is nobody's: who was attached to it may go.
    let attached = cx.start("attach p")?;
    drop(attached);
    ensure!(
        cx.field("pod p", ".status.containerStatuses[0].restartCount")? == "0",
        "the container was restarted"
    );
    Ok(())
}

pub fn a_running_container_is_attached_to(cx: &Context) -> Result<()> {
    // It says what it got until it gets more: its input may be attached before its output is.
    let mut pod = pod(
        "p",
        "read line; until read -t 1 word; do echo got $line; done; echo got $word; exit 3",
    );
    pod["spec"]["restartPolicy"] = "Never".into();
    pod["spec"]["containers"][0]["stdin"] = true.into();
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    let mut attached = cx.start("attach -i p")?;
    {
        let stdin = attached.stdin.as_mut().context("no stdin")?;
        stdin.write_all(b"one\n")?;
        stdin.flush()?;
    }
    attached.line(|l| l == "got one")?;
    if let Some(stdin) = attached.stdin.as_mut() {
        stdin.write_all(b"end\n")?;
        stdin.flush()?;
    }
    attached.line(|l| l == "got end")?;
    cx.wait("pod/p", "jsonpath={.status.phase}=Failed")?;
    attached.end()?;
    ensure!(
        cx.field(
            "pod p",
            ".status.containerStatuses[0].state.terminated.exitCode"
        )? == "3"
    );
    // It waits for its input, so that it cannot end before kubectl is attached, and says it more than
    // once.
    let program = "text=$(cat); for n in 1 2 3; do echo $text; sleep 1; done";
    let line = format!(
        "run quick --image={} --restart=Never --rm -i --command -- sh -c '{program}'",
        tests::BUSYBOX
    );
    let ran = cx.run_with(&line, "from inside\n")?;
    ensure!(ran.out.contains("from inside"), "{ran:?}");
    Ok(())
}

pub fn files_are_copied_both_ways(cx: &Context) -> Result<()> {
    cx.shell_pod("p", STAY)?;
    let dir = cx.cluster.scratch()?.join("copied");
    std::fs::create_dir_all(&dir)?;
    let text = "0123456789\n".repeat(50_000);
    std::fs::write(dir.join("there"), &text)?;
    cx.kubectl(&format!("cp {} p:/tmp/file", dir.join("there").display()))?;
    ensure!(cx.sh("p", "wc -c < /tmp/file")?.trim() == text.len().to_string());
    cx.kubectl(&format!("cp p:/tmp/file {}", dir.join("back").display()))?;
    ensure!(
        std::fs::read_to_string(dir.join("back"))? == text,
        "the file came back changed"
    );
    Ok(())
}

pub fn logs_are_followed_and_cut(cx: &Context) -> Result<()> {
    let line = "for i in 1 2 3; do echo line $i; done; while test ! -e /tmp/go; do sleep 0.1; done; echo last; while test ! -e /tmp/end; do sleep 0.1; done";
    let mut pod = pod("p", line);
    pod["spec"]["restartPolicy"] = "Never".into();
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    let mut follow = cx.start("logs -f p")?;
    follow.line(|l| l == "line 3")?;
    ensure!(cx.logs("p")? == "line 1\nline 2\nline 3\n");
    cx.sh("p", "touch /tmp/go")?;
    follow.line(|l| l == "last")?;
    ensure!(cx.logs("p --tail=2")? == "line 3\nlast\n");
    ensure!(cx.logs("p --since=1h")?.lines().count() == 4);
    ensure!(cx.logs("p --limit-bytes=6")? == "line 1");
    let stamped = cx.logs("p --timestamps --tail=1")?;
    ensure!(
        stamped.contains("T") && stamped.ends_with(" last\n"),
        "{stamped}"
    );
    ensure!(cx.logs("-l app=p --prefix")?.contains("[pod/p/main] last"));
    cx.sh("p", "touch /tmp/end")?;
    ensure!(
        follow.end()? == 0,
        "following ends with the container: {}",
        follow.text()
    );
    cx.wait("pod/p", "jsonpath={.status.phase}=Succeeded")?;
    ensure!(
        cx.logs("p")?.ends_with("last\n"),
        "logs outlive the container"
    );
    Ok(())
}

pub fn logs_of_the_last_container_are_kept(cx: &Context) -> Result<()> {
    let mut pod = pod(
        "p",
        "if test -e /v/second; then echo second; exec sleep 1000000; fi; touch /v/second; echo first; exit 1",
    );
    pod["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    cx.apply_json(&pod)?;
    cx.wait(
        "pod/p",
        "jsonpath={.status.containerStatuses[0].restartCount}=1",
    )?;
    cx.wait_ready("p")?;
    ensure!(cx.logs("p --previous")? == "first\n");
    cx.wait_logs("p", "second\n")?;
    let last = cx.field(
        "pod p",
        ".status.containerStatuses[0].lastState.terminated.exitCode",
    )?;
    ensure!(last == "1", "{last}");
    Ok(())
}

pub fn ports_are_forwarded(cx: &Context) -> Result<()> {
    let mut pod = pod("p", "");
    pod["spec"]["containers"] = json!([{ "name": "web", "image": DEMO, "readinessProbe": { "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 1 } }]);
    cx.apply_json(&pod)?;
    cx.wait_ready("p")?;
    let forward = cx.start("port-forward pod/p :8080")?;
    let line = forward.line(|l| l.contains("Forwarding from 127.0.0.1:"))?;
    let port: u16 = line
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .context("no port")?
        .parse()?;
    // Several connections, one after the other and side by side.
    let address = ([127, 0, 0, 1], port).into();
    for _ in 0..3 {
        ensure!(traffic::get(address, "/hostname")?.trim() == "p");
    }
    let together: Vec<_> = (0..4)
        .map(|_| std::thread::spawn(move || traffic::get(address, "/hostname")))
        .collect();
    for answer in together {
        let answer = answer.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        ensure!(answer.trim() == "p", "{answer}");
    }
    Ok(())
}

/// Asks the pod itself and its Service, by number and by name, as `kubectl get --raw` does.
pub fn pods_are_reached_through_the_api_server(cx: &Context) -> Result<()> {
    cx.apply_json(&tests::context::web("web", 1))?;
    cx.apply_json(&tests::context::service("web", "web", "ClusterIP"))?;
    cx.wait_rollout("deployment/web")?;
    cx.wait_endpoints("web", 1)?;
    let name = cx.pods("app=web")?.pop().context("no pod")?;
    let ns = format!("/api/v1/namespaces/{}", cx.ns);
    for place in [
        format!("pods/{name}"),
        format!("pods/{name}:8080"),
        format!("pods/http:{name}:8080"),
        "services/web:80".into(),
        "services/web:http".into(),
        "services/http:web:http".into(),
    ] {
        // The server may hear of an endpoint after who asks for slices.
        let output = eventually(&format!("{place} answers"), || {
            cx.kubectl(&format!("get --raw {ns}/{place}/proxy/hostname"))
        })?;
        ensure!(output.trim() == name, "{place}: {output}");
    }
    let refused = cx.refused(&format!("get --raw {ns}/pods/{name}:81/proxy/"))?;
    ensure!(refused.contains("connection refused"), "{refused}");
    Ok(())
}

/// Two pods with one port, at different addresses of the node or by different protocols.
pub fn host_ports_differ_by_address_and_protocol(cx: &Context) -> Result<()> {
    let node = cx.cluster.node_names().pop().context("no nodes")?;
    let ip = cx.field(&format!("node {node}"), ".status.addresses[0].address")?;
    for (name, protocol, address) in [
        ("loopback", "TCP", "127.0.0.1"),
        ("address", "TCP", ip.as_str()),
        ("datagram", "UDP", ip.as_str()),
    ] {
        let mut pod = pod(name, "");
        pod["spec"]["nodeName"] = node.as_str().into();
        pod["spec"]["containers"] = json!([{ "name": "web", "image": DEMO, "ports": [{
            "containerPort": 8080, "hostPort": 54_321, "hostIP": address, "protocol": protocol,
        }] }]);
        cx.apply_json(&pod)?;
    }
    for name in ["loopback", "address", "datagram"] {
        cx.wait_ready(name)?;
    }
    let mut host = pod("host", STAY);
    host["spec"]["nodeName"] = node.as_str().into();
    host["spec"]["hostNetwork"] = true.into();
    cx.apply_json(&host)?;
    cx.wait_ready("host")?;
    for (address, name) in [("127.0.0.1", "loopback"), (ip.as_str(), "address")] {
        let line = format!("wget -qO- http://{address}:54321/hostname");
        // A container that runs need not listen yet.
        let output = eventually(&format!("{name} answers"), || cx.sh("host", &line))?;
        ensure!(output.trim() == name, "{address}: {output}");
    }
    cx.kubectl("delete pod loopback address datagram")?;
    cx.wait("pod/address", "delete")?;
    // Without time to end, objects go before their containers.
    eventually("nobody answers any more", || {
        let left = cx.sh(
            "host",
            &format!("wget -qO- -T 5 http://{ip}:54321/hostname || echo none"),
        )?;
        ensure!(left.trim() == "none", "{left}");
        Ok(())
    })
}
