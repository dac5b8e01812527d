//! StatefulSets in a pretended cluster.

mod claims;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Observed, plan};
use crate::failed_pods::Failures;
use crate::testing::{World, merge};

struct Sets {
    world: World,
    /// Whether pods start and end by themselves between steps.
    lives: bool,
    failures: Mutex<Failures>,
}

/// A server that fills in one field.
fn fill(template: &mut Value) {
    if template["spec"]["dnsPolicy"].is_null() {
        template["spec"]["dnsPolicy"] = json!("ClusterFirst");
    }
}

impl Sets {
    fn new(spec: Value) -> Self {
        let mut set = json!({
            "metadata": { "name": "web", "generation": 1 },
            "spec": {
                "replicas": 3, "serviceName": "web", "selector": { "matchLabels": { "app": "a" } },
                "revisionHistoryLimit": 10, "podManagementPolicy": "OrderedReady",
                "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } },
                "template": { "metadata": { "labels": { "app": "a" } },
                    "spec": { "containers": [{ "name": "c", "image": "one" }] } },
            },
        });
        merge(&mut set["spec"], &spec);
        let mut world = World::new();
        world.put("StatefulSet", set);
        Self {
            world,
            lives: true,
            failures: Mutex::default(),
        }
    }

    fn spec(&mut self, patch: Value) {
        let set = self.world.at("StatefulSet", "web");
        merge(&mut set["spec"], &patch);
        let generation = set["metadata"]["generation"].as_i64().unwrap();
        set["metadata"]["generation"] = json!(generation + 1);
    }

    fn image(&mut self, image: &str) {
        self.spec(
            json!({ "template": { "spec": { "containers": [{ "name": "c", "image": image }] } } }),
        );
    }

