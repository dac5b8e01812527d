//! The kubelet: runs the pods that are bound to this node through a CRI runtime and reports
//! on them. It knows the API only through a client, and the machine only through `host`.
//!
//! [`run`] is everything; [`config::Config`] is its configuration.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod config;
mod configz;
pub mod cpus;
pub mod csi;
pub mod devices;
pub mod dra;
pub mod events;
pub mod eviction;
mod folder;
pub mod gc;
pub mod images;
pub mod kubelet_configuration;
mod log_links;
pub mod log_rotation;
pub mod logs;
mod metrics;
pub mod node;
pub mod objects;
mod persisting;
mod plugins;
pub mod pod;
pub mod probes;
pub mod quantity;
pub mod server;
pub mod services;
pub mod shutdown;
pub mod static_pods;
pub mod stats;
pub mod streaming;
pub mod tls_files;
pub mod topology;
pub mod user_ids;
pub mod volumes;

pub use config::Config;

use clock::{Clock, Random};
use host::cgroup::{Hierarchy, Limits, OomScores};
use host::cri::Cri;
use host::runtime::Runtime;
use pod::deps::Deps;
use pod::manager::Pods;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use traces::Tracer;

/// Where the machine says which accounts it has.
const ACCOUNTS: &str = "/etc";

/// Why a kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder or file that it needs.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// CPUs cannot be given as the configuration says.
    #[error("the kubelet's CPUs: {0}")]
    Cpus(String),
    /// Memory, or CPUs and memory together, cannot be given as the configuration says.
    #[error("the kubelet's NUMA nodes: {0}")]
    Topology(String),
    /// The machine has no numbers of users for pods as the configuration says.
    #[error("numbers of users for pods: {0}")]
    UserIds(String),
    /// The configuration says that the kubelet does not run on such a machine.
    #[error("{0}")]
    Machine(&'static str),
    /// Its certificate or client authority.
    #[error("the kubelet's TLS: {0}")]
    Tls(String),
    /// Spans cannot be sent where the configuration says.
    #[error("tracing: {0}")]
    Tracing(#[from] traces::StartError),
}

fn attempt<T>(what: &str, outcome: std::io::Result<T>) -> Result<T, Error> {
    outcome.map_err(|source| Error::Io {
        what: what.to_owned(),
        source,
    })
}

/// What a kubelet stands on, beside the folders that its configuration names.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Control groups.
    pub cgroups: Hierarchy,
    /// Out-of-memory scores that may be given.
    pub oom: OomScores,
    /// The time of day.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
}

impl Ground {
    /// This machine, with the CRI runtime that the configuration names.
    #[must_use]
    pub fn machine(config: &Config, clock: Clock, random: Random) -> Self {
        Self {
            runtime: Arc::new(Cri::new(&config.runtime_endpoint, config.runtime_timeout)),
            cgroups: Hierarchy::probe(),
            oom: OomScores::probe(),
            clock,
            random,
        }
    }
}

