//! Paths in folders that somebody else can change at the same time: the volumes of pods. No
//! step of a path is believed because it was looked at before; the kernel resolves it as a
//! whole and refuses what leads out, and all further work is done on the open descriptor.
//!
//! Needs `openat2` (Linux 5.6).

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// The kernel answers EAGAIN where something was renamed while it followed a `..` in a link.
/// Somebody may do so on purpose; then the answer is an error, and the caller's next try is
/// later.
const TRIES: u32 = 16;

/// Opens what `sub` names below the folder `root`, as a descriptor for its place alone.
///
/// Links are followed as long as they stay below `root`. One with an absolute target is resolved
/// once, on the machine's own tree, and must not be a link any more when it is opened.
pub fn open(root: &Path, sub: &Path) -> io::Result<OwnedFd> {
    let base = open_folder(root)?;
    match open_below(base.as_fd(), sub) {
        Err(Errno::XDEV) => {
            let real_root = root.canonicalize()?;
            let real = real_root.join(sub).canonicalize()?;
            let inside = real.strip_prefix(&real_root).map_err(|_| leads_out())?;
            let base = open_folder(&real_root)?;
            let flags = ResolveFlags::NO_SYMLINKS;
            Ok(resolve(base.as_fd(), inside, flags)?)
        }
        Err(e) => Err(e.into()),
        Ok(found) => Ok(found),
    }
}

/// The same, but folders that are missing are made, each with exactly these permissions.
///
/// A folder is made below a descriptor that was found below `root`; what appears at its name
/// meanwhile is not followed, but looked at again: several may make the same folder at once, and
/// whoever owns it may remove or exchange it.
pub fn open_or_make(root: &Path, sub: &Path, mode: u32) -> io::Result<OwnedFd> {
    let mut last = io::Error::from(Errno::NOENT);
    for _ in 0..TRIES {
        match open(root, sub) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        match make(root, sub, mode) {
            Err(e) if is_of_another(&e) => last = e,
            other => return other,
        }
    }
    Err(last)
}

/// Whether somebody else made, removed or exchanged a part of a path.
fn is_of_another(e: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(e),
        Some(Errno::EXIST | Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
    )
}

fn make(root: &Path, sub: &Path, mode: u32) -> io::Result<OwnedFd> {
    let mut parent = open_folder(root)?;
    let mut at = PathBuf::new();
    let mut made = false;
    for part in sub.components() {
        let Component::Normal(name) = part else {
            continue;
        };
        at.push(name);
        if !made {
            match open(root, &at) {
                Ok(found) => {
                    parent = found;
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => made = true,
                Err(e) => return Err(e),
            }
        }
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(mode))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let child = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        // The umask does not count, as for the volume itself.
        rustix::fs::fchmod(&child, Mode::from_raw_mode(mode))?;
        parent = child;
    }
    Ok(parent)
}

/// Opens a file for reading where others may have put something else at its name: neither a
/// link is followed, nor is anything but an ordinary file opened (a pipe would block, and to open
/// a device can do something).
pub fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    to_read(&rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Opens an ordinary file below the folder `root` for reading; links are followed as by [`open`]. A
/// folder is an error of its own kind.
pub fn open_to_read(root: &Path, sub: &Path) -> io::Result<File> {
    let found = open(root, sub)?;
    if is_folder(&found)? {
        return Err(Errno::ISDIR.into());
    }
    to_read(&found)
}

/// Names of what is in a folder below the folder `root`, and whether each is a folder itself; links
/// are followed as by [`open`]. What is read is the folder that was found, whatever is at its name
/// meanwhile.
pub fn list_folder(root: &Path, sub: &Path) -> io::Result<Vec<(OsString, bool)>> {
    let place = open(root, sub)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(&place, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push((name, entry.file_type() == FileType::Directory));
        }
    }
    Ok(names)
}

/// Reads a file below the folder `root`, at most `limit` bytes: a larger one is an error. Links
/// are followed as if `root` were the whole tree, so none leads out; nothing but an ordinary file
/// is opened.
pub fn read_file(root: &Path, sub: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let base = open_folder(root)?;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = to_read(&resolve_as(base.as_fd(), sub, how)?)?;
    let mut out = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut out)?;
    if u64::try_from(out.len()).is_ok_and(|len| len <= limit) {
        Ok(out)
    } else {
        Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the file has more than {limit} bytes"),
        ))
    }
}

