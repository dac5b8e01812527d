//! The plan of a StatefulSet. Missing pods come in the order of their numbers and those too many
//! go in the reverse order, one at a time and each waiting for the one before, unless the set is
//! `Parallel`; then pods of an older revision go, from the highest number down to the partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::action::{Action, Plan, Target};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::claims::{self, Retention};
use super::identity::{self, revision_of};
use super::names::{first_ordinal, ordinal, pod_name};
use crate::common::{
    count, int_or_percent, is_available, is_deleting, is_finished, is_ready, nothing_if_zero,
    patch_status, phase, uid_of, wake_at, wake_when_available, was_refused,
};
use crate::failed_pods::Failures;
use crate::ownership::{Parent, any};
use crate::pods::{self, BURST};
use crate::revisions::{self, History, TemplateDefaults};

/// A set, and all that is or could be its own.
#[derive(Clone)]
pub struct Observed {
    pub set: Arc<StatefulSet>,
    pub pods: Vec<Arc<Pod>>,
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Claims of its pods, by name.
    pub claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
}

/// Whether the plan may go on after a pod.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    Wait,
}

struct Set<'a> {
    seen: &'a Observed,
    spec: &'a StatefulSetSpec,
    parent: &'a Parent,
    /// All own pods by their numbers.
    pods: BTreeMap<i32, &'a Arc<Pod>>,
    current: &'a ControllerRevision,
    update: &'a ControllerRevision,
    ordered: bool,
    failures: &'a Mutex<Failures>,
    now_millis: i64,
}

pub fn plan(
    seen: &Observed,
    failures: &Mutex<Failures>,
    defaults: TemplateDefaults,
    now_millis: i64,
) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = seen.set.spec.as_ref() else {
        return plan;
    };
    let parent = Parent::selecting(&*seen.set, Some(&spec.selector));
    let is_member = |p: &Pod| ordinal(&parent.name, p).is_some();
    let own = parent.claim(&seen.pods, is_member, any, &mut plan);
    let revisions = parent.claim(&seen.revisions, any, any, &mut plan);
    let history = History::filled(&revisions, &spec.template, defaults);
    if !parent.deleting {
        let (set, taken) = (&*seen.set, &seen.revisions);
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        if history.renew(&parent, set, &spec.template, taken, collisions, &mut plan) {
            return plan;
        }
    }
    let Some(update) = history.current else {
        return plan;
    };
    let published = seen.set.status.as_ref();
    let current = published.and_then(|s| history.find(s.current_revision.as_deref()?));
    let numbered = own
        .iter()
        .filter_map(|p| Some((ordinal(&parent.name, p)?, *p)));
    let set = Set {
        seen,
        spec,
        parent: &parent,
        pods: numbered.collect(),
        current: current.unwrap_or(update),
        update,
        ordered: spec.pod_management_policy.as_deref() != Some("Parallel"),
        failures,
        now_millis,
    };
    let mut rolled = Vec::new();
    if !parent.deleting {
        rolled = set.advance(&mut plan);
        let limit = spec.revision_history_limit.unwrap_or(10);
        plan.actions
            .extend(history.truncate(limit, |r| set.is_live(r)));
    }
    set.report_status(&rolled, &mut plan);
    plan
}

