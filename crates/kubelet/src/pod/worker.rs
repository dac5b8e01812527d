//! The task of one pod: looks at the runtime, takes a step, does what the step asks for,
//! publishes the status, waits for a reason to look again.

use super::accounts::Need;
use super::admit;
use super::allocation::Allocation;
use super::backoff::Backoff;
use super::deps::Deps;
use super::fit;
use super::handle::{Desired, Handle, Life, Snapshot};
use super::plan::{Effect, Outcome};
use super::publish::Publisher;
use super::resize::Resize;
use super::seen::{self, Ended, Run, Seen};
use super::spec;
use super::stage::{Input, Stage, Why, step};
use super::status::{View, is_own_condition, status_of};
use crate::objects::{self, Held};
use crate::probes::Board;
use crate::volumes::Mounted;
use arc_swap::ArcSwap;
use host::cgroup::Limits;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Between tries when the runtime does not answer.
const RUNTIME_RETRY: Duration = Duration::from_secs(1);
/// Volumes from objects and tokens are looked at this often; changes come by events before.
const REFRESH: SignedDuration = SignedDuration::from_secs(60);

/// Starts the task of a pod.
#[must_use]
pub fn start(deps: Arc<Deps>, pod: Arc<Pod>) -> Handle {
    note_kept(&deps, &pod);
    let (desired, receiver) = watch::channel(Desired {
        pod: pod.clone(),
        gone: false,
        end: None,
    });
    let poke = Arc::new(Notify::new());
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot {
        pod: pod.clone(),
        ..Default::default()
    }));
    let board = Board::new(poke.clone());
    let objects_changed = board.changed_flag();
    let exits = Arc::<Mutex<HashSet<String>>>::default();
    let worker = Worker {
        exits: exits.clone(),
        looks: 0,
        backoff: Backoff::new(
            deps.config.crash_backoff_initial,
            deps.config.crash_backoff_max,
        ),
        publisher: Publisher::start(deps.client.clone(), &pod, receiver.clone()),
        board,
        stage: first_stage(&pod),
        start_time: Timestamp::now(),
        ended: Ended::new(),
        waiting: HashMap::new(),
        mounted: Mounted::new(),
        refreshed: None,
        prepared: false,
        objects_changed: false,
        admitted: false,
        allocation: None,
        group_limits: None,
        resize: Resize::default(),
        held: Vec::new(),
        life: Life::default(),
        desired: receiver,
        poke: poke.clone(),
        snapshot: snapshot.clone(),
        deps,
    };
    Handle {
        desired,
        poke,
        exits,
        objects_changed,
        snapshot,
        task: tokio::spawn(worker.run()),
    }
}

/// A pod that an earlier kubelet took has what it was given before any new one is looked at.
fn note_kept(deps: &Deps, pod: &Pod) {
    let kept = Allocation::load(&deps.config.pod_dir(spec::uid(pod)));
    if let Some(kept) = kept.filter(|_| told_outcome(pod).is_none()) {
        let has = Need::of(&kept.applied(pod));
        deps.accounts.note(spec::uid(pod), has);
    }
}

/// A pod that the node does not take fails at once.
fn refused(refusal: admit::Refusal) -> Input {
    Input::End {
        why: Why::Failed {
            reason: refusal.reason,
            message: format!("Pod was rejected: {}", refusal.message),
        },
        grace_seconds: 0,
    }
}

/// A pod that the API calls ended does not start again.
fn first_stage(pod: &Pod) -> Stage {
    told_outcome(pod).map_or(Stage::Running, |outcome| {
        Stage::Finished(Why::Completed(outcome))
    })
}

/// The end that the API tells.
fn told_outcome(pod: &Pod) -> Option<Outcome> {
    match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        Some("Succeeded") => Some(Outcome::Succeeded),
        Some("Failed") => Some(Outcome::Failed),
        _ => None,
    }
}

/// How a round of effects went.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Something was done: look again at once.
    pub did: bool,
    /// Look again at this time.
    pub wake_at: Option<Timestamp>,
    /// Nothing is left.
    pub finished: bool,
}

