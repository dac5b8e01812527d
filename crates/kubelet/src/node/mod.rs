//! The node's own object: registration, status, heartbeat.

pub mod cgroup_driver;
pub mod machine;
pub mod out_of_memory;
pub mod own_object;
mod status;

pub use status::Health;

use crate::config::Config;
use crate::csi::Csi;
use crate::devices::Devices;
use crate::events::{Recorder, Severity};
use crate::node::machine::{Identity, Resources, memory_may_reach_disk};
use crate::node::own_object::OwnNode;
use crate::persisting::Persisting;
use crate::pod::deps::Deps;
use crate::pod::fit::Pressure;
use api::local_volumes::{CAPACITY, ENFORCED, MEASURED, PATH, QUOTA};
use client::reflector::Objects;
use clock::{Instant, Random};
use futures::StreamExt;
use host::runtime::{Condition, Runtime};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::{Config as Watched, Event};
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

const LEASES: &str = "kube-node-lease";
/// Between tries to register: short, since nothing runs before.
const REGISTER_RETRY: Duration = Duration::from_millis(500);
/// Between looks at the status that something else than time asks for, at least.
const LOOK_APART: Duration = Duration::from_millis(500);
/// A lease that is not renewed in this time is asked for again.
const LEASE_TRY: Duration = Duration::from_secs(5);

/// Keeps the node's object.
pub struct NodeKeeper {
    heard: Mutex<RuntimeReport>,
    config: Config,
    client: kube::Client,
    runtime: Arc<dyn Runtime>,
    recorder: Recorder,
    resources: Resources,
    identity: Identity,
    own: Arc<OwnNode>,
    pressure: Arc<Mutex<Pressure>>,
    going_down: clock::watch::Receiver<bool>,
    csi: Arc<Csi>,
    devices: Arc<Devices>,
    /// The status should be looked at now.
    pub changed: Arc<Notify>,
    /// What this kubelet wrote last.
    published: Mutex<Option<NodeStatus>>,
}

/// How long the runtime may say nothing before it counts as down. One call that fails says little;
/// upstream's value.
const SILENCE: Duration = Duration::from_secs(30);

/// What the runtime said last.
#[derive(Default)]
struct RuntimeReport {
    status: Option<(Instant, host::runtime::Health)>,
    version: String,
    images: Vec<host::runtime::Image>,
}

impl std::fmt::Debug for NodeKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeKeeper").finish_non_exhaustive()
    }
}

impl NodeKeeper {
    /// Nothing is registered yet.
    #[must_use]
    pub fn new(deps: &Deps) -> Self {
        Self {
            heard: Mutex::default(),
            config: deps.config.clone(),
            client: deps.client.clone(),
            runtime: deps.runtime.clone(),
            recorder: deps.recorder.clone(),
            resources: deps.resources.clone(),
            identity: Identity::read(&deps.config),
            own: deps.node.clone(),
            pressure: deps.pressure.clone(),
            going_down: deps.going_down.subscribe(),
            csi: deps.csi.clone(),
            devices: deps.devices.clone(),
            changed: deps.node_changed.clone(),
            published: Mutex::default(),
        }
    }

    fn api(&self) -> kube::Api<Node> {
        kube::Api::all(self.client.clone())
    }

    /// Registers the node or takes it over, trying until it works.
    pub async fn register(&self) {
        loop {
            match self.try_register().await {
                Ok(()) => return,
                Err(e) => tracing::warn!(error = %e, "registering the node failed; trying again"),
            }
            tokio::time::sleep(REGISTER_RETRY).await;
        }
    }

    async fn try_register(&self) -> kube::Result<()> {
        let health = self.health().await;
        let mut node = self.fresh();
        node.status = Some(self.status_now(&node, &health, self.recorder.clock().now()));
        match self.api().create(&PostParams::default(), &node).await {
            Ok(_) => {
                if let Some(status) = &node.status {
                    self.say_all(&status::transitions(None, status));
                }
                *self.published.lock() = node.status;
                self.csi.in_use.reported(&health.volumes_in_use);
                Ok(())
            }
            Err(kube::Error::Api(e)) if e.code == 409 => self.adopt().await,
            Err(e) => Err(e),
        }
    }

