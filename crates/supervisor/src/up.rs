//! `up`: brings the cluster's processes to life, one keeper per child, and ends them.
//!
//! ```text
//! Starting ──started──▶ Running ──process ended──▶ Waiting (back-off) ──▶ Starting
//!     ▲                    │ stop asked                │ stop asked
//!     └── start asked ── Stopped ◀────────────────────┘
//! ```

mod config_file;
mod error;
mod installed;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use host::netlink::Netlink;
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::children::{Child, Machine, Recipe, SERVER};
use crate::config::ClusterConfig;
use crate::control::{self, Answer, MachineKind, Request};
use crate::layout::Layout;
use crate::process::{self, ProcessError, Record};
use crate::report::{ChildReport, Report, processes_of};
use crate::{boot, bridge, cgroup};

use config_file::{share_secrets, write_config};
use error::file_error;

pub use config_file::read_config;
pub use error::UpError;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Starting,
    Running(Record),
    Waiting,
    Stopped,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DesiredNodeState {
    Run,
    /// Pull the plug.
    Kill,
    /// Ask, then pull.
    End,
}

/// Time that a machine gets to end by itself.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time that a process gets: a server's requests have the time of a request (60 s), and what comes
/// before and after them a few seconds. One with none in flight ends at once.
const PROCESS_PATIENCE: Duration = Duration::from_secs(75);

