//! `tiphys up`, `down`, `status`, `doctor`, and the switches of nodes: what a person sees of the
//! supervisor.

mod progress;
mod ready;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::json;
use supervisor::config::{
    Cidrs, ClusterConfig, IpFamily, MOST_SERVERS, NodeConfig, ServerConfig, share,
};
use supervisor::control::{Answer, MachineKind, Request, ask};
use supervisor::doctor::{self, Level};
use supervisor::process::Record;
use supervisor::up::Cluster;
use supervisor::{Layout, report, up as supervise};
use tokio::signal::unix::{SignalKind, signal};

use crate::flags::{DEFAULT_DATA_DIR, DataDir};
use crate::image;
use crate::say::{complain, say};
use crate::show::progress::Work;
use crate::show::{Output, OutputFlag};
use progress::Progress;

#[derive(Args)]
pub struct UpArgs {
    #[command(flatten)]
    data: DataDir,
    /// Number of servers: 1 with the embedded store, or 3, 5 or 7, each with an etcd member and
    /// namespaces of its own [default: 1].
    #[arg(long)]
    servers: Option<u32>,
    /// Number of nodes; the machine is divided among them [default: 1, or as many as there were].
    #[arg(long)]
    nodes: Option<u32>,
    /// Port of the API server [default: 6443].
    #[arg(long)]
    port: Option<u16>,
    /// Range of cluster IPs, or one of each family with a comma between them [default:
    /// 10.96.0.0/16,fd00:10:96::/112; one of them where another range says so, or the kernel has no
    /// IPv6].
    #[arg(long, alias = "service-cluster-ip-range")]
    service_cidr: Option<Cidrs>,
    /// Range of pod IPs, or one of each family [default: 10.244.0.0/16,fd00:10:244::/56].
    #[arg(long, alias = "cluster-cidr")]
    pod_cidr: Option<Cidrs>,
    /// Range of node addresses, or one of each family [default: 10.245.0.0/24,fd00:10:245::/64].
    #[arg(long)]
    node_cidr: Option<Cidrs>,
    /// Declared CPU capacity of each node in thousandths of a core [default: its share of the machine].
    #[arg(long)]
    node_cpu_millis: Option<u64>,
    /// Declared memory of each node in MiB [default: its share of the machine].
    #[arg(long)]
    node_memory_mib: Option<u64>,
    /// Most pods per node.
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
    /// Deploy the demo, too: a web page behind a NodePort.
    #[arg(long)]
    demo: bool,
    /// A further argument of the control plane (`--server-arg=--feature-gates=Name=true`); may be given
    /// several times.
    #[arg(long, allow_hyphen_values = true)]
    server_arg: Vec<String>,
    /// A further argument of every node's agent (`--node-arg=--config=FILE`); may be given several times.
    #[arg(long, allow_hyphen_values = true)]
    node_arg: Vec<String>,
    #[command(flatten)]
    form: OutputFlag,
}

#[derive(Args)]
pub struct DownArgs {
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: OutputFlag,
}

#[derive(Subcommand)]
pub enum Switch {
    /// Pull the plug of a node or server that `up` made.
    Kill(SwitchArgs),
    /// Boot a node or server that was killed.
    Start(SwitchArgs),
}

#[derive(Args)]
pub struct SwitchArgs {
    /// Its name, such as node-1 or server-2.
    name: String,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    form: OutputFlag,
}

/// The node range that nobody asked for: beside the pod range, and seldom used elsewhere.
const NODE_CIDR: [&str; 2] = ["10.245.0.0/24", "fd00:10:245::/64"];
const SERVICE_CIDR: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
const POD_CIDR: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/56"];
const PORT: u16 = 6443;

/// Of the defaults for each family, those of the given ones.
fn default_of(ranges: [&str; 2], families: &[IpFamily]) -> Result<Cidrs> {
    let of = |family: &IpFamily| match (family, ranges) {
        (IpFamily::Four, [four, _]) => four,
        (IpFamily::Six, [_, six]) => six,
    };
    let texts: Vec<&str> = families.iter().map(of).collect();
    texts.join(",").parse().map_err(anyhow::Error::msg)
}

