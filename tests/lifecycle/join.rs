//! A further machine joins: namespaces of its own, a cable to the nodes' network, and nothing
//! shared but that.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tests::command::{self, Running, eventually};
use tests::context::{STAY, pod};
use tests::{Cluster, Context};

fn must(program: &str, line: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(line.split_whitespace());
    command::run(command, "")?.ok()
}

fn token(cluster: &Cluster) -> Result<String> {
    let mut create = cluster.tiphys(&["token", "create", "--hours=1", "--kubeconfig"]);
    create.arg(cluster.kubeconfig());
    Ok(command::run(create, "")?.ok()?.trim().to_owned())
}

/// Another machine; its end takes all its processes along.
struct Machine {
    init: Running,
    link: String,
}

impl Machine {
    /// A machine with its cable in the cluster's bridge. It runs one line.
    fn start(cluster: &Cluster, name: &str, dir: &Path, line: &str) -> Result<Self> {
        let ids = tests::traces::ids(&cluster.data());
        let bridge = format!("tph-{}", ids.first().context("the cluster has no name")?);
        let link = format!("tpt-{}", std::process::id() % 1_000_000);
        std::fs::create_dir_all(dir.join("kubelet"))?;
        // What a booted machine has: mounts, network, processes and a name of its own.
        let script = format!(
            "set -e; hostname {name}; mount -t tmpfs tmpfs /run; mkdir -p /var/lib/kubelet; \
             mount --bind {dir}/kubelet /var/lib/kubelet; mount --make-rshared /; \
             echo ready; read cable; ip link set lo up; ip addr add {ip}/24 dev eth0; \
             ip link set eth0 up; ip route add default via {gateway}; \
             echo 1 > /proc/sys/net/ipv4/ip_forward; exec {line}",
            dir = dir.display(),
            ip = cluster.slot.spare_node_ip(),
            gateway = cluster.slot.bridge_ip(),
        );
        let mut unshare = Command::new("unshare");
        unshare.args([
            "--mount",
            "--net",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
        ]);
        unshare.args(["--mount-proc", "--propagation=private", "sh", "-c", &script]);
        let mut machine = Self {
            init: Running::start(unshare)?,
            link: link.clone(),
        };
        machine.init.line(|l| l == "ready")?;
        let pid = machine.init.child_pid()?;
        must(
            "ip",
            &format!("link add {link} type veth peer name eth0 netns {pid}"),
        )?;
        must("ip", &format!("link set {link} master {bridge} up"))?;
        machine
            .init
            .stdin
            .as_mut()
            .context("no stdin")?
            .write_all(b"plugged\n")?;
        Ok(machine)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = must("ip", &format!("link del {}", self.link));
        let _ = self.init.signal(rustix::process::Signal::KILL);
    }
}

/// The agent's command line, as a person types it on another machine.
fn agent(cluster: &Cluster, token: &str, dir: &Path) -> String {
    format!(
        "{} node --server https://{}:{} --token {token} --data-dir {} --images {} --service-cidr {} --pod-cidr {}",
        cluster.binary().display(),
        cluster.slot.bridge_ip(),
        cluster.slot.port(),
        dir.join("node").display(),
        cluster.data().join("images").display(),
        cluster.slot.service_cidr(),
        cluster.slot.pod_cidr(),
    )
}

pub fn a_machine_joins_with_a_token(cx: &Context) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("tiphys-other-").tempdir()?;
    let line = agent(cx.cluster, &token(cx.cluster)?, dir.path());
    let machine = Machine::start(cx.cluster, "other", dir.path(), &line)?;
    join(cx, &machine).with_context(|| machine.init.text())?;
    drop(machine);
    cx.wait("node/other", "condition=Ready=Unknown")?;
    cx.kubectl("delete node other").map(drop)
}

fn join(cx: &Context, machine: &Machine) -> Result<()> {
    eventually("the node registers or ends", || {
        if !machine.init.is_running() {
            return Ok(String::new());
        }
        cx.kubectl("get node other -o name")
    })?;
    ensure!(machine.init.is_running(), "it ended");
    cx.wait("node/other", "condition=Ready")?;
    for (name, node) in [("there", "other"), ("here", "node-1")] {
        let mut pod = pod(name, STAY);
        pod["spec"]["nodeName"] = node.into();
        cx.apply_json(&pod)?;
    }
    cx.wait_ready("there")?;
    cx.wait_ready("here")?;
    for (from, to) in [("here", "there"), ("there", "here")] {
        let ip = cx.pod_ip(to)?;
        eventually("the route is there", || {
            cx.sh(from, &format!("ping -c 1 -W 5 {ip}"))
        })?;
    }
    ensure!(
        cx.kubectl("get csr --no-headers")?
            .contains("Approved,Issued")
    );
    cx.kubectl("delete pods --all --force --grace-period=0")
        .map(drop)
}

pub fn a_wrong_token_is_refused(cx: &Context) -> Result<()> {
    let good = token(cx.cluster)?;
    let (head, secret) = good.rsplit_once('.').context("a token has parts")?;
    let dir = tempfile::Builder::new().prefix("tiphys-other-").tempdir()?;
    // Another secret, and another cluster's CA: then the token is not even sent.
    let other_ca = match head.char_indices().find(|(_, c)| c.is_ascii_digit()) {
        Some((at, _)) => format!("{}f{}.{secret}", &head[..at], &head[at + 1..]),
        None => good.replacen('a', "b", 1),
    };
    // The agent tells, and goes on trying: the token may be made later, the server mended.
    for (wrong, told) in [
        (format!("{head}.0000000000000000"), "Unauthorized"),
        (other_ca, "is not the server that the token is for"),
    ] {
        let line = agent(cx.cluster, &wrong, dir.path());
        let machine = Machine::start(cx.cluster, "stranger", dir.path(), &line)?;
        machine.init.line(|l| l.contains(told))?;
        cx.refused("get node stranger")?;
    }
    let line = agent(cx.cluster, "nonsense", dir.path());
    let mut machine = Machine::start(cx.cluster, "stranger", dir.path(), &line)?;
    ensure!(
        machine.init.end()? != 0,
        "it joined: {}",
        machine.init.text()
    );
    ensure!(
        machine.init.text().contains("this is no join token"),
        "{}",
        machine.init.text()
    );
    Ok(())
}
