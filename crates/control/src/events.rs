//! Events: what components report about objects. Recording never waits and never fails its
//! caller; which events are written is decided in [`crate::correlate`].

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use clock::Clock;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use traces::Tracer;

use crate::correlate::{Correlator, Note, Verdict};

/// Events that wait to be looked at; more are dropped, since events are best effort.
const QUEUE: usize = 1_000;
/// Events that are written at the same time: a burst of bindings must not make them late.
const LANES: usize = 16;
/// Events that wait in one lane.
const LANE: usize = 32;

/// Records events of one component. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
    clock: Clock,
    tracer: Tracer,
}

impl Recorder {
    /// `component` and `host` name the source; the host may be empty.
    pub fn new(client: Client, component: &str, host: &str, clock: Clock) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE);
        let source = EventSource {
            component: Some(component.into()),
            host: Some(host.into()).filter(|h: &String| !h.is_empty()),
        };
        tokio::spawn(write_all(Arc::new(Writer { client, source }), notes));
        Self {
            queue,
            clock,
            tracer: Tracer::default(),
        }
    }

    /// The same, whose component's work is traced.
    #[must_use]
    pub fn traced(mut self, tracer: Tracer) -> Self {
        self.tracer = tracer;
        self
    }

    /// Makes spans of the component's work; off where nobody asked for it.
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// The component's clock.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    pub fn event(&self, about: &ObjectReference, warning: bool, reason: &str, message: &str) {
        self.record(self.now(about, warning, reason, message));
    }

    /// An event of this moment, to be recorded later.
    pub fn now(
        &self,
        about: &ObjectReference,
        warning: bool,
        reason: &str,
        message: &str,
    ) -> UnrecordedEvent {
        UnrecordedEvent(Note {
            about: about.clone(),
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
            at: self.clock.now(),
        })
    }

    pub fn record(&self, event: UnrecordedEvent) {
        if let Err(e) = self.queue.try_send(event.0) {
            let reason = e.into_inner().reason;
            tracing::debug!("the queue of events is full; one is dropped: {reason}");
        }
    }

    /// How many more events would not be dropped at this moment.
    pub fn room(&self) -> usize {
        self.queue.capacity()
    }
}

/// An event that has happened and is yet to be recorded.
pub struct UnrecordedEvent(Note);

struct Writer {
    client: Client,
    source: EventSource,
}

type Lane = mpsc::Sender<(Note, Verdict)>;

/// What is written into one object goes through one lane: it is made before it is counted up.
async fn write_all(writer: Arc<Writer>, mut notes: mpsc::Receiver<Note>) {
    let source = &writer.source;
    let mut correlator = Correlator::of(&(&source.component, &source.host));
    // Most components say little: a lane is made when it is needed.
    let mut lanes: [Option<Lane>; LANES] = [const { None }; LANES];
    while let Some(note) = notes.recv().await {
        let Some(verdict) = correlator.decide(&note) else {
            tracing::debug!("an event was dropped, there were too many: {}", note.reason);
            continue;
        };
        let mut hash = DefaultHasher::new();
        verdict.name.hash(&mut hash);
        let nth = usize::try_from(hash.finish() % LANES as u64).unwrap_or(0);
        let Some(lane) = lanes.get_mut(nth) else {
            continue;
        };
        let lane = lane.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(LANE);
            tokio::spawn(writer.clone().work(receiver));
            sender
        });
        // It is gone only with the runtime.
        let _ = lane.send((note, verdict)).await;
    }
}

impl Writer {
    async fn work(self: Arc<Self>, mut lane: mpsc::Receiver<(Note, Verdict)>) {
        while let Some((note, verdict)) = lane.recv().await {
            if let Err(e) = self.write(&note, &verdict).await {
                // Such as a namespace that is being deleted: nothing to be done about it.
                tracing::debug!("event {} was not recorded: {e}", note.reason);
            }
        }
    }

    async fn write(&self, note: &Note, verdict: &Verdict) -> kube::Result<()> {
        let namespace = namespace_of(note);
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        if verdict.count > 1 {
            let patch = json!({
                "count": verdict.count,
                "message": verdict.message,
                "lastTimestamp": time(note.at),
            });
            let params = PatchParams::default();
            match api
                .patch(&verdict.name, &params, &Patch::Merge(patch))
                .await
            {
                // It has expired, or the first of its kind was not taken.
                Err(kube::Error::Api(e)) if e.code == 404 => {}
                other => return other.map(drop),
            }
        }
        let event = event(&self.source, note, verdict);
        api.create(&PostParams::default(), &event).await.map(drop)
    }
}

/// Events about objects of the whole cluster are in `default`.
fn namespace_of(note: &Note) -> &str {
    let namespace = note.about.namespace.as_deref();
    namespace.filter(|n| !n.is_empty()).unwrap_or("default")
}

/// Whole seconds: what the API keeps.
fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn event(source: &EventSource, note: &Note, verdict: &Verdict) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(verdict.name.clone()),
            namespace: Some(namespace_of(note).to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: note.about.clone(),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
        reason: Some(note.reason.clone()),
        message: Some(verdict.message.clone()),
        count: Some(verdict.count),
        first_timestamp: Some(time(verdict.first)),
        last_timestamp: Some(time(note.at)),
        source: Some(source.clone()),
        reporting_component: source.component.clone(),
        reporting_instance: source.host.clone(),
        ..Event::default()
    }
}
