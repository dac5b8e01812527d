//! What is planned for network policies, held against a slow reading of the API's words: the same
//! verdict for random policies, pods and connections, after each of many changes; and the small
//! difference that is programmed leads to the whole.

use std::collections::BTreeMap;
use std::net::IpAddr;

use host::nft::{
    Dirty, Family, Field, Installed, Key, KeyPart, Part, Rule, Ruleset, SetKind, Table, Value,
    Verdict, diff, diff_part,
};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::watcher::Event;
use network::policy::tables::Tables;
use network::policy::world::{Tenant, World};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value as Json, json};

/// A connection: who opens it, who answers, and by what.
#[derive(Debug, Clone, Copy)]
struct Call {
    client: IpAddr,
    server: IpAddr,
    protocol: u8,
    port: u16,
}

// --- What the planned table says ---

fn field(call: &Call, field: Field) -> KeyPart {
    match field {
        Field::Client => KeyPart::Address(call.client),
        Field::Server => KeyPart::Address(call.server),
        Field::ConnectionProtocol => KeyPart::Protocol(call.protocol),
        Field::ServerPort => KeyPart::Port(call.port),
        other => panic!("{other:?} is not of a connection"),
    }
}

fn found<'a>(table: &'a Ruleset, name: &str, key: &Key) -> Option<&'a Value> {
    let set = table.sets.get(name).expect("a set that exists");
    match set.kind {
        SetKind::Ranges(_) => {
            let before = set.elements.range(..=key.clone()).next_back()?.1;
            (*before == Value::Present).then_some(before)
        }
        _ => set.elements.get(key),
    }
}

/// The verdict of a rule; `None` if it does not match.
fn judged(table: &Ruleset, rule: &Rule, call: &Call) -> Option<Verdict> {
    for part in &rule.0 {
        let key = |fields: &[Field]| fields.iter().map(|f| field(call, *f)).collect::<Key>();
        let goes_on = match part {
            Part::Unconnected => false,
            Part::Counter => true,
            Part::ConnectionProtocol(number) => call.protocol == *number,
            Part::ServerPorts { first, last } => (*first..=*last).contains(&call.port),
            Part::InSet {
                fields,
                set,
                negate,
            } => found(table, set, &key(fields)).is_some() != *negate,
            Part::VerdictMap { fields, map } => match found(table, map, &key(fields)) {
                Some(Value::Verdict(verdict)) => return Some(verdict.clone()),
                _ => false,
            },
            Part::Verdict(verdict) => return Some(verdict.clone()),
            other => panic!("{other} is not planned"),
        };
        if !goes_on {
            return None;
        }
    }
    None
}

/// The last word of a chain; `None` if it comes back.
fn passes_chain(table: &Ruleset, chain: &str, call: &Call) -> Option<bool> {
    for rule in &table.chains.get(chain).expect("a chain that exists").rules {
        match judged(table, rule, call) {
            None => {}
            Some(Verdict::Accept) => return Some(true),
            Some(Verdict::Drop) => return Some(false),
            Some(Verdict::Return) => return None,
            Some(Verdict::Jump(to)) => {
                if let Some(word) = passes_chain(table, &to, call) {
                    return Some(word);
                }
            }
            Some(Verdict::Goto(to)) => return passes_chain(table, &to, call),
        }
    }
    None
}

fn passes(table: &Ruleset, call: &Call) -> bool {
    !table.chains.contains_key("forward") || passes_chain(table, "forward", call).unwrap_or(true)
}

/// A node: what it has heard, what it plans, and what its kernel would have.
struct Node {
    world: World,
    tables: Tables,
    installed: [Installed; 2],
}

fn name(family: Family) -> Table {
    let name = "t".to_owned();
    Table { family, name }
}

impl Node {
    fn new(node: &str) -> Self {
        let mut world = World::new(node);
        world.policy_event(Event::Init);
        world.policy_event(Event::InitDone);
        for event in [Event::Init, Event::InitDone] {
            world.namespace_event(event);
        }
        for event in [Event::Init, Event::InitDone] {
            world.pod_event(event);
        }
        Self {
            world,
            tables: Tables::default(),
            installed: Default::default(),
        }
    }

