//! A node or server on this machine: `node-boot` makes its namespaces and starts the init, which
//! mounts what a machine has of its own, waits for its network, runs its programs and takes in
//! orphans. The end of the init is the end of everything in it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use host::netlink::{Netlink, Route};
use host::nft::Prefix;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{Pid, Signal, WaitOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::process;

/// What the init is given on its command line.
#[derive(Clone, Debug)]
pub struct InitArgs {
    pub name: String,
    /// The node's own folder below the data directory.
    pub dir: PathBuf,
    /// Its addresses with the networks that they are in.
    pub addresses: Vec<Prefix>,
    /// The way out of its network; none where there is none.
    pub gateway: Option<IpAddr>,
    /// Cgroup of the node, below each hierarchy's root: `/tiphys/<id>/<name>`.
    pub cgroup: String,
    /// What runs in it, in the order of their start: command lines with their binaries.
    pub programs: Vec<Vec<String>>,
}

#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("cannot make namespaces (root is needed): {0}")]
    Namespaces(io::Error),
    #[error("cannot start the node's init: {0}")]
    Init(io::Error),
    #[error("cannot {what}: {source}")]
    Setup {
        what: &'static str,
        source: io::Error,
    },
    #[error("network: {0}")]
    Network(String),
}

/// Makes the namespaces, starts `init_args` in them as PID 1 and returns its PID as seen here.
/// Call it before any other thread runs.
pub fn boot(binary: &Path, init_args: &[String]) -> Result<u32, BootError> {
    host::namespaces::unshare_node().map_err(BootError::Namespaces)?;
    // Inherited by the init, whose allocator takes its first pages before `main`.
    process::allow_huge_pages(false);
    let child = Command::new(binary)
        .args(init_args)
        .stdin(Stdio::null())
        // The reader of our output waits for its end: the init must not hold it.
        .stdout(Stdio::null())
        .spawn()
        .map_err(BootError::Init)?;
    Ok(child.id())
}

fn step<T, E: Into<io::Error>>(what: &'static str, result: Result<T, E>) -> Result<T, BootError> {
    result.map_err(|e| BootError::Setup {
        what,
        source: e.into(),
    })
}

/// The mounts of a machine that has just started: own /proc, empty /run, a boot ID of its own.
fn mounts(args: &InitArgs) -> Result<(), BootError> {
    let flags = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    step("make mounts private", mount_change("/", flags))?;
    let none = MountFlags::NOSUID | MountFlags::NODEV;
    step(
        "mount /proc",
        mount("proc", "/proc", "proc", none | MountFlags::NOEXEC, None),
    )?;
    step(
        "mount /run",
        mount("tmpfs", "/run", "tmpfs", none, c"mode=755,size=256m"),
    )?;
    let boot_id = Path::new("/run/boot_id");
    step(
        "write the boot ID",
        fs::write(boot_id, format!("{}\n", uuid::Uuid::new_v4())),
    )?;
    step(
        "set the boot ID",
        mount_bind(boot_id, "/proc/sys/kernel/random/boot_id"),
    )?;
    let kubelet = args.dir.join("kubelet");
    step("make the kubelet's folder", fs::create_dir_all(&kubelet))?;
    step(
        "make /var/lib/kubelet",
        fs::create_dir_all("/var/lib/kubelet"),
    )?;
    step(
        "bind /var/lib/kubelet",
        mount_bind(&kubelet, "/var/lib/kubelet"),
    )?;
    // Volumes that pods mount must be seen in containers, and theirs here.
    let shared = MountPropagationFlags::REC | MountPropagationFlags::SHARED;
    step("share mounts below the node", mount_change("/", shared))
}

/// Joins the node's cgroup in every hierarchy, so that all it starts is counted there.
fn join_cgroup(cgroup: &str) -> Result<(), BootError> {
    for root in hierarchies() {
        let dir = root.join(cgroup.trim_start_matches('/'));
        if dir.is_dir() {
            step(
                "join the node's cgroup",
                fs::write(dir.join("cgroup.procs"), "0"),
            )?;
        }
    }
    Ok(())
}

/// The mounted cgroup hierarchies: one with v2, one per controller with v1.
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_else(|e| {
        tracing::error!("/proc/self/mounts: {e}; no hierarchy of cgroups is found");
        String::new()
    });
    cgroup_mounts(&mounts)
}

