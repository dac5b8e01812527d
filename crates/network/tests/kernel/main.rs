//! The plugin and the agent in real network namespaces, which vanish with the test. Needs root.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a real kernel, in real time"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use host::netlink::{Netlink, Veth, mac_of};
use host::netns::NetNs;
use host::nft::Prefix;
use network::cni::{CniError, call};
use serde_json::{Value, json};

mod agents;
mod encrypted;
mod flows;
mod limits;
mod spoofed;

use agents::{agent, node_object};

/// Only an end for a test that hangs; nothing is concluded from it.
const GIVE_UP: Duration = Duration::from_secs(20);

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

/// A namespace joined to `switch` by an interface `eth0` with this address.
fn machine(switch: &NetNs, number: u8, address: &str) -> NetNs {
    let machine = NetNs::anonymous().expect("a new network namespace needs root");
    switch
        .run_async(|| async {
            let netlink = Netlink::connect().expect("rtnetlink");
            let bridge = netlink
                .ensure_bridge("br0", mac_of("br0"))
                .await
                .expect("bridge");
            let name = format!("port{number}");
            netlink
                .add_veth(&Veth::new(&name, "eth0", 0), &machine)
                .await
                .expect("veth");
            let port = netlink.link(&name).await.expect("port");
            netlink
                .attach(port.index, bridge.index)
                .await
                .expect("attach");
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
            netlink
                .add_address(link.index, prefix(address))
                .await
                .expect("address");
        })
        .expect("enter the machine");
    machine
}

fn switch() -> NetNs {
    NetNs::anonymous().expect("a new network namespace needs root")
}

/// A node whose plugin keeps its state in a folder of its own.
struct TestNode {
    netns: NetNs,
    state: tempfile::TempDir,
    cidr: &'static str,
}

struct TestPod {
    id: String,
    netns: NetNs,
    address: Ipv4Addr,
    result: Value,
}

impl TestNode {
    fn new(netns: NetNs, cidr: &'static str) -> Self {
        Self {
            netns,
            state: tempfile::tempdir().expect("a folder"),
            cidr,
        }
    }

    fn call(
        &self,
        command: &str,
        id: &str,
        pod: Option<&NetNs>,
        ports: Value,
    ) -> Result<Option<Value>, CniError> {
        self.call_with(command, id, pod, json!({"portMappings": ports}))
    }

    /// A call with all that a runtime says of one pod.
    fn call_with(
        &self,
        command: &str,
        id: &str,
        pod: Option<&NetNs>,
        runtime: Value,
    ) -> Result<Option<Value>, CniError> {
        let mut conf = self.conf();
        conf["runtimeConfig"] = runtime;
        let netns = pod.map(|pod| format!("/proc/self/fd/{}", pod.as_fd().as_raw_fd()));
        let variable = |name: &str| match name {
            "CNI_COMMAND" => Some(command.to_owned()),
            "CNI_CONTAINERID" => Some(id.to_owned()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            "CNI_NETNS" => netns.clone(),
            _ => None,
        };
        self.netns
            .run(|| call(variable, &conf.to_string()))
            .expect("enter the node")
    }

    fn conf(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": "tiphys", "type": "tiphys-cni",
            "podCIDR": self.cidr, "stateDir": self.state.path(), "mtu": 1400,
        })
    }

    /// A call that is about no pod, with more in its configuration.
    fn call_for_all(&self, command: &str, more: &Value) -> Result<Option<Value>, CniError> {
        let mut conf = self.conf();
        for (key, value) in more.as_object().expect("an object") {
            conf[key] = value.clone();
        }
        let variable = |name: &str| (name == "CNI_COMMAND").then(|| command.to_owned());
        self.netns
            .run(|| call(variable, &conf.to_string()))
            .expect("enter the node")
    }

    fn pod(&self, id: &str, ports: Value) -> TestPod {
        let netns = NetNs::anonymous().expect("a new network namespace");
        let result = self
            .call("ADD", id, Some(&netns), ports)
            .expect("ADD")
            .expect("a result");
        let text = result["ips"][0]["address"].as_str().expect("an address");
        let address = text
            .strip_suffix("/32")
            .expect("of one host")
            .parse()
            .expect("an address");
        TestPod {
            id: id.to_owned(),
            netns,
            address,
            result,
        }
    }

    fn links(&self) -> Vec<String> {
        let list = || async {
            let links = Netlink::connect()
                .expect("rtnetlink")
                .links()
                .await
                .expect("links");
            links.into_iter().map(|link| link.name).collect()
        };
        self.netns.run_async(list).expect("enter the node")
    }
}

