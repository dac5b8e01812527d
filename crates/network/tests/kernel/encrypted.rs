//! Encrypted ways between nodes: they are made, or, where the kernel has no WireGuard, that is said and
//! nothing goes in the open. Each machine has one of both, and shows it.

use super::agents::{node_object, run_agent};
use super::*;
use host::netlink::Route;
use host::wireguard::{Key, Wireguard};
use network::encrypted::{EncryptionError, NAME, prepare};

/// What a node finds at its start: its keys, or why there are none.
fn keys(node: &TestNode) -> Result<(Key, String), EncryptionError> {
    let file = node.state.path().join("wireguard.key");
    let made = node.netns.run_async(|| async { prepare(&file).await });
    made.expect("enter the node")
}

fn is_known(netns: &NetNs) -> bool {
    let opened = netns.run(Wireguard::open).expect("enter the node");
    opened.expect("generic netlink").is_some()
}

fn routes(node: &TestNode) -> Vec<Route> {
    let list = || async {
        let netlink = Netlink::connect().expect("rtnetlink");
        netlink.routes().await.expect("routes")
    };
    node.netns.run_async(list).expect("enter the node")
}

#[test]
fn ways_are_encrypted_or_there_are_none() {
    let switch = switch();
    let a = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.1.0/24");
    let b = TestNode::new(machine(&switch, 2, "192.0.2.2/24"), "10.244.2.0/24");
    let known = is_known(&a.netns);
    let (of_a, of_b) = match (keys(&a), keys(&b)) {
        (Ok(of_a), Ok(of_b)) => (of_a, of_b),
        (Err(error), _) | (_, Err(error)) => {
            assert!(!known, "{error}");
            assert!(error.to_string().contains("no WireGuard"), "{error}");
            let none = (Key([1; 32]), String::new());
            (none.clone(), none)
        }
    };
    let conf = tempfile::tempdir().expect("a folder");
    let mut nodes = [
        node_object("a", "192.0.2.1", a.cidr),
        node_object("b", "192.0.2.2", b.cidr),
    ];
    for (node, (_, public)) in nodes.iter_mut().zip([&of_a, &of_b]) {
        let note = (api::node_notes::WIREGUARD_KEY.to_owned(), public.clone());
        node.metadata.annotations = Some([note].into());
    }
    for (node, name, (private, _)) in [(&a, "a", &of_a), (&b, "b", &of_b)] {
        run_agent(node, name, &nodes, |config| {
            config.conf_dir = conf.path().join(name);
            config.encryption = Some(*private);
        });
    }
    let to_b = |r: &Route| !r.unreachable && r.destination == prefix(b.cidr);
    if !known {
        assert!(!routes(&a).iter().any(to_b), "a way in the open");
        return;
    }
    let link = a.netns.run_async(|| async {
        let netlink = Netlink::connect().expect("rtnetlink");
        netlink.link(NAME).await.expect("the link")
    });
    let link = link.expect("enter the node");
    let leads = |r: &&Route| to_b(r) && r.link == Some(link.index);
    assert_eq!(routes(&a).iter().filter(leads).count(), 1);
    assert_eq!(link.mtu, 1440, "room for what is around a packet");
    let (one, two) = (a.pod("one", json!([])), b.pod("two", json!([])));
    serve(&two.netns, 80);
    let seen = seen_by(&one.netns, two.address, 80).expect("from node to node");
    assert_eq!(seen, one.address, "not translated");
    seen_by(&a.netns, two.address, 80).expect("from the node itself");
    // It has no key any more: nothing goes there.
    nodes[1].metadata.annotations = None;
    run_agent(&a, "a", &nodes, |config| {
        config.conf_dir = conf.path().join("a");
        config.encryption = Some(of_a.0);
    });
    assert!(!routes(&a).iter().any(to_b), "a way in the open");
    let refused = |r: &Route| r.unreachable && r.destination == prefix(b.cidr);
    assert!(
        routes(&a).iter().any(refused),
        "the default route leads there"
    );
    // Without encryption the link goes, and ways are open.
    run_agent(&a, "a", &nodes, |config| {
        config.conf_dir = conf.path().join("a");
    });
    assert!(routes(&a).iter().any(to_b));
    assert!(!a.links().iter().any(|name| name == NAME));
}

/// A node that has a key would not answer in the open: it is sent nothing.
#[test]
fn a_node_without_encryption_sends_nothing_to_one_with_it() {
    let switch = switch();
    let a = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.1.0/24");
    let conf = tempfile::tempdir().expect("a folder");
    let mut nodes = [
        node_object("a", "192.0.2.1", a.cidr),
        node_object("b", "192.0.2.2", "10.244.2.0/24"),
    ];
    let sends = |nodes: &[k8s_openapi::api::core::v1::Node]| {
        run_agent(&a, "a", nodes, |config| {
            config.conf_dir = conf.path().to_owned();
        });
        let to_b = |r: &&Route| r.destination == prefix("10.244.2.0/24");
        let all = routes(&a);
        let way = all.iter().find(to_b).expect("a route");
        !way.unreachable
    };
    assert!(sends(&nodes));
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=".to_owned();
    let note = (api::node_notes::WIREGUARD_KEY.to_owned(), key);
    nodes[1].metadata.annotations = Some([note].into());
    assert!(!sends(&nodes));
    nodes[1].metadata.annotations = None;
    assert!(sends(&nodes));
}
