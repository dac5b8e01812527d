//! The components that can run alone or within `tiphys server`: their flags, and how they are
//! started. Flags have upstream's names.

mod autoscaling;
mod configz;
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
use api::cidr::Cidrs;
use apiserver::{ApiServer, UserInfo};
use clap::{Args, ValueEnum};
use client::{Accounts, Informers};
use clock::{Clock, Random};
use control::lease::{Election, Times, lead};
use controllers::load_balancer::{Pool, Reserved, Source};
use controllers::nodes::cidr::{NODE_PREFIX_IPV4, NODE_PREFIX_IPV6};
pub use scheduling::SchedulerFile;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::flags::Ranges;
use crate::machine::{host_name, read};
use crate::server::{Keys, local};
use crate::tracing_file::Tracers;

/// Periods of failure detection. A node's heartbeat comes every 2 s; upstream's defaults (40 s
/// and 300 s) let work lie for almost six minutes.
#[derive(Args, Clone)]
pub struct ControllerFlags {
    /// Seconds without a heartbeat after which a node is taken for failed: four heartbeats, so
    /// that three may be lost.
    #[arg(long, default_value_t = 10)]
    pub node_monitor_grace_period: u64,
    /// Nodes of a zone per second that may lose their pods when they have failed.
    #[arg(long, default_value_t = 0.1)]
    pub node_eviction_rate: f64,
    /// The same where the share of --unhealthy-zone-threshold of a zone has failed, if the zone is
    /// large; in smaller ones none loses them then.
    #[arg(long, default_value_t = 0.01)]
    pub secondary_node_eviction_rate: f64,
    /// Zones of more nodes than this are large.
    #[arg(long, default_value_t = 50)]
    pub large_cluster_size_threshold: usize,
    /// The share of a zone's nodes, three at least, that must have failed for the zone to be taken
    /// for cut off.
    #[arg(long, default_value_t = 0.55)]
    pub unhealthy_zone_threshold: f64,
    /// Pods that have ended beyond this number are removed, the oldest first; nought keeps all.
    #[arg(long, default_value_t = 12_500)]
    pub terminated_pod_gc_threshold: usize,
    /// Length of the prefixes of nodes' ranges of pod IPs, in a cluster of one family [default: as
    /// of the family].
    #[arg(long)]
    pub node_cidr_mask_size: Option<u8>,
    /// The same of IPv4.
    #[arg(long, default_value_t = NODE_PREFIX_IPV4)]
    pub node_cidr_mask_size_ipv4: u8,
    /// The same of IPv6.
    #[arg(long, default_value_t = NODE_PREFIX_IPV6)]
    pub node_cidr_mask_size_ipv6: u8,
    /// Seconds for which pods stay on a node that is not ready: it may restart its agent.
    #[arg(long, default_value_t = 30)]
    pub default_not_ready_toleration_seconds: i64,
    /// Seconds for which pods stay on a node that is unreachable.
    #[arg(long, default_value_t = 30)]
    pub default_unreachable_toleration_seconds: i64,
    #[command(flatten)]
    pub autoscaling: autoscaling::AutoscalingFlags,
    /// Who gives addresses to Services of type LoadBalancer without a class, or with the class
    /// `tiphys.io/node`.
    #[arg(long, value_enum, default_value_t = LoadBalancer::Builtin)]
    pub load_balancer: LoadBalancer,
    /// Addresses of the nodes' network for Services of type LoadBalancer, each announced by one
    /// node: ranges such as `192.0.2.0/28,192.0.2.40-192.0.2.60` [default: the nodes' own
    /// addresses].
    #[arg(long)]
    pub load_balancer_pool: Option<Pool>,
    /// Ports at the nodes' own addresses that no Service of type LoadBalancer gets, such as
    /// `22,8472/UDP`.
    #[arg(long, default_value = Reserved::DEFAULT)]
    pub load_balancer_reserved_ports: Reserved,
}

/// Who gives addresses to Services of type LoadBalancer.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadBalancer {
    /// This cluster's controllers and nodes.
    Builtin,
    /// Somebody who is brought along; nothing is done here.
    None,
}

impl ControllerFlags {
    /// How the ranges of pods are cut for nodes.
    fn node_ranges(&self, pods: &Cidrs) -> Result<controllers::nodes::cidr::Ranges> {
        let both = (self.node_cidr_mask_size_ipv4, self.node_cidr_mask_size_ipv6);
        let (four, six) = match self.node_cidr_mask_size {
            // As upstream.
            Some(_) if pods.is_dual() => {
                bail!("--node-cidr-mask-size: a cluster of two families has one for each")
            }
            Some(size) => (size, size),
            None => both,
        };
        controllers::nodes::cidr::Ranges::new(pods, four, six).map_err(anyhow::Error::msg)
    }

