//! The rules in a real kernel: each test makes its own network namespaces. Needs root.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a real kernel, in real time"
)]

mod announced;
mod flows;
mod lab;
#[path = "../../../host/tests/listing/mod.rs"]
mod listing;
mod refused;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use host::netns::NetNs;
use host::nft::{Family, Socket, Table, diff};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;
use lab::{Lab, NODE_IP, ask, ask_udp, count};
use proxy::ProxyEvent;
use proxy::metrics::Metrics;
use proxy::model::Name;
use proxy::program::Programmer;
use proxy::rules::Node;
use proxy::state::State;
use serde_json::{Value, json};

const NODE: &str = "n1";
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);

fn pod(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 0, last)
}

fn cluster() -> SocketAddr {
    SocketAddr::new(CLUSTER_IP.into(), 80)
}

fn service(extra: Value) -> core::Service {
    let mut spec = json!({
        "clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP], "type": "NodePort",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}],
    });
    for (key, value) in extra.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default"}, "spec": spec,
    }))
    .expect("a Service")
}

fn slice(protocol: &str, endpoints: &[(Ipv4Addr, &str)]) -> EndpointSlice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node)| {
            json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}})
        })
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "default",
                     "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": protocol}],
        "endpoints": endpoints,
    }))
    .expect("an EndpointSlice")
}

fn node() -> Node {
    Node {
        family: Family::Ip4,
        cluster_cidr: Some("10.244.0.0/16".parse().expect("a prefix")),
        loopback_node_ports: false,
        node_port_addresses: Vec::new(),
        masquerade_bit: proxy::MASQUERADE_BIT,
        place: proxy::rules::NodeTopology::default(),
    }
}

/// A proxy without watches: objects are handed in.
struct Proxy<'a> {
    netns: &'a NetNs,
    programmer: Programmer,
    state: State,
}

impl<'a> Proxy<'a> {
    fn start(netns: &'a NetNs) -> Self {
        let node = node();
        let programmer = netns
            .run(|| Programmer::new(node, "t").expect("netfilter socket"))
            .expect("enter the node");
        let mut state = State::new(NODE);
        for event in [Event::Init, Event::InitDone] {
            state.service_event(event);
        }
        for event in [Event::Init, Event::InitDone] {
            state.slice_event(event);
        }
        Self {
            netns,
            programmer,
            state,
        }
    }

    fn apply(&mut self, service: core::Service, slice: EndpointSlice) {
        self.state.service_event(Event::Apply(service));
        self.state.slice_event(Event::Apply(slice));
        self.sync();
    }

    /// Whether others had changed something, which is as it should be now.
    fn repair(&mut self) -> bool {
        let (programmer, state) = (&mut self.programmer, &self.state);
        let metrics = Metrics::new(clock::Clock::system());
        self.netns
            .run(move || programmer.repair(state, &metrics).expect("repaired"))
            .expect("enter the node")
    }

    fn sync(&mut self) {
        let touched = self.state.take_touched();
        let (programmer, state) = (&mut self.programmer, &self.state);
        // Conntrack's socket is opened in the thread's namespace.
        self.netns
            .run(move || {
                programmer
                    .sync(state, &touched, &Metrics::new(clock::Clock::system()))
                    .expect("programmed")
            })
            .expect("enter the node");
    }
}

