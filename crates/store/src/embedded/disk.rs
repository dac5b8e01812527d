//! The segments of the log, `log-<first revision>`: magic, then frames. Opening rebuilds the state
//! from the newest snapshot (`snapshot.rs`) and the segments behind it. A torn tail is cut off;
//! all other damage, and whatever is missing, is an error that names the place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::fault::{Fault, Faults, Point};
use super::{record, snapshot};
use crate::contract::{Result, Revision, StoreError};
use crate::frame::{self, HEAD};
use crate::state::{History, State};
use crate::transaction::{Logged, batch_of};

const LOG_MAGIC: &[u8; 8] = b"TPHLOG\x00\x01";

pub fn io_error(what: &str, path: &Path, e: &io::Error) -> StoreError {
    let text = format!("{what} {}: {e}", path.display());
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace(text),
        _ => StoreError::Unavailable(text),
    }
}

pub fn corrupt(path: &Path, offset: usize, why: &str) -> StoreError {
    StoreError::Corrupt(format!("{} at offset {offset}: {why}", path.display()))
}

/// The log's last segment, open for appending.
pub struct Log {
    dir: PathBuf,
    file: File,
    path: PathBuf,
    /// Where the next frame goes.
    end: u64,
    /// Of the newest snapshot.
    snapshot_bytes: Arc<AtomicU64>,
    /// Held as long as the store is open.
    _lock: Lock,
    faults: Faults,
}

pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| io_error("syncing", dir, &e))
}

