//! A collector of spans, for tests: it keeps what it gets.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
struct CollectedSpans(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for CollectedSpans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|r| r.scope_spans);
        let spans = scopes.flat_map(|s| s.spans);
        self.0.lock().expect("nobody panics").extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

pub struct Collector {
    /// Its host and port.
    pub endpoint: String,
    kept: CollectedSpans,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let kept = CollectedSpans::default();
        let service = TraceServiceServer::new(kept.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { endpoint, kept }
    }

    /// A tracer that sends everything here; of a million traces that begin with it `rate` are kept.
    pub fn tracer(&self, rate: u32) -> traces::Tracer {
        let configuration = traces::Configuration {
            endpoint: format!("http://{}", self.endpoint),
            per_million: rate,
        };
        let instance = ("service.instance.id", "one");
        traces::Tracer::start(&configuration, "test", instance).expect("a tracer")
    }

    /// All spans so far, in the order of their ends.
    pub fn spans(&self) -> Vec<Span> {
        self.kept.0.lock().expect("nobody panics").clone()
    }

    /// The only span of this name.
    pub fn one(&self, name: &str) -> Span {
        let all = self.spans();
        let mut found = all.iter().filter(|s| s.name == name);
        let names: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
        let one = found
            .next()
            .unwrap_or_else(|| panic!("no {name} in {names:?}"));
        assert!(found.next().is_none(), "several {name} in {names:?}");
        one.clone()
    }
}

/// An attribute as text.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|a| a.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
