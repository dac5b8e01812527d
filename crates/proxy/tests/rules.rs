//! The planned rules as text.

use std::net::{IpAddr, SocketAddr};

use expect_test::{Expect, expect};
use host::nft::{Dirty, Family, Prefix, Ruleset};
use proxy::merge::Desired;
use proxy::model::{Endpoint, Name, Port, Service, TCP, UDP};
use proxy::rules::{Fragment, Node, NodeTopology, frame};
use proxy::service_rules::{rules, service_rules};
use proxy::unallocated::unallocated;

fn node() -> Node {
    Node {
        family: Family::Ip4,
        cluster_cidr: Some("10.244.0.0/16".parse().expect("a prefix")),
        loopback_node_ports: false,
        node_port_addresses: Vec::new(),
        masquerade_bit: 0x4000,
        place: NodeTopology {
            node: "here".into(),
            zone: Some("near".into()),
        },
    }
}

fn name(text: &str) -> Name {
    Name {
        namespace: "ns".into(),
        name: text.into(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn service() -> Service {
    Service {
        cluster_ips: vec![ip("10.96.0.1"), ip("fd00::1")],
        ports: vec![Port {
            name: "http".into(),
            protocol: TCP,
            port: 80,
            node_port: None,
        }],
        ..Service::default()
    }
}

fn endpoint(address: &str, local: bool) -> Endpoint {
    let address: SocketAddr = address.parse().expect("address and port");
    Endpoint {
        port_name: "http".into(),
        protocol: TCP,
        address,
        ready: true,
        serving: true,
        terminating: false,
        local,
        for_nodes: Vec::new(),
        for_zones: Vec::new(),
    }
}

fn two() -> Vec<Endpoint> {
    vec![
        endpoint("10.244.1.2:8080", false),
        endpoint("10.244.0.2:8080", true),
    ]
}

/// Endpoints that new connections go round.
fn round(endpoints: &[SocketAddr]) -> String {
    let all: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
    format!("goes round {}", all.join(", "))
}

/// All that new connections go round, and what else is done with them.
fn rounds(fragment: &Fragment) -> Vec<String> {
    let turns = fragment.turns.values().map(|all| round(all));
    let chains = fragment.chains.values();
    turns
        .chain(chains.map(|c| c.rules[0].to_string()))
        .collect()
}

/// What a Service adds to the table.
fn check(service: &Service, endpoints: &[Endpoint], expected: Expect) {
    expected.assert_eq(&text_of(service, endpoints));
}

/// The lines that come and go with a change of endpoints.
fn check_change(service: &Service, [old, new]: [&[Endpoint]; 2], expected: Expect) {
    let [old, new] = [old, new].map(|endpoints| text_of(service, endpoints));
    let only = |sign: char, text: &str, other: &str| -> String {
        let lines = text
            .lines()
            .filter(|line| !other.lines().any(|l| l == *line));
        lines
            .map(|line| format!("{sign} {}\n", line.trim()))
            .collect()
    };
    expected.assert_eq(&(only('-', &old, &new) + &only('+', &new, &old)));
}

fn text_of(service: &Service, endpoints: &[Endpoint]) -> String {
    let fragment = service_rules(&node(), &name("web"), service, endpoints);
    let mut text = Ruleset {
        chains: fragment.chains,
        sets: Default::default(),
    }
    .to_string();
    for map in &fragment.affinity_maps {
        text.push_str(&format!("affinity map {map}\n"));
    }
    for (key, endpoints) in &fragment.turns {
        let key: Vec<_> = key.iter().map(ToString::to_string).collect();
        text.push_str(&format!("{} {}\n", key.join(" . "), round(endpoints)));
    }
    for ((set, key), value) in &fragment.elements {
        let key: Vec<_> = key.iter().map(ToString::to_string).collect();
        let value = match value {
            host::nft::Value::Verdict(verdict) => format!(" : {verdict}"),
            _ => String::new(),
        };
        text.push_str(&format!("{set} += {}{value}\n", key.join(" . ")));
    }
    text
}

#[test]
fn the_frame() {
    expect![[r#"
        set away { ip daddr . l4proto . dport
        }
        set away-node-ports { l4proto . dport
        }
        set balancers { number : verdict
        }
        set cluster-ips { ip daddr
        }
        set firewall-ips { ip daddr . l4proto . dport : verdict
        }
        set hairpin { ip saddr . ip daddr
        }
        set no-endpoint-node-ports { l4proto . dport
        }
        set no-endpoints { ip daddr . l4proto . dport
        }
        set node-ports { l4proto . dport : verdict
        }
        set service-ips { ip daddr . l4proto . dport : verdict
        }
        set turns { ip daddr . l4proto . dport : number
        }
        chain filter-forward { type filter hook forward priority -110
          jump refused
        }
        chain filter-input { type filter hook input priority -110
          jump refused
        }
        chain filter-output { type filter hook output priority -90
          jump refused
        }
        chain filter-output-before { type filter hook output priority -110
          ct state new ip daddr . l4proto . dport vmap @firewall-ips
        }
        chain filter-prerouting { type filter hook prerouting priority -110
          ct state new ip daddr . l4proto . dport vmap @firewall-ips
        }
        chain nat-output { type nat hook output priority -100
          jump services
        }
        chain nat-postrouting { type nat hook postrouting priority 100
          mark & 0x4000 == 0x4000 mark set mark & ~0x4000 ^ 0x0 oifname != lo masquerade fully-random
          ip saddr . ip daddr @hairpin oifname != lo masquerade fully-random
        }
        chain nat-prerouting { type nat hook prerouting priority -100
          jump services
        }
        chain refused {
          ct state new ip daddr . l4proto . dport @no-endpoints reject
          ct state new fib daddr type local ip daddr != 127.0.0.0/8 l4proto . dport @no-endpoint-node-ports reject
          ct state new ip daddr . l4proto . dport @away drop
          ct state new fib daddr type local ip daddr != 127.0.0.0/8 l4proto . dport @away-node-ports drop
          ct state new ip daddr @cluster-ips reject
          ct state new jump unallocated
        }
        chain services {
          ip daddr @cluster-ips ip saddr != 10.244.0.0/16 mark set mark & ~0x4000 ^ 0x4000
          ip daddr . l4proto . dport map @turns vmap @balancers
          ip daddr . l4proto . dport vmap @service-ips
          fib daddr type local ip daddr != 127.0.0.0/8 l4proto . dport vmap @node-ports
        }
        chain unallocated {
        }
    "#]].assert_eq(&frame(&node()).to_string());
}

#[test]
fn addresses_of_services_that_no_service_has() {
    let ranges = ["10.96.0.0/16", "fd00:96::/112", "203.0.113.0/24"];
    let ranges: [Prefix; 3] = ranges.map(|range| range.parse().expect("a prefix"));
    let pods: Prefix = "10.244.0.0/16".parse().expect("a prefix");
    let text = |family, pods| {
        let chain = unallocated(family, pods, &ranges);
        let chains = [("unallocated".to_owned(), chain)].into();
        let sets = Default::default();
        Ruleset { chains, sets }.to_string()
    };
    expect![[r#"
        chain unallocated {
          ip daddr 10.96.0.0/16 ip daddr != 10.244.0.0/16 fib daddr type != local drop
          ip daddr 203.0.113.0/24 ip daddr != 10.244.0.0/16 fib daddr type != local drop
        }
    "#]]
    .assert_eq(&text(Family::Ip4, Some(pods)));
    expect![[r#"
        chain unallocated {
          ip daddr fd00:96::/112 fib daddr type != local drop
        }
    "#]]
    .assert_eq(&text(Family::Ip6, None));
    let mut desired = Desired::new(&node());
    desired.set_unallocated(unallocated(Family::Ip4, None, &ranges));
    assert_ne!(desired.take_dirty(), Dirty::default());
    desired.set_unallocated(unallocated(Family::Ip4, None, &ranges));
    assert_eq!(desired.take_dirty(), Dirty::default());
}

#[test]
fn a_cluster_address() {
    check(
        &service(),
        &two(),
        expect![[r#"
            10.96.0.1 . tcp . 80 goes round 10.244.0.2:8080, 10.244.1.2:8080
            cluster-ips += 10.96.0.1
            hairpin += 10.244.0.2 . 10.244.0.2
        "#]],
    );
}

#[test]
fn no_endpoints() {
    check(
        &service(),
        &[],
        expect![[r#"
            cluster-ips += 10.96.0.1
            no-endpoints += 10.96.0.1 . tcp . 80
        "#]],
    );
}

#[test]
fn affinity() {
    check(
        &Service {
            affinity_seconds: Some(60),
            ..service()
        },
        &two(),
        expect![[r#"
        chain svc/ns/web/tcp/80 {
          dnat to ip saddr map @aff-svc/ns/web/tcp/80 for 60s if in { 10.244.0.2:8080, 10.244.1.2:8080 }
          delete ip saddr @aff-svc/ns/web/tcp/80
          update @aff-svc/ns/web/tcp/80 for 60s dnat to numgen inc mod 2 { 10.244.0.2:8080, 10.244.1.2:8080 }
        }
        affinity map aff-svc/ns/web/tcp/80
        cluster-ips += 10.96.0.1
        hairpin += 10.244.0.2 . 10.244.0.2
        service-ips += 10.96.0.1 . tcp . 80 : goto svc/ns/web/tcp/80
    "#]],
    );
}

#[test]
fn local_policies_with_outer_addresses() {
    let mut service = Service {
        external_ips: vec![ip("203.0.113.1")],
        balancer_ips: vec![ip("203.0.113.2")],
        source_ranges: vec!["198.51.100.0/24".parse().expect("a prefix")],
        internal_local: true,
        external_local: true,
        ..service()
    };
    service.ports[0].node_port = Some(30080);
    check(
        &service,
        &two(),
        expect![[r#"
            chain ext/ns/web/tcp/80 {
              ip saddr 10.244.0.0/16 goto svc/ns/web/tcp/80
              fib saddr type local mark set mark & ~0x4000 ^ 0x4000 goto svc/ns/web/tcp/80
              goto loc/ns/web/tcp/80
            }
            chain fw/ns/web/tcp/80 {
              ip saddr 198.51.100.0/24 return
              drop
            }
            chain lb/ns/web/tcp/80 {
              ip saddr 198.51.100.0/24 goto ext/ns/web/tcp/80
              drop
            }
            chain loc/ns/web/tcp/80 {
              dnat to numgen inc mod 1 { 10.244.0.2:8080 }
            }
            chain svc/ns/web/tcp/80 {
              dnat to numgen inc mod 2 { 10.244.0.2:8080, 10.244.1.2:8080 }
            }
            cluster-ips += 10.96.0.1
            firewall-ips += 203.0.113.2 . tcp . 80 : goto fw/ns/web/tcp/80
            hairpin += 10.244.0.2 . 10.244.0.2
            node-ports += tcp . 30080 : goto ext/ns/web/tcp/80
            service-ips += 10.96.0.1 . tcp . 80 : goto loc/ns/web/tcp/80
            service-ips += 203.0.113.1 . tcp . 80 : goto ext/ns/web/tcp/80
            service-ips += 203.0.113.2 . tcp . 80 : goto lb/ns/web/tcp/80
        "#]],
    );
    let elsewhere = [endpoint("10.244.1.2:8080", false)];
    check_change(
        &service,
        [&two(), &elsewhere],
        expect![[r#"
            - goto loc/ns/web/tcp/80
            - chain loc/ns/web/tcp/80 {
            - dnat to numgen inc mod 1 { 10.244.0.2:8080 }
            - dnat to numgen inc mod 2 { 10.244.0.2:8080, 10.244.1.2:8080 }
            - hairpin += 10.244.0.2 . 10.244.0.2
            - service-ips += 10.96.0.1 . tcp . 80 : goto loc/ns/web/tcp/80
            + dnat to numgen inc mod 1 { 10.244.1.2:8080 }
            + away += 10.96.0.1 . tcp . 80
            + away += 203.0.113.1 . tcp . 80
            + away += 203.0.113.2 . tcp . 80
            + away-node-ports += tcp . 30080
        "#]],
    );
}

#[test]
fn terminating_endpoints_serve_while_there_are_no_others() {
    let going = Endpoint {
        ready: false,
        terminating: true,
        ..endpoint("10.244.1.3:8080", false)
    };
    let rules_of = |endpoints: &[Endpoint]| {
        let fragment = service_rules(&node(), &name("web"), &service(), endpoints);
        rounds(&fragment).join("; ")
    };
    let ready = endpoint("10.244.1.2:8080", false);
    assert_eq!(
        rules_of(&[going.clone(), ready.clone()]),
        "goes round 10.244.1.2:8080"
    );
    assert_eq!(
        rules_of(&[
            going.clone(),
            Endpoint {
                ready: false,
                serving: false,
                ..ready
            }
        ]),
        "goes round 10.244.1.3:8080"
    );
    let dead = Endpoint {
        serving: false,
        ..going
    };
    let fragment = service_rules(&node(), &name("web"), &service(), &[dead]);
    assert!(rounds(&fragment).is_empty());
}

#[test]
fn hints_count_where_all_ready_endpoints_have_them_and_one_is_meant_for_here() {
    let hinted = |address: &str, node: &str, zone: &str| {
        let list = |name: &str| Vec::from_iter((!name.is_empty()).then(|| name.to_owned()));
        Endpoint {
            for_nodes: list(node),
            for_zones: list(zone),
            ..endpoint(address, false)
        }
    };
    let chosen = |node: &Node, service: &Service, endpoints: &[Endpoint]| {
        let fragment = service_rules(node, &name("web"), service, endpoints);
        rounds(&fragment)
    };
    let of = |endpoints: &[Endpoint]| chosen(&node(), &service(), endpoints);
    let [here, near, far] = [
        hinted("10.244.1.1:80", "here", "near"),
        hinted("10.244.1.2:80", "there", "near"),
        hinted("10.244.1.3:80", "yonder", "far"),
    ];
    let to = |list: &[&str]| {
        let all = list.iter().map(|a| format!("10.244.1.{a}:80"));
        let all = Vec::from_iter(all).join(", ");
        vec![format!("goes round {all}")]
    };
    let three = [here.clone(), near.clone(), far.clone()];
    assert_eq!(of(&three), to(&["1"]));
    // Nobody on this node: its zone.
    assert_eq!(of(&three[1..]), to(&["2"]));
    // Nor there: all.
    assert_eq!(of(&three[2..]), to(&["3"]));
    // One without a hint for nodes, then one without any.
    let zonal = hinted("10.244.1.4:80", "", "near");
    let with = |more: Endpoint| Vec::from_iter(three.iter().cloned().chain([more]));
    assert_eq!(of(&with(zonal)), to(&["1", "2", "4"]));
    let bare = hinted("10.244.1.4:80", "", "");
    assert_eq!(of(&with(bare)), to(&["1", "2", "3", "4"]));
    // One that is not ready does not count.
    let going = Endpoint {
        ready: false,
        ..hinted("10.244.1.4:80", "", "")
    };
    assert_eq!(of(&with(going)), to(&["1"]));
    let nowhere = Node {
        place: NodeTopology::default(),
        ..node()
    };
    assert_eq!(chosen(&nowhere, &service(), &three), to(&["1", "2", "3"]));
    // What a policy keeps on the node does not look at hints.
    let local = Service {
        internal_local: true,
        ..service()
    };
    let own = Endpoint {
        local: true,
        ..far.clone()
    };
    let chains = chosen(&node(), &local, &[own, near]);
    assert_eq!(chains[0], "dnat to numgen inc mod 1 { 10.244.1.3:80 }");
}

#[test]
fn ports_and_families_do_not_mix() {
    let mut service = service();
    service.ports.push(Port {
        name: "dns".into(),
        protocol: UDP,
        port: 53,
        node_port: None,
    });
    let mut endpoints = two();
    endpoints.push(Endpoint {
        port_name: "dns".into(),
        protocol: UDP,
        ..endpoint("10.244.0.2:5353", true)
    });
    endpoints.push(endpoint("[fd00:244::2]:8080", true));
    let count = |family| {
        let node = Node {
            family,
            cluster_cidr: None,
            ..node()
        };
        let fragment = service_rules(&node, &name("web"), &service, &endpoints);
        rounds(&fragment)
    };
    assert_eq!(
        count(Family::Ip4),
        [
            "goes round 10.244.0.2:8080, 10.244.1.2:8080",
            "goes round 10.244.0.2:5353",
        ]
    );
    assert_eq!(count(Family::Ip6), ["goes round [fd00:244::2]:8080"]);
}

#[test]
fn pieces_sum_up_to_the_whole_and_conflicts_have_one_winner() {
    let node = node();
    let shared = Service {
        external_ips: vec![ip("203.0.113.1")],
        ..service()
    };
    let endpoints = two();
    let all = [name("a"), name("b"), name("c")];
    let whole = rules(
        &node,
        all.iter().map(|name| (name, &shared, endpoints.as_slice())),
    );
    let mut pieces = Desired::new(&node);
    for name in all.iter().rev() {
        pieces.set(name, service_rules(&node, name, &shared, &endpoints));
    }
    assert_eq!(*pieces.ruleset(), whole);
    let owner = |pieces: &Desired| {
        let text = pieces.ruleset().to_string();
        text.lines()
            .find(|line| line.contains("203.0.113.1 . tcp"))
            .map(str::to_owned)
    };
    let entry = |owner: &str| {
        Some(format!(
            "  203.0.113.1 . tcp . 80 : goto ext/ns/{owner}/tcp/80"
        ))
    };
    assert_eq!(owner(&pieces), entry("a"));
    // Whoever goes, the next has it; the last one takes the element along.
    pieces.set(&name("a"), Default::default());
    assert_eq!(owner(&pieces), entry("b"));
    for name in [name("b"), name("c")] {
        pieces.set(&name, Default::default());
    }
    // But for chains that nobody has any more, and what they stood for.
    let mut left = pieces.ruleset().clone();
    left.chains.retain(|name, _| !name.starts_with("turn/"));
    left.sets.retain(|name, _| !name.starts_with("endpoints/"));
    let balancers = left.sets.get_mut("balancers").expect("a map");
    balancers.elements.clear();
    assert_eq!(left, frame(&node));
}

#[test]
fn long_names_stay_distinct_and_short() {
    let long = |end: &str| Name {
        namespace: "n".repeat(63),
        name: "s".repeat(62) + end,
    };
    let chain = |name: &Name| {
        let sticky = Service {
            affinity_seconds: Some(60),
            ..service()
        };
        let fragment = service_rules(&node(), name, &sticky, &two());
        fragment.chains.keys().next().expect("a chain").clone()
    };
    assert_ne!(chain(&long("a")), chain(&long("b")));
    assert!(chain(&long("a")).len() <= 120);
}
