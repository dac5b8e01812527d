//! Mounts that the kubelet makes for volumes: tmpfs and bind mounts, by system call.

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the kernel is asked to keep a tmpfs out of the swap; not once it did not understand.
static KEEP_FROM_SWAP: AtomicBool = AtomicBool::new(true);

/// Mounts a tmpfs at `target`, at most `size_bytes` large (zero: the kernel's half of memory).
/// What is in it does not reach a disk with the swap, where the kernel can see to that: since Linux 6.4,
/// and not below another user namespace. A tmpfs that is already there is left alone.
pub fn tmpfs(target: &Path, size_bytes: u64, mode: u32) -> io::Result<()> {
    if is_mount_point(target)? {
        return Ok(());
    }
    let mount = |unswapped| in_memory("tmpfs", target, &tmpfs_options(size_bytes, mode, unswapped));
    if !KEEP_FROM_SWAP.load(Ordering::Relaxed) {
        return mount(false);
    }
    match mount(true) {
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            mount(false)?;
            KEEP_FROM_SWAP.store(false, Ordering::Relaxed);
            Ok(())
        }
        done => done,
    }
}

fn tmpfs_options(size_bytes: u64, mode: u32, unswapped: bool) -> String {
    let mut options = format!("mode={mode:o}");
    if size_bytes > 0 {
        options.push_str(&format!(",size={size_bytes}"));
    }
    if unswapped {
        options.push_str(",noswap");
    }
    options
}

/// Mounts a file system of a kind that has no device.
fn in_memory(kind: &str, target: &Path, options: &str) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let options = CString::new(options)?;
    rustix::mount::mount(kind, target, kind, flags, options.as_c_str())?;
    Ok(())
}

/// Whether this user may mount anything.
#[must_use]
pub fn may_mount() -> bool {
    rustix::process::geteuid().is_root()
}

/// Mounts files at `target` that lie in huge pages of so many bytes each.
pub fn huge_pages(target: &Path, page_bytes: u64) -> io::Result<()> {
    in_memory("hugetlbfs", target, &format!("pagesize={page_bytes}"))
}

/// Shows `source` (a file or a folder) at `target` too.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    rustix::mount::mount_bind(source, target)?;
    Ok(())
}

/// What files of a read-only image may not do.
const IMAGE: MountFlags = MountFlags::RDONLY
    .union(MountFlags::NOSUID)
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Shows `source` at `target` too, where nobody can change or run it.
pub fn bind_read_only(source: &Path, target: &Path) -> io::Result<()> {
    rustix::mount::mount_bind(source, target)?;
    let closed = rustix::mount::mount_remount(target, MountFlags::BIND | IMAGE, "");
    if let Err(e) = closed {
        // Never left open.
        unmount(target)?;
        return Err(e.into());
    }
    Ok(())
}

/// The most bytes of options that mount(2) takes: a page, with the end.
const MOST_OPTIONS: usize = 4095;

/// Shows folders one upon the other, the first uppermost, at `target`, where nobody can change or
/// run what is in them. There must be two at least.
pub fn overlay_read_only(layers: &[String], target: &Path) -> io::Result<()> {
    let options = format!("lowerdir={}", layers.join(":"));
    if options.len() <= MOST_OPTIONS {
        let options = CString::new(options)?;
        rustix::mount::mount("overlay", target, "overlay", IMAGE, options.as_c_str())?;
        return Ok(());
    }
    // Too many for one page: layer by layer, which Linux has since 6.8.
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir+", layer.as_str())?;
    }
    rustix::mount::fsconfig_set_flag(fs.as_fd(), "ro")?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let made = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    rustix::mount::move_mount(
        &made,
        "",
        rustix::fs::CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(())
}

/// Shows what a descriptor is open for at `target` too, a file or a folder of its own. No path
/// is resolved for it again, so nobody can put something else in its place meanwhile. Mounts
/// below it are not shown.
pub fn bind_open(place: &OwnedFd, target: &Path) -> io::Result<()> {
    let tree = rustix::mount::open_tree(
        place,
        "",
        OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )?;
    rustix::mount::move_mount(
        &tree,
        "",
        rustix::fs::CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
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

/// The most mounts that are taken away from one place, one above another: a bound against a
/// place that is mounted again and again meanwhile.
const STACKED: usize = 64;

/// Takes away all mounts at `target`, however many lie there one above another.
pub fn unmount_all(target: &Path) -> io::Result<()> {
    for _ in 0..STACKED {
        match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::other("it is mounted again and again"))
}

/// Whether something is mounted exactly at `path`.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    // Asked for nothing that a file system of a network would have to ask for.
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let found = rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::empty())?;
    if found
        .stx_attributes_mask
        .contains(StatxAttributes::MOUNT_ROOT)
    {
        return Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    // Linux before 5.8 does not say; its table of all mounts does, at a price that grows with them.
    is_listed(path)
}

/// Whether `path` is a mount point in the kernel's table.
fn is_listed(path: &Path) -> io::Result<bool> {
    // The table has no symbolic links in it.
    let real = path.canonicalize()?;
    Ok(list()?.contains(&real))
}

/// All mount points of this mount namespace, in the kernel's order.
pub fn list() -> io::Result<Vec<PathBuf>> {
    // Names are bytes: a pod that may mount can choose them.
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table
        .split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
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
fn unescape(bytes: &[u8]) -> PathBuf {
    let mut out = Vec::new();
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
    PathBuf::from(OsString::from_vec(out))
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

/// Major and minor number of a device, as files say which they lie on.
#[must_use]
pub fn device_numbers(device: u64) -> (u32, u32) {
    (rustix::fs::major(device), rustix::fs::minor(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_escapes_are_read() {
        assert_eq!(unescape(br"/a\040b\134"), PathBuf::from("/a b\\"));
        assert_eq!(unescape(br"/plain\x"), PathBuf::from(r"/plain\x"));
    }

    #[test]
    fn memory_is_as_large_as_it_is_said_and_is_not_swapped() {
        assert_eq!(tmpfs_options(0, 0o755, false), "mode=755");
        assert_eq!(
            tmpfs_options(4096, 0o777, true),
            "mode=777,size=4096,noswap"
        );
    }

    #[test]
    fn root_is_a_mount_point() {
        assert!(is_mount_point(Path::new("/")).unwrap());
        assert!(fs_usage(Path::new("/")).unwrap().capacity_bytes > 0);
    }

    #[test]
    fn a_mount_point_is_known_with_the_table_and_without() {
        let dir = tempfile::tempdir().unwrap();
        let (link, none) = (dir.path().join("link"), dir.path().join("none"));
        std::os::unix::fs::symlink("/proc", &link).unwrap();
        for (path, expected) in [
            (Path::new("/"), true),
            (Path::new("/proc"), true),
            (&link, true),
            (Path::new("/proc/self"), false),
            (dir.path(), false),
        ] {
            assert_eq!(is_mount_point(path).unwrap(), expected, "{path:?}");
            assert_eq!(is_listed(path).unwrap(), expected, "{path:?}");
        }
        for asked in [is_mount_point(&none), is_listed(&none)] {
            assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }
}
