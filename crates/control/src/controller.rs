//! A controller as the shell runs it: keys come from watches, what is known is observed from the
//! caches and, where they do not have it, gathered from the API, a pure plan says what to do, the
//! shell does it. Before a key is planned again the
//! caches must have seen what was done for it the last time: a stale cache cannot double an
//! action.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{
    DeleteParams, ListParams, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::core::DynamicObject;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::action::{Action, Patch, Plan, Propagation, Target};
use crate::events::Recorder;
use crate::expectation::{Expectation, Expected, LookUps, expect, expect_at_least, expect_settled};
use crate::last_created::{LastCreated, adopter};
use crate::queue::Queue;
use crate::slow_start::SlowStart;
use crate::watches::Watches;

/// A controller: watches, observes, gathers, plans. `plan` is pure.
pub trait Controller: Send + Sync + 'static {
    /// In logs, and as the source of events.
    const NAME: &'static str;
    /// Upstream's name of its queue, in figures.
    const QUEUE: &'static str = Self::NAME;
    /// The service account of `kube-system` as which it acts; empty: as the component itself.
    const ACCOUNT: &'static str;
    /// Whether it makes its own what nobody owns. Then the API is asked about its object first: of one
    /// that is deleted without what it owns, the caches may show that these have no owner any more
    /// before they show that it goes. It would take them back, and with it they would be collected.
    const ADOPTS: bool = false;
    type Key: Clone + Eq + Hash + Debug + Send + Sync + 'static;
    type Observed: Send;

    /// Says which changes concern which keys.
    fn watches(&self, watches: &mut Watches<Self::Key>);
    /// What the caches know of a key; `None` when there is nothing to be done for it.
    fn observe(&self, key: &Self::Key) -> Option<Self::Observed>;
    /// Adds what no cache has: reads of the API, and what takes long or needs chance. Nothing is
    /// written here. After an error the key comes again later.
    fn gather(
        &self,
        client: &Client,
        observed: Self::Observed,
    ) -> impl Future<Output = Result<Self::Observed, kube::Error>> + Send {
        // Most have it all in their caches.
        let _ = client;
        std::future::ready(Ok(observed))
    }
    /// `now_millis` since the epoch.
    fn plan(&self, observed: &Self::Observed, now_millis: i64) -> Plan;
    /// An action of a plan has failed; its key comes again later. For controllers that say so in a
    /// status, or look closer the next time.
    fn failed(&self, key: &Self::Key, target: &Target, error: &kube::Error) {
        let _ = (key, target, error);
    }
    /// What is to be counted when a plan has been carried out; for controllers with figures of their
    /// own. Each has those of its queue anyhow.
    fn metrics(&self, observed: &Self::Observed, plan: &Plan) -> Option<Count> {
        let _ = (observed, plan);
        None
    }
    /// Keys that are worked on at once.
    fn workers(&self) -> usize {
        4
    }
}

/// Counts what came of a plan: how long it took from looking to the last action, and whether all of it
/// went well.
pub type Count = Box<dyn FnOnce(Duration, bool) + Send>;

/// Between looks at expectations when no change woke the key.
const EXPECT_AGAIN: Duration = Duration::from_millis(20);
/// Actions of one plan that run at once.
const AT_ONCE: usize = 16;

/// What became of the stages of a plan so far.
#[derive(Default)]
struct Outcome {
    first_error: Option<kube::Error>,
    failed: Vec<Target>,
}

impl Outcome {
    /// The first error counts; that a namespace ends only where there is no other, since that is no
    /// reason for another try.
    fn note(&mut self, error: kube::Error) {
        if self.first_error.as_ref().is_none_or(client::namespace_ends) {
            self.first_error = Some(error);
        }
    }
}

struct Shell<C: Controller> {
    controller: C,
    client: Client,
    recorder: Recorder,
    queue: Queue<C::Key>,
    look_up: LookUps,
    expectations: Mutex<HashMap<C::Key, Vec<Expectation>>>,
    made: LastCreated<C::Key>,
}

