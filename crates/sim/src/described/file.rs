//! The file that describes a cluster and what happens to it: what its fields mean, and what is wrong
//! with one that cannot be played. It knows no cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use clock::Random;
use jiff::Timestamp;
use registry::Features;
use registry::served_versions::{self, Served};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::{Deed, Event};
use super::form::{DescriptionError, Span, objects, wrong};
use super::{captured, chance, listed, place};

/// More nodes than this are refused: upstream's limit is 5,000, and a laptop's memory has one too.
const MOST_NODES: usize = 20_000;
/// Longest that may be simulated.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Most times that events happen, all together.
const MOST_TURNS: usize = 100_000;
/// Most moments at which the cluster is looked at.
const MOST_SAMPLES: u32 = 10_000;
/// When it may begin, in Unix seconds.
const YEARS: std::ops::Range<i64> = 946_684_800..7_258_118_400;
/// Moments at which it is looked at when the file does not say: more than a terminal is wide.
const SAMPLES: u32 = 120;

/// The label of a node with its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// A described cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "camelCase",
    default,
    expecting = "the description of a cluster: fields such as nodes, objects and events"
)]
pub struct Description {
    /// All chance comes from it.
    pub seed: u64,
    /// What time it is when it begins, by which CronJobs come; midnight, if it does not say.
    pub start: Option<Timestamp>,
    /// How long the cluster lives, from when its nodes are ready.
    pub duration: Span,
    /// Between looks at the cluster.
    pub sample_every: Option<Span>,
    /// How long a node that failed is silent before it is taken for failed.
    pub node_grace: Span,
    pub pods: PodTimes,
    /// As `--feature-gates` of a server: `Name=true`.
    pub feature_gates: Vec<String>,
    /// As `--runtime-config` of a server: `group/version=true`.
    pub runtime_config: Vec<String>,
    pub nodes: Vec<Pool>,
    /// Kubernetes objects that are there from the beginning.
    #[serde(deserialize_with = "objects")]
    pub objects: Vec<Value>,
    pub events: Vec<Event>,
    /// What it was read from, for the lines of what is wrong with it.
    #[serde(skip)]
    text: String,
    /// How many of its objects, the first ones, are not from this text.
    #[serde(skip)]
    captured: usize,
}

impl Default for Description {
    fn default() -> Self {
        Self {
            seed: 1,
            start: None,
            duration: Span::seconds(30 * 60),
            sample_every: None,
            // What upstream's node controller waits.
            node_grace: Span::seconds(50),
            pods: PodTimes::default(),
            feature_gates: Vec::new(),
            runtime_config: Vec::new(),
            nodes: Vec::new(),
            objects: Vec::new(),
            events: Vec::new(),
            text: String::new(),
            captured: 0,
        }
    }
}

/// How long things take on nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PodTimes {
    /// From when a pod has its node until it is ready.
    pub start_after: Span,
    /// How long a pod runs that runs to its end, unless its annotation says.
    pub run_for: Span,
    /// From when a pod is to go until it has gone.
    pub stop_after: Span,
}

impl Default for PodTimes {
    fn default() -> Self {
        Self {
            start_after: Span::seconds(2),
            run_for: Span::seconds(60),
            stop_after: Span::seconds(1),
        }
    }
}

/// Nodes of one kind: `NAME-0`, `NAME-1` and so on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pool {
    pub name: String,
    pub count: usize,
    /// As `cpu: "4"`, `memory: 16Gi`, `pods: "110"`, and others.
    pub capacity: std::collections::BTreeMap<String, api::quantity::Quantity>,
    #[serde(default)]
    pub labels: std::collections::BTreeMap<String, String>,
    /// Zones that the nodes lie in by turns.
    #[serde(default)]
    pub zones: Vec<String>,
    #[serde(default)]
    pub taints: Vec<Taint>,
}

