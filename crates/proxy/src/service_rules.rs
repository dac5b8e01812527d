//! From Services and endpoints to what each Service adds to the table: pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use host::nft::{
    Chain, End, Family, Key, KeyPart, Part, Prefix, Rule, Ruleset, Sticky, Value, Verdict,
};

use crate::merge::Desired;
use crate::model::{Endpoint, Name, Port, Service, protocol_word};
use crate::rules::{
    AWAY, AWAY_NODE_PORTS, CLUSTER_IPS, FIREWALL, Fragment, HAIRPIN, NO_ENDPOINT_NODE_PORTS,
    NO_ENDPOINTS, NODE_PORTS, Node, SERVICE_IPS,
};
use crate::turns::{BALANCERS, TURNS};

/// Names longer than this are cut and made unique by a hash; `nft` reads at most 128.
const NAME_LIMIT: usize = 120;

/// The whole table.
pub fn rules<'a>(
    node: &Node,
    services: impl IntoIterator<Item = (&'a Name, &'a Service, &'a [Endpoint])>,
) -> Ruleset {
    let mut table = Desired::new(node);
    for (name, service, endpoints) in services {
        table.set(name, service_rules(node, name, service, endpoints));
    }
    table.ruleset().clone()
}

/// The part of the table that one Service accounts for.
pub fn service_rules(
    node: &Node,
    name: &Name,
    service: &Service,
    endpoints: &[Endpoint],
) -> Fragment {
    let mut fragment = Fragment::default();
    let family = |ip: &&IpAddr| Family::of(**ip) == node.family;
    for ip in service.cluster_ips.iter().filter(family) {
        fragment
            .elements
            .insert((CLUSTER_IPS, vec![KeyPart::Address(*ip)]), Value::Present);
    }
    for port in &service.ports {
        PortRules {
            node,
            name,
            service,
            port,
        }
        .write(&mut fragment, endpoints);
    }
    fragment
}

/// Ports whose traffic shall stay on this node, and that have endpoints, but none here: how many by
/// internal and by external policy.
pub fn away(node: &Node, service: &Service, endpoints: &[Endpoint]) -> (usize, usize) {
    if !service.internal_local && !service.external_local {
        return (0, 0);
    }
    let is_away = |port: &&Port| {
        let usable = Usable::of(node, port, endpoints);
        usable.local.is_empty() && !usable.cluster.is_empty()
    };
    let count = service.ports.iter().filter(is_away).count();
    let of = |policy: bool| if policy { count } else { 0 };
    (of(service.internal_local), of(service.external_local))
}

/// The endpoints that new connections may go to.
#[derive(Debug, Default)]
struct Usable {
    cluster: Vec<SocketAddr>,
    local: Vec<SocketAddr>,
}

impl Usable {
    /// Ready ones; while all are terminating, those of them that still serve. Without a policy,
    /// those that are meant for this node or its zone, if there are any.
    fn of(node: &Node, port: &Port, endpoints: &[Endpoint]) -> Self {
        let ours: Vec<&Endpoint> = endpoints
            .iter()
            .filter(|e| e.port_name == port.name && e.protocol == port.protocol)
            .filter(|e| Family::of(e.address.ip()) == node.family)
            .collect();
        let choose = |among: &dyn Fn(&Endpoint) -> bool| -> Vec<SocketAddr> {
            let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<SocketAddr> {
                let fit = |e: &&&Endpoint| among(e) && wanted(e);
                ours.iter().filter(fit).map(|e| e.address).collect()
            };
            let ready = pick(&|e| e.ready);
            let chosen = if ready.is_empty() {
                pick(&|e| e.serving && e.terminating)
            } else {
                ready
            };
            chosen.into_iter().collect()
        };
        let ready: Vec<&Endpoint> = ours.iter().copied().filter(|e| e.ready).collect();
        let near = node.place.nearest(&ready);
        Self {
            cluster: choose(&|e| node.place.is_meant(near, e)),
            local: choose(&|e| e.local),
        }
    }
}

struct PortRules<'a> {
    node: &'a Node,
    name: &'a Name,
    service: &'a Service,
    port: &'a Port,
}

