//! WireGuard devices, by generic netlink: their key and their peers. Links are made by [`crate::netlink`].
//!
//! The kernel makes a public key of a private one; nobody here has to know how.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::netfilter::Channel;
use crate::nft::Prefix;
use crate::nla::{Attributes, Writer};

// Of linux/genetlink.h: the family that knows the others.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

// Of linux/wireguard.h.
const NAME: &str = "wireguard";
const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;
const DEVICE_NAME: u16 = 2;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_PUBLIC_KEY: u16 = 4;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_PEERS: u16 = 8;
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_ALLOWED: u16 = 9;
const PEER_REMOVE: u32 = 1;
const PEER_REPLACE_ALLOWED: u32 = 2;
const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_LENGTH: u16 = 3;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Peers that one message changes at most: an attribute, of which all of them are one, has 64 KiB.
const AT_ONCE: usize = 100;

/// A key, private or public.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    /// Private ones stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Another end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where packets are sent to it; none until it has sent one itself.
    pub endpoint: Option<SocketAddr>,
    /// The networks behind it: what is sent there goes to it, and nothing else is taken from it.
    pub allowed: BTreeSet<Prefix>,
}

/// Peers by their public keys.
pub type Peers = BTreeMap<Key, Peer>;

/// What a device has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Its public key; none before it has a private one.
    pub public_key: Option<Key>,
    /// The UDP port.
    pub port: u16,
    /// Its peers.
    pub peers: Peers,
}

/// What is to be changed of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChange {
    /// It is so from now on.
    Set(Key, Peer),
    /// It goes.
    Remove(Key),
}

/// What leads from peers to others. Those that are as they shall be are left alone: setting them again
/// would begin their sessions again.
pub fn changes(now: &Peers, wanted: &Peers) -> Vec<PeerChange> {
    let is_right = |key: &Key, peer: &Peer| {
        now.get(key).is_some_and(|old| {
            old.allowed == peer.allowed
                && (peer.endpoint.is_none() || old.endpoint == peer.endpoint)
        })
    };
    let gone = now.keys().filter(|key| !wanted.contains_key(*key));
    let gone = gone.map(|key| PeerChange::Remove(*key));
    let other = wanted.iter().filter(|(key, peer)| !is_right(key, peer));
    let other = other.map(|(key, peer)| PeerChange::Set(*key, peer.clone()));
    gone.chain(other).collect()
}

/// The devices of the network namespace of the thread that opened it.
pub struct Wireguard {
    channel: Channel,
    family: u16,
}

impl Wireguard {
    /// Opens a socket to them; none where the kernel has no WireGuard.
    pub fn open() -> io::Result<Option<Self>> {
        let mut channel = Channel::generic()?;
        let mut family = None;
        channel.ask_with(
            CONTROLLER,
            GET_FAMILY,
            |w| w.text(FAMILY_NAME, NAME),
            |attributes| family = attributes.get(FAMILY_ID).and_then(native_u16).or(family),
        )?;
        Ok(family.map(|family| Self { channel, family }))
    }

    /// What a device has.
    pub fn device(&mut self, name: &str) -> io::Result<Device> {
        let mut device = Device::default();
        self.channel.dump(
            self.family,
            GET_DEVICE,
            |w| w.text(DEVICE_NAME, name),
            |attributes| read(&mut device, attributes),
        )?;
        Ok(device)
    }

    /// Sets a device's private key and port.
    pub fn set(&mut self, name: &str, private: &Key, port: u16) -> io::Result<()> {
        self.change(|w| {
            w.text(DEVICE_NAME, name);
            w.bytes(DEVICE_PRIVATE_KEY, &private.0);
            w.bytes(DEVICE_LISTEN_PORT, &port.to_ne_bytes());
        })
    }

    /// Changes peers of a device.
    pub fn change_peers(&mut self, name: &str, changes: &[PeerChange]) -> io::Result<()> {
        for some in changes.chunks(AT_ONCE) {
            self.change(|w| {
                w.text(DEVICE_NAME, name);
                write_peers(w, some);
            })?;
        }
        Ok(())
    }

