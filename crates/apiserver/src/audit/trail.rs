//! What goes with one request and notes what happens to it. A request of which nothing is
//! recorded has an empty one, which costs nothing.

use std::sync::Arc;

use access::{Attributes, UserInfo};
use bytes::Bytes;
use clock::Instant;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use super::event::{self, Outcome, Reference, RequestFacts, TRUNCATED, Times};
use super::policy::{Level, Stage, Verdict};
use super::sink::Sink;
use super::{Audit, ID};
use crate::http::body::Body;
use crate::http::request::RequestInfo;
use crate::http::respond::Relayed;
use crate::object::{meta_text, without_managed_fields};

/// Bodies that are larger are left out: of lists, above all. Upstream's largest batch.
const BODY_MAX: usize = 10 << 20;
/// A Status that an answer shows is read up to this size.
const STATUS_MAX: usize = 64 << 10;
/// What a webhook's patch did is a part of bodies; upstream's key.
const PATCH: &str = "patch.webhook.admission.k8s.io/";
/// Requests that took longer say how long, in upstream's words.
const SLOW: jiff::SignedDuration = jiff::SignedDuration::from_millis(500);
const TOTAL: &str = "apiserver.latency.k8s.io/total";

/// The trail of a request. Clones share it.
#[derive(Clone, Default)]
pub struct Trail(Option<Arc<Tracked>>);

struct Tracked {
    audit: Arc<Audit>,
    id: String,
    verdict: Verdict,
    received: Timestamp,
    told: Mutex<RequestFacts>,
}

/// An extension of each request: its number, and when it came.
#[derive(Clone)]
pub struct Numbered {
    pub id: HeaderValue,
    pub came: Instant,
}

impl Numbered {
    pub fn new(id: HeaderValue, came: Instant) -> Self {
        Self { id, came }
    }
}

/// A request as it begins.
pub struct Begin<'a> {
    pub head: &'a Parts,
    pub info: &'a RequestInfo,
    pub asked: &'a Attributes<'a>,
    /// Nobody, where credentials were wrong.
    pub user: Option<&'a UserInfo>,
}

impl Audit {
    /// Begins the trail of a request: empty, where the policy wants nothing of it.
    pub fn begin(self: &Arc<Self>, begin: &Begin<'_>) -> Trail {
        let verdict = self.policy.judge(begin.user, begin.asked);
        self.metrics.level(verdict.level as usize);
        if verdict.level == Level::None {
            return Trail::default();
        }
        let head = begin.head;
        let numbered = head.extensions.get::<Numbered>();
        let id = numbered.map(|n| n.id.as_bytes()).unwrap_or_default();
        let id = String::from_utf8_lossy(id).into_owned();
        let ago = numbered.map(|n| n.came.elapsed()).unwrap_or_default();
        let now = self.clock.now();
        let peer = head.extensions.get::<wire::serve::Peer>();
        let uri = head.uri.path_and_query().map(|p| p.as_str());
        let told = RequestFacts {
            uri: uri.unwrap_or_default().to_owned(),
            verb: begin.info.verb.clone(),
            user: begin.user.cloned(),
            source_ips: event::source_ips(&head.headers, peer.map(|p| p.addr.ip())),
            user_agent: event::user_agent(&head.headers),
            reference: Reference::of(begin.info),
            ..RequestFacts::default()
        };
        Trail(Some(Arc::new(Tracked {
            audit: self.clone(),
            id,
            verdict,
            received: now.checked_sub(ago).unwrap_or(now),
            told: Mutex::new(told),
        })))
    }
}

impl Trail {
    fn records(&self, level: Level) -> bool {
        self.0.as_ref().is_some_and(|t| t.verdict.level >= level)
    }

    /// Whether the bodies of answers are recorded.
    pub fn wants_responses(&self) -> bool {
        self.records(Level::RequestResponse)
    }

    fn tell(&self, tell: impl FnOnce(&mut RequestFacts)) {
        if let Some(tracked) = &self.0 {
            tell(&mut tracked.told.lock());
        }
    }

