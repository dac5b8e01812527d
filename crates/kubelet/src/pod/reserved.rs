//! What the pods of the node have been given: CPU, memory and other resources, and ports of the
//! node. A pod that comes must fit beside all others. Without I/O; one lock, so that two pods are
//! not given the same.

use super::{resources, spec};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};

/// CPU in thousandths and memory in bytes.
pub type Amounts = (i64, i64);

/// Amounts by name of the resource: CPU in thousandths, all others in whole units.
pub type Table = BTreeMap<String, i64>;

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The address; empty for all of the node.
    pub ip: String,
    /// Such as `TCP`.
    pub protocol: String,
    /// The port.
    pub port: i32,
}

impl HostPort {
    fn meets(&self, other: &Self) -> bool {
        let all = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (all(&self.ip) || all(&other.ip) || self.ip == other.ip)
    }
}

/// What a pod needs of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// What it asks for.
    pub resources: Table,
    /// Ports of the node.
    pub ports: Vec<HostPort>,
}

impl Need {
    /// Reads a pod's spec.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let totals = resources::totals(pod, |r| r.requests.as_ref());
        let in_numbers = |(name, q): (String, api::Quantity)| {
            let number = if name == "cpu" {
                q.milli_value()
            } else {
                q.value()
            };
            (name, number)
        };
        let sidecars = spec::init_containers(pod)
            .iter()
            .filter(|c| spec::is_sidecar(c));
        let ports = spec::containers(pod)
            .iter()
            .chain(sidecars)
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|p| {
                Some(HostPort {
                    ip: p.host_ip.clone().unwrap_or_default(),
                    protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                    port: p.host_port.filter(|port| *port > 0)?,
                })
            });
        Self {
            resources: totals.into_iter().map(in_numbers).collect(),
            ports: ports.collect(),
        }
    }

    fn get(&self, name: &str) -> i64 {
        self.resources.get(name).copied().unwrap_or(0)
    }

    fn amounts(&self) -> Amounts {
        (self.get("cpu"), self.get("memory"))
    }
}

/// A resource of which too little is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// Which.
    pub resource: String,
    /// What the pod asks for.
    pub requested: i64,
    /// What the others have.
    pub used: i64,
    /// What there is.
    pub capacity: i64,
}

/// Why a pod does not fit beside the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoRoom {
    /// Resources that are short, the number of pods first, as upstream lists them.
    pub short: Vec<Short>,
    /// Another pod has one of its ports.
    pub port_taken: bool,
}

/// What all pods of the node were given, by UID.
#[derive(Debug, Default)]
pub struct Accounts(Mutex<HashMap<String, Need>>);

impl Accounts {
    /// Notes what a pod has, whether it fits or not.
    pub fn note(&self, uid: &str, has: Need) {
        self.0.lock().insert(uid.to_owned(), has);
    }

    /// The pod has nothing any more.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// Gives a new pod what it needs, if that fits beside all others in what the node has, and if
    /// nothing else is against it (`welcome`). Extended resources that the node does not name are
    /// not its to count.
    pub fn admit(&self, uid: &str, need: Need, has: &Table, welcome: bool) -> Result<(), NoRoom> {
        let mut table = self.0.lock();
        let others = || table.iter().filter(|(other, _)| *other != uid);
        let mut out = NoRoom::default();
        let count = i64::try_from(others().count()).unwrap_or(i64::MAX);
        let mut check = |resource: &str, requested: i64, used: i64| {
            let Some(capacity) = has.get(resource).copied() else {
                return;
            };
            if requested > 0 && used.saturating_add(requested) > capacity {
                out.short.push(Short {
                    resource: resource.to_owned(),
                    requested,
                    used,
                    capacity,
                });
            }
        };
        check("pods", 1, count);
        let first = ["cpu", "memory", "ephemeral-storage"];
        let names = need.resources.keys().map(String::as_str);
        let rest = names.filter(|name| !first.contains(name) && *name != "pods");
        for name in first.into_iter().chain(rest) {
            let used = others().map(|(_, n)| n.get(name));
            check(name, need.get(name), used.fold(0, i64::saturating_add));
        }
        out.port_taken = others()
            .flat_map(|(_, n)| &n.ports)
            .any(|taken| need.ports.iter().any(|port| port.meets(taken)));
        if out != NoRoom::default() {
            return Err(out);
        }
        if welcome {
            table.insert(uid.to_owned(), need);
        }
        Ok(())
    }

