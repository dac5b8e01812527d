//! The cluster: its parts are started as the binary starts them, each as its own user, with
//! authorization and admission in force.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, UserInfo, admission, filters};
use client::{Accounts, Informers};
use clock::{Clock, Random};
use jiff::Timestamp;
use kube::Client;
use store::{Memory, Store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::faulty_store::{Faults, FaultyStore};
use crate::node::{HollowNode, Size};
use crate::trace::Trace;

/// When every run begins: 2026-01-01T00:00:00Z.
const BEGINNING: i64 = 1_767_225_600;
/// A condition is looked at so often.
const LOOK: Duration = Duration::from_millis(250);

/// What is to be simulated.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub nodes: usize,
    pub size: Size,
    pub faults: Faults,
}

/// A cluster that runs.
pub struct Cluster {
    admin: Client,
    nodes: Vec<HollowNode>,
    trace: Trace,
    parts: JoinSet<()>,
    stop: CancellationToken,
    _server: ApiServer,
}

/// What went wrong with the simulation itself.
#[derive(Debug)]
pub struct Failed(pub String);

impl Cluster {
    /// Starts all parts in this runtime, which must have one thread and a paused clock.
    ///
    /// # Panics
    /// When the first objects cannot be made: then nothing can be simulated.
    pub async fn start(plan: &Plan) -> Result<Self, Failed> {
        let start = Timestamp::from_second(BEGINNING).map_err(|e| Failed(e.to_string()))?;
        let (clock, random) = (Clock::virtual_from(start), Random::seeded(plan.seed));
        let stop = CancellationToken::new();
        let memory: Arc<dyn Store> = Arc::new(Memory::new(clock));
        let trace = Trace::follow(memory.clone());
        let store = FaultyStore::new(memory, plan.faults, random.fork());
        let mut config = apiserver::Config::new(
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            6443,
            clock,
            random.fork(),
        );
        config.authorizers = filters::authorizers();
        config.admission = admission::standard(&admission::Options {
            default_not_ready_toleration_seconds: 30,
            default_unreachable_toleration_seconds: 30,
        });
        let server = ApiServer::new(config, Arc::new(store), stop.clone())
            .await
            .map_err(|e| Failed(e.to_string()))?;
        let mut tries = 0;
        while let Err(e) = server.bootstrap().await {
            tries += 1;
            if tries > 100 {
                return Err(Failed(format!("{e:?}")));
            }
            tokio::time::sleep(LOOK).await;
        }
        let user = |name: &str, groups: &[&str]| {
            client::in_process(server.local_service(UserInfo::new(name, groups)))
        };
        let mut parts = JoinSet::new();
        let informers = |name: &str| {
            let client = user(name, &[]);
            Informers::new(client, clock, random.fork())
        };
        let controllers = informers("system:kube-controller-manager");
        let scheduler = informers("system:kube-scheduler");
        let ended = stop.clone();
        let local = server.clone();
        let accounts = Accounts::new(controllers.client().clone(), move |account| {
            let name = format!("system:serviceaccount:kube-system:{account}");
            let groups = [
                "system:serviceaccounts",
                "system:serviceaccounts:kube-system",
            ];
            client::in_process(local.local_service(UserInfo::new(&name, &groups)))
        });
        parts.spawn(async move {
            let config = controllers::Config {
                ca_pem: "the simulation's".into(),
                pod_cidr: controllers::nodes::cidr::Range::parse("10.244.0.0/16"),
                ..controllers::Config::default()
            };
            if let Err(e) = controllers::run(&controllers, &accounts, config, ended).await {
                tracing::error!("controllers ended: {e}");
            }
        });
        let ended = stop.clone();
        parts.spawn(async move {
            let config = scheduler::Config::default();
            if let Err(e) =
                scheduler::run(&scheduler, scheduler.client().clone(), config, ended).await
            {
                tracing::error!("the scheduler ended: {e}");
            }
        });
        let nodes = (0..plan.nodes).map(|n| {
            let name = format!("node-{n}");
            let client = user(&format!("system:node:{name}"), &["system:nodes"]);
            HollowNode::start(&name, plan.size, client, (clock, random.fork()))
        });
        Ok(Self {
            nodes: nodes.collect(),
            admin: user("admin", &["system:masters"]),
            trace,
            parts,
            stop,
            _server: server,
        })
    }

    /// A client that may do everything.
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    pub fn nodes(&self) -> &[HollowNode] {
        &self.nodes
    }

    pub fn trace(&self) -> &Trace {
        &self.trace
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
    pub async fn end(mut self) -> Trace {
        self.stop.cancel();
        drop(self.nodes);
        while self.parts.join_next().await.is_some() {}
        self.trace
    }
}
