//! `/containerLogs`: from the file that the runtime writes, following it if asked.

use super::common::{Answer, Body, Query, Shared, find_pod, text};
use crate::logs::{Decoder, Options, tail_offset};
use crate::pod::runtime_state::{Run, SeenContainer, SeenPod};
use crate::pod::spec;
use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use inotify::{Inotify, WatchMask};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Blocks that may wait for a slow reader.
const QUEUE: usize = 16;
/// Bytes of a block.
const BLOCK: usize = 64 << 10;
/// How long a runtime may go on writing into the old file after the new one is there.
const LEAVING: Duration = Duration::from_millis(100);
/// How often a follower looks whether the container still runs; lines come by file events.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn serve(
    server: &Shared,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Answer {
    let snapshot = match find_pod(server, namespace, pod, None) {
        Ok(snapshot) => snapshot,
        Err(answer) => return *answer,
    };
    if spec::find(&snapshot.pod, container).is_none() {
        let words = format!("container \"{container}\" not found in pod \"{pod}\"");
        return text(StatusCode::NOT_FOUND, &words);
    }
    let options = match options(query, server.deps.clock.now()) {
        Ok(options) => options,
        Err(words) => return text(StatusCode::BAD_REQUEST, &words),
    };
    let chosen = match choose(
        &snapshot.seen,
        &snapshot.pod,
        container,
        query.flag(&["previous"]),
    ) {
        Ok(chosen) => chosen.clone(),
        Err(words) => return text(StatusCode::BAD_REQUEST, &words),
    };
    let file = match host::open_beneath::open_file(Path::new(&chosen.log_path)) {
        Ok(file) => file,
        Err(e) => {
            let words = format!(
                "failed to try resolving symlinks in path \"{}\": {e}",
                chosen.log_path
            );
            return text(StatusCode::INTERNAL_SERVER_ERROR, &words);
        }
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let uid = spec::uid(&snapshot.pod).to_owned();
    let reader = Reader {
        path: PathBuf::from(&chosen.log_path),
        file,
        decoder: Decoder::new(options.clone()),
        sender,
    };
    let follow = query.flag(&["follow"]);
    let pods = server.pods.clone();
    let is_alive = move || {
        pods.snapshots()
            .iter()
            .filter(|s| spec::uid(&s.pod) == uid)
            .any(|s| {
                s.seen
                    .containers
                    .iter()
                    .any(|c| c.id == chosen.id && c.run == Run::Running)
            })
    };
    tokio::spawn(reader.run(options.tail_lines, follow, is_alive));
    let frames = tokio_stream::wrappers::ReceiverStream::new(receiver)
        .map(|b| Ok::<_, Infallible>(Frame::data(b)));
    let body: Body = BodyExt::boxed(StreamBody::new(frames));
    let mut answer = Response::new(body);
    answer
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("text/plain"));
    answer
}

fn options(query: &Query, now: Timestamp) -> Result<Options, String> {
    let number = |name: &str| -> Result<Option<u64>, String> {
        match query.get(name) {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| format!("invalid value for {name}: \"{text}\"")),
        }
    };
    let since = match (number("sinceSeconds")?, query.get("sinceTime")) {
        (Some(seconds), _) => {
            let back = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            now.checked_sub(back).ok()
        }
        (None, Some(time)) => Some(
            time.parse()
                .map_err(|_| format!("invalid sinceTime: \"{time}\""))?,
        ),
        (None, None) => None,
    };
    Ok(Options {
        tail_lines: number("tailLines")?,
        since,
        timestamps: query.flag(&["timestamps"]),
        limit_bytes: number("limitBytes")?,
        stream: query.get("stream").map(str::to_owned),
    })
}

