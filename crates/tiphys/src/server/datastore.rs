//! Which store a server keeps its objects in: the embedded one, or an etcd cluster that several
//! servers share. Opens it, and names what is wrong when that fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use apiserver::settings::Shared;
use apiserver::storage::Upstream;
use clap::{Args, ValueEnum};
use store::{ConnectError, Embedded, Etcd, EtcdConfig, EtcdTls, Store};
use tokio::time::Instant;

use super::encryption::Token;
use super::shared;

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum DatastoreKind {
    /// In the data directory; for one server.
    Embedded,
    /// An etcd cluster, for several servers.
    Etcd,
}

#[derive(Args, Clone, Default)]
pub struct DatastoreFlags {
    /// Where objects are kept [default: embedded, or etcd where its endpoints are given].
    #[arg(long, value_enum)]
    datastore: Option<DatastoreKind>,
    /// Endpoints of the members of one etcd cluster (3.4 to 3.6), `https://host:port,...`.
    #[arg(long, alias = "etcd-servers", value_delimiter = ',')]
    etcd_endpoints: Vec<String>,
    /// CA that signed the members' certificates.
    #[arg(long)]
    etcd_cafile: Option<PathBuf>,
    /// This server's certificate towards etcd.
    #[arg(long)]
    etcd_certfile: Option<PathBuf>,
    /// The key of that certificate.
    #[arg(long)]
    etcd_keyfile: Option<PathBuf>,
    /// File with the token that all servers of a cluster on etcd share; it opens the cluster's
    /// keys. The first server makes it [default: server-token in the data directory].
    #[arg(long)]
    server_token_file: Option<PathBuf>,
    /// Take over an etcd that holds objects of another control plane (once, by the first server;
    /// with the keys of the data directory where it has some).
    #[arg(long)]
    adopt_etcd: bool,
}

/// Time for etcd to come up beside the servers, as when machines boot together: its members find
/// each other within seconds.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// An open store.
pub enum Datastore {
    Embedded(Embedded),
    /// With what opens the keys that its servers share, where that is known.
    Etcd(Etcd, Option<Token>),
}

impl Datastore {
    /// The store itself.
    pub fn raw(&self) -> Arc<dyn Store> {
        match self {
            Self::Embedded(store) => Arc::new(store.clone()),
            Self::Etcd(store, _) => Arc::new(store.clone()),
        }
    }

    /// What opens the keys that servers share.
    pub fn token(&self) -> Option<Token> {
        match self {
            Self::Embedded(_) => None,
            Self::Etcd(_, token) => token.clone(),
        }
    }

    /// The store, or a layer over it, as the API server uses it: an etcd holds what upstream's
    /// server would write.
    pub fn translated(&self, below: Arc<dyn Store>) -> Arc<dyn Store> {
        match self {
            Self::Embedded(_) => below,
            Self::Etcd(..) => Arc::new(Upstream::new(below, registry::kinds())),
        }
    }

    /// What the server owes to others on the same store, where there may be some.
    pub fn shared(&self) -> Option<Shared> {
        match self {
            Self::Embedded(_) => None,
            Self::Etcd(..) => Some(Shared::default()),
        }
    }

    pub async fn close(self) -> Result<()> {
        if let Self::Embedded(store) = self {
            tokio::task::spawn_blocking(move || store.close()).await?;
        }
        Ok(())
    }
}

impl DatastoreFlags {
    pub fn kind(&self) -> Result<DatastoreKind> {
        let kind = self
            .datastore
            .unwrap_or(match self.etcd_endpoints.as_slice() {
                [] => DatastoreKind::Embedded,
                _ => DatastoreKind::Etcd,
            });
        match kind {
            DatastoreKind::Embedded => ensure!(
                self.etcd_endpoints.is_empty(),
                "--etcd-endpoints go with --datastore=etcd"
            ),
            DatastoreKind::Etcd => ensure!(
                !self.etcd_endpoints.is_empty(),
                "--datastore=etcd needs --etcd-endpoints"
            ),
        }
        Ok(kind)
    }

    /// Whether the user named a store.
    pub fn is_given(&self) -> bool {
        self.datastore.is_some() || !self.etcd_endpoints.is_empty()
    }

    pub fn is_embedded(&self) -> Result<bool> {
        Ok(self.kind()? == DatastoreKind::Embedded)
    }

    fn etcd_config(&self) -> Result<EtcdConfig> {
        let read = |path: &PathBuf| {
            std::fs::read(path).with_context(|| format!("reading {}", path.display()))
        };
        let files = (&self.etcd_cafile, &self.etcd_certfile, &self.etcd_keyfile);
        let tls = match files {
            (None, None, None) => None,
            (Some(ca), Some(certificate), Some(key)) => Some(EtcdTls {
                ca: read(ca)?,
                certificate: read(certificate)?,
                key: read(key)?,
            }),
            _ => bail!("--etcd-cafile, --etcd-certfile and --etcd-keyfile go together"),
        };
        Ok(EtcdConfig {
            endpoints: self.etcd_endpoints.clone(),
            tls,
        })
    }

