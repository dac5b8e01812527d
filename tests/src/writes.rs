//! A stream of writes to the API beside a test: what was acknowledged, and how long nothing was.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

use crate::command::eventually;
use crate::context::Context;

/// Time for one write; one that takes longer counts as failed, and its outcome as unknown.
const LIMIT: Duration = Duration::from_secs(5);
/// A server tries for 10 s to reach a store that is away, before it says so.
const EXPLAINED: Duration = Duration::from_secs(30);
/// After a write that failed: refusals must not spin.
const PAUSE: Duration = Duration::from_millis(20);

/// ConfigMaps that are created one after another.
pub struct Writes {
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Done>>,
    task: tokio::task::JoinHandle<()>,
}

/// What a stream of writes got.
#[derive(Clone, Default)]
pub struct Done {
    pub acknowledged: Vec<String>,
    pub errors: Vec<String>,
    last: Option<Instant>,
    /// The longest time between two acknowledgements.
    pub longest: Duration,
}

impl Done {
    fn take(&mut self, name: String, answer: Result<(), String>) {
        if let Err(e) = answer {
            return self.errors.push(e);
        }
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
        self.acknowledged.push(name);
    }
}

async fn write(api: &Api<ConfigMap>, name: &str, limit: Duration) -> Result<(), String> {
    let object = json!({ "metadata": { "name": name, "labels": { "stream": "writes" } } });
    let object: ConfigMap = serde_json::from_value(object).map_err(|e| e.to_string())?;
    let params = PostParams::default();
    let create = api.create(&params, &object);
    match tokio::time::timeout(limit, create).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}

/// One write that is to fail, with time for the server to say why; gives what it says.
pub fn refused(cx: &Context, name: &str) -> Result<String> {
    let client: Client = cx.cluster.client()?;
    let api: Api<ConfigMap> = Api::namespaced(client, &cx.ns);
    match cx.cluster.block_on(write(&api, name, EXPLAINED)) {
        Err(e) => Ok(e),
        Ok(()) => Err(anyhow!("{name} was written")),
    }
}

impl Writes {
    /// Starts the stream with a client of its own.
    pub fn start(cx: &Context) -> Result<Self> {
        static STREAMS: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("w{}", STREAMS.fetch_add(1, Ordering::Relaxed));
        let client: Client = cx.cluster.client()?;
        let api: Api<ConfigMap> = Api::namespaced(client, &cx.ns);
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Done>>::default());
        let (stopped, kept) = (stop.clone(), done.clone());
        let task = cx.cluster.spawn(async move {
            for i in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let name = format!("{prefix}-{i}");
                let answer = write(&api, &name, LIMIT).await;
                let failed = answer.is_err();
                match kept.lock() {
                    Ok(mut done) => done.take(name, answer),
                    Err(_) => return,
                }
                if failed {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        });
        Ok(Self { stop, done, task })
    }

    fn look(&self) -> Result<Done> {
        let done = self.done.lock().map_err(|_| anyhow!("poisoned"))?;
        Ok(done.clone())
    }

    /// Waits until so many more writes are acknowledged.
    pub fn flow(&self, more: usize) -> Result<()> {
        let before = self.look()?.acknowledged.len();
        eventually("writes are acknowledged", || {
            let now = self.look()?;
            let last = now.errors.last().cloned().unwrap_or_default();
            ensure!(now.acknowledged.len() >= before + more, "{last}");
            Ok(())
        })
    }

    /// Waits until so many more writes have failed, and gives the newest errors.
    pub fn fail(&self, more: usize) -> Result<Vec<String>> {
        let before = self.look()?.errors.len();
        eventually("writes fail", || {
            let mut errors = self.look()?.errors;
            ensure!(errors.len() >= before + more, "{} failed", errors.len());
            Ok(errors.split_off(before))
        })
    }

    /// Ends the stream and looks for everything that was acknowledged.
    pub fn end(self, cx: &Context) -> Result<Done> {
        self.stop.store(true, Ordering::Relaxed);
        let done = self.done.clone();
        cx.cluster.block_on(self.task).context("the stream")?;
        let done = done.lock().map_err(|_| anyhow!("poisoned"))?.clone();
        let found: BTreeSet<String> = cx
            .names("configmaps", "stream=writes")?
            .into_iter()
            .collect();
        let lost: Vec<&String> = done
            .acknowledged
            .iter()
            .filter(|n| !found.contains(*n))
            .collect();
        ensure!(
            lost.is_empty(),
            "lost {lost:?} of {}",
            done.acknowledged.len()
        );
        Ok(done)
    }
}
