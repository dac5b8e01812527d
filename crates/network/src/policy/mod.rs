//! NetworkPolicies on a node, and administrators' policies where their kinds are installed: watches
//! policies, namespaces and pods, and keeps one nftables table per family as they demand.
//!
//! `model` and `cluster_wide` turn objects into plain values, `world` knows what was heard, `allowed`
//! says what a pod is allowed (of whom `query` asks, and of what `blocks`), `tables` sums that up, and
//! `Agent` brings the difference into the kernel in as few transactions as no packet notices. Rules stay
//! when the agent ends. `door` is where the CNI plugin waits until a new pod's rules are in place.
//! Namespaces and pods are watched from the first policy on, nodes from the first one that names them.

pub mod allowed;
mod blocks;
pub mod cluster_wide;
pub mod door;
pub mod metrics;
pub mod model;
pub mod query;
pub mod tables;
mod text;
pub mod world;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use client::custom_kinds::{self, CustomKind};
use clock::{Instant, Random};
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt};
use host::nft::{Mirror, NftError, Ruleset, Table};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::DynamicObject;
use kube::runtime::watcher::{Config as Watched, Event};
use kube::{Api, Client};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use cluster_wide::PolicyKind;
use door::{Door, Notice, Question};
use metrics::METRICS;
use model::FAMILIES;
use tables::{ORDER, Tables};
use world::World;
pub use world::{OptionalWatch, Tenant};

/// The table, in both families.
pub const TABLE: &str = "tiphys-policy";
/// First and longest wait after a transaction that the kernel refused.
const RETRY_MILLISECONDS: (u64, u64) = (100, 30_000);
/// So many events at most are taken before the kernel is given them: a bound for one transaction.
const EVENTS_PER_SYNC: usize = 4096;
/// How often it is looked whether others have changed the kernel's tables. While nobody has, that
/// is one small question; else the table is read.
const LOOK: Duration = Duration::from_secs(1);
/// Reading a table takes this share of the time at most: where Services change all the time, the
/// kernel's tables do, too.
const LOOK_SHARE: u32 = 50;
/// How long the start of a pod waits until the API has shown it; after that it starts in the
/// dark, and is let out when it is known.
const KNOWN: Duration = Duration::from_secs(3);

/// How the agent runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of the node: which pods are its own.
    pub node_name: String,
    /// Where the plugin asks; none for no door.
    pub door: Option<PathBuf>,
    /// The pods that have addresses of this node already.
    pub tenants: Vec<(IpAddr, Tenant)>,
}

/// Why the agent could not start.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// nftables cannot be reached.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The plugin's door could not be opened.
    #[error("open {path}: {cause}")]
    Door {
        /// Where.
        path: PathBuf,
        /// Why not.
        cause: std::io::Error,
    },
}

/// An event of one of the watches.
#[derive(Debug, Clone)]
pub enum PolicyEvent {
    /// The kinds of administrators' policies that there are now.
    Kinds(BTreeSet<PolicyKind>),
    /// Of one of them.
    ClusterWide(PolicyKind, Box<Event<DynamicObject>>),
    /// Of NetworkPolicies.
    Policy(Box<Event<NetworkPolicy>>),
    /// Of Namespaces.
    Namespace(Box<Event<core::Namespace>>),
    /// Of Pods.
    Pod(Box<Event<core::Pod>>),
    /// Of Nodes.
    Node(Box<Event<core::Node>>),
}

/// Runs the agent in the calling thread's network namespace until `shutdown` ends. The rules stay.
pub async fn run(
    client: Client,
    config: Config,
    random: Random,
    shutdown: impl Future<Output = ()>,
) -> Result<(), PolicyError> {
    let policies = Api::<NetworkPolicy>::all(client.clone());
    let policies = client::events(random.clone(), policies, Watched::default());
    let policies = policies.map(|e| PolicyEvent::Policy(Box::new(e)));
    // Which kinds there are is heard first: before, nothing is concluded from a list of one.
    let wide = custom_kinds::events_of::<PolicyKind>(client.clone(), random.clone());
    let mut wide = wide
        .map(|heard| match heard {
            custom_kinds::CustomKindEvent::Kinds(kinds) => PolicyEvent::Kinds(kinds),
            custom_kinds::CustomKindEvent::Objects(kind, event) => {
                PolicyEvent::ClusterWide(kind, event)
            }
        })
        .boxed();
    let first = async move {
        let kinds = wide.next().await;
        let kinds = futures::stream::iter(kinds);
        kinds.chain(futures::stream::select(policies, wide))
    };
    let policies = futures::stream::once(first).flatten().boxed();
    let others = move |wanted: OptionalWatch| {
        let (client, random) = (client.clone(), || random.clone());
        match wanted {
            OptionalWatch::Pods => {
                let namespaces = Api::<core::Namespace>::all(client.clone());
                let namespaces = client::events(random(), namespaces, Watched::default());
                let pods = Api::<core::Pod>::all(client);
                let pods = client::events(random(), pods, Watched::default());
                vec![
                    namespaces
                        .map(|e| PolicyEvent::Namespace(Box::new(e)))
                        .boxed(),
                    pods.map(|e| PolicyEvent::Pod(Box::new(e))).boxed(),
                ]
            }
            OptionalWatch::Nodes => {
                let nodes = Api::<core::Node>::all(client);
                let nodes = client::events(random(), nodes, Watched::default());
                vec![nodes.map(|e| PolicyEvent::Node(Box::new(e))).boxed()]
            }
        }
    };
    run_on(policies, others, config, shutdown).await
}