impl Progress {
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |old| old.min(at)));
    }

    pub(super) fn retry_in(&mut self, seconds: i64) {
        if let Ok(at) = Timestamp::now().checked_add(SignedDuration::from_secs(seconds)) {
            self.wake(at);
        }
    }
}

pub(super) struct Worker {
    pub(super) deps: Arc<Deps>,
    desired: watch::Receiver<Desired>,
    poke: Arc<Notify>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) publisher: Publisher,
    pub(super) board: Board,
    stage: Stage,
    pub(super) backoff: Backoff,
    start_time: Timestamp,
    exits: Arc<Mutex<HashSet<String>>>,
    /// Looks in a row that did not show an end that was told.
    looks: u32,
    ended: Ended,
    pub(super) waiting: HashMap<String, (String, String)>,
    pub(super) mounted: Mounted,
    pub(super) refreshed: Option<Timestamp>,
    pub(super) prepared: bool,
    /// An object that the pod uses changed, and volumes do not show it yet.
    pub(super) objects_changed: bool,
    /// The node took the pod.
    admitted: bool,
    /// What the pod was given.
    pub(super) allocation: Option<Allocation>,
    /// The limits of its group, once this kubelet set them.
    pub(super) group_limits: Option<Limits>,
    pub(super) resize: Resize,
    held: Vec<Arc<Held>>,
    life: Life,
}

impl Worker {
    async fn run(mut self) {
        loop {
            let desired = self.desired.borrow_and_update().clone();
            let pod = self.with_own_status(&desired.pod);
            self.hold_objects(&pod);
            let uid = spec::uid(&pod).to_owned();
            let seen = match seen::observe(&*self.deps.runtime, &uid, &mut self.ended).await {
                Ok(seen) => seen,
                Err(e) => {
                    tracing::debug!(pod = spec::full_name(&pod), error = %e, "the runtime does not answer");
                    tokio::time::sleep(RUNTIME_RETRY).await;
                    continue;
                }
            };
            self.note_owners(&uid, &seen);
            let now = Timestamp::now();
            let mut input = self.input(&desired, &pod, now);
            if input == Input::Sync {
                match self.admit(&pod, &seen).await {
                    Ok(Ok(())) => {}
                    Ok(Err(refusal)) => input = refused(refusal),
                    Err(text) => {
                        tracing::debug!(
                            pod = spec::full_name(&pod),
                            error = text,
                            "whether the node can take the pod is not known yet"
                        );
                        tokio::time::sleep(RUNTIME_RETRY).await;
                        continue;
                    }
                }
            }
            let pod = self.allocate(&pod, &seen);
            self.board.follow(&self.deps, &pod, &seen);
            if self.board.take_changed() {
                self.objects_changed = true;
                self.backoff.let_go();
            }
            let mut facts = self.board.facts();
            facts.given = self.given();
            facts.group = self.group_limits;
            let (stage, effects) = step(
                self.stage.clone(),
                &pod,
                &seen,
                &facts,
                &self.backoff,
                input,
                now,
            );
            if stage != self.stage {
                tracing::debug!(pod = spec::full_name(&pod), from = ?self.stage, to = ?stage, "next stage");
            }
            self.stage = stage;
            if self.stage.is_over() {
                // Before anybody hears of it, and sends the next pod.
                self.deps.accounts.forget(&uid);
            }
            if self.stage.why().is_some() {
                self.board.stop_restarts();
            }
            self.note_waits(&pod, &seen, &effects);
            self.publish(&pod, &seen, now);
            let mut progress = self.execute(&desired, &pod, &seen, effects).await;
            if progress.finished {
                return;
            }
            if progress.did {
                continue;
            }
            self.keep_up(&pod, &seen, &mut progress).await;
            self.retry_resize(&mut progress);
            self.publish(&pod, &seen, Timestamp::now());
            self.wait(&pod, progress).await;
        }
    }

