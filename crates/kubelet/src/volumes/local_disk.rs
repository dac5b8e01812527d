//! Volumes on this node's own disk: a folder each, made once and removed when it is said so. That
//! one was made is noted in another place than the folder itself, so that one that has vanished
//! (its disk is not mounted) is not made again, empty. Snapshots are such folders, too.
//!
//! Where the file system has quotas of projects, it holds volumes to their sizes; where not, it is
//! known here how large each may be, for who measures them.

use super::error::private_folder;
use host::copy::Copied;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// The folder of volumes, and where it is noted which were made, and of what size. Clones are of one disk.
#[derive(Clone, Debug)]
pub struct Disk {
    dir: PathBuf,
    marks: PathBuf,
    is_enforcing: bool,
    /// By the volume's name.
    measured: Arc<Mutex<BTreeMap<String, MeasuredVolume>>>,
}

/// A volume that nobody holds to its size.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredVolume {
    /// Its size.
    pub bytes: u64,
    /// Pods that have it are evicted when there is more in it.
    pub evicts: bool,
    /// Its claim, for events.
    pub claim: ObjectReference,
}

/// How the folder of a copy that is not complete ends; it begins with a dot.
const PARTIAL: &str = ".partial";

/// Everybody may write in a new volume, as in an emptyDir: who a pod runs as is not known here.
const OPEN: u32 = 0o777;

impl Disk {
    /// Volumes in `dir`; `marks` is the folder of notes.
    pub fn new(dir: &Path, marks: &Path) -> io::Result<Self> {
        private_folder(dir)?;
        private_folder(marks)?;
        Ok(Self {
            is_enforcing: host::quota::is_enforced(dir),
            dir: dir.to_owned(),
            marks: marks.to_owned(),
            measured: Arc::default(),
        })
    }

    /// Whether the file system holds volumes to their sizes.
    #[must_use]
    pub fn is_enforcing(&self) -> bool {
        self.is_enforcing
    }

    /// What is known of a volume that nobody holds to its size.
    #[must_use]
    pub fn measured(&self, name: &str) -> Option<MeasuredVolume> {
        self.measured.lock().get(name).cloned()
    }

