//! Calls to webhooks and extension servers: by URL, or by a Service, of which a ready endpoint is
//! looked for with every request and reached as pods are ([`service_resolver`], [`crate::dialer`]). Nothing
//! is followed that an answer says (no redirects), no proxy of this machine's environment is used,
//! and no header goes out that a caller did not set here.
//!
//! What is asked and what an answer means is the caller's.

mod answer;
pub mod service_resolver;

use std::io;
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use wire::stream::BoxIo;
use wire::tls::TlsError;
use wire::trust::Trust;

use crate::dialer::{DialTarget, TlsSide};
use crate::state::State;
use service_resolver::{Behind, ServicePort};

/// The port of a Service or URL that names none.
const HTTPS: u16 = 443;
/// Endpoints of a Service that are tried, when one after the other cannot be connected to.
const TRIED: usize = 3;
/// What this server calls itself towards webhooks; upstream's name.
const AGENT: HeaderValue = HeaderValue::from_static("kube-apiserver-admission");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const ACCEPTED: HeaderValue = HeaderValue::from_static("application/json, */*");

/// A webhook or an extension server.
#[derive(Clone, Debug)]
pub struct Backend {
    to: To,
    tls: TlsSide,
    /// The name that its certificate must have, where that is not its host's.
    name: Option<String>,
}

/// Where it is.
#[derive(Clone, Debug)]
enum To {
    Url {
        host: String,
        port: u16,
        /// `host` or `host:port`, as written.
        authority: String,
        path: String,
    },
    Service {
        namespace: String,
        name: String,
        port: u16,
        path: String,
    },
}

/// Why a `clientConfig` names nobody that can be called.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    #[error("webhook configuration must have either service or URL")]
    Nobody,
    #[error("Unparsable URL: {0}")]
    Url(String),
    #[error("unable to load root certificates: {0}")]
    Bundle(#[source] TlsError),
}

/// Why there is no answer that can be used; upstream's words.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The other side was not reached, or the connection broke.
    #[error("{} {url:?}: {why}", verb(.method))]
    Unreachable {
        method: Method,
        url: String,
        why: String,
    },
    #[error("{} {url:?}: context deadline exceeded", verb(.method))]
    Late { method: Method, url: String },
    #[error("{} {url:?}: the answer is larger than {limit_bytes} bytes", verb(.method))]
    TooLarge {
        method: Method,
        url: String,
        limit_bytes: usize,
    },
    /// An answer that says that the request failed.
    #[error("{}", .0.message)]
    Refused(Box<Status>),
}

/// As Go writes it.
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "Post",
        Method::GET => "Get",
        Method::PUT => "Put",
        Method::PATCH => "Patch",
        Method::DELETE => "Delete",
        Method::HEAD => "Head",
        Method::OPTIONS => "Options",
        _ => "Do",
    }
}

/// What a call may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// From looking for the other side to the last byte of its answer.
    pub within: Duration,
    /// Of the answer's body.
    pub answer_bytes: usize,
}

