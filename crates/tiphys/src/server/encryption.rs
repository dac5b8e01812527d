//! Encryption of what is stored: which keys a server has, and where they are kept. Alone, it keeps
//! them in a file; servers of one etcd share a record in it, sealed under the server token as the
//! cluster's other keys are.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use apiserver::filters::encryption_file::EncryptionFile;
use apiserver::filters::files::Followed;
use apiserver::storage::encryption::provider::ENCRYPTED;
use apiserver::storage::encryption::ring::Ring;
use apiserver::storage::encryption::{Encrypted, Keeper, RecordedKeys, Vault, config, record};
use bytes::Bytes;
use clap::Args;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use store::{Compare, KeyValue, Op, Outcome, Revision, Store, Txn};
use wire::pki;
use wire::seal::Sealed;

use crate::flags::BoolFlag as _;

/// Upstream's flag.
#[derive(Args, Clone, Default)]
pub struct EncryptionFlags {
    /// Which resources are encrypted in the store, and how: an EncryptionConfiguration of
    /// apiserver.config.k8s.io/v1 [default: Secrets, with a key of the cluster's own].
    #[arg(long)]
    encryption_provider_config: Option<PathBuf>,
    /// Put changes of that file into effect while the server runs.
    #[arg(long, bool_flag(false))]
    encryption_provider_config_automatic_reload: bool,
}

/// How what is stored is read and written.
pub struct Opened {
    pub vault: Vault,
    pub file: Option<RulesFile>,
}

/// The file that the rules are of.
pub struct RulesFile {
    path: PathBuf,
    pub bytes: Vec<u8>,
    /// The cluster's own keys, with which things were written before.
    before: Option<Ring>,
    is_followed: bool,
}

impl RulesFile {
    /// What puts its changes into effect; none where they wait for the next start.
    pub fn followed(&self, stored: &Arc<Encrypted>) -> Option<Arc<Followed>> {
        let configures = || EncryptionFile::new(stored.clone(), self.before.clone());
        self.is_followed.then(|| {
            Arc::new(Followed {
                path: self.path.clone(),
                first: self.bytes.clone(),
                configures: Arc::new(configures()),
            })
        })
    }
}

/// The file of the keys of a server that is alone, below the data directory.
const FILE: &str = "pki/encryption-keys.json";
/// Where the keys of a cluster encrypt.
const SECRETS: &[u8] = b"/registry/secrets/";
const FORM: u32 = 1;
/// Values that are looked at together.
const PAGE: usize = 500;

pub fn key_file(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Who opens the keys that servers share.
#[derive(Clone)]
pub struct Token {
    pub secret: String,
    pub cluster_id: String,
}

/// The record of the keys in the store (JSON).
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    /// Of this form; a server that does not know it does not start.
    form: u32,
    /// The keys, where servers share them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<Sealed>,
    /// The name of the key that writes. It also makes each record another one.
    writes: String,
}

impl EncryptionFlags {
    /// The keys by which a server reads and writes. Makes those of the cluster, if there are none.
    pub async fn open(
        &self,
        store: Arc<dyn Store>,
        dir: &Path,
        token: Option<Token>,
    ) -> Result<Opened> {
        let keeper = keeper(store.clone(), dir, token);
        let is_followed = self.encryption_provider_config_automatic_reload;
        let Some(path) = &self.encryption_provider_config else {
            ensure!(
                !is_followed,
                "--encryption-provider-config-automatic-reload must be set with --encryption-provider-config"
            );
            let vault = Vault::of_cluster(keeper).await.map_err(anyhow::Error::msg);
            return Ok(Opened {
                vault: vault.context("keys of encryption")?,
                file: None,
            });
        };
        let told = || format!("--encryption-provider-config {}", path.display());
        let bytes = fs::read(path).with_context(told)?;
        // What was encrypted before the file was given can still be read.
        let before = match store.get(record(), 0).await? {
            None => None,
            Some(_) => Some(keeper.load().await.map_err(anyhow::Error::msg)?.ring),
        };
        // Keys that cannot be used are said at once, and not only where something is read by them.
        if let Some(ring) = &before {
            ring.provider().map_err(anyhow::Error::msg)?;
        }
        let also = || before.as_ref().and_then(|ring| ring.provider().ok());
        let rules = config::read(&bytes, registry::kinds(), also).with_context(told)?;
        let vault = Vault::of_file(rules).await.with_context(told)?;
        Ok(Opened {
            vault: if is_followed { vault.followed() } else { vault },
            file: Some(RulesFile {
                path: path.clone(),
                bytes,
                before,
                is_followed,
            }),
        })
    }
}

