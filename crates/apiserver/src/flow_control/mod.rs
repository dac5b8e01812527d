//! API priority and fairness: each request takes seats of a priority level while it runs, waits in
//! line for them, or is sent away. What is decided is the crate `flowcontrol`; here it is given the
//! time, and whoever waits is woken. A request that finds a seat takes one short lock when it comes
//! and one when it goes.
//!
//! The rules are those FlowSchemas and PriorityLevelConfigurations that the cache has; they are
//! compiled by the first request after a change. Those that a cluster cannot be without hold also
//! when their objects are missing.

mod dump;
mod estimate;
mod metrics;
mod table;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use access::UserInfo;
use api::Status;
use clock::{Clock, Instant};
use flowcontrol::config::{Distinguisher, Response};
use flowcontrol::levels::{self, PERIOD};
use flowcontrol::matching::RequestDigest;
use flowcontrol::queues::{Granted, Refusal, Running, Start, Ticket};
use flowcontrol::work::Work;
use http::header::{HeaderMap, HeaderName};
use parking_lot::MutexGuard;
use tokio::sync::oneshot;

use crate::configuration_objects::{Compiled, Configurations};
use crate::http::request::RequestInfo;
use crate::settings::Settings;
pub use estimate::{Estimate, estimate};
use table::{Details, Level, LevelState, Schema, Table};

/// How long a request waits for a seat: a quarter of the time that it has in all; as upstream.
const WAIT: Duration = Duration::from_secs(15);
const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// The priority levels of this server and the requests in them.
pub struct FlowControl {
    /// Seats of the server.
    total: u32,
    clock: Clock,
    origin: Instant,
    /// So that nobody outside knows which flows share queues.
    seed: u64,
    compiled: Compiled<Table>,
    /// Counts reasons to compile again beside changed objects.
    again: AtomicU64,
    in_flight: InFlight,
    /// The bits of the part of its target that a level has which no bound holds.
    fair_part: AtomicU64,
}

/// Requests that run and that wait, reads and writes.
#[derive(Default)]
struct InFlight {
    executing: [AtomicI64; 2],
    waiting: [AtomicI64; 2],
}

/// What a request gets.
pub enum Entry {
    /// It takes no seat: it lasts as long as its client wants.
    Free,
    /// To be dropped when it has ended.
    Seat(Seat),
    Refused(Refused),
}

/// A request that is sent away.
pub struct Refused {
    pub status: Status,
    schema: Arc<Schema>,
}

/// A place among those that run; given back when it is dropped.
pub struct Seat {
    level: Arc<Level>,
    schema: Arc<Schema>,
    control: Arc<FlowControl>,
    running: Option<Running>,
    started: Duration,
    work: Work,
    kind: RequestKind,
}

/// What figures distinguish requests by.
#[derive(Clone, Copy)]
struct RequestKind {
    is_read: bool,
    is_watch: bool,
}

impl RequestKind {
    fn of(info: &RequestInfo) -> Self {
        Self {
            is_read: matches!(&*info.verb, "get" | "list" | "watch" | "head" | "options"),
            is_watch: info.verb == "watch",
        }
    }
    /// The place of the request's figures.
    fn nth(self) -> usize {
        usize::from(self.is_read)
    }
}

fn add(to: &[AtomicI64; 2], kind: RequestKind, n: i64) {
    if let Some(count) = to.get(kind.nth()) {
        count.fetch_add(n, Ordering::Relaxed);
    }
}

