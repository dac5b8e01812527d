//! A leader is stopped in the middle of its work, another takes over, the first wakes with all
//! that it meant to write: never too many pods, and the right number at the end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, web};

use crate::parts::{all_are_ready, holder, signal};

const LEASE: &str = "kube-controller-manager";

/// Counts pods at every event: those that are not being deleted.
struct Count {
    stop: Arc<AtomicBool>,
    now: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Result<usize>>,
}

impl Count {
    fn start(cx: &Context, selector: &str) -> Result<Self> {
        let api: Api<Pod> = Api::namespaced(cx.cluster.client()?, &cx.ns);
        let (stop, now) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, count, selector) = (stop.clone(), now.clone(), selector.to_owned());
        let task = cx
            .cluster
            .spawn(async move { most(&api, &selector, &stopped, &count).await });
        Ok(Self { stop, now, task })
    }

    /// How many there are.
    fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// The most that there were at any event.
    fn end(self, cx: &Context) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        cx.cluster.block_on(self.task).context("the count")?
    }
}

/// Watches until it is asked to stop, across connections that end.
async fn most(
    api: &Api<Pod>,
    selector: &str,
    stopped: &AtomicBool,
    count: &AtomicUsize,
) -> Result<usize> {
    let list = api.list(&ListParams::default().labels(selector)).await?;
    let mut alive: BTreeSet<String> = list.items.iter().map(ResourceExt::name_any).collect();
    let mut version = list.metadata.resource_version.unwrap_or_default();
    let mut most = alive.len();
    while !stopped.load(Ordering::Relaxed) {
        // One second, so that the end is noticed.
        let params = WatchParams::default().labels(selector).timeout(1);
        let Ok(events) = api.watch(&params, &version).await else {
            continue;
        };
        let mut events = events.boxed();
        while let Some(Ok(event)) = events.next().await {
            match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    version = pod.resource_version().unwrap_or(version);
                    if pod.metadata.deletion_timestamp.is_none() {
                        alive.insert(pod.name_any());
                    } else {
                        alive.remove(&pod.name_any());
                    }
                }
                WatchEvent::Deleted(pod) => {
                    version = pod.resource_version().unwrap_or(version);
                    alive.remove(&pod.name_any());
                }
                WatchEvent::Bookmark(mark) => version = mark.metadata.resource_version,
                WatchEvent::Error(e) => anyhow::bail!("the watch lost events: {e:?}"),
            }
            most = most.max(alive.len());
            count.store(alive.len(), Ordering::Relaxed);
        }
    }
    Ok(most)
}

/// Stops a leading server, waits for another to lead, and wakes it after `meanwhile`.
fn put_to_sleep(cx: &Context, leader: &str, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    signal(cx.cluster, leader, "STOP")?;
    let took_over = eventually("another server leads", || {
        let now = holder(cx, LEASE)?;
        ensure!(now != leader, "{now} still leads");
        Ok(())
    });
    let outcome = took_over.and_then(|()| meanwhile());
    signal(cx.cluster, leader, "CONT")?;
    outcome
}

pub fn a_leader_that_slept_through_an_update_does_no_harm(cx: &Context) -> Result<()> {
    let mut app = web("app", 6);
    app["spec"]["strategy"] = json!({ "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 1 } });
    cx.apply_json(&app)?;
    cx.wait_rollout("deployment/app")?;
    let count = Count::start(cx, "app=app")?;
    let leader = holder(cx, LEASE)?;
    cx.kubectl("set env deployment/app ROUND=2")?;
    eventually("the update is on its way", || {
        let updated = cx.field("deployment app", ".status.updatedReplicas")?;
        ensure!(!updated.is_empty() && updated != "0", "{updated}");
        Ok(())
    })?;
    put_to_sleep(cx, &leader, || {
        eventually("the update goes on", || {
            // The server that is stopped may have taken the connection.
            let app = "deployment app --request-timeout=10s";
            let updated = cx.field(app, ".status.updatedReplicas")?;
            ensure!(updated.parse::<u32>().unwrap_or(0) >= 3, "{updated}");
            Ok(())
        })
    })?;
    all_are_ready(cx)?;
    cx.wait_rollout("deployment/app")?;
    eventually("there are as many as asked for", || {
        let pods = cx.pods("app=app")?;
        ensure!(pods.len() == 6, "{pods:?}");
        Ok(())
    })?;
    let most = count.end(cx)?;
    println!("    at most {most} pods of 6 + 1");
    ensure!(most <= 7, "{most} pods; 6 and a surge of 1 are allowed");
    Ok(())
}

pub fn a_leader_that_slept_through_a_scale_up_does_no_harm(cx: &Context) -> Result<()> {
    const PODS: usize = 200;
    let mut app = web("many", 1);
    let spec = &mut app["spec"]["template"]["spec"];
    spec["terminationGracePeriodSeconds"] = json!(0);
    spec["containers"][0] = json!({
        "name": "main", "image": tests::BUSYBOX, "command": ["sh", "-c", STAY],
    });
    if !tests::is_soak() {
        // Only the soak has the time to run them: what is counted is what controllers make.
        spec["nodeSelector"] = json!({ "no-node": "has-this" });
    }
    cx.apply_json(&app)?;
    let count = Count::start(cx, "app=many")?;
    let leader = holder(cx, LEASE)?;
    cx.kubectl(&format!("scale deployment many --replicas={PODS}"))?;
    eventually("the pods are being made", || {
        ensure!(count.now() > 1, "none yet");
        Ok(())
    })?;
    let asleep_at = count.now();
    put_to_sleep(cx, &leader, || {
        eventually("all pods are made", || {
            ensure!(count.now() >= PODS, "{}", count.now());
            Ok(())
        })
    })?;
    all_are_ready(cx)?;
    // What the sleeper still sends has come by then: its own server answers, and the controllers
    // are at rest.
    eventually("the ReplicaSet counts as many as there are", || {
        let set = cx.field("rs -l app=many", ".items[0].status.replicas")?;
        let pods = cx.pods("app=many")?.len();
        ensure!(set == PODS.to_string() && pods == PODS, "{set}, {pods}");
        Ok(())
    })?;
    let most = count.end(cx)?;
    println!("    asleep at {asleep_at} pods; at most {most} of {PODS}");
    ensure!(most <= PODS, "{most} pods; {PODS} are allowed");
    cx.kubectl("delete deployment many --cascade=foreground --timeout=280s")
        .map(drop)
}
