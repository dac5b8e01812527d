//! A pod that speaks under addresses that are not its own: IPv4, neighbours and IPv6.

use super::*;
use host::netlink::Route;
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketType};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::OwnedFd;

/// A datagram with any source address, made by hand: what `NET_RAW` allows.
fn forge(pod: &NetNs, from: Ipv4Addr, to: Ipv4Addr, port: u16) {
    let payload = b"forged";
    let length = |bytes: usize| u16::try_from(bytes).expect("short").to_be_bytes();
    let mut packet = vec![0x45, 0];
    packet.extend(length(28 + payload.len()));
    // No fragment, 64 hops, UDP; the kernel fills the checksum in.
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.octets().into_iter().chain(to.octets()));
    // A UDP checksum of zero is none.
    packet.extend(
        [
            port.to_be_bytes(),
            port.to_be_bytes(),
            length(8 + payload.len()),
            [0, 0],
        ]
        .concat(),
    );
    packet.extend(payload);
    pod.run(|| {
        let raw = raw_socket(AddressFamily::INET);
        let to = std::net::SocketAddrV4::new(to, 0);
        rustix::net::sendto(&raw, &packet, SendFlags::empty(), &to).expect("sent")
    })
    .expect("enter the pod");
}

/// Its packets carry their own headers.
fn raw_socket(family: AddressFamily) -> OwnedFd {
    let protocol = Protocol::from_raw(255.try_into().expect("not zero"));
    rustix::net::socket(family, SocketType::RAW, Some(protocol)).expect("a raw socket")
}

#[test]
fn a_pod_speaks_under_its_own_address_only() {
    let switch = switch();
    let node = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.1.0/24");
    let conf = tempfile::tempdir().expect("a folder");
    let nodes = [
        node_object("a", "192.0.2.1", node.cidr),
        node_object("b", "192.0.2.2", "10.244.2.0/24"),
    ];
    // A pod that was there before the rules were.
    let liar = node.pod("liar", json!([]));
    ungroup(&node.netns);
    agent(&node, "a", &nodes, &conf.path().join("a"), false);
    let node_ip = Ipv4Addr::new(192, 0, 2, 1);
    let (victim, target) = (node.pod("victim", json!([])), node.pod("target", json!([])));
    let others = [
        victim.address,
        node_ip,
        // A pod elsewhere, a Service, somebody outside.
        Ipv4Addr::new(10, 244, 2, 7),
        Ipv4Addr::new(10, 96, 0, 10),
        Ipv4Addr::new(198, 51, 100, 1),
        Ipv4Addr::LOCALHOST,
    ];
    for (netns, to) in [(&target.netns, target.address), (&node.netns, node_ip)] {
        let receiver = udp(netns, 9);
        for from in others {
            forge(&liar.netns, from, to, 9);
        }
        // Its own comes through, and came after all others.
        forge(&liar.netns, liar.address, to, 9);
        let mut buffer = [0; 64];
        let (_, from) = receiver.recv_from(&mut buffer).expect("one arrives");
        assert_eq!(from.ip(), liar.address);
        receiver.set_nonblocking(true).expect("no waiting");
        let more = receiver.recv_from(&mut buffer).map(|(_, from)| from);
        assert!(more.is_err(), "{more:?}");
    }
    // By ARP it claims the other's address, and nobody believes it.
    claim(&liar, victim.address);
    serve(&victim.netns, 80);
    seen_by(&target.netns, victim.address, 80).expect("pod to pod");
    seen_by(&node.netns, victim.address, 80).expect("node to pod");
}

/// As if links had been made when there was no group for them.
fn ungroup(netns: &NetNs) {
    netns
        .run_async(|| async {
            let netlink = Netlink::connect().expect("rtnetlink");
            for link in netlink.links().await.expect("links") {
                if link.group == host::podlink::LINK_GROUP {
                    netlink.set_group(link.index, 0).await.expect("group");
                }
            }
        })
        .expect("enter the node");
}

