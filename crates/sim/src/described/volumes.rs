//! Volumes of drivers that are not there: what a provisioner would make for a claim, at once and with
//! room for all. A volume is where its first pod is, in that node's zone or, where nodes have none,
//! everywhere. Values alone: who makes them is [`super::play`].

use api::local_volumes::{PROVISIONED_BY, PROVISIONER};
use api::names;
use controllers::volumes::{PROVISIONER_NAMES, SELECTED_NODE, annotation, class_of_claim};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::file::ZONE;

/// Who is to make a volume for the claim now; none where nobody is, or where it is a part of the
/// cluster.
pub fn wanted(claim: &PersistentVolumeClaim) -> Option<&str> {
    let [name, _] = PROVISIONER_NAMES;
    let has_volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_ref());
    let goes = claim.metadata.deletion_timestamp.is_some();
    let by = annotation(claim, name)?;
    (has_volume.is_none() && !goes && by != PROVISIONER).then_some(by)
}

/// The node that the scheduler has chosen for its first pod.
pub fn place(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(claim, SELECTED_NODE)
}

/// How a claim's volume is called.
pub fn name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.uid().unwrap_or_default())
}

/// Letters of the longest name of a driver.
const DRIVER_LENGTH: usize = 63;

/// A provisioner as the driver of its volumes. Some have names that no driver can have, such as
/// `rancher.io/local-path`.
fn driver(by: &str) -> String {
    let is_name = names::is_dns1123_subdomain(&by.to_lowercase()).is_empty();
    if is_name && by.len() <= DRIVER_LENGTH {
        return by.to_owned();
    }
    let letters = by.chars().take(DRIVER_LENGTH);
    let letters = letters.map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let all: String = letters.collect();
    all.trim_matches('-').to_owned()
}

/// The volume for a claim, of a class, in a zone.
pub fn made(
    claim: &PersistentVolumeClaim,
    by: &str,
    class: Option<&StorageClass>,
    zone: Option<&str>,
) -> Value {
    let spec = claim.spec.clone().unwrap_or_default();
    let size = spec.resources.and_then(|r| r.requests);
    let size = size.and_then(|all| all.get("storage").cloned());
    let policy = class.and_then(|c| c.reclaim_policy.as_deref());
    let affinity = zone.map(|zone| {
        json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [
            { "key": ZONE, "operator": "In", "values": [zone] }] }] } })
    });
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": { "name": name(claim), "annotations": { PROVISIONED_BY: by } },
        "spec": {
            "capacity": { "storage": size },
            "accessModes": spec.access_modes,
            "volumeMode": spec.volume_mode,
            "persistentVolumeReclaimPolicy": policy.unwrap_or("Delete"),
            "storageClassName": class_of_claim(claim),
            "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(), "name": claim.name_any(), "uid": claim.uid() },
            "csi": { "driver": driver(by), "volumeHandle": name(claim) },
            "nodeAffinity": affinity,
        },
    })
}

/// Whether it was made so, and goes with its claim.
pub fn goes(volume: &PersistentVolume) -> bool {
    let policy = volume.spec.as_ref();
    let policy = policy.and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    let by = annotation(volume, PROVISIONED_BY);
    policy == Some("Delete") && by.is_some_and(|by| by != PROVISIONER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(annotations: &Value, volume: Option<&str>) -> PersistentVolumeClaim {
        let claim = json!({ "metadata": { "name": "data", "namespace": "d", "uid": "u",
                "annotations": annotations },
            "spec": { "storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
                "volumeName": volume, "resources": { "requests": { "storage": "5Gi" } } } });
        serde_json::from_value(claim).expect("a claim")
    }

    #[test]
    fn a_volume_is_made_when_the_binder_asks_for_it() {
        let [name, _] = PROVISIONER_NAMES;
        let asked = json!({ name: "csi.example.com", SELECTED_NODE: "n-1" });
        assert_eq!(wanted(&claim(&asked, None)), Some("csi.example.com"));
        assert_eq!(place(&claim(&asked, None)), Some("n-1"));
        assert_eq!(wanted(&claim(&asked, Some("v"))), None);
        assert_eq!(wanted(&claim(&json!({}), None)), None);
        assert_eq!(wanted(&claim(&json!({ name: PROVISIONER }), None)), None);
        let volume = made(&claim(&asked, None), "csi.example.com", None, Some("a"));
        let volume: PersistentVolume = serde_json::from_value(volume).expect("a volume");
        assert_eq!(volume.name_any(), "pvc-u");
        assert!(goes(&volume));
        let spec = volume.spec.expect("a specification");
        assert_eq!(spec.storage_class_name.as_deref(), Some("fast"));
        assert!(spec.node_affinity.is_some());
    }

    #[test]
    fn a_driver_has_a_name_that_drivers_may_have() {
        let long = "a".repeat(80);
        for (by, name) in [
            ("csi.example.com", "csi.example.com"),
            ("rancher.io/local-path", "rancher-io-local-path"),
            ("example.com/a_b-", "example-com-a-b"),
            (long.as_str(), &long[..63]),
        ] {
            assert_eq!(driver(by), name);
            assert!(names::is_dns1123_subdomain(&driver(by)).is_empty());
        }
    }
}
