//! Pods on machines of two NUMA nodes of four CPUs and 4 GiB each, of which the node keeps the first
//! CPU and 1 GiB.

use super::nodes::Node;
use super::*;
use crate::cpus::policy::Policy as CpuPolicy;
use crate::cpus::topology::{CpuLocation, Topology as CpuTopology};
use serde_json::json;

const GI: u64 = 1 << 30;

struct Bench {
    dir: tempfile::TempDir,
    topology: Topology,
    cpus: Cpus,
}

fn machine() -> Machine {
    let node = |first: u32| Node {
        cpus: (first..first + 4).collect(),
        memory: 4 * GI,
        ..Node::default()
    };
    Machine([(0, node(0)), (1, node(4))].into())
}

fn bench(policy: Policy, scope: Scope) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let place = |cpu: u32| CpuLocation {
        socket: cpu / 4,
        core: cpu % 4,
        ..CpuLocation::default()
    };
    let all = CpuTopology((0..8).map(|cpu| (cpu, place(cpu))).collect());
    let policy_of_cpus = CpuPolicy {
        is_static: true,
        reserved: Some("0".parse().unwrap()),
        ..CpuPolicy::default()
    };
    let cpus = Cpus::on(all, policy_of_cpus, 1000, dir.path().to_owned()).unwrap();
    let rules = Rules {
        policy,
        scope,
        ..Rules::default()
    };
    let memory = MemoryPolicy {
        is_static: true,
        reserved: [(0, [("memory".to_owned(), GI)].into())].into(),
    };
    let dir_of_pods = dir.path().to_owned();
    let topology = Topology::on(machine(), (rules, memory), GI, dir_of_pods).unwrap();
    Bench {
        dir,
        topology,
        cpus,
    }
}

/// Containers by their CPUs and GiB; `i` before them: an init container.
fn pod(uid: &str, containers: &[&str]) -> Pod {
    let (mut init, mut main) = (Vec::new(), Vec::new());
    for (n, text) in containers.iter().enumerate() {
        let (cpu, memory) = text.trim_start_matches('i').split_once('/').unwrap();
        let all = json!({ "cpu": cpu, "memory": format!("{memory}Gi") });
        let c = json!({ "name": format!("c{n}"), "resources": { "limits": all, "requests": all } });
        if text.starts_with('i') {
            init.push(c);
        } else {
            main.push(c);
        }
    }
    let pod = json!({ "metadata": { "name": "p", "uid": uid },
        "spec": { "initContainers": init, "containers": main } });
    serde_json::from_value(pod).unwrap()
}

impl Bench {
    fn admit(&self, uid: &str, containers: &[&str]) -> Result<(), String> {
        let admitted = self.topology.admit(&pod(uid, containers), &self.cpus, None);
        admitted.map(drop).map_err(|refusal| refusal.reason)
    }

    /// CPUs and memory nodes of a container.
    fn has(&self, uid: &str, container: &str) -> (String, String) {
        let cpus = self.cpus.of(uid, container).map(|set| set.to_string());
        (
            cpus.unwrap_or_default(),
            self.topology.words(uid, container),
        )
    }
}

fn pair(cpus: &str, memory: &str) -> (String, String) {
    (cpus.into(), memory.into())
}

#[test]
fn cpus_and_memory_are_of_one_node() {
    let bench = bench(Policy::SingleNumaNode, Scope::Container);
    // The first node has three CPUs and 3 GiB left.
    assert_eq!(bench.admit("a", &["4/1"]), Ok(()));
    assert_eq!(bench.has("a", "c0"), pair("4-7", "1"));
    assert_eq!(bench.admit("b", &["2/3"]), Ok(()));
    assert_eq!(bench.has("b", "c0"), pair("1-2", "0"));
    // There are a CPU and 3 GiB, but not on one node.
    let refused = Err("TopologyAffinityError".to_owned());
    assert_eq!(bench.admit("c", &["1/1"]), refused);
    // Nothing of it is held.
    assert_eq!(bench.has("c", "c0"), pair("", ""));
    assert!(bench.topology.blocks("c", "c0").is_empty());
    bench.topology.forget("b");
    bench.cpus.forget("b");
    assert_eq!(bench.admit("c", &["1/1"]), Ok(()));
    assert_eq!(bench.has("c", "c0"), pair("1", "0"));
}

#[test]
fn devices_cpus_and_memory_are_of_one_node() {
    let asks = |uid: &str, cpu: &str| {
        let mut asking = pod(uid, &[cpu]);
        let spec = asking.spec.as_mut().unwrap();
        let resources = spec.containers[0].resources.as_mut().unwrap();
        for all in [&mut resources.limits, &mut resources.requests] {
            let one = k8s_openapi::apimachinery::pkg::api::resource::Quantity("1".into());
            all.as_mut().unwrap().insert("x.io/d".into(), one);
        }
        asking
    };
    for (scope, policy) in [
        (Scope::Container, Policy::SingleNumaNode),
        (Scope::Pod, Policy::Restricted),
        (Scope::Container, Policy::BestEffort),
    ] {
        let bench = bench(policy, scope);
        let devices = || Some(crate::devices::Draft::of_devices("x.io/d", "a1 b1"));
        let places = bench
            .topology
            .admit(&asks("p", "2/1"), &bench.cpus, devices());
        let nodes: Vec<u32> = places.unwrap()["c0"].iter().collect();
        // Without the device it would be the first node.
        assert_eq!(nodes, [1]);
        assert_eq!(bench.has("p", "c0"), pair("4-5", "1"));
        // The CPUs that it asks for are not left where the devices are.
        let other = bench
            .topology
            .admit(&asks("q", "3/1"), &bench.cpus, devices());
        let refused = other.err().map(|r| r.reason);
        let want = (policy != Policy::BestEffort).then_some("TopologyAffinityError");
        assert_eq!(refused.as_deref(), want);
    }
}

