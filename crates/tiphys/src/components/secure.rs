//! The port of controllers or scheduler that run alone: `/healthz` for everybody, `/metrics` and what
//! else lets one look into them for users that may read it. Within the server its own port serves the
//! same.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use client::component_auth::{Gate, Refusal, RequestAttributes, verb};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio_util::sync::CancellationToken;
use wire::pki::{Ca, Subject};
use wire::serving_files::{CertificateSource, ServingFiles};
use zpages::Component;

use crate::machine::host_name;

#[derive(Args, Clone)]
pub struct SecureFlags {
    /// Port of `/healthz`, `/metrics`, `/statusz` and the like over HTTPS; 0 for none [default: 10257
    /// of controllers, 10259 of the scheduler].
    #[arg(long)]
    secure_port: Option<u16>,
    /// Address at which that port is open.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The port's certificate, read again when it changes [default: one that is made at the start and
    /// signed by itself].
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// The key of that certificate.
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// The CA whose client certificates are believed, read again when it changes; without it tokens alone
    /// are.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
}

type Answer = Response<Full<Bytes>>;

fn text(code: StatusCode, words: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(words.into()));
    *answer.status_mut() = code;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert("content-type", kind);
    answer
}

fn metrics<B>(request: &Request<B>, lines: &str) -> Answer {
    let accept = request.headers().get("accept");
    let (kind, page) = metrics::page_for(accept.and_then(|v| v.to_str().ok()), lines);
    let mut answer = text(StatusCode::OK, page);
    let kind = http::HeaderValue::from_static(kind);
    answer.headers_mut().insert("content-type", kind);
    answer
}

async fn admit<B>(gate: &Gate, request: &Request<B>) -> Result<(), Refusal> {
    let user = gate.user(request).await?;
    let asked = RequestAttributes::Path {
        verb: path_verb(request.method()),
        path: request.uri().path().to_owned(),
    };
    if gate.allowed(&user, &asked).await? {
        return Ok(());
    }
    Err(Refusal::Forbidden(format!(
        "forbidden: User {:?} cannot {} path {:?}",
        user.name,
        path_verb(request.method()),
        request.uri().path()
    )))
}

/// The verb of a path is its method.
fn path_verb(method: &http::Method) -> &'static str {
    match *method {
        http::Method::PUT => "put",
        ref method => verb(method),
    }
}

async fn answer<B>(component: Component, gate: &Gate, request: Request<B>) -> Answer
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = request.uri().path();
    let health = match path {
        "/healthz" => Some("healthz"),
        "/livez" => Some("livez"),
        "/readyz" => Some("readyz"),
        _ => None,
    };
    if let Some(page) = health {
        ::metrics::slis::observe("ping", page, true);
        return text(StatusCode::OK, "ok");
    }
    match admit(gate, &request).await {
        Ok(()) if path == "/metrics" => metrics(
            &request,
            &(::metrics::lines() + &client::refusals::metrics()),
        ),
        Ok(()) if path == "/metrics/slis" => metrics(&request, &::metrics::slis::lines()),
        Ok(()) => {
            if let Some(lines) = ::metrics::pages::lines(path) {
                return metrics(&request, &lines);
            }
            let (head, body) = request.into_parts();
            match component.answer(&head, body).await {
                Ok(page) => page.map(Full::new),
                Err(_) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
            }
        }
        Err(Refusal::Unknown) => text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Err(Refusal::Forbidden(why)) => text(StatusCode::FORBIDDEN, why),
        Err(Refusal::Failed(why)) => text(StatusCode::INTERNAL_SERVER_ERROR, why),
    }
}

