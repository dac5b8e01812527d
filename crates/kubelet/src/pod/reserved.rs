//! What the pods of the node have been given: CPU, memory and other resources, and ports of the
//! node. A pod that comes must fit beside all others. Without I/O; one lock, so that two pods are
//! not given the same.

use super::preempt::{self, Rank};
use super::resources::Qos;
use super::{fit, resources, spec};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use tokio::sync::Notify;

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
    /// Who gives way to it.
    pub rank: Rank,
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
            rank: Rank {
                qos: resources::qos(pod),
                priority: spec::of(pod).priority,
                critical: fit::is_critical(pod),
            },
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

/// A pod that ends to make room.
#[derive(Clone, Debug)]
struct Ending {
    /// What is short.
    resource: String,
    /// Whoever ends pods knows of it.
    known: bool,
}

/// What all pods of the node were given, by UID.
#[derive(Debug, Default)]
pub struct Accounts {
    table: Mutex<HashMap<String, Need>>,
    /// Pods that end to make room for others.
    ending: Mutex<BTreeMap<String, Ending>>,
    /// There are pods to end.
    to_end: Notify,
    /// What pods have has changed.
    changed: Notify,
}

impl Accounts {
    /// Notes what a pod has, whether it fits or not.
    pub fn note(&self, uid: &str, has: Need) {
        self.table.lock().insert(uid.to_owned(), has);
        self.changed.notify_one();
    }

    /// The pod has nothing any more.
    pub fn forget(&self, uid: &str) {
        self.ending.lock().remove(uid);
        if self.table.lock().remove(uid).is_some() {
            self.changed.notify_one();
        }
    }

    /// Waits until what pods have is not what it was.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What Burstable pods ask for together, in thousandths of a CPU.
    #[must_use]
    pub fn burstable_cpu(&self) -> i64 {
        let table = self.table.lock();
        let burstable = table.values().filter(|n| n.rank.qos == Qos::Burstable);
        burstable.map(|n| n.get("cpu")).fold(0, i64::saturating_add)
    }

    /// Chooses who ends so that a pod fits for which something is short, and keeps their place for
    /// it.
    ///
    /// # Errors
    /// All that may end are not enough.
    pub fn make_room(&self, uid: &str, need: Need, short: &[Short]) -> Result<(), String> {
        let mut ending = self.ending.lock();
        let mut table = self.table.lock();
        let others = table.iter().filter(|(other, _)| *other != uid);
        let mut others: Vec<_> = others.map(|(uid, need)| (uid.as_str(), need)).collect();
        // In a fixed order, so that equal ones are chosen alike.
        others.sort_by_key(|(uid, _)| *uid);
        let (gone, stay): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|(uid, _)| ending.contains_key(*uid));
        let chosen = preempt::plan(&need.rank, short, &gone, &stay)?;
        let resource = short.first().map(|s| s.resource.clone());
        let resource = resource.unwrap_or_default();
        for victim in chosen {
            let (resource, known) = (resource.clone(), false);
            ending.insert(victim, Ending { resource, known });
            self.to_end.notify_one();
        }
        table.insert(uid.to_owned(), need);
        Ok(())
    }

    /// The pods that are to end now, each with what is short; waits until there are some.
    pub async fn to_end(&self) -> Vec<(String, String)> {
        loop {
            let mut out = Vec::new();
            for (uid, ending) in &mut *self.ending.lock() {
                if !std::mem::replace(&mut ending.known, true) {
                    out.push((uid.clone(), ending.resource.clone()));
                }
            }
            if !out.is_empty() {
                return out;
            }
            self.to_end.notified().await;
        }
    }

    /// Gives a new pod what it needs, if that fits beside all others in what the node has, and if
    /// nothing else is against it (`welcome`). Extended resources that the node does not name are
    /// not its to count.
    pub fn admit(&self, uid: &str, need: Need, has: &Table, welcome: bool) -> Result<(), NoRoom> {
        let mut table = self.table.lock();
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
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Gives a pod other CPU and memory, if they fit beside all others: what grows must, what
    /// shrinks does anyhow. Otherwise says what the others have.
    pub fn grant(&self, uid: &str, asked: Amounts, all: Amounts) -> Result<(), Amounts> {
        let mut table = self.table.lock();
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
        self.changed.notify_one();
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
            ..Need::default()
        }
    }

    #[tokio::test]
    async fn a_pod_that_the_cluster_needs_gets_the_place_of_others() {
        let needed = || {
            let mut need = has(500, 50);
            need.rank.critical = true;
            need
        };
        let node: Table = [("cpu".to_owned(), 1000), ("pods".to_owned(), 9)].into();
        let accounts = Accounts::default();
        accounts.note("a", has(300, 30));
        accounts.note("b", has(600, 60));
        let short = |need: Need| {
            accounts
                .admit("new", need, &node, false)
                .map_err(|e| e.short)
        };
        let found = short(needed()).unwrap_err();
        accounts.make_room("new", needed(), &found).unwrap();
        assert_eq!(
            accounts.to_end().await,
            [("b".to_owned(), "cpu".to_owned())]
        );
        // Until it has ended nobody else has to, and nobody else gets the place.
        let found = short(needed()).unwrap_err();
        accounts.make_room("new", needed(), &found).unwrap();
        accounts.forget("b");
        assert_eq!(short(needed()), Ok(()));
        assert!(accounts.admit("c", has(300, 30), &node, true).is_err());
        let mut too_much = needed();
        too_much.resources.insert("cpu".into(), 1001);
        let found = short(too_much.clone()).unwrap_err();
        assert!(accounts.make_room("new", too_much, &found).is_err());
    }

    #[tokio::test]
    async fn what_burstable_pods_ask_for_is_known_as_they_come_and_go() {
        let of = |qos, cpu| {
            let mut need = has(cpu, 1);
            need.rank.qos = qos;
            need
        };
        let node: Table = [("cpu".to_owned(), 10_000), ("pods".to_owned(), 9)].into();
        let accounts = Accounts::default();
        accounts.note("a", of(Qos::Burstable, 300));
        accounts.note("b", of(Qos::Guaranteed, 5000));
        accounts.note("c", of(Qos::BestEffort, 0));
        let comes = of(Qos::Burstable, 200);
        assert_eq!(accounts.admit("d", comes, &node, true), Ok(()));
        assert_eq!(accounts.burstable_cpu(), 500);
        accounts.changed().await;
        assert_eq!(accounts.grant("d", (400, 1), (10_000, 10)), Ok(()));
        assert_eq!(accounts.burstable_cpu(), 700);
        accounts.changed().await;
        accounts.forget("a");
        assert_eq!(accounts.burstable_cpu(), 400);
        accounts.changed().await;
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
