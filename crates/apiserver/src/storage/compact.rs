//! Compaction of a store that several servers share: every few minutes one of them forgets what
//! is older than that. Which one is decided as upstream's servers do among themselves: by
//! compare-and-swap of a key that holds the revision of the last compaction, so that both kinds of
//! server can share one etcd.

use std::time::Duration;

use bytes::Bytes;
use store::{Compare, Op, Outcome, Result, Revision, Store, Txn};
use tokio_util::sync::CancellationToken;

/// Upstream's key, outside of `/registry/`.
pub const KEY: &str = "compact_rev_key";

/// What one server knows of the compactions: the key's revision when it last looked, and the
/// store's revision then, which is the next one to compact to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownCompaction {
    key: Revision,
    store: Revision,
}

/// Compacts every `interval`, to the revision of one interval ago, unless another server did.
pub async fn run(store: &dyn Store, interval: Duration, stop: CancellationToken) {
    let mut seen = KnownCompaction::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        match once(store, seen).await {
            Ok(now) => seen = now,
            Err(e) => tracing::warn!("compaction: {e}"),
        }
    }
}

/// One turn: the swap succeeds for the one server that saw the key as it is.
pub async fn once(store: &dyn Store, seen: KnownCompaction) -> Result<KnownCompaction> {
    let key = Bytes::from_static(KEY.as_bytes());
    let txn = Txn {
        compare: vec![Compare::ModRevision(key.clone(), seen.key)],
        ops: vec![Op::Put {
            key,
            value: seen.store.to_string().into(),
            expires_after_seconds: None,
        }],
    };
    match store.commit(txn).await? {
        Outcome::Committed(now) => {
            // The first turn only notes where the store is.
            if seen.store > 0 {
                store.compact(seen.store).await?;
                tracing::debug!("compacted to revision {}", seen.store);
            }
            Ok(KnownCompaction {
                key: now,
                store: now,
            })
        }
        Outcome::Refused(found) => Ok(KnownCompaction {
            key: found
                .into_iter()
                .next()
                .flatten()
                .map_or(0, |kv| kv.mod_revision),
            store: store.revision().await?,
        }),
    }
}
