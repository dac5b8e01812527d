//! What Services go round after changes of every kind, found out as the kernel would.

use std::net::{IpAddr, Ipv4Addr};

use host::nft::{Dirty, Family, Ruleset, Table, diff};

use super::*;
use crate::merge::Desired;
use crate::model::Name;
use crate::rules::{Fragment, Node, NodeTopology};

fn node() -> Node {
    Node {
        family: Family::Ip4,
        cluster_cidr: None,
        loopback_node_ports: false,
        node_port_addresses: Vec::new(),
        masquerade_bit: 1,
        place: NodeTopology::default(),
    }
}

fn key(service: u32) -> Key {
    let ip = Ipv4Addr::from_bits(0x0a60_0000 + service).into();
    vec![
        KeyPart::Address(ip),
        KeyPart::Protocol(6),
        KeyPart::Port(80),
    ]
}

fn endpoint(number: u32) -> SocketAddr {
    let ip: IpAddr = Ipv4Addr::from_bits(0x0af4_0000 + number).into();
    SocketAddr::new(ip, 8080)
}

/// A Service has these endpoints from now on.
fn set(desired: &mut Desired, service: u32, endpoints: &[SocketAddr]) {
    let name = Name {
        namespace: "ns".into(),
        name: service.to_string(),
    };
    let mut fragment = Fragment::default();
    if !endpoints.is_empty() {
        fragment.turns.insert(key(service), endpoints.to_vec());
    }
    desired.set(&name, fragment);
}

fn elements<'a>(ruleset: &'a Ruleset, set: &str) -> &'a BTreeMap<Key, Value> {
    &ruleset.sets[set].elements
}

fn endpoints_in(ruleset: &Ruleset) -> usize {
    let maps = ruleset.sets.iter();
    let maps = maps.filter(|(name, _)| name.starts_with("endpoints/"));
    maps.map(|(_, map)| map.elements.len()).sum()
}

/// What a packet to the Service goes round, as the kernel would find out.
fn round(ruleset: &Ruleset, service: u32) -> Vec<SocketAddr> {
    let Some(Value::Number(first)) = elements(ruleset, TURNS).get(&key(service)) else {
        return Vec::new();
    };
    let number = |number: u32| vec![KeyPart::Number(number)];
    let Value::Verdict(Verdict::Goto(chain)) = &elements(ruleset, BALANCERS)[&number(*first)]
    else {
        panic!("no chain");
    };
    let [Rule(parts)] = &ruleset.chains[chain].rules[..] else {
        panic!("one rule");
    };
    let [Part::DnatTurn { map, first, count }] = &parts[..] else {
        panic!("{parts:?}");
    };
    let one = |n: u32| match elements(ruleset, map)[&number(n)] {
        Value::Endpoint(endpoint) => endpoint,
        _ => panic!("no endpoint"),
    };
    (*first..first + count).map(one).collect()
}

#[test]
fn each_service_goes_round_its_own_endpoints_whatever_changes() {
    let mut desired = Desired::new(&node());
    let mut model: BTreeMap<u32, Vec<SocketAddr>> = BTreeMap::new();
    let mut seed = 7u32;
    let mut next = |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) % below
    };
    for step in 0..3_000 {
        let service = next(40);
        let endpoints: Vec<SocketAddr> = (0..next(9)).map(|_| endpoint(next(500))).collect();
        set(&mut desired, service, &endpoints);
        model.insert(service, endpoints);
        desired.take_dirty();
        if step % 50 == 0 {
            desired.remove_unused();
            desired.make_ready();
            desired.take_dirty();
        }
        let ruleset = desired.ruleset();
        let mut had = 0;
        for (service, endpoints) in &model {
            assert_eq!(round(ruleset, *service), *endpoints);
            had += endpoints.len();
        }
        // No number is two Services', and none has an endpoint beyond its chain.
        let all = balancers(ruleset);
        let numbers: u32 = all.iter().map(|b| b.count).sum();
        assert!((had..=numbers as usize).contains(&endpoints_in(ruleset)));
        assert!(
            all.windows(2)
                .all(|w| w[0].first + w[0].count <= w[1].first)
        );
        assert_eq!(elements(ruleset, BALANCERS).len(), all.len());
    }
    for service in 0..40 {
        set(&mut desired, service, &[]);
    }
    desired.take_dirty();
    desired.remove_unused();
    let ruleset = desired.ruleset();
    assert!(elements(ruleset, TURNS).is_empty());
    // No map has more rules than numbers.
    assert!(ruleset.sets.len() > 10, "several maps");
    assert!(elements(ruleset, BALANCERS).len() <= UNUSED + 40 / 2);
}

fn balancers(ruleset: &Ruleset) -> Vec<Balancer> {
    let chains = ruleset.chains.keys();
    let mut all: Vec<Balancer> = chains.filter_map(|c| Balancer::of_chain(c)).collect();
    all.sort();
    all
}

/// What a packet goes to that found its Service's chain before a transaction, and its endpoint after
/// it.
fn torn(before: &Ruleset, after: &Ruleset, service: u32) -> Vec<SocketAddr> {
    let mut both = after.clone();
    let turn = elements(before, TURNS).get(&key(service)).cloned();
    let turns = &mut both.sets.get_mut(TURNS).unwrap().elements;
    match turn {
        Some(turn) => turns.insert(key(service), turn),
        None => turns.remove(&key(service)),
    };
    both.sets
        .insert(BALANCERS.into(), before.sets[BALANCERS].clone());
    both.chains = before.chains.clone();
    round(&both, service)
}

