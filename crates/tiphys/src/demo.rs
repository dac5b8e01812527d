//! The demo application: a small web server that says which pod answered, and the objects that
//! deploy it.

use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

/// The most of a datagram that is read, in bytes: what it says does not matter.
const DATAGRAM_BYTES: usize = 64;

/// Of both families where the kernel has IPv6.
fn anywhere(port: u16) -> [SocketAddr; 2] {
    [
        (Ipv6Addr::UNSPECIFIED, port).into(),
        (Ipv4Addr::UNSPECIFIED, port).into(),
    ]
}

/// Answers each datagram with the pod's name.
async fn answer_datagrams(socket: UdpSocket) -> Result<()> {
    let mut datagram = [0; DATAGRAM_BYTES];
    loop {
        let (_, client) = socket.recv_from(&mut datagram).await?;
        let name = format!("{}\n", pod_name());
        if let Err(e) = socket.send_to(name.as_bytes(), client).await {
            tracing::debug!("answer to {client}: {e}");
        }
    }
}

/// Serves until TERM or INT.
pub async fn serve(port: u16) -> Result<()> {
    let listening = || format!("listening on port {port}");
    let listener = TcpListener::bind(&anywhere(port)[..])
        .await
        .with_context(listening)?;
    let datagrams = UdpSocket::bind(&anywhere(port)[..])
        .await
        .with_context(listening)?;
    tokio::spawn(async move {
        if let Err(e) = answer_datagrams(datagrams).await {
            tracing::warn!("no datagrams are answered any more: {e}");
        }
    });
    let mut term = signal(SignalKind::terminate())?;
    loop {
        let (stream, mut client) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = term.recv() => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        // One of IPv4, as which it came.
        client.set_ip(client.ip().to_canonical());
        tokio::spawn(async move {
            let service =
                hyper::service::service_fn(move |request: Request<Incoming>| async move {
                    Ok::<_, Infallible>(answer(&request, client))
                });
            let connection = auto::Builder::new(TokioExecutor::new());
            if let Err(e) = connection
                .serve_connection(TokioIo::new(stream), service)
                .await
            {
                tracing::debug!("connection: {e}");
            }
        });
    }
}

fn pod_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| "unknown".into())
}

fn answer(request: &Request<Incoming>, client: SocketAddr) -> Response<Full<Bytes>> {
    let (kind, body) = match request.uri().path() {
        "/hostname" => ("text/plain; charset=utf-8", format!("{}\n", pod_name())),
        "/clientip" => ("text/plain; charset=utf-8", format!("{}\n", client.ip())),
        "/healthz" => ("text/plain; charset=utf-8", "ok\n".into()),
        "/" => (
            "text/html; charset=utf-8",
            page(&pod_name(), &variable("NODE_NAME"), &variable("POD_IP")),
        ),
        _ => {
            let mut response = Response::new(Full::new(Bytes::from_static(b"not found\n")));
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            return response;
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    // Each look is a new connection, so that the Service's next pod answers.
    response.headers_mut().insert(
        header::CONNECTION,
        header::HeaderValue::from_static("close"),
    );
    response
}

fn page(pod: &str, node: &str, ip: &str) -> String {
    format!(
        r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tiphys demo</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0; display: grid; place-items: center; min-height: 100vh; background: #0b2239; color: #e8f0f8; }}
  main {{ padding: 2rem 3rem; border-radius: 12px; background: #12355b; box-shadow: 0 10px 40px #0006; }}
  h1 {{ margin: 0 0 1rem; font-size: 1.3rem; color: #8fd3ff; }}
  dl {{ display: grid; grid-template-columns: auto 1fr; gap: .3rem 1.2rem; margin: 0; }}
  dt {{ color: #9ab; }} dd {{ margin: 0; font-family: ui-monospace, monospace; }}
</style>
<main>
  <h1>The cluster is at your service</h1>
  <dl>
    <dt>Pod</dt><dd id="pod">{pod}</dd>
    <dt>Node</dt><dd>{node}</dd>
    <dt>Pod IP</dt><dd>{ip}</dd>
  </dl>
  <p>Load the page again: the Service passes each connection to its next pod.</p>
</main>
"#
    )
}

/// The demo's objects.
pub fn manifest(image: &str) -> Vec<serde_json::Value> {
    let labels = serde_json::json!({ "app": "demo" });
    let field = |name: &str, path: &str| serde_json::json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    vec![
        serde_json::json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "demo", "namespace": "default", "labels": labels },
            "spec": {
                "replicas": 3,
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "containers": [{
                            "name": "web",
                            "image": image,
                            "imagePullPolicy": "IfNotPresent",
                            "ports": [{ "name": "http", "containerPort": 8080 }],
                            "env": [field("NODE_NAME", "spec.nodeName"), field("POD_IP", "status.podIP")],
                            "readinessProbe": { "httpGet": { "path": "/healthz", "port": "http" }, "periodSeconds": 2 },
                            "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } },
                        }],
                    },
                },
            },
        }),
        serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "demo", "namespace": "default", "labels": labels },
            "spec": {
                "type": "NodePort",
                "selector": labels,
                "ports": [{ "name": "http", "port": 80, "targetPort": "http" }],
            },
        }),
    ]
}
