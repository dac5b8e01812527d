//! The kubelet: runs the pods that are bound to this node through a CRI runtime and reports
//! on them. It knows the API only through a client, and the machine only through `host`.
//!
//! [`run`] is everything; [`config::Config`] says what it is told.
#![forbid(unsafe_code)]

pub mod config;
pub mod events;
pub mod images;
pub mod logs;
pub mod node;
pub mod objects;
pub mod pod;
pub mod probes;
pub mod quantity;
pub mod services;
pub mod volumes;

pub use config::Config;

use host::cgroup::{Hierarchy, Limits, OomScores};
use host::cri::Runtime;
use pod::deps::Deps;
use pod::manager::Pods;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

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
    /// Its certificate or client authority.
    #[error("the kubelet's TLS: {0}")]
    Tls(String),
}

fn attempt<T>(what: &str, outcome: std::io::Result<T>) -> Result<T, Error> {
    outcome.map_err(|source| Error::Io {
        what: what.to_owned(),
        source,
    })
}

/// Runs a kubelet until `shutdown`. Containers go on running after it; the next kubelet with
/// the same configuration takes them over.
pub async fn run(
    config: Config,
    client: kube::Client,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    attempt(
        "making the root folder",
        std::fs::create_dir_all(config.root_dir.join("pods")),
    )?;
    attempt(
        "making the folder of logs",
        std::fs::create_dir_all(&config.log_dir),
    )?;
    let deps = Arc::new(assemble(config, client));
    make_groups(&deps)?;
    let keeper = Arc::new(node::NodeKeeper::new(
        deps.config.clone(),
        deps.client.clone(),
        deps.runtime.clone(),
        deps.recorder.clone(),
        deps.resources.clone(),
    ));
    let work = async {
        keeper.register().await;
        deps.recorder.node(
            &deps.config.node_name,
            events::Severity::Normal,
            "Starting",
            "Starting kubelet.",
        );
        let pods = Pods::new(deps.clone());
        tokio::join!(
            keeper.keep_status(),
            keeper.keep_lease(),
            pods.clone().run(shutdown.clone()),
        );
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

fn assemble(config: Config, client: kube::Client) -> Deps {
    let runtime = Runtime::new(&config.runtime_endpoint);
    let recorder = events::Recorder::start(client.clone(), &config.node_name);
    let objects = Arc::new(objects::Objects::new(client.clone()));
    let oom = OomScores::probe();
    if oom.is_restricted() {
        tracing::warn!(
            "negative out-of-memory scores cannot be given here; pods that deserve one get the lowest that can"
        );
    }
    Deps {
        images: images::Images::new(runtime.clone(), objects.clone(), recorder.clone()),
        volumes: volumes::Volumes {
            pods_dir: config.root_dir.join("pods"),
            objects: objects.clone(),
            tokens: volumes::tokens::Tokens::new(client.clone()),
        },
        services: services::Services::start(client.clone()),
        cgroups: Hierarchy::probe(),
        resources: node::machine::Resources::read(&config),
        owners: pod::deps::Owners::default(),
        objects,
        recorder,
        oom,
        runtime,
        client,
        config,
    }
}

/// The group of all pods, limited to what pods can have.
fn make_groups(deps: &Deps) -> Result<(), Error> {
    let r = &deps.resources;
    let limits = Limits {
        cpu_shares: Some((r.allocatable_cpu_millis() * 1024 / 1000).clamp(2, 262_144)),
        memory_bytes: i64::try_from(
            r.memory_bytes
                .saturating_sub(deps.config.reserved.memory_bytes),
        )
        .ok(),
        ..Default::default()
    };
    attempt(
        "making the control group of pods",
        deps.cgroups.create(&deps.config.kubepods(), &limits),
    )
}
