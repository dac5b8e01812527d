//! What the kernel says from now on, record by record.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, SeekFrom};
use tokio::io::unix::AsyncFd;

use crate::kernel_call::waited_for;

const FILE: &str = "/dev/kmsg";
/// The kernel makes no longer ones, bytes.
const RECORD_BYTES: usize = 8192;

/// A reader of its own: none takes anything from another.
#[derive(Debug)]
pub struct KernelLog(AsyncFd<OwnedFd>);

impl KernelLog {
    /// From what is said next on.
    ///
    /// # Errors
    /// There is no such file, as in some containers, or it is not for this program.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(FILE, flags, Mode::empty())?;
        rustix::fs::seek(&file, SeekFrom::End(0))?;
        waited_for(file).map(Self)
    }

    /// The text of the next record.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn next(&self) -> io::Result<String> {
        let mut record = vec![0; RECORD_BYTES];
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|file| {
                rustix::io::read(file.as_fd(), &mut record[..]).map_err(io::Error::from)
            });
            let Ok(read) = read else { continue };
            match read {
                Ok(length) => return Ok(text(record.get(..length).unwrap_or_default())),
                // Some were overwritten before they were read; the next is the oldest that is left.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// A record's text, without what the kernel says before and after it.
fn text(record: &[u8]) -> String {
    let record = String::from_utf8_lossy(record);
    let (_, said) = record.split_once(';').unwrap_or_default();
    said.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_text_between_other_things() {
        let record = b"6,339,5140900,-;NET: Registered; all\n SUBSYSTEM=net\n";
        assert_eq!(text(record), "NET: Registered; all");
        assert_eq!(text(b""), "");
    }
}
