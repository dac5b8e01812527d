//! What the node gave a pod: the CPU and memory that its containers may have, which differ from
//! its spec while a resize waits. Kept in the pod's folder, so that a new kubelet neither forgets
//! a promise nor makes one that does not fit.

use super::spec;
use crate::checkpoint;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The file in a pod's folder.
const FILE: &str = "allocation.json";

/// What one attempt of a container was made with, or resized to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AllocatedResources {
    /// The container's id in the runtime.
    pub id: String,
    /// Its requests and limits.
    pub resources: ResourceRequirements,
}

/// What a pod was given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// Generation of the pod whose resources these are.
    pub generation: i64,
    /// Of the pod as a whole.
    #[serde(default)]
    pub pod: Option<ResourceRequirements>,
    /// By name of the container.
    pub containers: BTreeMap<String, ResourceRequirements>,
    /// What its containers have by now, by name.
    #[serde(default)]
    pub given: BTreeMap<String, AllocatedResources>,
}

impl Allocation {
    /// All that a pod asks for.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let of = |c: &Container| (c.name.clone(), c.resources.clone().unwrap_or_default());
        let all = spec::init_containers(pod)
            .iter()
            .chain(spec::containers(pod));
        Self {
            generation: pod.metadata.generation.unwrap_or(0),
            pod: spec::of(pod).resources.clone(),
            containers: all.map(of).collect(),
            given: BTreeMap::new(),
        }
    }

    /// The pod with what it was given in place of what it asks for.
    #[must_use]
    pub fn applied(&self, pod: &Pod) -> Pod {
        let mut out = pod.clone();
        if let Some(spec) = &mut out.spec {
            spec.resources.clone_from(&self.pod);
            let lists = spec.init_containers.iter_mut().flatten();
            for c in lists.chain(&mut spec.containers) {
                if let Some(resources) = self.containers.get(&c.name) {
                    c.resources = Some(resources.clone());
                }
            }
        }
        out
    }

    /// Reads what was kept; none for a pod that is new here, or whose file is damaged: then what
    /// it asks for is what it has.
    #[must_use]
    pub fn load(dir: &Path) -> Option<Self> {
        let read = checkpoint::load(dir, FILE).inspect_err(|error| {
            tracing::warn!(%error, "what a pod was given cannot be read");
        });
        read.ok().flatten()
    }

    /// Keeps it. Nobody waits for the disk where the pod has just what it asks for
    /// (`is_as_asked`): then its spec says the same.
    pub fn save(&self, dir: &Path, is_as_asked: bool) -> std::io::Result<()> {
        if is_as_asked {
            checkpoint::save_unsynced(dir, FILE, self)
        } else {
            checkpoint::save(dir, FILE, self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_outlives_a_kubelet() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "generation": 3},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}
        }))
        .expect("a pod");
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(Allocation::load(dir.path()), None);
        let allocation = Allocation::of(&pod);
        for is_as_asked in [true, false] {
            allocation.save(dir.path(), is_as_asked).expect("saved");
            assert_eq!(Allocation::load(dir.path()), Some(allocation.clone()));
        }
        let mut asks_more = pod.clone();
        if let Some(spec) = &mut asks_more.spec {
            spec.containers[0].resources = None;
        }
        assert_eq!(allocation.applied(&asks_more), pod);
        std::fs::write(dir.path().join(FILE), b"{").expect("written");
        assert_eq!(Allocation::load(dir.path()), None);
    }
}
