//! DaemonSets in a pretended cluster.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Observed, plan};
use crate::failed_pods::Failures;
use crate::testing::{World, merge};

struct Sets {
    world: World,
    failures: Failures,
    /// Most unavailable and most pods of a node at any step since the last update.
    unavailable: i64,
    beside: usize,
}

impl Sets {
    fn new(nodes: usize, spec: Value) -> Self {
        let mut set = json!({
            "metadata": { "name": "ds", "generation": 1 },
            "spec": {
                "selector": { "matchLabels": { "app": "a" } }, "revisionHistoryLimit": 10,
                "updateStrategy": { "type": "RollingUpdate",
                    "rollingUpdate": { "maxUnavailable": 1, "maxSurge": 0 } },
                "template": { "metadata": { "labels": { "app": "a" } },
                    "spec": { "containers": [{ "name": "c", "image": "one" }] } },
            },
        });
        merge(&mut set["spec"], &spec);
        let mut world = World::new();
        world.put("DaemonSet", set);
        for n in 0..nodes {
            world.put("Node", json!({ "metadata": { "name": format!("n{n}"), "labels": { "n": n.to_string() } } }));
        }
        Self {
            world,
            failures: Failures::default(),
            unavailable: 0,
            beside: 0,
        }
    }

    fn spec(&mut self, patch: Value) {
        let set = self.world.at("DaemonSet", "ds");
        merge(&mut set["spec"], &patch);
        let generation = set["metadata"]["generation"].as_i64().unwrap();
        set["metadata"]["generation"] = json!(generation + 1);
        (self.unavailable, self.beside) = (0, 0);
    }

    fn image(&mut self, image: &str) {
        self.spec(
            json!({ "template": { "spec": { "containers": [{ "name": "c", "image": image }] } } }),
        );
    }

    fn step(&mut self) {
        let seen = Observed {
            set: self.world.one("DaemonSet", "ds"),
            nodes: self.world.all("Node"),
            pods: self.world.all("Pod"),
            revisions: self.world.all("ControllerRevision"),
        };
        let plan = plan(&seen, &mut self.failures, self.world.now_millis);
        self.world.apply(plan);
        let status = self.status();
        let n = |f: &str| status[f].as_i64().unwrap_or(0);
        self.unavailable = self.unavailable.max(n("numberUnavailable"));
        for node in self.world.names("Node") {
            self.beside = self.beside.max(self.on(&node).len());
        }
    }

