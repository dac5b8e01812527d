//! The one transaction in which an object and its claims are committed, and what happens when it
//! races with others. All verbs and subresources write here.

use std::sync::Arc;
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use registry::Row;
use serde_json::Value;
use store::{Compare, KeyValue, Op, Outcome, Txn};

use crate::allocations::Planned;
use crate::cache::{BadValue, Contents, Object};
use crate::call::Call;
use crate::errors::from_store;
use crate::fence;
use crate::permissions::is_relied_on;
use crate::state::State;

/// How often a write is tried again when it raced with others. Each lost race is somebody else's
/// success; a client that named no revision does not learn of it, as upstream (which tries for as
/// long as the request may take).
pub const ATTEMPTS: u32 = 100;
/// Lost races after which a writer steps back for a moment, and how long that is at most.
const PATIENCE: u32 = 3;
const STEP_BACK: Duration = Duration::from_millis(20);

/// What came of a commit.
pub enum Committed {
    At(u64),
    Raced(Raced),
}

/// A commit was refused: the object changed meanwhile, or something that the write relies on.
pub struct Raced {
    /// The object as it is.
    pub current: Option<Arc<Object>>,
}

/// One try of a write.
pub enum Tried<T> {
    Done(T),
    Raced(Raced),
}

/// Waits a moment before the next try when races are lost again and again.
pub async fn step_back(state: &State, attempt: u32) {
    if attempt >= PATIENCE {
        let most = STEP_BACK.min(Duration::from_millis(attempt.into()));
        tokio::time::sleep(most.mul_f64(state.random().fraction())).await;
    }
}

/// A change of one object, ready to be committed.
pub struct Change {
    /// The object as it is to be ([`written`]).
    pub object: Object,
    /// Nothing holds the object any longer: it is removed.
    pub gone: bool,
    /// The revision at which it was seen; 0: it must not exist.
    pub seen: u64,
}

/// Commits a change of one object together with its claims, if the leadership that the call
/// depends on still holds; gives the object as the cache will have it.
pub async fn object(
    call: &Call,
    change: Change,
    reads: Vec<Compare>,
    claims: Planned,
) -> Result<Tried<Arc<Object>>, Status> {
    let (row, object) = (&call.row, change.object);
    let key = State::store_key(row, &object.key);
    let own = Compare::ModRevision(key.clone(), change.seen);
    let op = if change.gone {
        Op::Delete { key }
    } else {
        call.state.cache().expect(row, object.at(0));
        Op::Put {
            key,
            value: object.stored().clone(),
            // Events and their like.
            expires_after_seconds: row.expires_after_seconds,
        }
    };
    Ok(match commit(call, own, op, reads, claims).await? {
        Committed::At(revision) => Tried::Done(Arc::new(object.written_at(revision))),
        Committed::Raced(raced) => Tried::Raced(raced),
    })
}

/// [`object`] for any operation.
pub async fn commit(
    call: &Call,
    own: Compare,
    op: Op,
    reads: Vec<Compare>,
    mut claims: Planned,
) -> Result<Committed, Status> {
    let waits = claims.turn.is_some() || is_relied_on(&call.row, matches!(op, Op::Delete { .. }));
    let mut txn = Txn {
        compare: vec![own.clone()],
        ops: vec![op],
    };
    // The second, so that its answer is found again.
    txn.compare.extend(call.fence.as_ref().map(fence::compare));
    for compare in reads.into_iter().chain(std::mem::take(&mut claims.compare)) {
        // Two rules may rely on the same object.
        if !txn.compare.contains(&compare) {
            txn.compare.push(compare);
        }
    }
    txn.ops.append(&mut claims.ops);
    let outcome = call.state.store().commit(txn).await;
    drop(claims.guard.take());
    match outcome.map_err(|e| from_store(&e))? {
        Outcome::Committed(revision) => {
            claims.count(&call.state);
            if waits {
                // It is committed whether or not this server sees it in time.
                let _ = call.state.cache().reach(revision).await;
            }
            Ok(Committed::At(revision))
        }
        Outcome::Refused(now) => refused(call, &own, &now).await.map(Committed::Raced),
    }
}

async fn refused(call: &Call, own: &Compare, now: &[Option<KeyValue>]) -> Result<Raced, Status> {
    let (Compare::ModRevision(key, _) | Compare::Exists(key)) = own;
    let prefix = format!("{}/", call.row.storage_prefix);
    let key = key.get(prefix.len()..).unwrap_or_default();
    let key = String::from_utf8_lossy(key);
    let first = now.first().and_then(Option::as_ref);
    if let Some(fence) = &call.fence
        && !fence::holds(fence, now.get(1).and_then(Option::as_ref))
    {
        let name = key.rsplit('/').next().unwrap_or_default();
        return Err(fence::lost(call, name, fence));
    }
    let holds = match own {
        Compare::ModRevision(_, want) => first.map_or(0, |kv| kv.mod_revision) == *want,
        Compare::Exists(_) => first.is_some(),
    };
    if holds {
        // What changed is seen through the cache, whose objects rules and allocations look through:
        // the next try must not be as blind.
        let cache = call.state.cache();
        cache.reach_newest().await.map_err(|e| from_store(&e))?;
    }
    let contents = Contents::of(&call.row, first.cloned().into_iter().collect());
    if let Some(unreadable) = contents.unreadable.first() {
        let name = key.rsplit('/').next().unwrap_or_default();
        return Err(match own {
            Compare::ModRevision(_, 0) => Status::already_exists(&call.resource(), name),
            Compare::ModRevision(..) | Compare::Exists(_) => unreadable.status(&call.row),
        });
    }
    let current = contents.objects.into_iter().next();
    Ok(Raced { current })
}

/// The object of a value that was just encoded.
pub fn written(
    row: &Row,
    key: &str,
    object: &Value,
    encoded: Bytes,
    revision: u64,
) -> Result<Object, Status> {
    Object::written(row, key, object, encoded, revision).map_err(|e| unusable(&e))
}

fn unusable(e: &BadValue) -> Status {
    tracing::error!("{e}");
    Status::internal("the object cannot be encoded")
}

/// Too many writes raced with this one.
pub fn gave_up(call: &Call, name: &str) -> Status {
    Status::stale(&call.resource(), name)
}
