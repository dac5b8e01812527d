//! ResourceQuota: what a write uses is added to the quotas of its namespace in the very transaction
//! of the write, so that no quota is ever exceeded, on however many servers, and nothing is charged
//! for what was not written. The rules are the crate `quota`'s.
//!
//! What makes the count exact beside the controller that counts again:
//! - each write that a quota counts changes that quota's revision, also while its status is still
//!   to come; so a count that missed the write cannot be stored over it;
//! - a quota that comes, or counts something else from now on, changes its namespace's revision,
//!   and each write that uses more compares that: none can be committed that did not know it.
//!
//! Writers of one namespace take turns, in which they would otherwise only race with each other;
//! those of other namespaces, and of namespaces without quotas, do not wait.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::Status;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quota::devices::made_for;
use quota::{Charge, Devices, Evaluator, Limited, Quota, Refusal, Verdict, WriteRequest, check};
use registry::Row;
use serde_json::Value;
use store::{Compare, Op};
use tokio::sync::OwnedMutexGuard;

use super::{Admit, Operation, Review};
use crate::cache::{Object, encode_with};
use crate::state::State;

/// Longest wait for a turn; as upstream. A turn is one commit.
const TURN_AT_MOST: Duration = Duration::from_secs(10);
/// Namespaces whose turns are remembered before those that nobody waits for are forgotten.
const TURNS: usize = 1024;

type Turn = tokio::sync::Mutex<()>;

pub struct ResourceQuota {
    /// What may be used only where a quota covers it.
    limited: Vec<Limited>,
    /// By namespace.
    turns: Mutex<HashMap<String, Weak<Turn>>>,
}

impl ResourceQuota {
    pub fn new(limited: Vec<Limited>) -> Self {
        Self {
            limited,
            turns: Mutex::default(),
        }
    }
}

fn is_quotas(row: &Row) -> bool {
    row.group.is_empty() && &*row.resource == "resourcequotas"
}

impl Admit for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        if !row.namespaced || row.virtual_kind {
            return false;
        }
        match operation {
            Operation::Create => subresource.is_empty() && &*row.resource != "events",
            Operation::Update => match (&*row.group, &*row.resource) {
                ("", "pods") => matches!(subresource, "" | "resize"),
                ("", "persistentvolumeclaims") => matches!(subresource, "" | "status"),
                ("", "services" | "resourcequotas") => subresource.is_empty(),
                ("resource.k8s.io", "resourceclaims") => subresource.is_empty(),
                _ => false,
            },
            Operation::Delete | Operation::Connect => false,
        }
    }
    fn validate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(self.run(state, review))
    }
}

/// The quotas of a namespace and the namespace itself, as of one moment.
struct NamespaceQuotas {
    namespace: Option<Arc<Object>>,
    objects: Vec<Arc<Object>>,
    quotas: Vec<Quota>,
}

impl NamespaceQuotas {
    async fn look(state: &State, namespace: &str) -> Result<Self, Status> {
        let found = state.lookup("", "namespaces", "", namespace);
        // Whoever sees the namespace at a revision sees all quotas of that revision.
        if let Some(found) = &found {
            state.reach(found.revision).await?;
        }
        let objects = state.all_of("", "resourcequotas", namespace)?;
        let quotas = objects.iter().map(|o| Quota::read(&o.to_value()));
        Ok(Self {
            namespace: found,
            quotas: quotas.collect(),
            objects,
        })
    }
}

fn key(state: &State, resource: &str, object: &Object) -> Option<bytes::Bytes> {
    let kinds = state.kinds();
    let row = kinds.resource("", resource)?;
    Some(State::store_key(row, &object.key))
}

/// Claims of devices are counted by what their classes stand for, and what the pod has been counted
/// for that one was made for. Nothing where nobody counts, or other objects.
fn informed(
    state: &State,
    review: &Review<'_>,
    evaluator: &Evaluator,
    seen: &NamespaceQuotas,
) -> Result<Option<Evaluator>, Status> {
    if seen.quotas.is_empty() || !matches!(evaluator, Evaluator::DeviceClaims(_)) {
        return Ok(None);
    }
    let group = "resource.k8s.io";
    let values =
        |found: Vec<Arc<Object>>| -> Vec<Value> { found.iter().map(|o| o.to_value()).collect() };
    let classes = values(state.all_of(group, "deviceclasses", "")?);
    let mut devices = Devices::of(&classes);
    let claim = review.object.as_deref().unwrap_or(&Value::Null);
    let name = made_for(claim).map(|(name, _)| name);
    let pod = name.and_then(|name| state.lookup("", "pods", review.namespace, name));
    if let Some(pod) = pod {
        let claims = values(state.all_of(group, "resourceclaims", review.namespace)?);
        devices.note(claim, &pod.to_value(), &claims, state.now());
    }
    Ok(Some(Evaluator::DeviceClaims(Some(Arc::new(devices)))))
}

/// The namespace stays as it was seen, until the write is committed.
fn rely_on_namespace(state: &State, seen: &NamespaceQuotas, review: &mut Review<'_>) {
    if let Some(namespace) = &seen.namespace
        && let Some(key) = key(state, "namespaces", namespace)
    {
        let compare = Compare::ModRevision(key, namespace.revision);
        review.together.compare.push(compare);
    }
}