    fn load_balancer(&self) -> Option<Source> {
        match (self.load_balancer, &self.load_balancer_pool) {
            (LoadBalancer::None, _) => None,
            (LoadBalancer::Builtin, Some(pool)) => Some(Source::Pool(pool.clone())),
            (LoadBalancer::Builtin, None) => Some(Source::Nodes {
                reserved: self.load_balancer_reserved_ports.clone(),
                node_ports: controllers::load_balancer::NODE_PORTS,
            }),
        }
    }
}

/// Leading by Lease. The periods are shorter than upstream's (15 s, 10 s, 2 s), since a leader's
/// writes are fenced: one that is replaced too early does no harm.
#[derive(Args, Clone)]
pub struct ElectionFlags {
    /// Lead by Lease [default: where several servers can run].
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    leader_elect: Option<bool>,
    /// Time after which a silent leader is replaced, such as `6s`.
    #[arg(long, default_value = "6s")]
    leader_elect_lease_duration: jiff::SignedDuration,
    /// Time after which a leader that cannot renew its lease gives up by itself.
    #[arg(long, default_value = "4s")]
    leader_elect_renew_deadline: jiff::SignedDuration,
    /// Time between two tries to get or renew the lease.
    #[arg(long, default_value = "1s")]
    leader_elect_retry_period: jiff::SignedDuration,
}

impl ElectionFlags {
    /// The flags, where a configuration does not say otherwise.
    fn or_as(self, file: scheduler::config::Election) -> Result<Self> {
        let time = |text: Option<String>, flag: jiff::SignedDuration, name: &str| match text {
            None => Ok(flag),
            Some(text) => text
                .parse()
                .with_context(|| format!("leaderElection.{name} of the scheduler's configuration")),
        };
        Ok(Self {
            leader_elect: file.leader_elect.or(self.leader_elect),
            leader_elect_lease_duration: time(
                file.lease_duration,
                self.leader_elect_lease_duration,
                "leaseDuration",
            )?,
            leader_elect_renew_deadline: time(
                file.renew_deadline,
                self.leader_elect_renew_deadline,
                "renewDeadline",
            )?,
            leader_elect_retry_period: time(
                file.retry_period,
                self.leader_elect_retry_period,
                "retryPeriod",
            )?,
        })
    }

    /// How to stand for election; `None` to work at once. `several`: more than one may run.
    pub fn election(&self, several: bool) -> Result<Option<Times>> {
        if !self.leader_elect.unwrap_or(several) {
            return Ok(None);
        }
        let times = Times::new(
            self.leader_elect_lease_duration.try_into()?,
            self.leader_elect_renew_deadline.try_into()?,
            self.leader_elect_retry_period.try_into()?,
        );
        times
            .map(Some)
            .context("--leader-elect-lease-duration, -renew-deadline and -retry-period")
    }
}

#[derive(Args, Clone)]
pub struct ControllerManagerArgs {
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The cluster's CA, with which certificate requests are signed.
    #[arg(long)]
    cluster_signing_cert_file: Option<PathBuf>,
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
    #[arg(
        long,
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
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

/// The scheduler within the server's process.
#[derive(Args, Clone)]
pub struct SchedulerFlags {
    /// A KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1: profiles, plugins and waits
    /// of the scheduler. Elections are the server's.
    #[arg(long)]
    scheduler_config: Option<PathBuf>,
}

impl SchedulerFlags {
    /// Reads and checks the file.
    pub fn open(&self) -> Result<SchedulerFile> {
        SchedulerFile::open(self.scheduler_config.as_deref())
    }
}

/// What a kubelet does. Upstream's defaults; what is given here outranks the files.
#[derive(Args, Clone)]
pub struct KubeletFlags {
    /// A KubeletConfiguration of kubelet.config.k8s.io/v1beta1, in YAML or JSON.
    #[arg(long = "config", value_name = "FILE", overrides_with = "configuration")]
    configuration: Option<PathBuf>,
    /// Folder of further ones, whose names end in `.conf`: what they say is put over that of `--config`,
    /// in the order of their names.
    #[arg(
        long = "config-dir",
        value_name = "DIR",
        overrides_with = "configuration_dir"
    )]
    configuration_dir: Option<PathBuf>,
    /// Below what pods are evicted, such as `memory.available<100Mi,nodefs.available<10%`; what is
    /// not named is not looked at [default: upstream's].
    #[arg(long, overrides_with = "eviction_hard")]
    eviction_hard: Option<kubelet::eviction::Thresholds>,
    /// Seconds for which a node stays under pressure after the pressure went [default: 300].
    #[arg(long, overrides_with = "eviction_pressure_transition_period")]
    eviction_pressure_transition_period: Option<u64>,
    /// Disk use above which unused images go, in percent; 100 for never [default: 85].
    #[arg(long, overrides_with = "image_gc_high_threshold")]
    image_gc_high_threshold: Option<u64>,
    /// Disk use down to which they go, in percent [default: 80].
    #[arg(long, overrides_with = "image_gc_low_threshold")]
    image_gc_low_threshold: Option<u64>,
    /// Kernel parameters that pods may set beside the safe ones, such as
    /// `net.core.somaxconn,kernel.msg*`.
    #[arg(long, overrides_with = "allowed_unsafe_sysctls")]
    allowed_unsafe_sysctls: Option<kubelet::pod::sysctls::Allowed>,
    /// Folder of the volumes of the provisioner `tiphys.io/local`; `none`: this node keeps none
    /// [default: `volumes` in the node's data directory].
    #[arg(long, overrides_with = "local_volumes_dir")]
    local_volumes_dir: Option<PathBuf>,
}