fn cgroup_mounts(mounts: &str) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (dir, fstype) = (words.nth(1)?, words.next()?);
            matches!(fstype, "cgroup" | "cgroup2").then(|| PathBuf::from(dir))
        })
        .collect();
    dirs.dedup();
    dirs
}

/// Time that the supervisor has to give the node its link before the init gives up.
const LINK_TIMEOUT: Duration = Duration::from_secs(20);
/// Between looks for the link; it appears within milliseconds.
const LINK_POLL: Duration = Duration::from_millis(5);

/// Routes that were set at boot, as `rt_protos` numbers them.
const BOOT_PROTOCOL: u8 = 3;

async fn network(args: &InitArgs) -> Result<(), BootError> {
    let failed = |e: &dyn std::fmt::Display| BootError::Network(e.to_string());
    let netlink = Netlink::connect().map_err(|e| failed(&e))?;
    let mut unknown = None;
    let wait = async {
        loop {
            match netlink.find_link("eth0").await {
                Ok(Some(link)) => return link,
                Ok(None) => unknown = None,
                Err(e) => unknown = Some(e),
            }
            tokio::time::sleep(LINK_POLL).await;
        }
    };
    let found = tokio::time::timeout(LINK_TIMEOUT, wait).await;
    let link = found.map_err(|_| match &unknown {
        None => BootError::Network("no link eth0 was given to this node".into()),
        Some(e) => failed(&format!("whether there is a link eth0: {e}")),
    })?;
    let lo = netlink.link("lo").await.map_err(|e| failed(&e))?;
    netlink.set_up(lo.index).await.map_err(|e| failed(&e))?;
    if args.addresses.iter().any(|a| a.address.is_ipv6()) {
        // Nobody else is on the link who could have the address, or be a router.
        for (parameter, value) in [
            ("disable_ipv6", "0"),
            ("accept_dad", "0"),
            ("accept_ra", "0"),
        ] {
            let name = format!("net/ipv6/conf/eth0/{parameter}");
            host::sysctl::set(&name, value).map_err(|e| failed(&format!("{name}: {e}")))?;
        }
    }
    for address in &args.addresses {
        netlink
            .add_address(link.index, *address)
            .await
            .map_err(|e| failed(&e))?;
    }
    netlink.set_up(link.index).await.map_err(|e| failed(&e))?;
    let Some(gateway) = args.gateway else {
        return Ok(());
    };
    let everywhere = Prefix {
        address: match gateway {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        },
        length: 0,
    };
    let mut route = Route::to(everywhere, BOOT_PROTOCOL);
    route.gateway = Some(gateway);
    route.link = Some(link.index);
    netlink.set_route(&route).await.map_err(|e| failed(&e))
}

/// Waits between two starts of a program that keeps dying: 1 s, doubled up to 30 s.
fn restart_delay(failures: u32) -> Duration {
    Duration::from_secs(1u64 << failures.min(5)).min(Duration::from_secs(30))
}
/// A program that ran for so long has not failed to start.
const LONG_ENOUGH: Duration = Duration::from_secs(60);

/// A program of the init.
struct Program {
    command: Vec<String>,
    pid: Option<i32>,
    started: Instant,
    /// In a row.
    failures: u32,
    /// Since the machine booted.
    restarts: u32,
    next_start: Option<Instant>,
}

impl Program {
    fn new(command: Vec<String>) -> Self {
        let now = Instant::now();
        Self {
            command,
            pid: None,
            started: now,
            failures: 0,
            restarts: 0,
            next_start: Some(now),
        }
    }

    fn start(&mut self) -> Result<(), BootError> {
        let (binary, args) = self.command.split_first().ok_or_else(nothing_to_run)?;
        let mut command = Command::new(binary);
        command.args(args).stdin(Stdio::null());
        let child = process::inheriting_nothing(|| command.spawn());
        let id = child.map_err(BootError::Init)?.id();
        self.pid = Some(i32::try_from(id).map_err(|e| BootError::Init(io::Error::other(e)))?);
        self.started = Instant::now();
        self.next_start = None;
        Ok(())
    }