    /// Opens the store, and with one that is shared makes or joins its cluster: afterwards the
    /// cluster's keys are in the data directory.
    pub async fn open(&self, dir: &Path, now: i64) -> Result<Datastore> {
        let terms = shared::Terms {
            dir,
            token_file: self.server_token_file.as_deref(),
            adopt: self.adopt_etcd,
            now,
        };
        match self.kind()? {
            DatastoreKind::Embedded => {
                let store = open_embedded(dir).await?;
                whole(&store).await?;
                // Restored from the backup of a shared store.
                if shared::is_shared(&store).await? {
                    terms.settle(&store).await?;
                }
                Ok(Datastore::Embedded(store))
            }
            DatastoreKind::Etcd => {
                let store = connect(&self.etcd_config()?, START_PATIENCE).await?;
                whole(&store).await?;
                let endpoints = self.etcd_endpoints.join(", ");
                let token = terms.settle(&store).await;
                let token = token.with_context(|| format!("the etcd at {endpoints}"))?;
                let id = &token.cluster_id;
                tracing::info!("cluster {id} on the etcd at {endpoints}");
                Ok(Datastore::Etcd(store, Some(token)))
            }
        }
    }

    /// The store as it is, with nothing made in it but an embedded one that is not there yet.
    /// For backups: no server runs on an embedded store meanwhile.
    pub async fn open_raw(&self, dir: &Path) -> Result<Datastore> {
        Ok(match self.kind()? {
            DatastoreKind::Embedded => Datastore::Embedded(open_embedded(dir).await?),
            DatastoreKind::Etcd => {
                let store = connect(&self.etcd_config()?, Duration::ZERO).await?;
                let token_file = self.server_token_file.as_deref();
                let token = shared::known_token(&store, dir, token_file).await?;
                Datastore::Etcd(store, token)
            }
        })
    }
}

/// A server would take the part of a backup for all there is.
async fn whole(store: &dyn Store) -> Result<()> {
    ensure!(
        !store::backup::is_unfinished(store).await?,
        "the store holds a part of a backup: `tiphys snapshot restore` did not end; run it again, which begins again"
    );
    Ok(())
}

pub fn store_dir(dir: &Path) -> PathBuf {
    dir.join("store")
}

async fn open_embedded(dir: &Path) -> Result<Embedded> {
    let path = store_dir(dir);
    if let Some(id) = shared::cluster_of(dir)?
        && !path.exists()
    {
        bail!(
            "{} belongs to the cluster {id}, which is kept in an etcd: give its --etcd-endpoints, or use another --data-dir",
            dir.display()
        );
    }
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    let open = move || Embedded::open(&path, store::Options::default());
    Ok(tokio::task::spawn_blocking(open).await??)
}

/// Connects, and waits for members that are not there yet; what waiting does not help is said at
/// once.
async fn connect(config: &EtcdConfig, patience: Duration) -> Result<Etcd> {
    let begun = Instant::now();
    loop {
        let error = match Etcd::connect(config).await {
            Ok(store) => return Ok(store),
            Err(e) => e,
        };
        let passes = matches!(
            error,
            ConnectError::Unreachable(_) | ConnectError::Unready(_)
        );
        if !passes || begun.elapsed() >= patience {
            return Err(error).context(advice(config));
        }
        tracing::info!("waiting for etcd: {error}");
        // Connecting itself takes its time; this keeps refusals from spinning.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn advice(config: &EtcdConfig) -> String {
    format!(
        "cannot use the etcd at {}: check --etcd-endpoints and the --etcd-*file flags, and that a majority of its members runs",
        config.endpoints.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &[&str]) -> DatastoreFlags {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            flags: DatastoreFlags,
        }
        let words = std::iter::once("x").chain(line.iter().copied());
        <Line as clap::Parser>::parse_from(words).flags
    }

    #[test]
    fn the_kind_follows_from_the_flags() {
        assert_eq!(flags(&[]).kind().expect("kind"), DatastoreKind::Embedded);
        let etcd = flags(&["--etcd-servers=https://a:2379,https://b:2379"]);
        assert_eq!(etcd.kind().expect("kind"), DatastoreKind::Etcd);
        assert_eq!(etcd.etcd_endpoints.len(), 2);
        assert!(flags(&["--datastore=etcd"]).kind().is_err());
        let both = flags(&["--datastore=embedded", "--etcd-endpoints=http://a:1"]);
        assert!(both.kind().is_err());
    }

    #[tokio::test]
    async fn an_etcd_that_is_down_is_named_and_nothing_is_written() {
        let dir = tempfile::tempdir().expect("dir");
        let data = dir.path().join("data");
        // Nobody listens on port 1, and the kernel gives it to nobody.
        let url = "http://127.0.0.1:1";
        let flags = flags(&[&format!("--etcd-endpoints={url}")]);
        let error = flags.open_raw(&data).await.err().expect("down");
        let text = format!("{error:#}");
        assert!(
            text.contains(url) && text.contains("--etcd-endpoints"),
            "{text}"
        );
        assert!(!data.exists());
    }

    #[tokio::test]
    async fn a_part_of_a_backup_is_not_served() {
        let dir = tempfile::tempdir().expect("dir");
        let put = store::Op::Put {
            key: [store::PRIVATE_PREFIX, b"restore"].concat().into(),
            value: "revision 1 of c".into(),
            expires_after_seconds: None,
        };
        let raw = flags(&[]).open_raw(dir.path()).await.expect("open");
        let txn = store::Txn {
            compare: Vec::new(),
            ops: vec![put],
        };
        raw.raw().commit(txn).await.expect("mark");
        raw.close().await.expect("close");
        let error = flags(&[]).open(dir.path(), 0).await.err().expect("refused");
        assert!(error.to_string().contains("snapshot restore"), "{error}");
    }

    #[tokio::test]
    async fn a_data_directory_of_a_cluster_on_etcd_does_not_begin_an_empty_one() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("cluster.json"), r#"{"clusterId":"c1"}"#).expect("mark");
        let error = flags(&[]).open(dir.path(), 0).await.err().expect("refused");
        assert!(error.to_string().contains("--etcd-endpoints"), "{error}");
        assert!(!store_dir(dir.path()).exists());
    }
}