/// Takes another's address and asks for a neighbour by it.
fn claim(liar: &TestPod, address: Ipv4Addr) {
    liar.netns
        .run_async(|| async {
            let netlink = Netlink::connect().expect("rtnetlink");
            let link = netlink.link("eth0").await.expect("eth0");
            let own = Prefix {
                address: address.into(),
                length: 32,
            };
            netlink.add_address(link.index, own).await.expect("address");
            let mut route = Route::to(prefix("192.0.2.77/32"), 4);
            route.link = Some(link.index);
            netlink.set_route(&route).await.expect("route");
            let socket = UdpSocket::bind((address, 0)).expect("bind");
            socket.send_to(b"who is it", "192.0.2.77:9").expect("sent");
        })
        .expect("enter the pod");
}

/// The link-local address of an interface; it is there a moment after the link came up.
fn link_local(netns: &NetNs, name: &str) -> SocketAddrV6 {
    let started = std::time::Instant::now();
    loop {
        let found = netns
            .run_async(|| async {
                let netlink = Netlink::connect().expect("rtnetlink");
                let index = netlink.link(name).await.expect("link").index;
                let all = netlink.addresses(Some(index)).await.expect("addresses");
                let six = all.iter().find_map(|a| match a.address {
                    IpAddr::V6(a) => Some(a),
                    IpAddr::V4(_) => None,
                })?;
                // Not while the kernel still asks whether another one has it.
                let address = SocketAddrV6::new(six, 0, 0, index);
                UdpSocket::bind(address).ok().map(|_| address)
            })
            .expect("enter the namespace");
        if let Some(address) = found {
            return address;
        }
        assert!(started.elapsed() < GIVE_UP, "no link-local address");
        std::thread::yield_now();
    }
}

#[test]
fn a_pod_speaks_ipv6_to_its_end_of_the_cable_only() {
    let switch = switch();
    let node = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.1.0/24");
    let conf = tempfile::tempdir().expect("a folder");
    let nodes = [node_object("a", "192.0.2.1", node.cidr)];
    agent(&node, "a", &nodes, &conf.path().join("a"), false);
    let pod = node.pod("pod", json!([]));
    let name = pod.result["interfaces"][0]["name"]
        .as_str()
        .expect("a name");
    let mut to = link_local(&node.netns, name);
    let mut own = link_local(&pod.netns, "eth0");
    to.set_scope_id(own.scope_id());
    let receive = || UdpSocket::bind("[::]:9").expect("bind");
    let receiver = node.netns.run(receive).expect("enter the node");
    receiver.set_read_timeout(Some(GIVE_UP)).expect("a limit");
    own.set_port(9);
    to.set_port(9);
    let sender = pod.netns.run(|| UdpSocket::bind(own).expect("bind"));
    let sender = sender.expect("enter the pod");
    let mut buffer = [0; 64];
    sender.send_to(b"first", to).expect("sent");
    let (length, _) = receiver.recv_from(&mut buffer).expect("one arrives");
    assert_eq!(&buffer[..length], b"first");
    forge6(&pod.netns, "2001:db8::1".parse().expect("an address"), to);
    sender.send_to(b"last", to).expect("sent");
    let (length, from) = receiver.recv_from(&mut buffer).expect("one arrives");
    assert_eq!(&buffer[..length], b"last", "{from}");
}

fn forge6(pod: &NetNs, from: Ipv6Addr, to: SocketAddrV6) {
    let payload = b"forged";
    let length = u16::try_from(8 + payload.len()).expect("short");
    let port = to.port().to_be_bytes();
    let mut udp = [port, port, length.to_be_bytes(), [0, 0]].concat();
    udp.extend(payload);
    // RFC 8200, section 8.1: over addresses, length and protocol too.
    let mut summed = [from.octets(), to.ip().octets()].concat();
    summed.extend([0, 0, udp[4], udp[5], 0, 0, 0, 17]);
    summed.extend(&udp);
    let words = summed
        .chunks(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], *w.get(1).unwrap_or(&0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).expect("folded");
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0, udp[4], udp[5], 17, 64];
    packet.extend(from.octets().into_iter().chain(to.ip().octets()));
    packet.extend(udp);
    pod.run(|| {
        let raw = raw_socket(AddressFamily::INET6);
        let to = SocketAddrV6::new(*to.ip(), 0, 0, to.scope_id());
        rustix::net::sendto(&raw, &packet, SendFlags::empty(), &to).expect("sent")
    })
    .expect("enter the pod");
}
