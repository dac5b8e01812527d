//! The course of a simulation: what the file says happens at its time, hollow nodes start and end the
//! pods that they are given, and the cluster is looked at again and again. All of it is one task, so
//! that it is the same each time.

mod claims;
mod events;
mod nodes;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::settings::NodeUsage;
use client::{Change, Informer};
use clock::{Clock, Instant, Random};
use control::ready::is_pod_ready;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use store::{Memory, Store};
use tokio::sync::mpsc;

use super::census::{Census, is_finished, node_of, phase, uid_of};
use super::file::Description;
use super::hollow::{self, Phase};
use super::listed::{each, rank};
use super::load::Usage;
use super::objects::Objects;
use super::report::Report;
use super::{SimulateError, ending};
use crate::basis::BEGINNING;
use crate::control_plane::{self, Base, Course};
use crate::faults::{Faults, Weather};
use crate::net::Cable;

/// Until controllers and scheduler lead, and the first objects are there.
const SETTLES: Duration = Duration::from_secs(5);
/// Until a node that is back says how its pods are.
const REPORTS_AGAIN: Duration = Duration::from_secs(1);
/// Hollow nodes send no heartbeats; a node that fails is marked by this simulation. So the node
/// controller's own patience must never end.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// A pod, by its names and its UID.
#[derive(Clone)]
struct Who {
    namespace: String,
    name: String,
    uid: String,
}

/// What is to be done at a time.
enum Step {
    Start(Who),
    End(Who),
    Stop(Who),
    /// The node is taken for failed, if it still is silent.
    Silent(String),
    /// A node that failed comes back by itself.
    Back(String),
    Evict(String),
    /// An event of the file, for the so-manieth time.
    Event(usize, u32),
    Sample,
    Finish,
}

/// What a node has in hand for a pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    Starting,
    Running,
    Stopping,
}

struct HollowNode {
    alive: bool,
    pool: Option<usize>,
    zone: Option<String>,
}

struct Play<'a> {
    description: &'a Description,
    client: Client,
    clock: Clock,
    random: Random,
    objects: Objects,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    changes: mpsc::UnboundedReceiver<Change<Pod>>,
    claims: mpsc::UnboundedReceiver<Change<PersistentVolumeClaim>>,
    begin: Instant,
    due: BTreeMap<(Instant, u64), Step>,
    count: u64,
    hollow: BTreeMap<String, HollowNode>,
    /// Nodes that each pool has had.
    numbers: Vec<usize>,
    doing: BTreeMap<String, Doing>,
    addresses: u32,
    /// Nodes whose drain goes on, with what holds it.
    held: BTreeMap<String, String>,
    usage: Arc<Mutex<Usage>>,
    census: Census,
}

fn failed(e: impl std::fmt::Display) -> SimulateError {
    SimulateError::Failed(e.to_string())
}

/// Where the file says nothing of loads, nothing is measured.
fn has_loads(description: &Description) -> bool {
    description.events.iter().any(|e| e.load.is_some())
}

/// What nodes say that their pods use.
fn measured(usage: &Arc<Mutex<Usage>>, clock: Clock) -> NodeUsage {
    let usage = usage.clone();
    Arc::new(move |node: &str| {
        let now = clock.now().as_millisecond();
        usage.lock().text(node, Instant::now(), now)
    })
}

/// Plays a description to its end; the runtime's clock must be paused.
pub(super) async fn play(description: &Description) -> Result<Report, SimulateError> {
    let start = match description.start {
        None => Timestamp::from_second(BEGINNING),
        Some(given) => given.checked_sub(SETTLES),
    };
    let start = start.map_err(failed)?;
    let (clock, random) = (Clock::virtual_from(start), Random::seeded(description.seed));
    let store: Arc<dyn Store> = Arc::new(Memory::new(clock));
    let (served, features) = description.served()?;
    let (kinds, features) = (served.kinds, Arc::new(features));
    let usage: Arc<Mutex<Usage>> = Arc::default();
    let node_usage = has_loads(description).then(|| measured(&usage, clock));
    let base = Base {
        servers: Arc::new(Mutex::new(vec![None])),
        store: store.clone(),
        weather: Weather::new(Faults::default()),
        clock,
        random: random.fork(),
        course: Course {
            node_grace: Some(FOREVER),
            // Addresses of nodes say nothing here, and a range has an end.
            pod_ranges: false,
            ..Course::default()
        },
        configure: Arc::new(move |config: &mut apiserver::Config| {
            config.settings.kinds = kinds.clone();
            config.settings.features = features.clone();
            config.settings.node_usage = node_usage.clone();
        }),
        starting: Arc::default(),
    };
    control_plane::start(&base, 0)
        .await
        .map_err(|e| failed(e.0))?;
    let cable = Cable::within(&base.servers, 0, &base.weather, random.fork());
    let client = cable.client("tiphys-simulate", &["system:masters"]);
    let informers =
        client::Informers::new(client.clone(), clock, random.fork()).keeping(hollow::trim);
    let (pods, nodes): (Informer<Pod>, Informer<Node>) = (informers.of(), informers.of());
    let claims: Informer<PersistentVolumeClaim> = informers.of();
    pods.synced().await;
    nodes.synced().await;
    claims.synced().await;
    tokio::time::sleep(SETTLES).await;
    let mut play = Play {
        description,
        objects: Objects::new(client.clone()),
        client,
        clock,
        random,
        changes: pods.subscribe(),
        claims: claims.subscribe(),
        pods,
        nodes,
        begin: Instant::now(),
        due: BTreeMap::new(),
        count: 0,
        hollow: BTreeMap::new(),
        numbers: vec![0; description.nodes.len()],
        doing: BTreeMap::new(),
        addresses: 0,
        held: BTreeMap::new(),
        usage,
        census: Census::default(),
    };
    for warning in served.warnings {
        play.census.note(warning);
    }
    play.prepare().await?;
    play.run().await?;
    let report = play.report(&store).await;
    control_plane::kill(&base, 0);
    report
}

