//! The files of the store: segments of the log, and snapshots that make old segments needless.
//!
//! `log-<first revision>`: magic, then frames. `snapshot-<revision>`: magic, frames of puts whose
//! "revision" is the value's own, and an end frame with their number. A snapshot is written
//! beside, synced, renamed; then the segments that it covers are removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};

use super::fault::{Fault, Faults, Point};
use super::record::{self, Logged};
use super::state::{History, State, batch_of};
use crate::frame::{self, HEAD};
use crate::{KeyValue, Result, Revision, StoreError};

const LOG_MAGIC: &[u8; 8] = b"TPHLOG\x00\x01";
const SNAPSHOT_MAGIC: &[u8; 8] = b"TPHSNP\x00\x01";
/// Bytes of values per frame of a snapshot: large enough for few checksums, small in memory.
const SNAPSHOT_FRAME: usize = 256 << 10;

fn io_error(what: &str, path: &Path, e: &io::Error) -> StoreError {
    let text = format!("{what} {}: {e}", path.display());
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace(text),
        _ => StoreError::Unavailable(text),
    }
}

fn corrupt(path: &Path, offset: usize, why: &str) -> StoreError {
    StoreError::Corrupt(format!("{} at offset {offset}: {why}", path.display()))
}

/// The log's last segment, open for appending.
pub struct Log {
    dir: PathBuf,
    file: File,
    path: PathBuf,
    /// Where the next frame goes.
    end: u64,
    /// Held as long as the store is open.
    _lock: File,
    faults: Faults,
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| io_error("syncing", dir, &e))
}

fn segment_path(dir: &Path, first: Revision) -> PathBuf {
    dir.join(format!("log-{first:020}"))
}

fn snapshot_path(dir: &Path, revision: Revision) -> PathBuf {
    dir.join(format!("snapshot-{revision:020}"))
}

/// Files of a kind with the revision in their name, ascending.
fn numbered(dir: &Path, prefix: &str) -> Result<Vec<(Revision, PathBuf)>> {
    let entries = fs::read_dir(dir).map_err(|e| io_error("reading", dir, &e))?;
    let mut found: Vec<(Revision, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = path
                .file_name()?
                .to_str()?
                .strip_prefix(prefix)?
                .parse()
                .ok()?;
            Some((number, path))
        })
        .collect();
    found.sort();
    Ok(found)
}

fn create_segment(dir: &Path, first: Revision) -> Result<(File, PathBuf)> {
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
    file.write_all_at(LOG_MAGIC, 0)
        .and_then(|()| file.sync_all())
        .map_err(fail)?;
    sync_dir(dir)?;
    Ok((file, path))
}

/// Opens the folder, locks it and rebuilds the state.
pub fn open(dir: &Path, keep: History, faults: Faults) -> Result<(State, Log)> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| io_error("making", dir, &e))?;
    let lock = lock(dir)?;
    let mut state = newest_snapshot(dir)?;
    let segments = numbered(dir, "log-")?;
    let mut last = None;
    for (i, (_, path)) in segments.iter().enumerate() {
        let is_last = i + 1 == segments.len();
        let end = replay(path, &mut state, keep, is_last)?;
        last = Some((path.clone(), end));
    }
    let (file, path, end) = match last {
        Some((path, end)) => {
            let fail = |e: io::Error| io_error("opening", &path, &e);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(fail)?;
            (file, path.clone(), end)
        }
        None => {
            let (file, path) = create_segment(dir, state.revision() + 1)?;
            (file, path, LOG_MAGIC.len() as u64)
        }
    };
    Ok((
        state,
        Log {
            dir: dir.to_owned(),
            file,
            path,
            end,
            _lock: lock,
            faults,
        },
    ))
}

fn lock(dir: &Path) -> Result<File> {
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
    Ok(file)
}

/// The state of the newest snapshot. A damaged one is named, not skipped: the segments before it
/// are gone.
fn newest_snapshot(dir: &Path) -> Result<State> {
    let mut snapshots = numbered(dir, "snapshot-")?;
    let Some((revision, path)) = snapshots.pop() else {
        return Ok(State::default());
    };
    let state = read_snapshot(&path, revision)?;
    for (_, old) in snapshots {
        // Left by a crash between two steps.
        let _ = fs::remove_file(old);
    }
    Ok(state)
}

