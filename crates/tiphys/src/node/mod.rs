//! A node's agent: joins, runs containerd, and in one process kubelet, service proxy, routes and
//! cluster DNS.

pub mod clean_up;
mod containerd;
mod encryption;
mod image_archives;
mod join;
mod other_kubelet;
mod renew;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::node_notes::{CLUSTER_DNS, NONE, WIREGUARD_KEY};
use clap::{Args, Subcommand, ValueEnum};
use clock::{Clock, Random};
use host::nft::Family;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::balancer::{self, Front, ServersFlag};
use crate::components::{KubeletFlags, ProxyFlags, allow_open_files, check_node_ips, until_signal};
use crate::flags::Ranges;
use crate::image;
use crate::machine::host_name;
use crate::up::Switch;

/// `tiphys node`: the agent by its flags, or what is done to a node.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NodeCommand {
    #[command(subcommand)]
    pub action: Option<NodeAction>,
    #[command(flatten)]
    pub agent: AgentArgs,
}

#[derive(Subcommand)]
pub enum NodeAction {
    #[command(flatten)]
    Switch(Switch),
    /// Remove what an agent left of the network in the kernel of this machine, which is not a node any
    /// more: rules, routes, the tunnel, and the cables of pods.
    CleanUp(clean_up::CleanUpArgs),
}

#[derive(Args, Clone)]
pub struct AgentArgs {
    #[command(flatten)]
    servers: ServersFlag,
    /// Port on loopback through which the node's parts reach a server that lives.
    #[arg(long, default_value_t = SERVERS_PORT)]
    lb_server_port: u16,
    /// Join token (`tiphys token create`); better in a file, since arguments are seen by all.
    #[arg(long, env = "TIPHYS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File that holds the join token; may be given several times, where each of several servers
    /// keeps one.
    #[arg(long)]
    token_file: Vec<PathBuf>,
    /// Name of the node [default: the host's name].
    #[arg(long)]
    name: Option<String>,
    /// Address of the node, or one of each family with a comma between them [default: the one that
    /// reaches the server, and of another family that pods have the one of the default route].
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// Networks outside of the cluster that see the addresses of pods, where others see the node's;
    /// with commas between them. They must know the way back.
    #[arg(long, value_delimiter = ',')]
    non_masquerade_cidrs: Vec<host::nft::Prefix>,
    /// What is done to packets from node to node that pods send and get. With `wireguard` they are encrypted,
    /// and nothing goes to nodes without it: give it to all of them. The kernel must have it.
    #[arg(long, value_enum, default_value_t = PodEncryption::None)]
    pod_encryption: PodEncryption,
    /// Folder of all the node's state.
    #[arg(long, default_value = "/var/lib/tiphys/node")]
    data_dir: PathBuf,
    /// Folder of image archives (`*.tar`) that are imported at the start. The image that each pod needs
    /// is made of this binary where none of them is `pause.tar`.
    #[arg(long)]
    images: Option<PathBuf>,
    /// Cgroup below which pods are made.
    #[arg(long, default_value = "/tiphys")]
    cgroup: String,
    /// Declared CPU, such as `2` or `500m` [default: the machine's].
    #[arg(long)]
    capacity_cpu: Option<api::Quantity>,
    /// Declared memory, such as `4Gi` [default: the machine's].
    #[arg(long)]
    capacity_memory: Option<api::Quantity>,
    /// Most pods [default: 110].
    #[arg(long)]
    max_pods: Option<u64>,
    /// A label to register the node with, `key=value`; may be given several times.
    #[arg(long = "node-label")]
    labels: Vec<String>,
    /// A taint to register the node with, `key=value:Effect`; may be given several times.
    #[arg(long = "register-with-taints")]
    taints: Vec<String>,
    /// For tests of clocks that are set: a file that says how many seconds the clock of kubelet and proxy
    /// is ahead of the machine's. It is read each second.
    #[arg(long, hide = true)]
    clock_shift_file: Option<PathBuf>,
    #[command(flatten)]
    plugins: ForeignPlugins,
    #[command(flatten)]
    parts: Parts,
    #[command(flatten)]
    kubelet: KubeletFlags,
    #[command(flatten)]
    proxy: ProxyFlags,
    #[command(flatten)]
    ranges: Ranges,
}

