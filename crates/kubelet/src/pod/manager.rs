//! Feeds the tasks of pods: the watch of pods bound to this node, the runtime's events, and
//! changes of objects. Owns no state of a pod.

use super::deps::Deps;
use super::handle::{End, Handle, Origin, Snapshot};
use super::runtime_state::label;
use super::static_pods::Statics;
use super::status::PREEMPTING;
use super::worker;
use super::{runtime_state, spec};
use crate::csi::volume_limits;
use crate::events::Severity;
use crate::folder;
use crate::log_links::Links;
use crate::metrics::{METRICS, STARTS};
use crate::objects;
use client::reflector::Objects;
use clock::Instant;
use futures::StreamExt;
use host::runtime::{Event, State};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Config};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Between tries to subscribe to the runtime's events.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

/// Pause after the first failure to remove an orphaned sandbox: that of the next list.
const ORPHAN_PAUSE: Duration = Duration::from_secs(30);
/// The longest such pause. 16 minutes: what fails for so long needs an administrator.
const ORPHAN_PAUSE_MAX: Duration = Duration::from_secs(960);

/// Sandboxes that could not be removed: how often in a row, and when they are tried again.
/// Holds only ones that the runtime has.
#[derive(Debug, Default)]
struct Stubborn(HashMap<String, (u32, Instant)>);

impl Stubborn {
    fn may_try(&self, id: &str, now: Instant) -> bool {
        self.0.get(id).is_none_or(|(_, again)| *again <= now)
    }

    /// Notes a failure; gives the pause until the next try.
    fn failed(&mut self, id: &str, now: Instant) -> Duration {
        let failures = self.0.get(id).map_or(0, |(failures, _)| *failures);
        // Doubled five times, it is at its longest.
        let pause = (ORPHAN_PAUSE * (1 << failures.min(5))).min(ORPHAN_PAUSE_MAX);
        self.0.insert(id.to_owned(), (failures + 1, now + pause));
        pause
    }

    fn keep(&mut self, present: &HashSet<String>) {
        self.0.retain(|id, _| present.contains(id));
    }
}

/// All pods of this node.
#[derive(Debug)]
pub struct Pods {
    pub(super) deps: Arc<Deps>,
    /// By UID; in its order, so that what wakes all of them always does so in the same one.
    pub(super) handles: Mutex<BTreeMap<String, Handle>>,
    /// Pods of files, and what the API shows of them.
    pub(super) statics: Statics,
    /// All pods were listed once: before, nothing is known to be an orphan.
    listed: AtomicBool,
    orphans: Mutex<Stubborn>,
}

impl Pods {
    /// No pods yet.
    #[must_use]
    pub fn new(deps: Arc<Deps>) -> Arc<Self> {
        Arc::new(Self {
            deps,
            handles: Mutex::default(),
            statics: Statics::default(),
            listed: AtomicBool::new(false),
            orphans: Mutex::default(),
        })
    }

