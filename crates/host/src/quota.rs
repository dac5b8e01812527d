//! Project quotas: what a folder with all that comes to be in it may take of its file system, which
//! enforces that. ext4 and xfs have them, where they are mounted so (`prjquota`). What cannot be
//! enforced is said, never pretended.
//!
//! Which project a folder has is on the disk, so nothing has to be remembered. A project is for one
//! folder alone: only those that its name leads to are its own. Whoever owns a folder as root can give
//! it the project of another one, whose limit is not to be changed then.

use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::kernel_call::outcome;

/// `struct fsxattr` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    pad: [u8; 8],
}

/// What is made in the folder is of its project.
const INHERITED: u32 = 0x200;

const GET_ATTRIBUTES: Opcode = opcode::read::<Attributes>(b'X', 31);
const SET_ATTRIBUTES: Opcode = opcode::write::<Attributes>(b'X', 32);

/// Commands of `quotactl`, each about projects.
const GET: u32 = about_projects(0x0080_0007);
const SET: u32 = about_projects(0x0080_0008);
const STATE: u32 = about_projects(((b'X' as u32) << 8) + 8);

const fn about_projects(command: u32) -> u32 {
    const PROJECTS: u32 = 2;
    (command << 8) | PROJECTS
}

/// The size of the blocks in which limits are given, whatever the file system's are.
const BLOCK: u64 = 1024;

/// Projects of ours are of the upper half of what is possible: administrators count from below.
const FIRST: u32 = 1 << 30;
/// Projects that are tried until one is free.
const TRIES: u32 = 64;

/// Whether the file system of a folder holds projects to their limits.
#[must_use]
pub fn is_enforced(folder: &Path) -> bool {
    let Ok(folder) = File::open(folder) else {
        return false;
    };
    // `struct fs_quota_statv`: its version, a byte, its flags, and more than is of interest.
    #[repr(C, align(8))]
    struct State([u8; 512]);
    /// Limits of projects are enforced.
    const ENFORCED: u16 = 1 << 5;
    let mut state = State([0; 512]);
    state.0[0] = 1;
    let done = call(&folder, STATE, 0, (&raw mut state).cast());
    done.is_ok() && u16::from_ne_bytes([state.0[2], state.0[3]]) & ENFORCED != 0
}

/// Limits what may be in a folder, in bytes; it must be empty where it has no limit yet, since what
/// is there is of no project of its own. `name` is where the search for a free project begins.
///
/// # Errors
/// Such as that the file system has no quotas, or that the folder is not empty and has none.
pub fn limit(folder: &Path, name: &str, bytes: u64) -> io::Result<()> {
    let opened = File::open(folder)?;
    let project = match own_project(attributes(&opened)?, name) {
        Some(project) => project,
        None => {
            if std::fs::read_dir(folder)?.next().is_some() {
                let why = "what is in the folder came before its limit";
                return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, why));
            }
            give_project(&opened, name)?
        }
    };
    set_limit(&opened, project, bytes)
}

