//! Devices of plugins: which there are, which pods have them, and what a container needs so that it
//! can use them. A plugin names its devices for as long as it lives; what a pod was given is kept in
//! its folder, since nobody else knows it ([`allocated`]).

pub mod allocated;
mod choose;
mod draft;
mod inventory;
mod plugin;
pub mod pod_resources;
mod server;
#[cfg(test)]
mod tests;

pub use allocated::{AllocatedDevices, OfContainer};
pub use choose::Error;
pub use draft::Draft;
pub use inventory::Amount;

use crate::metrics::COUNTS;
use crate::pod::spec;
use crate::topology::nodes::Nodes;
use allocated::OfPod;
use clock::Instant;
use draft::Shelf;
use host::plugins::devices::DevicePluginOptions;
use inventory::Stock;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceHealth, ResourceStatus};
use parking_lot::Mutex;
use plugin::Plugin;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The folder of device plugins below the kubelet's; upstream's.
const FOLDER: &str = "device-plugins";

/// All devices of the node.
pub struct Devices {
    folder: PathBuf,
    pods: PathBuf,
    stock: Mutex<Stock>,
    plugins: Mutex<BTreeMap<String, Plugin>>,
    /// By the pod's UID.
    given: Mutex<BTreeMap<String, OfPod>>,
    /// Pods get devices one after another, so that two do not get the same.
    turn: tokio::sync::Mutex<()>,
    /// The node's status should be looked at, and those of its pods.
    changed: Arc<Notify>,
    /// Which devices are healthy has changed.
    health: clock::watch::Sender<u64>,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").finish_non_exhaustive()
    }
}

impl Devices {
    /// No plugin is there yet. `root` is the kubelet's folder, `changed` wakes whoever writes the
    /// node's status.
    #[must_use]
    pub fn new(root: &Path, changed: Arc<Notify>) -> Self {
        let folder = root.join(FOLDER);
        Self {
            stock: Mutex::new(Stock::known(&folder)),
            folder,
            pods: root.join("pods"),
            plugins: Mutex::default(),
            given: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            changed,
            health: clock::watch::Sender::new(0),
        }
    }

    /// How many devices there are and can be had, by resource.
    #[must_use]
    pub fn amounts(&self) -> BTreeMap<String, Amount> {
        self.stock.lock().amounts(clock::Instant::now())
    }

    /// The devices that are healthy, by resource.
    #[must_use]
    pub fn healthy(&self) -> BTreeMap<String, BTreeSet<String>> {
        let stock = self.stock.lock();
        let names = stock.amounts(clock::Instant::now()).into_keys();
        names.map(|n| (n.clone(), stock.healthy(&n))).collect()
    }

    /// The NUMA nodes that a device is at; none where its plugin does not say.
    #[must_use]
    pub fn nodes_of(&self, resource: &str, id: &str) -> Nodes {
        let devices = self.stock.lock().devices(resource);
        devices.get(id).map(|d| d.nodes).unwrap_or_default()
    }

    /// Changes whenever a device's health does.
    #[must_use]
    pub fn health_changes(&self) -> clock::watch::Receiver<u64> {
        self.health.subscribe()
    }

    /// Reads what an earlier kubelet gave a pod that is not over.
    pub fn load(&self, uid: &str) {
        if let Some(kept) = OfPod::load(&self.pods.join(uid)) {
            self.given.lock().insert(uid.to_owned(), kept);
        }
    }

    /// The pod has nothing any more.
    pub fn forget(&self, uid: &str) {
        self.given.lock().remove(uid);
    }

    /// What a container was given.
    #[must_use]
    pub fn of(&self, uid: &str, container: &str) -> OfContainer {
        let given = self.given.lock();
        let of_pod = given.get(uid);
        of_pod
            .and_then(|p| p.containers.get(container))
            .cloned()
            .unwrap_or_default()
    }

    /// Whether the devices of a container are healthy, by resource and name.
    #[must_use]
    pub fn health_of(
        &self,
        uid: &str,
        container: &str,
    ) -> BTreeMap<String, BTreeMap<String, bool>> {
        let all = self.of(uid, container).resources.into_iter();
        let stock = self.stock.lock();
        let each = |(resource, given): (String, AllocatedDevices)| {
            let ids = given.ids.into_iter();
            let ids = ids.map(|id| (id.clone(), stock.is_healthy(&resource, &id)));
            let ids = ids.collect();
            (resource, ids)
        };
        all.map(each).collect()
    }

