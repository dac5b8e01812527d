//! The tunnel to nodes that are no neighbours: one link for all of them, which knows each far end.
//! Who is reached by it is `plan`'s matter.

use std::net::{IpAddr, Ipv6Addr};

use host::netlink::{Link, Netlink, NetlinkError, Route, Vxlan};
use host::nft::{Family, Prefix};

use crate::plan::{Line, Peer};

/// The name of the tunnel's interface.
pub const NAME: &str = "tiphys-vx";
/// The tunnel's UDP port: the one that Linux used for VXLAN before there was a standard, out of
/// the way of the underlay's own VXLAN at 4789.
const PORT: u16 = 8472;
/// The network's number in the tunnel.
const ID: u32 = 1;

/// Room for the outer headers of a tunnelled packet: Ethernet, VXLAN and UDP, with the header of IPv4
/// or IPv6.
pub fn overhead_bytes(outer: Family) -> u32 {
    match outer {
        Family::Ip4 => 50,
        Family::Ip6 => 70,
    }
}

/// Makes the link, or brings it to what the link below and the node's address are now.
pub async fn ensure(
    netlink: &Netlink,
    own: &Peer,
    address: IpAddr,
    underlay: &Link,
) -> Result<Link, NetlinkError> {
    let vxlan = Vxlan {
        name: NAME.into(),
        id: ID,
        port: PORT,
        local: address,
        over: underlay.index,
        mac: own.tunnel_mac(),
        mtu: underlay
            .mtu
            .saturating_sub(overhead_bytes(Family::of(address))),
    };
    let mut link = netlink.ensure_vxlan(&vxlan).await?;
    let elsewhere = link.lower.is_some_and(|lower| lower != vxlan.over);
    if link.mac != vxlan.mac || elsewhere {
        // Left from when the node had another address, or had it at another link.
        netlink.delete_link(NAME).await?;
        link = netlink.ensure_vxlan(&vxlan).await?;
    }
    if link.mtu != vxlan.mtu {
        // The link below has another one by now.
        netlink.set_mtu(link.index, vxlan.mtu).await?;
        link.mtu = vxlan.mtu;
    }
    // What this node itself sends through the tunnel comes from there.
    for cidr in &own.pod_cidrs {
        let end = Prefix::of_one(cidr.address);
        netlink.add_address(link.index, end).await?;
    }
    Ok(link)
}

/// Leads a route to a far end, whose node has the address `far`.
pub async fn lead(
    netlink: &Netlink,
    link: &Link,
    line: &Line<'_>,
    far: IpAddr,
    route: &mut Route,
) -> Result<(), NetlinkError> {
    let mac = line.peer.tunnel_mac();
    let end = end(line.cidr, mac);
    netlink.set_neighbour(link.index, end, &mac).await?;
    netlink.set_vxlan_peer(link.index, &mac, far).await?;
    route.gateway = Some(end);
    route.link = Some(link.index);
    route.onlink = true;
    Ok(())
}

/// The router for a range behind the tunnel: the range's first address, or in IPv6, where a router
/// is better known by what every link has, that of the far end's hardware address.
fn end(cidr: Prefix, mac: [u8; 6]) -> IpAddr {
    match cidr.address {
        IpAddr::V4(_) => cidr.address,
        IpAddr::V6(_) => {
            let [a, b, c, d, e, f] = mac.map(u16::from);
            let [high, middle, low] = [a << 8 | b, c << 8 | d, e << 8 | f];
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, high, middle, low).into()
        }
    }
}
