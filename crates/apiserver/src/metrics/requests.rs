//! Figures of requests, in upstream's names. All of one sort of requests are found by one look-up
//! that copies nothing, since every request passes here.

use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::HeaderMap;
use http::Method;
use metrics::Counters;
use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use registry::kinds::ByName;
use tokio_util::sync::CancellationToken;
use wire::serve::Connections;

use crate::http::request::{Query, RequestInfo};

/// In the process's table: servers of one process are counted together.
static HANDSHAKES: LazyLock<Counter> = LazyLock::new(|| {
    let name = "apiserver_tls_handshake_errors_total";
    Counters::new(name, "Connections whose TLS handshake failed", []).of([])
});

/// Has the connections of a server whose handshake fails counted, until it stops.
pub fn count_handshakes(connections: Connections, stop: CancellationToken) {
    let _ = LazyLock::force(&HANDSHAKES);
    let mut counted = 0;
    metrics::before_reading(move || {
        let now = connections.failed_handshakes();
        HANDSHAKES.inc_by(now.saturating_sub(counted));
        counted = now;
        !stop.is_cancelled()
    });
}

type Labels = Vec<(&'static str, String)>;

/// Sorts of requests that are counted by themselves; further ones are not. The names of resources
/// come from the table of kinds, codes from the server: a few thousand, if all is used.
const MOST: usize = 8_000;
const COMPONENT: &str = "apiserver";
/// Seconds; upstream's.
const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];
/// Bytes; upstream's.
const SIZES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// Names the trace of one request that a figure counted.
type Trace = [(&'static str, String); 1];
type Durations = HistogramWithExemplars<Trace>;

fn durations() -> Durations {
    Durations::new(DURATIONS.into_iter())
}

/// The trace that a request says it belongs to, if whoever began that trace keeps it: W3C's
/// `traceparent`.
fn trace(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, id, _, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let is_id = id.len() == 32
        && id
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
        && id.bytes().any(|b| b != b'0');
    (version.len() == 2 && version != "ff" && is_id && flags & 1 == 1).then(|| id.to_owned())
}

fn sizes() -> Histogram {
    Histogram::new(SIZES)
}

/// What is the same in all requests of a sort.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Sort<'a> {
    verb: &'a str,
    scope: &'a str,
    dry_run: &'a str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    code: u16,
}

impl<'a> Sort<'a> {
    fn of(asked: &MeasuredRequest<'a>, code: u16) -> Self {
        let info = asked.info;
        let sort = Self {
            verb: verb(asked),
            scope: scope(info),
            dry_run: if asked.dry_run { "All" } else { "" },
            group: "",
            version: "",
            resource: "",
            subresource: "",
            code,
        };
        if !info.is_resource {
            return Self {
                subresource: page(&info.path),
                ..sort
            };
        }
        // Only names that exist, or the labels would be the clients' to fill.
        if code == 404 && !asked.is_served {
            return sort;
        }
        Self {
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            ..sort
        }
    }

    /// Labels as upstream has them, without those that only some figures have.
    fn labels(&self) -> Labels {
        let own = |text: &str| text.to_owned();
        vec![
            ("component", own(COMPONENT)),
            ("group", own(self.group)),
            ("resource", own(self.resource)),
            ("scope", own(self.scope)),
            ("subresource", own(self.subresource)),
            ("verb", own(self.verb)),
            ("version", own(self.version)),
        ]
    }
}

/// Whether a request streams as long as its client wants.
fn is_connect(info: &RequestInfo) -> bool {
    matches!(
        &*info.subresource,
        "exec" | "attach" | "portforward" | "proxy"
    )
}

/// The verb as upstream reports it: the method, but LIST, WATCH, APPLY, CONNECT where that is meant.
fn verb<'a>(asked: &MeasuredRequest<'a>) -> &'a str {
    let info = asked.info;
    if info.is_resource && is_connect(info) {
        return "CONNECT";
    }
    match &*info.verb {
        "get" | "head" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if asked.is_apply => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "options" => "OPTIONS",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    if !info.is_resource {
        ""
    } else if !info.name.is_empty() || info.verb == "create" {
        "resource"
    } else if !info.namespace.is_empty() {
        "namespace"
    } else {
        "cluster"
    }
}

