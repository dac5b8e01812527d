//! What Services go round after changes of every kind, found out as the kernel would.

use std::net::{IpAddr, Ipv4Addr};

use host::nft::{Dirty, Family, Ruleset, Stages, Table, diff};

use super::*;
use crate::merge::Desired;
use crate::model::Name;
use crate::rules::{Fragment, Node, NodeTopology, ORDER};

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

/// What a packet goes round that looks into each of the maps at a moment of its own: which chain its
/// Service has, where that is, what its numbers stand for. It runs the rules of the first moment.
fn torn(moments: [&Installed; 3], service: u32) -> Vec<SocketAddr> {
    let [first, second, third] = moments;
    let number = |number: u32| vec![KeyPart::Number(number)];
    let Some(Value::Number(turn)) = first.sets[TURNS].elements.get(&key(service)) else {
        return Vec::new();
    };
    let leads = second.sets[BALANCERS].elements.get(&number(*turn));
    let Some(Value::Verdict(Verdict::Goto(chain))) = leads else {
        panic!("{turn} leads nowhere");
    };
    assert!(first.chains.contains_key(chain), "{chain} is younger");
    let balancer = Balancer::of_chain(chain).expect("one of ours");
    let map = &third.sets[&balancer.map()].elements;
    let one = |n: u32| match map.get(&number(n)) {
        Some(Value::Endpoint(endpoint)) => *endpoint,
        other => panic!("{n} is {other:?}"),
    };
    balancer.numbers().map(one).collect()
}

/// A proxy, and a kernel of values.
struct Life {
    desired: Desired,
    stages: Stages,
    installed: Installed,
    /// All that the kernel has held since packets were last waited for.
    moments: Vec<Installed>,
}

impl Life {
    fn table() -> Table {
        Table {
            family: Family::Ip4,
            name: "t".into(),
        }
    }

    fn new() -> Self {
        let desired = Desired::new(&node());
        let mut installed = Installed::default();
        diff(&Self::table(), &installed, desired.ruleset()).apply(&Self::table(), &mut installed);
        Self {
            desired,
            stages: Stages::new(ORDER),
            moments: vec![installed.clone()],
            installed,
        }
    }

    fn restart(&mut self) {
        self.desired = Desired::new(&node());
        self.stages = Stages::new(ORDER);
        self.desired.adopt(&self.installed);
    }

    fn sync(&mut self, knows_all: bool) {
        let (dirty, table) = (self.desired.take_dirty(), Self::table());
        let ruleset = self.desired.ruleset();
        let dirty = knows_all.then_some(&dirty);
        let stages = (self.stages).change(&table, &self.installed, ruleset, dirty);
        for delta in stages {
            delta.apply(&table, &mut self.installed);
            self.moments.push(self.installed.clone());
        }
        let strange = (self.stages).strange(&table, &self.installed, ruleset);
        assert!(strange.is_empty(), "{strange:?}");
    }

    fn at_leisure(&mut self) {
        self.desired.remove_unused();
        self.desired.make_ready();
        self.sync(true);
    }

    /// Packets that are under way now are through.
    fn wait(&mut self) {
        self.moments = vec![self.installed.clone()];
    }

    /// What was left goes, which no packet under way needs.
    fn clear(&mut self) {
        let table = Self::table();
        let ruleset = self.desired.ruleset();
        let delta = (self.stages).clear(&table, &self.installed, ruleset);
        delta.apply(&table, &mut self.installed);
        self.moments.push(self.installed.clone());
    }

    /// All that packets may go round that look at different moments.
    fn torn(&self, service: u32) -> Vec<Vec<SocketAddr>> {
        let mut all = Vec::new();
        for (at, first) in self.moments.iter().enumerate() {
            for (then, second) in self.moments.iter().enumerate().skip(at) {
                for third in self.moments.iter().skip(then) {
                    all.push(torn([first, second, third], service));
                }
            }
        }
        all
    }
}

const SERVICES: u32 = 40;

/// Whatever comes between its look-ups: a change, then what is made ready or removed, then what was
/// left and goes; and whether or not the proxy starts again.
#[test]
fn a_packet_in_the_middle_of_changes_finds_an_endpoint_of_its_service() {
    let mut seed = 11u32;
    let mut next = |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) % below
    };
    // From an endpoint follows whose it is.
    let some = |service: u32, count: u32, shift: u32| -> Vec<SocketAddr> {
        (0..count)
            .map(|n| endpoint(service * 100 + shift + n))
            .collect()
    };
    let mut life = Life::new();
    let mut had: BTreeMap<u32, Vec<SocketAddr>> = BTreeMap::new();
    let mut chains_gone = 0;
    for step in 0..600u32 {
        let mut now = had.clone();
        // Several Services change in one transaction, and take what others give back; now and then
        // nearly all do, so that many chains are left over.
        let changes = if step % 50 == 49 { 80 } else { 4 };
        for _ in 0..changes {
            let service = next(SERVICES);
            let usual = 1 + step / 50 % 5;
            let count = if next(4) == 0 { next(7) } else { usual };
            now.insert(service, some(service, count, next(50)));
        }
        let restarts = step % 100 == 98;
        if restarts {
            life.restart();
        }
        for (service, endpoints) in &now {
            set(&mut life.desired, *service, endpoints);
        }
        if restarts {
            life.desired.settle();
            life.desired.make_ready();
        }
        life.sync(!restarts);
        if step % 5 == 0 {
            let before = life.installed.chains.len();
            life.at_leisure();
            life.clear();
            chains_gone += before.saturating_sub(life.installed.chains.len());
        }
        for service in 0..SERVICES {
            let none = Vec::new();
            let (before, now) = (had.get(&service), now.get(&service));
            let (before, now) = (before.unwrap_or(&none), now.unwrap_or(&none));
            for found in life.torn(service) {
                assert!([before.len(), now.len()].contains(&found.len()));
                let known = |e: &SocketAddr| before.contains(e) || now.contains(e);
                assert!(found.iter().all(known), "{found:?} of {before:?}, {now:?}");
            }
            assert_eq!(round(life.desired.ruleset(), service), *now);
        }
        had = now;
        life.wait();
    }
    assert!(chains_gone > 0, "none was removed");
}

/// The sets whose elements change, of maps of endpoints the common part of their names.
fn only_elements(dirty: &Dirty) -> BTreeSet<&str> {
    assert!(
        dirty.chains.is_empty() && dirty.sets.is_empty(),
        "{dirty:?}"
    );
    let name = |set: &'_ str| {
        if set.starts_with(ENDPOINTS) {
            ENDPOINTS
        } else {
            TURNS
        }
    };
    let sets = dirty.elements.iter().map(|(set, _)| set.as_str());
    let known = |set: &&str| set.starts_with(ENDPOINTS) || *set == TURNS;
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
    assert_eq!(only_elements(&dirty), [ENDPOINTS].into());
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