fn three_servers() -> (Lab, Vec<(Ipv4Addr, &'static str)>) {
    let mut lab = Lab::new();
    let mut endpoints = Vec::new();
    for last in [2, 3, 4] {
        lab.pod(pod(last));
        lab.serve(pod(last), 8080);
        endpoints.push((pod(last), NODE));
    }
    (lab, endpoints)
}

fn equally(times: usize) -> BTreeMap<String, usize> {
    [2, 3, 4].map(|last| (pod(last).to_string(), times)).into()
}

#[test]
fn new_connections_go_to_the_endpoints_in_turn() {
    let (mut lab, endpoints) = three_servers();
    lab.pod(pod(9));
    let mut proxy = Proxy::start(&lab.node);
    proxy.apply(service(json!({})), slice("TCP", &endpoints));

    let client = lab.netns(pod(9));
    assert_eq!(count(client, cluster(), 300), equally(100), "from a pod");
    assert_eq!(
        count(&lab.node, cluster(), 300),
        equally(100),
        "from the node"
    );
    let node_port = SocketAddr::new(NODE_IP.into(), 30080);
    assert_eq!(
        count(client, node_port, 300),
        equally(100),
        "by node port from a pod"
    );
    assert_eq!(
        count(&lab.node, node_port, 300),
        equally(100),
        "by node port from the node"
    );

    let (_, seen) = ask(client, cluster()).expect("an answer");
    assert_eq!(seen, pod(9), "a pod's own address is kept");
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let (lab, _) = three_servers();
    let mut proxy = Proxy::start(&lab.node);
    proxy.apply(service(json!({})), slice("TCP", &[(pod(2), NODE)]));
    let (server, seen) = ask(lab.netns(pod(2)), cluster()).expect("an answer");
    assert_eq!(server, pod(2).to_string());
    assert_ne!(
        seen,
        pod(2),
        "its own address would be answered inside the pod"
    );
}

#[test]
fn a_client_stays_with_its_endpoint_while_there_is_one() {
    let (mut lab, endpoints) = three_servers();
    lab.pod(pod(9));
    let sticky = json!({"sessionAffinity": "ClientIP",
                        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}});
    let mut proxy = Proxy::start(&lab.node);
    proxy.apply(service(sticky.clone()), slice("TCP", &endpoints));
    let client = lab.netns(pod(9));
    let (first, _) = ask(client, cluster()).expect("an answer");
    assert_eq!(count(client, cluster(), 20), [(first.clone(), 20)].into());

    // A change of other endpoints does not move it; the loss of its own does, for good.
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for endpoint in &endpoints {
        let same = endpoint.0.to_string() == first;
        if same {
            ours.push(*endpoint)
        } else {
            others.push(*endpoint)
        }
    }
    proxy.apply(service(sticky.clone()), slice("TCP", &[ours[0], others[0]]));
    assert_eq!(count(client, cluster(), 20), [(first.clone(), 20)].into());
    proxy.apply(service(sticky), slice("TCP", &others));
    let (second, _) = ask(client, cluster()).expect("an answer");
    assert_ne!(second, first);
    assert_eq!(count(client, cluster(), 20), [(second, 20)].into());
}

#[test]
fn a_local_policy_keeps_to_the_node_and_keeps_the_source() {
    let (mut lab, _) = three_servers();
    lab.pod(pod(9));
    // An outside client is a pod whose address is not in the cluster's range.
    let outside = Ipv4Addr::new(198, 51, 100, 7);
    lab.pod(outside);
    let mut proxy = Proxy::start(&lab.node);
    let slice = slice("TCP", &[(pod(2), NODE), (pod(3), "n2"), (pod(4), "n2")]);
    let node_port = SocketAddr::new(NODE_IP.into(), 30080);

    proxy.apply(service(json!({})), slice.clone());
    let (_, seen) = ask(lab.netns(outside), node_port).expect("an answer");
    assert_ne!(
        seen, outside,
        "translated, so that the answer comes back this way"
    );

    proxy.apply(
        service(json!({"externalTrafficPolicy": "Local"})),
        slice.clone(),
    );
    assert_eq!(
        count(lab.netns(outside), node_port, 6),
        [(pod(2).to_string(), 6)].into()
    );
    let (_, seen) = ask(lab.netns(outside), node_port).expect("an answer");
    assert_eq!(seen, outside);
    assert_eq!(
        count(lab.netns(pod(9)), node_port, 3),
        equally(1),
        "not bound inside the cluster"
    );

    proxy.apply(service(json!({"internalTrafficPolicy": "Local"})), slice);
    assert_eq!(
        count(lab.netns(pod(9)), cluster(), 6),
        [(pod(2).to_string(), 6)].into()
    );
}

const BALANCER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const VISITOR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

/// A Service with an address of a load balancer that belongs to no interface.
fn balanced(extra: Value) -> core::Service {
    let mut spec = json!({"type": "LoadBalancer"});
    for (key, value) in extra.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    let mut service = service(spec);
    let status = json!({"loadBalancer": {"ingress": [{"ip": BALANCER, "ipMode": "VIP"}]}});
    service.status = serde_json::from_value(status).expect("a status");
    let notes = format!("{BALANCER}={NODE}");
    service.metadata.annotations =
        Some([("tiphys.io/load-balancer-nodes".to_owned(), notes)].into());
    service
}