/// What the files of the store take, of which there are few: segments and snapshots.
pub fn bytes(dir: &Path) -> Result<u64> {
    let failed = |e: io::Error| io_error("listing", dir, &e);
    let mut sum = 0;
    for entry in fs::read_dir(dir).map_err(failed)? {
        match entry.and_then(|e| e.metadata()) {
            Ok(found) if found.is_file() => sum += found.len(),
            Ok(_) => {}
            // A segment that was no longer needed has gone meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(sum)
}

fn segment_path(dir: &Path, first: Revision) -> PathBuf {
    dir.join(format!("log-{first:020}"))
}

/// Files of a kind with the revision in their name, ascending.
pub fn numbered(dir: &Path, prefix: &str) -> Result<Vec<(Revision, PathBuf)>> {
    let fail = |e: io::Error| io_error("reading", dir, &e);
    let mut found: Vec<(Revision, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        // What is passed over would be a hole.
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix(prefix)?.parse::<Revision>().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// Makes a segment; one that cannot be made whole is removed again, unless `Crash` was injected.
fn create_segment(dir: &Path, first: Revision, faults: &Faults) -> Result<(File, PathBuf)> {
    let path = segment_path(dir, first);
    let fail = |e: io::Error| io_error("creating", &path, &e);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(fail)?;
    let made = injected(faults, Point::MidRotation)
        .and_then(|()| file.write_all_at(LOG_MAGIC, 0).map_err(fail))
        .and_then(|()| file.sync_all().map_err(fail))
        .and_then(|()| sync_dir(dir));
    match made {
        Ok(()) => Ok((file, path)),
        Err(e @ StoreError::NoSpace(_)) => {
            // The log goes on in the segment before.
            fs::remove_file(&path).map_err(|e| io_error("removing", &path, &e))?;
            Err(e)
        }
        Err(e) => Err(e),
    }
}

pub fn injected(faults: &Faults, point: Point) -> Result<()> {
    match faults(point) {
        Fault::None => Ok(()),
        Fault::Crash => {
            let why = format!("injected crash at {point:?}");
            Err(match point {
                Point::MidWrite | Point::BeforeSync | Point::AfterSync => StoreError::Unknown(why),
                _ => StoreError::Unavailable(why),
            })
        }
        Fault::NoSpace => Err(StoreError::NoSpace(format!("injected at {point:?}"))),
    }
}

/// Opens the folder, locks it and rebuilds the state. What is damaged is named and left as it is.
pub fn open(dir: &Path, keep: History, faults: Faults) -> Result<(State, Log)> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| io_error("making", dir, &e))?;
    let lock = lock(dir)?;
    snapshot::remove_unfinished(dir)?;
    let (mut state, snapshot_bytes) = snapshot::newest(dir)?;
    let tail = replay_all(dir, &mut state, keep)?;
    let (file, path, end) = match tail {
        Some(tail) => (tail.open()?, tail.path, tail.end),
        None => {
            let (file, path) = create_segment(dir, state.revision() + 1, &faults)?;
            (file, path, LOG_MAGIC.len() as u64)
        }
    };
    let log = Log {
        dir: dir.to_owned(),
        file,
        path,
        end,
        snapshot_bytes: Arc::new(AtomicU64::new(snapshot_bytes)),
        _lock: lock,
        faults,
    };
    Ok((state, log))
}

/// Where the log ends, and how long its last segment is with what was torn.
struct Tail {
    path: PathBuf,
    end: u64,
    length: u64,
}

impl Tail {
    /// Cuts off what is torn, and opens the segment for appending.
    fn open(&self) -> Result<File> {
        let fail = |e: io::Error| io_error("opening", &self.path, &e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .map_err(fail)?;
        let magic = LOG_MAGIC.len() as u64;
        if self.end == self.length && self.end >= magic {
            return Ok(file);
        }
        tracing::warn!(path = %self.path.display(), offset = self.end,
            dropped_bytes = self.length - self.end, "a torn tail is cut off");
        file.set_len(self.end).map_err(fail)?;
        file.write_all_at(LOG_MAGIC, 0)
            .and_then(|()| file.sync_all())
            .map_err(fail)?;
        Ok(file)
    }
}

/// Applies all segments. Only the last one that holds anything may have a torn tail.
fn replay_all(dir: &Path, state: &mut State, keep: History) -> Result<Option<Tail>> {
    let mut segments = numbered(dir, "log-")?;
    if segments.is_empty() && state.revision() > 0 {
        let why = "the log that follows this snapshot is missing";
        return Err(corrupt(&snapshot::path(dir, state.revision()), 0, why));
    }
    let length = |path: &Path| match fs::metadata(path) {
        Ok(meta) => Ok(meta.len()),
        Err(e) => Err(io_error("reading", path, &e)),
    };
    // Segments that were begun, perhaps torn, and hold nothing.
    let mut empty = Vec::new();
    while let Some((first, path)) = segments.pop() {
        if length(&path)? > LOG_MAGIC.len() as u64 {
            segments.push((first, path));
            break;
        }
        empty.push((first, path));
    }
    empty.reverse();
    let mut tail = None;
    for (i, (first, path)) in segments.iter().enumerate() {
        must_follow(state, *first, path)?;
        let is_last = i + 1 == segments.len();
        tail = Some(replay(path, state, keep, is_last)?);
    }
    for (first, path) in empty {
        must_follow(state, first, &path)?;
        let is_torn = tail.as_ref().is_some_and(|t: &Tail| t.end < t.length);
        if first <= state.revision() || is_torn {
            // The log went on in the segment before, since this one could not be made.
            fs::remove_file(&path).map_err(|e| io_error("removing", &path, &e))?;
            continue;
        }
        let length = length(&path)?;
        let end = if length < LOG_MAGIC.len() as u64 {
            0
        } else {
            length
        };
        tail = Some(Tail { path, end, length });
    }
    Ok(tail)
}

/// A segment that begins later than what was read so far ends shows that some is missing.
fn must_follow(state: &State, first: Revision, path: &Path) -> Result<()> {
    if first > state.revision() + 1 {
        let why = format!("revisions from {} on are missing", state.revision() + 1);
        return Err(corrupt(path, 0, &why));
    }
    Ok(())
}

/// The folder's lock. It is given back explicitly: a child that is being started elsewhere in this
/// process holds a copy of every file until it becomes another program.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file does the same, only perhaps later.
        let _ = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

fn lock(dir: &Path) -> Result<Lock> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| io_error("opening", &path, &e))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |_| StoreError::Unavailable(format!("{} is in use by another process", dir.display())),
    )?;
    Ok(Lock(file))
}

/// Applies a segment's frames and says where they end. What is not whole may be a torn tail in
/// the last segment, if no whole frame follows; else it is damage, and an error names the place.
fn replay(path: &Path, state: &mut State, keep: History, is_last: bool) -> Result<Tail> {
    let data = Bytes::from(fs::read(path).map_err(|e| io_error("reading", path, &e))?);
    if data.get(..8) != Some(LOG_MAGIC.as_slice()) {
        return Err(corrupt(path, 0, "not a log segment"));
    }
    let mut at = LOG_MAGIC.len();
    while at < data.len() {
        let Some(body) = frame::body_at(&data.slice(at..)) else {
            if is_last && !frame_follows(&data, at + 1) {
                break;
            }
            return Err(corrupt(path, at, "damaged frame"));
        };
        let length = body.len();
        let txns = record::txns(body).ok_or_else(|| corrupt(path, at, "damaged transaction"))?;
        for (revision, ops) in txns {
            apply(state, revision, &ops, keep).map_err(|why| corrupt(path, at, &why))?;
        }
        at += HEAD + length;
    }
    Ok(Tail {
        path: path.to_owned(),
        end: at as u64,
        length: data.len() as u64,
    })
}

