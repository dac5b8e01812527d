//! Signals as values that are waited for: PID 1 of a container ignores those that it has not
//! asked for, and a handler would be code that runs at any moment.

use std::io;
use std::mem::MaybeUninit;

/// TERM, INT and CHLD, held back until they are waited for.
pub struct Signals(libc::sigset_t);

/// What has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// TERM or INT.
    End,
    /// A child has ended, or several.
    Child,
}

#[expect(
    unsafe_code,
    reason = "signal sets are C structures, filled by the C library"
)]
impl Signals {
    /// Holds them back in this thread and those that it starts later.
    ///
    /// # Errors
    /// None that the kernel documents for these arguments.
    pub fn hold() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set, the others get pointers to it; the former mask
        // is not asked for.
        let (set, failed) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD] {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            let set = set.assume_init();
            (
                set,
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()),
            )
        };
        match failed {
            0 => Ok(Self(set)),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    /// Sleeps until one of them comes.
    ///
    /// # Errors
    /// None that the kernel documents for these signals.
    pub fn wait(&self) -> io::Result<Signal> {
        let mut number = 0;
        // SAFETY: both pointers are to values that live longer than the call.
        match unsafe { libc::sigwait(&raw const self.0, &raw mut number) } {
            0 if number == libc::SIGCHLD => Ok(Signal::Child),
            0 => Ok(Signal::End),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}
