//! The task of one pod: looks at the runtime, lets the machine decide, does what it decides,
//! reports what became of it, publishes the status, and waits as long as it says.

use super::admit;
use super::allocation::Allocation;
use super::backoff::Backoff;
use super::deps::Deps;
use super::fit;
use super::handle::{Desired, Handle, Life, Origin, Snapshot};
use super::perform::Hands;
use super::plan::Effect;
use super::publish::Publisher;
use super::reserved::Need;
use super::runtime_state::{self, Ended, SeenPod};
use super::spec;
use super::stage::Stage;
use super::state_machine::{self, Decision, Machine, Result as Outcome, World};
use super::status::{View, is_own_condition, status_of};
use crate::events::Severity;
use crate::metrics::{COUNTS, METRICS, STARTS, Start};
use crate::objects::{self, WatchedObject};
use crate::persisting::Persisting;
use crate::probes::Board;
use arc_swap::ArcSwap;
use clock::{Instant, Jumps, watch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, PodStatus};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Starts the task of a pod.
#[must_use]
pub fn start(deps: Arc<Deps>, pod: Arc<Pod>, origin: Origin) -> Handle {
    note_kept(&deps, &pod);
    let desired = watch::Sender::new(Desired {
        pod: pod.clone(),
        gone: false,
        end: None,
        origin,
    });
    let receiver = desired.subscribe();
    let poke = Arc::new(Notify::new());
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot {
        pod: pod.clone(),
        ..Default::default()
    }));
    let board = Board::new(poke.clone());
    let objects_changed = board.changed_flag();
    let exits = Arc::<Mutex<HashSet<String>>>::default();
    COUNTS.pod(spec::containers(&pod).len());
    let backoff = Backoff::new(
        deps.config.crash_backoff_initial,
        deps.config.crash_backoff_max,
    );
    let worker = Worker {
        exits: exits.clone(),
        publisher: Publisher::start(&deps, &pod, receiver.clone()),
        board,
        machine: Machine::new(phase(&pod), backoff),
        hands: Hands::new(deps.clone(), Start::of(&pod)),
        start_time: deps.clock.now(),
        jumps: Jumps::from(deps.clock.now()),
        ended: Ended::new(),
        admitted: false,
        held: Vec::new(),
        life: Life::default(),
        failure: Persisting::default(),
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
    if state_machine::ended(phase(pod)).is_none() {
        deps.devices.load(spec::uid(pod));
        deps.cpus.load(spec::uid(pod));
        deps.topology.load(spec::uid(pod));
    }
    if let Some(kept) = kept.filter(|_| state_machine::ended(phase(pod)).is_none()) {
        let has = Need::of(&kept.applied(pod));
        deps.accounts.note(spec::uid(pod), has);
    }
}

/// The phase that an object shows.
fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

struct Worker {
    deps: Arc<Deps>,
    desired: watch::Receiver<Desired>,
    poke: Arc<Notify>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    publisher: Publisher,
    board: Board,
    machine: Machine,
    hands: Hands,
    start_time: Timestamp,
    jumps: Jumps,
    exits: Arc<Mutex<HashSet<String>>>,
    ended: Ended,
    /// The node took the pod.
    admitted: bool,
    held: Vec<Arc<WatchedObject>>,
    life: Life,
    /// How the pod is cannot be seen.
    failure: Persisting,
}

impl Worker {
    async fn run(mut self) {
        loop {
            let desired = self.desired.borrow_and_update().clone();
            let pod = self.with_own_status(&desired.pod);
            self.hold_objects(&pod);
            let began = Instant::now();
            let looked = self.look(&desired, &pod).await;
            METRICS.looked(began.elapsed());
            let (seen, refused) = match looked {
                Ok(looked) => {
                    self.failure.is_over();
                    looked
                }
                Err(error) => {
                    let name = spec::full_name(&pod);
                    if self.failure.failed() {
                        tracing::warn!(
                            pod = name,
                            error,
                            "nothing can be done for a pod; it is tried again and again"
                        );
                    } else {
                        tracing::debug!(pod = name, error, "how the pod is cannot be seen now");
                    }
                    let now = self.deps.clock.now();
                    pause(now, Machine::after_silence(now)).await;
                    continue;
                }
            };
            let active = self.admitted && self.machine.stage().why().is_none();
            let pod = self.hands.grants.allocate(&pod, &seen, active);
            self.board.follow(&self.deps, &pod, &seen);
            let (now, decision) = self.decide(&desired, &pod, &seen, refused.as_ref());
            self.publish(&pod, &seen, now);
            if decision.is_idle() {
                self.wait(now, decision.wake_at).await;
            } else {
                let began = Instant::now();
                let is_over = self.carry_out(&desired, &pod, &seen, decision).await;
                METRICS.worked(began.elapsed());
                if is_over {
                    return;
                }
            }
        }
    }

