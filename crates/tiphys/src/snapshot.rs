//! `tiphys snapshot`: backups of all objects. One is saved from a running server, or from a store
//! on which no server runs; it is restored into an empty store of either kind. The file and the
//! rules of restoring are the store's ([`store::backup`]).

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::backup::{self, BackupError, Header, Keys};
use terminal::progress::Unit;

use crate::server::{self, DatastoreFlags};
use crate::show::OutputFlag;
use crate::show::progress::Work;

#[derive(Args)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Save a backup: from a running server, or with --data-dir or --etcd-endpoints from a store.
    Save {
        /// The file that is written.
        file: PathBuf,
        /// Kubeconfig of an administrator, by which a running server is asked.
        #[arg(
            long,
            env = "KUBECONFIG",
            default_value = "/var/lib/tiphys/admin.kubeconfig"
        )]
        kubeconfig: PathBuf,
        #[command(flatten)]
        place: StoreFlags,
        #[command(flatten)]
        form: OutputFlag,
    },
    /// Restore a backup into an empty store, on which no server runs.
    Restore {
        /// The backup.
        file: PathBuf,
        /// The restored objects get revisions that are at least so far above the backup's:
        /// clients may have seen some that were given out after it was made.
        #[arg(long, default_value_t = backup::MARGIN)]
        revision_margin: u64,
        #[command(flatten)]
        place: StoreFlags,
        #[command(flatten)]
        form: OutputFlag,
    },
    /// Check a backup and say what it holds.
    Status {
        /// The backup.
        file: PathBuf,
        #[command(flatten)]
        form: OutputFlag,
    },
}

/// A store itself.
#[derive(Args)]
struct StoreFlags {
    /// Folder of a server's state [default for restore: that of `tiphys server`].
    #[arg(long)]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    datastore: DatastoreFlags,
}

impl StoreFlags {
    fn is_given(&self) -> bool {
        self.data_dir.is_some() || self.datastore.is_given()
    }
    fn dir(&self) -> PathBuf {
        self.data_dir
            .clone()
            .unwrap_or_else(server::default_data_dir)
    }
}

pub async fn run(args: SnapshotArgs) -> Result<()> {
    match args.action {
        Action::Save {
            file,
            kubeconfig,
            place,
            form,
        } => {
            let header = if place.is_given() {
                save_store(&place, &file).await?
            } else {
                ask_server(&kubeconfig, &file).await?
            };
            let mut value = described(&header);
            value["file"] = file.display().to_string().into();
            form.say(&value, || {
                let beside = "it holds no keys of the cluster: keep the server's pki folder, or its \
                    server token, beside it";
                let saved = format!("saved {}: {}", file.display(), summary(&header));
                vec![saved, beside.to_owned()]
            })
        }
        Action::Restore {
            file,
            revision_margin,
            place,
            form,
        } => restore(&place, &file, revision_margin, form).await,
        Action::Status { file, form } => {
            let work = Work::begin();
            work.waits(format!("checking {}", file.display()));
            let header = tokio::task::spawn_blocking(move || backup::status(&file)).await??;
            drop(work);
            form.say(&described(&header), || vec![summary(&header)])
        }
    }
}

/// What a backup holds, for programs.
fn described(header: &Header) -> Value {
    json!({
        "revision": header.revision,
        "keys": header.keys,
        "cluster": header.cluster,
        "savedAt": jiff::Timestamp::from_second(header.saved_at).ok(),
    })
}

/// Shows how many keys have been copied.
fn watched(what: String) -> (Work, Arc<Keys>) {
    let (work, keys) = (Work::begin(), Arc::new(Keys::default()));
    let counted = keys.clone();
    work.step(what, Unit::Things("keys"), move || counted.so_far());
    (work, keys)
}

/// What a backup holds, in a line.
fn summary(header: &Header) -> String {
    let at = jiff::Timestamp::from_second(header.saved_at);
    let at = at.map_or_else(|_| header.saved_at.to_string(), |t| t.to_string());
    let of = match header.cluster.as_str() {
        "" => String::new(),
        cluster => format!(" of the cluster {cluster}"),
    };
    format!(
        "{} keys at revision {}{of}, saved at {at}",
        header.keys, header.revision
    )
}

async fn save_store(place: &StoreFlags, file: &Path) -> Result<Header> {
    let dir = place.dir();
    if place.datastore.is_embedded()? {
        let store = server::store_dir(&dir);
        ensure!(store.exists(), "there is no store in {}", store.display());
    }
    let datastore = place.datastore.open_raw(&dir).await?;
    let below = server::readable(datastore.raw(), &dir, datastore.token()).await?;
    let about = ("", clock::Clock::system().seconds());
    let (work, keys) = watched(format!("saving {}", file.display()));
    let saved = backup::save_counted(&*datastore.translated(below), file, about, &keys).await;
    drop(work);
    datastore.close().await?;
    Ok(saved?)
}