    fn ended(&mut self) {
        self.pid = None;
        if self.started.elapsed() > LONG_ENOUGH {
            self.failures = 0;
        }
        self.next_start = Some(Instant::now() + restart_delay(self.failures));
        self.failures += 1;
        self.restarts += 1;
        let name = self.command.first().map_or("", String::as_str);
        tracing::warn!("{name} ended; it is started again");
    }
}

fn nothing_to_run() -> BootError {
    BootError::Init(io::Error::other("no program was named"))
}

/// The init of a machine: runs until it is asked to end (TERM).
pub async fn init(args: InitArgs) -> Result<(), BootError> {
    join_cgroup(&args.cgroup)?;
    mounts(&args)?;
    step(
        "set the host name",
        rustix::system::sethostname(args.name.as_bytes()),
    )?;
    network(&args).await?;
    let mut children = step("watch children", signal(SignalKind::child()))?;
    let mut term = step("watch TERM", signal(SignalKind::terminate()))?;
    let mut programs: Vec<Program> = args.programs.iter().cloned().map(Program::new).collect();
    loop {
        let now = Instant::now();
        for program in programs.iter_mut() {
            if program.next_start.is_some_and(|at| at <= now) {
                program.start()?;
            }
        }
        tokio::select! {
            _ = term.recv() => break,
            _ = children.recv() => {}
            () = until(programs.iter().filter_map(|p| p.next_start).min()) => {}
        }
        let mut died = false;
        for ended in reap_all() {
            for program in programs.iter_mut().filter(|p| p.pid == Some(ended)) {
                program.ended();
                died = true;
            }
        }
        if died {
            report_restarts(&args.dir, programs.iter().map(|p| p.restarts).sum());
        }
    }
    shut_down(&programs, &mut children).await;
    Ok(())
}

/// Where the init of a machine leaves how often its programs were started again.
pub fn restarts_file(dir: &Path) -> PathBuf {
    dir.join("restarts")
}

fn report_restarts(dir: &Path, restarts: u32) {
    let path = restarts_file(dir);
    if let Err(e) = fs::write(&path, restarts.to_string()) {
        tracing::warn!("{}: {e}", path.display());
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn reap_all() -> Vec<i32> {
    let mut ended = Vec::new();
    while let Ok(Some((pid, _))) = rustix::process::wait(WaitOptions::NOHANG) {
        ended.push(pid.as_raw_nonzero().get());
    }
    ended
}

/// Time for each program to end by itself, and then for everything else, as in a machine's
/// shutdown.
const PROGRAM_PATIENCE: Duration = Duration::from_secs(3);
const OTHERS_PATIENCE: Duration = Duration::from_secs(2);

async fn shut_down(programs: &[Program], children: &mut tokio::signal::unix::Signal) {
    // The last one needs those before it.
    for pid in programs.iter().rev().filter_map(|p| p.pid) {
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let gone = async {
            while process::start_ticks(pid).is_some() {
                children.recv().await;
                reap_all();
            }
        };
        let _ = tokio::time::timeout(PROGRAM_PATIENCE, gone).await;
    }
    for other in other_processes() {
        let _ = rustix::process::kill_process(other, Signal::TERM);
    }
    let gone = async {
        while !other_processes().is_empty() {
            children.recv().await;
            reap_all();
        }
    };
    let _ = tokio::time::timeout(OTHERS_PATIENCE, gone).await;
    // What is left is killed by the kernel when this process, the first of its namespace, ends.
}

fn other_processes() -> Vec<Pid> {
    let all = match procfs::process::all_processes() {
        Ok(all) => all,
        Err(e) => {
            tracing::error!("the processes of the machine cannot be listed: {e}");
            return Vec::new();
        }
    };
    all.filter_map(|p| Pid::from_raw(p.ok()?.pid))
        .filter(|p| !p.is_init())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let v1 = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                  tmpfs /run tmpfs rw 0 0\n\
                  cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let dirs = cgroup_mounts(v1);
        assert_eq!(
            dirs,
            [
                Path::new("/sys/fs/cgroup/cpu"),
                Path::new("/sys/fs/cgroup/unified")
            ]
        );
        assert!(cgroup_mounts("").is_empty());
    }

    #[test]
    fn restarts_slow_down() {
        assert_eq!(restart_delay(0).as_secs(), 1);
        assert_eq!(restart_delay(9).as_secs(), 30);
    }
}
