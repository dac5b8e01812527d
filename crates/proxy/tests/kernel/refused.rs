//! What is not let through: connections to nobody, to addresses of Services that no Service has, and
//! from whom a load balancer is not for.

use super::*;

/// Services have addresses of these ranges.
fn range(proxy: &mut Proxy<'_>, cidrs: &[&str]) {
    let range = json!({ "metadata": { "name": "one" }, "spec": { "cidrs": cidrs } });
    let range = serde_json::from_value(range).expect("a ServiceCIDR");
    proxy.state.range_event(Event::Apply(range));
    proxy.sync();
}

#[test]
fn an_address_of_services_that_no_service_has_leads_nowhere() {
    let (mut lab, endpoints) = three_servers();
    lab.pod(pod(9));
    // Who is there by another way than Services.
    let elsewhere = Ipv4Addr::new(203, 0, 113, 7);
    lab.pod(elsewhere);
    lab.serve(elsewhere, 8080);
    let target = SocketAddr::new(elsewhere.into(), 8080);
    let mut proxy = Proxy::start(&lab.node);
    proxy.apply(service(json!({})), slice("TCP", &endpoints));
    let clients = [lab.netns(pod(9)), &lab.node];
    for client in clients {
        ask(client, target).expect("no range has it");
    }
    range(&mut proxy, &["203.0.113.0/24", "10.244.0.0/24"]);
    for client in clients {
        // What is dropped is never answered: a short wait has to do.
        let error = client
            .run(|| std::net::TcpStream::connect_timeout(&target, lab::DROPPED))
            .expect("enter")
            .expect_err("no Service has it");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
        let pod = SocketAddr::new(pod(2).into(), 8080);
        ask(client, pod).expect("pods are reached, whatever a range says");
    }
    let moved = json!({ "clusterIP": elsewhere, "clusterIPs": [elsewhere] });
    proxy.apply(service(moved), slice("TCP", &endpoints));
    let its = SocketAddr::new(elsewhere.into(), 80);
    for client in clients {
        assert_eq!(count(client, its, 3), equally(1));
    }
    proxy.apply(service(json!({})), slice("TCP", &endpoints));
    range(&mut proxy, &[]);
    for client in clients {
        ask(client, target).expect("no range has it any more");
    }
}

#[test]
fn without_endpoints_connections_are_refused_at_once() {
    let (mut lab, endpoints) = three_servers();
    lab.pod(pod(9));
    let mut proxy = Proxy::start(&lab.node);
    proxy.apply(service(json!({})), slice("TCP", &[]));
    let node_port = SocketAddr::new(NODE_IP.into(), 30080);
    let other_port = SocketAddr::new(CLUSTER_IP.into(), 81);
    for netns in [lab.netns(pod(9)), &lab.node] {
        for target in [cluster(), node_port, other_port] {
            let error = ask(netns, target).expect_err("nobody is there");
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "{target}: {error}"
            );
        }
    }
    // And they are served again as soon as there is one.
    proxy.apply(service(json!({})), slice("TCP", &endpoints));
    assert_eq!(count(lab.netns(pod(9)), cluster(), 3), equally(1));
}

#[test]
fn only_listed_sources_use_a_load_balancer() {
    let (mut lab, endpoints) = three_servers();
    for last in [9, 10] {
        lab.pod(pod(last));
    }
    let ranges = json!({"loadBalancerSourceRanges": ["10.244.0.9/32"]});
    let mut proxy = Proxy::start(&lab.node);
    proxy.apply(balanced(ranges), slice("TCP", &endpoints));
    let target = SocketAddr::new(BALANCER.into(), 80);
    assert_eq!(count(lab.netns(pod(9)), target, 3), equally(1));
    // What is dropped is never answered: a short wait has to do.
    let dropped = |ns: &NetNs| {
        ns.run(|| std::net::TcpStream::connect_timeout(&target, lab::DROPPED))
            .expect("enter")
            .expect_err("shut out")
            .kind()
    };
    assert_eq!(dropped(lab.netns(pod(10))), std::io::ErrorKind::TimedOut);
    assert_eq!(
        dropped(&lab.node),
        std::io::ErrorKind::TimedOut,
        "the node itself, too"
    );
    // Other ways in are not the load balancer's.
    assert_eq!(count(lab.netns(pod(10)), cluster(), 3), equally(1));
}
