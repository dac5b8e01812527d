//! Connections to kubelets, pods and other hosts: TCP or TLS, one per call.
//!
//! A pod is reached through the kubelet of its node ([`wire::stream::tunnel`]), over the connection
//! that exec uses too: this machine need not be on the pods' network, and where it is not, a packet
//! to a pod's address would leave by the default route, to whoever has that address there. So
//! nothing is sent to a pod's address from here, unless that is configured.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use wire::pki::Pair;
use wire::stream::tunnel::{self, TunnelError};
use wire::stream::{BoxIo, Io};
use wire::tls::{TlsError, client_config};
use wire::trust::believing;

/// How long a connection may take to come about, TLS included.
pub const LIMIT: Duration = Duration::from_secs(10);

/// How backends are reached.
pub struct Dialer {
    /// With our certificate; the kubelet must show one of the cluster's.
    pub kubelet: Arc<ClientConfig>,
    /// With our certificate, believing the kubelet whatever it shows: a client asked for that.
    pub unverified_kubelet: Arc<ClientConfig>,
    /// Without a certificate, believing everyone: pods have certificates of their own making.
    pub pod: Arc<ClientConfig>,
    /// Pods on nodes whose kubelet has no tunnels are connected to from here.
    direct_pods: bool,
}

/// A port of a pod, and the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodPort {
    /// The kubelet of its node: host and port.
    pub kubelet: (String, u16),
    pub target: tunnel::Target,
    /// The pod's address: for messages, headers, and direct connections.
    pub address: String,
}

/// What can be connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DialTarget {
    /// A port of a host that is connected to from here: a node, or an address that an
    /// administrator has named.
    Host {
        host: String,
        port: u16,
    },
    Pod(PodPort),
}

impl DialTarget {
    pub fn host(&self) -> &str {
        match self {
            Self::Host { host, .. } => host,
            Self::Pod(pod) => &pod.address,
        }
    }
    pub fn port(&self) -> u16 {
        match self {
            Self::Host { port, .. } => *port,
            Self::Pod(pod) => pod.target.port,
        }
    }
}

impl Dialer {
    /// `pair`: the client certificate that the kubelets know; `ca_pem`: the CA of the kubelets'
    /// serving certificates, which must name the node's address; `direct_pods`: connect from here
    /// to pods of nodes whose kubelet has no tunnels to them (upstream's), which needs this
    /// machine to be on the pods' network.
    pub fn new(pair: &Pair, ca_pem: &str, direct_pods: bool) -> Result<Self, TlsError> {
        let kubelet = client_config(ca_pem, Some(pair), &["http/1.1"])?;
        let pod = client_config(ca_pem, None, &["http/1.1"])?;
        Ok(Self {
            unverified_kubelet: Arc::new(believing(kubelet.clone())),
            kubelet: Arc::new(kubelet),
            pod: Arc::new(believing(pod)),
            direct_pods,
        })
    }

    /// Connects to a place, by TLS if a configuration is given; the other end must then have a
    /// certificate for the place's host, if the configuration looks at that.
    pub async fn connect(
        &self,
        place: &DialTarget,
        tls: Option<&Arc<ClientConfig>>,
    ) -> io::Result<BoxIo> {
        let pod = match place {
            DialTarget::Host { host, port } => return dial(host, *port, tls).await,
            DialTarget::Pod(pod) => pod,
        };
        let connecting = async {
            match (self.tunnel(pod).await, tls) {
                (Ok(io), Some(tls)) => secured(io, &pod.address, tls).await.map(Some),
                (Ok(io), None) => Ok(Some(io)),
                (Err(TunnelError::Unknown), _) if self.direct_pods => Ok(None),
                (Err(e), _) => Err(io::Error::other(e)),
            }
        };
        let port = pod.target.port;
        match tokio::time::timeout(LIMIT, connecting).await {
            Ok(Ok(Some(io))) => Ok(io),
            Ok(Ok(None)) => dial(&pod.address, port, tls).await,
            Ok(Err(e)) => Err(e),
            Err(_) => Err(explained(&pod.address, port, &timed_out())),
        }
    }

    async fn tunnel(&self, pod: &PodPort) -> Result<BoxIo, TunnelError> {
        let (host, port) = &pod.kubelet;
        let io = dial(host, *port, Some(&self.kubelet)).await;
        let io = io.map_err(|e| TunnelError::Refused(format!("kubelet of its node: {e}")))?;
        tunnel::open(io, &api::host_port(host, port), &pod.target).await
    }
}

/// Connects from here, by TLS if a configuration is given.
pub async fn dial(host: &str, port: u16, tls: Option<&Arc<ClientConfig>>) -> io::Result<BoxIo> {
    let connecting = async {
        let socket = TcpStream::connect((host, port)).await?;
        socket.set_nodelay(true)?;
        let Some(tls) = tls else {
            return Ok(Box::new(socket) as BoxIo);
        };
        secured(socket, host, tls).await
    };
    match tokio::time::timeout(LIMIT, connecting).await {
        Ok(Ok(io)) => Ok(io),
        Ok(Err(e)) => Err(explained(host, port, &e)),
        Err(_) => Err(explained(host, port, &timed_out())),
    }
}

