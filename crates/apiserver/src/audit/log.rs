//! The log back end: one line of JSON for each event, in a file that is rotated by its size, or on
//! standard output.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clock::Clock;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::sink::{self, Entry, Losses};

/// So long events are gathered where nobody waits for them: one write for all of them.
const GATHER: Duration = Duration::from_millis(100);
/// Events that are written at once; they are in memory anyway.
const AT_ONCE: usize = 4096;
const MIB: u64 = 1 << 20;

/// How long files are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A file that would become larger is put aside; in MiB, 0 for never.
    pub max_size_mib: u64,
    /// Files that were put aside, and are kept; 0 for all.
    pub max_backups: usize,
    /// Days after which they are removed; 0 for never.
    pub max_age_days: i64,
}

/// Where lines go.
pub struct LogFile(LogSink);

enum LogSink {
    StandardOutput,
    File(Rotated),
}

struct Rotated {
    path: PathBuf,
    rotation: Rotation,
    clock: Clock,
    file: File,
    size: u64,
}

impl LogFile {
    /// Opens a file to append to; `-` is standard output.
    pub fn open(path: &Path, rotation: Rotation, clock: Clock) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self(LogSink::StandardOutput));
        }
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let file = append(path)?;
        let rotated = Rotated {
            size: file.metadata()?.len(),
            path: path.to_owned(),
            rotation,
            clock,
            file,
        };
        rotated.tidy();
        Ok(Self(LogSink::File(rotated)))
    }

    /// Writes lines, each with an end; how many have arrived, and what went wrong with the others.
    fn write<'a>(&mut self, lines: impl Iterator<Item = &'a [u8]>) -> (usize, Option<io::Error>) {
        let (mut arrived, mut buffer, mut in_buffer) = (0, Vec::new(), 0);
        for line in lines {
            if let LogSink::File(file) = &mut self.0
                && file.is_full(buffer.len() as u64, line.len() as u64 + 1)
            {
                if let Err(e) = file.put(&buffer) {
                    return (arrived, Some(e));
                }
                arrived += in_buffer;
                (buffer, in_buffer) = (Vec::new(), 0);
                file.rotate();
            }
            buffer.extend_from_slice(line);
            buffer.push(b'\n');
            in_buffer += 1;
        }
        let done = match &mut self.0 {
            LogSink::File(file) => file.put(&buffer),
            LogSink::StandardOutput => {
                let mut out = io::stdout().lock();
                out.write_all(&buffer).and_then(|()| out.flush())
            }
        };
        match done {
            Ok(()) => (arrived + in_buffer, None),
            Err(e) => (arrived, Some(e)),
        }
    }
}

/// For its owner alone: an audit log says much of a cluster.
fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

impl Rotated {
    /// Whether so many bytes more, after those that wait to be written, would be too much for the
    /// file. One that is empty takes all.
    fn is_full(&self, waiting: u64, more: u64) -> bool {
        let most = self.rotation.max_size_mib.saturating_mul(MIB);
        let size = self.size + waiting;
        most > 0 && size > 0 && size + more > most
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Puts the file aside and begins a new one. When that cannot be, the file grows.
    fn rotate(&mut self) {
        let aside = self.aside(self.clock.now());
        let done = fs::rename(&self.path, &aside).and_then(|()| append(&self.path));
        match done {
            Ok(file) => (self.file, self.size) = (file, 0),
            Err(e) => tracing::error!("audit: rotating {}: {e}", self.path.display()),
        }
        self.tidy();
    }

    /// `audit-2026-11-29T02-00-00.000.log` of `audit.log`, as upstream names them.
    fn aside(&self, now: Timestamp) -> PathBuf {
        let (stem, extension) = self.names();
        let time = now.to_string();
        let seconds = time.get(..19).unwrap_or(&time).replace(':', "-");
        let millis = now.as_millisecond().rem_euclid(1000);
        self.path
            .with_file_name(format!("{stem}-{seconds}.{millis:03}{extension}"))
    }

    fn names(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| {
            let text = part.map(|t| t.to_string_lossy().into_owned());
            text.unwrap_or_default()
        };
        let extension = match self.path.extension() {
            None => String::new(),
            extension => format!(".{}", text(extension)),
        };
        (text(self.path.file_stem()), extension)
    }

    /// The files that were put aside, the newest first, with when that was.
    fn put_aside(&self) -> io::Result<Vec<(Timestamp, PathBuf)>> {
        let (stem, extension) = self.names();
        let time_of = |name: &str| {
            let time = name.strip_prefix(&stem)?.strip_prefix('-')?;
            let time = time.strip_suffix(&extension)?;
            let (day, clock) = time.split_once('T')?;
            let text = format!("{day}T{}Z", clock.replace('-', ":"));
            text.parse::<Timestamp>().ok()
        };
        let folder = self.path.parent().filter(|f| !f.as_os_str().is_empty());
        let mut all: Vec<(Timestamp, PathBuf)> = Vec::new();
        for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
            let entry = entry?;
            let time = time_of(&entry.file_name().to_string_lossy());
            all.extend(time.map(|time| (time, entry.path())));
        }
        all.sort_by(|a, b| b.cmp(a));
        Ok(all)
    }

