//! `tiphys server` and `tiphys apiserver`: wires store, API server, controllers and scheduler,
//! and keeps the files by which others reach and trust them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use apiserver::{ApiServer, UserInfo};
use clap::Args;
use store::Embedded;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use wire::kubeconfig::{Credential, Kubeconfig};
use wire::pki::{Ca, LEAF_DAYS, Pair, Subject};

use crate::cli::Ranges;
use crate::{components, token};

/// How much of the control plane runs in this process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    ControlPlane,
    ApiServer,
}

#[derive(Args, Clone)]
pub struct ServerArgs {
    /// Folder of all the server's state [default: /var/lib/tiphys/server, or below the home
    /// folder for others than root].
    #[arg(long)]
    data_dir: Option<PathBuf>,
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
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
    #[command(flatten)]
    ranges: Ranges,
    #[command(flatten)]
    controllers: components::ControllerFlags,
}

/// The cluster's keys, as files of the data directory.
pub struct Keys {
    pub ca: Ca,
    pub signer: Arc<wire::jwt::Signer>,
}

impl Keys {
    fn load(dir: &Path, now: i64) -> Result<Self> {
        let pki = dir.join("pki");
        let ca = Ca::load_or_create(&pki, "ca", "tiphys-ca", now)?;
        let signer = Arc::new(wire::jwt::Signer::load_or_create(
            &pki.join("service-account.key"),
        )?);
        Ok(Self { ca, signer })
    }
}

fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/tiphys/server".into();
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    home.join(".local/share/tiphys/server")
}

/// The address that this machine uses towards others: that of its default route.
fn machine_address() -> IpAddr {
    let probe = || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
        // Connecting a datagram socket sends nothing; it only chooses the route.
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    probe()
        .filter(|ip| !ip.is_unspecified())
        .unwrap_or(Ipv4Addr::LOCALHOST.into())
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// The server's own certificate, made anew at each start, with the CA behind it, by which a
/// joining node recognises the cluster.
fn serving_pair(args: &ServerArgs, keys: &Keys, advertise: IpAddr) -> Result<Pair> {
    let domain = &args.ranges.cluster_domain;
    let mut names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push(format!("kubernetes.default.svc.{domain}"));
    names.push(
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .to_lowercase(),
    );
    let first = args
        .ranges
        .service_cidr
        .nth(1)
        .context("the service range is too small")?;
    let mut ips: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), first.into(), advertise];
    if !args.bind_address.is_unspecified() {
        ips.push(args.bind_address);
    }
    for san in &args.tls_san {
        match san.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => names.push(san.clone()),
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut pair = keys.ca.issue(
        &Subject::server("kube-apiserver", &names, &ips),
        now(),
        LEAF_DAYS,
    )?;
    pair.cert_pem.push_str(&keys.ca.pair.cert_pem);
    Ok(pair)
}

/// Kubeconfigs of the administrator and of the components that may run alone.
fn write_kubeconfigs(args: &ServerArgs, dir: &Path, keys: &Keys, advertise: IpAddr) -> Result<()> {
    let admin_file = args
        .kubeconfig_out
        .clone()
        .unwrap_or_else(|| dir.join("admin.kubeconfig"));
    // The administrator is on this machine, where loopback survives changes of address.
    let admin_server = if args.bind_address.is_unspecified() || args.bind_address.is_loopback() {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), args.port)
    } else {
        SocketAddr::new(args.bind_address, args.port)
    };
    let others = SocketAddr::new(advertise, args.port);
    for (file, server, user, groups) in [
        (
            admin_file,
            admin_server,
            "tiphys-admin",
            &["system:masters"][..],
        ),
        (
            dir.join("controller-manager.kubeconfig"),
            others,
            "system:kube-controller-manager",
            &[],
        ),
        (
            dir.join("scheduler.kubeconfig"),
            others,
            "system:kube-scheduler",
            &[],
        ),
        (
            dir.join("proxy.kubeconfig"),
            others,
            "system:kube-proxy",
            &[],
        ),
    ] {
        let pair = keys
            .ca
            .issue(&Subject::client(user, groups), now(), LEAF_DAYS)?;
        let config = Kubeconfig {
            name: "tiphys",
            server: &format!("https://{server}"),
            ca_pem: &keys.ca.pair.cert_pem,
            credential: Credential::Certificate(&pair),
        };
        config.write(&file)?;
    }
    Ok(())
}

fn api_config(args: &ServerArgs, keys: &Keys, advertise: IpAddr) -> Result<apiserver::Config> {
    let mut config = apiserver::Config::new(advertise, args.port);
    config.service_cidr = args.ranges.service_cidr.to_string();
    let mut config = components::secure(config, keys, &args.controllers, &args.ranges);
    components::connect_kubelets(&mut config, keys, now())?;
    Ok(config)
}

/// Runs until a signal.
pub async fn run(args: ServerArgs, scope: Scope) -> Result<()> {
    let stop = CancellationToken::new();
    end_on_signal(stop.clone())?;
    let dir = args.data_dir.clone().unwrap_or_else(default_data_dir);
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let keys = Keys::load(&dir, now())?;
    let advertise = args.advertise_address.unwrap_or_else(machine_address);
    let store_dir = dir.join("store");
    let store =
        tokio::task::spawn_blocking(move || Embedded::open(&store_dir, store::Options::default()))
            .await??;
    let config = api_config(&args, &keys, advertise)?;
    let tls = wire::tls::server_config(
        &serving_pair(&args, &keys, advertise)?,
        Some(&keys.ca.pair.cert_pem),
    )?;
    let listener = TcpListener::bind((args.bind_address, args.port))
        .await
        .with_context(|| format!("listening on {}:{}", args.bind_address, args.port))?;
    // The API's own end comes after that of its in-process clients.
    let api_stop = CancellationToken::new();
    let server = ApiServer::new(config, Arc::new(store.clone()), api_stop.clone()).await?;
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve(listener, tls).await }
    });
    server.bootstrap().await?;
    write_kubeconfigs(&args, &dir, &keys, advertise)?;
    let admin = local(&server, "tiphys-admin", &["system:masters"]);
    token::keep_node_token(&admin, &dir, &keys.ca.pair.cert_pem).await?;
    let parts = match scope {
        Scope::ApiServer => None,
        Scope::ControlPlane => Some(components::start(
            &server,
            &args.controllers,
            &args.ranges,
            &keys,
            stop.clone(),
        )),
    };
    if let Some(file) = &args.ready_file {
        fs::write(file, std::process::id().to_string())
            .with_context(|| format!("writing {}", file.display()))?;
    }
    tracing::info!("serving at https://{advertise}:{}", args.port);
    stop.cancelled().await;
    if let Some(mut parts) = parts {
        while parts.join_next().await.is_some() {}
    }
    api_stop.cancel();
    serving.await?;
    tokio::task::spawn_blocking(move || store.close()).await?;
    Ok(())
}

/// A client in this process, as a user.
pub fn local(server: &ApiServer, user: &str, groups: &[&str]) -> kube::Client {
    client::in_process(server.local_service(UserInfo::new(user, groups)))
}

fn end_on_signal(stop: CancellationToken) -> Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        stop.cancel();
    });
    Ok(())
}
