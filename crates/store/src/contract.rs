//! What every store promises, and the words for it: transactions, revisions, events, errors.

use std::collections::HashMap;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::raise_revision;

/// The one place for keys that no Kubernetes API server knows: outside of `/registry/`, which is
/// all that one reads. `docs/storage-layout.md` lists them. The store itself writes `restore` and
/// `raise` there, while it restores a backup.
pub const PRIVATE_PREFIX: &[u8] = b"/tiphys/";

/// A revision of the whole store; the API's resourceVersion. 0 is "before anything".
pub type Revision = u64;

/// A live value with the revisions that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// 1 at creation, counted up by each change.
    pub version: u64,
}

/// What must hold for a transaction to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key's mod revision; 0 demands that it does not exist.
    ModRevision(Bytes, Revision),
    /// The key exists, whatever its revision.
    Exists(Bytes),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// `expires_after_seconds`: the value is deleted by the store after that time (Events);
    /// counted from the commit, restarted by a later put.
    Put {
        key: Bytes,
        value: Bytes,
        expires_after_seconds: Option<u32>,
    },
    Delete {
        key: Bytes,
    },
}

/// A transaction: all operations at one revision, or none. Each key at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub ops: Vec<Op>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Durable; every operation has this revision. A transaction whose deletes find nothing and
    /// that puts nothing has the store's current revision.
    Committed(Revision),
    /// A comparison failed; nothing was written. The keys compared, as they are.
    Refused(Vec<Option<KeyValue>>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangePage {
    pub items: Vec<KeyValue>,
    /// More keys follow the last one.
    pub more: bool,
    /// Live keys left after this page.
    pub remaining: u64,
    /// The revision at which the page was read.
    pub revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// For a deletion: the key, an empty value and the deletion's revision as `mod_revision`.
    pub kv: KeyValue,
    /// The value before, when there was one and it is not compacted.
    pub prev: Option<KeyValue>,
}

/// All events of one revision, or progress without events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub revision: Revision,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("revision {asked} is compacted; the oldest readable one is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future; the current one is {current}")]
    Future { asked: Revision, current: Revision },
    #[error("value of {bytes} bytes is over the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    /// Writes are refused until space returns; reads go on.
    #[error("no space left for writes: {0}")]
    NoSpace(String),
    /// Nothing was written; another try may succeed.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// Whether a write was applied is not known; it may even be applied later. Whoever needs to
    /// know reads again.
    #[error("the outcome of a write is unknown: {0}")]
    Unknown(String),
    /// No store could take this transaction as it is.
    #[error("invalid transaction: {0}")]
    Invalid(String),
    #[error("store is corrupt: {0}")]
    Corrupt(String),
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A stream of [`Batch`]es in revision order, without gaps. Falling too far behind ends it with
/// [`StoreError::Compacted`]: the reader lists again.
pub type WatchStream = futures::stream::BoxStream<'static, Result<Batch>>;

/// The store as the API server sees it.
pub trait Store: Send + Sync + 'static {
    /// Applies a transaction; returns after it is durable (fsync, by group).
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>>;
    /// One key, at a revision or (0) now.
    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>>;
    /// Keys with `prefix`, from `start` (inclusive, at least the prefix) in key order; `limit` 0
    /// for all; at a revision or (0) now.
    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>>;
    /// The keys that [`Store::range`] finds, each with its mod revision; none where none follow. For
    /// comparisons: values are not looked at.
    fn revisions(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<Vec<(Bytes, Revision)>>> {
        Box::pin(async move {
            let page = self.range(prefix, start, limit, at).await?;
            let items = page.items.into_iter();
            Ok(items.map(|kv| (kv.key, kv.mod_revision)).collect())
        })
    }
    /// Changes under `prefix` after revision `after` (exclusive).
    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>>;
    /// The newest durable revision (linearizable).
    fn revision(&self) -> BoxFuture<'_, Result<Revision>>;
    /// Forgets versions older than `before`.
    fn compact(&self, before: Revision) -> BoxFuture<'_, Result<()>>;
    /// Whether a key's value lies there otherwise than it would be written now: in an older form, or
    /// not encrypted as it is to be. Never in a store that keeps values as they are.
    fn is_outdated(&self, key: Bytes) -> BoxFuture<'_, Result<bool>> {
        let _ = key;
        Box::pin(std::future::ready(Ok(false)))
    }
    /// Bytes that the store takes on its disk; none where it has no disk of its own.
    fn disk_bytes(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    /// Live keys that expire, with the whole seconds that each has left. For backups: it may
    /// read all keys.
    fn expiries(&self) -> BoxFuture<'_, Result<HashMap<Bytes, u32>>>;
    /// Makes the newest revision at least `to`, so that all later ones are above, and forgets
    /// the versions before; returns the newest revision. For restoring: nobody else writes. A
    /// store that cannot jump writes once for each revision; millions of them are refused with
    /// [`StoreError::Invalid`], with nothing written.
    fn raise(&self, to: Revision) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(raise_revision::by_writes(self, to))
    }
}
