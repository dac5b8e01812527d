//! `up`: brings the cluster's processes to life, one keeper per child, and ends them.
//!
//! ```text
//! Starting ──started──▶ Running ──process ended──▶ Waiting (back-off) ──▶ Starting
//!     ▲                    │ stop asked                │ stop asked
//!     └── start asked ── Stopped ◀────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use host::netlink::Netlink;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bridge;
use crate::config::{ClusterConfig, NodeConfig};
use crate::control::{self, Answer, Request};
use crate::layout::Layout;
use crate::process::{self, ProcessError, Record};
use crate::report::{ChildReport, Report, processes_of};

#[derive(Debug, thiserror::Error)]
pub enum UpError {
    #[error("another `tiphys up` runs on {0}")]
    Busy(String),
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Bridge(#[from] bridge::BridgeError),
    #[error("netlink: {0}")]
    Netlink(String),
    #[error("{0}")]
    Config(String),
}

fn file_error(path: &std::path::Path) -> impl FnOnce(io::Error) -> UpError + '_ {
    move |source| UpError::File {
        path: path.display().to_string(),
        source,
    }
}

/// Nodes that `up` makes share the machine's disk with all that its owner keeps there: a share of
/// it says nothing, so they need room to work in, and images that no registry could give back
/// stay.
const SHARED_DISK: [&str; 2] = [
    "--eviction-hard=memory.available<100Mi,nodefs.available<1Gi,nodefs.inodesFree<1%,imagefs.available<1Gi,pid.available<3%",
    "--image-gc-high-threshold=100",
];

/// A child of the supervisor.
#[derive(Clone, Debug)]
enum Child {
    Server,
    Node { config: NodeConfig, port: String },
}

impl Child {
    fn name(&self) -> &str {
        match self {
            Self::Server => "server",
            Self::Node { config, .. } => &config.name,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Starting,
    Running(Record),
    Waiting,
    Stopped,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Run,
    /// Pull the plug.
    Kill,
    /// Ask, then pull.
    End,
}

/// Time that a child gets to end by itself.
const PATIENCE: Duration = Duration::from_secs(15);

/// What all keepers share.
struct Shared {
    layout: Layout,
    config: ClusterConfig,
    netlink: Netlink,
}

impl Shared {
    fn bridge(&self) -> String {
        bridge::bridge_name(&self.layout.id())
    }

    fn server_args(&self) -> Vec<String> {
        let c = &self.config;
        let mut args = vec![
            "server".to_owned(),
            format!("--data-dir={}", self.layout.server().display()),
            format!("--port={}", c.port),
            format!("--service-cidr={}", c.service_cidr),
            format!("--pod-cidr={}", c.pod_cidr),
            format!("--cluster-domain={}", c.cluster_domain),
            format!(
                "--kubeconfig-out={}",
                self.layout.admin_kubeconfig().display()
            ),
            format!("--ready-file={}", self.layout.server_ready().display()),
        ];
        args.extend(c.bridge_ip().map(|ip| format!("--advertise-address={ip}")));
        args.extend(c.server_args.iter().cloned());
        args
    }

    fn cgroup(&self, node: &NodeConfig) -> String {
        format!("/tiphys-{}/{}", self.layout.id(), node.name)
    }

    fn agent_args(&self, node: &NodeConfig) -> Vec<String> {
        let c = &self.config;
        let server = c
            .bridge_ip()
            .map_or_else(String::new, |ip| format!("https://{ip}:{}", c.port));
        let mut args = vec![
            "node".to_owned(),
            format!("--server={server}"),
            format!("--token-file={}", self.layout.node_token().display()),
            format!("--name={}", node.name),
            format!("--node-ip={}", node.ip),
            format!("--data-dir={}", self.layout.node(&node.name).display()),
            format!("--images={}", self.layout.images().display()),
            format!("--cgroup={}", self.cgroup(node)),
            format!("--capacity-cpu={}m", node.cpu_millis),
            format!("--capacity-memory={}", node.memory_bytes),
            format!("--max-pods={}", node.pods),
            format!("--service-cidr={}", c.service_cidr),
            format!("--pod-cidr={}", c.pod_cidr),
            format!("--cluster-domain={}", c.cluster_domain),
        ];
        args.extend(SHARED_DISK.map(str::to_owned));
        args.extend(c.node_args.iter().cloned());
        args
    }

    fn boot_args(&self, node: &NodeConfig) -> Vec<String> {
        let c = &self.config;
        let mut args = vec![
            "node-boot".to_owned(),
            format!("--name={}", node.name),
            format!("--dir={}", self.layout.node(&node.name).display()),
            format!("--ip={}/{}", node.ip, c.node_cidr.prefix),
            format!(
                "--gateway={}",
                c.bridge_ip().map_or_else(String::new, |ip| ip.to_string())
            ),
            format!("--cgroup={}", self.cgroup(node)),
            "--".to_owned(),
        ];
        args.extend(self.agent_args(node));
        args
    }

    /// Starts a child and records it.
    async fn start(&self, child: &Child, restarts: u32) -> Result<Record, UpError> {
        let binary = self.layout.binary();
        let log = self.layout.log(child.name());
        let pid = match child {
            Child::Server => {
                let ready = self.layout.server_ready();
                match fs::remove_file(&ready) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(file_error(&ready)(e));
                    }
                    _ => {}
                }
                process::spawn(&binary, &self.server_args(), &log)?
            }
            Child::Node { config, port } => {
                self.make_cgroup(config)?;
                let dir = self.layout.node(&config.name);
                fs::create_dir_all(&dir).map_err(file_error(&dir))?;
                let pid = process::spawn_reporting(&binary, &self.boot_args(config), &log)?;
                bridge::plug(&self.netlink, &self.bridge(), port, pid.unsigned_abs()).await?;
                pid
            }
        };
        let died = || ProcessError::Died {
            what: child.name().into(),
            log: log.display().to_string(),
        };
        let record = Record::of(pid, now(), restarts).ok_or_else(died)?;
        record.write(&self.layout.record(child.name()))?;
        Ok(record)
    }