    /// The node exists: only what this kubelet must say is brought up to date. Labels and
    /// taints that others set stay.
    async fn adopt(&self) -> kube::Result<()> {
        let old = self.api().get(&self.config.node_name).await?;
        let have = old.metadata.labels.clone().unwrap_or_default();
        let labels = self.labels();
        let noted = old.metadata.annotations.clone().unwrap_or_default();
        let annotations = self.annotations();
        let differ = annotations.iter().any(|(k, v)| noted.get(k) != v.as_ref());
        if differ || labels.iter().any(|(k, v)| have.get(k) != Some(v)) {
            let body = json!({"metadata": {"labels": labels, "annotations": annotations}});
            self.api()
                .patch(
                    &self.config.node_name,
                    &PatchParams::default(),
                    &Patch::Merge(body),
                )
                .await?;
        }
        let booted_before = old
            .status
            .as_ref()
            .and_then(|s| s.node_info.as_ref())
            .map(|i| i.boot_id.clone());
        if booted_before.is_some_and(|id| !id.is_empty() && id != self.identity.boot_id) {
            let text = format!(
                "Node {} has been rebooted, boot id: {}",
                self.config.node_name, self.identity.boot_id
            );
            self.recorder
                .node(&self.config.node_name, Severity::Warning, "Rebooted", text);
        }
        self.write_status(&old, &self.health().await).await
    }

