//! Network policies in a real kernel: a node, its pods and the outside are network namespaces that
//! vanish with the test. Needs root.
#![expect(clippy::disallowed_methods, reason = "a real kernel, in real time")]

#[path = "../../host/tests/listing/mod.rs"]
mod listing;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use futures::StreamExt;
use host::netlink::{Netlink, Route, Veth};
use host::netns::NetNs;
use host::nft::{Family, Prefix, Socket, Table};
use host::podlink::{PodLink, connect};
use kube::runtime::watcher::Event;
use network::policy::{Agent, Config, PolicyEvent, TABLE};
use serde_json::{Value, json};

/// Only an end for a test that hangs; nothing is concluded from it.
const GIVE_UP: Duration = Duration::from_secs(20);
/// What is forbidden is silent: so long nothing may come. Load can only make this shorter than it
/// should be, never fail.
const SILENCE: Duration = Duration::from_millis(300);
const NODE: &str = "n1";
const NODE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

fn prefix(address: Ipv4Addr, length: u8) -> Prefix {
    let address = address.into();
    Prefix { address, length }
}

/// A node with an agent without watches: objects are handed in.
struct Lab {
    node: NetNs,
    outside: NetNs,
    pods: BTreeMap<u8, NetNs>,
    agent: Agent,
}

fn pod_ip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, number)
}

fn config() -> Config {
    Config {
        node_name: NODE.into(),
        door: None,
        tenants: Vec::new(),
    }
}

impl Lab {
    fn new() -> Self {
        let node = NetNs::anonymous().expect("a new network namespace needs root");
        let outside = NetNs::anonymous().expect("a new network namespace");
        let up = async |name: &str, address: Ipv4Addr| {
            let netlink = Netlink::connect().expect("rtnetlink");
            for name in ["lo", name] {
                let link = netlink.link(name).await.expect("link");
                netlink.set_up(link.index).await.expect("up");
            }
            let link = netlink.link(name).await.expect("link");
            let added = netlink.add_address(link.index, prefix(address, 24)).await;
            added.expect("address");
        };
        node.run_async(|| async {
            let netlink = Netlink::connect().expect("rtnetlink");
            let pair = Veth::new("outside", "node", 0);
            netlink.add_veth(&pair, &outside).await.expect("veth");
            up("outside", NODE_IP).await;
            host::sysctl::set("net.ipv4.ip_forward", "1").expect("ip_forward");
        })
        .expect("enter the node");
        outside
            .run_async(|| async {
                up("node", OUTSIDE_IP).await;
                let mut route = Route::to(prefix(pod_ip(0), 24), 4);
                route.gateway = Some(NODE_IP.into());
                let netlink = Netlink::connect().expect("rtnetlink");
                netlink.set_route(&route).await.expect("route");
            })
            .expect("enter the outside");
        let agent = node
            .run(|| Agent::new(&config()).expect("netfilter socket"))
            .expect("enter the node");
        let mut lab = Self {
            node,
            outside,
            pods: BTreeMap::new(),
            agent,
        };
        lab.listed();
        lab
    }

    /// The agent has heard empty lists.
    fn listed(&mut self) {
        for event in [Event::Init, Event::InitDone] {
            self.agent.hear(PolicyEvent::Policy(Box::new(event)));
        }
        for event in [Event::Init, Event::InitDone] {
            self.agent.hear(PolicyEvent::Namespace(Box::new(event)));
        }
        for event in [Event::Init, Event::InitDone] {
            self.agent.hear(PolicyEvent::Pod(Box::new(event)));
        }
    }

    /// A pod that is connected, and that the API shows.
    fn pod(&mut self, number: u8, app: &str) {
        let pod = NetNs::anonymous().expect("a new network namespace");
        let spec = PodLink {
            host_name: format!("veth{number}"),
            pod_name: "eth0".into(),
            addresses: vec![pod_ip(number).into()],
            mtu: 1500,
            node_addresses: vec![NODE_IP.into()],
            from_loopback: false,
            limits: Default::default(),
        };
        self.node
            .run_async(|| async { connect(&spec, &pod).await.expect("connect the pod") })
            .expect("enter the node");
        self.pods.insert(number, pod);
        self.agent.hear(pod_object(number, app));
    }

    fn policy(&mut self, spec: Value) {
        self.agent.hear(policy(spec));
        self.sync();
    }

    fn sync(&mut self) {
        let agent = &mut self.agent;
        self.node.run(move || agent.sync()).expect("enter the node");
    }