    /// A fresh cgroup for the node in every hierarchy, limited to its declared memory.
    fn make_cgroup(&self, node: &NodeConfig) -> Result<(), UpError> {
        let path = self.cgroup(node);
        remove_cgroup(&path);
        for root in crate::boot::hierarchies() {
            let dir = root.join(path.trim_start_matches('/'));
            if fs::create_dir_all(&dir).is_err() {
                // A hierarchy that is mounted read-only or is of no use to us (named ones).
                continue;
            }
            for (file, value) in [
                ("memory.limit_in_bytes", node.memory_bytes.to_string()),
                ("memory.max", node.memory_bytes.to_string()),
                // A child of cpuset v1 starts without CPUs and takes no process until it has some.
                ("cgroup.clone_children", "1".into()),
            ] {
                let file = dir.join(file);
                if file.exists()
                    && let Err(e) = fs::write(&file, value)
                {
                    tracing::warn!("{}: {e}", file.display());
                }
            }
            copy_cpuset(&root, &path);
        }
        Ok(())
    }

    /// What a dead child leaves on the machine.
    async fn clean_up(&self, child: &Child) {
        let _ = fs::remove_file(self.layout.record(child.name()));
        if let Child::Node { config, port } = child {
            if let Err(e) = bridge::unplug(&self.netlink, port).await {
                tracing::warn!("{e}");
            }
            remove_cgroup(&self.cgroup(config));
        }
    }
}

/// cgroup v1 cpusets are empty until they are filled from their parent, level by level.
fn copy_cpuset(root: &std::path::Path, path: &str) {
    let mut dir = root.to_owned();
    for part in path.trim_start_matches('/').split('/') {
        let parent = dir.clone();
        dir.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (Ok(value), Ok(own)) = (
                fs::read_to_string(parent.join(file)),
                fs::read_to_string(dir.join(file)),
            ) else {
                continue;
            };
            if own.trim().is_empty() {
                let _ = fs::write(dir.join(file), value.trim());
            }
        }
    }
}

