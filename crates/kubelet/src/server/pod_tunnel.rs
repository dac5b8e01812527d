//! `/podTunnel`: a connection from the API server to a port of a pod that runs here, see
//! [`wire::stream::tunnel`]. Only pods of this node are reached, and only at the address that the
//! runtime gave them: nothing of a request says where a packet goes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wire::serve::RequestBody;
use wire::stream::tunnel;

use super::common::{Answer, Query, Shared, find_pod, text};
use crate::pod::handle::Snapshot;
use crate::pod::spec;

/// How long a connection to a pod may take to come about: as long as the API server waits for
/// all of it, less its own part.
const DIALLING: Duration = Duration::from_secs(8);
/// Tunnels at once. Each costs two descriptors and 64 KiB; a node has some hundred pods.
pub(super) const TUNNELS: usize = 2048;

pub(super) async fn serve(
    server: &Shared,
    [namespace, pod, uid]: [&str; 3],
    query: &Query,
    request: &mut Request<RequestBody>,
) -> Answer {
    if !tunnel::is_asked(request.headers()) {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    }
    let port = query.get("port").and_then(|p| p.parse().ok());
    let Some(port) = port.filter(|p: &u16| *p > 0) else {
        return text(StatusCode::BAD_REQUEST, "invalid port");
    };
    let Ok(snapshot) = find_pod(server, namespace, pod, Some(uid)) else {
        let why = format!("pod \"{pod}\" is not on node \"{}\"", server.node());
        return text(StatusCode::GONE, &why);
    };
    let Some(address) = address(&snapshot, server.deps.config.node_ip) else {
        let why = format!("pod \"{pod}\" has no address");
        return text(StatusCode::CONFLICT, &why);
    };
    let Ok(place) = server.tunnels.clone().try_acquire_owned() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many tunnels to pods");
    };
    let address = SocketAddr::new(address, port);
    let message = |e: &io::Error| tunnel::dial_error(&address.to_string(), e);
    let socket = match tokio::time::timeout(DIALLING, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(e)) => return text(StatusCode::BAD_GATEWAY, &message(&e)),
        Err(_) => {
            let late = io::Error::from(io::ErrorKind::TimedOut);
            return text(StatusCode::BAD_GATEWAY, &message(&late));
        }
    };
    // What is passed on must not wait for more.
    let _ = socket.set_nodelay(true);
    let upgrading = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let relay = async {
            match upgrading.await {
                Ok(io) => tunnel::relay(TokioIo::new(io), socket).await,
                Err(e) => tracing::debug!("a tunnel did not come about: {e}"),
            }
        };
        tokio::select! {
            biased;
            () = relay => {}
            // The pod's link goes without a word, and the address may soon be another pod's.
            () = snapshot.life.cancelled() => {}
        }
        drop(place);
    });
    tunnel::accept::<http_body_util::Empty<_>>().map(BodyExt::boxed)
}

/// Where the pod listens: at its sandbox's address, or at the node's if it has the node's network.
fn address(pod: &Snapshot, node: IpAddr) -> Option<IpAddr> {
    let sandbox = pod.seen.ready_sandbox()?;
    if spec::host_network(&pod.pod) {
        return Some(node);
    }
    sandbox.ips.first()?.parse().ok()
}
