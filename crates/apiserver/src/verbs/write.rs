//! What all writes share: the context of the hooks, the metadata that the server keeps, checks,
//! and the one transaction in which an object and its claims are committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use registry::{Context, Row};
use serde_json::Value;
use store::{Compare, KeyValue, Op, Outcome, Txn};

use crate::admission::{Found, Need, Operation, Review};
use crate::cache::{BadValue, Object};
use crate::call::Call;
use crate::claims::Planned;
use crate::codec::{Expected, Strictness};
use crate::errors::from_store;
use crate::fence;
use crate::state::State;

/// How often a write is tried again when it raced with others. Each lost race is somebody else's
/// success; a client that named no revision is not told of it, as upstream (which tries for as
/// long as the request may take).
pub const ATTEMPTS: u32 = 100;
/// Lost races after which a writer steps back for a moment, and how long that is at most.
const PATIENCE: u32 = 3;
const STEP_BACK: Duration = Duration::from_millis(20);

/// What the body of a call's own kind must be.
pub fn expected<'a>(call: &'a Call, api_version: &'a str) -> Expected<'a> {
    Expected {
        api_version,
        kind: &call.row.kind,
        ty: &call.version.ty,
    }
}

/// Decodes a body of the call's own kind, in its storage version, with defaults.
pub fn decode(call: &Call, body: &[u8]) -> Result<Value, Status> {
    let strictness = Strictness::read(&call.info.verb, call.query.get("fieldValidation"))?;
    let api_version = call.group_version().to_string();
    let mut warnings = Vec::new();
    let decoded = crate::codec::decode(
        call.content_type(),
        body,
        &expected(call, &api_version),
        strictness,
        &mut warnings,
    );
    warnings.into_iter().for_each(|w| call.warn(w));
    Ok(to_storage(call, decoded?))
}

/// From the request's version to the stored one, with defaults.
pub fn to_storage(call: &Call, mut value: Value) -> Value {
    let row = &call.row;
    if !call.in_storage_version() {
        row.strategy
            .convert(&mut value, &row.storage_version, &row.storage_group);
    }
    row.strategy.default(&mut value);
    value
}

/// What hooks may know, and the comparisons that keep it true until the commit.
pub fn context<'a>(
    call: &'a Call,
    object: &Value,
    old: Option<&Value>,
    subresource: &'a str,
    dry_run: bool,
) -> (Context<'a>, Vec<Compare>) {
    let (mut read, mut compare) = (BTreeMap::new(), Vec::new());
    for r in call.row.strategy.reads(object, old) {
        let Some(row) = call.kinds.resource(&r.group, &r.resource) else {
            continue;
        };
        let key = row.key(&r.namespace, &r.name);
        let found = call.server.cache().of(row).and_then(|c| c.get(&key));
        let revision = found.as_ref().map_or(0, |o| o.revision);
        compare.push(Compare::ModRevision(State::store_key(row, &key), revision));
        if let Some(o) = found {
            read.insert(r.label, o.to_value());
        }
    }
    let context = Context {
        now: call.server.now(),
        namespace: &call.info.namespace,
        user: &call.user.name,
        groups: &call.user.groups,
        read,
        subresource,
        dry_run,
    };
    (context, compare)
}

/// The text and identity of a write for admission.
pub struct Admission<'a> {
    call: &'a Call,
    operation: Operation,
    subresource: &'a str,
    name: &'a str,
    dry_run: bool,
    found: Found,
    relied: Vec<Compare>,
}

impl<'a> Admission<'a> {
    pub fn new(
        call: &'a Call,
        operation: Operation,
        subresource: &'a str,
        name: &'a str,
        dry_run: bool,
    ) -> Self {
        Self {
            call,
            operation,
            subresource,
            name,
            dry_run,
            found: Found::new(),
            relied: Vec::new(),
        }
    }

    /// The comparisons that keep true until the commit what the plugins relied on.
    pub fn relied(&mut self) -> Vec<Compare> {
        std::mem::take(&mut self.relied)
    }

