//! `nodes/proxy`, `pods/proxy` and `services/proxy`: a reverse proxy. The backend sees its own
//! path; redirects are turned back into paths of this server; upgrades are relayed.
//!
//! The name may carry a scheme and a port: `name`, `name:port`, `https:name:port`.

mod html;

use std::net::IpAddr;
use std::sync::Arc;

use api::Status;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Empty;
use rustls::ClientConfig;
use serde_json::Value;
use wire::stream::upgrade;

use super::kubelets::{Kubelets, exchange, pass, strip, strip_upgrading};
use crate::call::{self, Call};
use crate::dialer::DialTarget;
use crate::egress::service_resolver::{self, Behind, ServicePort, allowed, number, way};
use crate::hooks::RequestBody;
use crate::http::body::Body;
use crate::http::request::{decoded_bytes, encoded_path};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What the name of a proxied object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub name: String,
    https: bool,
    /// A number, or the name of a service's port; empty when not given.
    port: String,
}

impl Target {
    /// Reads the name of the request.
    pub fn parse(call: &Call) -> Result<Self, Status> {
        let id = &call.info.name;
        let kind = match &*call.info.resource {
            "nodes" => "node",
            "services" => "service",
            _ => "pod",
        };
        let target = Self::split(id)
            .ok_or_else(|| Status::bad_request(format!("invalid {kind} request {id:?}")))?;
        call::check_name(&target.name)?;
        Ok(target)
    }

