//! Where things of CSI volumes lie below the kubelet's folder: upstream's places.

use super::driver_requests::CsiVolume;
use super::error::{Error, at};
use super::record::{Record, gone};
use crate::volumes::error::private_folder;
use std::path::{Path, PathBuf};

/// The folder of such volumes below a pod's `volumes`.
pub const PLUGIN: &str = "kubernetes.io~csi";

/// The folders.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// All pods.
    pub(super) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// A volume of a pod; below it are the mount and the record.
    pub(super) fn of_pod(&self, uid: &str, volume: &str) -> PathBuf {
        let volumes = self.pods().join(uid).join("volumes");
        volumes.join(PLUGIN).join(plain(volume))
    }

    /// Links to a pod's block devices.
    pub(super) fn devices_of_pod(&self, uid: &str) -> PathBuf {
        let pod = self.pods().join(uid);
        pod.join("volumeDevices").join(PLUGIN)
    }

    /// All that is staged as a file system: a folder for each driver, in it one for each volume.
    pub(super) fn staged(&self) -> PathBuf {
        self.root.join("plugins/kubernetes.io/csi")
    }

    /// Where a file system is staged; beside it is the record.
    pub(super) fn staging(&self, driver: &str, handle: &str) -> PathBuf {
        let volume = api::csi::digest(&[handle]);
        self.staged().join(driver).join(volume).join("globalmount")
    }

    /// All that belongs to block devices.
    pub(super) fn devices(&self) -> PathBuf {
        self.staged().join("volumeDevices")
    }

    /// Where a block device is staged.
    pub(super) fn device_staging(&self, volume: &str) -> PathBuf {
        self.devices().join("staging").join(plain(volume))
    }

    /// Where a pod's block device is published.
    pub(super) fn device_target(&self, volume: &str, uid: &str) -> PathBuf {
        self.devices().join("publish").join(plain(volume)).join(uid)
    }

    /// The folder of a block device's record.
    pub(super) fn device_record(&self, volume: &str) -> PathBuf {
        self.devices().join(plain(volume)).join("data")
    }

    /// Where a volume of a pod is to be.
    pub(super) fn place(&self, asked: &CsiVolume, uid: &str) -> VolumePaths {
        if asked.block {
            return VolumePaths {
                staging: self.device_staging(&asked.name),
                target: self.device_target(&asked.name, uid),
                record: self.device_record(&asked.name),
                link: Some(self.devices_of_pod(uid).join(plain(&asked.name))),
            };
        }
        let dir = self.of_pod(uid, &asked.name);
        VolumePaths {
            staging: self.staging(&asked.driver, &asked.handle),
            target: dir.join(MOUNT),
            record: dir,
            link: None,
        }
    }
}

/// Where a volume of a pod is mounted in its folder.
pub(super) const MOUNT: &str = "mount";

/// Where the parts of one volume of one pod are.
#[derive(Clone, Debug)]
pub(super) struct VolumePaths {
    /// For the node.
    pub staging: PathBuf,
    /// For the pod.
    pub target: PathBuf,
    /// The folder of the record.
    record: PathBuf,
    /// The link in the pod's folder that says that it has a block device.
    link: Option<PathBuf>,
}

impl VolumePaths {
    /// Notes what is about to be published, before anything is.
    pub(super) fn note(&self, record: &Record) -> Result<(), Error> {
        private_folder(&self.record).map_err(at(&self.record))?;
        record.save(&self.record).map_err(at(&self.record))?;
        if let Some(parent) = self.target.parent() {
            private_folder(parent).map_err(at(parent))?;
        }
        self.link()
    }

    /// Notes what is about to be staged. Of a block device one record serves both.
    pub(super) fn note_staging(&self, record: &Record) -> Result<(), Error> {
        let Some(dir) = self.staging.parent().filter(|_| self.link.is_none()) else {
            return Ok(());
        };
        record.save(dir).map_err(at(dir))
    }

    /// Shows in the pod's folder that it has a block device.
    fn link(&self) -> Result<(), Error> {
        let Some(link) = &self.link else {
            return Ok(());
        };
        if let Some(parent) = link.parent() {
            private_folder(parent).map_err(at(parent))?;
        }
        gone(std::fs::remove_file(link)).map_err(at(link))?;
        std::os::unix::fs::symlink(&self.target, link).map_err(at(link))
    }
}

/// A name as one part of a path, as upstream writes it.
fn plain(name: &str) -> String {
    name.replace('/', "~")
}

/// A path as drivers get it.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