async fn restore(place: &StoreFlags, file: &Path, margin: u64, form: OutputFlag) -> Result<()> {
    let checked = file.to_owned();
    // Before the store is opened, which makes an embedded one.
    tokio::task::spawn_blocking(move || backup::status(&checked)).await??;
    let datastore = place.datastore.open_raw(&place.dir()).await?;
    // In the clear: the server that starts on it encrypts it with its own keys.
    let below = datastore.translated(datastore.raw());
    let (work, keys) = watched(format!("restoring {}", file.display()));
    let done = backup::restore_counted(&*below, file, margin, &keys).await;
    drop(work);
    datastore.close().await?;
    let done = match done {
        Err(e @ BackupError::NotEmpty { .. }) => {
            return Err(e).context("a backup is restored into an empty store only");
        }
        done => done?,
    };
    let is_embedded = place.datastore.is_embedded()?;
    let value = json!({ "backup": described(&done.header), "revision": done.revision });
    form.say(&value, || {
        let mut lines = vec![
            format!("restored {}", summary(&done.header)),
            format!("the store is at revision {} now", done.revision),
        ];
        if !is_embedded {
            let keys = "a backup of an embedded store brings no keys: start its first server once \
                with --adopt-etcd";
            lines.push(keys.to_owned());
        }
        lines
    })
}

/// Asks a running server. The file is there when all of it has come and was checked.
async fn ask_server(kubeconfig: &Path, file: &Path) -> Result<Header> {
    let config = client::kubeconfig(kubeconfig)?;
    let options = kube::config::KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(config, &options).await?;
    // A large store takes its time.
    config.read_timeout = None;
    let client = kube::Client::try_from(config)?;
    let (work, got) = (Work::begin(), Arc::new(AtomicU64::new(0)));
    let counted = got.clone();
    let what = format!("saving {}", file.display());
    work.step(what, Unit::Bytes, move || {
        (counted.load(Ordering::Relaxed), 0)
    });
    let request = http::Request::get("/tiphys/snapshot").body(kube::client::Body::empty())?;
    let response = client.send(request).await.context("asking the server")?;
    let (head, mut body) = response.into_parts();
    if !head.status.is_success() {
        let text = body.collect().await?.to_bytes();
        let status: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let why = status["message"].as_str().unwrap_or("no reason given");
        bail!("the server refused: {} {why}", head.status.as_u16());
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let at = || format!("writing {}", part.display());
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)
        .with_context(at)?;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("reading the backup")?.into_data() {
            out.write_all(&data).with_context(at)?;
            got.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
    }
    out.sync_all().with_context(at)?;
    let header = backup::status(&part)?;
    fs::rename(&part, file).with_context(|| format!("writing {}", file.display()))?;
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_described_in_a_line() {
        let mut header = Header {
            revision: 7,
            keys: 3,
            cluster: "c".into(),
            saved_at: 0,
        };
        assert_eq!(
            summary(&header),
            "3 keys at revision 7 of the cluster c, saved at 1970-01-01T00:00:00Z"
        );
        header.cluster = String::new();
        assert!(summary(&header).starts_with("3 keys at revision 7, "));
    }

    #[tokio::test]
    async fn an_embedded_store_is_saved_and_restored_above() {
        let dir = tempfile::tempdir().expect("dir");
        let place = |name: &str| StoreFlags {
            data_dir: Some(dir.path().join(name)),
            datastore: DatastoreFlags::default(),
        };
        let file = dir.path().join("backup");
        let missing = save_store(&place("a"), &file).await.err();
        assert!(missing.expect("none").to_string().contains("no store"));
        assert!(!dir.path().join("a").exists());
        let made = place("a")
            .datastore
            .open_raw(&place("a").dir())
            .await
            .expect("made");
        let put = store::Op::Put {
            key: "/registry/configmaps/default/x".into(),
            value: "{}".into(),
            expires_after_seconds: None,
        };
        let txn = store::Txn {
            compare: Vec::new(),
            ops: vec![put],
        };
        made.raw().commit(txn).await.expect("put");
        made.close().await.expect("close");
        let header = save_store(&place("a"), &file).await.expect("saved");
        assert_eq!(header.keys, 1);
        restore(&place("b"), &file, 50, OutputFlag::default())
            .await
            .expect("restored");
        let again = restore(&place("b"), &file, 50, OutputFlag::default())
            .await
            .expect_err("not empty");
        assert!(again.to_string().contains("empty"), "{again}");
        let opened = place("b")
            .datastore
            .open_raw(&place("b").dir())
            .await
            .expect("open");
        assert!(opened.raw().revision().await.expect("revision") > header.revision + 50);
        let key = "/registry/configmaps/default/x".into();
        assert!(opened.raw().get(key, 0).await.expect("get").is_some());
    }
}
