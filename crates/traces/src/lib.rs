//! Spans: how long a request or a piece of work took, and of what it was a part, through all
//! components and into those that they call. They are sent to a collector by OTLP where a
//! configuration asks for it; without one, nothing is made and nothing is looked up.
//!
//! A piece of work knows the span around it by where it runs, not by an argument: so what lies deep
//! within a request can say how long it took, and whoever is called can know ([`pass_on`]).
//! This crate knows neither components nor what their spans are called.
#![forbid(unsafe_code)]

mod carrier;
pub mod configuration;
mod identity;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Link, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tonic::transport::Endpoint;

pub use configuration::Configuration;
pub use opentelemetry::Value;

/// How long a batch may take to arrive; upstream's. What waits meanwhile has a bound of 2,048 spans,
/// and further ones are dropped; batches of at most 512 go every 5 s.
const WITHIN: Duration = Duration::from_secs(10);

/// Whether any tracer of this process is on: asked before anything is looked up.
static ANY: AtomicBool = AtomicBool::new(false);

/// Why a tracer cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("endpoint {endpoint:?}: {why}")]
    Endpoint { endpoint: String, why: String },
    #[error("the exporter of spans: {0}")]
    Exporter(String),
}

/// Makes spans and sends them; by default it is off.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tracer").field(&self.is_on()).finish()
    }
}

/// Whether what a client says of the trace that its request is a part of decides anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// Its trace goes on here, and it decides whether it is recorded.
    Believed,
    /// A trace of our own begins, with a link to the client's.
    Stranger,
}

impl Tracer {
    /// Begins; the connection is made when the first spans are sent, and again after it was lost.
    /// `service` is the component, `instance` which of them; called within a tokio runtime.
    pub fn start(
        configuration: &Configuration,
        service: &'static str,
        (key, instance): (&'static str, &str),
    ) -> Result<Self, StartError> {
        let endpoint = &configuration.endpoint;
        let channel =
            Endpoint::from_shared(endpoint.clone()).map_err(|e| StartError::Endpoint {
                endpoint: endpoint.clone(),
                why: e.to_string(),
            })?;
        let channel = channel
            .connect_timeout(WITHIN)
            .timeout(WITHIN)
            .connect_lazy();
        let exporter = SpanExporter::builder().with_tonic().with_channel(channel);
        let exporter = exporter.build();
        let exporter = exporter.map_err(|e| StartError::Exporter(e.to_string()))?;
        let root = identity::Share(configuration.per_million);
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", service),
            KeyValue::new(key, instance.to_owned()),
        ]);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_id_generator(identity::Ids::default())
            .with_sampler(Sampler::ParentBased(Box::new(root)))
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer(service);
        ANY.store(true, Ordering::Relaxed);
        Ok(Self(Some(Arc::new(Inner { provider, tracer }))))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The span of a request that came in; `since` is when.
    pub fn received(
        &self,
        name: impl FnOnce() -> String,
        headers: &HeaderMap,
        caller: Caller,
        since: impl Into<Time>,
    ) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let remote = carrier::Read(headers);
        let remote = TraceContextPropagator::new().extract_with_context(&Context::new(), &remote);
        let mut builder = SpanBuilder::from_name(name())
            .with_kind(SpanKind::Server)
            .with_start_time(since.into());
        let parent = match caller {
            Caller::Believed => remote,
            Caller::Stranger => {
                let theirs = remote.span().span_context().clone();
                if theirs.is_valid() {
                    builder = builder.with_links(vec![Link::with_context(theirs)]);
                }
                Context::new()
            }
        };
        Some(inner.begin(builder, &parent))
    }

    /// The span of work that nobody asked for, such as a controller's.
    pub fn own_work(&self, name: &'static str) -> Option<Span> {
        let inner = self.0.as_ref()?;
        Some(inner.begin(SpanBuilder::from_name(name), &Context::new()))
    }

    /// The span of work for one object of the API, such as bringing a pod to what it should be, since
    /// a time. All work for it is one trace, whose ID is the object's UID: what several components
    /// do, of which none calls another, is seen together.
    pub fn work_for(&self, name: &'static str, uid: &str, since: impl Into<Time>) -> Option<Span> {
        let inner = self.0.as_ref()?;
        let builder = SpanBuilder::from_name(name).with_start_time(since.into());
        let begin = || inner.begin(builder, &Context::new());
        Some(identity::within(uid, begin))
    }

    /// Sends what has ended so far.
    pub async fn flush(&self) {
        self.settle(|provider| provider.force_flush().map_err(|e| e.to_string()))
            .await;
    }

    /// Sends what has ended, and ends itself.
    pub async fn finish(&self) {
        self.settle(|provider| provider.shutdown().map_err(|e| e.to_string()))
            .await;
    }

    async fn settle(
        &self,
        what: impl FnOnce(&SdkTracerProvider) -> Result<(), String> + Send + 'static,
    ) {
        let Some(inner) = self.0.clone() else { return };
        #[expect(
            clippy::disallowed_methods,
            reason = "the exporter has a thread of its own, which is waited for"
        )]
        let done = tokio::task::spawn_blocking(move || what(&inner.provider)).await;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::warn!("sending spans: {why}"),
            Err(e) => tracing::warn!("sending spans: {e}"),
        }
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "what OpenTelemetry wants; it is made of a given timestamp"
)]
pub type Time = std::time::SystemTime;

