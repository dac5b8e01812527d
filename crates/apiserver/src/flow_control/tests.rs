//! Requests on virtual time: who runs, who waits, who is sent away, and what is shown of it.

use std::future::Future;
use std::net::Ipv4Addr;
use std::pin::pin;

use clock::Random;
use serde_json::json;

use super::*;

fn control(total: u32) -> Arc<FlowControl> {
    let clock = Clock::read_by(|| jiff::Timestamp::UNIX_EPOCH);
    let mut settings = Settings::new(Ipv4Addr::LOCALHOST.into(), 1, clock, Random::seeded(1));
    settings.max_reads = total;
    settings.max_writes = 0;
    FlowControl::new(&settings)
}

fn objects(all: &[serde_json::Value]) -> Configurations {
    let objects = Configurations::default();
    for object in all {
        let kept = match object["kind"].as_str() {
            Some("FlowSchema") => &objects.flow_schemas,
            _ => &objects.priority_levels,
        };
        kept.put(object);
    }
    objects
}

/// A level with all seats, in which requests of everybody wait in one queue of two places.
fn one_level() -> Configurations {
    let queuing = json!({ "queues": 1, "handSize": 1, "queueLengthLimit": 2 });
    objects(&[
        json!({
            "kind": "PriorityLevelConfiguration", "metadata": { "name": "all", "uid": "level-1" },
            "spec": { "type": "Limited", "limited": {
                "nominalConcurrencyShares": 1000, "lendablePercent": 0,
                "limitResponse": { "type": "Queue", "queuing": queuing } } },
        }),
        json!({
            "kind": "FlowSchema", "metadata": { "name": "all", "uid": "schema-1" },
            "spec": {
                "priorityLevelConfiguration": { "name": "all" }, "matchingPrecedence": 10,
                "distinguisherMethod": { "type": "ByUser" },
                "rules": [{
                    "subjects": [{ "kind": "User", "user": { "name": "*" } }],
                    "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }] }] },
        }),
    ])
}

fn get() -> RequestInfo {
    RequestInfo {
        verb: "get".into(),
        path: "/version".into(),
        ..RequestInfo::default()
    }
}

fn one(_: u32) -> Estimate {
    Estimate {
        work: Work::ONE,
        watchers: None,
    }
}

async fn enter(control: &Arc<FlowControl>, objects: &Configurations) -> Entry {
    let user = UserInfo::new("jane", &["system:authenticated"]);
    control.enter(objects, &user, &get(), one).await
}

/// Polls once; whether it is done.
async fn is_ready<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    futures::FutureExt::now_or_never(future)
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_seat_waits_and_the_last_in_line_is_sent_away() {
    let (control, objects) = (control(1), one_level());
    let first = enter(&control, &objects).await;
    assert!(matches!(first, Entry::Seat(_)));
    let mut headers = HeaderMap::new();
    first.mark(&mut headers);
    assert_eq!(headers[SCHEMA_HEADER], "schema-1");
    assert_eq!(headers[LEVEL_HEADER], "level-1");

    let mut second = pin!(enter(&control, &objects));
    assert!(is_ready(second.as_mut()).await.is_none());
    let third = Box::pin(enter(&control, &objects));
    let mut third = third;
    assert!(is_ready(third.as_mut()).await.is_none());
    let Entry::Refused(refused) = enter(&control, &objects).await else {
        panic!("the queue is full")
    };
    assert_eq!(refused.status.code, 429);
    let text = control.metrics(&objects);
    let labels = "flow_schema=\"all\",priority_level=\"all\"";
    for line in [
        format!("apiserver_flowcontrol_current_inqueue_requests{{{labels}}} 2\n"),
        format!(
            "apiserver_flowcontrol_rejected_requests_total{{{labels},reason=\"queue-full\"}} 1\n"
        ),
        format!("apiserver_flowcontrol_current_executing_requests{{{labels}}} 1\n"),
        "apiserver_current_inqueue_requests{request_kind=\"readOnly\"} 2\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    // One that goes away gives up its place; the next one has the seat.
    drop(third);
    drop(first);
    let second = second.await;
    assert!(matches!(second, Entry::Seat(_)));
    drop(second);
    assert!(matches!(enter(&control, &objects).await, Entry::Seat(_)));
    let text = control.metrics(&objects);
    let line = format!("apiserver_flowcontrol_current_inqueue_requests{{{labels}}} 0\n");
    assert!(text.contains(&line), "{text}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_and_a_seat_that_comes_too_late_goes_to_the_next() {
    let (control, objects) = (control(1), one_level());
    let first = enter(&control, &objects).await;
    let Entry::Refused(refused) = enter(&control, &objects).await else {
        panic!("no seat came")
    };
    assert_eq!(
        refused.status.details.map(|d| d.retry_after_seconds),
        Some(1)
    );
    // Granted and gone before it looks.
    let mut gone = Box::pin(enter(&control, &objects));
    assert!(is_ready(gone.as_mut()).await.is_none());
    drop(first);
    drop(gone);
    assert!(matches!(enter(&control, &objects).await, Entry::Seat(_)));
}

#[tokio::test(start_paused = true)]
async fn masters_are_exempt_and_streams_take_no_seat() {
    let (control, objects) = (control(1), Configurations::default());
    let master = UserInfo::new("m", &["system:masters"]);
    let mut all = Vec::new();
    for _ in 0..100 {
        let entry = control.enter(&objects, &master, &get(), one).await;
        assert!(matches!(entry, Entry::Seat(_)));
        all.push(entry);
    }
    let stream = RequestInfo {
        subresource: "exec".into(),
        ..get()
    };
    let user = UserInfo::new("jane", &["system:authenticated"]);
    let free = control.enter(&objects, &user, &stream, one).await;
    assert!(matches!(free, Entry::Free));
}

#[tokio::test(start_paused = true)]
async fn a_level_that_is_gone_serves_its_last_requests() {
    let (control, objects) = (control(1), one_level());
    let first = enter(&control, &objects).await;
    objects.priority_levels.remove("all");
    let page = control.dump(&objects, "dump_priority_levels", false);
    let page = page.expect("a page");
    let line = page
        .lines()
        .find(|l| l.starts_with("all,"))
        .expect("still there");
    assert!(line.contains("true,        0"), "{page}");
    // New ones go elsewhere.
    let second = enter(&control, &objects).await;
    let mut headers = HeaderMap::new();
    second.mark(&mut headers);
    assert_eq!(headers[SCHEMA_HEADER], "");
    drop(first);
    let kept = control.keep(&objects);
    assert!(tokio::time::timeout(2 * PERIOD, kept).await.is_err());
    let page = control.dump(&objects, "dump_priority_levels", false);
    let page = page.expect("a page");
    assert!(!page.lines().any(|l| l.starts_with("all,")), "{page}");
}

#[tokio::test(start_paused = true)]
async fn pages_show_levels_queues_and_requests() {
    let (control, objects) = (control(1), one_level());
    let _first = enter(&control, &objects).await;
    let mut second = pin!(enter(&control, &objects));
    assert!(is_ready(second.as_mut()).await.is_none());
    let page = |name: &str| control.dump(&objects, name, true).expect("a page");
    let requests = page("dump_requests");
    let lines: Vec<&str> = requests.lines().collect();
    assert!(
        lines[0].starts_with("PriorityLevelName, FlowSchemaName, QueueIndex,"),
        "{requests}"
    );
    assert!(lines[1].contains("jane,"), "{requests}");
    assert!(lines[1].contains("/version,"), "{requests}");
    assert_eq!(lines.len(), 3);
    let queues = page("dump_queues");
    assert!(queues.lines().any(|l| l.starts_with("all,")), "{queues}");
    assert!(control.dump(&objects, "other", false).is_none());
}

#[tokio::test(start_paused = true)]
async fn seats_that_linger_wake_who_waits() {
    let (control, objects) = (control(2), one_level());
    let user = UserInfo::new("jane", &["system:authenticated"]);
    let wide = |_: u32| Estimate {
        work: Work {
            initial_seats: 1,
            final_seats: 2,
            latency: Duration::from_millis(20),
        },
        watchers: Some(20),
    };
    let first = control.enter(&objects, &user, &get(), wide).await;
    drop(first);
    let before = Instant::now();
    let next = enter(&control, &objects).await;
    assert!(matches!(next, Entry::Seat(_)));
    assert!(before.elapsed() >= Duration::from_millis(20));
    assert!(before.elapsed() < Duration::from_secs(1));
}
