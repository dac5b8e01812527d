//! Addresses of a pool: announced by one node, and by another when that one dies.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use host::netns::NetNs;
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{service, web};
use tests::machine::Machine;

fn balanced(name: &str, port: u16) -> Value {
    let mut balanced = service(name, "web", "LoadBalancer");
    balanced["spec"]["ports"][0]["port"] = json!(port);
    balanced
}

fn address(cx: &Context, name: &str) -> Result<String> {
    eventually(&format!("{name} has an address"), || {
        let path = ".status.loadBalancer.ingress[*].ip";
        let ip = cx.field(&format!("service {name}"), path)?;
        ensure!(!ip.is_empty());
        Ok(ip)
    })
}

fn announcer(cx: &Context, name: &str) -> Result<String> {
    let path = r".metadata.annotations.tiphys\.io/load-balancer-nodes";
    let text = cx.field(&format!("service {name}"), path)?;
    let (_, node) = text.split_once('=').with_context(|| text.clone())?;
    Ok(node.to_owned())
}

/// Where nothing else runs, half of the takeovers are done by then.
const TAKEOVER: Duration = Duration::from_secs(2);
/// A connection that is not there by then is tried again: what is lost is not waited for.
const TRY: Duration = Duration::from_millis(100);

/// Kills the node that announces an address; gives how long nobody could connect to it.
fn takeover(cx: &Context, client: &NetNs, name: &str, at: SocketAddr) -> Result<Duration> {
    let dead = announcer(cx, name)?;
    let killed = Instant::now();
    cx.cluster
        .tiphys_on_data(&format!("node kill {dead}"))?
        .ok()?;
    eventually("another node has the address", || {
        client.run(|| TcpStream::connect_timeout(&at, TRY))??;
        Ok(())
    })?;
    let took = killed.elapsed();
    let before = announcer(cx, name)? == dead;
    println!(
        "    another node answers {:.1} s after its node was killed, {} the control plane knew",
        took.as_secs_f64(),
        if before { "before" } else { "after" }
    );
    cx.wait(&format!("node/{dead}"), "condition=Ready=Unknown")?;
    eventually("the control plane has it elsewhere", || {
        ensure!(announcer(cx, name)? != dead);
        Ok(())
    })?;
    cx.cluster
        .tiphys_on_data(&format!("node start {dead}"))?
        .ok()?;
    cx.wait(&format!("node/{dead}"), "condition=Ready")?;
    ensure!(announcer(cx, name)? != dead, "it stays where it is");
    Ok(took)
}

/// `cargo xtask soak takeover --times N` lets so many nodes die one after another.
pub fn an_address_of_the_pool_keeps_sources_and_outlives_its_node(cx: &Context) -> Result<()> {
    let deaths = tests::times(1, 10)?;
    let mut deployment = web("web", 3);
    // One on each node, so that each may announce.
    deployment["spec"]["template"]["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "web" } },
    }]);
    cx.apply_json(&deployment)?;
    let mut local = balanced("local", 80);
    local["spec"]["externalTrafficPolicy"] = json!("Local");
    cx.apply_json(&local)?;
    cx.apply_json(&balanced("spread", 80))?;
    cx.wait_rollout("deployment/web")?;
    let (local, spread) = (address(cx, "local")?, address(cx, "spread")?);
    ensure!(local != spread, "each has its own while there are enough");
    let mut twin = balanced("twin", 81);
    twin["spec"]["loadBalancerIP"] = json!(spread);
    cx.apply_json(&twin)?;
    ensure!(address(cx, "twin")? == spread);

    let dir = tempfile::tempdir()?;
    let client = Machine::idle(cx.cluster, "client", dir.path())?;
    for at in [
        format!("{local}:80"),
        format!("{spread}:80"),
        format!("{spread}:81"),
    ] {
        eventually(&format!("{at} answers from outside"), || {
            client.get(&at, "/hostname")
        })?;
    }
    let own = cx.cluster.slot.spare_node_ip().to_string();
    let seen = eventually("it says whom it sees", || {
        client.get(&format!("{local}:80"), "/clientip")
    })?;
    ensure!(seen == own, "{own} was seen as {seen}");

    let netns = NetNs::of_process(client.init.child_pid()?)?;
    let at = SocketAddr::new(spread.parse::<IpAddr>()?, 81);
    let mut took = Vec::new();
    for _ in 0..deaths {
        took.push(takeover(cx, &netns, "spread", at)?);
        eventually("both are announced by one node", || {
            ensure!(announcer(cx, "twin")? == announcer(cx, "spread")?);
            Ok(())
        })?;
    }
    took.sort();
    let half = took.get(took.len() / 2).context("none died")?;
    println!(
        "    {} takeovers: half within {half:.1?}, all within {:.1?}",
        took.len(),
        took[took.len() - 1]
    );
    // How long it takes depends on what else runs here; the long form is for a machine of its own.
    ensure!(deaths == 1 || *half <= TAKEOVER, "{took:.1?}");
    eventually("it answers at its other port, too", || {
        client.get(&format!("{spread}:80"), "/hostname")
    })
    .map(drop)
}
