//! What the wiring tells the server.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::admission::Admit;
use crate::filters::authn::{Authenticator, ClientCertificates};
use crate::filters::authz::{Authorizer, Masters};
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
    /// Streaming subresources: exec, attach, portforward, log, proxy.
    pub connect: Option<Arc<dyn Connect>>,
}

impl Config {
    /// Client certificates, nobody but `system:masters` may do anything, upstream's ranges.
    pub fn new(advertise_address: IpAddr, secure_port: u16) -> Self {
        Self {
            service_cidr: "10.96.0.0/16".into(),
            node_ports: 30_000..=32_767,
            advertise_address,
            secure_port,
            authenticators: vec![Arc::new(ClientCertificates)],
            authorizers: vec![Arc::new(Masters)],
            admission: Vec::new(),
            connect: None,
        }
    }
}
