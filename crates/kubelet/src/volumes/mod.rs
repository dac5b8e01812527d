//! Volumes of pods: made before the sandbox, brought up to date while the pod runs, taken
//! away after. The folders are upstream's, so that another kubelet finds its way. What each kind
//! of volume does is its [`source::Source`].

pub mod atomic;
pub mod claim_lookup;
mod claim_volume;
mod config_map;
mod csi;
mod downward;
mod empty_dir;
pub mod error;
mod file_system;
mod files;
mod followed;
mod host_path;
pub mod image;
mod iscsi;
pub mod local_disk;
pub mod local_disk_keeper;
mod nfs;
pub mod ownership;
pub mod pod_certificates;
mod projected;
mod secret;
pub mod source;
pub mod subpath;
pub mod tokens;
mod tools;
pub mod trust_bundles;
pub mod wakes;

use crate::folder;
use crate::metrics::STARTS;
use crate::pod::env::Around;
use crate::pod::spec;
use clock::Instant;
pub use error::{Error, private_folder};
use k8s_openapi::api::core::v1::{Pod, Volume};
pub use source::Means;
use source::{Order, Source, unmount_below};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

/// A volume of a pod on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// Where it is.
    pub path: PathBuf,
    /// Nobody in the pod may write it.
    pub read_only: bool,
    /// It is a block device.
    pub block: bool,
    /// Its files may get the SELinux label of the containers that mount it.
    pub is_labelled: bool,
    /// The group that it names as its own.
    pub group: Option<i64>,
}

impl From<PathBuf> for At {
    fn from(path: PathBuf) -> Self {
        Self {
            path,
            ..Self::default()
        }
    }
}

/// Where the volumes of a pod are on the host, by name.
pub type Mounted = HashMap<String, At>;

/// The volumes of all pods.
#[derive(Debug)]
pub struct Volumes(pub Means);

impl Volumes {
    /// Makes all volumes of a pod, or finds them made. `fresh`: they were made before, and are
    /// only brought up to date.
    pub async fn prepare(&self, pod: &Pod, around: &Around, fresh: bool) -> Result<Mounted, Error> {
        let mut mounted = Mounted::new();
        for volume in spec::of(pod).volumes.iter().flatten() {
            let order = Order {
                means: &self.0,
                pod,
                volume,
                around,
            };
            let Some(source) = of(volume) else {
                return Err(order.wrong("this kind of volume is not supported by this node"));
            };
            let path = if fresh {
                source.refresh(order).await?
            } else {
                let began = Instant::now();
                let made = source.prepare(order).await;
                let (plugin, took) = (source.plugin(), began.elapsed());
                STARTS.volume(plugin, "volume_mount", took, made.is_ok());
                made?
            };
            let held = self.0.claims.held(spec::uid(pod), &volume.name);
            let says = [
                volume.nfs.as_ref().and_then(|v| v.read_only),
                volume.iscsi.as_ref().and_then(|v| v.read_only),
            ];
            let read_only =
                held.as_ref().is_some_and(|h| h.read_only) || says.contains(&Some(true));
            let folder = self.0.pods_dir.join(spec::uid(pod)).join("volumes");
            let at = At {
                is_labelled: !read_only && is_labelled(&path, &folder),
                path,
                read_only,
                group: held.as_ref().and_then(|h| h.group),
                block: held.is_some_and(|h| h.block),
            };
            mounted.insert(volume.name.clone(), at);
        }
        Ok(mounted)
    }

    /// Gives back all that is mounted of a pod whose containers have ended. What one volume fails
    /// with does not keep the others; the first failure is reported.
    pub async fn unmount(&self, uid: &str) -> Result<(), Error> {
        let dir = self.0.pods_dir.join(uid);
        if uid.is_empty() || !dir.try_exists().map_err(error::io_at(&dir))? {
            return Ok(());
        }
        let folder = dir.join("volumes");
        let volumes = below(&folder).map_err(error::io_at(&folder))?;
        let all = host::mounts::below(&dir).map_err(error::io_at(&dir))?;
        // Parts of volumes first: they keep the volumes busy.
        let mut first = unmount_below(&dir.join(subpath::FOLDER));
        for (plugin, volume) in volumes {
            // Most have only mounts.
            let concerned = |s: &&dyn Source| !all.is_empty() || s.holds_more_than_mounts();
            if let Some(source) = by_plugin(&plugin).filter(concerned) {
                let began = Instant::now();
                let given_back = source.release(&self.0, &volume).await;
                let (took, well) = (began.elapsed(), given_back.is_ok());
                STARTS.volume(&plugin, "volume_unmount", took, well);
                first = first.and(given_back);
            }
        }
        let devices = self.0.csi.unpublish_devices(uid).await;
        let devices = devices.map_err(|source| Error::Release {
            dir: dir.clone(),
            source: Box::new(source),
        });
        first.and(devices)?;
        self.0.claims.forget(uid);
        // What is mounted elsewhere.
        unmount_below(&dir)
    }