    /// A TCP server in a pod that sends back what it gets.
    fn serve(&self, number: u8, port: u16) {
        let listener = self.pods[&number]
            .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind"))
            .expect("enter the pod");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut read = stream.try_clone().expect("clone");
                    let mut write = stream;
                    let _ = std::io::copy(&mut read, &mut write);
                });
            }
        });
    }

    fn from<'a>(&'a self, who: &'a Who) -> &'a NetNs {
        match who {
            Who::Pod(number) => &self.pods[number],
            Who::Node => &self.node,
            Who::Outside => &self.outside,
        }
    }

    fn connect(&self, (who, to, port): (Who, u8, u16), within: Duration) -> Option<TcpStream> {
        let target = SocketAddr::new(pod_ip(to).into(), port);
        let stream = self
            .from(&who)
            .run(|| TcpStream::connect_timeout(&target, within))
            .expect("enter");
        match stream {
            Ok(stream) => Some(stream),
            Err(e) if e.kind() == ErrorKind::TimedOut => None,
            Err(e) => panic!("{who:?} to {target}: {e}"),
        }
    }

    /// A connection that works, kept open.
    fn open(&self, who: Who, to: u8, port: u16) -> Option<TcpStream> {
        let mut stream = self.connect((who, to, port), GIVE_UP)?;
        echoes(&mut stream, GIVE_UP).then_some(stream)
    }

    fn reaches(&self, who: Who, to: u8, port: u16) -> bool {
        self.open(who, to, port).is_some()
    }

    fn is_kept_from(&self, who: Who, to: u8, port: u16) -> bool {
        self.connect((who, to, port), SILENCE).is_none()
    }
}

#[derive(Debug, Clone, Copy)]
enum Who {
    Pod(u8),
    Node,
    Outside,
}

/// Whether what is sent comes back.
fn echoes(stream: &mut TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).expect("timeout");
    stream.write_all(b"x").expect("sent, to the kernel");
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(1) => true,
        Err(e) if e.kind() == ErrorKind::WouldBlock => false,
        other => panic!("{other:?}"),
    }
}

fn pod_object(number: u8, app: &str) -> PolicyEvent {
    let pod = json!({
        "metadata": { "name": format!("p{number}"), "namespace": "default",
                      "uid": format!("u{number}"), "labels": { "app": app } },
        "spec": { "nodeName": NODE, "containers": [{ "name": "c", "ports": [
            { "name": "web", "containerPort": 80 + u16::from(number) },
        ] }] },
        "status": { "phase": "Running", "podIPs": [{ "ip": pod_ip(number) }] },
    });
    let pod = serde_json::from_value(pod).expect("a pod");
    PolicyEvent::Pod(Box::new(Event::Apply(pod)))
}

fn policy(spec: Value) -> PolicyEvent {
    let object = json!({ "metadata": { "name": "p", "namespace": "default" }, "spec": spec });
    let object = serde_json::from_value(object).expect("a policy");
    PolicyEvent::Policy(Box::new(Event::Apply(object)))
}

fn ingress(rules: Value) -> Value {
    json!({ "podSelector": { "matchLabels": { "app": "server" } }, "ingress": rules,
            "policyTypes": ["Ingress"] })
}

fn egress(rules: Value) -> Value {
    json!({ "podSelector": { "matchLabels": { "app": "client" } }, "egress": rules,
            "policyTypes": ["Egress"] })
}

fn apps(app: &str) -> Value {
    json!({ "podSelector": { "matchLabels": { "app": app } } })
}

/// A server and two clients on one node.
fn three() -> Lab {
    let mut lab = Lab::new();
    for (number, app) in [(2, "server"), (3, "client"), (4, "other")] {
        lab.pod(number, app);
        for port in [80, 82, 90] {
            lab.serve(number, port);
        }
    }
    lab.sync();
    lab
}

