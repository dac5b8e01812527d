//! A hollow node: what the API sees of a node, without one. It registers, sends heartbeats by its
//! Lease, brings its pods to Running after a while, obeys deletion, and can fall silent, as a
//! machine does that lost its network: its pods run on and nobody hears of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::Informer;
use clock::{Clock, Instant, Random};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::Config;
use kube::{Api, Client, ResourceExt};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Between heartbeats, as a kubelet sends them.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// After this time it looks again although nothing has changed: a request may have failed, or the
/// network may be back.
const LOOK: Duration = Duration::from_secs(1);
/// A container starts, and ends, within so many milliseconds.
const START_MILLIS: u64 = 3_000;
const END_MILLIS: u64 = 1_500;

/// What a node has.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Processors.
    pub cpus: u32,
    pub pods: u32,
}

/// A node that runs; it ends when it is dropped.
pub struct HollowNode {
    name: String,
    silent: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

struct Shell {
    name: String,
    size: Size,
    client: Client,
    clock: Clock,
    random: Random,
    silent: Arc<AtomicBool>,
}

/// When the next step of each pod is due: its end, or its start.
#[derive(Default)]
struct Steps {
    due: BTreeMap<(String, bool), Instant>,
    addresses: u32,
}

impl Steps {
    fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        // A step that was taken is seen when the watch brings its outcome.
        self.due.values().copied().filter(|at| *at > now).min()
    }
}

