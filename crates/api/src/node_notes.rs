//! What a node's agent says of the network in annotations of its Node, and others act on.

/// Whether the node has a DNS server of its own, to which its pods' questions are led: [`NONE`] where
/// it has none. One that says nothing has one.
pub const CLUSTER_DNS: &str = "tiphys.io/cluster-dns";
/// There is none.
pub const NONE: &str = "none";
/// The public key of the node's end of the encrypted tunnels, in base64 as WireGuard's tools write it.
pub const WIREGUARD_KEY: &str = "tiphys.io/wireguard-key";