/// Opens again, for reading, what a descriptor for a place alone has found to be an ordinary file.
pub(crate) fn to_read(place: &OwnedFd) -> io::Result<File> {
    let found = FileType::from_raw_mode(rustix::fs::fstat(place)?.st_mode);
    match found {
        FileType::RegularFile => {}
        // Where a link is itself what was found.
        FileType::Symlink => return Err(Errno::LOOP.into()),
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not an ordinary file",
            ));
        }
    }
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?.into())
}

/// Whether a descriptor is of a folder.
pub fn is_folder(place: &OwnedFd) -> io::Result<bool> {
    let mode = rustix::fs::fstat(place)?.st_mode;
    Ok(FileType::from_raw_mode(mode) == FileType::Directory)
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

fn open_below(base: BorrowedFd, sub: &Path) -> Result<OwnedFd, Errno> {
    resolve(base, sub, ResolveFlags::NO_MAGICLINKS)
}

fn resolve(base: BorrowedFd, sub: &Path, more: ResolveFlags) -> Result<OwnedFd, Errno> {
    resolve_as(base, sub, ResolveFlags::BENEATH | more)
}

fn resolve_as(base: BorrowedFd, sub: &Path, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let sub = if sub.as_os_str().is_empty() {
        Path::new(".")
    } else {
        sub
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut last = Errno::AGAIN;
    for _ in 0..TRIES {
        match rustix::fs::openat2(base, sub, flags, Mode::empty(), how) {
            Err(Errno::AGAIN) => last = Errno::AGAIN,
            other => return other,
        }
    }
    Err(last)
}

fn leads_out() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the path leads out of its volume",
    )
}

/// How deep a tree is walked down before its folders are moved up: as many descriptors are open
/// at a time, whatever a pod made.
const DEEPEST: usize = 64;

/// Removes a folder and all in it, but nothing of another file system or mount, and nothing
/// behind a link: a mount in it is an error (EBUSY), and then what it shows stays.
///
/// A tree may be as deep as it likes.
pub fn remove_tree(root: &Path) -> io::Result<()> {
    let top = match open_to_list(CWD, root) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let mut moved = 0;
    // What was moved up is emptied by a further round; each is shallower by DEEPEST.
    loop {
        let before = moved;
        empty(top.as_fd(), top.as_fd(), 0, &mut moved)?;
        if moved == before {
            break;
        }
    }
    Ok(rustix::fs::unlinkat(CWD, root, AtFlags::REMOVEDIR)?)
}

pub(crate) fn open_to_list(
    base: impl AsFd,
    name: impl rustix::path::Arg,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(base, name, flags, Mode::empty())
}

