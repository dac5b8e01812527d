//! Clients that call at random, and write down what they asked and were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tests::linear::{Answer, Call, Op};
use tests::streams::{Listed, Written};

/// After so long a call counts as unanswered; longer than most pauses, so that some calls meet
/// their answer after one and some do not.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a call without an answer: refusals must not spin.
const REST: Duration = Duration::from_millis(10);

/// What all clients of a run share.
pub struct Shared {
    clock: Instant,
    values: AtomicU64,
}

impl Shared {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: Instant::now(),
            values: AtomicU64::new(1),
        })
    }
    fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
    /// A value that nobody has written.
    fn value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }
}

/// What the clients of a round were told.
#[derive(Default)]
pub struct Told {
    pub ops: BTreeMap<String, Vec<Op>>,
    pub written: Vec<Written>,
    pub lists: Vec<Listed>,
    pub attempted: Vec<u64>,
    /// Answers that no healthy or failing server may give.
    pub wrong: Vec<String>,
}

/// A round: its keys, which no other round uses, and what was told of them.
pub struct Round {
    pub number: usize,
    pub keys: Vec<String>,
    pub shared: Arc<Shared>,
    pub told: Mutex<Told>,
    pub answered: AtomicUsize,
    pub stop: AtomicBool,
}

impl Round {
    pub fn selector(&self) -> String {
        format!("round={}", self.number)
    }

    fn tell(&self, take: impl FnOnce(&mut Told)) {
        if let Ok(mut told) = self.told.lock() {
            take(&mut told);
        }
    }

    fn record(&self, key: &str, call: Call, answer: Answer, begun: u64, ended: u64) {
        let op = Op {
            call,
            answer,
            begun,
            ended,
        };
        if answer != Answer::Unknown {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        self.tell(|t| t.ops.entry(key.to_owned()).or_default().push(op));
    }
}

/// Small numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // The constants are Knuth's MMIX generator.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// One client, on one server.
pub struct Caller {
    pub api: Api<ConfigMap>,
    pub round: Arc<Round>,
    /// What it last saw of a key: value and resourceVersion.
    known: BTreeMap<String, (u64, String)>,
    dice: Dice,
}

fn value_of(object: &ConfigMap) -> Result<u64> {
    let value = object.data.as_ref().and_then(|d| d.get("value"));
    Ok(value.context("no value")?.parse()?)
}

fn revision_of(version: Option<&str>) -> Result<u64> {
    Ok(version.context("no resourceVersion")?.parse()?)
}

/// What an error says of the outcome; nothing, unless the server decided.
fn answer_of(call: Call, error: &kube::Error) -> Result<Answer> {
    let kube::Error::Api(status) = error else {
        return Ok(Answer::Unknown);
    };
    Ok(match (call, status.reason.as_str(), status.code) {
        (Call::Create(_), "AlreadyExists", _) => Answer::Exists,
        (Call::Update { .. }, "Conflict", _) => Answer::Conflict,
        (Call::Update { .. } | Call::Delete | Call::Get, "NotFound", _) => Answer::Absent,
        (_, _, 429 | 500..) => Answer::Unknown,
        _ => bail!("{call:?}: {status:?}"),
    })
}

impl Caller {
    pub fn new(api: Api<ConfigMap>, round: Arc<Round>, seed: u64) -> Self {
        Self {
            api,
            round,
            known: BTreeMap::new(),
            dice: Dice(seed),
        }
    }

    /// Calls until the round is over.
    pub async fn run(mut self) {
        while !self.round.stop.load(Ordering::Relaxed) {
            let outcome = match self.dice.roll(12) {
                0 => self.list().await,
                n => self.call(n).await,
            };
            match outcome {
                Ok(true) => {}
                Ok(false) => tokio::time::sleep(REST).await,
                Err(e) => self.round.tell(|t| t.wrong.push(format!("{e:#}"))),
            }
        }
    }

    /// Reads every key once, when the round is over.
    pub async fn finish(&mut self) -> Result<()> {
        for key in self.round.keys.clone() {
            self.make(&key, Call::Get).await?;
        }
        self.list().await.map(drop)
    }

