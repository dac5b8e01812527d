//! Clients that write, read, list and watch ConfigMaps at random, and note what they asked for,
//! when, and what they were answered.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    Api, DeleteParams, ListParams, PostParams, Preconditions, WatchEvent, WatchParams,
};
use kube::core::ObjectList;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tests::history::{
    Change, Event, History, Input, List, Operation, Outcome, Revision, Time, Value, Watch,
};

/// Objects that the clients share: few, so that they meet often.
const KEYS: usize = 6;

/// Only objects of this name belong to the history: controllers have some in each namespace.
const PREFIX: &str = "key-";

/// The last write of a round; a watcher that saw it has seen all.
const LAST: &str = "last";

/// How long clients wait for an answer, in milliseconds: each time another span of it. Shorter
/// than some pauses of the servers, longer than an answer of a busy machine usually takes.
const PATIENCE: std::ops::Range<u64> = 300..3_000;

/// Greatest rest between two operations, in milliseconds: bounds a history's length.
const REST: u64 = 40;

/// Rest after a failure: a killed server needs so long at least.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(20);

/// Watches end by themselves after so many seconds at most, so that many are resumed.
const WATCH_SECONDS: std::ops::Range<u32> = 2..10;

/// One round's history while it is made.
pub struct Recorder {
    begun: Instant,
    next_value: AtomicU64,
    pub answers: AtomicU64,
    pub stop: AtomicBool,
    /// The history cannot be finished: watchers end, too.
    pub broken: AtomicBool,
    history: Mutex<History>,
}

impl Recorder {
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            next_value: AtomicU64::new(1),
            answers: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            history: Mutex::default(),
        }
    }

    fn now(&self) -> Time {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn note(&self, note: impl FnOnce(&mut History)) {
        if let Ok(mut history) = self.history.lock() {
            note(&mut history);
        }
    }

    pub fn finish(self) -> History {
        self.history.into_inner().unwrap_or_default()
    }
}

fn object(key: &str, value: Value, revision: Option<Revision>) -> Result<ConfigMap> {
    // Twice: a half written one shows.
    let text = value.to_string();
    let revision = revision.map(|r| r.to_string());
    Ok(serde_json::from_value(json!({
        "metadata": { "name": key, "resourceVersion": revision },
        "data": { "a": text, "padding": "x".repeat(300), "z": text },
    }))?)
}

fn revision(text: Option<&String>) -> Result<Revision> {
    Ok(text.context("no resourceVersion")?.parse()?)
}

/// Name, value and revision of an object.
fn read(object: &ConfigMap) -> Result<(String, Value, Revision)> {
    let data = object.data.as_ref().context("no data")?;
    let name = object.metadata.name.clone().context("no name")?;
    ensure!(data.get("a") == data.get("z"), "half written: {object:?}");
    Ok((
        name,
        data.get("a").context("no value")?.parse()?,
        revision(object.metadata.resource_version.as_ref())?,
    ))
}

/// What an error says for certain.
fn refused(error: &kube::Error) -> Outcome {
    match error {
        kube::Error::Api(status) => match (status.code, status.reason.as_str()) {
            (409, "AlreadyExists") => Outcome::Exists,
            (409, "Conflict") => Outcome::Conflict,
            (404, "NotFound") => Outcome::Absent,
            _ => Outcome::Unknown,
        },
        _ => Outcome::Unknown,
    }
}

/// One client of one server.
pub struct Client<'a> {
    pub number: usize,
    pub api: Api<ConfigMap>,
    pub recorder: &'a Recorder,
    random: StdRng,
    /// What it last saw of each object: often no longer so.
    last: BTreeMap<String, Revision>,
}

impl<'a> Client<'a> {
    pub fn new(number: usize, api: Api<ConfigMap>, recorder: &'a Recorder, seed: u64) -> Self {
        Self {
            number,
            api,
            recorder,
            random: StdRng::seed_from_u64(seed),
            last: BTreeMap::new(),
        }
    }

