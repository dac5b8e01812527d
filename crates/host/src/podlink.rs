//! A pod's cable to its node: a pair of virtual interfaces routed like a line to one host.
//!
//! There is no bridge. The pod has one address with a prefix of its full length, and all it sends
//! goes to a router at a link-local address whose hardware address is fixed, so that nothing is
//! ever asked by ARP. The node has a route to exactly that address by exactly that interface.
//! Every packet of a pod, to a neighbour on the same node too, thus passes the node's IP layer,
//! where address translation and policies are applied and undone whatever the settings of
//! `bridge-nf-call-iptables` are, and a pod can be sent back its own packets.

use std::net::{IpAddr, Ipv4Addr};

use thiserror::Error;

use crate::netlink::{Netlink, NetlinkError, Route, Veth};
use crate::netns::NetNs;
use crate::nft::Prefix;

/// The router that pods send to. The address exists nowhere: only its hardware address is used.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The number that routes to pods carry (`RTPROT_STATIC` would be an administrator's).
pub const ROUTE_PROTOCOL: u8 = 84;

/// The group of the node's ends of all pods' cables, by which rules know what pods send.
pub const LINK_GROUP: u32 = 84;

/// How often and after what pause it is looked whether the cable works: two seconds in all.
const SETTLE_ATTEMPTS: u32 = 1000;
const SETTLE_PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// What the cable shall be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// The name of the node's end, at most 15 bytes.
    pub host_name: String,
    /// The name of the pod's end.
    pub pod_name: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The largest packet in bytes; zero for the kernel's default.
    pub mtu: u32,
    /// The address that the node itself talks to the pod from.
    pub node_address: Option<Ipv4Addr>,
    /// The node reaches the pod from its loopback addresses too, which its host ports need. What
    /// pods send to those is to be dropped then (`network` does).
    pub from_loopback: bool,
}

/// The hardware addresses of both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// The node's.
    pub host_mac: Vec<u8>,
    /// The pod's.
    pub pod_mac: Vec<u8>,
}

/// Why a pod could not be connected.
#[derive(Debug, Error)]
pub enum PodLinkError {
    /// A link, an address or a route could not be set.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The pod's namespace could not be entered, or a parameter could not be set.
    #[error("{attempt}: {cause}")]
    System {
        /// What was attempted.
        attempt: String,
        /// Why not.
        cause: std::io::Error,
    },
}

/// Connects a pod. An interface of the same name on the node, left by an earlier attempt, is
/// replaced.
pub async fn connect(spec: &PodLink, pod: &NetNs) -> Result<Ends, PodLinkError> {
    let node = Netlink::connect()?;
    node.delete_link(&spec.host_name).await?;
    let mut veth = Veth::new(&spec.host_name, &spec.pod_name, spec.mtu);
    veth.group = LINK_GROUP;
    node.add_veth(&veth, pod).await?;
    let result = join(spec, pod, &node).await;
    if result.is_err() {
        // The other end goes with it.
        let _ = node.delete_link(&spec.host_name).await;
    }
    result
}

async fn join(spec: &PodLink, pod: &NetNs, node: &Netlink) -> Result<Ends, PodLinkError> {
    let host = node.link(&spec.host_name).await?;
    let pod_mac = pod
        .run_async(|| inside(spec, &host.mac))
        .map_err(entering)??;
    // A router that sends packets back by where they came from would notify the sender.
    set(&spec.host_name, "send_redirects", "0")?;
    if spec.from_loopback {
        set(&spec.host_name, "route_localnet", "1")?;
    }
    node.set_up(host.index).await?;
    node.set_neighbour(host.index, spec.address.into(), &pod_mac)
        .await?;
    let mut route = Route::to(single(spec.address), ROUTE_PROTOCOL);
    route.link = Some(host.index);
    // An address that the node is known by need not be one that it has.
    let own = node.addresses(None).await?;
    let has = |address: &Ipv4Addr| own.iter().any(|a| a.address == IpAddr::V4(*address));
    route.source = spec.node_address.filter(has);
    node.set_route(&route).await?;
    pod.run_async(|| settled(&spec.pod_name))
        .map_err(entering)??;
    Ok(Ends {
        host_mac: host.mac,
        pod_mac,
    })
}

fn set(link: &str, parameter: &str, value: &str) -> Result<(), PodLinkError> {
    let name = format!("net/ipv4/conf/{link}/{parameter}");
    let done = crate::sysctl::set(&name, value).map(|_| ());
    done.map_err(|cause| PodLinkError::System {
        attempt: format!("set {name}"),
        cause,
    })
}

fn entering(cause: std::io::Error) -> PodLinkError {
    PodLinkError::System {
        attempt: "enter the pod's network".into(),
        cause,
    }
}

/// Waits until the kernel has noticed, a moment after both ends are up, that packets can flow:
/// before, they are dropped silently. Not noticed in time is not an error: it will be.
async fn settled(pod_name: &str) -> Result<(), PodLinkError> {
    let netlink = Netlink::connect()?;
    for _ in 0..SETTLE_ATTEMPTS {
        if netlink.link(pod_name).await?.running {
            return Ok(());
        }
        tokio::time::sleep(SETTLE_PAUSE).await;
    }
    tracing::debug!(pod_name, "the pod's interface is not running yet");
    Ok(())
}

/// The pod's end; runs in the pod's namespace.
async fn inside(spec: &PodLink, host_mac: &[u8]) -> Result<Vec<u8>, PodLinkError> {
    let netlink = Netlink::connect()?;
    let loopback = netlink.link("lo").await?;
    netlink.set_up(loopback.index).await?;
    let link = netlink.link(&spec.pod_name).await?;
    netlink
        .add_address(link.index, single(spec.address))
        .await?;
    netlink.set_up(link.index).await?;
    netlink
        .set_neighbour(link.index, GATEWAY.into(), host_mac)
        .await?;
    let mut router = Route::to(single(GATEWAY), ROUTE_PROTOCOL);
    router.link = Some(link.index);
    netlink.set_route(&router).await?;
    let everywhere = Prefix {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        length: 0,
    };
    let mut default = Route::to(everywhere, ROUTE_PROTOCOL);
    default.gateway = Some(GATEWAY.into());
    default.link = Some(link.index);
    netlink.set_route(&default).await?;
    Ok(link.mac)
}

fn single(address: Ipv4Addr) -> Prefix {
    Prefix {
        address: address.into(),
        length: 32,
    }
}