    /// Runs until the shutdown. Containers are left as they are.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let work = async {
            tokio::join!(
                self.follow_pods(),
                self.follow_runtime(),
                self.relist(),
                self.follow_objects(),
                self.follow_wakes(),
                self.follow_preempted(),
                self.follow_volume_limits(),
                self.follow_devices()
            );
        };
        tokio::select! {
            biased;
            () = work => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// What all pods are now.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        self.handles
            .lock()
            .values()
            .map(|h| h.snapshot.load_full())
            .collect()
    }

    /// A pod by namespace and name; the newest, if an older one of that name is still ending.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Snapshot>> {
        self.snapshots()
            .into_iter()
            .filter(|s| spec::namespace(&s.pod) == namespace && spec::name(&s.pod) == name)
            .max_by_key(|s| s.pod.metadata.creation_timestamp.as_ref().map(|t| t.0))
    }

    /// Makes the node end a pod. False if there is no such pod.
    pub fn end(&self, uid: &str, end: End) -> bool {
        let handles = self.handles.lock();
        let Some(handle) = handles.get(uid) else {
            return false;
        };
        handle.desired.send_modify(|d| d.end = Some(end));
        true
    }

    async fn follow_pods(self: &Arc<Self>) {
        let api: kube::Api<Pod> = kube::Api::all(self.deps.client.clone());
        let config =
            Config::default().fields(&format!("spec.nodeName={}", self.deps.config.node_name));
        let mut events = std::pin::pin!(client::events(self.deps.random.clone(), api, config));
        let mut pods = Objects::default();
        while let Some(event) = events.next().await {
            let complete = matches!(event, watcher::Event::InitDone);
            for change in pods.take(event) {
                if self.take_mirror(&change) {
                    continue;
                }
                let new = change.new.as_deref().map(spec::uid);
                // Another pod of the same name may have taken its place while the watch was away.
                let left = change.old.filter(|old| new != Some(spec::uid(old)));
                if let Some(old) = left {
                    self.gone(spec::uid(&old));
                }
                if let Some(pod) = change.new {
                    self.set(pod);
                }
            }
            if complete {
                self.all_listed().await;
            }
        }
    }

    fn set(self: &Arc<Self>, pod: Arc<Pod>) {
        let uid = spec::uid(&pod).to_owned();
        let mut handles = self.handles.lock();
        match handles.get(&uid).filter(|h| !h.task.is_finished()) {
            Some(handle) => handle.desired.send_modify(|d| d.pod = pod),
            None => {
                let handle = worker::start(self.deps.clone(), pod, Origin::Api);
                handles.insert(uid, handle);
            }
        }
    }

    pub(super) fn gone(&self, uid: &str) {
        // Nobody counts it any more, so what is sent in its place must fit, although something of
        // it may still be ending, as upstream.
        self.deps.accounts.forget(uid);
        let mut handles = self.handles.lock();
        handles.retain(|_, h| !h.task.is_finished());
        if let Some(handle) = handles.get(uid) {
            handle.desired.send_modify(|d| d.gone = true);
        }
    }

    /// What the runtime and the disk have of pods that were not listed goes.
    async fn all_listed(self: &Arc<Self>) {
        self.listed.store(true, Ordering::Release);
        self.deps.listed.send_replace(true);
        if let Err(e) = self.remove_orphans().await {
            tracing::warn!(error = %e, "looking for orphaned pods failed");
        }
    }

    /// Stops and removes what belongs to no pod that is known. What there is, is read before
    /// what is known: a pod that begins meanwhile is not an orphan.
    async fn remove_orphans(&self) -> Result<(), host::runtime::Error> {
        if self.deps.config.static_pods.is_some() && !self.statics.are_read() {
            // Why they are not is in the log.
            tracing::debug!("no pod is an orphan before the files of static pods are read");
            return Ok(());
        }
        let sandboxes = self.deps.runtime.sandboxes(None).await?;
        let folders = self.deps.volumes.known();
        let groups = self.groups();
        let claimed = self.deps.dra.pods();
        let logs = folder::entries_or_none(&self.deps.config.log_dir);
        let known: HashSet<String> = self.handles.lock().keys().cloned().collect();
        // What of them may run still.
        let mut staying: HashSet<String> = HashSet::new();
        let mut gone = Vec::new();
        let present: HashSet<String> = sandboxes.iter().map(|s| s.id.clone()).collect();
        for sandbox in sandboxes {
            let meta = sandbox.pod;
            let uid = sandbox
                .labels
                .get(label::POD_UID)
                .cloned()
                .unwrap_or(meta.uid);
            if known.contains(&uid) {
                continue;
            }
            let now = Instant::now();
            if !self.orphans.lock().may_try(&sandbox.id, now) {
                staying.insert(uid);
                continue;
            }
            tracing::info!(
                pod = meta.name,
                namespace = meta.namespace,
                "removing a pod that the API does not know"
            );
            // One that cannot be removed, such as by a network plugin that fails, is not a reason
            // to leave the others, and none to try without pause.
            if let Err(error) = self.remove_sandbox(&sandbox.id).await {
                let pause = self.orphans.lock().failed(&sandbox.id, now);
                tracing::warn!(
                    pod = meta.name,
                    namespace = meta.namespace,
                    %error,
                    again_in_seconds = pause.as_secs(),
                    "removing an orphaned pod failed"
                );
                staying.insert(uid);
                continue;
            }
            let mut pod = Pod::default();
            pod.metadata.name = Some(meta.name);
            pod.metadata.namespace = Some(meta.namespace);
            pod.metadata.uid = Some(uid);
            gone.push(pod);
        }
        self.orphans.lock().keep(&present);
        // Nothing is taken from under what could not be stopped.
        let mut busy = known.clone();
        if !staying.is_empty() {
            let all = self.deps.runtime.containers(None).await?;
            let alive = all.iter().filter(|c| c.state == State::Running);
            busy.extend(alive.filter_map(|c| c.labels.get(label::POD_UID).cloned()));
        }
        // A pod may have come back meanwhile, as one of a file has its UID again.
        let has_come = |uid: &str| self.handles.lock().contains_key(uid);
        // A pod may have had several.
        for pod in &gone {
            if !staying.contains(spec::uid(pod)) && !has_come(spec::uid(pod)) {
                super::remains::remove_files(&self.deps, pod).await;
            }
        }
        let is_unused = |uid: &str| !busy.contains(uid) && !has_come(uid);
        for uid in folders.iter().filter(|uid| is_unused(uid)) {
            if let Err(e) = self.deps.volumes.release(uid).await {
                tracing::warn!(uid, error = %e, "removing an orphaned folder failed");
            } else if !staying.contains(uid) {
                self.deps.user_ids.forget(uid);
            }
        }
        let is_orphan =
            |uid: &str| !known.contains(uid) && !staying.contains(uid) && !has_come(uid);
        super::remains::remove_orphaned_logs(&logs, is_orphan);
        if let Some(links) = Links::of(&self.deps.config) {
            links.tidy();
        }
        for uid in claimed.iter().filter(|uid| is_unused(uid)) {
            if let Err(error) = self.deps.dra.release(uid).await {
                tracing::warn!(
                    uid,
                    error,
                    "unpreparing an orphan's dynamic resources failed"
                );
            }
        }
        // What runs in them is ended.
        let ends = |uid: &str| is_unused(uid) && !staying.contains(uid);
        for (uid, group) in groups.iter().filter(|(uid, _)| ends(uid)) {
            let has_come = || has_come(uid);
            if let Err(e) = super::remains::remove_group(&self.deps, group, has_come).await {
                tracing::debug!(uid, error = %e, "an orphaned group could not be removed");
            }
        }
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), host::runtime::Error> {
        self.deps.runtime.stop_sandbox(id).await?;
        self.deps.runtime.remove_sandbox(id).await
    }

    /// Control groups of pods: the pod's UID and the group.
    fn groups(&self) -> Vec<(String, String)> {
        let top = self.deps.config.kubepods();
        let parents = ["", "/burstable", "/besteffort"].map(|class| format!("{top}{class}"));
        let of = |parent: String| {
            let children = self.deps.cgroups.children(&parent);
            children.into_iter().filter_map(move |child| {
                let uid = child.strip_prefix("pod")?.to_owned();
                Some((uid, format!("{parent}/{child}")))
            })
        };
        parents.into_iter().flat_map(of).collect()
    }

    /// The runtime's events wake the pods that they are about.
    async fn follow_runtime(&self) {
        loop {
            match self.deps.runtime.events().await {
                Ok(mut stream) => {
                    tracing::debug!("following the runtime's events");
                    self.poke_all();
                    while let Some(event) = stream.next().await {
                        tracing::trace!(?event, "event of the runtime");
                        self.poke_owner(&event);
                    }
                }
                Err(e) => tracing::debug!(error = %e, "no events from the runtime; trying again"),
            }
            tokio::time::sleep(RESUBSCRIBE).await;
        }
    }

    fn poke_owner(&self, event: &Event) {
        let id = event.container();
        if let Event::CommandStarted { pid, .. } = event {
            // Nothing about the pod changes.
            let (commands, container, pid) = (self.deps.commands.clone(), id.to_owned(), *pid);
            if commands.are_expected(&container) {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a process can make who looks at it wait"
                )]
                tokio::task::spawn_blocking(move || commands.started(&container, pid));
            }
            return;
        }
        let Some(uid) = self.deps.owners.of(id) else {
            return;
        };
        let handles = self.handles.lock();
        let Some(handle) = handles.get(&uid) else {
            return;
        };
        if matches!(event, Event::Exited(_) | Event::Deleted(_)) {
            handle.exits.lock().insert(id.to_owned());
        }
        handle.poke.notify_one();
    }

    fn poke_all(&self) {
        self.handles
            .lock()
            .values()
            .for_each(|h| h.poke.notify_one());
    }

    /// Lists everything now and then and wakes the pods whose containers are not as last seen.
    async fn relist(&self) {
        let mut ticks = tokio::time::interval(self.deps.config.relist_period);
        let mut is_silent = false;
        loop {
            ticks.tick().await;
            let listed = tokio::try_join!(
                self.deps.runtime.sandboxes(None),
                self.deps.runtime.containers(None)
            );
            let (sandboxes, containers) = match listed {
                Ok(listed) => listed,
                Err(error) => {
                    // Each failure is counted; it is said once until there is an answer again.
                    if !std::mem::replace(&mut is_silent, true) {
                        tracing::warn!(%error, "what runs cannot be listed");
                    }
                    continue;
                }
            };
            is_silent = false;
            STARTS.listed(self.deps.clock.now());
            let mut now: HashMap<String, HashSet<(String, bool)>> = HashMap::new();
            for s in sandboxes {
                let uid = s.labels.get(label::POD_UID).cloned().unwrap_or_default();
                now.entry(uid).or_default().insert((s.id, s.ready));
            }
            for c in containers {
                let runs = c.state == State::Running;
                let uid = c.labels.get(label::POD_UID).cloned().unwrap_or_default();
                now.entry(uid).or_default().insert((c.id, runs));
            }
            self.remove_unknown(now.keys()).await;
            let empty = HashSet::new();
            for (uid, handle) in self.handles.lock().iter() {
                let before = states(&handle.snapshot.load().seen);
                if now.get(uid).unwrap_or(&empty) != &before {
                    handle.poke.notify_one();
                }
            }
        }
    }

    /// A sandbox may outlive its pod, if the pod ended while the sandbox was being made; a folder
    /// may, if a volume could not be unmounted; a group, if something ran in it.
    async fn remove_unknown(&self, mut uids: impl Iterator<Item = &String>) {
        let folders = self.deps.volumes.known();
        let claimed = self.deps.dra.pods();
        let groups = self.groups();
        let is_unknown = {
            let handles = self.handles.lock();
            let groups = groups.iter().map(|(uid, _)| uid);
            let mut all = folders.iter().chain(&claimed).chain(groups);
            uids.any(|uid| !handles.contains_key(uid)) || all.any(|uid| !handles.contains_key(uid))
        };
        if is_unknown
            && self.listed.load(Ordering::Acquire)
            && let Err(e) = self.remove_orphans().await
        {
            tracing::debug!(error = %e, "removing what belongs to no pod failed");
        }
    }

    /// A device that is no longer healthy shows in its pod's status.
    async fn follow_devices(&self) {
        let mut plugins = self.deps.devices.health_changes();
        let mut drivers = self.deps.dra.health_changes();
        loop {
            let changed = tokio::select! {
                biased;
                changed = plugins.changed() => changed,
                changed = drivers.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            self.poke_all();
        }
    }

    /// Ends the pods whose place one gets that the cluster needs.
    async fn follow_preempted(&self) {
        loop {
            for (uid, resource) in self.deps.accounts.to_end().await {
                let Some(pod) = self
                    .handles
                    .lock()
                    .get(&uid)
                    .map(|h| h.desired.borrow().pod.clone())
                else {
                    continue;
                };
                let message = "Preempted in order to admit critical pod";
                let (recorder, warning) = (&self.deps.recorder, Severity::Warning);
                recorder.pod(&pod, None, warning, PREEMPTING, message);
                METRICS.preempted(&resource);
                let end = End {
                    reason: PREEMPTING.into(),
                    message: message.into(),
                    grace_seconds: spec::grace_seconds(&pod),
                };
                self.end(&uid, end);
            }
        }
    }

    /// Ends the pods whose volumes are more than the node can have: nothing of them was started.
    async fn follow_volume_limits(&self) {
        loop {
            for uid in self.deps.csi.rejected().await {
                let handles = self.handles.lock();
                let pod = handles.get(&uid).map(|h| h.desired.borrow().pod.clone());
                drop(handles);
                let Some(pod) = pod else { continue };
                let (reason, message) = (volume_limits::REASON, volume_limits::MESSAGE);
                let (recorder, warning) = (&self.deps.recorder, Severity::Warning);
                recorder.pod(&pod, None, warning, reason, message);
                STARTS.rejected(reason);
                let end = End {
                    reason: reason.into(),
                    message: message.into(),
                    grace_seconds: spec::grace_seconds(&pod),
                };
                self.end(&uid, end);
            }
        }
    }

    /// A changed ConfigMap or Secret wakes the pods that use it.
    async fn follow_objects(&self) {
        let changes = self.deps.objects.changes();
        self.refresh(changes, |key, pod| objects::of_pod(pod).contains(key))
            .await;
    }

    /// Changed trust anchors and certificates wake the pods that show them.
    async fn follow_wakes(&self) {
        let changes = self.deps.volumes.0.wakes.listen();
        self.refresh(changes, |wake, pod| wake.concerns(pod)).await;
    }

    /// Brings volumes of those pods up to date that a change concerns; of all, where changes were
    /// missed.
    async fn refresh<T: Clone>(
        &self,
        mut changes: broadcast::Receiver<T>,
        concerns: impl Fn(&T, &Pod) -> bool,
    ) {
        loop {
            let change = match changes.recv().await {
                Ok(change) => Some(change),
                Err(broadcast::error::RecvError::Lagged(_)) => None,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            for handle in self.handles.lock().values() {
                let pod = handle.desired.borrow().pod.clone();
                if change.as_ref().is_none_or(|c| concerns(c, &pod)) {
                    handle.objects_changed.store(true, Ordering::Release);
                    handle.poke.notify_one();
                }
            }
        }
    }
}

fn states(seen: &runtime_state::SeenPod) -> HashSet<(String, bool)> {
    let sandboxes = seen.sandboxes.iter().map(|s| (s.id.clone(), s.ready));
    let containers = seen
        .containers
        .iter()
        .map(|c| (c.id.clone(), c.run == runtime_state::Run::Running));
    sandboxes.chain(containers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_that_cannot_be_removed_is_tried_ever_more_rarely() {
        let mut stubborn = Stubborn::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert!(stubborn.may_try("a", now));
            let pause = stubborn.failed("a", now);
            assert!(!stubborn.may_try("a", now) && stubborn.may_try("b", now));
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 960]);
        stubborn.keep(&HashSet::new());
        assert!(stubborn.0.is_empty());
    }
}