    /// What the runtime has of the pod, and whether the node refuses it.
    async fn look(
        &mut self,
        desired: &Desired,
        pod: &Arc<Pod>,
    ) -> Result<(SeenPod, Option<admit::Refusal>), String> {
        let uid = spec::uid(pod);
        let name = self.deps.runtime_name().await;
        name.map_err(|e| e.to_string())?;
        let seen = runtime_state::observe(&*self.deps.runtime, uid, &mut self.ended).await;
        let mut seen = seen.map_err(|e| e.to_string())?;
        seen.put_first(self.deps.config.node_ip);
        let containers = seen.containers.iter().map(|c| &c.id);
        for id in containers.chain(seen.sandboxes.iter().map(|s| &s.id)) {
            self.deps.owners.note(id, uid);
        }
        if desired.must_end() || state_machine::ended(phase(&desired.pod)).is_some() {
            return Ok((seen, None));
        }
        let is_static = desired.is_static();
        let refused = self.admit(pod, &seen, is_static).await?.err();
        Ok((seen, refused))
    }

    fn decide(
        &mut self,
        desired: &Desired,
        pod: &Pod,
        seen: &SeenPod,
        refused: Option<&admit::Refusal>,
    ) -> (Timestamp, Decision) {
        let mut facts = self.board.facts();
        facts.given = self.hands.grants.given();
        facts.group = self.hands.grants.group_limits();
        let world = World {
            pod,
            shown: phase(&desired.pod),
            seen,
            facts: &facts,
            gone: desired.gone,
            end: desired.end.as_ref(),
            refused,
            objects_changed: self.board.take_changed(),
            awaits_exit: self.awaits_exit(seen),
            resize_waits: self.hands.grants.waits_for_room(),
        };
        let now = self.deps.clock.now();
        self.machine.clock_was_set(self.jumps.until(now));
        let before = self.machine.stage().clone();
        let decision = self.machine.step(&world, now);
        let stage = self.machine.stage();
        if *stage != before {
            tracing::debug!(pod = spec::full_name(pod), from = ?before, to = ?stage, "next stage");
        }
        if stage.is_over() {
            // Before anybody hears of it, and sends the next pod.
            self.deps.accounts.forget(spec::uid(pod));
            self.deps.devices.forget(spec::uid(pod));
            self.deps.cpus.forget(spec::uid(pod));
            self.deps.topology.forget(spec::uid(pod));
        }
        if stage.why().is_some() {
            self.board.stop_restarts();
        }
        for said in &decision.said {
            let severity = if said.warns {
                Severity::Warning
            } else {
                Severity::Normal
            };
            let name = Some(said.container.as_str());
            let text = said.message.clone();
            self.deps.recorder.pod(pod, name, severity, "BackOff", text);
        }
        (now, decision)
    }

    /// Whether the runtime reported an end that it does not show yet.
    fn awaits_exit(&self, seen: &SeenPod) -> bool {
        let mut exits = self.exits.lock();
        exits.retain(|id| {
            seen.alive().any(|c| &c.id == id)
                || seen.sandboxes.iter().any(|s| s.ready && &s.id == id)
        });
        !exits.is_empty()
    }

