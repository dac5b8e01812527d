//! Which sockets there are in the folder of plugins.

use crate::folder;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// How deep sockets may lie in it: plugins may have a folder of their own.
const DEPTH: usize = 2;
/// The most entries that are looked at: a bound against a folder that grows and grows.
const MOST: usize = 1000;

/// What distinguishes a socket from another one that took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    inode: u64,
    changed: (i64, i64),
}

/// The folder and those in it.
pub(super) fn folders(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut out = vec![root.to_owned()];
    walk(root, DEPTH, &mut |path, meta| {
        if meta.is_dir() && out.len() < MOST {
            out.push(path.to_owned());
        }
    })?;
    Ok(out)
}

/// All sockets, by path. Names that begin with a dot are not meant, as upstream. An error: it is not
/// known which plugins there are, so none has gone.
pub(super) fn list(root: &Path) -> io::Result<BTreeMap<PathBuf, Socket>> {
    let mut out = BTreeMap::new();
    walk(root, DEPTH, &mut |path, meta| {
        if meta.file_type().is_socket() && out.len() < MOST {
            let socket = Socket {
                inode: meta.ino(),
                changed: (meta.ctime(), meta.ctime_nsec()),
            };
            out.insert(path.to_owned(), socket);
        }
    })?;
    Ok(out)
}

fn walk(
    dir: &Path,
    depth: usize,
    each: &mut impl FnMut(&Path, &std::fs::Metadata),
) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if folder::is_absent(&e) => return Ok(()),
        entries => entries?,
    };
    for entry in entries.take(MOST) {
        let entry = entry?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let meta = match std::fs::symlink_metadata(&path) {
            Err(e) if folder::is_absent(&e) => continue,
            meta => meta?,
        };
        each(&path, &meta);
        if meta.is_dir() && depth > 1 {
            walk(&path, depth - 1, each)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn sockets_are_found_and_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("own/deep")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        let _first = UnixListener::bind(at("a.sock")).unwrap();
        let _second = UnixListener::bind(at("own/b.sock")).unwrap();
        let _hidden = UnixListener::bind(at(".c.sock")).unwrap();
        let _deep = UnixListener::bind(at("own/deep/d.sock")).unwrap();
        let found = list(dir.path()).unwrap();
        let paths: Vec<&PathBuf> = found.keys().collect();
        assert_eq!(paths, [&at("a.sock"), &at("own/b.sock")]);
        assert_eq!(
            folders(dir.path()).unwrap(),
            [dir.path().to_owned(), at("own"), at("own/deep")]
        );
        // Kept, or the next one could get its inode, and in the same tick of the kernel's clock.
        std::fs::rename(at("a.sock"), at(".a.sock")).unwrap();
        let _again = UnixListener::bind(at("a.sock")).unwrap();
        let again = list(dir.path()).unwrap();
        assert_ne!(again[&at("a.sock")], found[&at("a.sock")]);
        assert_eq!(again[&at("own/b.sock")], found[&at("own/b.sock")]);
        assert!(list(&at("none")).unwrap().is_empty());
        std::os::unix::fs::symlink(at("loop"), at("loop")).unwrap();
        assert!(list(&at("loop")).is_err());
    }
}
