//! Random policies of administrators, in the words of each of their kinds.

use std::collections::BTreeSet;

use client::custom_kinds::CustomKind;
use network::policy::cluster_wide::{GROUP, KINDS, PolicyKind};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::random::selector;
use crate::spoken::Change;

fn pods() -> impl Strategy<Value = Json> {
    prop_oneof![
        selector().prop_map(|s| json!({ "namespaces": s })),
        (selector(), selector())
            .prop_map(|(n, p)| json!({ "pods": { "namespaceSelector": n, "podSelector": p } })),
    ]
}

fn peer(direction: &'static str) -> impl Strategy<Value = Json> {
    let outside = match direction {
        "to" => 2,
        _ => 0,
    };
    prop_oneof![
        8 => pods(),
        outside => (0..3usize).prop_map(|n| {
            let network = ["10.0.0.0/30", "0.0.0.0/0", "fd00::/125"][n];
            json!({ "networks": [network, "10.0.0.9/32"] })
        }),
        outside => selector().prop_map(|s| json!({ "nodes": s })),
        // What is not read here, and not in this direction.
        1 => Just(match direction {
            "to" => json!({ "domainNames": ["*.example.com"] }),
            _ => json!({ "nodes": {} }),
        }),
    ]
}

fn port(kind: PolicyKind) -> BoxedStrategy<Json> {
    let protocol = (0..3usize, 0..4usize);
    protocol
        .prop_map(move |(protocol, what)| {
            let word = ["TCP", "UDP", "SCTP"][protocol];
            match (kind, what) {
                (PolicyKind::Cluster, 0) => json!({ word.to_lowercase(): {} }),
                (PolicyKind::Cluster, 1) => {
                    json!({ word.to_lowercase(): { "destinationPort": { "number": 80 } } })
                }
                (PolicyKind::Cluster, 2) => json!({ word.to_lowercase():
                    { "destinationPort": { "range": { "start": 81, "end": 200 } } } }),
                (PolicyKind::Cluster, _) => json!({ "destinationNamedPort": "web" }),
                (_, 0) => json!({ "portNumber": { "protocol": word, "port": 80 } }),
                (_, 1) => {
                    json!({ "portRange": { "protocol": word, "start": 81, "end": 200 } })
                }
                _ => json!({ "namedPort": "web" }),
            }
        })
        .boxed()
}

fn rules(kind: PolicyKind, direction: &'static str) -> impl Strategy<Value = Vec<Json>> {
    let ports = prop::option::weighted(0.4, prop::collection::vec(port(kind), 1..3));
    let peers = prop::collection::vec(peer(direction), 1..3);
    let rule = (0..3usize, peers, ports).prop_map(move |(action, peers, ports)| {
        let action = match (kind, action) {
            (PolicyKind::Cluster, 0) => "Accept",
            (_, 0) => "Allow",
            (PolicyKind::Baseline, _) | (_, 1) => "Deny",
            _ => "Pass",
        };
        let mut rule = json!({ "action": action, direction: peers });
        if let Some(ports) = ports {
            let field = if kind == PolicyKind::Cluster {
                "protocols"
            } else {
                "ports"
            };
            rule[field] = ports.into();
        }
        rule
    });
    prop::collection::vec(rule, 0..3)
}

fn of_kind(kind: PolicyKind) -> impl Strategy<Value = Change> {
    let what = (pods(), rules(kind, "from"), rules(kind, "to"));
    let of = (0..3u8, 0..3u64, prop::bool::ANY, 0..4u8);
    (what, of).prop_map(
        move |((subject, ingress, egress), (name, priority, base, come))| {
            let (word, version, _) = kind.names();
            let name = match kind {
                PolicyKind::Baseline => "default".to_owned(),
                _ => format!("p{name}"),
            };
            let mut object = json!({
                "apiVersion": format!("{GROUP}/{version}"), "kind": word,
                "metadata": { "name": name },
                "spec": { "subject": subject, "ingress": ingress, "egress": egress },
            });
            if kind != PolicyKind::Baseline {
                object["spec"]["priority"] = priority.into();
            }
            if kind == PolicyKind::Cluster {
                object["spec"]["tier"] = if base { "Baseline" } else { "Admin" }.into();
            }
            let object = Box::new(serde_json::from_value(object).expect("an object"));
            match come {
                0 => Change::NoClusterWide(kind, object),
                _ => Change::ClusterWide(kind, object),
            }
        },
    )
}

/// A policy of any kind comes, is another, or goes.
pub fn policy() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => of_kind(PolicyKind::Admin),
        3 => of_kind(PolicyKind::Cluster),
        1 => of_kind(PolicyKind::Baseline),
    ]
}

/// Kinds come and go.
pub fn kinds() -> impl Strategy<Value = Change> {
    prop::collection::vec(prop::bool::weighted(0.8), KINDS.len()).prop_map(|there| {
        let all = KINDS.into_iter().zip(there);
        let there: BTreeSet<PolicyKind> = all.filter_map(|(k, there)| there.then_some(k)).collect();
        Change::Kinds(there)
    })
}
