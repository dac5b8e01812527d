//! The copy of the binary that a cluster runs: the supervisor and all its children are one file, which a
//! new build beside it does not change.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;

use super::error::{UpError, file_error};
use crate::layout::Layout;

/// The installed copy of the running binary, and its second name as CNI plugin.
pub(super) fn install_binary(layout: &Layout) -> Result<(), UpError> {
    let own = std::env::current_exe().map_err(file_error(Path::new("/proc/self/exe")))?;
    let target = layout.binary();
    if is_copy(&own, &target) {
        return Ok(());
    }
    let beside = target.with_extension("new");
    fs::create_dir_all(layout.bin()).map_err(file_error(&target))?;
    let modified = fs::metadata(&own).and_then(|m| m.modified());
    fs::copy(&own, &beside)
        .and_then(|_| File::open(&beside)?.set_modified(modified?))
        .and_then(|()| fs::rename(&beside, &target))
        .map_err(file_error(&target))?;
    let plugin = layout.bin().join("tiphys-cni");
    match std::os::unix::fs::symlink("tiphys", &plugin) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(file_error(&plugin)(e)),
        _ => Ok(()),
    }
}

/// The same file, or a copy that [`install_binary`] made of it.
fn is_copy(own: &Path, target: &Path) -> bool {
    let look = |path| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.len(), meta.modified().ok()?))
    };
    look(own).is_some_and(|own| look(target) == Some(own))
}

/// Whether this process runs the copy.
pub(super) fn is_this_process(layout: &Layout) -> bool {
    let own = fs::read_link("/proc/self/exe").and_then(fs::canonicalize);
    own.is_ok_and(|own| fs::canonicalize(layout.binary()).is_ok_and(|copy| copy == own))
}

/// Goes on as the copy, with the same arguments; returns only where that fails.
pub(super) fn go_on_as_copy(layout: &Layout) -> Result<(), UpError> {
    let copy = layout.binary();
    let mut command = std::process::Command::new(&copy);
    let source = command.args(std::env::args_os().skip(1)).exec();
    Err(file_error(&copy)(source))
}
