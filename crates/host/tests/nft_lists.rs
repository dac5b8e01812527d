//! All that a table of ours may hold is shown by nft. Needs root, and nft.

mod listing;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use host::netns::NetNs;
use host::nft::{
    Chain, ChainKind, End, Family, Field, Hook, Installed, Key, KeyPart, PRIORITY_DNAT,
    PRIORITY_FILTER, PRIORITY_RAW, PRIORITY_SNAT, Part, Point, Prefix, Rule, Ruleset, Set, SetKind,
    Socket, Sticky, Table, Value, Verdict, diff,
};

struct World {
    near: IpAddr,
    far: IpAddr,
}

impl World {
    fn of(family: Family) -> Self {
        let [near, far] = match family {
            Family::Ip4 => ["192.0.2.1", "198.51.100.1"],
            Family::Ip6 => ["2001:db8::1", "2001:db9::1"],
        };
        let ip = |text: &str| text.parse().expect("an address");
        let (near, far) = (ip(near), ip(far));
        Self { near, far }
    }

    fn endpoints(&self) -> Vec<SocketAddr> {
        let all = [(self.near, 80), (self.far, 81)];
        all.map(|(ip, port)| SocketAddr::new(ip, port)).to_vec()
    }

    fn key(&self, fields: &[Field]) -> Key {
        let part = |field: &Field| match field {
            Field::Protocol | Field::ConnectionProtocol => KeyPart::Protocol(6),
            Field::DestinationPort | Field::ServerPort => KeyPart::Port(80),
            Field::Number => KeyPart::Number(7),
            _ => KeyPart::Address(self.near),
        };
        fields.iter().map(part).collect()
    }

    fn sets(&self) -> BTreeMap<String, Set> {
        let set = |kind: SetKind, elements: Vec<(Key, Value)>| Set {
            kind,
            elements: elements.into_iter().collect(),
        };
        let goto = Value::Verdict(Verdict::Goto("leaf".into()));
        let endpoint = Value::Endpoint(SocketAddr::new(self.near, 80));
        let mut sets = BTreeMap::from([("aff".to_owned(), set(SetKind::Affinity, Vec::new()))]);
        for (name, fields) in keys() {
            let of = |value: &Value| vec![(self.key(&fields), value.clone())];
            let kinds = [
                ("set", SetKind::Set(fields.clone()), of(&Value::Present)),
                ("verdicts", SetKind::Verdicts(fields.clone()), of(&goto)),
                (
                    "endpoints",
                    SetKind::Endpoints(fields.clone()),
                    of(&endpoint),
                ),
            ];
            let number = SetKind::Numbers(fields.clone());
            let numbers = ("numbers", number, of(&Value::Number(7)));
            for (word, kind, elements) in kinds.into_iter().chain([numbers]) {
                sets.insert(format!("{word}-{name}"), set(kind, elements));
            }
        }
        for (name, kind, value) in [
            ("balancers", SetKind::Verdicts(vec![Field::Number]), goto),
            ("turns", SetKind::Endpoints(vec![Field::Number]), endpoint),
        ] {
            let elements = vec![(vec![KeyPart::Number(7)], value)];
            sets.insert(name.to_owned(), set(kind, elements));
        }
        let bounds = vec![
            (vec![KeyPart::Address(self.near)], Value::Present),
            (vec![KeyPart::Address(self.far)], Value::End),
        ];
        let kind = SetKind::Ranges(Field::Client);
        sets.insert("ranges".into(), set(kind.clone(), bounds.clone()));
        // A range without an end.
        sets.insert("open".into(), set(kind, bounds[..1].to_vec()));
        sets
    }

    /// Every part, of which some are for translation alone.
    fn parts(&self, nat: bool) -> Vec<Vec<Part>> {
        let within = Prefix {
            address: self.near,
            length: 24,
        };
        let mut rules = Vec::new();
        for end in [End::Source, End::Destination] {
            for negate in [false, true] {
                rules.push(vec![Part::Address {
                    end,
                    within,
                    negate,
                }]);
                rules.push(vec![Part::Local { end, negate }]);
            }
        }
        for negate in [false, true] {
            let name = || "eth0".to_owned();
            rules.push(vec![Part::OutInterface {
                name: name(),
                negate,
            }]);
            rules.push(vec![Part::InInterface {
                name: name(),
                negate,
            }]);
        }
        for (name, fields) in keys() {
            for negate in [false, true] {
                let set = format!("set-{name}");
                let fields = fields.clone();
                rules.push(vec![Part::InSet {
                    fields,
                    set,
                    negate,
                }]);
            }
            let map = format!("verdicts-{name}");
            let numbered = Part::VerdictOfNumber {
                fields: fields.clone(),
                numbers: format!("numbers-{name}"),
                verdicts: "balancers".into(),
            };
            let known = Part::VerdictOfKey {
                key: self.key(&fields),
                numbers: format!("numbers-{name}"),
                verdicts: "balancers".into(),
            };
            rules.push(vec![Part::VerdictMap { fields, map }]);
            rules.extend([vec![numbered], vec![known]]);
        }
        let ranges = |set: &str| Part::InSet {
            fields: vec![Field::Client],
            set: set.into(),
            negate: false,
        };
        rules.extend([
            vec![ranges("ranges")],
            vec![ranges("open")],
            vec![Part::Mark { mask: 1, value: 1 }],
            vec![Part::SetMark { clear: 1, flip: 1 }],
            vec![Part::InGroup(7)],
            vec![Part::Protocol(17)],
            vec![Part::NewConnection],
            vec![Part::Unconnected],
            vec![Part::ConnectionProtocol(132)],
            vec![Part::ServerPorts { first: 1, last: 1 }],
            vec![
                Part::ServerPorts { first: 1, last: 9 },
                Part::Counter,
                Part::Verdict(Verdict::Drop),
            ],
            vec![Part::Verdict(Verdict::Jump("leaf".into()))],
            vec![Part::Verdict(Verdict::Return)],
            vec![Part::Verdict(Verdict::Accept)],
        ]);
        if nat {
            rules.extend(self.translations());
        }
        rules
    }