    /// The request is done as somebody else.
    /// `constraint`: the verb by which that was allowed, where it was constrained.
    pub fn impersonated(&self, user: &UserInfo, constraint: Option<String>) {
        self.tell(|told| {
            told.impersonated = Some(user.clone());
            told.constraint = constraint;
        });
    }

    /// Notes something; what was noted first under a key stays.
    pub fn annotate(&self, key: &str, value: impl Into<String>) {
        if self.0.is_none() || key.starts_with(PATCH) && !self.records(Level::Request) {
            return;
        }
        self.tell(|told| {
            if !told.annotations.contains_key(key) {
                told.annotations.insert(key.to_owned(), value.into());
            }
        });
    }

    /// The object that the request brought, in the version of the request.
    pub fn object(&self, object: &Value) {
        self.tell(|told| {
            let Some(reference) = &mut told.reference else {
                return;
            };
            for (field, place) in [
                ("namespace", &mut reference.namespace),
                ("name", &mut reference.name),
                ("uid", &mut reference.uid),
                ("resourceVersion", &mut reference.resource_version),
            ] {
                if place.is_empty() {
                    meta_text(object, field).clone_into(place);
                }
            }
        });
        self.request_body(object);
    }

    /// What the request brought that is not an object of its resource: a patch, options.
    pub fn request_body(&self, body: &Value) {
        if !self.records(Level::Request) {
            return;
        }
        let text = match self.omits_managed_fields() {
            true => without_managed_fields(body.clone()).to_string(),
            false => body.to_string(),
        };
        let body = self.bounded(text.into());
        self.tell(|told| told.request = body);
    }

    /// The body of the answer, as JSON; none where it is too large.
    pub fn response_body(&self, body: Option<Bytes>) {
        if !self.wants_responses() {
            return;
        }
        let Some(body) = body else {
            self.annotate(TRUNCATED, "true");
            return;
        };
        let body = match self.omits_managed_fields() {
            false => body,
            true => serde_json::from_slice(&body).map_or(body, |value: Value| {
                without_managed_fields(value).to_string().into()
            }),
        };
        let body = self.bounded(body);
        self.tell(|told| told.response = body);
    }

    /// The request is refused, with this answer.
    pub fn refused(&self, status: &api::Status) {
        if self.wants_responses() {
            self.response_body(Some(status.to_json().to_string().into()));
        }
    }

    /// Of the largest body of an answer that is recorded, in bytes.
    pub const fn most_bytes() -> usize {
        BODY_MAX
    }

    fn bounded(&self, body: Bytes) -> Option<Bytes> {
        if body.len() > BODY_MAX {
            self.annotate(TRUNCATED, "true");
            return None;
        }
        Some(body)
    }

    fn omits_managed_fields(&self) -> bool {
        let tracked = self.0.as_ref();
        tracked.is_some_and(|t| t.verdict.omits_managed_fields)
    }

    /// The request is known. Whether it may go on: with a back end that is strict, not if its event
    /// did not arrive.
    #[must_use]
    pub async fn received(&self) -> bool {
        let Some(tracked) = &self.0 else {
            return true;
        };
        let passed = tracked.emit(Stage::RequestReceived).await;
        if !passed {
            tracked.audit.metrics.rejected();
        }
        passed
    }

    /// The request caused a fault; `what` is its text.
    pub async fn panicked(&self, what: &str) {
        let Some(tracked) = &self.0 else {
            return;
        };
        let outcome = Outcome {
            status: "Failure".into(),
            message: format!("APIServer panic'd: {what}"),
            reason: "InternalError".into(),
            code: 500,
            ..Outcome::default()
        };
        tracked.told.lock().status = Some(outcome);
        tracked.emit(Stage::Panic).await;
    }

