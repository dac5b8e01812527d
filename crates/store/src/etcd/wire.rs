//! etcd's numbers, keys and values as ours, and ours as etcd's.

use bytes::Bytes;

use super::proto;
use crate::contract::{KeyValue, Revision};

/// etcd's own default for `--max-request-bytes`; a server's may differ, and its answer counts.
pub const REQUEST_BYTES: usize = 1536 << 10;

/// A revision as etcd's signed number.
pub fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// A revision or count of etcd's as ours: they are never negative.
pub fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

pub fn key_value(kv: proto::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key.into(),
        value: kv.value.into(),
        create_revision: unsigned(kv.create_revision),
        mod_revision: unsigned(kv.mod_revision),
        version: unsigned(kv.version),
    }
}

/// The first key behind all keys with the prefix; "\0" stands for the end of all keys.
pub fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_behind_all_of_its_keys() {
        assert_eq!(end_of(b"/registry/"), "/registry0");
        assert_eq!(end_of(b"a\xff\xff"), "b");
        assert_eq!(end_of(b"\xff"), "\0");
        assert_eq!(end_of(b""), "\0");
    }
}
