//! The shell: watches, asks [`Core`] what to do, binds and reports. Decisions are made one after
//! the other; bindings are many at a time.

mod reports;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Informer, Informers};
use clock::Clock;
use control::Recorder;
use control::events::UnrecordedEvent;
use k8s_openapi::api::core::v1::{Node, Pod as ApiPod};
use kube::Client;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use traces::{Span, Tracer};

use crate::core::{Core, Nomination, Step};
use crate::decide::Profile;
use crate::decision_timings::Timings;
use crate::extenders::http::{self, Lines};
use crate::extenders::{Chosen, Extender, Opinion, Question};
use crate::feeds::{News, follow_all};
use crate::interned::Strings;
use crate::metrics::{Attempt, CoreFigures, METRICS};
use crate::plugins::Write;
use crate::pod::Pod;
use crate::queue::Waits;
use crate::totals;
use crate::write::{
    NotBound, Preemptor, Report, announce, bind, groups, is_gated, is_to_be_asked, publish,
    reference, scheduled_reason, write_all,
};
use reports::Reports;
use words::pod_event;

/// Decisions between two looks at what the informers brought.
const DECISIONS_AT_ONCE: usize = 64;
/// Changes that are taken in at once, so that decisions are not starved.
const CHANGES_AT_ONCE: usize = 4_096;
/// Reports of unschedulable pods that are written at the same time; bindings come first.
const REPORTS_IN_FLIGHT: usize = 16;
/// While more bindings are under way, the events of those that are done wait …
const BINDS_BEFORE_EVENTS: usize = 16;
/// … up to this many, some megabytes.
const EVENTS_HELD: usize = 8_192;
/// Places among the recorder's events that are left to others.
const PLACES_FOR_OTHERS: usize = 200;
/// Until it is looked whether there are places again.
const EVENTS_AGAIN: Duration = Duration::from_millis(10);

