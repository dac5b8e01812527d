//! Neighbours of a link: fixed ones, ends of tunnels, and addresses that this host answers for.

use std::net::{IpAddr, Ipv6Addr};

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::RouteProtocol;

use super::{EEXIST, ENOENT, ESRCH, Netlink, NetlinkError, done, refused};

/// The mark of what this host answers for: the number that routes to pods carry, too.
const PROXY_PROTOCOL: u8 = crate::podlink::ROUTE_PROTOCOL;

impl Netlink {
    /// Fixes the hardware address of a neighbour, so that it is never asked for.
    pub async fn set_neighbour(
        &self,
        index: u32,
        address: IpAddr,
        mac: &[u8],
    ) -> Result<(), NetlinkError> {
        let request = self
            .handle
            .neighbours()
            .add(index, address)
            .link_layer_address(mac);
        done(
            &format!("set neighbour {address}"),
            request.replace().execute().await,
            &[EEXIST],
        )
    }

    /// Sends frames for a hardware address to the VXLAN peer.
    pub async fn set_vxlan_peer(
        &self,
        index: u32,
        mac: &[u8],
        peer: IpAddr,
    ) -> Result<(), NetlinkError> {
        let request = self
            .handle
            .neighbours()
            .add_bridge(index, mac)
            .destination(peer);
        let request = request.flags(NeighbourFlags::Own);
        done(
            &format!("set vxlan peer {peer}"),
            request.replace().execute().await,
            &[EEXIST],
        )
    }

    /// Answers for an address that this host does not have, on a link whose parameters allow it.
    pub async fn set_proxy(&self, index: u32, address: Ipv6Addr) -> Result<(), NetlinkError> {
        let mut request = self.handle.neighbours().add(index, address.into());
        request = request.flags(NeighbourFlags::Proxy);
        let mark = NeighbourAttribute::Protocol(RouteProtocol::from(PROXY_PROTOCOL));
        request.message_mut().attributes.push(mark);
        done(
            &format!("answer for {address}"),
            request.replace().execute().await,
            &[EEXIST],
        )
    }

    /// Does not answer for the address any more.
    pub async fn delete_proxy(&self, index: u32, address: Ipv6Addr) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.ifindex = index;
        message.header.flags = NeighbourFlags::Proxy;
        let address_of = NeighbourAttribute::Destination(NeighbourAddress::Inet6(address));
        message.attributes.push(address_of);
        let result = self.handle.neighbours().del(message).execute().await;
        done(
            &format!("answer for {address} no more"),
            result,
            &[ENOENT, ESRCH],
        )
    }

    /// The addresses that [`Netlink::set_proxy`] has this host answer for, with their links.
    pub async fn proxies(&self) -> Result<Vec<(u32, Ipv6Addr)>, NetlinkError> {
        let neighbours = self.handle.neighbours();
        let request = neighbours.get().set_address_family(AddressFamily::Inet6);
        let stream = request.proxies().execute();
        let all: Vec<_> = stream
            .try_collect()
            .await
            .map_err(|e| refused("list what is answered for", e))?;
        let ours = |entry: &NeighbourMessage| {
            let mark = RouteProtocol::from(PROXY_PROTOCOL);
            let marked = |a: &NeighbourAttribute| *a == NeighbourAttribute::Protocol(mark);
            entry.attributes.iter().any(marked)
        };
        let address = |entry: NeighbourMessage| {
            let of = |a: &NeighbourAttribute| match a {
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(*ip),
                _ => None,
            };
            Some((entry.header.ifindex, entry.attributes.iter().find_map(of)?))
        };
        Ok(all.into_iter().filter(ours).filter_map(address).collect())
    }

    /// Deletes what is known of neighbours and peers with this hardware address on a link.
    pub async fn forget_neighbours(&self, index: u32, mac: &[u8]) -> Result<(), NetlinkError> {
        for family in [
            AddressFamily::Inet,
            AddressFamily::Inet6,
            AddressFamily::Bridge,
        ] {
            let stream = self
                .handle
                .neighbours()
                .get()
                .set_address_family(family)
                .execute();
            let all: Vec<_> = stream
                .try_collect()
                .await
                .map_err(|e| refused("neighbours", e))?;
            for entry in all {
                let same = entry.attributes.iter().any(
                    |a| matches!(a, NeighbourAttribute::LinkLayerAddress(m) if m.as_slice() == mac),
                );
                if same && entry.header.ifindex == index {
                    let result = self.handle.neighbours().del(entry).execute().await;
                    done("delete neighbour", result, &[ENOENT, ESRCH])?;
                }
            }
        }
        Ok(())
    }

    /// The fixed neighbours of a link: address and hardware address.
    pub async fn neighbours(&self, index: u32) -> Result<Vec<(IpAddr, Vec<u8>)>, NetlinkError> {
        let stream = self.handle.neighbours().get().execute();
        let all: Vec<_> = stream
            .try_collect()
            .await
            .map_err(|e| refused("neighbours", e))?;
        Ok(all
            .into_iter()
            .filter(|entry| entry.header.ifindex == index)
            .filter_map(|entry| {
                let (mut address, mut mac) = (None, None);
                for attribute in entry.attributes {
                    match attribute {
                        NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
                            address = Some(IpAddr::V4(a));
                        }
                        NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => {
                            address = Some(IpAddr::V6(a));
                        }
                        NeighbourAttribute::LinkLayerAddress(m) => mac = Some(m),
                        _ => {}
                    }
                }
                Some((address?, mac?))
            })
            .collect())
    }
}
