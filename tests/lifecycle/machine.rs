//! A machine beside those of the cluster: namespaces of its own, a cable to the nodes' network,
//! and nothing shared but that.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use tests::Cluster;
use tests::command::{self, Running};

fn must(program: &str, line: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(line.split_whitespace());
    command::run(command, "")?.ok()
}

/// Flags of a node here: as those of `up`, for the disk is this machine's, and how full it is
/// belongs to no test.
pub const ROOM: &str = "--eviction-hard='memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi' \
    --image-gc-high-threshold=100";

/// Another machine; its end takes all its processes along.
pub struct Machine {
    pub init: Running,
    link: String,
}

impl Machine {
    /// A machine with its cable in the cluster's bridge. It runs one line.
    pub fn start(cluster: &Cluster, name: &str, dir: &Path, line: &str) -> Result<Self> {
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