/// Pages that are counted by themselves.
fn page(path: &str) -> &'static str {
    let first = path.trim_start_matches('/').split('/').next();
    match first.unwrap_or_default() {
        "healthz" => "/healthz",
        "livez" => "/livez",
        "readyz" => "/readyz",
        "metrics" => "/metrics",
        "version" => "/version",
        "openapi" => "/openapi",
        _ => "",
    }
}

/// What is known of a request when it has been answered.
pub struct MeasuredRequest<'a> {
    info: &'a RequestInfo,
    dry_run: bool,
    is_apply: bool,
    /// Whether there is what the path names: asked where the answer is that something is not there.
    is_served: bool,
    trace: Option<String>,
}

impl<'a> MeasuredRequest<'a> {
    pub fn new(info: &'a RequestInfo, dry_run: bool, is_apply: bool) -> Self {
        Self {
            info,
            dry_run,
            is_apply,
            is_served: false,
            trace: None,
        }
    }

    /// Whether the path names a resource that is served: then an object that is not there counts
    /// under its name.
    #[must_use]
    pub fn served(self, is_served: bool) -> Self {
        Self { is_served, ..self }
    }

    /// As part of the trace that the request's headers name.
    #[must_use]
    pub fn traced(self, trace: Option<String>) -> Self {
        Self { trace, ..self }
    }

    /// The trace that headers name, if it is kept by whoever began it.
    pub fn trace_of(headers: &HeaderMap) -> Option<String> {
        trace(headers)
    }

    /// Whether a request is a dry run, and whether it is an apply.
    pub fn kind(method: &Method, query: &Query, content_type: Option<&str>) -> (bool, bool) {
        let dry_run = !method.is_safe() && query.get("dryRun").is_some_and(|v| v == "All");
        let is_apply =
            method == Method::PATCH && content_type.is_some_and(|t| t.contains("/apply-patch+"));
        (dry_run, is_apply)
    }
}

/// Handles of the figures of one sort.
struct Series {
    /// The texts of the sort, in the order of [`Sort`]'s fields.
    texts: [Box<str>; 7],
    code: u16,
    total: Counter,
    /// None for requests that last as long as their client wants.
    times: Option<[Durations; 2]>,
    size: Option<Histogram>,
}

impl Series {
    fn is(&self, s: &Sort<'_>) -> bool {
        let wanted = [
            s.verb,
            s.scope,
            s.dry_run,
            s.group,
            s.version,
            s.resource,
            s.subresource,
        ];
        self.code == s.code && self.texts.iter().zip(wanted).all(|(a, b)| **a == *b)
    }
}

/// The figures.
#[derive(Default)]
struct SeriesTable {
    /// By the hash of their sort, which owns nothing.
    by_hash: ByName<u64, Vec<Arc<Series>>>,
    count: usize,
}

impl SeriesTable {
    fn hash(&self, sort: &Sort<'_>) -> u64 {
        self.by_hash.hasher().hash_one(sort)
    }

    fn find(&self, sort: &Sort<'_>) -> Option<Arc<Series>> {
        let same = self.by_hash.get(&self.hash(sort))?;
        same.iter().find(|s| s.is(sort)).cloned()
    }
}

pub struct RequestMetrics {
    known: RwLock<SeriesTable>,
    totals: Family<Labels, Counter>,
    durations: Family<Labels, Durations>,
    sli: Family<Labels, Durations>,
    sizes: Family<Labels, Histogram>,
    terminated: Family<Labels, Counter>,
    long_running: Family<Labels, Gauge>,
    deprecated: Family<Labels, Gauge>,
}

impl RequestMetrics {
    pub(super) fn new() -> Self {
        let (durations, sizes) = (durations as fn() -> Durations, sizes as fn() -> Histogram);
        Self {
            known: RwLock::default(),
            totals: Family::default(),
            durations: Family::new_with_constructor(durations),
            sli: Family::new_with_constructor(durations),
            sizes: Family::new_with_constructor(sizes),
            terminated: Family::default(),
            long_running: Family::default(),
            deprecated: Family::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_request",
            "Requests by verb, resource, scope and code",
            self.totals.clone(),
        );
        for (name, help, family) in [
            (
                "apiserver_request_duration_seconds",
                "Time from a request's head to its response's head",
                &self.durations,
            ),
            (
                "apiserver_request_sli_duration_seconds",
                "Time from a request's head to its response's head, of requests that service level objectives are about",
                &self.sli,
            ),
        ] {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "apiserver_response_sizes",
            "Bytes of whole responses to reads",
            self.sizes.clone(),
        );
        registry.register(
            "apiserver_request_terminations",
            "Requests that the server ended in self-defence",
            self.terminated.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Watches in progress",
            self.long_running.clone(),
        );
        registry.register(
            "apiserver_requested_deprecated_apis",
            "Deprecated APIs that were requested, by the release that has them no more",
            self.deprecated.clone(),
        );
    }

