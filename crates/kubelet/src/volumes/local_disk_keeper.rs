//! Keeps the volumes and snapshots on this node's own disk: makes the folder of a new one, if need be
//! as a copy of another, holds it to its size, and removes that of one whose object is being deleted,
//! which only then may go. A folder is removed by that order alone; one whose object is not shown may
//! be another cluster's, or older than a backup.
//!
//! What an object wants is `disk_task`'s.

mod disk_task;

use super::local_disk::Disk;
use crate::events::Severity;
use crate::pod::deps::Deps;
use api::Quantity;
use api::local_volumes::{FINALIZER, LIMIT, MEASURED, NODE_LABEL, SNAPSHOTS, snapshot_handle};
use client::Change;
use client::reflector::Objects;
use clock::Instant;
use disk_task::{DiskObject, DiskTask, Removal, SNAPSHOT};
use futures::StreamExt;
use futures::stream::BoxStream;
use host::copy::Copied;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Between looks at what is to be done, such as to remove what a pod may still have.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest such pause: what fails for so long needs an administrator.
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// What can happen.
enum DiskEvent {
    Volume(Box<Event<PersistentVolume>>),
    Content(Box<Event<DynamicObject>>),
    Copied(io::Result<Copied>),
    Tick,
}

/// Runs as long as the kubelet; at once over where it keeps no volumes.
pub async fn run(deps: Arc<Deps>) {
    let Some(disk) = deps.volumes.0.disk.clone() else {
        return;
    };
    let api: Api<PersistentVolume> = Api::all(deps.client.clone());
    let mut of_volumes = client::events(deps.random.clone(), api, own(&deps)).boxed();
    let mut volumes = Objects::default();
    let mut snapshots = Snapshots::none();
    let mut keeper = Keeper {
        deps,
        disk,
        due: BTreeMap::new(),
        copying: None,
        failures: Failures::new(),
    };
    let (mut pause, mut next) = (AGAIN, Instant::now());
    loop {
        if snapshots.follow(&keeper.deps) {
            // Those whose kind is not followed any more have gone.
            keeper
                .due
                .retain(|_, w| matches!(w.object, DiskObject::Volume(_)));
        }
        let heard = tokio::select! {
            biased;
            event = of_volumes.next() => match event {
                Some(event) => DiskEvent::Volume(Box::new(event)),
                None => return,
            },
            Some(event) = snapshots.events.next() => DiskEvent::Content(Box::new(event)),
            done = ended(&mut keeper.copying) => DiskEvent::Copied(done),
            () = tokio::time::sleep(AGAIN) => DiskEvent::Tick,
        };
        match heard {
            DiskEvent::Volume(event) => {
                let listed = matches!(*event, Event::InitDone);
                for change in volumes.take(*event) {
                    pause = AGAIN;
                    keeper.volume(change);
                }
                if listed {
                    let known = volumes.iter().map(|v| v.name_any());
                    log_strays(&keeper.disk, false, &known.collect());
                }
            }
            DiskEvent::Content(event) => {
                let listed = matches!(*event, Event::InitDone);
                for change in snapshots.known.take(*event) {
                    pause = AGAIN;
                    keeper.content(change);
                }
                if listed {
                    let known = snapshots.known.iter().filter_map(|c| disk_task::folder(c));
                    log_strays(&keeper.disk, true, &known.collect());
                }
            }
            DiskEvent::Copied(done) => {
                if !keeper.copied(done).await && !keeper.another_waits() {
                    // Not at once again: there may be no room for it.
                    pause = (pause * 2).min(AGAIN_MAX);
                    next = Instant::now() + pause;
                    continue;
                }
            }
            DiskEvent::Tick if keeper.due.is_empty() || Instant::now() < next => continue,
            DiskEvent::Tick => {}
        }
        let before = keeper.due.len();
        keeper.work().await;
        pause = if keeper.due.len() < before {
            AGAIN
        } else {
            (pause * 2).min(AGAIN_MAX)
        };
        next = Instant::now() + pause;
    }
}

/// What is on this node's disk.
fn own(deps: &Deps) -> Config {
    Config::default().labels(&format!("{NODE_LABEL}={}", deps.config.node_name))
}

/// The snapshots of this node. Their kind is a custom one, so they are followed only as long as
/// somebody says that there are some.
struct Snapshots {
    follows: bool,
    known: Objects<DynamicObject>,
    events: BoxStream<'static, Event<DynamicObject>>,
}

impl Snapshots {
    fn none() -> Self {
        Self {
            follows: false,
            known: Objects::default(),
            events: futures::stream::pending().boxed(),
        }
    }

