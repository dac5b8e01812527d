//! Who goes for whom, and what preemption says where nobody does.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::candidate::importance;
use super::*;
use crate::decide::decide;
use crate::plugins::testing::{Cluster, node};

fn pod(cpu: &str, priority: i32) -> Value {
    json!({"spec": {"priority": priority, "containers": [
        {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn try_it(cluster: &mut Cluster, value: Value) -> (String, Preemption) {
    let pod = cluster.pod(value);
    let profile = Profile::default();
    let decision = decide(&cluster.snapshot, &pod, &profile, 1);
    let out = preempt(&cluster.snapshot, &pod, &profile, &decision, 1);
    (decision.message(), out)
}

#[test]
fn the_whole_message_is_upstreams() {
    let mut tainted = node("t", "4", "8Gi");
    tainted["spec"] = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
    let mut c = Cluster::new([tainted, node("a", "4", "8Gi"), node("b", "4", "8Gi")]);
    for name in ["a", "b"] {
        c.place(name, pod("3", 0));
    }
    let (message, preemption) = try_it(&mut c, pod("2", 0));
    let Preemption::Hopeless(why) = preemption else {
        panic!("equal priority preempts nobody")
    };
    assert_eq!(
        format!("{message} preemption: {why}"),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. \
         preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, \
         2 No preemption victims found for incoming pod."
    );
}

#[test]
fn the_least_important_pods_make_room() {
    let mut c = Cluster::new([node("a", "4", "8Gi"), node("b", "4", "8Gi")]);
    c.place("a", pod("4", 5));
    let small = c.place("b", pod("1", 1));
    c.place("b", pod("3", 2));
    let (_, preemption) = try_it(&mut c, pod("1", 10));
    let Preemption::Possible { node, victims } = preemption else {
        panic!("{preemption:?}")
    };
    assert_eq!((&*node, victims.len()), ("b", 1));
    assert_eq!(victims.first().map(|v| &v.uid), Some(&small.uid));
}

fn victims(cluster: &mut Cluster, value: Value) -> (String, Vec<String>) {
    match try_it(cluster, value).1 {
        Preemption::Possible { node, victims } => {
            let names = victims.iter().map(|v| v.name.clone());
            (node.to_string(), names.collect())
        }
        other => (format!("{other:?}"), Vec::new()),
    }
}

fn budget(allowed: i32, disrupted: &[&str]) -> PodDisruptionBudget {
    let disrupted = disrupted.iter().map(|n| (*n, "2026-01-01T00:00:00Z"));
    let disrupted: std::collections::BTreeMap<_, _> = disrupted.collect();
    serde_json::from_value(json!({
        "metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "db"}}},
        "status": {"disruptionsAllowed": allowed, "disruptedPods": disrupted,
            "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
    }))
    .expect("a budget")
}

#[test]
fn budgets_come_before_priorities() {
    let labelled = |name: &str, priority: i32| {
        let mut pod = pod("4", priority);
        pod["metadata"] = json!({"name": name, "labels": {"app": "db"}});
        pod
    };
    for (allowed, disrupted, expected) in [
        (0, &[][..], ("b", "other")),
        (1, &[], ("a", "db")),
        (0, &["db"], ("a", "db")),
    ] {
        let mut c = Cluster::new([node("a", "4", "8Gi"), node("b", "4", "8Gi")]);
        c.place("a", labelled("db", 1));
        let mut other = pod("4", 5);
        other["metadata"]["name"] = json!("other");
        c.place("b", other);
        let budget = budget(allowed, disrupted);
        c.snapshot.budgets_mut().changed(None, Some(&budget));
        let (on, gone) = victims(&mut c, pod("1", 10));
        assert_eq!((&*on, gone.join(",").as_str()), expected, "{allowed}");
    }
    // Where only a violation helps, it happens; those that keep the budget go first.
    let mut c = Cluster::new([node("a", "4", "8Gi")]);
    for name in ["db-1", "db-2"] {
        let mut half = labelled(name, 1);
        half["spec"] = pod("2", 1)["spec"].clone();
        c.place("a", half);
    }
    c.snapshot
        .budgets_mut()
        .changed(None, Some(&budget(1, &[])));
    assert_eq!(victims(&mut c, pod("2", 10)).1, ["db-1"]);
    assert_eq!(victims(&mut c, pod("4", 10)).1.len(), 2);
}

/// Victims, by priority and the minute in which they started, and how many against their budgets: the
/// node whose pods go.
#[test]
fn of_several_nodes_that_is_taken_where_the_least_is_lost() {
    type Node = (&'static [(i32, u32)], usize);
    let cases: [([Node; 3], usize); 7] = [
        // The fewest against their budgets, whatever their priority.
        ([(&[(1, 1)], 1), (&[(9, 1)], 0), (&[(1, 1)], 2)], 1),
        // The lowest of the highest priorities.
        (
            [
                (&[(9, 1), (1, 1)], 0),
                (&[(9, 1)], 0),
                (&[(8, 1), (8, 1)], 0),
            ],
            2,
        ),
        // Of the same the least sum.
        (
            [
                (&[(9, 1), (5, 1)], 0),
                (&[(9, 1), (2, 1)], 0),
                (&[(9, 1), (3, 1)], 0),
            ],
            1,
        ),
        // More pods are never less, though their priorities are below zero.
        (
            [
                (&[(9, 1), (-5, 1)], 0),
                (&[(9, 1), (-1, 1), (-1, 1)], 0),
                (&[(9, 1)], 0),
            ],
            2,
        ),
        (
            [
                (&[(0, 1), (-5, 1), (-5, 1)], 0),
                (&[(0, 1), (4, 1)], 0),
                (&[(0, 1), (-9, 1)], 0),
            ],
            2,
        ),
        // Of the same where the most important has started last.
        ([(&[(9, 1)], 0), (&[(9, 3)], 0), (&[(9, 2)], 0)], 1),
        // Of the most important the first to start counts, and no other.
        (
            [
                (&[(9, 5), (9, 2)], 0),
                (&[(9, 4), (9, 3)], 0),
                (&[(9, 1), (9, 9)], 0),
            ],
            1,
        ),
    ];
    let mut c = Cluster::default();
    for (nodes, expected) in cases {
        let found = nodes.iter().enumerate().map(|(i, (victims, violations))| {
            let pods = victims.iter().map(|(priority, minute)| {
                let mut victim = pod("1", *priority);
                let started = format!("2026-01-01T00:{minute:02}:00Z");
                victim["status"]["startTime"] = json!(started);
                c.pod(victim)
            });
            let mut pods: Vec<Arc<Pod>> = pods.collect();
            pods.sort_by_key(importance);
            Arc::new(Candidate::new(
                Arc::from(format!("n{i}")),
                pods,
                *violations,
            ))
        });
        let Preemption::Possible { node, .. } = best(found.collect()) else {
            panic!("there is one")
        };
        assert_eq!(*node, *format!("n{expected}"), "{nodes:?}");
    }
}

#[test]
fn of_equal_pods_the_youngest_goes() {
    let mut c = Cluster::new([node("a", "4", "8Gi")]);
    for (name, started) in [
        ("old", "2026-01-01T00:00:00Z"),
        ("new", "2026-01-02T00:00:00Z"),
    ] {
        let mut half = pod("2", 0);
        half["metadata"]["name"] = json!(name);
        half["status"]["startTime"] = json!(started);
        c.place("a", half);
    }
    assert_eq!(victims(&mut c, pod("2", 1)).1, ["new"]);
}

#[test]
fn what_others_count_over_several_nodes_is_counted_without_the_victims() {
    let zone = |name: &str, zone: &str| {
        let mut node = node(name, "4", "8Gi");
        node["metadata"]["labels"]["zone"] = json!(zone);
        node
    };
    let term = json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "a"}}}]);
    let own = |name: &str, priority: i32, key: &str, value: &Value| {
        let mut pod = pod("1", priority);
        pod["metadata"] = json!({"name": name, "labels": {"app": "a"}});
        pod["spec"][key] = value.clone();
        pod
    };
    let apart = json!({"podAntiAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": term}});
    let spread = json!([{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "a"}}}]);
    let none = json!(null);
    // It must not be with pods like itself, of which one is less important.
    let mut c = Cluster::new([zone("a", "1"), zone("b", "2")]);
    c.place("a", own("weak", 1, "affinity", &none));
    c.place("b", own("strong", 20, "affinity", &none));
    let (on, gone) = victims(&mut c, own("x", 10, "affinity", &apart));
    assert_eq!((&*on, gone), ("a", vec!["weak".to_owned()]));
    // Others must not be with it.
    let mut c = Cluster::new([zone("a", "1")]);
    c.place("a", own("shy", 1, "affinity", &apart));
    assert_eq!(victims(&mut c, own("x", 10, "affinity", &none)).1, ["shy"]);
    // Its zone has one too many; the other zone is full.
    let mut c = Cluster::new([zone("a", "1"), zone("b", "2")]);
    for name in ["a1", "a2"] {
        c.place("a", own(name, 1, "affinity", &none));
    }
    let mut full = pod("4", 20);
    full["metadata"]["name"] = json!("full");
    c.place("b", full);
    let (on, gone) = victims(&mut c, own("x", 10, "topologySpreadConstraints", &spread));
    assert_eq!((&*on, gone.len()), ("a", 2));
}

