//! The nodes' network on this machine: a bridge with one port per node, as a switch would be.
//! Traffic of the nodes that leaves the machine is translated to its address.

use std::net::{IpAddr, Ipv4Addr};

use host::netlink::Netlink;

use crate::config::{Cidr, ClusterConfig, range_of};

#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {cause}")]
pub struct BridgeError {
    what: String,
    cause: String,
}

fn failed<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> BridgeError {
    let what = what.into();
    move |e| BridgeError {
        what,
        cause: e.to_string(),
    }
}

/// Name of the bridge of the cluster `id`; link names have at most 15 characters.
pub fn bridge_name(id: &str) -> String {
    format!("tph-{id}")
}

/// The machine's end of the `i`th node's link.
pub fn port_name(id: &str, i: usize) -> String {
    format!("tph-{id}-{i}")
}

/// Ranges that the machine uses on links other than the cluster's own.
pub async fn taken(
    netlink: &Netlink,
    own_bridge: &str,
) -> Result<Vec<(Cidr, String)>, BridgeError> {
    let addresses = netlink
        .addresses()
        .await
        .map_err(failed("list addresses"))?;
    Ok(addresses
        .into_iter()
        .filter(|a| a.link != own_bridge && a.link != "lo")
        .filter_map(|a| Some((range_of(a.ip, a.prefix)?, a.link)))
        .collect())
}

/// Makes the bridge with its address, or finds it.
pub async fn ensure(
    netlink: &Netlink,
    name: &str,
    config: &ClusterConfig,
) -> Result<(), BridgeError> {
    let what = format!("make the bridge {name}");
    let index = match netlink
        .link_by_name(name)
        .await
        .map_err(failed(what.clone()))?
    {
        Some(link) => link.index,
        None => netlink
            .create_bridge(name)
            .await
            .map_err(failed(what.clone()))?,
    };
    let ip = config.bridge_ip().unwrap_or(Ipv4Addr::LOCALHOST);
    netlink
        .add_address(index, IpAddr::V4(ip), config.node_cidr.prefix)
        .await
        .map_err(failed(what.clone()))?;
    netlink.set_up(index).await.map_err(failed(what))
}

/// Gives the namespace of process `pid` a link `eth0` that is plugged into the bridge.
pub async fn plug(
    netlink: &Netlink,
    bridge: &str,
    port: &str,
    pid: u32,
) -> Result<(), BridgeError> {
    let what = format!("plug {port} into {bridge}");
    unplug(netlink, port).await?;
    let bridge = netlink
        .link_by_name(bridge)
        .await
        .map_err(failed(what.clone()))?;
    let bridge = bridge.ok_or_else(|| BridgeError {
        what: what.clone(),
        cause: "no bridge".into(),
    })?;
    let index = netlink
        .create_veth_into(port, "eth0", pid)
        .await
        .map_err(failed(what.clone()))?;
    netlink
        .set_master(index, bridge.index)
        .await
        .map_err(failed(what.clone()))?;
    netlink.set_up(index).await.map_err(failed(what))
}

/// Removes a link if it is there.
pub async fn unplug(netlink: &Netlink, name: &str) -> Result<(), BridgeError> {
    let what = || format!("remove the link {name}");
    if let Some(link) = netlink.link_by_name(name).await.map_err(failed(what()))? {
        netlink
            .delete_link(link.index)
            .await
            .map_err(failed(what()))?;
    }
    Ok(())
}