    /// Notes that a volume is measured; none: it is held to its size, or gone.
    pub fn measure(&self, name: &str, how: Option<MeasuredVolume>) {
        let mut all = self.measured.lock();
        match how {
            Some(how) => all.insert(name.to_owned(), how),
            None => all.remove(name),
        };
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
        // What cannot be looked at is not absent: a volume would be made in a lost one's place.
        if mark.try_exists()? {
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

    /// Whether a volume was made here, and is complete.
    #[must_use]
    pub fn is_made(&self, name: &str) -> bool {
        self.known(name).is_ok_and(|(_, mark)| mark.exists())
    }

    /// As [`Disk::ensure`], and holds it to this size, more or less than before, where the file
    /// system can; whether it can. What came to be without a limit never gets one: what is in it is
    /// nobody's.
    pub fn make(&self, name: &str, bytes: u64) -> io::Result<bool> {
        let folder = self.ensure(name)?;
        if self.size(name) != Some(bytes) {
            let (_, mark) = self.known(name)?;
            std::fs::write(mark, bytes.to_string())?;
        }
        self.limit(&folder, name, bytes)
    }

    /// How large a volume was said to be last, or the one that a snapshot is of.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<u64> {
        let (_, mark) = self.known(name).ok()?;
        std::fs::read_to_string(mark).ok()?.parse().ok()
    }

    /// The same; where it is not noted, what it takes. That may take a while.
    #[must_use]
    pub fn size_or_use(&self, name: &str) -> u64 {
        let used = || self.folder(name).map(|f| host::open_beneath::usage(&f).0);
        self.size(name).or_else(used).unwrap_or(0)
    }

    fn limit(&self, folder: &Path, name: &str, bytes: u64) -> io::Result<bool> {
        if !self.is_enforcing {
            return Ok(false);
        }
        match host::quota::limit(folder, name, bytes) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// When a copy was complete.
    #[must_use]
    pub fn made_at(&self, name: &str) -> Option<jiff::Timestamp> {
        let (_, mark) = self.known(name).ok()?;
        let at = std::fs::metadata(mark).ok()?.modified().ok()?;
        jiff::Timestamp::try_from(at).ok()
    }

    /// Where a volume is put together that is not complete.
    fn partial(&self, name: &str) -> PathBuf {
        self.dir.join(format!(".{name}{PARTIAL}"))
    }

    /// The name of the volume that a folder on the disk is of, complete or not.
    #[must_use]
    pub fn name_of(folder: &str) -> &str {
        let partial = folder
            .strip_prefix('.')
            .and_then(|f| f.strip_suffix(PARTIAL));
        partial.unwrap_or(folder)
    }

    /// Makes a volume as a copy of another one, or of a snapshot; with a size, it is held to it. A
    /// snapshot, which nobody writes, is made without. It has its name only when it is complete and
    /// on the disk. Takes as long as there is data, where files cannot share it.
    pub fn copy(&self, name: &str, from: &str, bytes: Option<u64>) -> io::Result<Copied> {
        let (folder, mark) = self.known(name)?;
        let (source, source_mark) = self.known(from)?;
        if mark.try_exists()? {
            return Ok(Copied::default());
        }
        let mut done = Copied::default();
        // One that is there is complete, and only its note is missing.
        let is_there = match std::fs::symlink_metadata(&folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            found => found.map(|_| true)?,
        };
        if !is_there {
            let partial = self.partial(name);
            remove_with_limit(&partial, name)?;
            done = match self.fill(&partial, &source, name, bytes) {
                // Who removes a volume removes its note last.
                Ok(done) if source_mark.exists() => done,
                other => {
                    remove_with_limit(&partial, name)?;
                    let gone = format!("there is no {from} on this node any more");
                    return Err(match other {
                        Ok(_) => io::Error::new(io::ErrorKind::NotFound, gone),
                        Err(e) => e,
                    });
                }
            };
            std::fs::rename(&partial, &folder)?;
        }
        std::fs::File::open(&self.dir)?.sync_all()?;
        let size = bytes.unwrap_or_else(|| self.size_or_use(from));
        std::fs::write(&mark, size.to_string())?;
        Ok(done)
    }

    fn fill(
        &self,
        partial: &Path,
        source: &Path,
        name: &str,
        bytes: Option<u64>,
    ) -> io::Result<Copied> {
        std::fs::create_dir(partial)?;
        if let Some(bytes) = bytes {
            self.limit(partial, name, bytes)?;
        }
        host::copy::tree(source, partial)
    }

    /// Removes what there is of a copy that was not completed.
    pub fn remove_partial(&self, name: &str) -> io::Result<()> {
        self.known(name)?;
        remove_with_limit(&self.partial(name), name)
    }

    /// Removes a volume and all in it. None there is fine, a mount in it is an error.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let (folder, mark) = self.known(name)?;
        self.remove_partial(name)?;
        remove_with_limit(&folder, name)?;
        self.measure(name, None);
        match std::fs::remove_file(mark) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// How large a volume is.
#[must_use]
pub fn size_of(volume: &PersistentVolume) -> u64 {
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref());
    let bytes = crate::quantity::amount(capacity, "storage");
    bytes.and_then(|b| u64::try_from(b).ok()).unwrap_or(0)
}

/// Removes a folder of the volume of this name, whose project is free then.
fn remove_with_limit(folder: &Path, name: &str) -> io::Result<()> {
    host::quota::unlimit(folder, name)?;
    host::open_beneath::remove_tree(folder)
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
    fn a_note_that_cannot_be_looked_at_is_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        let (volumes, marks) = (dir.path().join("v"), dir.path().join("m"));
        let disk = Disk::new(&volumes, &marks).unwrap();
        std::os::unix::fs::symlink("pvc-1", marks.join("pvc-1")).unwrap();
        disk.ensure("pvc-0").unwrap();
        assert!(disk.ensure("pvc-1").is_err());
        assert!(disk.copy("pvc-1", "pvc-0", None).is_err());
        assert!(!volumes.join("pvc-1").exists());
    }

    #[test]
    fn a_copy_is_complete_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(&dir.path().join("v"), &dir.path().join("m")).unwrap();
        let source = disk.ensure("pvc-1").unwrap();
        std::fs::write(source.join("data"), "before").unwrap();
        assert!(disk.copy("snapshot-1", "pvc-0", None).is_err());
        assert!(!disk.is_made("snapshot-1") && disk.is_made("pvc-1"));
        // What an earlier try left is not a part of it.
        std::fs::create_dir(disk.partial("snapshot-1")).unwrap();
        std::fs::write(disk.partial("snapshot-1").join("half"), "x").unwrap();
        assert_eq!(disk.copy("snapshot-1", "pvc-1", None).unwrap().files, 1);
        assert!(disk.is_made("snapshot-1") && !disk.partial("snapshot-1").exists());
        // Of one that nobody wants any more before it is complete nothing stays.
        let left = disk.partial("snapshot-2");
        std::fs::create_dir_all(left.join("half")).unwrap();
        let name = left.file_name().unwrap().to_str().unwrap();
        assert_eq!(
            (Disk::name_of(name), Disk::name_of("pvc-1")),
            ("snapshot-2", "pvc-1")
        );
        disk.remove_partial("snapshot-2").unwrap();
        assert!(!left.exists());
        let copy = disk.folder("snapshot-1").unwrap();
        assert!(!copy.join("half").exists());
        std::fs::write(source.join("data"), "after").unwrap();
        // Asked again, it is as it was.
        disk.copy("snapshot-1", "pvc-1", None).unwrap();
        assert_eq!(std::fs::read(copy.join("data")).unwrap(), b"before");
        disk.copy("pvc-2", "snapshot-1", Some(1 << 20)).unwrap();
        disk.remove("snapshot-1").unwrap();
        disk.remove("pvc-1").unwrap();
        assert_eq!(disk.size("pvc-2"), Some(1 << 20));
        let restored = disk.ensure("pvc-2").unwrap();
        assert_eq!(std::fs::read(restored.join("data")).unwrap(), b"before");
        assert!(disk.copy("pvc-3", "pvc-1", None).is_err());
    }

    #[test]
    fn who_measures_knows_how_large_a_volume_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(&dir.path().join("v"), &dir.path().join("m")).unwrap();
        let is_held = disk.make("pvc-1", 1 << 20).unwrap();
        assert_eq!(is_held, disk.is_enforcing());
        assert_eq!(disk.size("pvc-1"), Some(1 << 20));
        disk.make("pvc-1", 2 << 20).unwrap();
        disk.copy("snapshot-1", "pvc-1", None).unwrap();
        assert_eq!(disk.size("snapshot-1"), Some(2 << 20));
        let how = MeasuredVolume {
            bytes: 1 << 20,
            evicts: false,
            claim: ObjectReference::default(),
        };
        disk.measure("pvc-1", Some(how.clone()));
        assert_eq!(disk.clone().measured("pvc-1"), Some(how));
        disk.remove("pvc-1").unwrap();
        assert_eq!(disk.measured("pvc-1"), None);
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