/// Runs a kubelet until `shutdown`. Containers go on running after it; the next kubelet with the
/// same configuration takes them over.
pub async fn run(
    ground: Ground,
    config: Config,
    client: kube::Client,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    fit_for(&config, ground.cgroups.version()).map_err(Error::Machine)?;
    let pods = config.root_dir.join("pods");
    attempt("making the folder of pods", volumes::private_folder(&pods))?;
    // It may be an older kubelet's.
    attempt(
        "closing the folder of pods to others",
        volumes::atomic::set_mode(&pods, 0o750),
    )?;
    attempt(
        "making the folder of logs",
        std::fs::create_dir_all(&config.log_dir),
    )?;
    if let Some(links) = log_links::Links::of(&config) {
        attempt("making the folder of links to logs", links.make_folder())?;
    }
    let disk = config.local_volumes.as_deref().map(|dir| {
        let marks = config.root_dir.join("local-volumes");
        volumes::local_disk::Disk::new(dir, &marks)
    });
    let disk = attempt("making the folder of local volumes", disk.transpose())?;
    let cpus = cpus::Cpus::new(
        config.cpus.clone(),
        config.reserved.cpu_millis,
        pods.clone(),
    );
    let cpus = cpus.map_err(Error::Cpus)?;
    let topology = topology_of(&config, &cpus, pods.clone()).map_err(Error::Topology)?;
    let most = config.capacity.pods.unwrap_or(node::machine::DEFAULT_PODS);
    let pool = user_ids::IdPool::of_machine(config.user_ids_per_pod, most, Path::new(ACCOUNTS));
    let user_ids = user_ids::UserIds::new(pool.map_err(Error::UserIds)?, pods);
    let tracer = match &config.tracing {
        Some(wanted) => Tracer::start(wanted, "kubelet", ("host.name", &config.node_name))?,
        None => Tracer::default(),
    };
    let own = (disk, cpus, topology, user_ids, tracer);
    let deps = Arc::new(assemble(ground, config, client, own));
    make_groups(&deps)?;
    let listener = listen(&deps.config).await?;
    zpages::show_config(
        "kubeletconfig",
        configz::of(&deps.config, deps.resources.pods),
    );
    let keeper = Arc::new(node::NodeKeeper::new(&deps));
    let work = async {
        keeper.register().await;
        deps.recorder.node(
            &deps.config.node_name,
            events::Severity::Normal,
            "Starting",
            "Starting kubelet.",
        );
        // A kubelet that does not listen to its machine says nothing of it: what is simulated does not
        // depend on whether the machine swaps, or whom it asks for names.
        if deps.config.plugins {
            keeper.warn_of_swap();
            pod::dns_events::of_node(&deps);
        }
        deps.recorder.node(
            &deps.config.node_name,
            events::Severity::Normal,
            "NodeAllocatableEnforced",
            "Updated Node Allocatable limit across pods",
        );
        for group in &deps.config.enforced.groups {
            let what = group.what.to_lowercase();
            let text = format!("Updated limits on {what} reserved cgroup {}", group.group);
            let (node, normal) = (&deps.config.node_name, events::Severity::Normal);
            deps.recorder
                .node(node, normal, "NodeAllocatableEnforced", text);
        }
        let pods = Pods::new(deps.clone());
        if let Some(source) = &deps.config.static_pods {
            // Before anything is taken for a pod that nobody wants.
            static_pods::read(&deps, &pods, source);
        }
        let statistics = stats::Statistics::new(deps.clone(), pods.clone());
        let serving = async {
            if let Some((listener, tls)) = listener {
                let server = server::Server::new(deps.clone(), pods.clone(), statistics.clone());
                server.serve(listener, tls, shutdown.clone()).await;
            }
        };
        tokio::join!(
            keeper.keep_status(),
            keeper.follow(deps.random.clone()),
            keeper.keep_lease(),
            pods.clone().run(shutdown.clone()),
            serving,
            eviction::run(
                deps.clone(),
                pods.clone(),
                keeper.clone(),
                statistics.clone()
            ),
            gc::run(deps.clone(), pods.clone()),
            volumes::local_disk_keeper::run(deps.clone()),
            listen_to_machine(deps.clone(), pods.clone()),
            static_pods::run(deps.clone(), pods.clone()),
            shutdown::run(deps.clone(), pods.clone()),
            cpus::follow::run(deps.clone(), pods.clone()),
            pod::qos_groups::run(deps.clone()),
        );
    };
    tokio::select! {
        biased;
        () = work => {}
        () = shutdown.cancelled() => {}
    }
    deps.tracer.finish().await;
    Ok(())
}

