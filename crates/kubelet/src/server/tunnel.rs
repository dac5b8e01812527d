//! `/exec`, `/attach`, `/portForward` and `/run`. The runtime serves the streams itself, at a
//! URL that it gives for one use; the kubelet passes the upgraded connection through, byte by
//! byte, so whatever protocol the API server speaks (SPDY/3.1; containerd 1.6 knows WebSocket
//! only up to v4, which has no end of input) is between it and the runtime.

use super::{Answer, Query, Server, find_pod, full, text};
use crate::pod::seen::Run;
use crate::pod::spec;
use bytes::Bytes;
use host::cri::v1;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// The most of a refusal's body that is passed on, bytes.
const MAX_REFUSAL: usize = 64 << 10;

pub(super) async fn serve(
    server: &Server,
    parts: &[&str],
    query: &Query,
    request: &mut Request<Incoming>,
) -> Answer {
    let outcome = match parts {
        ["portForward", namespace, pod] => port_forward(server, namespace, pod, None, query).await,
        ["portForward", namespace, pod, uid] => {
            port_forward(server, namespace, pod, Some(uid), query).await
        }
        [what, namespace, pod, container] => {
            in_container(server, what, (namespace, pod, None), container, query).await
        }
        [what, namespace, pod, uid, container] => {
            in_container(server, what, (namespace, pod, Some(*uid)), container, query).await
        }
        _ => Err(Box::new(text(
            StatusCode::NOT_FOUND,
            "404 page not found\n",
        ))),
    };
    match outcome {
        Ok(Goal::Stream(url)) => connect(&url, request).await.unwrap_or_else(|words| {
            text(
                StatusCode::BAD_GATEWAY,
                &format!("the runtime's streaming server: {words}"),
            )
        }),
        Ok(Goal::Done(answer)) => *answer,
        Err(answer) => *answer,
    }
}

enum Goal {
    Stream(String),
    Done(Box<Answer>),
}

fn failed(e: &host::cri::Error) -> Box<Answer> {
    let code = if e.is_not_found() {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    Box::new(text(code, &e.message()))
}

async fn port_forward(
    server: &Server,
    namespace: &str,
    pod: &str,
    uid: Option<&str>,
    query: &Query,
) -> Result<Goal, Box<Answer>> {
    let snapshot = find_pod(server, namespace, pod, uid)?;
    let Some(sandbox) = snapshot.seen.ready_sandbox() else {
        return Err(Box::new(text(StatusCode::NOT_FOUND, "pod not found")));
    };
    let port = query
        .all("port")
        .iter()
        .filter_map(|p| p.parse().ok())
        .collect();
    let request = v1::PortForwardRequest {
        pod_sandbox_id: sandbox.id.clone(),
        port,
    };
    let answer = server
        .deps
        .runtime
        .port_forward(request)
        .await
        .map_err(|e| failed(&e))?;
    Ok(Goal::Stream(answer.url))
}

async fn in_container(
    server: &Server,
    what: &str,
    (namespace, pod, uid): (&str, &str, Option<&str>),
    container: &str,
    query: &Query,
) -> Result<Goal, Box<Answer>> {
    let snapshot = find_pod(server, namespace, pod, uid)?;
    let running = snapshot
        .seen
        .newest(container)
        .filter(|c| c.run == Run::Running);
    let Some(found) = running else {
        return Err(Box::new(text(
            StatusCode::NOT_FOUND,
            &format!("container not found (\"{container}\")"),
        )));
    };
    let (stdin, tty) = (query.flag(&["input", "stdin"]), query.flag(&["tty"]));
    let (stdout, stderr) = (
        query.flag(&["output", "stdout"]),
        query.flag(&["error", "stderr"]) && !tty,
    );
    let id = found.id.clone();
    let runtime = &server.deps.runtime;
    match what {
        "exec" => {
            let request = v1::ExecRequest {
                container_id: id,
                cmd: query.all("command"),
                tty,
                stdin,
                stdout,
                stderr,
            };
            let answer = runtime.exec(request).await.map_err(|e| failed(&e))?;
            Ok(Goal::Stream(answer.url))
        }
        "attach" => {
            // A container without a terminal has none to attach to, whatever was asked.
            let own = spec::find(&snapshot.pod, container);
            let tty = own.and_then(|c| c.tty).unwrap_or(false);
            let request = v1::AttachRequest {
                container_id: id,
                stdin,
                tty,
                stdout,
                stderr: stderr && !tty,
            };
            let answer = runtime.attach(request).await.map_err(|e| failed(&e))?;
            Ok(Goal::Stream(answer.url))
        }
        _ => {
            let command: Vec<String> = query
                .get("cmd")
                .unwrap_or_default()
                .split(' ')
                .map(str::to_owned)
                .collect();
            let answer = runtime
                .exec_sync(&id, &command, Duration::ZERO)
                .await
                .map_err(|e| failed(&e))?;
            let mut out = answer.stdout;
            out.extend_from_slice(&answer.stderr);
            Ok(Goal::Done(Box::new(Response::new(full(out)))))
        }
    }
}

/// Headers that belong to one connection and its streams, and must reach the runtime.
const PASSED: [&str; 8] = [
    "upgrade",
    "connection",
    "x-stream-protocol-version",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "user-agent",
];

async fn connect(url: &str, request: &mut Request<Incoming>) -> Result<Answer, String> {
    let uri: Uri = url.parse().map_err(|_| format!("bad address {url}"))?;
    let authority = uri
        .authority()
        .ok_or_else(|| format!("bad address {url}"))?
        .to_string();
    let stream = TcpStream::connect(&authority)
        .await
        .map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut out = Request::builder()
        .method(request.method())
        .uri(path)
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    *out.headers_mut() = passed(request.headers());
    out.headers_mut().insert(
        "host",
        authority.parse().map_err(|_| "bad host".to_owned())?,
    );
    let mut answer = sender.send_request(out).await.map_err(|e| e.to_string())?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(refusal(answer).await);
    }
    let headers = passed(answer.headers());
    let theirs = hyper::upgrade::on(&mut answer);
    let ours = hyper::upgrade::on(request);
    tokio::spawn(async move {
        match tokio::try_join!(theirs, ours) {
            Ok((theirs, ours)) => {
                let (mut a, mut b) = (TokioIo::new(theirs), TokioIo::new(ours));
                // The end of either side is the end of both; how it ended tells nothing.
                let _ = tokio::io::copy_bidirectional(&mut a, &mut b).await;
            }
            Err(e) => tracing::debug!(error = %e, "a stream was not upgraded"),
        }
    });
    let mut switched = Response::new(full(Bytes::new()));
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switched.headers_mut() = headers;
    Ok(switched)
}

fn passed(headers: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        if PASSED.contains(&name.as_str()) || name == "sec-websocket-accept" {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

async fn refusal(answer: Response<Incoming>) -> Answer {
    let code = answer.status();
    let body = Limited::new(answer.into_body(), MAX_REFUSAL)
        .collect()
        .await;
    let bytes = body.map(|b| b.to_bytes()).unwrap_or_default();
    text(code, &String::from_utf8_lossy(&bytes))
}