    /// Begins, or ends, as the node's object says; whether it ended.
    fn follow(&mut self, deps: &Deps) -> bool {
        let node = deps.node.last();
        let says = node.is_some_and(|n| n.annotations().contains_key(SNAPSHOTS));
        if says == self.follows {
            return false;
        }
        *self = Self::none();
        self.follows = says;
        if says {
            let api: Api<DynamicObject> =
                Api::all_with(deps.client.clone(), &disk_task::content_kind());
            self.events = client::events(deps.random.clone(), api, own(deps)).boxed();
        }
        !says
    }
}

/// A copy that is being made.
struct Copying {
    name: String,
    from: String,
    task: tokio::task::JoinHandle<io::Result<Copied>>,
}

/// The end of it, if there is one.
async fn ended(copying: &mut Option<Copying>) -> io::Result<Copied> {
    match copying {
        Some(copying) => {
            let done = (&mut copying.task).await;
            done.map_err(io::Error::other).and_then(|r| r)
        }
        None => std::future::pending().await,
    }
}

/// Why something is not done yet.
struct Failed {
    reason: &'static str,
    text: String,
}

fn failed<E: ToString>(reason: &'static str) -> impl FnOnce(E) -> Failed {
    move |e| Failed {
        reason,
        text: e.to_string(),
    }
}

struct Keeper {
    deps: Arc<Deps>,
    disk: Disk,
    /// What is to be done, by the folder's name.
    due: BTreeMap<String, DiskTask>,
    /// One at a time: they share the disk.
    copying: Option<Copying>,
    failures: Failures,
}

/// How often copies have failed, by their folders' names.
type Failures = BTreeMap<String, u32>;

/// What is to be done, in turn: a copy that fails again and again, such as of a volume whose pod has made
/// a path that is too long, does not keep others from being made.
fn in_turn(due: &BTreeMap<String, DiskTask>, failures: &Failures) -> Vec<(String, DiskTask)> {
    let mut all: Vec<_> = due.clone().into_iter().collect();
    all.sort_by_key(|(name, _)| failures.get(name).copied().unwrap_or(0));
    all
}

impl Keeper {
    fn volume(&mut self, change: Change<PersistentVolume>) {
        let old = change.old.as_deref();
        let name = change.new.as_deref().or(old).map(ResourceExt::name_any);
        let name = name.unwrap_or_default();
        let wanted = change.new.and_then(|v| DiskTask::of_volume(&self.disk, v));
        self.note(name, wanted);
    }

    fn content(&mut self, change: Change<DynamicObject>) {
        let Some(folder) = change.object().and_then(|c| disk_task::folder(c)) else {
            return;
        };
        let node = &self.deps.config.node_name;
        let wanted = change.new.and_then(|c| DiskTask::of_content(node, c));
        self.note(folder, wanted);
    }

    fn note(&mut self, name: String, wanted: Option<DiskTask>) {
        match wanted {
            Some(wanted) => self.due.insert(name, wanted),
            None => {
                self.failures.remove(&name);
                self.due.remove(&name)
            }
        };
    }

    /// Whether there is a copy to be made that has not failed yet.
    fn another_waits(&self) -> bool {
        let is_new = |name: &String| !self.failures.contains_key(name) && !self.disk.is_made(name);
        let copies = self
            .due
            .iter()
            .filter(|(_, w)| w.leaves == Removal::No && w.from.is_some());
        copies.map(|(name, _)| name).any(is_new)
    }

    /// Does what can be done now.
    async fn work(&mut self) {
        for (name, wanted) in in_turn(&self.due, &self.failures) {
            match self.one(&name, &wanted).await {
                Ok(true) => drop(self.due.remove(&name)),
                Ok(false) => {}
                Err(why) => {
                    tracing::warn!(folder = %name, reason = why.reason, error = %why.text, "waits");
                    self.warn(&wanted, why.reason, &why.text);
                }
            }
        }
    }

    fn warn(&self, wanted: &DiskTask, reason: &str, text: &str) {
        let about = wanted.object.about();
        let recorder = &self.deps.recorder;
        recorder.about(&about, Severity::Warning, reason, text);
    }

    /// Whether nothing is left to do.
    async fn one(&mut self, name: &str, wanted: &DiskTask) -> Result<bool, Failed> {
        if wanted.leaves == Removal::No {
            return self.make(name, wanted).await;
        }
        if self.is_used(name) {
            tracing::debug!(folder = %name, "it is still used");
            return Ok(false);
        }
        let (disk, folder) = (self.disk.clone(), name.to_owned());
        let with_data = wanted.leaves == Removal::WithData;
        #[expect(clippy::disallowed_methods, reason = "a large one takes its time")]
        let removed = tokio::task::spawn_blocking(move || match with_data {
            true => disk.remove(&folder),
            // What is not complete is nobody's data.
            false => disk.remove_partial(&folder),
        });
        let removed = removed.await;
        let removed = removed.map_err(io::Error::other).and_then(|r| r);
        removed.map_err(failed("VolumeFailedDelete"))?;
        if with_data {
            tracing::info!(folder = %name, "a local volume or snapshot is removed");
        }
        self.let_go(wanted)
            .await
            .map_err(failed("VolumeFailedDelete"))?;
        Ok(true)
    }

