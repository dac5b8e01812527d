//! The nodes' network on this machine: a bridge with one port per node, as a switch would be.
//! Traffic of the nodes that leaves the machine is translated to its address.

use host::netlink::{Netlink, Veth, mac_of};
use host::netns::NetNs;
use host::nft::Prefix;

use crate::config::{Cidr, ClusterConfig, IpFamily};

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

/// How the names of all links begin that `up` makes on the machine.
pub const PREFIX: &str = "tph-";

/// Name of the bridge of the cluster `id`; link names have at most 15 characters.
pub fn bridge_name(id: &str) -> String {
    format!("{PREFIX}{id}")
}

/// The machine's end of the `i`th node's link.
pub fn port_name(id: &str, i: usize) -> String {
    format!("{PREFIX}{id}-{i}")
}

/// The machine's end of the `i`th server's link, where there are several.
pub fn server_port_name(id: &str, i: usize) -> String {
    format!("{PREFIX}{id}-s{i}")
}

/// Ranges that the machine uses on links other than the cluster's own.
pub async fn taken(
    netlink: &Netlink,
    own_bridge: &str,
) -> Result<Vec<(Cidr, String)>, BridgeError> {
    let links = netlink.links().await.map_err(failed("list links"))?;
    let mut out = Vec::new();
    for link in links
        .iter()
        .filter(|l| l.name != own_bridge && l.name != "lo")
    {
        let addresses = netlink
            .addresses(Some(link.index))
            .await
            .map_err(failed("list addresses"))?;
        out.extend(
            addresses
                .iter()
                .filter_map(|a| Some((Cidr::around(a.address, a.length)?, link.name.clone()))),
        );
    }
    Ok(out)
}

/// Makes the bridge with its addresses, or finds it.
pub async fn ensure(
    netlink: &Netlink,
    name: &str,
    config: &ClusterConfig,
) -> Result<(), BridgeError> {
    let what = || format!("make the bridge {name}");
    let bridge = netlink
        .ensure_bridge(name, mac_of(name))
        .await
        .map_err(failed(what()))?;
    let ips = config.bridge_ip();
    for ip in ips.iter().flat_map(|ips| ips.iter()) {
        let range = config.node_cidr.of(IpFamily::of(ip));
        let Some(length) = range.map(|range| range.prefix) else {
            continue;
        };
        let address = Prefix {
            address: ip,
            length,
        };
        netlink
            .add_address(bridge.index, address)
            .await
            .map_err(failed(what()))?;
    }
    netlink.set_up(bridge.index).await.map_err(failed(what()))
}

/// Gives the namespace of process `pid` a link `eth0` that is plugged into the bridge.
pub async fn plug(
    netlink: &Netlink,
    bridge: &str,
    port: &str,
    pid: u32,
) -> Result<(), BridgeError> {
    let what = || format!("plug {port} into {bridge}");
    netlink.delete_link(port).await.map_err(failed(what()))?;
    let bridge = netlink.link(bridge).await.map_err(failed(what()))?;
    let namespace = NetNs::of_process(pid).map_err(failed(what()))?;
    let veth = Veth::new(port, "eth0", 0);
    netlink
        .add_veth(&veth, &namespace)
        .await
        .map_err(failed(what()))?;
    let link = netlink.link(port).await.map_err(failed(what()))?;
    netlink
        .plug(link.index, bridge.index)
        .await
        .map_err(failed(what()))?;
    netlink.set_up(link.index).await.map_err(failed(what()))
}

/// Removes a link if it is there.
pub async fn unplug(netlink: &Netlink, name: &str) -> Result<(), BridgeError> {
    netlink
        .delete_link(name)
        .await
        .map_err(failed(format!("remove the link {name}")))
}
