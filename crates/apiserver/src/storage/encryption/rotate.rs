//! Replacing keys while servers run: a new key writes, all that is stored is written again, what
//! the store remembers of the past is forgotten, and the old key goes. Each step may be the last
//! before a crash; what is left is done at the next start, or by the next call.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use store::{Compare, KeyValue, Layer, Op, Outcome, StoreError, Txn};

use super::Encrypted;
use super::ring::Ring;
use crate::cache::ROOT;
use crate::settings::StoredKeys;

/// Values that are read at once.
const PAGE: usize = 500;
/// Values that are written at once: they share syncs.
const AT_ONCE: usize = 16;
/// Others write meanwhile; each pass leaves only what raced with it.
const PASSES: usize = 10;

/// Why keys were not replaced. What is stored can be read, whatever happened.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    #[error("the keys are those of --encryption-provider-config: change that file")]
    OfFile,
    #[error("the keys were changed by another server meanwhile: try again")]
    Raced,
    #[error("{0}")]
    Keys(String),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{key}: {why}")]
    Unreadable { key: String, why: String },
    #[error("{0} values are still written with an old key, which stays: try again")]
    Unfinished(usize),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The key that writes now.
    pub key: String,
    /// Values that were written again.
    pub rewritten: usize,
}

impl Encrypted {
    /// Reads every value that may be encrypted; how many would be stored otherwise now. For a
    /// server's start: what it could not read it would leave out.
    pub async fn check(&self) -> Result<usize, RotateError> {
        let mut stale = 0;
        let mut pages = self.pages();
        while let Some(page) = pages.next(self).await? {
            for kv in page {
                let opened = self.open(&kv.key, &kv.value).await;
                opened.map_err(|e| unreadable(&kv, &e))?;
                stale += usize::from(self.is_stale(&kv));
            }
        }
        Ok(stale)
    }

    /// Writes everything again that would be stored otherwise now; how much that was.
    pub async fn rewrite(&self) -> Result<usize, RotateError> {
        let mut written = 0;
        let mut left = 0;
        for _ in 0..PASSES {
            left = 0;
            let expiries = self.expiries().await?;
            let mut pages = self.pages();
            while let Some(page) = pages.next(self).await? {
                let mut writes = FuturesUnordered::new();
                for kv in page.into_iter().filter(|kv| self.is_stale(kv)) {
                    if writes.len() >= AT_ONCE
                        && let Some(done) = writes.next().await
                    {
                        count(done?, &mut written, &mut left);
                    }
                    let expires = expiries.get(&kv.key).copied();
                    writes.push(self.write_again(kv, expires));
                }
                while let Some(done) = writes.next().await {
                    count(done?, &mut written, &mut left);
                }
            }
            if left == 0 {
                return Ok(written);
            }
        }
        Err(RotateError::Unfinished(left))
    }

    /// Replaces the key that writes, and everything written with another one.
    pub async fn rotate(&self) -> Result<Rotated, RotateError> {
        let _turn = self.vault.rotating.try_lock();
        let _turn = _turn.map_err(|_| RotateError::Raced)?;
        self.replace_keys(Ring::with_new_key).await?;
        self.finish().await
    }

    /// What a start has to do: encrypts what is not, and ends a replacement of keys that did not end.
    pub async fn settle(&self, stale: usize) -> Result<(), RotateError> {
        if self.vault.keeper.is_none() {
            return Ok(());
        }
        let old_keys = self.vault.now.load().old_keys;
        if old_keys == 0 && stale == 0 {
            return Ok(());
        }
        let _turn = self.vault.rotating.lock().await;
        let done = self.finish().await?;
        tracing::info!(
            "encryption: {} values were written again with the key {:?}",
            done.rewritten,
            done.key
        );
        Ok(())
    }

    async fn finish(&self) -> Result<Rotated, RotateError> {
        let rewritten = self.rewrite().await?;
        // Old versions are written with old keys: a server that starts reads some of them.
        let newest = self.inner.revision().await?;
        match self.inner.compact(newest).await {
            Ok(()) | Err(StoreError::Compacted { .. }) => {}
            Err(e) => return Err(e.into()),
        }
        let key = self.replace_keys(Ring::without_old_keys).await?;
        Ok(Rotated { key, rewritten })
    }