/// Runs a controller until `shutdown`, by the recorder's clock.
pub async fn run<C: Controller>(
    controller: C,
    client: Client,
    recorder: Recorder,
    shutdown: CancellationToken,
) {
    let queue = Queue::named(C::QUEUE);
    let mut watches = Watches {
        queue: queue.clone(),
        tasks: JoinSet::new(),
        look_up: HashMap::new(),
        synced: Vec::new(),
    };
    controller.watches(&mut watches);
    let Watches {
        tasks,
        look_up,
        synced,
        ..
    } = watches;
    tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        _ = futures::future::join_all(synced) => {}
    }
    let workers = controller.workers();
    let expectations = Mutex::default();
    let shell = Arc::new(Shell {
        controller,
        client,
        recorder,
        queue,
        look_up,
        expectations,
        made: LastCreated::default(),
    });
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let (shell, shutdown) = (shell.clone(), shutdown.clone());
        running.spawn(async move {
            loop {
                let key = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return,
                    key = shell.queue.next() => key,
                };
                shell.work(&key).await;
                shell.queue.done(&key);
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        if let Err(e) = ended {
            tracing::error!(controller = C::NAME, "a worker ended badly: {e}");
        }
    }
    drop(tasks);
}

impl<C: Controller> Shell<C> {
    async fn work(&self, key: &C::Key) {
        if !self.expectations_met(key) {
            self.queue.add_after(key.clone(), EXPECT_AGAIN);
            return;
        }
        let began = Instant::now();
        let mut count = None;
        let plan = match self.observed(key).await {
            Ok(Some(observed)) => {
                let now_millis = self.recorder.clock().millis();
                let plan = self.controller.plan(&observed, now_millis);
                count = self.controller.metrics(&observed, &plan);
                plan
            }
            Ok(None) => {
                self.made.forget(key);
                Plan::nothing()
            }
            Err(e) => {
                log_failure(C::NAME, key, &e);
                self.queue.retry(key.clone());
                return;
            }
        };
        if !plan.reasons.is_empty() {
            tracing::debug!(controller = C::NAME, ?key, "{}", plan.reasons.join("; "));
        }
        let wake = plan.wake_after_millis;
        let done = self.execute_traced(key, plan).await;
        if let Some(count) = count {
            count(began.elapsed(), done.is_ok());
        }
        match done {
            Ok(()) => {
                self.queue.forget(key);
                if let Some(millis) = wake {
                    let wait = self.not_at_once(key, Duration::from_millis(millis));
                    self.queue.add_after(key.clone(), wait);
                }
            }
            Err(e) => {
                log_failure(C::NAME, key, &e);
                self.queue.retry(key.clone());
            }
        }
    }

    async fn observed(&self, key: &C::Key) -> Result<Option<C::Observed>, kube::Error> {
        match self.controller.observe(key) {
            None => Ok(None),
            Some(observed) => {
                let gathered = self.controller.gather(&self.client, observed).await?;
                Ok(Some(gathered))
            }
        }
    }

    /// Where nothing of what was done is waited for, as when all of it had gone already and the caches do
    /// not know it yet, the same would be done again, and again, until they do.
    fn not_at_once(&self, key: &C::Key, wait: Duration) -> Duration {
        match self.expectations.lock().contains_key(key) {
            true => wait,
            false => wait.max(EXPECT_AGAIN),
        }
    }

    fn expectations_met(&self, key: &C::Key) -> bool {
        let mut all = self.expectations.lock();
        let Some(list) = all.get_mut(key) else {
            return true;
        };
        list.retain(|e| !e.is_met(&self.look_up));
        if list.is_empty() {
            all.remove(key);
            return true;
        }
        false
    }

    /// As [`Self::execute`], under a span of its own where that is wanted.
    async fn execute_traced(&self, key: &C::Key, plan: Plan) -> Result<(), kube::Error> {
        let span = match plan.is_empty() {
            true => None,
            false => self.recorder.tracer().own_work("reconcile"),
        };
        let Some(span) = span else {
            return self.execute(key, plan).await;
        };
        span.set("tiphys.controller", C::NAME);
        span.set("tiphys.key", format!("{key:?}"));
        let done = span.over(Box::pin(self.execute(key, plan))).await;
        if let Err(e) = &done {
            span.failed(e.to_string());
        }
        span.end();
        done
    }

