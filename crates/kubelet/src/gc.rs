//! What piles up and must go: unused images when the disk fills, and old logs.

use crate::events::Severity;
use crate::images::gc;
use crate::log_rotation::{self, Error, Need};
use crate::metrics::{COUNTS, METRICS};
use crate::pod::deps::Deps;
use crate::pod::manager::Pods;
use crate::pod::runtime_state::{Run, SeenContainer};
use clock::Instant;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Between looks at the disk for images; upstream's value.
const IMAGES: Duration = Duration::from_secs(300);

/// Rotates logs and removes images for ever.
pub async fn run(deps: Arc<Deps>, pods: Arc<Pods>) {
    tokio::join!(rotate_logs(&deps, &pods), collect_images(&deps));
}

async fn rotate_logs(deps: &Deps, pods: &Pods) {
    let mut ticks = tokio::time::interval(deps.config.log_check_period);
    loop {
        ticks.tick().await;
        for snapshot in pods.snapshots() {
            let all = snapshot.seen.containers.iter();
            for container in all.filter(|c| c.run == Run::Running) {
                if let Err(error) = rotate_log(deps, container).await {
                    let log = &container.log_path;
                    tracing::warn!(log, %error, "a log was not rotated");
                }
            }
        }
    }
}

async fn rotate_log(deps: &Deps, container: &SeenContainer) -> Result<(), Error> {
    let log = PathBuf::from(&container.log_path);
    match log_rotation::need(&log, deps.config.log_max_bytes)? {
        Need::Nothing => return Ok(()),
        Need::Reopening => {
            let reopened = deps.runtime.reopen_log(&container.id).await;
            return reopened.map_err(Error::Reopen);
        }
        Need::Rotation => {}
    }
    let (max_files, now) = (deps.config.log_max_files, deps.clock.now());
    let path = log.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "compressing takes a while; other tasks go on meanwhile"
    )]
    let rotating = tokio::task::spawn_blocking(move || log_rotation::rotate(&path, max_files, now));
    let rotated = rotating.await;
    let moved = rotated.map_err(|e| Error::Look(io::Error::other(e)))??;
    if let Err(error) = deps.runtime.reopen_log(&container.id).await {
        log_rotation::move_back(moved, &log)?;
        return Err(Error::Reopen(error));
    }
    Ok(())
}

async fn collect_images(deps: &Deps) {
    let mut ticks = tokio::time::interval(IMAGES);
    let mut failed = false;
    loop {
        ticks.tick().await;
        let done = collect_once(deps).await;
        if let Err(error) = &done {
            tracing::warn!(error, "images could not be collected");
        }
        // Once may be a kubelet or a runtime that has just begun.
        if let Err(error) = &done
            && failed
        {
            node_says(deps, "ImageGCFailed", error);
        }
        failed = done.is_err();
    }
}

fn node_says(deps: &Deps, reason: &str, text: &str) {
    let (recorder, node) = (&deps.recorder, &deps.config.node_name);
    recorder.node(node, Severity::Warning, reason, text);
}

async fn collect_once(deps: &Deps) -> Result<(), String> {
    let (high, low) = (
        deps.config.image_gc_high_percent,
        deps.config.image_gc_low_percent,
    );
    let found = look(deps)
        .await
        .inspect_err(|_| METRICS.statistics_failed("imagefs"))?;
    let wanted = found.map_or(0, |(used, whole)| to_free(used, whole, high, low));
    let (_, freed) = remove_images(deps, wanted).await?;
    if freed < wanted {
        let text = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
        );
        node_says(deps, "FreeDiskSpaceFailed", &text);
        return Err(text);
    }
    Ok(())
}

/// Bytes in use and in all of the file system that holds images; none where the runtime does not say
/// where they are.
async fn look(deps: &Deps) -> Result<Option<(u64, u64)>, String> {
    let all = deps.runtime.image_fs().await.map_err(|e| e.to_string())?;
    let place = all.images.first().map(|f| f.mountpoint.as_str());
    let Some(place) = place.filter(|p| !p.is_empty()) else {
        return Ok(None);
    };
    let fs = host::mounts::fs_usage(Path::new(place)).map_err(|e| format!("{place}: {e}"))?;
    let used = fs.capacity_bytes.saturating_sub(fs.available_bytes);
    Ok(Some((used, fs.capacity_bytes)))
}

fn to_free(used: u64, whole: u64, high_percent: u64, low_percent: u64) -> u64 {
    let part = |percent: u64| whole / 100 * percent.min(100);
    if used > part(high_percent) {
        used.saturating_sub(part(low_percent))
    } else {
        0
    }
}

/// Removes unused images until so many bytes are free; how many images went.
pub async fn remove_unused_images(deps: &Deps, bytes: u64) -> usize {
    match remove_images(deps, bytes).await {
        Ok((count, _)) => count,
        Err(error) => {
            tracing::warn!(error, "unused images could not be removed");
            0
        }
    }
}

/// How many images went, and what they were large.
async fn remove_images(deps: &Deps, bytes: u64) -> Result<(usize, u64), String> {
    let noted = deps.images.pulled.noted();
    let listed = tokio::try_join!(deps.runtime.images(), deps.runtime.containers(None));
    let (images, containers) = listed.map_err(|e| e.to_string())?;
    let used: HashSet<String> = containers
        .into_iter()
        .flat_map(|c| [c.image_ref, c.image])
        .filter(|name| !name.is_empty())
        .chain(deps.volumes.0.image_volumes.names())
        .collect();
    let here = images.iter().map(|i| i.id.as_str()).collect();
    deps.images.pulled.forget_others(&noted, &here);
    let now = Instant::now();
    let victims = {
        let mut ages = deps.images.ages.lock();
        ages.note(&images, &used, now);
        ages.victims(
            &images,
            &used,
            &deps.config.pause_image,
            gc::RemovalRequest {
                min_age: deps.config.image_gc_min_age,
                max_age: deps.config.image_gc_max_age,
                bytes,
            },
            now,
        )
    };
    let (mut count, mut freed) = (0, 0u64);
    for (id, was_old) in victims {
        match deps.runtime.remove_image(&id).await {
            Ok(()) => {
                count += 1;
                COUNTS.image_removed(was_old);
                let size = images.iter().find(|i| i.id == id).map_or(0, |i| i.bytes);
                freed = freed.saturating_add(size);
            }
            Err(e) => tracing::warn!(image = id, error = %e, "removing an image failed"),
        }
    }
    Ok((count, freed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_disk_loses_images() {
        assert_eq!(to_free(80, 100, 85, 80), 0);
        assert_eq!(to_free(90, 100, 85, 80), 10);
    }
}