    fn hear(&mut self, change: &Change) {
        match change.clone() {
            Change::Policy(p) => drop(self.world.policy_event(Event::Apply(*p))),
            Change::NoPolicy(p) => drop(self.world.policy_event(Event::Delete(*p))),
            Change::Namespace(n) => self.world.namespace_event(Event::Apply(*n)),
            Change::Pod(p) => self.world.pod_event(Event::Apply(*p)),
            Change::NoPod(p) => self.world.pod_event(Event::Delete(*p)),
        }
    }

    /// Programs a kernel of values by the small difference, and checks that nothing is left.
    fn sync(&mut self) {
        self.tables.update(&mut self.world);
        let families = self.tables.families().iter_mut();
        for (desired, installed) in families.zip(&mut self.installed) {
            let (dirty, table) = (desired.take_dirty(), name(desired.family()));
            let delta = diff_part(&table, installed, desired.ruleset(), &dirty);
            delta.apply(&table, installed);
            let rest = diff(&table, installed, desired.ruleset());
            assert!(rest.is_empty(), "left over: {rest:?}");
        }
    }

    fn allows(&mut self, call: &Call) -> bool {
        let [v4, v6] = self.tables.families();
        let table = match Family::of(call.server) {
            Family::Ip4 => v4,
            Family::Ip6 => v6,
        };
        passes(table.ruleset(), call)
    }
}

// --- What the API says ---

#[derive(Debug, Clone)]
enum Change {
    Policy(Box<NetworkPolicy>),
    NoPolicy(Box<NetworkPolicy>),
    Namespace(Box<core::Namespace>),
    Pod(Box<core::Pod>),
    NoPod(Box<core::Pod>),
}

/// All objects, by what they are and their names.
#[derive(Debug, Clone, Default)]
struct Objects {
    policies: BTreeMap<(String, String), Json>,
    namespaces: BTreeMap<String, Json>,
    pods: BTreeMap<(String, String), Json>,
}

fn text<'a>(object: &'a Json, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Json::as_str).unwrap_or("")
}

fn list<'a>(object: &'a Json, pointer: &str) -> &'a [Json] {
    let found = object.pointer(pointer).and_then(Json::as_array);
    found.map_or(&[], Vec::as_slice)
}

impl Objects {
    fn hear(&mut self, change: &Change) {
        let json = |object: Json| {
            let key = (
                text(&object, "/metadata/namespace").to_owned(),
                text(&object, "/metadata/name").to_owned(),
            );
            (key, object)
        };
        let of = |object: &dyn erased::Json| json(object.json());
        match change {
            Change::Policy(p) => drop({
                let (key, object) = of(&**p);
                self.policies.insert(key, object)
            }),
            Change::NoPolicy(p) => drop(self.policies.remove(&of(&**p).0)),
            Change::Namespace(n) => {
                let (key, object) = of(&**n);
                self.namespaces.insert(key.1, object);
            }
            Change::Pod(p) => drop({
                let (key, object) = of(&**p);
                self.pods.insert(key, object)
            }),
            Change::NoPod(p) => drop(self.pods.remove(&of(&**p).0)),
        }
    }

    /// The pods that have an address: on the pod network, and not ended.
    fn at(&self, address: IpAddr) -> Option<&Json> {
        self.pods.values().find(|pod| {
            let ips = list(pod, "/status/podIPs").iter();
            pod["spec"]["hostNetwork"] != true
                && text(pod, "/status/phase") == "Running"
                && ips
                    .map(|ip| text(ip, "/ip"))
                    .any(|ip| ip == address.to_string())
        })
    }

    fn allows(&self, call: &Call) -> bool {
        call.client == call.server
            || self.allows_in("Egress", call.client, call)
                && self.allows_in("Ingress", call.server, call)
    }

    fn allows_in(&self, direction: &str, subject: IpAddr, call: &Call) -> bool {
        let Some(pod) = self.at(subject) else {
            return true;
        };
        let namespace = text(pod, "/metadata/namespace");
        let for_pod = |policy: &&Json| {
            text(policy, "/metadata/namespace") == namespace
                && list(policy, "/spec/policyTypes")
                    .iter()
                    .any(|t| t == direction)
                && selects(&policy["spec"]["podSelector"], &pod["metadata"]["labels"])
        };
        let policies: Vec<&Json> = self.policies.values().filter(for_pod).collect();
        let (rules, peers, other) = match direction {
            "Ingress" => ("/spec/ingress", "/from", call.client),
            _ => ("/spec/egress", "/to", call.server),
        };
        policies.is_empty()
            || policies.iter().any(|policy| {
                list(policy, rules).iter().any(|rule| {
                    self.by_port(list(rule, "/ports"), call)
                        && self.by_peer(namespace, list(rule, peers), other)
                })
            })
    }

