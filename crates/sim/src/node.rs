//! A node: a kubelet, over a container runtime in memory and a folder. Its machine can lose its
//! power, its cable can be pulled, and its kubelet can die at any moment; what the runtime and the
//! folder have is what the next kubelet finds.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clock::{Clock, Random, Shift};
use host::cgroup::{Hierarchy, OomScores};
use host::runtime::Handler;
use host::runtime::fake::{Behaviour, Fake, Running};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::basis::Failed;
use crate::faults::{Runtime, Weather};
use crate::net::{Cable, Servers};

/// What a node has.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Processors.
    pub cpus: u32,
    pub pods: u32,
}

/// What all nodes of a cluster have in common.
pub(crate) struct World {
    pub servers: Servers,
    pub weather: Weather,
    pub clock: Clock,
    /// All folders are below.
    pub folder: PathBuf,
    /// Between heartbeats of each.
    pub heartbeat: Duration,
    /// Called when a container was started anywhere.
    pub started: Arc<dyn Fn() + Send + Sync>,
}

/// A node. It ends when it is dropped; its runtime is forgotten then.
pub struct SimNode {
    name: String,
    number: u8,
    size: Size,
    world: Arc<World>,
    runtime: Arc<Fake>,
    random: Random,
    driver: AbortHandle,
    /// Of the kubelet's clock. Its runtime has the right one: what has begun ends in its time.
    shift: &'static Shift,
    state: Mutex<State>,
}

struct State {
    boots: u32,
    has_power: bool,
    is_cut: bool,
    kubelet: Option<Kubelet>,
}

struct Kubelet {
    cable: Cable,
    task: AbortHandle,
}

impl Kubelet {
    /// It dies between two of its steps.
    fn kill(self) {
        self.cable.kill();
        self.task.abort();
    }
}