    /// There is an answer. One whose body lasts is recorded again when it ends.
    pub async fn answered(&self, response: Response<Body>, lasts: bool) -> Response<Body> {
        let Some(tracked) = &self.0 else {
            return response;
        };
        let outcome = outcome(&response);
        let unknown = {
            let mut told = tracked.told.lock();
            told.status = Some(outcome);
            told.user.is_none()
        };
        if unknown {
            // As upstream: the one event of a request of nobody.
            tracked.emit(Stage::ResponseStarted).await;
            return response;
        }
        if !lasts {
            tracked.complete();
            tracked.emit(Stage::ResponseComplete).await;
            return response;
        }
        tracked.emit(Stage::ResponseStarted).await;
        let last = Last(tracked.clone());
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            if let Some(Relayed(over)) = response.extensions().get().cloned() {
                tokio::spawn(async move {
                    over.cancelled().await;
                    drop(last);
                });
            }
            return response;
        }
        // What is whole, as a refusal, has ended, and stays whole: clients that read no chunks, as the
        // Python client does none of a refused upgrade, go by its length.
        response.map(|body| body.holding(last))
    }
}

/// Records the end of an answer that lasted.
struct Last(Arc<Tracked>);

impl Drop for Last {
    fn drop(&mut self) {
        let tracked = &self.0;
        tracked.complete();
        if let Some((line, sinks)) = tracked.written(Stage::ResponseComplete) {
            for sink in sinks {
                sink.offer(tracked.fitting(sink, &line, Stage::ResponseComplete));
            }
        }
    }
}

impl Tracked {
    /// The answer is whole.
    fn complete(&self) {
        let took = self.audit.clock.now().duration_since(self.received);
        if took > SLOW {
            let text = format!("{:.3}s", took.as_secs_f64());
            let mut told = self.told.lock();
            told.annotations.entry(TOTAL.into()).or_insert(text);
        }
    }

    /// Writes the event of a stage down, where it is wanted.
    fn written(&self, stage: Stage) -> Option<(Bytes, &[Sink])> {
        if self.verdict.omitted.has(stage) || self.audit.sinks.is_empty() {
            return None;
        }
        self.audit.metrics.event();
        let line = self.line(stage, &self.told.lock());
        Some((line, &self.audit.sinks))
    }

    fn line(&self, stage: Stage, told: &RequestFacts) -> Bytes {
        let times = Times {
            received: self.received,
            stage: match stage {
                Stage::RequestReceived => self.received,
                _ => self.audit.clock.now(),
            },
        };
        event::write(&self.id, self.verdict.level, stage, told, times)
    }

    /// The line as a back end takes it.
    fn fitting(&self, sink: &Sink, line: &Bytes, stage: Stage) -> Bytes {
        if sink.truncate.is_none_or(|most| line.len() <= most) {
            return line.clone();
        }
        let mut short = self.told.lock().clone();
        (short.request, short.response) = (None, None);
        short.annotations.insert(TRUNCATED.into(), "true".into());
        self.line(stage, &short)
    }

    /// Sends the event of a stage; false if a strict back end did not get it.
    async fn emit(&self, stage: Stage) -> bool {
        let Some((line, sinks)) = self.written(stage) else {
            return true;
        };
        let mut passed = true;
        for sink in sinks {
            let arrived = sink.send(self.fitting(sink, &line, stage)).await;
            passed &= arrived || !sink.is_strict();
        }
        passed
    }
}

/// What an answer says of how it went.
fn outcome(response: &Response<Body>) -> Outcome {
    let code = response.status().as_u16();
    let body = response.body().whole().filter(|b| b.len() <= STATUS_MAX);
    let is_status = |b: &&Bytes| memchr::memmem::find(b, b"\"kind\":\"Status\"").is_some();
    let said = body.filter(is_status).and_then(|b| {
        let value: Value = serde_json::from_slice(b).ok()?;
        let is = value["kind"] == "Status" && value["apiVersion"] == "v1";
        is.then(|| serde_json::from_value::<Outcome>(value).ok())?
    });
    Outcome {
        code,
        ..said.unwrap_or_default()
    }
}

/// The number of a request: what the client chose, or a new one.
pub fn id(head: &Parts, random: &clock::Random) -> HeaderValue {
    match head.headers.get(ID) {
        Some(chosen) if !chosen.is_empty() => chosen.clone(),
        _ => {
            let made = HeaderValue::try_from(random.uuid());
            let mut made = made.unwrap_or(HeaderValue::from_static("none"));
            // No other answer has it: it is not worth a place in HTTP/2's table of headers, and would
            // take that of one that all have.
            made.set_sensitive(true);
            made
        }
    }
}