fn patience(child: &Child) -> Duration {
    match child {
        Child::Machine(_) => PATIENCE,
        Child::Process { .. } => PROCESS_PATIENCE,
    }
}

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

    fn recipe(&self) -> Recipe<'_> {
        Recipe {
            layout: &self.layout,
            config: &self.config,
        }
    }

    /// Starts a child and records it.
    async fn start(&self, child: &Child, restarts: u32) -> Result<Record, UpError> {
        let binary = self.layout.binary();
        let log = self.layout.log(child.name());
        if let Some(ready) = child.ready() {
            match fs::remove_file(ready) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file_error(ready)(e)),
                _ => {}
            }
        }
        let pid = match child {
            Child::Process { args, .. } => process::spawn(&binary, args, &log)?,
            Child::Machine(machine) => self.boot(machine, &log).await?,
        };
        let died = || ProcessError::Died {
            what: child.name().into(),
            log: log.display().to_string(),
        };
        let record = Record::of(pid, now(), restarts).ok_or_else(died)?;
        record.write(&self.layout.record(child.name()))?;
        Ok(record)
    }

    /// Makes a machine's cgroup and namespaces, and plugs it in. Returns the PID of its init.
    async fn boot(&self, machine: &Machine, log: &Path) -> Result<i32, UpError> {
        cgroup::make(&machine.cgroup, machine.memory_bytes);
        fs::create_dir_all(&machine.dir).map_err(file_error(&machine.dir))?;
        let _ = fs::remove_file(boot::restarts_file(&machine.dir));
        let args = self.recipe().boot_args(machine);
        let pid = process::spawn_reporting(&self.layout.binary(), &args, log)?;
        let (bridge, port) = (self.bridge(), &machine.port);
        bridge::plug(&self.netlink, &bridge, port, pid.unsigned_abs()).await?;
        Ok(pid)
    }

    /// What a dead child leaves on the machine.
    async fn clean_up(&self, child: &Child) {
        let _ = fs::remove_file(self.layout.record(child.name()));
        if let Some(ready) = child.ready() {
            let _ = fs::remove_file(ready);
        }
        if let Child::Machine(machine) = child {
            if let Err(e) = bridge::unplug(&self.netlink, &machine.port).await {
                tracing::warn!("{e}");
            }
            cgroup::remove(&machine.cgroup);
        }
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Back-off between starts: 0.2 s, doubled up to 20 s; a run of a minute starts it again.
fn delay(failures: u32) -> Duration {
    Duration::from_millis(200 << failures.min(7)).min(Duration::from_secs(20))
}
const LONG_ENOUGH: i64 = 60;

/// Keeps one child as it is wished until the wish is to end.
async fn keep(
    shared: Arc<Shared>,
    child: Child,
    mut wish: watch::Receiver<DesiredNodeState>,
    phase: watch::Sender<Phase>,
) {
    let record_path = shared.layout.record(child.name());
    let mut adopted = Record::read(&record_path).filter(Record::is_alive);
    let (mut failures, mut restarts) = (0, adopted.as_ref().map_or(0, |r| r.restarts));
    loop {
        if *wish.borrow_and_update() != DesiredNodeState::Run {
            if let Some(record) = adopted.take() {
                process::stop(&record, patience(&child)).await;
            }
            shared.clean_up(&child).await;
            phase.send_replace(Phase::Stopped);
            if *wish.borrow() == DesiredNodeState::End || wish.changed().await.is_err() {
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
                end(&record, wished, patience(&child)).await;
            }
        }
    }
}

async fn end(record: &Record, wish: DesiredNodeState, patience: Duration) {
    if wish == DesiredNodeState::Kill {
        process::signal(record, Signal::KILL);
        process::ended(record).await;
    } else {
        process::stop(record, patience).await;
    }
}

async fn wait(wish: &mut watch::Receiver<DesiredNodeState>, time: Duration) {
    let _ = tokio::time::timeout(time, wish.changed()).await;
}

struct Keeper {
    /// Folder of the machine, when the child is one.
    machine: Option<PathBuf>,
    wish: watch::Sender<DesiredNodeState>,
    phase: watch::Receiver<Phase>,
    task: JoinHandle<()>,
}

/// The cluster while it is up.
pub struct Cluster {
    shared: Arc<Shared>,
    /// By the names of the children.
    keepers: Mutex<BTreeMap<String, Keeper>>,
    listener: UnixListener,
    /// Seconds since the epoch.
    started_at: i64,
    /// Held as long as this supervisor lives.
    _lock: File,
}

/// Questions that are answered at once; the others wait in the kernel.
const MOST_ASKED: usize = 16;
/// Time for a client of the socket to send its line.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Goes on as the installed copy of the binary: its pages are those of the cluster's other
/// processes, and a new build does not change it. Returns when it already is that copy.
pub fn become_installed(layout: &Layout) -> Result<(), UpError> {
    if installed::is_this_process(layout) {
        return Ok(());
    }
    // Nobody else's binary is replaced; the lock ends here and is taken again.
    let held = lock(layout)?;
    installed::install_binary(layout)?;
    drop(held);
    installed::go_on_as_copy(layout)
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

impl Keeper {
    /// How often the init of a machine has started its programs again.
    fn restarts_within(&self) -> u32 {
        let file = self.machine.as_deref().map(boot::restarts_file);
        let text = file.and_then(|f| fs::read_to_string(f).ok());
        text.and_then(|t| t.trim().parse().ok()).unwrap_or(0)
    }
}

impl Cluster {
    /// Starts or adopts everything. The configuration is written down for the next `up`.
    pub async fn start(layout: Layout, config: ClusterConfig) -> Result<Self, UpError> {
        let held = lock(&layout)?;
        let socket = layout.socket();
        let listener = control::listen(&socket).map_err(file_error(&socket))?;
        // Orphans of helpers become ours, so that they are reaped.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        installed::install_binary(&layout)?;
        let netlink = Netlink::connect().map_err(|e| UpError::Netlink(e.to_string()))?;
        let bridge = bridge::bridge_name(&layout.id());
        let conflicts = config.conflicts(&bridge::taken(&netlink, &bridge).await?);
        if !conflicts.is_empty() {
            return Err(UpError::Config(conflicts.join("\n")));
        }
        bridge::ensure(&netlink, &bridge, &config).await?;
        if !config.servers.is_empty() {
            share_secrets(&layout, &config, now())?;
        }
        write_config(&layout, &config)?;
        let shared = Arc::new(Shared {
            layout,
            config,
            netlink,
        });
        let cluster = Self {
            shared,
            keepers: Mutex::default(),
            listener,
            started_at: now(),
            _lock: held,
        };
        for (child, stopped) in cluster.shared.clone().recipe().servers() {
            cluster.keep(child, wish_of(stopped));
        }
        Ok(cluster)
    }

    /// Starts or adopts the way to several servers. To be called when they are ready.
    pub fn start_balancer(&self) {
        let shared = self.shared.clone();
        if let Some(child) = shared.recipe().balancer() {
            self.keep(child, DesiredNodeState::Run);
        }
    }

    /// Starts or adopts the nodes, which need the servers and the way to them.
    pub fn start_nodes(&self) {
        let shared = self.shared.clone();
        for (child, stopped) in shared.recipe().nodes() {
            self.keep(child, wish_of(stopped));
        }
    }

    fn keep(&self, child: Child, wish: DesiredNodeState) {
        let name = child.name().to_owned();
        let child_dir = match &child {
            Child::Machine(machine) => Some(machine.dir.clone()),
            Child::Process { .. } => None,
        };
        let (wish, wishes) = watch::channel(wish);
        let (phases, phase) = watch::channel(Phase::Starting);
        let task = tokio::spawn(keep(self.shared.clone(), child, wishes, phases));
        let keeper = Keeper {
            machine: child_dir,
            wish,
            phase,
            task,
        };
        self.keepers.lock().insert(name, keeper);
    }

    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    pub fn config(&self) -> &ClusterConfig {
        &self.shared.config
    }

    /// Of the servers that are not switched off: those that have said that they answer, and all.
    pub fn servers_ready(&self) -> (usize, usize) {
        let servers = self.shared.recipe().servers();
        let wanted: Vec<_> = servers.iter().filter(|(_, stopped)| !stopped).collect();
        let ready = |child: &Child| child.ready().is_some_and(|file| file.exists());
        let count = wanted.iter().filter(|(child, _)| ready(child)).count();
        (count, wanted.len())
    }

    /// The kubeconfigs of the administrator as several servers have written them.
    pub fn kubeconfigs(&self) -> Vec<PathBuf> {
        let recipe = self.shared.recipe();
        let servers = self.shared.config.servers.iter();
        servers.map(|s| recipe.kubeconfig_of(s)).collect()
    }

    /// How often the one server died since this supervisor began; its log says why.
    pub fn server_restarts(&self) -> u32 {
        let keepers = self.keepers.lock();
        match keepers.get(SERVER).map(|k| k.phase.borrow().clone()) {
            Some(Phase::Running(record)) => record.restarts,
            _ => 0,
        }
    }

    pub fn report(&self) -> Report {
        let keepers = self.keepers.lock();
        let children = keepers.iter().map(|(name, keeper)| {
            let (state, record) = match &*keeper.phase.borrow() {
                Phase::Starting => ("starting", None),
                Phase::Waiting => ("waiting", None),
                Phase::Stopped => ("stopped", None),
                Phase::Running(record) => ("running", Some(record.clone())),
            };
            ChildReport {
                name: name.clone(),
                state: state.into(),
                restarts: record
                    .as_ref()
                    .map_or(0, |r| r.restarts + keeper.restarts_within()),
                started_at: record.as_ref().map_or(0, |r| r.started_at),
                processes: record.as_ref().map(processes_of).unwrap_or_default(),
            }
        });
        let own = i32::try_from(std::process::id()).ok();
        let own = own.and_then(|pid| Record::of(pid, self.started_at, 0));
        let supervisor = own.map(|record| ChildReport {
            name: "up".into(),
            state: "running".into(),
            restarts: 0,
            started_at: record.started_at,
            processes: processes_of(&record),
        });
        let kubeconfig = self.shared.layout.admin_kubeconfig().display().to_string();
        Report {
            children: children.chain(supervisor).collect(),
            kubeconfig,
        }
    }

    /// Serves the socket until the cluster is to go down. `stop` ends it, too (a signal).
    pub async fn serve(&self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut asked = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = &mut stop => return,
                accepted = self.listener.accept(), if asked.len() < MOST_ASKED => match accepted {
                    Ok((stream, _)) => asked.push(self.answer(stream)),
                    Err(e) => tracing::warn!("control socket: {e}"),
                },
                Some(down) = asked.next() => if down { return },
            }
        }
    }

    /// Answers one question; `true` when the cluster is to go down.
    async fn answer(&self, mut stream: UnixStream) -> bool {
        let request = tokio::time::timeout(ASK_TIMEOUT, control::receive(&mut stream)).await;
        let failed = |message| (Answer::Failed { message }, false);
        let (answer, down) = match request {
            Ok(Ok(request)) => {
                let down = request == Request::Down;
                (self.handle(request).await, down)
            }
            Ok(Err(e)) => failed(e.to_string()),
            Err(_) => failed("no question came".to_owned()),
        };
        let _ = control::answer(&mut stream, &answer).await;
        down
    }

    async fn handle(&self, request: Request) -> Answer {
        match request {
            Request::Status => Answer::Status {
                report: self.report(),
            },
            Request::Down => Answer::Done {
                message: "going down".into(),
            },
            Request::Switch { kind, name, on } => {
                let wish = if on {
                    DesiredNodeState::Run
                } else {
                    DesiredNodeState::Kill
                };
                self.switch(kind, &name, wish).await
            }
        }
    }

    async fn switch(&self, kind: MachineKind, name: &str, wish: DesiredNodeState) -> Answer {
        let config = &self.shared.config;
        let known = match kind {
            MachineKind::Node => config.nodes.iter().any(|n| n.name == name),
            MachineKind::Server => config.servers.iter().any(|s| s.name == name),
        };
        let phase = self
            .keepers
            .lock()
            .get(name)
            .filter(|_| known)
            .map(|keeper| {
                keeper.wish.send_replace(wish);
                keeper.phase.clone()
            });
        let Some(mut phase) = phase else {
            let message = match known {
                true => format!("{kind} {name} is not started yet: the servers are not ready"),
                false => format!("there is no {kind} {name:?} that can be switched"),
            };
            return Answer::Failed { message };
        };
        let reached = phase
            .wait_for(|p| match wish {
                DesiredNodeState::Run => matches!(p, Phase::Running(_)),
                DesiredNodeState::Kill | DesiredNodeState::End => *p == Phase::Stopped,
            })
            .await
            .is_ok();
        let message = match (wish, reached) {
            (_, false) => {
                return Answer::Failed {
                    message: "the supervisor is going down".into(),
                };
            }
            (DesiredNodeState::Run, _) => format!("{kind} {name} boots"),
            (DesiredNodeState::Kill | DesiredNodeState::End, _) => format!("{kind} {name} is off"),
        };
        self.remember_stopped(name, wish != DesiredNodeState::Run);
        Answer::Done { message }
    }

    /// A machine that was switched off stays off at the next `up`.
    fn remember_stopped(&self, name: &str, stopped: bool) {
        let mut config = match read_config(&self.shared.layout) {
            Ok(Some(config)) => config,
            Ok(None) => return,
            Err(e) => {
                tracing::warn!("what is switched off is not remembered: {e}");
                return;
            }
        };
        for node in config.nodes.iter_mut().filter(|n| n.name == name) {
            node.stopped = stopped;
        }
        for server in config.servers.iter_mut().filter(|s| s.name == name) {
            server.stopped = stopped;
        }
        if let Err(e) = write_config(&self.shared.layout, &config) {
            tracing::warn!("what is switched off is not remembered: {e}");
        }
    }

    /// Ends the nodes, then the control plane, and removes what the machine had for them.
    pub async fn down(self) {
        let mut others = std::mem::take(&mut *self.keepers.lock());
        let servers = self.shared.recipe().servers();
        let servers: Vec<Keeper> = servers
            .iter()
            .filter_map(|(child, _)| others.remove(child.name()))
            .collect();
        end_all(others.into_values().collect()).await;
        end_all(servers).await;
        remove_traces(&self.shared.layout, &self.shared.netlink).await;
    }
}