/// Which attempt's log is meant.
fn choose<'a>(
    seen: &'a SeenPod,
    pod: &Pod,
    container: &str,
    previous: bool,
) -> Result<&'a SeenContainer, String> {
    let started: Vec<&SeenContainer> = seen
        .containers
        .iter()
        .filter(|c| c.name == container && c.started_at.is_some())
        .collect();
    if previous {
        let ended = match started.as_slice() {
            [newest, older, ..] if newest.run == Run::Running => Some(older),
            // Between two attempts the newest that ended is the previous one.
            [newest, ..] if newest.run == Run::Exited => Some(newest),
            _ => None,
        };
        return ended.copied().ok_or_else(|| {
            let pod = spec::name(pod);
            format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
        });
    }
    let first = started.first().copied();
    first.ok_or_else(|| why_none(pod, container))
}

/// Why a container has no log, in upstream's words.
fn why_none(pod: &Pod, container: &str) -> String {
    let status = pod.status.as_ref();
    let lists = status.map(|s| {
        [
            &s.container_statuses,
            &s.init_container_statuses,
            &s.ephemeral_container_statuses,
        ]
    });
    let mut all = lists.into_iter().flatten().flatten().flatten();
    let found = all.find(|s| s.name == container);
    let what = format!("container \"{container}\" in pod \"{}\"", spec::name(pod));
    let Some(found) = found else {
        return format!("{what} is not available");
    };
    let state = found.state.clone().unwrap_or_default();
    if state.terminated.is_some() {
        return format!("{what} is terminated");
    }
    let reason = state.waiting.and_then(|w| w.reason);
    match reason.as_deref() {
        Some("ErrImagePull") => format!("{what} is waiting to start: image can't be pulled"),
        Some("ImagePullBackOff") => {
            format!("{what} is waiting to start: trying and failing to pull image")
        }
        Some(reason) => format!("{what} is waiting to start: {reason}"),
        None => format!("{what} is waiting to start - no logs yet"),
    }
}

struct Reader {
    path: PathBuf,
    file: File,
    decoder: Decoder,
    sender: mpsc::Sender<Bytes>,
}

impl Reader {
    async fn run(mut self, tail: Option<u64>, follow: bool, is_alive: impl Fn() -> bool) {
        let offset = match tail {
            Some(lines) => tail_offset(&mut self.file, lines),
            None => Ok(0),
        };
        let begins = offset.and_then(|at| self.file.seek(SeekFrom::Start(at)));
        if let Err(error) = begins {
            tracing::warn!(log = %self.path.display(), %error, "a log cannot be read");
            return;
        }
        // The watch begins before the first reading, so that no change falls between.
        let mut changes = follow.then(|| watch(&self.path)).flatten();
        loop {
            let alive = is_alive();
            if !self.drain().await {
                return;
            }
            if !follow || !alive {
                return;
            }
            if let Some(stream) = &mut changes {
                tokio::select! {
                    biased;
                    _ = stream.next() => {}
                    () = tokio::time::sleep(LOOK) => {}
                    () = self.sender.closed() => return,
                }
            } else {
                tokio::time::sleep(LOOK).await;
            }
            if self.was_rotated() {
                tokio::time::sleep(LEAVING).await;
                if !self.drain().await {
                    return;
                }
                match host::open_beneath::open_file(&self.path) {
                    Ok(file) => self.file = file,
                    // It is tried again at the next look.
                    Err(error) => {
                        let log = self.path.display();
                        tracing::warn!(%log, %error, "the next file of a log cannot be read");
                    }
                }
            }
        }
    }

    /// Sends all that is there. False when there is nothing more to send, ever.
    async fn drain(&mut self) -> bool {
        let mut block = vec![0; BLOCK];
        loop {
            let count = match self.file.read(&mut block) {
                Ok(0) => return true,
                Ok(count) => count,
                Err(error) => {
                    let log = self.path.display();
                    tracing::warn!(%log, %error, "a log cannot be read on");
                    return false;
                }
            };
            let out = self.decoder.feed(block.get(..count).unwrap_or_default());
            if !out.is_empty() && self.sender.send(Bytes::from(out)).await.is_err() {
                return false;
            }
            if self.decoder.is_full() {
                return false;
            }
        }
    }

