//! Images shown as folders, for volumes of kind `image`.
//!
//! CRI has it since containerd 2.1 only, and older ones ignore the request without a word. So it
//! is asked of containerd's own services, which all versions have: a view of the image's unpacked
//! layers, mounted read-only. One view per image serves all pods of the node. It is a root of
//! containerd's garbage collection, so the layers live as long as something shows them, even when
//! somebody removes the image; it goes with the image when nothing does.

use super::namespaced;
use super::proto::containerd::services::content::v1::{
    ReadContentRequest, content_client::ContentClient,
};
use super::proto::containerd::services::diff::v1::{ApplyRequest, diff_client::DiffClient};
use super::proto::containerd::services::images::v1::{
    ListImagesRequest, images_client::ImagesClient,
};
use super::proto::containerd::services::leases::v1::{
    CreateRequest, DeleteRequest, leases_client::LeasesClient,
};
use super::proto::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, Info, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest,
    snapshots_client::SnapshotsClient,
};
use super::proto::containerd::types::{Descriptor, Mount};
use crate::mounts;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// The snapshotter that the CRI plugin is configured with.
const SNAPSHOTTER: &str = "overlayfs";
/// What the views' names begin with; the rest names the layers.
const VIEW: &str = "tiphys-image-volume-";
/// Which image a view is of.
const IMAGE_LABEL: &str = "tiphys.io/image";
/// What has it is never collected.
const ROOT_LABEL: &str = "containerd.io/gc.root";
/// When a lease ends by itself.
const EXPIRY_LABEL: &str = "containerd.io/gc.expire";
/// Unpacking ends within an hour, or was interrupted.
const LEASE_SECONDS: u64 = 3600;
/// The largest manifest or configuration that is read, in bytes: registries take 4 MiB.
const MAX_DOCUMENT_BYTES: usize = 4 << 20;
/// The most manifests of an index that are looked at. Images have one per platform, some dozen.
const MAX_MANIFESTS: usize = 256;

/// Why an image cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// containerd refused, or is another runtime.
    #[error("{}", .0.message())]
    Containerd(#[from] Status),
    /// What containerd keeps of the image is not what an image consists of.
    #[error("{0}")]
    Image(String),
    /// The machine refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Error {
    /// As a call of the runtime fails.
    pub(super) fn into_failure(self) -> crate::runtime::Error {
        match self {
            Self::Containerd(status) if status.code() == Code::Unimplemented => {
                crate::runtime::Error::new(
                    crate::runtime::ErrorKind::Other,
                    "this container runtime cannot show images as volumes",
                )
            }
            Self::Containerd(status) => super::runtime::failed(&status),
            other => {
                crate::runtime::Error::new(crate::runtime::ErrorKind::Other, other.to_string())
            }
        }
    }
}

type Result<T> = std::result::Result<T, Error>;

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Blob>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Blob,
    layers: Vec<Blob>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blob {
    media_type: String,
    digest: String,
    size: i64,
}

/// Shows the files of an image, by its id in CRI, read-only at a folder that exists. One that is
/// shown there already stays.
pub async fn mount(channel: &Channel, image_id: &str, dir: &Path) -> Result<()> {
    if mounts::is_mount_point(dir)? {
        return Ok(());
    }
    let view = View { channel, image_id };
    let config: Config = document(channel, image_id).await?;
    let layers = config.rootfs.diff_ids;
    let found = match view.mounts(&chain_ids(&layers)).await {
        Err(Error::Containerd(status)) if status.code() == Code::NotFound => {
            // The CRI plugin unpacks an imported image only for its first container.
            view.unpack(&layers).await?;
            view.mounts(&chain_ids(&layers)).await?
        }
        other => other?,
    };
    show(&found, dir)
}

/// Removes views of images that are gone and that nothing shows any more.
pub async fn sweep(channel: &Channel) -> Result<()> {
    let mut snapshots = SnapshotsClient::new(channel.clone());
    let request = ListSnapshotsRequest {
        snapshotter: SNAPSHOTTER.into(),
        filters: Vec::new(),
    };
    let mut stream = snapshots.list(namespaced(request)).await?.into_inner();
    let mut views = Vec::new();
    while let Some(part) = stream.message().await? {
        views.extend(part.info.into_iter().filter(|i| i.name.starts_with(VIEW)));
    }
    if views.is_empty() {
        return Ok(());
    }
    let images = ImagesClient::new(channel.clone())
        .list(namespaced(ListImagesRequest {
            filters: Vec::new(),
        }))
        .await?
        .into_inner();
    let images: HashSet<String> = images.images.into_iter().map(|i| i.name).collect();
    for Info { name, .. } in unused(views, &images) {
        let request = MountsRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: name.clone(),
        };
        let of_view = snapshots.mounts(namespaced(request)).await?.into_inner();
        if is_shown(&of_view.mounts)? {
            continue;
        }
        let request = RemoveSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: name,
        };
        snapshots.remove(namespaced(request)).await?;
    }
    Ok(())
}