    /// Notes ids, and forgets ends that the runtime shows by now.
    fn note_owners(&mut self, uid: &str, seen: &Seen) {
        let containers = seen.containers.iter().map(|c| &c.id);
        for id in containers.chain(seen.sandboxes.iter().map(|s| &s.id)) {
            self.deps.owners.note(id, uid);
        }
        let mut exits = self.exits.lock();
        exits.retain(|id| {
            seen.alive().any(|c| &c.id == id)
                || seen.sandboxes.iter().any(|s| s.ready && &s.id == id)
        });
        self.looks = if exits.is_empty() { 0 } else { self.looks + 1 };
    }

    /// The API's object, with what this kubelet published last where the API's answer has not
    /// come back yet.
    fn with_own_status(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        let Some(own) = self.publisher.last() else {
            return pod.clone();
        };
        let mut merged = Pod::clone(pod);
        let status = merged.status.get_or_insert_default();
        let mut conditions = own.conditions.clone().unwrap_or_default();
        let foreign = status.conditions.take().unwrap_or_default();
        conditions.retain(|c| is_own_condition(&c.type_));
        conditions.extend(foreign.into_iter().filter(|c| !is_own_condition(&c.type_)));
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        *status = PodStatus {
            conditions: Some(conditions),
            phase: if over {
                status.phase.take()
            } else {
                own.phase.clone()
            },
            reason: own.reason.clone().or(status.reason.take().filter(|_| over)),
            message: own
                .message
                .clone()
                .or(status.message.take().filter(|_| over)),
            ..PodStatus::clone(&own)
        };
        Arc::new(merged)
    }

    fn hold_objects(&mut self, pod: &Pod) {
        if self.held.is_empty() && !self.stage.is_over() {
            let keys = objects::of_pod(pod);
            self.held = keys.iter().map(|key| self.deps.objects.hold(key)).collect();
        }
    }

    /// Whether the node takes the pod: asked once, before anything of it is made.
    async fn admit(
        &mut self,
        pod: &Arc<Pod>,
        seen: &Seen,
    ) -> Result<Result<(), admit::Refusal>, String> {
        if self.admitted {
            return Ok(Ok(()));
        }
        let began = !seen.sandboxes.is_empty() || !seen.containers.is_empty();
        if began || self.stage != Stage::Running {
            // It has what it has, whatever it was noted with before.
            self.admitted = true;
            if Allocation::load(&self.deps.config.pod_dir(spec::uid(pod))).is_none() {
                self.deps.accounts.note(spec::uid(pod), Need::of(pod));
            }
            return Ok(Ok(()));
        }
        let answer = self.judge(pod).await?;
        match &answer {
            Ok(()) => self.admitted = true,
            Err(refusal) => {
                let warning = crate::events::Severity::Warning;
                let (recorder, text) = (&self.deps.recorder, refusal.message.clone());
                recorder.pod(pod, None, warning, &refusal.reason, text);
            }
        }
        Ok(answer)
    }

    /// What is against a pod that comes. An error: that cannot be said now.
    async fn judge(&self, pod: &Pod) -> Result<Result<(), admit::Refusal>, String> {
        let deps = &self.deps;
        let strict_groups = admit::asks_the_runtime(pod)
            && deps
                .runtime
                .health()
                .await
                .map_err(|e| e.to_string())?
                .strict_groups;
        let can = admit::Abilities {
            sysctls: &deps.config.allowed_unsafe_sysctls,
            app_armor: deps.app_armor,
            strict_groups,
        };
        let pressure = deps.pressure.lock().clone();
        let first = fit::under_pressure(pod, &pressure).and_then(|()| admit::check(pod, can));
        if first.is_err() {
            return Ok(first);
        }
        let mut listed = deps.listed.subscribe();
        listed.wait_for(|l| *l).await.map_err(|e| e.to_string())?;
        let mut node = deps.node.get().await.map_err(|e| e.to_string())?;
        if !fit::is_wanted(pod, &node) {
            // Its labels may have changed a moment ago.
            node = deps.node.ask().await.map_err(|e| e.to_string())?;
        }
        let has = deps.resources.table(&node);
        let (uid, need) = (spec::uid(pod), Need::of(pod));
        let welcome = fit::is_welcome(pod, &node);
        let room = deps.accounts.admit(uid, need.clone(), &has, welcome);
        let answer = fit::check(pod, &node, room);
        if answer.is_ok() {
            deps.accounts.note(uid, need);
        }
        Ok(answer)
    }