    fn by_port(&self, ports: &[Json], call: &Call) -> bool {
        let word = match call.protocol {
            6 => "TCP",
            17 => "UDP",
            _ => "SCTP",
        };
        ports.is_empty()
            || ports.iter().any(|port| {
                let number = port["port"].as_u64();
                let last = port["endPort"].as_u64().or(number);
                text(port, "/protocol") == word
                    && match (&port["port"], number, last) {
                        (Json::Null, ..) => true,
                        (Json::String(name), ..) => self.has_port(call, word, name),
                        (_, first, last) => {
                            first <= Some(call.port.into()) && last >= Some(call.port.into())
                        }
                    }
            })
    }

    fn has_port(&self, call: &Call, word: &str, name: &str) -> bool {
        self.at(call.server).is_some_and(|pod| {
            list(pod, "/spec/containers").iter().any(|container| {
                list(container, "/ports").iter().any(|port| {
                    text(port, "/name") == name
                        && text(port, "/protocol") == word
                        && port["containerPort"] == call.port
                })
            })
        })
    }

    fn by_peer(&self, namespace: &str, peers: &[Json], other: IpAddr) -> bool {
        peers.is_empty()
            || peers.iter().any(|peer| {
                if peer.get("ipBlock").is_some() {
                    let within = |text: &str| {
                        let prefix: host::nft::Prefix = text.parse().expect("a prefix");
                        prefix.contains(other)
                    };
                    return within(text(peer, "/ipBlock/cidr"))
                        && !list(peer, "/ipBlock/except")
                            .iter()
                            .any(|e| within(e.as_str().unwrap_or("")));
                }
                let Some(pod) = self.at(other) else {
                    return false;
                };
                let theirs = text(pod, "/metadata/namespace");
                let there = match peer.get("namespaceSelector") {
                    None => theirs == namespace,
                    Some(selector) => self
                        .namespaces
                        .get(theirs)
                        .is_some_and(|n| selects(selector, &n["metadata"]["labels"])),
                };
                let labels = &pod["metadata"]["labels"];
                there && peer.get("podSelector").is_none_or(|s| selects(s, labels))
            })
    }
}

fn selects(selector: &Json, labels: &Json) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let mut expressions = list(selector, "/matchExpressions").iter();
    equal.into_iter().all(|(k, v)| labels.get(k) == Some(v))
        && expressions.all(|e| {
            let value = labels.get(text(e, "/key"));
            let listed = value.is_some_and(|v| list(e, "/values").contains(v));
            match text(e, "/operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                _ => value.is_none(),
            }
        })
}

/// Objects of any kind as JSON.
mod erased {
    pub trait Json {
        fn json(&self) -> serde_json::Value;
    }
    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).expect("an object")
        }
    }
}

// --- What may happen ---

const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
/// Pods have the addresses of their numbers; behind them is the outside.
const PODS: u8 = 6;

fn address(number: u8, six: bool) -> IpAddr {
    match six {
        true => format!("fd00::{number}").parse().expect("an address"),
        false => format!("10.0.0.{number}").parse().expect("an address"),
    }
}

fn labels() -> impl Strategy<Value = Json> {
    (0..3u8, 0..3u8).prop_map(|(app, tier)| {
        let mut labels = json!({});
        for (key, value) in [("app", app), ("tier", tier)] {
            if value > 0 {
                labels[key] = format!("v{value}").into();
            }
        }
        labels
    })
}

fn selector() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(json!({})),
        labels().prop_map(|labels| json!({ "matchLabels": labels })),
        (0..4usize, 0..2usize).prop_map(|(operator, key)| {
            let operator = ["In", "NotIn", "Exists", "DoesNotExist"][operator];
            let key = ["app", "tier"][key];
            let mut expression = json!({ "key": key, "operator": operator });
            if operator.ends_with("In") {
                expression["values"] = json!(["v1"]);
            }
            json!({ "matchExpressions": [expression] })
        }),
    ]
}

