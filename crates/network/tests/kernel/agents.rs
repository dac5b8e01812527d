//! Agents of several nodes: pods of one reach those of another.

use super::*;
use host::netlink::Route;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::Event;
use std::path::Path;

pub(super) fn node_object(name: &str, address: &str, cidr: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }))
    .expect("a Node")
}

/// Runs the agent on a listing of nodes until it has handled that.
pub(super) fn agent(node: &TestNode, name: &str, nodes: &[Node], conf: &Path, always_tunnel: bool) {
    run_agent(node, name, nodes, |config| {
        config.conf_dir = conf.to_owned();
        config.always_tunnel = always_tunnel;
    });
}

pub(super) fn run_agent(
    node: &TestNode,
    name: &str,
    nodes: &[Node],
    more: impl FnOnce(&mut network::Config),
) {
    let mut events = vec![Event::Init];
    events.extend(nodes.iter().cloned().map(Event::InitApply));
    events.push(Event::InitDone);
    let state = node.state.path().to_owned();
    let mut config = network::Config::new(name, vec![prefix("10.244.0.0/16")], state);
    more(&mut config);
    node.netns
        .run_async(|| async {
            let events = futures::stream::iter(events);
            network::run_on(
                events,
                futures::stream::pending(),
                config,
                std::future::pending(),
            )
            .await
            .expect("the agent")
        })
        .expect("enter the node");
}

/// What the runtime reads of the MTU of pods.
fn conflist_mtu(conf: &Path) -> Value {
    let text = std::fs::read_to_string(conf.join("10-tiphys.conflist")).expect("written");
    let list: Value = serde_json::from_str(&text).expect("JSON");
    list["plugins"][0]["mtu"].clone()
}

/// Sets the MTU of one of the node's links; none to leave it. Gives what it is.
fn link_mtu(node: &TestNode, name: &str, mtu: Option<u32>) -> u32 {
    node.netns
        .run_async(|| async {
            let netlink = Netlink::connect().expect("rtnetlink");
            let link = netlink.link(name).await.expect("link");
            if let Some(mtu) = mtu {
                netlink.set_mtu(link.index, mtu).await.expect("set");
            }
            netlink.link(name).await.expect("link").mtu
        })
        .expect("enter the node")
}

#[test]
fn the_mtu_is_that_of_the_link_below_and_follows_it() {
    let switch = switch();
    let node = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.1.0/24");
    let nodes = [
        node_object("a", "192.0.2.1", node.cidr),
        node_object("b", "192.0.2.2", "10.244.2.0/24"),
    ];
    let conf = tempfile::tempdir().expect("a folder");
    let conf = conf.path();
    // A tunnel takes 50 bytes of each packet. Shorter, and longer again, as when links are changed.
    for (below, tunnelled) in [(9000, 8950), (1400, 1350), (9000, 8950)] {
        assert_eq!(link_mtu(&node, "eth0", Some(below)), below);
        agent(&node, "a", &nodes, conf, false);
        assert_eq!(conflist_mtu(conf), below);
        agent(&node, "a", &nodes, conf, true);
        assert_eq!(conflist_mtu(conf), tunnelled);
        assert_eq!(link_mtu(&node, "tiphys-vx", None), tunnelled);
    }
}

/// A bridge has one route to the node's whole range, which the agent must not hide.
#[test]
fn where_others_connect_pods_their_routes_lead() {
    let node = TestNode::new(machine(&switch(), 1, "192.0.2.1/24"), "10.244.1.0/24");
    let conf = tempfile::tempdir().expect("a folder");
    let nodes = [node_object("a", "192.0.2.1", node.cidr)];
    let unreachable = || {
        let routes = || async {
            let netlink = Netlink::connect().expect("rtnetlink");
            netlink.routes().await.expect("routes")
        };
        let routes = node.netns.run_async(routes).expect("enter the node");
        let hidden = |r: &Route| r.unreachable && r.destination == prefix(node.cidr);
        routes.iter().any(hidden)
    };
    agent(&node, "a", &nodes, &conf.path().join("a"), false);
    assert!(unreachable(), "addresses that no pod has");
    let bridged = |name: &str, value: Option<&str>| {
        let name = format!("net.bridge.bridge-nf-call-{name}");
        let change = || match value {
            Some(value) => host::sysctl::set(&name, value).map(|_| value.to_owned()),
            None => host::sysctl::get(&name),
        };
        node.netns
            .run(change)
            .expect("enter the node")
            .expect("the kernel's module br_netfilter is loaded")
    };
    for name in ["iptables", "ip6tables"] {
        bridged(name, Some("0"));
    }
    run_agent(&node, "a", &nodes, |config| {
        config.conf_dir = conf.path().join("b");
        config.foreign_plugins = true;
    });
    assert!(!unreachable(), "also what an earlier run left is gone");
    for name in ["iptables", "ip6tables"] {
        assert_eq!(bridged(name, None), "1", "rules see what a bridge carries");
    }
    assert!(!conf.path().join("b").exists());
}

