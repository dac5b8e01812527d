//! Encryption at rest: a store over another one, whose values of some resources are encrypted
//! below and plain above. Which, how and with which keys is a [`Vault`]'s to say; its keys may
//! change while the server runs, also by what another server does.
//!
//! Servers that share keys have a record in the store that changes with them. Each encrypted write
//! compares its revision: so nothing is written with a key after another server has begun to
//! replace it, however late that is noticed here.

pub mod config;
pub mod kms;
pub mod provider;
pub mod ring;
mod rotate;
pub mod rules;

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::future::join_all;
use futures::{StreamExt, stream};
use store::{
    Batch, Compare, Event, EventKind, KeyValue, Layer, Op, Outcome, PRIVATE_PREFIX, RangePage,
    Result, Revision, Store, StoreError, Txn, WatchStream,
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use kms::Kms;
use provider::{CipherError, ENCRYPTED, unknown};
use ring::Ring;
pub use rotate::{RotateError, Rotated};
use rules::Rules;

/// A write that meets changes of keys again and again is given up; a change takes seconds.
const ATTEMPTS: usize = 5;

/// The record that changes with the keys of this cluster.
pub fn record() -> Bytes {
    [PRIVATE_PREFIX, b"encryption"].concat().into()
}

/// The keys of a cluster, with the revision of their record.
pub struct RecordedKeys {
    pub ring: Ring,
    pub revision: Revision,
}

/// Where the keys of a cluster are kept.
pub trait Keeper: Send + Sync + 'static {
    /// The keys as they are, made if there are none.
    fn load(&self) -> BoxFuture<'_, Result<RecordedKeys, String>>;
    /// Replaces the keys that were kept at a revision; whether nobody else was faster.
    fn replace(&self, ring: Ring, seen: Revision) -> BoxFuture<'_, Result<bool, String>>;
}

