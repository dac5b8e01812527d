//! Volumes of CSI drivers, on their node: which drivers are registered, and what they are asked so
//! that a pod gets a volume and the node gets rid of it. What is staged and published is read from
//! the disk, in upstream's layout, so that a kubelet that starts again, or another one, finds it.
//! It does not know how a claim is found ([`crate::volumes`]), nor how drivers are found
//! ([`crate::plugins`]).

mod attach;
mod block;
pub mod driver;
mod driver_requests;
mod error;
mod expand;
mod in_use;
mod over_limit;
mod paths;
pub mod publish;
pub mod record;
mod register;
mod stats;
mod tokens;
mod unpublish;
pub mod volume_limits;

pub use driver::Driver;
pub use driver_requests::CsiVolume;
pub use error::Error;
pub use in_use::InUse;

use crate::events::Recorder;
use crate::objects::Objects;
use crate::volumes::tokens::Tokens;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec};
use over_limit::OverLimit;
use parking_lot::Mutex;
pub use paths::PLUGIN;
use paths::Paths;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Weak};

/// One after another for each volume: by its name in the node's status.
type Busy = BTreeMap<String, Weak<tokio::sync::Mutex<()>>>;

/// All drivers and volumes of the node.
pub struct Csi {
    paths: Paths,
    node: String,
    client: kube::Client,
    objects: Arc<Objects>,
    tokens: Arc<Tokens>,
    drivers: Mutex<BTreeMap<String, Driver>>,
    busy: Mutex<Busy>,
    /// Volumes that this kubelet has staged: driver and handle.
    staged: Mutex<BTreeSet<(String, String)>>,
    /// Volumes that their drivers let grow only while nobody uses them.
    grow_unused: Mutex<BTreeSet<(String, String)>>,
    recorder: Recorder,
    limits: OverLimit,
    /// What may not be detached from the node.
    pub in_use: InUse,
}

impl std::fmt::Debug for Csi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Csi").finish_non_exhaustive()
    }
}

impl Csi {
    /// No driver is registered yet; what earlier kubelets left mounted is in use. `root` is the
    /// kubelet's folder, `changed` wakes whoever writes the node's status.
    #[must_use]
    pub fn new(
        root: &Path,
        node: &str,
        client: kube::Client,
        (objects, tokens): (Arc<Objects>, Arc<Tokens>),
        recorder: Recorder,
        changed: Arc<tokio::sync::Notify>,
    ) -> Self {
        let paths = Paths::new(root);
        let left = unpublish::left_on_disk(&paths);
        Self {
            in_use: InUse::new(left, changed),
            paths,
            node: node.to_owned(),
            client,
            objects,
            tokens,
            drivers: Mutex::default(),
            busy: Mutex::default(),
            staged: Mutex::default(),
            grow_unused: Mutex::default(),
            recorder,
            limits: OverLimit::default(),
        }
    }

    /// A driver that is registered.
    pub fn driver(&self, name: &str) -> Result<Driver, Error> {
        let found = self.drivers.lock().get(name).cloned();
        found.ok_or_else(|| Error::NotRegistered(name.to_owned()))
    }

    /// The names of all drivers that are registered.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.drivers.lock().keys().cloned().collect()
    }

    /// Notes a driver as registered, without asking it anything.
    pub fn note(&self, driver: Driver) {
        self.drivers.lock().insert(driver.name.clone(), driver);
    }

    /// What the API says of a driver, if it says something.
    async fn object(&self, name: &str) -> Result<Option<CSIDriverSpec>, Error> {
        let api: kube::Api<CSIDriver> = kube::Api::all(self.client.clone());
        let found = api.get_opt(name).await;
        let found = found.map_err(|e| Error::api("failed to get the CSIDriver object", &e))?;
        Ok(found.map(|d| d.spec))
    }

    /// Waits until nobody else works on a volume.
    async fn alone(&self, driver: &str, handle: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let name = api::csi::unique_name(driver, handle);
        let mutex = {
            let mut busy = self.busy.lock();
            busy.retain(|_, m| m.strong_count() > 0);
            let known = busy.get(&name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let new = Arc::new(tokio::sync::Mutex::new(()));
                busy.insert(name, Arc::downgrade(&new));
                new
            })
        };
        mutex.lock_owned().await
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
