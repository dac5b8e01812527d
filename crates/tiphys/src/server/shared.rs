//! What the servers of a cluster share: its identity and its keys, in one record of the store,
//! sealed under the server token. The first server makes them; compare-and-swap decides who that
//! is. A data directory remembers which cluster it belongs to.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use store::{Compare, Op, Outcome, Store, Txn};
use wire::jwt::Signer;
use wire::pki::{self, Ca};
use wire::seal::{LEAST_TOKEN, SealError, Sealed};

use super::encryption::Token;

/// The record's key, below the prefix that is ours alone.
fn key() -> Bytes {
    [store::PRIVATE_PREFIX, b"cluster"].concat().into()
}

/// The prefix of the API's objects.
const OBJECTS: &[u8] = b"/registry/";

/// The record, as it is stored (JSON).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    /// Of this form; a server that does not know it does not start.
    form: u32,
    cluster_id: String,
    #[serde(flatten)]
    keys: Sealed,
}

const FORM: u32 = 1;

/// What is sealed: PEM texts.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    ca_certificate: String,
    ca_key: String,
    service_account_key: String,
}

/// The files of a bundle in a data directory.
const FILES: [&str; 3] = ["ca.crt", "ca.key", "service-account.key"];

impl Bundle {
    fn generate(now: i64) -> Result<Self> {
        let ca = Ca::generate("tiphys-ca", now)?.pair;
        Ok(Self {
            ca_certificate: ca.cert_pem,
            ca_key: ca.key_pem,
            service_account_key: Signer::generate_pem()?,
        })
    }

    /// The keys of a server that was alone so far.
    fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join("pki").join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let [certificate, key, signer] = FILES;
        Ok(Self {
            ca_certificate: read(certificate)?,
            ca_key: read(key)?,
            service_account_key: read(signer)?,
        })
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let pki = dir.join("pki");
        let [certificate, key, signer] = FILES;
        pki::write_private(&pki.join(key), self.ca_key.as_bytes())?;
        pki::write_public(&pki.join(certificate), self.ca_certificate.as_bytes())?;
        Ok(pki::write_private(
            &pki.join(signer),
            self.service_account_key.as_bytes(),
        )?)
    }

    fn open(record: &Record, secret: &str) -> Result<Self, SealError> {
        let plain = record.keys.open(secret, record.cluster_id.as_bytes())?;
        serde_json::from_slice(&plain).map_err(|_| SealError::Form("its keys"))
    }

    fn seal(&self, secret: &str, cluster_id: &str) -> Result<Record> {
        let plain = serde_json::to_vec(self)?;
        Ok(Record {
            form: FORM,
            cluster_id: cluster_id.to_owned(),
            keys: Sealed::seal(secret, &plain, cluster_id.as_bytes())?,
        })
    }
}

/// What a store holds of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
enum StoreContents {
    Nothing,
    /// Objects, but no record.
    Objects,
    Cluster(String),
}

/// What a data directory was used for before.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Before {
    Nothing,
    /// A server alone, with its keys (and objects, perhaps).
    Alone,
    Cluster(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Make the record, with new keys or those of the data directory.
    Make,
    Join,
}

/// Why a server does not start on this store. Nothing was written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
enum Refusal {
    #[error(
        "it holds objects of a cluster that no server of Tiphys made; to take them over, start the first server with --adopt-etcd"
    )]
    Foreign,
    #[error(
        "it holds the cluster {store}, but this data directory belongs to the cluster {data}; use the endpoints of that cluster's etcd, or another --data-dir"
    )]
    Other { store: String, data: String },
    #[error(
        "it holds the cluster {0}, but this data directory holds one of its own, with an embedded store; use another --data-dir"
    )]
    OwnCluster(String),
    #[error(
        "it is empty, but this data directory holds a cluster with an embedded store; use another --data-dir, or move it: `tiphys snapshot save`, `tiphys snapshot restore` into etcd, then start once with --adopt-etcd"
    )]
    WouldLoseObjects,
    #[error(
        "it holds nothing of the cluster {0}, to which this data directory belongs; are these its endpoints? If it was restored from a backup without Tiphys' own keys, start once with --adopt-etcd"
    )]
    Lost(String),
}

/// Makes or joins the cluster, or refuses.
fn decide(found: &StoreContents, before: &Before, adopt: bool) -> Result<Step, Refusal> {
    match (found, before) {
        (StoreContents::Cluster(_), Before::Nothing) => Ok(Step::Join),
        (StoreContents::Cluster(store), Before::Cluster(data)) if store == data => Ok(Step::Join),
        (StoreContents::Cluster(store), Before::Cluster(data)) => Err(Refusal::Other {
            store: store.clone(),
            data: data.clone(),
        }),
        (StoreContents::Cluster(store), Before::Alone) => Err(Refusal::OwnCluster(store.clone())),
        (_, _) if adopt => Ok(Step::Make),
        (_, Before::Cluster(data)) => Err(Refusal::Lost(data.clone())),
        (StoreContents::Objects, _) => Err(Refusal::Foreign),
        (StoreContents::Nothing, Before::Alone) => Err(Refusal::WouldLoseObjects),
        (StoreContents::Nothing, Before::Nothing) => Ok(Step::Make),
    }
}

/// What a data directory says of its cluster.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    cluster_id: String,
}

fn mark_path(dir: &Path) -> PathBuf {
    dir.join("cluster.json")
}

/// The cluster on a shared store that a data directory belongs to.
pub fn cluster_of(dir: &Path) -> Result<Option<String>> {
    let path = mark_path(dir);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("reading {}", path.display()))?,
    };
    let mark: Mark =
        serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))?;
    Ok(Some(mark.cluster_id))
}