/// How to schedule.
pub struct Config {
    /// Each decides about the pods that name its scheduler; the first names the reporter of events.
    pub profiles: Vec<Profile>,
    pub waits: Waits,
    /// Programs outside that have a say; what their files hold has been read.
    pub extenders: Vec<Extender>,
    /// Bindings that are written at the same time.
    pub binds_in_flight: usize,
    /// Where the choice among equal nodes begins; none for a random one.
    pub seed: Option<u64>,
    /// Named in events.
    pub host: String,
    /// Makes spans of how pods got their nodes.
    pub tracer: Tracer,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::default()],
            waits: Waits::default(),
            extenders: Vec::new(),
            // Enough to fill the server's group commits.
            binds_in_flight: 128,
            seed: None,
            host: String::new(),
            tracer: Tracer::default(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the watch of {0} has ended")]
    WatchEnded(&'static str),
    #[error("an extender: {0}")]
    Extender(#[from] client::ConnectError),
}

/// Schedules until `shutdown`. Others in this process may use the informers, too, and they may read
/// as somebody else than `client`.
///
/// # Errors
/// When a cache of what it watches is gone, which no retry mends, or what is said of an extender
/// makes no connection.
pub async fn run(
    informers: &Informers,
    client: Client,
    config: Config,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let pods: Informer<ApiPod> = informers.of();
    let nodes: Informer<Node> = informers.of();
    let synced = async {
        nodes.synced().await;
        pods.synced().await;
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        () = synced => {}
    }
    let recorders = recorders(&client, &config, informers.clock());
    let lines = http::lines(&config.extenders)?;
    let core = Core::new(config.profiles, config.waits);
    let core = core.timed(Timings::by(Instant::now));
    let mut core = core.with_extenders(config.extenders);
    let end = shutdown.child_token();
    let _ended = end.clone().drop_guard();
    let feeds = Feeds {
        news: follow_all(informers, &mut core, end).await,
        pods: pods.subscribe(),
        nodes: nodes.subscribe(),
    };
    let all = pods.clone();
    let _page = metrics::pages::show(totals::PATH, move || totals::page(&all.list()));
    let shell = Shell {
        recorders,
        core,
        shown: CoreFigures::default(),
        client,
        lines,
        pods,
        nodes,
        tasks: JoinSet::new(),
        binds: 0,
        most_binds: config.binds_in_flight.max(1),
        reports: Reports::default(),
        events: VecDeque::new(),
        clock: informers.clock(),
        tracer: config.tracer,
        seed: config.seed.unwrap_or_else(|| informers.random().number()),
        start: Instant::now(),
        shutdown: shutdown.clone(),
    };
    shell.work(feeds).await
}

struct Feeds {
    pods: UnboundedReceiver<Change<ApiPod>>,
    nodes: UnboundedReceiver<Change<Node>>,
    /// All else, which is rare.
    news: mpsc::Receiver<News>,
}

/// The event recorder of each profile, by its scheduler's name.
fn recorders(client: &Client, config: &Config, clock: Clock) -> Vec<(String, Recorder)> {
    let names = config.profiles.iter().map(|p| p.scheduler.clone());
    names
        .map(|name| {
            let recorder = Recorder::new(client.clone(), &name, &config.host, clock);
            (name, recorder)
        })
        .collect()
}

/// The event of a pod that was bound.
struct BoundEvent {
    recorder: Recorder,
    event: UnrecordedEvent,
}

/// What a task did.
enum Done {
    Bound(Box<BoundEvent>),
    /// Of this pod, and why.
    NotBound(Arc<Pod>, NotBound),
    /// What had to be written before a pod is bound.
    Prepared(Arc<str>, Result<(), String>),
    /// Of this pod; where room was made for it, whether all victims were asked to go.
    Reported(Arc<str>, Option<bool>),
    /// What extenders said.
    HeardOfNodes(Result<Opinion, String>),
    HeardOfVictims(Result<Vec<Chosen>, String>),
    /// What has become of a group of pods is written.
    Told,
}

struct Shell {
    core: Core,
    shown: CoreFigures,
    client: Client,
    lines: Lines,
    pods: Informer<ApiPod>,
    nodes: Informer<Node>,
    /// One of each profile, by its scheduler's name.
    recorders: Vec<(String, Recorder)>,
    tasks: JoinSet<Done>,
    binds: usize,
    most_binds: usize,
    reports: Reports,
    /// Of pods that were bound, not recorded yet.
    events: VecDeque<BoundEvent>,
    clock: Clock,
    tracer: Tracer,
    seed: u64,
    start: Instant,
    shutdown: CancellationToken,
}

impl Shell {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn work(mut self, mut feeds: Feeds) -> Result<(), Error> {
        while !self.shutdown.is_cancelled() {
            let more = self.take_in(&mut feeds)?;
            while let Some(done) = self.tasks.try_join_next() {
                self.finished(done);
            }
            let busy = self.decide_some();
            self.send_reports();
            self.record_bound();
            self.tell_of_groups();
            METRICS.binding(self.binds);
            self.shown.update(&mut self.core);
            if more || busy {
                tokio::task::yield_now().await;
            } else {
                self.wait(&mut feeds).await?;
            }
        }
        while let Some(bound) = self.events.pop_front() {
            bound.recorder.record(bound.event);
        }
        // Bindings under way are left to the server: the next start sees what became of them.
        Ok(())
    }

    /// Events of bindings come after bindings: while many are under way they wait, up to a bound; and
    /// they wait where the recorder has no place for them, which would drop them.
    fn record_bound(&mut self) {
        let many = self.binds > BINDS_BEFORE_EVENTS;
        let least = if many { EVENTS_HELD } else { 0 };
        while self.events.len() > least {
            let next = self.events.front().map(|bound| bound.recorder.room());
            if !many && next.is_some_and(|room| room <= PLACES_FOR_OTHERS) {
                return;
            }
            if let Some(bound) = self.events.pop_front() {
                bound.recorder.record(bound.event);
            }
        }
    }

    /// Writes what has become of groups of pods.
    fn tell_of_groups(&mut self) {
        for (group, state) in self.core.take_group_news() {
            let (client, clock) = (self.client.clone(), self.clock);
            self.tasks.spawn(async move {
                groups::publish(&client, &group, state, clock).await;
                Done::Told
            });
        }
    }

    /// Takes in what came; true when there may be more.
    fn take_in(&mut self, feeds: &mut Feeds) -> Result<bool, Error> {
        let mut left = CHANGES_AT_ONCE;
        while left > 0 {
            match feeds.nodes.try_recv() {
                Ok(change) => self.node(&change),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Error::WatchEnded("nodes")),
            }
            left -= 1;
        }
        while left > 0
            && let Ok(change) = feeds.news.try_recv()
        {
            change(&mut self.core);
            left -= 1;
        }
        while left > 0 {
            match feeds.pods.try_recv() {
                Ok(change) => self.pod(&change),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Error::WatchEnded("pods")),
            }
            left -= 1;
        }
        Ok(left == 0)
    }

    fn node(&mut self, change: &Change<Node>) {
        let began = Instant::now();
        let event = match (&change.old, &change.new) {
            (None, _) => "NodeAdd",
            (Some(_), Some(_)) => "NodeUpdate",
            (Some(_), None) => "NodeDelete",
        };
        self.core
            .node_changed(change.old.as_deref(), change.new.as_deref());
        self.shown.handled(event, began.elapsed());
    }
    fn pod(&mut self, change: &Change<ApiPod>) {
        let now = self.now_ms();
        let (old, new) = (change.old.as_deref(), change.new.as_deref());
        let (event, began) = (pod_event(old, new), Instant::now());
        self.core.pod_changed(old, new, now);
        self.shown.handled(event, began.elapsed());
        if let Some(pod) = new.filter(|p| is_gated(p))
            && scheduled_reason(pod) != Some("SchedulingGated")
        {
            self.report_gated(pod);
        }
    }

    fn report_gated(&mut self, pod: &ApiPod) {
        let pod = Arc::new(Pod::read(pod, &mut Strings::default()));
        let gate = self.core.profile(&pod.scheduler).and_then(|p| p.gate(&pod));
        if let Some((_, reason)) = gate {
            self.reports.put(Report {
                pod,
                reason: "SchedulingGated",
                message: reason.texts().collect::<Vec<_>>().join(", "),
                nomination: Nomination::Stays,
                writes: Vec::new(),
            });
        }
    }

    /// Of the profile that decides about a pod.
    fn recorder(&self, pod: &Pod) -> Option<&Recorder> {
        let mut all = self.recorders.iter();
        all.find(|(name, _)| **name == *pod.scheduler)
            .map(|(_, r)| r)
    }

    /// Reports why a pod is not on a node, by an event and in its condition.
    fn report(
        &mut self,
        pod: Arc<Pod>,
        reason: &'static str,
        message: String,
        then: Nomination,
        writes: Vec<Write>,
    ) {
        if let Some(recorder) = self.recorder(&pod) {
            recorder.event(&reference(&pod), true, "FailedScheduling", &message);
        }
        self.reports.put(Report {
            pod,
            reason,
            message,
            nomination: then,
            writes,
        });
    }

    /// Reports that something went wrong with a pod. It looks for a node again: the one that was
    /// published is not its own any more.
    fn failed(&mut self, pod: Arc<Pod>, message: String) {
        self.report(pod, "SchedulerError", message, Nomination::Ends, Vec::new());
    }

    /// Decides about some pods; true when more may be waiting.
    fn decide_some(&mut self) -> bool {
        for _ in 0..DECISIONS_AT_ONCE {
            if self.binds >= self.most_binds {
                return false;
            }
            self.seed = self.seed.wrapping_add(1);
            let (now, began) = (self.now_ms(), Instant::now());
            let step = self.core.step(self.seed, now);
            let took = began.elapsed();
            if step.is_some() {
                METRICS.decided(took);
            }
            match step {
                None => return false,
                Some(Step::Bind { pod, node }) => self.bind(pod, node, began),
                Some(Step::Unschedulable {
                    pod,
                    message,
                    nomination,
                    writes,
                }) => {
                    METRICS.attempted(&pod.scheduler, Attempt::Unschedulable, took);
                    if let Nomination::Begins(room) = &nomination {
                        METRICS.preempts(room.victims.len());
                    }
                    self.report(pod, "Unschedulable", message, nomination, writes);
                }
                Some(Step::Failed { pod, message }) => {
                    METRICS.attempted(&pod.scheduler, Attempt::Error, took);
                    self.failed(pod, message);
                }
                Some(Step::Prepare { pod, node, writes }) => self.prepare(pod, node, writes),
                Some(Step::Ask(question)) => self.ask(question),
            }
        }
        true
    }

    /// Asks the extenders. One of their answers at a time is waited for.
    fn ask(&mut self, question: Question) {
        let (lines, client) = (self.lines.clone(), self.client.clone());
        match question {
            Question::Nodes { pod, nodes } => {
                // One that has just gone fits no pod.
                let found = nodes.iter().filter_map(|name| self.nodes.get("", name));
                let nodes = found.collect();
                self.tasks.spawn(async move {
                    let heard = http::about_nodes(lines, client, pod, nodes).await;
                    Done::HeardOfNodes(heard.map_err(|e| e.to_string()))
                });
            }
            Question::Victims { pod, candidates } => {
                self.tasks.spawn(async move {
                    let heard = http::about_victims(lines, client, pod, candidates).await;
                    Done::HeardOfVictims(heard.map_err(|e| e.to_string()))
                });
            }
        }
    }

    /// Writes what must be there before the pod is bound.
    fn prepare(&mut self, pod: Arc<Pod>, node: Arc<str>, writes: Vec<Write>) {
        self.binds += 1;
        let (client, uid) = (self.client.clone(), pod.uid.clone());
        let clock = self.clock;
        self.tasks.spawn(async move {
            announce(&client, &pod, &node).await;
            let outcome = write_all(&client, &writes, clock).await;
            Done::Prepared(uid, outcome)
        });
    }

    fn bind(&mut self, pod: Arc<Pod>, node: Arc<str>, began: Instant) {
        let Some(recorder) = self.recorder(&pod).cloned() else {
            return;
        };
        self.binds += 1;
        let history = self.core.queue().history(&pod.uid).unwrap_or_default();
        let came = self.start + Duration::from_millis(history.came_ms);
        let (client, lines) = (self.client.clone(), self.lines.clone());
        let span = self.span(&pod, &node, began);
        self.tasks.spawn(async move {
            let asked = Instant::now();
            let binding = bind(&client, &lines, &pod, &node);
            let outcome = match span {
                None => binding.await,
                Some(span) => {
                    let outcome = span.over(Box::pin(binding)).await;
                    if outcome.is_err() {
                        span.failed("it was not bound");
                    }
                    outcome
                }
            };
            let came_of_it = match &outcome {
                Ok(()) => Attempt::Scheduled,
                Err(_) => Attempt::Error,
            };
            METRICS.asked_to_bind(&pod.scheduler, outcome.is_ok(), asked.elapsed());
            METRICS.attempted(&pod.scheduler, came_of_it, began.elapsed());
            if let Err(why) = outcome {
                Done::NotBound(pod, why)
            } else {
                METRICS.bound(history.tries, came.elapsed(), history.was_flushed);
                let text = format!(
                    "Successfully assigned {}/{} to {node}",
                    pod.namespace, pod.name
                );
                let event = recorder.now(&reference(&pod), false, "Scheduled", &text);
                Done::Bound(Box::new(BoundEvent { recorder, event }))
            }
        });
    }

    /// From the decision on; a part of the pod's own trace.
    fn span(&self, pod: &Pod, node: &str, began: Instant) -> Option<Span> {
        let now = self.clock.now();
        let since = now.checked_sub(began.elapsed()).unwrap_or(now);
        let span = self.tracer.work_for("Scheduling", &pod.uid, since)?;
        span.set("k8s.pod.uid", pod.uid.to_string());
        span.set("k8s.pod.name", pod.name.to_string());
        span.set("k8s.namespace.name", pod.namespace.to_string());
        span.set("k8s.node.name", node.to_owned());
        Some(span)
    }

    fn send_reports(&mut self) {
        while self.reports.in_flight < REPORTS_IN_FLIGHT {
            let Some(mut report) = self.reports.next() else {
                return;
            };
            if let Nomination::Begins(room) = &mut report.nomination {
                // Others of the node may have asked the same pod, while this report waited.
                let pods = &self.pods;
                let stays = |v: &Arc<Pod>| is_to_be_asked(v, pods.get(&v.namespace, &v.name));
                room.victims.retain(stays);
            }
            let current = self.pods.get(&report.pod.namespace, &report.pod.name);
            let Some(recorder) = self.recorder(&report.pod).cloned() else {
                continue;
            };
            let client = self.client.clone();
            self.reports.in_flight += 1;
            self.tasks.spawn(async move {
                publish(&client, recorder.clock(), &report, current.as_deref()).await;
                if let Err(e) = write_all(&client, &report.writes, recorder.clock()).await {
                    tracing::debug!("{}/{}: {e}", report.pod.namespace, report.pod.name);
                }
                let mut all = None;
                if let Nomination::Begins(room) = &report.nomination {
                    let preemptor = Preemptor {
                        client: &client,
                        recorder: &recorder,
                        pod: &report.pod,
                    };
                    all = Some(preemptor.make_room(room).await);
                }
                Done::Reported(report.pod.uid.clone(), all)
            });
        }
    }

    fn finished(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Bound(event)) => {
                self.binds = self.binds.saturating_sub(1);
                self.events.push_back(*event);
            }
            Ok(Done::NotBound(pod, why)) => {
                self.binds = self.binds.saturating_sub(1);
                let now = self.now_ms();
                self.core.not_bound(&pod.uid, now);
                // Of one that has gone meanwhile nobody needs to hear.
                let waits = self.core.queue().contains(&pod.uid);
                if let Some(why) = why.filter(|_| waits) {
                    self.failed(pod, why);
                }
            }
            Ok(Done::Prepared(uid, outcome)) => {
                self.binds = self.binds.saturating_sub(1);
                let now = self.now_ms();
                self.core.prepared(&uid, outcome, now);
            }
            Ok(Done::HeardOfNodes(heard)) => {
                let now = self.now_ms();
                self.core.heard_of_nodes(heard, now);
            }
            Ok(Done::HeardOfVictims(heard)) => {
                let now = self.now_ms();
                self.core.heard_of_victims(heard, now);
            }
            Ok(Done::Reported(uid, room)) => {
                self.reports.in_flight = self.reports.in_flight.saturating_sub(1);
                if let Some(all) = room {
                    let now = self.now_ms();
                    self.core.made_room(&uid, all, now);
                }
            }
            Ok(Done::Told) => {}
            Err(e) => tracing::error!("a task of the scheduler failed: {e}"),
        }
    }

    /// Sleeps until something happens.
    async fn wait(&mut self, feeds: &mut Feeds) -> Result<(), Error> {
        // While all bindings are under way a pod that waits is not a reason to wake.
        let due = self
            .core
            .next_due_ms()
            .filter(|_| self.binds < self.most_binds);
        let at = due.map(|ms| self.start + Duration::from_millis(ms));
        let can_record = !self.events.is_empty() && self.binds <= BINDS_BEFORE_EVENTS;
        let again = can_record.then(|| Instant::now() + EVENTS_AGAIN);
        let at = at.into_iter().chain(again).min();
        let sleep = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => {}
            () = sleep => {}
            Some(done) = self.tasks.join_next() => self.finished(done),
            change = feeds.nodes.recv() => self.node(&change.ok_or(Error::WatchEnded("nodes"))?),
            change = feeds.pods.recv() => self.pod(&change.ok_or(Error::WatchEnded("pods"))?),
            Some(change) = feeds.news.recv() => change(&mut self.core),
        }
        Ok(())
    }
}
