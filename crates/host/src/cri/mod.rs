//! The container runtime: CRI v1 for pods and containers, and containerd's own services for
//! what CRI lacks (importing images, events of tasks).
//!
//! [`Cri`] is one [`crate::runtime::Runtime`]; nothing of the protocol is seen outside of it.

mod convert;
mod events;
mod image_mounts;
pub mod images;
mod runtime;

/// Messages and clients made from the files under `proto/`.
#[allow(
    clippy::all,
    missing_docs,
    clippy::allow_attributes,
    reason = "generated code"
)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/protos.rs"));
}

use proto::runtime::v1;
pub use runtime::Cri;

use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use tonic::transport::{Channel, Endpoint, Uri};

/// The namespace of containerd in which its CRI plugin keeps everything.
pub const NAMESPACE: &str = "k8s.io";

/// The largest message taken from the runtime, in bytes. Lists of a full node
/// (110 pods, a dozen containers each) stay below 2 MiB; upstream's client takes 16 MiB.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// A channel to a unix socket that connects at the first call and again after a loss.
///
/// `endpoint` is a path, with or without `unix://` before it.
#[must_use]
pub fn channel(endpoint: &str) -> Channel {
    let path = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
    Endpoint::from_static("http://runtime").connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let path = path.clone();
            async move {
                let socket = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(TokioIo::new(socket))
            }
        },
    ))
}

/// Marks a request for containerd's own services with the namespace of the CRI plugin.
pub(crate) fn namespaced<T>(body: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(body);
    request.metadata_mut().insert(
        "containerd-namespace",
        tonic::metadata::MetadataValue::from_static(NAMESPACE),
    );
    request
}