/// Where the keys of the cluster are kept.
fn keeper(store: Arc<dyn Store>, dir: &Path, token: Option<Token>) -> Arc<dyn Keeper> {
    match token {
        Some(token) => Arc::new(InStore { store, token }),
        None => Arc::new(InFile {
            store,
            path: key_file(dir),
        }),
    }
}

/// The store as it is below, read with what keys there are; for backups of a store on which no
/// server runs, which hold values in the clear so that they can be restored elsewhere.
pub async fn readable(
    store: Arc<dyn Store>,
    dir: &Path,
    token: Option<Token>,
) -> Result<Arc<dyn Store>> {
    if !is_encrypted(&*store).await? {
        return Ok(store);
    }
    ensure!(
        token.is_some() || key_file(dir).exists(),
        "the store is encrypted: its keys are missing in {}, or the server token with which they are opened",
        key_file(dir).display()
    );
    let vault = Vault::of_cluster(keeper(store.clone(), dir, token)).await;
    let vault = vault
        .map_err(anyhow::Error::msg)
        .context("keys of encryption")?;
    Ok(Arc::new(Encrypted::new(store, vault)))
}

async fn found(store: &dyn Store) -> Result<(Revision, Option<Record>)> {
    let Some(kv) = store.get(record(), 0).await? else {
        return Ok((0, None));
    };
    let read: Record = serde_json::from_slice(&kv.value)
        .context("the record of the keys of encryption is not understood")?;
    ensure!(
        read.form == FORM,
        "the record of the keys of encryption has form {}, which this version does not know",
        read.form
    );
    Ok((kv.mod_revision, Some(read)))
}

/// Writes the record, unless somebody else was faster; its revision.
async fn put(store: &dyn Store, made: &Record, seen: Revision) -> Result<Option<Revision>> {
    let txn = Txn {
        compare: vec![Compare::ModRevision(record(), seen)],
        ops: vec![Op::Put {
            key: record(),
            value: serde_json::to_vec(made)?.into(),
            expires_after_seconds: None,
        }],
    };
    Ok(match store.commit(txn).await? {
        Outcome::Committed(revision) => Some(revision),
        Outcome::Refused(_) => None,
    })
}

/// Whether there is a Secret that is encrypted.
async fn is_encrypted(store: &dyn Store) -> Result<bool> {
    let prefix = Bytes::from_static(SECRETS);
    let mut start = prefix.clone();
    loop {
        let page = store.range(prefix.clone(), start, PAGE, 0).await?;
        let is = |kv: &KeyValue| kv.value.starts_with(ENCRYPTED);
        if page.items.iter().any(is) {
            return Ok(true);
        }
        match page.items.last().filter(|_| page.more) {
            Some(last) => start = [&*last.key, &[0]].concat().into(),
            None => return Ok(false),
        }
    }
}

fn writes(ring: &Ring) -> String {
    ring.names()
        .first()
        .map(|n| (*n).to_owned())
        .unwrap_or_default()
}

/// Keys in a file: of a server that is alone.
struct InFile {
    store: Arc<dyn Store>,
    path: PathBuf,
}

