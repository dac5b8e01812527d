//! Loads on a store: closed loops of writers or readers, and events that go to many watchers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::StreamExt;
use store::{Op, Outcome, Store, Txn, WatchStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use crate::load::LoadResult;

pub const VALUE_BYTES: usize = 1024;
/// Keys of one writer, which it writes again and again: what is measured stays the same size.
const KEYS: u64 = 100;
/// Keys that are read.
const READ_KEYS: u64 = 10_000;
/// Puts in one transaction when a store is filled.
const FILL_TXN: usize = 100;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Load {
    Write,
    Read,
}

pub fn put(key: String, n: u64) -> Op {
    let mut value = vec![b'x'; VALUE_BYTES];
    value[..8].copy_from_slice(&n.to_le_bytes());
    Op::Put {
        key: key.into(),
        value: value.into(),
        expires_after_seconds: None,
    }
}

pub async fn commit(store: &dyn Store, ops: Vec<Op>) -> Result<u64> {
    let txn = Txn {
        compare: Vec::new(),
        ops,
    };
    match store.commit(txn).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Refused(_) => bail!("refused without a comparison"),
    }
}

/// Puts so many objects under a prefix.
pub async fn fill(store: &dyn Store, prefix: &str, count: u64) -> Result<()> {
    let numbers: Vec<u64> = (0..count).collect();
    for some in numbers.chunks(FILL_TXN) {
        let ops = some.iter().map(|n| put(format!("{prefix}{n:08}"), *n));
        commit(store, ops.collect()).await?;
    }
    Ok(())
}

/// `concurrency` tasks, each of which begins again when it has its answer.
pub async fn closed_loop(
    store: &Arc<dyn Store>,
    load: Load,
    concurrency: usize,
    time: Duration,
) -> Result<LoadResult> {
    if load == Load::Read {
        fill(store.as_ref(), "/registry/read/", READ_KEYS).await?;
    }
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for task in 0..concurrency as u64 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            for n in 0.. {
                let sent = Instant::now();
                if sent.duration_since(begun) >= time {
                    break;
                }
                match load {
                    Load::Write => {
                        let key = format!("/registry/write/{task:04}/{:04}", n % KEYS);
                        commit(store.as_ref(), vec![put(key, n)]).await?;
                    }
                    Load::Read => {
                        // Steps of a prime, so that the keys come in no order.
                        let at = (task * 7_919 + n * 104_729) % READ_KEYS;
                        let key = format!("/registry/read/{at:08}");
                        let found = store.get(key.into(), 0).await?;
                        found.context("a key is gone")?;
                        if n % 64 == 0 {
                            // What is answered from memory never yields by itself.
                            tokio::task::yield_now().await;
                        }
                    }
                }
                latencies.push(sent.elapsed().as_nanos() as u64);
            }
            anyhow::Ok(latencies)
        });
    }
    seen(tasks, begun).await
}

async fn seen(mut tasks: JoinSet<Result<Vec<u64>>>, begun: Instant) -> Result<LoadResult> {
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done??);
    }
    let elapsed = begun.elapsed();
    latencies.sort_unstable();
    Ok(LoadResult {
        latencies,
        elapsed,
        bytes: 0,
    })
}

/// Writes events one by one, each when every watcher has the one before. A latency is the time
/// from the beginning of the write to one watcher's event.
pub async fn fan_out(store: &Arc<dyn Store>, watchers: usize, events: usize) -> Result<LoadResult> {
    let prefix = Bytes::from_static(b"/registry/watched/");
    let start = store.revision().await?;
    let (sender, mut heard) = mpsc::channel(watchers);
    let mut tasks = JoinSet::new();
    for _ in 0..watchers {
        let watch = store.watch(prefix.clone(), start).await?;
        let sender = sender.clone();
        tasks.spawn(follow(watch, events, sender));
    }
    let mut latencies = Vec::with_capacity(watchers * events);
    let begun = Instant::now();
    for n in 0..events as u64 {
        let sent = Instant::now();
        let key = format!("/registry/watched/{}", n % 10);
        commit(store.as_ref(), vec![put(key, n)]).await?;
        for _ in 0..watchers {
            let at: Instant = heard.recv().await.context("a watcher ended")?;
            latencies.push(at.duration_since(sent).as_nanos() as u64);
        }
    }
    let elapsed = begun.elapsed();
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    latencies.sort_unstable();
    Ok(LoadResult {
        latencies,
        elapsed,
        bytes: 0,
    })
}

async fn follow(
    mut watch: WatchStream,
    events: usize,
    sender: mpsc::Sender<Instant>,
) -> Result<()> {
    let mut count = 0;
    while count < events {
        let batch = watch.next().await.context("the watch ended")??;
        for _ in batch.events {
            count += 1;
            sender.send(Instant::now()).await?;
        }
    }
    Ok(())
}
