//! The cluster: its parts are started as the binary starts them, each as its own user, with
//! authorization, admission and elections in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clock::{Clock, Random, Shift};
use control::lease::Times;
use host::runtime::fake::Fake;
use jiff::Timestamp;
use kube::Client;
use parking_lot::Mutex;
use store::{Memory, Store};

use crate::basis::{BEGINNING, Failed};
use crate::beginning;
use crate::control_plane::{self, Base, Course};
use crate::faults::{Faults, Weather};
use crate::net::Cable;
use crate::node::{SimNode, Size, World};
use crate::trace::Trace;

/// A condition is looked at so often.
const LOOK: Duration = Duration::from_millis(250);

/// Between heartbeats of a node, as kubelets have them here; in most simulations most of what is written.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// So many heartbeats that are missing make a node a failed one.
const MISSING: u32 = 5;

/// What is to be simulated.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// Processes of the control plane.
    pub servers: usize,
    pub nodes: u8,
    pub size: Size,
    pub faults: Faults,
    /// How patient candidates for leadership are. Their leases are most of what is written in a
    /// cluster at rest.
    pub elections: Times,
    /// Between heartbeats of a node: as here ([`HEARTBEAT`]), or upstream's 10 s.
    pub heartbeat: Duration,
    /// Whether the first objects of a cluster are there already, as another server made them: then
    /// they are no part of what is simulated.
    pub begun: bool,
    /// An empty folder, for what the nodes write.
    pub folder: PathBuf,
}

impl Plan {
    /// One server and one node of four CPUs, where nothing fails.
    #[must_use]
    pub fn steady(folder: &Path) -> Self {
        Self {
            seed: 1,
            servers: 1,
            nodes: 1,
            size: Size { cpus: 4, pods: 20 },
            faults: Faults {
                write_micros: 1_000,
                failing: 0.0,
                runtime_micros: 100_000,
            },
            elections: Times::default(),
            heartbeat: HEARTBEAT,
            begun: false,
            folder: folder.to_owned(),
        }
    }
}

/// A cluster that runs.
pub struct Cluster {
    admin: Client,
    nodes: Vec<SimNode>,
    trace: Trace,
    base: Base,
    random: Random,
    /// Of the servers' clocks.
    shift: &'static Shift,
}

impl Cluster {
    /// Starts all parts in this runtime, which must have one thread and a paused clock.
    ///
    /// # Errors
    /// When the first objects or folders cannot be made: then nothing can be simulated.
    pub async fn start(plan: &Plan) -> Result<Self, Failed> {
        Self::start_with(plan, |_| {}).await
    }

    /// The same, with servers of another configuration.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_with(
        plan: &Plan,
        configure: impl Fn(&mut apiserver::Config) + Send + Sync + 'static,
    ) -> Result<Self, Failed> {
        let start = Timestamp::from_second(BEGINNING).map_err(|e| Failed(e.to_string()))?;
        let (clock, random) = (Clock::virtual_from(start), Random::seeded(plan.seed));
        let store: Arc<dyn Store> = Arc::new(Memory::new(clock));
        let shift = Shift::forever();
        if plan.begun {
            beginning::fill(&*store).await?;
        }
        let trace = Trace::follow(store.clone());
        let base = Base {
            servers: Arc::new(Mutex::new(vec![None; plan.servers])),
            store,
            weather: Weather::new(plan.faults),
            clock: clock.shifted(shift),
            random: random.fork(),
            configure: Arc::new(configure),
            course: Course {
                elections: plan.elections,
                node_grace: Some(plan.heartbeat * MISSING),
                ..Course::default()
            },
            starting: Arc::default(),
        };
        for number in 0..plan.servers {
            control_plane::start(&base, number).await?;
        }
        let runtimes: Arc<Mutex<Vec<Arc<Fake>>>> = Arc::default();
        let (all, judge) = (runtimes.clone(), trace.clone());
        let world = Arc::new(World {
            servers: base.servers.clone(),
            weather: base.weather.clone(),
            clock,
            folder: plan.folder.clone(),
            heartbeat: plan.heartbeat,
            started: Arc::new(move || {
                let running = all.lock().iter().flat_map(|r| r.running()).collect();
                judge.note_running(running);
            }),
        });
        let mut nodes = Vec::new();
        for number in 0..plan.nodes {
            let node = SimNode::start(number, plan.size, &world, random.fork())?;
            runtimes.lock().push(node.runtime().clone());
            nodes.push(node);
        }
        let admin = Cable::new(&base.servers, &base.weather, random.fork());
        Ok(Self {
            admin: admin.client("admin", &["system:masters"]),
            nodes,
            trace,
            base,
            random,
            shift,
        })
    }

    /// Somebody sets the clocks of all servers so many seconds ahead of the right time.
    pub fn set_servers_clocks(&self, seconds: i64) {
        self.shift.set(seconds);
    }

    /// A client that may do everything.
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    /// The time of the cluster, in seconds since 1970.
    pub fn now(&self) -> i64 {
        self.base.clock.seconds()
    }

    pub fn nodes(&self) -> &[SimNode] {
        &self.nodes
    }

    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// For the story: what happens next.
    pub fn random(&self) -> &Random {
        &self.random
    }

    /// Numbers of the servers that live.
    pub fn living_servers(&self) -> Vec<usize> {
        let servers = self.base.servers.lock();
        let all = servers.iter().enumerate();
        all.filter(|(_, up)| up.is_some()).map(|(n, _)| n).collect()
    }

    /// A process of the control plane dies.
    pub fn kill_server(&self, number: usize) {
        control_plane::kill(&self.base, number);
    }

    /// A process of the control plane dies at the write of this number, the next one being 1; whether
    /// that is applied is drawn.
    pub fn die_at_write(&self, server: usize, number: u64) {
        if let Some(Some(up)) = self.base.servers.lock().get(server) {
            up.fuse.light(number);
        }
    }

    /// It is started again.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_server(&self, number: usize) -> Result<(), Failed> {
        control_plane::start(&self.base, number).await
    }

    /// Nothing fails by itself from now on.
    pub fn calm(&self) {
        self.base.weather.calm();
    }

    /// Waits, in virtual time, until something is so.
    ///
    /// # Errors
    /// When it is not so after `most`.
    pub async fn until<F: Future<Output = bool>>(
        &self,
        what: &str,
        most: Duration,
        is_so: impl Fn() -> F,
    ) -> Result<(), Failed> {
        let end = clock::Instant::now() + most;
        while !is_so().await {
            if clock::Instant::now() > end {
                return Err(Failed(format!("{what}: not within {most:?}")));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Ends all parts, and gives what was done.
    pub fn end(self) -> Trace {
        for number in self.living_servers() {
            self.kill_server(number);
        }
        self.trace
    }
}
