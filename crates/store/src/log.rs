//! The log file: header-checked, checksummed records; knows bytes and offsets, not the index.
//! Record: body length u32, crc32 of the body u32, crc32 of those eight bytes u32, body.

use crate::{Op, Result, Revision, StoreError};
use bytes::{Buf, BufMut, Bytes};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const HEAD: usize = 12;

/// Adds one transaction's record to `out`.
pub fn encode(out: &mut Vec<u8>, revision: Revision, ops: &[Op]) {
    let mut body = vec![];
    body.put_u64_le(revision);
    for op in ops {
        let (tag, key, value, expires) = match op {
            Op::Put {
                key,
                value,
                expires_after_seconds,
            } => (1, key, &value[..], expires_after_seconds.unwrap_or(0)),
            Op::Delete { key } => (0, key, &[][..], 0),
        };
        body.put_u8(tag);
        body.put_u32_le(expires);
        body.put_u32_le(key.len() as u32);
        body.put_u32_le(value.len() as u32);
        body.put_slice(key);
        body.put_slice(value);
    }
    let at = out.len();
    out.put_u32_le(body.len() as u32);
    out.put_u32_le(crc32fast::hash(&body));
    out.put_u32_le(crc32fast::hash(&out[at..at + 8]));
    out.put_slice(&body);
}

fn decode(mut body: Bytes) -> Option<(Revision, Vec<Op>)> {
    let revision = body.try_get_u64_le().ok()?;
    let mut ops = vec![];
    while body.has_remaining() {
        let tag = body.try_get_u8().ok()?;
        let expires = body.try_get_u32_le().ok()?;
        let (k, v) = (
            body.try_get_u32_le().ok()? as usize,
            body.try_get_u32_le().ok()? as usize,
        );
        if body.len() < k.checked_add(v)? {
            return None;
        }
        // Copies, so that one live value does not hold the whole file in memory.
        let (key, value) = (
            Bytes::copy_from_slice(&body.split_to(k)),
            Bytes::copy_from_slice(&body.split_to(v)),
        );
        ops.push(match tag {
            1 => Op::Put {
                key,
                value,
                expires_after_seconds: (expires > 0).then_some(expires),
            },
            0 => Op::Delete { key },
            _ => return None,
        });
    }
    Some((revision, ops))
}

type Opened = (File, u64, Vec<(Revision, Vec<Op>)>);

/// Opens, locks and reads the log; a torn tail is cut off, damage elsewhere is an error.
pub fn open(dir: &Path) -> Result<Opened> {
    let path = dir.join("log");
    let fail = |e: std::io::Error| StoreError::Unavailable(format!("{}: {e}", path.display()));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(fail)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
        |e| {
            StoreError::Unavailable(format!(
                "{} is in use by another process: {e}",
                path.display()
            ))
        },
    )?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(fail)?;
    let data = Bytes::from(std::fs::read(&path).map_err(fail)?);
    let (mut at, mut records) = (0, vec![]);
    let bad = |at: usize| StoreError::Corrupt(format!("{} at offset {at}", path.display()));
    while at < data.len() {
        let mut rest = data.slice(at..);
        if rest.len() < HEAD || rest.iter().all(|b| *b == 0) {
            break;
        }
        let head = crc32fast::hash(&rest[..8]);
        let (len, crc) = (rest.get_u32_le() as usize, rest.get_u32_le());
        if rest.get_u32_le() != head {
            return Err(bad(at));
        }
        if rest.len() < len || (rest.len() == len && crc32fast::hash(&rest) != crc) {
            break;
        }
        let body = rest.split_to(len);
        if crc32fast::hash(&body) != crc {
            return Err(bad(at));
        }
        records.push(decode(body).ok_or_else(|| bad(at))?);
        at += HEAD + len;
    }
    if at < data.len() {
        tracing::warn!(path = %path.display(), offset = at, dropped_bytes = data.len() - at, "cut off a torn tail");
        file.set_len(at as u64)
            .and_then(|()| file.sync_all())
            .map_err(fail)?;
    }
    Ok((file, at as u64, records))
}

/// Appends and syncs. `NoSpace` leaves the log as it was; any other error is final.
pub fn append(file: &File, end: u64, bytes: &[u8]) -> Result<()> {
    if let Err(error) = file.write_all_at(bytes, end) {
        let full = error.kind() == std::io::ErrorKind::StorageFull;
        if full && file.set_len(end).is_ok() {
            return Err(StoreError::NoSpace(error.to_string()));
        }
        return Err(StoreError::Unavailable(format!(
            "write of the log failed: {error}"
        )));
    }
    file.sync_data()
        .map_err(|e| StoreError::Unavailable(format!("sync of the log failed: {e}")))
}