/// A request for somebody outside.
#[derive(Clone, Debug)]
pub struct OutgoingRequest {
    pub method: Method,
    /// Path and query; the path of the backend when empty.
    pub path: String,
    /// All headers but `Host` and the length.
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Backend {
    /// Reads a `clientConfig`, as webhooks of admission and of conversion have it.
    pub fn read(config: &Value) -> Result<Self, BackendError> {
        let bundle = config["caBundle"].as_str().unwrap_or_default();
        let tls = match bundle {
            "" => TlsSide::new(Trust::System, None),
            text => {
                use base64::Engine;
                let pem = base64::engine::general_purpose::STANDARD.decode(text);
                let pem = pem.map_err(|e| BackendError::Bundle(TlsError::Pem(e.to_string())))?;
                TlsSide::new(Trust::Bundle(&pem), None)
            }
        };
        let tls = tls.map_err(BackendError::Bundle)?;
        let service = &config["service"];
        if service.is_object() {
            let text = |field: &str| service[field].as_str().unwrap_or_default();
            let port = service["port"].as_u64().and_then(|p| u16::try_from(p).ok());
            let at = (text("namespace"), text("name"), port.unwrap_or(HTTPS));
            return Ok(Self::service(at, text("path"), tls));
        }
        match config["url"].as_str() {
            Some(url) if !url.is_empty() => Self::url(url, tls),
            _ => Err(BackendError::Nobody),
        }
    }

    /// A Service's port (namespace, name, port), asked under a path.
    pub fn service((namespace, name, port): (&str, &str, u16), path: &str, tls: TlsSide) -> Self {
        let to = To::Service {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port,
            path: rooted(path),
        };
        Self {
            to,
            tls,
            name: None,
        }
    }

    /// A URL whose scheme is `https`.
    pub fn url(url: &str, tls: TlsSide) -> Result<Self, BackendError> {
        let bad = |why: &str| BackendError::Url(why.to_owned());
        let uri: Uri = url
            .parse()
            .map_err(|e: http::uri::InvalidUri| bad(&e.to_string()))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad("'https' is the only allowed URL scheme"));
        }
        let authority = uri
            .authority()
            .ok_or_else(|| bad("host must be specified"))?;
        if authority.as_str().contains('@') {
            return Err(bad("user information is not permitted in the URL"));
        }
        let to = To::Url {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(HTTPS),
            authority: authority.as_str().to_owned(),
            path: uri.path().to_owned(),
        };
        Ok(Self {
            to,
            tls,
            name: None,
        })
    }

    /// The same, with a certificate for another name than its host's.
    #[must_use]
    pub fn shown_as(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// The name that the other side's certificate must have.
    fn server_name(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        self.own_name()
    }

    fn own_name(&self) -> String {
        match &self.to {
            To::Url { host, .. } => host.clone(),
            To::Service {
                namespace, name, ..
            } => format!("{name}.{namespace}.svc"),
        }
    }

    fn authority(&self) -> String {
        match &self.to {
            To::Url { authority, .. } => authority.clone(),
            To::Service { port, .. } => format!("{}:{port}", self.own_name()),
        }
    }

    fn path(&self) -> &str {
        let (To::Url { path, .. } | To::Service { path, .. }) = &self.to;
        path
    }

    /// Where it can be reached now, in the order in which to try.
    fn places(&self, state: &State) -> Result<Vec<DialTarget>, String> {
        match &self.to {
            To::Url { host, port, .. } => Ok(vec![DialTarget::Host {
                host: host.clone(),
                port: *port,
            }]),
            To::Service {
                namespace,
                name,
                port,
                ..
            } => {
                let of = ServicePort {
                    namespace,
                    service: name,
                    port: &port.to_string(),
                };
                let found = service_resolver::behind(state, of, Behind::Anyone);
                let mut all = found.map_err(|s| match s.code {
                    404 => format!("service {name:?} not found"),
                    _ => s.message,
                })?;
                all.truncate(TRIED);
                Ok(all)
            }
        }
    }
}

fn rooted(path: &str) -> String {
    match path {
        "" => "/".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    }
}

/// Posts JSON and gives the body of an answer that says that all went well. The request says
/// how long an answer may take, as upstream's does.
pub async fn post(
    state: &State,
    backend: &Backend,
    body: Bytes,
    bounds: Bounds,
) -> Result<Bytes, CallError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(ACCEPT, ACCEPTED);
    headers.insert(USER_AGENT, AGENT);
    post_with(state, backend, headers, body, bounds).await
}

