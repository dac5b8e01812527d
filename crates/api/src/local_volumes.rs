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