fn before(dir: &Path) -> Result<Before> {
    Ok(match cluster_of(dir)? {
        Some(id) => Before::Cluster(id),
        None if dir.join("pki/ca.key").exists() => Before::Alone,
        None => Before::Nothing,
    })
}

async fn read_record(store: &dyn Store) -> Result<Option<Record>> {
    let Some(kv) = store.get(key(), 0).await? else {
        return Ok(None);
    };
    let record: Record =
        serde_json::from_slice(&kv.value).context("the record of the cluster is not understood")?;
    ensure!(
        record.form == FORM,
        "the record of the cluster has form {}, which this version does not know",
        record.form
    );
    Ok(Some(record))
}

/// Whether a store holds a shared cluster's record.
pub async fn is_shared(store: &dyn Store) -> Result<bool> {
    Ok(read_record(store).await?.is_some())
}

/// What opens what the servers of a store share, as far as it is known: there is a cluster, and its
/// token is here.
pub async fn known_token(
    store: &dyn Store,
    dir: &Path,
    token_file: Option<&Path>,
) -> Result<Option<Token>> {
    let Some(record) = read_record(store).await? else {
        return Ok(None);
    };
    let terms = Terms {
        dir,
        token_file,
        adopt: false,
        now: 0,
    };
    Ok(terms.read_token()?.map(|secret| Token {
        secret,
        cluster_id: record.cluster_id,
    }))
}

/// What a server is given of the cluster that it is to belong to.
pub struct Terms<'a> {
    pub dir: &'a Path,
    pub token_file: Option<&'a Path>,
    pub adopt: bool,
    pub now: i64,
}

impl Terms<'_> {
    fn token_path(&self) -> PathBuf {
        let default = || self.dir.join("server-token");
        self.token_file.map_or_else(default, Path::to_owned)
    }

    fn read_token(&self) -> Result<Option<String>> {
        let path = self.token_path();
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("reading {}", path.display()))?,
        };
        let token = text.trim().to_owned();
        ensure!(
            token.len() >= LEAST_TOKEN,
            "the server token in {} is too short: it opens all keys of the cluster and needs {LEAST_TOKEN} characters at least",
            path.display()
        );
        Ok(Some(token))
    }

    /// Gets the cluster's keys into the data directory: makes them, or opens those that another
    /// server has made. Returns what opens what the servers share.
    pub async fn settle(&self, store: &dyn Store) -> Result<Token> {
        let record = read_record(store).await?;
        let found = match &record {
            Some(record) => StoreContents::Cluster(record.cluster_id.clone()),
            None if holds_objects(store).await? => StoreContents::Objects,
            None => StoreContents::Nothing,
        };
        let step = decide(&found, &before(self.dir)?, self.adopt)?;
        let record = match (step, record) {
            (Step::Join, Some(record)) => record,
            _ => self.make(store).await?,
        };
        let path = self.token_path();
        let id = record.cluster_id.clone();
        let Some(token) = self.read_token()? else {
            bail!(
                "the cluster {id} exists already: this server needs its server token in {} (copy the file of another server, or name it with --server-token-file)",
                path.display()
            );
        };
        let secret = token.clone();
        let bundle = tokio::task::spawn_blocking(move || Bundle::open(&record, &secret)).await?;
        let bundle = bundle.with_context(|| {
            format!(
                "the server token in {} is not that of the cluster {id}; copy the file of one of its servers",
                path.display()
            )
        })?;
        bundle.write(self.dir)?;
        let mark = serde_json::to_vec(&Mark {
            cluster_id: id.clone(),
        })?;
        pki::write_public(&mark_path(self.dir), &mark)?;
        Ok(Token {
            secret: token,
            cluster_id: id,
        })
    }

    /// Makes the cluster, unless another server was faster. Returns the record that counts.
    async fn make(&self, store: &dyn Store) -> Result<Record> {
        let path = self.token_path();
        let (token, is_new) = match self.read_token()? {
            Some(token) => (token, false),
            None => (wire::seal::new_token(), true),
        };
        let alone = matches!(before(self.dir)?, Before::Alone | Before::Cluster(_));
        let bundle = if alone {
            Bundle::read(self.dir)?
        } else {
            Bundle::generate(self.now)?
        };
        if is_new {
            // Before the record: a record whose token nobody has would be lost.
            pki::write_private(&path, token.as_bytes())?;
        }
        let id = uuid::Uuid::new_v4().to_string();
        let sealing = token.clone();
        let record = tokio::task::spawn_blocking(move || bundle.seal(&sealing, &id)).await??;
        let txn = Txn {
            compare: vec![Compare::ModRevision(key(), 0)],
            ops: vec![Op::Put {
                key: key(),
                value: serde_json::to_vec(&record)?.into(),
                expires_after_seconds: None,
            }],
        };
        match store.commit(txn).await? {
            Outcome::Committed(_) => {
                tracing::info!(
                    "made the cluster {}; further servers need the server token in {}",
                    record.cluster_id,
                    path.display()
                );
                Ok(record)
            }
            Outcome::Refused(_) => {
                if is_new {
                    fs::remove_file(&path)
                        .with_context(|| format!("removing {}", path.display()))?;
                }
                let theirs = read_record(store).await?;
                theirs.context("another server was making the cluster; start again")
            }
        }
    }
}

async fn holds_objects(store: &dyn Store) -> Result<bool> {
    let prefix = Bytes::from_static(OBJECTS);
    let page = store.range(prefix.clone(), prefix, 1, 0).await?;
    Ok(!page.items.is_empty())
}

#[cfg(test)]
mod tests;