    /// Gives back and removes everything of a pod on the host.
    pub async fn release(&self, uid: &str) -> Result<(), Error> {
        let dir = self.0.pods_dir.join(uid);
        if uid.is_empty() || !dir.try_exists().map_err(error::io_at(&dir))? {
            return Ok(());
        }
        self.unmount(uid).await?;
        self.0.tokens.forget(uid);
        self.0.certificates.forget(uid);
        self.0.image_volumes.forget(uid);
        // Not through what may be mounted still, and however deep a pod made its folders.
        host::open_beneath::remove_tree(&dir).map_err(error::io_at(&dir))
    }

    /// UIDs of pods that have a folder here.
    #[must_use]
    pub fn known(&self) -> Vec<String> {
        let all = folder::entries_or_none(&self.0.pods_dir);
        all.iter().map(|f| folder::name(f)).collect()
    }
}

/// Puts a pod's processes into the groups of its volumes.
pub fn join_groups(volumes: Option<&Mounted>, groups: &mut Vec<i64>) {
    let all = volumes.into_iter().flat_map(HashMap::values);
    let mut own: Vec<i64> = all.filter_map(|at| at.group).collect();
    own.sort_unstable();
    for group in own {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
}

/// Whether a volume's files may be labelled: those of volumes that the node makes, or mounts, below a pod's
/// `folder` of volumes. A folder of the node's keeps the labels that it has; files of NFS and of images
/// cannot have others. As upstream.
fn is_labelled(path: &Path, folder: &Path) -> bool {
    let below = path.strip_prefix(folder).ok();
    let plugin = below.and_then(|p| p.iter().next()?.to_str());
    plugin.is_some_and(|plugin| plugin != nfs::PLUGIN && plugin != image::PLUGIN)
}

/// How many volumes of each kind pods name, and how many have a folder here; by the names that
/// upstream's figures give kinds.
pub fn counts<'a>(
    pods_dir: &Path,
    pods: impl Iterator<Item = &'a Pod>,
) -> std::collections::BTreeMap<String, (u64, u64)> {
    let name = |folder: &str| match folder {
        "" => "kubernetes.io/host-path".to_owned(),
        folder => folder.replace('~', "/"),
    };
    let mut all = std::collections::BTreeMap::<String, (u64, u64)>::new();
    for pod in pods {
        for source in spec::of(pod).volumes.iter().flatten().filter_map(of) {
            all.entry(name(source.plugin())).or_default().0 += 1;
            if source.plugin().is_empty() {
                // It is there as it is.
                all.entry(name("")).or_default().1 += 1;
            }
        }
        // A figure, for which what cannot be read is not there.
        let volumes = below(&pods_dir.join(spec::uid(pod)).join("volumes"));
        for (plugin, _) in volumes.unwrap_or_default() {
            all.entry(name(&plugin)).or_default().1 += 1;
        }
    }
    all
}

/// The volumes that have a folder: the kind's name for it, and where it is.
fn below(volumes: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut all = Vec::new();
    for plugin in folder::entries(volumes)? {
        let name = folder::name(&plugin);
        let own = folder::entries(&plugin)?.into_iter();
        all.extend(own.map(|volume| (name.clone(), volume)));
    }
    Ok(all)
}

/// All kinds that this node has.
const SOURCES: [&dyn Source; 11] = [
    &claim_volume::Claim,
    &csi::Csi,
    &nfs::Nfs,
    &iscsi::Iscsi,
    &host_path::HostPath,
    &empty_dir::EmptyDir,
    &config_map::ConfigMap,
    &secret::Secret,
    &downward::Downward,
    &projected::Projected,
    &image::Image,
];

/// Whether volumes in the folder of this name outlive their pod.
#[must_use]
pub fn is_persistent(plugin: &std::ffi::OsStr) -> bool {
    let all = [
        claim_volume::LOCAL,
        nfs::PLUGIN,
        iscsi::PLUGIN,
        crate::csi::PLUGIN,
    ];
    all.iter().any(|kind| plugin == *kind)
}

