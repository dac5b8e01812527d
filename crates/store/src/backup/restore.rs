//! A backup into an empty store. A marker under a key of our own is written first and removed
//! last; every transaction in between compares it. So a restore that is cut off is known as such
//! and can be begun again, and two restores cannot mix.

use std::path::Path;

use bytes::Bytes;

use super::file::{Entry, Reader};
use super::{BackupError, Header, Keys, Result, marker, off_the_runtime, status};
use crate::contract::{Compare, Op, Outcome, Revision, Store, StoreError, Txn};

/// How far above the backup's revision a store is raised, unless asked otherwise: clients may have
/// seen revisions that were given out after the backup. An hour of 27 writes a second.
pub const MARGIN: Revision = 100_000;

/// Operations in one transaction: below etcd's default limit of 128.
const TXN_OPS: usize = 100;
/// Bytes in one transaction, unless one value is larger: below etcd's default limit of 1.5 MiB.
const TXN_BYTES: usize = 512 << 10;
/// Tries of a transaction that may be applied twice without harm: members come back meanwhile,
/// and each try waits some seconds by itself.
const TRIES: usize = 5;

/// What a restore has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub header: Header,
    /// The store's revision now; every value's is above `header.revision` plus the margin.
    pub revision: Revision,
}

/// Restores a backup, once all of it was checked, into a store that is empty (but for a restore
/// that was cut off, whose part is removed). Every revision that the store gives from now on is
/// above the backup's plus `margin` ([`MARGIN`] if nothing better is known). With etcd that takes
/// one write for each revision; beyond some millions it is refused, with nothing written.
///
/// Values that expire get the time that they had left when the backup was made.
pub async fn restore(store: &dyn Store, path: &Path, margin: Revision) -> Result<Restored> {
    restore_counted(store, path, margin, &Keys::default()).await
}

/// As [`restore`], and says meanwhile how far it is.
///
/// # Errors
/// As [`restore`].
pub async fn restore_counted(
    store: &dyn Store,
    path: &Path,
    margin: Revision,
    keys: &Keys,
) -> Result<Restored> {
    let from = path.to_owned();
    let header = off_the_runtime(move || status(&from)).await?;
    keys.begin(header.keys);
    let fence = begin(store, &header).await?;
    if let Err(e) = store.raise(header.revision.saturating_add(margin)).await {
        // Nothing of the backup is there yet.
        let _ = commit(store, &fence, vec![Op::Delete { key: marker() }]).await;
        return Err(e.into());
    }
    let from = path.to_owned();
    let mut reader = off_the_runtime(move || Reader::open(&from)).await?;
    loop {
        let (entries, rest) = off_the_runtime(move || Ok((reader.next()?, reader))).await?;
        let Some(entries) = entries else { break };
        for ops in transactions(entries) {
            let copied = ops.len();
            write(store, &fence, ops).await?;
            keys.copied(copied);
        }
        reader = rest;
    }
    store.compact(store.revision().await?).await?;
    let revision = commit(store, &fence, vec![Op::Delete { key: marker() }]).await?;
    Ok(Restored { header, revision })
}

/// Claims the store: the comparison that holds as long as nobody else restores into it.
async fn begin(store: &dyn Store, header: &Header) -> Result<Compare> {
    let before = store.get(marker(), 0).await?;
    if before.is_none() {
        must_hold(store, 0).await?;
    }
    let guard = Compare::ModRevision(marker(), before.as_ref().map_or(0, |kv| kv.mod_revision));
    let put = Op::Put {
        key: marker(),
        value: format!("revision {} of {}", header.revision, header.cluster).into(),
        expires_after_seconds: None,
    };
    let revision = commit(store, &guard, vec![put]).await?;
    let fence = Compare::ModRevision(marker(), revision);
    match before {
        Some(_) => wipe(store, &fence).await?,
        // What was written between look and claim is not ours to remove.
        None => {
            if let Err(e) = must_hold(store, 1).await {
                commit(store, &fence, vec![Op::Delete { key: marker() }]).await?;
                return Err(e);
            }
        }
    }
    Ok(fence)
}

async fn must_hold(store: &dyn Store, keys: u64) -> Result<()> {
    let page = store.range(Bytes::new(), Bytes::new(), 1, 0).await?;
    let found = page.items.len() as u64 + page.remaining;
    if found == keys {
        return Ok(());
    }
    Err(BackupError::NotEmpty {
        keys: found - keys.min(found),
        revision: page.revision,
    })
}

/// Removes what a restore that was cut off has left.
async fn wipe(store: &dyn Store, fence: &Compare) -> Result<()> {
    let mut start = Bytes::new();
    loop {
        let page = store.range(Bytes::new(), start, TXN_OPS, 0).await?;
        let next = super::after(&page);
        let keys = page.items.into_iter().map(|kv| kv.key);
        let ops: Vec<Op> = keys
            .filter(|key| *key != marker())
            .map(|key| Op::Delete { key })
            .collect();
        write(store, fence, ops).await?;
        match next {
            Some(next) => start = next,
            None => return Ok(()),
        }
    }
}

/// Cuts values into transactions that every store takes.
fn transactions(entries: Vec<Entry>) -> Vec<Vec<Op>> {
    let mut out: Vec<Vec<Op>> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let size = entry.key.len() + entry.value.len();
        let op = Op::Put {
            key: entry.key,
            value: entry.value,
            expires_after_seconds: entry.seconds_left,
        };
        match out.last_mut() {
            Some(last) if last.len() < TXN_OPS && bytes + size <= TXN_BYTES => {
                last.push(op);
                bytes += size;
            }
            _ => {
                out.push(vec![op]);
                bytes = size;
            }
        }
    }
    out
}

/// Applies operations that may be applied twice without harm.
async fn write(store: &dyn Store, fence: &Compare, ops: Vec<Op>) -> Result<()> {
    let mut tries = 1;
    loop {
        match commit(store, fence, ops.clone()).await {
            Ok(_) => return Ok(()),
            Err(BackupError::Store(StoreError::Unavailable(_) | StoreError::Unknown(_)))
                if tries < TRIES =>
            {
                tries += 1;
            }
            Err(BackupError::Store(source @ StoreError::TooLarge { .. })) => {
                return Err(BackupError::Value {
                    key: largest(&ops),
                    source,
                });
            }
            Err(e) => return Err(e),
        }
    }
}

fn largest(ops: &[Op]) -> String {
    let size = |op: &&Op| match op {
        Op::Put { value, .. } => value.len(),
        Op::Delete { .. } => 0,
    };
    match ops.iter().max_by_key(size) {
        Some(Op::Put { key, .. } | Op::Delete { key }) => String::from_utf8_lossy(key).into_owned(),
        None => String::new(),
    }
}

async fn commit(store: &dyn Store, guard: &Compare, ops: Vec<Op>) -> Result<Revision> {
    let txn = Txn {
        compare: vec![guard.clone()],
        ops,
    };
    match store.commit(txn).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Refused(_) => Err(BackupError::Disturbed),
    }
}
