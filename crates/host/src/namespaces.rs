//! New namespaces for a node on this machine: network, mounts, PIDs, host name and IPC.

use rustix::thread::UnshareFlags;

/// Leaves the calling thread's namespaces for new ones; the next child it starts is PID 1 of the
/// new PID namespace. Needs root. The caller's own PID namespace stays.
#[expect(
    unsafe_code,
    reason = "unshare can break threads that share file tables; these flags share none"
)]
pub fn unshare_node() -> std::io::Result<()> {
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC;
    // SAFETY: rustix marks this unsafe for CLONE_FILES, which would give this thread its own
    // file descriptors while others hold borrowed ones; that flag is not among these.
    unsafe { rustix::thread::unshare_unsafe(flags)? };
    Ok(())
}