/// TLS over a connection, with whoever has a certificate for `host`.
pub async fn secured<I: Io>(io: I, host: &str, tls: &Arc<ClientConfig>) -> io::Result<BoxIo> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = tokio_rustls::TlsConnector::from(tls.clone());
    Ok(Box::new(connector.connect(name, io).await?))
}

pub fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

fn explained(host: &str, port: u16, e: &io::Error) -> io::Error {
    let address = api::host_port(host, port);
    io::Error::new(e.kind(), tunnel::dial_error(&address, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Response, StatusCode};
    use http_body_util::Full;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;
    use wire::pki::{Ca, Subject};

    /// A kubelet that answers requests for tunnels with this; a tunnel echoes.
    #[expect(clippy::disallowed_methods, reason = "a real peer, in real time")]
    async fn node(answer: StatusCode, direct_pods: bool) -> (Dialer, (String, u16)) {
        let now = clock::Clock::system().seconds();
        let ca = Ca::generate("test", now).expect("ca");
        let local = "127.0.0.1".parse().expect("ip");
        let serving = ca.issue(&Subject::server("node", &[], &[local]), now, 1);
        let own = Some(ca.pair.cert_pem.as_str());
        let tls = wire::tls::server_config(&serving.expect("pair"), own).expect("tls");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let port = listener.local_addr().expect("address").port();
        let handle = move |mut request: http::Request<wire::serve::RequestBody>| async move {
            assert!(tunnel::is_asked(request.headers()));
            let path = request.uri().path_and_query().expect("path").as_str();
            assert!(path.starts_with("/podTunnel/n/p/u?port="), "{path}");
            if answer != StatusCode::SWITCHING_PROTOCOLS {
                let mut refusal = Response::new(Full::from("no"));
                *refusal.status_mut() = answer;
                return refusal;
            }
            let upgrading = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let io = TokioIo::new(upgrading.await.expect("upgrade"));
                let (mut from, mut to) = tokio::io::split(io);
                // Only after the other side's end: the way back must still be open.
                let mut all = Vec::new();
                from.read_to_end(&mut all).await.expect("to its end");
                to.write_all(&all).await.expect("back");
                to.shutdown().await.expect("end");
            });
            tunnel::accept::<Full<bytes::Bytes>>()
        };
        let stop = CancellationToken::new();
        tokio::spawn(wire::serve::serve(listener, tls, handle, stop));
        let client = ca.issue(&Subject::client("apiserver", &[]), now, 1);
        let dialer = Dialer::new(&client.expect("pair"), &ca.pair.cert_pem, direct_pods);
        (dialer.expect("tls"), ("127.0.0.1".into(), port))
    }

    fn pod(kubelet: (String, u16), port: u16) -> DialTarget {
        DialTarget::Pod(PodPort {
            kubelet,
            target: tunnel::Target {
                namespace: "n".into(),
                name: "p".into(),
                uid: "u".into(),
                port,
            },
            address: "127.0.0.1".into(),
        })
    }

    #[tokio::test]
    async fn a_pod_is_reached_through_its_node_and_never_from_here() {
        // Where the pod would be found from here.
        let direct = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
        direct.set_nonblocking(true).expect("no waiting");
        let port = direct.local_addr().expect("address").port();
        // On the loopback interface, a client that has connected is in the queue at once.
        let connected = || direct.accept().is_ok();

        let (dialer, address) = node(StatusCode::SWITCHING_PROTOCOLS, true).await;
        let place = pod(address, port);
        let mut io = dialer.connect(&place, None).await.expect("a tunnel");
        io.write_all(b"there and back").await.expect("sent");
        io.shutdown().await.expect("half closed");
        let mut back = String::new();
        io.read_to_string(&mut back).await.expect("received");
        assert_eq!(back, "there and back");
        assert!(!connected(), "a tunnel is not passed by");

        for (answer, direct_pods) in [
            (StatusCode::NOT_FOUND, false),
            (StatusCode::GONE, true),
            (StatusCode::BAD_GATEWAY, true),
            (StatusCode::FORBIDDEN, true),
        ] {
            let (dialer, kubelet) = node(answer, direct_pods).await;
            let outcome = dialer.connect(&pod(kubelet, port), None).await;
            assert!(outcome.is_err() && !connected(), "{answer}");
        }
        // Upstream's kubelet, and an administrator who knows that this machine reaches pods.
        let (dialer, kubelet) = node(StatusCode::NOT_FOUND, true).await;
        let outcome = dialer.connect(&pod(kubelet, port), None).await;
        assert!(outcome.is_ok() && connected());
        // A kubelet that is not there is not a reason to go past it.
        let (dialer, _) = node(StatusCode::NOT_FOUND, true).await;
        // Nobody listens on port 1, and the kernel gives it to nobody.
        let outcome = dialer
            .connect(&pod(("127.0.0.1".into(), 1), port), None)
            .await;
        assert!(outcome.is_err() && !connected());
    }
}