impl HollowNode {
    pub(crate) fn start(
        name: &str,
        size: Size,
        client: Client,
        (clock, random): (Clock, Random),
    ) -> Self {
        let silent = Arc::new(AtomicBool::new(false));
        let shell = Arc::new(Shell {
            name: name.to_owned(),
            size,
            client,
            clock,
            random,
            silent: silent.clone(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(shell.clone().beat());
        tasks.spawn(shell.work());
        Self {
            name: name.to_owned(),
            silent,
            _tasks: tasks,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Loses its network, or gets it back.
    pub fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }
}

impl Shell {
    fn hears(&self) -> bool {
        !self.silent.load(Ordering::SeqCst)
    }

    fn now(&self) -> Value {
        json!(self.clock.now_in_seconds().to_string())
    }

    async fn beat(self: Arc<Self>) {
        loop {
            if self.hears()
                && let Err(e) = self.heartbeat().await
            {
                tracing::debug!("{}: heartbeat: {e}", self.name);
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    async fn heartbeat(&self) -> kube::Result<()> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let renewed = format!("{:.6}", self.clock.now());
        let renewal = json!({ "spec": { "renewTime": renewed } });
        let params = PatchParams::default();
        match api.patch(&self.name, &params, &Patch::Merge(renewal)).await {
            Err(kube::Error::Api(e)) if e.code == 404 => {}
            other => return other.map(drop),
        }
        let lease = json!({
            "metadata": { "name": self.name },
            "spec": {
                "holderIdentity": self.name, "leaseDurationSeconds": 10, "renewTime": renewed,
            },
        });
        let lease = serde_json::from_value(lease).map_err(kube::Error::SerdeError)?;
        api.create(&PostParams::default(), &lease).await.map(drop)
    }

    async fn work(self: Arc<Self>) {
        let mine = |field: &str| Config::default().fields(&format!("{field}={}", self.name));
        let (all, nodes) = (Api::all(self.client.clone()), Api::all(self.client.clone()));
        let pods: Informer<Pod> = Informer::start(self.random.clone(), all, mine("spec.nodeName"));
        let own: Informer<Node> =
            Informer::start(self.random.clone(), nodes, mine("metadata.name"));
        let (mut of_pods, mut of_own) = (pods.subscribe(), own.subscribe());
        let mut steps = Steps::default();
        own.synced().await;
        loop {
            if self.hears()
                && let Err(e) = self.look(&own, &pods, &mut steps).await
            {
                tracing::debug!("{}: {e}", self.name);
            }
            let next = steps.next().unwrap_or_else(|| Instant::now() + LOOK);
            tokio::select! {
                biased;
                _ = of_pods.recv() => {}
                _ = of_own.recv() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    async fn look(
        &self,
        own: &Informer<Node>,
        pods: &Informer<Pod>,
        steps: &mut Steps,
    ) -> kube::Result<()> {
        self.own_node(own.get("", &self.name)).await?;
        let known = pods.list();
        let is_there = |uid: &String| known.iter().any(|p| p.uid().as_ref() == Some(uid));
        steps.due.retain(|(uid, _), _| is_there(uid));
        for pod in &known {
            // One that fails must not keep the others from their turn.
            if let Err(e) = self.pod(steps, pod).await {
                tracing::debug!("{}: pod {}: {e}", self.name, pod.name_any());
            }
        }
        Ok(())
    }

    /// Registers the node, and says again that it is ready when somebody else says otherwise.
    async fn own_node(&self, known: Option<Arc<Node>>) -> kube::Result<()> {
        let api: Api<Node> = Api::all(self.client.clone());
        let Some(node) = known else {
            let (cpu, pods) = (self.size.cpus.to_string(), self.size.pods.to_string());
            let has = json!({ "cpu": cpu, "memory": "16Gi", "pods": pods });
            let node = json!({
                "metadata": {
                    "name": self.name, "labels": { "kubernetes.io/hostname": self.name },
                },
                "status": {
                    "capacity": has, "allocatable": has, "conditions": [self.ready()],
                },
            });
            let node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
            return api.create(&PostParams::default(), &node).await.map(drop);
        };
        let mut conditions = node
            .status
            .iter()
            .flat_map(|s| s.conditions.iter().flatten());
        if conditions.any(|c| c.type_ == "Ready" && c.status == "True") {
            return Ok(());
        }
        let patch = json!({ "status": { "conditions": [self.ready()] } });
        let params = PatchParams::default();
        api.patch_status(&self.name, &params, &Patch::Strategic(patch))
            .await
            .map(drop)
    }

    fn ready(&self) -> Value {
        json!({
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "hollow",
            "lastHeartbeatTime": self.now(), "lastTransitionTime": self.now(),
        })
    }

    fn within(&self, millis: u64) -> Instant {
        let wait = self.random.clone().random_range(0..millis);
        Instant::now() + Duration::from_millis(wait)
    }

    async fn pod(&self, steps: &mut Steps, pod: &Pod) -> kube::Result<()> {
        let uid = pod.uid().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let ends = pod.metadata.deletion_timestamp.is_some();
        if !ends && phase == Some("Running") {
            return Ok(());
        }
        let most = if ends { END_MILLIS } else { START_MILLIS };
        let due = steps
            .due
            .entry((uid.clone(), ends))
            .or_insert_with(|| self.within(most));
        if *due > Instant::now() {
            return Ok(());
        }
        // Until the outcome is seen, or if it fails: not at once again.
        *due = Instant::now() + LOOK;
        if ends {
            return self.remove(pod, uid).await;
        }
        steps.addresses += 1;
        self.run(pod, steps.addresses).await
    }

    async fn remove(&self, pod: &Pod, uid: String) -> kube::Result<()> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(uid),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        api.delete(&pod.name_any(), &params).await.map(drop)
    }

    async fn run(&self, pod: &Pod, nth: u32) -> kube::Result<()> {
        let containers = pod.spec.iter().flat_map(|s| &s.containers);
        let statuses: Vec<Value> = containers
            .map(|c| {
                json!({
                    "name": c.name, "image": c.image, "imageID": "", "ready": true,
                    "started": true, "restartCount": 0,
                    "state": { "running": { "startedAt": self.now() } },
                })
            })
            .collect();
        let conditions = [
            "PodReadyToStartContainers",
            "Initialized",
            "Ready",
            "ContainersReady",
        ]
        .map(|t| json!({ "type": t, "status": "True", "lastTransitionTime": self.now() }));
        let own: u32 = self.name.bytes().map(u32::from).sum();
        let ip = format!("10.244.{}.{}", own % 250, nth % 250 + 1);
        let patch = json!({
            "metadata": { "uid": pod.uid() },
            "status": {
                "phase": "Running", "startTime": self.now(), "podIP": ip, "podIPs": [{ "ip": ip }],
                "conditions": conditions, "containerStatuses": statuses,
            },
        });
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let params = PatchParams::default();
        api.patch_status(&pod.name_any(), &params, &Patch::Strategic(patch))
            .await
            .map(drop)
    }
}