#[test]
fn a_packet_in_the_middle_of_a_change_finds_an_endpoint_of_its_service() {
    let mut seed = 11u32;
    let mut next = |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) % below
    };
    let table = Table {
        family: Family::Ip4,
        name: "t".into(),
    };
    // From an endpoint follows whose it is.
    let some = |service: u32, count: u32, shift: u32| -> Vec<SocketAddr> {
        (0..count)
            .map(|n| endpoint(service * 100 + shift + n))
            .collect()
    };
    let mut desired = Desired::new(&node());
    let mut had: BTreeMap<u32, Vec<SocketAddr>> = BTreeMap::new();
    for step in 0..1_000 {
        let before = desired.ruleset().clone();
        let restarts = step % 100 == 99;
        let mut now = had.clone();
        // Several Services change in one transaction, and take what others give back.
        for _ in 0..4 {
            let service = next(20);
            now.insert(service, some(service, next(5), next(50)));
        }
        if restarts {
            let mut installed = Installed::default();
            diff(&table, &installed, &before).apply(&table, &mut installed);
            desired = Desired::new(&node());
            desired.adopt(&installed);
        }
        for (service, endpoints) in &now {
            set(&mut desired, *service, endpoints);
        }
        if restarts {
            desired.settle();
            desired.make_ready();
        }
        desired.take_dirty();
        for (service, endpoints) in &had {
            let found = torn(&before, desired.ruleset(), *service);
            assert_eq!(found.len(), endpoints.len());
            let now = &now[service];
            let known = |e: &SocketAddr| endpoints.contains(e) || now.contains(e);
            assert!(
                found.iter().all(known),
                "{found:?} of {endpoints:?}, {now:?}"
            );
        }
        had = now;
        if step % 10 == 0 {
            let before = desired.ruleset().clone();
            desired.remove_unused();
            desired.make_ready();
            desired.take_dirty();
            for (service, endpoints) in &had {
                assert_eq!(torn(&before, desired.ruleset(), *service), *endpoints);
            }
        }
    }
}

const MAP: &str = "endpoints/";

/// The sets whose elements change, of maps of endpoints the common part of their names.
fn only_elements(dirty: &Dirty) -> BTreeSet<&str> {
    assert!(
        dirty.chains.is_empty() && dirty.sets.is_empty(),
        "{dirty:?}"
    );
    let name = |set: &'_ str| if set.starts_with(MAP) { MAP } else { TURNS };
    let sets = dirty.elements.iter().map(|(set, _)| set.as_str());
    let known = |set: &&str| set.starts_with(MAP) || *set == TURNS;
    assert!(sets.clone().all(|set| known(&set)), "{dirty:?}");
    sets.map(name).collect()
}

#[test]
fn a_change_of_endpoints_changes_nothing_that_leads_to_chains() {
    let mut desired = Desired::new(&node());
    let ten: Vec<SocketAddr> = (0..10).map(endpoint).collect();
    for service in 0..200 {
        set(&mut desired, service, &ten);
    }
    desired.settle();
    desired.make_ready();
    desired.take_dirty();
    let mut other = ten.clone();
    other[3] = endpoint(77);
    set(&mut desired, 5, &other);
    let dirty = desired.take_dirty();
    assert_eq!(only_elements(&dirty), [MAP].into());
    assert_eq!(dirty.elements.len(), 1);
    // Fewer, more, none, and some again.
    for endpoints in [&ten[..9], &ten, &ten[..9], &[], &ten] {
        set(&mut desired, 6, endpoints);
        let dirty = desired.take_dirty();
        let changed = only_elements(&dirty);
        assert!(changed.contains(TURNS), "{changed:?}");
        desired.remove_unused();
        desired.make_ready();
        desired.take_dirty();
    }
    // What was made for that is bounded.
    let chains = elements(desired.ruleset(), BALANCERS).len();
    assert!(chains <= 200 + 4 * (1 + 200 / READY_SHARE), "{chains}");
}

#[test]
fn who_comes_after_leaves_all_as_it_is() {
    let table = Table {
        family: Family::Ip4,
        name: "t".into(),
    };
    let mut first = Desired::new(&node());
    for service in (0..50).rev() {
        let some: Vec<SocketAddr> = (0..service % 5).map(endpoint).collect();
        set(&mut first, service, &some);
    }
    // They have moved about.
    for service in [3, 17, 21] {
        set(
            &mut first,
            service,
            &[endpoint(1), endpoint(2), endpoint(3)],
        );
        set(&mut first, service, &[endpoint(1)]);
    }
    first.settle();
    first.make_ready();
    let mut installed = Installed::default();
    diff(&table, &installed, first.ruleset()).apply(&table, &mut installed);

    let mut second = Desired::new(&node());
    second.adopt(&installed);
    for service in 0..50 {
        let some: Vec<SocketAddr> = match service {
            3 | 17 | 21 => vec![endpoint(1)],
            _ => (0..service % 5).map(endpoint).collect(),
        };
        set(&mut second, service, &some);
    }
    second.settle();
    second.make_ready();
    let delta = diff(&table, &installed, second.ruleset());
    assert!(delta.is_empty(), "{delta:?}");

    // Chains whose numbers overlap, or are none, are somebody else's.
    let mut spoilt = installed.clone();
    for name in ["turn/0/900", "turn/4/0", "turn/x/1", "turn/01/1"] {
        spoilt.chains.insert(name.into(), Default::default());
    }
    let mut third = Desired::new(&node());
    third.adopt(&spoilt);
    set(&mut third, 1, &[endpoint(1)]);
    third.settle();
    assert_eq!(round(third.ruleset(), 1), [endpoint(1)]);
}
