//! Plans of load balancers in a pretended cluster of three nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use serde_json::{Value, json};

use super::plan::{ANNOUNCED_BY, CLASS, FINALIZER, Observed, STANDBY, is_relevant, plan};
use super::{Pool, Source};
use crate::common::{Key, key_of};
use crate::testing::World;

/// Three nodes, and a cluster whose controller works until it has nothing to do.
struct Lab {
    world: World,
    source: Source,
    local: BTreeMap<Key, BTreeSet<String>>,
    servers: Vec<(IpAddr, u16)>,
}

fn key(name: &str) -> Key {
    ("a".into(), name.into())
}

fn pool(text: &str) -> Source {
    Source::Pool(text.parse::<Pool>().unwrap())
}

impl Lab {
    fn new(source: Source) -> Self {
        let mut lab = Self {
            world: World::new(),
            source,
            local: BTreeMap::new(),
            servers: Vec::new(),
        };
        for (name, ip) in [("n1", "10.0.0.1"), ("n2", "10.0.0.2"), ("n3", "10.0.0.3")] {
            lab.world.put(
                "Node",
                json!({
                    "metadata": { "name": name, "labels": {} },
                    "status": {
                        "addresses": [{ "type": "InternalIP", "address": ip }, { "type": "Hostname", "address": name }],
                        "conditions": [{ "type": "Ready", "status": "True" }],
                    },
                }),
            );
        }
        lab
    }

    fn service(&mut self, name: &str, port: u16, more: Value) {
        let mut spec = json!({
            "type": "LoadBalancer", "ipFamilies": ["IPv4"], "externalTrafficPolicy": "Cluster",
            "ports": [{ "port": port, "protocol": "TCP" }],
        });
        crate::testing::merge(&mut spec, &more);
        // Each a second after the one before.
        self.world.now_millis += 1_000;
        let status = json!({ "loadBalancer": {} });
        let service = json!({ "metadata": { "name": name }, "spec": spec, "status": status });
        self.world.put("Service", service);
    }

    fn observed(&self) -> Observed {
        let mut services: Vec<Arc<Service>> = self.world.all("Service");
        services.retain(|s| is_relevant(s));
        Observed {
            services,
            nodes: self.world.all::<Node>("Node"),
            local: self.local.clone(),
            servers: self.servers.clone(),
        }
    }

    /// Plans and applies until nothing is left to do; what was done.
    fn settle(&mut self) -> Vec<String> {
        for _ in 0..10 {
            let plan = plan(&self.observed(), &self.source, self.world.now_millis);
            if plan.is_empty() {
                return self.world.done();
            }
            self.world.apply(plan);
        }
        panic!("it never settles: {:?}", self.world.done());
    }

