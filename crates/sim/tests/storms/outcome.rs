//! What a small storm must come to once it is over: all that is wanted is there, what runs is what
//! the API shows, counts are exact; and after the deletion of all of it nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control::ready::is_pod_ready;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::Value;
use sim::Failed;

use crate::common::{has_condition, number};
use crate::deeds::Story;
use crate::drawn::Work;

/// Between two looks, each of which reads all that there is.
const LOOK: Duration = Duration::from_secs(5);

pub struct Looks<'a> {
    pub story: &'a Story<'a>,
}

/// What is not as it should be.
#[derive(Default)]
pub struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, is_so: bool, what: impl FnOnce() -> String) {
        if !is_so {
            self.0.push(what());
        }
    }
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn text<'a>(object: &'a DynamicObject, pointer: &str) -> &'a str {
    let found = object.data.pointer(pointer);
    found.and_then(Value::as_str).unwrap_or("")
}

/// The pods of a workload that have not finished.
fn of<'a>(pods: &'a [Pod], work: &Work) -> Vec<&'a Pod> {
    let is_of = |p: &&Pod| p.labels().get("app") == Some(&work.name) && !is_finished(p);
    pods.iter().filter(is_of).collect()
}

impl Looks<'_> {
    /// Waits until nothing is wrong.
    pub async fn until(
        &self,
        what: &str,
        most: Duration,
        look: impl AsyncFn(&Self) -> Wrong,
    ) -> Result<(), Failed> {
        let end = clock::Instant::now() + most;
        loop {
            let Wrong(all) = look(self).await;
            if all.is_empty() {
                return Ok(());
            }
            if clock::Instant::now() > end {
                return Err(Failed(format!("{what}: not within {most:?}: {all:#?}")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub async fn lacking(&self) -> Wrong {
        let mut wrong = Wrong::default();
        let pods = self.story.admin.pods().await;
        for work in self.story.storm.works.values() {
            let found = self.story.admin.get(work.kind, &work.name).await;
            let stays = found.filter(|o| o.metadata.deletion_timestamp.is_none());
            let Some(found) = stays else {
                // It was about to go when it was to be made again.
                self.story.make(&work.name).await;
                wrong.0.push(format!("{} is not there", work.name));
                continue;
            };
            self.workload(&mut wrong, work, &found, &of(&pods, work))
                .await;
        }
        self.truth(&mut wrong, &pods);
        if wrong.0.is_empty() {
            self.counts(&mut wrong, &pods).await;
        }
        wrong
    }

    async fn workload(&self, wrong: &mut Wrong, work: &Work, found: &DynamicObject, pods: &[&Pod]) {
        let name = &work.name;
        let count = |field: &str| number(Some(found), &format!("/status/{field}"));
        let all_are = |wrong: &mut Wrong, wanted: u64, fields: &[&str]| {
            for field in fields {
                let is = count(field);
                wrong.unless(is == wanted, || {
                    format!("{name}: {field} is {is} of {wanted}")
                });
            }
            wrong.unless(u64::try_from(pods.len()) == Ok(wanted), || {
                format!("{name} has {} pods of {wanted}", pods.len())
            });
        };
        let generation = found.metadata.generation.unwrap_or(0);
        let observes = !matches!(work.kind, "Job" | "CronJob");
        wrong.unless(
            !observes || u64::try_from(generation) == Ok(count("observedGeneration")),
            || format!("{name} is not observed"),
        );
        match work.kind {
            "Deployment" | "StatefulSet" => {
                let fields = ["replicas", "readyReplicas", "availableReplicas"];
                all_are(wrong, work.replicas(), &fields);
                if work.is_rolled() {
                    all_are(wrong, work.replicas(), &["updatedReplicas"]);
                }
                let ordinals = 0..work.replicas();
                let wanted: BTreeSet<String> = ordinals.map(|i| format!("{name}-{i}")).collect();
                let names: BTreeSet<String> = pods.iter().map(|p| p.name_any()).collect();
                wrong.unless(work.kind == "Deployment" || names == wanted, || {
                    format!("{name} has {names:?}")
                });
            }
            "DaemonSet" => {
                let nodes = u64::from(self.story.storm.plan.nodes);
                let fields = [
                    "desiredNumberScheduled",
                    "currentNumberScheduled",
                    "numberReady",
                    "numberAvailable",
                ];
                all_are(wrong, nodes, &fields);
                if work.is_rolled() {
                    all_are(wrong, nodes, &["updatedNumberScheduled"]);
                }
                let places = pods
                    .iter()
                    .filter_map(|p| p.spec.as_ref()?.node_name.clone());
                let places: BTreeSet<String> = places.collect();
                wrong.unless(u64::try_from(places.len()) == Ok(nodes), || {
                    format!("{name} is on {places:?}")
                });
            }
            "Job" => {
                let (condition, succeeded) = match work.fails {
                    true => ("Failed", 0),
                    false => {
                        let wanted = work.object["spec"]["completions"].as_u64();
                        ("Complete", wanted.unwrap_or(0))
                    }
                };
                wrong.unless(has_condition(Some(found), condition), || {
                    format!("{name} is not {condition}")
                });
                let (is, active) = (count("succeeded"), count("active"));
                wrong.unless(is == succeeded && active == 0, || {
                    format!("{name}: {is} of {succeeded} succeeded, {active} are active")
                });
                wrong.unless(pods.is_empty(), || format!("{name} has pods that run"));
            }
            _ => self.cron_job(wrong, work, found).await,
        }
    }

    /// It rests, and keeps as many Jobs as it may.
    async fn cron_job(&self, wrong: &mut Wrong, work: &Work, found: &DynamicObject) {
        let jobs = self.story.admin.list("Job").await;
        let uid = found.metadata.uid.clone();
        let own: Vec<_> = jobs
            .into_iter()
            .filter(|j| {
                j.owner_references()
                    .iter()
                    .any(|o| Some(&o.uid) == uid.as_ref())
            })
            .collect();
        for (condition, limit) in [
            ("Complete", "successfulJobsHistoryLimit"),
            ("Failed", "failedJobsHistoryLimit"),
        ] {
            let kept = own.iter().filter(|j| has_condition(Some(j), condition));
            let (kept, most) = (kept.count(), work.object["spec"][limit].as_u64());
            wrong.unless(u64::try_from(kept).ok() <= most, || {
                format!("{}: {kept} Jobs are {condition}, of {most:?}", work.name)
            });
        }
        let ended = |j: &DynamicObject| {
            has_condition(Some(j), "Complete") || has_condition(Some(j), "Failed")
        };
        wrong.unless(own.iter().all(ended), || {
            format!("{} has Jobs that run", work.name)
        });
        let active = found
            .data
            .pointer("/status/active")
            .and_then(Value::as_array);
        wrong.unless(active.is_none_or(Vec::is_empty), || {
            format!("{} names Jobs as active", work.name)
        });
    }

    /// What runs in truth is what the API shows.
    fn truth(&self, wrong: &mut Wrong, pods: &[Pod]) {
        let place = |p: &Pod| {
            let spec = p.spec.as_ref()?;
            let phase = p.status.as_ref()?.phase.as_deref()?;
            (phase == "Running").then(|| (p.name_any(), spec.node_name.clone().unwrap_or_default()))
        };
        let should: BTreeMap<String, String> = pods.iter().filter_map(place).collect();
        let nodes = self.story.cluster.nodes().iter();
        let each = nodes.flat_map(|n| {
            let running = n.running().into_iter();
            running.map(|one| (one.pod.name, n.name().to_owned()))
        });
        let is: BTreeMap<String, String> = each.collect();
        wrong.unless(should == is, || format!("{is:?} run, {should:?} should"));
        let going = pods
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_some());
        let going: Vec<String> = going.map(|p| p.name_any()).collect();
        wrong.unless(going.is_empty(), || format!("{going:?} do not go"));
    }

    /// What others count of pods that rest: endpoints, the quota, the budget.
    async fn counts(&self, wrong: &mut Wrong, pods: &[Pod]) {
        let admin = &self.story.admin;
        let slices = admin.list("EndpointSlice").await;
        for work in self
            .story
            .storm
            .works
            .values()
            .filter(|w| w.is_replicated())
        {
            let is_of = |s: &&DynamicObject| {
                s.labels().get("kubernetes.io/service-name") == Some(&work.name)
            };
            let endpoints = slices.iter().filter(is_of).flat_map(|s| {
                let all = s.data["endpoints"].as_array().cloned();
                all.unwrap_or_default()
            });
            let ready = endpoints.filter(|e| e["conditions"]["ready"] == true);
            let addresses: BTreeSet<String> = ready
                .filter_map(|e| e["addresses"][0].as_str().map(str::to_owned))
                .collect();
            let own = of(pods, work);
            let own = own.iter().filter(|p| is_pod_ready(p));
            let wanted: BTreeSet<String> = own
                .filter_map(|p| p.status.as_ref()?.pod_ip.clone())
                .collect();
            wrong.unless(addresses == wanted, || {
                format!("{}: endpoints are {addresses:?}, not {wanted:?}", work.name)
            });
        }
        if self.story.storm.quota.is_some() {
            let living = pods.iter().filter(|p| !is_finished(p)).count().to_string();
            let quota = admin.get("ResourceQuota", "narrow").await;
            let used = quota.map(|q| text(&q, "/status/used/pods").to_owned());
            wrong.unless(used.as_ref() == Some(&living), || {
                format!("the quota has {used:?} pods, there are {living}")
            });
        }
        if let Some(budget) = &self.story.storm.budget {
            let of = budget["spec"]["selector"]["matchLabels"]["app"].as_str();
            let own = pods
                .iter()
                .filter(|p| p.labels().get("app").map(String::as_str) == of);
            let healthy = u64::try_from(own.filter(|p| is_pod_ready(p)).count());
            let found = admin.get("PodDisruptionBudget", "held").await;
            let is = number(found.as_ref(), "/status/currentHealthy");
            wrong.unless(healthy == Ok(is), || {
                format!("the budget has {is} healthy pods, there are {healthy:?}")
            });
        }
    }

    pub async fn left(&self) -> Wrong {
        let (admin, mut wrong) = (&self.story.admin, Wrong::default());
        for what in [
            "Pod",
            "ReplicaSet",
            "Job",
            "CronJob",
            "StatefulSet",
            "Deployment",
            "DaemonSet",
            "ControllerRevision",
        ] {
            for one in admin.list(what).await {
                wrong.0.push(format!("{what} {}", one.name_any()));
            }
        }
        for one in admin.list("EndpointSlice").await {
            let of = one.labels().get("kubernetes.io/service-name").cloned();
            let is_own = of.is_some_and(|name| self.story.storm.works.contains_key(&name));
            wrong.unless(!is_own, || format!("the endpoints {}", one.name_any()));
        }
        for one in admin.list("ConfigMap").await {
            wrong.unless(one.owner_references().is_empty(), || {
                format!("{}, whose owner has gone", one.name_any())
            });
        }
        for node in self.story.cluster.nodes() {
            for one in node.running() {
                wrong.0.push(format!("{} runs", one.pod.name));
            }
            for folder in node.folders() {
                wrong.0.push(format!("the folder of {folder}"));
            }
        }
        if self.story.storm.quota.is_some() && wrong.0.is_empty() {
            let quota = admin.get("ResourceQuota", "narrow").await;
            let used = quota.map(|q| text(&q, "/status/used/pods").to_owned());
            wrong.unless(used.as_deref() == Some("0"), || {
                format!("the quota has {used:?} pods")
            });
        }
        wrong
    }
}