#[test]
fn node_ports_answer_where_they_shall() {
    let (lab, endpoints) = three_servers();
    let start = |network: &str| {
        let mut proxy = Proxy::start(&lab.node);
        let node = Node {
            node_port_addresses: vec![network.parse().expect("a prefix")],
            ..node()
        };
        let start = || Programmer::new(node, "t").expect("netfilter socket");
        proxy.programmer = lab.node.run(start).expect("enter the node");
        proxy.apply(service(json!({})), slice("TCP", &endpoints));
        ask(&lab.node, SocketAddr::new(NODE_IP.into(), 30080))
    };
    start("192.0.2.0/24").expect("an answer");
    let refused = start("198.51.100.0/24").expect_err("no such address");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_restart_reads_back_and_repairs() {
    let (lab, endpoints) = three_servers();
    let all_endpoints = endpoints.clone();
    let table = Table {
        family: Family::Ip4,
        name: "t".into(),
    };
    let sticky = json!({"sessionAffinity": "ClientIP"});
    let mut proxy = Proxy::start(&lab.node);
    proxy.apply(service(sticky.clone()), slice("TCP", &endpoints));
    let read = || {
        let read = || {
            Socket::open()
                .and_then(|mut s| s.read(&table))
                .expect("read back")
        };
        lab.node.run(read).expect("enter the node")
    };
    let before = read();

    // A second proxy finds all as it shall be.
    let mut second = Proxy::start(&lab.node);
    second.apply(service(sticky), slice("TCP", &endpoints));
    assert_eq!(read(), before);
    let state = &second.state;
    let name = Name {
        namespace: "default".into(),
        name: "web".into(),
    };
    let node = node();
    let service = state.service(&name).expect("known");
    let endpoints = state.endpoints(&name);
    let desired = proxy::service_rules::rules(&node, [(&name, service, endpoints.as_slice())]);
    assert!(
        diff(&table, &before, &desired).is_empty(),
        "what is read is what was written"
    );

    // So of a Service whose chain is anybody's, and of one that had more endpoints before.
    for count in [3, 2] {
        let slice = slice("TCP", &all_endpoints[..count]);
        second.apply(self::service(json!({})), slice.clone());
        second.repair();
        let before = read();
        let mut third = Proxy::start(&lab.node);
        third.apply(self::service(json!({})), slice);
        assert_eq!(read(), before);
        assert!(!third.repair(), "nor later");
        assert_eq!(read(), before);
    }
    // What packets under way may need is gone then.
    for _ in 0..2 {
        assert!(!second.repair(), "all is as it should be");
    }
    let before = read();

    // A third finds foreign changes and mends them.
    lab.node
        .run(|| {
            let mut batch = host::nft::Batch::new();
            batch.flush_chain(&table, "services");
            Socket::open()
                .and_then(|mut s| s.commit(batch))
                .expect("spoil");
        })
        .expect("enter the node");
    assert_ne!(read(), before);
    assert!(second.repair(), "it is noticed");
    assert_eq!(read(), before);
    assert!(!second.repair(), "all is as it should be");

    // Or all is gone.
    lab.node
        .run(|| {
            Socket::open()
                .and_then(|mut s| s.delete_table(&table))
                .expect("delete");
        })
        .expect("enter the node");
    assert!(second.repair());
    assert_eq!(read(), before);
    assert!(!second.repair());
}

#[test]
fn the_kernel_takes_rules_of_both_families() {
    let lab = Lab::new();
    let mut web = service(json!({
        "clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.96.0.80"],
        "type": "LoadBalancer", "externalIPs": ["2001:db8::1", "203.0.113.1"],
        "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local",
        "loadBalancerSourceRanges": ["2001:db8::/32", "198.51.100.0/24"],
        "ports": [
            {"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080},
            {"name": "none", "port": 81, "protocol": "SCTP", "nodePort": 30081},
        ],
    }));
    web.status = serde_json::from_value(json!({
        "loadBalancer": {"ingress": [{"ip": "2001:db8::2"}, {"ip": "203.0.113.2"}]},
    }))
    .expect("a status");
    let slices: Vec<EndpointSlice> = [("v4", "10.244.0.2"), ("v6", "fd00:244::2")]
        .into_iter()
        .map(|(name, ip)| {
            let mut slice = slice("TCP", &[]);
            slice.metadata.name = Some(name.into());
            let endpoints = json!([
                {"addresses": [ip], "nodeName": NODE},
                {"addresses": [format!("{ip}2")], "nodeName": NODE},
            ]);
            slice.endpoints = serde_json::from_value(endpoints).expect("endpoints");
            slice
        })
        .collect();
    for family in [Family::Ip4, Family::Ip6] {
        let mut proxy = Proxy::start(&lab.node);
        let cidr = if family == Family::Ip4 {
            "10.244.0.0/16"
        } else {
            "fd00:244::/64"
        };
        let node = Node {
            family,
            cluster_cidr: Some(cidr.parse().expect("a prefix")),
            loopback_node_ports: true,
            node_port_addresses: Vec::new(),
            masquerade_bit: proxy::MASQUERADE_BIT,
            place: proxy::rules::NodeTopology::default(),
        };
        let start = || Programmer::new(node.clone(), "t").expect("netfilter socket");
        proxy.programmer = lab.node.run(start).expect("enter the node");
        proxy.state.service_event(Event::Apply(web.clone()));
        for slice in &slices {
            proxy.state.slice_event(Event::Apply(slice.clone()));
        }
        proxy.sync();
        let name = Name {
            namespace: "default".into(),
            name: "web".into(),
        };
        let endpoints = proxy.state.endpoints(&name);
        let service = proxy.state.service(&name).expect("known");
        let desired = proxy::service_rules::rules(&node, [(&name, service, endpoints.as_slice())]);
        assert!(
            desired.chains.contains_key("fw/default/web/tcp/80"),
            "{desired}"
        );
        let table = Table {
            family,
            name: "t".into(),
        };
        let read = || {
            Socket::open()
                .and_then(|mut s| s.read(&table))
                .expect("read back")
        };
        let installed = lab.node.run(read).expect("enter the node");
        let delta = diff(&table, &installed, &desired);
        assert!(delta.is_empty(), "{family:?}: {delta:?}");
    }
    let shown = listing::listing(&lab.node);
    assert!(shown.contains("chain fw/default/web/tcp/80"), "{shown}");
}

/// The whole proxy: a listing in, rules out, health and metrics served. The rules stay behind.
#[test]
fn it_runs_on_events() {
    let (lab, endpoints) = three_servers();
    let mut config = proxy::Config::new(NODE);
    config.cluster_cidrs = vec!["10.244.0.0/16".parse().expect("a prefix")];
    let events = vec![
        ProxyEvent::Service(Event::Init),
        ProxyEvent::Service(Event::InitApply(service(json!({
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 30090,
        })))),
        ProxyEvent::Service(Event::InitDone),
        ProxyEvent::Slice(Event::Init),
        ProxyEvent::Slice(Event::InitApply(slice("TCP", &endpoints[..2]))),
        ProxyEvent::Slice(Event::InitDone),
        // Between two lists one endpoint came.
        ProxyEvent::Slice(Event::Init),
        ProxyEvent::Slice(Event::InitApply(slice("TCP", &endpoints))),
        ProxyEvent::Slice(Event::InitDone),
    ];
    let pages = lab
        .node
        .run_async(|| async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let events = futures::stream::iter(events);
            let forever = futures::stream::pending();
            let events = futures::StreamExt::chain(events, forever);
            let running = proxy::run_on(
                events,
                config,
                clock::Clock::system(),
                std::future::pending(),
            );
            let mut running = std::pin::pin!(running);
            let get = async |port: u16, path: &str| {
                let mut stream =
                    tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                stream
                    .write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes())
                    .await?;
                let mut text = String::new();
                stream.read_to_string(&mut text).await.map(|_| text)
            };
            let ask = async {
                // The health check port opens after the rules are programmed.
                loop {
                    match get(30090, "/").await {
                        Ok(page) => {
                            let health = get(10256, "/healthz").await.expect("/healthz");
                            let metrics = get(10249, "/metrics").await.expect("/metrics");
                            return [page, health, metrics];
                        }
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            };
            tokio::select! {
                result = &mut running => panic!("the proxy ended: {result:?}"),
                pages = ask => pages,
            }
        })
        .expect("enter the node");
    let [service, health, metrics] = pages;
    assert!(service.starts_with("HTTP/1.1 200") && service.contains("\"localEndpoints\":3"));
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(
        metrics.contains("kubeproxy_sync_proxy_rules_duration_seconds_count"),
        "{metrics}"
    );
    assert_eq!(count(&lab.node, cluster(), 6), equally(2));
    let kept = lab.node.run(|| {
        let timeout = |state: &str| {
            host::sysctl::get(&format!("net.netfilter.nf_conntrack_tcp_timeout_{state}"))
        };
        ["established", "close_wait"].map(|state| timeout(state).expect("the kernel tracks"))
    });
    assert_eq!(kept.expect("enter the node"), ["86400", "3600"]);

    lab.node
        .run(|| proxy::clean_up(&proxy::Config::new(NODE)).expect("clean up"))
        .expect("enter the node");
    let table = Table {
        family: Family::Ip4,
        name: "tiphys-proxy".into(),
    };
    let left = lab
        .node
        .run(|| Socket::open().and_then(|mut s| s.read(&table)));
    assert_eq!(
        left.expect("enter the node").expect("read back"),
        Default::default()
    );
}

/// A Service or a slice that another proxy serves, or that has its endpoints in DNS only.
#[test]
fn what_is_labelled_as_not_ours_is_left_alone() {
    use proxy::model::{Service, endpoints_of};
    let (mut labelled, mut slice) = (service(json!({})), slice("TCP", &[(pod(2), NODE)]));
    assert!(Service::of(&labelled).is_some() && endpoints_of(&slice, NODE).is_some());
    for label in ["service-proxy-name", "headless"] {
        let label = format!("service.kubernetes.io/{label}");
        labelled.metadata.labels = Some([(label.clone(), String::new())].into());
        let labels = slice.metadata.labels.as_mut().expect("labels");
        labels.insert(label.clone(), String::new());
        assert_eq!(Service::of(&labelled), None, "{label}");
        assert_eq!(endpoints_of(&slice, NODE), None, "{label}");
        slice
            .metadata
            .labels
            .as_mut()
            .expect("labels")
            .remove(&label);
    }
}

/// The cost of one change among many Services is that of the change.
#[test]
fn one_change_among_two_thousand_services() {
    let lab = Lab::new();
    let mut proxy = Proxy::start(&lab.node);
    let many = |index: u32, last: u8| {
        let ip = Ipv4Addr::from(0x0a60_1000 + index);
        let mut service =
            service(json!({"clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP"}));
        let name = format!("s{index}");
        service.metadata.name = Some(name.clone());
        let endpoints: Vec<_> = (0..10)
            .map(|e| {
                (
                    Ipv4Addr::from(0x0af4_0000 + index * 16 + e + u32::from(last)),
                    "n2",
                )
            })
            .collect();
        let mut slice = slice("TCP", &endpoints);
        slice.metadata.name = Some(format!("{name}-1"));
        slice.metadata.labels = Some([("kubernetes.io/service-name".to_owned(), name)].into());
        (service, slice)
    };
    for index in 0..2000 {
        let (service, slice) = many(index, 1);
        proxy.state.service_event(Event::Apply(service));
        proxy.state.slice_event(Event::Apply(slice));
    }
    let start = std::time::Instant::now();
    proxy.sync();
    println!(
        "2,000 Services with 10 endpoints each: {:?}",
        start.elapsed()
    );
    let mut times: Vec<_> = (0..50)
        .map(|index| {
            let (_, slice) = many(index, 2);
            proxy.state.slice_event(Event::Apply(slice));
            let start = std::time::Instant::now();
            proxy.sync();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("one change: p50 {:?}, p99 {:?}", times[25], times[49]);
    let table = Table {
        family: Family::Ip4,
        name: "t".into(),
    };
    let read = || {
        let start = std::time::Instant::now();
        let installed = Socket::open()
            .and_then(|mut s| s.read(&table))
            .expect("read back");
        println!("reading back: {:?}", start.elapsed());
        installed
    };
    let installed = lab.node.run(read).expect("enter the node");
    assert_eq!(installed.sets["turns"].elements.len(), 2000);
    let maps = installed.sets.iter();
    let maps = maps.filter(|(name, _)| name.starts_with("endpoints/"));
    let endpoints: usize = maps.map(|(_, map)| map.elements.len()).sum();
    assert_eq!(endpoints, 20_000);
}