/// The families of a new cluster: of the ranges that were asked for, which must agree; else all that
/// the kernel has.
fn families(args: &UpArgs, has_ipv6: bool) -> Result<Vec<IpFamily>> {
    let asked = [
        ("--service-cidr", &args.service_cidr),
        ("--pod-cidr", &args.pod_cidr),
        ("--node-cidr", &args.node_cidr),
    ];
    let mut asked = asked
        .iter()
        .filter_map(|(flag, ranges)| Some((flag, ranges.as_ref()?)));
    let Some((first, ranges)) = asked.next() else {
        let kernel = if has_ipv6 { 2 } else { 1 };
        return Ok(IpFamily::ALL.into_iter().take(kernel).collect());
    };
    let families = ranges.families();
    for (flag, other) in asked {
        ensure!(
            other.families() == families,
            "{first} {ranges} and {flag} {other}: the ranges of a cluster are of the same families, in the same order"
        );
    }
    ensure!(
        has_ipv6 || !families.contains(&IpFamily::Six),
        "{first} {ranges}: this kernel has no IPv6"
    );
    Ok(families)
}

/// What the cluster is to be: what was asked for now, else what was asked for before, else
/// defaults.
fn configure(
    args: &UpArgs,
    before: Option<ClusterConfig>,
    has_ipv6: bool,
) -> Result<ClusterConfig> {
    let had = before.as_ref();
    // What there is, is of the families that it has.
    let families = match had {
        Some(had) => had.service_cidr.families(),
        None => families(args, has_ipv6)?,
    };
    let fixed = |flag: &str,
                 asked: &Option<Cidrs>,
                 had: Option<&Cidrs>,
                 default: [&str; 2]|
     -> Result<Cidrs> {
        match (asked, had) {
            (Some(asked), Some(had)) if asked != had => bail!(
                "{flag} was {had} when this cluster was made and cannot change; use another --data-dir"
            ),
            (asked, had) => match asked.as_ref().or(had) {
                Some(ranges) => Ok(ranges.clone()),
                None => default_of(default, &families),
            },
        }
    };
    let service_cidr = fixed(
        "--service-cidr",
        &args.service_cidr,
        had.map(|c| &c.service_cidr),
        SERVICE_CIDR,
    )?;
    let pod_cidr = fixed(
        "--pod-cidr",
        &args.pod_cidr,
        had.map(|c| &c.pod_cidr),
        POD_CIDR,
    )?;
    let node_cidr = fixed(
        "--node-cidr",
        &args.node_cidr,
        had.map(|c| &c.node_cidr),
        NODE_CIDR,
    )?;
    let nodes = match (args.nodes, had) {
        (None, Some(config)) if args.node_cpu_millis.or(args.node_memory_mib).is_none() => {
            config.nodes.clone()
        }
        (asked, _) => make_nodes(args, asked.unwrap_or(1), &node_cidr)?,
    };
    let servers = make_servers(args.servers, had, &node_cidr)?;
    let etcd = match servers.as_slice() {
        [] => None,
        _ => Some(find_etcd()?),
    };
    let kept = |given: &[String], had: Option<&Vec<String>>| match (given, had) {
        ([], Some(had)) => had.clone(),
        (given, _) => given.to_vec(),
    };
    Ok(ClusterConfig {
        port: args.port.or(had.map(|c| c.port)).unwrap_or(PORT),
        service_cidr,
        pod_cidr,
        node_cidr,
        cluster_domain: "cluster.local".into(),
        servers,
        etcd,
        nodes,
        server_args: kept(&args.server_arg, had.map(|c| &c.server_args)),
        node_args: kept(&args.node_arg, had.map(|c| &c.node_args)),
    })
}

