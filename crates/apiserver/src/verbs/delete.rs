//! Delete: at once, after a grace period, or when the last finalizer is gone; one object or a
//! collection.

use std::sync::Arc;

use api::status::Details;
use api::{FieldError, FieldPath, GroupKind, Status};
use registry::Dependents;
use serde::Deserialize;
use serde_json::{Value, json};
use store::{Compare, Op};

use super::admit::Admission;
use super::commit::{
    self, ATTEMPTS, Change, Committed, Tried, commit, gave_up, step_back, written,
};
use super::update::is_held;
use super::{list, unreadable};
use crate::admission::Operation;
use crate::allocations;
use crate::cache::{Live, Object, encode_with};
use crate::call::{Answer, Call, List};
use crate::codec;
use crate::object::{meta, meta_mut, meta_text, time_text};
use crate::state::State;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    pub grace_period_seconds: Option<i64>,
    pub propagation_policy: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub preconditions: Option<Preconditions>,
    pub dry_run: Vec<String>,
    #[serde(rename = "ignoreStoreReadErrorWithClusterBreakingPotential")]
    pub ignore_read_errors: Option<bool>,
}

impl Options {
    /// As those who judge the deletion see them.
    fn to_json(&self, dry_run: bool) -> Value {
        let mut all = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        let mut put = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                all[field] = value;
            }
        };
        put(
            "gracePeriodSeconds",
            self.grace_period_seconds.map(Value::from),
        );
        let policy = self.propagation_policy.clone();
        put("propagationPolicy", policy.map(Value::from));
        put("orphanDependents", self.orphan_dependents.map(Value::from));
        let wanted = self.preconditions.as_ref().map(|p| {
            let mut wanted = json!({});
            for (field, value) in [("uid", &p.uid), ("resourceVersion", &p.resource_version)] {
                if let Some(value) = value {
                    wanted[field] = value.as_str().into();
                }
            }
            wanted
        });
        put("preconditions", wanted);
        put("dryRun", dry_run.then(|| json!(["All"])));
        all
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

/// What came of a deletion.
enum Deleted {
    /// The last state.
    Gone(Arc<Object>),
    /// Held by finalizers or its grace period.
    Pending(Arc<Object>),
}

/// Deletes one object.
pub async fn delete(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let (options, dry_run) = options(call, body)?;
    if options.ignore_read_errors == Some(true) {
        return unreadable::remove(call).await;
    }
    warn(call, &options);
    match remove(call, &call.info.name, &options, dry_run).await? {
        Deleted::Pending(object) => {
            // Upstream says so for this old option alone, not for `propagationPolicy`.
            let code = match options.orphan_dependents {
                Some(false) => 202,
                _ => 200,
            };
            Ok(Answer::Object { code, object })
        }
        Deleted::Gone(object) if call.row.returns_deleted => {
            Ok(Answer::Object { code: 200, object })
        }
        Deleted::Gone(object) => {
            let mut s = Status::success();
            s.details = Some(Details {
                name: call.info.name.clone(),
                group: call.row.group.to_string(),
                kind: call.row.resource.to_string(),
                uid: meta_text(&object.to_value(), "uid").to_owned(),
                ..Details::default()
            });
            Ok(Answer::Status(s))
        }
    }
}

/// Deletes what a list of the same request would hold, one page of it with a limit; answers with
/// that list.
pub async fn collection(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let (options, dry_run) = options(call, body)?;
    if options.ignore_read_errors == Some(true) {
        let why = "is not allowed with DELETECOLLECTION, try again after removing the option";
        return Err(invalid(&[unreadable::wrong(why)]));
    }
    warn(call, &options);
    let mut listed = list::select(call).await?;
    let mut deleted = Vec::new();
    for o in std::mem::take(&mut listed.objects) {
        match remove(call, o.name(), &options, dry_run).await {
            Ok(Deleted::Gone(o) | Deleted::Pending(o)) => deleted.push(o),
            // Somebody else was faster.
            Err(s) if s.is("NotFound") => {}
            Err(s) => return Err(s),
        }
    }
    Ok(Answer::List(List {
        objects: deleted,
        ..listed
    }))
}

/// Deletes an object for the server itself, whatever admission would say: for subresources such as
/// eviction, which were admitted.
pub async fn with_options(
    call: &Call,
    name: &str,
    options: &Options,
    dry_run: bool,
) -> Result<(), Status> {
    let call = call.unjudged();
    remove(&call, name, options, dry_run).await.map(|_| ())
}

/// Warns of dependents that stay though the request did not ask for that.
fn warn(call: &Call, options: &Options) {
    if options.propagation_policy.is_none()
        && options.orphan_dependents.is_none()
        && let Some(text) = call.row.strategy.warns_on_delete()
    {
        call.warn(text.to_owned());
    }
}

