//! What the runtime says about one pod: its sandboxes and containers, newest first.
//! Nothing here is remembered; it is read again whenever the pod is looked at.

use crate::folder::is_absent;
use host::runtime::{ContainerStatus, Error, ProcessUser, Runtime, State};
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::Path;

/// Labels and annotations that the kubelet writes on what it makes, in upstream's words, so
/// that tools which read them (and another kubelet) understand this one's containers.
pub mod label {
    /// Name of the pod.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// Namespace of the pod.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// UID of the pod.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// Name of the container in the pod.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Hash of the container's definition.
    pub const HASH: &str = "io.kubernetes.container.hash";
    /// How often the container was started before.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Where the container writes its termination message.
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Where the termination message comes from.
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Grace period of the pod in seconds.
    pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// How often all containers of the pod were started again before; ours. Without it, never.
    pub const ROUND: &str = "io.tiphys.pod.round";
}

/// How far a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Made, never started.
    Created,
    /// Runs.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// One attempt of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenContainer {
    /// Id in the runtime.
    pub id: String,
    /// Sandbox that it is in.
    pub sandbox_id: String,
    /// Name in the pod.
    pub name: String,
    /// Which attempt it is, from zero.
    pub attempt: u32,
    /// How often all containers of the pod were started again before it was made.
    pub round: u32,
    /// How far it is.
    pub run: Run,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// What it ended with.
    pub exit_code: i32,
    /// The runtime's word for the end, such as `OOMKilled`.
    pub reason: String,
    /// The termination message: the runtime's or the container's own.
    pub message: String,
    /// Image as asked for.
    pub image: String,
    /// Image as found: a digest form.
    pub image_ref: String,
    /// Hash of the definition that it was made from.
    pub hash: String,
    /// Folder and file of its log.
    pub log_path: String,
    /// Where its termination message is on the host.
    pub message_file: Option<String>,
    /// Whether the log's end serves where there is no termination message.
    pub message_falls_back: bool,
    /// The signal that it is stopped with; empty where the runtime does not say.
    pub stop_signal: String,
    /// As whom its first process was started; none where the runtime does not say.
    pub user: Option<ProcessUser>,
    /// Where it has mounts that are read-only with all below them.
    pub recursive_read_only: Vec<String>,
}

/// A sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSandbox {
    /// Id in the runtime.
    pub id: String,
    /// Which attempt it is.
    pub attempt: u32,
    /// Whether it works.
    pub ready: bool,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// Its addresses; empty on the host's network.
    pub ips: Vec<String>,
}

/// All that the runtime has of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenPod {
    /// Newest first.
    pub sandboxes: Vec<SeenSandbox>,
    /// Newest first.
    pub containers: Vec<SeenContainer>,
}

impl SeenPod {
    /// As upstream: of a pod's addresses the first of the family that the node is known by comes first,
    /// then the first of the other one, whatever a network plugin gives. A status with more is refused.
    pub fn put_first(&mut self, node: IpAddr) {
        let other = |ip: &String| ip.contains(':') != node.is_ipv6();
        for sandbox in &mut self.sandboxes {
            sandbox.ips.sort_by_key(other);
            sandbox.ips.dedup_by_key(|ip| ip.contains(':'));
        }
    }

    /// The newest sandbox, if it works.
    #[must_use]
    pub fn ready_sandbox(&self) -> Option<&SeenSandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    /// The newest attempt of a container.
    #[must_use]
    pub fn newest(&self, name: &str) -> Option<&SeenContainer> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The attempt before the newest.
    #[must_use]
    pub fn previous(&self, name: &str) -> Option<&SeenContainer> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }

    /// Containers that still run, or may.
    pub fn alive(&self) -> impl Iterator<Item = &SeenContainer> {
        self.containers
            .iter()
            .filter(|c| matches!(c.run, Run::Running | Run::Unknown))
    }

    /// Whether nothing of the pod runs any more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.alive().next().is_none() && self.sandboxes.iter().all(|s| !s.ready)
    }
}

/// What of earlier looks can be used again: an ended container does not change.
pub type Ended = HashMap<String, SeenContainer>;

/// Asks the runtime for everything of a pod.
pub async fn observe(
    runtime: &dyn Runtime,
    uid: &str,
    ended: &mut Ended,
) -> Result<SeenPod, Error> {
    let by_pod = Some((label::POD_UID, uid));
    let (sandboxes, containers) =
        tokio::try_join!(runtime.sandboxes(by_pod), runtime.containers(by_pod))?;
    let mut seen = SeenPod::default();
    for sandbox in sandboxes {
        let ips = if sandbox.ready {
            addresses(runtime, &sandbox.id).await?
        } else {
            Vec::new()
        };
        seen.sandboxes.push(SeenSandbox {
            attempt: sandbox.attempt,
            ready: sandbox.ready,
            created_at: time(sandbox.created_at),
            ips,
            id: sandbox.id,
        });
    }
    let mut kept = Ended::new();
    for container in containers {
        let one = match ended.remove(&container.id) {
            Some(known) => known,
            None => match runtime.container(&container.id).await {
                Ok(status) => read_container(status, container.sandbox_id),
                Err(e) if e.is_not_found() => continue,
                Err(e) => return Err(e),
            },
        };
        if one.run == Run::Exited {
            kept.insert(one.id.clone(), one.clone());
        }
        seen.containers.push(one);
    }
    *ended = kept;
    seen.sandboxes
        .sort_by_key(|s| Reverse((s.attempt, s.created_at)));
    seen.containers
        .sort_by_key(|c| Reverse((c.created_at, c.attempt)));
    Ok(seen)
}

