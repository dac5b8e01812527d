//! The shell: watches, asks [`Core`] what to do, binds and reports. Decisions are made one after
//! the other; bindings are many at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Informer, Informers};
use clock::Clock;
use control::Recorder;
use k8s_openapi::api::core::v1::{
    Binding, Namespace, Node, ObjectReference, Pod as ApiPod, PodCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::core::{Core, Step};
use crate::decide::Profile;
use crate::message;
use crate::pod::Pod;
use crate::queue::Waits;

/// Decisions between two looks at what the informers brought.
const DECISIONS_AT_ONCE: usize = 64;
/// Changes that are taken in at once, so that decisions are not starved.
const CHANGES_AT_ONCE: usize = 4_096;
/// Reports of unschedulable pods that are written at the same time; bindings come first.
const REPORTS_IN_FLIGHT: usize = 16;
/// Between two questions whether a binding of unknown outcome took place.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How to schedule.
pub struct Config {
    /// The pods that name this scheduler are ours.
    pub scheduler_name: String,
    pub profile: Profile,
    pub waits: Waits,
    /// Bindings that are written at the same time.
    pub binds_in_flight: usize,
    /// Where the choice among equal nodes begins; none for a random one.
    pub seed: Option<u64>,
    /// Named in events.
    pub host: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            scheduler_name: "default-scheduler".into(),
            profile: Profile::default(),
            waits: Waits::default(),
            // Enough to fill the server's group commits.
            binds_in_flight: 128,
            seed: None,
            host: String::new(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the watch of {0} has ended")]
    WatchEnded(&'static str),
}

/// Schedules until `shutdown`.
///
/// # Errors
/// When a cache of what it watches is gone, which no retry mends.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let informers = control::kept::informers(client.clone());
    run_shared(&informers, client, config, shutdown).await
}

/// As [`run`], with informers that others in this process use, too, and that may read as somebody
/// else.
///
/// # Errors
/// As [`run`].
pub async fn run_shared(
    informers: &Informers,
    client: Client,
    config: Config,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let pods: Informer<ApiPod> = informers.of();
    let nodes: Informer<Node> = informers.of();
    let namespaces: Informer<Namespace> = informers.of();
    let synced = async {
        nodes.synced().await;
        namespaces.synced().await;
        pods.synced().await;
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        () = synced => {}
    }
    let feeds = Feeds {
        pods: pods.subscribe(),
        nodes: nodes.subscribe(),
        namespaces: namespaces.subscribe(),
    };
    let shell = Shell {
        recorder: Recorder::new(client.clone(), &config.scheduler_name, &config.host)
            .by(informers.clock()),
        core: Core::new(&config.scheduler_name, config.profile, config.waits),
        name: config.scheduler_name,
        client,
        pods,
        tasks: JoinSet::new(),
        binds: 0,
        most_binds: config.binds_in_flight.max(1),
        reports: Reports::default(),
        seed: config.seed.unwrap_or_else(|| informers.random().number()),
        start: Instant::now(),
        shutdown: shutdown.clone(),
    };
    shell.work(feeds).await
}

struct Feeds {
    pods: UnboundedReceiver<Change<ApiPod>>,
    nodes: UnboundedReceiver<Change<Node>>,
    namespaces: UnboundedReceiver<Change<Namespace>>,
}

/// What to tell of a pod without a node.
struct Report {
    pod: Arc<Pod>,
    reason: &'static str,
    message: String,
    preemption: Option<(Arc<str>, Vec<Arc<Pod>>)>,
}

/// Reports that wait; of one pod only the latest.
#[derive(Default)]
struct Reports {
    order: VecDeque<Arc<str>>,
    waiting: HashMap<Arc<str>, Report>,
    in_flight: usize,
}

impl Reports {
    fn put(&mut self, mut report: Report) {
        let uid = report.pod.uid.clone();
        match self.waiting.remove(&uid) {
            // Victims that were chosen must go.
            Some(before) => report.preemption = report.preemption.or(before.preemption),
            None => self.order.push_back(uid.clone()),
        }
        self.waiting.insert(uid, report);
    }

    fn next(&mut self) -> Option<Report> {
        let uid = self.order.pop_front()?;
        self.waiting.remove(&uid)
    }
}

/// What a task did.
enum Done {
    Bound,
    NotBound(Arc<str>),
    Reported,
}

struct Shell {
    core: Core,
    name: String,
    client: Client,
    pods: Informer<ApiPod>,
    recorder: Recorder,
    tasks: JoinSet<Done>,
    binds: usize,
    most_binds: usize,
    reports: Reports,
    seed: u64,
    start: Instant,
    shutdown: CancellationToken,
}

impl Shell {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn work(mut self, mut feeds: Feeds) -> Result<(), Error> {
        while !self.shutdown.is_cancelled() {
            let more = self.take_in(&mut feeds)?;
            while let Some(done) = self.tasks.try_join_next() {
                self.finished(done);
            }
            let busy = self.decide_some();
            self.send_reports();
            if more || busy {
                tokio::task::yield_now().await;
            } else {
                self.wait(&mut feeds).await?;
            }
        }
        // Bindings under way are left to the server: the next start sees what became of them.
        Ok(())
    }

    /// Takes in what came; true when there may be more.
    fn take_in(&mut self, feeds: &mut Feeds) -> Result<bool, Error> {
        let mut left = CHANGES_AT_ONCE;
        while left > 0 {
            match feeds.nodes.try_recv() {
                Ok(change) => self.node(&change),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Error::WatchEnded("nodes")),
            }
            left -= 1;
        }
        while let Ok(change) = feeds.namespaces.try_recv() {
            self.namespace(&change);
        }
        while left > 0 {
            match feeds.pods.try_recv() {
                Ok(change) => self.pod(&change),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Error::WatchEnded("pods")),
            }
            left -= 1;
        }
        Ok(left == 0)
    }

    fn node(&mut self, change: &Change<Node>) {
        self.core
            .node_changed(change.old.as_deref(), change.new.as_deref());
    }
    fn namespace(&mut self, change: &Change<Namespace>) {
        self.core
            .namespace_changed(change.old.as_deref(), change.new.as_deref());
    }
    fn pod(&mut self, change: &Change<ApiPod>) {
        let now = self.now_ms();
        let (old, new) = (change.old.as_deref(), change.new.as_deref());
        self.core.pod_changed(old, new, now);
        if let Some(pod) = new.filter(|p| is_gated(p, &self.name))
            && scheduled_reason(pod) != Some("SchedulingGated")
        {
            let pod = Arc::new(Pod::read(pod, &mut crate::strings::Strings::default()));
            self.reports.put(Report {
                pod,
                reason: "SchedulingGated",
                message: message::GATED.to_owned(),
                preemption: None,
            });
        }
    }

    /// Decides about some pods; true when more may be waiting.
    fn decide_some(&mut self) -> bool {
        for _ in 0..DECISIONS_AT_ONCE {
            if self.binds >= self.most_binds {
                return false;
            }
            self.seed = self.seed.wrapping_add(1);
            let now = self.now_ms();
            match self.core.step(self.seed, now) {
                None => return false,
                Some(Step::Bind { pod, node }) => self.bind(pod, node),
                Some(Step::Unschedulable {
                    pod,
                    message,
                    preemption,
                }) => {
                    self.recorder
                        .event(&reference(&pod), true, "FailedScheduling", &message);
                    self.reports.put(Report {
                        pod,
                        reason: "Unschedulable",
                        message,
                        preemption,
                    });
                }
            }
        }
        true
    }

    fn bind(&mut self, pod: Arc<Pod>, node: Arc<str>) {
        self.binds += 1;
        let (client, recorder) = (self.client.clone(), self.recorder.clone());
        self.tasks.spawn(async move {
            if bind(&client, &pod, &node).await {
                let text = format!(
                    "Successfully assigned {}/{} to {node}",
                    pod.namespace, pod.name
                );
                recorder.event(&reference(&pod), false, "Scheduled", &text);
                Done::Bound
            } else {
                Done::NotBound(pod.uid.clone())
            }
        });
    }

    fn send_reports(&mut self) {
        while self.reports.in_flight < REPORTS_IN_FLIGHT {
            let Some(report) = self.reports.next() else {
                return;
            };
            let current = self.pods.get(&report.pod.namespace, &report.pod.name);
            let (client, recorder) = (self.client.clone(), self.recorder.clone());
            let name = self.name.clone();
            self.reports.in_flight += 1;
            self.tasks.spawn(async move {
                tell(&client, recorder.clock(), &report, current.as_deref()).await;
                if let Some((node, victims)) = &report.preemption {
                    for victim in victims {
                        evict(&client, &recorder, &name, victim, &report.pod, node).await;
                    }
                }
                Done::Reported
            });
        }
    }

    fn finished(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Bound) => self.binds = self.binds.saturating_sub(1),
            Ok(Done::NotBound(uid)) => {
                self.binds = self.binds.saturating_sub(1);
                let now = self.now_ms();
                self.core.not_bound(&uid, now);
            }
            Ok(Done::Reported) => self.reports.in_flight = self.reports.in_flight.saturating_sub(1),
            Err(e) => tracing::error!("a task of the scheduler failed: {e}"),
        }
    }

    /// Sleeps until something happens.
    async fn wait(&mut self, feeds: &mut Feeds) -> Result<(), Error> {
        // While all bindings are under way a pod that waits is no reason to wake.
        let due = self
            .core
            .next_due_ms()
            .filter(|_| self.binds < self.most_binds);
        let at = due.map(|ms| self.start + Duration::from_millis(ms));
        let sleep = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => {}
            () = sleep => {}
            Some(done) = self.tasks.join_next() => self.finished(done),
            change = feeds.nodes.recv() => self.node(&change.ok_or(Error::WatchEnded("nodes"))?),
            change = feeds.pods.recv() => self.pod(&change.ok_or(Error::WatchEnded("pods"))?),
            Some(change) = feeds.namespaces.recv() => self.namespace(&change),
        }
        Ok(())
    }
}

