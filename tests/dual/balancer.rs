//! Load balancers: an address of each family, announced by ARP and by neighbour discovery.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::Context;
use tests::command::eventually;
use tests::context::web;
use tests::machine::Machine;

use crate::pods::ips;
use crate::services::both;

fn announcers(cx: &Context) -> Result<BTreeMap<IpAddr, String>> {
    let path = r".metadata.annotations.tiphys\.io/load-balancer-nodes";
    let text = cx.field("service web", path)?;
    let one = |part: &str| {
        let (ip, node) = part.split_once('=').with_context(|| text.clone())?;
        Ok((ip.parse()?, node.to_owned()))
    };
    text.split(',').map(one).collect()
}

pub fn addresses_of_both_families_move_when_their_node_dies(cx: &Context) -> Result<()> {
    let mut deployment = web("web", 2);
    // One on each node, so that each may announce.
    deployment["spec"]["template"]["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "web" } },
    }]);
    cx.apply_json(&deployment)?;
    let mut balanced = both("web", "LoadBalancer");
    balanced["spec"]["externalTrafficPolicy"] = json!("Local");
    cx.apply_json(&balanced)?;
    cx.wait_rollout("deployment/web")?;
    let addresses = eventually("it has an address of each family", || {
        let object = cx.json("get service web")?;
        let all = ips(&object, "/status/loadBalancer/ingress", "ip")?;
        ensure!(
            all.len() == 2 && all[0].is_ipv4() != all[1].is_ipv4(),
            "{all:?}"
        );
        Ok(all)
    })?;
    let dir = tempfile::tempdir()?;
    let client = Machine::idle(cx.cluster, "client", dir.path())?;
    let slot = &cx.cluster.slot;
    for ip in &addresses {
        let at = SocketAddr::new(*ip, 80).to_string();
        let seen = eventually(&format!("{at} answers from outside"), || {
            client.get(&at, "/clientip")
        })?;
        let own = match ip {
            IpAddr::V4(_) => slot.spare_node_ip().to_string(),
            IpAddr::V6(_) => slot.spare_node_ip6(),
        };
        ensure!(seen == own, "{own} was seen as {seen}");
    }
    // The node of the address of IPv6 dies.
    let six = *addresses.iter().find(|ip| ip.is_ipv6()).context("none")?;
    let before = announcers(cx)?;
    let dead = before.get(&six).context("nobody announces it")?;
    let node = |word: &str| {
        cx.cluster
            .tiphys_on_data(&format!("node {word} {dead}"))?
            .ok()
    };
    let killed = Instant::now();
    node("kill")?;
    for ip in &addresses {
        let at = SocketAddr::new(*ip, 80).to_string();
        eventually(&format!("another node has {ip}"), || {
            client.get_within(1, &at, "/hostname")
        })?;
    }
    println!(
        "    another node answers at both {:.1} s after one was killed",
        killed.elapsed().as_secs_f64()
    );
    cx.wait(&format!("node/{dead}"), "condition=Ready=Unknown")?;
    eventually("the control plane has them elsewhere", || {
        let now = announcers(cx)?;
        ensure!(now.values().all(|node| node != dead), "{now:?}");
        Ok(())
    })?;
    node("start")?;
    cx.wait(&format!("node/{dead}"), "condition=Ready")?;
    let at = SocketAddr::new(six, 80).to_string();
    eventually("it answers when the node is back", || {
        client.get(&at, "/hostname")
    })
    .map(drop)
}