async fn addresses(runtime: &dyn Runtime, id: &str) -> Result<Vec<String>, Error> {
    match runtime.sandbox_network(id).await {
        Ok(network) => Ok(network.ips),
        Err(e) if e.is_not_found() => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// The runtime reports times in nanoseconds since 1970, zero for none.
fn time(nanos: i64) -> Option<Timestamp> {
    (nanos > 0)
        .then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok())
        .flatten()
}

fn read_container(s: ContainerStatus, sandbox_id: String) -> SeenContainer {
    let annotation = |key: &str| s.annotations.get(key).cloned().unwrap_or_default();
    let run = match s.container.state {
        State::Created => Run::Created,
        State::Running => Run::Running,
        State::Exited => Run::Exited,
        State::Unknown => Run::Unknown,
    };
    let path = annotation(label::MESSAGE_PATH);
    let message_file = s
        .mounts
        .iter()
        // The kubelet's own is the last; a volume may have been mounted at the same path.
        .rfind(|m| !path.is_empty() && m.container_path == path)
        .map(|m| m.host_path.clone());
    let whole = s.mounts.iter().filter(|m| m.recursive_read_only);
    let recursive_read_only = whole.map(|m| m.container_path.clone()).collect();
    let falls_back = annotation(label::MESSAGE_POLICY) == "FallbackToLogsOnError";
    let mut seen = SeenContainer {
        sandbox_id,
        name: s
            .container
            .labels
            .get(label::CONTAINER_NAME)
            .cloned()
            .unwrap_or(s.name),
        attempt: annotation(label::RESTART_COUNT)
            .parse()
            .unwrap_or(s.attempt),
        round: annotation(label::ROUND).parse().unwrap_or(0),
        run,
        created_at: time(s.created_at),
        started_at: time(s.started_at),
        finished_at: time(s.finished_at),
        exit_code: s.exit_code,
        reason: s.reason,
        message: s.message,
        image: s.container.image,
        image_ref: s.container.image_ref,
        hash: annotation(label::HASH),
        log_path: s.log_path,
        message_file,
        message_falls_back: falls_back,
        stop_signal: s.stop_signal,
        user: s.user,
        recursive_read_only,
        id: s.container.id,
    };
    if run == Run::Exited {
        add_last_words(&mut seen);
    }
    seen
}

/// The most bytes of a termination message, and of the log that serves in their place (upstream's).
const MESSAGE_BYTES: usize = 4096;
const LOG_BYTES: usize = 2048;
const LOG_LINES: usize = 80;

/// Puts the container's own termination message before the runtime's. That its file cannot be read is
/// said in its place, in upstream's words; a file that is gone has said nothing.
fn add_last_words(seen: &mut SeenContainer) {
    let file = seen.message_file.as_deref();
    let read = file.map_or_else(
        || Ok(Vec::new()),
        |file| match end_of(Path::new(file), MESSAGE_BYTES) {
            Err(error) if is_absent(&error) => Ok(Vec::new()),
            read => read.map_err(|e| format!("Error on reading termination log {file}: {e}")),
        },
    );
    let mut words = match read {
        Ok(bytes) => tail(&bytes, MESSAGE_BYTES),
        Err(why) => why,
    };
    if words.is_empty() && seen.message_falls_back && seen.exit_code != 0 {
        let log = crate::logs::last_lines(Path::new(&seen.log_path), LOG_LINES);
        words = tail(log.as_bytes(), LOG_BYTES);
    }
    if !words.is_empty() {
        seen.message = if seen.message.is_empty() {
            words
        } else {
            format!("{}: {words}", seen.message)
        };
    }
}

/// The end of a file that a container wrote: it may be of any size, or something else by now.
fn end_of(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut file = host::open_beneath::open_file(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(limit as u64)))?;
    let mut out = Vec::new();
    file.take(limit as u64).read_to_end(&mut out)?;
    Ok(out)
}

fn tail(bytes: &[u8], limit: usize) -> String {
    let start = bytes.len().saturating_sub(limit);
    String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_one_address_of_each_family() {
        let all = ["fd00::2", "10.0.0.3", "fd00::1", "10.0.0.1"];
        for (node, wanted) in [
            ("192.0.2.1", ["10.0.0.3", "fd00::2"]),
            ("2001:db8::1", ["fd00::2", "10.0.0.3"]),
        ] {
            let mut seen = SeenPod {
                sandboxes: vec![SeenSandbox {
                    id: "s".to_owned(),
                    attempt: 0,
                    ready: true,
                    created_at: None,
                    ips: all.map(str::to_owned).to_vec(),
                }],
                ..SeenPod::default()
            };
            seen.put_first(node.parse().unwrap());
            assert_eq!(seen.sandboxes[0].ips, wanted);
        }
    }

    #[test]
    fn only_the_end_of_an_ordinary_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("words");
        std::fs::write(&file, "0123456789").unwrap();
        assert_eq!(end_of(&file, 4).unwrap(), b"6789");
        assert_eq!(end_of(&file, 40).unwrap(), b"0123456789");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(end_of(&link, 4).is_err());
        assert!(end_of(dir.path(), 4).is_err());
    }

    #[test]
    fn last_words_that_cannot_be_read_are_not_none() {
        let dir = tempfile::tempdir().unwrap();
        let said = |file: &Path| {
            let mut seen = crate::pod::tests::container("a", Run::Exited, 1, 0);
            seen.message_file = Some(file.display().to_string());
            add_last_words(&mut seen);
            seen.message
        };
        assert_eq!(said(&dir.path().join("none")), "");
        let file = dir.path().join("words");
        std::fs::write(&file, "no room").unwrap();
        assert_eq!(said(&file), "no room");
        let begin = format!(
            "Error on reading termination log {}: ",
            dir.path().display()
        );
        assert!(said(dir.path()).starts_with(&begin));
    }
}