/// The servers with machines of their own; none when one server is enough.
fn make_servers(
    asked: Option<u32>,
    had: Option<&ClusterConfig>,
    range: &Cidrs,
) -> Result<Vec<ServerConfig>> {
    if let Some(config) = had {
        let count = config.servers.len().max(1);
        ensure!(
            asked.is_none_or(|n| n as usize == count),
            "--servers was {count} when this cluster was made and cannot change; use another --data-dir, and `tiphys snapshot` to take the objects along"
        );
        return Ok(with_majority(config.servers.clone()));
    }
    let count = asked.unwrap_or(1);
    if count == 1 {
        return Ok(Vec::new());
    }
    ensure!(
        count % 2 == 1 && count <= MOST_SERVERS,
        "--servers {count}: an odd number up to {MOST_SERVERS} is needed, since a majority decides"
    );
    (0..count)
        .map(|i| {
            Ok(ServerConfig {
                name: format!("server-{}", i + 1),
                ip: ClusterConfig::server_ip(range, i).with_context(|| {
                    format!("--node-cidr {range} is too small for {count} servers")
                })?,
                stopped: false,
            })
        })
        .collect()
}

/// Servers that were switched off stay off, as nodes do, unless too few are left to decide
/// anything.
fn with_majority(mut servers: Vec<ServerConfig>) -> Vec<ServerConfig> {
    let on = servers.iter().filter(|s| !s.stopped).count();
    if on * 2 <= servers.len() {
        for server in &mut servers {
            server.stopped = false;
        }
    }
    servers
}

fn find_etcd() -> Result<String> {
    let found = doctor::find_etcd();
    let path = found.with_context(|| format!("several servers need etcd: {}", doctor::ETCD_REMEDY));
    Ok(path?.display().to_string())
}

fn make_nodes(args: &UpArgs, count: u32, range: &Cidrs) -> Result<Vec<NodeConfig>> {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let (cpu, memory) = share(cpus, doctor::memory_bytes(), u64::from(count));
    (0..count)
        .map(|i| {
            Ok(NodeConfig {
                name: format!("node-{}", i + 1),
                ip: ClusterConfig::node_ip(range, i).with_context(|| {
                    format!("--node-cidr {range} is too small for {count} nodes")
                })?,
                cpu_millis: args.node_cpu_millis.unwrap_or(cpu),
                memory_bytes: args.node_memory_mib.map_or(memory, |mib| mib << 20),
                pods: args.max_pods,
                stopped: false,
            })
        })
        .collect()
}

/// Brings the cluster up, shows how, and watches over it until it is asked to end.
pub async fn run(args: UpArgs) -> Result<()> {
    runs_alone(cfg!(target_feature = "crt-static"))?;
    let progress = Progress::start(args.form.output);
    let data = absolute(&args.data.data_dir)?;
    let layout = Layout::new(&data);
    let before = supervise::read_config(&layout)?;
    let lacks = doctor::findings(&doctor::look(&data));
    let lacks: Vec<_> = lacks.iter().filter(|f| f.level == Level::Missing).collect();
    if !lacks.is_empty() {
        for lack in &lacks {
            complain!("  missing: {} ({})", lack.what, lack.remedy);
        }
        bail!("this machine cannot run nodes yet; `tiphys server` alone needs none of this");
    }
    supervise::become_installed(&layout)?;
    let config = configure(&args, before, host::sysctl::has_ipv6())?;
    // From here on a signal must find somebody who cleans up.
    let stop = stop_signal()?;
    tokio::pin!(stop);
    let cluster = Cluster::start(layout, config).await?;
    let come_up = async {
        bring_up(&cluster, &progress, args.demo).await?;
        progress.rests();
        if progress.is_for_people() {
            next_steps(&cluster);
        }
        std::future::pending::<Result<()>>().await
    };
    // `status`, `down` and the switches are answered from the first moment on.
    let outcome = tokio::select! {
        outcome = come_up => outcome,
        () = cluster.serve(&mut stop) => Ok(()),
    };
    if let Err(e) = outcome {
        progress.failed("the cluster did not come up; it is ended again");
        progress.waits("ending the cluster");
        cluster.down().await;
        return Err(e);
    }
    progress.says("ending the cluster ...");
    progress.waits("ending the cluster");
    cluster.down().await;
    progress.says(&is_down(&data));
    Ok(())
}

fn is_down(data: &Path) -> String {
    format!(
        "the cluster is down; its objects are kept in {}",
        data.display()
    )
}

