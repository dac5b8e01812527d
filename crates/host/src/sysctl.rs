//! Kernel parameters under /proc/sys, of the network namespace of the calling thread.

use std::io;
use std::path::PathBuf;

/// Reads a parameter such as `net.ipv4.ip_forward`, without its line end.
///
/// Slashes may stand for the dots, which is needed when an interface's name has a dot.
pub fn get(name: &str) -> io::Result<String> {
    std::fs::read_to_string(path(name)).map(|text| text.trim_end().to_owned())
}

/// Writes a parameter unless it has the value already, so that a read-only /proc/sys is not
/// an obstacle where nothing has to change. Says whether it was changed.
pub fn set(name: &str, value: &str) -> io::Result<bool> {
    if get(name).is_ok_and(|current| current == value) {
        return Ok(false);
    }
    std::fs::write(path(name), value)?;
    Ok(true)
}

fn path(name: &str) -> PathBuf {
    let relative = if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    };
    PathBuf::from("/proc/sys").join(relative)
}
