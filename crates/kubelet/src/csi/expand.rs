//! Volumes that grow: where the persistent volume is larger than the claim knows, the driver is
//! asked to let the file system on this node grow, and the claim says so.

use super::error::Error;
use super::paths::text;
use super::{Csi, CsiVolume};
use crate::pod::spec;
use api::Quantity;
use host::plugins::csi::{CapacityRange, NodeExpandVolumeRequest};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

/// Conditions of a claim that say that it still has to grow.
const GROWING: [&str; 2] = ["Resizing", "FileSystemResizePending"];

impl Csi {
    /// Lets the volume grow that a pod has, if it is to; its new size.
    pub async fn grow(
        &self,
        asked: &CsiVolume,
        pod: &Pod,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<Option<String>, Error> {
        let Some(size) = larger(claim, volume) else {
            return Ok(None);
        };
        let driver = self.driver(&asked.driver)?;
        let can = driver.abilities().await?;
        if !can.expand {
            return Ok(None);
        }
        let alone = self.alone(&asked.driver, &asked.handle).await;
        let place = self.paths.place(asked, spec::uid(pod));
        let secrets = self.secrets(asked.expand_secret.as_ref(), "NodeExpandSecretRef");
        let staging = if can.stage {
            text(&place.staging)
        } else {
            String::new()
        };
        let request = NodeExpandVolumeRequest {
            volume_id: asked.handle.clone(),
            volume_path: text(&place.target),
            capacity_range: Some(CapacityRange {
                required_bytes: size.value(),
                limit_bytes: 0,
            }),
            staging_target_path: staging,
            volume_capability: Some(asked.capability(can, None)),
            secrets: secrets.await?,
        };
        driver.expand(request).await?;
        drop(alone);
        let claims: kube::Api<PersistentVolumeClaim> =
            kube::Api::namespaced(self.client.clone(), spec::namespace(pod));
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let patch = Patch::Merge(grown(claim, size));
        let told = claims
            .patch_status(name, &PatchParams::default(), &patch)
            .await;
        told.map_err(|e| Error::api("failed to update the size of the claim", &e))?;
        Ok(Some(size.to_string()))
    }
}

/// The volume's size, if the claim knows of a smaller one.
fn larger(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<Quantity> {
    let read = |q: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| q.0.parse().ok();
    let capacity = volume.spec.as_ref()?.capacity.as_ref()?;
    let size: Quantity = read(capacity.get("storage")?)?;
    let known = claim.status.as_ref()?.capacity.as_ref()?;
    let known: Quantity = read(known.get("storage")?)?;
    (size > known).then_some(size)
}

/// What the claim's status is to say.
fn grown(claim: &PersistentVolumeClaim, size: Quantity) -> Value {
    let status = claim.status.as_ref();
    let conditions = status
        .and_then(|s| s.conditions.as_ref())
        .into_iter()
        .flatten();
    let left: Vec<_> = conditions
        .filter(|c| !GROWING.contains(&c.type_.as_str()))
        .collect();
    json!({ "status": {
        "capacity": { "storage": size.to_string() },
        "conditions": left,
        "allocatedResourceStatuses": { "storage": null },
    } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_told_when_it_has_grown() {
        let volume = |size: &str| -> PersistentVolume {
            let spec = json!({ "capacity": { "storage": size } });
            serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap()
        };
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({ "metadata": {},
            "status": { "capacity": { "storage": "1Gi" }, "conditions": [
                { "type": "FileSystemResizePending", "status": "True" },
                { "type": "x", "status": "True" }] } }))
        .unwrap();
        assert!(larger(&claim, &volume("1Gi")).is_none());
        let size = larger(&claim, &volume("2Gi")).unwrap();
        let patch = grown(&claim, size);
        assert_eq!(patch["status"]["capacity"]["storage"], "2Gi");
        let left = patch["status"]["conditions"].as_array().unwrap();
        assert_eq!((left.len(), &left[0]["type"]), (1, &json!("x")));
    }
}