/// Ends children side by side.
async fn end_all(keepers: Vec<Keeper>) {
    for keeper in &keepers {
        keeper.wish.send_replace(DesiredNodeState::End);
    }
    for keeper in keepers {
        let _ = keeper.task.await;
    }
}

fn wish_of(stopped: bool) -> DesiredNodeState {
    if stopped {
        DesiredNodeState::Kill
    } else {
        DesiredNodeState::Run
    }
}

async fn remove_traces(layout: &Layout, netlink: &Netlink) {
    if let Err(e) = bridge::unplug(netlink, &bridge::bridge_name(&layout.id())).await {
        tracing::warn!("{e}");
    }
    cgroup::remove(&format!("/tiphys-{}", layout.id()));
    let _ = fs::remove_file(layout.socket());
}

/// Ends a cluster whose supervisor is dead: what `down` does when nobody answers.
/// Returns how many processes were ended.
pub async fn down_orphans(layout: Layout) -> Result<usize, UpError> {
    let Some(config) = read_config(&layout)? else {
        return Ok(0);
    };
    let lock = lock(&layout)?;
    let netlink = Netlink::connect().map_err(|e| UpError::Netlink(e.to_string()))?;
    let shared = Shared {
        layout,
        config,
        netlink,
    };
    let mut ended = 0;
    for child in shared.recipe().all() {
        let path = shared.layout.record(child.name());
        if let Some(record) = Record::read(&path).filter(Record::is_alive) {
            process::stop(&record, patience(&child)).await;
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