    /// Removes what is too old, or too many.
    fn tidy(&self) {
        let (most, days) = (self.rotation.max_backups, self.rotation.max_age_days);
        let age = SignedDuration::from_hours(days.saturating_mul(24));
        let oldest = (days > 0)
            .then(|| self.clock.now().checked_sub(age).ok())
            .flatten();
        let all = self.put_aside().unwrap_or_else(|e| {
            let path = self.path.display();
            tracing::error!(
                "audit: listing the files beside {path}, of which none is removed: {e}"
            );
            Vec::new()
        });
        for (nth, (time, path)) in all.into_iter().enumerate() {
            let too_many = most > 0 && nth >= most;
            if (too_many || oldest.is_some_and(|oldest| time < oldest))
                && let Err(e) = fs::remove_file(&path)
            {
                tracing::error!("audit: removing {}: {e}", path.display());
            }
        }
    }
}

/// Writes what comes, until the queue is closed and empty.
pub async fn keep(
    file: LogFile,
    mut queue: mpsc::Receiver<Entry>,
    losses: Losses,
    closing: CancellationToken,
) {
    let file = Arc::new(Mutex::new(file));
    let mut entries = Vec::new();
    while sink::next(&mut queue, &mut entries, AT_ONCE, &closing).await > 0 {
        if entries.iter().all(|e| e.told.is_none()) && !queue.is_closed() {
            tokio::time::sleep(GATHER).await;
            while entries.len() < AT_ONCE {
                match queue.try_recv() {
                    Ok(entry) => entries.push(entry),
                    Err(_) => break,
                }
            }
        }
        let (file, batch) = (file.clone(), std::mem::take(&mut entries));
        let count = batch.len() as u64;
        let work = move || {
            let (arrived, error) = file.lock().write(batch.iter().map(|e| &*e.line));
            (batch, arrived, error)
        };
        #[expect(clippy::disallowed_methods, reason = "a file")]
        let done = tokio::task::spawn_blocking(work).await;
        let (mut batch, arrived, error) = match done {
            Ok(done) => done,
            // Who waits for one of them hears it, since it is dropped.
            Err(e) => {
                losses.count("log", count, &format!("writing the audit log: {e}"));
                continue;
            }
        };
        if let Some(e) = error {
            let lost = (batch.len() - arrived) as u64;
            losses.count("log", lost, &format!("writing the audit log: {e}"));
        }
        for (nth, entry) in batch.iter_mut().enumerate() {
            entry.settle(nth < arrived);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(max_backups: usize, max_age_days: i64) -> Rotation {
        Rotation {
            max_size_mib: 1,
            max_backups,
            max_age_days,
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let all = fs::read_dir(folder).expect("folder");
        let mut all: Vec<String> = all
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_full_file_is_put_aside_and_only_so_many_are_kept() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("log/audit.log");
        fs::create_dir_all(dir.path().join("log")).expect("folder");
        let clock = Clock::read_by(|| "2026-11-29T02:00:00.5Z".parse().expect("time"));
        for old in ["2026-11-28T00-00-00.000", "2026-11-20T00-00-00.000"] {
            fs::write(path.with_file_name(format!("audit-{old}.log")), "old").expect("file");
        }
        fs::write(path.with_file_name("audit-notes.log"), "mine").expect("file");
        // The one that is too old goes at once.
        let mut log = LogFile::open(&path, rotation(1, 7), clock).expect("open");
        let folder = path.parent().expect("folder");
        let first = [
            "audit-2026-11-28T00-00-00.000.log",
            "audit-notes.log",
            "audit.log",
        ];
        assert_eq!(names(folder), first);
        let line = vec![b'x'; 600 << 10];
        let (arrived, error) = log.write([&*line, &*line, b"end"].into_iter());
        assert!(error.is_none());
        assert_eq!(arrived, 3);
        // The one before is one too many now.
        let then = [
            "audit-2026-11-29T02-00-00.500.log",
            "audit-notes.log",
            "audit.log",
        ];
        assert_eq!(names(folder), then);
        let length = |name: &str| fs::metadata(folder.join(name)).expect("file").len();
        assert_eq!(length(then[0]), (600 << 10) + 1);
        assert_eq!(length("audit.log"), (600 << 10) + 1 + 4);
        // It goes on where it ended.
        drop(log);
        let mut log = LogFile::open(&path, rotation(0, 0), clock).expect("open");
        log.write([&b"more"[..]].into_iter());
        assert!(fs::read(&path).expect("file").ends_with(b"\nend\nmore\n"));
    }

    #[test]
    fn a_folder_that_cannot_be_listed_is_not_empty() {
        let dir = tempfile::tempdir().expect("dir");
        let plain = dir.path().join("plain");
        let log = Rotated {
            file: append(&plain).expect("file"),
            path: plain.join("audit.log"),
            rotation: rotation(1, 1),
            clock: Clock::read_by(|| "2026-11-29T02:00:00Z".parse().expect("time")),
            size: 0,
        };
        assert!(log.put_aside().is_err());
        log.tidy();
    }

    #[test]
    fn nobody_else_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("audit.log");
        #[expect(clippy::disallowed_methods, reason = "a test of files")]
        LogFile::open(&path, rotation(0, 0), Clock::system()).expect("open");
        let mode = fs::metadata(&path).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
