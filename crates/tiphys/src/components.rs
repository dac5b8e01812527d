//! The components that can run alone or within `tiphys server`: how they are started.

mod autoscaling;
mod configz;
mod flags;
#[cfg(test)]
mod leading;
mod scheduling;
mod secure;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::Fence;
use apiserver::{ApiServer, UserInfo};
use clap::Args;
use client::{Accounts, Informers};
use clock::{Clock, Random};
use control::lease::{Election, Times, lead};
pub use flags::{ControllerFlags, ElectionFlags, KubeletFlags, ProxyFlags, SchedulerFlags};
pub use scheduling::SchedulerFile;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::serving_files::{CertificateSource, ServingFiles};

use crate::flags::{BoolFlag as _, Ranges};
use crate::machine::{host_name, read};
use crate::server::{Keys, local};
use crate::tracing_file::Tracers;

#[derive(Args, Clone)]
pub struct ControllerManagerArgs {
    /// How the API is reached, and as whom.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The cluster's CA, with which certificate requests are signed.
    #[arg(long)]
    cluster_signing_cert_file: Option<PathBuf>,
    /// The key of that CA.
    #[arg(long)]
    cluster_signing_key_file: Option<PathBuf>,
    /// The key (PEM, PKCS #8) of the API server's service-account tokens, with which tokens are
    /// signed that lie in Secrets.
    #[arg(long)]
    service_account_private_key_file: Option<PathBuf>,
    /// The CA that is published to pods [default: the signing one].
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// Act in each controller as the service account of its name in kube-system; `false`: all as
    /// the kubeconfig's user, which then needs the rights of each.
    #[arg(long, bool_flag(true))]
    use_service_account_credentials: bool,
    #[command(flatten)]
    secure: secure::SecureFlags,
    #[command(flatten)]
    election: ElectionFlags,
    #[command(flatten)]
    ranges: Ranges,
    #[command(flatten)]
    flags: ControllerFlags,
}

#[derive(Args, Clone)]
pub struct SchedulerArgs {
    /// How the API is reached; the configuration may name it instead.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// A KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1; what it says outranks flags.
    #[arg(long)]
    config: Option<PathBuf>,
    #[command(flatten)]
    secure: secure::SecureFlags,
    #[command(flatten)]
    election: ElectionFlags,
}

#[derive(Args, Clone)]
pub struct KubeletArgs {
    /// How the API is reached, and as whom.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Name of the node [default: the host's name].
    #[arg(long)]
    hostname_override: Option<String>,
    /// Address of the node, or one of each family with a comma between them.
    #[arg(long, value_delimiter = ',', required = true)]
    node_ip: Vec<IpAddr>,
    /// Socket of the container runtime.
    #[arg(long, default_value = "/run/containerd/containerd.sock")]
    container_runtime_endpoint: String,
    /// Folder of all the kubelet's state, and of plugins' sockets.
    #[arg(long, default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    /// The port's certificate; read again when it changes, as the two below. A KubeletConfiguration may
    /// name all three instead.
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// The key of that certificate.
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// The CA whose client certificates are believed.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// Port of the kubelet's API, at the node's address.
    #[arg(long, default_value_t = 10_250)]
    port: u16,
    /// Image of pods' pause containers; it is not removed when disks are full.
    #[arg(long, default_value = crate::image::PAUSE)]
    pod_infra_container_image: String,
    #[command(flatten)]
    flags: KubeletFlags,
    #[command(flatten)]
    ranges: Ranges,
}

#[derive(Args, Clone)]
pub struct ProxyArgs {
    /// How the API is reached, and as whom.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Name of the node [default: the host's name].
    #[arg(long)]
    hostname_override: Option<String>,
    #[command(flatten)]
    flags: ProxyFlags,
    #[command(flatten)]
    ranges: Ranges,
}

/// Who the tokens of a cluster's service accounts are from.
pub fn issuer(ranges: &Ranges) -> String {
    format!("https://kubernetes.default.svc.{}", ranges.cluster_domain)
}

/// Gives the API server its authenticators, authorizers and admission.
pub fn secure(
    config: apiserver::Config,
    keys: &Keys,
    admission: &apiserver::admission::Options,
    tokens: apiserver::filters::tokens::Tokens,
) -> apiserver::Config {
    let mut config = config.secured(tokens, admission);
    config.settings.client_ca_pem = Some(keys.ca.pair.cert_pem.clone());
    config.settings.more_metrics = Some(client::refusals::metrics);
    config
}

/// The user that the API server is towards kubelets.
const KUBELET_CLIENT: &str = "tiphys:apiserver";