    /// Counts a request when its response begins. `size`: bytes of a body that is whole.
    pub fn answered(
        &self,
        asked: &MeasuredRequest<'_>,
        code: u16,
        took: Duration,
        size: Option<usize>,
    ) {
        let sort = Sort::of(asked, code);
        let Some(series) = self.series(&sort, asked.info) else {
            return;
        };
        series.total.inc();
        let seconds = took.as_secs_f64();
        for histogram in series.times.iter().flatten() {
            let trace = asked.trace.clone().map(|id| [("trace_id", id)]);
            histogram.observe(seconds, trace, None);
        }
        if let Some((histogram, size)) = series.size.as_ref().zip(size) {
            histogram.observe(size as f64);
        }
    }

    fn series(&self, sort: &Sort<'_>, info: &RequestInfo) -> Option<Arc<Series>> {
        if let Some(series) = self.known.read().find(sort) {
            return Some(series);
        }
        let mut known = self.known.write();
        if let Some(series) = known.find(sort) {
            return Some(series);
        }
        if known.count >= MOST {
            return None;
        }
        let series = Arc::new(self.make(sort, info));
        known.count += 1;
        let hash = known.hash(sort);
        known.by_hash.entry(hash).or_default().push(series.clone());
        Some(series)
    }

    fn make(&self, sort: &Sort<'_>, info: &RequestInfo) -> Series {
        let labels = sort.labels();
        let mut timed = labels.clone();
        timed.insert(1, ("dry_run", sort.dry_run.to_owned()));
        let mut counted = timed.clone();
        counted.insert(0, ("code", sort.code.to_string()));
        let is_unknown = info.is_resource && sort.resource.is_empty();
        let is_read = matches!(sort.verb, "GET" | "LIST") && info.is_resource && !is_unknown;
        let is_timed =
            !info.long_running() && !is_unknown && (info.is_resource || sort.code != 404);
        Series {
            texts: [
                sort.verb,
                sort.scope,
                sort.dry_run,
                sort.group,
                sort.version,
                sort.resource,
                sort.subresource,
            ]
            .map(Box::from),
            code: sort.code,
            total: self.totals.get_or_create_owned(&counted),
            times: is_timed.then(|| {
                [&self.durations, &self.sli].map(|family| family.get_or_create_owned(&timed))
            }),
            size: is_read.then(|| self.sizes.get_or_create_owned(&labels)),
        }
    }

    /// Notes that something deprecated was asked for: group, version, resource and subresource, which
    /// exist; `gone_in`: the minor version that has it no more, if that is known.
    pub fn deprecated(
        &self,
        [group, version, resource, subresource]: [&str; 4],
        gone_in: Option<u32>,
    ) {
        let release = gone_in.map_or_else(String::new, |minor| format!("1.{minor}"));
        let labels = vec![
            ("group", group.to_owned()),
            ("removed_release", release),
            ("resource", resource.to_owned()),
            ("subresource", subresource.to_owned()),
            ("version", version.to_owned()),
        ];
        self.deprecated.get_or_create(&labels).set(1);
    }

    /// Counts a request that was sent away, or whose time was over.
    pub fn terminated(&self, info: &RequestInfo, code: u16) {
        let asked = MeasuredRequest::new(info, false, false);
        // It was not looked up whether what it names exists.
        let mut labels = Sort::of(&asked, 404).labels();
        labels.insert(0, ("code", code.to_string()));
        self.terminated.get_or_create(&labels).inc();
    }

