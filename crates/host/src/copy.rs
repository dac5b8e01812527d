//! Copies of folders with all that is in them, which others may change at the same time: file by
//! file, so what is written meanwhile is in the copy or not. Where the file system can, a file shares
//! its blocks with its copy until one of both is written, and costs no room before.
//!
//! Of what is copied no link is followed and no other mount is entered, whatever somebody puts in the
//! place of what was listed. The copy itself must be nobody else's until it is complete.

use crate::open_beneath::{open_to_list, to_read};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a copy is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Ordinary files.
    pub files: u64,
    /// Those of them that share their blocks with the original.
    pub shared: u64,
    /// Sockets and devices, which mean nothing in a copy.
    pub left_out: u64,
}

const WITHIN: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
const LIST: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The most bytes that names of extended attributes, or one of their values, can have: the kernel's
/// bound for both.
const MOST_ATTRIBUTES: usize = 64 << 10;

/// The access control lists that new files and folders get of the folder that they are made in.
const ACCESS_LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Copies what is in `source` into `target`, a folder that is there and empty, and waits until it is
/// on the disk.
///
/// # Errors
/// Such as that there is no room. What was copied until then stays.
pub fn tree(source: &Path, target: &Path) -> io::Result<Copied> {
    let top = open_to_list(CWD, source)?;
    let mut copying = Copying {
        target,
        done: Copied::default(),
        links: HashMap::new(),
    };
    let mut open = vec![PathBuf::from(".")];
    while let Some(sub) = open.pop() {
        let how = WITHIN | ResolveFlags::NO_SYMLINKS;
        let dir = match rustix::fs::openat2(&top, &sub, LIST, Mode::empty(), how) {
            Err(e) if is_another(e) => continue,
            other => other?,
        };
        alike(&dir, open_to_list(CWD, target.join(&sub))?)?;
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let name = OsStr::from_bytes(name);
            if copying.one(&dir, &sub, name)? {
                open.push(sub.join(name));
            }
        }
    }
    rustix::fs::syncfs(File::open(target)?)?;
    Ok(copying.done)
}

/// It went meanwhile, became something else, or something is mounted there.
fn is_another(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
}

struct Copying<'a> {
    target: &'a Path,
    done: Copied,
    /// Where the copy of a file is that has several names, by its device and number.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copying<'_> {
    /// Copies what a folder has by a name; whether that is a folder, whose content is still to come.
    fn one(&mut self, dir: &OwnedFd, sub: &Path, name: &OsStr) -> io::Result<bool> {
        let place = match rustix::fs::openat2(dir, name, PLACE, Mode::empty(), WITHIN) {
            Err(e) if is_another(e) => return Ok(false),
            other => other?,
        };
        let now = rustix::fs::fstat(&place)?;
        let at = self.target.join(sub).join(name);
        match FileType::from_raw_mode(now.st_mode) {
            FileType::Directory => {
                std::fs::DirBuilder::new().mode(0o700).create(&at)?;
                return Ok(true);
            }
            FileType::RegularFile => {
                let id = (now.st_dev, now.st_ino);
                if let Some(first) = self.links.get(&id) {
                    std::fs::hard_link(first, &at)?;
                    return Ok(false);
                }
                self.done.files += 1;
                self.done.shared += u64::from(file(&to_read(&place)?, &at)?);
                if now.st_nlink > 1 {
                    self.links.insert(id, at);
                }
            }
            FileType::Symlink => {
                let to = rustix::fs::readlinkat(&place, "", Vec::<u8>::new())?;
                std::os::unix::fs::symlink(OsStr::from_bytes(to.to_bytes()), &at)?;
                std::os::unix::fs::lchown(&at, Some(now.st_uid), Some(now.st_gid))?;
            }
            FileType::Fifo => {
                let private = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(CWD, &at, FileType::Fifo, private, 0)?;
                std::os::unix::fs::lchown(&at, Some(now.st_uid), Some(now.st_gid))?;
                std::fs::set_permissions(&at, Permissions::from_mode(now.st_mode & 0o7777))?;
            }
            _ => self.done.left_out += 1,
        }
        Ok(false)
    }
}

/// Copies an ordinary file; whether it shares its blocks.
fn file(from: &File, at: &Path) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    let to = options.write(true).create_new(true).mode(0o600).open(at)?;
    let shares = rustix::fs::ioctl_ficlone(&to, from).is_ok();
    if !shares {
        contents(from, &to)?;
    }
    alike(from, &to)?;
    let times = FileTimes::new().set_modified(from.metadata()?.modified()?);
    to.set_times(times)?;
    Ok(shares)
}

/// Copies bytes; holes stay holes.
fn contents(from: &File, to: &File) -> io::Result<()> {
    let length = from.metadata()?.len();
    let mut at = 0;
    while at < length {
        let begin = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            // It does not know where its holes are.
            Err(_) => at,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(begin)).unwrap_or(length);
        if end <= begin {
            // It became shorter meanwhile.
            break;
        }
        rustix::fs::seek(from, SeekFrom::Start(begin))?;
        rustix::fs::seek(to, SeekFrom::Start(begin))?;
        let mut writer = to;
        io::copy(&mut Read::take(from, end - begin), &mut writer)?;
        at = end;
    }
    to.set_len(length)
}

