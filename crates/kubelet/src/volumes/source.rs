//! What a kind of volume does: it is prepared before the pod's sandbox, refreshed while the pod
//! runs, and released after. Each kind is a file, and a line in
//! the table of [`super`].

use super::claim_lookup::Claims;
use super::error::{Error, io_at};
use super::local_disk::Disk;
use super::ownership;
use super::pod_certificates::PodCertificates;
use super::tokens::Tokens;
use super::trust_bundles::TrustBundles;
use super::wakes::Wakes;
use crate::csi::Csi;
use crate::events::Recorder;
use crate::objects::Objects;
use crate::pod::env::Around;
use clock::Clock;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Volume};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What volumes are made with.
#[derive(Debug)]
pub struct Means {
    /// Folder of all pods.
    pub pods_dir: PathBuf,
    /// ConfigMaps and Secrets.
    pub objects: Arc<Objects>,
    /// Service-account tokens.
    pub tokens: Arc<Tokens>,
    /// Trust anchors of the cluster.
    pub trust_bundles: TrustBundles,
    /// Certificates of pods.
    pub certificates: PodCertificates,
    /// Tells of changes of the two.
    pub wakes: Wakes,
    /// Volumes of CSI drivers.
    pub csi: Arc<Csi>,
    /// Persistent volume claims.
    pub claims: Claims,
    /// The volumes on the node's own disk, if it keeps some.
    pub disk: Option<Disk>,
    /// The time of day.
    pub clock: Clock,
    /// Images that are volumes.
    pub image_volumes: super::image::InUse,
    /// Saying what happens.
    pub recorder: Recorder,
}

/// One volume of one pod.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// What volumes are made with.
    pub means: &'a Means,
    /// The pod.
    pub pod: &'a Pod,
    /// The volume.
    pub volume: &'a Volume,
    /// What its fields may refer to.
    pub around: &'a Around,
}

impl Order<'_> {
    /// The group that may write it.
    #[must_use]
    pub fn group(&self) -> Option<i64> {
        let spec = crate::pod::spec::of(self.pod);
        spec.security_context.as_ref().and_then(|s| s.fs_group)
    }

    /// Whether a volume whose root has the group already is left as it is.
    #[must_use]
    pub fn keeps_fitting_root(&self) -> bool {
        let spec = crate::pod::spec::of(self.pod);
        let context = spec.security_context.as_ref();
        let policy = context.and_then(|s| s.fs_group_change_policy.as_deref());
        policy == Some("OnRootMismatch")
    }

    /// The folder of the volume, by the kind's name for its folders.
    #[must_use]
    pub fn dir(&self, plugin: &str) -> PathBuf {
        self.folder(plugin, &self.volume.name)
    }

    /// A folder of the kind by another name: persistent volumes have their own.
    #[must_use]
    pub fn folder(&self, plugin: &str, name: &str) -> PathBuf {
        let pod = self.means.pods_dir.join(crate::pod::spec::uid(self.pod));
        pod.join("volumes").join(plugin).join(name)
    }

    /// Gives what is mounted at a folder to the group of the pod's volumes, if it has one and the
    /// volume may be written.
    pub async fn give_to_group(&self, dir: PathBuf, read_only: bool) -> Result<PathBuf, Error> {
        let group = self.group().and_then(|g| u32::try_from(g).ok());
        let Some(gid) = group.filter(|_| !read_only) else {
            return Ok(dir);
        };
        let (at, once) = (dir.clone(), self.keeps_fitting_root());
        let about = (&self.means.recorder, self.pod, self.volume.name.as_str());
        let given = ownership::give(at, gid, once, about).await;
        given.map_err(io_at(&dir))?;
        Ok(dir)
    }

    /// An error about a volume before it is known what it is, in upstream's words.
    #[must_use]
    pub fn unmounted(&self, text: impl Into<String>) -> Error {
        let (name, text) = (&self.volume.name, text.into());
        Error::Claim {
            text: format!("Unable to attach or mount volumes: unmounted volumes=[{name}]: {text}"),
        }
    }

    /// An error about the persistent volume of a claim.
    #[must_use]
    pub fn of(&self, volume: &str, text: &str) -> Error {
        Error::Volume {
            volume: volume.to_owned(),
            text: text.to_owned(),
        }
    }

    /// An error about this volume.
    #[must_use]
    pub fn wrong(&self, text: impl Into<String>) -> Error {
        Error::Volume {
            volume: self.volume.name.clone(),
            text: text.into(),
        }
    }
}

/// Work on a volume that is under way; where the volume is on the host.
pub type Preparing<'a> = BoxFuture<'a, Result<PathBuf, Error>>;

/// A kind of volume.
pub trait Source: Sync {
    /// The folder of its volumes below the pod's `volumes`, in upstream's words; empty if they
    /// have none.
    fn plugin(&self) -> &'static str;

    /// Whether a volume is of this kind.
    fn means(&self, volume: &Volume) -> bool;

    /// Makes a volume, or finds it made.
    fn prepare<'a>(&self, order: Order<'a>) -> Preparing<'a>;

    /// Brings a volume up to date that is there. Most have nothing to bring.
    fn refresh<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        let path = order.dir(self.plugin());
        Box::pin(std::future::ready(Ok(path)))
    }

    /// Whether a volume of this kind has something to give back though nothing of it is mounted.
    fn holds_more_than_mounts(&self) -> bool {
        false
    }

    /// Gives back what a volume holds at its folder. The folder itself is removed with the pod's.
    fn release<'a>(&self, means: &'a Means, dir: &'a Path) -> BoxFuture<'a, Result<(), Error>> {
        let _ = means;
        Box::pin(std::future::ready(unmount_below(dir)))
    }
}

/// Takes away all mounts at and below a folder.
pub(super) fn unmount_below(dir: &Path) -> Result<(), Error> {
    if !dir.try_exists().map_err(io_at(dir))? {
        return Ok(());
    }
    for mount in host::mounts::below(dir).map_err(io_at(dir))? {
        host::mounts::unmount(&mount).map_err(io_at(&mount))?;
    }
    Ok(())
}