    async fn make(&mut self, name: &str, wanted: &DiskTask) -> Result<bool, Failed> {
        if let Some(from) = &wanted.from
            && !self.disk.is_made(name)
        {
            self.begin_copy(name, from, wanted);
            return Ok(false);
        }
        match &wanted.object {
            DiskObject::Volume(volume) => {
                let made = self.disk.make(name, wanted.bytes);
                let is_held = made.map_err(failed("VolumeFailedMake"))?;
                let measured = (!is_held).then(|| disk_task::measured(volume));
                self.disk.measure(name, measured);
                let said = self.say_limit(volume, is_held, wanted.bytes).await;
                said.map_err(failed("VolumeFailedMake"))?;
            }
            DiskObject::Content(content) => {
                if !self.disk.is_made(name) {
                    let why = format!("there is no snapshot {name} on this node");
                    self.say_error(content, &why).await;
                    return Err(failed("SnapshotContentCheckandUpdateFailed")(why));
                }
                let said = self.say_ready(content, name).await;
                said.map_err(failed("SnapshotContentCheckandUpdateFailed"))?;
            }
        }
        Ok(true)
    }

    fn begin_copy(&mut self, name: &str, from: &str, wanted: &DiskTask) {
        if self.copying.is_some() {
            return;
        }
        if self.has_pod(from) {
            let text = format!(
                "{from} is copied while a pod has it, file by file: what the pod writes meanwhile is in the copy or not"
            );
            let about = wanted.object.about();
            let recorder = &self.deps.recorder;
            recorder.about(&about, Severity::Normal, "CopyingInUse", text);
        }
        let (disk, name, from) = (self.disk.clone(), name.to_owned(), from.to_owned());
        let held_to = matches!(wanted.object, DiskObject::Volume(_)).then_some(wanted.bytes);
        let (folder, source) = (name.clone(), from.clone());
        #[expect(clippy::disallowed_methods, reason = "copying takes its time")]
        let task = tokio::task::spawn_blocking(move || disk.copy(&folder, &source, held_to));
        self.copying = Some(Copying { name, from, task });
    }

    /// Takes in the end of a copy; whether it was made.
    async fn copied(&mut self, done: io::Result<Copied>) -> bool {
        let Some(Copying { name, from, .. }) = self.copying.take() else {
            return true;
        };
        match done {
            Ok(done) => {
                let Copied {
                    files,
                    shared,
                    left_out,
                } = done;
                tracing::info!(%name, %from, files, shared, left_out, "copied");
                self.failures.remove(&name);
                true
            }
            Err(e) => {
                let text = format!("copying {from} failed: {e}");
                tracing::warn!(%name, "{text}");
                if let Some(wanted) = self.due.get(&name) {
                    *self.failures.entry(name).or_default() += 1;
                    self.warn(wanted, "VolumeFailedCopy", &text);
                    if let DiskObject::Content(content) = &wanted.object {
                        self.say_error(content, &text).await;
                    }
                }
                false
            }
        }
    }

    /// Whether a volume cannot be removed now: it is copied, or a pod of this node has it.
    fn is_used(&self, name: &str) -> bool {
        let copying = self.copying.as_ref();
        copying.is_some_and(|c| c.name == name || c.from == name) || self.has_pod(name)
    }

    /// Whether a pod of this node has the volume: by what is known, and by what is mounted.
    fn has_pod(&self, volume: &str) -> bool {
        let place = Path::new("volumes").join(super::claim_volume::LOCAL);
        let place = place.join(volume);
        // Where the mounts cannot be read, it is not removed.
        let mounted = host::mounts::list().map(|all| all.iter().any(|m| m.ends_with(&place)));
        self.deps.volumes.0.claims.is_used(volume) || mounted.unwrap_or(true)
    }

    /// Tells the provisioner to which size the volume is held.
    async fn say_limit(
        &self,
        volume: &PersistentVolume,
        is_held: bool,
        bytes: u64,
    ) -> kube::Result<()> {
        let limit = match is_held {
            true => Quantity::from_bytes(i64::try_from(bytes).unwrap_or(i64::MAX)).to_string(),
            false => MEASURED.to_owned(),
        };
        if volume.annotations().get(LIMIT) == Some(&limit) {
            return Ok(());
        }
        let patch = Patch::Merge(json!({ "metadata": {
            "uid": volume.metadata.uid, "annotations": { LIMIT: limit } } }));
        self.patch_volume(&volume.name_any(), &patch).await
    }

