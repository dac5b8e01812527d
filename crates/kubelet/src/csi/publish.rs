//! A volume for a pod: attached, staged, published, given to the pod's group. Each step may be
//! taken again, as the interface demands of drivers; what was done is noted on the disk before.

use super::driver::{Abilities, CallError, Driver};
use super::driver_requests::Reference;
use super::error::{Error, at};
use super::paths::{VolumePaths, text};
use super::record::Record;
use super::{Csi, CsiVolume};
use crate::objects::{Key, ObjectKind};
use crate::pod::spec;
use crate::volumes::error::private_folder;
use crate::volumes::ownership;
use host::plugins::csi::{NodePublishVolumeRequest, NodeStageVolumeRequest};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriverSpec;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Who gets the files of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The group; none: nobody in particular.
    pub gid: Option<u32>,
    /// A volume whose root has the group already is left as it is.
    pub keeps_fitting_root: bool,
}

/// A driver with what is known of it.
struct DriverInfo {
    driver: Driver,
    can: Abilities,
    object: Option<CSIDriverSpec>,
}

impl Csi {
    /// Makes a volume ready for a pod, or finds it ready; where it is on the host.
    pub async fn publish(
        &self,
        asked: &CsiVolume,
        pod: &Pod,
        group: Group,
    ) -> Result<PathBuf, Error> {
        let known = self.known(&asked.driver).await?;
        let object = known.object.as_ref();
        asked.is_supported(object).map_err(Error::Mode)?;
        let place = self.paths.place(asked, spec::uid(pod));
        let alone = self.alone(&asked.driver, &asked.handle).await;
        let own = self.record(asked);
        place.note(&own)?;
        let context = if asked.is_attached(object) {
            let attached = self.attached(asked).await;
            attached.inspect_err(|e| self.limits.note(e, asked, spec::uid(pod)))?
        } else {
            HashMap::new()
        };
        if known.can.stage && !asked.ephemeral {
            self.stage(&known, asked, &place, &context, group).await?;
        }
        let request = self.request(&known, asked, pod, &place, context, group);
        let request = request.await?;
        if let Err(e) = known.driver.publish(request).await {
            // What is published already, by an earlier kubelet, stays a mount and is not removed.
            tidy(&e, &place.target);
            return Err(e.into());
        }
        if asked.is_given_to_group(object, known.can)
            && let Some(gid) = group.gid
        {
            let about = (&self.recorder, pod, asked.name.as_str());
            let once = group.keeps_fitting_root;
            let given = ownership::give(place.target.clone(), gid, once, about).await;
            given.map_err(at(&place.target))?;
        }
        drop(alone);
        Ok(place.target)
    }

    /// Publishes a volume that is published once more, if the driver wants that: what it shows in
    /// the volume, such as tokens, gets old. What fails leaves the volume as it is.
    pub async fn publish_again(
        &self,
        asked: &CsiVolume,
        pod: &Pod,
        group: Group,
    ) -> Result<(), Error> {
        let object = self.object(&asked.driver).await?;
        if object.and_then(|o| o.requires_republish) != Some(true) {
            return Ok(());
        }
        let known = self.known(&asked.driver).await?;
        let alone = self.alone(&asked.driver, &asked.handle).await;
        let place = self.paths.place(asked, spec::uid(pod));
        let context = if asked.is_attached(known.object.as_ref()) {
            self.attached(asked).await?
        } else {
            HashMap::new()
        };
        let request = self.request(&known, asked, pod, &place, context, group);
        known.driver.publish(request.await?).await?;
        drop(alone);
        Ok(())
    }

    async fn known(&self, name: &str) -> Result<DriverInfo, Error> {
        let driver = self.driver(name)?;
        Ok(DriverInfo {
            can: driver.abilities().await?,
            object: self.object(name).await?,
            driver,
        })
    }

