//! What the wiring gives the server: its settings, and the rules that are plugged in.

use std::net::IpAddr;
use std::sync::Arc;

use clock::{Clock, Random};
use wire::serve::Lanes;

use crate::admission::{self, Admit};
use crate::audit;
use crate::dialer::Dialer;
use crate::filters::authn::{Authenticator, ClientCertificates};
use crate::filters::authz::Masters;
use crate::filters::tokens::Tokens;
use crate::filters::{self, Background};
use crate::hooks::{Connect, Explain};
use crate::settings::Settings;
use crate::state::Authorizer;

/// The server's configuration.
#[derive(Clone)]
pub struct Config {
    pub settings: Settings,
    /// In order; the first that knows the client counts.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// In order; the first that allows or denies decides.
    pub authorizers: Vec<Arc<dyn Authorizer>>,
    /// In order: mutating steps first, then validating ones.
    pub admission: Vec<Arc<dyn Admit>>,
    /// Streaming subresources: exec, attach, portforward, log, proxy.
    pub connect: Option<Arc<dyn Connect>>,
    /// Answers `/tiphys/why`; without it the path is not there.
    pub explain: Option<Arc<dyn Explain>>,
    /// What rules do beside requests; begun with the server.
    pub background: Vec<Arc<dyn Background>>,
    /// How pods are reached that webhooks and extension servers run in.
    pub dialer: Option<Arc<Dialer>>,
    /// What is recorded of requests, and where.
    pub audit: Option<audit::Plan>,
    /// Where connections run.
    pub lanes: Lanes,
}

impl Config {
    /// Client certificates, nobody but `system:masters` may do anything, upstream's ranges.
    pub fn new(advertise_address: IpAddr, secure_port: u16, clock: Clock, random: Random) -> Self {
        Self {
            settings: Settings::new(advertise_address, secure_port, clock, random),
            authenticators: vec![Arc::new(ClientCertificates::default())],
            authorizers: vec![Arc::new(Masters)],
            admission: Vec::new(),
            connect: None,
            explain: None,
            background: Vec::new(),
            dialer: None,
            audit: None,
            lanes: Lanes::ONE,
        }
    }

    /// All authenticators, authorizers and admission plugins of a cluster. What it takes: the
    /// key of service-account tokens and their issuer ([`Tokens::new`]), and for client
    /// certificates a TLS configuration that asks for them and trusts the cluster's client CA
    /// (`wire::tls::server_config`, given to [`crate::ApiServer::serve`]).
    pub fn secured(mut self, tokens: Tokens, options: &admission::Options) -> Self {
        self.settings.tokens = Some(Arc::new(tokens));
        self.authenticators = filters::authenticators();
        self.authorizers = filters::authorizers();
        self.admission = admission::standard(options);
        self
    }
}
