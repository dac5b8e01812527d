//! Keeps the volumes on this node's own disk: makes the folder of a new one, and removes that of one
//! whose object is being deleted, which only then may go. A folder is removed by that order alone;
//! one whose object is not shown may be another cluster's, or older than a backup.

use super::local_disk::Disk;
use crate::events::Severity;
use crate::pod::deps::Deps;
use api::local_volumes::{FINALIZER, NODE_LABEL, PROVISIONED_BY, PROVISIONER};
use client::reflector::Objects;
use futures::StreamExt;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Resource};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Between tries to remove what could not be removed: a pod may still have it.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest such pause: what fails for so long needs an administrator.
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// Runs as long as the kubelet; at once over where it keeps no volumes.
pub async fn run(deps: Arc<Deps>) {
    let Some(disk) = deps.volumes.0.disk.clone() else {
        return;
    };
    let api: Api<PersistentVolume> = Api::all(deps.client.clone());
    let own = format!("{NODE_LABEL}={}", deps.config.node_name);
    let config = Config::default().labels(&own);
    let mut events = std::pin::pin!(client::events(deps.random.clone(), api, config));
    let mut all = Objects::default();
    let mut leaving: BTreeMap<String, Arc<PersistentVolume>> = BTreeMap::new();
    let mut pause = AGAIN;
    loop {
        let event = tokio::select! {
            biased;
            event = events.next() => event,
            () = tokio::time::sleep(pause), if !leaving.is_empty() => {
                let before = leaving.len();
                remove(&deps, &disk, &mut leaving).await;
                pause = if leaving.len() < before { AGAIN } else { (pause * 2).min(AGAIN_MAX) };
                continue;
            }
        };
        let Some(event) = event else {
            return;
        };
        let listed = matches!(event, Event::InitDone);
        for change in all.take(event) {
            if let Some(old) = change.old {
                leaving.remove(name(&old));
            }
            let Some(volume) = change.new.filter(|v| is_kept(&disk, v)) else {
                continue;
            };
            if is_leaving(&volume) {
                leaving.insert(name(&volume).to_owned(), volume);
                pause = AGAIN;
            } else if volume.metadata.deletion_timestamp.is_none() {
                make(&deps, &disk, &volume);
            }
        }
        remove(&deps, &disk, &mut leaving).await;
        if listed {
            log_strays(&disk, all.iter().map(|v| name(v).to_owned()).collect());
        }
    }
}

fn name(volume: &PersistentVolume) -> &str {
    volume.metadata.name.as_deref().unwrap_or_default()
}

/// Whether the volume was made for this disk, and is where such volumes are.
fn is_kept(disk: &Disk, volume: &PersistentVolume) -> bool {
    let annotations = volume.metadata.annotations.as_ref();
    let maker = annotations.and_then(|a| a.get(PROVISIONED_BY));
    let local = volume.spec.as_ref().and_then(|s| s.local.as_ref());
    let folder = disk.folder(name(volume));
    maker.is_some_and(|m| m == PROVISIONER)
        && folder.is_some_and(|f| local.is_some_and(|l| Path::new(&l.path) == f))
}

/// Whether the object waits for its folder to go.
fn is_leaving(volume: &PersistentVolume) -> bool {
    let meta = &volume.metadata;
    let mut held = meta.finalizers.iter().flatten();
    meta.deletion_timestamp.is_some() && held.any(|f| f == FINALIZER)
}

fn make(deps: &Deps, disk: &Disk, volume: &PersistentVolume) {
    if let Err(e) = disk.ensure(name(volume)) {
        tracing::error!(volume = name(volume), error = %e, "a local volume cannot be made");
        warn(deps, volume, "VolumeFailedMake", e.to_string());
    }
}

fn warn(deps: &Deps, volume: &PersistentVolume, reason: &str, text: String) {
    let about = volume.object_ref(&());
    let recorder = &deps.recorder;
    recorder.about(&about, Severity::Warning, reason, text);
}

/// Removes the folders of volumes that are to go, and lets go of their objects.
async fn remove(deps: &Deps, disk: &Disk, leaving: &mut BTreeMap<String, Arc<PersistentVolume>>) {
    let mut done = Vec::new();
    for (name, volume) in leaving.iter() {
        if is_used(deps, name) {
            tracing::debug!(volume = name, "a local volume is still used");
            continue;
        }
        let (place, folder) = (disk.clone(), name.clone());
        #[expect(clippy::disallowed_methods, reason = "a large one takes its time")]
        let removed = tokio::task::spawn_blocking(move || place.remove(&folder));
        let removed = removed.await;
        let removed = removed.map_err(std::io::Error::other).and_then(|r| r);
        if let Err(e) = removed {
            tracing::warn!(volume = name, error = %e, "a local volume cannot be removed");
            warn(deps, volume, "VolumeFailedDelete", e.to_string());
            continue;
        }
        match let_go(deps, volume).await {
            Ok(()) => done.push(name.clone()),
            Err(e) => tracing::debug!(volume = name, error = %e, "letting go of it failed"),
        }
    }
    for name in done {
        tracing::info!(volume = name, "a local volume is removed");
        leaving.remove(&name);
    }
}

/// Whether a pod of this node has the volume: by what is known, and by what is mounted.
fn is_used(deps: &Deps, volume: &str) -> bool {
    let of_volume = |m: &std::path::PathBuf| {
        m.ends_with(
            Path::new("volumes")
                .join(super::claim_volume::LOCAL)
                .join(volume),
        )
    };
    // Where the mounts cannot be read, it is not removed.
    let mounted = host::mounts::list().map(|all| all.iter().any(of_volume));
    deps.volumes.0.claims.is_used(volume) || mounted.unwrap_or(true)
}

async fn let_go(deps: &Deps, volume: &PersistentVolume) -> kube::Result<()> {
    let api: Api<PersistentVolume> = Api::all(deps.client.clone());
    let patch = Patch::Strategic(json!({ "metadata": {
        "uid": volume.metadata.uid,
        "$deleteFromPrimitiveList/finalizers": [FINALIZER],
    } }));
    match api
        .patch(name(volume), &PatchParams::default(), &patch)
        .await
    {
        Err(kube::Error::Api(e)) if e.code == 404 => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Folders that belong to no volume that is shown are logged, and stay.
fn log_strays(disk: &Disk, known: BTreeSet<String>) {
    let entries = std::fs::read_dir(disk.dir())
        .into_iter()
        .flatten()
        .flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !known.contains(&name) {
            tracing::warn!(
                folder = %entry.path().display(),
                "no volume of this cluster has this folder; if nobody needs it, remove it by hand"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_here_is_kept_here() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(&dir.path().join("v"), &dir.path().join("m")).unwrap();
        let volume = |name: &str, maker: &str, path: &Path| -> PersistentVolume {
            let volume = json!({ "metadata": { "name": name,
                "annotations": { PROVISIONED_BY: maker } }, "spec": { "local": { "path": path } } });
            serde_json::from_value(volume).unwrap()
        };
        let place = disk.dir().join("pvc-1");
        assert!(is_kept(&disk, &volume("pvc-1", PROVISIONER, &place)));
        assert!(!is_kept(&disk, &volume("pvc-1", "x.io/p", &place)));
        assert!(!is_kept(&disk, &volume("pvc-2", PROVISIONER, &place)));
        let outside = Path::new("/etc");
        assert!(!is_kept(&disk, &volume("pvc-1", PROVISIONER, outside)));
        let up = volume("..", PROVISIONER, &disk.dir().join(".."));
        assert!(!is_kept(&disk, &up));
    }
}