impl KubeletFlags {
    /// Sets what files and flags say.
    pub fn set(&self, config: &mut kubelet::Config) -> Result<()> {
        for warning in self.files()?.set(config, registry::manifest::pod)? {
            tracing::warn!("the kubelet's configuration: {warning}");
        }
        if let Some(hard) = &self.eviction_hard {
            config.eviction.hard = hard.clone();
        }
        if let Some(seconds) = self.eviction_pressure_transition_period {
            config.eviction.transition_period = Duration::from_secs(seconds);
        }
        if let Some(percent) = self.image_gc_high_threshold {
            config.image_gc_high_percent = percent;
        }
        if let Some(percent) = self.image_gc_low_threshold {
            config.image_gc_low_percent = percent;
        }
        if let Some(allowed) = &self.allowed_unsafe_sysctls {
            config.allowed_unsafe_sysctls = allowed.clone();
        }
        if let Some(dir) = &self.local_volumes_dir {
            config.local_volumes = Some(dir.clone()).filter(|d| d.as_os_str() != "none");
        }
        Ok(())
    }

    /// What the files say together.
    fn files(&self) -> Result<kubelet::kubelet_configuration::Configuration> {
        let mut paths: Vec<PathBuf> = self.configuration.iter().cloned().collect();
        if let Some(dir) = &self.configuration_dir {
            let reading = || format!("reading {}", dir.display());
            let mut all = std::fs::read_dir(dir).with_context(reading)?;
            let mut more = all.try_fold(Vec::new(), |mut all, entry| {
                all.push(entry?.path());
                Ok::<_, std::io::Error>(all)
            })?;
            more.retain(|path| path.extension().is_some_and(|e| e == "conf"));
            more.sort();
            paths.extend(more);
        }
        let mut out = kubelet::kubelet_configuration::Configuration::default();
        for path in paths {
            let fault = || format!("the kubelet's configuration {}", path.display());
            let decoded = schema::decode::yaml(read(&path)?.as_bytes()).with_context(fault)?;
            if let Some(problem) = decoded.problems.first() {
                anyhow::bail!("{}: {problem}", fault());
            }
            out.add(decoded.value).with_context(fault)?;
        }
        Ok(out)
    }
}

#[derive(Args, Clone)]
pub struct KubeletArgs {
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
    #[arg(long, default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    #[arg(long)]
    tls_cert_file: PathBuf,
    #[arg(long)]
    tls_private_key_file: PathBuf,
    #[arg(long)]
    client_ca_file: PathBuf,
    #[arg(long, default_value_t = 10_250)]
    port: u16,
    #[arg(long, default_value = crate::image::PAUSE)]
    pod_infra_container_image: String,
    #[command(flatten)]
    flags: KubeletFlags,
    #[command(flatten)]
    ranges: Ranges,
}

/// Where a node's Services answer.
#[derive(Args, Clone)]
pub struct ProxyFlags {
    /// Addresses of the machine at which node ports answer: networks such as `10.0.0.0/8`, or
    /// `primary` for the node's own address [default: all but loopback ones].
    #[arg(long, value_delimiter = ',', overrides_with = "nodeport_addresses")]
    nodeport_addresses: Vec<NodePortAddresses>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NodePortAddresses {
    Primary,
    In(host::nft::Prefix),
}

impl std::str::FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            network => network.parse().map(Self::In),
        }
    }
}