    fn split(id: &str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match *parts.as_slice() {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        if name.is_empty() || !matches!(scheme, "" | "http" | "https") {
            return None;
        }
        Some(Self {
            name: name.to_owned(),
            https: scheme == "https",
            port: port.to_owned(),
        })
    }
}

/// Where a request goes.
struct Backend {
    place: DialTarget,
    tls: Option<Arc<ClientConfig>>,
    /// Pages get their links rewritten; a kubelet's answers do not.
    rewrites: bool,
}

/// Serves one request.
pub(super) async fn serve(
    kubelets: &Kubelets,
    call: &Call,
    head: Parts,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let target = Target::parse(call)?;
    let backend = match &*call.info.resource {
        "nodes" => node(kubelets, call, &target)?,
        "services" => service(kubelets, call, &target)?,
        _ => pod(kubelets, call, &target).await?,
    };
    forward(kubelets, &backend, call.row.namespaced, head, body).await
}

fn node(kubelets: &Kubelets, call: &Call, target: &Target) -> Result<Backend, Status> {
    let (host, kubelet_port) = service_resolver::kubelet(&call.state, &target.name)?;
    allowed(&host)?;
    if target.port.is_empty() || target.port == kubelet_port.to_string() {
        return Ok(Backend {
            place: DialTarget::Host {
                host,
                port: kubelet_port,
            },
            tls: Some(kubelets.dialer.kubelet.clone()),
            rewrites: false,
        });
    }
    Ok(Backend {
        place: DialTarget::Host {
            port: number(&target.port)?,
            host,
        },
        tls: target.https.then(|| kubelets.dialer.pod.clone()),
        rewrites: false,
    })
}

async fn pod(kubelets: &Kubelets, call: &Call, target: &Target) -> Result<Backend, Status> {
    let object = call.stored(&target.name).await?.to_value();
    let host = object.pointer("/status/podIP").and_then(Value::as_str);
    let host = host.unwrap_or_default();
    // The first port that the pod declares, else the scheme's.
    let declared = || {
        let containers = object.pointer("/spec/containers")?.as_array()?;
        let port = containers
            .iter()
            .find_map(|c| c["ports"][0]["containerPort"].as_u64());
        u16::try_from(port?).ok()
    };
    let port = match target.port.as_str() {
        "" => declared().unwrap_or(if target.https { 443 } else { 80 }),
        port => number(port)?,
    };
    if host.parse::<IpAddr>().is_err() {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(Backend {
        place: DialTarget::Pod(way(&call.state, &object, host, port)?),
        tls: target.https.then(|| kubelets.dialer.pod.clone()),
        rewrites: true,
    })
}

fn service(kubelets: &Kubelets, call: &Call, target: &Target) -> Result<Backend, Status> {
    let of = ServicePort {
        namespace: &call.info.namespace,
        service: &target.name,
        port: &target.port,
    };
    // What is not found is reported by the name of the request.
    let places =
        service_resolver::behind(&call.state, of, Behind::Pods).map_err(|s| match s.code {
            404 if s.details.as_ref().is_some_and(|d| d.kind == "services") => {
                Status::not_found(&call.resource(), &target.name)
            }
            503 if s.message.starts_with("no endpoints") => service_resolver::none(&call.info.name),
            _ => s,
        })?;
    let place = places.into_iter().next();
    Ok(Backend {
        place: place.ok_or_else(|| service_resolver::none(&call.info.name))?,
        tls: target.https.then(|| kubelets.dialer.pod.clone()),
        rewrites: true,
    })
}

/// Parts a path of this server in what leads to the proxy and what the backend gets.
fn split_path(path: &[u8], namespaced: bool) -> (&[u8], &[u8]) {
    // /api/v1/namespaces/NS/pods/NAME/proxy or /api/v1/nodes/NAME/proxy
    let segments = if namespaced { 7 } else { 5 };
    let mut seen = 0;
    for (at, b) in path.iter().enumerate() {
        if *b == b'/' {
            seen += 1;
            if seen > segments {
                return path.split_at(at);
            }
        }
    }
    (path, &[])
}

/// What a backend gets of a decoded path: as upstream joins it, without empty segments, `.` and `..`,
/// none of which leads above the backend's root.
fn cleaned(rest: &[u8]) -> String {
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in rest.split(|b| *b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut out = String::new();
    for segment in kept {
        out.push('/');
        out.push_str(&encoded_path(segment));
    }
    if out.is_empty() || rest.ends_with(b"/") {
        out.push('/');
    }
    out
}

async fn forward(
    kubelets: &Kubelets,
    backend: &Backend,
    namespaced: bool,
    mut head: Parts,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    // Parted as it was read when the request was authorized: decoded.
    let path = decoded_bytes(head.uri.path());
    let (prefix, rest) = split_path(&path, namespaced);
    let prefix = encoded_path(prefix);
    let query = head
        .uri
        .query()
        .map(|q| format!("?{q}"))
        .unwrap_or_default();
    let upgrading = upgrade::is_upgrade(&head.headers);
    // Only what a browser follows; every other method would come back as another request.
    if rest.is_empty() && !upgrading && matches!(head.method, Method::GET | Method::HEAD) {
        return Ok(redirect(&format!("{prefix}/{query}")));
    }
    let rest = cleaned(rest);
    let client = head.extensions.remove();
    let headers = request_headers(&head, backend, &prefix, &rest, upgrading);
    let request = Request::builder()
        .method(head.method.clone())
        .uri(format!("{rest}{query}"));
    let io = kubelets
        .dialer
        .connect(&backend.place, backend.tls.as_ref());
    let io = io.await;
    let io = io.map_err(|e| Status::unavailable(format!("error trying to reach service: {e}")))?;
    if upgrading {
        let request = request.body(Empty::<bytes::Bytes>::new());
        let mut request = request.map_err(Status::internal)?;
        *request.headers_mut() = headers;
        return exchange(io, request, client).await;
    }
    let mut request = request.body(body).map_err(Status::internal)?;
    *request.headers_mut() = headers;
    let answer = upgrade::send(io, request).await;
    let answer =
        answer.map_err(|e| Status::unavailable(format!("error trying to reach service: {e}")))?;
    let mut response = pass(answer);
    if backend.rewrites {
        turn_location(response.headers_mut(), &prefix, backend.place.host());
        let html = is_html(response.headers()) && head.method != Method::HEAD;
        if html {
            response.headers_mut().remove(CONTENT_LENGTH);
            response = response.map(|b| html::rewritten(b, prefix));
        }
    }
    Ok(response)
}

fn redirect(to: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(v) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, v);
    }
    response
}

fn request_headers(
    head: &Parts,
    backend: &Backend,
    prefix: &str,
    rest: &str,
    upgrading: bool,
) -> HeaderMap {
    let mut headers = head.headers.clone();
    match upgrading {
        true => strip_upgrading(&mut headers),
        false => strip(&mut headers),
    }
    let mut set = |name: HeaderName, text: &str| {
        match HeaderValue::from_str(text) {
            Ok(v) => drop(headers.insert(name, v)),
            // Better none than the client's.
            Err(_) => drop(headers.remove(name)),
        }
    };
    // HTTP/2 has the host in its target.
    let asked = head.headers.get(HOST).and_then(|v| v.to_str().ok());
    let asked = asked.or_else(|| head.uri.authority().map(|a| a.as_str()));
    let own = format!("{}:{}", backend.place.host(), backend.place.port());
    set(HOST, asked.unwrap_or(&own));
    if let Some(peer) = head.extensions.get::<wire::serve::Peer>() {
        let before = head
            .headers
            .get(FORWARDED_FOR)
            .and_then(|v| v.to_str().ok());
        let before = before.map(|b| format!("{b}, ")).unwrap_or_default();
        set(FORWARDED_FOR, &format!("{before}{}", peer.addr.ip()));
    }
    set(FORWARDED_URI, &format!("{prefix}{rest}"));
    set(FORWARDED_HOST, asked.unwrap_or(&own));
    set(FORWARDED_PROTO, "https");
    headers
}

/// A redirect of the backend to itself becomes one to its place here.
fn turn_location(headers: &mut HeaderMap, prefix: &str, host: &str) {
    let Some(to) = headers.get(LOCATION).and_then(|v| v.to_str().ok()) else {
        return;
    };
    if let Some(to) = html::turned(to, prefix, Some(host))
        && let Ok(v) = HeaderValue::from_str(&to)
    {
        headers.insert(LOCATION, v);
    }
}

fn is_html(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    kind.is_some_and(|k| k.starts_with("text/html")) && !headers.contains_key(CONTENT_ENCODING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_scheme_and_port() {
        let target = |name: &str, https, port: &str| {
            Some(Target {
                name: name.into(),
                https,
                port: port.into(),
            })
        };
        assert_eq!(Target::split("web"), target("web", false, ""));
        assert_eq!(Target::split("web:80"), target("web", false, "80"));
        assert_eq!(Target::split("https:web:tls"), target("web", true, "tls"));
        assert_eq!(Target::split("http:web:"), target("web", false, ""));
        for bad in ["", ":80", "ftp:web:80", "a:b:c:d"] {
            assert_eq!(Target::split(bad), None, "{bad}");
        }
    }

    #[test]
    fn paths_are_parted_behind_proxy() {
        let parted = |path: &str, namespaced| {
            let (prefix, rest) = split_path(path.as_bytes(), namespaced);
            [prefix, rest].map(|part| String::from_utf8_lossy(part).into_owned())
        };
        let pod = "/api/v1/namespaces/a/pods/http:b:80/proxy";
        assert_eq!(parted(pod, true), [pod, ""]);
        assert_eq!(parted(&format!("{pod}/x/y/"), true), [pod, "/x/y/"]);
        let node = "/api/v1/nodes/n/proxy";
        assert_eq!(
            parted("/api/v1/nodes/n/proxy/metrics", false),
            [node, "/metrics"]
        );
    }

    #[test]
    fn nothing_leads_above_a_backends_root() {
        for (came, sent) in [
            ("", "/"),
            ("/", "/"),
            ("/x/", "/x/"),
            ("//x//y", "/x/y"),
            ("/../../x", "/x"),
            ("/x/../..", "/"),
            ("/x/./../y/", "/y/"),
            ("/..x/y..", "/..x/y.."),
            ("/%2e%2e/x", "/%252e%252e/x"),
            ("/x y?z", "/x%20y%3Fz"),
        ] {
            assert_eq!(cleaned(came.as_bytes()), sent, "{came}");
        }
    }

    #[test]
    fn this_server_alone_says_where_a_request_came_in() {
        let forged = [
            ("host", "kube.example.com"),
            ("connection", "x-forwarded-uri, x-forwarded-proto, close"),
            ("x-forwarded-uri", "/elsewhere"),
            ("x-forwarded-host", "evil.example.com"),
            ("x-forwarded-proto", "http"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "Basic x"),
            ("content-length", "5"),
        ];
        for rewrites in [false, true] {
            let backend = Backend {
                place: DialTarget::Host {
                    host: "192.0.2.1".into(),
                    port: 80,
                },
                tls: None,
                rewrites,
            };
            for upgrading in [false, true] {
                let mut request = Request::builder().uri("/p/x");
                for (name, value) in forged {
                    request = request.header(name, value);
                }
                let head = request.body(()).expect("request").into_parts().0;
                let sent = request_headers(&head, &backend, "/p", "/x", upgrading);
                assert_eq!(sent["x-forwarded-uri"], "/p/x");
                assert_eq!(sent["x-forwarded-host"], "kube.example.com");
                assert_eq!(sent["x-forwarded-proto"], "https");
                assert!(!sent.contains_key("transfer-encoding"));
                assert!(!sent.contains_key("proxy-authorization"));
                assert_eq!(sent.contains_key("content-length"), !upgrading);
                assert_eq!(sent.contains_key("connection"), upgrading);
            }
        }
    }
}
