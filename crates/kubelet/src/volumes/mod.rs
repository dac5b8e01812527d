//! Volumes of pods: made before the sandbox, brought up to date while the pod runs, taken
//! away after. The folders are upstream's, so that another kubelet finds its way.

pub mod atomic;
pub mod payload;
pub mod subpath;
pub mod tokens;

use crate::objects::{self, Objects};
use crate::pod::env::Around;
use crate::pod::spec;
use crate::quantity;
use k8s_openapi::api::core::v1::{Pod, Volume};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// A volume could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object is missing or cannot be read.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
    Object {
        /// Name of the volume.
        volume: String,
        /// Why.
        source: objects::Error,
    },
    /// Something else about one volume.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {text}")]
    Volume {
        /// Name of the volume.
        volume: String,
        /// Why.
        text: String,
    },
    /// The machine refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

pub(crate) fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io {
        path: path.to_path_buf(),
        source,
    }
}

/// Where the volumes of a pod are on the host, by name.
pub type Mounted = HashMap<String, PathBuf>;

/// What making volumes needs.
#[derive(Debug)]
pub struct Volumes {
    /// Folder of all pods.
    pub pods_dir: PathBuf,
    /// ConfigMaps and Secrets.
    pub objects: std::sync::Arc<Objects>,
    /// Service-account tokens.
    pub tokens: tokens::Tokens,
}

impl Volumes {
    fn dir(&self, pod: &Pod, plugin: &str, name: &str) -> PathBuf {
        self.pods_dir
            .join(spec::uid(pod))
            .join("volumes")
            .join(plugin)
            .join(name)
    }

    /// Makes or refreshes all volumes of a pod.
    pub async fn prepare(&self, pod: &Pod, around: &Around) -> Result<Mounted, Error> {
        let mut mounted = Mounted::new();
        for volume in spec::of(pod).volumes.iter().flatten() {
            let path = self.one(pod, volume, around).await?;
            mounted.insert(volume.name.clone(), path);
        }
        Ok(mounted)
    }

    async fn one(&self, pod: &Pod, volume: &Volume, around: &Around) -> Result<PathBuf, Error> {
        let group = spec::of(pod)
            .security_context
            .as_ref()
            .and_then(|s| s.fs_group);
        if let Some(source) = &volume.host_path {
            return host_path(
                &volume.name,
                &source.path,
                source.type_.as_deref().unwrap_or_default(),
            );
        }
        if let Some(source) = &volume.empty_dir {
            let dir = self.dir(pod, "kubernetes.io~empty-dir", &volume.name);
            let limit = source
                .size_limit
                .as_ref()
                .and_then(|q| quantity::units(&q.0));
            let memory = source.medium.as_deref() == Some("Memory");
            empty_dir(&dir, memory, memory_size(pod, limit, around), group)?;
            return Ok(dir);
        }
        let (plugin, writable_by_group) = match volume {
            v if v.config_map.is_some() => ("kubernetes.io~configmap", group),
            v if v.secret.is_some() => ("kubernetes.io~secret", group),
            v if v.downward_api.is_some() => ("kubernetes.io~downward-api", group),
            v if v.projected.is_some() => ("kubernetes.io~projected", group),
            v if is_unnamed(v) => {
                let dir = self.dir(pod, "kubernetes.io~empty-dir", &volume.name);
                empty_dir(&dir, false, 0, group)?;
                return Ok(dir);
            }
            _ => {
                return Err(Error::Volume {
                    volume: volume.name.clone(),
                    text: "this kind of volume is not supported by this node".into(),
                });
            }
        };
        let files = payload::of_volume(self, pod, volume, around).await?;
        let dir = self.dir(pod, plugin, &volume.name);
        open_folder(&dir).map_err(io_at(&dir))?;
        if volume.config_map.is_none() && volume.downward_api.is_none() {
            // Secrets never reach a disk. Where tmpfs cannot be mounted, files still work.
            if let Err(e) = host::mounts::tmpfs(&dir, 0, 0o755) {
                tracing::debug!(dir = %dir.display(), error = %e, "no tmpfs for a secret volume");
            }
        }
        atomic::write(&dir, &files, writable_by_group).map_err(io_at(&dir))?;
        Ok(dir)
    }

    /// Unmounts and removes everything of a pod on the host.
    pub fn release(&self, uid: &str) -> io::Result<()> {
        let dir = self.pods_dir.join(uid);
        if uid.is_empty() || !dir.exists() {
            return Ok(());
        }
        for mount in host::mounts::below(&dir)? {
            host::mounts::unmount(&mount)?;
        }
        self.tokens.forget(uid);
        // Not through what may be mounted still, and however deep a pod made its folders.
        host::beneath::remove_tree(&dir)
    }

