//! Links, addresses, routes and neighbours of a network namespace, by rtnetlink.
//!
//! What exists already as wanted is not an error, and what is to be deleted and is gone is none
//! either: callers say how it shall be.

mod neighbours;
mod rates;
mod routes;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use futures::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use netlink_packet_route::link::{
    InfoData, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkDummy, LinkMessageBuilder, LinkUnspec, LinkVeth,
    LinkVxlan, LinkWireguard,
};
use thiserror::Error;

use crate::nft::Prefix;
pub use rates::Rate;
pub use routes::Route;

const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const ESRCH: i32 = 3;
const ENOENT: i32 = 2;

/// Why links, addresses or routes could not be read or changed.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The socket could not be opened.
    #[error("rtnetlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused.
    #[error("{attempt}: {cause}")]
    Refused {
        /// What was attempted.
        attempt: String,
        /// Why not.
        cause: io::Error,
    },
    /// There is no such link.
    #[error("no link {0}")]
    NoLink(String),
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address; empty for some kinds.
    pub mac: Vec<u8>,
    /// The largest packet in bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether packets really flow: it is up, and so is its other end.
    pub running: bool,
    /// The link that it is a port of.
    pub controller: Option<u32>,
    /// Its group, by which rules know it; 0 unless set.
    pub group: u32,
    /// The link that it lies over, if it is a tunnel that is bound to one.
    pub lower: Option<u32>,
}

/// A VXLAN interface without learning: its forwarding entries are set by whoever knows the peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Its name.
    pub name: String,
    /// The network's number.
    pub id: u32,
    /// The UDP port.
    pub port: u16,
    /// This end's address.
    pub local: IpAddr,
    /// The link whose MTU and route count.
    pub over: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The largest packet in bytes.
    pub mtu: u32,
}

/// A pair of virtual cables' two ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// The name of the end that stays here.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The name of the other end.
    pub peer: String,
    /// Its hardware address.
    pub peer_mac: [u8; 6],
    /// The largest packet in bytes; zero for the kernel's default.
    pub mtu: u32,
    /// The group of the end that stays here; zero is the kernel's default.
    pub group: u32,
}

impl Veth {
    /// A pair with hardware addresses that follow from the names, see [`mac_of`]; `name` must be
    /// the only one of its kind among those that the other end's neighbours see.
    pub fn new(name: &str, peer: &str, mtu: u32) -> Self {
        Self {
            name: name.to_owned(),
            mac: mac_of(name),
            peer: peer.to_owned(),
            peer_mac: mac_of(&format!("{name}/{peer}")),
            mtu,
            group: 0,
        }
    }
}

/// A hardware address made of a name: locally administered, of one station, the same every time.
///
/// All links get theirs from here when they are made. One that the kernel chose may change: a
/// bridge takes another when its port with the lowest one leaves, and udev's policy gives links
/// that have a random one a "persistent" one moments later. Neighbours then send to nobody until
/// they ask again.
pub fn mac_of(name: &str) -> [u8; 6] {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    let [_, _, _, a, b, c, d, e] = hash.to_be_bytes();
    [0x02, a, b, c, d, e]
}