/// By which the parts of a span find who sends them.
struct Owner(Arc<Inner>);

impl Inner {
    fn begin(self: &Arc<Self>, builder: SpanBuilder, parent: &Context) -> Span {
        let span = self.tracer.build_with_context(builder, parent);
        Span(parent.with_span(span).with_value(Owner(self.clone())))
    }
}

/// A span that lasts until [`Span::end`], or until nobody holds it any more.
#[derive(Clone)]
pub struct Span(Context);

impl Span {
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        self.0.span().set_attribute(KeyValue::new(key, value));
    }

    /// Says that the work has failed, and why.
    pub fn failed(&self, why: impl Into<String>) {
        self.0.span().set_status(Status::error(why.into()));
    }

    /// Work that is a part of it.
    pub async fn over<F: Future>(&self, work: F) -> F::Output {
        use opentelemetry::context::FutureExt;
        work.with_context(self.0.clone()).await
    }

    pub fn end(&self) {
        self.0.span().end();
    }
}

/// A part of the work that runs here, under a name of its own; none where nobody traces it.
pub fn part(name: &'static str) -> Option<Span> {
    begin_part(name, SpanKind::Internal)
}

/// The same of a question to somebody else, who is informed by [`pass_on`].
pub fn call(name: &'static str) -> Option<Span> {
    begin_part(name, SpanKind::Client)
}

fn begin_part(name: &'static str, kind: SpanKind) -> Option<Span> {
    if !ANY.load(Ordering::Relaxed) {
        return None;
    }
    let here = Context::current();
    let owner = here.get::<Owner>()?;
    let builder = SpanBuilder::from_name(name).with_kind(kind);
    Some(owner.0.begin(builder, &here))
}

/// The work around this place, to go on with it on another thread; none where nobody traces it.
pub fn here() -> Option<Span> {
    if !ANY.load(Ordering::Relaxed) {
        return None;
    }
    let here = Context::current();
    here.get::<Owner>().is_some().then_some(Span(here))
}

/// Tells whoever is sent these headers what his work is a part of (`traceparent`, `tracestate`).
/// Where a client has a queue, that is the place at which the caller waits, not the queue's.
pub fn pass_on(headers: &mut HeaderMap) {
    if let Some(here) = here() {
        let mut headers = carrier::Write(headers);
        TraceContextPropagator::new().inject_context(&here.0, &mut headers);
    }
}