    /// Does all of it; the first error is returned after everything was tried.
    async fn execute(&self, key: &C::Key, mut plan: Plan) -> Result<(), kube::Error> {
        let gone_owner = self.gone_owner(key, &plan).await?;
        let holds_back = gone_owner.is_some();
        if let Some(seen) = gone_owner {
            tracing::debug!(
                controller = C::NAME,
                ?key,
                "its owner goes: nothing is made or adopted"
            );
            self.expect(key, seen);
            plan.give_nothing();
        }
        let mut outcome = Outcome::default();
        self.stage(key, plan.actions, &mut outcome).await;
        if outcome.first_error.is_some() {
            self.stage(key, plan.otherwise, &mut outcome).await;
        } else if !holds_back {
            self.stage(key, plan.then, &mut outcome).await;
        }
        self.stage(key, plan.last, &mut outcome).await;
        // In a namespace that ends no further try would do better.
        let error = outcome.first_error.filter(|e| !client::namespace_ends(e));
        error.map_or(Ok(()), Err)
    }

    /// Does actions side by side, but creations slowly at first; what an earlier one failed on stays
    /// as it is. Events come after: where the status of the object that one is on was not written, the
    /// next try says both.
    async fn stage(&self, key: &C::Key, actions: Vec<Action>, outcome: &mut Outcome) {
        let is_event = |action: &Action| matches!(action, Action::Event { .. });
        let (events, mut actions): (Vec<Action>, Vec<Action>) =
            actions.into_iter().partition(is_event);
        // Whose status is not written.
        let mut unsaid: Vec<Target> = Vec::new();
        actions.retain(|action| {
            let is_left = action.target().is_some_and(|t| outcome.failed.contains(t));
            unsaid.extend(action.status_of().filter(|_| is_left).cloned());
            !is_left
        });
        let mut creations = SlowStart::of(&mut actions);
        actions.extend(creations.batch());
        while !actions.is_empty() {
            let act = |action: Action| async move {
                let (target, said) = (action.target().cloned(), action.status_of().cloned());
                let done = self.act(key, action).await;
                (target, said, done)
            };
            let batch = std::mem::take(&mut actions);
            let done: Vec<_> = futures::stream::iter(batch.into_iter().map(act))
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            for (target, said, done) in done {
                match done {
                    Ok(Some(expectation)) => self.expect(key, expectation),
                    Ok(None) => {}
                    Err(e) => {
                        unsaid.extend(said);
                        if let Some(target) = target {
                            self.controller.failed(key, &target, &e);
                            creations.failed(&target);
                            outcome.failed.push(target);
                        }
                        outcome.note(e);
                    }
                }
            }
            actions = creations.batch();
        }
        let is_said = |event: &Action| !unsaid.iter().any(|target| event.is_event_on(target));
        for event in events.into_iter().filter(is_said) {
            if let Err(e) = self.act(key, event).await {
                outcome.note(e);
            }
        }
    }

    /// Where the owner of what the plan makes or adopts has gone, or goes, though the caches do not
    /// know it: what they must see first.
    async fn gone_owner(
        &self,
        key: &C::Key,
        plan: &Plan,
    ) -> Result<Option<Expectation>, kube::Error> {
        let adopter = C::ADOPTS.then(|| adopter(plan)).flatten();
        let doubtful = adopter.or_else(|| self.made.doubtful_owner(key, plan, &self.look_up));
        let Some((owner, uid)) = doubtful else {
            return Ok(None);
        };
        let found = self.api(&owner).get_opt(&owner.name).await?;
        let lives = found.is_some_and(|o| {
            o.metadata.uid.as_ref() == Some(&uid) && o.metadata.deletion_timestamp.is_none()
        });
        Ok((!lives).then(|| expect(&owner, &owner.name, Expected::Gone(uid))))
    }

    fn expect(&self, key: &C::Key, expectation: Expectation) {
        let mut all = self.expectations.lock();
        all.entry(key.clone()).or_default().push(expectation);
    }

    fn api(&self, target: &Target) -> Api<DynamicObject> {
        if target.namespace.is_empty() {
            Api::all_with(self.client.clone(), &target.resource)
        } else {
            Api::namespaced_with(self.client.clone(), &target.namespace, &target.resource)
        }
    }

