//! `tiphys server` and `tiphys apiserver`: wires store, API server, controllers and scheduler,
//! and keeps the files by which others reach and trust them.

#[cfg(test)]
mod accounts_test;
mod datastore;
#[cfg(test)]
mod devices_test;
mod encryption;
mod explain;
#[cfg(test)]
mod extenders_test;
mod files;
mod shared;
mod token_signing;
#[cfg(test)]
mod traces_test;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use api::cidr::IpFamily;
use apiserver::settings::{MAX_READS, MAX_WRITES};
use apiserver::signing::TokenSigner;
use apiserver::signing::external::External;
use apiserver::storage::encryption::Encrypted;
use apiserver::{ApiServer, UserInfo};
use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wire::pki::Ca;
use wire::serving_files::{CertificateSource, ServingFiles};

use crate::admission::AdmissionFlags;
use crate::apis::ApiFlags;
use crate::audit::AuditFlags;
use crate::authentication::AuthenticationFlags;
use crate::authorization::AuthorizationFlags;
use crate::flags::{BoolFlag as _, Ranges};
use crate::runtime::LargeLane;
use crate::tracing_file::TracingFlags;
use crate::up::Switch;
use crate::{components, token};
pub use datastore::{DatastoreFlags, store_dir};
pub use encryption::readable;

/// How much of the control plane runs in this process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    ControlPlane,
    ApiServer,
}

/// `tiphys server`: the server by its flags, or the switches of a server that `up` made.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ServerCommand {
    #[command(subcommand)]
    pub switch: Option<Switch>,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Args, Clone)]
pub struct ServerArgs {
    /// Folder of all the server's state [default: /var/lib/tiphys/server, or below the home
    /// folder for others than root].
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Address at which the server listens.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port at which it listens.
    #[arg(long, alias = "secure-port", default_value_t = 6443)]
    port: u16,
    /// Address at which nodes and pods reach this server [default: the machine's own].
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// A further name or address for the server's certificate; may be given several times.
    #[arg(long)]
    tls_san: Vec<String>,
    /// Where the administrator's kubeconfig is written [default: in the data directory].
    #[arg(long)]
    kubeconfig_out: Option<PathBuf>,
    /// Written when the server answers.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// Time between the signal to end and the end of serving: `/readyz` fails from the signal on, so
    /// that balancers send clients elsewhere before connections are refused. Controllers and scheduler
    /// end at the signal.
    #[arg(long, default_value = "0s", value_parser = crate::flags::go_duration)]
    shutdown_delay_duration: i64,
    /// Connect from this machine to pods of nodes whose kubelet has no tunnels to them, as
    /// upstream's: the machine must be on the pods' network.
    #[arg(long)]
    direct_pods: bool,
    /// Make the storage class `local` at the start, where it is missing: volumes on the nodes'
    /// disks, the default for claims that name no class.
    #[arg(long, bool_flag(true))]
    local_storage_class: bool,
    /// Requests that run at once: priority levels divide the sum of this number and the next one.
    #[arg(long, default_value_t = MAX_READS, value_parser = clap::value_parser!(u32).range(1..))]
    max_requests_inflight: u32,
    /// Added to --max-requests-inflight.
    #[arg(long, default_value_t = MAX_WRITES)]
    max_mutating_requests_inflight: u32,
    #[command(flatten)]
    datastore: DatastoreFlags,
    #[command(flatten)]
    ranges: Ranges,
    #[command(flatten)]
    controllers: components::ControllerFlags,
    #[command(flatten)]
    scheduler: components::SchedulerFlags,
    #[command(flatten)]
    tokens: token_signing::TokenFlags,
    #[command(flatten)]
    authentication: AuthenticationFlags,
    #[command(flatten)]
    authorization: AuthorizationFlags,
    #[command(flatten)]
    apis: ApiFlags,
    #[command(flatten)]
    admission: AdmissionFlags,
    #[command(flatten)]
    audit: AuditFlags,
    #[command(flatten)]
    tracing: TracingFlags,
    #[command(flatten)]
    encryption: encryption::EncryptionFlags,
    #[command(flatten)]
    election: components::ElectionFlags,
}

/// The cluster's keys, as files of the data directory.
pub struct Keys {
    pub ca: Ca,
    /// Of this server alone: others have theirs, and all are published for extension servers.
    pub front_proxy_ca: Ca,
    /// The cluster's own key of tokens.
    pub signer: Arc<wire::jwt::Signer>,
    /// Who signs tokens in its place.
    pub external: Option<Arc<External>>,
}

