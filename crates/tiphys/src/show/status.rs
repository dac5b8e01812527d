//! `tiphys status`: the cluster at a glance, and the processes of one that runs on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use kube::{Api, Client};
use serde::Serialize;
use supervisor::control::ControlError;
use supervisor::report::{self, Report};
use terminal::glance::{self, ClusterSnapshot, Glance, Level};
use terminal::style::{Style, Tone};

use super::{Output, print, read, standard_output};
use crate::flags::DataDir;
use crate::up;

#[derive(Args)]
pub struct StatusArgs {
    #[command(flatten)]
    data: DataDir,
    /// Kubeconfig of who looks; otherwise the administrator's in the data directory.
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Show all that is wrong, however much it is.
    #[arg(long)]
    all: bool,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What `--output json` gives.
#[derive(Serialize)]
struct Status<'a> {
    cluster: Option<&'a Glance>,
    /// Why the cluster could not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreachable: Option<&'a str>,
    /// Of a cluster that runs on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<&'a Report>,
}

/// Fails when the cluster cannot be looked at.
pub async fn run(args: StatusArgs) -> Result<ExitCode> {
    let processes = match up::processes(&args.data).await {
        Ok(report) => Some(report),
        Err(e) if matches!(e.downcast_ref(), Some(ControlError::NotUp(_))) => None,
        Err(e) => return Err(e),
    };
    let kubeconfig = match (&args.kubeconfig, &processes) {
        (Some(path), _) => path.clone(),
        (None, Some(report)) => PathBuf::from(&report.kubeconfig),
        (None, None) => args.data.data_dir.join("admin.kubeconfig"),
    };
    let looked = look(&kubeconfig).await.map(|seen| glance::glance(&seen));
    let status = Status {
        cluster: looked.as_ref().ok(),
        unreachable: looked.as_ref().err().map(String::as_str),
        processes: processes.as_ref(),
    };
    let text = args.output.of(&status, || lines(&status, args.all))?;
    print(&format!("{text}\n"))?;
    Ok(ExitCode::from(u8::from(looked.is_err())))
}

fn lines(status: &Status<'_>, all: bool) -> Vec<String> {
    let (style, width) = standard_output();
    let mut out = match (status.cluster, status.unreachable) {
        (Some(glance), _) => glance::render(glance, all, width, style),
        (None, why) => vec![unreachable(why.unwrap_or_default(), style)],
    };
    if let Some(report) = status.processes {
        out.push(String::new());
        let table = report::render(report, jiff::Timestamp::now().as_second());
        out.extend(table.trim_end().lines().map(str::to_owned));
        out.push(String::new());
        out.push(format!("kubeconfig: {}", report.kubeconfig));
    }
    out
}

fn unreachable(why: &str, style: Style) -> String {
    let head = style.paint(Level::Wrong.tone(), "The cluster cannot be looked at:");
    format!("{head} {}", style.paint(Tone::Quiet, why))
}

/// Reads all of it at once; why nothing could be read, if so.
async fn look(kubeconfig: &std::path::Path) -> Result<ClusterSnapshot, String> {
    let client = client::from_kubeconfig(kubeconfig, "tiphys-status").await;
    let client = client.map_err(|e| e.to_string())?;
    let version = client.apiserver_version();
    let version = match tokio::time::timeout(read::PATIENCE, version).await {
        Ok(Ok(version)) => version.git_version,
        Ok(Err(e)) => return Err(client::said(&e)),
        Err(_) => return Err(format!("no answer within {} s", read::PATIENCE.as_secs())),
    };
    Ok(seen(&client, version, server_of(kubeconfig)).await)
}

fn server_of(kubeconfig: &std::path::Path) -> String {
    let file = client::kubeconfig(kubeconfig);
    let cluster = file.ok().and_then(|f| f.clusters.into_iter().next());
    cluster.and_then(|c| c.cluster?.server).unwrap_or_default()
}

async fn seen(client: &Client, version: String, server: String) -> ClusterSnapshot {
    fn all<K>(client: &Client) -> impl Future<Output = glance::Read<K>> + use<K>
    where
        K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        read::list(Api::<K>::all(client.clone()), None)
    }
    let objects = async {
        tokio::join!(
            all(client),
            all(client),
            all(client),
            all(client),
            all(client),
            all(client)
        )
    };
    let others = async {
        tokio::join!(
            all(client),
            all(client),
            all(client),
            all(client),
            all(client)
        )
    };
    let figures = async { tokio::join!(read::failing(client), read::node_use(client)) };
    let (objects, others, (failing, usage)) = tokio::join!(objects, others, figures);
    let (nodes, pods, deployments, stateful_sets, daemon_sets, jobs) = objects;
    let (claims, volumes, classes, namespaces, api_services) = others;
    ClusterSnapshot {
        now: jiff::Timestamp::now(),
        server,
        version,
        failing: failing.map_err(|e| format!("{e:#}")),
        usage,
        nodes,
        pods,
        deployments,
        stateful_sets,
        daemon_sets,
        jobs,
        claims,
        volumes,
        classes,
        namespaces,
        api_services,
    }
}