/// Network plugins of others.
#[derive(Args, Clone)]
struct ForeignPlugins {
    /// Folder of network configurations, usually /etc/cni/net.d: pods are connected by the plugins
    /// that the first one names, and not by Tiphys' own. Routes to other nodes' pod ranges and
    /// network policies stay Tiphys' matter: behind their plugins ours lets a pod start when its policies
    /// are in place.
    #[arg(long)]
    cni_conf_dir: Option<PathBuf>,
    /// Folder of their plugins; Debian's package has /usr/lib/cni.
    #[arg(long, default_value = "/opt/cni/bin", requires = "cni_conf_dir")]
    cni_bin_dir: PathBuf,
}

/// Parts of the node that others can be brought along for. What the own one left of the network is removed
/// when the agent starts without it.
#[derive(Args, Clone)]
struct Parts {
    /// Who runs the pods. What others need for it is in the node's folder: `kubelet.kubeconfig`, the port's
    /// certificate `pki/serving.crt` with its key, `pki/ca.crt` for its clients; and the runtime is at
    /// /run/tiphys/containerd/containerd.sock. Flags of the kubelet have no effect then, and there are no
    /// volumes on the node's disk.
    #[arg(long, value_enum, default_value_t = Part::Builtin)]
    kubelet: Part,
    /// Who leads packets to the endpoints of Services.
    #[arg(long, value_enum, default_value_t = Part::Builtin)]
    proxy: Part,
    /// Who keeps packets to what NetworkPolicies allow.
    #[arg(long, value_enum, default_value_t = Part::Builtin)]
    network_policy: Part,
    /// Who makes ways to the pods of other nodes: routes, and a tunnel where there is no neighbour.
    #[arg(long, value_enum, default_value_t = Part::Builtin)]
    pod_routes: Part,
    /// Who answers pods' questions about names at this node. With others, the Service kube-dns gets a
    /// selector of their pods.
    #[arg(long, value_enum, default_value_t = Part::Builtin)]
    cluster_dns: Part,
}

/// How packets of pods go from node to node.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodEncryption {
    /// As they are.
    None,
    /// By encrypted tunnels.
    Wireguard,
}

/// Who does the work of a part.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// This agent.
    Builtin,
    /// Somebody who is brought along; nothing is done here.
    None,
}

/// The port on loopback through which the node's parts reach a server.
const SERVERS_PORT: u16 = 6444;
/// The kubelet's port.
const KUBELET_PORT: u16 = 10_250;
/// Where the CNI plugin waits for the rules of a pod's network policies.
const POLICY_SOCKET: &str = "/run/tiphys/policy.sock";
/// Where it records whom others' plugins have connected: gone after a reboot, as the pods are.
const ATTACHMENTS: &str = "/run/tiphys/attachments";
/// The name of the CNI plugin.
const PLUGIN: &str = "tiphys-cni";
/// The port of the node's DNS server; the kube-dns Service leads to it.
pub const DNS_PORT: u16 = 10_053;

