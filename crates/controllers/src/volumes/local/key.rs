//! What the provisioner of the nodes' disks works on.

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Key {
    /// Namespace and name.
    Claim(String, String),
    Volume(String),
    /// Class and node: how much room there is.
    Room(String, String),
    /// Namespace and name.
    Snapshot(String, String),
    /// Of a snapshot.
    Content(String),
    /// A node that has snapshots, or none any more.
    SnapshotNode(String),
}
