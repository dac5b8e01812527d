//! How fast pods receive and send at most.

use super::*;
use std::time::Instant;

/// What is carried, at eight megabits in a second.
const BYTES: usize = 1_000_000;
const BITS_PER_SECOND: u64 = 8_000_000;
/// It takes a second, but for the burst of a tenth. Load only makes it longer.
const AT_LEAST: Duration = Duration::from_millis(850);

/// Carries the bytes over a connection from one namespace to a server in another, and says how long
/// that took.
fn carried(from: &NetNs, to: &NetNs, address: Ipv4Addr, port: u16) -> Duration {
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind");
    let listener = to.run(bind).expect("enter the namespace");
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody comes");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("all arrives");
        all.len()
    });
    let start = Instant::now();
    from.run(|| {
        let mut stream = TcpStream::connect((address, port)).expect("connect");
        stream.write_all(&vec![7; BYTES]).expect("sent");
    })
    .expect("enter the namespace");
    assert_eq!(receiver.join().expect("received"), BYTES);
    start.elapsed()
}

#[test]
fn a_pod_receives_and_sends_no_faster_than_its_annotations_say() {
    let switch = switch();
    let node = TestNode::new(machine(&switch, 1, "192.0.2.1/24"), "10.244.0.0/24");
    let node_ip = Ipv4Addr::new(192, 0, 2, 1);
    // As containerd writes it where no burst is given.
    let endless = u32::MAX;
    let limited = |way: &str| json!({"bandwidth": {format!("{way}Rate"): BITS_PER_SECOND, format!("{way}Burst"): endless}});
    for (id, way) in [("receives", "ingress"), ("sends", "egress")] {
        let pod = NetNs::anonymous().expect("a new network namespace");
        let added = node.call_with("ADD", id, Some(&pod), limited(way));
        let result = added.expect("ADD").expect("a result");
        let address = result["ips"][0]["address"].as_str().expect("an address");
        let address: Ipv4Addr = address.trim_end_matches("/32").parse().expect("an address");
        let took = match way {
            "ingress" => carried(&node.netns, &pod, address, 80),
            _ => carried(&pod, &node.netns, node_ip, 81),
        };
        assert!(took >= AT_LEAST, "{way}: {took:?}");
    }
    let wrong = NetNs::anonymous().expect("a new network namespace");
    let added = node.call_with("ADD", "wrong", Some(&wrong), json!({"bandwidth": "fast"}));
    assert_eq!(added.map_err(|e| e.code), Err(7));
}
