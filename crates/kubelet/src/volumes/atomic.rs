//! Writing a folder of files so that readers see all of the old or all of the new.
//!
//! The files live in a folder named by the time; `..data` is a link to it that is replaced by
//! rename, and the visible names are links through `..data`.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
    /// The user that it belongs to; none for the kubelet's own.
    pub owner: Option<u32>,
}

/// Files by relative path.
pub type Files = BTreeMap<String, File>;

const DATA: &str = "..data";
const NEW: &str = "..data_tmp";

/// Makes the folder hold exactly these files; `now` names the folder that holds them. True if
/// anything changed.
pub fn write(dir: &Path, files: &Files, group: Option<i64>, now: Timestamp) -> io::Result<bool> {
    if files.keys().any(|path| !is_plain(path)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a path leads out of the volume or to its own folders",
        ));
    }
    let old = fs::read_link(dir.join(DATA))
        .ok()
        .map(|target| dir.join(target));
    if old.as_ref().is_some_and(|old| same(old, files)) {
        return Ok(false);
    }
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string();
    let fresh = dir.join(&stamp);
    fs::create_dir(&fresh)?;
    set_mode(&fresh, 0o755)?;
    let gid = group.and_then(|g| u32::try_from(g).ok());
    for (path, file) in files {
        write_one(&fresh, path, file, gid)?;
    }
    symlink(&stamp, dir.join(NEW)).or_else(|e| {
        if e.kind() != io::ErrorKind::AlreadyExists {
            return Err(e);
        }
        fs::remove_file(dir.join(NEW))?;
        symlink(&stamp, dir.join(NEW))
    })?;
    fs::rename(dir.join(NEW), dir.join(DATA))?;
    set_names(dir, files)?;
    if let Some(old) = old.filter(|old| old != &fresh)
        && let Err(error) = host::open_beneath::remove_tree(&old)
    {
        tracing::warn!(folder = %old.display(), %error, "what a volume showed before stays");
    }
    Ok(true)
}

/// Relative, inside, and not among the names that this module keeps for itself (upstream's rule).
fn is_plain(path: &str) -> bool {
    let mut parts = Path::new(path).components().peekable();
    !path.starts_with("..")
        && parts.peek().is_some()
        && parts.all(|p| matches!(p, std::path::Component::Normal(_)))
}

fn write_one(root: &Path, path: &str, file: &File, gid: Option<u32>) -> io::Result<()> {
    let target = root.join(path);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    // Nobody reads it before it has its permissions.
    let mut made = fs::OpenOptions::new();
    let mut made = made
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&target)?;
    made.write_all(&file.bytes)?;
    let mode = if gid.is_some() {
        file.mode | 0o440
    } else {
        file.mode
    };
    set_mode(&target, mode)?;
    if gid.is_some() || file.owner.is_some() {
        lchown(&target, file.owner, gid)?;
    }
    Ok(())
}

/// Links for the first parts of all paths; those of files that are gone go too.
fn set_names(dir: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect();
    for name in &wanted {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(PathBuf::from(DATA).join(name), link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn same(old: &Path, files: &Files) -> bool {
    let mut have = 0;
    count(old, &mut have);
    have == files.len()
        && files.iter().all(|(path, file)| {
            let target = old.join(path);
            fs::read(&target).is_ok_and(|bytes| bytes == file.bytes)
        })
}

fn count(dir: &Path, have: &mut usize) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            count(&entry.path(), have);
        } else {
            *have += 1;
        }
    }
}

/// Sets permissions exactly, whatever the umask.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |text: &str| File {
            bytes: text.as_bytes().to_vec(),
            mode: 0o644,
            owner: None,
        };
        list.iter()
            .map(|(p, t)| ((*p).to_owned(), file(t)))
            .collect()
    }

    #[test]
    fn a_change_swaps_everything_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        let now = Timestamp::UNIX_EPOCH;
        assert!(write(d, &files(&[("a", "1"), ("sub/b", "2")]), None, now).unwrap());
        assert!(!write(d, &files(&[("a", "1"), ("sub/b", "2")]), None, now).unwrap());
        let now = now + std::time::Duration::from_nanos(1);
        assert_eq!(fs::read_to_string(d.join("sub/b")).unwrap(), "2");
        assert!(write(d, &files(&[("a", "3")]), None, now).unwrap());
        assert_eq!(fs::read_to_string(d.join("a")).unwrap(), "3");
        assert!(fs::symlink_metadata(d.join("sub")).is_err());
        assert_eq!(fs::read_dir(d).unwrap().count(), 3);
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "../x",
            "a/../../x",
            "/x",
            "",
            "..data",
            "..data/x",
            "..2026/x",
        ] {
            assert!(
                write(
                    dir.path(),
                    &files(&[(path, "1")]),
                    None,
                    Timestamp::UNIX_EPOCH
                )
                .is_err(),
                "{path}"
            );
        }
    }
}