/// Why other rules do not hold.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("the keys are the cluster's own")]
    OwnKeys,
    #[error(transparent)]
    Service(#[from] CipherError),
    #[error(transparent)]
    Unreadable(#[from] RotateError),
}

/// Rules that hold now.
struct Loaded {
    rules: Rules,
    /// The revision of the record that they belong to.
    record: Option<Revision>,
    /// Keys that are kept only to read with.
    old_keys: usize,
}

/// What is encrypted, how, and with which keys.
pub struct Vault {
    now: ArcSwap<Loaded>,
    keeper: Option<Arc<dyn Keeper>>,
    /// Whether a file's rules are exchanged while the server runs.
    is_followed: bool,
    /// Held while keys are read again.
    changing: Mutex<()>,
    /// Held while keys are replaced.
    rotating: Mutex<()>,
}

impl Vault {
    /// Rules that a file gives. Services that keep keys are asked for theirs.
    pub async fn of_file(rules: Rules) -> Result<Self, CipherError> {
        for kms in rules.services() {
            kms.refresh().await?;
        }
        let loaded = Loaded {
            rules,
            record: None,
            old_keys: 0,
        };
        Ok(Self {
            now: ArcSwap::from_pointee(loaded),
            keeper: None,
            is_followed: false,
            changing: Mutex::default(),
            rotating: Mutex::default(),
        })
    }

    /// With rules that are exchanged when their file changes.
    #[must_use]
    pub fn followed(self) -> Self {
        Self {
            is_followed: true,
            ..self
        }
    }

    /// Whether its rules are a file's, and not the cluster's own keys.
    fn is_of_file(&self) -> bool {
        self.keeper.is_none()
    }

    /// The services that keep keys, by the rules that hold.
    fn services(&self) -> Vec<Arc<Kms>> {
        self.now.load().rules.services()
    }

    /// Secrets, with keys that the cluster keeps.
    pub async fn of_cluster(keeper: Arc<dyn Keeper>) -> Result<Self, String> {
        let loaded = Loaded::of(&keeper.load().await?)?;
        Ok(Self {
            now: ArcSwap::from_pointee(loaded),
            keeper: Some(keeper),
            is_followed: false,
            changing: Mutex::default(),
            rotating: Mutex::default(),
        })
    }

    /// Reads the keys again, unless they are those of the record's revision; whether they changed.
    async fn reload(&self, below: &dyn Store) -> Result<bool, String> {
        let Some(keeper) = &self.keeper else {
            return Ok(false);
        };
        let _changing = self.changing.lock().await;
        let found = below.get(record(), 0).await.map_err(|e| e.to_string())?;
        if found.map(|kv| kv.mod_revision) == self.now.load().record {
            return Ok(false);
        }
        let loaded = Loaded::of(&keeper.load().await?)?;
        self.now.store(Arc::new(loaded));
        Ok(true)
    }
}

impl Loaded {
    fn of(kept: &RecordedKeys) -> Result<Self, String> {
        Ok(Self {
            rules: kept.ring.rules()?,
            record: Some(kept.revision),
            old_keys: kept.ring.len().saturating_sub(1),
        })
    }
}

/// See the module.
#[derive(Clone)]
pub struct Encrypted {
    inner: Arc<dyn Store>,
    vault: Arc<Vault>,
}

impl Encrypted {
    pub fn new(inner: Arc<dyn Store>, vault: Vault) -> Self {
        Self {
            inner,
            vault: Arc::new(vault),
        }
    }

    /// Puts a file's next rules into effect. They must be able to read all that is stored, as at a
    /// start; what somebody writes at this very moment is still written by the rules before, which
    /// is why a key is taken out of the file only when nothing is written with it any more.
    ///
    /// # Errors
    /// A service that keeps keys does not answer, or a value cannot be read by the next rules: those
    /// that hold go on to.
    pub async fn exchange(&self, rules: Rules) -> Result<(), ExchangeError> {
        if !self.vault.is_of_file() {
            return Err(ExchangeError::OwnKeys);
        }
        let next = Self::new(self.inner.clone(), Vault::of_file(rules).await?);
        next.check().await?;
        self.vault.now.store(next.vault.now.load_full());
        Ok(())
    }

    /// Follows the keys of services by the rules that hold, whichever those are, until `stop`.
    pub async fn follow_services(&self, stop: CancellationToken) {
        let mut wait = kms::ASK_EVERY;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let services = self.vault.services();
            let asked = join_all(services.iter().map(|kms| kms.refresh())).await;
            wait = kms::ASK_EVERY;
            for failed in asked.into_iter().filter_map(Result::err) {
                tracing::error!("{failed}");
                wait = kms::ASK_AGAIN;
            }
        }
    }

    async fn services_are_well(services: Vec<Arc<Kms>>) -> Result<(), String> {
        let asked = join_all(services.iter().map(|kms| kms.is_well())).await;
        let failed: Vec<String> = asked
            .into_iter()
            .filter_map(|done| done.err().map(|e| e.to_string()))
            .collect();
        match failed.is_empty() {
            true => Ok(()),
            false => Err(failed.join("; ")),
        }
    }

    /// The operations with values as they are to be stored.
    fn sealed(rules: &Rules, ops: &[Op]) -> Result<Vec<Op>> {
        let sealed = ops.iter().map(|op| {
            let Op::Put {
                key,
                value,
                expires_after_seconds,
            } = op
            else {
                return Ok(op.clone());
            };
            let Some(providers) = rules.of(key) else {
                return Ok(op.clone());
            };
            let value = providers.seal(key, value).map_err(|e| {
                let key = String::from_utf8_lossy(key);
                StoreError::Unavailable(format!("the value of {key} cannot be encrypted: {e}"))
            })?;
            Ok(Op::Put {
                key: key.clone(),
                value,
                expires_after_seconds: *expires_after_seconds,
            })
        });
        sealed.collect()
    }

    /// What is refused, as it is above.
    async fn refused(&self, found: Vec<Option<KeyValue>>) -> Outcome {
        let mut plain = Vec::with_capacity(found.len());
        for kv in found {
            plain.push(match kv {
                Some(kv) => Some(self.plain(kv).await),
                None => None,
            });
        }
        Outcome::Refused(plain)
    }

    async fn write(&self, txn: Txn) -> Result<Outcome> {
        let concerns = |now: &Loaded, op: &Op| match op {
            Op::Put { key, .. } => now.rules.of(key).is_some(),
            Op::Delete { .. } => false,
        };
        let now = self.vault.now.load_full();
        if !txn.ops.iter().any(|op| concerns(&now, op)) {
            return Ok(match self.inner.commit(txn).await? {
                Outcome::Refused(found) => self.refused(found).await,
                done => done,
            });
        }
        for _ in 0..ATTEMPTS {
            let now = self.vault.now.load_full();
            let ops = Self::sealed(&now.rules, &txn.ops)?;
            let mut compare = txn.compare.clone();
            let fence = now.record;
            compare.extend(fence.map(|revision| Compare::ModRevision(record(), revision)));
            let mut found = match self.inner.commit(Txn { compare, ops }).await? {
                Outcome::Refused(found) => found,
                done => return Ok(done),
            };
            if let Some(revision) = fence {
                let seen = found.pop().flatten().map_or(0, |kv| kv.mod_revision);
                if seen != revision {
                    self.reload().await?;
                    continue;
                }
            }
            return Ok(self.refused(found).await);
        }
        let why = "the keys of its encryption change all the time";
        Err(StoreError::Unavailable(why.into()))
    }

    async fn reload(&self) -> Result<bool> {
        let done = self.vault.reload(&*self.inner).await;
        done.map_err(|e| StoreError::Unavailable(format!("keys of encryption: {e}")))
    }

    /// A value as it was before it was encrypted.
    async fn open(&self, at: &Bytes, stored: &Bytes) -> Result<Bytes, CipherError> {
        match self.try_open(at, stored) {
            Err(CipherError::Asks(ask)) => {
                ask.open().await?;
                self.try_open(at, stored)
            }
            // Another server may have made a new key, which another task may have read already.
            Err(CipherError::NoKey(_)) => match self.reload().await {
                Ok(_) => self.try_open(at, stored),
                Err(e) => Err(CipherError::Provider(e.to_string())),
            },
            opened => opened,
        }
    }

    fn try_open(&self, at: &Bytes, stored: &Bytes) -> Result<Bytes, CipherError> {
        match self.vault.now.load().rules.of(at) {
            Some(providers) => providers.open(at, stored),
            None if stored.starts_with(ENCRYPTED) && at.starts_with(b"/registry/") => {
                Err(unknown(stored))
            }
            None => Ok(stored.clone()),
        }
    }

    /// The same for what is read. A value that cannot be read stays as it is: what parses it then
    /// leaves it out.
    async fn plain(&self, mut kv: KeyValue) -> KeyValue {
        match self.open(&kv.key, &kv.value).await {
            Ok(plain) => kv.value = plain,
            Err(e) => {
                tracing::error!("stored value of {}: {e}", String::from_utf8_lossy(&kv.key));
            }
        }
        kv
    }

    async fn plain_event(&self, event: Event) -> Event {
        let kv = match event.kind {
            EventKind::Put => self.plain(event.kv).await,
            EventKind::Delete => event.kv,
        };
        Event {
            kind: event.kind,
            kv,
            // The cache has its own previous states; they are not worth a second decryption.
            prev: None,
        }
    }

    /// Whether a value is another one above than below; most are not.
    fn concerns(&self, kv: &KeyValue) -> bool {
        kv.value.starts_with(ENCRYPTED) || self.vault.now.load().rules.of(&kv.key).is_some()
    }
}

