//! What all pods of a kubelet share.

use super::env::Around;
use super::fit::Pressure;
use super::reserved::Accounts;
use super::sandbox::Resolver;
use crate::config::Config;
use crate::cpus::Cpus;
use crate::csi::Csi;
use crate::devices::Devices;
use crate::dra::Dra;
use crate::events::Recorder;
use crate::images::Images;
use crate::node::machine::{KernelTraits, Resources};
use crate::node::own_object::OwnNode;
use crate::objects::Objects;
use crate::services::Services;
use crate::streaming::client_commands::ClientCommands;
use crate::topology::Topology;
use crate::user_ids::UserIds;
use crate::volumes::Volumes;
use clock::{Clock, Random};
use host::cgroup::{Hierarchy, OomScores};
use host::runtime::Runtime;
use jiff::Timestamp;
use std::sync::Arc;

/// Shared parts.
pub struct Deps {
    /// Configuration.
    pub config: Config,
    /// The time of day.
    pub clock: Clock,
    /// When this kubelet began.
    pub began: Timestamp,
    /// Chance: how long to wait before a broken watch begins again.
    pub random: Random,
    /// The API.
    pub client: kube::Client,
    /// Makes spans of the kubelet's work.
    pub tracer: traces::Tracer,
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Its name, once it said it.
    pub runtime_name: tokio::sync::OnceCell<String>,
    /// Getting images.
    pub images: Images,
    /// Making volumes.
    pub volumes: Volumes,
    /// Volumes of CSI drivers.
    pub csi: Arc<Csi>,
    /// Devices of plugins.
    pub devices: Arc<Devices>,
    /// CPUs that containers have for themselves.
    pub cpus: Cpus,
    /// Where in the machine they are, and memory beside them.
    pub topology: Topology,
    /// Dynamic resources of drivers.
    pub dra: Arc<Dra>,
    /// Wakes whoever writes the node's status.
    pub node_changed: Arc<tokio::sync::Notify>,
    /// ConfigMaps and Secrets.
    pub objects: Arc<Objects>,
    /// Services, for environments.
    pub services: Services,
    /// Saying what happens.
    pub recorder: Recorder,
    /// Control groups.
    pub cgroups: Hierarchy,
    /// Scores that may be given.
    pub oom: OomScores,
    /// The kernel enforces AppArmor profiles.
    pub app_armor: bool,
    /// What else of the kernel decides how containers are made.
    pub kernel: KernelTraits,
    /// What the node has.
    pub resources: Resources,
    /// What all pods were given.
    pub accounts: Accounts,
    /// The pods of the node were listed once; before, it is not known what new ones must fit beside.
    pub listed: clock::watch::Sender<bool>,
    /// The machine is to go down.
    pub going_down: clock::watch::Sender<bool>,
    /// The node's own object.
    pub node: Arc<OwnNode>,
    /// What the node is short of.
    pub pressure: Arc<parking_lot::Mutex<Pressure>>,
    /// Which pod a container or sandbox of the runtime belongs to.
    pub owners: Owners,
    /// Numbers of users of pods that have their own.
    pub user_ids: UserIds,
    /// Commands of clients that run in containers.
    pub commands: Arc<ClientCommands>,
}

/// UIDs of pods by ids of their containers and sandboxes. Events of the runtime name only the
/// latter; an entry is made before a container starts, so that no end of it is missed.
#[derive(Debug, Default)]
pub struct Owners {
    table: parking_lot::Mutex<std::collections::HashMap<String, String>>,
}

impl Owners {
    /// Notes whose an id is.
    pub fn note(&self, id: &str, uid: &str) {
        let mut table = self.table.lock();
        if !table.contains_key(id) {
            table.insert(id.to_owned(), uid.to_owned());
        }
    }

    /// Whose an id is.
    #[must_use]
    pub fn of(&self, id: &str) -> Option<String> {
        self.table.lock().get(id).cloned()
    }

    /// Forgets all ids of a pod.
    pub fn forget(&self, uid: &str) {
        self.table.lock().retain(|_, owner| owner != uid);
    }
}

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}

impl Deps {
    /// The runtime's name, with which ids of containers begin in statuses.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn runtime_name(&self) -> Result<&str, host::runtime::Error> {
        let ask = || async { self.runtime.version().await.map(|v| v.name) };
        self.runtime_name
            .get_or_try_init(ask)
            .await
            .map(String::as_str)
    }

    /// The node's own resolver file as it is now; where none is configured, the node itself is
    /// asked.
    pub fn resolver(&self) -> Result<Resolver, String> {
        let file = &self.config.resolv_conf;
        if file.as_os_str().is_empty() {
            return Ok(Resolver::local(&self.config.node_ips()));
        }
        let text = std::fs::read_to_string(file).map_err(|e| e.to_string());
        let read = text.and_then(|text| Resolver::parse(&text));
        read.map_err(|e| format!("the node's resolver file {}: {e}", file.display()))
    }

    /// What fields of a pod may refer to.
    #[must_use]
    pub fn around(&self, pod_ips: &[String]) -> Around {
        Around {
            pod_ips: pod_ips.to_vec(),
            host_ips: self.config.node_ips(),
            node_name: self.config.node_name.clone(),
            allocatable_cpu_millis: i64::try_from(self.resources.allocatable_cpu_millis())
                .unwrap_or(i64::MAX),
            allocatable_memory_bytes: i64::try_from(self.resources.allocatable_memory_bytes())
                .unwrap_or(i64::MAX),
            allocatable_storage_bytes: i64::try_from(self.resources.allocatable_storage_bytes())
                .unwrap_or(i64::MAX),
        }
    }
}