    fn translations(&self) -> Vec<Vec<Part>> {
        let endpoints = self.endpoints();
        let sticky = || Sticky {
            map: "aff".into(),
            timeout_seconds: 60,
        };
        let dnat = |count: usize, remember| Part::Dnat {
            endpoints: endpoints[..count].to_vec(),
            remember,
        };
        let mut rules = vec![
            vec![dnat(1, None)],
            vec![dnat(2, None)],
            vec![dnat(1, Some(sticky()))],
            vec![dnat(2, Some(sticky()))],
            vec![Part::DnatRemembered {
                sticky: sticky(),
                endpoints: endpoints.clone(),
            }],
            vec![Part::Forget { map: "aff".into() }],
            vec![Part::DnatTurn {
                map: "turns".into(),
                first: 7,
                count: 3,
            }],
        ];
        for (name, fields) in keys() {
            let map = format!("endpoints-{name}");
            rules.push(vec![Part::DnatMap { fields, map }]);
        }
        rules
    }

    fn ruleset(&self) -> Ruleset {
        let base = |kind, point, priority, parts: Vec<Vec<Part>>| Chain {
            hook: Some(Hook {
                kind,
                point,
                priority,
            }),
            rules: parts.into_iter().map(Rule).collect(),
        };
        let filter = ChainKind::Filter;
        let nat = ChainKind::Nat;
        let leaf = Chain {
            hook: None,
            rules: vec![Rule(vec![Part::Counter])],
        };
        let out = vec![vec![Part::Snat(self.near)], vec![Part::Masquerade]];
        let chains = [
            ("leaf", leaf),
            (
                "forward",
                base(filter, Point::Forward, PRIORITY_FILTER, {
                    let mut parts = self.parts(false);
                    parts.push(vec![Part::Reject]);
                    parts
                }),
            ),
            (
                "raw",
                base(
                    filter,
                    Point::Prerouting,
                    PRIORITY_RAW,
                    vec![vec![Part::WrongWay]],
                ),
            ),
            (
                "in",
                base(nat, Point::Prerouting, PRIORITY_DNAT, self.parts(true)),
            ),
            ("out", base(nat, Point::Postrouting, PRIORITY_SNAT, out)),
        ];
        Ruleset {
            chains: chains.map(|(name, chain)| (name.to_owned(), chain)).into(),
            sets: self.sets(),
        }
    }
}

/// The keys that tables of ours have.
fn keys() -> Vec<(&'static str, Vec<Field>)> {
    use Field::*;
    vec![
        ("source", vec![SourceAddress]),
        ("destination", vec![DestinationAddress]),
        ("client", vec![Client]),
        ("server", vec![Server]),
        ("pair", vec![SourceAddress, DestinationAddress]),
        ("ends", vec![Client, Server]),
        ("port", vec![Protocol, DestinationPort]),
        (
            "address-port",
            vec![DestinationAddress, Protocol, DestinationPort],
        ),
        ("named", vec![Server, ConnectionProtocol, ServerPort]),
    ]
}

#[test]
fn nft_shows_all_that_tables_of_ours_may_hold() {
    let netns = NetNs::anonymous().expect("a new network namespace needs root");
    for family in [Family::Ip4, Family::Ip6] {
        let ruleset = World::of(family).ruleset();
        let name = "t".to_owned();
        let table = Table { family, name };
        let program = || -> Result<Installed, host::nft::NftError> {
            let mut socket = Socket::open()?;
            let mut installed = Installed::default();
            let delta = diff(&table, &installed, &ruleset);
            socket.program(&table, delta, &mut installed)?;
            socket.read(&table)
        };
        let installed = netns.run(program).expect("enter").expect("programmed");
        let delta = diff(&table, &installed, &ruleset);
        assert!(delta.is_empty(), "{family:?}: {delta:?}");
    }
    let shown = listing::listing(&netns);
    let is_shown = |text: &str| assert!(shown.contains(text), "no {text:?} in\n{shown}");
    for text in [
        "ct original ip saddr . ct reply ip saddr @set-ends",
        "ct original ip6 saddr . ct reply ip6 saddr @set-ends",
        "ct reply ip saddr . ct protocol . ct reply proto-src @set-named",
        "dnat ip to numgen inc mod 2 map { 0 : 192.0.2.1 . 80, 1 : 198.51.100.1 . 81 }",
        "comment \"dnat to ip saddr map @aff for 60s if in { 192.0.2.1:80",
        "comment \"delete ip saddr @aff\"",
        "dnat ip to numgen inc mod 3 offset 7 map @turns",
        "comment \"ip daddr . l4proto . dport map @numbers-address-port vmap @balancers\"",
    ] {
        is_shown(text);
    }
}