impl FlowControl {
    pub fn new(settings: &Settings) -> Arc<Self> {
        let total = settings.max_reads.saturating_add(settings.max_writes);
        Arc::new(Self {
            total: total.max(1),
            clock: settings.clock,
            origin: Instant::now(),
            seed: settings.random.fork().number(),
            compiled: Compiled::default(),
            again: AtomicU64::new(0),
            in_flight: InFlight::default(),
            fair_part: AtomicU64::new(0),
        })
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// The rules of this moment.
    fn table(&self, objects: &Configurations) -> Arc<(u64, Table)> {
        let change = objects.flow_schemas.change()
            + objects.priority_levels.change()
            + self.again.load(Ordering::Acquire);
        self.compiled.get(change, |before| {
            let now = self.now();
            let table = Table::digest(
                before,
                &objects.priority_levels.all(),
                &objects.flow_schemas.all(),
                self.total,
                self.origin,
            );
            self.divide(&table, now);
            table
        })
    }

    /// Takes seats for a request, which may wait for them. `cost` says what it costs, when one
    /// request of its level may take so many seats.
    pub async fn enter(
        self: &Arc<Self>,
        objects: &Configurations,
        user: &UserInfo,
        info: &RequestInfo,
        cost: impl FnOnce(u32) -> Estimate,
    ) -> Entry {
        let kind = RequestKind::of(info);
        if info.long_running() && !kind.is_watch {
            return Entry::Free;
        }
        let in_line = match self.come(objects, user, info, kind, cost) {
            Ok(entry) => return entry,
            Err(in_line) => in_line,
        };
        in_line.wait().await
    }

    /// [`FlowControl::enter`], up to where it waits.
    fn come(
        self: &Arc<Self>,
        objects: &Configurations,
        user: &UserInfo,
        info: &RequestInfo,
        kind: RequestKind,
        cost: impl FnOnce(u32) -> Estimate,
    ) -> Result<Entry, InLine> {
        let now = self.now();
        let table = self.table(objects);
        let schema = table.1.schema_of(&asked(user, info)).clone();
        let level = schema.level.clone();
        let metrics = &schema.metrics;
        let estimate = cost(level.most_seats());
        let work = estimate.work;
        if let Some(watchers) = estimate.watchers {
            metrics.watchers.observe(watchers as u64);
        }
        metrics.seats.observe(u64::from(work.seats()));
        let flow = self.flow(&schema, user, info);
        let details = Details::new(&schema, user, info);
        let mut told = None;
        let waiter = || {
            let (sender, receiver) = oneshot::channel();
            told = Some(receiver);
            sender
        };
        let mut state = level.state.lock();
        let (start, granted) = state.set.start(now, flow, work, details, waiter);
        level.deliver(&mut state, now, granted);
        match start {
            Start::Run(running) => {
                drop(state);
                metrics.waited(Duration::ZERO, true);
                Ok(Entry::Seat(self.seat(schema, running, now, work, kind)))
            }
            Start::Wait(ticket) => {
                metrics
                    .queue_length
                    .observe(state.set.length(ticket) as u64);
                level.arm(&mut state);
                drop(state);
                metrics.in_queue(1, work);
                add(&self.in_flight.waiting, kind, 1);
                Err(InLine {
                    control: self.clone(),
                    schema,
                    told,
                    ticket: Some(ticket),
                    since: now,
                    work,
                    kind,
                })
            }
            Start::Refuse(why) => {
                let why = match why {
                    Refusal::ConcurrencyLimit => Why::ConcurrencyLimit,
                    Refusal::QueueFull => Why::QueueFull,
                };
                let entry = refuse(&mut state, &schema, now, Duration::ZERO, why);
                Ok(entry)
            }
        }
    }

    fn seat(
        self: &Arc<Self>,
        schema: Arc<Schema>,
        running: Running,
        now: Duration,
        work: Work,
        kind: RequestKind,
    ) -> Seat {
        schema.metrics.executes(1, work);
        add(&self.in_flight.executing, kind, 1);
        Seat {
            level: schema.level.clone(),
            schema,
            control: self.clone(),
            running: Some(running),
            started: now,
            work,
            kind,
        }
    }

    /// The number of a request's flow.
    fn flow(&self, schema: &Schema, user: &UserInfo, info: &RequestInfo) -> u64 {
        if !schema.level.has_flows() {
            return 0;
        }
        let mut hash = DefaultHasher::new();
        hash.write_u64(self.seed);
        hash.write(schema.config.name.as_bytes());
        hash.write_u8(0);
        let by = match schema.config.distinguisher {
            Some(Distinguisher::ByUser) => &*user.name,
            Some(Distinguisher::ByNamespace) => &*info.namespace,
            None => "",
        };
        hash.write(by.as_bytes());
        hash.finish()
    }

    /// Lends seats and takes them back, without end.
    pub async fn keep(self: &Arc<Self>, objects: &Configurations) {
        loop {
            tokio::time::sleep(PERIOD).await;
            let table = self.table(objects);
            self.divide(&table.1, self.now());
            if table.1.has_leftovers() {
                self.again.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Divides the seats by what levels could use since the last time.
    fn divide(&self, table: &Table, now: Duration) {
        let state = |level: &Arc<Level>| {
            let mut state = level.state.lock();
            let seen = state.set.take_demand(now);
            state.demand.update(seen);
            levels::State {
                limits: state.limits,
                demand: state.demand,
                is_exempt: state.config.response == Response::Exempt,
            }
        };
        let states: Vec<levels::State> = table.levels.values().map(state).collect();
        let (seats, part) = levels::adjust(&states);
        self.fair_part.store(part.to_bits(), Ordering::Relaxed);
        let targets = states.iter().map(levels::State::target);
        for ((level, seats), target) in table.levels.values().zip(seats).zip(targets) {
            let mut state = level.state.lock();
            state.target = target;
            let response = state.config.response;
            let granted = state.set.configure(now, response, seats);
            level.deliver(&mut state, now, granted);
        }
    }
}

fn asked<'a>(user: &'a UserInfo, info: &'a RequestInfo) -> RequestDigest<'a> {
    RequestDigest {
        user: &user.name,
        groups: &user.groups,
        verb: &info.verb,
        is_resource: info.is_resource,
        group: &info.group,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        path: &info.path,
    }
}

/// Why a request is sent away, in upstream's words.
#[derive(Clone, Copy)]
enum Why {
    ConcurrencyLimit,
    QueueFull,
    TimeOut,
}

fn refuse(
    state: &mut MutexGuard<'_, LevelState>,
    schema: &Arc<Schema>,
    now: Duration,
    waited: Duration,
    why: Why,
) -> Entry {
    schema.metrics.waited(waited, false);
    schema.metrics.rejected(why);
    let seconds = state.retry.refuse(now.as_secs());
    Entry::Refused(Refused {
        status: Status::too_many_requests(
            "Too many requests, please try again later.",
            u32::try_from(seconds).unwrap_or(u32::MAX),
        ),
        schema: schema.clone(),
    })
}

impl Entry {
    /// Says in an answer which rules its request came under; nothing of one that takes no seat.
    pub fn mark(&self, headers: &mut HeaderMap) {
        let schema = match self {
            Self::Free => return,
            Self::Seat(seat) => &seat.schema,
            Self::Refused(refused) => &refused.schema,
        };
        headers.insert(SCHEMA_HEADER, schema.uid.clone());
        headers.insert(LEVEL_HEADER, schema.level_uid.clone());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        let now = self.control.now();
        let took = now.saturating_sub(self.started);
        let mut state = self.level.state.lock();
        let granted = state.set.finish(now, running);
        self.level.deliver(&mut state, now, granted);
        self.level.arm(&mut state);
        drop(state);
        let metrics = &self.schema.metrics;
        metrics.executes(-1, self.work);
        metrics.executed(took, self.kind.is_watch);
        add(&self.control.in_flight.executing, self.kind, -1);
    }
}

/// A request that waits for a seat. When it is dropped it does not wait any more.
struct InLine {
    control: Arc<FlowControl>,
    schema: Arc<Schema>,
    told: Option<oneshot::Receiver<Running>>,
    ticket: Option<Ticket>,
    since: Duration,
    work: Work,
    kind: RequestKind,
}

impl InLine {
    async fn wait(mut self) -> Entry {
        let Some(told) = self.told.as_mut() else {
            return self.leave();
        };
        match tokio::time::timeout(WAIT, told).await {
            Ok(Ok(running)) => self.granted(running),
            _ => self.leave(),
        }
    }

    fn granted(&mut self, running: Running) -> Entry {
        self.ticket = None;
        self.told = None;
        let now = self.control.now();
        let waited = now.saturating_sub(self.since);
        self.schema.metrics.waited(waited, true);
        let control = &self.control;
        Entry::Seat(control.seat(self.schema.clone(), running, now, self.work, self.kind))
    }

    /// Gives up, unless it has been granted meanwhile.
    fn leave(&mut self) -> Entry {
        let now = self.control.now();
        let level = self.schema.level.clone();
        let mut state = level.state.lock();
        if let Some(ticket) = self.ticket.take() {
            let (_, granted) = state.set.cancel(now, ticket);
            level.deliver(&mut state, now, granted);
        }
        // What was granted was handed over under the lock.
        let running = self.told.take().and_then(|mut told| told.try_recv().ok());
        if let Some(running) = running {
            drop(state);
            return self.granted(running);
        }
        let waited = now.saturating_sub(self.since);
        refuse(&mut state, &self.schema, now, waited, Why::TimeOut)
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            // Its client has gone. A seat that it has been given meanwhile is given back.
            drop(self.leave());
        }
        self.schema.metrics.in_queue(-1, self.work);
        add(&self.control.in_flight.waiting, self.kind, -1);
    }
}

impl Level {
    /// Tells those that may run. A seat of one that is gone goes to the next.
    fn deliver(
        &self,
        state: &mut MutexGuard<'_, LevelState>,
        now: Duration,
        granted: Granted<oneshot::Sender<Running>>,
    ) {
        let mut granted = VecDeque::from(granted);
        while let Some((waiter, running)) = granted.pop_front() {
            if let Err(running) = waiter.send(running) {
                granted.extend(state.set.finish(now, running));
            }
        }
    }

    /// Sees to it that somebody looks when something that waits may run by time alone.
    fn arm(self: &Arc<Self>, state: &mut MutexGuard<'_, LevelState>) {
        if state.is_armed {
            return;
        }
        let Some(at) = state.set.wakes_at() else {
            return;
        };
        // Without a runtime nobody waits.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        state.is_armed = true;
        let level = self.clone();
        runtime.spawn(async move {
            tokio::time::sleep_until(level.origin + at).await;
            let now = level.origin.elapsed();
            let mut state = level.state.lock();
            state.is_armed = false;
            let granted = state.set.pass(now);
            level.deliver(&mut state, now, granted);
            level.arm(&mut state);
        });
    }
}

#[cfg(test)]
mod tests;