    /// What the scheduler does.
    fn bind(&mut self) {
        for name in self.world.names("Pod") {
            let pod = self.world.at("Pod", &name);
            if pod["spec"]["nodeName"].is_null() {
                let field = pod["spec"]["affinity"]["nodeAffinity"]
                    ["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]
                    ["matchFields"][0]["values"][0].clone();
                pod["spec"]["nodeName"] = field;
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            let before = self.world.objects.clone();
            self.step();
            self.bind();
            self.world.kubelets();
            if before == self.world.objects {
                return;
            }
        }
        panic!("does not settle: {:#?}", self.world.log);
    }

    /// Images of the pods on a node.
    fn on(&self, node: &str) -> Vec<String> {
        let all = self
            .world
            .objects
            .iter()
            .filter(|((k, _), p)| k == "Pod" && p["spec"]["nodeName"] == node);
        all.map(|(_, p)| {
            p["spec"]["containers"][0]["image"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
    }

    fn status(&self) -> Value {
        self.world.objects[&("DaemonSet".into(), "ds".into())]["status"].clone()
    }

    fn taint(&mut self, node: &str, key: &str, effect: &str) {
        self.world.at("Node", node)["spec"] =
            json!({ "taints": [{ "key": key, "effect": effect }] });
    }
}

#[test]
fn one_pod_on_every_node_that_fits() {
    let mut s = Sets::new(
        3,
        json!({ "template": { "spec": { "nodeSelector": { "color": "blue" } } } }),
    );
    s.settle();
    assert_eq!(
        (
            s.world.names("Pod").len(),
            s.status()["desiredNumberScheduled"].clone()
        ),
        (0, json!(0))
    );
    s.world.at("Node", "n1")["metadata"]["labels"]["color"] = json!("blue");
    s.settle();
    assert_eq!((s.on("n0").len(), s.on("n1").len()), (0, 1));
    assert_eq!(s.status()["numberReady"], 1);
    s.world.at("Node", "n1")["metadata"]["labels"]["color"] = json!("green");
    s.settle();
    assert_eq!(s.world.names("Pod").len(), 0);
    // By the node's name and an expression.
    let term = json!([{ "matchExpressions": [{ "key": "n", "operator": "Gt", "values": ["0"] }],
        "matchFields": [{ "key": "metadata.name", "operator": "NotIn", "values": ["n2"] }] }]);
    s.spec(
        json!({ "template": { "spec": { "nodeSelector": null, "affinity": { "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": term } } } } } }),
    );
    s.settle();
    assert_eq!(
        (s.on("n0").len(), s.on("n1").len(), s.on("n2").len()),
        (0, 1, 0)
    );
}

#[test]
fn taints_keep_new_pods_off_and_drive_out_only_when_they_execute() {
    let mut s = Sets::new(2, json!({}));
    s.settle();
    s.taint("n0", "mine", "NoSchedule");
    s.settle();
    assert_eq!(s.on("n0").len(), 1);
    assert_eq!(s.status()["numberMisscheduled"], 1);
    s.taint("n0", "mine", "NoExecute");
    s.settle();
    assert_eq!(s.on("n0").len(), 0);
    // What nodes are looked after by is tolerated.
    for (key, effect) in [
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ] {
        s.taint("n0", key, effect);
        s.settle();
        assert_eq!(s.on("n0").len(), 1, "{key}");
    }
    s.taint("n0", "node.kubernetes.io/network-unavailable", "NoSchedule");
    s.settle();
    assert_eq!(s.status()["numberMisscheduled"], 1);
    s.spec(json!({ "template": { "spec": { "hostNetwork": true } } }));
    s.settle();
    assert_eq!(s.status()["numberMisscheduled"], 0);
    let pod = s.world.names("Pod")[0].clone();
    assert_eq!(
        s.world.at("Pod", &pod)["spec"]["tolerations"]
            .as_array()
            .unwrap()
            .len(),
        7
    );
}

#[test]
fn an_update_goes_node_by_node() {
    let mut s = Sets::new(4, json!({}));
    s.settle();
    s.image("two");
    s.settle();
    assert!(s.world.names("Node").iter().all(|n| s.on(n) == ["two"]));
    assert_eq!((s.unavailable, s.beside), (1, 1));
    assert_eq!(s.status()["updatedNumberScheduled"], 4);
    // Back: no pod that is of it already is touched.
    assert_eq!(s.world.names("ControllerRevision").len(), 2);
}

#[test]
fn a_broken_update_stops_and_is_rolled_back_without_touching_the_good() {
    let mut s = Sets::new(4, json!({}));
    s.settle();
    let before = s.world.names("Pod");
    s.image("bad");
    for _ in 0..10 {
        s.step();
        s.bind();
        // Pods of the bad image never run.
        for name in s.world.names("Pod") {
            let bad = s.world.at("Pod", &name)["spec"]["containers"][0]["image"] == "bad";
            let pod = s.world.at("Pod", &name);
            if !bad && !pod["metadata"]["deletionTimestamp"].is_null() {
                s.world.set_pod(&name, "Failed", false);
            }
        }
        s.world.now_millis += 1_000;
    }
    let stay: Vec<_> = before
        .iter()
        .filter(|n| s.world.names("Pod").contains(n))
        .cloned()
        .collect();
    assert_eq!(stay.len(), 3);
    s.image("one");
    s.settle();
    assert!(
        stay.iter().all(|n| s.world.names("Pod").contains(n)),
        "the good ones stay"
    );
    assert!(s.world.names("Node").iter().all(|n| s.on(n) == ["one"]));
}

#[test]
fn surging_updates_lose_nothing() {
    let mut s = Sets::new(
        4,
        json!({ "updateStrategy": { "rollingUpdate": { "maxUnavailable": 0, "maxSurge": "50%" } } }),
    );
    s.settle();
    s.image("two");
    s.settle();
    assert!(s.world.names("Node").iter().all(|n| s.on(n) == ["two"]));
    assert_eq!((s.unavailable, s.beside), (0, 2));
}

#[test]
fn on_delete_waits_for_somebody_to_delete() {
    let mut s = Sets::new(
        2,
        json!({ "updateStrategy": { "type": "OnDelete", "rollingUpdate": null } }),
    );
    s.settle();
    s.image("two");
    s.settle();
    assert_eq!(
        (s.on("n0"), s.on("n1")),
        (vec!["one".into()], vec!["one".into()])
    );
    let first = s
        .world
        .names("Pod")
        .into_iter()
        .find(|n| s.world.objects[&("Pod".into(), n.clone())]["spec"]["nodeName"] == "n0");
    s.world.objects.remove(&("Pod".into(), first.unwrap()));
    s.settle();
    assert_eq!(
        (s.on("n0"), s.on("n1")),
        (vec!["two".into()], vec!["one".into()])
    );
}

#[test]
fn the_revisions_that_pods_are_of_count_in_the_history() {
    let mut s = Sets::new(
        1,
        json!({ "revisionHistoryLimit": 1,
            "updateStrategy": { "type": "OnDelete", "rollingUpdate": null } }),
    );
    s.settle();
    for image in ["two", "three", "four"] {
        s.image(image);
        s.settle();
    }
    // The pod's and the current one are left.
    assert_eq!(s.on("n0"), ["one"]);
    assert_eq!(s.world.names("ControllerRevision").len(), 2);
}

#[test]
fn what_ended_is_made_again_later_each_time() {
    let mut s = Sets::new(1, json!({}));
    s.settle();
    let fail = |s: &mut Sets| {
        let name = s.world.names("Pod")[0].clone();
        s.world.set_pod(&name, "Failed", false);
        s.world.done();
    };
    fail(&mut s);
    s.step();
    let name = |l: &String| l.split('/').next().unwrap().to_owned();
    assert_eq!(
        s.world.done().iter().map(name).collect::<Vec<_>>(),
        ["Event FailedDaemonPod", "Delete Pod", "Status DaemonSet"]
    );
    s.step();
    fail(&mut s);
    s.step();
    let done = s.world.done();
    assert!(
        done.iter().all(|l| l.starts_with("Status")),
        "it waits: {done:?}"
    );
    s.world.now_millis += 1_000;
    s.step();
    assert_eq!(s.world.names("Pod").len(), 0);
    s.settle();
    assert_eq!(s.on("n0").len(), 1);
}

/// What failed and waits for its back-off is not "no pod on this node": a set that surges would make
/// the next one beside it at once, a node that refuses it a heap of failed ones.
#[test]
fn a_surging_set_waits_with_what_fails_too() {
    let mut s = Sets::new(
        1,
        json!({ "updateStrategy": { "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } } }),
    );
    s.settle();
    let refuse = |s: &mut Sets| {
        for name in s.world.names("Pod") {
            s.world.set_pod(&name, "Failed", false);
        }
        s.step();
        s.world.names("Pod").len()
    };
    assert_eq!(refuse(&mut s), 1, "the first is replaced at once");
    for _ in 0..5 {
        assert_eq!(refuse(&mut s), 1, "the second one waits");
    }
    s.world.now_millis += 1_000;
    assert_eq!(refuse(&mut s), 1);
    s.settle();
    assert_eq!(s.on("n0").len(), 1);
}

#[test]
fn pods_that_wait_for_a_node_that_is_gone_go_too() {
    let mut s = Sets::new(2, json!({}));
    s.step();
    s.step();
    assert_eq!(s.world.names("Pod").len(), 2);
    s.world.objects.remove(&("Node".into(), "n1".into()));
    s.settle();
    assert_eq!(s.world.names("Pod").len(), 1);
}

#[test]
fn one_too_many_goes_the_newest_first() {
    let mut s = Sets::new(1, json!({}));
    s.settle();
    let old = s.world.names("Pod")[0].clone();
    s.world.now_millis += 10_000;
    s.world.put(
        "Pod",
        json!({ "metadata": { "name": "stray", "labels": { "app": "a" } },
        "spec": { "nodeName": "n0", "containers": [{ "name": "c", "image": "one" }] } }),
    );
    s.settle();
    assert_eq!(s.world.names("Pod"), [old]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is asked for and whichever nodes come and go: it ends with one pod of the newest
    /// template on every node that fits, and an update keeps its bounds.
    #[test]
    fn it_settles(
        surge in any::<bool>(),
        most in 1i32..4,
        turns in prop::collection::vec((0u8..3, 0usize..5, 0u8..3), 1..6),
    ) {
        let (down, up) = if surge { (0, most) } else { (most, 0) };
        let mut s = Sets::new(5, json!({ "updateStrategy": { "rollingUpdate": { "maxUnavailable": down, "maxSurge": up } } }));
        s.settle();
        for (image, node, what) in turns {
            let node = format!("n{node}");
            s.image(&format!("i{image}"));
            s.step();
            s.bind();
            s.world.kubelets();
            match what {
                0 => s.taint(&node, "k", "NoSchedule"),
                1 => s.taint(&node, "k", "NoExecute"),
                _ => { s.world.at("Node", &node)["spec"] = json!({}); }
            }
            s.settle();
            let most = if surge { 2 } else { 1 };
            prop_assert!(s.beside <= most);
            let image = format!("i{image}");
            for node in s.world.names("Node") {
                let taints = s.world.at("Node", &node)["spec"]["taints"].clone();
                if taints.is_null() {
                    prop_assert_eq!(s.on(&node), [image.clone()]);
                } else if taints[0]["effect"] == "NoExecute" {
                    prop_assert_eq!(s.on(&node).len(), 0);
                }
            }
        }
    }
}
