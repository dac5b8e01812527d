//! A pod's cable to its node: a pair of virtual interfaces routed like a line to one host.
//!
//! There is no bridge. The pod has one address of each of the cluster's families, with a prefix of
//! its full length, and all it sends goes to a router at a link-local address whose hardware address
//! is fixed, so that nothing is ever asked by ARP or neighbour discovery. The node has a route to
//! exactly that address by exactly that interface.
//! Every packet of a pod, to a neighbour on the same node too, thus passes the node's IP layer,
//! where address translation and policies are applied and undone whatever the settings of
//! `bridge-nf-call-iptables` are, and a pod can be sent back its own packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::netlink::{Netlink, NetlinkError, Rate, Route, Veth};
use crate::netns::NetNs;
use crate::nft::Prefix;

/// The routers that pods send to. The addresses exist nowhere: only their hardware address is used.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x54, 0, 0, 1);

/// The router that a pod sends to from an address of this family.
pub fn gateway(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => GATEWAY.into(),
        IpAddr::V6(_) => GATEWAY6.into(),
    }
}

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
    /// The pod's addresses, one of a family at most.
    pub addresses: Vec<IpAddr>,
    /// The largest packet in bytes; zero for the kernel's default.
    pub mtu: u32,
    /// The addresses that the node itself talks to the pod from.
    pub node_addresses: Vec<IpAddr>,
    /// The node reaches the pod from its IPv4 loopback addresses too, which its host ports need.
    /// What pods send to those is to be dropped then (`network` does).
    pub from_loopback: bool,
    /// How fast the pod receives and sends at most.
    pub limits: Limits,
}

/// How fast packets flow at most; none for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// To the pod: at the node's end.
    pub to_pod: Option<Rate>,
    /// From the pod: at its own end, which only a pod with the capability `NET_ADMIN` could change.
    pub from_pod: Option<Rate>,
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
    set(
        &format!("net/ipv4/conf/{}/send_redirects", spec.host_name),
        "0",
    )?;
    if spec.from_loopback {
        set(
            &format!("net/ipv4/conf/{}/route_localnet", spec.host_name),
            "1",
        )?;
    }
    heed_no_router(&spec.host_name)?;
    if let Some(rate) = spec.limits.to_pod {
        node.set_rate(host.index, rate).await?;
    }
    node.set_up(host.index).await?;
    // An address that the node is known by need not be one that it has.
    let own = node.addresses(None).await?;
    for address in &spec.addresses {
        node.set_neighbour(host.index, *address, &pod_mac).await?;
        let mut route = Route::to(Prefix::of_one(*address), ROUTE_PROTOCOL);
        route.link = Some(host.index);
        let fits = |from: &&IpAddr| {
            from.is_ipv4() == address.is_ipv4() && own.iter().any(|a| a.address == **from)
        };
        route.source = spec.node_addresses.iter().find(fits).copied();
        node.set_route(&route).await?;
    }
    pod.run_async(|| settled(&spec.pod_name))
        .map_err(entering)??;
    Ok(Ends {
        host_mac: host.mac,
        pod_mac,
    })
}

/// The node heeds no router that a pod claims to be.
fn heed_no_router(link: &str) -> Result<(), PodLinkError> {
    if crate::sysctl::has_ipv6() {
        set(&format!("net/ipv6/conf/{link}/accept_ra"), "0")?;
    }
    Ok(())
}

fn set(name: &str, value: &str) -> Result<(), PodLinkError> {
    let done = crate::sysctl::set(name, value).map(|_| ());
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
    let link = netlink.link(&spec.pod_name).await?;
    if spec.addresses.iter().any(IpAddr::is_ipv6) {
        // Runtimes may have switched it off, and nobody shares the cable who could say anything of
        // routers, or have the address already.
        for (link, parameter, value) in [
            ("lo", "disable_ipv6", "0"),
            (spec.pod_name.as_str(), "disable_ipv6", "0"),
            (&spec.pod_name, "accept_ra", "0"),
            (&spec.pod_name, "accept_dad", "0"),
        ] {
            set(&format!("net/ipv6/conf/{link}/{parameter}"), value)?;
        }
    }
    netlink.set_up(loopback.index).await?;
    if let Some(rate) = spec.limits.from_pod {
        netlink.set_rate(link.index, rate).await?;
    }
    for address in &spec.addresses {
        netlink
            .add_address(link.index, Prefix::of_one(*address))
            .await?;
    }
    netlink.set_up(link.index).await?;
    for address in &spec.addresses {
        let gateway = gateway(*address);
        netlink.set_neighbour(link.index, gateway, host_mac).await?;
        if gateway.is_ipv4() {
            // One of IPv6 is known to be on its link.
            let mut router = Route::to(Prefix::of_one(gateway), ROUTE_PROTOCOL);
            router.link = Some(link.index);
            netlink.set_route(&router).await?;
        }
        let mut default = Route::to(everywhere(gateway), ROUTE_PROTOCOL);
        default.gateway = Some(gateway);
        default.link = Some(link.index);
        netlink.set_route(&default).await?;
    }
    Ok(link.mac)
}

/// The network of all addresses of this one's family.
fn everywhere(like: IpAddr) -> Prefix {
    let address = match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Prefix { address, length: 0 }
}