impl ProxyFlags {
    /// `own` are the node's addresses, where they are known.
    pub fn set(&self, ranges: &Ranges, own: &[IpAddr], config: &mut proxy::Config) -> Result<()> {
        let mut networks = Vec::new();
        for given in &self.nodeport_addresses {
            match given {
                NodePortAddresses::In(network) => networks.push(*network),
                NodePortAddresses::Primary if own.is_empty() => {
                    bail!("--nodeport-addresses=primary needs the node's agent")
                }
                NodePortAddresses::Primary => {
                    networks.extend(own.iter().map(|ip| host::nft::Prefix::of_one(*ip)));
                }
            }
        }
        config.node_port_addresses = networks;
        config.cluster_cidrs = ranges.pods();
        config.serve(ranges.families());
        Ok(())
    }
}

#[derive(Args, Clone)]
pub struct ProxyArgs {
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

/// Gives the API server its authenticators, authorizers and admission.
pub fn secure(
    config: apiserver::Config,
    keys: &Keys,
    admission: &apiserver::admission::Options,
    ranges: &Ranges,
    extend_tokens: bool,
) -> apiserver::Config {
    let issuer = format!("https://kubernetes.default.svc.{}", ranges.cluster_domain);
    let mut tokens = apiserver::filters::tokens::Tokens::new(keys.signer.clone(), &issuer);
    tokens.extend = extend_tokens;
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
        ca_pem: ca_pem.to_owned(),
        ca: ca.map(Arc::new),
        token_signer,
        pod_cidrs: Some(flags.node_ranges(&ranges.pod_cidr)?),
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
    let (ca, signer) = (keys.ca.clone(), keys.signer.clone());
    let mut config = controllers_config(
        flags,
        ranges,
        &keys.ca.pair.cert_pem,
        Some(ca),
        Some(signer),
    )?;
    config.tracer = tracers.controllers.clone();
    scheduling.tracer = tracers.scheduler.clone();
    let accounts = local_accounts(server);
    // Once for all parts of this process: pods are the most of what they hold.
    let informers =
        control::kept::informers(accounts.own().clone(), Clock::system(), Random::system());
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

/// Cancelled by TERM or INT.
pub fn until_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let ended = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        ended.cancel();
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
            Some(wire::pki::Ca { pair })
        }
        _ => None,
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
    let informers = control::kept::informers(own, Clock::system(), Random::system());
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
    let informers = control::kept::informers(client.clone(), Clock::system(), Random::system());
    let election = args.election.or_as(file.election()?)?.election(true)?;
    run_scheduler(client, informers, file, election, stop).await
}

pub async fn kubelet(args: KubeletArgs) -> Result<()> {
    let stop = until_signal()?;
    let client = client::from_kubeconfig(&args.kubeconfig, "kubelet").await?;
    let own = *args.node_ip.first().context("--node-ip is missing")?;
    let name = args.hostname_override.unwrap_or_else(host_name);
    let mut config = kubelet::Config::new(name, own);
    config.other_node_ip = args.node_ip.get(1).copied();
    config.root_dir = args.root_dir;
    config.runtime_endpoint = args.container_runtime_endpoint;
    config.cluster_dns = vec![args.ranges.dns_ip()?];
    config.cluster_domain = args.ranges.cluster_domain.clone();
    config.listen = Some(std::net::SocketAddr::new(own, args.port));
    config.pause_image = args.pod_infra_container_image;
    args.flags.set(&mut config)?;
    let pair = wire::pki::Pair {
        cert_pem: read(&args.tls_cert_file)?,
        key_pem: read(&args.tls_private_key_file)?,
    };
    config.tls = kubelet::config::ServingTls {
        identity: Some(wire::tls::Identity::new(&pair)?),
        client_ca_pem: read(&args.client_ca_file)?,
    };
    let ground = kubelet::Ground::machine(&config, Clock::system(), Random::system());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(words: &[&str]) -> ElectionFlags {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            flags: ElectionFlags,
        }
        let words = std::iter::once("x").chain(words.iter().copied());
        <Line as clap::Parser>::parse_from(words).flags
    }

    #[test]
    fn one_server_works_at_once_and_several_are_elected() {
        assert_eq!(flags(&[]).election(false).expect("flags"), None);
        let several = flags(&[]).election(true).expect("flags");
        assert_eq!(several, Some(Times::default()));
        let asked = flags(&["--leader-elect", "--leader-elect-lease-duration=9s"]);
        let asked = asked.election(false).expect("flags").expect("times");
        assert_eq!(asked.duration(), Duration::from_secs(9));
        let off = flags(&["--leader-elect=false"]).election(true);
        assert_eq!(off.expect("flags"), None);
    }

    #[test]
    fn periods_that_cannot_work_are_refused() {
        for wrong in [
            "--leader-elect-lease-duration=3s",
            "--leader-elect-renew-deadline=1s",
            "--leader-elect-retry-period=0s",
            "--leader-elect-retry-period=-1s",
        ] {
            assert!(flags(&[wrong]).election(true).is_err(), "{wrong}");
        }
    }
}