#[test]
fn only_what_is_allowed_reaches_a_pod_and_its_node_always_does() {
    let mut lab = three();
    for who in [Who::Pod(3), Who::Pod(4), Who::Node, Who::Outside] {
        assert!(lab.reaches(who, 2, 80), "without policies {who:?}");
    }
    lab.policy(ingress(json!([])));
    for who in [Who::Pod(3), Who::Pod(4), Who::Outside] {
        assert!(lab.is_kept_from(who, 2, 80), "{who:?}");
    }
    assert!(
        lab.reaches(Who::Node, 2, 80),
        "such as the kubelet's probes"
    );
    assert!(lab.reaches(Who::Pod(2), 2, 80), "itself");
    assert!(
        lab.reaches(Who::Pod(2), 4, 80),
        "what it opens is not forbidden"
    );
    lab.policy(ingress(json!([{ "from": [apps("client")] }])));
    assert!(lab.reaches(Who::Pod(3), 2, 80));
    assert!(lab.is_kept_from(Who::Pod(4), 2, 80));
    lab.agent.hear(pod_object(4, "client"));
    lab.sync();
    assert!(lab.reaches(Who::Pod(4), 2, 80), "a label that came");
    lab.policy(ingress(
        json!([{ "ports": [{ "port": "web" }] }, { "ports": [{ "port": 85, "endPort": 95 }] }]),
    ));
    assert!(lab.reaches(Who::Outside, 2, 82), "web is 82 at this pod");
    assert!(lab.reaches(Who::Outside, 2, 90), "in the range");
    assert!(lab.is_kept_from(Who::Outside, 2, 80));
    lab.policy(ingress(json!([{ "from": [{ "ipBlock":
        { "cidr": "10.244.0.0/24", "except": ["10.244.0.4/32"] } }] }])));
    assert!(lab.reaches(Who::Pod(3), 2, 80));
    assert!(lab.is_kept_from(Who::Pod(4), 2, 80), "left out");
    assert!(lab.is_kept_from(Who::Outside, 2, 80));
}

#[test]
fn a_pod_reaches_only_what_it_is_allowed() {
    let mut lab = three();
    lab.policy(egress(
        json!([{ "to": [apps("server")], "ports": [{ "port": "web" }] }]),
    ));
    assert!(lab.reaches(Who::Pod(3), 2, 82), "web is 82 there");
    assert!(lab.is_kept_from(Who::Pod(3), 2, 80));
    assert!(lab.is_kept_from(Who::Pod(3), 4, 82));
    assert!(
        lab.reaches(Who::Pod(4), 3, 80),
        "what is opened to it is not forbidden"
    );
    lab.policy(egress(json!([{ "to": [{ "ipBlock": { "cidr": "0.0.0.0/0",
        "except": ["10.244.0.4/32"] } }], "ports": [{ "port": 80 }] }])));
    assert!(lab.reaches(Who::Pod(3), 2, 80));
    assert!(lab.is_kept_from(Who::Pod(3), 4, 80));
}

#[test]
fn a_running_connection_follows_the_policies() {
    let mut lab = three();
    lab.policy(ingress(json!([{ "from": [apps("client")] }])));
    let mut stream = lab.open(Who::Pod(3), 2, 80).expect("allowed");
    lab.policy(ingress(json!([{ "from": [apps("other")] }])));
    assert!(!echoes(&mut stream, SILENCE), "cut");
    lab.policy(ingress(json!([{ "from": [apps("client")] }])));
    stream.set_read_timeout(Some(GIVE_UP)).expect("timeout");
    let mut byte = [0];
    assert_eq!(stream.read(&mut byte).expect("sent again by the kernel"), 1);
}

#[test]
fn a_flow_of_udp_is_cut_in_both_directions() {
    let mut lab = three();
    lab.policy(ingress(json!([{ "from": [apps("client")] }])));
    let socket = |number: u8, port: u16| {
        let socket = lab.pods[&number]
            .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind"))
            .expect("enter");
        socket.set_read_timeout(Some(GIVE_UP)).expect("timeout");
        socket
    };
    let (server, client) = (socket(2, 5000), socket(3, 0));
    client.send_to(b"1", (pod_ip(2), 5000)).expect("sent");
    let mut buffer = [0; 8];
    let (_, back) = server.recv_from(&mut buffer).expect("allowed");
    server.send_to(b"2", back).expect("sent");
    client.recv_from(&mut buffer).expect("the answer");
    lab.policy(ingress(json!([])));
    for (socket, to) in [
        (&server, back),
        (&client, (IpAddr::from(pod_ip(2)), 5000).into()),
    ] {
        socket.send_to(b"3", to).expect("sent, to the kernel");
    }
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(SILENCE)).expect("timeout");
        let got = socket.recv_from(&mut buffer).map_err(|e| e.kind());
        assert_eq!(got, Err(ErrorKind::WouldBlock));
    }
}