/// A taint, of which no field is overlooked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    pub key: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    pub effect: String,
}

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// What is wrong with its form, with field and line.
    pub fn read(text: &str) -> Result<Self, DescriptionError> {
        let mut read: Self = serde_norway::from_str(text)?;
        text.clone_into(&mut read.text);
        Ok(read)
    }

    /// How an object is called in errors: one that was there before is not in the file.
    pub fn object_path(&self, at: usize) -> String {
        match at.checked_sub(self.captured) {
            Some(own) => format!("objects[{own}]"),
            None => format!("object {at} of the cluster"),
        }
    }

    /// The kinds and features of its servers, and what of them has no effect.
    ///
    /// # Errors
    /// When there is no such gate or API.
    pub fn served(&self) -> Result<(Served, Features), DescriptionError> {
        let features = match Features::read(&self.feature_gates) {
            Ok(features) => features,
            Err(errors) => return wrong("featureGates", errors.join("; ")),
        };
        match served_versions::configured(&self.runtime_config, &features) {
            Ok(mut served) => {
                served.warnings.extend(features.warnings());
                Ok((served, features))
            }
            Err(why) => wrong("runtimeConfig", why),
        }
    }

    /// Where in the file that is which an error is about: the error begins with its path.
    pub fn place(&self, error: &str) -> Option<String> {
        let (path, _) = error.split_once(": ")?;
        let (line, column) = place::of(&self.text, path)?;
        Some(format!("line {line} column {column}"))
    }

    /// The objects of a cluster, as `kubectl get … -o yaml` prints them, come before its own.
    ///
    /// # Errors
    /// When the text is not of objects.
    pub fn begin_with(&mut self, text: &str) -> Result<(), DescriptionError> {
        let mut all = captured::objects(text)?;
        self.captured += all.len();
        all.append(&mut self.objects);
        self.objects = all;
        Ok(())
    }

    /// Between looks at the cluster.
    pub fn sample_every(&self) -> Duration {
        let usual = self.duration.0 / SAMPLES;
        let given = self.sample_every.map(|s| s.0);
        given.unwrap_or_else(|| usual.max(Duration::from_secs(1)))
    }

    /// When an event happens, each time that it does; what is left to chance is drawn from the seed,
    /// for each event by itself.
    pub fn times(&self, event: usize) -> Vec<Duration> {
        // One more than may be is enough to refuse it.
        const MOST: usize = MOST_TURNS + 1;
        let Some(of) = self.events.get(event) else {
            return Vec::new();
        };
        let Some(rate) = of.per_hour else {
            return (0..of.turns())
                .map(|turn| of.time(turn))
                .take(MOST)
                .collect();
        };
        let until = of.until.map_or(self.duration.0, |until| until.0);
        let nth = u64::try_from(event).unwrap_or(u64::MAX);
        // Seeds beside each other must not give one event what they give the next one.
        let own = Random::seeded(self.seed).fork().number();
        let random = Random::seeded(own.wrapping_add(nth));
        chance::moments((of.at.0, until), rate, MOST, &random)
    }

    /// Checks what can be checked without a cluster.
    ///
    /// # Errors
    /// What is wrong, with its field.
    pub fn check(&self) -> Result<(), DescriptionError> {
        if self.duration.0.is_zero() || self.duration.0 > LONGEST {
            return wrong(
                "duration",
                format!("must be longer than 0s, and at most {LONGEST:?}"),
            );
        }
        let every = self.sample_every();
        if every.is_zero() || self.duration.0.div_duration_f64(every) > f64::from(MOST_SAMPLES) {
            let why = format!("the cluster would be looked at more than {MOST_SAMPLES} times");
            return wrong("sampleEvery", why);
        }
        let second = self.start.map_or(YEARS.start, Timestamp::as_second);
        if !YEARS.contains(&second) {
            return wrong("start", "must be in the years 2000 to 2199");
        }
        self.served()?;
        self.check_nodes()?;
        for (at, object) in self.objects.iter().enumerate() {
            check_object(&self.object_path(at), object)?;
        }
        self.check_events()
    }

    fn check_nodes(&self) -> Result<(), DescriptionError> {
        let mut names = BTreeSet::new();
        for (at, pool) in self.nodes.iter().enumerate() {
            if !names.insert(&pool.name) {
                return wrong(
                    format!("nodes[{at}].name"),
                    format!("{:?} is there twice", pool.name),
                );
            }
            let required = ["cpu", "memory", "pods"];
            if let Some(lacks) = required.iter().find(|r| !pool.capacity.contains_key(**r)) {
                return wrong(
                    format!("nodes[{at}].capacity"),
                    format!("{lacks} is missing"),
                );
            }
        }
        let more = self.events.iter().enumerate().filter_map(|(at, event)| {
            let add = event.add.as_ref()?;
            Some(add.count.saturating_mul(self.times(at).len()))
        });
        let all = self.nodes.iter().map(|p| p.count).chain(more);
        let count = all.fold(0, usize::saturating_add);
        let own = self.objects.iter().flat_map(|o| listed::each("", o));
        let own = own.filter(|(_, o)| o["kind"] == "Node").count();
        let count = count.saturating_add(own);
        if count == 0 {
            return wrong("nodes", "there is none");
        }
        if count > MOST_NODES {
            return wrong("nodes", format!("{count} are more than {MOST_NODES}"));
        }
        Ok(())
    }

    fn check_events(&self) -> Result<(), DescriptionError> {
        let mut turns = 0;
        for (at, event) in self.events.iter().enumerate() {
            let path = format!("events[{at}]");
            let deeds = event.deeds();
            let [deed] = deeds.as_slice() else {
                let what =
                    "one of create, delete, scale, load, fail, restore, drain, add and remove";
                return wrong(
                    path,
                    format!("must have exactly {what}, and has {}", deeds.len()),
                );
            };
            if event.times.is_some() != event.every.is_some() {
                return wrong(path, "every and times belong together");
            }
            if event.turns() == 0 {
                return wrong(format!("{path}.times"), "must be at least 1");
            }
            event.check_chance(&path, *deed)?;
            let times = self.times(at);
            turns += times.len();
            let late = event.until.is_some_and(|until| until > self.duration);
            if late
                || event.at > self.duration
                || times.last().is_some_and(|t| *t > self.duration.0)
            {
                return wrong(
                    path,
                    "it, or its last time, is after the end of the simulation",
                );
            }
            self.check_deed(&format!("{path}.{deed}"), *deed)?;
        }
        if turns > MOST_TURNS {
            return wrong(
                "events",
                format!("{turns} times are more than {MOST_TURNS}"),
            );
        }
        Ok(())
    }

    /// Whether any node that may come to be lies in a zone.
    fn has_zone(&self, zone: &str) -> bool {
        let pools = |p: &Pool| {
            let mut zones = p.zones.iter().chain(p.labels.get(ZONE));
            zones.any(|z| z == zone)
        };
        let is_in = |o: &Value| {
            let label = o.pointer("/metadata/labels").and_then(|all| all.get(ZONE));
            o["kind"] == "Node" && label.and_then(Value::as_str) == Some(zone)
        };
        let mut own = self.objects.iter().flat_map(|o| listed::each("", o));
        self.nodes.iter().any(pools) || own.any(|(_, o)| is_in(o))
    }

    fn check_deed(&self, path: &str, deed: Deed<'_>) -> Result<(), DescriptionError> {
        let has_pool = |name: &String| self.nodes.iter().any(|p| p.name == *name);
        if let Some(which) = deed.which() {
            if which.nodes.is_empty() && which.pool.is_none() && which.zone.is_none() {
                return wrong(path, "say which: nodes, pool or zone");
            }
            if let Some(pool) = which.pool.as_ref().filter(|p| !has_pool(p)) {
                return wrong(format!("{path}.pool"), format!("there is no pool {pool:?}"));
            }
            if let Some(zone) = which.zone.as_ref().filter(|z| !self.has_zone(z)) {
                return wrong(
                    format!("{path}.zone"),
                    format!("no node is in zone {zone:?}"),
                );
            }
        }
        let count = deed.which().and_then(|which| which.count);
        let more = match deed {
            Deed::Add(more) => Some(more.count),
            _ => None,
        };
        if count.or(more) == Some(0) {
            return wrong(format!("{path}.count"), "must be at least 1");
        }
        match deed {
            Deed::Create(object) => check_object(path, object),
            Deed::Load(load) => match load.fault() {
                Some((field, why)) => wrong(format!("{path}{field}"), why),
                None => Ok(()),
            },
            Deed::Add(more) if !has_pool(&more.pool) => wrong(
                format!("{path}.pool"),
                format!("there is no pool {:?}", more.pool),
            ),
            Deed::Scale(s) if !["Deployment", "StatefulSet", "ReplicaSet"].contains(&&*s.kind) => {
                wrong(
                    format!("{path}.kind"),
                    "must be Deployment, StatefulSet or ReplicaSet",
                )
            }
            _ => Ok(()),
        }
    }
}

fn check_object(path: &str, object: &Value) -> Result<(), DescriptionError> {
    match listed::fault(path, object) {
        Some((path, why)) => wrong(path, why),
        None => Ok(()),
    }
}