#[test]
fn room_that_is_made_for_others_is_theirs() {
    let mut c = Cluster::new([node("a", "4", "8Gi")]);
    c.place("a", pod("1", 0));
    let coming = c.pod(pod("3", 5));
    let at = c.strings.get("a");
    c.snapshot.nominate(at, coming);
    let profile = Profile::default();
    for (priority, fits) in [(5, false), (4, false), (6, true)] {
        let pod = c.pod(pod("1", priority));
        let decision = decide(&c.snapshot, &pod, &profile, 1);
        assert_eq!(decision.feasible == 1, fits, "priority {priority}");
    }
    // A port is not different from other room.
    let mut with_port = pod("1", 5);
    with_port["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
    let mut c = Cluster::new([node("a", "4", "8Gi")]);
    let coming = c.pod(with_port.clone());
    let at = c.strings.get("a");
    c.snapshot.nominate(at, coming);
    let late = c.pod(with_port);
    assert_eq!(decide(&c.snapshot, &late, &profile, 1).feasible, 0);
}

#[test]
fn who_waits_for_victims_takes_no_more() {
    let mut c = Cluster::new([node("a", "4", "8Gi"), node("b", "4", "8Gi")]);
    let mut leaving = pod("4", 0);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    leaving["status"]["conditions"] = json!([{"type": "DisruptionTarget",
        "status": "True", "reason": "PreemptionByScheduler"}]);
    c.place("a", leaving);
    c.place("b", pod("4", 0));
    let waiting = c.pod(pod("4", 10));
    let at = c.strings.get("a");
    c.snapshot.nominate(at, waiting.clone());
    let profile = Profile::default();
    let out = |c: &Cluster| {
        let decision = decide(&c.snapshot, &waiting, &profile, 1);
        preempt(&c.snapshot, &waiting, &profile, &decision, 1)
    };
    assert!(matches!(out(&c), Preemption::NotEligible(why) if why == message::STILL_TERMINATING));
    // Not for those on a node that is not there any more.
    c.snapshot.remove_node("a");
    assert!(matches!(out(&c), Preemption::Possible { node, .. } if *node == *"b"));
}

#[test]
fn who_never_preempts_says_so() {
    let mut c = Cluster::new([node("a", "4", "8Gi")]);
    c.place("a", pod("4", 0));
    let mut polite = pod("1", 10);
    polite["spec"]["preemptionPolicy"] = json!("Never");
    let (_, preemption) = try_it(&mut c, polite);
    assert!(matches!(preemption, Preemption::NotEligible(why)
            if why == "not eligible due to preemptionPolicy=Never."));
}