impl SecureFlags {
    fn certificate(&self) -> Result<CertificateSource<'_>> {
        if let (Some(cert), Some(key)) = (&self.tls_cert_file, &self.tls_private_key_file) {
            return Ok(CertificateSource::Files(cert, key));
        }
        let (now, name) = (jiff::Timestamp::now().as_second(), host_name());
        let ca = Ca::generate(&format!("{name}-ca"), now)?;
        let subject = Subject::server(&name, &[&name, "localhost"], &[self.bind_address]);
        let pair = ca.issue(&subject, now, wire::pki::LEAF_DAYS)?;
        Ok(CertificateSource::Made(pair))
    }

    /// Opens the port, so that one in use is an error of the start, and serves until `stop`.
    /// `client` asks the API server whether a user may read it; `port` is upstream's.
    pub async fn serve(
        &self,
        (name, port): (&'static str, u16),
        client: kube::Client,
        stop: CancellationToken,
    ) -> Result<()> {
        let port = self.secure_port.unwrap_or(port);
        if port == 0 {
            return Ok(());
        }
        let address = SocketAddr::new(self.bind_address, port);
        let listener = tokio::net::TcpListener::bind(address);
        let listener = listener
            .await
            .with_context(|| format!("listening on {address}; see --secure-port"))?;
        self.serve_on(listener, name, client, stop)
    }

    fn serve_on(
        &self,
        listener: tokio::net::TcpListener,
        name: &'static str,
        client: kube::Client,
        stop: CancellationToken,
    ) -> Result<()> {
        let files = ServingFiles::open(self.certificate()?, self.client_ca_file.as_deref())?;
        let tls = files.tls.clone();
        tokio::spawn(files.follow(stop.clone()));
        let gate = Arc::new(Gate::new(client));
        let component = Component {
            name,
            paths: &["/healthz", "/livez", "/metrics", "/metrics/slis", "/readyz"],
        };
        let handle = move |request: Request<wire::serve::RequestBody>| {
            let gate = gate.clone();
            async move { answer(component, &gate, request).await }
        };
        tokio::spawn(wire::serve::serve(listener, tls, handle, stop));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// Asks the pages with a token; the API server knows `jo` and lets them see `/metrics`.
    async fn ask(path: &str, token: Option<&str>) -> StatusCode {
        let service = tower::service_fn(|request: Request<Body>| async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect_bytes().await?;
            let asked = String::from_utf8_lossy(&body).into_owned();
            let status = if path.ends_with("tokenreviews") {
                let known = asked.contains("good");
                json!({ "authenticated": known, "user": { "username": "jo" } })
            } else {
                assert!(asked.contains("nonResourceAttributes"), "{asked}");
                json!({ "allowed": asked.contains("/metrics") || asked.contains("z\"") })
            };
            let answer = json!({ "metadata": {}, "spec": {}, "status": status });
            let answer = Response::builder().body(Body::from(answer.to_string().into_bytes()));
            answer.map_err(kube::Error::HttpError)
        });
        let gate = Gate::new(kube::Client::new(service, "default"));
        let mut request = Request::get(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::<Bytes>::default()).expect("request");
        let component = Component {
            name: "kube-test",
            paths: &[],
        };
        answer(component, &gate, request).await.status()
    }

    #[tokio::test]
    async fn pages_of_a_part_are_there_while_it_shows_them() {
        let path = "/metrics/of-a-part";
        let shown = ::metrics::pages::show(path, || "a 1\n".to_owned());
        assert_eq!(ask(path, None).await.as_u16(), 401);
        assert_eq!(ask(path, Some("good")).await.as_u16(), 200);
        drop(shown);
        assert_eq!(ask(path, Some("good")).await.as_u16(), 404);
    }

    #[tokio::test]
    async fn health_is_open_and_metrics_are_not() {
        for (path, token, code) in [
            ("/healthz", None, 200),
            ("/metrics", None, 401),
            ("/metrics", Some("bad"), 401),
            ("/metrics", Some("good"), 200),
            ("/metrics/slis", None, 401),
            ("/metrics/slis", Some("good"), 200),
            ("/else", Some("good"), 403),
            ("/statusz", None, 401),
            ("/statusz", Some("good"), 200),
            ("/flagz", Some("good"), 200),
            ("/configz", Some("good"), 200),
            ("/debug/pprof/", None, 401),
            ("/debug/pprof/", Some("good"), 403),
            ("/debug/flags/v", Some("good"), 403),
        ] {
            let got = ask(path, token).await;
            assert_eq!(got.as_u16(), code, "{path} {token:?}");
        }
    }
}
