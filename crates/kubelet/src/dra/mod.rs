//! Dynamic resources (DRA) on their node: which drivers are registered, and what they are asked so
//! that a pod's claims are prepared before it starts and given back after its last container has
//! ended. Which devices a claim has was decided before, by whoever allocates. What is prepared is
//! noted on the disk ([`prepared_claims`]), so that a kubelet that starts again gives it back.

pub mod cdi;
mod driver;
mod health;
mod metrics;
mod names;
pub mod prepared_claims;
mod slices;
#[cfg(test)]
mod tests;

use self::metrics::METRICS;
use crate::pod::spec;
use driver::Driver;
use health::Health;
use host::plugins::pod_resources::{CdiDevice, ClaimResource, DynamicResource};
use host::runtime::ContainerSpec;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceHealth, ResourceStatus};
use k8s_openapi::api::resource::v1::ResourceClaim;
use names::Used;
use parking_lot::Mutex;
use prepared_claims::{Claim, Device};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The folder of what is prepared, below the kubelet's.
const FOLDER: &str = "dra";
/// Before a driver is asked again how its devices are; upstream's.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Between looks whether what a driver said still holds, where it says nothing more.
const LOOK: Duration = Duration::from_secs(30);

/// One after another for each claim: by its UID.
type Busy = BTreeMap<String, Weak<tokio::sync::Mutex<()>>>;

/// All drivers and claims of the node.
pub struct Dra {
    folder: PathBuf,
    node: String,
    client: kube::Client,
    /// By UID.
    claims: Mutex<BTreeMap<String, Claim>>,
    /// Plugins by their driver, the newest last; none for one that is gone and still has slices.
    drivers: Mutex<BTreeMap<String, Vec<Driver>>>,
    busy: Mutex<Busy>,
    health: Mutex<Health>,
    /// How some device is has changed.
    changed: clock::watch::Sender<u64>,
}

impl std::fmt::Debug for Dra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dra").finish_non_exhaustive()
    }
}

impl Dra {
    /// No driver is registered yet; what earlier kubelets prepared is known. `root` is the kubelet's
    /// folder.
    #[must_use]
    pub fn new(root: &Path, node: &str, client: kube::Client) -> Self {
        let folder = root.join(FOLDER);
        let claims = prepared_claims::load(&folder);
        METRICS.use_is(&claims);
        Self {
            claims: Mutex::new(claims),
            folder,
            node: node.to_owned(),
            client,
            drivers: Mutex::default(),
            busy: Mutex::default(),
            health: Mutex::default(),
            changed: clock::watch::Sender::new(0),
        }
    }

    /// Deletes ResourceSlices of drivers that are away, as long as the kubelet runs.
    pub async fn run(&self) {
        slices::run(self).await;
    }

    /// Changes whenever the health of a device does.
    #[must_use]
    pub fn health_changes(&self) -> clock::watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A driver's plugin registers: from now on it is the one that is asked. One at the same socket
    /// that was there before is not asked any more.
    pub fn register(
        self: &Arc<Self>,
        name: &str,
        socket: &Path,
        services: &[String],
    ) -> Result<(), String> {
        let plugin = Driver::new(name, socket, services)?;
        let mut drivers = self.drivers.lock();
        let all = drivers.entry(name.to_owned()).or_default();
        all.retain(|old| {
            let stays = old.socket != plugin.socket;
            if !stays {
                old.left.cancel();
            }
            stays
        });
        all.push(plugin.clone());
        tokio::spawn(self.clone().follow(plugin));
        Ok(())
    }

    /// A plugin is gone.
    pub fn unregister(&self, name: &str, socket: &Path) {
        if let Some(all) = self.drivers.lock().get_mut(name) {
            for gone in all.iter().filter(|d| d.socket == socket) {
                gone.left.cancel();
            }
            all.retain(|d| d.socket != socket);
        }
    }

    /// The plugin of a driver that is to be asked: the newest that listens, else the newest.
    async fn driver(&self, name: &str) -> Result<Driver, String> {
        let all = self.drivers.lock().get(name).cloned().unwrap_or_default();
        for plugin in all.iter().rev() {
            if plugin.listens().await {
                return Ok(plugin.clone());
            }
        }
        let newest = all.into_iter().next_back();
        newest.ok_or_else(|| format!("DRA driver {name} is not registered"))
    }

    /// All drivers that are, or were, registered, and whether they can be asked.
    async fn usable(&self) -> Vec<(String, bool)> {
        let all = self.drivers.lock().clone();
        let mut out = Vec::new();
        for (name, plugins) in all {
            let mut usable = false;
            for plugin in &plugins {
                usable = usable || plugin.listens().await;
            }
            out.push((name, usable));
        }
        out
    }

    /// A driver whose plugins are gone, and whose slices are, is no longer known.
    fn forget(&self, name: &str) {
        let mut drivers = self.drivers.lock();
        if drivers.get(name).is_some_and(Vec::is_empty) {
            drivers.remove(name);
        }
    }