impl Layer for Encrypted {
    fn below(&self) -> &dyn Store {
        &*self.inner
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome>> {
        Box::pin(self.write(txn))
    }

    fn get(&self, key: Bytes, at: Revision) -> BoxFuture<'_, Result<Option<KeyValue>>> {
        Box::pin(async move {
            Ok(match self.inner.get(key, at).await? {
                Some(kv) => Some(self.plain(kv).await),
                None => None,
            })
        })
    }

    fn is_outdated(&self, key: Bytes) -> BoxFuture<'_, Result<bool>> {
        Box::pin(async move {
            let concerns = self.vault.now.load().rules.of(&key).is_some();
            if concerns {
                let found = self.inner.get(key.clone(), 0).await?;
                if found.is_some_and(|kv| self.is_stale(&kv)) {
                    return Ok(true);
                }
            }
            self.inner.is_outdated(key).await
        })
    }

    fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> BoxFuture<'_, Result<RangePage>> {
        Box::pin(async move {
            let mut page = self.inner.range(prefix, start, limit, at).await?;
            for kv in &mut page.items {
                if self.concerns(kv) {
                    *kv = self.plain(kv.clone()).await;
                }
            }
            Ok(page)
        })
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<WatchStream>> {
        Box::pin(async move {
            let stream = self.inner.watch(prefix, after).await?;
            let this = self.clone();
            let opened = stream.then(move |batch| {
                let this = this.clone();
                async move {
                    let batch = batch?;
                    if !batch.events.iter().any(|e| this.concerns(&e.kv)) {
                        return Ok(batch);
                    }
                    let events = stream::iter(batch.events);
                    let events = events.then(|event| this.plain_event(event));
                    Ok(Batch {
                        revision: batch.revision,
                        events: events.collect().await,
                    })
                }
            });
            Ok(opened.boxed())
        })
    }
}