/// Reads a snapshot file, wherever it lies.
pub fn read_snapshot(path: &Path, revision: Revision) -> Result<State> {
    let data = Bytes::from(fs::read(path).map_err(|e| io_error("reading", path, &e))?);
    if data.get(..8) != Some(SNAPSHOT_MAGIC.as_slice()) {
        return Err(corrupt(path, 0, "not a snapshot"));
    }
    let (mut at, mut live) = (8, Vec::new());
    loop {
        let body = frame::body_at(&data.slice(at.min(data.len())..))
            .ok_or_else(|| corrupt(path, at, "damaged frame"))?;
        at += HEAD + body.len();
        let mut rest = body;
        if rest.try_get_u8().ok() == Some(0) {
            let count = rest.try_get_u64_le().ok();
            return match count {
                Some(n) if n == live.len() as u64 => Ok(State::from_snapshot(revision, live)),
                _ => Err(corrupt(path, at, "values are missing")),
            };
        }
        while rest.has_remaining() {
            live.push(get_value(&mut rest).ok_or_else(|| corrupt(path, at, "damaged value"))?);
        }
    }
}

fn get_value(rest: &mut Bytes) -> Option<(KeyValue, i64)> {
    let (create_revision, mod_revision) =
        (rest.try_get_u64_le().ok()?, rest.try_get_u64_le().ok()?);
    let (version, deadline) = (rest.try_get_u64_le().ok()?, rest.try_get_i64_le().ok()?);
    let (k, v) = (
        rest.try_get_u32_le().ok()? as usize,
        rest.try_get_u32_le().ok()? as usize,
    );
    if rest.len() < k.checked_add(v)? {
        return None;
    }
    let key = Bytes::copy_from_slice(&rest.split_to(k));
    let value = Bytes::copy_from_slice(&rest.split_to(v));
    Some((
        KeyValue {
            key,
            value,
            create_revision,
            mod_revision,
            version,
        },
        deadline,
    ))
}

fn put_value(body: &mut Vec<u8>, kv: &KeyValue, deadline: i64) {
    body.put_u64_le(kv.create_revision);
    body.put_u64_le(kv.mod_revision);
    body.put_u64_le(kv.version);
    body.put_i64_le(deadline);
    body.put_u32_le(u32::try_from(kv.key.len()).unwrap_or(u32::MAX));
    body.put_u32_le(u32::try_from(kv.value.len()).unwrap_or(u32::MAX));
    body.put_slice(&kv.key);
    body.put_slice(&kv.value);
}

/// Applies a segment's frames and returns where they end. A torn tail, which only the last
/// segment may have, is cut off; damage before whole frames is an error that names the place.
fn replay(path: &Path, state: &mut State, keep: History, is_last: bool) -> Result<u64> {
    let data = Bytes::from(fs::read(path).map_err(|e| io_error("reading", path, &e))?);
    let torn_head = is_last && data.len() < LOG_MAGIC.len();
    if torn_head {
        return repair(path, 0, data.len());
    }
    if data.get(..8) != Some(LOG_MAGIC.as_slice()) {
        return Err(corrupt(path, 0, "not a log segment"));
    }
    let mut at = LOG_MAGIC.len();
    while at < data.len() {
        let Some(body) = frame::body_at(&data.slice(at..)) else {
            if is_last && !frame_follows(&data, at + 1) {
                return repair(path, at, data.len());
            }
            return Err(corrupt(path, at, "damaged frame"));
        };
        let length = body.len();
        let txns = record::txns(body).ok_or_else(|| corrupt(path, at, "damaged transaction"))?;
        for (revision, ops) in txns {
            // What the snapshot holds already.
            if revision <= state.revision() {
                continue;
            }
            if ops.is_empty() {
                state.raise(revision);
                continue;
            }
            let batch = batch_of(revision, &ops, |key| state.live(key).cloned());
            state.apply(batch.into(), &ops, keep);
        }
        at += HEAD + length;
    }
    Ok(at as u64)
}

/// Whether a whole frame lies anywhere behind: then what is before it was not torn but damaged.
fn frame_follows(data: &Bytes, from: usize) -> bool {
    (from..data.len().saturating_sub(HEAD))
        .any(|at| frame::body_at(&data.slice(at..)).is_some_and(|b| !b.is_empty()))
}

fn repair(path: &Path, at: usize, length: usize) -> Result<u64> {
    tracing::warn!(path = %path.display(), offset = at, dropped_bytes = length - at, "a torn tail is cut off");
    let fail = |e: io::Error| io_error("repairing", path, &e);
    let file = OpenOptions::new().write(true).open(path).map_err(fail)?;
    if at < LOG_MAGIC.len() {
        file.set_len(0)
            .and_then(|()| file.write_all_at(LOG_MAGIC, 0))
            .map_err(fail)?;
    } else {
        file.set_len(at as u64).map_err(fail)?;
    }
    file.sync_all().map_err(fail)?;
    Ok(at.max(LOG_MAGIC.len()) as u64)
}