/// Removes a cgroup and all below it, deepest first. Its processes must have ended; what is busy
/// stays (and is tried again at the next boot).
fn remove_cgroup(path: &str) {
    fn remove(dir: &std::path::Path) {
        if let Ok(entries) = fs::read_dir(dir) {
            for entry in entries.filter_map(Result::ok) {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    remove(&entry.path());
                }
            }
        }
        let _ = fs::remove_dir(dir);
    }
    for root in crate::boot::hierarchies() {
        remove(&root.join(path.trim_start_matches('/')));
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Back-off between starts: 0.2 s, doubled up to 20 s; a run of a minute starts it anew.
fn delay(failures: u32) -> Duration {
    Duration::from_millis(200 << failures.min(7)).min(Duration::from_secs(20))
}
const LONG_ENOUGH: i64 = 60;

/// Keeps one child as it is wished until the wish is to end.
async fn keep(
    shared: Arc<Shared>,
    child: Child,
    mut wish: watch::Receiver<Wish>,
    phase: watch::Sender<Phase>,
) {
    let record_path = shared.layout.record(child.name());
    let mut adopted = Record::read(&record_path).filter(Record::is_alive);
    let (mut failures, mut restarts) = (0, adopted.as_ref().map_or(0, |r| r.restarts));
    loop {
        if *wish.borrow_and_update() != Wish::Run {
            if let Some(record) = adopted.take() {
                process::stop(&record, PATIENCE).await;
            }
            shared.clean_up(&child).await;
            phase.send_replace(Phase::Stopped);
            if *wish.borrow() == Wish::End || wish.changed().await.is_err() {
                return;
            }
            continue;
        }
        let record = match adopted.take() {
            Some(record) => record,
            None => match shared.start(&child, restarts).await {
                Ok(record) => record,
                Err(e) => {
                    tracing::error!("{}: {e}", child.name());
                    phase.send_replace(Phase::Waiting);
                    wait(&mut wish, delay(failures)).await;
                    failures += 1;
                    continue;
                }
            },
        };
        phase.send_replace(Phase::Running(record.clone()));
        tokio::select! {
            () = process::ended(&record) => {
                tracing::warn!("{} (pid {}) ended; it is started again", child.name(), record.pid);
                failures = if now() - record.started_at > LONG_ENOUGH { 0 } else { failures + 1 };
                restarts += 1;
                shared.clean_up(&child).await;
                phase.send_replace(Phase::Waiting);
                wait(&mut wish, delay(failures)).await;
            }
            _ = wish.changed() => {
                let wished = *wish.borrow();
                end(&record, wished).await;
            }
        }
    }
}

async fn end(record: &Record, wish: Wish) {
    if wish == Wish::Kill {
        process::signal(record, Signal::KILL);
        process::ended(record).await;
    } else {
        process::stop(record, PATIENCE).await;
    }
}

async fn wait(wish: &mut watch::Receiver<Wish>, time: Duration) {
    let _ = tokio::time::timeout(time, wish.changed()).await;
}

struct Keeper {
    wish: watch::Sender<Wish>,
    phase: watch::Receiver<Phase>,
    task: JoinHandle<()>,
}

/// The cluster while it is up.
pub struct Cluster {
    shared: Arc<Shared>,
    keepers: BTreeMap<String, Keeper>,
    /// Held as long as this supervisor lives.
    _lock: File,
}

/// The installed copy of the running binary, and its second name as CNI plugin.
fn install_binary(layout: &Layout) -> Result<(), UpError> {
    let own =
        std::env::current_exe().map_err(file_error(std::path::Path::new("/proc/self/exe")))?;
    let target = layout.binary();
    let beside = target.with_extension("new");
    fs::create_dir_all(layout.bin()).map_err(file_error(&target))?;
    fs::copy(&own, &beside)
        .and_then(|_| fs::rename(&beside, &target))
        .map_err(file_error(&target))?;
    let plugin = layout.bin().join("tiphys-cni");
    match std::os::unix::fs::symlink("tiphys", &plugin) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(file_error(&plugin)(e)),
        _ => Ok(()),
    }
}

fn lock(layout: &Layout) -> Result<File, UpError> {
    let path = layout.lock();
    for dir in [layout.run(), layout.images(), layout.server()] {
        fs::create_dir_all(&dir).map_err(file_error(&dir))?;
    }
    let file = File::create(&path).map_err(file_error(&path))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| UpError::Busy(layout.root().display().to_string()))?;
    Ok(file)
}