fn name_of(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

impl Set<'_> {
    fn wanted(&self) -> std::ops::Range<i32> {
        let first = first_ordinal(self.spec);
        first..first.saturating_add(self.spec.replicas.unwrap_or(1).max(0))
    }

    fn rolls(&self) -> bool {
        let strategy = self.spec.update_strategy.as_ref();
        strategy.and_then(|s| s.type_.as_deref()) != Some("OnDelete")
    }

    /// So many pods, from the first on, keep the current revision.
    fn partition(&self) -> Option<i32> {
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        rolling.map(|r| r.partition.unwrap_or(0))
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let least = self.spec.min_ready_seconds.unwrap_or(0);
        is_available(pod, least, self.now_millis)
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        self.is_available(pod) && !is_deleting(pod)
    }

    fn is_live(&self, revision: &ControllerRevision) -> bool {
        let name = name_of(revision);
        let mut pods = self.pods.values();
        name == name_of(self.current) || pods.any(|p| revision_of(p) == name)
    }

    /// One step; what it ends for the update's sake, by number.
    fn advance(&self, plan: &mut Plan) -> Vec<i32> {
        if self.fill(plan) == Then::Wait && self.ordered {
            return Vec::new();
        }
        if self.shrink(plan) == Then::Wait && self.ordered {
            return Vec::new();
        }
        let rolled = match self.rolls() {
            true => self.roll(),
            false => Vec::new(),
        };
        let pods = rolled.iter().filter_map(|number| self.pods.get(number));
        plan.actions.extend(pods.map(|pod| self.delete(pod)));
        rolled
    }

    /// Sees to every pod that the set wants.
    fn fill(&self, plan: &mut Plan) -> Then {
        let mut then = Then::GoOn;
        let mut missing = 0;
        for number in self.wanted() {
            let pod = self.pods.get(&number).map(|p| &***p);
            missing += usize::from(pod.is_none());
            if missing > BURST {
                return Then::Wait;
            }
            let after = match pod {
                Some(pod) => self.keep(number, pod, plan),
                None => self.bring(number, plan),
            };
            if after == Then::Wait {
                then = Then::Wait;
                if self.ordered {
                    break;
                }
            }
        }
        then
    }

    fn keep(&self, number: i32, pod: &Pod, plan: &mut Plan) -> Then {
        if is_finished(pod) {
            // Whatever its end was: the set wants it to run. The next one comes when it is gone.
            if !is_deleting(pod) && self.may_replace(number, pod, plan) {
                plan.actions.push(self.delete(pod));
            }
            return Then::Wait;
        }
        if phase(pod) == "Pending" {
            self.claims_of(number, Some(pod), plan);
        }
        let runs = phase(pod) == "Running" && is_ready(pod);
        if self.ordered && !(runs && self.is_healthy(pod)) {
            return Then::Wait;
        }
        if let Some(patch) = identity::labels_to_mend(pod, number) {
            let what = format!(
                "Update Pod {} in StatefulSet {}",
                pod_name(&self.parent.name, number),
                self.parent.name
            );
            plan.actions
                .push(Action::merge(pods::target(pod), patch).noted(
                    &self.parent.about,
                    ("SuccessfulUpdate", format!("{what} successful")),
                    ("FailedUpdate", format!("{what} failed error: {{error}}")),
                ));
        }
        self.own_claims(number, Some(pod), plan);
        Then::GoOn
    }

    /// Whether what ended makes room for the next at once. One that its node refused does not when
    /// that has happened a moment ago: the next one would meet the same refusal.
    fn may_replace(&self, number: i32, pod: &Pod, plan: &mut Plan) -> bool {
        if !was_refused(pod) {
            return true;
        }
        let key = format!("{}/{number}", self.parent.uid);
        let waits = self.failures.lock().replace(key, self.now_millis).err();
        let due = waits.map(|left| self.now_millis.saturating_add(left));
        wake_at(due, self.now_millis, plan);
        due.is_none()
    }

    /// The pod of a number that has none. Its claims come first.
    fn bring(&self, number: i32, plan: &mut Plan) -> Then {
        if !self.claims_of(number, None, plan) {
            return Then::Wait;
        }
        self.own_claims(number, None, plan);
        let keeps_current = self.rolls()
            && match self.partition() {
                Some(partition) => number < first_ordinal(self.spec).saturating_add(partition),
                None => {
                    let status = self.seen.set.status.as_ref();
                    let at_current = status.and_then(|s| s.current_replicas).unwrap_or(0);
                    number < first_ordinal(self.spec).saturating_add(at_current)
                }
            };
        let old = keeps_current
            .then(|| revisions::template_of(self.current))
            .flatten();
        let (template, revision): (&PodTemplateSpec, _) = match &old {
            Some(template) => (template, self.current),
            None => (&self.spec.template, self.update),
        };
        let name = name_of(revision);
        let pod = identity::new_pod(self.parent, self.spec, template, name, number);
        plan.actions.push(self.with_event(
            "Create",
            &pod_name(&self.parent.name, number),
            |name| Action::Create {
                target: Target::of::<Pod>(&self.parent.namespace, name),
                object: pod,
            },
        ));
        Then::Wait
    }

    fn with_event(&self, verb: &str, pod: &str, action: impl FnOnce(&str) -> Action) -> Action {
        let what = format!("{verb} Pod {pod} in StatefulSet {}", self.parent.name);
        let reasons = if verb == "Create" {
            ("SuccessfulCreate", "FailedCreate")
        } else {
            ("SuccessfulDelete", "FailedDelete")
        };
        action(pod).noted(
            &self.parent.about,
            (reasons.0, format!("{what} successful")),
            (reasons.1, format!("{what} failed error: {{error}}")),
        )
    }

    fn delete(&self, pod: &Pod) -> Action {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        self.with_event("Delete", name, |_| {
            Action::delete(pods::target(pod), Some(uid_of(pod)))
        })
    }

    /// Makes missing claims of a pod. True when all are there and may be used.
    fn claims_of(&self, number: i32, pod: Option<&Pod>, plan: &mut Plan) -> bool {
        let (name, uid) = (pod_name(&self.parent.name, number), claims::uid(pod));
        let owner = claims::owner(&name, &uid, false);
        let mut usable = true;
        for template in claims::templates(self.spec) {
            let claim = claims::name(template, &self.parent.name, number);
            let Some(claim) = self.seen.claims.get(&claim) else {
                plan.actions
                    .push(claims::create(self.parent, self.spec, template, number));
                usable = false;
                continue;
            };
            let scales = Retention::of(self.spec).deleted_when_scaled;
            if pod.is_none()
                && (is_deleting(&**claim) || (scales && claims::is_stale(claim, owner)))
            {
                // It wakes the plan when it is gone.
                plan.reasons.push(format!(
                    "claim {} of {name} is being deleted",
                    claims::volume(template)
                ));
                usable = false;
            }
        }
        usable
    }

    /// Gives the claims of a pod the owners that the retention policy asks for.
    fn own_claims(&self, number: i32, pod: Option<&Pod>, plan: &mut Plan) {
        let (name, uid) = (pod_name(&self.parent.name, number), claims::uid(pod));
        let owner = claims::owner(&name, &uid, !self.wanted().contains(&number));
        for template in claims::templates(self.spec) {
            let claim = self
                .seen
                .claims
                .get(&claims::name(template, &self.parent.name, number));
            let claim = claim.filter(|c| !is_deleting(&***c));
            let owners = claim.and_then(|c| {
                Some((
                    c,
                    claims::owners(c, self.parent, owner, Retention::of(self.spec))?,
                ))
            });
            plan.actions
                .extend(owners.map(|(claim, owners)| claims::give(claim, owners)));
        }
    }

    /// Deletes pods outside of the wanted numbers, the highest first.
    fn shrink(&self, plan: &mut Plan) -> Then {
        let wanted = self.wanted();
        let condemned = self.pods.iter().filter(|(n, _)| !wanted.contains(n));
        let condemned: Vec<(i32, &Arc<Pod>)> = condemned.map(|(n, p)| (*n, *p)).collect();
        for (number, pod) in &condemned {
            self.own_claims(*number, Some(pod), plan);
        }
        // A sick pod keeps healthy ones from being deleted, but not itself.
        let sick = condemned
            .iter()
            .find(|(_, p)| !self.is_healthy(p))
            .map(|(n, _)| *n);
        let mut deleted = 0;
        for (number, pod) in condemned.iter().rev() {
            if is_deleting(&***pod) {
                if self.ordered {
                    return Then::Wait;
                }
                continue;
            }
            let runs = phase(pod) == "Running" && is_ready(pod) && self.is_available(pod);
            if self.ordered && !runs && sick != Some(*number) {
                return Then::Wait;
            }
            plan.actions.push(self.delete(pod));
            deleted += 1;
            if self.ordered || deleted == BURST {
                return Then::Wait;
            }
        }
        Then::GoOn
    }

    /// Pods of an older revision that are to go, the highest number first: one at a time, or as many
    /// as `maxUnavailable` says.
    fn roll(&self) -> Vec<i32> {
        let wanted = self.wanted();
        let least = wanted.start.saturating_add(self.partition().unwrap_or(0));
        let strategy = self.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let most = rolling.and_then(|r| r.max_unavailable.as_ref());
        let Some(most) = most else {
            return self.roll_one(wanted, least).into_iter().collect();
        };
        let most = int_or_percent(most, self.spec.replicas.unwrap_or(1), false).max(1);
        let lacks = |n: &i32| self.pods.get(n).is_none_or(|p| !self.is_healthy(p));
        let unavailable = i32::try_from(wanted.clone().filter(lacks).take(BURST).count());
        let mut may_go = most - unavailable.unwrap_or(i32::MAX);
        let mut rolled = Vec::new();
        let range = least.min(wanted.end)..wanted.end;
        for (number, pod) in self.pods.range(range).rev().filter(|(_, p)| self.is_old(p)) {
            // One that is not available is missed by nobody.
            if self.is_available(pod) {
                if may_go <= 0 {
                    continue;
                }
                may_go -= 1;
            }
            rolled.push(*number);
        }
        rolled
    }

    fn is_old(&self, pod: &Pod) -> bool {
        // What has ended is replaced already.
        revision_of(pod) != name_of(self.update) && !is_deleting(pod) && !is_finished(pod)
    }

    fn roll_one(&self, wanted: std::ops::Range<i32>, least: i32) -> Option<i32> {
        for number in (least.max(wanted.start)..wanted.end).rev() {
            let pod = self.pods.get(&number)?;
            if self.is_old(pod) {
                return Some(number);
            }
            if !self.is_healthy(pod) {
                return None;
            }
        }
        None
    }

    /// Adds the status to the plan, if it says something new. What the update ends does not count at
    /// the current revision any more, as upstream's: the number says how many of the first pods
    /// [`Self::bring`] makes of that revision, and would have the same pod made and ended for ever.
    fn report_status(&self, rolled: &[i32], plan: &mut Plan) {
        let published = self.seen.set.status.clone().unwrap_or_default();
        let (current, update) = (name_of(self.current), name_of(self.update));
        let pods = || self.pods.values().filter(|p| !phase(p).is_empty());
        let runs = |p: &&&Arc<Pod>| phase(p) == "Running" && is_ready(p);
        let stays = |number: &i32, pod: &Pod| !is_deleting(pod) && !rolled.contains(number);
        let of = |revision: &str| {
            let of = self.pods.iter().filter(|(_, p)| !phase(p).is_empty());
            count(of.filter(|(n, p)| stays(n, p) && revision_of(p) == revision))
        };
        let (replicas, ready) = (count(pods()), count(pods().filter(runs)));
        let available = count(pods().filter(runs).filter(|p| self.is_available(p)));
        let updated = of(update);
        let wanted = self.spec.replicas.unwrap_or(1);
        let done = self.rolls() && [updated, ready, replicas].iter().all(|n| *n == wanted);
        let (at_current, current) = if done {
            (updated, update)
        } else {
            (of(current), current)
        };
        if ready > available {
            let least = self.spec.min_ready_seconds.unwrap_or(0);
            wake_when_available(self.pods.values().copied(), least, self.now_millis, plan);
        }
        let zero = |n: Option<i32>| n.unwrap_or(0);
        let same = published.observed_generation == self.seen.set.metadata.generation
            && published.replicas == replicas
            && zero(published.ready_replicas) == ready
            && zero(published.available_replicas) == available
            && zero(published.current_replicas) == at_current
            && zero(published.updated_replicas) == updated
            && published.current_revision.as_deref() == Some(current)
            && published.update_revision.as_deref() == Some(update);
        if same {
            return;
        }
        let status: Value = json!({
            "observedGeneration": self.seen.set.metadata.generation,
            "replicas": replicas, "availableReplicas": available,
            "readyReplicas": nothing_if_zero(ready),
            "currentReplicas": nothing_if_zero(at_current),
            "updatedReplicas": nothing_if_zero(updated),
            "currentRevision": current, "updateRevision": update,
            "collisionCount": published.collision_count.unwrap_or(0),
        });
        plan.last.push(patch_status(&*self.seen.set, &status));
    }
}
