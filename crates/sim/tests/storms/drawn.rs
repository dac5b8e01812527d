//! What a seed draws for a small storm: a cluster of two to four nodes, up to five workloads that fit
//! it when it is whole, a quota and a budget, and how bad the weather is. Values alone.

use std::collections::BTreeMap;
use std::time::Duration;

use clock::Random;
use rand::RngExt;
use serde_json::{Value, json};
use sim::{Faults, Plan, Size, Times};

use crate::common::{job, pod};

/// Between heartbeats of a node upstream.
const UPSTREAMS_HEARTBEAT: Duration = Duration::from_secs(10);
/// Most workloads of a storm.
const WORKLOADS: usize = 5;

/// A workload as it is wanted.
#[derive(Clone, Debug)]
pub struct Work {
    pub kind: &'static str,
    pub name: String,
    pub object: Value,
    /// What one of its pods requests, in thousandths of a processor.
    pub millis: u64,
    /// Most pods that it ever wants, without those of an update.
    pub most: u64,
    /// Whether its Job must fail.
    pub fails: bool,
}

impl Work {
    pub fn replicas(&self) -> u64 {
        self.object["spec"]["replicas"].as_u64().unwrap_or(0)
    }

    pub fn is_replicated(&self) -> bool {
        matches!(self.kind, "Deployment" | "StatefulSet")
    }

    /// Whether all its pods are replaced after a change of its template.
    pub fn is_rolled(&self) -> bool {
        self.object["spec"]["updateStrategy"]["type"] != "OnDelete"
    }
}

/// A small storm.
#[derive(Clone, Debug)]
pub struct Storm {
    pub plan: Plan,
    pub works: BTreeMap<String, Work>,
    pub quota: Option<Value>,
    pub budget: Option<Value>,
    /// How many things happen, and the longest pause between two of them, in milliseconds.
    pub deeds: u32,
    pub pause_millis: u64,
}