fn unused(views: Vec<Info>, images: &HashSet<String>) -> Vec<Info> {
    let is_gone = |view: &Info| {
        view.labels
            .get(IMAGE_LABEL)
            .is_none_or(|i| !images.contains(i))
    };
    views.into_iter().filter(is_gone).collect()
}

/// Whether the machine's table of mounts names a layer of these.
fn is_shown(of_view: &[Mount]) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let layers: Vec<String> = of_view.iter().flat_map(layers_of).collect();
    // The kernel names a bind mount's source from the root of its file system on: the end of the
    // path is the snapshot's own number.
    let end = |layer: &String| {
        let parts: Vec<&str> = layer.rsplitn(4, '/').take(3).collect();
        parts.into_iter().rev().collect::<Vec<_>>().join("/")
    };
    Ok(layers.iter().any(|layer| table.contains(&end(layer))))
}

/// The folders that a mount shows, uppermost first.
fn layers_of(mount: &Mount) -> Vec<String> {
    if mount.r#type != "overlay" {
        return vec![mount.source.clone()];
    }
    let lower = mount
        .options
        .iter()
        .find_map(|o| o.strip_prefix("lowerdir="));
    lower
        .into_iter()
        .flat_map(|l| l.split(':'))
        .map(str::to_owned)
        .collect()
}

fn show(found: &[Mount], dir: &Path) -> Result<()> {
    let [mount] = found else {
        let text = format!(
            "containerd shows the image by {} mounts instead of one",
            found.len()
        );
        return Err(Error::Image(text));
    };
    let layers = layers_of(mount);
    match layers.as_slice() {
        [] => Err(Error::Image(format!(
            "a mount of type {} shows no layer",
            mount.r#type
        ))),
        [one] => Ok(mounts::bind_read_only(Path::new(one), dir)?),
        all => Ok(mounts::overlay_read_only(all, dir)?),
    }
}

/// The names of an image's layers as they lie one upon the other, lowest first: each is made of
/// the one below and its own digest (OCI image specification, "Layer ChainID").
fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for id in diff_ids {
        let chain = match out.last() {
            None => id.clone(),
            Some(below) => {
                let sum = Sha256::digest(format!("{below} {id}"));
                format!("sha256:{}", super::images::hex(&sum))
            }
        };
        out.push(chain);
    }
    out
}

/// Reads a blob that is a JSON document.
async fn document<T: serde::de::DeserializeOwned>(channel: &Channel, digest: &str) -> Result<T> {
    let request = ReadContentRequest {
        digest: digest.to_owned(),
        offset: 0,
        size: 0,
    };
    let answer = ContentClient::new(channel.clone())
        .read(namespaced(request))
        .await?;
    let (mut stream, mut bytes) = (answer.into_inner(), Vec::new());
    while let Some(part) = stream.message().await? {
        bytes.extend(part.data);
        if bytes.len() > MAX_DOCUMENT_BYTES {
            return Err(Error::Image(format!(
                "{digest} is too large for a document"
            )));
        }
    }
    serde_json::from_slice(&bytes).map_err(|e| Error::Image(format!("{digest}: {e}")))
}

struct View<'a> {
    channel: &'a Channel,
    image_id: &'a str,
}

