//! What is in a folder of the node. One that is not there has nothing in it. Of one that cannot be read
//! nobody knows what is in it: who took that for nothing would leave mounts behind, or take away what
//! others use. Folders that pods change are read by [`host::open_beneath`].

use std::io;
use std::path::{Path, PathBuf};

/// What is in a folder, in the order of names; nothing where there is no folder.
pub fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let found = match std::fs::read_dir(dir) {
        Ok(found) => found,
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let all: io::Result<Vec<PathBuf>> = found.map(|entry| Ok(entry?.path())).collect();
    let mut all = all?;
    all.sort();
    Ok(all)
}

/// The same for who can do no better than to go on with nothing, which is logged.
pub fn entries_or_none(dir: &Path) -> Vec<PathBuf> {
    entries(dir).unwrap_or_else(|error| {
        tracing::warn!(folder = %dir.display(), %error, "a folder cannot be read");
        Vec::new()
    })
}

/// The last part of a path.
#[must_use]
pub fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Whether an error says that there is no such file or folder.
#[must_use]
pub fn is_absent(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::NotFound || kind == io::ErrorKind::NotADirectory
}

/// Removes a file of which nothing depends on whether it stays; what is not there need not be removed,
/// another failure is logged.
pub fn remove_file(file: &Path) {
    match std::fs::remove_file(file) {
        Err(error) if !is_absent(&error) => {
            tracing::warn!(file = %file.display(), %error, "a file cannot be removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_empty_and_what_cannot_be_read_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["b", "a"] {
            std::fs::write(at(name), "").unwrap();
        }
        assert_eq!(entries(dir.path()).unwrap(), [at("a"), at("b")]);
        assert_eq!(name(&at("a")), "a");
        for none in [at("none"), at("a"), at("a/b")] {
            assert_eq!(entries(&none).unwrap(), Vec::<PathBuf>::new());
        }
        std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
        assert!(entries(&at("loop")).is_err());
        assert!(entries_or_none(&at("loop")).is_empty());
        remove_file(&at("a"));
        remove_file(&at("a"));
        assert!(!at("a").exists());
    }
}
