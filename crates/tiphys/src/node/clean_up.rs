//! `tiphys node clean-up`: what is left of the network in the kernel of a machine that is not a node any
//! more. An agent that ends leaves it on purpose, so that pods keep their network meanwhile.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use host::nft::Family;
use serde_json::json;

use super::containerd;
use crate::image;
use crate::show::OutputFlag;
use crate::show::progress::Work;

/// On loopback a connection is there at once, or refused.
const CONNECTS: Duration = Duration::from_secs(1);

#[derive(Args, Clone)]
pub struct CleanUpArgs {
    /// Folder of all the node's state.
    #[arg(long, default_value = "/var/lib/tiphys/node")]
    data_dir: PathBuf,
    /// The agent's port on loopback, by which it is seen whether one runs.
    #[arg(long, default_value_t = super::SERVERS_PORT)]
    lb_server_port: u16,
    #[command(flatten)]
    form: OutputFlag,
}

/// Removes tables, routes, the tunnel, and the lines of pods.
pub async fn run(args: CleanUpArgs) -> Result<()> {
    let port = args.lb_server_port;
    let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    // It would make all of it again.
    ensure!(
        TcpStream::connect_timeout(&here, CONNECTS).is_err(),
        "the agent of a node runs on this machine (port {port} answers): end it first"
    );
    let work = Work::begin();
    work.waits("removing the network of pods");
    rules_of_services()?;
    network::policy::clean_up().context("removing the rules of network policies")?;
    network::cni::chained::forget(Path::new(super::ATTACHMENTS))
        .context("forgetting whom others' plugins have connected")?;
    let pods = network::clean_up(&network_of(&args.data_dir))
        .await
        .context("removing the network of pods")?;
    drop(work);
    args.form.say(&json!({ "pods": pods }), || {
        vec![format!(
            "nothing is left of the network; {pods} pods were connected"
        )]
    })
}

/// Removes the tables of the proxy, in whichever families there may be one.
pub fn rules_of_services() -> Result<()> {
    let mut proxy = proxy::Config::new("");
    let families = [Family::Ip4, Family::Ip6];
    let has = |family: &Family| *family == Family::Ip4 || host::sysctl::has_ipv6();
    proxy.serve(families.into_iter().filter(has).collect());
    proxy::clean_up(&proxy).context("removing the rules of Services")
}

fn network_of(data_dir: &Path) -> network::Config {
    let bin = data_dir.join("bin");
    let containerd = containerd::of_node(data_dir, Path::new("/run/tiphys"), &bin, image::PAUSE);
    let mut config = network::Config::new("", Vec::new(), super::cni_state(data_dir));
    config.conf_dir = containerd.cni_conf;
    config
}