    /// Waits until it is a pod's turn to be given devices; nobody else is given any meanwhile. None
    /// where it asks for nothing that plugins have.
    pub async fn turn(&self, pod: &Pod) -> Option<Turn<'_>> {
        if !self.is_asked(pod) {
            return None;
        }
        Some(Turn {
            devices: self,
            _alone: self.turn.lock().await,
        })
    }

    fn is_asked(&self, pod: &Pod) -> bool {
        let stock = self.stock.lock();
        let all = spec::init_containers(pod)
            .iter()
            .chain(spec::containers(pod));
        let mut asked = all.flat_map(wanted);
        asked.any(|(resource, _)| stock.has(&resource))
    }

    async fn allocate_for(
        &self,
        own: &mut OfPod,
        (c, uid): (&Container, &str),
        nodes: Option<Nodes>,
    ) -> Result<(), Error> {
        for (resource, count) in wanted(c) {
            if !self.stock.lock().has(&resource) {
                continue;
            }
            if own.has(&c.name, &resource) {
                continue;
            }
            let plugin = self.plugins.lock().get(&resource).cloned();
            let plugin = plugin.ok_or_else(|| {
                Error(format!(
                    "no healthy devices present; cannot allocate unhealthy devices {resource}"
                ))
            })?;
            let shelf = self.shelf(uid, &resource);
            let mut choice = shelf.choice((&*own, &resource), count, nodes);
            choice.check(&resource)?;
            if choice.is_open() && plugin.options.get_preferred_allocation_available {
                let preferred = plugin.prefer(&choice).await;
                choice.prefer(preferred.map_err(Error)?);
            }
            let ids = choice.decide();
            let began = Instant::now();
            let answer = plugin.allocate(&ids).await;
            COUNTS.devices_given(&resource, began.elapsed());
            let answer = answer.map_err(Error)?;
            own.give(&c.name, &resource, AllocatedDevices::of(ids, answer));
        }
        Ok(())
    }

    /// The devices of a resource as a pod finds them.
    fn shelf(&self, uid: &str, resource: &str) -> Shelf {
        let stock = self.stock.lock();
        let (devices, mut free) = (stock.devices(resource), stock.healthy(resource));
        drop(stock);
        let given = self.given.lock();
        for (_, other) in given.iter().filter(|(other, _)| *other != uid) {
            for id in other.ids(resource) {
                free.remove(&id);
            }
        }
        Shelf { devices, free }
    }

    /// Lets plugins that want it know that a container is about to start.
    pub async fn before_start(&self, uid: &str, container: &str) -> Result<(), String> {
        for (resource, given) in self.of(uid, container).resources {
            let plugin = self.plugins.lock().get(&resource).cloned();
            match plugin {
                Some(plugin) if plugin.options.pre_start_required => {
                    plugin.before_start(&given.ids).await?;
                }
                // One that is away was asked when the container was given its devices.
                _ => {}
            }
        }
        Ok(())
    }

    /// A plugin that was found by its socket registers.
    pub async fn introduce(
        self: &Arc<Self>,
        resource: &str,
        socket: &Path,
        versions: &[String],
    ) -> Result<(), String> {
        if !versions.iter().any(|v| v == server::VERSION) {
            return Err(format!(
                "manager version, {}, is not among plugin supported versions {versions:?}",
                server::VERSION
            ));
        }
        let options = Plugin::options_of(resource, socket).await?;
        self.register(resource, socket, options)
    }

    /// Shows in a pod's status whether its devices are healthy.
    pub fn show(&self, uid: &str, status: &mut PodStatus) {
        if !self.given.lock().contains_key(uid) {
            return;
        }
        for container in status.container_statuses.iter_mut().flatten() {
            let all = self.health_of(uid, &container.name);
            let shown: Vec<ResourceStatus> = all.into_iter().map(resource_status).collect();
            container.allocated_resources_status = (!shown.is_empty()).then_some(shown);
        }
    }

    /// A plugin registers: from now on its devices are followed. One of the same resource that was
    /// there before is no longer asked.
    pub fn register(
        self: &Arc<Self>,
        resource: &str,
        socket: &Path,
        options: DevicePluginOptions,
    ) -> Result<(), String> {
        if !is_extended(resource) {
            return Err(format!(
                "the ResourceName \"{resource}\" is invalid: it is not an extended resource"
            ));
        }
        let plugin = Plugin::new(resource, socket, options);
        let old = self
            .plugins
            .lock()
            .insert(resource.to_owned(), plugin.clone());
        if let Some(old) = old {
            old.left.cancel();
        }
        self.stock.lock().add(resource, &self.folder);
        tracing::info!(resource, "a device plugin is registered");
        tokio::spawn(self.clone().follow(plugin));
        Ok(())
    }

    /// Follows the devices of a plugin until it is gone.
    async fn follow(self: Arc<Self>, plugin: Plugin) {
        let left: CancellationToken = plugin.left.clone();
        let following = plugin.follow(|devices| {
            self.stock.lock().set(&plugin.resource, devices);
            self.tell();
        });
        let why = tokio::select! {
            biased;
            () = left.cancelled() => return,
            why = following => why,
        };
        tracing::warn!(resource = plugin.resource, why, "a device plugin is gone");
        let mut plugins = self.plugins.lock();
        // Another one may have taken its place a moment ago.
        let is_own = plugins
            .get(&plugin.resource)
            .is_some_and(|p| p.is_same(&plugin));
        if is_own {
            plugins.remove(&plugin.resource);
            self.stock
                .lock()
                .lose(&plugin.resource, clock::Instant::now());
            self.tell();
        }
    }

    fn tell(&self) {
        self.changed.notify_one();
        self.health.send_modify(|n| *n += 1);
    }

    /// Listens for plugins as long as the kubelet runs.
    pub async fn serve(self: Arc<Self>) {
        server::run(self).await;
    }
}