/// A server that answers each client with the client's address.
fn serve(netns: &NetNs, port: u16) {
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind");
    let listener = netns.run(bind).expect("enter the server's namespace");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().expect("peer").ip();
            let _ = write!(stream, "{peer}");
        }
    });
}

/// A server that answers each client with an address: which server it is.
fn serve_identity(netns: &NetNs, port: u16, address: Ipv4Addr) {
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind");
    let listener = netns.run(bind).expect("enter the server's namespace");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = write!(stream, "{address}");
        }
    });
}

/// The address that a server sees when this namespace connects.
fn seen_by(netns: &NetNs, server: Ipv4Addr, port: u16) -> std::io::Result<IpAddr> {
    netns.run(|| {
        let address = SocketAddr::new(server.into(), port);
        let mut stream = TcpStream::connect_timeout(&address, GIVE_UP)?;
        stream.set_read_timeout(Some(GIVE_UP))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        text.parse().map_err(std::io::Error::other)
    })?
}

#[test]
fn a_bridge_keeps_its_address_whatever_its_ports_do() {
    let switch = switch();
    let lost = NetNs::anonymous().expect("a new network namespace");
    let macs = switch
        .run_async(|| async {
            let netlink = Netlink::connect().expect("rtnetlink");
            let mac =
                async |step: &str| (step.to_owned(), netlink.link("br0").await.expect(step).mac);
            let wanted = mac_of("br0");
            let bridge = netlink.ensure_bridge("br0", wanted).await.expect("bridge");
            let mut seen = vec![mac("made").await];
            // Lower than any other: what a bridge without an address of its own would take.
            for lowest in [[0x02, 0, 0, 0, 0, 1], [0x02, 0, 0, 0, 0, 0]] {
                let mut cable = Veth::new("port", "far", 0);
                cable.mac = lowest;
                netlink.add_veth(&cable, &lost).await.expect("veth");
                let port = netlink.link("port").await.expect("port");
                assert_eq!(port.mac, lowest);
                netlink.plug(port.index, bridge.index).await.expect("plug");
                netlink.set_up(port.index).await.expect("up");
                seen.push(mac("plugged").await);
                netlink.delete_link("port").await.expect("gone");
                seen.push(mac("unplugged").await);
            }
            // One that was made without it, as by an earlier version, is mended.
            netlink
                .set_mac(bridge.index, [0x02, 9, 9, 9, 9, 9])
                .await
                .expect("set");
            netlink.ensure_bridge("br0", wanted).await.expect("found");
            seen.push(mac("mended").await);
            seen
        })
        .expect("enter the switch");
    for (step, mac) in macs {
        assert_eq!(mac, mac_of("br0"), "{step}");
    }
}

#[test]
fn pods_come_and_go() {
    // The node's interface lives as long as what it is joined to.
    let switch = switch();
    let node = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.0.0/24");
    let (one, two) = (node.pod("one", json!([])), node.pod("two", json!([])));
    assert_ne!(one.address, two.address);
    assert_eq!(one.result["interfaces"][1]["name"], "eth0");
    serve(&one.netns, 80);
    assert_eq!(
        seen_by(&two.netns, one.address, 80).expect("pod to pod"),
        two.address
    );
    assert_eq!(
        seen_by(&one.netns, one.address, 80).expect("to itself"),
        one.address
    );
    seen_by(&node.netns, one.address, 80).expect("node to pod");
    serve(&node.netns, 81);
    let node_ip = Ipv4Addr::new(192, 0, 2, 1);
    assert_eq!(
        seen_by(&one.netns, node_ip, 81).expect("pod to node"),
        one.address
    );
    node.call("CHECK", "one", Some(&one.netns), json!([]))
        .expect("as it was made");

    // Once, twice, and without its namespace.
    for netns in [Some(&one.netns), Some(&one.netns), None] {
        node.call("DEL", &one.id, netns, json!([])).expect("DEL");
    }
    assert_eq!(
        node.links()
            .iter()
            .filter(|name| name.starts_with("veth"))
            .count(),
        1
    );
    node.call("CHECK", "one", Some(&one.netns), json!([]))
        .expect_err("it is gone");
    node.call("CHECK", "two", Some(&two.netns), json!([]))
        .expect("the other is not");
    drop(one);
    // The same identifier again, and an ADD repeated after one that was not noticed.
    let again = node.pod("one", json!([]));
    let repeated = NetNs::anonymous().expect("a new network namespace");
    let result = node
        .call("ADD", "one", Some(&repeated), json!([]))
        .expect("ADD again");
    let address = format!("{}/32", again.address);
    assert_eq!(
        result.expect("a result")["ips"][0]["address"],
        address.as_str()
    );
}

