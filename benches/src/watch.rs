//! Watch fan-out. Many watchers of one namespace, a steady stream of changes, and how late each
//! watcher sees each of them; and many watchers of one pod each, as nodes are: what a change of one
//! pod costs, and what all the others cost meanwhile.

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

use crate::load::{Client, LoadRequest, closed_loop, percentile_ms};
use crate::objects::{NAMESPACE, config_map, pod, pods};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{Server, memory_of};

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

pub const EACH: &str = "watch one pod each";
const EACH_WATCHERS: [usize; 2] = [1_000, 5_000];
/// How the watchers name their pod: by a field that the server's cache has an index of, as nodes
/// do, and by a label.
const SELECTORS: [(&str, &str); 2] = [
    ("by node", "fieldSelector=spec.nodeName%3D"),
    ("by label", "labelSelector=node%3D"),
];
const CHANGES_PER_SECOND: u32 = 100;
/// Watches in one connection: fewer connections than watchers, so that the load generator's part
/// of the machine stays small.
const EACH_WATCHES: usize = 100;
/// Creations at the same time.
const CREATIONS: usize = 64;
/// Far above what creating the pods takes.
const MOST: Duration = Duration::from_secs(600);

/// What all watchers share.
struct Shared {
    begun: Instant,
    measuring: AtomicBool,
    delivered: AtomicU64,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            measuring: AtomicBool::new(false),
            delivered: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }
}

pub async fn run(plan: &Plan, server: &Server, report: &mut Report) -> Result<()> {
    for connections in [4, WATCHERS] {
        let writer = Client::connect(&server.access, 1).await?;
        let (path, revision) = prepare(&writer, connections).await?;
        let watched = Watched {
            path: &path,
            revision: &revision,
            change: &|nth, sent| {
                let body = json!({ "data": { "sent": sent } });
                LoadRequest::merge(format!("{path}/changing-{nth}"), &body)
            },
        };
        let case = format!("{NAME}, {connections} connections");
        fan_out(plan, server, connections, &case, &watched, report).await?;
    }
    Ok(())
}

/// What many watchers see changes of.
pub struct Watched<'a> {
    /// The collection.
    pub path: &'a str,
    /// From where they watch.
    pub revision: &'a str,
    /// The change of the nth of its objects, which is to hold `"sent":` with the text.
    pub change: &'a (dyn Fn(usize, String) -> LoadRequest + Sync),
}

/// Many watchers of one collection, of which some objects change in turn.
pub async fn fan_out(
    plan: &Plan,
    server: &Server,
    connections: usize,
    case: &str,
    watched: &Watched<'_>,
    report: &mut Report,
) -> Result<()> {
    let Watched { path, revision, .. } = watched;
    let writer = Arc::new(Client::connect(&server.access, 1).await?);
    let shared = Shared::new();
    let watchers = Client::connect(&server.access, connections).await?;
    let (end, ended) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for nth in 0..WATCHERS {
        let ask = LoadRequest::get(format!("{path}?watch=1&resourceVersion={revision}"));
        let body = watchers.begin(nth, ask).await?.into_body();
        tasks.spawn(follow(body, shared.clone(), ended.clone()));
    }
    let changes = Changes {
        per_second: EVENTS_PER_SECOND,
        objects: OBJECTS,
        ask: watched.change,
    };
    let measured = changes.measure(plan, server, &writer, &shared).await?;
    end.send_replace(true);
    report.add(Row {
        case: case.to_owned(),
        concurrency: WATCHERS,
        ..measured.row(tasks).await?
    });
    Ok(())
}

/// A stream of changes.
struct Changes<'a> {
    per_second: u32,
    /// Objects that change in turn.
    objects: usize,
    /// The change of the nth object, which is to hold `"sent":` with the text.
    ask: &'a (dyn Fn(usize, String) -> LoadRequest + Sync),
}

/// What the server did while it was measured.
struct Measured {
    delivered: u64,
    elapsed: Duration,
    cpu: Duration,
}

impl Changes<'_> {
    /// A short warm-up, then the measured changes.
    async fn measure(
        &self,
        plan: &Plan,
        server: &Server,
        writer: &Arc<Client>,
        shared: &Shared,
    ) -> Result<Measured> {
        self.send(writer, shared, plan.time / 5).await?;
        shared.measuring.store(true, Ordering::Relaxed);
        let before = shared.delivered.load(Ordering::Relaxed);
        let (cpu, begun) = (server.cpu(), Instant::now());
        self.send(writer, shared, plan.time).await?;
        let elapsed = begun.elapsed();
        tokio::time::sleep(SETTLE).await;
        Ok(Measured {
            delivered: shared.delivered.load(Ordering::Relaxed) - before,
            elapsed,
            cpu: server.cpu() - cpu,
        })
    }

    /// Changes the objects at an even pace. A change is sent at its time whether or not those
    /// before are answered, so that a slow server shows as late events and not as fewer.
    async fn send(&self, client: &Arc<Client>, shared: &Shared, time: Duration) -> Result<()> {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / self.per_second);
        let mut under_way = JoinSet::new();
        let begun = Instant::now();
        for nth in (0..self.objects).cycle() {
            if begun.elapsed() >= time {
                break;
            }
            pace.tick().await;
            let ask = (self.ask)(nth, shared.now().to_string());
            let client = client.clone();
            under_way.spawn(async move { client.must(0, ask).await.map(|_| ()) });
        }
        while let Some(done) = under_way.join_next().await {
            done.map_err(|e| anyhow!(e))??;
        }
        Ok(())
    }
}