/// Reads options from the body, or without one from the query; checks them.
fn options(call: &Call, body: &[u8]) -> Result<(Options, bool), Status> {
    let mut options = if body.is_empty() {
        from_query(call)?
    } else {
        from_body(call, body)?
    };
    options
        .dry_run
        .extend(call.query.all("dryRun").map(str::to_owned));
    let dry_run =
        crate::http::options::dry_run("delete", options.dry_run.iter().map(String::as_str))?;
    if !unreadable::is_enabled(&call.state) {
        options.ignore_read_errors = None;
    }
    check_options(&options)?;
    Ok((options, dry_run))
}

fn from_body(call: &Call, body: &[u8]) -> Result<Options, Status> {
    let value = codec::decode_options(call.content_type(), body)?;
    call.audit.request_body(&value);
    serde_json::from_value(value).map_err(|e| Status::bad_request(e.to_string()))
}

fn from_query(call: &Call) -> Result<Options, Status> {
    let grace = call
        .query
        .get("gracePeriodSeconds")
        .map(str::parse)
        .transpose();
    Ok(Options {
        grace_period_seconds: grace.map_err(|_| {
            Status::bad_request("gracePeriodSeconds: Invalid value: must be an integer")
        })?,
        propagation_policy: call.query.get("propagationPolicy").map(str::to_owned),
        orphan_dependents: call.query.tristate("orphanDependents"),
        ignore_read_errors: call.query.tristate(unreadable::OPTION),
        ..Options::default()
    })
}

fn check_options(options: &Options) -> Result<(), Status> {
    let mut errors = Vec::new();
    let path = FieldPath::new("propagationPolicy");
    if let Some(p) = &options.propagation_policy {
        if options.orphan_dependents.is_some() {
            let value = Value::String(p.clone());
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&path, &value, why));
        }
        if !matches!(p.as_str(), "Foreground" | "Background" | "Orphan") {
            let known = ["Background", "Foreground", "Orphan", "nil"];
            errors.push(FieldError::not_supported(&path, p, &known));
        }
    }
    if options.ignore_read_errors == Some(true) {
        let beside = [
            (!options.dry_run.is_empty(), "dryRun"),
            (options.propagation_policy.is_some(), "propagationPolicy"),
            (options.orphan_dependents.is_some(), "orphanDependents"),
            (options.grace_period_seconds.is_some(), "gracePeriodSeconds"),
            (options.preconditions.is_some(), "preconditions"),
        ];
        let beside = beside.into_iter().filter(|(is_set, _)| *is_set);
        let why = beside.map(|(_, field)| format!("cannot be set together with .{field}"));
        errors.extend(why.map(|why| unreadable::wrong(&why)));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(invalid(&errors)),
    }
}

fn invalid(errors: &[FieldError]) -> Status {
    let kind = GroupKind::new("meta.k8s.io", "DeleteOptions");
    Status::invalid(&kind, "", errors)
}

fn preconditions(
    call: &Call,
    name: &str,
    options: &Options,
    o: &Object,
    v: &Value,
) -> Result<(), Status> {
    let Some(want) = &options.preconditions else {
        return Ok(());
    };
    let uid = meta_text(v, "uid");
    let revision = o.revision.to_string();
    let why = match (&want.uid, &want.resource_version) {
        (Some(u), _) if u != uid => {
            format!("Precondition failed: UID in precondition: {u}, UID in object meta: {uid}")
        }
        (_, Some(r)) if *r != revision => format!(
            "Precondition failed: ResourceVersion in precondition: {r}, ResourceVersion in object meta: {revision}"
        ),
        _ => return Ok(()),
    };
    Err(Status::conflict(&call.resource(), name, &why))
}

async fn remove(
    call: &Call,
    name: &str,
    options: &Options,
    dry_run: bool,
) -> Result<Deleted, Status> {
    let mut shown = None;
    for attempt in 0..ATTEMPTS {
        step_back(&call.state, attempt).await;
        let current = match shown.take() {
            Some(current) => current,
            None => call.stored(name).await?,
        };
        let live = current.to_live();
        let old = &live.value;
        preconditions(call, name, options, &current, old)?;
        let mut admission = Admission::new(call, Operation::Delete, "", name, dry_run)
            .of(&live.managed, current.revision)
            .with_options(options.to_json(dry_run));
        admission.mutate(None, Some(old)).await?;
        admission.validate(None, Some(old)).await?;
        let step = plan(&call.row, old, options, call.state.now());
        match run(call, name, &current, &live, step, dry_run).await? {
            Tried::Done(done) => return Ok(done),
            Tried::Raced(raced) => shown = raced.current,
        }
    }
    Err(gave_up(call, name))
}

/// What a deletion does to an object.
#[derive(Debug, PartialEq)]
enum Step {
    Remove,
    /// Written instead: marked as being deleted.
    Mark(Value),
    /// It is being deleted already.
    Nothing,
}