#[test]
fn rules_outlive_the_agent_and_are_repaired() {
    let mut lab = three();
    lab.policy(ingress(json!([{ "from": [apps("client")] }])));
    let look = |lab: &Lab| installed(lab, Family::Ip4);
    let before = look(&lab);
    assert!(before.table);
    // The agent starts again, and for a while it knows nothing.
    lab.agent = lab
        .node
        .run(|| Agent::new(&config()).expect("netfilter socket"))
        .expect("enter the node");
    lab.sync();
    assert!(look(&lab) == before, "what is not known is left alone");
    assert!(lab.is_kept_from(Who::Pod(4), 2, 80));
    for (number, app) in [(2, "server"), (3, "client"), (4, "other")] {
        lab.agent.hear(pod_object(number, app));
    }
    lab.agent
        .hear(policy(ingress(json!([{ "from": [apps("client")] }]))));
    lab.listed_again();
    lab.sync();
    assert!(look(&lab) == before, "the same after a restart");
    // Somebody removes it.
    let flush = || {
        let table = Table {
            family: Family::Ip4,
            name: TABLE.into(),
        };
        Socket::open().and_then(|mut s| s.delete_table(&table))
    };
    lab.node.run(flush).expect("enter").expect("deleted");
    assert!(lab.reaches(Who::Pod(4), 2, 80), "unprotected");
    let agent = &mut lab.agent;
    lab.node.run(|| agent.verify()).expect("enter");
    assert!(look(&lab) == before, "repaired");
    assert!(lab.is_kept_from(Who::Pod(4), 2, 80));
}

impl Lab {
    /// Lists that hold what was handed in before.
    fn listed_again(&mut self) {
        let policy = match policy(ingress(json!([{ "from": [apps("client")] }]))) {
            PolicyEvent::Policy(event) => match *event {
                Event::Apply(policy) => policy,
                _ => unreachable!("made so"),
            },
            _ => unreachable!("made so"),
        };
        for event in [Event::Init, Event::InitApply(policy), Event::InitDone] {
            self.agent.hear(PolicyEvent::Policy(Box::new(event)));
        }
        for event in [Event::Init, Event::InitDone] {
            self.agent.hear(PolicyEvent::Namespace(Box::new(event)));
        }
        self.agent.hear(PolicyEvent::Pod(Box::new(Event::Init)));
        for (number, app) in [(2, "server"), (3, "client"), (4, "other")] {
            if let PolicyEvent::Pod(event) = pod_object(number, app)
                && let Event::Apply(pod) = *event
            {
                self.agent
                    .hear(PolicyEvent::Pod(Box::new(Event::InitApply(pod))));
            }
        }
        self.agent.hear(PolicyEvent::Pod(Box::new(Event::InitDone)));
    }
}

fn installed(lab: &Lab, family: Family) -> host::nft::Installed {
    let name = TABLE.to_owned();
    let read = || Socket::open().and_then(|mut s| s.read(&Table { family, name }));
    lab.node.run(read).expect("enter").expect("read")
}

