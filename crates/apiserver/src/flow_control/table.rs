//! The rules by which requests are distinguished, compiled from the objects; and the priority levels,
//! which outlive changes of the rules.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use access::UserInfo;
use clock::Instant;
use flowcontrol::config::{self, Distinguisher, Response};
use flowcontrol::demand::Demand;
use flowcontrol::levels::{Limits, limits};
use flowcontrol::matching::RequestDigest;
use flowcontrol::queues::{QueueSet, Running};
use flowcontrol::retry::RetryAfter;
use flowcontrol::{CATCH_ALL, EXEMPT, defaults, work};
use http::Method;
use http::header::HeaderValue;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

use super::metrics::Metrics;
use crate::http::request::{Query, RequestInfo};

/// The rules.
pub(super) struct Table {
    /// In the order in which they are asked; the last one matches all that is left.
    pub schemas: Vec<Arc<Schema>>,
    catch_all: Arc<Schema>,
    /// By name; those that are gone stay until their last request has ended.
    pub levels: BTreeMap<String, Arc<Level>>,
}

/// A FlowSchema.
pub(super) struct Schema {
    pub config: config::Schema,
    pub level: Arc<Level>,
    pub uid: HeaderValue,
    pub level_uid: HeaderValue,
    pub metrics: Arc<Metrics>,
}

/// A priority level.
pub(super) struct Level {
    pub name: String,
    /// The moment from which its times are counted.
    pub origin: Instant,
    /// Seats of one request at most.
    most_seats: AtomicU32,
    /// Whether its requests are divided into flows.
    has_flows: AtomicBool,
    pub state: Mutex<LevelState>,
}

pub(super) struct LevelState {
    pub config: config::Level,
    pub limits: Limits,
    pub set: QueueSet<oneshot::Sender<Running>, Details>,
    pub demand: Demand,
    pub target: f64,
    pub retry: RetryAfter,
    /// Its object is gone, and its last requests are served.
    pub is_leftover: bool,
    /// A task waits until seats come back by time.
    pub is_armed: bool,
}

/// What is shown of a request while it waits and runs. All of it is one text, since it is made for
/// each request.
pub(super) struct Details {
    schema: Arc<Schema>,
    /// Method, user and path, separated by line feeds.
    text: Box<str>,
}

impl Details {
    pub fn new(schema: &Arc<Schema>, user: &UserInfo, info: &RequestInfo) -> Self {
        let mut text =
            String::with_capacity(info.verb.len() + user.name.len() + info.path.len() + 2);
        text.push_str(&info.verb);
        text.push('\n');
        text.push_str(&info.path);
        text.push('\n');
        text.push_str(&user.name);
        Self {
            schema: schema.clone(),
            text: text.into(),
        }
    }

    pub fn schema(&self) -> &str {
        &self.schema.config.name
    }

    /// The user's name, and what was asked for.
    pub fn read(&self) -> (&str, RequestInfo) {
        let mut parts = self.text.splitn(3, '\n');
        let mut part = || parts.next().unwrap_or_default();
        let (verb, path, user) = (part(), part(), part());
        let mut info = RequestInfo::parse(&Method::GET, path, &Query::default());
        info.verb = verb.to_owned();
        (user, info)
    }

    pub fn distinguisher(&self) -> String {
        let (user, info) = self.read();
        match self.schema.config.distinguisher {
            Some(Distinguisher::ByUser) => user.to_owned(),
            Some(Distinguisher::ByNamespace) => info.namespace,
            None => String::new(),
        }
    }
}

impl Table {
    /// Compiles the objects. Levels and figures of `before` go on; seats are still to be divided.
    pub fn digest(
        before: Option<&Self>,
        levels: &[Arc<Value>],
        schemas: &[Arc<Value>],
        total: u32,
        origin: Instant,
    ) -> Self {
        let configs = level_configs(levels);
        let levels = take_over(before, configs, total, origin);
        let mut made: Vec<Arc<Schema>> = schema_configs(schemas)
            .into_iter()
            .filter_map(|config| {
                let level = levels.get(&config.level)?.clone();
                // What is gone takes no more requests.
                let is_leftover = level.state.lock().is_leftover;
                (!is_leftover).then(|| Schema::new(before, config, level))
            })
            .collect();
        made.sort_by(|a, b| a.config.order().cmp(&b.config.order()));
        let catch_all = made.iter().find(|s| s.config.name == CATCH_ALL);
        let catch_all = catch_all.or(made.last()).cloned();
        Self {
            catch_all: catch_all.unwrap_or_else(|| last_resort(before, total, origin)),
            schemas: made,
            levels,
        }
    }

    pub fn schema_of(&self, asked: &RequestDigest<'_>) -> &Arc<Schema> {
        let found = self.schemas.iter().find(|s| s.config.matches(asked));
        found.unwrap_or(&self.catch_all)
    }

    /// Whether there are levels that are gone and have nothing to do any more.
    pub fn has_leftovers(&self) -> bool {
        self.levels.values().any(|level| {
            let state = level.state.lock();
            state.is_leftover && state.set.is_idle()
        })
    }
}