#[test]
fn ways_to_other_nodes_can_be_others_matter() {
    let switch = switch();
    let node = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.1.0/24");
    let nodes = [
        node_object("a", "192.0.2.1", node.cidr),
        node_object("b", "192.0.2.2", "10.244.2.0/24"),
    ];
    let conf = tempfile::tempdir().expect("a folder");
    let to = |cidr: &str| {
        let routes = || async {
            let netlink = Netlink::connect().expect("rtnetlink");
            netlink.routes().await.expect("routes")
        };
        let routes = node.netns.run_async(routes).expect("enter the node");
        routes.iter().any(|r| r.destination == prefix(cidr))
    };
    agent(&node, "a", &nodes, conf.path(), true);
    assert!(to("10.244.2.0/24") && node.links().contains(&"tiphys-vx".to_owned()));
    run_agent(&node, "a", &nodes, |config| {
        config.conf_dir = conf.path().to_owned();
        config.routes = false;
    });
    assert!(!to("10.244.2.0/24") && !node.links().contains(&"tiphys-vx".to_owned()));
    // Pods of this node are connected all the same, without room for a tunnel.
    assert!(to(node.cidr));
    assert_eq!(conflist_mtu(conf.path()), 1500);
    node.pod("one", json!([]));
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
    assert_eq!(list["plugins"][0]["podCIDRs"], json!([a.cidr]));

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

#[test]
fn a_machine_that_leaves_keeps_nothing() {
    let switch = switch();
    let node = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.1.0/24");
    let nodes = [
        node_object("a", "192.0.2.1", node.cidr),
        node_object("b", "192.0.2.2", "10.244.2.0/24"),
    ];
    let (before, conf) = (node.links(), tempfile::tempdir().expect("a folder"));
    agent(&node, "a", &nodes, conf.path(), true);
    let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let pods = [node.pod("one", ports), node.pod("two", json!([]))];
    assert_eq!(
        node.links().len(),
        before.len() + 3,
        "two pods and a tunnel"
    );
    let state = node.state.path().to_owned();
    let mut config = network::Config::new("a", vec![prefix("10.244.0.0/16")], state);
    config.conf_dir = conf.path().to_owned();
    for removed in [pods.len(), 0] {
        let (count, routes) = node
            .netns
            .run_async(|| async {
                let count = network::clean_up(&config).await.expect("clean up");
                let netlink = Netlink::connect().expect("rtnetlink");
                (count, netlink.routes().await.expect("routes"))
            })
            .expect("enter the node");
        assert_eq!(count, removed);
        assert_eq!(node.links(), before);
        let left = |r: &&Route| {
            prefix("10.244.0.0/16").contains(r.destination.address) && r.destination.length > 0
        };
        assert_eq!(
            routes.iter().filter(left).collect::<Vec<_>>(),
            Vec::<&Route>::new()
        );
        assert_eq!(std::fs::read_dir(conf.path()).expect("list").count(), 0);
    }
    let table = |name: &str| host::nft::Table {
        family: host::nft::Family::Ip4,
        name: name.into(),
    };
    for name in ["tiphys-network", "tiphys-pods", "tiphys-host-ports"] {
        let read = || host::nft::Socket::open().and_then(|mut s| s.read(&table(name)));
        let left = node.netns.run(read).expect("enter the node");
        assert_eq!(left.expect("read back"), Default::default(), "{name}");
    }
    let kept = network::cni::interfaces(node.state.path(), "tiphys").expect("read");
    assert!(kept.is_empty(), "addresses are free again: {kept:?}");
}