fn is_gated(pod: &ApiPod, scheduler: &str) -> bool {
    pod.spec.as_ref().is_some_and(|s| {
        s.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty())
            && s.scheduler_name.as_deref().unwrap_or("default-scheduler") == scheduler
    })
}

fn scheduled(pod: &ApiPod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "PodScheduled")
}

fn scheduled_reason(pod: &ApiPod) -> Option<&str> {
    scheduled(pod)?.reason.as_deref()
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace.to_string()),
        name: Some(pod.name.clone()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    }
}

fn api(client: &Client, pod: &Pod) -> Api<ApiPod> {
    Api::namespaced(client.clone(), &pod.namespace)
}

/// Binds; true when the pod is on the node. When the outcome is unknown it is found out first,
/// since the room may not be given away before.
async fn bind(client: &Client, pod: &Pod, node: &str) -> bool {
    let api = api(client, pod);
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.to_string()),
            uid: Some(pod.uid.to_string()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let answer: Result<serde_json::Value, kube::Error> = api
        .create_subresource("binding", &pod.name, &PostParams::default(), &binding)
        .await;
    match answer {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
            tracing::debug!(
                "{}/{}: not bound: {}",
                pod.namespace,
                pod.name,
                status.message
            );
            false
        }
        Err(e) => {
            tracing::debug!("{}/{}: bound or not: {e}", pod.namespace, pod.name);
            was_bound(&api, pod, node).await
        }
    }
}

