//! What is left on the node of pods and containers that are gone: folders, logs.

use super::deps::Deps;
use super::spec;
use crate::folder;
use k8s_openapi::api::core::v1::Pod;
use std::path::Path;

/// Removes folders and logs of a pod whose containers are gone.
pub(super) async fn remove_files(deps: &Deps, pod: &Pod) {
    if let Err(e) = deps.volumes.release(spec::uid(pod)).await {
        tracing::warn!(pod = spec::full_name(pod), error = %e, "removing a pod's folder failed");
    } else {
        deps.user_ids.forget(spec::uid(pod));
    }
    let logs = deps
        .config
        .pod_log_dir(spec::namespace(pod), spec::name(pod), spec::uid(pod));
    if let Err(e) = host::open_beneath::remove_tree(&logs) {
        tracing::warn!(dir = %logs.display(), error = %e, "removing a pod's logs failed");
    }
}

/// Removes a log and the files that it was rotated to. What cannot be removed goes with the pod.
pub(super) fn remove_log(path: &Path) {
    let old = crate::log_rotation::rotated(path).unwrap_or_else(|error| {
        tracing::warn!(log = %path.display(), %error, "the files of a log cannot be listed");
        Vec::new()
    });
    old.iter().for_each(|file| folder::remove_file(file));
    folder::remove_file(path);
}