    fn change(&mut self, body: impl Fn(&mut Writer)) -> io::Result<()> {
        match self.channel.request(self.family, SET_DEVICE, body)? {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn write_peers(w: &mut Writer, changes: &[PeerChange]) {
    w.nested(DEVICE_PEERS, |w| {
        for change in changes {
            w.nested(0, |w| match change {
                PeerChange::Remove(key) => {
                    w.bytes(PEER_PUBLIC_KEY, &key.0);
                    w.bytes(PEER_FLAGS, &PEER_REMOVE.to_ne_bytes());
                }
                PeerChange::Set(key, peer) => {
                    w.bytes(PEER_PUBLIC_KEY, &key.0);
                    w.bytes(PEER_FLAGS, &PEER_REPLACE_ALLOWED.to_ne_bytes());
                    if let Some(endpoint) = peer.endpoint {
                        w.bytes(PEER_ENDPOINT, &socket_address(endpoint));
                    }
                    w.nested(PEER_ALLOWED, |w| {
                        for network in &peer.allowed {
                            w.nested(0, |w| write_network(w, network));
                        }
                    });
                }
            });
        }
    });
}

fn write_network(w: &mut Writer, network: &Prefix) {
    match network.address {
        IpAddr::V4(four) => {
            w.bytes(ALLOWED_FAMILY, &AF_INET.to_ne_bytes());
            w.bytes(ALLOWED_ADDRESS, &four.octets());
        }
        IpAddr::V6(six) => {
            w.bytes(ALLOWED_FAMILY, &AF_INET6.to_ne_bytes());
            w.bytes(ALLOWED_ADDRESS, &six.octets());
        }
    }
    w.bytes(ALLOWED_LENGTH, &[network.length]);
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address {
        SocketAddr::V4(four) => {
            let mut bytes = AF_INET.to_ne_bytes().to_vec();
            bytes.extend(port);
            bytes.extend(four.ip().octets());
            bytes.extend([0; 8]);
            bytes
        }
        SocketAddr::V6(six) => {
            let mut bytes = AF_INET6.to_ne_bytes().to_vec();
            bytes.extend(port);
            bytes.extend([0; 4]);
            bytes.extend(six.ip().octets());
            bytes.extend(six.scope_id().to_ne_bytes());
            bytes
        }
    }
}

/// Takes in a message about a device; a peer may go on in the next one.
fn read(device: &mut Device, attributes: Attributes<'_>) {
    if let Some(key) = attributes.get(DEVICE_PUBLIC_KEY).and_then(key_of) {
        device.public_key = Some(key);
    }
    if let Some(port) = attributes.get(DEVICE_LISTEN_PORT).and_then(native_u16) {
        device.port = port;
    }
    for (_, peer) in attributes.nested(DEVICE_PEERS) {
        let peer = Attributes(peer);
        let Some(key) = peer.get(PEER_PUBLIC_KEY).and_then(key_of) else {
            continue;
        };
        let known = device.peers.entry(key).or_default();
        let endpoint = peer.get(PEER_ENDPOINT).and_then(endpoint_of);
        known.endpoint = endpoint.or(known.endpoint);
        let networks = peer.nested(PEER_ALLOWED);
        let networks = networks.filter_map(|(_, network)| network_of(Attributes(network)));
        known.allowed.extend(networks);
    }
}

fn native_u16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

fn key_of(bytes: &[u8]) -> Option<Key> {
    bytes.try_into().ok().map(Key)
}

fn endpoint_of(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let ip: IpAddr = match native_u16(bytes)? {
        AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?).into(),
        AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn network_of(attributes: Attributes<'_>) -> Option<Prefix> {
    let bytes = attributes.get(ALLOWED_ADDRESS)?;
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    let length = attributes.u8(ALLOWED_LENGTH)?;
    Some(Prefix { address, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nla::messages;

    fn peer(endpoint: &str, allowed: &[&str]) -> Peer {
        Peer {
            endpoint: endpoint.parse().ok(),
            allowed: allowed
                .iter()
                .map(|n| n.parse().expect("a network"))
                .collect(),
        }
    }

    /// The attributes of a message, read as those of a device.
    fn read_back(write: impl Fn(&mut Writer)) -> Device {
        let mut writer = Writer::default();
        writer.begin(77, 0, 1, GET_DEVICE, 0);
        write(&mut writer);
        writer.end();
        let mut device = Device::default();
        for message in messages(writer.as_bytes()) {
            read(&mut device, message.attributes());
        }
        device
    }

    #[test]
    fn peers_are_read_as_they_are_written() {
        let (a, b) = (Key([1; 32]), Key([2; 32]));
        let four = peer("192.0.2.1:51820", &["10.244.1.0/24", "fd00:1::/64"]);
        let six = peer("[2001:db8::1]:51820", &["10.244.2.0/24"]);
        let set = [
            PeerChange::Set(a, four.clone()),
            PeerChange::Set(b, six.clone()),
        ];
        let device = read_back(|w| {
            w.bytes(DEVICE_PUBLIC_KEY, &[9; 32]);
            w.bytes(DEVICE_LISTEN_PORT, &51_820u16.to_ne_bytes());
            write_peers(w, &set);
        });
        assert_eq!(
            (device.public_key, device.port),
            (Some(Key([9; 32])), 51_820)
        );
        assert_eq!(device.peers, Peers::from([(a, four), (b, six)]));
        // A peer of many networks goes on in another message.
        let mut device = Device::default();
        for (endpoint, network) in [("192.0.2.1:1", "10.1.0.0/16"), ("none", "10.2.0.0/16")] {
            let part = [PeerChange::Set(a, peer(endpoint, &[network]))];
            let mut writer = Writer::default();
            writer.begin(77, 0, 1, GET_DEVICE, 0);
            write_peers(&mut writer, &part);
            writer.end();
            for message in messages(writer.as_bytes()) {
                read(&mut device, message.attributes());
            }
        }
        let whole = peer("192.0.2.1:1", &["10.1.0.0/16", "10.2.0.0/16"]);
        assert_eq!(device.peers, Peers::from([(a, whole)]));
    }

    #[test]
    fn what_is_right_is_left_alone() {
        let (a, b, c) = (Key([1; 32]), Key([2; 32]), Key([3; 32]));
        let one = peer("192.0.2.1:1", &["10.1.0.0/16"]);
        let two = peer("192.0.2.2:1", &["10.2.0.0/16"]);
        let now = Peers::from([(a, one.clone()), (b, two.clone())]);
        assert_eq!(changes(&now, &now), []);
        let moved = peer("192.0.2.9:1", &["10.2.0.0/16"]);
        let wanted = Peers::from([(b, moved.clone()), (c, one.clone())]);
        let expected = [
            PeerChange::Remove(a),
            PeerChange::Set(b, moved),
            PeerChange::Set(c, one.clone()),
        ];
        assert_eq!(changes(&now, &wanted), expected);
        // Who does not say where a peer is leaves it where it was last.
        let silent = Peer {
            endpoint: None,
            ..one
        };
        let wanted = Peers::from([(a, silent), (b, two)]);
        assert_eq!(changes(&now, &wanted), []);
    }

    #[test]
    fn what_is_malformed_is_left_out() {
        let device = read_back(|w| {
            w.bytes(DEVICE_PUBLIC_KEY, &[1; 5]);
            w.nested(DEVICE_PEERS, |w| {
                w.nested(0, |w| w.bytes(PEER_PUBLIC_KEY, &[1; 31]));
                w.bytes(0, &[0xff; 3]);
            });
        });
        assert_eq!(device, Device::default());
        for bytes in [
            &[][..],
            &[2, 0, 1],
            &[2, 0, 1, 1, 1],
            &[99, 0, 1, 1, 1, 1, 1, 1],
        ] {
            assert_eq!(endpoint_of(bytes), None, "{bytes:?}");
        }
    }
}