    /// Works until asked to stop.
    ///
    /// # Errors
    /// An answer that cannot be understood.
    pub async fn run(mut self) -> Result<()> {
        while !self.recorder.stop.load(Ordering::Relaxed) {
            let answered = if self.random.random_range(0..12) == 0 {
                self.list().await?
            } else {
                let key = format!("{PREFIX}{}", self.random.random_range(0..KEYS));
                let input = self.choose(&key);
                self.ask(key, input).await?
            };
            if answered {
                self.recorder.answers.fetch_add(1, Ordering::Relaxed);
                let rest = self.random.random_range(0..REST);
                tokio::time::sleep(Duration::from_millis(rest)).await;
            } else {
                tokio::time::sleep(REST_AFTER_FAILURE).await;
            }
        }
        Ok(())
    }

    fn choose(&mut self, key: &str) -> Input {
        let value = || self.recorder.next_value.fetch_add(1, Ordering::Relaxed);
        match (self.random.random_range(0..100), self.last.get(key)) {
            (0..40, Some(last)) => Input::Update(value(), *last),
            (40..50, Some(last)) => Input::Delete(Some(*last)),
            (50..53, _) => Input::Delete(None),
            (53..70, _) => Input::Create(value()),
            _ => Input::Get,
        }
    }

    fn patience(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(PATIENCE))
    }

    async fn ask(&mut self, key: String, input: Input) -> Result<bool> {
        let patience = self.patience();
        let start = self.recorder.now();
        let answer = tokio::time::timeout(patience, send(&self.api, &key, input)).await;
        let end = self.recorder.now();
        let outcome = match answer {
            Ok(outcome) => outcome.with_context(|| format!("{input:?} of {key}"))?,
            Err(_) => Outcome::Unknown,
        };
        match outcome {
            Outcome::Written(r) | Outcome::Found(_, r) => drop(self.last.insert(key.clone(), r)),
            Outcome::Deleted | Outcome::Absent => drop(self.last.remove(&key)),
            Outcome::Exists | Outcome::Conflict | Outcome::Unknown => {}
        }
        let client = self.number;
        self.recorder.note(|history| {
            history.operations.push(Operation {
                client,
                key,
                start,
                end,
                input,
                outcome,
            });
        });
        Ok(outcome != Outcome::Unknown)
    }

    async fn list(&mut self) -> Result<bool> {
        let patience = self.patience();
        let start = self.recorder.now();
        let params = ListParams::default();
        let answer = tokio::time::timeout(patience, self.api.list(&params)).await;
        let end = self.recorder.now();
        let Ok(Ok(list)) = answer else {
            return Ok(false);
        };
        let (items, revision) = content(&list)?;
        for (key, (_, at)) in &items {
            self.last.insert(key.clone(), *at);
        }
        let client = self.number;
        self.recorder.note(|history| {
            history.lists.push(List {
                client,
                start,
                end,
                revision,
                items,
            });
        });
        Ok(true)
    }

    /// After the trouble: reads everything once more.
    ///
    /// # Errors
    /// No answer, though all servers run.
    pub async fn read_all(&mut self) -> Result<()> {
        for i in 0..KEYS {
            self.until_answered(format!("{PREFIX}{i}"), Input::Get)
                .await?;
        }
        let begun = Instant::now();
        while !self.list().await? {
            ensure!(begun.elapsed() < tests::command::GUARD, "no list");
        }
        Ok(())
    }

    async fn until_answered(&mut self, key: String, input: Input) -> Result<()> {
        let begun = Instant::now();
        while !self.ask(key.clone(), input).await? {
            ensure!(begun.elapsed() < tests::command::GUARD, "{key}: no answer");
            tokio::time::sleep(REST_AFTER_FAILURE).await;
        }
        Ok(())
    }
}

async fn send(api: &Api<ConfigMap>, key: &str, input: Input) -> Result<Outcome> {
    let written = |answer: kube::Result<ConfigMap>| match answer {
        Ok(object) => Ok(Outcome::Written(read(&object)?.2)),
        Err(e) => Ok(refused(&e)),
    };
    let params = PostParams::default();
    match input {
        Input::Create(value) => written(api.create(&params, &object(key, value, None)?).await),
        Input::Update(value, at) => written(
            api.replace(key, &params, &object(key, value, Some(at))?)
                .await,
        ),
        Input::Delete(at) => {
            let resource_version = at.map(|r| r.to_string());
            let params = DeleteParams {
                preconditions: resource_version.map(|r| Preconditions {
                    resource_version: Some(r),
                    uid: None,
                }),
                ..DeleteParams::default()
            };
            let answer = api.delete(key, &params).await;
            Ok(answer.map_or_else(|e| refused(&e), |_| Outcome::Deleted))
        }
        Input::Get => match api.get(key).await {
            Ok(object) => {
                let (name, value, revision) = read(&object)?;
                ensure!(name == key, "asked for {key}, got {name}");
                Ok(Outcome::Found(value, revision))
            }
            Err(e) => Ok(refused(&e)),
        },
    }
}