impl Measured {
    /// The figures, with those of the watchers, which were asked to end.
    async fn row(&self, mut watchers: JoinSet<Result<Vec<u64>>>) -> Result<Row> {
        let mut latencies = Vec::new();
        while let Some(done) = watchers.join_next().await {
            latencies.extend(done??);
        }
        latencies.sort_unstable();
        Ok(Row {
            per_second: Some(self.delivered as f64 / self.elapsed.as_secs_f64()),
            p50_ms: Some(percentile_ms(&latencies, 50.0)),
            p99_ms: Some(percentile_ms(&latencies, 99.0)),
            cpu_ms: Some(self.cpu.as_secs_f64() * 1e3 / (self.delivered.max(1) as f64)),
            ..Row::default()
        })
    }
}

/// Makes a namespace with the objects that will change; gives their collection and revision.
async fn prepare(client: &Client, connections: usize) -> Result<(String, String)> {
    let namespace = format!("{NAMESPACE}-watch-{connections}");
    let object =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
    client
        .must(0, LoadRequest::post("/api/v1/namespaces", &object))
        .await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let mut revision = String::new();
    for nth in 0..OBJECTS {
        let mut object = config_map(&format!("changing-{nth}"), BYTES);
        object["metadata"]["namespace"] = json!(namespace);
        let made = client.must(0, LoadRequest::post(&path, &object)).await?;
        let made = made["metadata"]["resourceVersion"].as_str();
        revision = made.unwrap_or("0").to_owned();
    }
    Ok((path, revision))
}

/// Counts events until it is asked to end, and gives how late each was, in nanoseconds.
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

/// Many watchers of one pod each.
pub async fn run_each(plan: &Plan, server: &Server, report: &mut Report) -> Result<()> {
    for watchers in EACH_WATCHERS {
        let writer = Arc::new(Client::connect(&server.access, 1).await?);
        let make = move |nth: u64| {
            let node = node_name(watchers, nth);
            let mut pod = pod(&node, &node);
            pod["metadata"]["labels"] = json!({ "node": node });
            LoadRequest::post(pods(), &pod)
        };
        closed_loop(&writer, CREATIONS, MOST, watchers as u64, make).await?;
        for (how, selector) in SELECTORS {
            let case = format!("{EACH} {how}, {watchers} watchers");
            fan_out_each(plan, server, (watchers, selector), &case, report).await?;
        }
    }
    Ok(())
}

/// The name of a node, and of its pod.
fn node_name(watchers: usize, nth: u64) -> String {
    format!("node-{watchers}-{nth}")
}

async fn fan_out_each(
    plan: &Plan,
    server: &Server,
    (watchers, selector): (usize, &str),
    case: &str,
    report: &mut Report,
) -> Result<()> {
    let shared = Shared::new();
    let before = memory_of(server.pid());
    let clients = Client::connect(&server.access, watchers.div_ceil(EACH_WATCHES)).await?;
    let (end, ended) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for nth in 0..watchers {
        let path = format!(
            "/api/v1/pods?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&{selector}{}",
            node_name(watchers, nth as u64)
        );
        let answer = clients
            .begin(nth / EACH_WATCHES, LoadRequest::get(path))
            .await?;
        tasks.spawn(follow(answer.into_body(), shared.clone(), ended.clone()));
    }
    let (cpu, begun) = (server.cpu(), Instant::now());
    tokio::time::sleep(plan.time).await;
    let idle = (server.cpu() - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    let after = memory_of(server.pid());
    // Not earlier: a connection on which nothing is asked for 10 s is closed.
    let writer = Arc::new(Client::connect(&server.access, 1).await?);
    let changes = Changes {
        per_second: CHANGES_PER_SECOND,
        objects: watchers,
        ask: &|nth, sent| {
            let body = json!({ "metadata": { "annotations": { "sent": sent } } });
            let pod = node_name(watchers, nth as u64);
            LoadRequest::merge(format!("{}/{pod}", pods()), &body)
        },
    };
    let measured = changes.measure(plan, server, &writer, &shared).await?;
    end.send_replace(true);
    report.add(Row {
        case: case.to_owned(),
        concurrency: watchers,
        ..measured.row(tasks).await?
    });
    report.add(Row::value(
        &format!("{case}: CPU per minute while nothing changes"),
        "s",
        idle * 60.0,
    ));
    let kib = (after.own_mb - before.own_mb) * 1e6 / 1024.0 / watchers as f64;
    report.add(Row::value(&format!("{case}: memory of each"), "KiB", kib));
    Ok(())
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