/// Like [`run`], with events from anywhere: those of policies, and those that are asked for when
/// there are policies that ask for them.
pub async fn run_on(
    policies: BoxStream<'static, PolicyEvent>,
    others: impl Fn(OptionalWatch) -> Vec<BoxStream<'static, PolicyEvent>>,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), PolicyError> {
    let (_door, mut questions) = open_door(&config)?;
    let mut agent = Agent::new(&config)?;
    let mut events: SelectAll<BoxStream<'static, PolicyEvent>> = SelectAll::new();
    events.push(policies);
    let mut asked: BTreeSet<OptionalWatch> = BTreeSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            Some(question) = questions.recv() => agent.ask(question),
            event = events.next() => match event {
                None => return Ok(()),
                Some(event) => {
                    agent.hear(event);
                    // A burst becomes one transaction.
                    for _ in 0..EVENTS_PER_SYNC {
                        match events.next().now_or_never().flatten() {
                            Some(event) => agent.hear(event),
                            None => break,
                        }
                    }
                }
            },
            _ = look.tick() => agent.verify(),
            () = agent.until_retry() => {}
        }
        for wanted in agent.world.wanted() {
            if asked.insert(wanted) {
                events.extend(others(wanted));
            }
        }
        agent.sync();
    }
}

fn open_door(config: &Config) -> Result<(Option<Door>, mpsc::Receiver<Question>), PolicyError> {
    let Some(path) = &config.door else {
        return Ok((None, mpsc::channel(1).1));
    };
    let opened = Door::open(path).map_err(|cause| PolicyError::Door {
        path: path.clone(),
        cause,
    })?;
    Ok((Some(opened.0), opened.1))
}

/// Removes all that the agent programmed.
pub fn clean_up() -> Result<(), NftError> {
    let mut socket = host::nft::Socket::open()?;
    for family in FAMILIES {
        let name = TABLE.to_owned();
        socket.delete_table(&Table { family, name })?;
    }
    Ok(())
}

/// A pod whose start waits.
struct Waiting {
    tenant: Tenant,
    until: Instant,
    done: oneshot::Sender<()>,
}

/// What is known, what shall be, and what is.
pub struct Agent {
    world: World,
    tables: Tables,
    mirrors: [Mirror; 2],
    /// Nothing was programmed yet.
    first: bool,
    retry: Option<Instant>,
    retry_milliseconds: u64,
    /// Not before is it looked whether others have changed the tables.
    look_after: Instant,
    waiting: Vec<Waiting>,
}

impl Agent {
    /// In the calling thread's network namespace.
    pub fn new(config: &Config) -> Result<Self, PolicyError> {
        let mut world = World::new(&config.node_name);
        for (address, tenant) in &config.tenants {
            world.moved_in(*address, tenant.clone());
        }
        let open = |family| {
            let name = TABLE.to_owned();
            Mirror::ordered(Table { family, name }, ORDER)
        };
        let [v4, v6] = FAMILIES;
        Ok(Self {
            world,
            tables: Tables::default(),
            mirrors: [open(v4)?, open(v6)?],
            first: true,
            retry: None,
            retry_milliseconds: RETRY_MILLISECONDS.0,
            look_after: Instant::now(),
            waiting: Vec::new(),
        })
    }

    /// Takes in an event; the kernel hears of it by [`Agent::sync`].
    pub fn hear(&mut self, heard: PolicyEvent) {
        match heard {
            PolicyEvent::Namespace(event) => self.world.namespace_event(*event),
            PolicyEvent::Pod(event) => self.world.pod_event(*event),
            PolicyEvent::Node(event) => self.world.node_event(*event),
            PolicyEvent::Kinds(kinds) => {
                if !kinds.is_empty() {
                    tracing::info!(?kinds, "policies of administrators are watched");
                }
                self.world.kinds(&kinds);
            }
            PolicyEvent::ClusterWide(kind, event) => {
                for (policy, what) in self.world.cluster_wide_event(kind, *event) {
                    let kind = kind.names().0;
                    tracing::warn!(
                        kind,
                        policy,
                        what,
                        "part of a policy is not understood: it allows nothing, or forbids all"
                    );
                }
            }
            PolicyEvent::Policy(event) => {
                for name in self.world.policy_event(*event) {
                    let problems = self.world.problems(&name);
                    if !problems.is_empty() {
                        let (policy, what) =
                            (format!("{}/{}", name.0, name.1), problems.join("; "));
                        tracing::warn!(
                            policy,
                            what,
                            "part of a NetworkPolicy is not understood, and allows nothing"
                        );
                    }
                }
            }
        }
    }