    fn addresses(&mut self, name: &str) -> Vec<String> {
        let ingress = self.world.at("Service", name)["status"]["loadBalancer"]["ingress"].clone();
        let all = ingress.as_array().cloned().unwrap_or_default();
        all.iter()
            .map(|i| {
                assert_eq!(i["ipMode"], "VIP");
                i["ip"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    fn why(&mut self, name: &str) -> (String, String) {
        let condition = self.world.at("Service", name)["status"]["conditions"][0].clone();
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        assert!(condition.is_null() || condition["status"] == "False");
        (text("reason"), text("message"))
    }

    fn announcer(&mut self, name: &str) -> String {
        let notes = &self.world.at("Service", name)["metadata"]["annotations"];
        notes[ANNOUNCED_BY].as_str().unwrap_or_default().to_owned()
    }

    /// Who would announce an address, and at which address it asks who does.
    fn standby(&mut self, name: &str) -> String {
        let notes = &self.world.at("Service", name)["metadata"]["annotations"];
        notes[STANDBY].as_str().unwrap_or_default().to_owned()
    }

    fn ready(&mut self, node: &str, status: &str) {
        self.world.at("Node", node)["status"]["conditions"][0]["status"] = json!(status);
    }
}

const ALL: [&str; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];

#[test]
fn a_service_gets_the_nodes_addresses_and_gives_them_back() {
    let mut lab = Lab::new(Source::default());
    lab.service("web", 80, json!({}));
    let done = lab.settle();
    let expected = [
        "Event EnsuringLoadBalancer",
        "Status Service/web",
        "Status Service/web",
    ];
    assert_eq!(done, expected, "the finalizer comes before the addresses");
    assert_eq!(lab.addresses("web"), ALL);
    let finalizers = &lab.world.at("Service", "web")["metadata"]["finalizers"];
    assert_eq!(finalizers, &json!([FINALIZER]));

    // Another type: back they go, and the Service stays.
    lab.world.at("Service", "web")["spec"]["type"] = json!("ClusterIP");
    let done = lab.settle();
    assert_eq!(done, ["Event DeletingLoadBalancer", "Status Service/web"]);
    assert!(lab.addresses("web").is_empty());

    lab.world.at("Service", "web")["spec"]["type"] = json!("LoadBalancer");
    lab.settle();
    lab.world.at("Service", "web")["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    lab.settle();
    assert!(lab.world.names("Service").is_empty(), "it is let go");
}

#[test]
fn a_class_of_somebody_else_is_left_alone() {
    let mut lab = Lab::new(Source::default());
    lab.service(
        "theirs",
        80,
        json!({ "loadBalancerClass": "example.com/vip" }),
    );
    lab.service("named", 80, json!({ "loadBalancerClass": CLASS }));
    lab.service("plain", 81, json!({ "type": "NodePort" }));
    lab.settle();
    assert_eq!(lab.addresses("named"), ALL, "nor does it take a port");
    // Not even its finalizer, which it may have in common with ours.
    let theirs = lab.world.at("Service", "theirs");
    theirs["metadata"]["finalizers"] = json!([FINALIZER]);
    theirs["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(lab.settle().is_empty());
}

#[test]
fn services_share_addresses_by_port_and_who_comes_second_waits() {
    let mut lab = Lab::new(Source::default());
    lab.service("first", 80, json!({}));
    lab.service("other", 443, json!({}));
    lab.service("second", 80, json!({}));
    let udp = json!({ "ports": [{ "port": 80, "protocol": "UDP" }] });
    lab.service("udp", 80, udp);
    let done = lab.settle();
    for name in ["first", "other", "udp"] {
        assert_eq!(lab.addresses(name), ALL, "{name}");
    }
    assert!(lab.addresses("second").is_empty());
    let (reason, message) = lab.why("second");
    assert_eq!(reason, "PortTaken");
    assert_eq!(
        message,
        "port 80/TCP at the nodes' addresses is taken by a/first"
    );
    let said = |d: &&String| d.contains("SyncLoadBalancerFailed");
    assert_eq!(done.iter().filter(said).count(), 1, "{done:?}");
    // It is not said again at each look.
    lab.service("third", 8080, json!({}));
    assert!(!lab.settle().iter().any(|d| d.contains("Failed")));

    // An older one that comes to want the port does not drive away who has it.
    lab.world.at("Service", "first")["spec"]["ports"][0]["port"] = json!(81);
    lab.settle();
    assert_eq!(lab.addresses("second"), ALL);
    assert_eq!(lab.why("second").0, "");
    lab.world.at("Service", "first")["spec"]["ports"][0]["port"] = json!(80);
    lab.settle();
    assert_eq!(lab.addresses("second"), ALL, "though it is younger");
    assert_eq!(lab.why("first").0, "PortTaken");
}

#[test]
fn ports_of_the_nodes_themselves_are_nobodys() {
    let mut lab = Lab::new(Source::default());
    lab.servers = vec![("10.0.0.2".parse().unwrap(), 443)];
    lab.service("kubelet", 10250, json!({}));
    lab.service("node-port", 30_080, json!({}));
    lab.service("server", 443, json!({}));
    lab.settle();
    let (reason, message) = lab.why("server");
    assert_eq!(reason, "PortTaken");
    assert!(message.contains("default/kubernetes"), "{message}");
    lab.service("beside", 443, json!({ "loadBalancerIP": "10.0.0.1" }));
    lab.service(
        "external",
        80,
        json!({ "type": "ClusterIP", "externalIPs": ["10.0.0.1"] }),
    );
    lab.service("late", 80, json!({}));
    lab.settle();
    assert_eq!(lab.why("kubelet").0, "PortReserved");
    assert_eq!(lab.why("node-port").0, "PortReserved");
    assert_eq!(lab.addresses("beside"), ["10.0.0.1"]);
    assert!(lab.why("late").1.contains("a/external"));
}

#[test]
fn an_asked_for_address_is_had_alone_or_waited_for() {
    let mut lab = Lab::new(Source::default());
    lab.service("one", 80, json!({ "loadBalancerIP": "10.0.0.2" }));
    lab.service("same", 80, json!({ "loadBalancerIP": "10.0.0.2" }));
    lab.service("next", 80, json!({ "loadBalancerIP": "10.0.0.3" }));
    lab.service("strange", 80, json!({ "loadBalancerIP": "192.0.2.1" }));
    lab.service("everywhere", 80, json!({}));
    lab.settle();
    assert_eq!(lab.addresses("one"), ["10.0.0.2"]);
    assert_eq!(lab.addresses("next"), ["10.0.0.3"]);
    assert_eq!(lab.why("same").0, "PortTaken");
    assert_eq!(lab.why("strange").0, "AddressNotAvailable");
    assert_eq!(lab.why("everywhere").0, "PortTaken");
}

#[test]
fn only_nodes_that_can_serve_are_published() {
    let mut lab = Lab::new(Source::default());
    lab.service("web", 80, json!({}));
    lab.service("local", 81, json!({ "externalTrafficPolicy": "Local" }));
    lab.world.at("Node", "n3")["metadata"]["labels"] =
        json!({ "node.kubernetes.io/exclude-from-external-load-balancers": "" });
    lab.settle();
    assert_eq!(lab.addresses("web"), ["10.0.0.1", "10.0.0.2"]);
    // While it has no endpoints anywhere, its addresses are known already.
    assert_eq!(lab.addresses("local"), ["10.0.0.1", "10.0.0.2"]);

    lab.local
        .insert(key("local"), ["n2".to_owned(), "n3".to_owned()].into());
    lab.settle();
    assert_eq!(lab.addresses("local"), ["10.0.0.2"]);
    lab.world.at("Node", "n3")["metadata"]["labels"] =
        json!({ "node.kubernetes.io/exclude-from-external-load-balancers": "false" });
    lab.settle();
    assert_eq!(lab.addresses("local"), ["10.0.0.2", "10.0.0.3"]);

    lab.ready("n1", "Unknown");
    let done = lab.settle();
    assert_eq!(lab.addresses("web"), ["10.0.0.2", "10.0.0.3"]);
    assert_eq!(done, ["Status Service/web"]);
    // When all are silent, it is the control plane that is deaf.
    lab.ready("n2", "Unknown");
    lab.ready("n3", "Unknown");
    lab.settle();
    assert_eq!(lab.addresses("web"), ALL);
}

#[test]
fn without_nodes_a_service_waits() {
    let mut lab = Lab::new(Source::default());
    lab.world.objects.clear();
    lab.service("web", 80, json!({}));
    let done = lab.settle();
    assert!(
        done.contains(&"Event UnAvailableLoadBalancer".to_owned()),
        "{done:?}"
    );
    assert_eq!(lab.why("web").0, "NoNodes");
    lab.service("six", 81, json!({ "ipFamilies": ["IPv6"] }));
    lab.settle();
    assert_eq!(lab.why("six").0, "NoNodes");
    let mut lab = Lab::new(Source::default());
    lab.service("six", 81, json!({ "ipFamilies": ["IPv6"] }));
    lab.settle();
    assert_eq!(lab.why("six").0, "FamilyNotAvailable");
}

#[test]
fn a_pool_gives_each_its_own_address_and_then_shares_by_port() {
    let mut lab = Lab::new(pool("192.0.2.8/31"));
    lab.service("a1", 80, json!({}));
    lab.service("a2", 80, json!({}));
    lab.service("a3", 443, json!({}));
    lab.service("a4", 80, json!({}));
    lab.service("keeps", 99, json!({ "externalTrafficPolicy": "Local" }));
    // Ports of nodes are no matter at other addresses.
    lab.service("ssh", 22, json!({ "loadBalancerIP": "192.0.2.9" }));
    lab.settle();
    assert_eq!(lab.addresses("a1"), ["192.0.2.8"]);
    assert_eq!(lab.addresses("a2"), ["192.0.2.9"]);
    assert_eq!(lab.addresses("a3"), ["192.0.2.8"]);
    assert_eq!(lab.addresses("ssh"), ["192.0.2.9"]);
    assert_eq!(lab.why("a4").0, "PoolUsedUp");
    assert_eq!(lab.why("keeps").0, "PoolUsedUp", "it shares with nobody");
    // An address stays with its Service when others come free.
    lab.world.objects.remove(&("Service".into(), "a1".into()));
    lab.settle();
    assert_eq!(lab.addresses("a2"), ["192.0.2.9"]);
    assert_eq!(lab.addresses("a3"), ["192.0.2.8"]);
    assert_eq!(lab.addresses("a4"), ["192.0.2.8"]);
}

#[test]
fn a_pool_of_both_families_gives_an_address_of_each_that_is_asked_for() {
    let mut lab = Lab::new(pool("192.0.2.8/31,2001:db8::/64"));
    let families = |all: &[&str]| json!({ "ipFamilies": all });
    lab.service("both", 80, families(&["IPv6", "IPv4"]));
    lab.service("six", 80, families(&["IPv6"]));
    lab.service("four", 80, families(&["IPv4"]));
    let mut asked = families(&["IPv4", "IPv6"]);
    asked["loadBalancerIP"] = json!("2001:db8::77");
    lab.service("asked", 81, asked);
    let mut wrong = families(&["IPv4"]);
    wrong["loadBalancerIP"] = json!("2001:db8::78");
    lab.service("wrong", 82, wrong);
    lab.service("late", 80, families(&["IPv4", "IPv6"]));
    lab.settle();
    assert_eq!(lab.addresses("both"), ["192.0.2.8", "2001:db8::1"]);
    assert_eq!(lab.addresses("six"), ["2001:db8::2"]);
    assert_eq!(lab.addresses("four"), ["192.0.2.9"]);
    assert_eq!(lab.addresses("asked"), ["192.0.2.8", "2001:db8::77"]);
    assert_eq!(lab.why("wrong").0, "AddressNotAvailable");
    // All of them or none.
    assert_eq!(lab.why("late").0, "PoolUsedUp");
    let announcers = lab.announcer("both");
    assert_eq!(announcers.split(',').count(), 2, "{announcers}");
    // Of a pool of one family, both have that one.
    let mut lab = Lab::new(pool("192.0.2.8/31"));
    lab.service("both", 80, families(&["IPv6", "IPv4"]));
    lab.settle();
    assert_eq!(lab.addresses("both"), ["192.0.2.8"]);
}

#[test]
fn one_node_announces_an_address_until_it_fails() {
    let mut lab = Lab::new(pool("192.0.2.8/30"));
    lab.service("web", 80, json!({}));
    lab.service("twin", 81, json!({ "loadBalancerIP": "192.0.2.8" }));
    lab.settle();
    let first = lab.announcer("web");
    let node = first.strip_prefix("192.0.2.8=").unwrap().to_owned();
    assert_eq!(
        lab.announcer("twin"),
        first,
        "one node, however many share it"
    );

    let standby = lab.standby("web");
    let (next, asks) = standby.split_once('@').unwrap();
    assert_ne!(next, first);
    assert_eq!(asks, format!("10.0.0.{}", &node[1..]), "the node's own");
    assert_eq!(lab.standby("twin"), standby);
    let (next, asks) = (next.to_owned(), asks.to_owned());

    lab.ready(&node, "Unknown");
    lab.settle();
    let second = lab.announcer("web");
    assert_eq!(second, next, "the one that has it by then");
    assert_eq!(lab.announcer("twin"), second);
    assert!(
        !lab.standby("web").contains(&asks),
        "{}",
        lab.standby("web")
    );
    // It stays where it is when the first comes back.
    lab.ready(&node, "True");
    lab.settle();
    assert_eq!(lab.announcer("web"), second);

    // When all are silent, whoever has it goes on, and nobody would take it.
    for node in ["n1", "n2", "n3"] {
        lab.ready(node, "Unknown");
    }
    lab.settle();
    assert_eq!(lab.announcer("web"), second);
    assert_eq!(lab.standby("web"), "");
    assert!(lab.settle().is_empty());
}

#[test]
fn an_address_that_keeps_sources_is_announced_where_its_endpoints_are() {
    let mut lab = Lab::new(pool("192.0.2.8/30"));
    lab.service("web", 80, json!({ "externalTrafficPolicy": "Local" }));
    for node in ["n2", "n3", "n1", "n3"] {
        lab.local.insert(key("web"), [node.to_owned()].into());
        lab.settle();
        assert_eq!(lab.announcer("web"), format!("192.0.2.8={node}"));
        assert!(!lab.standby("web").contains(&format!("={node}@")));
    }
    // One that is added does not move it; all that are gone neither.
    lab.local
        .insert(key("web"), ["n1".to_owned(), "n3".to_owned()].into());
    lab.settle();
    assert_eq!(lab.announcer("web"), "192.0.2.8=n3");
    assert_eq!(lab.standby("web"), "192.0.2.8=n1@10.0.0.3", "it has some");
    assert!(lab.settle().is_empty());
    lab.local.clear();
    lab.settle();
    assert_eq!(lab.announcer("web"), "192.0.2.8=n3");
}

#[test]
fn announcers_are_spread_over_the_nodes() {
    let mut lab = Lab::new(pool("192.0.2.1-192.0.2.60"));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for i in 0..60 {
        lab.service(&format!("s{i}"), 80, json!({}));
    }
    lab.settle();
    for i in 0..60 {
        let text = lab.announcer(&format!("s{i}"));
        *counts
            .entry(text.split_once('=').unwrap().1.to_owned())
            .or_default() += 1;
    }
    assert!(
        counts.len() == 3 && counts.values().all(|n| *n >= 8),
        "{counts:?}"
    );
}

/// A generator for the property below: numbers that look like chance, from a seed.
fn next(seed: &mut u64) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    usize::try_from(*seed % 1_000_003).unwrap()
}

/// No address and port twice, and nobody who has an address loses it to another, whatever comes
/// and goes.
#[test]
fn nothing_is_given_twice_and_what_was_given_stays() {
    for source in [Source::default(), pool("192.0.2.8/30")] {
        for round in 1..40_u64 {
            let mut seed = round;
            let mut lab = Lab::new(source.clone());
            let mut had: BTreeMap<Key, Vec<String>> = BTreeMap::new();
            for step in 0..12 {
                let mut gone = BTreeSet::new();
                match next(&mut seed) % 4 {
                    0 if !had.is_empty() => {
                        let names = lab.world.names("Service");
                        let name = names[next(&mut seed) % names.len()].clone();
                        gone.insert(key(&name));
                        lab.world.objects.remove(&("Service".into(), name));
                    }
                    1 => {
                        let node = ["n1", "n2", "n3"][next(&mut seed) % 3];
                        let status = ["True", "Unknown"][next(&mut seed) % 2];
                        lab.ready(node, status);
                    }
                    _ => {
                        let port = [80, 81, 443][next(&mut seed) % 3];
                        let policy = ["Cluster", "Local"][next(&mut seed) % 2];
                        let policy = json!({ "externalTrafficPolicy": policy });
                        lab.service(&format!("s{step}"), port, policy);
                    }
                }
                lab.settle();
                let mut given: BTreeMap<(String, String), Key> = BTreeMap::new();
                let services: Vec<Arc<Service>> = lab.world.all("Service");
                for service in services {
                    let key = key_of(&*service);
                    let addresses = lab.addresses(&key.1);
                    let port =
                        lab.world.at("Service", &key.1)["spec"]["ports"][0]["port"].to_string();
                    for ip in &addresses {
                        let other = given.insert((ip.clone(), port.clone()), key.clone());
                        assert_eq!(other, None, "{ip}:{port} in round {round}");
                    }
                    let before = had
                        .insert(key.clone(), addresses.clone())
                        .unwrap_or_default();
                    assert!(
                        before.is_empty() || !addresses.is_empty(),
                        "{key:?} lost all"
                    );
                    if matches!(source, Source::Pool(_)) && !before.is_empty() {
                        assert_eq!(before, addresses, "{key:?} moved in round {round}");
                    }
                }
                had.retain(|key, _| !gone.contains(key));
            }
        }
    }
}
