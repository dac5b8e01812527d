//! Mounts that the kubelet makes for volumes: tmpfs and bind mounts, by system call.

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

/// Mounts a tmpfs at `target`, at most `size_bytes` large (zero: the kernel's half of memory).
/// A tmpfs that is already there is left alone.
pub fn tmpfs(target: &Path, size_bytes: u64, mode: u32) -> io::Result<()> {
    if is_mount_point(target)? {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    if size_bytes > 0 {
        options.push_str(&format!(",size={size_bytes}"));
    }
    let options = CString::new(options)?;
    rustix::mount::mount(
        "tmpfs",
        target,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        options.as_c_str(),
    )?;
    Ok(())
}

/// Shows `source` (a file or a folder) at `target` too.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    rustix::mount::mount_bind(source, target)?;
    Ok(())
}

/// Makes a mount point private, so that nothing spreads from it.
pub fn make_private(target: &Path) -> io::Result<()> {
    rustix::mount::mount_change(
        target,
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    Ok(())
}

/// Takes a mount away at once, even if it is in use. None there is fine.
pub fn unmount(target: &Path) -> io::Result<()> {
    match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Whether something is mounted exactly at `path`.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    // The kernel's table has no symbolic links in it.
    let real = path.canonicalize()?;
    Ok(list()?.contains(&real))
}

/// All mount points of this mount namespace, in the kernel's order.
pub fn list() -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .collect())
}

/// All mount points at or below `root`, deepest first: the order in which to unmount them.
pub fn below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let root = root.canonicalize()?;
    let mut found: Vec<PathBuf> = list()?
        .into_iter()
        .filter(|m| m.starts_with(&root))
        .collect();
    found.reverse();
    Ok(found)
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut i = 0;
    while let Some(&b) = bytes.get(i) {
        let code = bytes
            .get(i + 1..i + 4)
            .filter(|_| b == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(code);
                i += 4;
            }
            None => {
                out.push(b);
                i += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from(
        String::from_utf8_lossy(&out).into_owned(),
    ))
}

/// Size and use of the file system that holds a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// Bytes in all.
    pub capacity_bytes: u64,
    /// Bytes that an ordinary user can still take.
    pub available_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes free.
    pub inodes_free: u64,
}

/// Asks the kernel for the use of the file system that holds `path`.
pub fn fs_usage(path: &Path) -> io::Result<FsUsage> {
    let s = rustix::fs::statvfs(path)?;
    Ok(FsUsage {
        capacity_bytes: s.f_blocks * s.f_frsize,
        available_bytes: s.f_bavail * s.f_frsize,
        used_bytes: s.f_blocks.saturating_sub(s.f_bfree) * s.f_frsize,
        inodes: s.f_files,
        inodes_free: s.f_ffree,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_escapes_are_read() {
        assert_eq!(unescape(r"/a\040b\134"), PathBuf::from("/a b\\"));
        assert_eq!(unescape(r"/plain\x"), PathBuf::from(r"/plain\x"));
    }

    #[test]
    fn root_is_a_mount_point() {
        assert!(is_mount_point(Path::new("/")).unwrap());
        assert!(fs_usage(Path::new("/")).unwrap().capacity_bytes > 0);
    }
}
