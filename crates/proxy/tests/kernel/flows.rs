//! Flows of UDP: what was decided about their first packet holds for the others, until it is wrong.

use super::*;
use host::conntrack::{Conntrack, Flow};

#[test]
fn udp_flows_leave_an_endpoint_that_is_gone() {
    let mut lab = Lab::new();
    for last in [2, 3, 9] {
        lab.pod(pod(last));
        lab.serve_udp(pod(last), 8080);
    }
    let udp = json!({"ports": [{"name": "http", "port": 80, "protocol": "UDP"}]});
    let mut proxy = Proxy::start(&lab.node);
    proxy.apply(service(udp.clone()), slice("UDP", &[(pod(2), NODE)]));
    let socket = lab
        .netns(pod(9))
        .run(|| UdpSocket::bind("0.0.0.0:0").expect("bind"))
        .expect("enter the pod");
    assert_eq!(
        ask_udp(&socket, cluster()).expect("an answer"),
        pod(2).to_string()
    );
    proxy.apply(service(udp), slice("UDP", &[(pod(3), NODE)]));
    assert_eq!(
        ask_udp(&socket, cluster()).expect("an answer"),
        pod(3).to_string()
    );
}

fn socket_in(netns: &NetNs) -> UdpSocket {
    netns
        .run(|| UdpSocket::bind("0.0.0.0:0").expect("bind"))
        .expect("enter the namespace")
}

/// Sends to somebody who will not answer, and gives the flow as soon as the node's kernel has it.
fn send_in_vain(node: &NetNs, socket: &UdpSocket, to: SocketAddr) -> Flow {
    let port = socket.local_addr().expect("an address").port();
    loop {
        socket.send_to(b"?", to).expect("sent");
        let mut found = flows(node).into_iter();
        if let Some(flow) = found.find(|f| f.source.port() == port && f.destination == to) {
            assert_eq!(flow.answers_from, to, "not translated");
            return flow;
        }
        std::thread::yield_now();
    }
}

fn flows(node: &NetNs) -> Vec<Flow> {
    node.run(|| {
        let mut conntrack = Conntrack::open().expect("conntrack");
        conntrack.list(Family::Ip4, 17).expect("flows")
    })
    .expect("enter the node")
}

#[test]
fn a_node_port_reaches_a_client_that_kept_sending_before_there_was_one() {
    let mut lab = Lab::new();
    lab.visit(VISITOR);
    for last in [2, 9] {
        lab.pod(pod(last));
    }
    lab.serve_udp(pod(2), 8080);
    let mut proxy = Proxy::start(&lab.node);
    // The kernel tracks connections from the first rules on.
    proxy.apply(service(json!({})), slice("TCP", &[]));
    let node_port = SocketAddr::new(NODE_IP.into(), 30080);
    let elsewhere = SocketAddr::new(VISITOR.into(), 30080);
    let (outside, inside) = (socket_in(&lab.outside), socket_in(lab.netns(pod(9))));
    send_in_vain(&lab.node, &outside, node_port);
    // Another host's port of the same number, through this node.
    let passing = send_in_vain(&lab.node, &inside, elsewhere);

    let port = json!({"name": "http", "port": 80, "protocol": "UDP", "nodePort": 30080});
    let udp = json!({ "ports": [port] });
    proxy.apply(service(udp.clone()), slice("UDP", &[]));
    send_in_vain(&lab.node, &outside, node_port);
    proxy.apply(service(udp), slice("UDP", &[(pod(2), NODE)]));
    let answered = |socket: &UdpSocket| ask_udp(socket, node_port).expect("an answer");
    assert_eq!(answered(&outside), pod(2).to_string());
    assert!(
        flows(&lab.node).contains(&passing),
        "it is others' business"
    );

    // While others have taken the rules away, one begins that nothing leads.
    let late = socket_in(&lab.outside);
    spoil(&lab.node);
    send_in_vain(&lab.node, &late, node_port);
    assert!(proxy.repair());
    assert_eq!(answered(&late), pod(2).to_string());
}

/// Empties the chain that leads to endpoints.
fn spoil(node: &NetNs) {
    let table = Table {
        family: Family::Ip4,
        name: "t".into(),
    };
    node.run(|| {
        let mut batch = host::nft::Batch::new();
        batch.flush_chain(&table, "services");
        Socket::open()
            .and_then(|mut s| s.commit(batch))
            .expect("spoil");
    })
    .expect("enter the node");
}
