//! Volumes on this node's own disk: a folder each, made once and removed when it is said so. That
//! one was made is noted in another place than the folder itself, so that one that has vanished
//! (its disk is not mounted) is not made again, empty.

use super::error::private_folder;
use std::io;
use std::path::{Component, Path, PathBuf};

/// The folder of volumes, and where it is noted which were made.
#[derive(Clone, Debug)]
pub struct Disk {
    dir: PathBuf,
    marks: PathBuf,
}

/// Everybody may write in a new volume, as in an emptyDir: who a pod runs as is not known here.
const OPEN: u32 = 0o777;

impl Disk {
    /// Volumes in `dir`; `marks` is the folder of notes.
    pub fn new(dir: &Path, marks: &Path) -> io::Result<Self> {
        private_folder(dir)?;
        private_folder(marks)?;
        Ok(Self {
            dir: dir.to_owned(),
            marks: marks.to_owned(),
        })
    }

    /// The folder of all volumes.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a volume is, if it has a name that can be a folder's.
    #[must_use]
    pub fn folder(&self, name: &str) -> Option<PathBuf> {
        let mut parts = Path::new(name).components();
        let plain = matches!(parts.next(), Some(Component::Normal(n)) if n == name);
        (plain && parts.next().is_none()).then(|| self.dir.join(name))
    }

    fn known(&self, name: &str) -> io::Result<(PathBuf, PathBuf)> {
        let folder = self.folder(name);
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "no name for a folder");
        folder.map(|f| (f, self.marks.join(name))).ok_or_else(wrong)
    }

    /// Makes a volume that was never made; one that was must be there.
    pub fn ensure(&self, name: &str) -> io::Result<PathBuf> {
        let (folder, mark) = self.known(name)?;
        let is_there = std::fs::symlink_metadata(&folder).is_ok_and(|m| m.is_dir());
        if mark.exists() {
            let gone = format!(
                "folder {} of the volume is gone: is its disk mounted?",
                folder.display()
            );
            return if is_there {
                Ok(folder)
            } else {
                Err(io::Error::new(io::ErrorKind::NotFound, gone))
            };
        }
        if !is_there {
            std::fs::create_dir(&folder)?;
        }
        super::atomic::set_mode(&folder, OPEN)?;
        // On the disk first, then noted: a note without a folder would say that it is lost.
        std::fs::File::open(&self.dir)?.sync_all()?;
        std::fs::write(&mark, b"")?;
        Ok(folder)
    }

    /// Removes a volume and all in it. None there is fine, a mount in it is an error.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let (folder, mark) = self.known(name)?;
        host::open_beneath::remove_tree(&folder)?;
        match std::fs::remove_file(mark) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_volume_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(&dir.path().join("v"), &dir.path().join("m")).unwrap();
        let folder = disk.ensure("pvc-1").unwrap();
        let mode = std::fs::metadata(&folder).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777);
        std::fs::write(folder.join("data"), "x").unwrap();
        assert_eq!(disk.ensure("pvc-1").unwrap(), folder);
        assert_eq!(std::fs::read(folder.join("data")).unwrap(), b"x");
        // Its disk is away: it is not made again.
        std::fs::rename(&folder, dir.path().join("away")).unwrap();
        let gone = disk.ensure("pvc-1").unwrap_err().to_string();
        assert!(gone.contains("is its disk mounted?"), "{gone}");
        std::fs::rename(dir.path().join("away"), &folder).unwrap();
        disk.remove("pvc-1").unwrap();
        assert!(!folder.exists());
        disk.remove("pvc-1").unwrap();
        disk.ensure("pvc-1").unwrap();
    }

    #[test]
    fn a_name_does_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(&dir.path().join("v"), &dir.path().join("m")).unwrap();
        for name in ["", ".", "..", "a/b", "/etc", "../m", "a/"] {
            assert!(disk.folder(name).is_none(), "{name}");
            assert!(disk.ensure(name).is_err() && disk.remove(name).is_err());
        }
    }
}
