//! A node and pods as network namespaces without names: they vanish with the test.
//! Needs root; fails without.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use host::netlink::{Netlink, Route, Veth};
use host::netns::NetNs;
use host::nft::Prefix;
use host::podlink::{PodLink, connect};

/// Only an end for a test that hangs; nothing is concluded from it.
const GIVE_UP: Duration = Duration::from_secs(20);

/// How long a connection is waited for that nothing will answer.
pub const DROPPED: Duration = Duration::from_millis(1500);

pub struct Lab {
    pub node: NetNs,
    pub outside: NetNs,
    pods: BTreeMap<Ipv4Addr, NetNs>,
}

pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

impl Lab {
    pub fn new() -> Self {
        let node = NetNs::anonymous().expect("a new network namespace needs root");
        let outside = NetNs::anonymous().expect("a new network namespace");
        node.run_async(|| async {
            let netlink = Netlink::connect().expect("rtnetlink");
            let lo = netlink.link("lo").await.expect("lo");
            netlink.set_up(lo.index).await.expect("lo up");
            // The way out of the node, so that packets to unknown addresses have a route.
            netlink
                .add_veth(&Veth::new("outside", "node", 0), &outside)
                .await
                .expect("veth");
            let outside = netlink.link("outside").await.expect("link");
            netlink.set_up(outside.index).await.expect("up");
            let address = Prefix {
                address: NODE_IP.into(),
                length: 24,
            };
            netlink
                .add_address(outside.index, address)
                .await
                .expect("address");
            let all = Prefix {
                address: Ipv4Addr::UNSPECIFIED.into(),
                length: 0,
            };
            let mut default = Route::to(all, 4);
            default.gateway = Some(Ipv4Addr::new(192, 0, 2, 254).into());
            netlink.set_route(&default).await.expect("default route");
            host::sysctl::set("net.ipv4.ip_forward", "1").expect("ip_forward");
        })
        .expect("enter the node");
        Self {
            node,
            outside,
            pods: BTreeMap::new(),
        }
    }

    /// Gives whoever is outside an address on the node's network.
    pub fn visit(&self, address: Ipv4Addr) {
        self.outside
            .run_async(|| async {
                let netlink = Netlink::connect().expect("rtnetlink");
                let link = netlink.link("node").await.expect("link");
                netlink.set_up(link.index).await.expect("up");
                let prefix = Prefix {
                    address: address.into(),
                    length: 24,
                };
                netlink
                    .add_address(link.index, prefix)
                    .await
                    .expect("address");
            })
            .expect("enter the outside");
    }

    /// A pod with this address.
    pub fn pod(&mut self, address: Ipv4Addr) -> &NetNs {
        let pod = NetNs::anonymous().expect("a new network namespace");
        let spec = PodLink {
            host_name: format!("veth{}", address.octets()[3]),
            pod_name: "eth0".into(),
            addresses: vec![address.into()],
            mtu: 1500,
            node_addresses: vec![NODE_IP.into()],
            from_loopback: false,
            limits: Default::default(),
        };
        self.node
            .run_async(|| async { connect(&spec, &pod).await.expect("connect the pod") })
            .expect("enter the node");
        self.pods.entry(address).or_insert(pod)
    }

    pub fn netns(&self, address: Ipv4Addr) -> &NetNs {
        &self.pods[&address]
    }

    /// A TCP server in a pod that answers with its name and the client's address.
    pub fn serve(&self, address: Ipv4Addr, port: u16) {
        let listener = self
            .netns(address)
            .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind"))
            .expect("enter the pod");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let peer = stream.peer_addr().expect("peer").ip();
                let _ = write!(stream, "{address} {peer}");
            }
        });
    }

    /// A UDP server in a pod that answers with its name.
    pub fn serve_udp(&self, address: Ipv4Addr, port: u16) {
        let socket = self
            .netns(address)
            .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind"))
            .expect("enter the pod");
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(address.to_string().as_bytes(), from);
            }
        });
    }
}

/// Connects once; gives which server answered and what client address it saw.
pub fn ask(netns: &NetNs, target: SocketAddr) -> std::io::Result<(String, IpAddr)> {
    netns.run(|| {
        let mut stream = TcpStream::connect_timeout(&target, GIVE_UP)?;
        stream.set_read_timeout(Some(GIVE_UP))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (server, client) = text
            .split_once(' ')
            .ok_or(std::io::ErrorKind::InvalidData)?;
        Ok((
            server.to_owned(),
            client.parse().map_err(std::io::Error::other)?,
        ))
    })?
}

/// How often each server answered.
pub fn count(netns: &NetNs, target: SocketAddr, times: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        let (server, _) = ask(netns, target).expect("an answer");
        *counts.entry(server).or_default() += 1;
    }
    counts
}

/// Sends a datagram from a socket and gives what answered.
pub fn ask_udp(socket: &UdpSocket, target: SocketAddr) -> std::io::Result<String> {
    socket.set_read_timeout(Some(GIVE_UP))?;
    socket.send_to(b"?", target)?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
