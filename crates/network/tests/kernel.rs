//! The plugin and the agent in real network namespaces, which vanish with the test. Needs root.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use host::netlink::{Netlink, Route};
use host::netns::NetNs;
use host::nft::Prefix;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::Event;
use network::cni::{CniError, call};
use serde_json::{Value, json};

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
            let bridge = netlink.ensure_bridge("br0", 0).await.expect("bridge");
            let name = format!("port{number}");
            netlink
                .add_veth(&name, "eth0", &machine, 0)
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
        let conf = json!({
            "cniVersion": "1.0.0", "name": "tiphys", "type": "tiphys-cni",
            "podCIDR": self.cidr, "stateDir": self.state.path(), "mtu": 1400,
            "runtimeConfig": {"portMappings": ports},
        });
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

/// A server that tells each client its address.
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

fn node_object(name: &str, address: &str, cidr: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }))
    .expect("a Node")
}

/// Runs the agent on a listing of nodes until it has handled that.
fn agent(node: &TestNode, name: &str, nodes: &[Node], conf: &Path, always_tunnel: bool) {
    let mut events = vec![Event::Init];
    events.extend(nodes.iter().cloned().map(Event::InitApply));
    events.push(Event::InitDone);
    let state = node.state.path().to_owned();
    let mut config = network::Config::new(name, prefix("10.244.0.0/16"), state);
    config.conf_dir = conf.to_owned();
    config.always_tunnel = always_tunnel;
    node.netns
        .run_async(|| async {
            let events = futures::stream::iter(events);
            network::run_on(events, config, std::future::pending())
                .await
                .expect("the agent")
        })
        .expect("enter the node");
}

fn pods_of_two_nodes_talk(always_tunnel: bool) {
    let switch = switch();
    let (a, b) = (
        machine(&switch, 1, "192.0.2.1/24"),
        machine(&switch, 2, "192.0.2.2/24"),
    );
    let outside = machine(&switch, 3, "192.0.2.3/24");
    let (a, b) = (
        TestNode::new(a, "10.244.1.0/24"),
        TestNode::new(b, "10.244.2.0/24"),
    );
    let nodes = [
        node_object("a", "192.0.2.1", a.cidr),
        node_object("b", "192.0.2.2", b.cidr),
        node_object("without-range", "192.0.2.9", ""),
    ];
    let conf = tempfile::tempdir().expect("a folder");
    agent(&a, "a", &nodes, &conf.path().join("a"), always_tunnel);
    agent(&b, "b", &nodes, &conf.path().join("b"), always_tunnel);
    let text = std::fs::read_to_string(conf.path().join("a/10-tiphys.conflist")).expect("written");
    let list: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(list["plugins"][0]["podCIDR"], a.cidr);

    let (one, two) = (a.pod("one", json!([])), b.pod("two", json!([])));
    serve(&two.netns, 80);
    let seen = seen_by(&one.netns, two.address, 80).expect("from node to node");
    assert_eq!(seen, one.address, "not translated");
    seen_by(&a.netns, two.address, 80).expect("from the node itself");
    serve(&outside, 80);
    let seen = seen_by(&one.netns, Ipv4Addr::new(192, 0, 2, 3), 80).expect("out of the cluster");
    assert_eq!(seen, Ipv4Addr::new(192, 0, 2, 1), "translated to the node");
    let unused = Ipv4Addr::new(10, 244, 1, 200);
    seen_by(&one.netns, unused, 80).expect_err("no pod has it");

    // A node goes: its route goes.
    agent(&a, "a", &nodes[..1], &conf.path().join("a"), always_tunnel);
    let list = || async {
        Netlink::connect()
            .expect("rtnetlink")
            .routes()
            .await
            .expect("routes")
    };
    let routes: Vec<Route> = a.netns.run_async(list).expect("enter the node");
    assert!(
        !routes
            .iter()
            .any(|route| route.destination == prefix(b.cidr)),
        "{routes:?}"
    );
}

#[test]
fn pods_of_neighbouring_nodes_talk_directly() {
    pods_of_two_nodes_talk(false);
}

#[test]
fn pods_of_distant_nodes_talk_by_tunnel() {
    pods_of_two_nodes_talk(true);
}
