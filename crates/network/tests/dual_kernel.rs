//! Pods with addresses of both families, and of IPv6 alone, in real network namespaces, which
//! vanish with the test. Needs root.
#![expect(clippy::disallowed_methods, reason = "a real kernel, in real time")]

#[path = "../../host/tests/listing/mod.rs"]
mod listing;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use futures::{Stream, StreamExt};
use host::netlink::{Netlink, Route, Veth, mac_of};
use host::netns::NetNs;
use host::nft::Prefix;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher::Event;
use network::cni::{CniError, call};
use serde_json::{Value, json};

/// Only an end for a test that hangs; nothing is concluded from it.
const GIVE_UP: Duration = Duration::from_secs(20);
const BOTH: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/56"];
/// The tables of the agent and of the plugin.
const TABLES: [&str; 3] = ["tiphys-network", "tiphys-pods", "tiphys-host-ports"];
const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
/// Ranges that ServiceCIDRs add; nodes have a way of their own to the last.
const MORE: [&str; 3] = ["10.97.0.0/16", "fd00:10:97::/112", "2001:db8::1:0/112"];

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A namespace joined to `switch` by an interface `eth0` with these addresses.
fn machine(switch: &NetNs, number: u8, addresses: &[&str]) -> NetNs {
    let machine = NetNs::anonymous().expect("a new network namespace needs root");
    switch
        .run_async(|| async {
            let netlink = Netlink::connect().expect("rtnetlink");
            let bridge = netlink.ensure_bridge("br0", mac_of("br0")).await;
            let name = format!("port{number}");
            let cable = Veth::new(&name, "eth0", 0);
            netlink.add_veth(&cable, &machine).await.expect("veth");
            let port = netlink.link(&name).await.expect("port");
            let bridge = bridge.expect("bridge").index;
            netlink.plug(port.index, bridge).await.expect("plug");
            netlink.set_up(port.index).await.expect("up");
        })
        .expect("enter the switch");
    machine
        .run_async(|| async {
            let netlink = Netlink::connect().expect("rtnetlink");
            for name in ["lo", "eth0"] {
                let link = netlink.link(name).await.expect("link");
                netlink.set_up(link.index).await.expect("up");
            }
            let link = netlink.link("eth0").await.expect("eth0");
            for address in addresses {
                let added = netlink.add_address(link.index, prefix(address)).await;
                added.expect("address");
            }
        })
        .expect("enter the machine");
    machine
}

/// A node whose plugin keeps its state in a folder of its own.
struct TestNode {
    name: &'static str,
    netns: NetNs,
    state: tempfile::TempDir,
    addresses: Vec<&'static str>,
    cidrs: Vec<&'static str>,
}

struct TestPod {
    netns: NetNs,
    ips: Vec<IpAddr>,
}

impl TestPod {
    fn six(&self) -> IpAddr {
        *self.ips.iter().find(|ip| ip.is_ipv6()).expect("IPv6")
    }
}

