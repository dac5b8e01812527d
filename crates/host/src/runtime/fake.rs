//! A container runtime in memory, for tests: no process, no socket and no thread. Time is what
//! [`Fake::advance`] says, or a clock that it is given; what containers do is what [`Behaviour`]
//! says of their images. [`Trouble`] makes its calls late, or fail.

mod state;

use super::types::*;
use super::{Call, Error, ErrorKind, Result, Runtime};
use clock::Clock;
use futures::channel::mpsc;
use futures::future::FutureExt;
use futures::stream::{BoxStream, StreamExt};
use state::{FakeContainer, FakeState};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What containers of an image do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// How long they run by themselves; none: until they are stopped.
    pub runs_for: Option<Duration>,
    /// What they end with by themselves.
    pub exit_code: i32,
    /// What they end with when they are stopped; none: they do not listen, and are killed.
    pub stopped_code: Option<i32>,
}

/// A call of which a test wants that it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Making sandboxes.
    RunSandbox,
    /// Stopping sandboxes.
    StopSandbox,
    /// Making containers.
    CreateContainer,
    /// Starting containers.
    StartContainer,
    /// Stopping containers.
    StopContainer,
    /// Fetching images.
    Pull,
    /// Everything.
    Any,
}

/// What stands between a caller and the runtime: it may wait, and it may fail.
pub trait Trouble: Send + Sync + std::fmt::Debug {
    /// Before a call is carried out; an error is its answer, and nothing is done.
    fn before(&self, step: Step) -> Call<'_, ()>;
    /// After a call was carried out; an error is its answer all the same.
    fn after(&self, step: Step) -> Call<'_, ()>;
}

/// A runtime in memory. Sandboxes and containers have ids in the order in which they were made.
#[derive(Debug, Default)]
pub struct Fake {
    held: Mutex<FakeState>,
    around: Option<(Clock, Arc<dyn Trouble>)>,
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its pod.
    pub pod: PodName,
    /// Its own name.
    pub name: String,
    /// How often it was started before.
    pub attempt: u32,
}

impl Fake {
    /// Nothing is there; it is `now`, in nanoseconds since 1970.
    #[must_use]
    pub fn new(now: Nanos) -> Self {
        let fake = Self::default();
        fake.lock().now = now;
        fake
    }

    /// Nothing is there; it is as late as `clock` says, and each call goes through `trouble`.
    /// Whoever holds it calls [`Fake::advance`] at [`Fake::next_end`], for its events.
    #[must_use]
    pub fn around(clock: Clock, trouble: Arc<dyn Trouble>) -> Self {
        let mut fake = Self::new(nanos(clock));
        fake.around = Some((clock, trouble));
        fake
    }

    /// All containers that run.
    #[must_use]
    pub fn running(&self) -> Vec<Running> {
        let held = self.lock();
        let live = held.containers.values().map(|c| &c.status);
        live.filter(|s| s.container.state == State::Running)
            .filter_map(|s| {
                let (sandbox, _) = held.sandboxes.get(&s.container.sandbox_id)?;
                Some(Running {
                    pod: sandbox.pod.clone(),
                    name: s.name.clone(),
                    attempt: s.attempt,
                })
            })
            .collect()
    }

    /// The machine loses its power: everything has ended, and nobody hears of it. What the runtime
    /// finds after the next start are sandboxes that are not ready and containers without an exit
    /// code of their own.
    pub fn power_off(&self) {
        /// What containerd reports of a container whose end it did not see.
        const UNSEEN: i32 = 255;
        let mut held = self.lock();
        held.listeners.clear();
        for (sandbox, _) in held.sandboxes.values_mut() {
            sandbox.ready = false;
        }
        let ids: Vec<String> = held.containers.keys().cloned().collect();
        for id in ids {
            held.end(&id, UNSEEN);
        }
    }