/// As [`post`], with the caller's headers.
pub async fn post_with(
    state: &State,
    backend: &Backend,
    headers: HeaderMap,
    body: Bytes,
    bounds: Bounds,
) -> Result<Bytes, CallError> {
    let seconds = bounds.within.as_secs_f64().ceil() as u64;
    let asked = OutgoingRequest {
        method: Method::POST,
        path: format!("{}?timeout={seconds}s", backend.path()),
        headers,
        body,
    };
    let (head, body) = call(state, backend, asked, bounds).await?;
    if head.status.is_success() {
        return Ok(body);
    }
    let refusal = answer::refusal(head.status.as_u16(), &body);
    Err(CallError::Refused(Box::new(refusal)))
}

/// Sends a request and reads its answer whole.
pub async fn call(
    state: &State,
    backend: &Backend,
    asked: OutgoingRequest,
    bounds: Bounds,
) -> Result<(http::response::Parts, Bytes), CallError> {
    let (method, url) = (asked.method.clone(), backend.shown(&asked.path));
    let limit_bytes = bounds.answer_bytes;
    let work = async {
        let (head, body) = send(state, backend, asked).await?.into_parts();
        match Limited::new(body, limit_bytes).collect().await {
            Ok(whole) => Ok((head, whole.to_bytes())),
            Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(CallError::TooLarge {
                method: method.clone(),
                url: url.clone(),
                limit_bytes,
            }),
            Err(e) => Err(CallError::Unreachable {
                method: method.clone(),
                url: url.clone(),
                why: answer::why(&*e),
            }),
        }
    };
    let done = tokio::time::timeout(bounds.within, work).await;
    done.unwrap_or_else(|_| Err(CallError::Late { method, url }))
}

/// Sends a request; its answer's body is still to be read. How long that may take is the caller's
/// to bound.
pub async fn send(
    state: &State,
    backend: &Backend,
    asked: OutgoingRequest,
) -> Result<http::Response<Incoming>, CallError> {
    let (method, url) = (asked.method.clone(), backend.shown(&asked.path));
    let failed = |why: String| CallError::Unreachable {
        method: method.clone(),
        url: url.clone(),
        why,
    };
    let places = backend.places(state).map_err(failed)?;
    let name = backend.server_name();
    let reach = state.ways();
    let mut last = "no place to go to".to_owned();
    for place in &places {
        let request = request(backend, &asked, &url).map_err(|e| failed(e.to_string()))?;
        let kept = &reach.kept;
        let sent = kept.send(reach.dialer.as_ref(), (place, &name), &backend.tls, request);
        match sent.await {
            Ok(response) => return Ok(response),
            Err(e) => {
                last = answer::why(&e);
                if !e.is_connect() {
                    // It may have got the request.
                    break;
                }
            }
        }
    }
    Err(failed(last))
}

/// A connection of the caller's own, TLS done: for requests that become streams.
pub async fn connect(state: &State, backend: &Backend) -> io::Result<BoxIo> {
    let reach = state.ways();
    let mut last = io::Error::other("no place to go to");
    for place in &backend.places(state).map_err(io::Error::other)? {
        match reach
            .connect(place, &backend.server_name(), &backend.tls)
            .await
        {
            Ok(io) => return Ok(io),
            Err(e) => last = e,
        }
    }
    Err(last)
}

impl Backend {
    /// The URL of a request, as messages show it.
    fn shown(&self, path: &str) -> String {
        let path = match path {
            "" => self.path(),
            path => path,
        };
        format!("https://{}{path}", self.authority())
    }

    /// The value of `Host` towards this backend.
    pub fn host(&self) -> String {
        self.authority()
    }
}

fn request(
    backend: &Backend,
    asked: &OutgoingRequest,
    url: &str,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let request = Request::builder().method(asked.method.clone()).uri(url);
    let mut request = request.body(Full::new(asked.body.clone()))?;
    *request.headers_mut() = asked.headers.clone();
    let host = HeaderValue::from_str(&backend.authority())?;
    request.headers_mut().insert(HOST, host);
    traces::pass_on(request.headers_mut());
    Ok(request)
}