    /// Reads what the plugins need, once for both steps.
    async fn fetch(&mut self, needs: Vec<Need>) {
        for Need { read, relied } in needs {
            let server = &self.call.server;
            let (group, resource) = (&read.group, &read.resource);
            let found = server
                .fresh(group, resource, &read.namespace, &read.name)
                .await;
            if relied && let Some(row) = self.call.kinds.resource(group, resource) {
                let key = row.key(&read.namespace, &read.name);
                let revision = found.as_ref().map_or(0, |o| o.revision);
                let key = State::store_key(row, &key);
                self.relied.push(Compare::ModRevision(key, revision));
            }
            if let Some(object) = found {
                self.found.insert(read.label, object);
            }
        }
    }

    /// Runs one step; `validating` chooses which.
    pub async fn run(
        &mut self,
        object: Option<&mut Value>,
        old: Option<&Value>,
        validating: bool,
    ) -> Result<(), Status> {
        let call = self.call;
        let plugins = &call.plugins.admission;
        if plugins.is_empty() {
            return Ok(());
        }
        if !validating {
            let (row, operation) = (&call.row, self.operation);
            let asked = plugins
                .iter()
                .filter(|p| p.handles(operation, row, self.subresource))
                .flat_map(|p| p.needs(operation, row, &call.info.namespace));
            self.fetch(asked.collect()).await;
        }
        let mut warnings = Vec::new();
        let mut review = Review {
            operation: self.operation,
            row: &call.row,
            version: &call.version.version,
            subresource: self.subresource,
            namespace: &call.info.namespace,
            name: self.name,
            user: &call.user,
            dry_run: self.dry_run,
            object,
            old,
            found: &self.found,
            warnings: &mut warnings,
        };
        let done = if validating {
            crate::admission::validate(plugins, &call.server, &mut review).await
        } else {
            crate::admission::mutate(plugins, &call.server, &mut review).await
        };
        warnings.into_iter().for_each(|w| call.warn(w));
        done
    }
}

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
pub async fn step_back(server: &State, attempt: u32) {
    if attempt >= PATIENCE {
        let most = STEP_BACK.min(Duration::from_millis(attempt.into()));
        tokio::time::sleep(most.mul_f64(server.random().fraction())).await;
    }
}

/// Commits a change of one object together with its claims, if the leadership that the call
/// depends on still holds. All verbs and subresources write here.
pub async fn commit(
    call: &Call,
    own: Compare,
    op: Op,
    reads: Vec<Compare>,
    claims: Planned,
) -> Result<Committed, Status> {
    let waits = crate::permissions::is_relied_on(&call.row, matches!(op, Op::Delete { .. }));
    let mut txn = Txn {
        compare: vec![own.clone()],
        ops: vec![op],
    };
    // The second, so that its answer is found again.
    txn.compare.extend(call.fence.as_ref().map(fence::compare));
    txn.compare.extend(reads);
    txn.compare.extend(claims.compare);
    txn.ops.extend(claims.ops);
    let outcome = call.server.store().commit(txn).await;
    drop(claims.guard);
    match outcome.map_err(|e| from_store(&e))? {
        Outcome::Committed(revision) => {
            if waits {
                // It is committed whether or not this server sees it in time.
                let _ = call.server.cache().reach(revision).await;
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
        // What changed is seen through the cache: the next try must not be as blind.
        let cache = call.server.cache();
        cache.reach_newest().await.map_err(|e| from_store(&e))?;
    }
    let current = first
        .map(|kv| Object::parse(&call.row, &key, kv.value.clone(), kv.mod_revision))
        .transpose()
        .map_err(|e| unusable(&e))?;
    let current = current.map(Arc::new);
    Ok(Raced { current })
}

/// The put of an object; events and their like expire.
pub fn put(row: &Row, key: &str, value: Bytes) -> Op {
    Op::Put {
        key: State::store_key(row, key),
        value,
        expires_after_seconds: row.expires_after_seconds,
    }
}

/// The object that was just written, as the cache will have it.
pub fn written(
    row: &Row,
    key: &str,
    object: &Value,
    encoded: Bytes,
    revision: u64,
) -> Result<Arc<Object>, Status> {
    Object::written(row, key, object, encoded, revision)
        .map(Arc::new)
        .map_err(|e| unusable(&e))
}

fn unusable(e: &BadValue) -> Status {
    tracing::error!("{e}");
    Status::internal("the object cannot be encoded")
}

/// Too many writes raced with this one.
pub fn gave_up(call: &Call, name: &str) -> Status {
    Status::stale(&call.resource(), name)
}