/// Pods may come to have addresses of both families: the kernel takes what is planned for IPv6.
#[test]
fn the_other_family_is_programmed_too() {
    let mut lab = Lab::new();
    let pod = json!({
        "metadata": { "name": "p2", "namespace": "default", "labels": { "app": "server" } },
        "spec": { "nodeName": NODE, "containers": [{ "name": "c" }] },
        "status": { "phase": "Running", "podIPs": [{ "ip": "10.244.0.2" }, { "ip": "fd00::2" }] },
    });
    let pod = serde_json::from_value(pod).expect("a pod");
    lab.agent
        .hear(PolicyEvent::Pod(Box::new(Event::Apply(pod))));
    let block = json!({ "ipBlock": { "cidr": "fd00::/16", "except": ["fd00::/64"] } });
    lab.policy(ingress(
        json!([{ "from": [block, apps("server")], "ports": [{ "port": 80 }] }]),
    ));
    let (v4, v6) = (installed(&lab, Family::Ip4), installed(&lab, Family::Ip6));
    assert_eq!(v4.chains.len(), 4);
    assert_eq!(v6.chains, v4.chains, "the same rules");
    let elements = |name: &str| {
        let found = v6.sets.iter().find(|(n, _)| n.starts_with(name));
        found.expect("a set").1.elements.len()
    };
    assert_eq!(
        (elements("blocks-"), elements("pods-"), elements("itself")),
        (2, 1, 1)
    );
    let shown = listing::listing(&lab.node);
    for family in ["ip", "ip6"] {
        let rule = format!("ct original {family} saddr vmap @egress");
        assert!(shown.contains(&rule), "{shown}");
    }
    // What is repaired is nothing: it was read as it had been written.
    let agent = &mut lab.agent;
    lab.node.run(|| agent.verify()).expect("enter");
    lab.policy(ingress(json!([{}])));
    // What packets under way may look at goes a little later.
    let begun = clock::Instant::now();
    for family in [Family::Ip4, Family::Ip6] {
        loop {
            let agent = &mut lab.agent;
            lab.node.run(|| agent.verify()).expect("enter");
            let left = installed(&lab, family);
            if left.chains.is_empty() && left.sets.is_empty() {
                break;
            }
            assert!(begun.elapsed() < GIVE_UP, "{left:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The plugin connects a pod while the agent does not know it yet.
#[test]
fn a_pod_is_protected_before_the_plugin_says_that_it_is_connected() {
    let mut lab = Lab::new();
    lab.pod(3, "client");
    let folder = tempfile::tempdir().expect("a folder");
    let door = folder.path().join("door");
    let (to_agent, heard) = futures::channel::mpsc::unbounded();
    let say = |heard: PolicyEvent| to_agent.unbounded_send(heard).expect("the agent lives");
    // An agent of its own thread, as in a node's process.
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let (node, path) = (&lab.node, door.clone());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let config = Config {
                door: Some(path),
                ..config()
            };
            let run = || {
                let end = async { drop(ended.await) };
                network::policy::run_on(heard.boxed(), |_| Vec::new(), config, end)
            };
            node.run_async(run).expect("enter").expect("the agent");
        });
        for event in [Event::Init, Event::InitDone] {
            say(PolicyEvent::Policy(Box::new(event)));
        }
        say(policy(ingress(json!([]))));
        for event in [Event::Init, Event::InitDone] {
            say(PolicyEvent::Namespace(Box::new(event)));
        }
        for event in [Event::Init, Event::InitDone] {
            say(PolicyEvent::Pod(Box::new(event)));
        }
        let pod = NetNs::anonymous().expect("a new network namespace");
        let netns = format!("/proc/self/fd/{}", pod.as_fd().as_raw_fd());
        let variable = |name: &str| match name {
            "CNI_COMMAND" => Some("ADD".to_owned()),
            "CNI_CONTAINERID" => Some("c1".to_owned()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            "CNI_NETNS" => Some(netns.clone()),
            "CNI_ARGS" => Some(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p2;K8S_POD_UID=u2"
                    .to_owned(),
            ),
            _ => None,
        };
        let conf = json!({
            "cniVersion": "1.0.0", "name": "n", "type": "t", "podCIDR": "10.244.0.0/24",
            "nodeAddress": NODE_IP, "stateDir": folder.path(), "mtu": 1500, "policySocket": door,
        });
        let added = node
            .run(|| network::cni::call(variable, &conf.to_string()))
            .expect("enter the node");
        let added = added.expect("connected").expect("a result");
        let address: String = added["ips"][0]["address"].as_str().expect("text").into();
        let address: Ipv4Addr = address.trim_end_matches("/32").parse().expect("an address");
        // The API has not shown it: a server that listens at once hears nothing.
        let listener = pod
            .run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).expect("bind"))
            .expect("enter");
        let target = SocketAddr::new(address.into(), 80);
        let ask = |from: &NetNs, within: Duration| {
            from.run(|| {
                TcpStream::connect_timeout(&target, within)
                    .map(drop)
                    .map_err(|e| e.kind())
            })
            .expect("enter")
        };
        assert_eq!(ask(&lab.pods[&3], SILENCE), Err(ErrorKind::TimedOut));
        assert_eq!(ask(&lab.node, GIVE_UP), Ok(()), "its node always may");
        drop(listener);
        let known = network::cni::tenants(folder.path(), "n").expect("read");
        assert_eq!(
            known.len(),
            1,
            "an agent that starts again knows whose it is"
        );
        assert_eq!(known[0].1.uid, "u2");
        let _ = end.send(());
    });
    drop(lab.outside);
}

/// Without an agent no pod starts: it would not be protected.
#[test]
fn a_pod_does_not_start_without_the_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let door = folder.path().join("door");
    let error = network::policy::door::tell(
        &door,
        &network::policy::door::Notice::Added {
            namespace: "default".into(),
            name: "p".into(),
            uid: "u".into(),
            sandbox: "s".into(),
            addresses: vec![IpAddr::from(pod_ip(2))],
        },
    );
    assert_eq!(error.map_err(|e| e.kind()), Err(ErrorKind::NotFound));
}
