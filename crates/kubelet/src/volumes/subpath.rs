//! `subPath` of volume mounts. What a pod can change is looked at once: the place is opened
//! without being led out of its volume, and the open descriptor is mounted at a folder of the
//! kubelet's own. The runtime gets that folder, so it resolves nothing of the pod's again.
//!
//! The folders are upstream's: `volume-subpaths/<volume>/<container>/<index of the mount>` below
//! the pod's. They are unmounted when the pod ends, before anything is removed.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Folder of these mounts below the pod's.
pub(super) const FOLDER: &str = "volume-subpaths";

/// Which mount of which container.
#[derive(Clone, Copy, Debug)]
pub struct ContainerMount<'a> {
    /// Name of the volume.
    pub volume: &'a str,
    /// Name of the container.
    pub container: &'a str,
    /// Index of the mount in the container's list.
    pub index: usize,
}

/// Whether a path stays where it begins by its words alone.
#[must_use]
pub fn is_local(sub: &str) -> bool {
    use std::path::Component;
    Path::new(sub)
        .components()
        .all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

/// Mounts what `sub` names in the volume at a place of the kubelet's own, and gives that place.
/// Folders that are missing are made with the permissions of the volume, as upstream does.
/// What an earlier attempt of the container had there is replaced.
pub fn bind(
    pod_dir: &Path,
    volume: &Path,
    sub: &str,
    place: ContainerMount,
) -> io::Result<PathBuf> {
    let mode = std::fs::metadata(volume)?.permissions().mode() & 0o7777;
    let open = host::open_beneath::open_or_make(volume, Path::new(sub), mode)?;
    let target = fresh_target(pod_dir, place, host::open_beneath::is_folder(&open)?)?;
    host::mounts::bind_open(&open, &target)?;
    Ok(target)
}

/// Whether something that was mounted for a container is no longer in its volume: the pod, or
/// whoever shares the volume, removed it or put another in its place. The kernel does not mount
/// such a thing a second time (ENOENT), so the runtime cannot start the container with it.
#[must_use]
pub fn has_gone(pod_dir: &Path, container: &str) -> bool {
    use std::os::unix::fs::MetadataExt;
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let volumes = entries(&pod_dir.join(FOLDER));
    let mut mounts = volumes.flat_map(|v| entries(&v.path().join(container)));
    mounts.any(|m| std::fs::metadata(m.path()).is_ok_and(|m| m.nlink() == 0))
}

/// An empty folder or file to mount at.
fn fresh_target(pod_dir: &Path, place: ContainerMount, folder: bool) -> io::Result<PathBuf> {
    let mut private = std::fs::DirBuilder::new();
    private.recursive(true).mode(0o750);
    let parent = pod_dir
        .join(FOLDER)
        .join(place.volume)
        .join(place.container);
    private.create(&parent)?;
    let target = parent.join(place.index.to_string());
    if std::fs::symlink_metadata(&target).is_ok() {
        host::mounts::unmount_all(&target)?;
        // Fails where something is still mounted, so nothing of the pod's is removed.
        if std::fs::symlink_metadata(&target)?.is_dir() {
            std::fs::remove_dir(&target)?;
        } else {
            std::fs::remove_file(&target)?;
        }
    }
    if folder {
        private.recursive(false).create(&target)?;
    } else {
        let mut file = std::fs::OpenOptions::new();
        file.write(true)
            .create_new(true)
            .mode(0o640)
            .open(&target)?;
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_longer_in_its_volume_is_noticed() {
        use std::os::fd::AsRawFd;
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join(FOLDER).join("v/c");
        std::fs::create_dir_all(&own).unwrap();
        let file = std::fs::File::create(dir.path().join("file")).unwrap();
        // A mount of an open file, as far as one can have it without root.
        let shown = format!("/proc/self/fd/{}", file.as_raw_fd());
        std::os::unix::fs::symlink(shown, own.join("0")).unwrap();
        assert!(!has_gone(dir.path(), "c") && !has_gone(dir.path(), "none"));
        std::fs::remove_file(dir.path().join("file")).unwrap();
        assert!(has_gone(dir.path(), "c") && !has_gone(dir.path(), "d"));
    }

    #[test]
    fn words_that_lead_out_are_known() {
        for sub in ["a", "a/b", "./a", "", "a..b/..c"] {
            assert!(is_local(sub), "{sub}");
        }
        for sub in ["/", "/a", "..", "a/../b", "a/.."] {
            assert!(!is_local(sub), "{sub}");
        }
    }
}
