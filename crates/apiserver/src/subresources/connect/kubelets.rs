//! The implementation of [`Connect`]: finds the pod's node, connects to its kubelet, and passes
//! on what the kubelet answers. An upgraded connection is relayed byte by byte: whatever the
//! client and the kubelet agree on (SPDY or WebSocket) is between the two.

use std::sync::Arc;

use api::Status;
use futures::future::BoxFuture;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, Empty};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;
use wire::stream::{BoxIo, upgrade};

use super::{log, pod, proxy};
use crate::call::Call;
use crate::dialer::dial::{Dialer, dial};
use crate::egress::service_resolver;
use crate::hooks::{Connect, RequestBody};
use crate::http::body::Body;
use crate::http::respond::Relayed;

/// Subprotocols that carry a bearer token: for this server alone.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Reaches kubelets with the API server's client certificate, and pods through them.
pub struct Kubelets {
    pub(super) dialer: Arc<Dialer>,
}

impl Kubelets {
    #[expect(clippy::new_ret_no_self, reason = "it is only used through its seam")]
    pub fn new(dialer: Arc<Dialer>) -> Arc<dyn Connect> {
        Arc::new(Self { dialer })
    }

    async fn serve(
        &self,
        call: &Call,
        head: Parts,
        body: RequestBody,
    ) -> Result<Response<Body>, Status> {
        match &*call.info.subresource {
            "log" => log::serve(self, call, head).await,
            "proxy" => proxy::serve(self, call, head, body).await,
            _ => self.stream(call, head).await,
        }
    }

    /// exec, attach and portforward.
    async fn stream(&self, call: &Call, mut head: Parts) -> Result<Response<Body>, Status> {
        let object = call.stored(&call.info.name).await?.to_value();
        let path = pod::stream_path(call, &object)?;
        let node = service_resolver::node_name(&object).ok_or_else(|| {
            Status::bad_request(format!(
                "pod {} does not have a host assigned",
                call.info.name
            ))
        })?;
        if !upgrade::is_upgrade(&head.headers) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let (host, port) = service_resolver::kubelet(&call.state, node)?;
        let io = dial(&host, port, Some(&self.dialer.kubelet)).await;
        let io = io.map_err(|e| plain(500, format!("error dialing backend: {e}")))?;
        let request = Request::builder()
            .method(head.method.clone())
            .uri(path)
            .body(Empty::<bytes::Bytes>::new());
        let mut request = request.map_err(Status::internal)?;
        *request.headers_mut() = upgrade_headers(&head.headers);
        if let Ok(v) = HeaderValue::from_str(&api::host_port(&host, port)) {
            request.headers_mut().insert(HOST, v);
        }
        traces::pass_on(request.headers_mut());
        exchange(io, request, head.extensions.remove()).await
    }
}

impl Connect for Kubelets {
    fn connect<'a>(
        &'a self,
        call: &'a Call,
        head: Parts,
        body: RequestBody,
    ) -> BoxFuture<'a, Result<Response<Body>, Status>> {
        Box::pin(self.serve(call, head, body))
    }
}

/// Sends a request that may upgrade and passes the answer on. `client` is the client's side of
/// the upgrade; without it (a client in this process) an upgrade cannot be relayed.
pub(crate) async fn exchange<B>(
    io: BoxIo,
    request: Request<B>,
    client: Option<OnUpgrade>,
) -> Result<Response<Body>, Status>
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let answer = upgrade::send(io, request).await;
    let mut answer = answer.map_err(|e| plain(500, format!("error dialing backend: {e}")))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(pass(answer));
    }
    let Some(client) = client else {
        return Err(Status::bad_request("this connection cannot be upgraded"));
    };
    let backend = hyper::upgrade::on(&mut answer);
    let over = CancellationToken::new();
    let ends = over.clone().drop_guard();
    tokio::spawn(async move {
        upgrade::relay(client, backend).await;
        drop(ends);
    });
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Relayed(over));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    Ok(response)
}

/// An answer as it came, without what belongs to its connection.
pub(crate) fn pass(answer: Response<Incoming>) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    strip(&mut head.headers);
    head.headers
        .entry(CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("text/plain"));
    let mut response = Response::new(streamed(body));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

pub(super) fn streamed(body: Incoming) -> Body {
    use futures::StreamExt;
    let frames = BodyStream::new(body.map_err(Into::into));
    Body::stream(frames.filter_map(|frame| async move {
        match frame {
            Ok(f) => f.into_data().ok().map(Ok),
            Err(e) => Some(Err(e)),
        }
    }))
}

/// Headers that say something of one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Removes headers of the connection, and those that `Connection` names.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all("connection")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|n| n.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// [`strip`] for a request that is to become another protocol: what names that stays, and nothing else
/// that the client calls this connection's own. Of what is added here, such as who asks, nothing may be
/// lost on the way.
pub(crate) fn strip_upgrading(headers: &mut HeaderMap) {
    let protocol = headers.get(UPGRADE).cloned();
    strip(headers);
    // No body goes along; a length would make the other side take the stream's beginning for one.
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    protocol.map(|value| headers.insert(UPGRADE, value));
    hide_token(headers);
}

/// What of a client's request the kubelet must see to upgrade.
fn upgrade_headers(from: &HeaderMap) -> HeaderMap {
    let mut to = HeaderMap::new();
    for (name, value) in from {
        let wanted = matches!(
            name.as_str(),
            "connection" | "upgrade" | "x-stream-protocol-version" | "user-agent" | "origin"
        );
        if wanted || name.as_str().starts_with("sec-websocket-") {
            to.append(name.clone(), value.clone());
        }
    }
    hide_token(&mut to);
    to
}

/// A token among the subprotocols is not passed to the backend.
fn hide_token(headers: &mut HeaderMap) {
    let all = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    let texts = all.iter().filter_map(|v| v.to_str().ok());
    let words = texts.flat_map(|t| t.split(',')).map(str::trim);
    let kept: Vec<&str> = words
        .filter(|w| !w.is_empty() && !w.starts_with(TOKEN_PROTOCOL))
        .collect();
    match HeaderValue::from_str(&kept.join(", ")) {
        Ok(v) if !kept.is_empty() => {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, v);
        }
        _ => {
            headers.remove(SEC_WEBSOCKET_PROTOCOL);
        }
    }
}

/// An error of no known reason, as upstream reports what went wrong behind it.
pub(super) fn plain(code: u16, message: String) -> Status {
    Status {
        code,
        status: "Failure".into(),
        message,
        ..Status::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stay_here() {
        let mut headers = HeaderMap::new();
        let given = format!("{TOKEN_PROTOCOL}c2VjcmV0, v4.channel.k8s.io");
        headers.insert(SEC_WEBSOCKET_PROTOCOL, given.parse().unwrap());
        headers.insert("authorization", "Bearer secret".parse().unwrap());
        let out = upgrade_headers(&headers);
        assert_eq!(out[SEC_WEBSOCKET_PROTOCOL], "v4.channel.k8s.io");
        assert_eq!(out.len(), 1);
    }
}
