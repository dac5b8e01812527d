//! Histories of concurrent clients through the API server, on both stores, while processes are
//! killed and paused: could one correct store have given them? `TIPHYS_SOAK=1` asks for the long
//! form with other random choices at each run, `TIPHYS_SEED` repeats them.
#![forbid(unsafe_code)]

mod clients;
mod servers;
#[path = "../../crates/store/tests/common/mod.rs"]
mod stores;

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, PostParams};
use serde_json::json;
use tests::history::{self, History, Outcome};
use tests::runner::Suite;
use tests::{Context, Setup, checks, run};

use clients::{Client, Recorder};
use servers::{Hits, Plant};

/// Clients that write and read side by side, spread over the servers.
const CLIENTS: usize = 6;

/// What is done on one store.
struct Size {
    servers: usize,
    members: usize,
    /// Each with a namespace and a history of its own, so that a history stays short.
    rounds: usize,
    hits: usize,
}

fn main() -> ExitCode {
    run(&Suite {
        name: "history",
        setup: Setup::server(),
        // One after another: each has the machine for itself.
        side_by_side: 1,
        checks: checks![embedded, etcd],
    })
}

fn embedded(cx: &Context) -> Result<()> {
    let (rounds, hits) = if tests::is_soak() { (24, 20) } else { (1, 24) };
    let size = Size {
        servers: 1,
        members: 0,
        rounds,
        hits,
    };
    let hits = judge(cx, "embedded", &size)?;
    // Some hits are only pauses, others are several kills.
    ensure!(!tests::is_soak() || hits.server_kills >= 300, "{hits:?}");
    Ok(())
}

fn etcd(cx: &Context) -> Result<()> {
    let (rounds, hits) = if tests::is_soak() { (10, 20) } else { (1, 16) };
    let size = Size {
        servers: 2,
        members: 3,
        rounds,
        hits,
    };
    judge(cx, "etcd", &size).map(drop)
}

fn judge(cx: &Context, name: &str, size: &Size) -> Result<Hits> {
    let seed = tests::seed()?;
    println!("    {name}: TIPHYS_SEED={seed}");
    let plant = Plant::start(cx, size.servers, size.members, seed)?;
    let (mut all, mut metrics) = (Hits::default(), Metrics::default());
    for round in 0..size.rounds {
        let seed = seed.wrapping_add(round as u64 * 1_000);
        let (history, hits) = make(cx, &plant, &format!("history-{round}"), size.hits, seed)
            .with_context(|| format!("round {round} of seed {seed}"))?;
        history::check(&history).with_context(|| format!("round {round} of seed {seed}"))?;
        all.add(hits);
        metrics.add(&history);
    }
    println!("    {name}: {all:?}, {metrics:?}");
    Ok(all)
}

/// Makes a history in a namespace of its own.
fn make(
    cx: &Context,
    plant: &Plant,
    namespace: &str,
    hits: usize,
    seed: u64,
) -> Result<(History, Hits)> {
    let of_server = |n: usize| plant.client(n % plant.servers());
    create(cx, of_server(0)?, namespace)?;
    let recorder = Recorder::new();
    let api =
        |n: usize| -> Result<Api<ConfigMap>> { Ok(Api::namespaced(of_server(n)?, namespace)) };
    let from = cx.cluster.block_on(clients::revision_now(&api(0)?))?;
    let hits = std::thread::scope(|scope| -> Result<Hits> {
        let mut workers = Vec::new();
        for n in 0..CLIENTS {
            let client = Client::new(n, api(n)?, &recorder, seed.wrapping_add(n as u64));
            workers.push(scope.spawn(|| cx.cluster.block_on(client.run())));
        }
        let mut watchers = Vec::new();
        // Two of each server: one connection may be luckier than the other.
        for n in 0..plant.servers() * 2 {
            let (api, recorder) = (api(n)?, &recorder);
            let seed = seed.wrapping_add(100 + n as u64);
            let watch = move || {
                cx.cluster
                    .block_on(clients::watch(api, recorder, from, seed))
            };
            watchers.push(scope.spawn(watch));
        }
        let outcome = plant.trouble(hits, &recorder.answers);
        recorder.stop.store(true, Ordering::Relaxed);
        let finish = || -> Result<()> {
            workers.into_iter().try_for_each(joined)?;
            for n in 0..plant.servers() {
                let mut client = Client::new(CLIENTS + n, api(n)?, &recorder, seed);
                cx.cluster.block_on(client.read_all())?;
            }
            cx.cluster.block_on(clients::write_last(&api(0)?))
        };
        let outcome = outcome.and_then(|hits| finish().map(|()| hits));
        // Without their last event, watchers would wait for ever.
        recorder.broken.store(outcome.is_err(), Ordering::Relaxed);
        watchers.into_iter().try_for_each(joined)?;
        outcome
    })?;
    Ok((recorder.finish(), hits))
}

fn joined(thread: std::thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a client panicked"))?
}

fn create(cx: &Context, client: kube::Client, name: &str) -> Result<()> {
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
    let api: Api<Namespace> = Api::all(client);
    tests::command::eventually("the round's namespace is made", || {
        let made = cx
            .cluster
            .block_on(api.create(&PostParams::default(), &namespace));
        match made {
            Err(kube::Error::Api(s)) if s.reason == "AlreadyExists" => Ok(()),
            other => Ok(other.map(drop)?),
        }
    })
}

/// What the histories held.
#[derive(Default, Debug)]
struct Metrics {
    operations: usize,
    acknowledged_writes: usize,
    unknown: usize,
    lists: usize,
    events: usize,
    watch_connections: usize,
}

impl Metrics {
    fn add(&mut self, history: &History) {
        let outcomes = |wanted: fn(&Outcome) -> bool| {
            let all = history.operations.iter().map(|o| &o.outcome);
            all.filter(|o| wanted(o)).count()
        };
        self.operations += history.operations.len();
        self.acknowledged_writes +=
            outcomes(|o| matches!(o, Outcome::Written(_) | Outcome::Deleted));
        self.unknown += outcomes(|o| *o == Outcome::Unknown);
        self.lists += history.lists.len();
        for watch in &history.watches {
            self.events += watch.events.len();
            self.watch_connections += watch.connections;
        }
    }
}