/// How the API server reaches kubelets for logs, exec and the like, and pods through them, for
/// proxies and webhooks;
/// `direct_pods`: also pods on nodes whose kubelet has no tunnels.
pub fn connect_kubelets(
    config: &mut apiserver::Config,
    keys: &Keys,
    direct_pods: bool,
    now: i64,
) -> Result<()> {
    use apiserver::dialer::Dialer;
    use apiserver::subresources::connect::Kubelets;
    let subject = wire::pki::Subject::client(KUBELET_CLIENT, &[]);
    let pair = keys.ca.issue(&subject, now, wire::pki::LEAF_DAYS)?;
    let dialer = Dialer::new(&pair, &keys.ca.pair.cert_pem, direct_pods)?;
    let dialer = Arc::new(dialer);
    config.connect = Some(Kubelets::new(dialer.clone()));
    config.dialer = Some(dialer);
    Ok(())
}

/// Who the API server is when it passes on requests to extension servers.
pub fn front_extension_servers(
    config: &mut apiserver::Config,
    keys: &Keys,
    now: i64,
) -> Result<()> {
    use apiserver::settings::FrontProxy;
    let subject = wire::pki::Subject::client(FrontProxy::NAME, &[]);
    let ca = &keys.front_proxy_ca;
    config.settings.front_proxy = Some(FrontProxy {
        ca_pem: ca.pair.cert_pem.clone(),
        pair: ca.issue(&subject, now, wire::pki::LEAF_DAYS)?,
    });
    Ok(())
}

fn controllers_config(
    flags: &ControllerFlags,
    ranges: &Ranges,
    ca_pem: &str,
    ca: Option<wire::pki::Ca>,
    token_signer: Option<Arc<wire::jwt::Signer>>,
) -> Result<controllers::Config> {
    Ok(controllers::Config {
        chosen: flags.controllers.clone(),
        ca_pem: ca_pem.to_owned(),
        ca: ca.map(Arc::new),
        token_signer,
        pod_cidrs: flags.node_ranges(&ranges.pod_cidr)?,
        node_grace: Duration::from_secs(flags.node_monitor_grace_period),
        eviction_rates: controllers::nodes::zones::Rates {
            usual: flags.node_eviction_rate,
            reduced: flags.secondary_node_eviction_rate,
            large: flags.large_cluster_size_threshold,
            unhealthy: flags.unhealthy_zone_threshold,
        },
        most_ended_pods: Some(flags.terminated_pod_gc_threshold).filter(|most| *most > 0),
        load_balancer: flags.load_balancer(),
        autoscaling: flags.autoscaling.options()?,
        template_defaults: registry::template_defaults,
        ..controllers::Config::default()
    })
}

/// Starts controllers and scheduler within the server's process, each as its own user: at once,
/// or whenever this server leads.
pub fn start(
    server: &ApiServer,
    flags: &ControllerFlags,
    mut scheduling: SchedulerFile,
    ranges: &Ranges,
    keys: &Keys,
    election: Option<Times>,
    (stop, tracers): (CancellationToken, &Tracers),
) -> Result<JoinSet<Result<()>>> {
    let mut parts = JoinSet::new();
    let ca = keys.ca.clone();
    // What the cluster's own key signed nobody would believe.
    let signer = keys.external.is_none().then(|| keys.signer.clone());
    if signer.is_none() {
        tracing::warn!(
            "Secrets get no tokens of service accounts: --service-account-signing-endpoint signs those that are asked for"
        );
    }
    let mut config = controllers_config(flags, ranges, &keys.ca.pair.cert_pem, Some(ca), signer)?;
    config.tracer = tracers.controllers.clone();
    scheduling.tracer = tracers.scheduler.clone();
    let accounts = local_accounts(server);
    // Once for all parts of this process: pods are the most of what they hold.
    let informers =
        control::trimmed::informers(accounts.own().clone(), Clock::system(), Random::system());
    let shared = informers.clone();
    parts.spawn(run_controllers(
        accounts,
        shared,
        config,
        election,
        stop.clone(),
    ));
    let client = local(server, SCHEDULER_USER, &[]);
    parts.spawn(run_scheduler(client, informers, scheduling, election, stop));
    Ok(parts)
}

/// The controllers within the server's process: as upstream's with
/// `--use-service-account-credentials`, without tokens and the objects behind them.
pub fn local_accounts(server: &ApiServer) -> Accounts {
    let own = local(server, CONTROLLERS_USER, &[]);
    let server = server.clone();
    Accounts::new(own, move |account| {
        let (user, groups) = client::accounts::user_of(account);
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let service = server.local_service(UserInfo::new(&user, &groups));
        client::refusals::counted(client::in_process(service), account)
    })
}

