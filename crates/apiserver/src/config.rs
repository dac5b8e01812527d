//! What the wiring tells the server.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::admission::{self, Admit};
use crate::filters::authn::{Authenticator, ClientCertificates};
use crate::filters::authz::{Authorizer, Masters};
use crate::filters::tokens::Tokens;
use crate::filters::{self, inflight};
use crate::subresources::connect::Connect;

/// The server's configuration.
#[derive(Clone)]
pub struct Config {
    /// Range of cluster IPs, `address/bits`; the first address is the `kubernetes` Service's,
    /// the tenth is the cluster DNS's.
    pub service_cidr: String,
    pub node_ports: RangeInclusive<u16>,
    /// Where pods and nodes reach this server: the endpoints of the `kubernetes` Service.
    pub advertise_address: IpAddr,
    pub secure_port: u16,
    /// In order; the first that knows the client counts.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// In order; the first that allows or denies decides.
    pub authorizers: Vec<Arc<dyn Authorizer>>,
    /// In order: mutating steps first, then validating ones.
    pub admission: Vec<Arc<dyn Admit>>,
    /// How service-account tokens are issued and checked; none are without it.
    pub tokens: Option<Arc<Tokens>>,
    /// The CA of client certificates (PEM), published for extension servers.
    pub client_ca_pem: Option<String>,
    /// Further lines of `/metrics`: figures of what runs beside the server in this process.
    pub more_metrics: Option<fn() -> String>,
    /// Who shows no credentials is `system:anonymous` (and RBAC decides), not refused.
    pub anonymous: bool,
    /// Requests that run at once; see [`inflight`].
    pub max_reads: usize,
    pub max_writes: usize,
    /// Set where other servers may work on the same store.
    pub shared: Option<Shared>,
    /// Folder for files that live as long as a request.
    pub scratch: PathBuf,
    /// Streaming subresources: exec, attach, portforward, log, proxy.
    pub connect: Option<Arc<dyn Connect>>,
}

/// What servers that share a store owe each other.
#[derive(Clone, Debug)]
pub struct Shared {
    /// A server that has not shown itself for so long is no endpoint of the `kubernetes` Service
    /// any more. 9 s: it shows itself three times in that time, so two may fail.
    pub lease_seconds: u32,
    pub renew: Duration,
    /// Old versions are forgotten by one of the servers when they are this old; `None` for a
    /// store that sees to it itself. 5 minutes, as upstream.
    pub compaction: Option<Duration>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            lease_seconds: 9,
            renew: Duration::from_secs(3),
            compaction: Some(Duration::from_secs(300)),
        }
    }
}

impl Config {
    /// Client certificates, nobody but `system:masters` may do anything, upstream's ranges.
    pub fn new(advertise_address: IpAddr, secure_port: u16) -> Self {
        Self {
            service_cidr: "10.96.0.0/16".into(),
            node_ports: 30_000..=32_767,
            advertise_address,
            secure_port,
            authenticators: vec![Arc::new(ClientCertificates::default())],
            authorizers: vec![Arc::new(Masters)],
            admission: Vec::new(),
            tokens: None,
            client_ca_pem: None,
            more_metrics: None,
            anonymous: true,
            max_reads: inflight::READS,
            max_writes: inflight::WRITES,
            shared: None,
            scratch: std::env::temp_dir(),
            connect: None,
        }
    }

    /// All authenticators, authorizers and admission plugins of a cluster. What it takes: the
    /// key of service-account tokens and their issuer ([`Tokens::new`]), and for client
    /// certificates a TLS configuration that asks for them and trusts the cluster's client CA
    /// (`wire::tls::server_config`, given to [`crate::ApiServer::serve`]).
    pub fn secured(mut self, tokens: Tokens, options: &admission::Options) -> Self {
        self.tokens = Some(Arc::new(tokens));
        self.authenticators = filters::authenticators();
        self.authorizers = filters::authorizers();
        self.admission = admission::standard(options);
        self
    }

    /// The names by which tokens mean this server.
    pub fn audiences(&self) -> &[String] {
        self.tokens.as_ref().map_or(&[], |t| &t.audiences)
    }
}
