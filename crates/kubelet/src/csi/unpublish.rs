//! Taking volumes back: unpublished when a pod has ended, unstaged when no pod of the node has them
//! any more. What there is to take back is read from the disk. A failure leaves the record, so that
//! it is tried again; nothing is removed that is mounted.

use super::Csi;
use super::error::{Error, at};
use super::paths::{MOUNT, PLUGIN, Paths, text};
use super::record::{Record, gone};
use crate::folder;
use host::plugins::csi::{NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

impl Csi {
    /// Takes back a file system that a pod had; `dir` is the volume's folder among the pod's.
    pub async fn unpublish(&self, dir: &Path) -> Result<(), Error> {
        let target = dir.join(MOUNT);
        let Some(record) = Record::load(dir).map_err(at(dir))? else {
            // Nothing says whose it is: what is mounted there is taken away, and no driver asked.
            for mount in mounts_below(dir).map_err(at(dir))? {
                tracing::warn!(mount = %mount.display(), "a mount without a record is taken away");
                host::mounts::unmount(&mount).map_err(at(&mount))?;
            }
            return remove(dir, &target);
        };
        let alone = self.alone(&record.driver_name, &record.volume_handle).await;
        let driver = self.driver(&record.driver_name)?;
        driver
            .unpublish(NodeUnpublishVolumeRequest {
                volume_id: record.volume_handle.clone(),
                target_path: text(&target),
            })
            .await?;
        remove(dir, &target)?;
        if record.is_persistent() {
            self.unstage_if_unused(&record, None).await?;
        }
        drop(alone);
        Ok(())
    }

    /// Takes back what no pod has any more; the caller is alone with the volume. `device`: it is a
    /// block device.
    pub(super) async fn unstage_if_unused(
        &self,
        record: &Record,
        device: Option<&Path>,
    ) -> Result<(), Error> {
        let used = match device {
            Some(_) => self.has_device(&record.name)?,
            None => published(&self.paths)?
                .iter()
                .any(|other| other.is_same(record)),
        };
        if used {
            return Ok(());
        }
        let staging = match device {
            Some(staging) => staging.to_owned(),
            None => self
                .paths
                .staging(&record.driver_name, &record.volume_handle),
        };
        let driver = self.driver(&record.driver_name)?;
        if staging.exists() && driver.abilities().await?.stage {
            let request = NodeUnstageVolumeRequest {
                volume_id: record.volume_handle.clone(),
                staging_target_path: text(&staging),
            };
            driver.unstage(request).await?;
        }
        let key = (record.driver_name.clone(), record.volume_handle.clone());
        self.staged.lock().remove(&key);
        match staging.parent().filter(|_| device.is_none()) {
            Some(parent) => remove(parent, &staging)?,
            None => remove_empty(&staging)?,
        }
        let name = api::csi::unique_name(&record.driver_name, &record.volume_handle);
        self.in_use.release(&name);
        Ok(())
    }

    /// Unstages what an earlier kubelet left staged for pods that are gone.
    pub async fn unstage_left(&self) {
        let left = staged(&self.paths).unwrap_or_else(|error| {
            tracing::warn!(%error, "what is still staged cannot be read");
            Vec::new()
        });
        for record in left {
            let alone = self.alone(&record.driver_name, &record.volume_handle).await;
            if let Err(e) = self.unstage_if_unused(&record, None).await {
                let (driver, volume) = (&record.driver_name, &record.volume_handle);
                tracing::debug!(driver, volume, error = %e, "a volume that nobody uses stays staged");
            }
            drop(alone);
        }
    }
}

impl Record {
    fn is_same(&self, other: &Self) -> bool {
        self.driver_name == other.driver_name && self.volume_handle == other.volume_handle
    }
}

/// Removes an empty mount point, then the record beside it, then their folder.
fn remove(dir: &Path, mount: &Path) -> Result<(), Error> {
    remove_empty(mount)?;
    Record::remove(dir).map_err(at(dir))?;
    gone(std::fs::remove_dir(dir)).map_err(at(dir))
}

/// Removes a place that a driver should have left empty, or removed. A mount is not looked into.
pub(super) fn remove_empty(place: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(place) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(at(place)(e)),
        Ok(meta) => {
            if host::mounts::is_mount_point(place).map_err(at(place))? {
                return Err(at(place)(io::Error::other("it is still mounted")));
            }
            let removed = if meta.is_dir() {
                std::fs::remove_dir(place)
            } else {
                std::fs::remove_file(place)
            };
            gone(removed).map_err(at(place))
        }
    }
}

fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match host::mounts::below(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    folder::entries(dir).map_err(at(dir))
}

/// Records of the file systems that pods have. An error: what they have is not known.
fn published(paths: &Paths) -> Result<Vec<Record>, Error> {
    let mut out = Vec::new();
    for pod in entries(&paths.pods())? {
        for dir in entries(&pod.join("volumes").join(PLUGIN))? {
            out.extend(read(&dir)?);
        }
    }
    Ok(out)
}

/// Records of the file systems that are staged.
fn staged(paths: &Paths) -> Result<Vec<Record>, Error> {
    let mut out = Vec::new();
    for driver in entries(&paths.staged())? {
        if driver == paths.devices() {
            continue;
        }
        for dir in entries(&driver)? {
            out.extend(read(&dir)?);
        }
    }
    Ok(out)
}

/// Records of block devices.
fn devices(paths: &Paths) -> Result<Vec<Record>, Error> {
    let mut out = Vec::new();
    for dir in entries(&paths.devices())? {
        out.extend(read(&dir.join("data"))?);
    }
    Ok(out)
}

/// What is damaged says nothing, now or later; what only cannot be read now may be somebody's.
fn read(dir: &Path) -> Result<Option<Record>, Error> {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    match Record::load(dir) {
        Err(e) if matches!(e.kind(), InvalidData | UnexpectedEof) => {
            tracing::warn!(dir = %dir.display(), error = %e, "the record of a volume is damaged");
            Ok(None)
        }
        Err(e) if folder::is_absent(&e) => Ok(None),
        other => other.map_err(at(dir)),
    }
}

/// Names, as in the node's status, of what earlier kubelets left staged or published.
pub(super) fn left_on_disk(paths: &Paths) -> Result<BTreeSet<String>, Error> {
    let mut all = published(paths)?;
    all.extend(staged(paths)?);
    all.extend(devices(paths)?);
    let lasting = all.iter().filter(|r| r.is_persistent());
    Ok(lasting
        .map(|r| api::csi::unique_name(&r.driver_name, &r.volume_handle))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_may_be_somebodys() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        assert!(left_on_disk(&paths).unwrap().is_empty());
        let volume = paths.of_pod("u", "v");
        let folder = volume.parent().unwrap();
        std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
        // A folder that nobody can list, root neither.
        std::os::unix::fs::symlink(folder, folder).unwrap();
        assert!(published(&paths).is_err() && left_on_disk(&paths).is_err());
        std::fs::remove_file(folder).unwrap();
        std::fs::create_dir_all(&volume).unwrap();
        let record = volume.join("vol_data.json");
        let text = r#"{"driverName":"d","nodeName":"n","specVolID":"pv","volumeHandle":"h",
            "attachmentID":"a","volumeLifecycleMode":"Persistent"}"#;
        std::fs::write(&record, text).unwrap();
        let all = left_on_disk(&paths).unwrap();
        assert_eq!(all, [api::csi::unique_name("d", "h")].into());
        // What is damaged keeps nobody from anything.
        std::fs::write(&record, "{").unwrap();
        assert!(published(&paths).unwrap().is_empty());
    }
}
