//! What is left on the node of pods and containers that are gone: folders, logs.

use super::deps::Deps;
use super::spec;
use crate::folder;
use crate::log_links::Links;
use k8s_openapi::api::core::v1::Pod;
use std::path::{Path, PathBuf};

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
    if let Some(links) = Links::of(&deps.config) {
        links.tidy();
    }
}

/// Removes folders of logs of pods that are no more: a kubelet died before it came to them.
pub(super) fn remove_orphaned_logs(folders: &[PathBuf], is_orphan: impl Fn(&str) -> bool) {
    for dir in folders {
        if !uid_of_logs(&folder::name(dir)).is_some_and(&is_orphan) {
            continue;
        }
        tracing::info!(dir = %dir.display(), "removing logs of a pod that the API does not know");
        if let Err(e) = host::open_beneath::remove_tree(dir) {
            tracing::warn!(dir = %dir.display(), error = %e, "removing a pod's logs failed");
        }
    }
}

/// The UID of the pod that a folder of logs is of; none for what is not such a folder.
fn uid_of_logs(name: &str) -> Option<&str> {
    let parts: Vec<&str> = name.split('_').collect();
    match parts.as_slice() {
        [_, _, uid] if !uid.is_empty() => Some(*uid),
        _ => None,
    }
}

/// Removes the log of a container, the files that it was rotated to, and the link to it. What cannot be
/// removed goes with the pod.
pub(super) fn remove_log(deps: &Deps, pod: &Pod, id: &str, path: &Path) {
    if let (Some(links), Some(dir)) = (Links::of(&deps.config), path.parent()) {
        links.remove(pod, (&folder::name(dir), id));
    }
    let old = crate::log_rotation::rotated(path).unwrap_or_else(|error| {
        tracing::warn!(log = %path.display(), %error, "the files of a log cannot be listed");
        Vec::new()
    });
    old.iter().for_each(|file| folder::remove_file(file));
    folder::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_pods_that_are_no_more_go_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let all = ["n_p_gone", "n_p_here", "n_p_", "other", "n_p_gone_more"];
        for name in all {
            std::fs::create_dir_all(at(name).join("main")).unwrap();
        }
        let folders = folder::entries(dir.path()).unwrap();
        remove_orphaned_logs(&folders, |uid| uid != "here");
        let left: Vec<&str> = all.into_iter().filter(|name| at(name).exists()).collect();
        assert_eq!(left, ["n_p_here", "n_p_", "other", "n_p_gone_more"]);
    }
}