impl Play<'_> {
    fn at(&mut self, when: Instant, step: Step) {
        self.count += 1;
        self.due.insert((when, self.count), step);
    }

    fn after(&mut self, wait: Duration, step: Step) {
        self.at(Instant::now() + wait, step);
    }

    fn now(&self) -> String {
        self.clock.now_in_seconds().to_string()
    }

    async fn prepare(&mut self) -> Result<(), SimulateError> {
        for (pool, one) in self.description.nodes.iter().enumerate() {
            self.add(pool, one.count, &format!("nodes[{pool}]")).await?;
        }
        let description = self.description;
        let all = description.objects.iter().enumerate();
        let all = all.flat_map(|(at, o)| each(&description.object_path(at), o));
        let (nodes, mut others): (Vec<_>, Vec<_>) = all.partition(|(_, o)| o["kind"] == "Node");
        for (path, node) in nodes {
            self.make(&path, node, "").await?;
        }
        self.begin = Instant::now();
        others.sort_by_key(|(_, o)| rank(o));
        for (path, object) in others {
            self.make(&path, object, "").await?;
        }
        for index in 0..description.events.len() {
            for (turn, time) in (0..).zip(description.times(index)) {
                self.at(self.begin + time, Step::Event(index, turn));
            }
        }
        let (every, end) = (description.sample_every(), description.duration.0);
        let mut sample = Duration::ZERO;
        while sample < end {
            self.at(self.begin + sample, Step::Sample);
            sample += every;
        }
        self.at(self.begin + end, Step::Sample);
        self.at(self.begin + end, Step::Finish);
        Ok(())
    }

    async fn run(&mut self) -> Result<(), SimulateError> {
        loop {
            // All that is known at this moment comes before what is to be done at it.
            while let Ok(change) = self.changes.try_recv() {
                self.take(&change);
            }
            while let Ok(change) = self.claims.try_recv() {
                self.provision(&change).await;
            }
            let Some((at, _)) = self.due.first_key_value().map(|(key, _)| *key) else {
                return Ok(());
            };
            if at > Instant::now() {
                tokio::select! {
                    biased;
                    change = self.changes.recv() => match change {
                        Some(change) => self.take(&change),
                        None => return Err(failed("pods are not watched any more")),
                    },
                    change = self.claims.recv() => match change {
                        Some(change) => self.provision(&change).await,
                        None => return Err(failed("claims are not watched any more")),
                    },
                    () = tokio::time::sleep_until(at) => {}
                }
                continue;
            }
            let Some((_, step)) = self.due.pop_first() else {
                return Ok(());
            };
            match step {
                Step::Finish => return Ok(()),
                Step::Sample => {
                    let (nodes, pods) = (self.nodes.list(), self.pods.list());
                    let since = at.saturating_duration_since(self.begin);
                    self.census.sample(since, &nodes, &pods);
                }
                Step::Start(who) => self.start(&who).await,
                Step::End(who) => self.end(&who).await,
                Step::Stop(who) => self.stop(&who).await,
                Step::Silent(node) => self.silent(&node).await,
                Step::Back(node) => self.back(&node).await,
                Step::Evict(node) => self.evict(&node).await,
                Step::Event(index, turn) => self.event(index, turn).await?,
            }
        }
    }

    /// A pod has changed: what does its node have to do?
    fn take(&mut self, change: &Change<Pod>) {
        self.census.take(change, Instant::now());
        self.usage.lock().take(change, Instant::now());
        match (&change.old, &change.new) {
            (_, Some(pod)) => self.consider(pod),
            (Some(old), None) => {
                self.doing.remove(uid_of(old));
            }
            (None, None) => {}
        }
    }

    fn consider(&mut self, pod: &Pod) {
        if !node_of(pod).is_some_and(|node| self.is_alive(node)) {
            return;
        }
        let times = &self.description.pods;
        let doing = self.doing.get(uid_of(pod)).copied();
        let who = Who {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
            uid: uid_of(pod).to_owned(),
        };
        let (next, wait, step) = if pod.metadata.deletion_timestamp.is_some() {
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
            let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
            (
                Doing::Stopping,
                times.stop_after.0.min(grace),
                Step::Stop as fn(Who) -> Step,
            )
        } else if phase(pod) == "Pending" {
            // No two starts are alike.
            let part = 0.5 + self.random.fraction();
            let wait = times.start_after.0.mul_f64(part);
            (Doing::Starting, wait, Step::Start as fn(Who) -> Step)
        } else if phase(pod) == "Running" && !is_pod_ready(pod) && doing.is_none() {
            // The node controller said so while nothing was heard of its node.
            (
                Doing::Starting,
                REPORTS_AGAIN,
                Step::Start as fn(Who) -> Step,
            )
        } else if let Some(wait) = hollow::runs_for(pod, times.run_for.0)
            && phase(pod) == "Running"
        {
            (Doing::Running, wait, Step::End as fn(Who) -> Step)
        } else {
            return;
        };
        if doing == Some(next) || doing == Some(Doing::Stopping) {
            return;
        }
        self.doing.insert(who.uid.clone(), next);
        self.after(wait, step(who));
    }

    fn is_alive(&self, node: &str) -> bool {
        self.hollow.get(node).is_some_and(|n| n.alive)
    }

    /// The pod that a step is about, if its node still has that in hand.
    fn in_hand(&mut self, who: &Who, doing: Doing) -> Option<Arc<Pod>> {
        if self.doing.get(&who.uid) != Some(&doing) {
            return None;
        }
        let pod = self.pods.get(&who.namespace, &who.name);
        let pod = pod.filter(|p| uid_of(p) == who.uid);
        let pod = pod.filter(|p| node_of(p).is_some_and(|node| self.is_alive(node)));
        if pod.is_none() {
            self.doing.remove(&who.uid);
        }
        pod
    }

    fn pods_of(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Somebody else may have been faster: then its change is looked at.
    fn written<T>(&mut self, what: &str, done: Result<T, kube::Error>) -> bool {
        match done {
            Ok(_) => return true,
            Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => {}
            Err(e) => self.census.note(format!("{what}: {}", client::said(&e))),
        }
        false
    }

    async fn report_pod(&mut self, pod: &Pod, phase: Phase) -> bool {
        self.addresses += 1;
        let address = Ipv4Addr::from_bits(0x0a00_0000 + (self.addresses & 0x00ff_ffff));
        let known = pod.status.as_ref().and_then(|s| s.pod_ip.clone());
        let address = known.unwrap_or_else(|| address.to_string());
        let patch = Patch::Strategic(hollow::status(pod, phase, &address, &self.now()));
        let api = self.pods_of(&pod.namespace().unwrap_or_default());
        let done = api
            .patch_status(&pod.name_any(), &PatchParams::default(), &patch)
            .await;
        self.written("the status of a pod", done)
    }

    async fn start(&mut self, who: &Who) {
        let Some(pod) = self.in_hand(who, Doing::Starting) else {
            return;
        };
        self.doing.remove(&who.uid);
        self.report_pod(&pod, Phase::Running).await;
    }

    async fn end(&mut self, who: &Who) {
        if let Some(pod) = self.in_hand(who, Doing::Running) {
            self.doing.remove(&who.uid);
            self.report_pod(&pod, Phase::Succeeded).await;
        }
    }

    async fn stop(&mut self, who: &Who) {
        let Some(pod) = self.in_hand(who, Doing::Stopping) else {
            return;
        };
        let policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
        if !is_finished(&pod) && policy != Some("Always") {
            self.report_pod(&pod, Phase::Failed).await;
        }
        let params = DeleteParams::default()
            .grace_period(0)
            .preconditions(Preconditions {
                uid: Some(who.uid.clone()),
                resource_version: None,
            });
        let done = self
            .pods_of(&who.namespace)
            .delete(&who.name, &params)
            .await;
        self.written("the end of a pod", done);
    }
}

/// The end.
impl Play<'_> {
    async fn report(mut self, store: &Arc<dyn Store>) -> Result<Report, SimulateError> {
        let end = ending::Ending::look(&self.client, &self.pods.list()).await;
        let end = end.map_err(|e| failed(client::said(&e)))?;
        let held = std::mem::take(&mut self.held);
        for (node, why) in held {
            let text = format!("the drain of node {node} has not ended: {why}");
            self.census.note(text);
        }
        let census = std::mem::take(&mut self.census);
        Ok(Report {
            seed: self.description.seed,
            virtual_seconds: self.description.duration.0.as_secs(),
            nodes: self.nodes.len(),
            revisions: store.revision().await.map_err(failed)?,
            waits: super::Waits::of(census.waits),
            evictions: census.evictions,
            workloads: end.workloads,
            pending: end.pending,
            notes: census.notes.into_iter().chain(end.notes).collect(),
            samples: census.samples,
        })
    }
}