#[test]
fn what_does_not_fit_on_one_node_is_refused_or_spread() {
    let five = ["5/1"];
    let refused = Err("TopologyAffinityError".to_owned());
    let single = bench(Policy::SingleNumaNode, Scope::Container);
    assert_eq!(single.admit("a", &five), refused);
    // Two nodes are as narrow as five CPUs can be; their memory is preferred on one.
    let restricted = bench(Policy::Restricted, Scope::Container);
    assert_eq!(restricted.admit("a", &five), refused);
    assert_eq!(restricted.admit("b", &["5/5"]), Ok(()));
    assert_eq!(restricted.has("b", "c0").1, "0-1");
    let best_effort = bench(Policy::BestEffort, Scope::Container);
    assert_eq!(best_effort.admit("a", &five), Ok(()));
    let cpus = best_effort.cpus.of("a", "c0").unwrap();
    assert_eq!(cpus.0.len(), 5);
}

#[test]
fn a_pod_is_placed_as_a_whole_where_that_is_asked_for() {
    let whole = bench(Policy::SingleNumaNode, Scope::Pod);
    assert_eq!(whole.admit("a", &["2/1", "2/1"]), Ok(()));
    assert_eq!(whole.has("a", "c0").1, "1");
    assert_eq!(whole.has("a", "c1").1, "1");
    // Its containers fit, each on a node of its own, but not together on one.
    let refused = Err("TopologyAffinityError".to_owned());
    assert_eq!(whole.admit("b", &["2/1", "2/1"]), refused);
    let each = bench(Policy::SingleNumaNode, Scope::Container);
    assert_eq!(each.admit("a", &["3/3", "3/3"]), Ok(()));
    assert_eq!(each.has("a", "c0").1, "0");
    assert_eq!(each.has("a", "c1").1, "1");
}

#[test]
fn what_an_init_container_had_is_its_pods() {
    let bench = bench(Policy::SingleNumaNode, Scope::Container);
    assert_eq!(bench.admit("a", &["i3/3", "3/3", "4/4"]), Ok(()));
    assert_eq!(bench.has("a", "c0"), pair("1-3", "0"));
    assert_eq!(bench.has("a", "c1"), pair("1-3", "0"));
    assert_eq!(bench.has("a", "c2"), pair("4-7", "1"));
    assert!(bench.admit("b", &["1/1"]).is_err());
}

#[test]
fn the_next_kubelet_finds_what_was_given() {
    let first = bench(Policy::SingleNumaNode, Scope::Container);
    first.admit("a", &["4/4"]).unwrap();
    let mut next = bench(Policy::SingleNumaNode, Scope::Container);
    next.topology.pods_dir = first.dir.path().to_owned();
    next.topology.load("a");
    next.topology.load("none");
    assert_eq!(next.topology.words("a", "c0"), "1");
    // No node has so much memory, which upstream does not take for a matter of topology.
    assert_eq!(
        next.admit("b", &["4/4"]),
        Err("UnexpectedAdmissionError".into())
    );
}

#[test]
fn others_have_memory_everywhere() {
    let bench = bench(Policy::SingleNumaNode, Scope::Container);
    let burstable = json!({ "metadata": { "name": "p", "uid": "a" }, "spec": { "containers": [
        { "name": "c0", "resources": { "requests": { "cpu": "20", "memory": "20Gi" } } }] } });
    let burstable: Pod = serde_json::from_value(burstable).unwrap();
    assert!(bench.topology.admit(&burstable, &bench.cpus, None).is_ok());
    assert_eq!(bench.has("a", "c0"), pair("", ""));
}

#[test]
fn without_a_policy_memory_alone_is_counted() {
    let bench = bench(Policy::None, Scope::Container);
    assert_eq!(bench.admit("a", &["1/3"]), Ok(()));
    assert_eq!(bench.has("a", "c0").1, "0");
    assert_eq!(bench.admit("b", &["1/4"]), Ok(()));
    assert_eq!(bench.has("b", "c0").1, "1");
    assert_eq!(
        bench.admit("c", &["1/1"]),
        Err("UnexpectedAdmissionError".into())
    );
    assert_eq!(bench.has("c", "c0"), pair("", ""));
}

#[test]
fn what_is_kept_must_be_said_of_nodes_that_there_are() {
    let check = |reserved: BTreeMap<u32, Amounts>, kept: u64| {
        let memory = MemoryPolicy {
            is_static: true,
            reserved,
        };
        check_reserved(&machine(), &memory, kept)
    };
    let on = |node: u32, bytes: u64| [(node, [("memory".to_owned(), bytes)].into())].into();
    assert!(check(on(0, GI), GI).is_ok());
    assert!(check(on(2, GI), GI).unwrap_err().contains("NUMA node 2"));
    assert!(check(on(0, GI), 2 * GI).unwrap_err().contains("not equal"));
    assert!(
        check(BTreeMap::new(), 0)
            .unwrap_err()
            .contains("should specify")
    );
    let rules = Rules {
        policy: Policy::BestEffort,
        most_nodes: 1,
        ..Rules::default()
    };
    let made = Topology::on(machine(), (rules, MemoryPolicy::default()), 0, "/x".into());
    assert!(made.unwrap_err().contains("more than 1 NUMA"));
}