    fn record(&self, asked: &CsiVolume) -> Record {
        let attachment = api::csi::attachment_name(&asked.driver, &asked.handle, &self.node);
        Record {
            driver_name: asked.driver.clone(),
            volume_handle: asked.handle.clone(),
            name: asked.name.clone(),
            node_name: self.node.clone(),
            attachment,
            lifecycle: asked.lifecycle().to_owned(),
        }
    }

    async fn stage(
        &self,
        known: &DriverInfo,
        asked: &CsiVolume,
        place: &VolumePaths,
        context: &HashMap<String, String>,
        group: Group,
    ) -> Result<(), Error> {
        let key = (asked.driver.clone(), asked.handle.clone());
        if self.staged.lock().contains(&key) {
            return Ok(());
        }
        private_folder(&place.staging).map_err(at(&place.staging))?;
        place.note_staging(&self.record(asked))?;
        let secrets = self.secrets(asked.stage_secret.as_ref(), "NodeStageSecretRef");
        let request = NodeStageVolumeRequest {
            volume_id: asked.handle.clone(),
            publish_context: context.clone(),
            staging_target_path: text(&place.staging),
            volume_capability: Some(asked.capability(known.can, group.gid)),
            secrets: secrets.await?,
            volume_context: asked.attributes.clone().into_iter().collect(),
        };
        if let Err(e) = known.driver.stage(request).await {
            tidy(&e, &place.staging);
            return Err(e.into());
        }
        self.staged.lock().insert(key);
        Ok(())
    }

    async fn request(
        &self,
        known: &DriverInfo,
        asked: &CsiVolume,
        pod: &Pod,
        place: &VolumePaths,
        publish_context: HashMap<String, String>,
        group: Group,
    ) -> Result<NodePublishVolumeRequest, Error> {
        let object = known.object.as_ref();
        let mut volume_context = asked.context(pod, object);
        let reference = asked.publish_secret.as_ref();
        let mut secrets = self.secrets(reference, "NodePublishSecretRef").await?;
        if let Some((key, tokens)) = self.tokens_for(pod, object).await? {
            let in_secrets = object.and_then(|o| o.service_account_token_in_secrets);
            let to = if in_secrets == Some(true) {
                &mut secrets
            } else {
                &mut volume_context
            };
            to.insert(key.to_owned(), tokens);
        }
        let is_staged = known.can.stage && !asked.ephemeral;
        Ok(NodePublishVolumeRequest {
            volume_id: asked.handle.clone(),
            publish_context,
            staging_target_path: if is_staged {
                text(&place.staging)
            } else {
                String::new()
            },
            target_path: text(&place.target),
            volume_capability: Some(asked.capability(known.can, group.gid)),
            readonly: asked.read_only,
            secrets,
            volume_context,
        })
    }

    /// What a secret holds, in the driver's form.
    pub(super) async fn secrets(
        &self,
        reference: Option<&Reference>,
        field: &'static str,
    ) -> Result<HashMap<String, String>, Error> {
        let Some((namespace, name)) = reference else {
            return Ok(HashMap::new());
        };
        let key = Key {
            kind: ObjectKind::Secret,
            namespace: namespace.clone(),
            name: name.clone(),
        };
        let found = self.objects.get(&key).await;
        let data = found.map_err(|source| Error::Secret {
            reference: field,
            namespace: namespace.clone(),
            name: name.clone(),
            source: Box::new(source),
        })?;
        let value = |v: &Vec<u8>| String::from_utf8_lossy(v).into_owned();
        Ok(data
            .values
            .iter()
            .map(|(k, v)| (k.clone(), value(v)))
            .collect())
    }
}

/// After a failure that left nothing behind, the empty place goes. One that is mounted, or holds
/// something, stays.
fn tidy(error: &CallError, place: &Path) {
    if error.is_final() && !host::mounts::is_mount_point(place).unwrap_or(false) {
        // Fails where something is in it, which is right.
        let _ = std::fs::remove_dir(place);
    }
}