impl ResourceQuota {
    async fn run(&self, state: &State, review: &mut Review<'_>) -> Result<(), Status> {
        let Some(evaluator) = Evaluator::of(&review.row.group, &review.row.resource) else {
            return Ok(());
        };
        let (seen, verdict) = self.judge(state, review, &evaluator).await?;
        if review.dry_run {
            return Ok(());
        }
        if is_quotas(review.row) && announces(review) {
            rely_on_namespace(state, &seen, review);
            announce(state, &seen, review);
        }
        if verdict.charges.is_empty() {
            if verdict.grows {
                rely_on_namespace(state, &seen, review);
            }
            return Ok(());
        }
        let turn = self.turn(review.namespace).await?;
        // Others had theirs meanwhile.
        let (seen, verdict) = self.judge(state, review, &evaluator).await?;
        rely_on_namespace(state, &seen, review);
        for charge in &verdict.charges {
            let change = write(state, &seen, charge)
                .ok_or_else(|| Status::internal("a quota that was read cannot be written"))?;
            review.together.compare.push(change.0);
            review.together.ops.push(change.1);
        }
        review.together.turn = Some(turn);
        Ok(())
    }

    /// Nobody is refused by what this server has not heard of yet.
    async fn judge(
        &self,
        state: &State,
        review: &Review<'_>,
        evaluator: &Evaluator,
    ) -> Result<(NamespaceQuotas, Verdict), Status> {
        let known = state.cache().revision();
        let seen = NamespaceQuotas::look(state, review.namespace).await?;
        let informed = self::informed(state, review, evaluator, &seen)?;
        let own = informed.as_ref().unwrap_or(evaluator);
        let refusal = match self.check(state, review, own, &seen) {
            Ok(verdict) => return Ok((seen, verdict)),
            Err(refusal) => refusal,
        };
        if !state.catch_up(known).await? {
            return Err(refused(review, refusal));
        }
        let seen = NamespaceQuotas::look(state, review.namespace).await?;
        let informed = self::informed(state, review, evaluator, &seen)?;
        let own = informed.as_ref().unwrap_or(evaluator);
        match self.check(state, review, own, &seen) {
            Ok(verdict) => Ok((seen, verdict)),
            Err(refusal) => Err(refused(review, refusal)),
        }
    }

    fn check(
        &self,
        state: &State,
        review: &Review<'_>,
        evaluator: &Evaluator,
        seen: &NamespaceQuotas,
    ) -> Result<Verdict, Refusal> {
        let operation = match review.operation {
            Operation::Create => quota::Operation::Create,
            _ => quota::Operation::Update,
        };
        let asked = WriteRequest {
            operation,
            group: &review.row.group,
            resource: &review.row.resource,
            subresource: review.subresource,
            object: review.object.as_deref().unwrap_or(&Value::Null),
            old: review.old,
            now_seconds: state.now(),
        };
        check(evaluator, &seen.quotas, &asked, &self.limited)
    }

    async fn turn(&self, namespace: &str) -> Result<OwnedMutexGuard<()>, Status> {
        let turn = {
            let mut turns = self.turns.lock();
            if turns.len() >= TURNS {
                turns.retain(|_, turn| turn.strong_count() > 0);
            }
            match turns.get(namespace).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(Turn::default());
                    turns.insert(namespace.to_owned(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        let turn = tokio::time::timeout(TURN_AT_MOST, turn.lock_owned()).await;
        turn.map_err(|_| Status::internal("resource quota evaluation timed out"))
    }
}

fn refused(review: &Review<'_>, refusal: Refusal) -> Status {
    match refusal {
        Refusal::Forbidden(why) => review.forbidden(&why),
        // Upstream says so in a plain error: a 500 without a reason.
        Refusal::Uncovered(why) => Status {
            code: 500,
            status: "Failure".into(),
            message: why,
            ..Status::default()
        },
    }
}

/// Whether the write of a quota lets it count something that it did not count before.
fn announces(review: &Review<'_>) -> bool {
    let spec = |object: Option<&Value>| object.and_then(|o| o.get("spec")).cloned();
    spec(review.object.as_deref()) != spec(review.old)
}

/// The namespace is written as it is: who has seen it before is refused, and looks again.
fn announce(state: &State, seen: &NamespaceQuotas, review: &mut Review<'_>) {
    if let Some(namespace) = &seen.namespace
        && let Some(key) = key(state, "namespaces", namespace)
    {
        review.together.ops.push(Op::Put {
            key,
            value: namespace.stored().clone(),
            expires_after_seconds: None,
        });
    }
}

/// The quota of a charge, as it was and as it is then.
fn write(state: &State, seen: &NamespaceQuotas, charge: &Charge) -> Option<(Compare, Op)> {
    let object = seen.objects.get(charge.quota)?;
    let key = key(state, "resourcequotas", object)?;
    let value = match &charge.used {
        None => object.stored().clone(),
        Some(used) => {
            let mut live = object.to_live();
            live.value["status"]["used"] = used.write();
            encode_with(&live.value, &live.managed)
        }
    };
    let compare = Compare::ModRevision(key.clone(), object.revision);
    let put = Op::Put {
        key,
        value,
        expires_after_seconds: None,
    };
    Some((compare, put))
}