    fn was_rotated(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let ours = self.file.metadata().map(|m| m.ino()).ok();
        let current = std::fs::symlink_metadata(&self.path).map(|m| m.ino()).ok();
        current.is_some() && current != ours
    }
}

type Changes = inotify::EventStream<Vec<u8>>;

fn watch(path: &Path) -> Option<Changes> {
    let notify = Inotify::init().ok()?;
    let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO;
    notify.watches().add(path.parent()?, mask).ok()?;
    notify.into_event_stream(vec![0; 4096]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_previous_attempt_is_the_last_that_ended() {
        let one = |attempt: u32, run| SeenContainer {
            round: 0,
            id: attempt.to_string(),
            sandbox_id: String::new(),
            name: "c".into(),
            attempt,
            run,
            created_at: None,
            started_at: Some(Timestamp::UNIX_EPOCH),
            finished_at: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_ref: String::new(),
            hash: String::new(),
            log_path: String::new(),
            message_file: None,
            message_falls_back: false,
            stop_signal: String::new(),
            user: None,
            recursive_read_only: Vec::new(),
        };
        let seen = |containers| SeenPod {
            sandboxes: Vec::new(),
            containers,
        };
        let pod = Pod::default();
        let id = |s: &SeenPod, previous| choose(s, &pod, "c", previous).map(|c| c.id.clone()).ok();
        let running = seen(vec![one(1, Run::Running), one(0, Run::Exited)]);
        assert_eq!(
            (id(&running, false), id(&running, true)),
            (Some("1".into()), Some("0".into()))
        );
        let between = seen(vec![one(1, Run::Exited), one(0, Run::Exited)]);
        assert_eq!(id(&between, true), Some("1".into()));
        let first = seen(vec![one(0, Run::Running)]);
        assert_eq!(id(&first, true), None);
        assert_eq!(id(&seen(vec![]), false), None);
    }
    #[test]
    fn who_asks_for_a_log_hears_why_there_is_none() {
        let say = |statuses: serde_json::Value| {
            let pod = serde_json::json!({ "metadata": { "name": "p" }, "status": statuses });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            choose(&SeenPod::default(), &pod, "c", false)
                .map(|c| c.id.clone())
                .unwrap_err()
        };
        let of = |list: &str, state: serde_json::Value| {
            let status = serde_json::json!({ "name": "c", "image": "i", "imageID": "",
                "ready": false, "restartCount": 0, "state": state });
            say(serde_json::json!({ list: [status] }))
        };
        let waits = |reason: &str| serde_json::json!({ "waiting": { "reason": reason } });
        let words = "container \"c\" in pod \"p\" is ";
        for (list, state, want) in [
            (
                "containerStatuses",
                waits("ContainerCreating"),
                "waiting to start: ContainerCreating",
            ),
            (
                "initContainerStatuses",
                waits("PodInitializing"),
                "waiting to start: PodInitializing",
            ),
            (
                "containerStatuses",
                waits("CreateContainerConfigError"),
                "waiting to start: CreateContainerConfigError",
            ),
            (
                "containerStatuses",
                waits("ErrImagePull"),
                "waiting to start: image can't be pulled",
            ),
            (
                "ephemeralContainerStatuses",
                waits("ImagePullBackOff"),
                "waiting to start: trying and failing to pull image",
            ),
            (
                "containerStatuses",
                serde_json::json!({ "terminated": { "exitCode": 137 } }),
                "terminated",
            ),
            (
                "containerStatuses",
                serde_json::json!({}),
                "waiting to start - no logs yet",
            ),
        ] {
            assert_eq!(of(list, state), format!("{words}{want}"));
        }
        assert_eq!(say(serde_json::json!({})), format!("{words}not available"));
    }
}