impl InFile {
    async fn read(&self) -> Result<RecordedKeys> {
        let at = || format!("{}", self.path.display());
        let ring = match fs::read(&self.path) {
            Ok(bytes) => Ring::read(&bytes)
                .map_err(anyhow::Error::msg)
                .with_context(at)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                ensure!(
                    !is_encrypted(&*self.store).await?,
                    "the store holds encrypted Secrets, but their keys are missing: bring {} back, or give the --encryption-provider-config that they were written with",
                    self.path.display()
                );
                let ring = Ring::generate();
                pki::write_private(&self.path, &ring.to_json()).with_context(at)?;
                ring
            }
            Err(e) => return Err(e).with_context(at),
        };
        let (revision, read) = found(&*self.store).await?;
        let name = writes(&ring);
        if read.is_some_and(|r| r.keys.is_none() && r.writes == name) {
            return Ok(RecordedKeys { ring, revision });
        }
        let made = self.put(&ring, revision).await?;
        let revision = made.context("another server writes to this store")?;
        Ok(RecordedKeys { ring, revision })
    }

    async fn put(&self, ring: &Ring, seen: Revision) -> Result<Option<Revision>> {
        let made = Record {
            form: FORM,
            keys: None,
            writes: writes(ring),
        };
        put(&*self.store, &made, seen).await
    }

    async fn write(&self, ring: &Ring, seen: Revision) -> Result<bool> {
        // First the file: nothing may be written with a key that is lost with a crash.
        pki::write_private(&self.path, &ring.to_json())?;
        Ok(self.put(ring, seen).await?.is_some())
    }
}

impl Keeper for InFile {
    fn load(&self) -> BoxFuture<'_, Result<RecordedKeys, String>> {
        Box::pin(async move { self.read().await.map_err(|e| format!("{e:#}")) })
    }
    fn replace(&self, ring: Ring, seen: Revision) -> BoxFuture<'_, Result<bool, String>> {
        Box::pin(async move { self.write(&ring, seen).await.map_err(|e| format!("{e:#}")) })
    }
}

/// Keys in the store, sealed: of servers that share it.
struct InStore {
    store: Arc<dyn Store>,
    token: Token,
}

impl InStore {
    async fn read(&self) -> Result<RecordedKeys> {
        let (mut revision, mut read) = found(&*self.store).await?;
        loop {
            let sealed = read.and_then(|r| r.keys);
            let why = match sealed {
                None => "the record of their keys is missing in the store".to_owned(),
                Some(sealed) => match self.open(sealed).await? {
                    Ok(ring) => return Ok(RecordedKeys { ring, revision }),
                    Err(why) => format!("the server token does not open their keys: {why}"),
                },
            };
            // As after a restore from a backup, whose values are in the clear.
            ensure!(
                !is_encrypted(&*self.store).await?,
                "the store holds encrypted Secrets, but {why}"
            );
            let ring = Ring::generate();
            let made = self.record(&ring).await?;
            if let Some(revision) = put(&*self.store, &made, revision).await? {
                return Ok(RecordedKeys { ring, revision });
            }
            // Another server was faster.
            (revision, read) = found(&*self.store).await?;
        }
    }

    /// Takes a quarter of a second of one core.
    async fn open(&self, sealed: Sealed) -> Result<Result<Ring, String>> {
        let token = self.token.clone();
        let open = move || {
            let plain = sealed.open(&token.secret, token.cluster_id.as_bytes());
            Ring::read(&plain.map_err(|e| e.to_string())?)
        };
        Ok(tokio::task::spawn_blocking(open).await?)
    }

    async fn record(&self, ring: &Ring) -> Result<Record> {
        let (token, plain) = (self.token.clone(), ring.to_json());
        let seal = move || Sealed::seal(&token.secret, &plain, token.cluster_id.as_bytes());
        Ok(Record {
            form: FORM,
            keys: Some(tokio::task::spawn_blocking(seal).await??),
            writes: writes(ring),
        })
    }

    async fn write(&self, ring: &Ring, seen: Revision) -> Result<bool> {
        let made = self.record(ring).await?;
        Ok(put(&*self.store, &made, seen).await?.is_some())
    }
}

impl Keeper for InStore {
    fn load(&self) -> BoxFuture<'_, Result<RecordedKeys, String>> {
        Box::pin(async move { self.read().await.map_err(|e| format!("{e:#}")) })
    }
    fn replace(&self, ring: Ring, seen: Revision) -> BoxFuture<'_, Result<bool, String>> {
        Box::pin(async move { self.write(&ring, seen).await.map_err(|e| format!("{e:#}")) })
    }
}

#[cfg(test)]
mod tests;