    async fn act(&self, key: &C::Key, action: Action) -> Result<Option<Expectation>, kube::Error> {
        match action {
            Action::Event {
                about,
                warning,
                reason,
                message,
            } => {
                self.recorder.event(&about, warning, reason, &message);
                Ok(None)
            }
            Action::Noted {
                action,
                about,
                success,
                failure,
            } => {
                let outcome = Box::pin(self.act(key, *action)).await;
                match &outcome {
                    Ok(_) => {
                        if let Some((reason, message)) = success {
                            self.recorder.event(&about, false, reason, &message);
                        }
                    }
                    Err(e) if client::namespace_ends(e) => {}
                    Err(e) => {
                        let message = failure.1.replace("{error}", &client::said(e));
                        self.recorder.event(&about, true, failure.0, &message);
                    }
                }
                outcome
            }
            Action::Create { target, object } => {
                let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
                let params = PostParams::default();
                match self.api(&target).create(&params, &object).await {
                    Ok(made) => {
                        self.made.note(key, &target, &made);
                        Ok(Some(expect_at_least(&target, &made)))
                    }
                    Err(e) => {
                        if is_open(&e) {
                            self.expect(key, expect_settled(&target));
                        }
                        Err(e)
                    }
                }
            }
            Action::Update {
                target,
                subresource,
                object,
            } => {
                let object: DynamicObject =
                    serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
                let (api, params) = (self.api(&target), PostParams::default());
                let made = match subresource {
                    "" => api.replace(&target.name, &params, &object).await,
                    sub => {
                        api.replace_subresource(sub, &target.name, &params, &object)
                            .await
                    }
                };
                match made {
                    Ok(made) => Ok(Some(expect_at_least(&target, &made))),
                    Err(e) if is_gone(&e) => Ok(None),
                    Err(e) => Err(e),
                }
            }
            Action::Patch {
                target,
                subresource,
                patch,
            } => {
                let (api, params) = (self.api(&target), PatchParams::default());
                let patch = match patch {
                    Patch::Merge(v) => kube::api::Patch::Merge(v),
                    Patch::Strategic(v) => kube::api::Patch::Strategic(v),
                    Patch::Json(v) => kube::api::Patch::Json(
                        serde_json::from_value(v).map_err(kube::Error::SerdeError)?,
                    ),
                };
                let made = match subresource {
                    "" => api.patch(&target.name, &params, &patch).await,
                    sub => {
                        api.patch_subresource(sub, &target.name, &params, &patch)
                            .await
                    }
                };
                match made {
                    Ok(made) => Ok(Some(expect_at_least(&target, &made))),
                    Err(e) if is_gone(&e) => Ok(None),
                    Err(e) => Err(e),
                }
            }
            Action::DeleteCollection {
                target,
                propagation,
            } => {
                let params = DeleteParams {
                    propagation_policy: propagation.map(policy_of),
                    ..DeleteParams::default()
                };
                let all = ListParams::default();
                match self.api(&target).delete_collection(&params, &all).await {
                    Err(kube::Error::Api(s)) if matches!(s.code, 404 | 405) => Ok(None),
                    outcome => outcome.map(|_| None),
                }
            }
            Action::Delete {
                target,
                uid,
                resource_version,
                grace_seconds,
                propagation,
            } => {
                let params = DeleteParams {
                    grace_period_seconds: grace_seconds,
                    propagation_policy: propagation.map(policy_of),
                    preconditions: Some(Preconditions {
                        uid: uid.clone(),
                        resource_version,
                    }),
                    ..DeleteParams::default()
                };
                match self.api(&target).delete(&target.name, &params).await {
                    Ok(_) => Ok(uid.map(|uid| expect(&target, &target.name, Expected::Gone(uid)))),
                    Err(e) if is_gone(&e) => Ok(None),
                    Err(e) => Err(e),
                }
            }
        }
    }
}

fn policy_of(propagation: Propagation) -> PropagationPolicy {
    match propagation {
        Propagation::Background => PropagationPolicy::Background,
        Propagation::Foreground => PropagationPolicy::Foreground,
        Propagation::Orphan => PropagationPolicy::Orphan,
    }
}

/// Logs why a key has to be tried again. Conflicts are usual; a store that is away is reported
/// by the server, a refusal where it arrives (`client::refusals`); what else the API does not
/// accept will not be better the next time.
fn log_failure(controller: &str, key: &impl Debug, e: &kube::Error) {
    match e {
        kube::Error::Api(s)
            if !matches!(s.code, 401 | 403 | 409) && (400..500).contains(&s.code) =>
        {
            tracing::warn!(controller, ?key, "{e}; tried again later");
        }
        _ => tracing::debug!(controller, ?key, "{e}; tried again later"),
    }
}

fn is_gone(e: &kube::Error) -> bool {
    matches!(e, kube::Error::Api(status) if status.code == 404)
}

/// Whether what was asked for may have been done, or may yet be.
fn is_open(e: &kube::Error) -> bool {
    match e {
        kube::Error::Api(status) => status.code == 504,
        kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) => false,
        _ => true,
    }
}