    /// Does what was decided, and reports what became of it. True when nothing of the pod is left.
    async fn carry_out(
        &mut self,
        desired: &Desired,
        pod: &Arc<Pod>,
        seen: &SeenPod,
        decision: Decision,
    ) -> bool {
        let mut watch = self.desired.clone();
        if !decision.kills.is_empty() {
            let urgency = desired.urgency();
            let kills = decision.kills;
            let deps = self.deps.clone();
            let mut killing = std::pin::pin!(super::kill::all(&deps, pod, seen, kills.clone()));
            let ended = loop {
                tokio::select! {
                    biased;
                    ended = &mut killing => break ended,
                    // It is decided again.
                    () = until(&mut watch, |d| d.urgency() < urgency) => return false,
                    // Its probes go on: what is asked to end may say that it is not ready any more.
                    () = self.poke.notified() => {}
                }
                let shown = self.with_own_status(pod);
                self.publish(&shown, seen, deps.clock.now());
            };
            let now = self.deps.clock.now();
            for (kill, well) in kills.into_iter().zip(&ended) {
                let result = if *well {
                    Outcome::Done
                } else {
                    Outcome::Failed
                };
                self.machine.note(pod, &Effect::Kill(kill), &result, now);
            }
            if ended.contains(&false) {
                return false;
            }
        }
        let starts = |effect: &Effect| matches!(effect, Effect::Start { .. });
        if decision.effects.iter().any(starts) {
            // Before the first of them: what they start was not seen yet.
            let group = self.hands.grants.group(pod);
            super::remains::kill_forgotten(&self.deps, pod, &group, seen);
        }
        let may_be_interrupted = *self.machine.stage() == Stage::Running;
        for effect in &decision.effects {
            if *effect == Effect::Release {
                self.board.stop();
            }
            let doing = self
                .hands
                .perform(effect, desired, pod, seen, &self.publisher);
            let result = if may_be_interrupted {
                tokio::select! {
                    biased;
                    result = doing => result,
                    () = until(&mut watch, Desired::must_end) => return false,
                }
            } else {
                doing.await
            };
            self.machine
                .note(pod, effect, &result, self.deps.clock.now());
            if result == Outcome::Done {
                if *effect == Effect::DeleteObject {
                    return true;
                }
            } else if Machine::bears_the_next(effect) {
                return false;
            }
        }
        false
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
        keep_conditions(status, &mut conditions);
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let foreign = status.clone();
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
        keep_claims(&foreign, status);
        Arc::new(merged)
    }

    fn hold_objects(&mut self, pod: &Pod) {
        if self.held.is_empty() && !self.machine.stage().is_over() {
            let keys = objects::of_pod(pod);
            self.held = keys.iter().map(|key| self.deps.objects.hold(key)).collect();
        }
    }

    /// Whether the node takes the pod: asked once, before anything of it is made.
    async fn admit(
        &mut self,
        pod: &Arc<Pod>,
        seen: &SeenPod,
        is_static: bool,
    ) -> Result<Result<(), admit::Refusal>, String> {
        if self.admitted {
            return Ok(Ok(()));
        }
        let began = !seen.sandboxes.is_empty() || !seen.containers.is_empty();
        if !began && *self.machine.stage() != Stage::Running {
            return Ok(Ok(()));
        }
        if began {
            // It has what it has, whatever it was noted with before.
            self.admitted = true;
            if Allocation::load(&self.deps.config.pod_dir(spec::uid(pod))).is_none() {
                self.deps.accounts.note(spec::uid(pod), Need::of(pod));
            }
            return Ok(Ok(()));
        }
        let answer = self.judge(pod, is_static).await?;
        match &answer {
            Ok(()) => self.admitted = true,
            Err(refusal) => {
                STARTS.rejected(&refusal.reason);
                let warning = Severity::Warning;
                let (recorder, text) = (&self.deps.recorder, refusal.message.clone());
                recorder.pod(pod, None, warning, &refusal.reason, text);
            }
        }
        Ok(answer)
    }

    /// What is against a pod that comes. An error: that cannot be said now.
    async fn judge(
        &self,
        pod: &Pod,
        is_static: bool,
    ) -> Result<Result<(), admit::Refusal>, String> {
        let deps = &self.deps;
        if *deps.going_down.borrow() {
            return Ok(Err(admit::Refusal {
                reason: "NodeShutdown".into(),
                message: "Pod was rejected as the node is shutting down.".into(),
            }));
        }
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
        let node = if is_static {
            // It may be what the API server itself needs, so it waits for nothing of it.
            deps.node.last().unwrap_or_default()
        } else {
            self.node_for(pod).await?
        };
        let has = deps.resources.table(&node);
        let (uid, need) = (spec::uid(pod), Need::of(pod));
        let welcome = fit::is_welcome(pod, &node);
        let room = deps.accounts.admit(uid, need.clone(), &has, welcome);
        let short = room
            .as_ref()
            .err()
            .map_or_else(Vec::new, |r| r.short.clone());
        let answer = fit::check(pod, &node, room);
        if answer.is_err() {
            return Ok(answer);
        }
        if !short.is_empty() {
            if let Err(why) = deps.accounts.make_room(uid, need, &short) {
                deps.accounts.forget(uid);
                return Ok(Err(admit::Refusal {
                    reason: "UnexpectedAdmissionError".into(),
                    message: format!(
                        "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: {why}"
                    ),
                }));
            }
            return Err("it waits for pods that end to make room for it".into());
        }
        if let Err(refusal) = self.own_parts(pod).await {
            return Ok(Err(refusal));
        }
        deps.accounts.note(uid, need);
        Ok(answer)
    }