    /// UIDs of pods that have a folder here.
    #[must_use]
    pub fn known(&self) -> Vec<String> {
        std::fs::read_dir(&self.pods_dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

/// A volume without any source is an empty folder.
fn is_unnamed(volume: &Volume) -> bool {
    *volume
        == Volume {
            name: volume.name.clone(),
            ..Default::default()
        }
}

/// A memory volume is as large as it says, at most what the pod may use.
fn memory_size(pod: &Pod, limit: Option<i64>, around: &Around) -> u64 {
    let pod_limit = super::pod::resources::pod_limits(pod).memory_bytes;
    let most = pod_limit.unwrap_or(around.allocatable_memory_bytes).max(0);
    let size = limit.unwrap_or(most);
    let size = if most > 0 { size.min(most) } else { size };
    u64::try_from(size).unwrap_or(0)
}

/// Makes a folder, and those above it that are missing, for the kubelet and its group alone:
/// no other user of the machine may look into pods. Upstream's permissions.
pub fn private_folder(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut folder = std::fs::DirBuilder::new();
    folder.recursive(true).mode(0o750).create(dir)
}

/// The folder of a volume, which the users of containers may look into, in private ones.
fn open_folder(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        private_folder(parent)?;
    }
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

fn empty_dir(dir: &Path, memory: bool, size_bytes: u64, group: Option<i64>) -> Result<(), Error> {
    let mut fresh = !dir.exists();
    open_folder(dir).map_err(io_at(dir))?;
    if memory && !host::mounts::is_mount_point(dir).map_err(io_at(dir))? {
        host::mounts::tmpfs(dir, size_bytes, 0o777).map_err(io_at(dir))?;
        fresh = true;
    }
    if fresh {
        let mode = if group.is_some() { 0o2777 } else { 0o777 };
        atomic::set_mode(dir, mode).map_err(io_at(dir))?;
        if let Some(gid) = group.and_then(|g| u32::try_from(g).ok()) {
            std::os::unix::fs::lchown(dir, None, Some(gid)).map_err(io_at(dir))?;
        }
    }
    Ok(())
}

/// Checks what is at the path, or makes it, as the type says.
fn host_path(volume: &str, path: &str, kind: &str) -> Result<PathBuf, Error> {
    use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
    let target = PathBuf::from(path);
    let wrong = |what: &str| Error::Volume {
        volume: volume.to_owned(),
        text: format!("hostPath type check failed: {path} is not a {what}"),
    };
    let found = std::fs::metadata(&target).ok();
    match kind {
        // What appears at the name meanwhile is neither followed nor changed.
        "DirectoryOrCreate" if found.is_none() => {
            let mut folder = std::fs::DirBuilder::new();
            let made = folder.recursive(true).mode(0o755).create(&target);
            made.map_err(io_at(&target))?;
        }
        "FileOrCreate" if found.is_none() => {
            let mut file = std::fs::OpenOptions::new();
            let made = file.write(true).create_new(true).mode(0o644).open(&target);
            made.map_err(io_at(&target))?;
        }
        "Directory" | "DirectoryOrCreate" if !found.as_ref().is_some_and(|m| m.is_dir()) => {
            return Err(wrong("directory"));
        }
        "File" | "FileOrCreate" if !found.as_ref().is_some_and(|m| m.is_file()) => {
            return Err(wrong("file"));
        }
        "Socket" if !found.as_ref().is_some_and(|m| m.file_type().is_socket()) => {
            return Err(wrong("socket file"));
        }
        "CharDevice"
            if !found
                .as_ref()
                .is_some_and(|m| m.file_type().is_char_device()) =>
        {
            return Err(wrong("character device"));
        }
        "BlockDevice"
            if !found
                .as_ref()
                .is_some_and(|m| m.file_type().is_block_device()) =>
        {
            return Err(wrong("block device"));
        }
        // Upstream's runtime makes a missing path a folder.
        "" if found.is_none() => std::fs::create_dir_all(&target).map_err(io_at(&target))?,
        _ => {}
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_host_paths_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        assert!(host_path("v", &at("none"), "Directory").is_err());
        assert!(
            host_path("v", &at("d"), "DirectoryOrCreate")
                .unwrap()
                .is_dir()
        );
        assert!(host_path("v", &at("f"), "FileOrCreate").unwrap().is_file());
        assert!(host_path("v", &at("d"), "File").is_err());
    }

    #[test]
    fn what_is_at_the_name_of_a_new_host_path_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("made"), &link).unwrap();
        for kind in ["FileOrCreate", "DirectoryOrCreate"] {
            assert!(host_path("v", &link.to_string_lossy(), kind).is_err());
        }
        assert!(!dir.path().join("made").exists());
    }

    #[test]
    fn folders_of_pods_are_for_the_kubelet_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |sub: &str| {
            let meta = std::fs::metadata(dir.path().join(sub)).unwrap();
            meta.permissions().mode() & 0o7777
        };
        let volume = dir.path().join("pods/u/volumes/kubernetes.io~empty-dir/v");
        empty_dir(&volume, false, 0, None).unwrap();
        for sub in [
            "pods",
            "pods/u",
            "pods/u/volumes",
            "pods/u/volumes/kubernetes.io~empty-dir",
        ] {
            assert_eq!(mode(sub), 0o750, "{sub}");
        }
        assert_eq!(mode("pods/u/volumes/kubernetes.io~empty-dir/v"), 0o777);
    }
}
