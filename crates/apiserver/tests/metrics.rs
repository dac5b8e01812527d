//! The page of figures: it can be read by whoever reads Prometheus' text, and has what the usual
//! dashboards and alert rules of clusters ask an API server for.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apiserver::filters::tokens::Tokens;
use apiserver::{ApiServer, admission};
use common::{ask, get, request, send, server_with};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use wire::jwt::Signer;

async fn secured() -> ApiServer {
    let (signer, _) = Signer::generate().expect("key");
    let tokens = Tokens::new(Arc::new(signer), "https://kubernetes.default.svc");
    let config = common::config_at("127.0.0.1", 6443);
    server_with(config.secured(tokens, &admission::Options::default())).await
}

/// A family of samples.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    /// Names of samples with their labels.
    samples: BTreeSet<String>,
}

/// Reads Prometheus' text, and fails on what its readers refuse: samples without a family, the same
/// sample twice, values that are no numbers, buckets that go down.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut all: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut bucket: Option<(String, f64)> = None;
    for line in text.lines() {
        if let Some(said) = line.strip_prefix("# TYPE ") {
            let (name, kind) = said.split_once(' ').expect("a kind");
            assert!(!all.contains_key(name), "{name} twice");
            current = name.to_owned();
            all.entry(current.clone()).or_default().kind = kind.to_owned();
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().expect(line);
        let name = series.split('{').next().expect("a name");
        let family = all.get_mut(&current).expect(line);
        let suffixes: &[&str] = match &*family.kind {
            "histogram" => &["_bucket", "_sum", "_count"],
            "counter" | "gauge" | "untyped" => &[""],
            kind => panic!("{kind} of {current}"),
        };
        let fits = suffixes.iter().any(|s| format!("{current}{s}") == name);
        assert!(fits, "{line} in {current}");
        assert!(family.samples.insert(series.to_owned()), "{series} twice");
        if !name.ends_with("_bucket") {
            bucket = None;
            continue;
        }
        let of = without_bound(series);
        if let Some((_, below)) = bucket.as_ref().filter(|(o, _)| *o == of) {
            assert!(value >= *below, "{line} is below {below}");
        }
        bucket = Some((of, value));
    }
    all
}

fn without_bound(series: &str) -> String {
    let (before, rest) = series.split_once("le=\"").expect("a bound");
    let (_, after) = rest.split_once('"').expect("its end");
    format!("{before}{after}")
}

/// What kubernetes-mixin's rules, dashboards and alerts ask an API server for, and upstream's
/// stable figures of one; each with the labels that they are asked by.
const WANTED: &[(&str, &str, &[&str])] = &[
    (
        "apiserver_request_total",
        "counter",
        &[
            "verb",
            "scope",
            "resource",
            "code",
            "group",
            "version",
            "subresource",
            "dry_run",
        ],
    ),
    (
        "apiserver_request_sli_duration_seconds",
        "histogram",
        &["verb", "scope", "resource", "subresource", "le"],
    ),
    (
        "apiserver_request_duration_seconds",
        "histogram",
        &["verb", "scope", "resource", "dry_run", "le"],
    ),
    (
        "apiserver_response_sizes",
        "histogram",
        &["verb", "resource"],
    ),
    (
        "apiserver_longrunning_requests",
        "gauge",
        &["verb", "scope", "resource"],
    ),
    (
        "apiserver_current_inflight_requests",
        "gauge",
        &["request_kind"],
    ),
    ("apiserver_storage_objects", "gauge", &["resource"]),
    (
        "apiserver_resource_objects",
        "gauge",
        &["group", "resource"],
    ),
    (
        "apiserver_admission_controller_admission_duration_seconds",
        "histogram",
        &["name", "operation", "rejected", "type"],
    ),
    (
        "apiserver_admission_step_admission_duration_seconds",
        "histogram",
        &["operation", "rejected", "type"],
    ),
    (
        "apiserver_flowcontrol_nominal_limit_seats",
        "gauge",
        &["priority_level"],
    ),
    (
        "apiserver_flowcontrol_dispatched_requests_total",
        "counter",
        &["flow_schema", "priority_level"],
    ),
    (
        "apiserver_flowcontrol_request_wait_duration_seconds",
        "histogram",
        &["flow_schema", "priority_level", "execute"],
    ),
    ("authorization_attempts_total", "counter", &["result"]),
    (
        "apiserver_requested_deprecated_apis",
        "gauge",
        &[
            "group",
            "version",
            "resource",
            "subresource",
            "removed_release",
        ],
    ),
    ("kubernetes_feature_enabled", "gauge", &["name", "stage"]),
    ("etcd_requests_total", "counter", &["operation"]),
    ("etcd_request_duration_seconds", "histogram", &["operation"]),
    ("process_cpu_seconds_total", "counter", &[]),
    ("process_resident_memory_bytes", "gauge", &[]),
    ("process_start_time_seconds", "gauge", &[]),
];