    /// One call on some key; whether it was answered.
    async fn call(&mut self, kind: u64) -> Result<bool> {
        let keys = self.round.keys.len();
        let i = usize::try_from(self.dice.roll(keys as u64))?;
        let key = self.round.keys.get(i).context("no keys")?.clone();
        let expect = self.known.get(&key).map(|k| k.0);
        let call = match (kind, expect) {
            (1..=2, _) => Call::Create(self.round.shared.value()),
            (3..=7, Some(expect)) => Call::Update {
                expect,
                new: self.round.shared.value(),
            },
            (8, _) => Call::Delete,
            _ => Call::Get,
        };
        self.make(&key, call).await
    }

    async fn make(&mut self, key: &str, call: Call) -> Result<bool> {
        let (Call::Create(new) | Call::Update { new, .. }) = call else {
            return self.send(key, call).await;
        };
        // Before it is sent: the watch may tell of it before the answer comes.
        self.round.tell(|t| t.attempted.push(new));
        self.send(key, call).await
    }

    async fn send(&mut self, key: &str, call: Call) -> Result<bool> {
        let begun = self.round.shared.now();
        let sent = tokio::time::timeout(PATIENCE, self.request(key, call)).await;
        let ended = self.round.shared.now();
        let answer = match sent {
            Err(_) => Answer::Unknown,
            Ok(Err(e)) => answer_of(call, &e)?,
            Ok(Ok(None)) => Answer::Done,
            Ok(Ok(Some(object))) => self.took(key, call, &object, begun, ended)?,
        };
        if matches!(answer, Answer::Conflict | Answer::Absent) || call == Call::Delete {
            self.known.remove(key);
        }
        self.round.record(key, call, answer, begun, ended);
        Ok(answer != Answer::Unknown)
    }

    /// An object came back.
    fn took(
        &mut self,
        key: &str,
        call: Call,
        object: &ConfigMap,
        begun: u64,
        ended: u64,
    ) -> Result<Answer> {
        let (value, version) = (value_of(object)?, object.resource_version());
        let written = Written {
            key: key.to_owned(),
            value,
            revision: revision_of(version.as_deref())?,
            begun,
            ended,
        };
        let known = (value, version.unwrap_or_default());
        self.known.insert(key.to_owned(), known);
        match call {
            Call::Create(new) | Call::Update { new, .. } => {
                anyhow::ensure!(value == new, "{call:?} was answered with {value}");
                self.round.tell(|t| t.written.push(written));
                Ok(Answer::Done)
            }
            Call::Get | Call::Delete => Ok(Answer::Value(value)),
        }
    }

    async fn request(&self, key: &str, call: Call) -> kube::Result<Option<ConfigMap>> {
        let params = PostParams::default();
        match call {
            Call::Create(v) => {
                let object = self.object(key, v, None)?;
                self.api.create(&params, &object).await.map(Some)
            }
            Call::Update { new, .. } => {
                let version = self.known.get(key).map(|k| k.1.as_str());
                let object = self.object(key, new, version)?;
                self.api.replace(key, &params, &object).await.map(Some)
            }
            Call::Delete => {
                let params = DeleteParams::default();
                self.api.delete(key, &params).await.map(|_| None)
            }
            Call::Get => self.api.get(key).await.map(Some),
        }
    }

    fn object(&self, key: &str, value: u64, version: Option<&str>) -> kube::Result<ConfigMap> {
        let mut object = json!({
            "metadata": { "name": key, "labels": { "round": self.round.number.to_string() } },
            "data": { "value": value.to_string() },
        });
        if let Some(version) = version {
            object["metadata"]["resourceVersion"] = version.into();
        }
        serde_json::from_value(object).map_err(kube::Error::SerdeError)
    }

    /// A list is a read of every key at the same time.
    async fn list(&mut self) -> Result<bool> {
        let begun = self.round.shared.now();
        let params = ListParams::default().labels(&self.round.selector());
        let sent = tokio::time::timeout(PATIENCE, self.api.list(&params)).await;
        let ended = self.round.shared.now();
        let list = match sent {
            Err(_) => return Ok(false),
            Ok(Err(e)) => return answer_of(Call::Get, &e).map(|_| false),
            Ok(Ok(list)) => list,
        };
        let mut values = BTreeMap::new();
        for object in &list.items {
            values.insert(object.name_any(), value_of(object)?);
        }
        for key in &self.round.keys {
            let answer = values
                .get(key)
                .map_or(Answer::Absent, |v| Answer::Value(*v));
            self.round.record(key, Call::Get, answer, begun, ended);
        }
        let revision = revision_of(list.metadata.resource_version.as_deref())?;
        self.round
            .tell(|t| t.lists.push(Listed { revision, values }));
        Ok(true)
    }
}