    /// Follows how the devices of a driver are, until its plugin is gone.
    async fn follow(self: Arc<Self>, plugin: Driver) {
        loop {
            tokio::select! {
                biased;
                () = plugin.left.cancelled() => break,
                ends = self.hear(&plugin) => if ends { break },
            }
            if self.health.lock().lose(&plugin.name) {
                self.tell();
            }
            tokio::select! {
                biased;
                () = plugin.left.cancelled() => break,
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
        }
        if self.health.lock().lose(&plugin.name) {
            self.tell();
        }
    }

    /// Takes the lists of a driver until there are no more. True if it has none at all.
    async fn hear(&self, plugin: &Driver) -> bool {
        let mut lists = match plugin.health().await {
            Ok(lists) => lists,
            Err(e) => {
                tracing::debug!(driver = plugin.name, error = %e, "how devices are is not said");
                return e.code() == tonic::Code::Unimplemented;
            }
        };
        loop {
            let now = clock::Instant::now();
            let next = self.health.lock().next(&plugin.name);
            let wait = next.map_or(LOOK, |at| at.saturating_duration_since(now).min(LOOK));
            let changed = match tokio::time::timeout(wait, lists.message()).await {
                Ok(Ok(Some(list))) => {
                    let now = clock::Instant::now();
                    self.health.lock().take(&plugin.name, list.devices, now)
                }
                Ok(Ok(None) | Err(_)) => return false,
                Err(_) => {
                    let now = clock::Instant::now();
                    self.health.lock().expire(&plugin.name, now)
                }
            };
            if changed {
                self.tell();
            }
        }
    }

    fn tell(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Waits until nobody else works on a claim.
    async fn alone(&self, uid: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let mutex = {
            let mut busy = self.busy.lock();
            busy.retain(|_, m| m.strong_count() > 0);
            let known = busy.get(uid).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let new = Arc::new(tokio::sync::Mutex::new(()));
                busy.insert(uid.to_owned(), Arc::downgrade(&new));
                new
            })
        };
        mutex.lock_owned().await
    }

    /// Prepares the claims of a pod, for which everything must be there: first all is looked at, so
    /// that a pod that cannot have its claims leaves nothing behind.
    pub async fn prepare(&self, pod: &Pod) -> Result<(), String> {
        let began = clock::Instant::now();
        let prepared = self.prepare_all(pod).await;
        METRICS.handled("PrepareResources", began, prepared.is_ok());
        prepared
    }

    async fn prepare_all(&self, pod: &Pod) -> Result<(), String> {
        let mut found = Vec::new();
        for used in names::of_pod(pod)? {
            let claim = self.look_up(pod, &used).await?;
            for driver in claim.drivers.keys() {
                self.driver(driver).await?;
            }
            found.push(claim);
        }
        for claim in found {
            self.prepare_claim(claim, spec::uid(pod)).await?;
        }
        Ok(())
    }

    async fn look_up(&self, pod: &Pod, used: &Used) -> Result<Claim, String> {
        let api = kube::Api::<ResourceClaim>::namespaced(self.client.clone(), spec::namespace(pod));
        let claim = api.get(&used.claim).await;
        let claim = claim.map_err(|e| format!("fetch ResourceClaim {}: {e}", used.claim))?;
        names::check(pod, used, &claim)
    }

    async fn prepare_claim(&self, claim: Claim, pod: &str) -> Result<(), String> {
        let alone = self.alone(&claim.uid).await;
        let known = self.claims.lock().get(&claim.uid).cloned();
        let mut claim = known.unwrap_or(claim);
        if claim.pods.insert(pod.to_owned()) {
            self.keep(&claim)?;
        }
        if claim.prepared {
            return Ok(());
        }
        let drivers: Vec<String> = claim.drivers.keys().cloned().collect();
        for name in drivers {
            let devices = self.driver(&name).await?.prepare(&claim).await?;
            claim.drivers.insert(name, devices);
        }
        claim.prepared = true;
        self.keep(&claim)?;
        drop(alone);
        Ok(())
    }

    fn keep(&self, claim: &Claim) -> Result<(), String> {
        let saved = claim.save(&self.folder);
        saved.map_err(|e| format!("ResourceClaim {} cannot be noted: {e}", claim.name))?;
        let mut claims = self.claims.lock();
        claims.insert(claim.uid.clone(), claim.clone());
        METRICS.use_is(&claims);
        Ok(())
    }

    /// Gives back what a pod had: nothing of it runs any more. Claims that others still use stay.
    pub async fn release(&self, pod: &str) -> Result<(), String> {
        let began = clock::Instant::now();
        let released = self.release_all(pod).await;
        METRICS.handled("UnprepareResources", began, released.is_ok());
        released
    }