    /// Counts a watch until the result is dropped.
    pub fn watching(
        &self,
        group: &str,
        version: &str,
        resource: &str,
        namespace: &str,
    ) -> Watching {
        let scope = if namespace.is_empty() {
            "cluster"
        } else {
            "namespace"
        };
        let sort = Sort {
            verb: "WATCH",
            scope,
            dry_run: "",
            group,
            version,
            resource,
            subresource: "",
            code: 200,
        };
        let gauge = self.long_running.get_or_create_owned(&sort.labels());
        gauge.inc();
        Watching(gauge)
    }
}

/// Counted while a watch lasts.
pub struct Watching(Gauge);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_named_when_it_is_kept() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", http::HeaderValue::from_static(text));
            trace(&headers)
        };
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let kept = of("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert_eq!(kept.as_deref(), Some(id));
        for other in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-\"} 1 x{y=\"aaaaaaaaaaaaaaaaaaaaaa-00f067aa0ba902b7-01",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    fn info(verb: &str, of: [&str; 5]) -> RequestInfo {
        let [group, resource, subresource, namespace, name] = of.map(str::to_owned);
        RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group,
            version: "v1".to_owned(),
            resource,
            subresource,
            namespace,
            name,
            ..RequestInfo::default()
        }
    }

    #[test]
    fn requests_have_the_labels_that_dashboards_ask_for() {
        let (metrics, mut registry) = (RequestMetrics::new(), Registry::default());
        metrics.register(&mut registry);
        let second = Duration::from_secs(1);
        let one = |info: &RequestInfo, dry: bool, apply: bool, code| {
            metrics.answered(
                &MeasuredRequest::new(info, dry, apply),
                code,
                second,
                Some(2_000),
            );
        };
        one(&info("list", ["", "pods", "", "a", ""]), false, false, 200);
        one(&info("list", ["", "pods", "", "a", ""]), false, false, 200);
        one(
            &info("create", ["apps", "deployments", "", "a", ""]),
            true,
            false,
            201,
        );
        one(
            &info("patch", ["", "pods", "status", "a", "p"]),
            false,
            true,
            200,
        );
        one(&info("watch", ["", "nodes", "", "", ""]), false, false, 200);
        one(
            &info("get", ["", "pods", "exec", "a", "p"]),
            false,
            false,
            101,
        );
        one(
            &info("get", ["", "what-a-client-made-up", "", "a", "p"]),
            false,
            false,
            404,
        );
        let gone = info("get", ["", "services", "", "a", "gone"]);
        let gone = MeasuredRequest::new(&gone, false, false).served(true);
        metrics.answered(&gone, 404, second, Some(200));
        let probe = RequestInfo {
            verb: "get".to_owned(),
            path: "/readyz/ping".to_owned(),
            ..RequestInfo::default()
        };
        one(&probe, false, false, 200);
        metrics.terminated(&info("list", ["", "pods", "", "", ""]), 429);
        let watching = metrics.watching("", "v1", "pods", "");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        let text = metrics::prometheus(&text);
        for line in [
            "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 2",
            "apiserver_request_total{code=\"201\",component=\"apiserver\",dry_run=\"All\",group=\"apps\",resource=\"deployments\",scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"} 1",
            "resource=\"pods\",scope=\"resource\",subresource=\"status\",verb=\"APPLY\",version=\"v1\"} 1",
            "apiserver_request_total{code=\"404\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"services\",scope=\"resource\",subresource=\"\",verb=\"GET\",version=\"v1\"} 1",
            "apiserver_request_total{code=\"404\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"\",scope=\"resource\",subresource=\"\",verb=\"GET\",version=\"\"} 1",
            "scope=\"resource\",subresource=\"exec\",verb=\"CONNECT\",version=\"v1\"} 1",
            "scope=\"\",subresource=\"/readyz\",verb=\"GET\",version=\"\"} 1",
            "apiserver_request_sli_duration_seconds_count{component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 2",
            "apiserver_request_terminations_total{code=\"429\",component=\"apiserver\",group=\"\",resource=\"\",scope=\"cluster\",subresource=\"\",verb=\"LIST\",version=\"\"} 1",
            "apiserver_response_sizes_sum{component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 4000",
            "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"cluster\",subresource=\"\",verb=\"WATCH\",version=\"v1\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("made-up"));
        let sli = text
            .lines()
            .filter(|l| l.starts_with("apiserver_request_sli"));
        assert!(
            sli.clone()
                .all(|l| !l.contains("WATCH") && !l.contains("CONNECT"))
        );
        drop(watching);
    }
}