fn pod() -> impl Strategy<Value = Change> {
    let what = (1..=PODS, labels(), 0..8u8, 1..3u16);
    what.prop_map(|(number, labels, kind, base)| {
        let namespace = NAMESPACES[usize::from(number) % 3];
        let phase = if kind == 0 { "Succeeded" } else { "Running" };
        let pod = json!({
            "metadata": {
                "name": format!("p{number}"), "uid": format!("u{number}"), "labels": labels,
                "namespace": namespace,
            },
            "spec": {
                "nodeName": format!("n{}", number % 2), "hostNetwork": kind == 1,
                "containers": [{ "name": "c", "ports": [
                    { "name": "web", "containerPort": 80 * base, "protocol": "TCP" },
                    { "name": "web", "containerPort": 81, "protocol": "UDP" },
                ] }],
            },
            "status": { "phase": phase, "podIPs": [
                { "ip": address(number, false) }, { "ip": address(number, true) },
            ] },
        });
        let pod = Box::new(serde_json::from_value(pod).expect("a pod"));
        match kind {
            2 => Change::NoPod(pod),
            _ => Change::Pod(pod),
        }
    })
}

fn port() -> impl Strategy<Value = Json> {
    (0..5u8, 0..3usize).prop_map(|(kind, protocol)| {
        let protocol = ["TCP", "UDP", "SCTP"][protocol];
        let mut port = json!({ "protocol": protocol });
        match kind {
            0 => {}
            1 => port["port"] = "web".into(),
            2 => port["port"] = 81.into(),
            3 => port["port"] = 160.into(),
            _ => {
                port["port"] = 80.into();
                port["endPort"] = 100.into();
            }
        }
        port
    })
}

fn peer() -> impl Strategy<Value = Json> {
    prop_oneof![
        selector().prop_map(|s| json!({ "podSelector": s })),
        selector().prop_map(|s| json!({ "namespaceSelector": s })),
        (selector(), selector())
            .prop_map(|(n, p)| json!({ "namespaceSelector": n, "podSelector": p })),
        (0..4usize, 0..5usize).prop_map(|(cidr, except)| {
            let cidr = ["10.0.0.0/24", "0.0.0.0/0", "fd00::/64", "10.0.0.8/29"][cidr];
            let except = [
                &[][..],
                &["10.0.0.2/31"],
                &["10.0.0.0/30", "10.0.0.9/32"],
                &["fd00::2/127"],
                &["fd00::8/125", "fd00::1/128"],
            ][except];
            json!({ "ipBlock": { "cidr": cidr, "except": except } })
        }),
    ]
}

fn policy() -> impl Strategy<Value = Change> {
    let list = |what: BoxedStrategy<Json>| prop::collection::vec(what, 0..3);
    let rule = move |peers: &'static str| {
        (list(port().boxed()), list(peer().boxed()))
            .prop_map(move |(ports, others)| json!({ "ports": ports, peers: others }))
    };
    let rules = |peers| prop::collection::vec(rule(peers), 0..3);
    let what = (0..9usize, selector(), rules("from"), rules("to"), 0..4u8);
    what.prop_map(|(number, pods, ingress, egress, kind)| {
        let (name, namespace) = (format!("p{}", number / 3), NAMESPACES[number % 3]);
        let types = [&["Ingress"][..], &["Egress"], &["Ingress", "Egress"]][usize::from(kind) % 3];
        let policy = json!({
            "metadata": { "name": name, "namespace": namespace },
            "spec": {
                "podSelector": pods, "ingress": ingress, "egress": egress, "policyTypes": types,
            },
        });
        let policy = Box::new(serde_json::from_value(policy).expect("a policy"));
        match kind {
            3 => Change::NoPolicy(policy),
            _ => Change::Policy(policy),
        }
    })
}

fn namespace() -> impl Strategy<Value = Change> {
    (0..3usize, labels()).prop_map(|(number, labels)| {
        let name = NAMESPACES[number];
        let object = json!({ "metadata": { "name": name, "labels": labels } });
        Change::Namespace(serde_json::from_value(object).expect("a namespace"))
    })
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![3 => pod(), 3 => policy(), 1 => namespace()];
    prop::collection::vec(change, 1..24)
}