#[test]
fn addresses_of_vanished_pods_are_taken_back() {
    // The node's interface lives as long as what it is joined to.
    let switch = switch();
    let node = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.0.0/30");
    let (one, two) = (node.pod("one", json!([])), node.pod("two", json!([])));
    let third = NetNs::anonymous().expect("a new network namespace");
    let error = node
        .call("ADD", "three", Some(&third), json!([]))
        .expect_err("full");
    assert_eq!(error.code, 101);
    let freed = two.address;
    // The pod's end of the line vanishes with its namespace, and ours with it; nobody calls DEL.
    drop((two, one));
    while node.links().iter().any(|name| name.starts_with("veth")) {
        std::thread::yield_now();
    }
    let result = node
        .call("ADD", "three", Some(&third), json!([]))
        .expect("ADD");
    assert!(result.is_some());
    assert!(prefix(node.cidr).contains(freed.into()));
}

#[test]
fn host_ports_lead_to_the_pod() {
    let switch = switch();
    let node = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.0.0/24");
    let outside = machine(&switch, 2, "192.0.2.2/24");
    let node_ip = Ipv4Addr::new(192, 0, 2, 1);
    let ports = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"},
    ]);
    let pod = node.pod("web", ports.clone());
    serve(&pod.netns, 80);
    for port in [8080, 8081] {
        let seen = seen_by(&outside, node_ip, port).expect("from outside");
        assert_eq!(
            seen,
            Ipv4Addr::new(192, 0, 2, 2),
            "the client's address is kept"
        );
        seen_by(&node.netns, node_ip, port).expect("from the node");
        assert_ne!(
            seen_by(&pod.netns, node_ip, port).expect("from itself"),
            pod.address
        );
    }
    node.call("DEL", "web", Some(&pod.netns), ports)
        .expect("DEL");
    let error = seen_by(&outside, node_ip, 8080).expect_err("nobody is there");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn host_ports_differ_by_address_and_protocol() {
    let switch = switch();
    let node = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.0.0/24");
    let outside = machine(&switch, 2, "192.0.2.2/24");
    let elsewhere = Ipv4Addr::new(192, 0, 2, 2);
    let conf = tempfile::tempdir().expect("a folder");
    let nodes = [node_object("a", "192.0.2.1", node.cidr)];
    agent(&node, "a", &nodes, &conf.path().join("a"), false);
    let node_ip = Ipv4Addr::new(192, 0, 2, 1);
    let loopback = Ipv4Addr::LOCALHOST;
    let refused = std::io::ErrorKind::ConnectionRefused;
    // As containerd writes them.
    let port = |protocol: &str, ip: Ipv4Addr| json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": protocol, "HostIP": ip}]);
    let at_loopback = node.pod("loopback", port("tcp", loopback));
    let at_address = node.pod("address", port("tcp", node_ip));
    let by_datagram = node.pod("datagram", port("udp", node_ip));
    // One that names an address that is not the node's gets nothing of what goes there.
    let greedy = node.pod("greedy", port("tcp", elsewhere));
    for pod in [&at_loopback, &at_address, &greedy] {
        serve_identity(&pod.netns, 80, pod.address);
    }
    serve_identity(&outside, 8080, elsewhere);

    let answered = |from: &NetNs, to| seen_by(from, to, 8080).expect("answered");
    assert_eq!(answered(&node.netns, loopback), at_loopback.address);
    assert_eq!(answered(&node.netns, node_ip), at_address.address);
    assert_eq!(answered(&outside, node_ip), at_address.address);
    assert_eq!(answered(&node.netns, elsewhere), IpAddr::from(elsewhere));
    assert_eq!(
        answered(&at_address.netns, elsewhere),
        IpAddr::from(elsewhere)
    );
    let (pods_end, client) = (udp(&by_datagram.netns, 80), udp(&outside, 0));
    client.send_to(b"hello", (node_ip, 8080)).expect("sent");
    let mut buffer = [0; 64];
    let (_, from) = pods_end.recv_from(&mut buffer).expect("one arrives");
    pods_end.send_to(b"hello too", from).expect("sent");
    let (_, from) = client.recv_from(&mut buffer).expect("an answer");
    assert_eq!(from, SocketAddr::new(node_ip.into(), 8080));

    for (pod, ports) in [
        (&at_loopback, port("tcp", loopback)),
        (&at_address, port("tcp", node_ip)),
        (&by_datagram, port("udp", node_ip)),
        // What was accepted once is removed whatever the configuration says now, and again.
        (&greedy, json!([{"HostPort": "many"}])),
        (&greedy, json!("none")),
    ] {
        node.call("DEL", &pod.id, None, ports).expect("DEL");
    }
    for to in [loopback, node_ip] {
        let error = seen_by(&node.netns, to, 8080).expect_err("nobody is there");
        assert_eq!(error.kind(), refused);
    }
}