/// The turn of one pod.
pub struct Turn<'a> {
    devices: &'a Devices,
    _alone: tokio::sync::MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// What the pod is about to be given.
    #[must_use]
    pub fn draft(&self, pod: &Pod) -> Draft {
        let uid = spec::uid(pod);
        let all = spec::init_containers(pod)
            .iter()
            .chain(spec::containers(pod));
        let mut names: Vec<String> = all.flat_map(wanted).map(|(name, _)| name).collect();
        names.retain(|name| self.devices.stock.lock().has(name));
        let shelf = |name: String| (name.clone(), self.devices.shelf(uid, &name));
        Draft {
            shelves: names.into_iter().map(shelf).collect(),
            own: self.had(uid),
        }
    }

    fn had(&self, uid: &str) -> OfPod {
        let given = self.devices.given.lock();
        given.get(uid).cloned().unwrap_or_default()
    }

    /// Gives the pod the devices that it asks for, as near as can be to the NUMA nodes that its
    /// containers are to have. Asked again, it has what it has.
    pub async fn allocate(&self, pod: &Pod, nodes: &BTreeMap<String, Nodes>) -> Result<(), Error> {
        let (devices, uid) = (self.devices, spec::uid(pod));
        let mut own = self.had(uid);
        let init = spec::init_containers(pod).iter();
        for c in init.chain(spec::containers(pod)) {
            let nodes = nodes.get(&c.name).copied();
            devices.allocate_for(&mut own, (c, uid), nodes).await?;
            if spec::is_init(pod, &c.name) && !spec::is_sidecar(c) {
                own.pass_on(&c.name);
            }
        }
        let saved = own.save(&devices.pods.join(uid));
        saved.map_err(|e| Error(format!("what it was given cannot be noted: {e}")))?;
        devices.given.lock().insert(uid.to_owned(), own);
        Ok(())
    }
}

/// A resource as a container's status shows it.
fn resource_status((name, devices): (String, BTreeMap<String, bool>)) -> ResourceStatus {
    let each = |(id, healthy): (String, bool)| ResourceHealth {
        message: None,
        resource_id: id,
        health: Some(if healthy { "Healthy" } else { "Unhealthy" }.to_owned()),
    };
    ResourceStatus {
        name,
        resources: Some(devices.into_iter().map(each).collect()),
    }
}

/// Extended resources that a container asks for, and how many.
fn wanted(container: &Container) -> Vec<(String, usize)> {
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let all = limits.into_iter().flatten();
    all.filter(|(name, _)| is_extended(name))
        .filter_map(|(name, q)| {
            let count = usize::try_from(crate::quantity::units(&q.0)?).ok()?;
            (count > 0).then(|| (name.clone(), count))
        })
        .collect()
}

/// Whether a name is one that plugins may have: of a domain, and not of Kubernetes' own.
fn is_extended(name: &str) -> bool {
    let domain = name
        .split_once('/')
        .filter(|(_, rest)| !rest.is_empty() && !rest.contains('/'));
    domain.is_some_and(|(domain, _)| {
        !domain.is_empty() && domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io")
    }) && !name.starts_with("requests.")
}
