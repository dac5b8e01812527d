//! The protocols of a node's plugins, which listen on unix sockets of their own: how they register
//! with the kubelet, CSI drivers, device plugins, drivers of dynamic resources, and what the kubelet
//! says of devices. What they are asked, and when, is the kubelet's business.

/// Messages, clients and servers made from the files under `proto/`.
#[allow(
    clippy::all,
    missing_docs,
    clippy::allow_attributes,
    reason = "generated code"
)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/plugins.rs"));
}

pub use crate::cri::channel;
pub use proto::csi::v1 as csi;
pub use proto::k8s::io::kubelet::pkg::apis::dra::v1 as dra;
pub use proto::k8s::io::kubelet::pkg::apis::dra::v1beta1 as dra_v1beta1;
pub use proto::pluginregistration as registration;
pub use proto::v1 as pod_resources;
pub use proto::v1alpha1 as dra_health;
pub use proto::v1alpha1 as pod_resources_alpha;
pub use proto::v1beta1 as devices;
