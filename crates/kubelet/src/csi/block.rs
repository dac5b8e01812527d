//! Block devices that pods have: taken back as file systems are, from the links in the pod's folder.

use super::Csi;
use super::error::{Error, at};
use super::paths::text;
use super::record::{Record, gone};
use super::unpublish::remove_empty;
use crate::folder;
use host::plugins::csi::NodeUnpublishVolumeRequest;
use std::path::Path;

impl Csi {
    /// Takes back all block devices of a pod.
    pub async fn unpublish_devices(&self, uid: &str) -> Result<(), Error> {
        let dir = self.paths.devices_of_pod(uid);
        for link in folder::entries(&dir).map_err(at(&dir))? {
            self.unpublish_device(uid, &link).await?;
        }
        Ok(())
    }

    async fn unpublish_device(&self, uid: &str, link: &Path) -> Result<(), Error> {
        let name = folder::name(link);
        let dir = self.paths.device_record(&name);
        let Some(record) = Record::load(&dir).map_err(at(&dir))? else {
            return gone(std::fs::remove_file(link)).map_err(at(link));
        };
        let alone = self.alone(&record.driver_name, &record.volume_handle).await;
        let target = self.paths.device_target(&name, uid);
        let driver = self.driver(&record.driver_name)?;
        driver
            .unpublish(NodeUnpublishVolumeRequest {
                volume_id: record.volume_handle.clone(),
                target_path: text(&target),
            })
            .await?;
        remove_empty(&target)?;
        gone(std::fs::remove_file(link)).map_err(at(link))?;
        let staging = self.paths.device_staging(&name);
        self.unstage_if_unused(&record, Some(&staging)).await?;
        if !self.has_device(&record.name)? {
            Record::remove(&dir).map_err(at(&dir))?;
            let publish = target.parent();
            for empty in [Some(dir.as_path()), dir.parent(), publish]
                .into_iter()
                .flatten()
            {
                gone(std::fs::remove_dir(empty)).map_err(at(empty))?;
            }
        }
        drop(alone);
        Ok(())
    }

    /// Whether some pod has the block device of this persistent volume.
    pub(super) fn has_device(&self, volume: &str) -> Result<bool, Error> {
        let pods = self.paths.pods();
        for pod in folder::entries(&pods).map_err(at(&pods))? {
            let links = self.paths.devices_of_pod(&folder::name(&pod));
            let link = links.join(volume);
            match link.symlink_metadata() {
                Ok(_) => return Ok(true),
                Err(e) if folder::is_absent(&e) => {}
                Err(e) => return Err(at(&link)(e)),
            }
        }
        Ok(false)
    }
}