#[test]
fn what_is_not_in_use_is_collected() {
    let switch = switch();
    let node = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.0.0/24");
    let mapped = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let (kept, left) = (node.pod("kept", json!([])), node.pod("left", mapped));
    serve(&left.netns, 80);
    let node_ip = Ipv4Addr::new(192, 0, 2, 1);
    seen_by(&node.netns, node_ip, 8080).expect("mapped");
    node.call_for_all("STATUS", &json!({})).expect("ready");
    node.call_for_all("GC", &json!({}))
        .expect_err("nobody says what is in use");
    node.call("CHECK", "left", Some(&left.netns), json!([]))
        .expect("still there");
    let in_use = json!([{"containerID": "kept", "ifname": "eth0"}]);
    node.call_for_all("GC", &json!({"cni.dev/valid-attachments": in_use}))
        .expect("collected");
    node.call("CHECK", "kept", Some(&kept.netns), json!([]))
        .expect("in use");
    node.call("CHECK", "left", Some(&left.netns), json!([]))
        .expect_err("not in use");
    let error = seen_by(&node.netns, node_ip, 8080).expect_err("not mapped");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let unknown = node.call_for_all("STATUS", &json!({"podCIDR": "nowhere"}));
    assert_eq!(unknown.map_err(|e| e.code), Err(7));
}

fn udp(netns: &NetNs, port: u16) -> UdpSocket {
    let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind");
    let socket = netns.run(bind).expect("enter the namespace");
    socket.set_read_timeout(Some(GIVE_UP)).expect("a limit");
    socket
}

#[test]
fn wrong_calls_get_the_specified_errors() {
    let call = |command: &'static str, input: &str| {
        call(
            |name| match name {
                "CNI_COMMAND" => Some(command.to_owned()),
                "CNI_CONTAINERID" => Some("c1".to_owned()),
                "CNI_IFNAME" => Some("eth0".to_owned()),
                _ => None,
            },
            input,
        )
    };
    let code = |command, input| call(command, input).expect_err("an error").code;
    assert_eq!(code("JUMP", "{}"), 4);
    assert_eq!(code("ADD", "{"), 6);
    assert_eq!(code("ADD", r#"{"cniVersion": "9.0.0", "name": "n"}"#), 1);
    assert_eq!(code("ADD", r#"{"cniVersion": "1.0.0", "name": "n"}"#), 7);
    let complete = r#"{"cniVersion": "1.0.0", "name": "n", "podCIDR": "10.0.0.0/24", "stateDir": "/nonexistent"}"#;
    assert_eq!(code("ADD", complete), 4, "no CNI_NETNS");
    let version = call("VERSION", r#"{"cniVersion": "0.4.0"}"#).expect("answered");
    assert_eq!(version.expect("a result")["supportedVersions"][3], "1.0.0");
}

#[test]
fn the_loopback_plugin_takes_loopback_up() {
    let pod = NetNs::anonymous().expect("a new network namespace");
    let netns = format!("/proc/self/fd/{}", pod.as_fd().as_raw_fd());
    let conf = r#"{"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"}"#;
    let call = |command: &'static str| {
        call(
            |name| match name {
                "CNI_COMMAND" => Some(command.to_owned()),
                "CNI_CONTAINERID" => Some("c1".to_owned()),
                "CNI_IFNAME" => Some("lo".to_owned()),
                "CNI_NETNS" => Some(netns.clone()),
                _ => None,
            },
            conf,
        )
    };
    let result = call("ADD").expect("ADD").expect("a result");
    assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
    assert_eq!(call("DEL").expect("DEL"), None);
    let up = pod
        .run_async(|| async {
            Netlink::connect()
                .expect("rtnetlink")
                .link("lo")
                .await
                .expect("lo")
                .up
        })
        .expect("enter the pod");
    assert!(up);
}