impl TestNode {
    /// `addresses` are those of the machine, without lengths.
    fn new(
        name: &'static str,
        netns: NetNs,
        addresses: &[&'static str],
        cidrs: &[&'static str],
    ) -> Self {
        Self {
            name,
            netns,
            state: tempfile::tempdir().expect("a folder"),
            addresses: addresses.to_vec(),
            cidrs: cidrs.to_vec(),
        }
    }

    fn object(&self) -> Node {
        let address = |a: &&str| json!({"type": "InternalIP", "address": a});
        let addresses: Vec<Value> = self.addresses.iter().map(address).collect();
        serde_json::from_value(json!({
            "metadata": {"name": self.name},
            "spec": {"podCIDR": self.cidrs[0], "podCIDRs": self.cidrs},
            "status": {"addresses": addresses},
        }))
        .expect("a Node")
    }

    /// Runs the agent on a listing of nodes until it has handled that.
    fn agent(&self, nodes: &[Node], conf: &Path, always_tunnel: bool) {
        self.agent_with(nodes, conf, always_tunnel, Some(&MORE));
    }

    /// With these ranges of ServiceCIDRs; none if they are not known yet.
    fn agent_with(&self, nodes: &[Node], conf: &Path, always_tunnel: bool, more: Option<&[&str]>) {
        let mut events = vec![Event::Init];
        events.extend(nodes.iter().cloned().map(Event::InitApply));
        events.push(Event::InitDone);
        let six_alone = self.cidrs.iter().all(|c| c.contains(':'));
        let whole = BOTH.iter().filter(|c| !six_alone || c.contains(':'));
        let whole = whole.map(|c| prefix(c)).collect();
        let mut config = network::Config::new(self.name, whole, self.state.path().to_owned());
        config.conf_dir = conf.join(self.name);
        config.always_tunnel = always_tunnel;
        config.service_cidrs = SERVICES.map(prefix).to_vec();
        self.netns
            .run_async(|| async {
                let events = futures::stream::iter(events);
                network::run_on(events, ranges(more), config, std::future::pending())
                    .await
                    .expect("the agent")
            })
            .expect("enter the node");
    }

    fn call(
        &self,
        command: &str,
        id: &str,
        pod: &NetNs,
        ports: Value,
    ) -> Result<Option<Value>, CniError> {
        let conf = json!({
            "cniVersion": "1.1.0", "name": "tiphys", "type": "tiphys-cni",
            "podCIDRs": self.cidrs, "nodeAddresses": self.addresses,
            "stateDir": self.state.path(), "mtu": 1400,
            "runtimeConfig": {"portMappings": ports},
        });
        let netns = format!("/proc/self/fd/{}", pod.as_fd().as_raw_fd());
        let variable = |name: &str| match name {
            "CNI_COMMAND" => Some(command.to_owned()),
            "CNI_CONTAINERID" => Some(id.to_owned()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            "CNI_NETNS" => Some(netns.clone()),
            _ => None,
        };
        self.netns
            .run(|| call(variable, &conf.to_string()))
            .expect("enter the node")
    }

    fn pod(&self, id: &str, ports: Value) -> TestPod {
        let netns = NetNs::anonymous().expect("a new network namespace");
        let result = self.call("ADD", id, &netns, ports).expect("ADD");
        let result = result.expect("a result");
        let all = result["ips"].as_array().expect("a list");
        let ips = all.iter().map(|entry| {
            let text = entry["address"].as_str().expect("an address");
            let one = prefix(text);
            assert!(!one.has_others(), "{text} is of one host");
            one.address
        });
        let ips: Vec<IpAddr> = ips.collect();
        assert_eq!(ips.len(), self.cidrs.len(), "{result}");
        for (ip, cidr) in ips.iter().zip(&self.cidrs) {
            assert!(prefix(cidr).contains(*ip), "{ip} of {cidr}");
        }
        TestPod { netns, ips }
    }
}

/// A listing of one ServiceCIDR with these ranges.
fn ranges(cidrs: Option<&[&str]>) -> impl Stream<Item = Event<ServiceCIDR>> + Unpin + use<> {
    let listing = cidrs.map(|cidrs| {
        let range = json!({ "metadata": { "name": "more" }, "spec": { "cidrs": cidrs } });
        let range = serde_json::from_value(range).expect("a range");
        [Event::Init, Event::InitApply(range), Event::InitDone]
    });
    futures::stream::iter(listing.into_iter().flatten()).chain(futures::stream::pending())
}

/// A server that answers each client of either family with the client's address.
fn serve(netns: &NetNs, port: u16) {
    let bind = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind");
    let listener = netns.run(bind).expect("enter the server's namespace");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().expect("peer").ip().to_canonical();
            let _ = write!(stream, "{peer}");
        }
    });
}

/// The address that a server sees when this namespace connects.
fn seen_by(netns: &NetNs, server: IpAddr, port: u16) -> std::io::Result<IpAddr> {
    netns.run(|| {
        let address = SocketAddr::new(server, port);
        let mut stream = TcpStream::connect_timeout(&address, GIVE_UP)?;
        stream.set_read_timeout(Some(GIVE_UP))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        text.parse().map_err(std::io::Error::other)
    })?
}

struct Two {
    _switch: NetNs,
    a: TestNode,
    b: TestNode,
    outside: NetNs,
    _conf: tempfile::TempDir,
}