/// Takes a folder's limit away, before the folder goes: the project is free then. `name` as of [`limit`].
///
/// # Errors
/// What the kernel answers. A folder that is not there, or has no limit of its own, is fine.
pub fn unlimit(folder: &Path, name: &str) -> io::Result<()> {
    let opened = match File::open(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    // Where folders have no projects, there is no limit.
    let own = attributes(&opened).ok();
    match own.and_then(|own| own_project(own, name)) {
        Some(project) => set_limit(&opened, project, 0),
        None => Ok(()),
    }
}

/// The project that a folder has for itself: one of those that its name leads to.
fn own_project(own: Attributes, name: &str) -> Option<u32> {
    let is_inherited = own.flags & INHERITED != 0;
    let mut possible = candidates(name);
    (is_inherited && possible.any(|project| project == own.project)).then_some(own.project)
}

/// Gives a folder a project that nobody has.
fn give_project(folder: &File, name: &str) -> io::Result<u32> {
    let mut all = candidates(name);
    let free = all.find_map(|project| match is_free(folder, project) {
        Ok(true) => Some(Ok(project)),
        Ok(false) => None,
        Err(e) => Some(Err(e)),
    });
    let none = || io::Error::other("no project is free for the folder");
    let project = free.ok_or_else(none)??;
    let mut own = attributes(folder)?;
    own.project = project;
    own.flags |= INHERITED;
    set_attributes(folder, own)?;
    Ok(project)
}

/// Where a name's project is looked for. Several nodes may have one file system: their volumes have
/// other names.
fn candidates(name: &str) -> impl Iterator<Item = u32> {
    // FNV-1a.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (0..TRIES).map(move |n| FIRST | (hash.wrapping_add(n) & (FIRST - 1)))
}

/// Whether a project has neither a limit nor anything.
fn is_free(folder: &File, project: u32) -> io::Result<bool> {
    let mut quota = empty();
    match call(folder, GET, project, (&raw mut quota).cast()) {
        Ok(()) => {
            Ok(quota.dqb_bhardlimit == 0 && quota.dqb_curspace == 0 && quota.dqb_curinodes == 0)
        }
        Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => Ok(true),
        Err(e) => Err(e),
    }
}

fn set_limit(folder: &File, project: u32, bytes: u64) -> io::Result<()> {
    let mut quota = empty();
    quota.dqb_bhardlimit = bytes.div_ceil(BLOCK);
    quota.dqb_valid = libc::QIF_BLIMITS;
    call(folder, SET, project, (&raw mut quota).cast())
}

fn empty() -> libc::dqblk {
    libc::dqblk {
        dqb_bhardlimit: 0,
        dqb_bsoftlimit: 0,
        dqb_curspace: 0,
        dqb_ihardlimit: 0,
        dqb_isoftlimit: 0,
        dqb_curinodes: 0,
        dqb_btime: 0,
        dqb_itime: 0,
        dqb_valid: 0,
    }
}

#[expect(unsafe_code, reason = "rustix has no attributes of xfs' kind")]
fn attributes(folder: &File) -> io::Result<Attributes> {
    // SAFETY: the code is of a call that writes one whole structure of this type, of which any bytes
    // are a value.
    let found = unsafe { ioctl(folder, Getter::<GET_ATTRIBUTES, Attributes>::new()) };
    Ok(found?)
}

#[expect(unsafe_code, reason = "rustix has no attributes of xfs' kind")]
fn set_attributes(folder: &File, attributes: Attributes) -> io::Result<()> {
    // SAFETY: the code is of a call that reads one whole structure of this type.
    let done = unsafe {
        let set = Setter::<SET_ATTRIBUTES, Attributes>::new(attributes);
        ioctl(folder, set)
    };
    Ok(done?)
}

#[expect(unsafe_code, reason = "neither rustix nor libc has this call")]
fn call(folder: &File, command: u32, project: u32, place: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: each caller passes a pointer to a whole value of its own, of what its command reads or
    // writes and no smaller, which lives longer than the call.
    let failed = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            folder.as_raw_fd(),
            command,
            project,
            place,
        )
    };
    outcome(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structures_have_their_sizes() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<libc::dqblk>(), 72);
        // As the kernel's headers have them.
        assert_eq!((GET, SET, STATE), (0x8000_0702, 0x8000_0802, 0x0058_0802));
    }

    #[test]
    fn a_name_has_projects_of_its_own() {
        let one: Vec<u32> = candidates("pvc-1").collect();
        assert_eq!(one.len(), 64);
        assert!(one.iter().all(|p| *p >= FIRST && *p < FIRST << 1));
        assert_eq!(one, candidates("pvc-1").collect::<Vec<_>>());
        assert_ne!(one.first().copied(), candidates("pvc-2").next());
    }

    #[test]
    fn what_cannot_be_enforced_is_said() {
        // No file system of the kernel's own has projects.
        let folder = Path::new("/proc/self");
        assert!(!is_enforced(folder));
        assert!(limit(folder, "pvc-1", 1 << 20).is_err());
        unlimit(folder, "pvc-1").unwrap();
        unlimit(Path::new("/none/such"), "pvc-1").unwrap();
    }

    #[test]
    fn a_project_of_another_folder_is_not_its_own() {
        let with = |project, flags| Attributes {
            project,
            flags,
            ..Attributes::default()
        };
        let mine = candidates("pvc-1").nth(3).unwrap();
        assert_eq!(own_project(with(mine, INHERITED), "pvc-1"), Some(mine));
        // Somebody gave the folder this project, or an administrator has one around all of them.
        assert_eq!(own_project(with(mine, INHERITED), "pvc-2"), None);
        for (project, flags) in [(0, INHERITED), (42, INHERITED), (mine, 0)] {
            assert_eq!(own_project(with(project, flags), "pvc-1"), None);
        }
    }
}