    /// Takes in what the plugin has done.
    pub fn ask(&mut self, (notice, done): Question) {
        match notice {
            Notice::Added {
                namespace,
                name,
                uid,
                sandbox,
                addresses,
            } => {
                let name = (namespace, name);
                let tenant = Tenant { name, uid, sandbox };
                for address in addresses {
                    self.world.moved_in(address, tenant.clone());
                }
                let until = Instant::now() + KNOWN;
                self.waiting.push(Waiting {
                    tenant,
                    until,
                    done,
                });
            }
            Notice::Removed { sandbox, addresses } => {
                for address in addresses {
                    self.world.moved_out(address, &sandbox);
                }
                // Nobody waits for it.
                let _ = done.send(());
            }
        }
    }

    /// Ends when a failed transaction shall be tried again; never if there is none.
    async fn until_retry(&self) {
        match self.retry {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Brings the kernel to what is known, if enough is.
    pub fn sync(&mut self) {
        // An incomplete listing looks as if policies were gone.
        if !self.world.is_complete() {
            return;
        }
        self.world.begin();
        let start = Instant::now();
        self.tables.update(&mut self.world);
        let due = self.retry.is_none_or(|at| at <= start);
        if due && let Err(error) = self.program(start) {
            tracing::warn!(%error, "network policies not programmed, will be repaired");
            METRICS.failed();
            let wait = Duration::from_millis(self.retry_milliseconds);
            self.retry = Some(start + wait);
            self.retry_milliseconds = (self.retry_milliseconds * 2).min(RETRY_MILLISECONDS.1);
        }
        self.answer();
        let (policies, unreadable) = (self.world.policies(), self.world.unreadable());
        let isolated = self.tables.isolated();
        METRICS.count(policies, unreadable, isolated, self.waiting.len());
    }

    fn program(&mut self, start: Instant) -> Result<(), NftError> {
        let mut changed = self.first || self.retry.is_some();
        for (desired, mirror) in self.tables.families().iter_mut().zip(&mut self.mirrors) {
            let dirty = desired.take_dirty();
            let is_clean = dirty == host::nft::Dirty::default();
            if is_clean && !self.first && self.retry.is_none() {
                continue;
            }
            changed = true;
            match mirror.program(desired.ruleset(), &dirty) {
                // A kernel without this family needs no rules for it.
                Err(error) if *desired.ruleset() == Ruleset::default() => {
                    tracing::debug!(%error, family = ?desired.family(), "no table");
                }
                programmed => programmed?,
            }
        }
        self.first = false;
        self.retry = None;
        self.retry_milliseconds = RETRY_MILLISECONDS.0;
        if changed {
            METRICS.synced(start.elapsed());
        }
        Ok(())
    }

    /// Lets those go whose rules are in place.
    fn answer(&mut self) {
        if self.retry.is_some() {
            return;
        }
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.waiting) {
            let known = self.world.is_known(&waiting.tenant);
            if known || waiting.until <= now {
                if !known {
                    let (namespace, name) = &waiting.tenant.name;
                    tracing::warn!(
                        namespace,
                        name,
                        "a pod that the API does not show starts without network"
                    );
                }
                // Whether the plugin still waits does not matter.
                let _ = waiting.done.send(());
            } else if !waiting.done.is_closed() {
                self.waiting.push(waiting);
            }
        }
    }

    /// Repairs what others have changed.
    pub fn verify(&mut self) {
        let start = Instant::now();
        if self.first || self.retry.is_some() || start < self.look_after {
            return;
        }
        for (desired, mirror) in self.tables.families().iter_mut().zip(&mut self.mirrors) {
            match mirror.verify(desired.ruleset()) {
                Ok(false) => {}
                Ok(true) => {
                    METRICS.repaired();
                    tracing::warn!(
                        "the rules of network policies had been changed, and are repaired"
                    );
                }
                Err(_) if *desired.ruleset() == Ruleset::default() => {}
                Err(error) => {
                    tracing::warn!(%error, "network policies not repaired, will be tried again");
                    METRICS.failed();
                    mirror.distrust();
                    self.retry = Some(start);
                }
            }
        }
        self.look_after = start + start.elapsed() * LOOK_SHARE;
    }
}
