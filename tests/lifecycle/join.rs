//! A further machine joins: namespaces of its own, a cable to the nodes' network, and nothing
//! shared but that.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tests::command::{self, eventually};
use tests::context::{STAY, pod};
use tests::machine::{Machine, ROOM};
use tests::{Cluster, Context};

fn token(cluster: &Cluster) -> Result<String> {
    let mut create = cluster.tiphys(&["token", "create", "--hours=1", "--kubeconfig"]);
    create.arg(cluster.kubeconfig());
    Ok(command::run(create, "")?.ok()?.trim().to_owned())
}

/// The agent's command line, as a person types it on another machine.
fn agent(cluster: &Cluster, token: &str, dir: &Path) -> String {
    format!(
        "{} node --server https://{}:{} --token {token} --data-dir {} --images {} --service-cidr {} --pod-cidr {} {ROOM}",
        cluster.binary().display(),
        cluster.slot.bridge_ip(),
        cluster.slot.port(),
        dir.join("node").display(),
        cluster.data().join("images").display(),
        cluster.slot.service_cidr(),
        cluster.slot.pod_cidr(),
    )
}

pub fn a_machine_joins_with_a_token(cx: &Context) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("tiphys-other-").tempdir()?;
    let line = agent(cx.cluster, &token(cx.cluster)?, dir.path());
    let machine = Machine::start(cx.cluster, "other", dir.path(), &line)?;
    join(cx, &machine).with_context(|| machine.init.text())?;
    drop(machine);
    cx.wait("node/other", "condition=Ready=Unknown")?;
    cx.kubectl("delete node other").map(drop)
}

fn join(cx: &Context, machine: &Machine) -> Result<()> {
    eventually("the node registers or ends", || {
        if !machine.init.is_running() {
            return Ok(String::new());
        }
        cx.kubectl("get node other -o name")
    })?;
    ensure!(machine.init.is_running(), "it ended");
    cx.wait("node/other", "condition=Ready")?;
    for (name, node) in [("there", "other"), ("here", "node-1")] {
        let mut pod = pod(name, STAY);
        pod["spec"]["nodeName"] = node.into();
        cx.apply_json(&pod)?;
    }
    cx.wait_ready("there")?;
    cx.wait_ready("here")?;
    for (from, to) in [("here", "there"), ("there", "here")] {
        let ip = cx.pod_ip(to)?;
        eventually("the route is there", || {
            cx.sh(from, &format!("ping -c 1 -W 5 {ip}"))
        })?;
    }
    ensure!(
        cx.kubectl("get csr --no-headers")?
            .contains("Approved,Issued")
    );
    cx.kubectl("delete pods --all --force --grace-period=0")
        .map(drop)
}

pub fn a_wrong_token_is_refused(cx: &Context) -> Result<()> {
    let good = token(cx.cluster)?;
    let (head, secret) = good.rsplit_once('.').context("a token has parts")?;
    let dir = tempfile::Builder::new().prefix("tiphys-other-").tempdir()?;
    // Another secret, and another cluster's CA: then the token is not even sent.
    let other_ca = match head.char_indices().find(|(_, c)| c.is_ascii_digit()) {
        Some((at, _)) => format!("{}f{}.{secret}", &head[..at], &head[at + 1..]),
        None => good.replacen('a', "b", 1),
    };
    // The agent says so, and goes on trying: the token may be made later, the server mended.
    for (wrong, message) in [
        (format!("{head}.0000000000000000"), "Unauthorized"),
        (other_ca, "is not the server that the token is for"),
    ] {
        let line = agent(cx.cluster, &wrong, dir.path());
        let machine = Machine::start(cx.cluster, "stranger", dir.path(), &line)?;
        machine.init.line(|l| l.contains(message))?;
        cx.refused("get node stranger")?;
    }
    let line = agent(cx.cluster, "nonsense", dir.path());
    let mut machine = Machine::start(cx.cluster, "stranger", dir.path(), &line)?;
    ensure!(
        machine.init.end()? != 0,
        "it joined: {}",
        machine.init.text()
    );
    ensure!(
        machine.init.text().contains("this is not a join token"),
        "{}",
        machine.init.text()
    );
    Ok(())
}
