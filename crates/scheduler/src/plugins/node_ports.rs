//! Two pods cannot have the same port of one node.

use super::{Check, Events, Plugin, Prepare, Reason, Verdict};
use crate::node::Node;
use crate::pod::{HostPort, Pod};
use crate::snapshot::Snapshot;

pub struct NodePorts;
struct HostPorts<'a>(&'a [HostPort]);

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED.with(Events::POD_REMOVED)
    }
    fn is_local(&self) -> bool {
        true
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, _: &'a Snapshot) -> Prepare<'a> {
        Ok((!pod.ports.is_empty()).then(|| Box::new(HostPorts(&pod.ports)) as Box<dyn Check>))
    }
}

impl Check for HostPorts<'_> {
    fn is_steady(&self) -> bool {
        true
    }

    fn advice(&self, node: &Node) -> Option<String> {
        let pods = node.pods.iter();
        let taken = pods.flat_map(|pod| {
            let theirs = pod
                .ports
                .iter()
                .filter(|p| self.0.iter().any(|w| w.conflicts(p)));
            theirs.map(|p| {
                let (port, protocol) = (p.port, &p.protocol);
                format!(
                    "port {port}/{protocol} is pod {}/{}'s",
                    pod.namespace, pod.name
                )
            })
        });
        let texts: Vec<String> = taken.collect();
        (!texts.is_empty()).then(|| texts.join(" and "))
    }

    fn filter(&self, node: &Node) -> Verdict {
        let taken = |p: &HostPort| node.ports.iter().any(|other| other.conflicts(p));
        if self.0.iter().any(taken) {
            Verdict::NotNow(Reason::one(
                "node(s) didn't have free ports for the requested pod ports",
            ))
        } else {
            Verdict::Fits
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Cluster, verdicts};

    #[test]
    fn ports_are_taken_once_per_protocol_and_address() {
        let pod = |port: serde_json::Value| json!({"containers": [{"name": "c", "ports": [port]}]});
        let mut cluster = Cluster::new([json!({"metadata": {"name": "a"}})]);
        cluster.place(
            "a",
            json!({"spec":
            pod(json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"}))}),
        );
        let cases = [
            (json!({"hostPort": 80, "hostIP": "10.0.0.1"}), false),
            (json!({"hostPort": 80}), false),
            (json!({"hostPort": 80, "hostIP": "0.0.0.0"}), false),
            (json!({"hostPort": 80, "hostIP": "10.0.0.2"}), true),
            (json!({"hostPort": 80, "protocol": "UDP"}), true),
            (json!({"hostPort": 81}), true),
        ];
        for (mut port, fits) in cases {
            port["containerPort"] = json!(80);
            let out = verdicts(&NodePorts, &cluster, pod(port.clone()));
            assert_eq!(out == "a: fits", fits, "{port} {out}");
        }
        let none = pod(json!({"containerPort": 80}));
        assert_eq!(verdicts(&NodePorts, &cluster, none), "nothing to say");
    }

    #[test]
    fn all_ports_of_containers_and_sidecars_must_be_free() {
        let ports = |all: &[(&str, i32, &str)]| -> Vec<serde_json::Value> {
            let port = |(protocol, port, ip): &(&str, i32, &str)| json!({"containerPort": port, "hostPort": port, "protocol": protocol, "hostIP": ip});
            all.iter().map(port).collect()
        };
        let own =
            |all: &[(&str, i32, &str)]| json!({"containers": [{"name": "c", "ports": ports(all)}]});
        let before = |restarts: Option<&str>| {
            json!({"containers": [], "initContainers": [{"name": "i", "restartPolicy": restarts,
                "ports": ports(&[("TCP", 8001, "")])}]})
        };
        let (local, any) = ("127.0.0.1", "0.0.0.0");
        let (taken, fits) = (
            "a: not now, node(s) didn't have free ports for the requested pod ports",
            "a: fits",
        );
        for (there, pod, expected) in [
            (
                vec![("UDP", 8080, local)],
                own(&[("UDP", 8000, local), ("UDP", 8080, local)]),
                taken,
            ),
            (
                vec![("TCP", 8001, local), ("UDP", 8081, local)],
                own(&[("TCP", 8001, local), ("UDP", 8080, local)]),
                taken,
            ),
            (
                vec![("TCP", 8001, local)],
                own(&[("TCP", 8001, "10.0.10.10"), ("TCP", 8001, any)]),
                taken,
            ),
            (
                vec![("TCP", 8001, any)],
                own(&[("TCP", 8001, local)]),
                taken,
            ),
            (vec![("TCP", 8001, any)], own(&[("UDP", 8001, local)]), fits),
            (
                vec![("TCP", 8001, any), ("UDP", 8001, any)],
                own(&[("UDP", 8001, local)]),
                taken,
            ),
            (vec![("TCP", 8001, any)], before(Some("Always")), taken),
            (vec![("TCP", 8001, any)], before(None), "nothing to say"),
        ] {
            let mut cluster = Cluster::new([json!({"metadata": {"name": "a"}})]);
            cluster.place("a", json!({"spec": own(&there)}));
            let out = verdicts(&NodePorts, &cluster, pod.clone());
            assert_eq!(out, expected, "{there:?} {pod}");
        }
    }
}
