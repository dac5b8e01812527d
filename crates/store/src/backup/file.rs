//! The file of a backup. After eight bytes of magic it is frames as the log's (`record.rs`), each
//! with its checksum: a head, values in key order, and an end with their number and the checksum
//! of all bytes before it, so that a frame that is missing or doubled is seen, too.
//!
//! Head: tag u8 2, revision u64, keys u64, time i64 (seconds since the epoch), cluster (the rest).
//! Values: tag u8 1, entries, each seconds left u32 (0: it does not expire), key length u32,
//! value length u32, key, value. End: tag u8 0, keys u64, crc32 u32. All little-endian.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};

use super::{BackupError, Header, Result};
use crate::frame::{self, HEAD};

const MAGIC: &[u8; 8] = b"TPHBAK\x00\x01";
/// Bytes of values per frame: large enough for few checksums, small in memory.
const FRAME_BYTES: usize = 256 << 10;
/// A frame that claims to be larger is damaged: the largest has one value of the largest size.
const MOST_FRAME_BYTES: usize = 64 << 20;

const END: u8 = 0;
const VALUES: u8 = 1;
const HEADER: u8 = 2;

/// A value with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Bytes,
    pub value: Bytes,
    /// It expires so long after the backup.
    pub seconds_left: Option<u32>,
}