    fn observed(&self) -> Observed {
        let claims = self
            .world
            .all::<PersistentVolumeClaim>("PersistentVolumeClaim");
        Observed {
            set: self.world.one("StatefulSet", "web"),
            pods: self.world.all("Pod"),
            revisions: self.world.all("ControllerRevision"),
            claims: claims
                .into_iter()
                .map(|c| (c.name_any(), c))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    fn step(&mut self) -> usize {
        let plan = plan(
            &self.observed(),
            &self.failures,
            fill,
            self.world.now_millis,
        );
        self.world.apply(plan)
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            let before = self.world.objects.clone();
            self.step();
            if self.lives {
                self.world.kubelets();
            }
            if before == self.world.objects {
                return;
            }
        }
        panic!("does not settle: {:#?}", self.world.log);
    }

    fn images(&mut self) -> Vec<(String, String)> {
        let of = |w: &mut World, n: String| {
            let image = w.at("Pod", &n)["spec"]["containers"][0]["image"]
                .as_str()
                .unwrap()
                .to_owned();
            (n, image)
        };
        let names = self.world.names("Pod");
        names.into_iter().map(|n| of(&mut self.world, n)).collect()
    }

    fn status(&mut self, field: &str) -> Value {
        self.world.at("StatefulSet", "web")["status"][field].clone()
    }

    fn pods_done(&mut self) -> Vec<String> {
        let mut all = self.world.done();
        all.retain(|l| l.contains(" Pod/"));
        all
    }
}

#[test]
fn pods_come_in_order_and_go_in_reverse() {
    let mut s = Sets::new(json!({}));
    s.settle();
    assert_eq!(
        s.pods_done(),
        ["Create Pod/web-0", "Create Pod/web-1", "Create Pod/web-2"]
    );
    let pod = s.world.at("Pod", "web-1").clone();
    assert_eq!(
        pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"],
        "web-1"
    );
    assert_eq!(
        pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"],
        "1"
    );
    assert_eq!(
        (&pod["spec"]["hostname"], &pod["spec"]["subdomain"]),
        (&json!("web-1"), &json!("web"))
    );
    let revision = s.status("updateRevision");
    assert_eq!(
        pod["metadata"]["labels"]["controller-revision-hash"],
        revision
    );
    assert_eq!(s.status("currentRevision"), revision);
    s.spec(json!({ "replicas": 1 }));
    s.settle();
    assert_eq!(s.pods_done(), ["Delete Pod/web-2", "Delete Pod/web-1"]);
    assert_eq!(s.status("replicas"), 1);
}

#[test]
fn what_a_newer_server_fills_in_makes_no_pod_anew() {
    let mut s = Sets::new(json!({}));
    s.settle();
    let revision = s.status("updateRevision");
    s.pods_done();
    let policy = |policy: &str| json!({ "template": { "spec": { "dnsPolicy": policy } } });
    s.spec(policy("ClusterFirst"));
    s.settle();
    assert_eq!(s.pods_done(), Vec::<String>::new());
    assert_eq!(s.status("updateRevision"), revision);
    assert_eq!(s.world.names("ControllerRevision").len(), 1);
    // What somebody asks for is a change, as ever.
    s.spec(policy("Default"));
    s.settle();
    assert_eq!(s.pods_done().len(), 6);
    assert_ne!(s.status("updateRevision"), revision);
}

#[test]
fn one_that_is_not_ready_holds_up_the_next() {
    let mut s = Sets::new(json!({}));
    s.lives = false;
    s.step();
    s.step();
    s.world.set_pod("web-0", "Running", false);
    s.settle();
    assert_eq!(s.world.names("Pod"), ["web-0"]);
    s.world.set_pod("web-0", "Running", true);
    s.settle();
    s.world.set_pod("web-1", "Running", true);
    s.settle();
    assert_eq!(s.world.names("Pod").len(), 3);
    // A sick pod stops scaling down, of others but not of itself.
    s.world.set_pod("web-2", "Running", true);
    s.world.set_pod("web-0", "Running", false);
    s.spec(json!({ "replicas": 1 }));
    s.pods_done();
    s.settle();
    assert_eq!(s.pods_done(), Vec::<String>::new());
    s.world.set_pod("web-0", "Running", true);
    s.world.set_pod("web-2", "Running", false);
    s.settle();
    assert_eq!(s.pods_done(), ["Delete Pod/web-2"]);
}

#[test]
fn parallel_sets_wait_for_nothing() {
    let mut s = Sets::new(json!({ "podManagementPolicy": "Parallel" }));
    s.lives = false;
    s.step();
    s.step();
    assert_eq!(s.world.names("Pod"), ["web-0", "web-1", "web-2"]);
    s.spec(json!({ "replicas": 0 }));
    s.settle();
    assert_eq!(s.world.names("Pod"), Vec::<String>::new());
}

#[test]
fn what_ended_is_made_anew() {
    for phase in ["Failed", "Succeeded"] {
        let mut s = Sets::new(json!({}));
        s.settle();
        s.world.set_pod("web-1", phase, false);
        s.pods_done();
        s.settle();
        assert_eq!(s.pods_done(), ["Delete Pod/web-1", "Create Pod/web-1"]);
    }
}

#[test]
fn what_its_node_refuses_is_made_again_ever_more_rarely() {
    let mut s = Sets::new(json!({ "replicas": 1 }));
    s.lives = false;
    let (begin, mut made) = (s.world.now_millis, Vec::new());
    while made.len() < 6 {
        s.step();
        if s.world.names("Pod").is_empty() {
            continue;
        }
        let pod = s.world.at("Pod", "web-0");
        if pod["status"]["phase"] != "Failed" {
            pod["status"] = json!({ "phase": "Failed", "reason": "Evicted" });
            made.push((s.world.now_millis - begin) / 1_000);
        } else if !pod["metadata"]["deletionTimestamp"].is_null() {
            s.world.kubelets();
        } else {
            s.world.now_millis += 500;
        }
    }
    let waits: Vec<i64> = made.windows(2).map(|w| w[1] - w[0]).collect();
    let least = [0, 1, 2, 4, 8];
    assert!(
        waits.iter().zip(least).all(|(wait, least)| *wait >= least),
        "{waits:?}"
    );
    assert!(waits[4] <= 12, "{waits:?}");
}

#[test]
fn updates_go_from_the_highest_number_to_the_partition() {
    let mut s = Sets::new(json!({}));
    s.settle();
    let first = s.status("currentRevision");
    s.spec(json!({ "updateStrategy": { "rollingUpdate": { "partition": 2 } } }));
    s.pods_done();
    s.image("two");
    s.settle();
    assert_eq!(s.pods_done(), ["Delete Pod/web-2", "Create Pod/web-2"]);
    assert_eq!(
        (s.status("currentRevision"), s.status("updatedReplicas")),
        (first.clone(), json!(1))
    );
    // A pod below the partition comes back as it was.
    s.world.set_pod("web-0", "Failed", false);
    s.settle();
    assert_eq!(s.images()[0].1, "one");
    s.pods_done();
    s.spec(json!({ "updateStrategy": { "rollingUpdate": { "partition": 0 } } }));
    s.settle();
    let order = [
        "Delete Pod/web-1",
        "Create Pod/web-1",
        "Delete Pod/web-0",
        "Create Pod/web-0",
    ];
    assert_eq!(s.pods_done(), order);
    assert_ne!(s.status("currentRevision"), first);
    assert_eq!(s.status("currentRevision"), s.status("updateRevision"));
    // Back: the first revision is the newest again.
    s.image("one");
    s.settle();
    assert_eq!(s.status("currentRevision"), first);
    let name = first.as_str().unwrap();
    assert_eq!(s.world.at("ControllerRevision", name)["revision"], 3);
    assert_eq!(s.world.names("ControllerRevision").len(), 2);
}

/// Of pods that never ran nothing is left once they are deleted. A set that said they still count at
/// the old revision would make the next ones of it again, and end them again, for ever.
#[test]
fn an_update_without_a_partition_does_not_bring_back_what_it_ended() {
    let mut s = Sets::new(json!({
        "replicas": 1, "podManagementPolicy": "Parallel",
        "updateStrategy": { "rollingUpdate": null },
    }));
    s.lives = false;
    s.settle();
    s.pods_done();
    s.image("two");
    s.settle();
    assert_eq!(s.images(), [("web-0".to_owned(), "two".to_owned())]);
    assert_eq!(s.pods_done(), ["Delete Pod/web-0", "Create Pod/web-0"]);
    assert_eq!(s.status("updatedReplicas"), 1);
}

#[test]
fn an_update_waits_for_what_it_broke_and_can_be_mended() {
    let mut s = Sets::new(json!({}));
    s.settle();
    s.lives = false;
    s.image("bad");
    s.settle();
    s.world.kubelets();
    s.step();
    s.world.set_pod("web-2", "Running", false);
    s.settle();
    assert_eq!(s.images()[0].1, "one");
    assert_eq!(s.images()[2].1, "bad");
    s.world.at("Pod", "web-2");
}

#[test]
fn on_delete_replaces_only_what_others_delete() {
    let mut s =
        Sets::new(json!({ "updateStrategy": { "type": "OnDelete", "rollingUpdate": null } }));
    s.settle();
    s.image("two");
    s.settle();
    assert!(s.images().iter().all(|(_, i)| i == "one"));
    s.world.objects.remove(&("Pod".into(), "web-1".into()));
    s.settle();
    let images: Vec<String> = s.images().into_iter().map(|(_, i)| i).collect();
    assert_eq!(images, ["one", "two", "one"]);
}

#[test]
fn as_many_are_replaced_at_once_as_may_be_unavailable() {
    let mut s = Sets::new(json!({ "replicas": 5, "podManagementPolicy": "Parallel",
        "updateStrategy": { "rollingUpdate": { "maxUnavailable": 2 } } }));
    s.settle();
    s.image("two");
    s.pods_done();
    s.step();
    s.step();
    assert_eq!(s.pods_done(), ["Delete Pod/web-4", "Delete Pod/web-3"]);
    s.settle();
    assert!(s.images().iter().all(|(_, i)| i == "two"));
}

#[test]
fn pods_are_available_after_their_time() {
    let mut s = Sets::new(json!({ "minReadySeconds": 30 }));
    s.step();
    s.step();
    s.world.kubelets();
    let wake = plan(&s.observed(), &s.failures, fill, s.world.now_millis).wake_after_millis;
    assert_eq!(wake.map(|w| w.div_ceil(1_000)), Some(30));
    s.step();
    assert_eq!(s.world.names("Pod"), ["web-0"]);
    assert_eq!(
        (s.status("readyReplicas"), s.status("availableReplicas")),
        (json!(1), json!(0))
    );
    s.world.now_millis += 30_000;
    s.step();
    assert_eq!(s.world.names("Pod"), ["web-0", "web-1"]);
}

#[test]
fn which_pods_an_update_reaches() {
    for policy in ["OrderedReady", "Parallel"] {
        // Pods before and after; the partition, without one they go when others delete them; how many
        // keep the old template.
        for (before, after, partition, old) in [
            (3, 3, Some(0), 0),
            (3, 5, Some(0), 0),
            (5, 3, Some(0), 0),
            (3, 3, Some(2), 2),
            (3, 5, Some(2), 2),
            (5, 3, Some(2), 2),
            (3, 3, None, 3),
            (3, 5, None, 3),
            (5, 3, None, 3),
        ] {
            let strategy = match partition {
                Some(p) => json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": p } }),
                None => json!({ "type": "OnDelete", "rollingUpdate": null }),
            };
            let mut s = Sets::new(json!({ "replicas": before, "podManagementPolicy": policy,
                "updateStrategy": strategy }));
            s.settle();
            s.spec(json!({ "replicas": after }));
            s.image("two");
            s.settle();
            let images = |old: i32| -> Vec<(String, String)> {
                let image = |n: i32| if n < old { "one" } else { "two" };
                let all = (0..after).map(|n| (format!("web-{n}"), image(n).to_owned()));
                all.collect()
            };
            let row = format!("{policy} {before} {after} {partition:?}");
            assert_eq!(s.images(), images(old), "{row}");
            if partition.is_some() {
                continue;
            }
            for replicas in [0, after] {
                s.spec(json!({ "replicas": replicas }));
                s.settle();
            }
            assert_eq!(s.images(), images(0), "{row}, made again");
        }
    }
}

#[test]
fn no_pod_goes_while_others_are_ready_for_too_short() {
    for scales in [false, true] {
        let mut s = Sets::new(json!({ "minReadySeconds": 30 }));
        while s.world.names("Pod").len() < 3 {
            s.step();
            s.world.kubelets();
            s.world.now_millis += 30_000;
        }
        s.lives = false;
        for name in s.world.names("Pod") {
            s.world.set_pod(&name, "Running", true);
        }
        s.settle();
        s.world.now_millis += 10_000;
        s.pods_done();
        match scales {
            true => s.spec(json!({ "replicas": 1 })),
            false => s.image("two"),
        }
        s.settle();
        assert_eq!(s.pods_done(), [""; 0], "{scales}");
        let counts = (s.status("readyReplicas"), s.status("availableReplicas"));
        assert_eq!(counts, (json!(3), json!(0)), "{scales}");
        s.world.now_millis += 20_000;
        s.settle();
        assert_eq!(s.pods_done(), ["Delete Pod/web-2"], "{scales}");
    }
}

#[test]
fn numbers_begin_where_they_are_asked_to() {
    let mut s = Sets::new(json!({ "replicas": 2, "ordinals": { "start": 3 } }));
    s.settle();
    assert_eq!(s.world.names("Pod"), ["web-3", "web-4"]);
    s.spec(json!({ "ordinals": { "start": 2 } }));
    s.settle();
    assert_eq!(s.world.names("Pod"), ["web-2", "web-3"]);
}

#[test]
fn history_is_limited() {
    let mut s = Sets::new(json!({ "revisionHistoryLimit": 2 }));
    for image in ["a", "b", "c", "d", "e"] {
        s.image(image);
        s.settle();
    }
    assert_eq!(s.world.names("ControllerRevision").len(), 3);
}

#[test]
fn strays_of_its_names_are_adopted_and_others_are_not() {
    let mut s = Sets::new(json!({ "replicas": 1 }));
    for name in ["web-0", "other"] {
        s.world.put(
            "Pod",
            json!({ "metadata": { "name": name, "labels": { "app": "a" } },
            "spec": { "containers": [{ "name": "c", "image": "one" }] } }),
        );
    }
    s.settle();
    let pod = s.world.at("Pod", "web-0")["metadata"].clone();
    assert_eq!(pod["ownerReferences"][0]["name"], "web");
    assert_eq!(pod["labels"]["statefulset.kubernetes.io/pod-name"], "web-0");
    assert!(s.world.at("Pod", "other")["metadata"]["ownerReferences"].is_null());
}

#[test]
fn a_set_that_is_being_deleted_does_nothing_more() {
    let mut s = Sets::new(json!({}));
    s.settle();
    s.world.at("StatefulSet", "web")["metadata"]["deletionTimestamp"] =
        json!("2024-01-01T00:00:00Z");
    s.world.at("StatefulSet", "web")["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    s.world.objects.remove(&("Pod".into(), "web-1".into()));
    s.settle();
    assert_eq!(s.world.names("Pod").len(), 2);
    assert_eq!(s.status("replicas"), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is asked for, and whichever pods fail meanwhile: it ends with the pods of the
    /// wanted numbers and the newest template; in order, and never two less than wanted.
    #[test]
    fn it_settles(
        parallel in any::<bool>(),
        most in prop::option::of(1i32..4),
        turns in prop::collection::vec((0i32..6, 0i32..3, 0u8..3, prop::option::of(0usize..6)), 1..6),
    ) {
        let policy = if parallel { "Parallel" } else { "OrderedReady" };
        let mut s = Sets::new(json!({ "podManagementPolicy": policy,
            "updateStrategy": { "rollingUpdate": { "maxUnavailable": most } } }));
        for (replicas, start, image, fails) in turns {
            s.spec(json!({ "replicas": replicas, "ordinals": { "start": start } }));
            s.image(&format!("i{image}"));
            for _ in 0..2 {
                s.step();
                s.world.kubelets();
            }
            let names = s.world.names("Pod");
            if let Some(name) = fails.and_then(|i| names.get(i)) {
                s.world.set_pod(name, "Failed", false);
            }
            s.settle();
            let wanted: Vec<_> = (start..start + replicas)
                .map(|n| (format!("web-{n}"), format!("i{image}"))).collect();
            prop_assert_eq!(s.images(), wanted);
            prop_assert_eq!(s.status("replicas"), json!(replicas));
            prop_assert_eq!(s.status("currentRevision"), s.status("updateRevision"));
        }
    }
}