/// Two nodes with agents, and a machine beside them, all with addresses of both families; nodes are
/// known by those that `known` leaves.
fn two(known: fn(&&str) -> bool, tunnel: bool) -> Two {
    let switch = NetNs::anonymous().expect("a new network namespace needs root");
    let node = |name, number, own: [&'static str; 2], cidrs: [&'static str; 2]| {
        let lengths = [24, 64].iter().zip(own).map(|(l, a)| format!("{a}/{l}"));
        let lengths: Vec<String> = lengths.collect();
        let texts: Vec<&str> = lengths.iter().map(String::as_str).collect();
        let netns = machine(&switch, number, &texts);
        let own: Vec<&str> = own.into_iter().filter(known).collect();
        // Of a node that is known by IPv6 alone, the pods have IPv6 alone.
        let four = own.iter().any(|a| !a.contains(':'));
        let cidrs: Vec<&str> = cidrs
            .into_iter()
            .filter(|c| four || c.contains(':'))
            .collect();
        TestNode::new(name, netns, &own, &cidrs)
    };
    let a = node(
        "a",
        1,
        ["192.0.2.1", "2001:db8::1"],
        ["10.244.1.0/24", "fd00:10:244:1::/64"],
    );
    let b = node(
        "b",
        2,
        ["192.0.2.2", "2001:db8::2"],
        ["10.244.2.0/24", "fd00:10:244:2::/64"],
    );
    let outside = machine(&switch, 3, &["192.0.2.3/24", "2001:db8::3/64"]);
    let conf = tempfile::tempdir().expect("a folder");
    let nodes = [a.object(), b.object()];
    for node in [&a, &b] {
        node.agent(&nodes, conf.path(), tunnel);
    }
    Two {
        _switch: switch,
        a,
        b,
        outside,
        _conf: conf,
    }
}

fn pods_talk_by_all_their_addresses(known: fn(&&str) -> bool, tunnel: bool) {
    let Two {
        _switch,
        a,
        b,
        outside,
        _conf,
    } = two(known, tunnel);
    let (one, beside) = (a.pod("one", json!([])), a.pod("beside", json!([])));
    let two = b.pod("two", json!([]));
    serve(&two.netns, 80);
    serve(&beside.netns, 80);
    serve(&outside, 80);
    for (i, own) in one.ips.iter().enumerate() {
        let to = two.ips[i];
        let seen = seen_by(&one.netns, to, 80).expect("from node to node");
        assert_eq!(seen, *own, "not translated");
        let near = seen_by(&one.netns, beside.ips[i], 80).expect("on the node");
        assert_eq!(near, *own);
        let itself = seen_by(&beside.netns, beside.ips[i], 80).expect("to itself");
        assert_eq!(itself, beside.ips[i]);
        seen_by(&a.netns, to, 80).expect("from the other node itself");
        seen_by(&b.netns, to, 80).expect("from its own node");
        let far = if own.is_ipv4() {
            "192.0.2.3"
        } else {
            "2001:db8::3"
        };
        let seen = seen_by(&one.netns, ip(far), 80).expect("out of the cluster");
        let node = if own.is_ipv4() {
            "192.0.2.1"
        } else {
            "2001:db8::1"
        };
        assert_eq!(seen, ip(node), "translated to the node");
    }
    let unused = seen_by(&one.netns, ip("fd00:10:244:1::ffff"), 80).expect_err("nobody's");
    assert_ne!(unused.kind(), std::io::ErrorKind::TimedOut, "{unused}");
    a.call("CHECK", "one", &one.netns, json!([]))
        .expect("as it was made");
    one.netns
        .run_async(|| async {
            let netlink = Netlink::connect().expect("rtnetlink");
            netlink.delete_link("eth0").await.expect("gone");
        })
        .expect("enter the pod");
    a.call("CHECK", "one", &one.netns, json!([]))
        .expect_err("it is not");
    a.call("DEL", "one", &one.netns, json!([])).expect("DEL");

    // A node goes: its routes go.
    a.agent(&[a.object()], _conf.path(), tunnel);
    let routes = a.netns.run_async(|| async {
        let netlink = Netlink::connect().expect("rtnetlink");
        netlink.routes().await.expect("routes")
    });
    let routes = routes.expect("enter the node");
    // These nodes have no default route: Services would be nowhere.
    let [four, six, near] = MORE.map(prefix);
    let leads = |routes: &[Route], to: Prefix| routes.iter().any(|r| r.destination == to);
    for services in SERVICES.map(prefix).into_iter().chain([four, six]) {
        assert!(leads(&routes, services), "{services}: {routes:?}");
    }
    assert!(!leads(&routes, near), "a neighbours' address: {routes:?}");
    // A range stays while it is not known that it has gone.
    for (more, stays) in [(None, true), (Some(&MORE[..0]), false)] {
        a.agent_with(&[a.object()], _conf.path(), tunnel, more);
        let now = a.netns.run_async(|| async {
            let netlink = Netlink::connect().expect("rtnetlink");
            netlink.routes().await.expect("routes")
        });
        let now = now.expect("enter the node");
        assert_eq!(
            (leads(&now, four), leads(&now, six)),
            (stays, stays),
            "{now:?}"
        );
        assert!(leads(&now, prefix(SERVICES[1])), "{now:?}");
    }
    for route in routes {
        let gone = b.cidrs.iter().any(|c| prefix(c) == route.destination);
        assert!(!gone, "{route:?}");
    }
}