    /// Whether the node took the pod.
    pub(super) fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// Whether the pod is ending, or has ended.
    pub(super) fn ends(&self) -> bool {
        self.stage.why().is_some()
    }

    fn input(&self, desired: &Desired, pod: &Pod, now: Timestamp) -> Input {
        if desired.gone || pod.metadata.deletion_timestamp.is_some() {
            return Input::End {
                why: Why::Deleted,
                grace_seconds: spec::grace_seconds(pod),
            };
        }
        if let Some(end) = &desired.end {
            let why = Why::Failed {
                reason: end.reason.clone(),
                message: end.message.clone(),
            };
            return Input::End {
                why,
                grace_seconds: end.grace_seconds,
            };
        }
        if self.stage == Stage::Running
            && let Some(outcome) = told_outcome(&desired.pod)
        {
            // Somebody else ended it, such as the pod garbage collector.
            return Input::End {
                why: Why::Completed(outcome),
                grace_seconds: spec::grace_seconds(pod),
            };
        }
        if self.stage == Stage::Running && deadline(pod).is_some_and(|at| at <= now) {
            let why = Why::Failed {
                reason: "DeadlineExceeded".into(),
                message: "Pod was active on the node longer than the specified deadline".into(),
            };
            return Input::End {
                why,
                grace_seconds: spec::grace_seconds(pod),
            };
        }
        Input::Sync
    }

    /// Why containers wait, as far as the plan says it.
    fn note_waits(&mut self, pod: &Pod, seen: &Seen, effects: &[Effect]) {
        self.waiting
            .retain(|name, _| seen.newest(name).is_none_or(|c| c.run != Run::Running));
        for effect in effects {
            if let Effect::BackOff { name, message } = effect {
                let why = ("CrashLoopBackOff".to_owned(), message.clone());
                if self.waiting.insert(name.clone(), why.clone()) != Some(why) {
                    let text = format!(
                        "Back-off restarting failed container {name} in pod {}",
                        spec::full_name(pod)
                    );
                    let warning = crate::events::Severity::Warning;
                    self.deps
                        .recorder
                        .pod(pod, Some(name), warning, "BackOff", text);
                }
            }
        }
    }

    fn publish(&mut self, pod: &Arc<Pod>, seen: &Seen, now: Timestamp) {
        let facts = self.board.facts();
        let host_ip = self.deps.config.node_ip.to_string();
        let view = View {
            stage: &self.stage,
            facts: &facts,
            waiting: &self.waiting,
            host_ip: &host_ip,
            start_time: self.start_time,
            resize: &self.resize,
        };
        // What ended before this kubelet started is told already, and better.
        let told =
            self.stage.is_over() && spec::is_terminal(pod) && self.publisher.last().is_none();
        let mut shown = pod.clone();
        if !told {
            let status = status_of(pod, seen, &view, now);
            let mut changed = Pod::clone(pod);
            changed.status = Some(status.clone());
            shown = Arc::new(changed);
            self.publisher.publish(status);
        }
        self.snapshot.store(Arc::new(Snapshot {
            pod: shown,
            seen: Arc::new(seen.clone()),
            over: self.stage.is_over(),
            life: self
                .life
                .follow(seen.ready_sandbox().map(|s| s.id.as_str())),
        }));
    }