    fn lock(&self) -> MutexGuard<'_, FakeState> {
        // A test that panicked elsewhere is reported there.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what its default handler can do, which is nothing else.
    pub fn set_handler(&self, handler: Handler) {
        self.lock().handler = Some(handler);
    }

    /// The users of the machine that sandboxes of a pod have as theirs.
    #[must_use]
    pub fn users_of(&self, pod: &str) -> Vec<IdRange> {
        let held = self.lock();
        let of_pod = held
            .sandboxes
            .iter()
            .filter(|(_, (s, _))| s.pod.name == pod);
        let users = of_pod.filter_map(|(id, _)| held.users.get(id));
        users.copied().collect()
    }

    /// Puts an image there, whose containers behave so.
    pub fn add_image(&self, name: &str, behaviour: Behaviour) {
        let mut held = self.lock();
        let image = Image {
            id: format!("sha256:{name}"),
            tags: vec![name.to_owned()],
            bytes: 1,
            ..Default::default()
        };
        held.behaviours.insert(image.id.clone(), behaviour);
        held.images.insert(name.to_owned(), image);
    }

    /// Makes the next calls of a kind fail.
    pub fn fail(&self, step: Step, times: u32) {
        self.lock().failures.insert(step, times);
    }

    /// How often calls of a kind came.
    #[must_use]
    pub fn calls(&self, step: Step) -> u64 {
        self.lock().calls.get(&step).copied().unwrap_or(0)
    }

    /// When the next container ends by itself, if one does.
    #[must_use]
    pub fn next_end(&self) -> Option<Nanos> {
        let held = self.lock();
        held.containers.values().filter_map(|c| c.ends_at).min()
    }

    /// It is `now`: what ends until then has ended, in the order of its ends.
    pub fn advance(&self, now: Nanos) {
        let mut held = self.lock();
        loop {
            let due = held
                .containers
                .iter()
                .filter_map(|(id, c)| Some((c.ends_at.filter(|at| *at <= now)?, id.clone())));
            let Some((at, id)) = due.min() else { break };
            held.now = at.max(held.now);
            let code = held.behaviour(&id).exit_code;
            held.end(&id, code);
        }
        held.now = now.max(held.now);
    }

    /// Ends a container, as from outside.
    pub fn kill(&self, id: &str, exit_code: i32) {
        self.lock().end(id, exit_code);
    }

    /// What a container was limited to last.
    #[must_use]
    pub fn resources(&self, id: &str) -> Option<Resources> {
        Some(self.lock().containers.get(id)?.resources.clone())
    }

    /// Does one call: at once, or with what is around it.
    fn done<'a, T: Send + 'a>(
        &'a self,
        step: Step,
        work: impl FnOnce(&mut FakeState) -> Result<T> + Send + 'a,
    ) -> Call<'a, T> {
        async move {
            if let Some((clock, trouble)) = &self.around {
                trouble.before(step).await?;
                self.advance(nanos(*clock));
            }
            let outcome = {
                let mut held = self.lock();
                *held.calls.entry(step).or_default() += 1;
                held.may_fail(step).and_then(|()| work(&mut held))?
            };
            if let Some((_, trouble)) = &self.around {
                trouble.after(step).await?;
            }
            Ok(outcome)
        }
        .boxed()
    }
}

fn nanos(clock: Clock) -> Nanos {
    Nanos::try_from(clock.now().as_nanosecond()).unwrap_or(Nanos::MAX)
}

fn not_found(what: &str, id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what} {id:?}: not found"))
}

fn has(labels: &Texts, label: Option<(&str, &str)>) -> bool {
    label.is_none_or(|(key, value)| labels.get(key).map(String::as_str) == Some(value))
}

