//! Which zones and nodes pods are spread over, and which points they give.

use serde_json::{Value, json};

use super::*;
use crate::plugins::testing::{Cluster, scores, verdicts};

/// Zones a (two web pods on a1, none on a2), b (one) and a node without zone.
fn cluster() -> Cluster {
    let node =
        |name: &str, zone: &str| json!({"metadata": {"name": name, "labels": {"zone": zone}}});
    let mut c = Cluster::new([
        node("a1", "a"),
        node("a2", "a"),
        node("b1", "b"),
        json!({"metadata": {"name": "none"}}),
    ]);
    let web = json!({"metadata": {"labels": {"app": "web"}}});
    for node in ["a1", "a1", "b1"] {
        c.place(node, web.clone());
    }
    c.place("b1", json!({"metadata": {"labels": {"app": "db"}}}));
    c.place(
        "b1",
        json!({"metadata": {"labels": {"app": "web"}, "namespace": "other"}}),
    );
    c
}

fn pod(skew: i64, when: &str, more: Value) -> Value {
    let mut spread = json!({"maxSkew": skew, "topologyKey": "zone",
        "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "web"}}});
    for (k, v) in more.as_object().into_iter().flatten() {
        spread[k] = v.clone();
    }
    json!({"metadata": {"labels": {"app": "web"}},
           "spec": {"topologySpreadConstraints": [spread]}})
}

#[test]
fn required_constraints_limit_the_skew() {
    let full = "not now, node(s) didn't match pod topology spread constraints";
    let missing = "never, node(s) didn't match pod topology spread constraints \
                   (missing required label)";
    let cases = [
        (1, json!({}), [full, "fits"]),
        (2, json!({}), ["fits", "fits"]),
        // Two zones are fewer than three: the least counts as none.
        (2, json!({"minDomains": 3}), [full, "fits"]),
        // Neither an empty selector nor none counts anybody.
        (1, json!({"labelSelector": {}}), ["fits", "fits"]),
        (1, json!({"labelSelector": null}), ["fits", "fits"]),
        // Unless the pod's own labels are added to it.
        (
            1,
            json!({"labelSelector": {}, "matchLabelKeys": ["app"]}),
            [full, "fits"],
        ),
    ];
    for (skew, more, [a, b]) in cases {
        assert_eq!(
            verdicts(
                &PodTopologySpread::default(),
                &cluster(),
                pod(skew, "DoNotSchedule", more)
            ),
            format!("a1: {a}\na2: {a}\nb1: {b}\nnone: {missing}")
        );
    }
}

#[test]
fn wished_constraints_prefer_emptier_zones() {
    let out = scores(
        &PodTopologySpread::default(),
        &cluster(),
        pod(1, "ScheduleAnyway", json!({})),
    );
    assert_eq!(out, [33, 33, 100, 0]);
}

#[test]
fn pods_without_constraints_cost_nothing() {
    assert_eq!(
        verdicts(&PodTopologySpread::default(), &cluster(), json!({})),
        "nothing to say"
    );
}

#[test]
fn who_says_nothing_is_spread_by_the_defaults() {
    let host = |name: &str| json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
    let mut c = Cluster::new([host("a"), host("b")]);
    let web = json!({"metadata": {"labels": {"app": "web"}}, "spec": {}});
    for _ in 0..3 {
        c.place("a", web.clone());
    }
    let plugin = PodTopologySpread::default();
    assert_eq!(verdicts(&plugin, &c, web.clone()), "nothing to say");
    let selector = [("app".to_owned(), "web".to_owned())].into();
    let services = c.snapshot.selectors_mut();
    services.set_service("default", "web", Some(&selector));
    assert_eq!(scores(&plugin, &c, web.clone()), [33, 100]);
    let none = PodTopologySpread {
        defaults: Vec::new(),
        system: false,
    };
    assert_eq!(verdicts(&none, &c, web), "nothing to say");
}

#[test]
fn nodes_without_a_zone_are_together_one_more_zone_for_the_defaults() {
    let host = |name: &str, zone: Option<&str>| {
        let mut labels = json!({"kubernetes.io/hostname": name});
        if let Some(zone) = zone {
            labels["topology.kubernetes.io/zone"] = json!(zone);
        }
        json!({"metadata": {"name": name, "labels": labels}})
    };
    let mut c = Cluster::new([host("a", Some("x")), host("b", Some("y")), host("c", None)]);
    let web = json!({"metadata": {"labels": {"app": "web"}}, "spec": {}});
    for _ in 0..3 {
        c.place("a", web.clone());
    }
    let selector = [("app".to_owned(), "web".to_owned())].into();
    let services = c.snapshot.selectors_mut();
    services.set_service("default", "web", Some(&selector));
    assert_eq!(
        scores(&PodTopologySpread::default(), &c, web),
        [12, 75, 100]
    );
}

#[test]
fn what_is_counted_beforehand_is_what_would_be_counted() {
    let mut c = cluster();
    let asked = c.pod(pod(1, "ScheduleAnyway", json!({})));
    let plugin = PodTopologySpread::default();
    let of = |c: &Cluster| {
        let nodes: Vec<&Node> = c.snapshot.nodes().collect();
        let check = plugin
            .prepare(&asked, &c.snapshot)
            .expect("fits")
            .expect("a check");
        let mut scores = vec![0; nodes.len()];
        check.score(&nodes, &mut scores);
        scores
    };
    let counted = of(&c);
    plugin.index(&asked, &mut c.snapshot);
    assert_eq!(of(&c), counted);
    // It follows what comes and goes.
    let web = json!({"metadata": {"labels": {"app": "web"}}});
    let gone = c.place("b1", web.clone());
    c.place("b1", web);
    c.snapshot.remove_pod(&gone.uid);
    assert_eq!(of(&c), [100, 100, 100, 0]);
}

/// Nodes a and b in one zone, x and y in another, with so many pods of the set on each.
fn four(pods: [usize; 4]) -> Cluster {
    let nodes = [("a", "1"), ("b", "1"), ("x", "2"), ("y", "2")];
    let mut c = Cluster::new(nodes.map(|(name, zone)| {
        let labels = json!({"zone": zone, "node": name, "kubernetes.io/hostname": name});
        json!({"metadata": {"name": name, "labels": labels}})
    }));
    for ((name, _), count) in nodes.into_iter().zip(pods) {
        for _ in 0..count {
            c.place(name, json!({"metadata": {"labels": {"app": "web"}}}));
        }
    }
    c
}

/// Keys and how uneven they may be.
fn spread_over(keys: &[(&str, i64)], when: &str, app: &str) -> Value {
    let all = keys.iter().map(|(key, skew)| {
        json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}}})
    });
    let all: Vec<Value> = all.collect();
    json!({"metadata": {"labels": {"app": app}}, "spec": {"topologySpreadConstraints": all}})
}

