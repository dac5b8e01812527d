//! Servers outside of the one that is tested: they answer over TLS on this machine.

use std::sync::Arc;

use base64::Engine;
use http::{Request, Response};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wire::pki::{Ca, Subject};
use wire::serve::RequestBody;

/// A server that answers until it is stopped.
pub struct Outside {
    pub port: u16,
    /// Of the CA that signed its certificate, as configurations have it.
    pub bundle: String,
    pub stop: CancellationToken,
}

/// Starts a server whose certificate has a name, and which asks for clients' certificates of a CA,
/// if it is given.
#[expect(clippy::disallowed_methods, reason = "a real server, in real time")]
pub async fn start<F, A>(name: &str, clients: Option<&str>, handle: F) -> Outside
where
    F: Fn(Request<RequestBody>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Full<bytes::Bytes>>> + Send + 'static,
{
    let now = clock::Clock::system().seconds();
    let ca = Ca::generate("outside", now).expect("ca");
    let local = "127.0.0.1".parse().expect("ip");
    let serving = ca.issue(&Subject::server(name, &[name], &[local]), now, 1);
    let tls = wire::tls::server_config(&serving.expect("pair"), clients).expect("tls");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let port = listener.local_addr().expect("address").port();
    let stop = CancellationToken::new();
    tokio::spawn(wire::serve::serve(
        listener,
        Arc::clone(&tls),
        handle,
        stop.clone(),
    ));
    Outside {
        port,
        bundle: base64::engine::general_purpose::STANDARD.encode(&ca.pair.cert_pem),
        stop,
    }
}
