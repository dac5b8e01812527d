//! Questions over TLS (RFC 7858) to servers that are asked so, on connections that are kept for the
//! next question: a handshake takes longer than an answer.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use clock::Instant;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use wire::trust::{Trust, client_config};

/// A connection that nobody used for so long is closed, as by CoreDNS: servers end theirs, too.
const IDLE: Duration = Duration::from_secs(10);
/// Connections to one server that wait for questions at most: what a burst of them needs.
const KEPT: usize = 16;

type Connection = TlsStream<TcpStream>;

/// Who is asked, and the name that the certificate must have.
type Peer = (SocketAddr, ServerName<'static>);

/// Connections over TLS.
pub struct Dialer {
    /// Certificates (PEM) of who is believed; none: this machine's authorities.
    authorities: Option<Vec<u8>>,
    /// Made when it is needed: authorities are many files. What could not be read may be there later.
    config: OnceLock<Arc<ClientConfig>>,
    idle: Mutex<HashMap<Peer, Vec<(Instant, Connection)>>>,
}

impl Dialer {
    /// Believes these authorities, or this machine's.
    pub fn new(authorities: Option<Vec<u8>>) -> Self {
        Self {
            authorities,
            config: OnceLock::new(),
            idle: Mutex::default(),
        }
    }

    fn config(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(made) = self.config.get() {
            return Ok(made.clone());
        }
        let trust = match &self.authorities {
            Some(pem) => Trust::Bundle(pem),
            None => Trust::System,
        };
        let made = client_config(trust, None, &[]);
        let made = made.map_err(|e| io::Error::other(e.to_string()))?;
        Ok(self.config.get_or_init(|| Arc::new(made)).clone())
    }

    /// A connection on which a question can be asked, and whether it was there before.
    pub async fn connection(&self, peer: &Peer) -> io::Result<(Connection, bool)> {
        match self.take(peer) {
            Some(kept) => Ok((kept, true)),
            None => Ok((self.connect(peer).await?, false)),
        }
    }

    /// A new connection.
    pub async fn connect(&self, (address, name): &Peer) -> io::Result<Connection> {
        let connector = TlsConnector::from(self.config()?);
        let stream = TcpStream::connect(address).await?;
        connector.connect(name.clone(), stream).await
    }

    fn take(&self, peer: &Peer) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, connection) = idle.get_mut(peer)?.pop()?;
        (since.elapsed() < IDLE).then_some(connection)
    }

    /// Keeps a connection on which a question was answered.
    pub fn keep(&self, peer: &Peer, connection: Connection) {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, kept| {
            kept.retain(|(since, _)| now.saturating_duration_since(*since) < IDLE);
            !kept.is_empty()
        });
        let kept = idle.entry(peer.clone()).or_default();
        if kept.len() < KEPT {
            kept.push((now, connection));
        }
    }
}
