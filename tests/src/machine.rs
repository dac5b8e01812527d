//! A machine beside those of the cluster: namespaces of its own, a cable to the nodes' network,
//! and nothing shared but that.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::Cluster;
use crate::command::{self, Ran, Running};

/// A connection that hangs is tried again by who waits for it.
const GET_SECONDS: u32 = 3;

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
        let ids = crate::traces::ids(&cluster.data());
        let bridge = format!("tph-{}", ids.first().context("the cluster has no name")?);
        let link = format!("tpt-{}", std::process::id() % 1_000_000);
        for folder in ["kubelet", "pod-logs", "container-logs"] {
            std::fs::create_dir_all(dir.join(folder))?;
        }
        // What a booted machine has: mounts, network, processes and a name of its own.
        let script = format!(
            "set -e; hostname {name}; mount -t tmpfs tmpfs /run; \
             mkdir -p /var/lib/kubelet /var/log/pods /var/log/containers; \
             mount --bind {dir}/kubelet /var/lib/kubelet; \
             mount --bind {dir}/pod-logs /var/log/pods; \
             mount --bind {dir}/container-logs /var/log/containers; mount --make-rshared /; \
             echo ready; read cable; ip link set lo up; ip addr add {ip}/24 dev eth0; \
             {six}ip link set eth0 up; ip route add default via {gateway}; \
             echo 1 > /proc/sys/net/ipv4/ip_forward; exec {line}",
            dir = dir.display(),
            ip = cluster.slot.spare_node_ip(),
            gateway = cluster.slot.bridge_ip(),
            // Nobody else has it: it can be used at once.
            six = match cluster.has_ipv6() {
                true => format!(
                    "ip -6 addr add {}/64 dev eth0 nodad; ",
                    cluster.slot.spare_node_ip6()
                ),
                false => String::new(),
            },
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

    /// A machine that does nothing by itself.
    pub fn idle(cluster: &Cluster, name: &str, dir: &Path) -> Result<Self> {
        Self::start(cluster, name, dir, "sleep 1000000")
    }

    /// Runs a line on it, as on its console.
    pub fn run(&self, line: &str) -> Result<Ran> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.init.child_pid()?))
            .args(["--mount", "--net", "--pid", "sh", "-c", line]);
        command::run(command, "")
    }

    /// GETs a path over a new connection and gives the body without white space around it.
    pub fn get(&self, address: &str, path: &str) -> Result<String> {
        self.get_within(GET_SECONDS, address, path)
    }

    /// The same within so many seconds, for who asks again and again until something answers.
    pub fn get_within(&self, seconds: u32, address: &str, path: &str) -> Result<String> {
        let line = format!("busybox timeout {seconds} busybox wget -q -O - http://{address}{path}");
        Ok(self.run(&line)?.ok()?.trim().to_owned())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = must("ip", &format!("link del {}", self.link));
        let _ = self.init.signal(rustix::process::Signal::KILL);
    }
}
