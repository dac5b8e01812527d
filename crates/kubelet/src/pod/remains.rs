//! What is left on the node of pods and containers that are gone: folders, logs.

use super::deps::Deps;
use super::spec;
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

/// Removes a log and the files that it was rotated to.
pub(super) fn remove_log(path: &Path) {
    for old in crate::logs::rotated(path).unwrap_or_default() {
        let _ = std::fs::remove_file(old);
    }
    let _ = std::fs::remove_file(path);
}