    fn labels(&self) -> std::collections::BTreeMap<String, String> {
        let arch = api::version::architecture();
        let mut labels = self.config.labels.clone();
        for (key, value) in [
            ("kubernetes.io/hostname", self.config.node_name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", arch),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        labels
    }

    /// What this node says of the volumes on its disk, without a value: it keeps none; and what its
    /// configuration adds.
    fn annotations(&self) -> std::collections::BTreeMap<String, Option<String>> {
        let dir = self.config.local_volumes.as_deref();
        let size = dir.and_then(|dir| {
            let known = host::mounts::fs_usage(dir).inspect_err(|error| {
                let dir = dir.display();
                tracing::warn!(%dir, %error, "how large the disk of volumes is cannot be read");
            });
            known.ok()
        });
        let size = size.map(|s| i64::try_from(s.capacity_bytes).unwrap_or(i64::MAX));
        let quota = |dir| match host::quota::is_enforced(dir) {
            true => ENFORCED.to_owned(),
            false => MEASURED.to_owned(),
        };
        let volumes = [
            (QUOTA, dir.map(quota)),
            (PATH, dir.map(|d| d.to_string_lossy().into_owned())),
            (
                CAPACITY,
                size.map(|s| api::Quantity::from_bytes(s).to_string()),
            ),
        ];
        let volumes = volumes.map(|(key, value)| (key.to_owned(), value));
        let told = self.config.annotations.clone();
        told.into_iter().chain(volumes).collect()
    }

    fn fresh(&self) -> Node {
        let now = self.recorder.clock().now_in_seconds();
        let taints = self.config.taints.iter().filter_map(|t| taint(t, now));
        let taints: Vec<Taint> = taints.collect();
        let own = self.annotations().into_iter();
        let mut annotations: std::collections::BTreeMap<String, String> =
            own.filter_map(|(k, v)| Some((k, v?))).collect();
        annotations.insert(
            "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
            "true".to_owned(),
        );
        Node {
            metadata: ObjectMeta {
                name: Some(self.config.node_name.clone()),
                labels: Some(self.labels()),
                annotations: Some(annotations),
                ..Default::default()
            },
            spec: Some(k8s_openapi::api::core::v1::NodeSpec {
                taints: (!taints.is_empty()).then_some(taints),
                provider_id: Some(self.config.provider_id.clone()).filter(|id| !id.is_empty()),
                ..Default::default()
            }),
            status: None,
        }
    }

    async fn health(&self) -> Health {
        let answer = self.runtime.health().await;
        let version = self.runtime.version().await;
        let images = self.runtime.images().await;
        let now = Instant::now();
        let mut heard = self.heard.lock();
        if let Ok(version) = version {
            heard.version = format!("{}://{}", version.name, version.version);
        }
        // A list that cannot be read is not an empty one.
        if let Ok(images) = images {
            heard.images = images;
        }
        let mut problems = Vec::new();
        match answer {
            Ok(status) => heard.status = Some((now, status)),
            Err(e) => {
                tracing::warn!(error = %e, "the container runtime does not say how it is");
                let last = heard.status.as_ref().map(|(at, _)| *at);
                if last.is_none_or(|at| now.duration_since(at) > SILENCE) {
                    heard.status = None;
                    problems.push(format!("container runtime is down: {e}"));
                }
            }
        }
        let abilities = heard.status.as_ref().map(|(_, status)| status.clone());
        let conditions = abilities.iter().flat_map(|a| &a.conditions);
        problems.extend(conditions.filter_map(Condition::problem));
        if *self.going_down.borrow() {
            problems.push("node is shutting down".to_owned());
        }
        Health {
            problems,
            runtime_version: heard.version.clone(),
            images: heard.images.clone(),
            pressure: self.pressure.lock().clone(),
            volumes_in_use: self.csi.in_use.names(),
            devices: self.devices.amounts(),
            abilities,
        }
    }

    fn status_now(&self, old: &Node, health: &Health, now: Timestamp) -> NodeStatus {
        status::status_of(
            &self.config,
            &self.resources,
            &self.identity,
            old,
            health,
            now,
        )
    }

    async fn write_status(&self, old: &Node, health: &Health) -> kube::Result<()> {
        let status = self.status_now(old, health, self.recorder.clock().now());
        let changed = status::transitions(old.status.as_ref(), &status);
        let body = json!({"status": status::patch(&status)});
        let api = self.api();
        api.patch_status(
            &self.config.node_name,
            &PatchParams::default(),
            &Patch::Strategic(body),
        )
        .await?;
        *self.published.lock() = Some(status);
        self.csi.in_use.reported(&health.volumes_in_use);
        self.say_all(&changed);
        Ok(())
    }

    fn say_all(&self, changed: &[&str]) {
        for reason in changed {
            let text = format!("Node {} status is now: {reason}", self.config.node_name);
            self.recorder
                .node(&self.config.node_name, Severity::Normal, reason, text);
        }
    }

    /// Says where what pods have in memory may reach a disk all the same.
    pub fn warn_of_swap(&self) {
        let machine = &self.identity;
        if memory_may_reach_disk(machine.swap, &machine.kernel) {
            let (node, warning) = (&self.config.node_name, Severity::Warning);
            let text = "the machine swaps, and its kernel cannot keep volumes in memory from that: secrets and the like may reach the disk";
            let reason = "PossibleMemoryBackedVolumesOnDisk";
            self.recorder.node(node, warning, reason, text);
        }
    }

    /// Writes the status when it changed, and now and then when it did not. A node that was
    /// deleted is registered again.
    pub async fn keep_status(&self) {
        let mut written = Instant::now();
        let mut looked = written;
        let mut ready_reported = false;
        // The first looks come faster: the network is often ready a moment after the start.
        let mut pause = Duration::from_millis(250);
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.changed.notified() => {
                    // However often somebody writes over the status, it is looked at at a pace.
                    let since = looked.elapsed();
                    tokio::time::sleep(LOOK_APART.saturating_sub(since)).await;
                }
            }
            looked = Instant::now();
            match self.look(&mut written).await {
                Ok(true) => {
                    pause = self.config.status_check_period;
                    if !ready_reported {
                        ready_reported = true;
                        self.write_ready_file();
                    }
                }
                Ok(false) => pause = (pause * 2).min(Duration::from_secs(2)),
                Err(e) => {
                    tracing::warn!(error = %e, "writing the node's status failed; trying again");
                    pause = Duration::from_secs(1);
                }
            }
        }
    }

    /// Follows the node's object: where it shows another status than this kubelet wrote, whoever
    /// wrote it, or is gone, the status is looked at now. A node that was silent is taken for
    /// dead; it says otherwise as soon as it hears of that. `random` spreads what begins again.
    pub async fn follow(&self, random: Random) {
        let config = Watched::default().fields(&format!("metadata.name={}", self.config.node_name));
        let mut events = std::pin::pin!(client::events(random, self.api(), config));
        let mut nodes = Objects::default();
        let mut was_closed = false;
        while let Some(event) = events.next().await {
            let complete = matches!(event, Event::InitDone);
            let changes = nodes.take(event);
            let mut wrong = complete && nodes.is_empty();
            for change in changes {
                let new = change.new.as_deref();
                self.own.note(new);
                wrong |= new.is_none_or(|node| self.is_written_over(node));
                if let Some(node) = new {
                    let is_closed = status::is_closed(node);
                    let said = status::opened_or_closed(was_closed, is_closed);
                    self.say_all(said.as_slice());
                    was_closed = is_closed;
                }
            }
            if wrong {
                tracing::debug!("the node's object is not as it was written; looking at it");
                self.changed.notify_one();
            }
        }
    }

