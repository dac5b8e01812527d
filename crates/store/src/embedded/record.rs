//! Bytes of the log: a frame (`frame.rs`) holds a group of transactions under one checksum, so
//! that a group that was torn by a crash is one torn frame, never a hole between whole ones.
//!
//! Body: transactions, each revision u64, number of operations u32, operations.
//! Operation: tag u8 (0 delete, 1 put), deadline i64 (seconds since the epoch, 0 none), key
//! length u32, value length u32, key, value. All little-endian. A transaction without operations
//! raises the revision, which no other can do by more than one.

use bytes::{Buf, BufMut, Bytes};

use crate::contract::Revision;
use crate::transaction::Logged;

/// Adds one transaction to a frame's body.
pub fn put_txn(body: &mut Vec<u8>, revision: Revision, ops: &[Logged]) {
    body.put_u64_le(revision);
    body.put_u32_le(u32::try_from(ops.len()).unwrap_or(u32::MAX));
    for op in ops {
        let (tag, key, value, deadline) = match op {
            Logged::Put {
                key,
                value,
                deadline,
            } => (1, key, &value[..], *deadline),
            Logged::Delete { key } => (0, key, &[][..], 0),
        };
        body.put_u8(tag);
        body.put_i64_le(deadline);
        body.put_u32_le(u32::try_from(key.len()).unwrap_or(u32::MAX));
        body.put_u32_le(u32::try_from(value.len()).unwrap_or(u32::MAX));
        body.put_slice(key);
        body.put_slice(value);
    }
}

/// The transactions of a body; `None` when it is not well formed. Keys and values are copies, so
/// that one live value does not hold its whole segment in memory.
pub fn txns(mut body: Bytes) -> Option<Vec<(Revision, Vec<Logged>)>> {
    let mut out = Vec::new();
    while body.has_remaining() {
        let revision = body.try_get_u64_le().ok()?;
        let count = body.try_get_u32_le().ok()?;
        let mut ops = Vec::new();
        for _ in 0..count {
            ops.push(op(&mut body)?);
        }
        out.push((revision, ops));
    }
    Some(out)
}

fn op(body: &mut Bytes) -> Option<Logged> {
    let tag = body.try_get_u8().ok()?;
    let deadline = body.try_get_i64_le().ok()?;
    let (k, v) = (
        body.try_get_u32_le().ok()? as usize,
        body.try_get_u32_le().ok()? as usize,
    );
    if body.len() < k.checked_add(v)? {
        return None;
    }
    let key = Bytes::copy_from_slice(&body.split_to(k));
    let value = Bytes::copy_from_slice(&body.split_to(v));
    match tag {
        1 => Some(Logged::Put {
            key,
            value,
            deadline,
        }),
        0 => Some(Logged::Delete { key }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{self, body_at};

    proptest! {
        #[test]
        fn frames_round_trip_and_damage_is_seen(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..5),
            at in any::<prop::sample::Index>(),
        ) {
            let ops: Vec<Logged> = values
                .into_iter()
                .enumerate()
                .map(|(i, value)| match i % 2 {
                    0 => Logged::Put { key: format!("k{i}").into(), value: value.into(), deadline: 7 },
                    _ => Logged::Delete { key: format!("k{i}").into() },
                })
                .collect();
            let mut body = Vec::new();
            put_txn(&mut body, 9, &ops);
            put_txn(&mut body, 10, &ops);
            let mut data = frame::of(&body);
            let read = body_at(&Bytes::from(data.clone())).and_then(txns);
            prop_assert_eq!(read, Some(vec![(9, ops.clone()), (10, ops)]));
            let i = at.index(data.len());
            data[i] ^= 0x10;
            prop_assert_eq!(body_at(&Bytes::from(data.clone())), None);
            data.truncate(i);
            prop_assert_eq!(body_at(&Bytes::from(data)), None);
        }
    }
}