/// Pause containers and the demo run this very binary in images that hold nothing else.
fn runs_alone(is_static: bool) -> Result<()> {
    ensure!(
        is_static,
        "this binary is linked dynamically, and its images hold no libraries: no pod would start; \
         build it as .cargo/config.toml says (target-feature=+crt-static), as a plain \
         `cargo build --release` in the repository does"
    );
    Ok(())
}

fn absolute(path: &Path) -> Result<std::path::PathBuf> {
    std::path::absolute(path).with_context(|| format!("{}", path.display()))
}

fn stop_signal() -> Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {}, _ = hup.recv() => {} }
    })
}

/// How often the server may die while we wait for it, before its log is the answer.
const PATIENCE_WITH_SERVER: u32 = 3;

/// Time that the last of several servers gets once a majority answers: it is not needed.
const PATIENCE_WITH_LAST: Duration = Duration::from_secs(20);

/// Waits until the servers answer: all, or after some time a majority.
async fn servers_ready(cluster: &Cluster) -> Result<()> {
    let majority = cluster.config().servers.len().max(1) / 2 + 1;
    let mut enough: Option<tokio::time::Instant> = None;
    loop {
        let (ready, wanted) = cluster.servers_ready();
        if ready == wanted && ready >= majority {
            return Ok(());
        }
        if ready >= majority {
            let since = enough.get_or_insert_with(tokio::time::Instant::now);
            if since.elapsed() > PATIENCE_WITH_LAST {
                return Ok(());
            }
        }
        if cluster.server_restarts() > PATIENCE_WITH_SERVER {
            bail!(
                "the control plane keeps ending; see {}",
                cluster.layout().log("server").display()
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Of several servers each writes a kubeconfig; any of them is the administrator's.
fn keep_kubeconfig(cluster: &Cluster) -> Result<()> {
    let all = cluster.kubeconfigs();
    let newest = all
        .iter()
        .filter_map(|path| Some((std::fs::metadata(path).ok()?.modified().ok()?, path)))
        .max();
    if let Some((_, path)) = newest {
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        wire::pki::write_private(&cluster.layout().admin_kubeconfig(), &text)?;
    }
    Ok(())
}

/// Whether a node was started by an earlier `up`, and has not ended since.
fn still_runs(cluster: &Cluster, node: &str) -> bool {
    let record = Record::read(&cluster.layout().record(node));
    record.is_some_and(|record| record.is_alive())
}

async fn bring_up(cluster: &Cluster, progress: &Progress, with_demo: bool) -> Result<()> {
    progress.waits("writing the nodes' images");
    let (dir, binary) = (cluster.layout().images(), cluster.layout().binary());
    let images = dir.display().to_string();
    // While the servers start: only nodes need them.
    let count = tokio::task::spawn_blocking(move || image::write_all(&dir, &binary)).await??;
    progress.done(&format!("{count} images are in {images}"));
    progress.waits("waiting for the control plane");
    servers_ready(cluster).await?;
    keep_kubeconfig(cluster)?;
    // Of several servers the kubeconfig names their balancer.
    cluster.start_balancer();
    let kubeconfig = cluster.layout().admin_kubeconfig();
    let client = client::from_kubeconfig(&kubeconfig, "tiphys-up").await?;
    // What the nodes said before they ended is kept, and says nothing of now. Those that outlived an
    // earlier `up` have said it themselves, and say it again only after minutes.
    let mut before = ready::heartbeats(&client, progress).await;
    before.retain(|name, _| !still_runs(cluster, name));
    cluster.start_nodes();
    progress.done(&format!("control plane ready; {}", kubeconfig.display()));
    for node in cluster.config().nodes.iter().filter(|n| !n.stopped) {
        progress.waits(&format!("waiting for node {}", node.name));
        let last = before.get(&node.name);
        let pressures = ready::node(&client, &node.name, last).await?;
        progress.done(&format!("node {} ready at {}", node.name, node.ip));
        if !pressures.is_empty() {
            progress.failed(&format!(
                "node {} takes no new pods: {}",
                node.name,
                pressures.join("; ")
            ));
        }
    }
    if with_demo {
        // One that was killed has an address, but answers nobody.
        let first = cluster.config().nodes.iter().find(|n| !n.stopped);
        let ip = first
            .context("the demo needs a node that runs")?
            .ip
            .primary();
        let at = ready::demo(&client, progress, ip).await?;
        progress.done(&format!("demo ready: http://{at}"));
    }
    Ok(())
}

fn next_steps(cluster: &Cluster) {
    let layout = cluster.layout();
    say!("\nThe cluster is up. In another terminal:\n");
    say!(
        "  export KUBECONFIG={}",
        layout.admin_kubeconfig().display()
    );
    say!("  export PATH=$PATH:{}", layout.bin().display());
    // Other commands look for the cluster there.
    if layout.root() != Path::new(DEFAULT_DATA_DIR) {
        say!("  export TIPHYS_DATA_DIR={}", layout.root().display());
    }
    say!("  tiphys status");
    say!("  kubectl get nodes -o wide");
    say!(
        "  kubectl create deployment web --image={} -- tiphys demo-server",
        image::DEMO
    );
    say!("\nCtrl-C here, or `tiphys down` there, ends it; objects stay.");
}

/// Ends the cluster, also one whose supervisor is dead.
pub async fn down(args: DownArgs) -> Result<()> {
    let layout = Layout::new(&absolute(&args.data.data_dir)?);
    let root = layout.root().to_owned();
    let work = Work::begin();
    work.waits("ending the cluster");
    let (was_up, orphans, message) = match ask(&layout.socket(), &Request::Down).await {
        Ok(_) => {
            // The supervisor holds the lock until all is gone.
            let lock = std::fs::File::open(layout.lock())?;
            tokio::task::spawn_blocking(move || {
                rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            })
            .await??;
            (true, 0, is_down(&root))
        }
        Err(_) => match supervise::down_orphans(layout).await? {
            0 => (false, 0, "no cluster was up".to_owned()),
            n => {
                let lost = "processes that had lost their supervisor";
                (true, n, format!("the cluster is down ({n} {lost})"))
            }
        },
    };
    drop(work);
    let value =
        json!({ "wasUp": was_up, "orphans": orphans, "dataDir": root.display().to_string() });
    args.form.say(&value, || vec![message])
}

/// The processes of the cluster that runs on this machine, as its supervisor sees them.
pub async fn processes(data: &DataDir) -> Result<report::Report> {
    let layout = Layout::new(&absolute(&data.data_dir)?);
    match ask(&layout.socket(), &Request::Status).await? {
        Answer::Status { report } => Ok(report),
        _ => bail!("the supervisor answered something else"),
    }
}

/// Pulls the plug of a node or server, or boots it.
pub async fn switch(kind: MachineKind, switch: Switch) -> Result<()> {
    let (args, on) = match switch {
        Switch::Kill(args) => (args, false),
        Switch::Start(args) => (args, true),
    };
    let SwitchArgs { name, data, form } = args;
    let value = json!({ "name": name, "on": on });
    let work = Work::begin();
    work.waits(match on {
        true => format!("booting {name}"),
        false => format!("pulling the plug of {name}"),
    });
    let request = Request::Switch { kind, name, on };
    let layout = Layout::new(&absolute(&data.data_dir)?);
    let answer = ask(&layout.socket(), &request).await;
    drop(work);
    match answer? {
        Answer::Done { message } => form.say(&value, || vec![message]),
        Answer::Failed { message } => bail!(message),
        Answer::Status { .. } => bail!("the supervisor answered something else"),
    }
}

#[derive(Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    data: DataDir,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Prints what the machine lacks; fails when a node could not run.
pub fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    let findings = doctor::findings(&doctor::look(&args.data.data_dir));
    let line = |finding: &doctor::Finding| {
        let word = match finding.level {
            Level::Missing => "missing",
            Level::Weak => "weak",
        };
        format!("{word}: {}\n    {}", finding.what, finding.remedy)
    };
    let text = args.output.of(&findings, || match findings.as_slice() {
        [] => vec!["this machine has all that a cluster needs".to_owned()],
        all => all.iter().map(line).collect(),
    })?;
    say!("{text}");
    let lacks = findings.iter().any(|f| f.level == Level::Missing);
    Ok(ExitCode::from(u8::from(lacks)))
}

#[cfg(test)]
mod tests;