impl Keys {
    fn load(dir: &Path, now: i64) -> Result<Self> {
        let pki = dir.join("pki");
        let ca = Ca::load_or_create(&pki, "ca", "tiphys-ca", now)?;
        let signer = Arc::new(wire::jwt::Signer::load_or_create(
            &pki.join("service-account.key"),
        )?);
        let name = "tiphys-front-proxy-ca";
        let front_proxy_ca = Ca::load_or_create(&pki, "front-proxy-ca", name, now)?;
        Ok(Self {
            ca,
            front_proxy_ca,
            signer,
            external: None,
        })
    }

    /// Who signs the tokens that are asked for.
    pub fn token_signer(&self) -> Arc<dyn TokenSigner> {
        match &self.external {
            Some(external) => external.clone(),
            None => self.signer.clone(),
        }
    }
}

pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/tiphys/server".into();
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    home.join(".local/share/tiphys/server")
}

/// The address of a family that this machine uses towards others: that of its default route.
fn machine_address(family: IpFamily) -> IpAddr {
    let (any, far, local): (IpAddr, IpAddr, IpAddr) = match family {
        IpFamily::Four => (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
            Ipv4Addr::LOCALHOST.into(),
        ),
        IpFamily::Six => (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::LOCALHOST.into(),
        ),
    };
    let probe = || {
        let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
        // Connecting a datagram socket sends nothing; it only chooses the route.
        socket.connect((far, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    probe().filter(|ip| !ip.is_unspecified()).unwrap_or(local)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn api_config(args: &ServerArgs, keys: &Keys, advertise: IpAddr) -> Result<apiserver::Config> {
    let mut config = apiserver::Config::new(
        advertise,
        args.port,
        clock::Clock::system(),
        clock::Random::system(),
    );
    config.settings.service_cidrs = args.ranges.service_cidr.clone();
    config.settings.local_storage_class = args.local_storage_class;
    config.settings.host = Some(crate::machine::host_name());
    config.settings.max_reads = args.max_requests_inflight;
    config.settings.max_writes = args.max_mutating_requests_inflight;
    let times = &args.controllers;
    args.apis.apply(&mut config.settings)?;
    let admission = args.admission.options(
        times.default_not_ready_toleration_seconds,
        times.default_unreachable_toleration_seconds,
        &config.settings.features,
    )?;
    let issuer = components::issuer(&args.ranges);
    let tokens = args.tokens.tokens(keys.token_signer(), &issuer)?;
    let mut config = components::secure(config, keys, &admission, tokens);
    args.authentication.apply(&mut config)?;
    args.authorization.apply(&mut config)?;
    components::connect_kubelets(&mut config, keys, args.direct_pods, now())?;
    components::front_extension_servers(&mut config, keys, now())?;
    Ok(config)
}

/// Runs until a signal.
pub async fn run(args: ServerArgs, scope: Scope) -> Result<()> {
    components::allow_open_files();
    let stop = components::until_signal()?;
    let dir = args.data_dir.clone().unwrap_or_else(default_data_dir);
    let several = args.datastore.kind()? == datastore::DatastoreKind::Etcd;
    let election = args.election.election(several)?;
    let scheduling = args.scheduler.open()?;
    let datastore = args.datastore.open(&dir, now()).await?;
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let mut keys = Keys::load(&dir, now())?;
    keys.external = args.tokens.external(&stop).await?;
    let advertise = args
        .advertise_address
        .unwrap_or_else(|| machine_address(args.ranges.service_cidr.primary().family()));
    let mut config = api_config(&args, &keys, advertise)?;
    config.settings.shared = datastore.shared();
    config.settings.scratch.clone_from(&dir);
    let tracers = args.tracing.tracers(&crate::machine::host_name())?;
    config.settings.tracer = tracers.api.clone();
    config.audit = args.audit.open(&dir, clock::Clock::system())?;
    let own = CertificateSource::Made(files::serving_pair(&args, &keys, advertise)?);
    let more = args.authentication.more_client_authorities();
    let serving_files = ServingFiles::open_beside(own, &keys.ca.pair.cert_pem, more)?;
    let tls = serving_files.tls.clone();
    tokio::spawn(serving_files.follow(stop.clone()));
    let listener = TcpListener::bind((args.bind_address, args.port))
        .await
        .with_context(|| format!("listening on {}:{}", args.bind_address, args.port))?;
    // The API's own end comes after that of its in-process clients, and of the requests that run:
    // these need its cache and its store to the last.
    let api_stop = CancellationToken::new();
    let (store, encrypted, stale, rules) = encrypted(&args, &datastore, &dir, &stop).await?;
    config.settings.keys = Some(encrypted.clone());
    if let Some(followed) = rules.as_ref().and_then(|r| r.followed(&encrypted)) {
        config.background.push(followed);
    }
    let explainer = explain::Explainer::new(scheduling.clone());
    config.explain = Some(explainer.clone());
    let large = LargeLane::start()?;
    config.lanes = large.beside(tokio::runtime::Handle::current());
    let server = ApiServer::new(config, store, api_stop.clone()).await?;
    if let Some(rules) = rules {
        let figures = &server.state().metrics().identity.encryption;
        figures.holds(&rules.bytes);
    }
    explainer.answers_from(&server);
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve(listener, tls).await }
    });
    server.bootstrap().await?;
    tokio::spawn(async move {
        if let Err(e) = encrypted.settle(stale).await {
            tracing::error!("encryption of what is stored: {e}; the next start tries again");
        }
    });
    files::write_kubeconfigs(&args, &dir, &keys, advertise)?;
    let admin = local(&server, "tiphys-admin", &["system:masters"]);
    token::keep_node_token(&admin, &dir, &keys.ca.pair.cert_pem).await?;
    let ca_pem = keys.ca.pair.cert_pem.clone();
    tokio::spawn(token::follow_node_token(
        admin,
        dir.clone(),
        ca_pem,
        stop.clone(),
    ));
    let parts = match scope {
        Scope::ApiServer => None,
        Scope::ControlPlane => Some(components::start(
            &server,
            &args.controllers,
            scheduling,
            &args.ranges,
            &keys,
            election,
            (stop.clone(), &tracers),
        )?),
    };
    if let Some(file) = &args.ready_file {
        fs::write(file, std::process::id().to_string())
            .with_context(|| format!("writing {}", file.display()))?;
    }
    tracing::info!("serving at https://{advertise}:{}", args.port);
    stop.cancelled().await;
    leave(&server).await;
    let delay = u64::try_from(args.shutdown_delay_duration).unwrap_or(0);
    tokio::time::sleep(Duration::from_nanos(delay)).await;
    if let Some(mut parts) = parts {
        while parts.join_next().await.is_some() {}
    }
    server.drain();
    serving.await?;
    api_stop.cancel();
    drop(large);
    server.finish_audit().await;
    tracers.finish().await;
    datastore.close().await
}

/// The store with its encryption, which has been read whole; how many values are to be encrypted
/// again; and the file that says how, if one does.
async fn encrypted(
    args: &ServerArgs,
    datastore: &datastore::Datastore,
    dir: &Path,
    stop: &CancellationToken,
) -> Result<(
    Arc<dyn store::Store>,
    Arc<Encrypted>,
    usize,
    Option<encryption::RulesFile>,
)> {
    let opened = args
        .encryption
        .open(datastore.raw(), dir, datastore.token());
    let opened = opened.await?;
    let encrypted = Encrypted::new(datastore.raw(), opened.vault);
    let stale = encrypted.check().await;
    let stale = stale.context("the store cannot be read with the keys of its encryption")?;
    let store = datastore.translated(Arc::new(encrypted.clone()));
    let (services, stop) = (encrypted.clone(), stop.clone());
    tokio::spawn(async move { services.follow_services(stop).await });
    Ok((store, Arc::new(encrypted), stale, opened.file))
}

/// Time to take the server out of the endpoints of the `kubernetes` Service. When the store does
/// not answer, its key expires instead.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

async fn leave(server: &ApiServer) {
    match tokio::time::timeout(LEAVE_WITHIN, server.leave()).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::warn!("leaving the endpoints of the kubernetes Service: {e}"),
        Err(_) => tracing::warn!("leaving the endpoints of the kubernetes Service: no answer"),
    }
}

/// A client in this process, as a user.
pub fn local(server: &ApiServer, user: &str, groups: &[&str]) -> kube::Client {
    let client = client::in_process(server.local_service(UserInfo::new(user, groups)));
    client::refusals::counted(client, user)
}