#[tokio::test]
async fn dashboards_find_their_series() {
    let s = secured().await;
    let object = json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": "a" } });
    let path = "/api/v1/namespaces/default/configmaps";
    let made = ask(&s, Method::POST, path, object).await;
    assert_eq!(made.0, 201, "{}", made.1);
    let (code, _) = get(&s, path).await;
    assert_eq!(code, 200);
    let old = get(&s, "/api/v1/namespaces/default/endpoints").await;
    assert_eq!(old.0, 200);
    let watch = request(Method::GET, &format!("{path}?watch=1"), common::JSON, "");
    let watching = send(&s, watch).await;
    let (code, text) = get(&s, "/metrics").await;
    assert_eq!(code, 200);
    let text = match text {
        Value::String(text) => text,
        other => panic!("{other}"),
    };
    let all = parse(&text);
    for (name, kind, labels) in WANTED {
        let family = all
            .get(*name)
            .unwrap_or_else(|| panic!("no {name} in {text}"));
        assert_eq!(family.kind, *kind, "{name}");
        let has = |s: &String| labels.iter().all(|l| s.contains(&format!("{l}=\"")));
        assert!(
            family.samples.iter().any(has),
            "{name} by {labels:?}: {family:?}"
        );
    }
    for series in [
        "apiserver_request_total{code=\"201\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"} 1",
        "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1",
        "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"configmaps\",scope=\"namespace\",subresource=\"\",verb=\"WATCH\",version=\"v1\"} 1",
        "apiserver_storage_objects{resource=\"deployments.apps\"} 0",
        "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"} 1",
        "kubernetes_feature_enabled{name=\"APIServerTracing\",stage=\"\"} 1",
        "kubernetes_feature_enabled{name=\"AllAlpha\",stage=\"ALPHA\"} 0",
    ] {
        assert!(text.lines().any(|l| l == series), "{series} in {text}");
    }
    drop(watching);
}

#[tokio::test]
async fn the_page_has_the_form_that_was_asked_for() {
    let s = secured().await;
    assert_eq!(get(&s, "/version").await.0, 200);
    for (accept, kind, is_open) in [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", false),
        (
            "application/openmetrics-text; version=1.0.0",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            true,
        ),
    ] {
        let mut asked = request(Method::GET, "/metrics", common::JSON, "");
        asked
            .headers_mut()
            .insert("accept", accept.parse().expect("value"));
        let answer = send(&s, asked).await;
        assert_eq!(answer.headers()["content-type"], kind);
        let body = answer.into_body().collect().await.expect("body").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("text");
        assert_eq!(text.ends_with("# EOF\n"), is_open);
        let name = if is_open {
            "apiserver_request"
        } else {
            "apiserver_request_total"
        };
        assert!(text.contains(&format!("# TYPE {name} counter\n")), "{text}");
    }
}

#[tokio::test]
async fn a_request_of_a_kept_trace_is_an_example_of_its_figure() {
    let s = secured().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut traced = request(Method::GET, "/api/v1/namespaces", common::JSON, "");
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    traced
        .headers_mut()
        .insert("traceparent", parent.parse().expect("value"));
    assert_eq!(send(&s, traced).await.status(), 200);
    let mut asked = request(Method::GET, "/metrics", common::JSON, "");
    let open = "application/openmetrics-text; version=1.0.0".parse();
    asked.headers_mut().insert("accept", open.expect("value"));
    let body = send(&s, asked).await.into_body().collect().await;
    let text = String::from_utf8(body.expect("body").to_bytes().to_vec()).expect("text");
    let example = text.lines().any(|l| {
        l.starts_with("apiserver_request_duration_seconds_bucket{")
            && l.contains(&format!(" # {{trace_id=\"{trace}\"}} "))
    });
    assert!(example, "{text}");
    let (_, plain) = get(&s, "/metrics").await;
    assert!(plain.as_str().is_some_and(|t| !t.contains("trace_id")));
}
