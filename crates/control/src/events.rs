//! Events: what components tell people about objects. Recording never waits and never fails its
//! caller; the same event again counts up the one that is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;

/// Events that wait at most; more are dropped, since events are best effort.
const QUEUE: usize = 1_000;
/// Different events that are remembered for counting.
const REMEMBERED: usize = 4_096;
/// An event that was not seen for this long starts anew; as upstream's correlation.
const FORGET_AFTER: Duration = Duration::from_secs(600);

struct Record {
    about: ObjectReference,
    warning: bool,
    reason: String,
    message: String,
}

/// Records events of one component. Clones share the queue.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
}

impl Recorder {
    /// `component` and `host` name the source.
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (queue, records) = mpsc::channel(QUEUE);
        let source = EventSource {
            component: Some(component.into()),
            host: Some(host.into()).filter(|h: &String| !h.is_empty()),
        };
        tokio::spawn(write(client, source, records));
        Self { queue }
    }

    pub fn event(&self, about: &ObjectReference, warning: bool, reason: &str, message: &str) {
        let record = Record {
            about: about.clone(),
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        if self.queue.try_send(record).is_err() {
            tracing::debug!("an event was dropped: {reason}");
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Same {
    uid: String,
    name: String,
    field: String,
    reason: String,
    message: String,
}

#[derive(Clone)]
struct Seen {
    namespace: String,
    name: String,
    count: i32,
    last: tokio::time::Instant,
}

/// Events that are written at the same time: a burst of bindings must not make them late.
const AT_ONCE: usize = 16;

struct Writer {
    client: Client,
    source: EventSource,
    seen: Mutex<HashMap<Same, Seen>>,
}

async fn write(client: Client, source: EventSource, records: mpsc::Receiver<Record>) {
    let writer = Arc::new(Writer {
        client,
        source,
        seen: Mutex::default(),
    });
    let stream = futures::stream::unfold(records, |mut records| async move {
        let next = records.recv().await?;
        Some((next, records))
    });
    stream
        .for_each_concurrent(AT_ONCE, |record| {
            let writer = writer.clone();
            async move { writer.write(record).await }
        })
        .await;
}

impl Writer {
    async fn write(&self, record: Record) {
        let same = Same {
            uid: record.about.uid.clone().unwrap_or_default(),
            name: record.about.name.clone().unwrap_or_default(),
            field: record.about.field_path.clone().unwrap_or_default(),
            reason: record.reason.clone(),
            message: record.message.clone(),
        };
        if let Some(known) = self.known(&same)
            && count_up(&self.client, &known).await.is_ok()
        {
            return;
        }
        if let Some(made) = create(&self.client, &self.source, &record).await {
            self.seen.lock().insert(same, made);
        }
    }

    /// The event that was written before for the same, counted up.
    fn known(&self, same: &Same) -> Option<Seen> {
        let mut seen = self.seen.lock();
        if seen.len() >= REMEMBERED {
            seen.retain(|_, s| s.last.elapsed() < FORGET_AFTER);
        }
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        let known = seen
            .get_mut(same)
            .filter(|s| s.last.elapsed() < FORGET_AFTER)?;
        known.count += 1;
        known.last = tokio::time::Instant::now();
        Some(known.clone())
    }
}

fn api_of(client: &Client, namespace: &str) -> Api<Event> {
    Api::namespaced(client.clone(), namespace)
}

async fn count_up(client: &Client, known: &Seen) -> Result<(), ()> {
    let patch = json!({ "count": known.count, "lastTimestamp": Time(now()) });
    api_of(client, &known.namespace)
        .patch(&known.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
        .map_err(drop)
}

/// Whole seconds: what the API keeps.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

async fn create(client: &Client, source: &EventSource, record: &Record) -> Option<Seen> {
    let about = &record.about;
    let namespace = about
        .namespace
        .clone()
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| "default".into());
    let stamp = Timestamp::now().as_nanosecond();
    // A name is at most 253 bytes; the suffix makes it unique.
    let mut base = about.name.clone().unwrap_or_default();
    base.truncate(230);
    let name = format!("{base}.{stamp:x}");
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: about.clone(),
        type_: Some(if record.warning { "Warning" } else { "Normal" }.into()),
        reason: Some(record.reason.clone()),
        message: Some(record.message.clone()),
        count: Some(1),
        first_timestamp: Some(Time(now())),
        last_timestamp: Some(Time(now())),
        source: Some(source.clone()),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        ..Event::default()
    };
    match api_of(client, &namespace)
        .create(&PostParams::default(), &event)
        .await
    {
        Ok(_) => Some(Seen {
            namespace,
            name,
            count: 1,
            last: tokio::time::Instant::now(),
        }),
        Err(e) => {
            // Such as a namespace that is being deleted: nothing to be done about it.
            tracing::debug!("event {} was not recorded: {e}", record.reason);
            None
        }
    }
}
