//! The components that can run alone or within `tiphys server`: their flags, and how they are
//! started. Flags have upstream's names.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use apiserver::ApiServer;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::Ranges;
use crate::server::{Keys, local};

/// Periods of failure detection. A node's heartbeat comes every 2 s; upstream's defaults (40 s
/// and 300 s) let work lie for almost six minutes.
#[derive(Args, Clone)]
pub struct ControllerFlags {
    /// Seconds without a heartbeat after which a node is taken for failed: four heartbeats, so
    /// that three may be lost.
    #[arg(long, default_value_t = 10)]
    pub node_monitor_grace_period: u64,
    /// Seconds for which pods stay on a node that is not ready: it may restart its agent.
    #[arg(long, default_value_t = 30)]
    pub default_not_ready_toleration_seconds: i64,
    /// Seconds for which pods stay on a node that is unreachable.
    #[arg(long, default_value_t = 30)]
    pub default_unreachable_toleration_seconds: i64,
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
    /// Lead by Lease, for when several run.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
    #[command(flatten)]
    ranges: Ranges,
    #[command(flatten)]
    flags: ControllerFlags,
}

#[derive(Args, Clone)]
pub struct SchedulerArgs {
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Lead by Lease, for when several run.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
}

#[derive(Args, Clone)]
pub struct KubeletArgs {
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Name of the node [default: the host's name].
    #[arg(long)]
    hostname_override: Option<String>,
    #[arg(long)]
    node_ip: IpAddr,
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
    ranges: Ranges,
}

#[derive(Args, Clone)]
pub struct ProxyArgs {
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Name of the node [default: the host's name].
    #[arg(long)]
    hostname_override: Option<String>,
    #[command(flatten)]
    ranges: Ranges,
}

/// Gives the API server its authenticators, authorizers and admission.
pub fn secure(
    _config: &mut apiserver::Config,
    _keys: &Keys,
    _flags: &ControllerFlags,
) -> Result<()> {
    Ok(())
}

/// Starts controllers and scheduler within the server's process.
pub fn start(
    server: &ApiServer,
    flags: &ControllerFlags,
    ranges: &Ranges,
    keys: &Keys,
    stop: CancellationToken,
) -> JoinSet<Result<()>> {
    let mut parts = JoinSet::new();
    let _ = (
        server,
        flags,
        ranges,
        keys,
        stop,
        local as fn(&ApiServer, &str, &[&str]) -> kube::Client,
    );
    parts.spawn(async { Ok(()) });
    parts
}

fn until_signal() -> Result<CancellationToken> {
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

fn host_name(given: Option<String>) -> String {
    given.unwrap_or_else(|| {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .to_lowercase()
    })
}

pub async fn controller_manager(args: ControllerManagerArgs) -> Result<()> {
    let _ = (
        args.kubeconfig,
        args.leader_elect,
        args.ranges,
        args.flags,
        Duration::ZERO,
    );
    let _ = (
        args.cluster_signing_cert_file,
        args.cluster_signing_key_file,
    );
    Ok(())
}

pub async fn scheduler(args: SchedulerArgs) -> Result<()> {
    let _ = (args.kubeconfig, args.leader_elect);
    Ok(())
}

pub async fn kubelet(args: KubeletArgs) -> Result<()> {
    let stop = until_signal()?;
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
    };
    let client = client::from_kubeconfig(&args.kubeconfig, "kubelet").await?;
    let mut config = kubelet::Config::new(host_name(args.hostname_override), args.node_ip);
    config.root_dir = args.root_dir;
    config.runtime_endpoint = args.container_runtime_endpoint;
    config.cluster_dns = vec![args.ranges.dns_ip()?.into()];
    config.cluster_domain = args.ranges.cluster_domain.clone();
    config.listen = Some(std::net::SocketAddr::new(args.node_ip, args.port));
    config.pause_image = args.pod_infra_container_image;
    config.tls = kubelet::config::ServingTls {
        certificate_pem: read(&args.tls_cert_file)?,
        key_pem: read(&args.tls_private_key_file)?,
        client_ca_pem: read(&args.client_ca_file)?,
    };
    Ok(kubelet::run(config, client, stop).await?)
}

pub async fn proxy(args: ProxyArgs) -> Result<()> {
    let stop = until_signal()?;
    let client = client::from_kubeconfig(&args.kubeconfig, "kube-proxy").await?;
    let mut config = proxy::Config::new(host_name(args.hostname_override));
    let range = args.ranges.pod_cidr;
    config.cluster_cidrs = vec![host::nft::Prefix {
        address: range.base.into(),
        length: range.prefix,
    }];
    Ok(proxy::run(client, config, stop.cancelled_owned()).await?)
}
