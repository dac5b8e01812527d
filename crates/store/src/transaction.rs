//! What a transaction does to the state that it meets: whether it may, and the events that come of
//! it. Pure; the engine's writer and the store in memory decide by it.

use bytes::Bytes;

use crate::contract::{
    Batch, Compare, Event, EventKind, KeyValue, Op, Outcome, Result, Revision, StoreError, Txn,
};

/// Largest value in bytes: the API's largest body, 3 MiB. etcd's is 1.5 MiB.
pub const VALUE_BYTES: usize = 3 << 20;

/// An operation as it is logged: expiry is a point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Logged {
    Put {
        key: Bytes,
        value: Bytes,
        deadline: i64,
    },
    Delete {
        key: Bytes,
    },
}

impl Logged {
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// What no state could make right: a value over `limit` bytes, a key that is named twice.
pub fn check(txn: &Txn, limit: usize) -> Result<()> {
    let mut keys: Vec<&Bytes> = Vec::with_capacity(txn.ops.len());
    for op in &txn.ops {
        let (Op::Put { key, .. } | Op::Delete { key }) = op;
        keys.push(key);
        if let Op::Put { value, .. } = op
            && value.len() > limit
        {
            return Err(StoreError::TooLarge {
                bytes: value.len(),
                limit,
            });
        }
    }
    keys.sort();
    if keys.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(StoreError::Invalid("it names a key twice".into()));
    }
    Ok(())
}

/// The answer to a transaction of which a comparison fails.
pub fn refusal(
    compare: &[Compare],
    current: &impl Fn(&[u8]) -> Option<KeyValue>,
) -> Option<Outcome> {
    let holds = |c: &Compare| match c {
        Compare::ModRevision(key, wanted) => {
            current(key).map_or(0, |kv| kv.mod_revision) == *wanted
        }
        Compare::Exists(key) => current(key).is_some(),
    };
    if compare.iter().all(holds) {
        return None;
    }
    let key = |c: &Compare| match c {
        Compare::ModRevision(key, _) | Compare::Exists(key) => current(key),
    };
    Some(Outcome::Refused(compare.iter().map(key).collect()))
}

/// The operations of a transaction as they are logged.
pub fn logged(ops: Vec<Op>, now: i64) -> Vec<Logged> {
    ops.into_iter()
        .map(|op| match op {
            Op::Put {
                key,
                value,
                expires_after_seconds,
            } => Logged::Put {
                key,
                value,
                deadline: expires_after_seconds.map_or(0, |s| now + i64::from(s)),
            },
            Op::Delete { key } => Logged::Delete { key },
        })
        .collect()
}

/// The events of a transaction, given what was before it.
pub fn batch_of(
    revision: Revision,
    ops: &[Logged],
    before: impl Fn(&[u8]) -> Option<KeyValue>,
) -> Batch {
    let event = |op: &Logged| match op {
        Logged::Put { key, value, .. } => {
            let prev = before(key);
            let kv = KeyValue {
                key: key.clone(),
                value: value.clone(),
                create_revision: prev.as_ref().map_or(revision, |p| p.create_revision),
                mod_revision: revision,
                version: prev.as_ref().map_or(1, |p| p.version + 1),
            };
            Some(Event {
                kind: EventKind::Put,
                kv,
                prev,
            })
        }
        Logged::Delete { key } => {
            let prev = before(key)?;
            let kv = KeyValue {
                key: key.clone(),
                value: Bytes::new(),
                create_revision: 0,
                mod_revision: revision,
                version: 0,
            };
            Some(Event {
                kind: EventKind::Delete,
                kv,
                prev: Some(prev),
            })
        }
    };
    // Most batches have one event; growing by need would make room for four.
    let mut events = Vec::with_capacity(ops.len());
    events.extend(ops.iter().filter_map(event));
    Batch { revision, events }
}