fn empty(top: BorrowedFd, dir: BorrowedFd, depth: usize, moved: &mut u64) -> io::Result<()> {
    // Names first: what a list shows while entries go and come is not defined.
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    for name in names {
        match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            // A folder.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
        match rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        if depth >= DEEPEST {
            move_up(top, dir, &name, moved)?;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let child = rustix::fs::openat2(dir, &name, flags, Mode::empty(), how)?;
        empty(top, child.as_fd(), depth + 1, moved)?;
        drop(child);
        match rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Moves a folder to the top under a name that is free.
fn move_up(
    top: BorrowedFd,
    dir: BorrowedFd,
    name: &std::ffi::CStr,
    moved: &mut u64,
) -> io::Result<()> {
    loop {
        *moved += 1;
        let free = format!("..removed-{moved}");
        match rustix::fs::renameat_with(dir, name, top, &*free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
            Ok(()) => return Ok(()),
        }
    }
}

/// Bytes of a path after which a walk goes on from an open descriptor: the kernel takes 4096.
const LONGEST: usize = 3000;

/// Allocated bytes and inodes of a tree: no link is followed, no other mount entered, whatever
/// somebody puts in the place of what was listed; and nothing is too deep to count.
#[must_use]
pub fn usage(root: &Path) -> (u64, u64) {
    let mut total = (0, 0);
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(top) = open_to_list(CWD, root) else {
        return total;
    };
    count(&top, &mut total);
    let mut open = vec![(Rc::new(top), PathBuf::from("."))];
    // What vanishes meanwhile, or changed into something else, does not count.
    while let Some((base, sub)) = open.pop() {
        let Ok(dir) = rustix::fs::openat2(&*base, &sub, flags, Mode::empty(), how) else {
            continue;
        };
        let Ok(entries) = Dir::read_from(&dir) else {
            continue;
        };
        let dir = Rc::new(dir);
        for entry in entries.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(found) = rustix::fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            add(&found, &mut total);
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                let name = Path::new(OsStr::from_bytes(name.to_bytes()));
                open.push(if sub.as_os_str().len() > LONGEST {
                    (dir.clone(), name.to_owned())
                } else {
                    (base.clone(), sub.join(name))
                });
            }
        }
    }
    total
}

/// What a group may do with files that are given to it, and with folders.
const GROUP_FILE: u32 = 0o660;
const GROUP_FOLDER: u32 = 0o2770;

/// Gives a folder and all in it to a group, which may read and write it from now on; what is made
/// in its folders is the group's, too. No link is followed, no other mount entered, whatever
/// somebody puts in the place of what was listed. `unless_root_fits`: where the folder itself is
/// already as it should be, nothing below it is looked at. The folder itself comes last, so that
/// it says that all was done.
pub fn give_to_group(root: &Path, gid: u32, unless_root_fits: bool) -> io::Result<()> {
    let group = rustix::fs::Gid::from_raw(gid);
    let top = open_to_list(CWD, root)?;
    let now = rustix::fs::fstat(&top)?;
    let fits = now.st_gid == gid && now.st_mode & GROUP_FOLDER == GROUP_FOLDER;
    if unless_root_fits && fits {
        return Ok(());
    }
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = Rc::new(top);
    let mut open = vec![(top.clone(), PathBuf::from("."))];
    while let Some((base, sub)) = open.pop() {
        let dir = match rustix::fs::openat2(&*base, &sub, flags, Mode::empty(), how) {
            // It went, or became something else, meanwhile, or something is mounted there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
            other => Rc::new(other?),
        };
        for entry in Dir::read_from(&*dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = match rustix::fs::openat2(&*dir, name, path, Mode::empty(), how) {
                Ok(place) => place,
                Err(Errno::LOOP) => {
                    // A link: it has an owner, and no permissions.
                    let at = AtFlags::SYMLINK_NOFOLLOW;
                    rustix::fs::chownat(&*dir, name, None, Some(group), at)?;
                    continue;
                }
                Err(Errno::NOENT | Errno::XDEV) => continue,
                Err(e) => return Err(e.into()),
            };
            if !give_one(&place, group)? {
                continue;
            }
            let name = Path::new(OsStr::from_bytes(name.to_bytes()));
            open.push(if sub.as_os_str().len() > LONGEST {
                (dir.clone(), name.to_owned())
            } else {
                (base.clone(), sub.join(name))
            });
        }
    }
    give_one(&top, group)?;
    Ok(())
}

/// One file or folder; whether it is a folder.
fn give_one(place: &OwnedFd, group: rustix::fs::Gid) -> io::Result<bool> {
    let now = rustix::fs::fstat(place)?;
    let kind = FileType::from_raw_mode(now.st_mode);
    if kind == FileType::Symlink {
        rustix::fs::chownat(place, "", None, Some(group), AtFlags::EMPTY_PATH)?;
        return Ok(false);
    }
    let is_folder = kind == FileType::Directory;
    let more = if is_folder { GROUP_FOLDER } else { GROUP_FILE };
    if now.st_gid != group.as_raw() {
        rustix::fs::chownat(place, "", None, Some(group), AtFlags::EMPTY_PATH)?;
    }
    // A new owner takes setuid and setgid away: so the mode comes after it.
    let wanted = (now.st_mode & 0o7777) | more;
    let own = format!("/proc/self/fd/{}", place.as_raw_fd());
    rustix::fs::chmod(own, Mode::from_raw_mode(wanted))?;
    Ok(is_folder)
}

fn count(place: impl AsFd, total: &mut (u64, u64)) {
    if let Ok(found) = rustix::fs::fstat(place) {
        add(&found, total);
    }
}

fn add(found: &rustix::fs::Stat, total: &mut (u64, u64)) {
    total.0 += u64::try_from(found.st_blocks).unwrap_or(0) * 512;
    total.1 += 1;
}

#[cfg(test)]
mod tests;