    /// Changes the keys; the name of the one that writes now.
    async fn replace_keys(&self, change: fn(&Ring) -> Ring) -> Result<String, RotateError> {
        let keeper = self.vault.keeper.as_ref().ok_or(RotateError::OfFile)?;
        let kept = keeper.load().await.map_err(RotateError::Keys)?;
        let ring = change(&kept.ring);
        let name = ring.names().first().map(|n| (*n).to_owned());
        if ring != kept.ring {
            let done = keeper.replace(ring, kept.revision).await;
            if !done.map_err(RotateError::Keys)? {
                return Err(RotateError::Raced);
            }
        }
        self.reload().await?;
        Ok(name.unwrap_or_default())
    }

    pub(super) fn is_stale(&self, kv: &KeyValue) -> bool {
        let now = self.vault.now.load();
        now.rules.of(&kv.key).is_some_and(|p| p.is_stale(&kv.value))
    }

    /// What is left of the life of values that end by themselves.
    async fn expiries(&self) -> Result<HashMap<Bytes, u32>, StoreError> {
        let prefixes = self.vault.now.load().rules.prefixes();
        if prefixes.iter().any(|p| p == ROOT || p.contains("events")) {
            return self.inner.expiries().await;
        }
        // Of all others nothing ends so, and to ask may take reading everything.
        Ok(HashMap::new())
    }

    /// Writes a value as it is; false if it changed meanwhile.
    async fn write_again(
        &self,
        kv: KeyValue,
        expires_after_seconds: Option<u32>,
    ) -> Result<bool, RotateError> {
        let value = self.open(&kv.key, &kv.value).await;
        let value = value.map_err(|e| unreadable(&kv, &e))?;
        let txn = Txn {
            compare: vec![Compare::ModRevision(kv.key.clone(), kv.mod_revision)],
            ops: vec![Op::Put {
                key: kv.key,
                value,
                expires_after_seconds,
            }],
        };
        Ok(matches!(
            Layer::commit(self, txn).await?,
            Outcome::Committed(_)
        ))
    }

    /// All values that rules concern, as they are stored.
    fn pages(&self) -> Pages {
        let prefixes = self.vault.now.load().rules.prefixes();
        Pages {
            prefixes: prefixes.into_iter().map(Bytes::from).collect(),
            start: None,
        }
    }
}

/// How far a walk through the store is.
struct Pages {
    /// Those that are left, the one at hand first.
    prefixes: VecDeque<Bytes>,
    /// Where to go on below it; at its beginning.
    start: Option<Bytes>,
}

impl Pages {
    async fn next(&mut self, keys: &Encrypted) -> Result<Option<Vec<KeyValue>>, StoreError> {
        while let Some(prefix) = self.prefixes.front().cloned() {
            let start = self.start.take().unwrap_or_else(|| prefix.clone());
            let page = keys.inner.range(prefix, start, PAGE, 0).await?;
            match page.items.last().filter(|_| page.more) {
                Some(last) => self.start = Some([&*last.key, &[0]].concat().into()),
                None => drop(self.prefixes.pop_front()),
            }
            if !page.items.is_empty() {
                return Ok(Some(page.items));
            }
        }
        Ok(None)
    }
}

/// Counts a write that arrived, or one that raced with another.
fn count(arrived: bool, written: &mut usize, left: &mut usize) {
    match arrived {
        true => *written += 1,
        false => *left += 1,
    }
}

impl StoredKeys for Encrypted {
    fn rotate(&self) -> BoxFuture<'_, Result<Value, String>> {
        Box::pin(async move {
            let done = Self::rotate(self).await.map_err(|e| e.to_string())?;
            Ok(json!({"key": done.key, "rewritten": done.rewritten}))
        })
    }
    fn rewrite(&self) -> BoxFuture<'_, Result<Value, String>> {
        Box::pin(async move {
            let rewritten = Self::rewrite(self).await.map_err(|e| e.to_string())?;
            Ok(json!({"rewritten": rewritten}))
        })
    }
    fn services(&self) -> Option<BoxFuture<'_, Result<(), String>>> {
        let services = self.vault.services();
        // A file that is followed may name some at any time.
        let shown = self.vault.is_followed || !services.is_empty();
        shown.then(|| -> BoxFuture<'_, _> { Box::pin(Self::services_are_well(services)) })
    }
}

fn unreadable(kv: &KeyValue, why: &dyn std::fmt::Display) -> RotateError {
    RotateError::Unreadable {
        key: String::from_utf8_lossy(&kv.key).into_owned(),
        why: why.to_string(),
    }
}
