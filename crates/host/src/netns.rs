//! Network namespaces: opening them, making them, and running code in them.
//!
//! A thread that has entered a namespace never returns to a pool: each piece of work gets its own
//! thread, which ends with it. Sockets opened there stay in the namespace wherever they are used.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// An open network namespace; it lives at least as long as this.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// The namespace behind a path such as /proc/42/ns/net or /run/netns/name.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::open(path)?.into()))
    }

    /// The namespace of a process.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        Self::open(&Path::new("/proc").join(pid.to_string()).join("ns/net"))
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// A new namespace without a name: it vanishes when nothing refers to it any more.
    pub fn anonymous() -> io::Result<Self> {
        on_thread(|| {
            leave()?;
            Self::current()
        })?
    }

    /// A new namespace that a file keeps until [`remove`] is called for it.
    pub fn create(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        File::options().write(true).create_new(true).open(path)?;
        let made = on_thread(|| {
            leave()?;
            rustix::mount::mount_bind("/proc/thread-self/ns/net", path)?;
            Self::current()
        })?;
        if made.is_err() {
            let _ = std::fs::remove_file(path);
        }
        made
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })?
    }

    /// Runs asynchronous work on a thread and a runtime of its own inside the namespace.
    pub fn run_async<T, F>(&self, work: impl FnOnce() -> F + Send) -> io::Result<T>
    where
        T: Send,
        F: Future<Output = T>,
    {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(work()))
        })?
    }

    /// Whether both are the same namespace.
    pub fn is_same(&self, other: &Self) -> io::Result<bool> {
        let identity = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|s| (s.st_dev, s.st_ino));
        Ok(identity(&self.0)? == identity(&other.0)?)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Removes the file that keeps a namespace; one that is gone is not an error.
pub fn remove(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "only a thread enters a namespace; it is waited for at once"
)]
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)?;
        thread
            .join()
            .map_err(|_| io::Error::other("the thread in the network namespace panicked"))
    })
}

/// Puts the calling thread into a new network namespace.
#[expect(
    unsafe_code,
    reason = "unshare can break threads that share file tables; this flag does not"
)]
fn leave() -> io::Result<()> {
    // SAFETY: rustix marks this unsafe for CLONE_FILES, which would leave this thread with other
    // file descriptors than those that it borrowed; only CLONE_NEWNET is given.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)? };
    Ok(())
}
