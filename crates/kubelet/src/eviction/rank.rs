//! Which pod goes first. Pure.

use super::thresholds::Resource;
use crate::pod::spec;
use crate::quantity;
use crate::stats::{DiskUsage, Disks, OfPod};

/// A pod as the choice sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its priority; pods of the node's own software are out of the question.
    pub priority: i32,
    /// What it uses of what is short.
    pub used: u64,
    /// What it asked for.
    pub asked: u64,
}

/// Pods of this priority and above are never evicted: the node needs them.
const CRITICAL: i32 = 2_000_000_000;

/// `disks`: what of its use is on which file system.
pub(super) fn candidate(pod: &OfPod, short: Resource, disks: Disks) -> Candidate {
    let asked = |name: &str| -> u64 {
        let sum: i64 = spec::containers(&pod.pod)
            .iter()
            .filter_map(|c| quantity::amount(c.resources.as_ref()?.requests.as_ref(), name))
            .sum();
        u64::try_from(sum).unwrap_or(0)
    };
    let on_disk = || {
        let d = pod.on_disk();
        match (disks, short.is_of_images()) {
            (Disks::One, _) | (Disks::Images, false) => d.sum(),
            (Disks::Runtime, true) => d.layers,
            (Disks::Runtime, false) => [d.logs, d.volumes].into_iter().sum(),
            // Only images are there, which are nobody's own.
            (Disks::Images, true) => DiskUsage::default(),
        }
    };
    let (used, asked) = match short {
        Resource::Memory => (pod.stats.working_set_bytes, asked("memory")),
        Resource::NodeFs | Resource::ImageFs => (on_disk().bytes, asked("ephemeral-storage")),
        // Nobody asks for inodes, or for process ids.
        Resource::NodeFsInodes | Resource::ImageFsInodes => (on_disk().inodes, 0),
        Resource::Pid => (pod.stats.tasks, 0),
    };
    Candidate {
        priority: spec::of(&pod.pod).priority.unwrap_or(0),
        used,
        asked,
    }
}

/// The place of the pod to end: one that uses more than it asked for, of the lowest priority,
/// the furthest above its request.
#[must_use]
pub fn choose(all: &[Candidate]) -> Option<usize> {
    let over = |c: &Candidate| c.used.saturating_sub(c.asked);
    all.iter()
        .enumerate()
        .filter(|(_, c)| c.priority < CRITICAL)
        .max_by_key(|(_, c)| (c.used > c.asked, std::cmp::Reverse(c.priority), over(c)))
        .map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{DiskUsage, OfContainer, OfVolume};
    use serde_json::{Value, json};
    use std::sync::Arc;

    #[test]
    fn who_uses_more_than_asked_goes_first_then_the_least_important() {
        let c = |priority, used, asked| Candidate {
            priority,
            used,
            asked,
        };
        assert_eq!(choose(&[c(0, 10, 20), c(5, 30, 20)]), Some(1));
        assert_eq!(choose(&[c(0, 30, 20), c(5, 90, 20)]), Some(0));
        assert_eq!(choose(&[c(0, 30, 20), c(0, 35, 20)]), Some(1));
        assert_eq!(choose(&[c(CRITICAL, 99, 0)]), None);
        assert_eq!(choose(&[]), None);
    }

    /// A pod with a layer, a log and volumes of these bytes and inodes.
    fn pod(layer: DiskUsage, log_bytes: u64, volumes: &[(&str, Value, DiskUsage)]) -> OfPod {
        let specs = volumes.iter().map(|(name, source, _)| {
            let mut spec = source.clone();
            spec["name"] = json!(name);
            spec
        });
        let requests = json!({ "ephemeral-storage": "100" });
        let pod = json!({ "spec": {
            "containers": [{ "name": "c", "resources": { "requests": requests } }],
            "volumes": specs.collect::<Vec<_>>() } });
        OfPod {
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            containers: vec![OfContainer {
                layer: Some(layer),
                log_bytes,
                ..OfContainer::default()
            }],
            volumes: volumes
                .iter()
                .map(|(name, _, taken)| OfVolume {
                    name: (*name).into(),
                    taken: *taken,
                    ..OfVolume::default()
                })
                .collect(),
            ..OfPod::default()
        }
    }

    #[test]
    fn what_is_short_decides_who_goes() {
        let taken = |bytes, inodes| DiskUsage { bytes, inodes };
        let scratch = json!({ "emptyDir": {} });
        let memory = json!({ "emptyDir": { "medium": "Memory" } });
        let all = [
            // Many small files, few bytes.
            pod(taken(10, 5_000), 1, &[]),
            // A large file on disk.
            pod(taken(20, 3), 1, &[("v", scratch, taken(9_000, 2))]),
            // A larger one in memory, which is not the disk's.
            pod(taken(30, 3), 1, &[("v", memory, taken(90_000, 9_000))]),
            // A large layer.
            pod(taken(8_000, 3), 1, &[]),
        ];
        let goes = |short, disks| {
            let all = all.iter().map(|p| candidate(p, short, disks));
            choose(&all.collect::<Vec<_>>())
        };
        assert_eq!(goes(Resource::NodeFsInodes, Disks::One), Some(0));
        assert_eq!(goes(Resource::NodeFs, Disks::One), Some(1));
        assert_eq!(goes(Resource::ImageFs, Disks::One), Some(1));
        assert_eq!(goes(Resource::ImageFs, Disks::Runtime), Some(3));
        assert_eq!(goes(Resource::ImageFsInodes, Disks::Runtime), Some(0));
        assert_eq!(goes(Resource::NodeFs, Disks::Runtime), Some(1));
        // Layers are beside volumes, and images are nobody's.
        assert_eq!(goes(Resource::NodeFsInodes, Disks::Images), Some(0));
        let used = |short| candidate(&all[3], short, Disks::Images).used;
        assert_eq!(used(Resource::NodeFs), 8_001);
        assert_eq!(used(Resource::ImageFs), 0);
        let first = candidate(&all[0], Resource::NodeFs, Disks::One);
        assert_eq!((first.used, first.asked), (11, 100));
    }
}
