//! Links by which collectors of logs find the logs of containers: in upstream's folder, with upstream's
//! names, which say what the log is of. They are made where pods' logs are in upstream's folder, too: a
//! node that keeps them elsewhere has none, for it may share the machine with another one.

use crate::config::Config;
use crate::folder;
use crate::pod::spec;
use k8s_openapi::api::core::v1::Pod;
use std::io;
use std::path::{Path, PathBuf};

/// Upstream's folder of logs …
const LOGS: &str = "/var/log/pods";
/// … and of links to them.
const FOLDER: &str = "/var/log/containers";
/// The longest name of a file, bytes.
const LONGEST: usize = 255;

/// The links of a node.
#[derive(Clone, Debug)]
pub struct Links {
    folder: PathBuf,
    logs: PathBuf,
}

impl Links {
    /// Those of a node that has some.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let is_usual = config.log_dir == Path::new(LOGS);
        is_usual.then(|| Self {
            folder: FOLDER.into(),
            logs: LOGS.into(),
        })
    }

    /// Makes their folder.
    pub fn make_folder(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)
    }

    fn link(&self, pod: &Pod, container: &str, id: &str) -> PathBuf {
        self.folder.join(name(pod, container, id))
    }

    /// Makes the link to a container's log. Nothing of the pod depends on it: a failure is logged.
    pub fn make(&self, pod: &Pod, (container, id): (&str, &str), log: &Path) {
        let link = self.link(pod, container, id);
        match std::os::unix::fs::symlink(log, &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                tracing::warn!(link = %link.display(), %error, "the link to a log cannot be made");
            }
            _ => {}
        }
    }

    /// A container's log is removed.
    pub fn remove(&self, pod: &Pod, (container, id): (&str, &str)) {
        folder::remove_file(&self.link(pod, container, id));
    }

    /// Removes the links to logs of which the folder is gone. A log alone may only be between one file
    /// and the next.
    pub fn tidy(&self) {
        for link in folder::entries_or_none(&self.folder) {
            // What is not a link is not ours.
            let Ok(log) = std::fs::read_link(&link) else {
                continue;
            };
            let is_gone = |dir: &Path| matches!(dir.try_exists(), Ok(false));
            if log.starts_with(&self.logs) && log.parent().is_some_and(is_gone) {
                folder::remove_file(&link);
            }
        }
    }
}

fn name(pod: &Pod, container: &str, id: &str) -> String {
    const END: &str = ".log";
    let (name, namespace) = (spec::name(pod), spec::namespace(pod));
    let whole = format!("{name}_{namespace}_{container}-{id}");
    let mut cut: String = whole.chars().take(LONGEST - END.len()).collect();
    cut.push_str(END);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str) -> Pod {
        let pod = json!({ "metadata": { "name": name, "namespace": "n" } });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn names_are_upstreams_and_no_longer_than_they_can_be() {
        assert_eq!(name(&pod("p"), "c", "abc"), "p_n_c-abc.log");
        let long = name(&pod(&"p".repeat(253)), "c", "abc");
        assert_eq!(
            long,
            format!("{}.log", &format!("{}_n_c", "p".repeat(253))[..251])
        );
    }

    #[test]
    fn links_come_with_a_container_and_go_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let links = Links {
            folder: dir.path().join("containers"),
            logs: dir.path().join("pods"),
        };
        links.make_folder().unwrap();
        let log = links.logs.join("n_p_u/c/0.log");
        std::fs::create_dir_all(log.parent().unwrap()).unwrap();
        std::fs::write(&log, "text").unwrap();
        for id in ["a", "b", "b"] {
            links.make(&pod("p"), ("c", id), &log);
        }
        let others = links.folder.join("others");
        std::os::unix::fs::symlink("/nowhere/at/all", &others).unwrap();
        let names = || -> Vec<String> {
            let all = folder::entries(&links.folder).unwrap();
            all.iter().map(|f| folder::name(f)).collect()
        };
        assert_eq!(names(), ["others", "p_n_c-a.log", "p_n_c-b.log"]);
        let read = std::fs::read_to_string(links.folder.join("p_n_c-a.log"));
        assert_eq!(read.unwrap(), "text");
        links.remove(&pod("p"), ("c", "a"));
        // Its log is just rotated.
        std::fs::remove_file(&log).unwrap();
        links.tidy();
        assert_eq!(names(), ["others", "p_n_c-b.log"]);
        std::fs::remove_dir_all(links.logs.join("n_p_u")).unwrap();
        links.tidy();
        assert_eq!(names(), ["others"]);
    }

    #[test]
    fn a_node_with_its_own_folder_of_logs_has_no_links() {
        let mut config = Config::new("n", "192.0.2.1".parse().unwrap());
        assert!(Links::of(&config).is_some());
        config.log_dir = "/data/pod-logs".into();
        assert!(Links::of(&config).is_none());
    }
}