impl PortRules<'_> {
    fn write(&self, fragment: &mut Fragment, endpoints: &[Endpoint]) {
        let usable = Usable::of(self.node, self.port, endpoints);
        let service = self.service;
        let internal = if service.internal_local {
            &usable.local
        } else {
            &usable.cluster
        };
        let external = if service.external_local {
            &usable.local
        } else {
            &usable.cluster
        };
        let refusal = |wanted: &[SocketAddr]| match (wanted, usable.cluster.as_slice()) {
            ([], []) => Some((NO_ENDPOINTS, NO_ENDPOINT_NODE_PORTS)),
            ([], _) => Some((AWAY, AWAY_NODE_PORTS)),
            _ => None,
        };
        self.balance(fragment, &usable);
        let entry = if service.internal_local { "loc" } else { "svc" };
        for ip in self.family(&service.cluster_ips) {
            if !internal.is_empty() && self.turn() != Some(self.key(Some(ip), self.port.port)) {
                let target = Verdict::Goto(self.chain(entry));
                self.lead(fragment, SERVICE_IPS, Some(ip), self.port.port, target);
            }
            if let Some((refused, _)) = refusal(internal) {
                self.put(fragment, refused, Some(ip), self.port.port);
            }
        }
        let balanced: BTreeSet<IpAddr> = self.family(&service.balancer_ips).collect();
        let addresses = self.family(&service.external_ips).chain(balanced.clone());
        let addresses: BTreeSet<IpAddr> = addresses.collect();
        if addresses.is_empty() && self.port.node_port.is_none() {
            return;
        }
        let target = self.external_entry(fragment, &usable);
        let guarded = self.guarded_entry(fragment, target.clone());
        for ip in addresses {
            let target = match balanced.contains(&ip) {
                true => &guarded,
                false => &target,
            };
            if let Some(target) = target.clone() {
                self.lead(fragment, SERVICE_IPS, Some(ip), self.port.port, target);
            }
            if let Some((refused, _)) = refusal(external) {
                self.put(fragment, refused, Some(ip), self.port.port);
            }
        }
        if let Some(number) = self.port.node_port {
            if let Some(target) = target {
                self.lead(fragment, NODE_PORTS, None, number, target);
            }
            if let Some((_, refused)) = refusal(external) {
                self.put(fragment, refused, None, number);
            }
        }
        self.firewall(fragment);
    }

    /// What the port's endpoints go round by without a chain of its own: its key in the map of turns.
    fn turn(&self) -> Option<Key> {
        let service = self.service;
        let is_special =
            service.internal_local || service.external_local || service.affinity_seconds.is_some();
        let ip = self.family(&service.cluster_ips).next();
        let ip = ip.filter(|_| !is_special)?;
        Some(self.key(Some(ip), self.port.port))
    }

    /// What chooses an endpoint.
    fn balance(&self, fragment: &mut Fragment, usable: &Usable) {
        let turn = self.turn().filter(|_| !usable.cluster.is_empty());
        let has_chains = turn.is_none();
        if let Some(turn) = turn {
            fragment.turns.insert(turn, usable.cluster.clone());
        }
        let wants_local = self.service.internal_local || self.service.external_local;
        for (kind, endpoints, wanted) in [
            ("svc", &usable.cluster, has_chains),
            ("loc", &usable.local, wants_local),
        ] {
            if wanted && !endpoints.is_empty() {
                let rules = self.choice(fragment, kind, endpoints);
                fragment
                    .chains
                    .insert(self.chain(kind), Chain { hook: None, rules });
            }
        }
        for ip in endpoints_here(usable) {
            let key = vec![KeyPart::Address(ip), KeyPart::Address(ip)];
            fragment.elements.insert((HAIRPIN, key), Value::Present);
        }
    }

    fn choice(&self, fragment: &mut Fragment, kind: &str, endpoints: &[SocketAddr]) -> Vec<Rule> {
        let endpoints = endpoints.to_vec();
        let Some(timeout_seconds) = self.service.affinity_seconds else {
            return vec![Rule(vec![Part::Dnat {
                endpoints,
                remember: None,
            }])];
        };
        let map = self.chain(&format!("aff-{kind}"));
        fragment.affinity_maps.insert(map.clone());
        let sticky = Sticky {
            map: map.clone(),
            timeout_seconds,
        };
        vec![
            Rule(vec![Part::DnatRemembered {
                sticky: sticky.clone(),
                endpoints: endpoints.clone(),
            }]),
            // Reached only if the remembered endpoint is none of those any more.
            Rule(vec![Part::Forget { map }]),
            Rule(vec![Part::Dnat {
                endpoints,
                remember: Some(sticky),
            }]),
        ]
    }

    /// The chain that traffic to outer addresses and node ports enters by.
    fn external_entry(&self, fragment: &mut Fragment, usable: &Usable) -> Option<Verdict> {
        if usable.cluster.is_empty() {
            return None;
        }
        let bit = self.node.masquerade_bit;
        let mark = Part::SetMark {
            clear: bit,
            flip: bit,
        };
        let turn = self.turn();
        let balanced = || match turn.clone() {
            Some(key) => Part::VerdictOfKey {
                key,
                numbers: TURNS.into(),
                verdicts: BALANCERS.into(),
            },
            None => Part::Verdict(Verdict::Goto(self.chain("svc"))),
        };
        let mut rules = Vec::new();
        if self.service.external_local {
            // Clients inside the cluster are not bound by the policy for those outside.
            if let Some(within) = self.node.cluster_cidr {
                let inside = Part::Address {
                    end: End::Source,
                    within,
                    negate: false,
                };
                rules.push(Rule(vec![inside, balanced()]));
            }
            let own = Part::Local {
                end: End::Source,
                negate: false,
            };
            rules.push(Rule(vec![own, mark, balanced()]));
            if !usable.local.is_empty() {
                rules.push(Rule(vec![Part::Verdict(Verdict::Goto(self.chain("loc")))]));
            }
        } else {
            rules.push(Rule(vec![mark, balanced()]));
        }
        let name = self.chain("ext");
        fragment
            .chains
            .insert(name.clone(), Chain { hook: None, rules });
        Some(Verdict::Goto(name))
    }

    /// The chain that traffic to the load balancer's addresses enters by. The firewall has seen it
    /// already, but maybe before there was one for it: whoever finds endpoints is looked at once more.
    fn guarded_entry(&self, fragment: &mut Fragment, target: Option<Verdict>) -> Option<Verdict> {
        let target = target?;
        let has_none = self.family(&self.service.balancer_ips).next().is_none();
        if self.service.source_ranges.is_empty() || has_none {
            return Some(target);
        }
        let name = self.chain("lb");
        let chain = Chain {
            hook: None,
            rules: self.listed_sources(&target),
        };
        fragment.chains.insert(name.clone(), chain);
        Some(Verdict::Goto(name))
    }

    /// What becomes of listed sources; others are dropped.
    fn listed_sources(&self, verdict: &Verdict) -> Vec<Rule> {
        let listed = |within: &Prefix| {
            let part = Part::Address {
                end: End::Source,
                within: *within,
                negate: false,
            };
            Rule(vec![part, Part::Verdict(verdict.clone())])
        };
        let ranges = self.service.source_ranges.iter();
        let ours = ranges.filter(|range| Family::of(range.address) == self.node.family);
        let mut rules: Vec<Rule> = ours.map(listed).collect();
        rules.push(Rule(vec![Part::Verdict(Verdict::Drop)]));
        rules
    }

    /// Only the listed sources may use the load balancer's addresses.
    fn firewall(&self, fragment: &mut Fragment) {
        let ranges = &self.service.source_ranges;
        let addresses: Vec<IpAddr> = self.family(&self.service.balancer_ips).collect();
        if ranges.is_empty() || addresses.is_empty() {
            return;
        }
        let rules = self.listed_sources(&Verdict::Return);
        let name = self.chain("fw");
        fragment
            .chains
            .insert(name.clone(), Chain { hook: None, rules });
        for ip in addresses {
            let verdict = Verdict::Goto(name.clone());
            self.lead(fragment, FIREWALL, Some(ip), self.port.port, verdict);
        }
    }

    fn key(&self, ip: Option<IpAddr>, port: u16) -> Key {
        let mut key: Key = ip.map(KeyPart::Address).into_iter().collect();
        key.push(KeyPart::Protocol(self.port.protocol));
        key.push(KeyPart::Port(port));
        key
    }

    fn lead(
        &self,
        fragment: &mut Fragment,
        map: &'static str,
        ip: Option<IpAddr>,
        port: u16,
        verdict: Verdict,
    ) {
        let key = self.key(ip, port);
        fragment
            .elements
            .insert((map, key), Value::Verdict(verdict));
    }

    fn put(&self, fragment: &mut Fragment, set: &'static str, ip: Option<IpAddr>, port: u16) {
        let key = self.key(ip, port);
        fragment.elements.insert((set, key), Value::Present);
    }

    fn family<'a>(
        &'a self,
        ips: impl IntoIterator<Item = &'a IpAddr> + 'a,
    ) -> impl Iterator<Item = IpAddr> + 'a {
        ips.into_iter()
            .copied()
            .filter(|ip| Family::of(*ip) == self.node.family)
    }

    /// The name of one of this port's chains or maps.
    fn chain(&self, kind: &str) -> String {
        let Name { namespace, name } = self.name;
        let protocol = protocol_word(self.port.protocol);
        let full = format!("{kind}/{namespace}/{name}/{protocol}/{}", self.port.port);
        if full.len() <= NAME_LIMIT {
            return full;
        }
        let hash = full.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        let kept: String = full.chars().take(NAME_LIMIT - 17).collect();
        format!("{kept}-{hash:016x}")
    }
}

/// Addresses on this node that may be both client and endpoint of one connection.
fn endpoints_here(usable: &Usable) -> BTreeSet<IpAddr> {
    usable.local.iter().map(SocketAddr::ip).collect()
}