const CONTROLLERS_USER: &str = "system:kube-controller-manager";
const SCHEDULER_USER: &str = "system:kube-scheduler";
/// Where each serves its metrics and health when it runs alone; upstream's.
const CONTROLLERS_PORT: u16 = 10_257;
const SCHEDULER_PORT: u16 = 10_259;

async fn run_controllers(
    accounts: Accounts,
    informers: Informers,
    config: controllers::Config,
    election: Option<Times>,
    stop: CancellationToken,
) -> Result<()> {
    configz::controllers(&config, election);
    let client = accounts.own().clone();
    let work = move |fence: Option<Fence>, term| {
        let (config, informers) = (config.clone(), informers.clone());
        let accounts = match fence {
            Some(fence) => accounts.fenced(&fence),
            None => accounts.clone(),
        };
        async move {
            let ended = controllers::run(&informers, &accounts, config, term).await;
            log_end("controllers", ended)
        }
    };
    lead_or_run(client, "kube-controller-manager", election, stop, work).await;
    Ok(())
}

async fn run_scheduler(
    client: kube::Client,
    informers: Informers,
    file: SchedulerFile,
    election: Option<Times>,
    stop: CancellationToken,
) -> Result<()> {
    configz::scheduler(file.value(), &file.config()?.profiles, election);
    // Who does not lead has the page, too, without pods: it is not a target that is down.
    let _page = metrics::pages::show(scheduler::totals::PATH, String::new);
    let own = client.clone();
    let work = move |fence: Option<Fence>, term| {
        let client = fence.map_or_else(|| own.clone(), |fence| client::fenced(&own, &fence));
        let (config, informers) = (file.config(), informers.clone());
        async move {
            let config = match config {
                Ok(config) => config,
                Err(e) => return log_end("scheduler", Err(e)),
            };
            let ended = scheduler::run(&informers, client, config, term).await;
            log_end("scheduler", ended)
        }
    };
    lead_or_run(client, "kube-scheduler", election, stop, work).await;
    Ok(())
}

/// Takes as many open files as the machine allows; what the limit stays at otherwise is said.
pub fn allow_open_files() {
    if let Err(error) = supervisor::process::allow_open_files() {
        tracing::warn!("the limit on open files stays as it is: {error}");
    }
}

/// Cancelled by TERM or INT. The second of them ends the process at once, whatever is in flight; as
/// upstream.
pub fn until_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let ended = stop.clone();
    tokio::spawn(async move {
        for is_second in [false, true] {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            if is_second {
                std::process::exit(1);
            }
            ended.cancel();
        }
    });
    Ok(stop)
}

/// Pause after a term: as long as the usual one between tries, in which others may take over.
const BETWEEN_TERMS: Duration = Duration::from_secs(1);

/// Runs `work` at once, or each time that this process is elected, with the fence of that
/// election, until `stop`.
async fn lead_or_run<F>(
    client: kube::Client,
    name: &str,
    election: Option<Times>,
    stop: CancellationToken,
    work: impl Fn(Option<Fence>, CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(times) = election else {
        return work(None, stop).await;
    };
    while !stop.is_cancelled() {
        // A leader that lost its lease stands again as somebody else: nothing of its former
        // term may pass for the new one's.
        let identity = format!("{}_{}", host_name(), Random::system().uuid());
        let election = Election {
            times,
            ..Election::new(name, &identity, Clock::system())
        };
        let elected = |fence, term| work(Some(fence), term);
        lead(client.clone(), election, stop.clone(), elected).await;
        // Work that ends at once must not make elections spin.
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(BETWEEN_TERMS) => {}
        }
    }
}

fn log_end<E: std::fmt::Display>(what: &str, outcome: Result<(), E>) {
    if let Err(e) = outcome {
        tracing::error!("{what} ended: {e}");
    }
}