/// What the images do that pods of the simulation use.
fn images() -> [(&'static str, Behaviour); 7] {
    let web = Behaviour {
        stopped_code: Some(0),
        ..Behaviour::default()
    };
    let ends = |seconds, exit_code| Behaviour {
        runs_for: Some(Duration::from_secs(seconds)),
        exit_code,
        stopped_code: None,
    };
    [
        ("web:1", web.clone()),
        ("web:2", web),
        // It does not listen to its end.
        ("deaf:1", Behaviour::default()),
        ("job:1", ends(5, 0)),
        ("bad:1", ends(3, 1)),
        ("again:1", ends(3, 42)),
        ("crash:1", ends(20, 2)),
    ]
}

impl SimNode {
    pub(crate) fn start(
        number: u8,
        size: Size,
        world: &Arc<World>,
        random: Random,
    ) -> Result<Self, Failed> {
        let changed = Arc::new(Notify::new());
        let trouble = Runtime {
            weather: world.weather.clone(),
            random: random.fork(),
            started: world.started.clone(),
            changed: changed.clone(),
        };
        let runtime = Arc::new(Fake::around(world.clock, Arc::new(trouble)));
        for (image, behaviour) in images() {
            runtime.add_image(image, behaviour);
        }
        let driver = tokio::spawn(drive(runtime.clone(), changed, world.clock)).abort_handle();
        let node = Self {
            name: format!("node-{number}"),
            number,
            size,
            world: world.clone(),
            runtime,
            random,
            driver,
            shift: Shift::forever(),
            state: Mutex::new(State {
                boots: 1,
                has_power: true,
                is_cut: false,
                kubelet: None,
            }),
        };
        node.start_kubelet()?;
        Ok(node)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The containers that run in truth, whatever anybody believes.
    pub fn running(&self) -> Vec<Running> {
        self.runtime.running()
    }

    /// Its runtime gives pods users of their own from now on.
    pub fn give_users(&self) {
        self.runtime.set_handler(Handler {
            user_namespaces: true,
            ..Handler::default()
        });
    }

    /// The first of the machine's users that sandboxes of a pod have as theirs.
    pub fn users_of(&self, pod: &str) -> Vec<u32> {
        let all = self.runtime.users_of(pod).into_iter();
        all.map(|range| range.host).collect()
    }

    pub(crate) fn runtime(&self) -> &Arc<Fake> {
        &self.runtime
    }

    /// Pods whose folders are there.
    pub fn folders(&self) -> Vec<String> {
        let read = std::fs::read_dir(self.folder().join("kubelet/pods"));
        let names = read.into_iter().flatten().flatten();
        names
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Where the node keeps its files.
    pub fn folder(&self) -> PathBuf {
        self.world.folder.join(&self.name)
    }

    pub fn has_power(&self) -> bool {
        self.state.lock().has_power
    }

    /// Somebody sets its clock so many seconds ahead of the right time.
    pub fn set_clock(&self, seconds: i64) {
        self.shift.set(seconds);
    }

    /// Loses its network, or gets it back. Its pods run on.
    pub fn set_cut(&self, cut: bool) {
        let mut state = self.state.lock();
        state.is_cut = cut;
        if let Some(kubelet) = &state.kubelet {
            kubelet.cable.set_cut(cut);
        }
    }

    /// The kubelet dies, in the middle of whatever it does, and another one starts.
    ///
    /// # Errors
    /// When its folders cannot be made.
    pub fn restart_kubelet(&self) -> Result<(), Failed> {
        if let Some(kubelet) = self.state.lock().kubelet.take() {
            kubelet.kill();
        }
        if self.has_power() {
            self.start_kubelet()?;
        }
        Ok(())
    }

    /// The kubelet dies at its request of this number, the next one being 1. What it does on its
    /// machine alone goes on until another one is started.
    pub fn die_at_request(&self, number: u64) {
        if let Some(kubelet) = &self.state.lock().kubelet {
            kubelet.cable.die_at_request(number);
        }
    }

    /// Gets back all that it lost: network, power, a kubelet that lives.
    ///
    /// # Errors
    /// When its folders cannot be made.
    pub fn heal(&self) -> Result<(), Failed> {
        self.set_cut(false);
        self.power_on()?;
        let is_dead = {
            let state = self.state.lock();
            state.kubelet.as_ref().is_some_and(|k| k.cable.is_dead())
        };
        if is_dead {
            self.restart_kubelet()?;
        }
        Ok(())
    }

    /// The machine loses its power: all that runs on it has ended.
    pub fn power_off(&self) {
        let mut state = self.state.lock();
        state.has_power = false;
        if let Some(kubelet) = state.kubelet.take() {
            kubelet.kill();
        }
        drop(state);
        self.runtime.power_off();
    }

    /// The machine starts again, with the folders that it had.
    ///
    /// # Errors
    /// When its folders cannot be made.
    pub fn power_on(&self) -> Result<(), Failed> {
        let mut state = self.state.lock();
        if state.has_power {
            return Ok(());
        }
        state.has_power = true;
        state.boots += 1;
        drop(state);
        self.start_kubelet()
    }

    fn start_kubelet(&self) -> Result<(), Failed> {
        let mut state = self.state.lock();
        let config = self.config(state.boots).map_err(Failed)?;
        let empty = self.folder().join("cgroup");
        std::fs::create_dir_all(&empty).map_err(|e| Failed(e.to_string()))?;
        let ground = kubelet::Ground {
            runtime: self.runtime.clone(),
            cgroups: Hierarchy::none(Path::new(&empty)),
            oom: OomScores::all(),
            clock: self.world.clock.shifted(self.shift),
            random: self.random.fork(),
        };
        let cable = Cable::new(&self.world.servers, &self.world.weather, self.random.fork());
        cable.set_cut(state.is_cut);
        let client = cable.client(&format!("system:node:{}", self.name), &["system:nodes"]);
        let name = self.name.clone();
        let task = tokio::spawn(async move {
            let never = CancellationToken::new();
            if let Err(e) = kubelet::run(ground, config, client, never).await {
                tracing::error!("the kubelet of {name} ended: {e}");
            }
        });
        let task = task.abort_handle();
        state.kubelet = Some(Kubelet { cable, task });
        Ok(())
    }

    fn config(&self, boots: u32) -> Result<kubelet::Config, String> {
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10 + self.number));
        let mut config = kubelet::Config::new(&self.name, address);
        let folder = self.folder();
        config.root_dir = folder.join("kubelet");
        config.log_dir = folder.join("logs");
        config.lease_period = self.world.heartbeat;
        config.lease_duration = self.world.heartbeat * 4;
        config.resolv_conf = std::path::PathBuf::new();
        // Nobody asks there; a kubelet that knows of none says so of each pod.
        config.cluster_dns = vec![std::net::Ipv4Addr::new(10, 96, 0, 10).into()];
        config.capacity = kubelet::config::Capacity {
            cpu_millis: Some(u64::from(self.size.cpus) * 1_000),
            memory_bytes: Some(16 << 30),
            ephemeral_storage_bytes: Some(100 << 30),
            pods: Some(u64::from(self.size.pods)),
        };
        // The machine that the simulation runs on is none of its business.
        config.eviction.hard = "".parse()?;
        config.plugins = false;
        config.machine_id = Some(self.name.clone());
        config.boot_id = Some(format!("{}-{boots}", self.name));
        Ok(config)
    }
}

impl Drop for SimNode {
    fn drop(&mut self) {
        self.driver.abort();
        if let Some(kubelet) = self.state.lock().kubelet.take() {
            kubelet.kill();
        }
    }
}

/// Ends containers in their time.
async fn drive(runtime: Arc<Fake>, changed: Arc<Notify>, clock: Clock) {
    loop {
        let now = clock.now().as_nanosecond();
        let left = |at: i64| u64::try_from(i128::from(at) - now).unwrap_or(0);
        let wait = runtime.next_end().map(|at| Duration::from_nanos(left(at)));
        let end = async {
            match wait {
                // Timers count milliseconds.
                Some(wait) => tokio::time::sleep(wait.max(Duration::from_millis(1))).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = end => {}
            () = changed.notified() => {}
        }
        let now = clock.now().as_nanosecond();
        runtime.advance(i64::try_from(now).unwrap_or(i64::MAX));
    }
}