impl Cluster {
    /// Starts or adopts everything. The configuration is written down for the next `up`.
    pub async fn start(layout: Layout, config: ClusterConfig) -> Result<Self, UpError> {
        let held = lock(&layout)?;
        // Orphans of helpers become ours, so that they are reaped.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        install_binary(&layout)?;
        let netlink = Netlink::connect().map_err(|e| UpError::Netlink(e.to_string()))?;
        let bridge = bridge::bridge_name(&layout.id());
        let conflicts = config.conflicts(&bridge::taken(&netlink, &bridge).await?);
        if !conflicts.is_empty() {
            return Err(UpError::Config(conflicts.join("\n")));
        }
        bridge::ensure(&netlink, &bridge, &config).await?;
        let path = layout.config();
        let text = serde_json::to_vec_pretty(&config).map_err(io::Error::other);
        text.and_then(|t| fs::write(&path, t))
            .map_err(file_error(&path))?;
        let shared = Arc::new(Shared {
            layout,
            config,
            netlink,
        });
        let mut cluster = Self {
            shared,
            keepers: BTreeMap::new(),
            _lock: held,
        };
        cluster.keep(Child::Server, Wish::Run);
        Ok(cluster)
    }

    /// Starts or adopts the nodes; to be called when the server is ready.
    pub fn start_nodes(&mut self) {
        let id = self.shared.layout.id();
        for (i, node) in self.shared.config.nodes.clone().into_iter().enumerate() {
            let wish = if node.stopped { Wish::Kill } else { Wish::Run };
            let port = bridge::port_name(&id, i);
            self.keep(Child::Node { config: node, port }, wish);
        }
    }

    fn keep(&mut self, child: Child, wish: Wish) {
        let name = child.name().to_owned();
        let (wish, wishes) = watch::channel(wish);
        let (phases, phase) = watch::channel(Phase::Starting);
        let task = tokio::spawn(keep(self.shared.clone(), child, wishes, phases));
        self.keepers.insert(name, Keeper { wish, phase, task });
    }

    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    pub fn config(&self) -> &ClusterConfig {
        &self.shared.config
    }

    /// The server was adopted or has said that it answers.
    pub fn server_is_ready(&self) -> bool {
        self.shared.layout.server_ready().exists()
    }

    /// How often the server died since this supervisor began; its log tells why.
    pub fn server_restarts(&self) -> u32 {
        match self.keepers.get("server").map(|k| k.phase.borrow().clone()) {
            Some(Phase::Running(record)) => record.restarts,
            _ => 0,
        }
    }

    pub fn report(&self) -> Report {
        let children = self.keepers.iter().map(|(name, keeper)| {
            let (state, record) = match &*keeper.phase.borrow() {
                Phase::Starting => ("starting", None),
                Phase::Waiting => ("waiting", None),
                Phase::Stopped => ("stopped", None),
                Phase::Running(record) => ("running", Some(record.clone())),
            };
            ChildReport {
                name: name.clone(),
                state: state.into(),
                restarts: record.as_ref().map_or(0, |r| r.restarts),
                started_at: record.as_ref().map_or(0, |r| r.started_at),
                processes: record.as_ref().map(processes_of).unwrap_or_default(),
            }
        });
        let kubeconfig = self.shared.layout.admin_kubeconfig().display().to_string();
        Report {
            children: children.collect(),
            kubeconfig,
        }
    }