fn calls() -> Vec<Call> {
    let mut calls = Vec::new();
    for six in [false, true] {
        for client in 1..=PODS + 4 {
            for server in 1..=PODS + 4 {
                for (protocol, port) in [(6, 80), (6, 81), (6, 160), (17, 81), (132, 100), (6, 101)]
                {
                    calls.push(Call {
                        client: address(client, six),
                        server: address(server, six),
                        protocol,
                        port,
                    });
                }
            }
        }
    }
    calls
}

#[test]
fn the_plan_says_what_the_api_says_after_every_change() {
    let calls = calls();
    let config = Config {
        cases: 96,
        ..Config::default()
    };
    let run = TestRunner::new(config).run(&changes(), |changes| {
        let mut nodes = [Node::new("n0"), Node::new("n1")];
        let mut objects = Objects::default();
        for change in &changes {
            objects.hear(change);
            for node in &mut nodes {
                node.hear(change);
                node.sync();
            }
        }
        for call in &calls {
            let planned = nodes.iter_mut().all(|node| node.allows(call));
            prop_assert_eq!(planned, objects.allows(call), "{:?}", call);
        }
        Ok(())
    });
    run.expect("the same");
}

// --- What the plugin says ---

fn tenant(uid: &str, sandbox: &str) -> Tenant {
    Tenant {
        name: ("red".into(), "p6".into()),
        uid: uid.into(),
        sandbox: sandbox.into(),
    }
}

fn a_policy(namespace: &str, spec: Json) -> Change {
    let object = json!({ "metadata": { "name": "p", "namespace": namespace }, "spec": spec });
    Change::Policy(Box::new(serde_json::from_value(object).expect("a policy")))
}

fn a_pod(number: u8, namespace: &str, ip: Option<&str>) -> Change {
    let ips: Vec<Json> = ip.iter().map(|ip| json!({ "ip": ip })).collect();
    let object = json!({
        "metadata": { "name": format!("p{number}"), "uid": format!("u{number}"),
                      "namespace": namespace, "labels": { "app": "v1" } },
        "spec": { "nodeName": "n0", "containers": [{ "name": "c" }] },
        "status": { "phase": "Running", "podIPs": ips },
    });
    Change::Pod(Box::new(serde_json::from_value(object).expect("a pod")))
}

fn to(server: &str) -> Call {
    Call {
        client: "192.0.2.9".parse().expect("an address"),
        server: server.parse().expect("an address"),
        protocol: 6,
        port: 80,
    }
}

#[test]
fn a_pod_is_in_the_dark_until_it_is_known_and_when_it_is_gone() {
    let ip = "10.0.0.6";
    let mut node = Node::new("n0");
    let step = |node: &mut Node, what: &dyn Fn(&mut Node)| {
        what(node);
        node.sync();
        node.allows(&to(ip))
    };
    let moved_in = |uid: &'static str, sandbox: &'static str| {
        move |node: &mut Node| {
            let address = ip.parse().expect("an address");
            node.world.moved_in(address, tenant(uid, sandbox));
        }
    };
    assert!(
        step(&mut node, &moved_in("u6", "a")),
        "without policies all are open"
    );
    let other =
        json!({ "podSelector": { "matchLabels": { "app": "v2" } }, "policyTypes": ["Ingress"] });
    let hear = |change: Change| move |node: &mut Node| node.hear(&change);
    assert!(
        step(&mut node, &hear(a_policy("green", other.clone()))),
        "a policy of another namespace is not meant for it"
    );
    assert!(
        !step(&mut node, &hear(a_policy("red", other))),
        "one of its own may be"
    );
    assert!(!node.world.is_known(&tenant("u6", "a")));
    assert!(
        step(&mut node, &hear(a_pod(6, "red", None))),
        "now that its labels are known, it is not meant: before its status has an address"
    );
    assert!(node.world.is_known(&tenant("u6", "a")));
    assert!(
        !step(&mut node, &moved_in("u7", "b")),
        "the next pod of this name and address is another one"
    );
    let removed = |sandbox: &'static str| {
        move |node: &mut Node| {
            node.world
                .moved_out(ip.parse().expect("an address"), sandbox);
        }
    };
    assert!(
        !step(&mut node, &removed("a")),
        "what is said late of the one before"
    );
    assert!(step(&mut node, &removed("b")), "an address of nobody");
}

