//! Probes of containers. A [`Board`] holds what the probes of one pod say and runs one task
//! per probe of each running container.

pub mod ask;
pub mod hook;
pub mod redirects;
pub mod tallies;

use crate::events::Severity;
use crate::pod::deps::Deps;
use crate::pod::plan::{Facts, Failure};
use crate::pod::runtime_state::{Run, SeenContainer, SeenPod};
use crate::pod::spec;
use crate::pod::status::full_id;
use ask::{Answer, Target};
use clock::{Instant, watch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tallies::{Asked, FAILED, Tallies};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeType {
    /// Holds the others back until it succeeds once.
    Startup,
    /// Restarts the container when it fails.
    Liveness,
    /// Takes the pod out of its services when it fails.
    Readiness,
}

impl ProbeType {
    /// As in metrics and messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

#[derive(Debug)]
struct Inner {
    facts: Mutex<Facts>,
    poke: Arc<Notify>,
    changed: Arc<AtomicBool>,
    rounds: AtomicU64,
    tallies: Arc<Tallies>,
}

/// What probes of one pod say.
#[derive(Debug)]
pub struct Board {
    inner: Arc<Inner>,
    tasks: BTreeMap<String, Vec<(ProbeType, AbortHandle)>>,
}

impl Drop for Board {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Board {
    /// Nothing is known; `poke` is called when something is.
    #[must_use]
    pub fn new(poke: Arc<Notify>) -> Self {
        let inner = Inner {
            facts: Mutex::default(),
            poke,
            changed: Arc::default(),
            rounds: AtomicU64::new(0),
            tallies: Tallies::shown(),
        };
        Self {
            inner: Arc::new(inner),
            tasks: BTreeMap::new(),
        }
    }

    /// Set by whoever sees that an object of the pod changed.
    #[must_use]
    pub fn changed_flag(&self) -> Arc<AtomicBool> {
        self.inner.changed.clone()
    }

    /// Whether an object changed since the last question.
    #[must_use]
    pub fn take_changed(&self) -> bool {
        self.inner.changed.swap(false, Ordering::AcqRel)
    }

    /// What is known now.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.inner.facts.lock().clone()
    }

    /// Ends all probes.
    pub fn stop(&mut self) {
        for (_, tasks) in std::mem::take(&mut self.tasks) {
            tasks.iter().for_each(|(_, task)| task.abort());
        }
    }

    /// Ends the probes whose failure would restart a container: one that is to end must not
    /// be called unhealthy for it. Readiness goes on, for the pod's services.
    pub fn stop_restarts(&mut self) {
        for tasks in self.tasks.values_mut() {
            tasks.retain(|(kind, task)| {
                let keep = *kind == ProbeType::Readiness;
                if !keep {
                    task.abort();
                }
                keep
            });
        }
    }

    /// Starts probes of containers that run now, ends those of containers that do not.
    pub fn follow(&mut self, deps: &Arc<Deps>, pod: &Arc<Pod>, seen: &SeenPod) {
        self.inner.rounds.fetch_add(1, Ordering::Relaxed);
        let running: BTreeMap<&str, &SeenContainer> = seen
            .containers
            .iter()
            .filter(|c| c.run == Run::Running)
            .map(|c| (c.id.as_str(), c))
            .collect();
        self.tasks.retain(|id, tasks| {
            let keep = running.contains_key(id.as_str());
            if !keep {
                tasks.iter().for_each(|(_, task)| task.abort());
            }
            keep
        });
        {
            let mut facts = self.inner.facts.lock();
            facts
                .started
                .retain(|id, _| running.contains_key(id.as_str()));
            facts
                .ready
                .retain(|id, _| running.contains_key(id.as_str()));
            facts
                .failed
                .retain(|id, _| running.contains_key(id.as_str()));
        }
        let ips = seen
            .ready_sandbox()
            .map(|s| s.ips.clone())
            .unwrap_or_default();
        for (id, seen_container) in running {
            if !self.tasks.contains_key(id)
                && let Some(container) = spec::container(pod, &seen_container.name)
            {
                let tasks = self.begin(deps, pod, container, seen_container, &ips);
                self.tasks.insert(id.to_owned(), tasks);
            }
        }
    }

    fn begin(
        &self,
        deps: &Arc<Deps>,
        pod: &Arc<Pod>,
        container: &Container,
        seen: &SeenContainer,
        ips: &[String],
    ) -> Vec<(ProbeType, AbortHandle)> {
        let regular_init = spec::is_init(pod, &container.name) && !spec::is_sidecar(container);
        if regular_init {
            return Vec::new();
        }
        let runtime = deps.runtime_name.get().map_or("", String::as_str);
        let before = reported_before(pod, &full_id(runtime, seen));
        let started_sender = watch::Sender::new(container.startup_probe.is_none() || before.0);
        let started = started_sender.subscribe();
        {
            let mut facts = self.inner.facts.lock();
            if container.startup_probe.is_some() {
                facts.started.insert(seen.id.clone(), before.0);
            }
            if container.readiness_probe.is_some() {
                facts.ready.insert(seen.id.clone(), before.1);
            }
        }
        let started_sender = Arc::new(started_sender);
        let host = if spec::host_network(pod) {
            deps.config.node_ip.to_string()
        } else {
            ips.first().cloned().unwrap_or_default()
        };
        let probes = [
            (
                ProbeType::Startup,
                container.startup_probe.as_ref().filter(|_| !before.0),
            ),
            (ProbeType::Liveness, container.liveness_probe.as_ref()),
            (ProbeType::Readiness, container.readiness_probe.as_ref()),
        ];
        probes
            .into_iter()
            .filter_map(|(kind, probe)| Some((kind, probe?.clone())))
            .map(|(kind, probe)| {
                let one = One {
                    deps: deps.clone(),
                    pod: pod.clone(),
                    container: container.clone(),
                    id: seen.id.clone(),
                    started_at: seen.started_at,
                    host: host.clone(),
                    kind,
                    probe,
                    inner: self.inner.clone(),
                    started: started.clone(),
                    started_sender: started_sender.clone(),
                };
                (kind, tokio::spawn(one.run()).abort_handle())
            })
            .collect()
    }
}

/// What was reported to the API of this very container before: (started, ready). A kubelet that
/// starts again must not call containers unready that it only has not asked yet.
fn reported_before(pod: &Pod, id: &str) -> (bool, bool) {
    let status = pod.status.as_ref();
    let all = status.into_iter().flat_map(|s| {
        s.container_statuses
            .iter()
            .flatten()
            .chain(s.init_container_statuses.iter().flatten())
    });
    all.filter(|s| s.container_id.as_deref() == Some(id))
        .map(|s| (s.started == Some(true), s.ready))
        .next()
        .unwrap_or((false, false))
}

struct One {
    deps: Arc<Deps>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    started_at: Option<Timestamp>,
    host: String,
    kind: ProbeType,
    probe: Probe,
    inner: Arc<Inner>,
    started: watch::Receiver<bool>,
    started_sender: Arc<watch::Sender<bool>>,
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let value = value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
    Duration::from_secs(value.unwrap_or(default))
}

/// Whether a probe first waits for a part of its period, which chance says: the probes of containers
/// that ran before this kubelet began would otherwise all ask at once, and for ever after.
fn is_spread(
    period: Duration,
    started_at: Option<Timestamp>,
    began: Timestamp,
    now: Timestamp,
) -> bool {
    let age = Duration::try_from(now.duration_since(began)).unwrap_or_default();
    started_at.is_some_and(|at| at < began) && age < period
}

impl One {
    async fn run(mut self) {
        let period = seconds(self.probe.period_seconds, 10);
        let (began, now) = (self.deps.began, self.deps.clock.now());
        if is_spread(period, self.started_at, began, now) {
            let part = self.deps.random.fraction();
            tokio::time::sleep(period.mul_f64(part)).await;
        }
        if self.kind != ProbeType::Startup && self.started.wait_for(|s| *s).await.is_err() {
            return;
        }
        self.initial_delay().await;
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut good, mut bad) = (0, 0);
        loop {
            ticks.tick().await;
            let began = Instant::now();
            let answer = self.ask().await;
            self.count(&answer, began.elapsed());
            match answer {
                Answer::Good => (good, bad) = (good + 1, 0),
                Answer::Warned(text) => {
                    (good, bad) = (good + 1, 0);
                    let text = format!("{} probe warning: {text}", self.kind.word());
                    self.record("ProbeWarning", text);
                }
                Answer::Bad(text) => {
                    (good, bad) = (0, bad + 1);
                    let text = format!("{} probe failed: {text}", self.kind.word());
                    self.record("Unhealthy", text);
                }
                // It could not even be asked; that says nothing.
                Answer::Unknown(text) => {
                    let text = format!(
                        "{} probe errored and resulted in unknown state: {text}",
                        self.kind.word()
                    );
                    self.record("Unhealthy", text);
                    continue;
                }
            }
            if good >= self.probe.success_threshold.unwrap_or(1).max(1) && self.succeeded() {
                return;
            }
            if bad >= self.probe.failure_threshold.unwrap_or(3).max(1) && self.failed() {
                return;
            }
        }
    }

    async fn initial_delay(&self) {
        let delay = self
            .probe
            .initial_delay_seconds
            .and_then(|s| u64::try_from(s).ok())
            .unwrap_or(0);
        let since = self
            .started_at
            .map(|t| self.deps.clock.now().duration_since(t));
        let passed = since
            .and_then(|d| Duration::try_from(d).ok())
            .unwrap_or_default();
        tokio::time::sleep(Duration::from_secs(delay).saturating_sub(passed)).await;
    }

    async fn ask(&self) -> Answer {
        let target = Target {
            runtime: &*self.deps.runtime,
            container: &self.container,
            id: &self.id,
            host: &self.host,
        };
        ask::probe(&target, &self.probe, seconds(self.probe.timeout_seconds, 1)).await
    }

    fn count(&self, answer: &Answer, took: Duration) {
        let result = match answer {
            Answer::Good | Answer::Warned(_) => "successful",
            Answer::Bad(_) => FAILED,
            Answer::Unknown(_) => "unknown",
        };
        let asked = Asked {
            kind: self.kind.word(),
            container: self.container.name.clone(),
            pod: spec::name(&self.pod).to_owned(),
            namespace: spec::namespace(&self.pod).to_owned(),
            uid: spec::uid(&self.pod).to_owned(),
        };
        self.inner.tallies.add(asked, result, took);
    }

    fn record(&self, reason: &str, message: String) {
        let name = Some(self.container.name.as_str());
        let recorder = &self.deps.recorder;
        recorder.pod(&self.pod, name, Severity::Warning, reason, message);
    }

    /// True when this probe has nothing more to do.
    fn succeeded(&self) -> bool {
        let mut facts = self.inner.facts.lock();
        let before = match self.kind {
            ProbeType::Startup => facts.started.insert(self.id.clone(), true),
            ProbeType::Readiness => facts.ready.insert(self.id.clone(), true),
            ProbeType::Liveness => Some(true),
        };
        drop(facts);
        if before != Some(true) {
            self.inner.poke.notify_one();
        }
        if self.kind == ProbeType::Startup {
            self.started_sender.send_replace(true);
        }
        self.kind == ProbeType::Startup
    }

    fn failed(&self) -> bool {
        let name = &self.container.name;
        let mut facts = self.inner.facts.lock();
        let ends = match self.kind {
            ProbeType::Readiness => {
                if facts.ready.insert(self.id.clone(), false) == Some(false) {
                    return false;
                }
                false
            }
            ProbeType::Startup | ProbeType::Liveness => {
                let word = self.kind.word().to_lowercase();
                let failure = Failure {
                    message: format!("Container {name} failed {word} probe, will be restarted"),
                    grace_seconds: self.probe.termination_grace_period_seconds,
                };
                facts.failed.insert(self.id.clone(), failure);
                true
            }
        };
        drop(facts);
        self.inner.poke.notify_one();
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_of_old_containers_do_not_all_begin_with_the_kubelet() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let is = |started: Option<i64>, now| {
            is_spread(Duration::from_secs(10), started.map(at), at(100), at(now))
        };
        assert!(is(Some(50), 100) && is(Some(50), 109));
        // It begins later by itself, or no longer with all others.
        assert!(!is(Some(100), 101) && !is(None, 101) && !is(Some(50), 110));
        // The clock was set back.
        assert!(is(Some(50), 90));
    }
}