/// Whether the machine is one on which the configuration lets the kubelet run.
fn fit_for(config: &Config, cgroups: u8) -> Result<(), &'static str> {
    if config.fail_on_swap && node::machine::memory().swap > 0 {
        return Err(
            "running with swap on is not supported: disable swap or set failSwapOn to false",
        );
    }
    if config.fail_on_cgroup_v1 && cgroups == 1 {
        return Err("the kubelet is configured to not run on a host using cgroup v1");
    }
    Ok(())
}

fn topology_of(
    config: &Config,
    cpus: &cpus::Cpus,
    pods: std::path::PathBuf,
) -> Result<topology::Topology, String> {
    let rules = (config.topology.clone(), config.memory.clone());
    let memory = node::machine::Resources::read(config).memory_bytes;
    let hard = config.eviction.hard.get(eviction::Resource::Memory);
    let kept = hard.map_or(0, |t| t.of(memory));
    let kept = kept.saturating_add(config.reserved.memory_bytes);
    topology::Topology::new(rules, cpus, (memory, kept), pods)
}

async fn listen_to_machine(deps: Arc<Deps>, pods: Arc<Pods>) {
    if deps.config.plugins {
        tokio::join!(
            deps.devices.clone().serve(),
            devices::pod_resources::serve(deps.clone(), pods),
            deps.dra.run(),
            plugins::run(deps.clone()),
            node::out_of_memory::run(deps.clone()),
            node::cgroup_driver::run(deps.clone()),
        );
    }
}

type Listening = (tokio::net::TcpListener, wire::tls::ServerTls);

/// Opens the port before anything else, so that a port in use is an error of the start.
async fn listen(config: &Config) -> Result<Option<Listening>, Error> {
    let Some(address) = config.listen else {
        return Ok(None);
    };
    let tls = config.tls.clone();
    let tls = tls.ok_or_else(|| Error::Tls("there is no certificate".into()))?;
    // The runtime's streams need upgrades, which are a matter of HTTP/1.1.
    tls.speak(&["http/1.1"]);
    let listener = attempt(
        &format!("listening on {address}"),
        tokio::net::TcpListener::bind(address).await,
    )?;
    Ok(Some((listener, tls)))
}