struct Draw(Random);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0.random_range(0..end)
    }

    fn from(&mut self, least: u64, most: u64) -> u64 {
        self.0.random_range(least..=most)
    }

    fn one<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.0.random_range(0..all.len())].clone()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn template(&mut self, name: &str, image: &str, restart: &str, millis: u64) -> Value {
        let mut pod = pod(name, image, restart);
        let spec = &mut pod["spec"];
        spec["containers"][0]["resources"]["requests"]["cpu"] = json!(format!("{millis}m"));
        spec["terminationGracePeriodSeconds"] = json!(self.from(1, 10));
        if self.chance(70) {
            spec["volumes"] = Value::Null;
            spec["containers"][0]["volumeMounts"] = Value::Null;
        }
        if self.chance(20) {
            spec["priorityClassName"] = json!("urgent");
        }
        if self.chance(30) {
            spec["topologySpreadConstraints"] = json!([{ "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": { "matchLabels": { "app": name } } }]);
        }
        pod
    }

    fn spec_of_a_deployment(&mut self, spec: &mut Value) {
        let strategy = match self.below(5) {
            0 => json!({ "type": "Recreate" }),
            1 => json!({ "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 } }),
            2 => json!({ "rollingUpdate": { "maxSurge": 2, "maxUnavailable": 0 } }),
            3 => json!({ "rollingUpdate": { "maxSurge": "50%", "maxUnavailable": "50%" } }),
            _ => json!({}),
        };
        spec["strategy"] = strategy;
        spec["minReadySeconds"] = json!(self.one(&[0, 0, 3]));
        spec["revisionHistoryLimit"] = json!(self.from(0, 3));
    }

    fn spec_of_a_stateful_set(&mut self, name: &str, spec: &mut Value) {
        spec["serviceName"] = json!(name);
        spec["podManagementPolicy"] = json!(self.one(&["OrderedReady", "Parallel"]));
        spec["minReadySeconds"] = json!(self.one(&[0, 0, 3]));
        spec["updateStrategy"] = match self.below(4) {
            0 => json!({ "type": "OnDelete" }),
            _ => json!({ "type": "RollingUpdate" }),
        };
    }

    fn spec_of_a_daemon_set(&mut self, spec: &mut Value) {
        spec["updateStrategy"] = match self.below(4) {
            0 => json!({ "type": "OnDelete" }),
            1 => json!({ "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } }),
            2 => json!({ "rollingUpdate": { "maxUnavailable": 2 } }),
            _ => json!({ "type": "RollingUpdate" }),
        };
    }

    /// A Job, with whether it must fail.
    fn job(&mut self, name: &str, millis: u64) -> (Value, bool) {
        let completions = self.from(1, 8);
        let (indexed, fails) = (self.chance(50), self.chance(25));
        let (image, restart) = if fails {
            ("bad:1", "Never")
        } else {
            ("job:1", self.one(&["Never", "OnFailure"]))
        };
        let mut job = job(name, image, completions, indexed);
        let spec = &mut job["spec"];
        spec["parallelism"] = json!(self.from(1, 3));
        spec["template"] = self.template(name, image, restart, millis);
        if fails && indexed && self.chance(50) {
            spec["backoffLimitPerIndex"] = json!(self.below(2));
        } else if fails {
            spec["backoffLimit"] = json!(self.below(3));
        }
        if self.chance(30) && restart == "Never" {
            spec["podReplacementPolicy"] = json!("Failed");
        }
        (job, fails)
    }

    fn cron_job(&mut self, name: &str, millis: u64) -> Value {
        let (job, _) = self.job(name, millis);
        json!({ "metadata": { "name": name }, "spec": {
            "schedule": "* * * * *",
            "concurrencyPolicy": self.one(&["Allow", "Forbid", "Replace"]),
            "successfulJobsHistoryLimit": self.below(3),
            "failedJobsHistoryLimit": self.below(2),
            "jobTemplate": { "spec": job["spec"] } } })
    }

    fn work(&mut self, number: usize, nodes: u64) -> Work {
        let name = format!("{}{number}", ["a", "b", "c", "d", "e"][number % WORKLOADS]);
        let millis = self.one(&[100, 200, 300]);
        let kinds = [
            "Deployment",
            "Deployment",
            "StatefulSet",
            "StatefulSet",
            "DaemonSet",
            "Job",
            "Job",
            "CronJob",
        ];
        let kind = self.one(&kinds);
        let image = self.one(&["web:1", "web:1", "deaf:1"]);
        let (mut fails, mut most) = (false, self.from(1, 5));
        let mut set = json!({ "metadata": { "name": name },
            "spec": { "selector": { "matchLabels": { "app": name } } } });
        let object = match kind {
            "Job" => {
                let (job, must_fail) = self.job(&name, millis);
                (fails, most) = (must_fail, 3);
                job
            }
            "CronJob" => {
                // Those of several minutes may run at a time.
                most = 6;
                self.cron_job(&name, millis)
            }
            _ => {
                set["spec"]["template"] = self.template(&name, image, "Always", millis);
                match kind {
                    "Deployment" => self.spec_of_a_deployment(&mut set["spec"]),
                    "StatefulSet" => self.spec_of_a_stateful_set(&name, &mut set["spec"]),
                    _ => self.spec_of_a_daemon_set(&mut set["spec"]),
                }
                if kind == "DaemonSet" {
                    most = nodes;
                } else {
                    set["spec"]["replicas"] = json!(self.from(0, most));
                }
                set
            }
        };
        Work {
            kind,
            name,
            object,
            millis,
            most,
            fails,
        }
    }

    /// Quick candidates for leadership, or patient ones, who write less.
    fn elections(&mut self) -> Times {
        let retry = Duration::from_secs(self.one(&[1, 2, 5]));
        Times::new(retry * 6, retry * 4, retry).expect("times that go together")
    }

    /// A quota with room for all that is wanted, and little more.
    fn quota(&mut self, works: &BTreeMap<String, Work>) -> Value {
        let pods: u64 = works.values().map(|w| w.most).sum();
        let millis: u64 = works.values().map(|w| w.most * w.millis).sum();
        let spare = self.from(2, 4);
        json!({ "metadata": { "name": "narrow" }, "spec": { "hard": {
            "pods": (pods + spare).to_string(), "requests.cpu": format!("{}m", millis + spare * 300) } } })
    }

    fn budget(&mut self, works: &BTreeMap<String, Work>) -> Option<Value> {
        let of = works.values().find(|w| w.is_replicated())?;
        let (field, value) = self.one(&[
            ("minAvailable", json!(1)),
            ("minAvailable", json!("50%")),
            ("maxUnavailable", json!(1)),
            ("maxUnavailable", json!("30%")),
        ]);
        let policy = self.one(&["IfHealthyBudget", "AlwaysAllow"]);
        Some(
            json!({ "metadata": { "name": "held" }, "spec": { field: value,
            "unhealthyPodEvictionPolicy": policy,
            "selector": { "matchLabels": { "app": of.name } } } }),
        )
    }
}

impl Storm {
    pub fn of(seed: u64) -> Self {
        // Another source than the cluster's own, which begins with the same seed.
        let mut draw = Draw(Random::seeded(seed).fork());
        let (nodes, cpus) = (draw.from(2, 4), draw.from(2, 4));
        let plan = Plan {
            seed,
            servers: draw.one(&[1, 1, 2]),
            nodes: u8::try_from(nodes).unwrap_or(2),
            size: Size {
                cpus: u32::try_from(cpus).unwrap_or(2),
                pods: draw.one(&[10, 20]),
            },
            faults: Faults {
                write_micros: draw.one(&[500, 4_000, 50_000]),
                failing: draw.one(&[0.0, 0.005, 0.02, 0.05]),
                runtime_micros: draw.one(&[10_000, 200_000, 2_000_000]),
            },
            elections: Default::default(),
            heartbeat: sim::HEARTBEAT,
            begun: false,
            folder: Default::default(),
        };
        // What updates and replacements need comes on top, and nodes have gaps.
        let (room, places) = (
            nodes * cpus * 600,
            nodes * u64::from(plan.size.pods) * 6 / 10,
        );
        let (mut works, mut millis, mut pods) = (BTreeMap::new(), 0, 0);
        for number in 0..draw.0.random_range(1..=WORKLOADS) {
            let work = draw.work(number, nodes);
            millis += work.most * work.millis;
            pods += work.most;
            if millis > room || pods > places {
                break;
            }
            works.insert(work.name.clone(), work);
        }
        let quota = draw.chance(50).then(|| draw.quota(&works));
        let budget = if draw.chance(60) {
            draw.budget(&works)
        } else {
            None
        };
        let deeds = u32::try_from(draw.from(6, 14)).unwrap_or(6);
        let pause_millis = draw.one(&[2_000, 10_000, 30_000]);
        let plan = Plan {
            elections: draw.elections(),
            // One in ten begins with nothing: then its first objects are made in bad weather.
            begun: draw.chance(90),
            // Two in three have upstream's: less is written between what happens.
            heartbeat: draw.one(&[sim::HEARTBEAT, UPSTREAMS_HEARTBEAT, UPSTREAMS_HEARTBEAT]),
            ..plan
        };
        Self {
            plan,
            works,
            quota,
            budget,
            deeds,
            pause_millis,
        }
    }
}
