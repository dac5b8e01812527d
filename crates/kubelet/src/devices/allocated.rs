//! What containers were given of plugins: kept in the pod's folder, since a container that starts
//! again has the same devices, also after another kubelet has started.

use crate::checkpoint;
use host::plugins::devices::ContainerAllocateResponse;
use host::runtime::{ContainerSpec, Device, Mount};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// The file in a pod's folder.
const FILE: &str = "devices.json";

/// A mount that a plugin wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginMount {
    from: String,
    to: String,
    read_only: bool,
}

/// A device node that a plugin wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginDevice {
    from: String,
    to: String,
    permissions: String,
}

/// What a container was given of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AllocatedDevices {
    /// The devices.
    pub ids: BTreeSet<String>,
    /// Its environment.
    pub envs: BTreeMap<String, String>,
    /// Its annotations, for the runtime.
    pub annotations: BTreeMap<String, String>,
    mounts: Vec<PluginMount>,
    devices: Vec<PluginDevice>,
    cdi: Vec<String>,
}

impl AllocatedDevices {
    /// Devices of which nothing was asked yet.
    pub(super) fn bare(ids: BTreeSet<String>) -> Self {
        Self {
            ids,
            ..Self::default()
        }
    }

    pub(super) fn of(ids: BTreeSet<String>, answer: ContainerAllocateResponse) -> Self {
        let mounts = answer.mounts.into_iter().map(|m| PluginMount {
            from: m.host_path,
            to: m.container_path,
            read_only: m.read_only,
        });
        let devices = answer.devices.into_iter().map(|d| PluginDevice {
            from: d.host_path,
            to: d.container_path,
            permissions: d.permissions,
        });
        Self {
            ids,
            envs: answer.envs.into_iter().collect(),
            annotations: answer.annotations.into_iter().collect(),
            mounts: mounts.collect(),
            devices: devices.collect(),
            cdi: answer.cdi_devices.into_iter().map(|d| d.name).collect(),
        }
    }
}

/// What a container was given, by resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OfContainer {
    /// By resource.
    pub resources: BTreeMap<String, AllocatedDevices>,
}

impl OfContainer {
    /// Adds it to what the runtime is asked for. What the pod says itself goes first.
    pub fn add_to(&self, spec: &mut ContainerSpec) {
        for given in self.resources.values() {
            for (name, value) in &given.envs {
                if !spec.env.iter().any(|(known, _)| known == name) {
                    spec.env.push((name.clone(), value.clone()));
                }
            }
            for mount in &given.mounts {
                if !spec.mounts.iter().any(|m| m.container_path == mount.to) {
                    spec.mounts.push(Mount {
                        container_path: mount.to.clone(),
                        host_path: mount.from.clone(),
                        read_only: mount.read_only,
                        ..Mount::default()
                    });
                }
            }
            for device in &given.devices {
                if !spec.devices.iter().any(|d| d.container_path == device.to) {
                    spec.devices.push(Device {
                        container_path: device.to.clone(),
                        host_path: device.from.clone(),
                        permissions: device.permissions.clone(),
                    });
                }
            }
            for (key, value) in &given.annotations {
                let entry = spec.annotations.entry(key.clone());
                entry.or_insert_with(|| value.clone());
            }
            spec.cdi_devices.extend(given.cdi.iter().cloned());
        }
    }
}

/// What a pod was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OfPod {
    /// By name of the container.
    pub containers: BTreeMap<String, OfContainer>,
    /// Devices of init containers, which those after them may have, by resource.
    reusable: BTreeMap<String, BTreeSet<String>>,
}

impl OfPod {
    /// Reads what was kept; none for a pod without devices. A file that is damaged is an error of
    /// the log: its devices may be given to others.
    pub(super) fn load(dir: &Path) -> Option<Self> {
        let read = checkpoint::load(dir, FILE).inspect_err(|error| {
            tracing::error!(%error, "which devices a pod has cannot be read");
        });
        read.ok().flatten()
    }

    /// Keeps it.
    pub(super) fn save(&self, dir: &Path) -> io::Result<()> {
        crate::volumes::error::private_folder(dir)?;
        checkpoint::save(dir, FILE, self)
    }

    pub(super) fn has(&self, container: &str, resource: &str) -> bool {
        let own = self.containers.get(container);
        own.is_some_and(|c| c.resources.contains_key(resource))
    }

    pub(super) fn give(&mut self, container: &str, resource: &str, given: AllocatedDevices) {
        if let Some(reusable) = self.reusable.get_mut(resource) {
            reusable.retain(|id| !given.ids.contains(id));
        }
        let own = self.containers.entry(container.to_owned()).or_default();
        own.resources.insert(resource.to_owned(), given);
    }

    /// An init container ends before the next one starts, which may have its devices.
    pub(super) fn pass_on(&mut self, container: &str) {
        let own = self.containers.get(container).cloned().unwrap_or_default();
        for (resource, given) in own.resources {
            self.reusable.entry(resource).or_default().extend(given.ids);
        }
    }

    pub(super) fn reusable(&self, resource: &str) -> BTreeSet<String> {
        self.reusable.get(resource).cloned().unwrap_or_default()
    }

    /// What a container has of a resource.
    pub(super) fn of(&self, container: &str, resource: &str) -> BTreeSet<String> {
        let own = self.containers.get(container);
        let given = own.and_then(|c| c.resources.get(resource));
        given.map(|g| g.ids.clone()).unwrap_or_default()
    }

    /// All of a resource that the pod has.
    pub(super) fn ids(&self, resource: &str) -> BTreeSet<String> {
        let all = self.containers.values();
        let of = all.filter_map(|c| c.resources.get(resource));
        of.flat_map(|g| g.ids.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(ids: &[&str]) -> AllocatedDevices {
        AllocatedDevices {
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            envs: [
                ("A".to_owned(), "plugin".to_owned()),
                ("B".to_owned(), "2".to_owned()),
            ]
            .into(),
            mounts: vec![PluginMount {
                from: "/h".into(),
                to: "/c".into(),
                read_only: true,
            }],
            cdi: vec!["v/c=d".into()],
            ..AllocatedDevices::default()
        }
    }

    #[test]
    fn a_container_keeps_its_own_and_gets_the_rest() {
        let mut spec = ContainerSpec {
            env: vec![("A".into(), "own".into())],
            ..ContainerSpec::default()
        };
        let own = OfContainer {
            resources: [("x.io/d".to_owned(), given(&["1"]))].into(),
        };
        own.add_to(&mut spec);
        let env = [
            ("A".to_owned(), "own".to_owned()),
            ("B".to_owned(), "2".to_owned()),
        ];
        assert_eq!(spec.env, env);
        assert_eq!(
            (spec.mounts[0].host_path.as_str(), spec.mounts[0].read_only),
            ("/h", true)
        );
        assert_eq!(spec.cdi_devices, ["v/c=d"]);
    }

    #[test]
    fn what_was_given_outlives_a_kubelet() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(OfPod::load(dir.path()), None);
        let mut pod = OfPod::default();
        pod.give("init", "x.io/d", given(&["1", "2"]));
        pod.pass_on("init");
        assert_eq!(pod.reusable("x.io/d").len(), 2);
        pod.give("main", "x.io/d", given(&["1"]));
        assert_eq!(pod.reusable("x.io/d"), ["2".to_owned()].into());
        assert!(pod.has("main", "x.io/d") && !pod.has("main", "y.io/d"));
        pod.save(dir.path()).unwrap();
        assert_eq!(OfPod::load(dir.path()), Some(pod));
    }
}