pub async fn controller_manager(args: ControllerManagerArgs) -> Result<()> {
    let stop = until_signal()?;
    const AGENT: &str = "kube-controller-manager";
    let accounts = if args.use_service_account_credentials {
        client::accounts_of(&args.kubeconfig, AGENT).await?
    } else {
        Accounts::shared(client::from_kubeconfig(&args.kubeconfig, AGENT).await?)
    };
    let ca = match (
        &args.cluster_signing_cert_file,
        &args.cluster_signing_key_file,
    ) {
        (Some(cert), Some(key)) => {
            let pair = wire::pki::Pair {
                cert_pem: read(cert)?,
                key_pem: read(key)?,
            };
            let ca = wire::pki::Ca::of(pair);
            Some(ca.with_context(|| format!("{} and {}", cert.display(), key.display()))?)
        }
        (None, None) => None,
        _ => bail!("--cluster-signing-cert-file and --cluster-signing-key-file go together"),
    };
    let ca_pem = match &args.root_ca_file {
        Some(path) => read(path)?,
        None => ca
            .as_ref()
            .map(|c| c.pair.cert_pem.clone())
            .unwrap_or_default(),
    };
    let signer = args.service_account_private_key_file.as_deref();
    let signer = signer.map(wire::jwt::Signer::load).transpose()?;
    let signer = signer.map(Arc::new);
    let config = controllers_config(&args.flags, &args.ranges, &ca_pem, ca, signer)?;
    let own = accounts.own().clone();
    args.secure
        .serve(
            ("kube-controller-manager", CONTROLLERS_PORT),
            own.clone(),
            stop.clone(),
        )
        .await?;
    let informers = control::trimmed::informers(own, Clock::system(), Random::system());
    let election = args.election.election(true)?;
    run_controllers(accounts, informers, config, election, stop).await
}

pub async fn scheduler(args: SchedulerArgs) -> Result<()> {
    let stop = until_signal()?;
    let file = SchedulerFile::open(args.config.as_deref())?;
    let kubeconfig = file.kubeconfig()?.or(args.kubeconfig);
    let kubeconfig = kubeconfig.context("--kubeconfig is missing")?;
    let client = client::from_kubeconfig(&kubeconfig, "kube-scheduler").await?;
    let own = client.clone();
    let at = ("kube-scheduler", SCHEDULER_PORT);
    args.secure.serve(at, own, stop.clone()).await?;
    let informers = control::trimmed::informers(client.clone(), Clock::system(), Random::system());
    let election = args.election.or_as(file.election()?)?.election(true)?;
    run_scheduler(client, informers, file, election, stop).await
}

/// Refuses what no pod's status can say: a node has one address, or one of each family.
pub fn check_node_ips(ips: &[IpAddr]) -> Result<()> {
    let same = matches!(ips, [a, b] if a.is_ipv4() == b.is_ipv4());
    if ips.len() > 2 || same {
        bail!("--node-ip: one address, or one of each family");
    }
    Ok(())
}

pub async fn kubelet(args: KubeletArgs) -> Result<()> {
    let stop = until_signal()?;
    check_node_ips(&args.node_ip)?;
    let client = client::from_kubeconfig(&args.kubeconfig, "kubelet").await?;
    let own = *args.node_ip.first().context("--node-ip is missing")?;
    let name = args.hostname_override.unwrap_or_else(host_name);
    let mut config = kubelet::Config::new(name, own);
    config.other_node_ip = args.node_ip.get(1).copied();
    config.root_dir = args.root_dir;
    config.runtime_endpoint = args.container_runtime_endpoint;
    config.cluster_dns = vec![args.ranges.dns_ip()?];
    config.cluster_domain = args.ranges.cluster_domain.clone();
    // Names are answered by the node's agent, which does not run here.
    let (key, none) = (api::node_notes::CLUSTER_DNS, api::node_notes::NONE);
    config.annotations = [(key.to_owned(), Some(none.to_owned()))].into();
    config.listen = Some(std::net::SocketAddr::new(own, args.port));
    config.pause_image = args.pod_infra_container_image;
    args.flags.set(&mut config)?;
    let given = kubelet::tls_files::TlsFiles {
        certificate: args.tls_cert_file,
        key: args.tls_private_key_file,
        client_ca: args.client_ca_file,
    };
    config.tls_files = given.or(config.tls_files);
    let [certificate, key, client_ca] = config.tls_files.all()?;
    let certificate = CertificateSource::Files(certificate, key);
    let files = ServingFiles::open(certificate, Some(client_ca))?;
    config.tls = Some(files.tls.clone());
    tokio::spawn(files.follow(stop.clone()));
    let ground = kubelet::Ground::machine(&config, Clock::system(), Random::system());
    crate::service_manager::tell();
    Ok(kubelet::run(ground, config, client, stop).await?)
}

pub async fn proxy(args: ProxyArgs) -> Result<()> {
    let stop = until_signal()?;
    let client = client::from_kubeconfig(&args.kubeconfig, "kube-proxy").await?;
    let mut config = proxy::Config::new(args.hostname_override.unwrap_or_else(host_name));
    args.flags.set(&args.ranges, &[], &mut config)?;
    Ok(proxy::run(
        client,
        config,
        (Clock::system(), Random::system()),
        stop.cancelled_owned(),
    )
    .await?)
}
