//! Watch fan-out: many watchers of one namespace, a steady stream of changes, and how late each
//! watcher sees each of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use memchr::memmem;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Plan;
use crate::load::{Ask, Client, percentile_ms};
use crate::objects::{NAMESPACE, config_map};
use crate::report::{Report, Row};
use crate::server::Server;

pub const NAME: &str = "watch: 200 watchers × 200 events/s";
const WATCHERS: usize = 200;
const EVENTS_PER_SECOND: u32 = 200;
/// Objects that change in turn, so that changes do not race with each other.
const OBJECTS: usize = 50;
/// Data of each of them.
const BYTES: usize = 1024;
/// Time for the last events to arrive.
const SETTLE: Duration = Duration::from_millis(500);
/// Stands before the time at which a change was sent, in nanoseconds since the run began.
const MARK: &[u8] = b"\"sent\":\"";

/// What all watchers share.
struct Shared {
    begun: Instant,
    measuring: AtomicBool,
    delivered: AtomicU64,
}

impl Shared {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }
}

pub async fn run(plan: &Plan, server: &Server, report: &mut Report) -> Result<()> {
    for connections in [4, WATCHERS] {
        fan_out(plan, server, connections, report).await?;
    }
    Ok(())
}

async fn fan_out(
    plan: &Plan,
    server: &Server,
    connections: usize,
    report: &mut Report,
) -> Result<()> {
    let writer = Arc::new(Client::connect(&server.access, 1).await?);
    let (path, revision) = prepare(&writer, connections).await?;
    let shared = Arc::new(Shared {
        begun: Instant::now(),
        measuring: AtomicBool::new(false),
        delivered: AtomicU64::new(0),
    });
    let watchers = Client::connect(&server.access, connections).await?;
    let (end, ended) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for nth in 0..WATCHERS {
        let ask = Ask::get(format!("{path}?watch=1&resourceVersion={revision}"));
        let body = watchers.begin(nth, ask).await?.into_body();
        tasks.spawn(follow(body, shared.clone(), ended.clone()));
    }
    change(&writer, &path, &shared, plan.time / 5).await?;
    shared.measuring.store(true, Ordering::Relaxed);
    let before = shared.delivered.load(Ordering::Relaxed);
    let (cpu, begun) = (server.cpu(), Instant::now());
    change(&writer, &path, &shared, plan.time).await?;
    let elapsed = begun.elapsed();
    tokio::time::sleep(SETTLE).await;
    let delivered = shared.delivered.load(Ordering::Relaxed) - before;
    let used = server.cpu() - cpu;
    end.send_replace(true);
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done??);
    }
    latencies.sort_unstable();
    report.add(Row {
        case: format!("{NAME}, {connections} connections"),
        concurrency: WATCHERS,
        per_second: Some(delivered as f64 / elapsed.as_secs_f64()),
        p50_ms: Some(percentile_ms(&latencies, 50.0)),
        p99_ms: Some(percentile_ms(&latencies, 99.0)),
        cpu_ms: Some(used.as_secs_f64() * 1e3 / (delivered.max(1) as f64)),
        ..Row::default()
    });
    Ok(())
}

/// Makes a namespace with the objects that will change; gives their collection and revision.
async fn prepare(client: &Client, connections: usize) -> Result<(String, String)> {
    let namespace = format!("{NAMESPACE}-watch-{connections}");
    let object =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
    client
        .must(0, Ask::post("/api/v1/namespaces", &object))
        .await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let mut revision = String::new();
    for nth in 0..OBJECTS {
        let mut object = config_map(&format!("changing-{nth}"), BYTES);
        object["metadata"]["namespace"] = json!(namespace);
        let made = client.must(0, Ask::post(&path, &object)).await?;
        let made = made["metadata"]["resourceVersion"].as_str();
        revision = made.unwrap_or("0").to_owned();
    }
    Ok((path, revision))
}

/// Changes the objects at an even pace. A change is sent at its time whether or not those before
/// are answered, so that a slow server shows as late events and not as fewer.
async fn change(client: &Arc<Client>, path: &str, shared: &Shared, time: Duration) -> Result<()> {
    let mut pace = tokio::time::interval(Duration::from_secs(1) / EVENTS_PER_SECOND);
    let mut under_way = JoinSet::new();
    let begun = Instant::now();
    for nth in (0..OBJECTS).cycle() {
        if begun.elapsed() >= time {
            break;
        }
        pace.tick().await;
        let body = json!({ "data": { "sent": shared.now().to_string() } });
        let ask = Ask::merge(format!("{path}/changing-{nth}"), &body);
        let client = client.clone();
        under_way.spawn(async move { client.must(0, ask).await.map(|_| ()) });
    }
    while let Some(done) = under_way.join_next().await {
        done.map_err(|e| anyhow!(e))??;
    }
    Ok(())
}

/// Counts events until told to end, and gives how late each was, in nanoseconds.
async fn follow(
    mut body: Incoming,
    shared: Arc<Shared>,
    mut ended: watch::Receiver<bool>,
) -> Result<Vec<u64>> {
    let mark = memmem::Finder::new(MARK);
    let (mut latencies, mut rest) = (Vec::new(), Vec::new());
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = ended.changed() => return Ok(latencies),
        };
        let data = match frame {
            None => return Err(anyhow!("a watch ended early")),
            Some(frame) => frame?.into_data().unwrap_or_default(),
        };
        let now = shared.now();
        // An event may be cut anywhere: what follows the last line end waits for more.
        let whole = memchr::memrchr(b'\n', &data).map_or(0, |at| at + 1);
        let (lines, tail) = data.split_at(whole);
        let mut take = |text: &[u8]| {
            let found = memchr::memchr_iter(b'\n', text).count() as u64;
            shared.delivered.fetch_add(found, Ordering::Relaxed);
            if shared.measuring.load(Ordering::Relaxed) {
                let sent = mark.find_iter(text).filter_map(|at| number(text, at));
                latencies.extend(sent.map(|sent| now.saturating_sub(sent)));
            }
        };
        if rest.is_empty() {
            take(lines);
        } else if !lines.is_empty() {
            rest.extend_from_slice(lines);
            take(&rest);
            rest.clear();
        }
        rest.extend_from_slice(tail);
    }
}

/// The number behind the mark at `at`.
fn number(text: &[u8], at: usize) -> Option<u64> {
    let digits = text.get(at + MARK.len()..)?;
    let end = memchr::memchr(b'"', digits)?;
    std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read_from_an_event() {
        let text = br#"{"data":{"sent":"123","text":"x"}}"#;
        let at = memmem::find(text, MARK).expect("mark");
        assert_eq!(number(text, at), Some(123));
        assert_eq!(number(br#""sent":"12"#, 0), None);
    }
}
