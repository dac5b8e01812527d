//! Snapshots, `snapshot-<revision>`, which make old segments of the log needless: magic, frames of
//! all live values, and an end frame with their number. A snapshot is written beside, synced,
//! renamed; then the segments that it covers are removed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};

use super::disk::{corrupt, injected, io_error, numbered, sync_dir};
use super::fault::{Faults, Point};
use crate::contract::{KeyValue, Result, Revision, StoreError};
use crate::frame::{self, HEAD};
use crate::state::State;

const MAGIC: &[u8; 8] = b"TPHSNP\x00\x01";
/// Bytes of values per frame: large enough for few checksums, small in memory.
const FRAME_BYTES: usize = 256 << 10;
/// Ends the name of a snapshot that is being written.
const BESIDE: &str = "new";

/// Where the snapshot of a revision lies.
pub fn path(dir: &Path, revision: Revision) -> PathBuf {
    dir.join(format!("snapshot-{revision:020}"))
}

/// Snapshots that a crash has cut off.
pub fn remove_unfinished(dir: &Path) -> Result<()> {
    let fail = |e: io::Error| io_error("tidying", dir, &e);
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|e| e == BESIDE) {
            fs::remove_file(&path).map_err(fail)?;
        }
    }
    Ok(())
}

/// The state of the newest snapshot, and its bytes. A damaged one is named, not skipped: the
/// segments before it are gone.
pub fn newest(dir: &Path) -> Result<(State, u64)> {
    let mut snapshots = numbered(dir, "snapshot-")?;
    let Some((revision, path)) = snapshots.pop() else {
        return Ok((State::default(), 0));
    };
    let data = Bytes::from(fs::read(&path).map_err(|e| io_error("reading", &path, &e))?);
    let state = read(&path, &data, revision)?;
    for (_, old) in snapshots {
        // Left by a crash between two steps. It does no harm but that it takes room.
        if let Err(e) = fs::remove_file(&old) {
            tracing::warn!("removing the snapshot {}: {e}", old.display());
        }
    }
    Ok((state, data.len() as u64))
}

fn read(path: &Path, data: &Bytes, revision: Revision) -> Result<State> {
    if data.get(..8) != Some(MAGIC.as_slice()) {
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

/// Writes a snapshot beside its place, and renames it when it is whole and durable. Returns its
/// bytes.
fn write_whole(path: &Path, live: &[(KeyValue, i64)], faults: &Faults) -> Result<u64> {
    let beside = path.with_extension(BESIDE);
    let written = write_beside(&beside, live, faults);
    if matches!(written, Err(StoreError::NoSpace(_))) {
        // Others need the space; the cause is reported all the same.
        let _ = fs::remove_file(&beside);
    }
    let bytes = written?;
    fs::rename(&beside, path).map_err(|e| io_error("renaming", &beside, &e))?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))?;
    Ok(bytes)
}

fn write_beside(beside: &Path, live: &[(KeyValue, i64)], faults: &Faults) -> Result<u64> {
    let fail = |e: io::Error| io_error("writing", beside, &e);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(beside)
        .map_err(fail)?;
    file.write_all(MAGIC).map_err(fail)?;
    let mut body = vec![1];
    for (kv, deadline) in live {
        put_value(&mut body, kv, *deadline);
        if body.len() >= FRAME_BYTES {
            file.write_all(&frame::of(&body)).map_err(fail)?;
            body.truncate(1);
        }
    }
    injected(faults, Point::MidSnapshot)?;
    if body.len() > 1 {
        file.write_all(&frame::of(&body)).map_err(fail)?;
    }
    let mut end = vec![0];
    end.put_u64_le(live.len() as u64);
    file.write_all(&frame::of(&end))
        .and_then(|()| file.sync_all())
        .and_then(|()| file.metadata())
        .map(|meta| meta.len())
        .map_err(fail)
}

/// Writes the snapshot of a revision into the store's folder, and removes what it makes needless:
/// older snapshots, and segments whose successor begins at or below the snapshot. Returns its
/// bytes.
pub fn write(
    dir: &Path,
    revision: Revision,
    live: &[(KeyValue, i64)],
    faults: &Faults,
) -> Result<u64> {
    let bytes = write_whole(&path(dir, revision), live, faults)?;
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
    sync_dir(dir)?;
    Ok(bytes)
}