fn apply(
    state: &mut State,
    revision: Revision,
    ops: &[Logged],
    keep: History,
) -> Result<(), String> {
    let now = state.revision();
    if revision <= now {
        // What the snapshot holds already.
        return Ok(());
    }
    if ops.is_empty() {
        state.raise(revision);
        return Ok(());
    }
    if revision > now + 1 {
        return Err(format!("revision {revision} follows {now}"));
    }
    let batch = batch_of(revision, ops, |key| state.live(key));
    state.apply(batch.into(), ops, keep);
    Ok(())
}

/// Whether a whole frame lies anywhere behind: then what is before it was not torn but damaged.
fn frame_follows(data: &Bytes, from: usize) -> bool {
    (from..data.len().saturating_sub(HEAD))
        .any(|at| frame::body_at(&data.slice(at..)).is_some_and(|b| !b.is_empty()))
}

impl Log {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a snapshot is due: when the segment has grown to `least_bytes` and to what the last
    /// snapshot has, so that many live values are not written again for a few changes; or when most
    /// of what the folder holds is no longer live, as after a mass deletion.
    pub fn is_long(&self, least_bytes: u64, live_bytes: u64) -> bool {
        let snapshot = self.snapshot_bytes.load(Ordering::Relaxed);
        self.end >= least_bytes.max(snapshot.min(live_bytes))
            || self.end + snapshot >= least_bytes + 2 * live_bytes
    }

    /// Where the bytes of the newest snapshot are noted.
    pub fn snapshot_bytes(&self) -> Arc<AtomicU64> {
        self.snapshot_bytes.clone()
    }

    fn unknown(&self, what: &str, e: &io::Error) -> StoreError {
        match io_error(what, &self.path, e) {
            StoreError::Unavailable(why) => StoreError::Unknown(why),
            e => e,
        }
    }

    /// Appends a group and syncs. `NoSpace` leaves the log as it was; any other error is final:
    /// after a failed sync nobody knows what the disk has. Then `Unknown` means that the group may
    /// be there when the store is opened again.
    pub fn append(&mut self, body: &[u8]) -> Result<()> {
        let frame = frame::of(body);
        injected(&self.faults, Point::BeforeWrite)?;
        if let Err(e) = self.write(&frame) {
            if matches!(e, StoreError::NoSpace(_)) {
                self.file
                    .set_len(self.end)
                    .map_err(|e| self.unknown("truncating", &e))?;
            }
            return Err(e);
        }
        injected(&self.faults, Point::BeforeSync)?;
        // Here a full disk is as bad as any other failure.
        self.file
            .sync_data()
            .map_err(|e| StoreError::Unknown(format!("syncing {}: {e}", self.path.display())))?;
        self.end += frame.len() as u64;
        injected(&self.faults, Point::AfterSync)
    }

    fn write(&self, frame: &[u8]) -> Result<()> {
        let (first, second) = frame.split_at(frame.len() / 2);
        let fail = |e: io::Error| self.unknown("writing", &e);
        self.file.write_all_at(first, self.end).map_err(fail)?;
        injected(&self.faults, Point::MidWrite)?;
        self.file
            .write_all_at(second, self.end + first.len() as u64)
            .map_err(fail)
    }

    /// Starts a new segment whose first revision is `first`.
    pub fn rotate(&mut self, first: Revision) -> Result<()> {
        let (file, path) = create_segment(&self.dir, first, &self.faults)?;
        (self.file, self.path, self.end) = (file, path, LOG_MAGIC.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_their_numbers_and_what_cannot_be_read_is_not_empty() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        for name in ["log-10", "log-9", "log-9.new", "snapshot-9", "log-"] {
            fs::write(at(name), b"").expect("written");
        }
        let found = numbered(dir.path(), "log-").expect("readable");
        assert_eq!(found, [(9, at("log-9")), (10, at("log-10"))]);
        for other in ["log-9", "none"] {
            let read = numbered(&at(other), "log-");
            assert!(read.is_err(), "{other}: {read:?}");
        }
    }
}
