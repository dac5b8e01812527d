//! Neighbour discovery for addresses that this host takes packets for without having them, as
//! `arp` is of IPv4: announcements when they move here. Questions are answered by the kernel, which
//! `netlink` asks to (proxy entries): in IPv6 they come to groups of their own, which it joins,
//! and to this host alone where somebody asks again whether it is still there.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with, sockopt,
};

use crate::arp::Mac;
use crate::nft::Family;
use crate::ping::hear;

/// A neighbour advertisement.
const ADVERTISEMENT: u8 = 136;
/// What neighbours know of the address is to be replaced; and the sender is a router.
const OVERRIDE_BY_ROUTER: u8 = 0xa0;
/// The option with the hardware address that the address is at, in units of 8 bytes.
const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
/// Receivers heed only what no router has passed on.
const HOPS: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// One link on which addresses are announced.
#[derive(Debug)]
pub struct Ndp {
    socket: OwnedFd,
    link: u32,
}

impl Ndp {
    /// For the link of this number, in the network namespace of the calling thread; the kernel is
    /// allowed to answer for addresses there.
    ///
    /// # Errors
    /// Without the right to raw sockets, or where there is no IPv6.
    pub fn open(link: u32, name: &str) -> io::Result<Self> {
        // Not only after a while by lot: nobody else answers.
        crate::sysctl::set(&format!("net/ipv6/neigh/{name}/proxy_delay"), "0")?;
        crate::sysctl::set(&format!("net/ipv6/conf/{name}/proxy_ndp"), "1")?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // The kernel fills in the checksum.
        let protocol = Some(ipproto::ICMPV6);
        let socket = socket_with(AddressFamily::INET6, SocketType::RAW, flags, protocol)?;
        // The kernel queues nothing here of what comes in.
        hear(&socket, Family::Ip6, None)?;
        sockopt::set_ipv6_multicast_hops(&socket, HOPS.into())?;
        sockopt::set_ipv6_multicast_if(&socket, link)?;
        Ok(Self { socket, link })
    }

    /// Tells everybody that whoever has the hardware address has the address.
    pub fn announce(&self, address: Ipv6Addr, mac: Mac) -> io::Result<()> {
        let to = SocketAddrV6::new(ALL_NODES, 0, 0, self.link);
        sendto(
            &self.socket,
            &advertisement(address, mac),
            SendFlags::empty(),
            &to,
        )?;
        Ok(())
    }
}

/// Of nobody's question.
fn advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let octets = address.octets();
    let parts: [&[u8]; 6] = [
        // Type, code, and room for the checksum.
        &[ADVERTISEMENT, 0, 0, 0],
        &[OVERRIDE_BY_ROUTER],
        &[0; 3],
        &octets,
        &TARGET_LINK_LAYER_ADDRESS,
        &mac,
    ];
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_is_laid_out_as_the_standard_says() {
        let address = "2001:db8::7".parse().expect("an address");
        let expected = [
            136, 0, 0, 0, 0xa0, 0, 0, 0, // unsolicited, by a router, to be believed
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, // the address
            2, 1, 2, 0, 0, 0, 0, 1, // where it is
        ];
        assert_eq!(advertisement(address, [2, 0, 0, 0, 0, 1]), expected);
    }
}
