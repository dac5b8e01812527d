//! Connecting: what was configured, and a clear error for each way in which it can be wrong.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::failure::{chain, text};
use super::members::{Member, Members, PAUSE, STATUS_PATIENCE};
use super::proto;
use super::proto::maintenance_client::MaintenanceClient;
use crate::contract::StoreError;

/// A member that is there answers the handshake in milliseconds.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// How long members may take to come up before the connection is called a failure: machines that
/// start together.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// Pings while a watch is open. etcd closes connections that ping more often than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes that a member may send unread: a page of a list, or a burst of events.
const WINDOW_BYTES: u32 = 8 << 20;

#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// `https://host:port` (or `http://`), all of one cluster.
    pub endpoints: Vec<String>,
    pub tls: Option<EtcdTls>,
}

/// Certificates and key in PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// The CA of the members' certificates.
    pub ca: Vec<u8>,
    /// The client's certificate, with its chain.
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EtcdTls")
    }
}

/// Why there is no connection to etcd. Nothing was written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the configuration of etcd is wrong: {0}")]
    Invalid(String),
    /// One side does not accept the other's certificate.
    #[error("etcd at {endpoint}: certificate refused: {why}")]
    Certificate { endpoint: String, why: String },
    #[error("etcd denies access at {endpoint}: {why}")]
    Denied { endpoint: String, why: String },
    /// Something listens there that is not etcd, or not with (or without) TLS.
    #[error("what listens at {endpoint} does not speak etcd's protocol: {why}")]
    NotEtcd { endpoint: String, why: String },
    #[error("etcd is not reachable: {0}")]
    Unreachable(String),
    #[error("{one} and {other} belong to different clusters")]
    DifferentClusters { one: String, other: String },
    /// A member answers, but not for the cluster: no quorum, for instance.
    #[error("etcd does not serve: {0}")]
    Unready(StoreError),
}

impl ConnectError {
    /// How much it says: of several members' errors the most precise is reported.
    fn weight(&self) -> u8 {
        match self {
            Self::Unreachable(_) => 0,
            Self::NotEtcd { .. } => 1,
            Self::Denied { .. } => 2,
            _ => 3,
        }
    }
}

fn invalid(e: &tonic::transport::Error) -> ConnectError {
    ConnectError::Invalid(chain(e))
}

fn endpoint(name: &str, tls: Option<&EtcdTls>) -> Result<Endpoint, ConnectError> {
    let endpoint = Endpoint::from_shared(name.to_owned())
        .map_err(|e| invalid(&e))?
        .connect_timeout(CONNECT_PATIENCE)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(PING_EVERY))
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(2 * WINDOW_BYTES);
    let is_secure = endpoint.uri().scheme_str() == Some("https");
    match (is_secure, tls) {
        (false, None) => Ok(endpoint),
        (false, Some(_)) => Err(ConnectError::Invalid(format!(
            "{name} is without TLS, but certificates are given"
        ))),
        (true, None) => Err(ConnectError::Invalid(format!(
            "{name} needs a CA and a client certificate"
        ))),
        (true, Some(tls)) => endpoint
            .tls_config(
                ClientTlsConfig::new()
                    .ca_certificate(Certificate::from_pem(&tls.ca))
                    .identity(Identity::from_pem(&tls.certificate, &tls.key)),
            )
            .map_err(|e| invalid(&e)),
    }
}

/// The members of the cluster, of which at least one has answered.
pub async fn members(config: &EtcdConfig) -> Result<Members, ConnectError> {
    if config.endpoints.is_empty() {
        return Err(ConnectError::Invalid("no endpoint is given".into()));
    }
    let list = config
        .endpoints
        .iter()
        .map(|name| {
            Ok(Member::new(
                name.clone(),
                endpoint(name, config.tls.as_ref())?,
            ))
        })
        .collect::<Result<Vec<_>, ConnectError>>()?;
    let members = Members::new(list);
    let begun = Instant::now();
    let mut said = HashSet::new();
    loop {
        match answers(&members, &mut said).await {
            Err(ConnectError::Unreachable(_)) if begun.elapsed() < START_PATIENCE => {
                sleep(PAUSE).await;
            }
            Err(e) => return Err(e),
            Ok(()) => return Ok(members),
        }
    }
}

/// Asks every member for its identity. What is wrong with one is logged once: `said` holds it.
async fn answers(members: &Members, said: &mut HashSet<String>) -> Result<(), ConnectError> {
    let asked = members.list().iter().map(greet);
    let (mut first, mut worst) = (None, None::<ConnectError>);
    for (number, answer) in join_all(asked).await.into_iter().enumerate() {
        let member = members.at(number);
        match answer {
            Ok(status) => {
                if members.accept(member, status.header.as_ref()).is_err() {
                    return Err(ConnectError::DifferentClusters {
                        one: members.at(first.unwrap_or(number)).name().to_owned(),
                        other: member.name().to_owned(),
                    });
                }
                first.get_or_insert(number);
            }
            Err(e) => {
                if said.insert(e.to_string()) {
                    tracing::warn!("{e}");
                }
                if worst.as_ref().is_none_or(|w| w.weight() < e.weight()) {
                    worst = Some(e);
                }
            }
        }
    }
    match (first, worst) {
        (None, Some(e)) => Err(e),
        (Some(number), _) => {
            for _ in 0..number {
                members.leave(members.current());
            }
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

async fn greet(member: &Member) -> Result<proto::StatusResponse, ConnectError> {
    let mut client = MaintenanceClient::new(member.channel());
    let patience = CONNECT_PATIENCE + STATUS_PATIENCE;
    match tokio::time::timeout(patience, client.status(proto::StatusRequest {})).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(reason(member.name(), &status)),
        Err(_) => Err(ConnectError::Unreachable(format!(
            "{} is silent",
            member.name()
        ))),
    }
}

fn reason(name: &str, status: &Status) -> ConnectError {
    let (endpoint, why) = (name.to_owned(), text(status));
    let says = |words: &[&str]| words.iter().any(|w| why.contains(w));
    if says(&["invalid peer certificate", "received fatal alert"]) {
        return ConnectError::Certificate { endpoint, why };
    }
    if says(&["PermissionDenied", "permission denied", "Unauthenticated"]) {
        return ConnectError::Denied { endpoint, why };
    }
    // With TLS, writing may meet the closed connection before the alert that says why is read:
    // another try shows it, as long as there is patience. Without TLS, it is a server that wants
    // it.
    if name.starts_with("https") && says(&["broken pipe", "Broken pipe", "reset by peer"]) {
        return ConnectError::Unreachable(format!(
            "{endpoint} closes the connection at once, as when it refuses a certificate: {why}"
        ));
    }
    let is_foreign = matches!(
        status.code(),
        tonic::Code::Unimplemented | tonic::Code::Internal | tonic::Code::Unknown
    );
    if is_foreign || says(&["corrupt message", "protocol error", "frame"]) {
        return ConnectError::NotEtcd { endpoint, why };
    }
    ConnectError::Unreachable(format!("{endpoint}: {why}"))
}