    /// Serves the socket until the cluster is to go down. `stop` ends it, too (a signal).
    pub async fn serve(&self, stop: impl Future<Output = ()>) -> Result<(), UpError> {
        let path = self.shared.layout.socket();
        let listener = control::listen(&path).map_err(file_error(&path))?;
        tokio::pin!(stop);
        loop {
            let mut stream = tokio::select! {
                () = &mut stop => return Ok(()),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(e) => {
                        tracing::warn!("control socket: {e}");
                        continue;
                    }
                },
            };
            let request = match control::receive(&mut stream).await {
                Ok(request) => request,
                Err(e) => {
                    let _ = control::answer(
                        &mut stream,
                        &Answer::Failed {
                            message: e.to_string(),
                        },
                    )
                    .await;
                    continue;
                }
            };
            let down = request == Request::Down;
            let answer = self.handle(request).await;
            let _ = control::answer(&mut stream, &answer).await;
            if down {
                return Ok(());
            }
        }
    }

    async fn handle(&self, request: Request) -> Answer {
        match request {
            Request::Status => Answer::Status {
                report: self.report(),
            },
            Request::Down => Answer::Done {
                message: "going down".into(),
            },
            Request::NodeKill { name } => self.set_node(&name, Wish::Kill).await,
            Request::NodeStart { name } => self.set_node(&name, Wish::Run).await,
        }
    }

    async fn set_node(&self, name: &str, wish: Wish) -> Answer {
        let Some(keeper) = self.keepers.get(name).filter(|_| name != "server") else {
            return Answer::Failed {
                message: format!("there is no node {name:?}"),
            };
        };
        let mut phase = keeper.phase.clone();
        keeper.wish.send_replace(wish);
        let reached = phase
            .wait_for(|p| match wish {
                Wish::Run => matches!(p, Phase::Running(_)),
                Wish::Kill | Wish::End => *p == Phase::Stopped,
            })
            .await
            .is_ok();
        let message = match (wish, reached) {
            (_, false) => {
                return Answer::Failed {
                    message: "the supervisor is going down".into(),
                };
            }
            (Wish::Run, _) => format!("node {name} boots"),
            (Wish::Kill | Wish::End, _) => format!("node {name} is off"),
        };
        self.remember_stopped(name, wish != Wish::Run);
        Answer::Done { message }
    }

    /// A node that was switched off stays off at the next `up`.
    fn remember_stopped(&self, name: &str, stopped: bool) {
        let path = self.shared.layout.config();
        let Some(mut config) = read_config(&self.shared.layout) else {
            return;
        };
        for node in config.nodes.iter_mut().filter(|n| n.name == name) {
            node.stopped = stopped;
        }
        let text = serde_json::to_vec_pretty(&config).map_err(io::Error::other);
        if let Err(e) = text.and_then(|t| fs::write(&path, t)) {
            tracing::warn!("{}: {e}", path.display());
        }
    }

    /// Ends the nodes, then the control plane, and removes what the machine had for them.
    pub async fn down(mut self) {
        let server = self.keepers.remove("server");
        for keeper in self.keepers.values() {
            keeper.wish.send_replace(Wish::End);
        }
        for keeper in std::mem::take(&mut self.keepers)
            .into_values()
            .chain(server)
        {
            keeper.wish.send_replace(Wish::End);
            let _ = keeper.task.await;
        }
        remove_traces(&self.shared.layout, &self.shared.netlink).await;
    }
}

/// The configuration of an earlier `up`.
pub fn read_config(layout: &Layout) -> Option<ClusterConfig> {
    serde_json::from_slice(&fs::read(layout.config()).ok()?).ok()
}

async fn remove_traces(layout: &Layout, netlink: &Netlink) {
    if let Err(e) = bridge::unplug(netlink, &bridge::bridge_name(&layout.id())).await {
        tracing::warn!("{e}");
    }
    remove_cgroup(&format!("/tiphys-{}", layout.id()));
    for file in [layout.socket(), layout.server_ready()] {
        let _ = fs::remove_file(file);
    }
}

/// Ends a cluster whose supervisor is dead: what `down` does when nobody answers.
/// Returns how many processes were ended.
pub async fn down_orphans(layout: Layout) -> Result<usize, UpError> {
    let Some(config) = read_config(&layout) else {
        return Ok(0);
    };
    let lock = lock(&layout)?;
    let netlink = Netlink::connect().map_err(|e| UpError::Netlink(e.to_string()))?;
    let id = layout.id();
    let nodes = config.nodes.clone();
    let shared = Shared {
        layout,
        config,
        netlink,
    };
    let mut ended = 0;
    let children = nodes
        .into_iter()
        .enumerate()
        .map(|(i, config)| Child::Node {
            config,
            port: bridge::port_name(&id, i),
        })
        .chain([Child::Server]);
    for child in children {
        let path: PathBuf = shared.layout.record(child.name());
        if let Some(record) = Record::read(&path).filter(Record::is_alive) {
            process::stop(&record, PATIENCE).await;
            ended += 1;
        }
        shared.clean_up(&child).await;
    }
    remove_traces(&shared.layout, &shared.netlink).await;
    drop(lock);
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_back_off() {
        assert_eq!(delay(0), Duration::from_millis(200));
        assert_eq!(delay(3), Duration::from_millis(1600));
        assert_eq!(delay(30), Duration::from_secs(20));
    }
}