/// Gives a copy the original's owner, extended attributes (access control lists among them) and
/// permissions, in this order: each takes something of the next away.
fn alike(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let now = rustix::fs::fstat(&from)?;
    let owner = rustix::fs::Uid::from_raw(now.st_uid);
    let group = rustix::fs::Gid::from_raw(now.st_gid);
    rustix::fs::fchown(&to, Some(owner), Some(group))?;
    attributes(&from, &to)?;
    let mode = Mode::from_raw_mode(now.st_mode & 0o7777);
    Ok(rustix::fs::fchmod(&to, mode)?)
}

fn attributes(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    // A new file has what its folder hands down, which the original may not have.
    for inherited in ACCESS_LISTS {
        match rustix::fs::fremovexattr(&to, inherited) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let mut names = vec![0_u8; MOST_ATTRIBUTES];
    let length = match rustix::fs::flistxattr(&from, names.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    if length == 0 {
        return Ok(());
    }
    let mut value = vec![0_u8; MOST_ATTRIBUTES];
    let names = names.get(..length).unwrap_or_default();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let length = match rustix::fs::fgetxattr(&from, name, value.as_mut_slice()) {
            // It went meanwhile.
            Err(Errno::NODATA) => continue,
            other => other?,
        };
        let value = value.get(..length).unwrap_or_default();
        match rustix::fs::fsetxattr(&to, name, value, XattrFlags::empty()) {
            // Another file system, which does not have this kind.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_copy_has_all_that_its_original_has() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("a/file"), "text").unwrap();
        std::fs::set_permissions(from.join("a/file"), Permissions::from_mode(0o640)).unwrap();
        std::fs::hard_link(from.join("a/file"), from.join("a/b/again")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", from.join("a/out")).unwrap();
        std::fs::set_permissions(&from, Permissions::from_mode(0o2770)).unwrap();
        let pipe = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, from.join("pipe"), FileType::Fifo, pipe, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
        // Large, and nearly all of it a hole.
        let large = File::create(from.join("large")).unwrap();
        std::os::unix::fs::FileExt::write_at(&large, b"end", 64 << 20).unwrap();

        let done = tree(&from, &to).unwrap();
        assert_eq!((done.files, done.left_out), (2, 1), "{done:?}");
        assert_eq!(std::fs::read(to.join("a/b/again")).unwrap(), b"text");
        let meta = |path: &str| std::fs::symlink_metadata(to.join(path)).unwrap();
        assert_eq!(meta("a/file").mode() & 0o7777, 0o640);
        assert_eq!(meta("a/file").ino(), meta("a/b/again").ino());
        assert_eq!(
            meta("a/file").modified().unwrap(),
            from.join("a/file").metadata().unwrap().modified().unwrap()
        );
        // The link is a link, and what it leads to was not read.
        let out = std::fs::read_link(to.join("a/out")).unwrap();
        assert_eq!(out, Path::new("/etc/passwd"));
        assert_eq!(std::fs::metadata(&to).unwrap().mode() & 0o7777, 0o2770);
        let kind = std::fs::symlink_metadata(to.join("pipe")).unwrap().mode() & 0o170_000;
        assert_eq!(kind, 0o010_000);
        assert!(!to.join("socket").exists());
        let copy = meta("large");
        assert_eq!(copy.len(), (64 << 20) + 3);
        assert!(copy.blocks() * 512 < 1 << 20, "{} blocks", copy.blocks());
    }

    #[test]
    fn a_copy_hands_nobody_rights_that_its_original_does_not() {
        // Its owner, the user 1234, its group, the most of both, all others.
        let rights: [(u16, u16, u32); 5] = [
            (1, 7, u32::MAX),
            (2, 7, 1234),
            (4, 5, u32::MAX),
            (0x10, 7, u32::MAX),
            (0x20, 5, u32::MAX),
        ];
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (whose, which, id) in rights {
            list.extend(whose.to_le_bytes());
            list.extend(which.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("a")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("a/older"), "text").unwrap();
        let [access, default] = ACCESS_LISTS;
        rustix::fs::setxattr(from.join("a"), default, &list, XattrFlags::empty()).unwrap();
        tree(&from, &to).unwrap();
        let mut found = [0_u8; 100];
        let length = rustix::fs::getxattr(to.join("a"), default, found.as_mut_slice()).unwrap();
        assert_eq!(found[..length], list);
        let of_file = rustix::fs::getxattr(to.join("a/older"), access, found.as_mut_slice());
        assert_eq!(of_file, Err(Errno::NODATA));
    }

    #[test]
    fn a_copy_is_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("file"), "before").unwrap();
        tree(&from, &to).unwrap();
        std::fs::write(from.join("file"), "after").unwrap();
        assert_eq!(std::fs::read(to.join("file")).unwrap(), b"before");
        // A copy is made once: never on top of another.
        assert!(tree(&from, &to).is_err());
    }
}
