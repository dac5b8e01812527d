//! Pods that use more local storage than they may. Pure.

use crate::pod::spec;
use crate::quantity;
use crate::stats::{OfClaim, OfContainer, OfPod};
use crate::volumes::local_disk::MeasuredVolume;
use k8s_openapi::api::core::v1::{Container, Pod};

/// Whether a pod may use only so much local storage.
#[must_use]
pub fn has_any(pod: &Pod) -> bool {
    volumes(pod).any(|(_, limit)| limit.is_some()) || total(pod).is_some()
}

/// Names of the volumes that are empty at first, and limits as written.
fn volumes(pod: &Pod) -> impl Iterator<Item = (&str, Option<&str>)> {
    let all = spec::of(pod).volumes.iter().flatten();
    all.filter_map(|v| {
        let limit = v.empty_dir.as_ref()?.size_limit.as_ref();
        Some((v.name.as_str(), limit.map(|q| q.0.as_str())))
    })
}

fn limit_in(container: &Container) -> Option<(i64, &str)> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    let limit = limits.get("ephemeral-storage")?;
    Some((quantity::units(&limit.0)?, limit.0.as_str()))
}

fn limit_of<'a>(pod: &'a Pod, name: &str) -> Option<(i64, &'a str)> {
    limit_in(spec::container(pod, name)?)
}

/// What the containers may use together, where any of them is limited: all that run for good, or an
/// init container beside the sidecars that were started before it, whichever is more.
fn total(pod: &Pod) -> Option<i64> {
    let all = spec::init_containers(pod)
        .iter()
        .chain(spec::containers(pod));
    let limited = all.clone().any(|c| limit_in(c).is_some());
    let of = |c: &Container| limit_in(c).map_or(0, |(bytes, _)| bytes);
    let (mut lasting, mut most) = (0_i64, 0_i64);
    for c in all {
        let is_init = spec::is_init(pod, &c.name) && !spec::is_sidecar(c);
        let with = lasting.saturating_add(of(c));
        most = most.max(with);
        if !is_init {
            lasting = with;
        }
    }
    limited.then_some(most)
}

fn is_over(used: u64, limit: i64) -> bool {
    limit > 0 && i128::from(used) > i128::from(limit)
}

/// Why a pod must go: what its containers (layers and logs) and its volumes use on disk.
#[must_use]
pub fn over(of_pod: &OfPod) -> Option<String> {
    let pod = &*of_pod.pod;
    let used = |name: &str| {
        let found = of_pod.volumes.iter().find(|v| v.name == name);
        found.map_or(0, |v| v.taken.bytes)
    };
    for (name, limit) in volumes(pod) {
        let Some(limit) = limit else { continue };
        if quantity::units(limit).is_some_and(|most| is_over(used(name), most)) {
            return Some(format!(
                "Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. "
            ));
        }
    }
    if let Some(most) = total(pod)
        && is_over(of_pod.on_disk().sum().bytes, most)
    {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {most}. "
        ));
    }
    of_pod.containers.iter().find_map(|c| {
        let (most, limit) = limit_of(pod, &c.name)?;
        let name = &c.name;
        is_over(of_container(c), most).then(|| {
            format!("Container {name} exceeded its local ephemeral storage limit {limit:?}. ")
        })
    })
}

/// What is to be said of a claim's volume that has more than its size, which nobody holds it to.
#[must_use]
pub fn overfull(claim: &OfClaim) -> Option<(&MeasuredVolume, String)> {
    let (how, more) = claim.over()?;
    let (namespace, name) = claim.claim.as_ref()?;
    let mebibytes = |bytes: u64| format!("{}Mi", bytes.div_ceil(1 << 20));
    let why = format!(
        "The volume of claim {namespace}/{name} has {} more than its size of {}, which this node's file system does not enforce. ",
        mebibytes(more),
        mebibytes(how.bytes)
    );
    Some((how, why))
}

