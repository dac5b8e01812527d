//! Pages for looking into the server: those of the crate `zpages`. Who may see them has been asked.

use bytes::Bytes;
use http::Response;
use http::request::Parts;

use crate::http::body::{Body, BoxError};

const COMPONENT: zpages::Component = zpages::Component {
    name: "kube-apiserver",
    paths: &[
        "/healthz",
        "/livez",
        "/metrics",
        "/metrics/slis",
        "/readyz",
        "/version",
    ],
};

/// Whether a request is for one of these pages.
pub fn serves(head: &Parts) -> bool {
    zpages::serves(head.uri.path())
}

/// Answers one of these pages; the body is given back where the path is another's.
pub async fn answer<B>(head: &Parts, body: B) -> Result<Response<Body>, B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let page = COMPONENT.answer(head, body).await?;
    Ok(page.map(Body::from))
}
