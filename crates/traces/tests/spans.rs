//! What a collector gets of requests and their parts, and what others hear.

mod collector;

use collector::{Collector, attribute, hex};
use http::HeaderMap;
use traces::{Caller, Tracer, call, here, part, pass_on};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn headers(flags: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let value = format!("00-{TRACE}-{PARENT}-{flags}");
    headers.insert("traceparent", value.parse().expect("a header"));
    headers
}

/// A request with a part in which somebody else is asked; gives what that one hears.
async fn request(tracer: &Tracer, headers: &HeaderMap, caller: Caller) -> HeaderMap {
    let since = jiff::Timestamp::from_second(1_000_000_000).expect("a time");
    let span = tracer.received(|| "GET /x".into(), headers, caller, since);
    let work = async {
        let mut told = HeaderMap::new();
        let part = part("Get").expect("a part");
        let ask = async {
            let asked = call("Ask").expect("a call");
            asked.over(async { pass_on(&mut told) }).await;
            // What goes on elsewhere belongs to the same.
            let here = here().expect("a place");
            tokio::spawn(async move {
                here.over(async { traces::part("Elsewhere").is_some() })
                    .await
            })
            .await
        };
        assert!(part.over(ask).await.expect("no panic"));
        told
    };
    let span = span.expect("it is on");
    span.set("http.response.status_code", 200_i64);
    let told = span.over(work).await;
    drop(span);
    tracer.flush().await;
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_who_is_believed_goes_on() {
    let collector = Collector::start().await;
    // It decides whether it is recorded.
    let tracer = collector.tracer(0);
    let told = request(&tracer, &headers("01"), Caller::Believed).await;
    let (server, get) = (collector.one("GET /x"), collector.one("Get"));
    assert_eq!(hex(&server.trace_id), TRACE);
    assert_eq!(hex(&server.parent_span_id), PARENT);
    assert_eq!(server.start_time_unix_nano, 1_000_000_000 * 1_000_000_000);
    assert_eq!(
        attribute(&server, "http.response.status_code").as_deref(),
        Some("200")
    );
    assert_eq!(get.parent_span_id, server.span_id);
    let ask = collector.one("Ask");
    assert_eq!(ask.parent_span_id, get.span_id);
    assert_eq!(collector.one("Elsewhere").parent_span_id, get.span_id);
    let told = told["traceparent"].to_str().expect("text");
    assert_eq!(told, format!("00-{TRACE}-{}-01", hex(&ask.span_id)));
    let told = request(&tracer, &headers("00"), Caller::Believed).await;
    assert_eq!(collector.spans().len(), 4, "what it does not record");
    let told = told["traceparent"].to_str().expect("text");
    assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00"));
    tracer.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_trace_is_linked_and_decides_nothing() {
    let collector = Collector::start().await;
    let tracer = collector.tracer(1_000_000);
    request(&tracer, &headers("00"), Caller::Stranger).await;
    let server = collector.one("GET /x");
    assert_ne!(hex(&server.trace_id), TRACE);
    assert!(server.parent_span_id.is_empty());
    let link = server.links.first().expect("a link");
    assert_eq!(
        (hex(&link.trace_id), hex(&link.span_id)),
        (TRACE.into(), PARENT.into())
    );
    let never = collector.tracer(0);
    request(&never, &headers("01"), Caller::Stranger).await;
    assert_eq!(collector.spans().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_for_an_object_is_one_trace_in_all_components() {
    let collector = Collector::start().await;
    let uid = "0af76519-16cd-43dd-8448-eb211c80319c";
    // The UID lies at 4 % of all.
    let (one, other) = (collector.tracer(100_000), collector.tracer(100_000));
    let mut told = HeaderMap::new();
    for (tracer, name) in [(&one, "bind"), (&other, "run")] {
        let since = jiff::Timestamp::from_second(1_000_000_000).expect("a time");
        let span = tracer.work_for(name, uid, since).expect("it is on");
        span.over(async { pass_on(&mut told) }).await;
        drop(span);
        tracer.finish().await;
    }
    for name in ["bind", "run"] {
        let span = collector.one(name);
        assert_eq!(hex(&span.trace_id), TRACE);
        assert!(span.parent_span_id.is_empty());
        assert_eq!(span.start_time_unix_nano, 1_000_000_000 * 1_000_000_000);
    }
    let told = told["traceparent"].to_str().expect("text");
    assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-01"));
    // All leave out the same ones.
    let never = collector.tracer(1_000);
    let now = jiff::Timestamp::UNIX_EPOCH;
    drop(never.work_for("bind", uid, now));
    never.finish().await;
    assert_eq!(collector.spans().len(), 2);
}

#[tokio::test]
async fn without_a_tracer_there_is_nothing() {
    let off = Tracer::default();
    let since = jiff::Timestamp::UNIX_EPOCH;
    let name = || panic!("nobody wants its name");
    assert!(
        off.received(name, &headers("01"), Caller::Believed, since)
            .is_none()
    );
    assert!(part("Get").is_none() && call("Ask").is_none() && here().is_none());
    let mut told = HeaderMap::new();
    pass_on(&mut told);
    assert!(told.is_empty());
    off.flush().await;
}