    async fn execute(
        &mut self,
        desired: &Desired,
        pod: &Arc<Pod>,
        seen: &Seen,
        effects: Vec<Effect>,
    ) -> Progress {
        let (kills, rest): (Vec<_>, Vec<_>) = effects
            .into_iter()
            .partition(|e| matches!(e, Effect::Kill(_)));
        let mut progress = Progress::default();
        if !kills.is_empty() {
            let urgency = desired.urgency();
            let mut watch = self.desired.clone();
            let killing = super::kill::all(&self.deps, pod, seen, kills);
            progress.did = tokio::select! {
                all_down = killing => all_down,
                () = until(&mut watch, |d| d.urgency() < urgency) => true,
            };
            if !progress.did {
                progress.retry_in(1);
            }
            if !rest.iter().any(|e| matches!(e, Effect::Start { .. })) || !progress.did {
                return progress;
            }
        }
        let may_be_interrupted = self.stage == Stage::Running;
        let mut watch = self.desired.clone();
        let doing = self.do_all(desired, pod, seen, rest, &mut progress);
        if may_be_interrupted {
            tokio::select! {
                () = doing => {}
                () = until(&mut watch, Desired::must_end) => return Progress { did: true, ..Default::default() },
            }
        } else {
            doing.await;
        }
        progress
    }

    /// What goes on while nothing has to be done: fresh volumes, fewer dead containers, and
    /// the times at which to look again.
    async fn keep_up(&mut self, pod: &Arc<Pod>, seen: &Seen, progress: &mut Progress) {
        if self.stage == Stage::Running && seen.ready_sandbox().is_some() {
            self.refresh_volumes(pod, seen, progress).await;
            if let Some(at) = deadline(pod) {
                progress.wake(at);
            }
        }
        self.remove_old(seen).await;
    }

    /// Keeps the newest two attempts of each container, for `logs` and `logs --previous`, and
    /// the sandboxes that they are in.
    async fn remove_old(&mut self, seen: &Seen) {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut kept = Vec::new();
        for container in &seen.containers {
            let count = counts.entry(&container.name).or_default();
            *count += 1;
            let dead = matches!(container.run, Run::Exited | Run::Created);
            if *count > 2 && dead {
                match self.deps.runtime.remove_container(&container.id).await {
                    Ok(()) => super::start::remove_log(std::path::Path::new(&container.log_path)),
                    Err(e) => tracing::debug!(error = %e, "removing a dead container failed"),
                }
            } else {
                kept.push(&container.sandbox_id);
            }
        }
        for sandbox in seen.sandboxes.iter().skip(1) {
            if !sandbox.ready
                && !kept.contains(&&sandbox.id)
                && let Err(e) = self.deps.runtime.remove_sandbox(&sandbox.id).await
            {
                tracing::debug!(error = %e, "removing a dead sandbox failed");
            }
        }
    }

    async fn wait(&mut self, pod: &Pod, progress: Progress) {
        let now = Timestamp::now();
        let mut wake = progress.wake_at;
        if self.stage == Stage::Running
            && !spec::of(pod)
                .volumes
                .as_deref()
                .unwrap_or_default()
                .is_empty()
        {
            let refresh = self.refreshed.unwrap_or(now).checked_add(REFRESH).ok();
            wake = [wake, refresh].into_iter().flatten().min();
        }
        if self.looks > 0 {
            // The event came before the runtime's own books were written: look again soon.
            let pause = SignedDuration::from_millis(10 << self.looks.min(7));
            wake = [wake, now.checked_add(pause).ok()]
                .into_iter()
                .flatten()
                .min();
        }
        let sleep = async {
            match wake {
                Some(at) => {
                    let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
                    tokio::time::sleep(wait).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.desired.changed() => {
                if changed.is_err() {
                    // The kubelet ends; the pod's containers go on.
                    std::future::pending::<()>().await;
                }
            }
            () = self.poke.notified() => {}
            () = sleep => {}
        }
    }
}

/// When the pod's own deadline is over.
fn deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = spec::of(pod).active_deadline_seconds?;
    let start = pod.status.as_ref()?.start_time.as_ref()?.0;
    start.checked_add(SignedDuration::from_secs(seconds)).ok()
}

async fn until(watch: &mut watch::Receiver<Desired>, enough: impl Fn(&Desired) -> bool) {
    if watch.wait_for(|d| enough(d)).await.is_err() {
        std::future::pending::<()>().await;
    }
}