#[test]
fn what_cannot_be_read_allows_nothing() {
    let mut node = Node::new("n0");
    node.hear(&a_pod(6, "red", Some("10.0.0.6")));
    let open =
        [json!({ "from": [{ "ipBlock": { "cidr": "0.0.0.0/0" } }], "ports": [{ "port": 80 }] })];
    for (what, broken) in [
        ("/from/0/ipBlock/cidr", json!("10.0.0.0/33")),
        ("/from/0/ipBlock/except", json!(["10.0.0.0/33"])),
        ("/from/0", json!({})),
        ("/ports/0/protocol", json!("ICMP")),
        ("/ports/0/endPort", json!(70_000)),
    ] {
        let mut rule = open[0].clone();
        node.hear(&a_policy(
            "red",
            json!({ "podSelector": {}, "ingress": [rule.clone()] }),
        ));
        node.sync();
        assert!(node.allows(&to("10.0.0.6")), "{what} before");
        let (parent, last) = what.rsplit_once('/').expect("a path");
        match rule.pointer_mut(parent).expect("the parent") {
            Json::Array(list) => list[0] = broken,
            object => object[last] = broken,
        }
        node.hear(&a_policy(
            "red",
            json!({ "podSelector": {}, "ingress": [rule] }),
        ));
        node.sync();
        assert!(!node.allows(&to("10.0.0.6")), "{what}");
        assert_eq!(node.world.unreadable(), 1, "{what}");
    }
}

#[test]
fn a_table_without_anybody_in_it_is_empty_and_one_with_is_this() {
    let mut node = Node::new("n0");
    node.hear(&a_pod(6, "red", Some("10.0.0.6")));
    let _: Dirty = {
        node.sync();
        let [v4, v6] = node.tables.families();
        assert_eq!(
            (v4.ruleset(), v6.ruleset()),
            (&Ruleset::default(), &Ruleset::default())
        );
        v4.take_dirty()
    };
    let rule = json!({
        "from": [{ "podSelector": {} }, { "ipBlock": { "cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"] } }],
        "ports": [{ "port": 80, "endPort": 90 }, { "protocol": "UDP" }],
    });
    node.hear(&a_policy(
        "red",
        json!({ "podSelector": {}, "ingress": [rule], "policyTypes": ["Ingress"] }),
    ));
    node.sync();
    let [v4, v6] = node.tables.families();
    assert_eq!(
        v6.ruleset(),
        &Ruleset::default(),
        "nobody has such an address"
    );
    expect_test::expect![[r#"
        set blocks-61a6dbed472524fde51dce3405900856 { ct original saddr, interval
          192.0.2.0
          192.0.2.128 end
        }
        set egress { ct original saddr : verdict
        }
        set ingress { ct reply saddr : verdict
          10.0.0.6 : jump in-fcc919486b067c3a54cd95ec54b75bce
        }
        set isolated { ip saddr
          10.0.0.6
        }
        set itself { ct original saddr . ct reply saddr
          10.0.0.6 . 10.0.0.6
        }
        set pods-b10d2f2b6cf312056f8def1612e6a7e7 { ct original saddr
          10.0.0.6
        }
        chain forward { type filter hook forward priority 0
          ct state invalid,untracked ip saddr @isolated counter drop
          ct state invalid,untracked ip daddr @isolated counter drop
          ct original saddr . ct reply saddr @itself accept
          ct original saddr vmap @egress
          ct reply saddr vmap @ingress
        }
        chain in-fcc919486b067c3a54cd95ec54b75bce {
          ct protocol udp ct original saddr @blocks-61a6dbed472524fde51dce3405900856 return
          ct protocol udp ct original saddr @pods-b10d2f2b6cf312056f8def1612e6a7e7 return
          ct protocol tcp ct reply sport 80-90 ct original saddr @blocks-61a6dbed472524fde51dce3405900856 return
          ct protocol tcp ct reply sport 80-90 ct original saddr @pods-b10d2f2b6cf312056f8def1612e6a7e7 return
          counter drop
        }
    "#]].assert_eq(&v4.ruleset().to_string());
    node.hear(&Change::NoPolicy(Box::new(
        serde_json::from_value(json!({ "metadata": { "name": "p", "namespace": "red" } }))
            .expect("a policy"),
    )));
    node.sync();
    assert_eq!(node.tables.families()[0].ruleset(), &Ruleset::default());
}