fn file_error(what: &'static str, path: &Path, source: io::Error) -> BackupError {
    BackupError::File {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Writes a backup beside its place, and renames it when it is whole and durable.
pub struct Writer {
    file: File,
    path: PathBuf,
    beside: PathBuf,
    sum: crc32fast::Hasher,
    expected: u64,
    written: u64,
    is_done: bool,
}

impl Writer {
    pub fn create(path: &Path, header: &Header) -> Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let beside = PathBuf::from(name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .map_err(|e| file_error("creating", &beside, e))?;
        let mut writer = Self {
            file,
            path: path.to_owned(),
            beside,
            sum: crc32fast::Hasher::new(),
            expected: header.keys,
            written: 0,
            is_done: false,
        };
        writer.append(MAGIC)?;
        let mut body = vec![HEADER];
        body.put_u64_le(header.revision);
        body.put_u64_le(header.keys);
        body.put_i64_le(header.saved_at);
        body.put_slice(header.cluster.as_bytes());
        writer.append(&frame::of(&body))?;
        Ok(writer)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(|e| file_error("writing", &self.beside, e))
    }

    pub fn write(mut self, entries: &[Entry]) -> Result<Self> {
        let mut body = vec![VALUES];
        for entry in entries {
            body.put_u32_le(entry.seconds_left.unwrap_or(0));
            body.put_u32_le(u32::try_from(entry.key.len()).unwrap_or(u32::MAX));
            body.put_u32_le(u32::try_from(entry.value.len()).unwrap_or(u32::MAX));
            body.put_slice(&entry.key);
            body.put_slice(&entry.value);
            if body.len() >= FRAME_BYTES {
                self.append(&frame::of(&body))?;
                body.truncate(1);
            }
        }
        if body.len() > 1 {
            self.append(&frame::of(&body))?;
        }
        self.written += entries.len() as u64;
        Ok(self)
    }

    pub fn finish(mut self) -> Result<()> {
        if self.written != self.expected {
            let why = format!(
                "it showed {} keys of {} at one revision",
                self.written, self.expected
            );
            return Err(crate::contract::StoreError::Corrupt(why).into());
        }
        let mut body = vec![END];
        body.put_u64_le(self.written);
        body.put_u32_le(self.sum.clone().finalize());
        self.append(&frame::of(&body))?;
        let fail = |e| file_error("syncing", &self.beside, e);
        self.file.sync_all().map_err(fail)?;
        fs::rename(&self.beside, &self.path)
            .map_err(|e| file_error("renaming to", &self.path, e))?;
        self.is_done = true;
        let dir = match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| file_error("syncing", dir, e))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.is_done {
            // A part of a backup is worth nothing.
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// Reads a backup frame by frame.
pub struct Reader {
    file: BufReader<File>,
    path: PathBuf,
    offset: u64,
    sum: crc32fast::Hasher,
    header: Header,
    read: u64,
    last_key: Bytes,
}

impl Reader {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| file_error("opening", path, e))?;
        let mut reader = Self {
            file: BufReader::with_capacity(FRAME_BYTES, file),
            path: path.to_owned(),
            offset: 0,
            sum: crc32fast::Hasher::new(),
            header: Header {
                revision: 0,
                keys: 0,
                cluster: String::new(),
                saved_at: 0,
            },
            read: 0,
            last_key: Bytes::new(),
        };
        if reader.take(MAGIC.len())?[..] != MAGIC[..] {
            reader.offset = 0;
            return Err(reader.damaged("it is not a backup"));
        }
        let body = reader.frame()?;
        reader.header = header(body).ok_or_else(|| reader.damaged("damaged head"))?;
        Ok(reader)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    fn damaged(&self, why: &'static str) -> BackupError {
        BackupError::Damaged {
            path: self.path.clone(),
            offset: self.offset,
            why,
        }
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        match self.file.read_exact(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it ends too early"))
            }
            Err(e) => Err(file_error("reading", &self.path, e)),
            Ok(()) => {
                self.sum.update(&bytes);
                self.offset += length as u64;
                Ok(bytes)
            }
        }
    }

    fn frame(&mut self) -> Result<Bytes> {
        let start = self.offset;
        let head = self.take(HEAD)?;
        let length = frame::length(&head).filter(|l| *l <= MOST_FRAME_BYTES);
        let body = match length {
            Some(length) => [head, self.take(length)?].concat(),
            None => head,
        };
        frame::body_at(&Bytes::from(body)).ok_or_else(|| {
            self.offset = start;
            self.damaged("damaged frame")
        })
    }

    /// The values of the next frame; `None` at the end, when all that was read is in order.
    pub fn next(&mut self) -> Result<Option<Vec<Entry>>> {
        let sum = self.sum.clone().finalize();
        let mut body = self.frame()?;
        match body.try_get_u8() {
            Ok(VALUES) => {
                let entries = entries(body).ok_or_else(|| self.damaged("damaged value"))?;
                for entry in &entries {
                    if entry.key <= self.last_key {
                        return Err(self.damaged("keys are out of order"));
                    }
                    self.last_key = entry.key.clone();
                }
                self.read += entries.len() as u64;
                Ok(Some(entries))
            }
            Ok(END) => {
                let is_whole = body.try_get_u64_le() == Ok(self.read)
                    && self.read == self.header.keys
                    && body.try_get_u32_le() == Ok(sum);
                if !is_whole {
                    return Err(self.damaged("frames are missing"));
                }
                match self.file.read(&mut [0]) {
                    Ok(0) => Ok(None),
                    Ok(_) => Err(self.damaged("something follows the end")),
                    Err(e) => Err(file_error("reading", &self.path, e)),
                }
            }
            _ => Err(self.damaged("unknown frame")),
        }
    }
}

fn header(mut body: Bytes) -> Option<Header> {
    if body.try_get_u8() != Ok(HEADER) {
        return None;
    }
    Some(Header {
        revision: body.try_get_u64_le().ok()?,
        keys: body.try_get_u64_le().ok()?,
        saved_at: body.try_get_i64_le().ok()?,
        cluster: String::from_utf8(body.to_vec()).ok()?,
    })
}

fn entries(mut body: Bytes) -> Option<Vec<Entry>> {
    let mut out = Vec::new();
    while body.has_remaining() {
        let seconds = body.try_get_u32_le().ok()?;
        let (k, v) = (
            body.try_get_u32_le().ok()? as usize,
            body.try_get_u32_le().ok()? as usize,
        );
        if body.len() < k.checked_add(v)? {
            return None;
        }
        out.push(Entry {
            key: body.split_to(k),
            value: body.split_to(v),
            seconds_left: (seconds > 0).then_some(seconds),
        });
    }
    Some(out)
}
