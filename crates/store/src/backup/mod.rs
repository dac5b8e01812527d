//! Backups: all live keys of one revision in a checksummed file, and back into an empty store.
//! It knows the trait alone: a backup of either store is restored into either; values are copied
//! as the given store shows them. It does not know what the values mean.
//!
//! Revisions never go back: a restore first raises the store's revision above the backup's, so
//! that every restored value has a newer revision than any client can have seen of it, and then
//! compacts, so that a client that resumes from before has to list again.

mod file;
mod restore;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::contract::{RangePage, Revision, Store, StoreError};
use file::{Entry, Reader, Writer};
pub use restore::{MARGIN, Restored, restore, restore_counted};

/// Keys in one page of a save: about 2 MB of usual objects.
const PAGE_KEYS: usize = 1000;
/// A save begins again when its revision was compacted on the way; the last time it takes
/// everything in one read, which the embedded store answers without a copy.
const ATTEMPTS: usize = 3;

/// Present while a restore is under way, and left behind by one that was cut off.
pub(crate) fn marker() -> Bytes {
    [crate::contract::PRIVATE_PREFIX, b"restore"]
        .concat()
        .into()
}

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The revision of which it holds all live keys.
    pub revision: Revision,
    pub keys: u64,
    /// The name of the cluster, as it was given when the backup was made.
    pub cluster: String,
    /// Seconds since the epoch.
    pub saved_at: i64,
}

/// How far a backup or a restore is, for whoever shows it meanwhile.
#[derive(Debug, Default)]
pub struct Keys {
    done: AtomicU64,
    all: AtomicU64,
}

impl Keys {
    /// Keys that have been copied, of how many; 0 before that is known.
    pub fn so_far(&self) -> (u64, u64) {
        let of = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (of(&self.done), of(&self.all))
    }
    /// It begins, maybe once more.
    fn begin(&self, all: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.all.store(all, Ordering::Relaxed);
    }
    fn copied(&self, keys: usize) {
        self.done.fetch_add(keys as u64, Ordering::Relaxed);
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    #[error("{what} {}: {source}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// Not a backup, or not a whole one. Nothing was restored from it.
    #[error("the backup {} is damaged at offset {offset}: {why}", path.display())]
    Damaged {
        path: PathBuf,
        offset: u64,
        why: &'static str,
    },
    /// A restore needs an empty store. Nothing was written.
    #[error("the store is not empty: it holds {keys} keys at revision {revision}")]
    NotEmpty { keys: u64, revision: Revision },
    /// What the store holds is a part of a backup: restore again, which begins again.
    #[error("the store holds an unfinished restore")]
    Unfinished,
    /// Another restore, or a server, has taken this one's place.
    #[error("somebody else writes to the store that is being restored")]
    Disturbed,
    #[error("the value of {key}: {source}")]
    Value { key: String, source: StoreError },
}

pub type Result<T, E = BackupError> = std::result::Result<T, E>;

/// Writes all live keys of the newest revision to a file, whole or not at all; what `path` names
/// is replaced. Writers go on. `cluster` names the cluster for whoever restores, and `saved_at` the
/// time, in seconds since 1970.
/// The file holds the store's secrets and is readable by its owner alone.
pub async fn save(store: &dyn Store, path: &Path, cluster: &str, saved_at: i64) -> Result<Header> {
    save_counted(store, path, (cluster, saved_at), &Keys::default()).await
}

/// As [`save`], and says meanwhile how far it is.
///
/// # Errors
/// As [`save`].
pub async fn save_counted(
    store: &dyn Store,
    path: &Path,
    about: (&str, i64),
    keys: &Keys,
) -> Result<Header> {
    if is_unfinished(store).await? {
        return Err(BackupError::Unfinished);
    }
    let mut attempt = 1;
    loop {
        let limit = if attempt < ATTEMPTS { PAGE_KEYS } else { 0 };
        match save_once(store, path, about, (limit, keys)).await {
            Err(BackupError::Store(StoreError::Compacted { .. })) if attempt < ATTEMPTS => {
                tracing::info!("the backup's revision was compacted; it begins again");
                attempt += 1;
            }
            done => return done,
        }
    }
}

async fn save_once(
    store: &dyn Store,
    path: &Path,
    (cluster, saved_at): (&str, i64),
    (limit, keys): (usize, &Keys),
) -> Result<Header> {
    // Before the values: what expires in between is then not there, or has a little too much.
    let expiries = store.expiries().await?;
    let mut page = store.range(Bytes::new(), Bytes::new(), limit, 0).await?;
    let header = Header {
        revision: page.revision,
        keys: page.items.len() as u64 + page.remaining,
        cluster: cluster.to_owned(),
        saved_at,
    };
    keys.begin(header.keys);
    let (to, head) = (path.to_owned(), header.clone());
    let mut writer = off_the_runtime(move || Writer::create(&to, &head)).await?;
    loop {
        let next = after(&page);
        let entries: Vec<Entry> = page
            .items
            .into_iter()
            .map(|kv| Entry {
                // A part of a second is left of what has 0.
                seconds_left: expiries.get(&kv.key).map(|s| (*s).max(1)),
                key: kv.key,
                value: kv.value,
            })
            .collect();
        let copied = entries.len();
        writer = off_the_runtime(move || writer.write(&entries)).await?;
        keys.copied(copied);
        let Some(start) = next else { break };
        page = store
            .range(Bytes::new(), start, limit, header.revision)
            .await?;
    }
    off_the_runtime(move || writer.finish()).await?;
    Ok(header)
}

/// Where the page after this one starts.
fn after(page: &RangePage) -> Option<Bytes> {
    let last = page.items.last().filter(|_| page.more)?;
    Some([&last.key[..], b"\0"].concat().into())
}

/// Reads a backup to its end and checks all of it.
pub fn status(path: &Path) -> Result<Header> {
    let mut reader = Reader::open(path)?;
    while reader.next()?.is_some() {}
    Ok(reader.header().clone())
}

/// Whether a restore was begun in this store and did not end: then what it holds is a part.
pub async fn is_unfinished(store: &dyn Store) -> Result<bool> {
    Ok(store.get(marker(), 0).await?.is_some())
}

/// Files block; a server's other tasks go on meanwhile.
#[expect(
    clippy::disallowed_methods,
    reason = "a backup is a file, and files block"
)]
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Unavailable("the runtime ends".into()).into()),
    }
}