/// The levels that there are to be: those that can be read, and those that no cluster is without.
fn level_configs(objects: &[Arc<Value>]) -> BTreeMap<String, config::Level> {
    let mut all = BTreeMap::new();
    let given = objects.iter().map(|o| &**o);
    let built_in = defaults::levels();
    let mandatory = built_in.iter().filter(|d| d.is_mandatory);
    for object in given.chain(mandatory.map(|d| &d.value)) {
        match config::Level::read(object) {
            Ok(level) => {
                all.entry(level.name.clone()).or_insert(level);
            }
            Err(why) => {
                let name = object.pointer("/metadata/name");
                tracing::warn!(
                    "the PriorityLevelConfiguration {name:?} is broken, and left out: {why}"
                );
            }
        }
    }
    all
}

fn schema_configs(objects: &[Arc<Value>]) -> Vec<config::Schema> {
    let mut all: Vec<config::Schema> = Vec::new();
    let given = objects.iter().map(|o| &**o);
    let built_in = defaults::schemas();
    let mandatory = built_in.iter().filter(|d| d.is_mandatory);
    for object in given.chain(mandatory.map(|d| &d.value)) {
        match config::Schema::read(object) {
            Ok(schema) if all.iter().all(|s| s.name != schema.name) => all.push(schema),
            Ok(_) => {}
            Err(why) => {
                let name = object.pointer("/metadata/name");
                tracing::warn!("the FlowSchema {name:?} is broken, and left out: {why}");
            }
        }
    }
    all
}

/// The levels of these configurations: those that there were go on, and those that are gone and
/// still have requests stay.
fn take_over(
    before: Option<&Table>,
    mut configs: BTreeMap<String, config::Level>,
    total: u32,
    origin: Instant,
) -> BTreeMap<String, Arc<Level>> {
    let mut leftovers = Vec::new();
    for (name, level) in before.into_iter().flat_map(|t| &t.levels) {
        if !configs.contains_key(name) && !level.state.lock().set.is_idle() {
            configs.insert(name.clone(), level.state.lock().config.clone());
            leftovers.push(name.clone());
        }
    }
    let limits = limits(total, configs.values());
    let mut levels = BTreeMap::new();
    for ((name, config), limits) in configs.into_iter().zip(limits) {
        let known = before.and_then(|t| t.levels.get(&name));
        let level = match known {
            Some(level) => level.clone(),
            None => Level::new(&name, config.clone(), limits, origin),
        };
        level.configure(config, limits, leftovers.contains(&name));
        levels.insert(name, level);
    }
    levels
}

/// A rule when there is none at all, which cannot be: two are built in.
fn last_resort(before: Option<&Table>, total: u32, origin: Instant) -> Arc<Schema> {
    let level = config::Level {
        name: EXEMPT.to_owned(),
        uid: String::new(),
        shares: 0,
        lendable_percent: 0,
        borrowing_limit_percent: None,
        response: Response::Exempt,
    };
    let config = config::Schema {
        name: CATCH_ALL.to_owned(),
        uid: String::new(),
        level: EXEMPT.to_owned(),
        precedence: i32::MAX,
        distinguisher: None,
        rules: Vec::new(),
    };
    let limits = Limits {
        nominal: total,
        least: total,
        most: total,
    };
    Schema::new(before, config, Level::new(EXEMPT, level, limits, origin))
}

impl Schema {
    fn new(before: Option<&Table>, config: config::Schema, level: Arc<Level>) -> Arc<Self> {
        let is_same = |s: &&Arc<Self>| s.config.name == config.name && s.level.name == level.name;
        let known = before.and_then(|t| t.schemas.iter().find(is_same));
        let metrics = known.map_or_else(Arc::default, |s| s.metrics.clone());
        let header =
            |uid: &str| HeaderValue::from_str(uid).unwrap_or_else(|_| HeaderValue::from_static(""));
        let level_uid = header(&level.state.lock().config.uid);
        Arc::new(Self {
            uid: header(&config.uid),
            level_uid,
            config,
            level,
            metrics,
        })
    }
}

impl Level {
    fn new(name: &str, config: config::Level, limits: Limits, origin: Instant) -> Arc<Self> {
        let now: Duration = origin.elapsed();
        Arc::new(Self {
            name: name.to_owned(),
            origin,
            most_seats: AtomicU32::new(1),
            has_flows: AtomicBool::new(false),
            state: Mutex::new(LevelState {
                set: QueueSet::new(config.response, limits.initial(), now),
                config,
                limits,
                demand: Demand::default(),
                target: 0.0,
                retry: RetryAfter::default(),
                is_leftover: false,
                is_armed: false,
            }),
        })
    }

    /// What its object says now; the queues follow when seats are divided.
    fn configure(&self, config: config::Level, limits: Limits, is_leftover: bool) {
        let (hand_size, queues) = match config.response {
            Response::Queue(q) => (q.hand_size, q.queues),
            _ => (0, 0),
        };
        let most = work::most_seats(&limits, hand_size);
        self.most_seats.store(most, Ordering::Relaxed);
        self.has_flows.store(queues > 1, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.config = config;
        state.limits = limits;
        state.is_leftover = is_leftover;
    }

    pub fn most_seats(&self) -> u32 {
        self.most_seats.load(Ordering::Relaxed)
    }

    pub fn has_flows(&self) -> bool {
        self.has_flows.load(Ordering::Relaxed)
    }
}