    /// Gives a pod that comes the CPUs, memory and devices that its containers have for themselves.
    async fn own_parts(&self, pod: &Pod) -> Result<(), admit::Refusal> {
        let deps = &self.deps;
        let turn = deps.devices.turn(pod).await;
        let devices = turn.as_ref().map(|turn| turn.draft(pod));
        let places = deps.topology.admit(pod, &deps.cpus, devices)?;
        let Some(turn) = turn else { return Ok(()) };
        turn.allocate(pod, &places).await.map_err(|e| {
            deps.topology.forget(spec::uid(pod));
            deps.cpus.forget(spec::uid(pod));
            admit::Refusal {
                reason: "UnexpectedAdmissionError".into(),
                message: e.to_string(),
            }
        })
    }

    /// The node as a pod that comes from the API must find it, beside the pods that were there before.
    async fn node_for(&self, pod: &Pod) -> Result<Arc<Node>, String> {
        let deps = &self.deps;
        let mut listed = deps.listed.subscribe();
        listed.wait_for(|l| *l).await.map_err(|e| e.to_string())?;
        let node = deps.node.get().await.map_err(|e| e.to_string())?;
        if fit::is_wanted(pod, &node) {
            return Ok(node);
        }
        // Its labels may have changed a moment ago.
        deps.node.ask().await.map_err(|e| e.to_string())
    }

    fn publish(&mut self, pod: &Arc<Pod>, seen: &SeenPod, now: Timestamp) {
        let mut facts = self.board.facts();
        facts.group = self.hands.grants.group_limits();
        let host_ips = self.deps.config.node_ips();
        let view = View {
            runtime: self.deps.runtime_name.get().map_or("", String::as_str),
            stage: self.machine.stage(),
            facts: &facts,
            waiting: self.machine.waiting(),
            host_ips: &host_ips,
            start_time: self.start_time,
            resize: &self.hands.grants.resize,
        };
        // What ended before this kubelet started is reported already, and better.
        let over = self.machine.stage().is_over();
        let reported = over && spec::is_terminal(pod) && self.publisher.last().is_none();
        let mut shown = pod.clone();
        if !reported {
            let mut status = status_of(pod, seen, &view, now);
            self.deps.devices.show(spec::uid(pod), &mut status);
            self.deps.dra.show(pod, &mut status);
            let mut changed = Pod::clone(pod);
            let mut whole = status.clone();
            if let Some(old) = &pod.status {
                keep_claims(old, &mut whole);
                keep_conditions(old, whole.conditions.get_or_insert_default());
            }
            changed.status = Some(whole);
            shown = Arc::new(changed);
            self.hands.start.follow(pod, &status, now);
            self.publisher.publish(status);
        }
        self.snapshot.store(Arc::new(Snapshot {
            pod: shown,
            seen: Arc::new(seen.clone()),
            over,
            mirror_uid: self.mirror_uid(),
            life: self
                .life
                .follow(seen.ready_sandbox().map(|s| s.id.as_str())),
        }));
    }

    /// The UID by which the API knows a static pod.
    fn mirror_uid(&self) -> Option<String> {
        let desired = self.desired.borrow();
        let mirror = desired.shown().filter(|_| desired.is_static());
        mirror.map(|mirror| spec::uid(mirror).to_owned())
    }

    /// Waits until it is time, or something happens.
    async fn wait(&mut self, now: Timestamp, wake_at: Option<Timestamp>) {
        let sleep = async {
            match wake_at {
                Some(at) => pause(now, at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
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

/// Which claims a pod has is written by others.
fn keep_claims(from: &PodStatus, to: &mut PodStatus) {
    to.resource_claim_statuses
        .clone_from(&from.resource_claim_statuses);
    to.extended_resource_claim_status
        .clone_from(&from.extended_resource_claim_status);
}

/// Conditions of others, as the API shows them.
fn keep_conditions(from: &PodStatus, to: &mut Vec<PodCondition>) {
    let all = from.conditions.iter().flatten();
    let others = all.filter(|c| !is_own_condition(&c.type_));
    let missing = others.filter(|c| to.iter().all(|own| own.type_ != c.type_));
    let missing: Vec<PodCondition> = missing.cloned().collect();
    to.extend(missing);
}

async fn pause(now: Timestamp, until: Timestamp) {
    let wait = Duration::try_from(until.duration_since(now)).unwrap_or_default();
    tokio::time::sleep(wait).await;
}

async fn until(watch: &mut watch::Receiver<Desired>, enough: impl Fn(&Desired) -> bool) {
    if watch.wait_for(|d| enough(d)).await.is_err() {
        std::future::pending::<()>().await;
    }
}