impl View<'_> {
    /// What shows the layers; made when it is not there. Not found: they are not unpacked.
    async fn mounts(&self, chain: &[String]) -> Result<Vec<Mount>> {
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let parent = chain.last().cloned().unwrap_or_default();
        let key = format!("{VIEW}{}", parent.trim_start_matches("sha256:"));
        let existing = MountsRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: key.clone(),
        };
        match snapshots.mounts(namespaced(existing.clone())).await {
            Ok(found) => return Ok(found.into_inner().mounts),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(status.into()),
        }
        let labels = [(ROOT_LABEL, "true"), (IMAGE_LABEL, self.image_id)];
        let request = ViewSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key,
            parent,
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        };
        match snapshots.view(namespaced(request)).await {
            Ok(made) => Ok(made.into_inner().mounts),
            // Another pod was faster.
            Err(status) if status.code() == Code::AlreadyExists => Ok(snapshots
                .mounts(namespaced(existing))
                .await?
                .into_inner()
                .mounts),
            Err(status) => Err(status.into()),
        }
    }

    /// The image's layers as they are stored, lowest first.
    async fn layers(&self) -> Result<Vec<Blob>> {
        let request = ListImagesRequest {
            filters: vec![format!("name=={}", self.image_id)],
        };
        let found = ImagesClient::new(self.channel.clone())
            .list(namespaced(request))
            .await?;
        let target = found.into_inner().images.into_iter().find_map(|i| i.target);
        let target = target.ok_or_else(|| Error::Image(format!("no image {}", self.image_id)))?;
        let mut digests = vec![target.digest.clone()];
        if target.media_type.contains("index") || target.media_type.contains("manifest.list") {
            let index: Index = document(self.channel, &target.digest).await?;
            digests = index
                .manifests
                .into_iter()
                .take(MAX_MANIFESTS)
                .map(|m| m.digest)
                .collect();
        }
        for digest in digests {
            // Manifests of other platforms are named, but not here.
            let Ok(manifest) = document::<Manifest>(self.channel, &digest).await else {
                continue;
            };
            if manifest.config.digest == self.image_id {
                return Ok(manifest.layers);
            }
        }
        Err(Error::Image(format!(
            "no manifest of image {} is here",
            self.image_id
        )))
    }

    /// Unpacks what is not, layer upon layer, as the CRI plugin does.
    async fn unpack(&self, diff_ids: &[String]) -> Result<()> {
        let (layers, chain) = (self.layers().await?, chain_ids(diff_ids));
        if layers.len() != chain.len() {
            let text = format!(
                "image {} has {} layers and {} digests",
                self.image_id,
                layers.len(),
                chain.len()
            );
            return Err(Error::Image(text));
        }
        // Nothing refers to the layers before the view does.
        let id = unique("tiphys-unpack");
        let expiry = super::images::rfc3339_after(LEASE_SECONDS);
        let lease = CreateRequest {
            id: id.clone(),
            labels: HashMap::from([(EXPIRY_LABEL.to_owned(), expiry)]),
        };
        let mut leases = LeasesClient::new(self.channel.clone());
        leases.create(namespaced(lease)).await?;
        let mut outcome = Ok(());
        let mut parent = String::new();
        for (layer, name) in layers.into_iter().zip(chain) {
            outcome = self.unpack_layer(&id, layer, &parent, &name).await;
            if outcome.is_err() {
                break;
            }
            parent = name;
        }
        // The view comes under the same lease.
        let made = match outcome {
            Ok(()) => self.mounts(&chain_ids(diff_ids)).await.map(|_| ()),
            failed => failed,
        };
        leases
            .delete(namespaced(DeleteRequest { id, sync: false }))
            .await?;
        made
    }

    async fn unpack_layer(&self, lease: &str, layer: Blob, parent: &str, name: &str) -> Result<()> {
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        let stat = StatSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: name.to_owned(),
        };
        match snapshots.stat(namespaced(stat)).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(status.into()),
        }
        let key = unique("tiphys-layer");
        let prepare = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: key.clone(),
            parent: parent.to_owned(),
            labels: HashMap::new(),
        };
        let prepared = snapshots
            .prepare(super::images::leased(prepare, lease))
            .await?;
        let apply = ApplyRequest {
            diff: Some(Descriptor {
                media_type: layer.media_type,
                digest: layer.digest,
                size: layer.size,
                annotations: HashMap::new(),
            }),
            mounts: prepared.into_inner().mounts,
        };
        let applied = DiffClient::new(self.channel.clone())
            .apply(super::images::leased(apply, lease))
            .await;
        let outcome = match applied {
            Ok(_) => {
                let commit = CommitSnapshotRequest {
                    snapshotter: SNAPSHOTTER.into(),
                    name: name.to_owned(),
                    key: key.clone(),
                    labels: HashMap::new(),
                };
                let committed = snapshots.commit(super::images::leased(commit, lease)).await;
                committed.map(|_| ())
            }
            Err(status) => Err(status),
        };
        let Err(status) = outcome else { return Ok(()) };
        let request = RemoveSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key,
        };
        if let Err(e) = snapshots.remove(namespaced(request)).await {
            tracing::warn!(
                error = e.message(),
                "a half unpacked layer is left to the collection"
            );
        }
        // Somebody else unpacked it meanwhile.
        if status.code() == Code::AlreadyExists {
            return Ok(());
        }
        Err(status.into())
    }
}

/// A name that no other unpacking on this machine has.
fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = super::images::rfc3339_after(0);
    format!("{prefix}-{}-{now}-{number}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_by_all_that_lie_below() {
        let ids = ["sha256:a".to_owned(), "sha256:b".to_owned()];
        let chain = chain_ids(&ids);
        assert_eq!(chain[0], "sha256:a");
        let sum = Sha256::digest("sha256:a sha256:b");
        assert_eq!(
            chain[1],
            format!("sha256:{}", super::super::images::hex(&sum))
        );
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn a_mount_names_its_layers() {
        let overlay = Mount {
            r#type: "overlay".into(),
            source: "overlay".into(),
            options: vec!["index=off".into(), "lowerdir=/s/2/fs:/s/1/fs".into()],
            ..Default::default()
        };
        assert_eq!(layers_of(&overlay), ["/s/2/fs", "/s/1/fs"]);
        let bind = Mount {
            r#type: "bind".into(),
            source: "/s/1/fs".into(),
            options: vec!["ro".into(), "rbind".into()],
            ..Default::default()
        };
        assert_eq!(layers_of(&bind), ["/s/1/fs"]);
        assert!(!is_shown(&[bind]).unwrap());
        assert!(show(&[], Path::new("/")).is_err());
    }

    #[test]
    fn views_of_images_that_are_here_stay() {
        let view = |name: &str, image: &str| Info {
            name: name.into(),
            labels: HashMap::from([(IMAGE_LABEL.to_owned(), image.to_owned())]),
            ..Default::default()
        };
        let views = vec![view("a", "sha256:1"), view("b", "sha256:2")];
        let left = unused(views, &HashSet::from(["sha256:1".to_owned()]));
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].name, "b");
    }
}