    async fn patch_volume(&self, name: &str, patch: &Patch<Value>) -> kube::Result<()> {
        let api: Api<PersistentVolume> = Api::all(self.deps.client.clone());
        gone_is_fine(api.patch(name, &PatchParams::default(), patch).await)
    }

    fn contents(&self) -> Api<DynamicObject> {
        Api::all_with(self.deps.client.clone(), &disk_task::content_kind())
    }

    /// Says in a snapshot's content that it is there.
    async fn say_ready(&self, content: &DynamicObject, name: &str) -> kube::Result<()> {
        let made = self.disk.made_at(name);
        let made = made.unwrap_or_else(|| self.deps.clock.now());
        let status = json!({ "status": {
            "snapshotHandle": snapshot_handle(&self.deps.config.node_name, name),
            "creationTime": i64::try_from(made.as_nanosecond()).unwrap_or(i64::MAX),
            "restoreSize": self.disk.size_or_use(name),
            "readyToUse": true,
            "error": null,
        } });
        let (params, patch) = (PatchParams::default(), Patch::Merge(status));
        let api = self.contents();
        gone_is_fine(api.patch_status(&content.name_any(), &params, &patch).await)
    }

    /// Says in a snapshot's content why it is not there, once: what is written comes back as a change,
    /// after which it is tried again at once. Its event says so, too.
    async fn say_error(&self, content: &DynamicObject, text: &str) {
        if content.data["status"]["error"]["message"] == text {
            return;
        }
        let error = json!({ "message": text, "time": self.deps.clock.now_in_seconds() });
        let status = json!({ "status": { "readyToUse": false, "error": error } });
        let (params, patch) = (PatchParams::default(), Patch::Merge(status));
        let api = self.contents();
        let said = api.patch_status(&content.name_any(), &params, &patch).await;
        if let Err(error) = said {
            tracing::debug!(%error, "a snapshot's error is not in its status");
        }
    }

    async fn let_go(&self, wanted: &DiskTask) -> kube::Result<()> {
        match &wanted.object {
            DiskObject::Volume(volume) => {
                let patch = Patch::Strategic(json!({ "metadata": {
                    "uid": volume.metadata.uid,
                    "$deleteFromPrimitiveList/finalizers": [FINALIZER],
                } }));
                self.patch_volume(&volume.name_any(), &patch).await
            }
            DiskObject::Content(content) => {
                let others = content.finalizers().iter().filter(|f| *f != FINALIZER);
                let patch = Patch::Merge(json!({ "metadata": {
                    "resourceVersion": content.metadata.resource_version,
                    "finalizers": others.collect::<Vec<_>>(),
                } }));
                let (api, params) = (self.contents(), PatchParams::default());
                gone_is_fine(api.patch(&content.name_any(), &params, &patch).await)
            }
        }
    }
}

fn gone_is_fine<K>(outcome: kube::Result<K>) -> kube::Result<()> {
    match outcome {
        Err(kube::Error::Api(e)) if e.code == 404 => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Folders that belong to nothing that is shown are logged, and stay.
fn log_strays(disk: &Disk, snapshots: bool, known: &BTreeSet<String>) {
    for entry in crate::folder::entries_or_none(disk.dir()) {
        let folder = crate::folder::name(&entry);
        let name = Disk::name_of(&folder);
        let concerns = !name.starts_with('.') && name.starts_with(SNAPSHOT) == snapshots;
        if concerns && !known.contains(name) {
            tracing::warn!(
                folder = %entry.display(),
                "nothing of this cluster has this folder; if nobody needs it, remove it by hand"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_and_again_is_tried_last() {
        let volume = json!({ "metadata": { "name": "v" } });
        let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
        let task = DiskTask {
            object: DiskObject::Volume(Arc::new(volume)),
            from: Some("pvc-0".into()),
            bytes: 1,
            leaves: Removal::No,
        };
        let due = ["a", "b", "c"].map(|name| (name.to_owned(), task.clone()));
        let due = BTreeMap::from(due);
        let order = |failures: &[(&str, u32)]| -> String {
            let failures = failures.iter().map(|(name, n)| ((*name).to_owned(), *n));
            let all = in_turn(&due, &failures.collect());
            all.into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(order(&[]), "abc");
        assert_eq!(order(&[("a", 1)]), "bca");
        assert_eq!(order(&[("a", 1), ("b", 2)]), "cab");
    }
}