/// A connection to rtnetlink in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// Opens the connection; must be called within a tokio runtime.
    pub fn connect() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }

    /// All links.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let stream = self.handle.link().get().execute();
        let all: Vec<_> = stream
            .try_collect()
            .await
            .map_err(|e| refused("list links", e))?;
        Ok(all.into_iter().map(link_of).collect())
    }

    /// The link of this name, if there is one.
    pub async fn find_link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut stream = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        match stream.try_next().await {
            Ok(message) => Ok(message.map(link_of)),
            Err(e) if is(&e, &[ENODEV]) => Ok(None),
            Err(e) => Err(refused(&format!("look up link {name}"), e)),
        }
    }

    /// The link of this name.
    pub async fn link(&self, name: &str) -> Result<Link, NetlinkError> {
        self.find_link(name)
            .await?
            .ok_or_else(|| NetlinkError::NoLink(name.to_owned()))
    }

    /// Takes a link up.
    pub async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        done(
            "set link up",
            self.handle.link().set(message).execute().await,
            &[],
        )
    }

    /// Gives a link another name; it must be down.
    pub async fn rename(&self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).name(name).build();
        done(
            "rename link",
            self.handle.link().set(message).execute().await,
            &[],
        )
    }

    /// Moves a link into another namespace.
    pub async fn move_to(&self, index: u32, netns: impl AsFd) -> Result<(), NetlinkError> {
        let fd = netns.as_fd().as_raw_fd();
        let message = LinkUnspec::new_with_index(index).setns_by_fd(fd).build();
        done(
            "move link",
            self.handle.link().set(message).execute().await,
            &[],
        )
    }

    /// Makes a pair of virtual cables: one end here, the other in another namespace.
    pub async fn add_veth(&self, veth: &Veth, peer_netns: impl AsFd) -> Result<(), NetlinkError> {
        let mut other = LinkMessageBuilder::<LinkUnspec>::new()
            .name(&veth.peer)
            .address(veth.peer_mac.to_vec())
            .setns_by_fd(peer_netns.as_fd().as_raw_fd());
        let mut here = LinkVeth::new(&veth.name, &veth.peer).address(veth.mac.to_vec());
        if veth.group > 0 {
            here = here.link_group(veth.group);
        }
        // Zero leaves the kernel's default.
        if veth.mtu > 0 {
            other = other.mtu(veth.mtu);
            here = here.mtu(veth.mtu);
        }
        let message = here
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other.build())))
            .build();
        let attempt = format!("add veth {}", veth.name);
        done(
            &attempt,
            self.handle.link().add(message).execute().await,
            &[],
        )
    }

    /// Makes a bridge if there is none of this name. Its hardware address is fixed: it does not
    /// follow those of its ports.
    pub async fn ensure_bridge(&self, name: &str, mac: [u8; 6]) -> Result<Link, NetlinkError> {
        let message = LinkBridge::new(name).address(mac.to_vec()).up();
        let result = self.handle.link().add(message.build()).execute().await;
        done(&format!("add bridge {name}"), result, &[EEXIST])?;
        let link = self.link(name).await?;
        if link.mac == mac {
            return Ok(link);
        }
        self.set_mac(link.index, mac).await?;
        self.link(name).await
    }

    /// Puts a link into a group.
    pub async fn set_group(&self, index: u32, group: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).link_group(group).build();
        done(
            "set group of link",
            self.handle.link().set(message).execute().await,
            &[],
        )
    }

    /// Sets the largest packet of a link in bytes.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        done(
            &format!("set MTU {mtu}"),
            self.handle.link().set(message).execute().await,
            &[],
        )
    }

    /// Gives a link a hardware address, which it keeps.
    pub async fn set_mac(&self, index: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(index).address(mac.to_vec());
        done(
            "set hardware address",
            self.handle.link().set(message.build()).execute().await,
            &[],
        )
    }

    /// Makes a link a port of a bridge.
    pub async fn plug(&self, port: u32, bridge: u32) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(port).controller(bridge).build();
        done(
            "attach to bridge",
            self.handle.link().set(message).execute().await,
            &[],
        )
    }

    /// Makes a link a port of a bridge, which may send frames back to where they came from.
    pub async fn attach(&self, port: u32, bridge: u32) -> Result<(), NetlinkError> {
        self.plug(port, bridge).await?;
        let message = LinkBridgePort::new(port).hairpin(true).build();
        done(
            "set hairpin mode",
            self.handle.link().set_port(message).execute().await,
            &[],
        )
    }

    /// Makes an interface that only holds addresses, if there is none of this name.
    pub async fn ensure_dummy(&self, name: &str) -> Result<Link, NetlinkError> {
        let mac = mac_of(name).to_vec();
        let message = LinkDummy::new(name).address(mac).up().build();
        let result = self.handle.link().add(message).execute().await;
        done(&format!("add dummy {name}"), result, &[EEXIST])?;
        self.link(name).await
    }

    /// Makes a VXLAN interface if there is none of this name. What there is already may differ from
    /// what is asked for: the caller looks at what it gets.
    pub async fn ensure_vxlan(&self, vxlan: &Vxlan) -> Result<Link, NetlinkError> {
        let new = LinkVxlan::new(&vxlan.name, vxlan.id);
        let new = match vxlan.local {
            IpAddr::V4(local) => new.local(local),
            IpAddr::V6(local) => new.local6(local),
        };
        let message = new
            .port(vxlan.port)
            .dev(vxlan.over)
            .learning(false)
            .address(vxlan.mac.to_vec())
            .mtu(vxlan.mtu)
            .up()
            .build();
        let result = self.handle.link().add(message).execute().await;
        done(&format!("add vxlan {}", vxlan.name), result, &[EEXIST])?;
        self.link(&vxlan.name).await
    }

    /// Makes a WireGuard interface if there is none of this name, and takes it up.
    pub async fn ensure_wireguard(&self, name: &str) -> Result<Link, NetlinkError> {
        let message = LinkWireguard::new(name).up().build();
        let result = self.handle.link().add(message).execute().await;
        done(&format!("add wireguard {name}"), result, &[EEXIST])?;
        let link = self.link(name).await?;
        if !link.up {
            self.set_up(link.index).await?;
        }
        Ok(link)
    }

    /// Deletes a link.
    pub async fn delete_link(&self, name: &str) -> Result<(), NetlinkError> {
        let Some(link) = self.find_link(name).await? else {
            return Ok(());
        };
        let result = self.handle.link().del(link.index).execute().await;
        done(&format!("delete link {name}"), result, &[ENODEV])
    }

    /// Gives a link an address. One of IPv6 can be used at once: who gives addresses out sees to it
    /// that none is given twice, so neighbours need not be asked first.
    pub async fn add_address(&self, index: u32, address: Prefix) -> Result<(), NetlinkError> {
        let mut request = self
            .handle
            .address()
            .add(index, address.address, address.length);
        if address.address.is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            message.attributes.push(flags);
        }
        done(
            &format!("add address {address}"),
            request.execute().await,
            &[EEXIST],
        )
    }

    /// The addresses of a link, or of all links.
    pub async fn addresses(&self, link: Option<u32>) -> Result<Vec<Prefix>, NetlinkError> {
        let stream = self.handle.address().get().execute();
        let all: Vec<_> = stream
            .try_collect()
            .await
            .map_err(|e| refused("list addresses", e))?;
        Ok(all
            .into_iter()
            .filter(|a| link.is_none_or(|index| a.header.index == index))
            .filter_map(|a| {
                let length = a.header.prefix_len;
                a.attributes
                    .into_iter()
                    .find_map(|attribute| match attribute {
                        AddressAttribute::Local(address) | AddressAttribute::Address(address) => {
                            Some(Prefix { address, length })
                        }
                        _ => None,
                    })
            })
            .collect())
    }

    /// The addresses that this namespace itself answers at, with those of loopback.
    pub async fn own_addresses(&self) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        let stream = self.handle.address().get().execute();
        let all: Vec<_> = stream
            .try_collect()
            .await
            .map_err(|e| refused("list addresses", e))?;
        let own = |attributes: Vec<AddressAttribute>| {
            let (mut own, mut any) = (None, None);
            for attribute in attributes {
                match attribute {
                    AddressAttribute::Local(address) => own = Some(address),
                    // Where there are two ends, this is the other one's.
                    AddressAttribute::Address(address) => any = Some(address),
                    _ => {}
                }
            }
            own.or(any)
        };
        Ok(all.into_iter().filter_map(|a| own(a.attributes)).collect())
    }
}