    /// Gives a pod other CPU and memory, if they fit beside all others: what grows must, what
    /// shrinks does anyhow. Otherwise says what the others have.
    pub fn grant(&self, uid: &str, asked: Amounts, all: Amounts) -> Result<(), Amounts> {
        let mut table = self.0.lock();
        let has = table.get(uid).map(Need::amounts).unwrap_or_default();
        let others = table.iter().filter(|(other, _)| *other != uid);
        let used = others.fold((0i64, 0i64), |sum, (_, need)| {
            let has = need.amounts();
            (sum.0.saturating_add(has.0), sum.1.saturating_add(has.1))
        });
        let fits = |asked: i64, has: i64, used: i64, all: i64| {
            asked <= has || used.saturating_add(asked) <= all
        };
        if !fits(asked.0, has.0, used.0, all.0) || !fits(asked.1, has.1, used.1, all.1) {
            return Err(used);
        }
        let entry = table.entry(uid.to_owned()).or_default();
        entry.resources.insert("cpu".into(), asked.0);
        entry.resources.insert("memory".into(), asked.1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn has(cpu: i64, memory: i64) -> Need {
        Need {
            resources: [("cpu".to_owned(), cpu), ("memory".to_owned(), memory)].into(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn what_grows_must_fit_and_what_shrinks_does() {
        let accounts = Accounts::default();
        accounts.note("a", has(600, 60));
        accounts.note("b", has(300, 30));
        assert_eq!(accounts.grant("b", (500, 30), (1000, 100)), Err((600, 60)));
        assert_eq!(accounts.grant("b", (400, 40), (1000, 100)), Ok(()));
        assert_eq!(accounts.grant("b", (100, 10), (50, 5)), Ok(()));
        assert_eq!(accounts.grant("a", (900, 90), (1000, 100)), Ok(()));
        accounts.forget("a");
        assert_eq!(accounts.grant("b", (1000, 100), (1000, 100)), Ok(()));
    }

    #[test]
    fn a_pod_that_comes_must_fit_beside_all_others() {
        let pod = |spec: serde_json::Value| -> Need {
            let pod = serde_json::from_value(json!({"metadata": {}, "spec": spec}));
            Need::of(&pod.expect("a pod"))
        };
        let asks = |requests: serde_json::Value| {
            pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
        };
        let port = |ip: &str, protocol: &str| {
            pod(json!({"containers": [{"name": "c", "ports": [
                {"containerPort": 1, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]}))
        };
        let node: Table = [("cpu", 1000), ("memory", 100), ("pods", 2), ("x/y", 1)]
            .map(|(name, has)| (name.to_owned(), has))
            .into();
        let accounts = Accounts::default();
        let admit = |uid: &str, need: Need| accounts.admit(uid, need, &node, true);
        assert_eq!(
            admit("a", asks(json!({"cpu": "600m", "memory": "60"}))),
            Ok(())
        );
        // Asked again, it does not stand in its own way.
        assert_eq!(
            admit("a", asks(json!({"cpu": "600m", "memory": "60"}))),
            Ok(())
        );
        let short = |outcome: Result<(), NoRoom>| {
            let short = outcome.expect_err("no room").short;
            short
                .into_iter()
                .map(|s| (s.resource, s.used))
                .collect::<Vec<_>>()
        };
        let none = asks(json!({"cpu": "500m", "memory": "41"}));
        assert_eq!(
            short(admit("b", none)),
            [("cpu".to_owned(), 600), ("memory".to_owned(), 60)]
        );
        // What it does not ask for is never short; what the node does not know is not its own.
        assert_eq!(
            short(admit("b", asks(json!({"x/y": "2", "z/z": "5"})))),
            [("x/y".to_owned(), 0)]
        );
        assert_eq!(accounts.admit("b", asks(json!({})), &node, false), Ok(()));
        assert_eq!(admit("b", port("", "TCP")), Ok(()));
        let full = admit("c", port("10.0.0.1", "TCP")).expect_err("two pods are here");
        assert!(
            full.port_taken && full.short[0].resource == "pods",
            "{full:?}"
        );
        accounts.forget("a");
        assert!(admit("c", port("10.0.0.1", "TCP")).is_err());
        assert_eq!(admit("c", port("10.0.0.1", "UDP")), Ok(()));
    }
}
