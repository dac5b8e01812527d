//! Flows of UDP to host ports: they follow the rules, also those that began before.

use super::*;
use host::conntrack::{Conntrack, Flow};
use host::nft::{Batch, Family, Socket, Table};

/// The flows that a namespace tracks from this socket.
fn flows_from(node: &NetNs, socket: &UdpSocket) -> Vec<Flow> {
    let port = socket.local_addr().expect("an address").port();
    let mut all = node
        .run(|| {
            let mut conntrack = Conntrack::open().expect("conntrack");
            conntrack.list(Family::Ip4, 17).expect("flows")
        })
        .expect("enter the node");
    all.retain(|flow| flow.source.port() == port);
    all
}

/// Sends until the node's kernel has a flow, which nothing leads to a pod.
fn send_in_vain(node: &NetNs, socket: &UdpSocket, to: SocketAddr) {
    loop {
        socket.send_to(b"in vain", to).expect("sent");
        if let Some(flow) = flows_from(node, socket).first() {
            assert_eq!(flow.answers_from, to);
            return;
        }
        std::thread::yield_now();
    }
}

/// What is sent now arrives in the pod, and its answer comes back.
fn is_answered(client: &UdpSocket, to: SocketAddr, pods_end: &UdpSocket) {
    client.send_to(b"hello", to).expect("sent");
    let mut buffer = [0; 64];
    let (length, from) = pods_end.recv_from(&mut buffer).expect("one arrives");
    assert_eq!(&buffer[..length], b"hello");
    pods_end.send_to(b"hello too", from).expect("sent");
    let (_, from) = client.recv_from(&mut buffer).expect("an answer");
    assert_eq!(from, to);
}

#[test]
fn a_client_that_kept_sending_reaches_the_pod_that_came_later() {
    let switch = switch();
    let node = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.0.0/24");
    let outside = machine(&switch, 2, "192.0.2.2/24");
    let to = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 8080);
    let port =
        |protocol: &str| json!([{"hostPort": 8080, "containerPort": 80, "protocol": protocol}]);
    // Of another protocol; the kernel tracks connections from the first rules on.
    node.pod("other", port("tcp"));
    let client = udp(&outside, 0);
    send_in_vain(&node.netns, &client, to);
    let pod = node.pod("web", port("udp"));
    let pods_end = udp(&pod.netns, 80);
    is_answered(&client, to, &pods_end);

    // A flow that is led as it should be goes on when another pod comes.
    let before = flows_from(&node.netns, &client);
    node.pod(
        "third",
        json!([{"hostPort": 8081, "containerPort": 80, "protocol": "udp"}]),
    );
    assert_eq!(flows_from(&node.netns, &client), before);

    // While others have taken the rules away, one begins that nothing leads.
    let late = udp(&outside, 0);
    node.netns
        .run(|| {
            let name = network::cni::HOST_PORT_TABLE.into();
            let table = Table {
                family: Family::Ip4,
                name,
            };
            let mut batch = Batch::new();
            batch.flush_chain(&table, "lead");
            let spoilt = Socket::open().and_then(|mut s| s.commit(batch));
            spoilt.expect("spoil");
        })
        .expect("enter the node");
    send_in_vain(&node.netns, &late, to);
    node.netns
        .run(|| network::cni::refresh_ports(node.state.path(), "tiphys").expect("repaired"))
        .expect("enter the node");
    is_answered(&late, to, &pods_end);
}
