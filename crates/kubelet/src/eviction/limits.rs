//! Pods that use more local storage than they may. Pure.

use crate::pod::spec;
use crate::quantity;
use k8s_openapi::api::core::v1::Pod;

/// Bytes that something uses, by its name.
pub type Used<'a> = (&'a str, u64);

/// Whether a pod may use only so much local storage.
#[must_use]
pub fn has_any(pod: &Pod) -> bool {
    volumes(pod).any(|(_, limit, _)| limit.is_some()) || total(pod).is_some()
}

/// Names, limits as written and media of the volumes that are empty at first.
fn volumes(pod: &Pod) -> impl Iterator<Item = (&str, Option<&str>, &str)> {
    let all = spec::of(pod).volumes.iter().flatten();
    all.filter_map(|v| {
        let dir = v.empty_dir.as_ref()?;
        let limit = dir.size_limit.as_ref().map(|q| q.0.as_str());
        let medium = dir.medium.as_deref().unwrap_or_default();
        Some((v.name.as_str(), limit, medium))
    })
}

fn limit_of<'a>(pod: &'a Pod, name: &str) -> Option<(i64, &'a str)> {
    let resources = spec::container(pod, name)?.resources.as_ref()?;
    let limit = resources.limits.as_ref()?.get("ephemeral-storage")?;
    Some((quantity::units(&limit.0)?, limit.0.as_str()))
}

/// What the containers may use together, where any of them is limited.
fn total(pod: &Pod) -> Option<i64> {
    let each = spec::containers(pod).iter();
    each.filter_map(|c| limit_of(pod, &c.name))
        .map(|(bytes, _)| bytes)
        .reduce(i64::saturating_add)
}

fn is_over(used: u64, limit: i64) -> bool {
    limit > 0 && i128::from(used) > i128::from(limit)
}

/// Why a pod must go: what its containers (layers and logs) and its volumes use on disk.
#[must_use]
pub fn over(pod: &Pod, containers: &[Used<'_>], on_disk: &[Used<'_>]) -> Option<String> {
    let used = |name: &str| {
        let found = on_disk.iter().find(|(n, _)| *n == name);
        found.map_or(0, |(_, bytes)| *bytes)
    };
    for (name, limit, _) in volumes(pod) {
        let Some(limit) = limit else { continue };
        if quantity::units(limit).is_some_and(|most| is_over(used(name), most)) {
            return Some(format!(
                "Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. "
            ));
        }
    }
    if let Some(most) = total(pod) {
        let of_volumes = volumes(pod).filter(|(_, _, medium)| medium.is_empty());
        let all = of_volumes.map(|(name, ..)| used(name)).sum::<u64>()
            + containers.iter().map(|(_, bytes)| bytes).sum::<u64>();
        if is_over(all, most) {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {most}. "
            ));
        }
    }
    containers.iter().find_map(|(name, bytes)| {
        let (most, limit) = limit_of(pod, name)?;
        is_over(*bytes, most).then(|| {
            format!("Container {name} exceeded its local ephemeral storage limit {limit:?}. ")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_containers_and_their_sum_have_limits() {
        let limit = |l: &str| json!({"limits": {"ephemeral-storage": l}});
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "volumes": [
                {"name": "v", "emptyDir": {"sizeLimit": "1Ki"}},
                {"name": "m", "emptyDir": {"medium": "Memory"}},
                {"name": "w", "emptyDir": {}}],
            "containers": [
                {"name": "a", "resources": limit("2Ki")},
                {"name": "b", "resources": limit("3Ki")}]
        }}))
        .expect("a pod");
        assert!(has_any(&pod));
        let of = |a, b, v, m, w| over(&pod, &[("a", a), ("b", b)], &[("v", v), ("m", m), ("w", w)]);
        assert_eq!(of(2048, 3072, 0, 9999, 0), None);
        for (found, begin) in [
            (
                of(0, 0, 1025, 0, 0),
                "Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\"",
            ),
            (
                of(0, 0, 0, 0, 5121),
                "Pod ephemeral local storage usage exceeds the total limit of containers 5120",
            ),
            (
                of(2049, 0, 0, 0, 0),
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
        assert_eq!(over(&free, &[("a", u64::MAX)], &[]), None);
    }
}