#[test]
fn pods_of_neighbouring_nodes_talk_directly_in_both_families() {
    pods_talk_by_all_their_addresses(|_| true, false);
}

#[test]
fn pods_of_distant_nodes_talk_by_tunnel_in_both_families() {
    pods_talk_by_all_their_addresses(|_| true, true);
}

#[test]
fn pods_of_nodes_that_are_known_by_ipv6_alone_talk() {
    let six = |address: &&str| address.contains(':');
    pods_talk_by_all_their_addresses(six, false);
}

#[test]
fn a_tunnel_goes_by_ipv6_where_nodes_are_known_by_that() {
    let six = |address: &&str| address.contains(':');
    pods_talk_by_all_their_addresses(six, true);
}

#[test]
fn pods_talk_by_ipv6_though_their_nodes_are_known_by_ipv4_alone() {
    let four = |address: &&str| !address.contains(':');
    pods_talk_by_all_their_addresses(four, false);
}

#[test]
fn host_ports_lead_to_the_pod_in_both_families() {
    let lab = two(|_| true, false);
    let anywhere = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let by_six = json!([
        {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "2001:db8::1"},
    ]);
    let pod = lab.a.pod("web", anywhere.clone());
    let other = lab.a.pod("six", by_six.clone());
    serve(&pod.netns, 80);
    serve(&other.netns, 80);
    for (node, client) in [("192.0.2.1", "192.0.2.3"), ("2001:db8::1", "2001:db8::3")] {
        let seen = seen_by(&lab.outside, ip(node), 8080).expect("from outside");
        assert_eq!(seen, ip(client), "the client's address is kept");
        seen_by(&lab.a.netns, ip(node), 8080).expect("from the node");
        let itself = seen_by(&pod.netns, ip(node), 8080).expect("from itself");
        assert!(!pod.ips.contains(&itself), "{itself}");
    }
    seen_by(&lab.outside, ip("2001:db8::1"), 8081).expect("at this address");
    // People see all of that, and the tables of the agent beside it.
    let shown = listing::listing(&lab.a.netns);
    for (family, table) in ["ip", "ip6"]
        .into_iter()
        .flat_map(|f| TABLES.map(|t| (f, t)))
    {
        let text = format!("table {family} {table} {{");
        assert!(shown.contains(&text), "{text}: {shown}");
    }
    let refused = std::io::ErrorKind::ConnectionRefused;
    let four = seen_by(&lab.outside, ip("192.0.2.1"), 8081).expect_err("not at the other");
    assert_eq!(four.kind(), refused);
    lab.a.call("DEL", "six", &other.netns, by_six).expect("DEL");
    lab.a.call("DEL", "web", &pod.netns, anywhere).expect("DEL");
    for node in ["192.0.2.1", "2001:db8::1"] {
        let gone = seen_by(&lab.outside, ip(node), 8080).expect_err("nobody is there");
        assert_eq!(gone.kind(), refused);
    }
}

#[test]
fn a_pod_cannot_speak_under_anothers_address_of_ipv6() {
    let lab = two(|_| true, false);
    let (liar, victim) = (lab.a.pod("liar", json!([])), lab.a.pod("victim", json!([])));
    let target = lab.b.pod("target", json!([]));
    let listen = || std::net::UdpSocket::bind("[::]:9").expect("bind");
    let receiver = target.netns.run(listen).expect("enter the pod");
    receiver.set_read_timeout(Some(GIVE_UP)).expect("a limit");
    let to = SocketAddr::new(target.six(), 9);
    // It takes the other's address as one of its own, and sends from that.
    let send = |from: IpAddr, text: &'static [u8]| {
        liar.netns
            .run_async(|| async move {
                let netlink = Netlink::connect().expect("rtnetlink");
                let link = netlink.link("eth0").await.expect("eth0");
                let own = Prefix::of_one(from);
                netlink.add_address(link.index, own).await.expect("address");
                let socket = std::net::UdpSocket::bind((from, 0)).expect("bind");
                socket.send_to(text, to).expect("sent");
            })
            .expect("enter the pod");
    };
    send(victim.six(), b"forged");
    send(liar.six(), b"own");
    let mut buffer = [0; 16];
    let (length, from) = receiver.recv_from(&mut buffer).expect("one arrives");
    assert_eq!((&buffer[..length], from.ip()), (&b"own"[..], liar.six()));
    // Nor is anything taken from it that was for the other.
    serve(&victim.netns, 80);
    seen_by(&target.netns, victim.six(), 80).expect("pod to pod");
    seen_by(&lab.a.netns, victim.six(), 80).expect("node to pod");
}
