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

/// Whether the kernel has IPv6, in the network namespace of the calling thread.
pub fn has_ipv6() -> bool {
    path("net/ipv6/conf/all").exists()
}

/// Makes this host a router for IPv6. One that forwards heeds no other routers unless a link is set
/// to: links that did so keep on.
pub fn forward_ipv6() -> io::Result<()> {
    const FORWARDING: &str = "net/ipv6/conf/all/forwarding";
    if get(FORWARDING)? == "1" {
        return Ok(());
    }
    for link in std::fs::read_dir(path("net/ipv6/conf"))? {
        let name = link?.file_name().to_string_lossy().into_owned();
        // Links to come are no links to routers yet.
        if matches!(name.as_str(), "all" | "default") {
            continue;
        }
        let parameter = format!("net/ipv6/conf/{name}/accept_ra");
        // A link that vanishes meanwhile needs nothing.
        if get(&parameter).is_ok_and(|value| value == "1") {
            set(&parameter, "2")?;
        }
    }
    set(FORWARDING, "1").map(|_| ())
}

fn path(name: &str) -> PathBuf {
    let relative = if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    };
    PathBuf::from("/proc/sys").join(relative)
}