impl Log {
    /// Bytes in the segment.
    pub fn length(&self) -> u64 {
        self.end
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn injected(&self, point: Point) -> Result<()> {
        match (self.faults)(point) {
            Fault::None => Ok(()),
            Fault::Crash => Err(StoreError::Unavailable(format!(
                "injected crash at {point:?}"
            ))),
            Fault::NoSpace => Err(StoreError::NoSpace(format!("injected at {point:?}"))),
        }
    }

    /// Appends a group and syncs. `NoSpace` leaves the log as it was; any other error is final:
    /// after a failed sync nobody knows what the disk has.
    pub fn append(&mut self, body: &[u8]) -> Result<()> {
        let frame = frame::of(body);
        self.injected(Point::BeforeWrite)?;
        let half = frame.len() / 2;
        let written = self
            .file
            .write_all_at(&frame[..half], self.end)
            .map_err(|e| io_error("writing", &self.path, &e))
            .and_then(|()| self.injected(Point::MidWrite))
            .and_then(|()| {
                self.file
                    .write_all_at(&frame[half..], self.end + half as u64)
                    .map_err(|e| io_error("writing", &self.path, &e))
            });
        if let Err(e) = written {
            if matches!(e, StoreError::NoSpace(_)) {
                self.file
                    .set_len(self.end)
                    .map_err(|e| io_error("truncating", &self.path, &e))?;
            }
            return Err(e);
        }
        self.injected(Point::BeforeSync)?;
        self.file.sync_data().map_err(|e| {
            StoreError::Unavailable(format!("syncing {}: {e}", self.path.display()))
        })?;
        self.end += frame.len() as u64;
        self.injected(Point::AfterSync)
    }

    /// Starts a new segment whose first revision is `first`.
    pub fn rotate(&mut self, first: Revision) -> Result<()> {
        self.injected(Point::MidRotation)?;
        let (file, path) = create_segment(&self.dir, first)?;
        (self.file, self.path, self.end) = (file, path, LOG_MAGIC.len() as u64);
        Ok(())
    }
}

/// Writes a snapshot to a file, whole or not at all.
pub fn write_snapshot(path: &Path, live: &[(KeyValue, i64)], faults: &Faults) -> Result<()> {
    let beside = path.with_extension("new");
    let fail = |e: io::Error| io_error("writing", &beside, &e);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(fail)?;
    file.write_all(SNAPSHOT_MAGIC).map_err(fail)?;
    let mut body = vec![1];
    for (kv, deadline) in live {
        put_value(&mut body, kv, *deadline);
        if body.len() >= SNAPSHOT_FRAME {
            file.write_all(&frame::of(&body)).map_err(fail)?;
            body.truncate(1);
        }
    }
    if (faults)(Point::MidSnapshot) != Fault::None {
        return Err(StoreError::Unavailable(
            "injected crash in a snapshot".into(),
        ));
    }
    if body.len() > 1 {
        file.write_all(&frame::of(&body)).map_err(fail)?;
    }
    let mut end = vec![0];
    end.put_u64_le(live.len() as u64);
    file.write_all(&frame::of(&end))
        .and_then(|()| file.sync_all())
        .map_err(fail)?;
    fs::rename(&beside, path).map_err(fail)?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Writes the snapshot of a revision into the store's folder, and removes what it makes needless:
/// older snapshots, and segments whose successor begins at or below the snapshot.
pub fn snapshot(
    dir: &Path,
    revision: Revision,
    live: &[(KeyValue, i64)],
    faults: &Faults,
) -> Result<()> {
    write_snapshot(&snapshot_path(dir, revision), live, faults)?;
    for (old, path) in numbered(dir, "snapshot-")? {
        if old < revision {
            fs::remove_file(&path).map_err(|e| io_error("removing", &path, &e))?;
        }
    }
    let segments = numbered(dir, "log-")?;
    for pair in segments.windows(2) {
        if let [(_, path), (next, _)] = pair
            && *next <= revision + 1
        {
            fs::remove_file(path).map_err(|e| io_error("removing", path, &e))?;
        }
    }
    sync_dir(dir)
}

/// The operations of a transaction as they are logged.
pub fn logged(ops: Vec<crate::Op>, now: i64) -> Vec<Logged> {
    ops.into_iter()
        .map(|op| match op {
            crate::Op::Put {
                key,
                value,
                expires_after_seconds,
            } => Logged::Put {
                key,
                value,
                deadline: expires_after_seconds.map_or(0, |s| now + i64::from(s)),
            },
            crate::Op::Delete { key } => Logged::Delete { key },
        })
        .collect()
}