#[test]
fn a_pod_goes_where_all_constraints_let_it() {
    let (zone, node) = ("zone", "node");
    for (pods, keys, app, expected) in [
        ([0, 0, 0, 0], vec![(zone, 1)], "web", "abxy"),
        ([2, 1, 0, 3], vec![(zone, 1)], "web", "abxy"),
        ([1, 0, 1, 1], vec![(zone, 1)], "web", "ab"),
        ([2, 1, 0, 3], vec![(node, 1)], "web", "x"),
        ([2, 1, 0, 3], vec![(node, 2)], "web", "bx"),
        // A pod that is not of the set makes it no worse.
        ([2, 1, 0, 3], vec![(node, 1)], "other", "bx"),
        ([2, 1, 0, 3], vec![(zone, 1), (node, 1)], "web", "x"),
        ([2, 1, 0, 4], vec![(zone, 1), (node, 1)], "web", ""),
        ([2, 1, 0, 3], vec![(zone, 1), ("rack", 1)], "web", ""),
    ] {
        let pod = spread_over(&keys, "DoNotSchedule", app);
        let out = verdicts(&PodTopologySpread::default(), &four(pods), pod);
        let fit: String = out
            .lines()
            .filter_map(|l| l.strip_suffix(": fits"))
            .collect();
        assert_eq!(fit, expected, "{pods:?} {keys:?} {app}: {out}");
    }
}

#[test]
fn who_is_leaving_and_whom_the_affinity_excludes_do_not_count() {
    let fit = |c: &Cluster, pod: Value| -> String {
        let out = verdicts(&PodTopologySpread::default(), c, pod);
        out.lines()
            .filter_map(|l| l.strip_suffix(": fits"))
            .collect()
    };
    let mut c = four([0, 1, 1, 1]);
    let mut leaving = json!({"metadata": {"labels": {"app": "web"}}});
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    c.place("a", leaving);
    let over_nodes = || spread_over(&[("node", 1)], "DoNotSchedule", "web");
    assert_eq!(fit(&c, over_nodes()), "a");
    // Without the empty ones, where the least of the others are.
    let c = four([2, 1, 0, 3]);
    for (policy, expected) in [("Honor", "bx"), ("Ignore", "x")] {
        let mut pod = over_nodes();
        let spread = &mut pod["spec"]["topologySpreadConstraints"][0];
        spread["nodeAffinityPolicy"] = json!(policy);
        pod["spec"]["affinity"] = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [
                    {"key": "node", "operator": "In", "values": ["a", "b", "y"]}]}]}}});
        assert_eq!(fit(&c, pod), expected, "{policy}");
    }
}

#[test]
fn points_are_upstreams() {
    let (zone, host) = ("zone", "kubernetes.io/hostname");
    for (pods, keys, candidates, expected) in [
        ([0, 0, 0, 0], vec![(host, 1)], "abxy", vec![100_i64; 4]),
        ([2, 1, 0, 3], vec![(host, 2)], "abxy", vec![33, 66, 100, 16]),
        ([4, 3, 2, 1], vec![(host, 3)], "abxy", vec![44, 66, 77, 100]),
        ([4, 2, 1, 3], vec![(host, 1)], "abx", vec![33, 83, 100]),
        ([4, 2, 1, 3], vec![(zone, 1)], "abx", vec![75, 75, 100]),
        (
            [2, 1, 2, 4],
            vec![(zone, 1), (host, 1)],
            "ax",
            vec![100, 63],
        ),
    ] {
        let mut c = four(pods);
        let pod = c.pod(spread_over(&keys, "ScheduleAnyway", "web"));
        let nodes = c.snapshot.nodes();
        let nodes: Vec<&Node> = nodes.filter(|n| candidates.contains(&*n.name)).collect();
        let plugin = PodTopologySpread::default();
        let check = plugin.prepare(&pod, &c.snapshot).expect("fits");
        let mut out = vec![0; nodes.len()];
        check.expect("a check").score(&nodes, &mut out);
        assert_eq!(out, expected, "{pods:?} {keys:?} {candidates}");
    }
}