fn of_container(c: &OfContainer) -> u64 {
    let layer = c.layer.map_or(0, |l| l.bytes);
    layer.saturating_add(c.log_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{DiskUsage, OfVolume};
    use serde_json::json;
    use std::sync::Arc;

    fn of(pod: &Pod, containers: &[(&str, u64)], volumes: &[(&str, u64)]) -> Option<String> {
        let taken = |bytes: u64| DiskUsage { bytes, inodes: 1 };
        let containers = containers.iter().map(|(name, bytes)| OfContainer {
            name: (*name).into(),
            layer: Some(taken(*bytes)),
            ..OfContainer::default()
        });
        let volumes = volumes.iter().map(|(name, bytes)| OfVolume {
            name: (*name).into(),
            taken: taken(*bytes),
            ..OfVolume::default()
        });
        over(&OfPod {
            pod: Arc::new(pod.clone()),
            containers: containers.collect(),
            volumes: volumes.collect(),
            ..OfPod::default()
        })
    }

    #[test]
    fn a_pod_may_use_what_runs_at_one_time() {
        let pod = |init: serde_json::Value| -> Pod {
            let limit = |l: &str| json!({"limits": {"ephemeral-storage": l}});
            let main = json!([{"name": "a", "resources": limit("2Ki")}, {"name": "b"}]);
            serde_json::from_value(json!({"spec": {"initContainers": init, "containers": main}}))
                .expect("a pod")
        };
        let c = |name: &str, limit: &str, policy: Option<&str>| {
            json!({"name": name, "restartPolicy": policy,
                "resources": {"limits": {"ephemeral-storage": limit}}})
        };
        let sidecar = || c("s", "1Ki", Some("Always"));
        assert_eq!(total(&pod(json!([]))), Some(2048));
        assert_eq!(total(&pod(json!([sidecar()]))), Some(3072));
        let large = c("i", "9Ki", None);
        assert_eq!(total(&pod(json!([large, sidecar()]))), Some(9216));
        assert_eq!(total(&pod(json!([sidecar(), large]))), Some(10240));
        let free: Pod = serde_json::from_value(json!({"spec": {"initContainers": [{"name": "i"}],
            "containers": [{"name": "a"}]}}))
        .expect("a pod");
        assert_eq!(total(&free), None);
    }

    #[test]
    fn a_volume_that_is_measured_may_have_more_than_its_size() {
        let claim = |used_bytes, bytes: Option<u64>| OfClaim {
            name: "data".into(),
            claim: Some(("a".into(), "c".into())),
            fs: host::mounts::FsUsage {
                used_bytes,
                ..Default::default()
            },
            measured: bytes.map(|bytes| MeasuredVolume {
                bytes,
                evicts: true,
                claim: Default::default(),
            }),
            health: None,
        };
        assert!(overfull(&claim(9 << 30, None)).is_none());
        assert!(overfull(&claim(1 << 20, Some(1 << 20))).is_none());
        let full = claim(3 << 20, Some(1 << 20));
        let (how, why) = overfull(&full).expect("it is over");
        assert!(
            how.evicts && why.contains("a/c has 2Mi more than its size of 1Mi"),
            "{why}"
        );
    }

    #[test]
    fn volumes_containers_and_their_sum_have_limits() {
        let limit = |l: &str| json!({"limits": {"ephemeral-storage": l}});
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "volumes": [
                {"name": "v", "emptyDir": {"sizeLimit": "1Ki"}},
                {"name": "m", "emptyDir": {"medium": "Memory"}},
                {"name": "w", "emptyDir": {}},
                {"name": "s", "secret": {"secretName": "s"}}],
            "containers": [
                {"name": "a", "resources": limit("2Ki")},
                {"name": "b", "resources": limit("3Ki")}]
        }}))
        .expect("a pod");
        assert!(has_any(&pod));
        let found = |a, b, v, w| {
            let not_on_disk = [("m", 9999), ("s", 9999)];
            let volumes = [("v", v), ("w", w), not_on_disk[0], not_on_disk[1]];
            of(&pod, &[("a", a), ("b", b)], &volumes)
        };
        assert_eq!(found(2048, 3072, 0, 0), None);
        for (found, begin) in [
            (
                found(0, 0, 1025, 0),
                "Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\"",
            ),
            (
                found(0, 0, 0, 5121),
                "Pod ephemeral local storage usage exceeds the total limit of containers 5120",
            ),
            (
                found(2049, 0, 0, 0),
                "Container a exceeded its local ephemeral storage limit \"2Ki\"",
            ),
        ] {
            assert!(
                found.clone().is_some_and(|t| t.starts_with(begin)),
                "{found:?}"
            );
        }
        let free: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "a"}]}}))
            .expect("a pod");
        assert!(!has_any(&free));
        assert_eq!(of(&free, &[("a", u64::MAX)], &[]), None);
    }
}