impl Runtime for Fake {
    fn version(&self) -> Call<'_, Version> {
        self.done(Step::Any, |_| {
            Ok(Version {
                name: "fake".into(),
                version: "1".into(),
            })
        })
    }

    fn health(&self) -> Call<'_, Health> {
        let condition = |kind: &str| Condition {
            kind: kind.to_owned(),
            ok: true,
            ..Default::default()
        };
        let conditions = ["RuntimeReady", "NetworkReady"].map(condition).into();
        self.done(Step::Any, |held| {
            Ok(Health {
                conditions,
                handlers: held.handler.clone().into_iter().collect(),
                ..Default::default()
            })
        })
    }

    fn run_sandbox<'a>(&'a self, spec: &'a SandboxSpec, _: &'a str) -> Call<'a, String> {
        self.done(Step::RunSandbox, move |held| {
            let id = held.id("sandbox");
            let is_nodes = spec.security.namespaces.network == Namespace::Node;
            let n = held.made;
            let network = SandboxNetwork {
                ips: Vec::from_iter(
                    (!is_nodes)
                        .then(|| format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255)),
                ),
                is_nodes,
            };
            let sandbox = Sandbox {
                id: id.clone(),
                pod: spec.pod.clone(),
                attempt: spec.attempt,
                ready: true,
                created_at: held.now,
                labels: spec.labels.clone(),
            };
            held.sandboxes.insert(id.clone(), (sandbox, network));
            if let Some(users) = spec.security.namespaces.users {
                held.users.insert(id.clone(), users);
            }
            Ok(id)
        })
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        self.done(Step::StopSandbox, move |held| {
            for container in held.members(id) {
                held.stop(&container, 0);
            }
            if let Some((sandbox, _)) = held.sandboxes.get_mut(id) {
                sandbox.ready = false;
                held.publish(&Event::Exited(id.to_owned()));
            }
            Ok(())
        })
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        self.done(Step::Any, move |held| {
            for container in held.members(id) {
                held.stop(&container, 0);
                held.containers.remove(&container);
            }
            held.sandboxes.remove(id);
            Ok(())
        })
    }

    fn sandboxes<'a>(&'a self, label: Option<(&'a str, &'a str)>) -> Call<'a, Vec<Sandbox>> {
        self.done(Step::Any, move |held| {
            let all = held.sandboxes.values().map(|(s, _)| s);
            Ok(all.filter(|s| has(&s.labels, label)).cloned().collect())
        })
    }

    fn sandbox_network<'a>(&'a self, id: &'a str) -> Call<'a, SandboxNetwork> {
        self.done(Step::Any, move |held| {
            let found = held.sandboxes.get(id).map(|(_, network)| network.clone());
            found.ok_or_else(|| not_found("sandbox", id))
        })
    }

    fn sandbox_pid<'a>(&'a self, _: &'a str) -> Call<'a, Option<u32>> {
        self.done(Step::Any, |_| Ok(None))
    }

    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        spec: &'a ContainerSpec,
        sandbox: &'a SandboxSpec,
    ) -> Call<'a, String> {
        self.done(Step::CreateContainer, move |held| {
            if !held.sandboxes.get(sandbox_id).is_some_and(|(s, _)| s.ready) {
                return Err(not_found("sandbox", sandbox_id));
            }
            let id = held.id("container");
            let container = Container {
                id: id.clone(),
                sandbox_id: sandbox_id.to_owned(),
                state: State::Created,
                image: spec.image.clone(),
                image_ref: spec.image_id.clone(),
                labels: spec.labels.clone(),
            };
            let status = ContainerStatus {
                container,
                name: spec.name.clone(),
                attempt: spec.attempt,
                created_at: held.now,
                annotations: spec.annotations.clone(),
                mounts: spec.mounts.clone(),
                log_path: format!("{}/{}", sandbox.log_directory, spec.log_path),
                stop_signal: spec.stop_signal.clone(),
                ..Default::default()
            };
            let kept = FakeContainer {
                status,
                resources: spec.resources.clone(),
                ends_at: None,
            };
            held.containers.insert(id.clone(), kept);
            Ok(id)
        })
    }

    fn start_container<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        self.done(Step::StartContainer, move |held| {
            let runs_for = held.behaviour(id).runs_for;
            let now = held.now;
            let kept = held.containers.get_mut(id);
            let kept = kept.ok_or_else(|| not_found("container", id))?;
            if kept.status.container.state != State::Created {
                return Err(Error::new(ErrorKind::Other, "it was started before"));
            }
            kept.status.container.state = State::Running;
            kept.status.started_at = now;
            kept.ends_at = runs_for
                .map(|d| now.saturating_add(Nanos::try_from(d.as_nanos()).unwrap_or(Nanos::MAX)));
            held.publish(&Event::Started(id.to_owned()));
            Ok(())
        })
    }

    fn stop_container<'a>(&'a self, id: &'a str, grace_seconds: i64) -> Call<'a, ()> {
        self.done(Step::StopContainer, move |held| {
            held.stop(id, grace_seconds);
            Ok(())
        })
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        self.done(Step::Any, move |held| {
            held.stop(id, 0);
            held.containers.remove(id);
            Ok(())
        })
    }

    fn update_resources<'a>(&'a self, id: &'a str, resources: &'a Resources) -> Call<'a, ()> {
        self.done(Step::Any, move |held| {
            let kept = held.containers.get_mut(id);
            let kept = kept.ok_or_else(|| not_found("container", id))?;
            kept.resources = resources.clone();
            Ok(())
        })
    }

    fn containers<'a>(&'a self, label: Option<(&'a str, &'a str)>) -> Call<'a, Vec<Container>> {
        self.done(Step::Any, move |held| {
            let all = held.containers.values().map(|c| &c.status.container);
            Ok(all.filter(|c| has(&c.labels, label)).cloned().collect())
        })
    }

    fn container<'a>(&'a self, id: &'a str) -> Call<'a, ContainerStatus> {
        self.done(Step::Any, move |held| {
            let found = held.containers.get(id).map(|c| c.status.clone());
            found.ok_or_else(|| not_found("container", id))
        })
    }

    fn reopen_log<'a>(&'a self, _: &'a str) -> Call<'a, ()> {
        self.done(Step::Any, |_| Ok(()))
    }

    fn checkpoint<'a>(&'a self, _: &'a str, _: &'a Path, _: Limit) -> Call<'a, ()> {
        self.done(Step::Any, |_| {
            Err(Error::new(
                ErrorKind::Other,
                "this runtime makes no checkpoints",
            ))
        })
    }

    fn exec_sync<'a>(&'a self, id: &'a str, _: &'a [String], _: Limit) -> Call<'a, Ran> {
        self.done(Step::Any, move |held| {
            let runs = |c: &FakeContainer| c.status.container.state == State::Running;
            match held.containers.get(id).filter(|c| runs(c)) {
                Some(_) => Ok(Ran::default()),
                None => Err(not_found("container", id)),
            }
        })
    }

    fn exec<'a>(&'a self, _: &'a str, _: &'a [String], _: &'a Streams) -> Call<'a, String> {
        self.done(Step::Any, |_| Err(no_streams()))
    }

    fn attach<'a>(&'a self, _: &'a str, _: &'a Streams) -> Call<'a, String> {
        self.done(Step::Any, |_| Err(no_streams()))
    }

    fn image<'a>(&'a self, name: &'a str) -> Call<'a, Option<Image>> {
        self.done(Step::Any, move |held| Ok(held.image(name).cloned()))
    }

    fn images(&self) -> Call<'_, Vec<Image>> {
        self.done(Step::Any, move |held| {
            Ok(held.images.values().cloned().collect())
        })
    }

    fn pull<'a>(
        &'a self,
        name: &'a str,
        _: Option<&'a Credential>,
        _: &'a SandboxSpec,
    ) -> Call<'a, String> {
        self.done(Step::Pull, move |held| {
            let found = held.image(name).map(|i| i.id.clone());
            found.ok_or_else(|| not_found("image", name))
        })
    }

    fn mount_image<'a>(&'a self, id: &'a str, _: &'a Path) -> Call<'a, ()> {
        self.done(Step::Any, move |held| {
            let found = held.images.values().any(|i| i.id == id);
            if found {
                Ok(())
            } else {
                Err(not_found("image", id))
            }
        })
    }

    fn remove_image<'a>(&'a self, name: &'a str) -> Call<'a, ()> {
        self.done(Step::Any, move |held| {
            held.images.retain(|tag, i| tag != name && i.id != name);
            Ok(())
        })
    }

    fn image_fs(&self) -> Call<'_, RuntimeFs> {
        self.done(Step::Any, |_| Ok(RuntimeFs::default()))
    }

    fn layers(&self) -> Call<'_, Vec<LayerUse>> {
        self.done(Step::Any, |_| Ok(Vec::new()))
    }

    fn events(&self) -> Call<'_, BoxStream<'static, Event>> {
        self.done(Step::Any, move |held| {
            // Bounded by what the test does between two reads.
            let (sender, receiver) = mpsc::unbounded();
            held.listeners.push(sender);
            Ok(receiver.boxed())
        })
    }
}

