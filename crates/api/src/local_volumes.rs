//! What the provisioner of the nodes' disks and the nodes say to one another through volumes and
//! nodes: names of annotations, labels and a finalizer of ours.

/// The provisioner's name, as classes name it.
pub const PROVISIONER: &str = "tiphys.io/local";
/// Holds a volume's object until its node has removed its folder.
pub const FINALIZER: &str = "tiphys.io/local-volume";
/// The label of a volume with the name of the node that has it.
pub const NODE_LABEL: &str = "tiphys.io/local-volume-node";
/// The annotation of a node: the folder of its volumes.
pub const PATH: &str = "tiphys.io/local-volumes-path";
/// The annotation of a node: how much it has for all of them, as a quantity.
pub const CAPACITY: &str = "tiphys.io/local-volumes-capacity";
/// Who made a volume, in upstream's words.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// The annotation of a node: whether its file system holds volumes to their sizes, [`ENFORCED`] or
/// [`MEASURED`].
pub const QUOTA: &str = "tiphys.io/local-volumes-quota";
/// The annotation of a volume, by its node: the size to which its file system holds it, or
/// [`MEASURED`] where that cannot, and the kubelet looks now and then.
pub const LIMIT: &str = "tiphys.io/local-volume-limit";
/// Of [`QUOTA`]: by the file system.
pub const ENFORCED: &str = "enforced";
/// Of [`QUOTA`] and [`LIMIT`]: nobody is kept from writing more.
pub const MEASURED: &str = "measured";
/// The annotation of a volume: what becomes of pods whose volume has more than its size, where that
/// is only measured: [`EVICT`], or a warning.
pub const OVERUSE: &str = "tiphys.io/local-volume-overuse";
/// The parameter of a class by that name, and its values.
pub const OVERUSE_PARAMETER: &str = "overuse";
/// Pods are evicted, as for an emptyDir that is larger than its limit.
pub const EVICT: &str = "Evict";
/// An event says so, and no more: the default.
pub const WARN: &str = "Warn";
/// The annotation of a volume: the folder on its node that it begins as a copy of.
pub const SOURCE: &str = "tiphys.io/local-volume-source";
/// The annotation of a node that has snapshots: it follows them.
pub const SNAPSHOTS: &str = "tiphys.io/local-snapshots";
/// The API group of snapshots, whose kinds are custom ones.
pub const SNAPSHOT_GROUP: &str = "snapshot.storage.k8s.io";
/// Holds the content of a snapshot as long as the snapshot is there, in the words of others who keep
/// snapshots.
pub const CONTENT_BOUND: &str =
    "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection";

/// What the content of a snapshot is named by outside of the API: its node, and its folder there.
#[must_use]
pub fn snapshot_handle(node: &str, folder: &str) -> String {
    format!("{node}/{folder}")
}

/// Node and folder of a snapshot, by [`snapshot_handle`].
#[must_use]
pub fn snapshot_place(handle: &str) -> Option<(&str, &str)> {
    let (node, folder) = handle.split_once('/')?;
    let plain = !folder.is_empty() && !folder.contains('/') && !folder.starts_with('.');
    (plain && !node.is_empty()).then_some((node, folder))
}