/// The same as [`Netlink::own_addresses`] of the calling thread's namespace, for those who can wait
/// and have no runtime.
pub fn own_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let read = || async { Netlink::connect()?.own_addresses().await };
    let read = crate::netns::NetNs::current()?.run_async(read)?;
    read.map_err(io::Error::other)
}

fn link_of(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: Vec::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::Running),
        controller: None,
        group: 0,
        lower: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::LinkInfo(infos) => link.lower = infos.iter().find_map(lower_of),
            _ => {}
        }
    }
    link
}

fn lower_of(info: &LinkInfo) -> Option<u32> {
    let LinkInfo::Data(InfoData::Vxlan(all)) = info else {
        return None;
    };
    all.iter().find_map(|info| match info {
        InfoVxlan::Link(index) => Some(*index),
        _ => None,
    })
}

fn errno(error: &rtnetlink::Error) -> i32 {
    match error {
        rtnetlink::Error::NetlinkError(message) => -message.raw_code(),
        _ => 0,
    }
}

fn is(error: &rtnetlink::Error, accepted: &[i32]) -> bool {
    accepted.contains(&errno(error))
}

fn refused(attempt: &str, error: rtnetlink::Error) -> NetlinkError {
    let cause = match errno(&error) {
        0 => io::Error::other(error.to_string()),
        code => io::Error::from_raw_os_error(code),
    };
    NetlinkError::Refused {
        attempt: attempt.to_owned(),
        cause,
    }
}

fn done(
    attempt: &str,
    result: Result<(), rtnetlink::Error>,
    accepted: &[i32],
) -> Result<(), NetlinkError> {
    match result {
        Err(e) if !is(&e, accepted) => Err(refused(attempt, e)),
        _ => Ok(()),
    }
}