    fn is_written_over(&self, node: &Node) -> bool {
        let published = self.published.lock();
        published
            .as_ref()
            .is_some_and(|published| status::differs(node.status.as_ref(), published))
    }

    /// True if the node is ready.
    async fn look(&self, written: &mut Instant) -> kube::Result<bool> {
        let Some(old) = self.api().get_opt(&self.config.node_name).await? else {
            self.try_register().await?;
            return Ok(false);
        };
        let health = self.health().await;
        let new = self.status_now(&old, &health, self.recorder.clock().now());
        let due = written.elapsed() >= self.config.status_report_period;
        if due || status::differs(old.status.as_ref(), &new) {
            self.write_status(&old, &health).await?;
            *written = Instant::now();
        } else {
            self.csi.in_use.reported(&health.volumes_in_use);
        }
        Ok(status::is_ready(Some(&new)))
    }

    fn write_ready_file(&self) {
        if let Some(file) = &self.config.ready_file
            && let Err(e) = std::fs::write(file, b"ready\n")
        {
            tracing::warn!(file = %file.display(), error = %e, "the ready file cannot be written");
        }
    }

    /// Renews the lease that says this node is alive.
    pub async fn keep_lease(&self) {
        let api: kube::Api<Lease> = kube::Api::namespaced(self.client.clone(), LEASES);
        let mut ticks = tokio::time::interval(self.config.lease_period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut known, mut failure) = (false, Persisting::default());
        loop {
            ticks.tick().await;
            let renewal = self.renew(&api, known);
            let renewed = match tokio::time::timeout(LEASE_TRY, renewal).await {
                Ok(renewed) => renewed.map_err(|e| e.to_string()),
                Err(_) => Err("it took too long".to_owned()),
            };
            known = renewed.is_ok();
            match renewed {
                Ok(()) => failure.is_over(),
                Err(error) if failure.failed() => {
                    tracing::warn!(
                        error,
                        "the node's lease cannot be renewed, without which it counts as dead"
                    );
                }
                Err(error) => {
                    tracing::debug!(error, "renewing the lease failed; trying again");
                }
            }
        }
    }

    async fn renew(&self, api: &kube::Api<Lease>, known: bool) -> kube::Result<()> {
        let name = &self.config.node_name;
        let now = self.recorder.clock().now();
        // The API's micro times have six digits.
        let now = Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now);
        let seconds = i32::try_from(self.config.lease_duration.as_secs()).unwrap_or(i32::MAX);
        let spec = LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(MicroTime(now)),
            ..Default::default()
        };
        let body = json!({"spec": spec});
        let patched = api
            .patch(name, &PatchParams::default(), &Patch::Merge(body))
            .await;
        match patched {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(e)) if e.code == 404 => {}
            Err(e) => return Err(e),
        }
        if known {
            tracing::info!("the node's lease was deleted; making it again");
        }
        let node = self.api().get_opt(name).await?;
        let owner = node.and_then(|n| n.metadata.uid).map(|uid| OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid,
            ..Default::default()
        });
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(LEASES.into()),
                owner_references: owner.map(|o| vec![o]),
                ..Default::default()
            },
            spec: Some(spec),
        };
        api.create(&PostParams::default(), &lease).await.map(|_| ())
    }
}

/// `key=value:Effect` or `key:Effect`.
fn taint(text: &str, now: Timestamp) -> Option<Taint> {
    let (pair, effect) = text.rsplit_once(':')?;
    let (key, value) = pair
        .split_once('=')
        .map_or((pair, None), |(k, v)| (k, Some(v)));
    Some(Taint {
        key: key.to_owned(),
        value: value.map(str::to_owned),
        effect: effect.to_owned(),
        time_added: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now))
            .filter(|_| effect == "NoExecute"),
    })
}

/// How long ago a time was; zero for times to come.
#[must_use]
pub fn age(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at).max(SignedDuration::ZERO)).unwrap_or_default()
}