/// Decides what a deletion does.
fn plan(row: &registry::Row, old: &Value, options: &Options, now: i64) -> Step {
    let mut new = old.clone();
    set_propagation(&mut new, options, row.strategy.dependents());
    let grace = row
        .strategy
        .effective_grace(old, options.grace_period_seconds)
        .unwrap_or(0)
        .max(0);
    let held = is_held(row, &new);
    if grace == 0 && !held {
        return Step::Remove;
    }
    let before = meta(old)
        .get("deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    if meta(old).contains_key("deletionTimestamp") {
        // A deadline only shortens.
        if before.is_some_and(|b| grace < b) {
            mark(&mut new, before.unwrap_or(0), grace);
        }
    } else {
        let meta = meta_mut(&mut new);
        meta.insert("deletionTimestamp".into(), time_text(now + grace).into());
        meta.insert("deletionGracePeriodSeconds".into(), grace.into());
        if let Some(g) = meta
            .get("generation")
            .and_then(Value::as_i64)
            .filter(|g| *g > 0)
        {
            meta.insert("generation".into(), (g + 1).into());
        }
        if row.subresource("finalize").is_some() {
            new["status"]["phase"] = "Terminating".into();
        }
    }
    if new == *old {
        Step::Nothing
    } else {
        Step::Mark(new)
    }
}

/// Moves the deadline of an object that is being deleted already.
fn mark(new: &mut Value, before: i64, grace: i64) {
    let seconds = meta_text(new, "deletionTimestamp")
        .parse::<jiff::Timestamp>()
        .map_or(0, jiff::Timestamp::as_second);
    let meta = meta_mut(new);
    meta.insert(
        "deletionTimestamp".into(),
        time_text(seconds - before + grace).into(),
    );
    meta.insert("deletionGracePeriodSeconds".into(), grace.into());
}

/// The finalizers that make the garbage collector orphan or delete dependents first.
fn set_propagation(new: &mut Value, options: &Options, dependents: Dependents) {
    let finalizers = meta(new).get("finalizers").and_then(Value::as_array);
    let decided = finalizers.is_some_and(|all| all.iter().any(|f| f == ORPHAN || f == FOREGROUND));
    let policy = match (
        options.propagation_policy.as_deref(),
        options.orphan_dependents,
    ) {
        _ if dependents == Dependents::None => "Background",
        (Some(p), _) => p,
        (None, Some(true)) => "Orphan",
        (None, Some(false)) => "Background",
        (None, None) if decided || dependents == Dependents::Delete => return,
        (None, None) => "Orphan",
    };
    let add = match policy {
        "Orphan" => Some(ORPHAN),
        "Foreground" => Some(FOREGROUND),
        _ => None,
    };
    let old = meta(new)
        .get("finalizers")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let mut all: Vec<Value> = old
        .into_iter()
        .filter(|f| *f != ORPHAN && *f != FOREGROUND)
        .collect();
    all.extend(add.map(Value::from));
    if all.is_empty() {
        meta_mut(new).remove("finalizers");
    } else {
        meta_mut(new).insert("finalizers".into(), all.into());
    }
}

/// Carries out a step.
async fn run(
    call: &Call,
    name: &str,
    current: &Arc<Object>,
    live: &Live,
    step: Step,
    dry_run: bool,
) -> Result<Tried<Deleted>, Status> {
    let row = &*call.row;
    let key = State::store_key(row, &current.key);
    let own = Compare::ModRevision(key.clone(), current.revision);
    match step {
        Step::Nothing => Ok(Tried::Done(Deleted::Pending(current.clone()))),
        Step::Remove => {
            if dry_run {
                return Ok(Tried::Done(Deleted::Gone(current.clone())));
            }
            let claims = allocations::plan(call, None, Some(&live.value), name).await?;
            match commit(call, own, Op::Delete { key }, Vec::new(), claims).await? {
                Committed::At(r) => Ok(Tried::Done(Deleted::Gone(Arc::new(current.at(r))))),
                Committed::Raced(raced) => Ok(Tried::Raced(raced)),
            }
        }
        Step::Mark(mut new) => {
            codec::settle(row, &mut new);
            let value = encode_with(&new, &live.managed);
            let object = written(row, &current.key, &new, value, current.revision)?;
            if dry_run {
                return Ok(Tried::Done(Deleted::Pending(Arc::new(object))));
            }
            let change = Change {
                object,
                gone: false,
                seen: current.revision,
            };
            match commit::object(call, change, Vec::new(), Default::default()).await? {
                Tried::Done(object) => Ok(Tried::Done(Deleted::Pending(object))),
                Tried::Raced(raced) => Ok(Tried::Raced(raced)),
            }
        }
    }
}