fn assemble(
    ground: Ground,
    config: Config,
    client: kube::Client,
    (disk, cpus, topology, user_ids, tracer): (
        Option<volumes::local_disk::Disk>,
        cpus::Cpus,
        topology::Topology,
        user_ids::UserIds,
        Tracer,
    ),
) -> Deps {
    let Ground {
        runtime,
        cgroups,
        oom,
        clock,
        random,
    } = ground;
    metrics::METRICS.runs(&config.node_name);
    let runtime: Arc<dyn Runtime> = Arc::new(metrics::Counted(runtime));
    let recorder = events::Recorder::start(client.clone(), &config.node_name, clock);
    let objects = Arc::new(objects::Objects::new(client.clone(), random.clone()));
    let node = Arc::new(node::own_object::OwnNode::new(
        client.clone(),
        &config.node_name,
    ));
    let tokens = Arc::new(volumes::tokens::Tokens::new(client.clone(), clock));
    let wakes = volumes::wakes::Wakes::default();
    let trust_bundles =
        volumes::trust_bundles::TrustBundles::new(client.clone(), random.clone(), &wakes);
    let certificates = volumes::pod_certificates::PodCertificates::new(
        client.clone(),
        recorder.clone(),
        random.clone(),
        (&config.node_name, node.clone()),
        &wakes,
    );
    let node_changed = Arc::new(tokio::sync::Notify::new());
    let csi = Arc::new(csi::Csi::new(
        &config.root_dir,
        &config.node_name,
        client.clone(),
        (objects.clone(), tokens.clone()),
        recorder.clone(),
        node_changed.clone(),
    ));
    let devices = devices::Devices::new(&config.root_dir, node_changed.clone());
    let dra = dra::Dra::new(&config.root_dir, &config.node_name, client.clone());
    if config.limited_swap && cgroups.version() != 2 {
        tracing::warn!(
            "memorySwap.swapBehavior LimitedSwap has no effect: containers can be given swap by control groups of version 2 alone"
        );
    }
    if oom.is_restricted() {
        tracing::warn!(
            "negative out-of-memory scores cannot be given here; pods that deserve one get the lowest that can"
        );
    }
    Deps {
        images: images::Images::new(
            runtime.clone(),
            objects.clone(),
            recorder.clone(),
            images::providers::Providers::new(
                &config.root_dir,
                config.image_providers.clone(),
                client.clone(),
                tokens.clone(),
            ),
            &config,
        ),
        volumes: volumes::Volumes(volumes::Means {
            pods_dir: config.root_dir.join("pods"),
            objects: objects.clone(),
            tokens,
            trust_bundles,
            certificates,
            wakes,
            csi: csi.clone(),
            claims: volumes::claim_lookup::Claims::new(client.clone(), node.clone()),
            disk,
            clock,
            image_volumes: volumes::image::InUse::default(),
            recorder: recorder.clone(),
        }),
        services: services::Services::start(client.clone(), random.clone()),
        cgroups,
        resources: node::machine::Resources::read(&config),
        app_armor: node::machine::has_app_armor(),
        kernel: node::machine::KernelTraits::read(),
        owners: pod::deps::Owners::default(),
        commands: Arc::default(),
        accounts: pod::reserved::Accounts::default(),
        listed: clock::watch::Sender::new(false),
        going_down: clock::watch::Sender::new(false),
        csi,
        devices: Arc::new(devices),
        cpus,
        topology,
        user_ids,
        dra: Arc::new(dra),
        node_changed,
        node,
        pressure: Arc::default(),
        objects,
        recorder,
        oom,
        runtime,
        runtime_name: tokio::sync::OnceCell::new(),
        tracer,
        began: clock.now(),
        clock,
        random,
        client,
        config,
    }
}

/// Limits a group that somebody else has made to what is reserved for it.
fn limit(deps: &Deps, wanted: &config::LimitedGroup) -> Result<(), Error> {
    let config::LimitedGroup { what, group, .. } = wanted;
    let limits = Limits {
        cpu_shares: wanted
            .cpu_millis
            .and_then(|m| u64::try_from(pod::resources::shares(m)).ok()),
        memory_bytes: wanted.memory_bytes,
        pids: wanted.pids,
        ..Default::default()
    };
    let set = if deps.cgroups.exists(group) {
        deps.cgroups.set(group, &limits)
    } else {
        Err(std::io::ErrorKind::NotFound.into())
    };
    let attempted = format!("Failed to enforce {what} Reserved Cgroup Limits on {group:?}");
    attempt(&attempted, set)
}

/// The group of all pods, limited to what pods can have.
fn make_groups(deps: &Deps) -> Result<(), Error> {
    let r = &deps.resources;
    let reserved = &deps.config.reserved;
    let (cpu, kept, pids) = if deps.config.enforced.pods {
        let pids = reserved.pids_left(node::machine::pids().1);
        (r.allocatable_cpu_millis(), reserved.memory_bytes, pids)
    } else {
        (r.cpu_millis, 0, None)
    };
    let limits = Limits {
        cpu_shares: Some((cpu * 1024 / 1000).clamp(2, 262_144)),
        memory_bytes: i64::try_from(r.memory_bytes.saturating_sub(kept)).ok(),
        pids,
        ..Default::default()
    };
    attempt(
        "making the control group of pods",
        deps.cgroups.create(&deps.config.kubepods(), &limits),
    )?;
    for group in &deps.config.enforced.groups {
        limit(deps, group)?;
    }
    // Without it there are no figures of reads and writes; all else works.
    if let Err(error) = deps.cgroups.count_io(&deps.config.root_dir) {
        tracing::debug!(%error, "reads and writes of the disk are not counted");
    }
    Ok(())
}
