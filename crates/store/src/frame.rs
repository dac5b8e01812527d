//! A frame: bytes under one checksum, in the log, in snapshots and in backups. It knows nothing
//! of its body.
//!
//! Body length u32, crc32 of the body u32, crc32 of those eight bytes u32, body; little-endian.

use bytes::{Buf, BufMut, Bytes};

/// Bytes before a frame's body.
pub const HEAD: usize = 12;

/// A frame around a body.
pub fn of(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + body.len());
    out.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
    out.put_u32_le(crc32fast::hash(body));
    out.put_u32_le(crc32fast::hash(&out[..8]));
    out.put_slice(body);
    out
}

/// The length of the body and its checksum, when the head is intact.
fn head(data: &[u8]) -> Option<(usize, u32)> {
    let mut head = data.get(..HEAD)?;
    let sum = crc32fast::hash(head.get(..8)?);
    let (length, crc) = (head.get_u32_le() as usize, head.get_u32_le());
    (head.get_u32_le() == sum).then_some((length, crc))
}

/// The length of the body of the frame at the start of `data`, when the frame's head is intact.
pub fn length(data: &[u8]) -> Option<usize> {
    head(data).map(|(length, _)| length)
}

/// The body of a valid frame at the start of `data`, without copying.
pub fn body_at(data: &Bytes) -> Option<Bytes> {
    let (length, crc) = head(data)?;
    let body = data.get(HEAD..HEAD.checked_add(length)?)?;
    (crc32fast::hash(body) == crc).then(|| data.slice(HEAD..HEAD + length))
}
