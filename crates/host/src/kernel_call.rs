//! What files that call the kernel by themselves share: what a call came to, and waiting for a
//! descriptor.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Zero is success; else the thread's last error says why. To be asked right after the call.
pub(crate) fn outcome(returned: impl Into<i64>) -> io::Result<()> {
    match returned.into() {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor that is waited for in the runtime.
///
/// # Errors
/// It cannot be waited for.
#[expect(
    unsafe_code,
    reason = "tokio relies on the descriptor staying the same"
)]
pub(crate) fn waited_for(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is the same and open until it is dropped, which is after its
    // registration.
    let registered = unsafe { AsyncFd::register(socket) };
    registered.map_err(|error| error.into_parts().1)
}
