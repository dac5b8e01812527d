//! Addresses of load balancers that belong to no interface, as machines outside find them.

use super::*;
use proxy::announce::{AnnouncedAddresses, Announcer};
use std::net::IpAddr;

/// Has the node announce addresses while somebody looks.
fn while_announced<T>(lab: &Lab, wanted: AnnouncedAddresses, look: impl FnOnce() -> T) -> T {
    let (done, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let node = &lab.node;
        scope.spawn(move || {
            node.run_async(|| async {
                let announcer = Announcer::start();
                announcer.set(wanted);
                ended.await.expect("the end of the test");
            })
            .expect("enter the node");
        });
        let seen = look();
        done.send(()).expect("the announcer waits");
        seen
    })
}

#[test]
fn an_announced_address_is_found_from_outside() {
    let (lab, _) = three_servers();
    lab.visit(VISITOR);
    let mut proxy = Proxy::start(&lab.node);
    let local = json!({"externalTrafficPolicy": "Local"});
    proxy.apply(balanced(local), slice("TCP", &[(pod(2), NODE)]));
    let wanted = AnnouncedAddresses::of(NODE, proxy.state.special().map(|(_, s)| s));
    assert_eq!(wanted.always, [IpAddr::from(BALANCER)].into());
    let target = SocketAddr::new(BALANCER.into(), 80);
    let answer = while_announced(&lab, wanted, || {
        // Until the announcer listens, nobody knows the address.
        (0..10).find_map(|_| ask(&lab.outside, target).ok())
    });
    let (server, seen) = answer.expect("an answer");
    assert_eq!(server, pod(2).to_string());
    assert_eq!(seen, VISITOR, "the source is kept");
    // The address belongs to no interface: what listens on the node is not reached there.
    let neighbours = |ns: &NetNs, link: &'static str| {
        ns.run_async(|| async move {
            let netlink = host::netlink::Netlink::connect().expect("rtnetlink");
            let link = netlink.link(link).await.expect("link");
            let known = netlink.neighbours(link.index).await.expect("neighbours");
            (link.mac, known)
        })
        .expect("enter")
    };
    let (mac, _) = neighbours(&lab.node, "outside");
    let (_, known) = neighbours(&lab.outside, "node");
    assert!(known.contains(&(BALANCER.into(), mac)), "{known:?}");
}

/// The node that has an address is silent, and speaks again.
#[test]
fn an_address_is_taken_over_while_its_node_is_silent() {
    let (lab, _) = three_servers();
    lab.visit(VISITOR);
    let mut proxy = Proxy::start(&lab.node);
    let mut service = balanced(json!({}));
    let notes = [
        ("nodes", format!("{BALANCER}=other")),
        ("standby", format!("{BALANCER}={NODE}@{VISITOR}")),
    ];
    let notes = notes.map(|(word, text)| (format!("tiphys.io/load-balancer-{word}"), text));
    service.metadata.annotations = Some(notes.into());
    proxy.apply(service, slice("TCP", &[(pod(2), NODE)]));
    let wanted = AnnouncedAddresses::of(NODE, proxy.state.special().map(|(_, s)| s));
    assert!(wanted.always.is_empty());
    let mute = |mute: bool| {
        let value = if mute { "1" } else { "0" };
        let set = || host::sysctl::set("net.ipv4.icmp_echo_ignore_all", value);
        lab.outside.run(set).expect("enter").expect("set");
    };
    let found = || {
        let look = || async {
            let netlink = host::netlink::Netlink::connect().expect("rtnetlink");
            let link = netlink.link("node").await.expect("link");
            let known = netlink.neighbours(link.index).await.expect("neighbours");
            let at = known.into_iter().find(|(ip, _)| *ip == BALANCER);
            at.map(|(_, mac)| mac == link.mac)
        };
        lab.outside.run_async(look).expect("enter the outside")
    };
    let (answer, given_back) = while_announced(&lab, wanted, || {
        let target = SocketAddr::new(BALANCER.into(), 80);
        ask(&lab.outside, target).expect_err("whoever has it is there");
        mute(true);
        let answer = (0..10).find_map(|_| ask(&lab.outside, target).ok());
        mute(false);
        // It is given back: neighbours hear whose it is.
        let given_back = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            found() == Some(true)
        });
        (answer, given_back)
    });
    let (server, _) = answer.expect("an answer");
    assert_eq!(server, pod(2).to_string());
    assert!(given_back);
}