type Items = BTreeMap<String, (Value, Revision)>;

fn content(list: &ObjectList<ConfigMap>) -> Result<(Items, Revision)> {
    let mut items = BTreeMap::new();
    let ours = |o: &&ConfigMap| {
        let name = o.metadata.name.as_deref();
        name.is_some_and(|n| n.starts_with(PREFIX))
    };
    for object in list.items.iter().filter(ours) {
        let (name, value, at) = read(object)?;
        ensure!(items.insert(name, (value, at)).is_none(), "listed twice");
    }
    Ok((items, revision(list.metadata.resource_version.as_ref())?))
}

/// Writes what ends the watches.
///
/// # Errors
/// It cannot be written, though all servers run.
pub async fn write_last(api: &Api<ConfigMap>) -> Result<()> {
    let begun = Instant::now();
    loop {
        match send(api, LAST, Input::Create(0)).await? {
            Outcome::Written(_) | Outcome::Exists => return Ok(()),
            other => ensure!(begun.elapsed() < tests::command::GUARD, "{other:?}"),
        }
        tokio::time::sleep(REST_AFTER_FAILURE).await;
    }
}

/// Where a watch of a round begins.
///
/// # Errors
/// The server does not answer.
pub async fn revision_now(api: &Api<ConfigMap>) -> Result<Revision> {
    let list = api.list(&ListParams::default()).await?;
    Ok(content(&list)?.1)
}

/// Watches from a revision until the last write, over as many connections as it takes.
///
/// # Errors
/// The server does not know the revision any more, or sends what cannot be understood.
pub async fn watch(
    api: Api<ConfigMap>,
    recorder: &Recorder,
    from: Revision,
    seed: u64,
) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut seen = Watch::default();
    let mut at = from;
    while !recorder.broken.load(Ordering::Relaxed) {
        let params = WatchParams::default().timeout(random.random_range(WATCH_SECONDS));
        if let Ok(stream) = api.watch(&params, &at.to_string()).await {
            seen.connections += 1;
            let mut stream = stream.boxed();
            // A broken connection is what the next one makes up for.
            while let Ok(Some(event)) = stream.try_next().await {
                if take(event, recorder, &mut at, &mut seen)? {
                    recorder.note(|history| history.watches.push(seen));
                    return Ok(());
                }
            }
        }
        tokio::time::sleep(REST_AFTER_FAILURE).await;
    }
    bail!("the watch stopped at {at} without the last event")
}

/// Notes an event; returns whether it is the last.
fn take(
    event: WatchEvent<ConfigMap>,
    recorder: &Recorder,
    at: &mut Revision,
    seen: &mut Watch,
) -> Result<bool> {
    let (change, object) = match event {
        WatchEvent::Added(object) => (Change::Added, object),
        WatchEvent::Modified(object) => (Change::Modified, object),
        WatchEvent::Deleted(object) => (Change::Deleted, object),
        WatchEvent::Bookmark(mark) => {
            let marked: Revision = mark.metadata.resource_version.parse()?;
            ensure!(marked >= *at, "the bookmark {marked} is older than {at}");
            *at = marked;
            return Ok(false);
        }
        // The servers may not be able to serve at this moment; the history is theirs to keep.
        WatchEvent::Error(status) if status.code >= 500 || status.code == 429 => return Ok(false),
        WatchEvent::Error(status) => bail!("the watch at {at} ended with {status:?}"),
    };
    let now = revision(object.metadata.resource_version.as_ref())?;
    ensure!(
        now > *at,
        "after {at} came {now} of {:?}",
        object.metadata.name
    );
    *at = now;
    let name = object.metadata.name.as_deref().unwrap_or_default();
    if name == LAST {
        return Ok(true);
    }
    if name.starts_with(PREFIX) {
        let (key, value, revision) = read(&object)?;
        seen.events.push(Event {
            at: recorder.now(),
            change,
            key,
            value,
            revision,
        });
    }
    Ok(false)
}
