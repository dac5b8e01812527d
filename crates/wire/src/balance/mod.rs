//! A TCP balancer before the API servers of a cluster, for clients of one machine: TLS passes
//! through it end to end. Servers that do not connect, or do not answer a look at `/readyz`, are
//! left at once, and their connections closed, so that clients connect again to one that lives.
//! It knows no API; the list of servers is given to it. Decisions are in [`servers`].

mod probe;
pub mod servers;

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use servers::Servers;

/// Time to open a connection to a server, which is near: one that lost its network is left
/// within it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which data that was not acknowledged, or a connection that is silent to the
/// kernel's own questions, ends it.
const SILENCE: Duration = Duration::from_secs(3);
/// Between the kernel's questions on an idle connection.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// Most connections at once: a node's agent has a handful; two descriptors each.
const MOST_CONNECTIONS: usize = 4096;
/// After accepting failed (out of descriptors): time for others to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The balancer; clones share everything.
#[derive(Clone)]
pub struct Balancer(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Notified when the list or a server's use has changed.
    changed: Notify,
}

#[derive(Default)]
struct State {
    servers: Servers,
    /// Cancelled to close all connections to a server.
    leave: HashMap<String, CancellationToken>,
}

impl State {
    fn leave(&mut self, address: &str) {
        if let Some(token) = self.leave.remove(address) {
            token.cancel();
        }
    }
}

/// Makes the kernel see a dead peer within [`SILENCE`].
fn watch_silence(stream: &TcpStream) -> io::Result<()> {
    let fd = stream.as_fd();
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(fd, KEEPALIVE)?;
    let count = SILENCE.as_secs() / KEEPALIVE.as_secs();
    sockopt::set_tcp_keepcnt(fd, u32::try_from(count).unwrap_or(3))?;
    let millis = u32::try_from(SILENCE.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(fd, millis)?)
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    watch_silence(&stream)?;
    Ok(stream)
}

impl Balancer {
    /// `configured`: servers that the user gave, `host:port`. `listed`: those that the cluster
    /// named in an earlier run.
    pub fn new(configured: &[String], listed: &[String]) -> Self {
        let state = State {
            servers: Servers::new(configured, listed),
            leave: HashMap::new(),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    /// The cluster names its servers; connections to others are closed.
    pub fn set_listed(&self, listed: &[String]) {
        let mut state = self.0.state.lock();
        for gone in state.servers.set_listed(listed) {
            tracing::info!("{gone} is no longer a server of the cluster");
            state.leave(&gone);
        }
        drop(state);
        self.0.changed.notify_waiters();
    }

    pub fn servers(&self) -> Vec<String> {
        self.0.state.lock().servers.addresses()
    }

    fn failed(&self, address: &str, why: &dyn std::fmt::Display) {
        let mut state = self.0.state.lock();
        if state.servers.failed(address) {
            tracing::info!("server {address} is left: {why}");
            state.leave(address);
        }
    }

    fn answered(&self, address: &str) {
        self.0.state.lock().servers.answered(address);
    }

    /// Takes connections until `stop`. `tls` is that of a client that trusts the cluster's CA;
    /// `name` is what servers' certificates must name: the address at which clients see this
    /// balancer.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ClientConfig>,
        name: rustls_pki_types::ServerName<'static>,
        stop: CancellationToken,
    ) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let probes = tokio::spawn(probe::run(self.clone(), tls, name, stop.clone()));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // More than that are refused, rather than kept waiting.
                    let Ok(place) = places.clone().try_acquire_owned() else {
                        continue;
                    };
                    let (this, stop) = (self.clone(), stop.clone());
                    tokio::spawn(async move {
                        tokio::select! { () = this.pass(stream) => {}, () = stop.cancelled() => {} }
                        drop(place);
                    });
                }
                Err(e) => {
                    tracing::warn!("accepting a connection: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        let _ = probes.await;
    }

    /// Passes one client's bytes to a server and back.
    async fn pass(&self, mut client: TcpStream) {
        let _ = watch_silence(&client);
        let Some((mut server, held)) = self.reach().await else {
            return;
        };
        tokio::select! {
            () = held.leave.cancelled() => {}
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        }
    }

    /// A connection to the first server that takes one.
    async fn reach(&self) -> Option<(TcpStream, ServerSlot)> {
        let mut tried = Vec::new();
        loop {
            let held = self.hold(&tried)?;
            match connect(&held.address).await {
                Ok(stream) => return Some((stream, held)),
                Err(e) => {
                    self.failed(&held.address, &e);
                    tried.push(held.address.clone());
                }
            }
        }
    }

    /// Chooses a server and counts a connection to it as long as the answer lives.
    fn hold(&self, tried: &[String]) -> Option<ServerSlot> {
        let mut state = self.0.state.lock();
        let address = state.servers.choose(tried)?;
        state.servers.opened(&address);
        let leave = state.leave.entry(address.clone()).or_default().clone();
        drop(state);
        self.0.changed.notify_waiters();
        Some(ServerSlot {
            balancer: self.clone(),
            address,
            leave,
        })
    }
}

/// A connection's place at a server.
struct ServerSlot {
    balancer: Balancer,
    address: String,
    leave: CancellationToken,
}

impl Drop for ServerSlot {
    fn drop(&mut self) {
        self.balancer.0.state.lock().servers.closed(&self.address);
    }
}

#[cfg(test)]
mod tests;
