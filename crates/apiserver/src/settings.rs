//! What the wiring decides about a server, as plain values: addresses, ranges, bounds, the keys of
//! tokens. Rules that are plugged in are not here; see `Config`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::cidr::{Cidr, Cidrs};
use clock::{Clock, Random};
use futures::future::BoxFuture;
use registry::{Features, Kinds};
use serde_json::{Value, json};
use wire::pki::Pair;

use crate::signing::TokenSigner;

/// As upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight`.
pub const MAX_READS: u32 = 400;
pub const MAX_WRITES: u32 = 200;

/// The range of cluster IPs where none is said.
const SERVICE_CIDR: Cidr = Cidr {
    base: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)),
    prefix: 16,
};

/// What the kubelet of a node of this name says at `/metrics/resource`.
pub type NodeUsage = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// The values; fixed while the server runs.
#[derive(Clone)]
pub struct Settings {
    /// Range of cluster IPs, or one of each family; the first address of the first is the
    /// `kubernetes` Service's, the tenth of each is the cluster DNS's.
    pub service_cidrs: Cidrs,
    pub node_ports: RangeInclusive<u16>,
    /// Reads and writes that run at once; priority levels divide the sum.
    pub max_reads: u32,
    pub max_writes: u32,
    /// Where pods and nodes reach this server: the endpoints of the `kubernetes` Service.
    pub advertise_address: IpAddr,
    pub secure_port: u16,
    /// The name of this machine, by which the server shows itself; without it, it does not.
    pub host: Option<String>,
    /// How service-account tokens are issued and checked; none are without it.
    pub tokens: Option<Arc<Tokens>>,
    /// The CA of client certificates (PEM), published for extension servers.
    pub client_ca_pem: Option<String>,
    /// Who this server is when it passes on requests to extension servers.
    pub front_proxy: Option<FrontProxy>,
    /// Further lines of `/metrics`: figures of what runs beside the server in this process.
    pub more_metrics: Option<fn() -> String>,
    /// Where nodes are only played: what they use, so that no kubelet is asked.
    pub node_usage: Option<NodeUsage>,
    /// What makes spans of requests; off by default.
    pub tracer: traces::Tracer,
    pub anonymous: Anonymous,
    /// Whether the storage class of the nodes' own disks is made at the start.
    pub local_storage_class: bool,
    /// Set where other servers may work on the same store.
    pub shared: Option<Shared>,
    pub clock: Clock,
    /// Where UIDs, parts of names, addresses and ports come from; keys do not.
    pub random: Random,
    /// The keys with which what is stored is encrypted, where it is.
    pub keys: Option<Arc<dyn StoredKeys>>,
    /// Folder for files that live as long as a request.
    pub scratch: PathBuf,
    /// The built-in kinds that are served.
    pub kinds: Arc<Kinds>,
    pub features: Arc<Features>,
}

impl Settings {
    /// Upstream's ranges, kinds and features; no tokens, no other servers.
    pub fn new(advertise_address: IpAddr, secure_port: u16, clock: Clock, random: Random) -> Self {
        Self {
            service_cidrs: SERVICE_CIDR.into(),
            node_ports: 30_000..=32_767,
            max_reads: MAX_READS,
            max_writes: MAX_WRITES,
            advertise_address,
            secure_port,
            host: None,
            tokens: None,
            client_ca_pem: None,
            front_proxy: None,
            more_metrics: None,
            node_usage: None,
            tracer: traces::Tracer::default(),
            anonymous: Anonymous::default(),
            local_storage_class: false,
            shared: None,
            clock,
            random,
            keys: None,
            scratch: std::env::temp_dir(),
            kinds: registry::served_versions::by_default(),
            features: Arc::default(),
        }
    }

    /// The names by which tokens mean this server.
    pub fn audiences(&self) -> &[String] {
        self.tokens.as_ref().map_or(&[], |t| &t.audiences)
    }

    /// For which of the audiences that somebody asks about a token is that means this server alone;
    /// `None`: for none of them.
    pub fn audiences_among(&self, asked: &[String]) -> Option<Vec<String>> {
        let own = self.audiences();
        let meant: Vec<String> = asked.iter().filter(|a| own.contains(a)).cloned().collect();
        (!meant.is_empty() || own.is_empty()).then_some(meant)
    }
}

/// What becomes of a client that shows no credentials: it is `system:anonymous`, and the authorizers
/// decide, or it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anonymous {
    pub enabled: bool,
    /// The only paths for which it is enabled; all when empty.
    pub paths: Vec<String>,
}

impl Default for Anonymous {
    fn default() -> Self {
        Self {
            enabled: true,
            paths: Vec::new(),
        }
    }
}

impl Anonymous {
    pub fn allows(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|p| p == path))
    }
}

/// Keys with which what is stored is encrypted, as those who administer them see them. Both say what
/// was done, as JSON, or why nothing was.
pub trait StoredKeys: Send + Sync + 'static {
    /// Replaces the key that writes, and all that is written with another one.
    fn rotate(&self) -> BoxFuture<'_, Result<Value, String>>;
    /// Writes everything again that would be stored otherwise now.
    fn rewrite(&self) -> BoxFuture<'_, Result<Value, String>>;
    /// Whether the services that keep keys are well; none where there is nothing to ask.
    fn services(&self) -> Option<BoxFuture<'_, Result<(), String>>>;
}

/// This server as a proxy in front of extension servers. Its CA signs nothing else: whoever has a
/// certificate of it is believed there whatever he says of who asks.
#[derive(Clone)]
pub struct FrontProxy {
    /// Published for extension servers.
    pub ca_pem: String,
    /// Of the user [`FrontProxy::NAME`].
    pub pair: Pair,
}

impl FrontProxy {
    /// The only name that extension servers are to believe; upstream's.
    pub const NAME: &'static str = "front-proxy-client";
}

/// What servers that share a store owe each other.
#[derive(Clone, Debug)]
pub struct Shared {
    /// A server that has not shown itself for so long is not an endpoint of the `kubernetes`
    /// Service any more. 9 s: it shows itself three times in that time, so two may fail.
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

/// How this server issues and checks tokens.
pub struct Tokens {
    pub signer: Arc<dyn TokenSigner>,
    /// A URL; `/.well-known/openid-configuration` lies below it.
    pub issuer: String,
    /// The names by which this server is meant; the issuer when empty.
    pub audiences: Vec<String>,
    /// Whether pods' tokens get [`EXTENDED_SECONDS`].
    pub extend: bool,
    /// The longest life, in seconds, that a token can be asked for, where the signer has none.
    pub longest_seconds: Option<i64>,
}

impl Tokens {
    /// Upstream's defaults.
    pub fn new(signer: Arc<dyn TokenSigner>, issuer: &str) -> Self {
        Self {
            signer,
            issuer: issuer.to_owned(),
            audiences: vec![issuer.to_owned()],
            extend: true,
            longest_seconds: None,
        }
    }

    /// The document at `/.well-known/openid-configuration`.
    pub fn discovery(&self, jwks_uri: &str) -> Value {
        let keys = self.signer.jwks();
        let keys = keys["keys"].as_array().into_iter().flatten();
        let algorithms: BTreeSet<&str> = keys.filter_map(|key| key["alg"].as_str()).collect();
        json!({
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }
}