fn no_streams() -> Error {
    Error::new(ErrorKind::Other, "this runtime has no streams")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[tokio::test]
    async fn containers_end_in_time_and_report_it() {
        let fake = Fake::new(SECOND);
        let behaviour = Behaviour {
            runs_for: Some(Duration::from_secs(3)),
            exit_code: 7,
            stopped_code: None,
        };
        fake.add_image("job", behaviour);
        fake.add_image(
            "web",
            Behaviour {
                stopped_code: Some(0),
                ..Default::default()
            },
        );
        let mut events = fake.events().await.unwrap();
        let spec = SandboxSpec::default();
        let sandbox = fake.run_sandbox(&spec, "").await.unwrap();
        let mut ids = Vec::new();
        for image in ["job", "web"] {
            let image = fake.image(image).await.unwrap().unwrap();
            let container = ContainerSpec {
                image_id: image.id,
                ..Default::default()
            };
            let id = fake
                .create_container(&sandbox, &container, &spec)
                .await
                .unwrap();
            fake.start_container(&id).await.unwrap();
            assert!(fake.start_container(&id).await.is_err());
            ids.push(id);
        }
        assert_eq!(fake.next_end(), Some(4 * SECOND));
        fake.advance(3 * SECOND);
        let state = async |id: &str| {
            let status = fake.container(id).await.unwrap();
            (status.container.state, status.exit_code, status.finished_at)
        };
        assert_eq!(state(&ids[0]).await.0, State::Running);
        fake.advance(9 * SECOND);
        assert_eq!(state(&ids[0]).await, (State::Exited, 7, 4 * SECOND));
        fake.stop_container(&ids[1], 30).await.unwrap();
        assert_eq!(state(&ids[1]).await, (State::Exited, 0, 9 * SECOND));
        let mut received = Vec::new();
        for _ in 0..4 {
            received.push(events.next().await.unwrap());
        }
        let [a, b] = [ids[0].clone(), ids[1].clone()];
        let want = [
            Event::Started(a.clone()),
            Event::Started(b.clone()),
            Event::Exited(a),
            Event::Exited(b),
        ];
        assert_eq!(received, want);
    }

    #[tokio::test]
    async fn calls_fail_as_often_as_a_test_wants() {
        let fake = Fake::new(0);
        fake.fail(Step::RunSandbox, 2);
        let spec = SandboxSpec::default();
        let mut outcomes = Vec::new();
        for _ in 0..3 {
            outcomes.push(fake.run_sandbox(&spec, "").await.is_ok());
        }
        assert_eq!(outcomes, [false, false, true]);
        assert_eq!(fake.calls(Step::RunSandbox), 3);
    }
}