    async fn release_all(&self, pod: &str) -> Result<(), String> {
        let uses = |(uid, c): (&String, &Claim)| c.pods.contains(pod).then(|| uid.clone());
        let own: Vec<String> = self.claims.lock().iter().filter_map(uses).collect();
        for uid in own {
            let alone = self.alone(&uid).await;
            let Some(mut claim) = self.claims.lock().get(&uid).cloned() else {
                continue;
            };
            if claim.pods.len() > 1 {
                claim.pods.remove(pod);
                self.keep(&claim)?;
                continue;
            }
            // Whoever comes now has it prepared again.
            if let Some(known) = self.claims.lock().get_mut(&uid) {
                known.prepared = false;
            }
            for name in claim.drivers.keys() {
                self.driver(name).await?.unprepare(&claim).await?;
            }
            let removed = Claim::remove(&self.folder, &uid);
            removed.map_err(|e| format!("what was noted cannot be removed: {e}"))?;
            let mut claims = self.claims.lock();
            claims.remove(&uid);
            METRICS.use_is(&claims);
            drop(claims);
            drop(alone);
        }
        Ok(())
    }

    /// UIDs of the pods that have something.
    #[must_use]
    pub fn pods(&self) -> BTreeSet<String> {
        let claims = self.claims.lock();
        claims.values().flat_map(|c| c.pods.clone()).collect()
    }

    /// A claim that is prepared for a pod.
    fn of(&self, pod: &Pod, name: &str) -> Option<Claim> {
        let claims = self.claims.lock();
        let mut all = claims.values();
        let own = all.find(|c| {
            c.name == name && c.namespace == spec::namespace(pod) && c.pods.contains(spec::uid(pod))
        });
        own.cloned()
    }

    /// Adds the devices of a container to what the runtime is asked for.
    pub fn add_to(&self, pod: &Pod, c: &Container, made: &mut ContainerSpec) -> Result<(), String> {
        for used in names::of_container(pod, c)? {
            let claim = self.of(pod, &used.claim).ok_or_else(|| {
                format!(
                    "unable to get claim info for ResourceClaim {} in namespace {}",
                    used.claim,
                    spec::namespace(pod)
                )
            })?;
            let devices = claim.drivers.values().flatten();
            for device in devices.filter(|d| d.is_for(&used.request)) {
                for name in &device.cdi {
                    if !made.cdi_devices.contains(name) {
                        made.cdi_devices.push(name.clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// Shows in a pod's status how the devices of its claims are.
    pub fn show(&self, pod: &Pod, status: &mut PodStatus) {
        for shown in status.container_statuses.iter_mut().flatten() {
            let Some(container) = spec::container(pod, &shown.name) else {
                continue;
            };
            for used in names::of_container(pod, container).unwrap_or_default() {
                let Some(name) = &used.name else { continue };
                let Some(claim) = self.of(pod, &used.claim) else {
                    continue;
                };
                let name = match used.request.as_str() {
                    "" => format!("claim:{name}"),
                    request => format!("claim:{name}/{request}"),
                };
                let resources = self.health_of(&claim, &used.request);
                let all = shown.allocated_resources_status.get_or_insert_default();
                all.retain(|s| s.name != name);
                if !resources.is_empty() {
                    all.push(ResourceStatus {
                        name,
                        resources: Some(resources),
                    });
                }
            }
            shown.allocated_resources_status = shown
                .allocated_resources_status
                .take()
                .filter(|all| !all.is_empty());
        }
    }

    fn health_of(&self, claim: &Claim, request: &str) -> Vec<ResourceHealth> {
        let health = self.health.lock();
        let mut out: Vec<ResourceHealth> = Vec::new();
        for (driver, devices) in &claim.drivers {
            for device in devices.iter().filter(|d| d.is_for(request)) {
                let (word, message) = health.of(driver, &device.pool, &device.device);
                let id = device.cdi.first().cloned();
                let id =
                    id.unwrap_or_else(|| format!("{driver}/{}/{}", device.pool, device.device));
                if out.iter().any(|known| known.resource_id == id) {
                    continue;
                }
                out.push(ResourceHealth {
                    resource_id: id,
                    health: Some(word.to_owned()),
                    message: (!message.is_empty()).then(|| message.to_owned()),
                });
            }
        }
        out
    }

    /// What a container has, for the pod resources API.
    #[must_use]
    pub fn resources_of(&self, pod: &Pod, container: &Container) -> Vec<DynamicResource> {
        let resource = |driver: &String, device: &Device| ClaimResource {
            cdi_devices: device
                .cdi
                .iter()
                .map(|name| CdiDevice { name: name.clone() })
                .collect(),
            driver_name: driver.clone(),
            pool_name: device.pool.clone(),
            device_name: device.device.clone(),
            share_id: device.share.clone(),
        };
        let used = names::of_container(pod, container).unwrap_or_default();
        let mut seen = BTreeSet::new();
        let claims = used.iter().filter(|u| seen.insert(u.claim.clone()));
        let claims = claims.filter_map(|u| self.of(pod, &u.claim));
        let each = claims.map(|claim| {
            let drivers = claim.drivers.iter();
            let all = drivers.flat_map(|(name, devices)| devices.iter().map(move |d| (name, d)));
            let claim_resources = all.map(|(name, d)| resource(name, d)).collect();
            DynamicResource {
                claim_resources,
                claim_name: claim.name.clone(),
                claim_namespace: claim.namespace.clone(),
            }
        });
        each.collect()
    }
}
