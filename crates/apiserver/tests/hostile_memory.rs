//! The memory that the largest hostile bodies take: the most that this process ever had, before and
//! after. It is a file of one test, so that nobody else's memory counts.

mod common;

use common::{JSON, ask, get, raw, request, server};
use http::Method;
use serde_json::{Value, json};

const YAML: &str = "application/yaml";
const APPLY: &str = "application/apply-patch+yaml";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
/// Far more than bounded work takes, also without optimization, and far less than any of these bodies
/// would take if it were not bounded.
const MOST_KIB: u64 = 1 << 20;

/// The most memory that this process had at any time.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let words = line.expect("a peak").split_whitespace().next();
    words.and_then(|w| w.parse().ok()).expect("a number")
}

/// Each level stands for ten of the one before.
fn nested_aliases(levels: usize) -> String {
    let mut text = "metadata: {name: bomb}\nl0: &l0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..levels {
        let below = vec![format!("*l{}", level - 1); 10].join(", ");
        text.push_str(&format!("l{level}: &l{level} [{below}]\n"));
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_hostile_bodies_take_bounded_memory() {
    let s = server().await;
    let map = json!({"metadata": {"name": "big"}, "data": {"a": "x".repeat(400_000)}});
    assert_eq!(ask(&s, Method::POST, MAPS, map).await.0, 201);
    let before = get(&s, MAPS).await.1["items"].clone();
    let peak = peak_kib();
    let copies: Vec<Value> = (0..10_000)
        .map(|i| json!({"op": "copy", "from": "/data/a", "path": format!("/data/b{i}")}))
        .collect();
    let words = format!(
        "{{\"data\":{{{}\"z\":\"\"}}}}",
        "\"a\":\"\",".repeat(300_000)
    );
    let cases: Vec<(Method, String, &str, String, u16)> = vec![
        // A thousand million words in ten lines.
        (Method::POST, MAPS.into(), YAML, nested_aliases(9), 400),
        (Method::POST, REVIEWS.into(), YAML, nested_aliases(30), 400),
        (
            Method::PATCH,
            format!("{MAPS}/bomb?fieldManager=m"),
            APPLY,
            nested_aliases(9),
            400,
        ),
        // An alias of what it stands in.
        (
            Method::POST,
            MAPS.into(),
            YAML,
            "metadata: {name: bomb}\ndata: &d {a: *d}\n".into(),
            400,
        ),
        (
            Method::POST,
            MAPS.into(),
            JSON,
            format!("{{\"data\":{}", "{\"a\":".repeat(500_000)),
            400,
        ),
        (
            Method::POST,
            MAPS.into(),
            JSON,
            format!("{{\"data\":[{}{{}}]}}", "{},".repeat(1_000_000)),
            400,
        ),
        (Method::POST, MAPS.into(), JSON, " ".repeat(4 << 20), 413),
        (
            Method::PATCH,
            format!("{MAPS}/big"),
            "application/json-patch+json",
            Value::Array(copies).to_string(),
            413,
        ),
        (
            Method::POST,
            format!("{MAPS}?fieldValidation=Strict"),
            JSON,
            words,
            400,
        ),
    ];
    for (method, uri, media, body, code) in cases {
        let shown: String = body.chars().take(60).collect();
        let (got, answer) = raw(&s, request(method, &uri, media, body)).await;
        let why = answer["message"].as_str().unwrap_or_default();
        let why: String = why.chars().take(200).collect();
        assert_eq!(got, code, "{media}: {shown}: {why}");
    }
    let taken = peak_kib().saturating_sub(peak);
    assert!(taken < MOST_KIB, "{taken} KiB");
    assert_eq!(get(&s, MAPS).await.1["items"], before);
}
