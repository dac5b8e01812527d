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
            None => published(&self.paths)
                .whole()?
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
        self.grow_unused.lock().remove(&key);
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
        for record in staged(&self.paths).known() {
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

/// Records that were found, and what could not be read.
#[derive(Default)]
struct Found {
    records: Vec<Record>,
    faults: Vec<Error>,
}

impl Found {
    fn entries(&mut self, dir: &Path) -> Vec<PathBuf> {
        let found = folder::entries(dir).map_err(at(dir));
        self.or_nothing(found)
    }

    /// What is damaged says nothing, now or later; what only cannot be read now may be somebody's.
    fn read(&mut self, dir: &Path) {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        let record = match Record::load(dir) {
            Err(e) if matches!(e.kind(), InvalidData | UnexpectedEof) => {
                tracing::warn!(dir = %dir.display(), error = %e, "the record of a volume is damaged");
                Ok(None)
            }
            Err(e) if folder::is_absent(&e) => Ok(None),
            other => other.map_err(at(dir)),
        };
        let record = self.or_nothing(record);
        self.records.extend(record);
    }

    fn or_nothing<T: Default>(&mut self, found: Result<T, Error>) -> T {
        found.unwrap_or_else(|fault| {
            self.faults.push(fault);
            T::default()
        })
    }

    /// All records; where something could not be read it is not known which these are.
    fn whole(self) -> Result<Vec<Record>, Error> {
        match self.faults.into_iter().next() {
            Some(fault) => Err(fault),
            None => Ok(self.records),
        }
    }

    /// Those that could be read, for whom each counts by itself; what could not is logged.
    fn known(self) -> Vec<Record> {
        for error in self.faults {
            tracing::error!(%error, "which volumes are in use here is not known of all");
        }
        self.records
    }
}

/// Records of the file systems that pods have.
fn published(paths: &Paths) -> Found {
    let mut found = Found::default();
    for pod in found.entries(&paths.pods()) {
        for dir in found.entries(&pod.join("volumes").join(PLUGIN)) {
            found.read(&dir);
        }
    }
    found
}

/// Records of the file systems that are staged.
fn staged(paths: &Paths) -> Found {
    let mut found = Found::default();
    for driver in found.entries(&paths.staged()) {
        if driver == paths.devices() {
            continue;
        }
        for dir in found.entries(&driver) {
            found.read(&dir);
        }
    }
    found
}

/// Records of block devices.
fn devices(paths: &Paths) -> Found {
    let mut found = Found::default();
    for dir in found.entries(&paths.devices()) {
        found.read(&dir.join("data"));
    }
    found
}

/// Names, as in the node's status, of what earlier kubelets left staged or published. One folder that
/// cannot be read takes none of the others from the list: they would be detached while they are mounted.
pub(super) fn left_on_disk(paths: &Paths) -> BTreeSet<String> {
    let all = [published(paths), staged(paths), devices(paths)];
    let lasting = all.into_iter().flat_map(Found::known);
    lasting
        .filter(Record::is_persistent)
        .map(|r| api::csi::unique_name(&r.driver_name, &r.volume_handle))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_may_be_somebodys() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        assert!(left_on_disk(&paths).is_empty());
        let volume = paths.of_pod("u", "v");
        let folder = volume.parent().unwrap();
        std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
        // A folder that nobody can list, root neither.
        std::os::unix::fs::symlink(folder, folder).unwrap();
        assert!(published(&paths).whole().is_err());
        std::fs::remove_file(folder).unwrap();
        std::fs::create_dir_all(&volume).unwrap();
        let record = volume.join("vol_data.json");
        let text = r#"{"driverName":"d","nodeName":"n","specVolID":"pv","volumeHandle":"h",
            "attachmentID":"a","volumeLifecycleMode":"Persistent"}"#;
        std::fs::write(&record, text).unwrap();
        let all = BTreeSet::from([api::csi::unique_name("d", "h")]);
        assert_eq!(left_on_disk(&paths), all);
        // What another pod has cannot be read: this one's is in use all the same.
        let other = paths.of_pod("other", "v");
        let other = other.parent().unwrap();
        std::fs::create_dir_all(other.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(other, other).unwrap();
        assert!(published(&paths).whole().is_err());
        assert_eq!(left_on_disk(&paths), all);
        std::fs::remove_file(other).unwrap();
        // What is damaged keeps nobody from anything.
        std::fs::write(&record, "{").unwrap();
        assert!(published(&paths).whole().unwrap().is_empty());
    }
}
