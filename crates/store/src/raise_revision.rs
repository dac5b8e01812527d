//! Raising a store's revision by writing: the one way where every write is one revision.

use bytes::Bytes;
use futures::future::try_join_all;

use crate::contract::{Op, Outcome, Result, Revision, Store, StoreError, Txn};

/// Writes under way at once: enough for full groups at each sync.
const WRITERS: usize = 128;
/// More than this is refused: at some thousands a second it takes half an hour.
const MOST_WRITES: Revision = 10_000_000;
/// Revisions after which the past ones are forgotten, so that they fill no disk.
const COMPACT_EVERY: Revision = 100_000;
/// Failures of one writer in a row: each waits some seconds by itself.
const TRIES: usize = 5;

fn key() -> Bytes {
    [crate::contract::PRIVATE_PREFIX, b"raise"].concat().into()
}

async fn commit<S: Store + ?Sized>(store: &S, op: Op) -> Result<Revision> {
    let txn = Txn {
        compare: Vec::new(),
        ops: vec![op],
    };
    match store.commit(txn).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Refused(_) => Err(StoreError::Corrupt(
            "it refuses what compares nothing".into(),
        )),
    }
}

/// See [`Store::raise`].
pub async fn by_writes<S: Store + ?Sized>(store: &S, to: Revision) -> Result<Revision> {
    let start = store.revision().await?;
    if start >= to {
        return Ok(start);
    }
    if to - start > MOST_WRITES {
        return Err(StoreError::Invalid(format!(
            "raising the revision from {start} to {to} takes more than {MOST_WRITES} writes"
        )));
    }
    tracing::info!(
        from = start,
        to,
        "raising the revision, with one write for each"
    );
    let mut at = start;
    while at < to {
        let next = to.min(at + COMPACT_EVERY);
        try_join_all((0..WRITERS).map(|_| write_until(store, next))).await?;
        at = store.revision().await?;
        store.compact(at).await?;
    }
    let end = commit(store, Op::Delete { key: key() }).await?;
    store.compact(end).await?;
    Ok(end)
}

async fn write_until<S: Store + ?Sized>(store: &S, to: Revision) -> Result<()> {
    let (mut at, mut failures) = (0, 0);
    while at < to {
        let put = Op::Put {
            key: key(),
            value: Bytes::new(),
            expires_after_seconds: None,
        };
        match commit(store, put).await {
            Ok(revision) => (at, failures) = (revision, 0),
            Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) if failures < TRIES => {
                failures += 1;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
