//! What is left on the node of pods and containers that are gone: folders, logs, processes.

use super::deps::Deps;
use super::runtime_state::{Run, SeenPod};
use super::spec;
use crate::folder;
use crate::log_links::Links;
use crate::metrics::STARTS;
use k8s_openapi::api::core::v1::Pod;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is looked, and after which pause each, whether killed processes are gone: a second.
const LOOKS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

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

/// Ends what runs in a pod's control group though the runtime does not know it, or says that it has ended:
/// a runtime that is given up in the middle of a start can forget the process that it had begun.
pub(super) fn kill_forgotten(deps: &Deps, pod: &Pod, group: &str, seen: &SeenPod) {
    for child in forgotten(deps.cgroups.children(group), seen) {
        let count = deps.cgroups.kill(&format!("{group}/{child}"));
        if count > 0 {
            let pod = spec::full_name(pod);
            tracing::warn!(
                pod,
                container = child,
                count,
                "processes that the runtime had forgotten are ended"
            );
        }
    }
}

/// Those of a pod's groups that are named like containers and are of none that may run. Others are the
/// runtime's own, as those of monitors of containers.
fn forgotten(mut groups: Vec<String>, seen: &SeenPod) -> Vec<String> {
    let sandboxes = seen.sandboxes.iter().filter(|s| s.ready);
    let containers = seen.containers.iter().filter(|c| c.run != Run::Exited);
    let may_run: Vec<&str> = sandboxes
        .map(|s| s.id.as_str())
        .chain(containers.map(|c| c.id.as_str()))
        .collect();
    let is_id = |name: &str| {
        let like = |id: &str| id.len() == name.len();
        name.bytes().all(|b| b.is_ascii_hexdigit()) && may_run.iter().any(|id| like(id))
    };
    groups.retain(|name| is_id(name) && !may_run.contains(&name.as_str()));
    groups
}

/// Removes a pod's control group. What still runs in it is ended first, as upstream does: nothing of the
/// pod is to run any more. Nothing is done as soon as the pod `has_come` back: what runs is its own then.
pub(super) async fn remove_group(
    deps: &Deps,
    group: &str,
    has_come: impl Fn() -> bool,
) -> std::io::Result<()> {
    match all_ended(|| deps.cgroups.kill(group), has_come).await {
        true => STARTS.group("destroy", || deps.cgroups.remove(group)),
        false => Ok(()),
    }
}

/// Kills until nothing is left to be killed, which `kill` counts: what was killed is not gone at once, and
/// what a kernel cannot end is left to the next look for orphans. False where the pod has come back.
async fn all_ended(mut kill: impl FnMut() -> usize, has_come: impl Fn() -> bool) -> bool {
    for _ in 0..LOOKS {
        if has_come() {
            return false;
        }
        if kill() == 0 {
            return true;
        }
        tokio::time::sleep(PAUSE).await;
    }
    !has_come()
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
    use crate::pod::runtime_state::SeenSandbox;
    use crate::pod::tests::container;

    #[test]
    fn only_groups_of_containers_that_the_runtime_does_not_run_are_forgotten() {
        let sandbox = |id: &str, ready| SeenSandbox {
            id: id.into(),
            attempt: 0,
            ready,
            created_at: None,
            ips: Vec::new(),
        };
        let seen = SeenPod {
            sandboxes: vec![sandbox("aa01", true), sandbox("aa00", false)],
            containers: [
                ("bb03", Run::Running),
                ("bb02", Run::Created),
                ("bb01", Run::Unknown),
                ("bb00", Run::Exited),
            ]
            .map(|(id, run)| {
                let mut one = container("main", run, 0, 0);
                id.clone_into(&mut one.id);
                one
            })
            .into(),
        };
        let of =
            |groups: &[&str]| forgotten(groups.iter().map(|g| (*g).to_owned()).collect(), &seen);
        let ends = ["aa00", "bb00", "cc00"];
        assert_eq!(of(&ends), ends);
        let stays = [
            "aa01",
            "bb01",
            "bb02",
            "bb03",
            "crio-conmon-aa01",
            "init",
            "bb",
        ];
        assert!(of(&stays).is_empty());
        // Of a pod without anything that may run nobody knows what is named like a container.
        assert!(forgotten(vec!["cc00".into()], &SeenPod::default()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_is_killed_until_it_is_gone_or_the_pod_is_back() {
        let mut left = vec![0, 1, 3];
        let kill = || left.pop().expect("nobody looks again");
        assert!(all_ended(kill, || false).await);
        let looks = std::cell::Cell::new(0);
        let count = || {
            looks.set(looks.get() + 1);
            1
        };
        assert!(!all_ended(count, || looks.get() == 2).await);
        assert_eq!(looks.get(), 2, "what runs is the pod's by then");
        looks.set(0);
        assert!(all_ended(count, || false).await);
        assert_eq!(looks.get(), LOOKS, "it is given up");
    }

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
