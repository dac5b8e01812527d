//! The streaming subresources: exec, attach, portforward, log, proxy. The pipeline has
//! authenticated and authorized the request; what follows talks to a kubelet or a pod.
//!
//! [`Connect`] is the seam, [`Kubelets`] the implementation that reaches nodes by TLS.

mod kubelets;
mod log;
mod pod;
mod proxy;

pub use kubelets::Kubelets;
pub(crate) use kubelets::{exchange, pass, strip, strip_upgrading};

use api::Status;
use bytes::Bytes;
use http::request::Parts;

use crate::admission::Operation;
use crate::call::{Answer, Call};
use crate::http::body::BoxError;
use crate::verbs::admit::Admission;

/// Whether a subresource is a stream.
pub fn is_stream(subresource: &str) -> bool {
    matches!(
        subresource,
        "exec" | "attach" | "portforward" | "proxy" | "log"
    )
}

/// Hands a request to the configured [`Connect`].
pub async fn run<B>(call: &Call, head: Parts, body: B) -> Result<Answer, Status>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let sub = call.subresource().ok_or_else(Status::no_such_path)?;
    if call.row.namespaced && call.info.namespace.is_empty() {
        return Err(Status::no_such_path());
    }
    let passes_all = &*sub.name == "proxy" && call.info.verb.is_empty();
    if !passes_all && !sub.verbs.iter().any(|v| **v == *call.info.verb) {
        return Err(Status::method_not_supported(
            &call.resource(),
            &call.info.verb,
        ));
    }
    let connect = call.plugins.connect.clone();
    let connect = connect.ok_or_else(|| Status::unavailable("this server has no way to nodes"))?;
    if matches!(&*call.info.subresource, "exec" | "attach" | "portforward") {
        may_create(call).await?;
    }
    if call.info.subresource != "log" {
        admit(call).await?;
    }
    let body = http_body_util::BodyExt::map_err(body, Into::into);
    connect
        .connect(call, head, Box::pin(body))
        .await
        .map(Answer::Response)
}

/// A stream into a pod changes it, also when it is asked for by GET, as WebSocket must.
async fn may_create(call: &Call) -> Result<(), Status> {
    if call.info.verb == "create" {
        return Ok(());
    }
    call.may_also("create").await
}

/// Admission of a connection; what it looks at are the options of the request.
async fn admit(call: &Call) -> Result<(), Status> {
    let name = match &*call.info.subresource {
        "proxy" => proxy::Target::parse(call)?.name,
        _ => call.info.name.clone(),
    };
    let sub = call.subresource().ok_or_else(Status::no_such_path)?;
    let mut options = pod::options(call, &sub.kind);
    let name = name.as_str();
    let mut admission = Admission::new(call, Operation::Connect, &sub.name, name, false);
    admission.mutate(Some(&mut options), None).await?;
    admission.validate(Some(&mut options), None).await
}