/// Asks until there is an answer.
async fn was_bound(api: &Api<ApiPod>, pod: &Pod, node: &str) -> bool {
    loop {
        tokio::time::sleep(ASK_AGAIN).await;
        match api.get_opt(&pod.name).await {
            Ok(Some(now)) if now.metadata.uid.as_deref() == Some(&*pod.uid) => {
                let on = now.spec.and_then(|s| s.node_name);
                return on.as_deref() == Some(node);
            }
            Ok(_) => return false,
            Err(e) => tracing::debug!("{}/{}: {e}", pod.namespace, pod.name),
        }
    }
}

/// Writes the condition, if it says something new.
async fn tell(client: &Client, clock: Clock, report: &Report, current: Option<&ApiPod>) {
    let pod = &report.pod;
    let known = current.filter(|c| c.metadata.uid.as_deref() == Some(&*pod.uid));
    let before = known.and_then(scheduled);
    let nominated = report.preemption.as_ref().map(|(node, _)| node.to_string());
    let nominated_before = known
        .and_then(|p| p.status.as_ref())
        .and_then(|s| s.nominated_node_name.clone());
    let told = before.is_some_and(|c| {
        c.status == "False"
            && c.reason.as_deref() == Some(report.reason)
            && c.message.as_deref() == Some(&report.message)
    });
    if told && (nominated.is_none() || nominated == nominated_before) {
        return;
    }
    let since = before.filter(|c| c.status == "False");
    let since = since.and_then(|c| c.last_transition_time.clone());
    let mut status = json!({"conditions": [{
        "type": "PodScheduled",
        "status": "False",
        "reason": report.reason,
        "message": report.message,
        "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or_else(|| Time(clock.now_in_seconds())),
        "observedGeneration": known.and_then(|p| p.metadata.generation),
    }]});
    if let (Some(node), Some(fields)) = (nominated, status.as_object_mut()) {
        fields.insert("nominatedNodeName".into(), node.into());
    }
    patch_status(client, pod, status).await;
}

async fn patch_status(client: &Client, pod: &Pod, status: serde_json::Value) {
    // The UID makes sure that it is not another pod of the same name.
    let patch = json!({"metadata": {"uid": *pod.uid}, "status": status});
    let sent = api(client, pod)
        .patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await;
    if let Err(e) = sent {
        tracing::debug!("status of {}/{}: {e}", pod.namespace, pod.name);
    }
}

/// Deletes a victim gracefully, and says why.
async fn evict(
    client: &Client,
    recorder: &Recorder,
    scheduler: &str,
    victim: &Pod,
    by: &Pod,
    node: &str,
) {
    if victim.terminating {
        return;
    }
    let condition = json!({"conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": Time(recorder.clock().now_in_seconds()),
    }]});
    patch_status(client, victim, condition).await;
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: Some(victim.uid.to_string()),
        resource_version: None,
    });
    match api(client, victim).delete(&victim.name, &params).await {
        Ok(_) => recorder.event(
            &reference(victim),
            false,
            "Preempted",
            &format!("Preempted by pod {} on node {node}", by.uid),
        ),
        Err(e) => tracing::debug!("preempting {}/{}: {e}", victim.namespace, victim.name),
    }
}