/// The kind of a volume.
fn of(volume: &Volume) -> Option<&'static dyn Source> {
    SOURCES.into_iter().find(|s| s.means(volume))
}

/// The kind whose volumes are in a folder of this name.
fn by_plugin(plugin: &str) -> Option<&'static dyn Source> {
    let mut all = SOURCES.into_iter();
    all.find(|s| !plugin.is_empty() && s.plugin() == plugin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn folders_of_pods_are_for_the_kubelet_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |sub: &str| {
            let meta = std::fs::metadata(dir.path().join(sub)).unwrap();
            meta.permissions().mode() & 0o7777
        };
        let volume = dir.path().join("pods/u/volumes/kubernetes.io~empty-dir/v");
        empty_dir::make(&volume, None, None).unwrap();
        for sub in [
            "pods",
            "pods/u",
            "pods/u/volumes",
            "pods/u/volumes/kubernetes.io~empty-dir",
        ] {
            assert_eq!(mode(sub), 0o750, "{sub}");
        }
        assert_eq!(mode("pods/u/volumes/kubernetes.io~empty-dir/v"), 0o777);
    }

    #[test]
    fn processes_are_in_the_groups_of_their_volumes() {
        let at = |group| At {
            group,
            ..At::default()
        };
        let volumes: Mounted = [("a", Some(9)), ("b", None), ("c", Some(7)), ("d", Some(9))]
            .map(|(name, group)| (name.to_owned(), at(group)))
            .into();
        let mut groups = vec![7, 5];
        join_groups(Some(&volumes), &mut groups);
        assert_eq!(groups, [7, 5, 9]);
        join_groups(None, &mut groups);
        assert_eq!(groups, [7, 5, 9]);
    }

    #[test]
    fn what_the_node_made_for_a_pod_may_be_labelled() {
        let folder = Path::new("/pods/u/volumes");
        for (path, want) in [
            ("/pods/u/volumes/kubernetes.io~empty-dir/v", true),
            ("/pods/u/volumes/kubernetes.io~csi/pv/mount", true),
            ("/pods/u/volumes/kubernetes.io~local-volume/pv", true),
            ("/pods/u/volumes/kubernetes.io~nfs/v", false),
            ("/pods/u/volumes/kubernetes.io~image/v", false),
            ("/pods/u/volumes", false),
            ("/pods/other/volumes/kubernetes.io~empty-dir/v", false),
            ("/etc", false),
        ] {
            assert_eq!(is_labelled(Path::new(path), folder), want, "{path}");
        }
    }

    #[test]
    fn each_kind_is_meant_by_one_source() {
        for (kind, plugin) in [
            (json!({"hostPath": {"path": "/"}}), ""),
            (json!({"emptyDir": {}}), "kubernetes.io~empty-dir"),
            // Without any source: an empty folder.
            (json!({}), "kubernetes.io~empty-dir"),
            (
                json!({"configMap": {"name": "m"}}),
                "kubernetes.io~configmap",
            ),
            (
                json!({"secret": {"secretName": "s"}}),
                "kubernetes.io~secret",
            ),
            (json!({"downwardAPI": {}}), "kubernetes.io~downward-api"),
            (json!({"projected": {}}), "kubernetes.io~projected"),
            (json!({"image": {}}), "kubernetes.io~image"),
            (
                json!({"nfs": {"server": "s", "path": "/"}}),
                "kubernetes.io~nfs",
            ),
            (
                json!({"iscsi": {"targetPortal": "p", "iqn": "iqn", "lun": 0}}),
                "kubernetes.io~iscsi",
            ),
            (json!({"csi": {"driver": "d"}}), "kubernetes.io~csi"),
            (
                json!({"persistentVolumeClaim": {"claimName": "c"}}),
                "kubernetes.io~local-volume",
            ),
            (
                json!({"ephemeral": {"volumeClaimTemplate": {"spec": {}}}}),
                "kubernetes.io~local-volume",
            ),
        ] {
            let mut volume = kind.clone();
            volume["name"] = json!("v");
            let volume: Volume = serde_json::from_value(volume).unwrap();
            let meant = SOURCES.iter().filter(|s| s.means(&volume)).count();
            assert_eq!(meant, 1, "{kind}");
            assert_eq!(of(&volume).map(|s| s.plugin()), Some(plugin), "{kind}");
        }
        let volume = json!({"name": "v", "cephfs": {"monitors": []}});
        assert!(of(&serde_json::from_value(volume).unwrap()).is_none());
        assert!(by_plugin("").is_none() && by_plugin("kubernetes.io~secret").is_some());
    }
}