/// Waits for the end of the pod, and takes in orphans where it is PID 1 of a shared PID namespace.
pub fn pause() -> ExitCode {
    use host::signals::{Signal, Signals};
    use rustix::process::{WaitOptions, wait};
    let Ok(signals) = Signals::hold() else {
        return ExitCode::FAILURE;
    };
    loop {
        match signals.wait() {
            Ok(Signal::End) => return ExitCode::SUCCESS,
            // One signal may stand for several children.
            Ok(Signal::Child) => while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {},
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// The address from which this machine reaches an address.
fn own_address(to: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    // Connecting a datagram socket sends nothing; it only chooses the route.
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// Addresses of networks that exist in documents alone: they say what the default route is.
const FAR_AWAY: [(IpAddr, u16); 2] = [
    (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    (
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        9,
    ),
];

/// The node's addresses: as asked for, else as found, the one first that reaches the server
/// (`host:port`).
fn node_ips(args: &AgentArgs, server: &str) -> Result<Vec<IpAddr>> {
    let mut ips = args.node_ip.clone();
    if ips.is_empty() {
        let way = || format!("finding the way to {server}");
        let resolved = server.to_socket_addrs().with_context(way)?;
        let mut own = resolved.map(own_address);
        let first = own.find_map(Result::ok).with_context(way)?;
        ips.push(first);
        let other = FAR_AWAY
            .into_iter()
            .filter(|(far, _)| far.is_ipv4() != first.is_ipv4())
            .filter(|(far, _)| args.ranges.families().contains(&Family::of(*far)))
            .find_map(|far| own_address(far.into()).ok());
        ips.extend(other);
    }
    check_node_ips(&ips)?;
    Ok(ips)
}

/// Runs the node until a signal, or until one of its parts fails for good.
pub async fn run(args: AgentArgs) -> Result<()> {
    let servers = args.servers.addresses()?;
    let Some(first) = servers.first() else {
        bail!("--server is needed (or `node kill NAME`, `node start NAME`, `node clean-up`)");
    };
    allow_open_files();
    let shutdown = until_signal()?;
    let name = args.name.clone().unwrap_or_else(host_name);
    let ips = node_ips(&args, first)?;
    fs::create_dir_all(&args.data_dir)
        .with_context(|| format!("making {}", args.data_dir.display()))?;
    let bin = install_plugin(&args.data_dir)?;
    let mut containerd =
        containerd::of_node(&args.data_dir, Path::new("/run/tiphys"), &bin, image::PAUSE);
    if let Some(chain) = chain_config(&args) {
        (containerd.cni_conf, containerd.cni_bin) = (chain.conf_dir, chain.plugins);
    } else if let Some(conf) = &args.plugins.cni_conf_dir {
        containerd.cni_conf.clone_from(conf);
        containerd.cni_bin.clone_from(&args.plugins.cni_bin_dir);
    }
    let (started, ready) = tokio::sync::oneshot::channel();
    let mut parts: JoinSet<Result<()>> = JoinSet::new();
    parts.spawn(containerd.clone().run(started, shutdown.clone()));
    let entry = join::Entry {
        tokens: join::Tokens {
            text: args.token.clone(),
            files: args.token_file.clone(),
        },
        dir: args.data_dir.clone(),
        node: name.clone(),
        ips: ips.clone(),
    };
    let kept = balancer::kept(&servers_path(&args));
    let front = Front::bind(args.lb_server_port, &servers, &kept).await?;
    let (to_servers, url) = (front.balancer.clone(), front.url());
    let trusted = entry.trusted_ca(to_servers.servers());
    let Some(ca) = unless_ended(trusted, &mut parts, &shutdown).await? else {
        return Ok(());
    };
    let (ca_pem, end) = (ca.clone(), shutdown.clone());
    parts.spawn(async move { front.serve(&ca_pem, end).await });
    // Joining and containerd's start take their time side by side.
    let joined = async {
        let credentials = entry.join(&url, ca).await?;
        ready.await.context("containerd did not start")?;
        Ok(credentials)
    };
    let Some(credentials) = unless_ended(joined, &mut parts, &shutdown).await? else {
        return Ok(());
    };
    let (named, socket) = (args.images.as_deref(), containerd.socket());
    let images = image_archives::bring(&args.data_dir, named, &socket);
    let brought = unless_ended(images, &mut parts, &shutdown).await?;
    if brought.is_none() {
        return Ok(());
    }
    let node_client = client_of(&credentials, &credentials.node, "kubelet").await?;
    let proxy_client = client_of(&credentials, &credentials.proxy, "kube-proxy").await?;
    let uses = renew::Uses {
        node: client::Swap::new(node_client),
        proxy: client::Swap::new(proxy_client),
        serving: wire::tls::Identity::new(&credentials.serving)?,
    };
    if args.parts.kubelet == Part::None {
        other_kubelet::write_kubeconfig(&args.data_dir, &credentials.server)?;
    }
    let encryption = encryption::prepare(&args, uses.node.client(), &name).await?;
    let client = uses.proxy.client();
    let (path, end) = (servers_path(&args), shutdown.clone());
    parts.spawn(async move {
        balancer::follow(client, to_servers, path, end).await;
        Ok(())
    });
    start_parts(
        &mut parts,
        &args,
        (&uses, &credentials.ca_pem),
        &containerd,
        (&name, &ips, encryption.as_ref()),
        &shutdown,
    )?;
    parts.spawn(renew::run(entry, credentials, uses, shutdown.clone()));
    let outcome = loop {
        match parts.join_next().await {
            None => break Ok(()),
            Some(ended) => match ended? {
                Ok(()) if shutdown.is_cancelled() => {}
                Ok(()) => break Err(anyhow::anyhow!("a part of the node ended by itself")),
                Err(e) => break Err(e),
            },
        }
    };
    shutdown.cancel();
    outcome
}

/// The outcome of `work`; `None` when the node is to end before, and an error when one of its
/// parts does.
async fn unless_ended<T>(
    work: impl Future<Output = Result<T>>,
    parts: &mut JoinSet<Result<()>>,
    shutdown: &CancellationToken,
) -> Result<Option<T>> {
    tokio::select! {
        done = work => done.map(Some),
        Some(ended) = parts.join_next() => {
            ended??;
            bail!("a part of the node ended by itself")
        }
        () = shutdown.cancelled() => Ok(None),
    }
}

async fn client_of(
    credentials: &join::Credentials,
    pair: &wire::pki::Pair,
    agent: &str,
) -> Result<kube::Client> {
    let credential = client::Credential::Certificate(pair);
    let (server, ca) = (&credentials.server, &credentials.ca_pem);
    Ok(client::from_parts(server, ca, credential, agent).await?)
}

/// Between looks at the file that says how wrong the clock is.
const SHIFT_READ: Duration = Duration::from_secs(1);

/// Where the cluster's own list of its servers is kept.
fn servers_path(args: &AgentArgs) -> PathBuf {
    args.data_dir.join("servers")
}

/// The folder of the CNI plugin.
fn plugin_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("bin")
}

/// The CNI plugin is this binary by another name. Returns its folder.
fn install_plugin(data_dir: &Path) -> Result<PathBuf> {
    let bin = plugin_folder(data_dir);
    fs::create_dir_all(&bin)?;
    let own = std::env::current_exe().context("finding the running binary")?;
    // containerd calls the loopback plugin by itself.
    for name in [PLUGIN, "loopback"] {
        let link = bin.join(name);
        if fs::read_link(&link).ok().as_ref() != Some(&own) {
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&own, &link)
                .with_context(|| format!("linking {}", link.display()))?;
        }
    }
    Ok(bin)
}

/// The machine's clock, as wrong as the file says.
fn shifted_clock(
    parts: &mut JoinSet<Result<()>>,
    file: &Path,
    shutdown: &CancellationToken,
) -> Clock {
    let shift = clock::Shift::forever();
    let read = move |file: &Path| {
        // Without the file, or with another word in it, it is right.
        let text = fs::read_to_string(file).unwrap_or_default();
        shift.set(text.trim().parse().unwrap_or(0));
    };
    read(file);
    let (file, end) = (file.to_owned(), shutdown.clone());
    parts.spawn(async move {
        while !end.is_cancelled() {
            read(&file);
            let _ = tokio::time::timeout(SHIFT_READ, end.cancelled()).await;
        }
        Ok(())
    });
    Clock::system().shifted(shift)
}

fn start_parts(
    parts: &mut JoinSet<Result<()>>,
    args: &AgentArgs,
    (uses, ca_pem): (&renew::Uses, &str),
    containerd: &containerd::Containerd,
    (name, ips, encryption): (&str, &[IpAddr], Option<&encryption::Keys>),
    shutdown: &CancellationToken,
) -> Result<()> {
    let (node_client, proxy_client) = (uses.node.client(), uses.proxy.client());
    let mut kubelet = kubelet_config(args, containerd, name, ips)?;
    let public = encryption.map(|keys| keys.public.clone());
    kubelet.annotations.insert(WIREGUARD_KEY.to_owned(), public);
    let dns = dns_config(args, ips, &kubelet.resolv_conf);
    let (end, random) = (shutdown.clone(), Random::system());
    let clock = match &args.clock_shift_file {
        None => Clock::system(),
        Some(file) => shifted_clock(parts, file, shutdown),
    };
    crate::service_manager::tell();
    if args.parts.kubelet == Part::Builtin {
        let tls = wire::tls::server_config_of(&uses.serving, Some(ca_pem))?;
        kubelet.tls = Some(tls.into());
        let ground = kubelet::Ground::machine(&kubelet, clock, random.clone());
        parts.spawn(async move { Ok(kubelet::run(ground, kubelet, node_client, end).await?) });
    } else {
        let notes = other_kubelet::notes(kubelet.annotations);
        parts.spawn(other_kubelet::keep_notes(
            node_client,
            name.to_owned(),
            notes,
            end,
        ));
    }
    let (mut network, end) = (network_config(args, containerd, name), shutdown.clone());
    network.encryption = encryption.map(|keys| keys.private);
    if args.parts.network_policy == Part::Builtin {
        let policy = policy_config(&network)?;
        let (policy_client, own, until) = (proxy_client.clone(), random.clone(), shutdown.clone());
        parts.spawn(async move {
            let end = until.cancelled_owned();
            Ok(network::policy::run(policy_client, policy, own, end).await?)
        });
        if let Some(chain) = chain_config(args) {
            let until = shutdown.clone();
            parts.spawn(async move {
                network::chain::run(chain, until.cancelled_owned()).await;
                Ok(())
            });
        }
    } else {
        network::policy::clean_up().context("removing the rules of network policies")?;
        let forgotten = network::cni::chained::forget(Path::new(ATTACHMENTS));
        forgotten.context("forgetting whom others' plugins have connected")?;
    }
    let (network_client, own) = (proxy_client.clone(), random.clone());
    parts.spawn(async move {
        Ok(network::run(network_client, network, own, end.cancelled_owned()).await?)
    });
    if args.parts.proxy == Part::Builtin {
        let (proxy, end) = (proxy_config(args, name, ips)?, shutdown.clone());
        let (service_client, own) = (proxy_client.clone(), random.clone());
        parts.spawn(async move {
            Ok(proxy::run(service_client, proxy, (clock, own), end.cancelled_owned()).await?)
        });
    } else {
        clean_up::rules_of_services()?;
    }
    if args.parts.cluster_dns == Part::Builtin {
        let end = shutdown.clone();
        parts.spawn(async move {
            Ok(dns::run(proxy_client, dns, random, end.cancelled_owned()).await?)
        });
    }
    Ok(())
}

fn kubelet_config(
    args: &AgentArgs,
    containerd: &containerd::Containerd,
    name: &str,
    ips: &[IpAddr],
) -> Result<kubelet::Config> {
    let ip = *ips.first().context("the node has no address")?;
    let mut config = kubelet::Config::new(name, ip);
    config.other_node_ip = ips.get(1).copied();
    config.root_dir = PathBuf::from("/var/lib/kubelet");
    config.log_dir = args.data_dir.join("pod-logs");
    config.cgroup_parent = args.cgroup.clone();
    config.cluster_dns = vec![args.ranges.dns_ip()?];
    config.cluster_domain = args.ranges.cluster_domain.clone();
    config.capacity.cpu_millis = args
        .capacity_cpu
        .map(|q| u64::try_from(q.milli_value()).unwrap_or(0));
    config.capacity.memory_bytes = args
        .capacity_memory
        .map(|q| u64::try_from(q.value()).unwrap_or(0));
    config.listen = Some(SocketAddr::new(ip, KUBELET_PORT));
    config.pause_image = image::PAUSE.to_owned();
    config.labels = args
        .labels
        .iter()
        .map(|l| {
            l.split_once('=')
                .map_or((l.clone(), String::new()), |(k, v)| (k.into(), v.into()))
        })
        .collect();
    let dns = (args.parts.cluster_dns == Part::None).then(|| NONE.to_owned());
    config.annotations = [(CLUSTER_DNS.to_owned(), dns)].into();
    // Volumes name it wherever they are read, so it says the whole way.
    let volumes = std::path::absolute(args.data_dir.join("volumes"));
    config.local_volumes = Some(volumes.context("finding the folder of volumes")?);
    args.kubelet.set(&mut config)?;
    let unused = std::mem::take(&mut config.tls_files);
    for field in unused.fields() {
        tracing::warn!(
            "the kubelet's configuration: {field} has no effect on a node of the cluster: its certificate is asked for from the cluster, whose authority is believed"
        );
    }
    // What is given by flags outranks the files; and the runtime is the node's own.
    config.runtime_endpoint = containerd.socket().to_string_lossy().into_owned();
    config.capacity.pods = args.max_pods.or(config.capacity.pods);
    if !args.taints.is_empty() {
        config.taints = args.taints.clone();
    }
    Ok(config)
}

/// Where the CNI plugin records addresses.
fn cni_state(data_dir: &Path) -> PathBuf {
    data_dir.join("cni-state")
}

fn network_config(
    args: &AgentArgs,
    containerd: &containerd::Containerd,
    name: &str,
) -> network::Config {
    let state = cni_state(&args.data_dir);
    let mut config = network::Config::new(name, args.ranges.pods(), state);
    config.service_cidrs = args.ranges.services();
    config.exceptions.clone_from(&args.non_masquerade_cidrs);
    config.conf_dir = containerd.cni_conf.clone();
    config.foreign_plugins = args.plugins.cni_conf_dir.is_some();
    config.routes = args.parts.pod_routes == Part::Builtin;
    let waits = args.parts.network_policy == Part::Builtin;
    config.policy_socket = waits.then(|| POLICY_SOCKET.into());
    config
}

/// Where plugins of others are followed by ours, so that their pods wait for network policies, too;
/// none where there are no such plugins, or policies are somebody else's matter.
fn chain_config(args: &AgentArgs) -> Option<network::chain::ChainConfig> {
    let theirs = args.plugins.cni_conf_dir.as_ref()?;
    let is_ours = args.parts.network_policy == Part::Builtin;
    is_ours.then(|| network::chain::ChainConfig {
        their_conf_dir: theirs.clone(),
        their_plugins: args.plugins.cni_bin_dir.clone(),
        conf_dir: args.data_dir.join("cni-chained"),
        plugins: args.data_dir.join("cni-plugins"),
        own_plugins: plugin_folder(&args.data_dir),
        plugin: PLUGIN.to_owned(),
        state_dir: ATTACHMENTS.into(),
        policy_socket: POLICY_SOCKET.into(),
    })
}

fn policy_config(network: &network::Config) -> Result<network::policy::Config> {
    let (own, others) = (&network.state_dir, Path::new(ATTACHMENTS));
    let mut tenants = Vec::new();
    for (folder, name) in [
        (own.as_path(), network.network.as_str()),
        (others, network::cni::chained::NETWORK),
    ] {
        let there = network::cni::tenants(folder, name);
        tenants.extend(there.context("reading the addresses of pods")?);
    }
    Ok(network::policy::Config {
        node_name: network.node_name.clone(),
        door: network.policy_socket.clone(),
        tenants,
    })
}

fn proxy_config(args: &AgentArgs, name: &str, ips: &[IpAddr]) -> Result<proxy::Config> {
    let mut config = proxy::Config::new(name);
    args.proxy.set(&args.ranges, ips, &mut config)?;
    Ok(config)
}

/// `resolv_conf` is the file from which pods that ask for the node's names have theirs.
fn dns_config(args: &AgentArgs, ips: &[IpAddr], resolv_conf: &Path) -> dns::Config {
    let at = |ip: &IpAddr| SocketAddr::new(*ip, DNS_PORT);
    let mut config = dns::Config::new(ips.iter().map(at).collect());
    config.upstreams = dns::Resolvers::File(resolv_conf.to_path_buf());
    config.cluster_domain = args.ranges.cluster_domain.clone();
    config.clock = Some(Clock::system());
    let pods = args.ranges.pods();
    config.trusted = pods.iter().map(|p| (p.address, p.length)).collect();
    config
}
