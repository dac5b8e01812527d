//! Events about pods and the node, in the words that people look for. What repeats is counted
//! in one object; what floods is dropped.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use std::collections::HashMap;
use tokio::sync::mpsc;

/// Events that may wait to be sent; more are dropped, since events are best effort.
const QUEUE: usize = 1000;
/// Upstream's spam filter: so many events about one object at once …
const BURST: f64 = 25.0;
/// … and one more per this many seconds after.
const REFILL_SECONDS: f64 = 300.0;
/// Events remembered for counting; upstream's cache size.
const REMEMBERED: usize = 4096;

/// Whether something is worth a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// All is well.
    Normal,
    /// Someone should look.
    Warning,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

#[derive(Debug)]
struct Note {
    about: ObjectReference,
    severity: Severity,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Takes events and sends them in the background.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
}

impl Recorder {
    /// A recorder whose events come from this node.
    #[must_use]
    pub fn start(client: kube::Client, node: &str) -> Self {
        let (queue, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(send_all(client, node.to_owned(), receiver));
        Self { queue }
    }

    /// An event about a pod, or about one of its containers.
    pub fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let field_path = container.map(|name| {
            if crate::pod::spec::is_init(pod, name) {
                format!("spec.initContainers{{{name}}}")
            } else if crate::pod::spec::container(pod, name).is_none() {
                format!("spec.ephemeralContainers{{{name}}}")
            } else {
                format!("spec.containers{{{name}}}")
            }
        });
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path,
        };
        self.about(about, severity, reason, message);
    }

    /// An event about the node.
    pub fn node(&self, name: &str, severity: Severity, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..Default::default()
        };
        self.about(about, severity, reason, message);
    }

    fn about(
        &self,
        about: ObjectReference,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let note = Note {
            about,
            severity,
            reason: reason.to_owned(),
            message: message.into(),
            at: Timestamp::now(),
        };
        if self.queue.try_send(note).is_err() {
            tracing::debug!("the queue of events is full; one is dropped");
        }
    }
}

async fn send_all(client: kube::Client, node: String, mut queue: mpsc::Receiver<Note>) {
    let mut correlator = Correlator::default();
    while let Some(note) = queue.recv().await {
        let namespace = note
            .about
            .namespace
            .clone()
            .unwrap_or_else(|| "default".into());
        let api: kube::Api<Event> = kube::Api::namespaced(client.clone(), &namespace);
        let Some(verdict) = correlator.decide(&note) else {
            continue;
        };
        if let Err(e) = send(&api, &node, &note, verdict).await {
            tracing::debug!(error = %e, reason = note.reason, "an event was not taken");
        }
    }
}

async fn send(
    api: &kube::Api<Event>,
    node: &str,
    note: &Note,
    verdict: Verdict,
) -> kube::Result<()> {
    if verdict.count > 1 {
        let body = serde_json::json!({
            "count": verdict.count,
            "lastTimestamp": note.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        let patched = api
            .patch(
                &verdict.name,
                &PatchParams::default(),
                &Patch::Strategic(body),
            )
            .await;
        match patched {
            // The event expired meanwhile: it is made anew.
            Err(kube::Error::Api(e)) if e.code == 404 => {}
            other => return other.map(|_| ()),
        }
    }
    api.create(&PostParams::default(), &event(node, note, &verdict))
        .await
        .map(|_| ())
}

fn event(node: &str, note: &Note, verdict: &Verdict) -> Event {
    let at = Timestamp::from_second(note.at.as_second()).unwrap_or(note.at);
    Event {
        metadata: ObjectMeta {
            name: Some(verdict.name.clone()),
            namespace: Some(
                note.about
                    .namespace
                    .clone()
                    .unwrap_or_else(|| "default".into()),
            ),
            ..Default::default()
        },
        involved_object: note.about.clone(),
        type_: Some(note.severity.word().into()),
        reason: Some(note.reason.clone()),
        message: Some(note.message.clone()),
        first_timestamp: Some(Time(at)),
        last_timestamp: Some(Time(at)),
        count: Some(verdict.count),
        source: Some(EventSource {
            component: Some("kubelet".into()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.to_owned()),
        ..Default::default()
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    name: String,
    count: i32,
}

/// What makes two events the same: object, part of it, severity, reason and message.
type Saying = (String, String, &'static str, String, String);

/// Remembers what was said, to count instead of repeating.
#[derive(Debug, Default)]
struct Correlator {
    said: HashMap<Saying, (String, i32)>,
    tokens: HashMap<String, (f64, Timestamp)>,
}

impl Correlator {
    /// None: say nothing, there were too many.
    fn decide(&mut self, note: &Note) -> Option<Verdict> {
        let uid = note.about.uid.clone().unwrap_or_default();
        if !self.take_token(&uid, note.at) {
            return None;
        }
        let field = note.about.field_path.clone().unwrap_or_default();
        let key = (
            uid,
            field,
            note.severity.word(),
            note.reason.clone(),
            note.message.clone(),
        );
        if self.said.len() > REMEMBERED {
            self.said.clear();
            self.tokens.clear();
        }
        let name = format!(
            "{}.{:x}",
            note.about.name.as_deref().unwrap_or_default(),
            note.at.as_nanosecond()
        );
        let entry = self.said.entry(key).or_insert((name, 0));
        entry.1 += 1;
        Some(Verdict {
            name: entry.0.clone(),
            count: entry.1,
        })
    }

    fn take_token(&mut self, uid: &str, now: Timestamp) -> bool {
        let (tokens, last) = self.tokens.entry(uid.to_owned()).or_insert((BURST, now));
        let gained = now.duration_since(*last).as_secs_f64() / REFILL_SECONDS;
        *tokens = (*tokens + gained).min(BURST);
        *last = now;
        let allowed = *tokens >= 1.0;
        if allowed {
            *tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        Note {
            about: ObjectReference {
                name: Some("p".into()),
                uid: Some("u".into()),
                ..Default::default()
            },
            severity: Severity::Normal,
            reason: "Pulled".into(),
            message: message.into(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn repeats_are_counted_and_floods_dropped() {
        let mut c = Correlator::default();
        assert_eq!(c.decide(&note("a")).unwrap().count, 1);
        assert_eq!(c.decide(&note("a")).unwrap().count, 2);
        assert_eq!(c.decide(&note("b")).unwrap().count, 1);
        let said = (0..100).filter(|_| c.decide(&note("a")).is_some()).count();
        assert_eq!(said, 22);
    }
}
