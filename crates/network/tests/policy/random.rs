//! Random policies, pods and namespaces: the plan says of every connection what the API says.

use std::net::IpAddr;

use network::policy::cluster_wide::KINDS;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value as Json, json};

use crate::administered;
use crate::planned::{Call, Kernel, Node};
use crate::spoken::{Change, Objects};

const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
/// Pods have the addresses of their numbers; behind them is the outside.
const PODS: u8 = 6;
/// The first addresses behind them are those of so many nodes.
const NODES: u8 = 3;

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

pub fn selector() -> impl Strategy<Value = Json> {
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

fn node() -> impl Strategy<Value = Change> {
    let what = (1..=NODES, labels(), 0..4u8);
    what.prop_map(|(number, labels, kind)| {
        // Two may have one address for a while.
        let address = |six| address(PODS + number - u8::from(kind == 1 && number > 1), six);
        let node = json!({
            "metadata": { "name": format!("n{number}"), "labels": labels },
            "status": { "addresses": [
                { "type": "Hostname", "address": format!("n{number}") },
                { "type": "InternalIP", "address": address(false) },
                { "type": "ExternalIP", "address": address(true) },
            ] },
        });
        let node = Box::new(serde_json::from_value(node).expect("a node"));
        match kind {
            0 => Change::NoNode(node),
            _ => Change::Node(node),
        }
    })
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![3 => pod(), 3 => policy(), 1 => namespace()];
    prop::collection::vec(change, 1..24)
}

/// With policies of administrators: all kinds are there at the beginning.
fn administered() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        12 => pod(), 8 => policy(), 6 => namespace(), 12 => administered::policy(),
        1 => administered::kinds(), 6 => node(),
    ];
    prop::collection::vec(change, 1..24).prop_map(|mut changes| {
        changes.insert(0, Change::Kinds(KINDS.into()));
        changes
    })
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

fn agree(changes: &[Change], calls: &[Call]) -> Result<(), TestCaseError> {
    let mut nodes = [Node::new("n0"), Node::new("n1")];
    let mut objects = Objects::default();
    for (number, change) in changes.iter().enumerate() {
        objects.hear(change);
        for node in &mut nodes {
            node.hear(change);
            node.sync();
            if number % 4 == 3 {
                node.clear();
            }
        }
    }
    for call in calls {
        let planned = nodes.iter_mut().all(|node| node.allows(call));
        prop_assert_eq!(planned, objects.allows(call), "{:?}", call);
    }
    Ok(())
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        ..Config::default()
    })
}

#[test]
fn the_plan_says_what_the_api_says_after_every_change() {
    let calls = calls();
    let run = runner(96).run(&changes(), |changes| agree(&changes, &calls));
    run.expect("the same");
}

#[test]
fn administrators_have_the_first_and_the_last_word() {
    let calls = calls();
    let run = runner(96).run(&administered(), |changes| agree(&changes, &calls));
    run.expect("the same");
}

/// Calls of pods to pods and nodes, by few ports.
fn of_pods() -> Vec<Call> {
    let all = calls().into_iter();
    let number = |address: IpAddr| match address {
        IpAddr::V4(four) => four.octets()[3],
        IpAddr::V6(_) => u8::MAX,
    };
    let inner = |call: &Call| number(call.client) <= PODS && number(call.server) <= PODS + NODES;
    let few = |call: &Call| matches!((call.protocol, call.port), (6, 80) | (17, 81));
    all.filter(|call| inner(call) && few(call)).collect()
}

/// What meets a change, in the middle of its look-ups, has the verdict of before or that of after.
#[test]
fn a_packet_in_the_middle_of_a_change_has_a_verdict_of_either_side() {
    let calls = of_pods();
    let run = runner(32).run(&changes(), |changes| {
        let mut node = Node::new("n0");
        for change in &changes {
            node.hear(change);
            for step in node.sync() {
                for call in &calls {
                    let (before, after, between) = step.verdicts(call);
                    let known = between.iter().all(|word| *word == before || *word == after);
                    prop_assert!(known, "{:?}: {} {} {:?}", call, before, after, between);
                }
            }
        }
        Ok(())
    });
    run.expect("one of both");
}

/// Also where many changes are one transaction, nothing passes that neither side allows.
#[test]
fn a_packet_in_the_middle_of_many_changes_passes_only_where_one_side_allows_it() {
    let calls = of_pods();
    let all = (administered(), 1..4usize);
    let run = runner(48).run(&all, |(changes, at_once)| {
        let mut node = Node::new("n0");
        for some in changes.chunks(at_once) {
            some.iter().for_each(|change| node.hear(change));
            for step in node.sync() {
                for call in &calls {
                    let (before, after, between) = step.verdicts(call);
                    let leaks = between.contains(&true) && !before && !after;
                    prop_assert!(!leaks, "{:?}", call);
                }
            }
        }
        Ok(())
    });
    run.expect("no leak");
}

/// What is not asked about, since neither end is isolated, was allowed when the first of them was
/// looked for: also where several transactions come in between.
#[test]
fn what_is_not_asked_about_was_allowed() {
    let calls = of_pods();
    let all = (administered(), 1..4usize);
    let run = runner(48).run(&all, |(changes, at_once)| {
        let mut node = Node::new("n0");
        let mut moments: Vec<Kernel> = Vec::new();
        for (number, some) in changes.chunks(at_once).enumerate() {
            some.iter().for_each(|change| node.hear(change));
            for step in node.sync() {
                moments.extend([step.before, step.after]);
            }
            for call in &calls {
                for (nth, first) in moments.iter().enumerate() {
                    let is_free = |moment: &Kernel| !moment.isolates(call.server);
                    let mut later = moments.iter().skip(nth);
                    let is_through = !first.isolates(call.client) && later.any(is_free);
                    prop_assert!(!is_through || first.allows(call), "{:?}", call);
                }
            }
            // Packets that were under way are through.
            if number % 3 == 2 {
                node.clear();
                moments.clear();
            }
        }
        Ok(())
    });
    run.expect("allowed");
}
