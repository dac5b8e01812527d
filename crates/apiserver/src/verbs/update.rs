//! Update: replaces an object, or the part of it that a subresource names. Patches and other
//! changes of stored objects take the same way ([`change`]).

use std::sync::Arc;

use api::{FieldError, FieldPath, GroupKind, Status};
use bytes::Bytes;
use registry::Scale;
use registry::meta::{validate_finalizer_names, validate_object_meta_update};
use registry::status_writes::keep_metadata;
use serde_json::Value;
use store::Compare;

use super::admit::Admission;
use super::commit::{self, ATTEMPTS, Change, Tried, gave_up, step_back, written};
use super::convert;
use super::create::create_value;
use super::decode::{decode, match_name, match_namespace};
use super::{managed_fields, owners};
use crate::admission::{Operation, Together};
use crate::cache::{Live, Object, encode_with};
use crate::call::{Answer, Call};
use crate::errors::from_store;
use crate::object::{meta, meta_mut, meta_text};
use crate::scaled::{put, scale_of};
use crate::state::State;
use crate::{allocations, codec};

/// Replaces an object from a request's body.
pub async fn update(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let dry_run = call.write_options()?;
    let mut new = decode(call, body)?;
    match_namespace(call, &mut new)?;
    match_name(call, &mut new)?;
    owners::once(call, &mut new, false);
    let (name, sub) = (&call.info.name, &call.info.subresource);
    for _ in 0..ATTEMPTS {
        let done = change(call, name, sub, dry_run, |_, old| {
            versioned(call, &new, old)?;
            Ok(new.clone())
        })
        .await;
        let (code, object) = match done {
            Err(s) if s.is("NotFound") && sub.is_empty() && call.row.put_creates => {
                match create_missing(call, new.clone(), dry_run).await {
                    // Somebody else was faster: replace what they made.
                    Err(s) if s.is("AlreadyExists") => continue,
                    made => (201, made?),
                }
            }
            done => (200, done?),
        };
        return Ok(Answer::Object { code, object });
    }
    Err(gave_up(call, name))
}

/// A replacement of what is not there, of a kind that is made by it.
async fn create_missing(call: &Call, mut new: Value, dry_run: bool) -> Result<Arc<Object>, Status> {
    let uid = meta_text(&new, "uid");
    if !uid.is_empty() {
        return Err(other_uid(call, &call.info.name, uid, ""));
    }
    call.may_also("create").await?;
    meta_mut(&mut new).remove("resourceVersion");
    create_value(call, new, dry_run, None).await
}

/// Of kinds that ask for it a replacement names the version that it replaces. A patch does so by
/// itself, being one of the object as it was read, unless it takes the version away.
pub(super) fn versioned(call: &Call, new: &Value, old: &Value) -> Result<(), Status> {
    let none = matches!(meta_text(new, "resourceVersion"), "" | "0");
    let uid = meta_text(new, "uid");
    // Another object's is answered so first.
    let same = uid.is_empty() || uid == meta_text(old, "uid");
    if !call.row.needs_version || !none || !same {
        return Ok(());
    }
    let path = FieldPath::new("metadata").child("resourceVersion");
    let error = FieldError::invalid(&path, &0.into(), "must be specified for an update");
    // By the resource's name, as upstream.
    let kind = GroupKind::new(&call.row.group, &call.row.resource);
    Err(Status::invalid(&kind, &call.info.name, &[error]))
}

fn other_uid(call: &Call, name: &str, wanted: &str, have: &str) -> Status {
    let why =
        format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {have}");
    Status::conflict(&call.resource(), name, &why)
}

/// What a stored object is to become.
pub struct ChangedObject {
    pub value: Value,
    /// Its managed fields, where they were recorded already (by an apply).
    pub managed: Option<Bytes>,
}

/// Changes a stored object: `make` gets the object and its value (storage version, without
/// managed fields) and gives the new value (in that version or in the request's); it runs again
/// when the write raced with another. A new value without managed fields keeps those of the object.
pub async fn change<F>(
    call: &Call,
    name: &str,
    subresource: &str,
    dry_run: bool,
    mut make: F,
) -> Result<Arc<Object>, Status>
where
    F: FnMut(&Object, &Value) -> Result<Value, Status> + Send,
{
    change_as(call, name, subresource, dry_run, |current, live| {
        let value = make(current, &live.value)?;
        Ok(ChangedObject {
            value,
            managed: None,
        })
    })
    .await
}

/// [`change`], also for writes that keep the record of managed fields themselves.
pub async fn change_as<F>(
    call: &Call,
    name: &str,
    subresource: &str,
    dry_run: bool,
    mut make: F,
) -> Result<Arc<Object>, Status>
where
    F: FnMut(&Object, &Live) -> Result<ChangedObject, Status> + Send,
{
    // What a refused transaction showed is newer than any cache.
    let mut shown = None;
    for attempt in 0..ATTEMPTS {
        step_back(&call.state, attempt).await;
        let current = match shown.take() {
            Some(current) => current,
            None => call.stored(name).await?,
        };
        let (stored, shown_as) = convert::both(call, &current).await?;
        let live = stored.to_live();
        let mut new = make(&shown_as, &live)?;
        new.value = convert::to_storage(call, new.value).await?;
        let write = Write {
            call,
            name,
            subresource,
            dry_run,
            current: &current,
            old: &live.value,
            managed: &live.managed,
        };
        match write.attempt(new).await? {
            Tried::Done(done) => return Ok(done),
            Tried::Raced(raced) => shown = raced.current,
        }
    }
    Err(gave_up(call, name))
}

struct Write<'a> {
    call: &'a Call,
    name: &'a str,
    subresource: &'a str,
    dry_run: bool,
    current: &'a Arc<Object>,
    old: &'a Value,
    managed: &'a Bytes,
}

impl Write<'_> {
    async fn attempt(&self, made: ChangedObject) -> Result<Tried<Arc<Object>>, Status> {
        let ChangedObject {
            value: mut new,
            managed,
        } = made;
        let (call, row, old) = (self.call, &*self.call.row, self.old);
        self.preconditions(&new)?;
        let mut admission = Admission::new(
            call,
            Operation::Update,
            self.subresource,
            self.name,
            self.dry_run,
        )
        .of(self.managed, self.current.revision);
        self.keep_server_fields(&mut new);
        if !self.bare() {
            codec::settle_changed(row, &mut new, old);
        }
        // Before admission and the kind's own rules: what those set is nobody's.
        admission.managed = match managed {
            Some(managed) => managed,
            None if self.bare() => self.managed.clone(),
            None => managed_fields::record(call, &mut new, old, self.managed, self.subresource),
        };
        self.mutate(&mut admission, &mut new).await?;
        owners::once(call, &mut new, true);
        let (cx, reads) = admission.context(&new, Some(old), self.hooks())?;
        if !self.bare() {
            row.strategy.prepare_update(&mut new, old, &cx);
            if self.subresource == "status" {
                keep_metadata(&mut new, old, row.strategy.status_leaves());
            }
            let features = &call.state.settings().features;
            registry::gated::drop_disabled(row, &mut new, Some(old), features)
                .into_iter()
                .for_each(|w| call.warn(w));
            self.keep_server_fields(&mut new);
            // What storage does not distinguish is not a change.
            codec::settle_changed(row, &mut new, old);
        }
        self.count_generation(&mut new);
        let mut errors = validate_object_meta_update(&new, old);
        errors.extend(validate_finalizer_names(row, &new));
        if !self.bare() {
            errors.extend(row.strategy.validate_change(&new, old, &cx));
        }
        call.check(self.name, &errors)?;
        if !self.bare() {
            registry::acted_on::warnings(row, &new, Some(old), self.subresource)
                .into_iter()
                .for_each(|w| call.warn(w));
        }
        self.judge(&mut admission, &mut new).await?;
        let managed = std::mem::take(&mut admission.managed);
        self.commit(new, managed, reads, admission.together()).await
    }

    /// The first step of admission. A binding was admitted as itself; of a write of the scale,
    /// admission sees the scale.
    async fn mutate(&self, admission: &mut Admission<'_>, new: &mut Value) -> Result<(), Status> {
        if self.bare() {
            return Ok(());
        }
        let Some(places) = self.scale() else {
            return admission.mutate(Some(new), Some(self.old)).await;
        };
        let mut part = scale_of(new, &places);
        let old = scale_of(self.old, &places);
        let managed = std::mem::take(&mut admission.managed);
        admission.mutate(Some(&mut part), Some(&old)).await?;
        admission.managed = managed;
        let replicas = part.pointer("/spec/replicas").and_then(Value::as_i64);
        put(new, &places.replicas, replicas.unwrap_or(0).into());
        Ok(())
    }

    /// The second step.
    async fn judge(&self, admission: &mut Admission<'_>, new: &mut Value) -> Result<(), Status> {
        if self.bare() {
            return Ok(());
        }
        let Some(places) = self.scale() else {
            return admission.validate(Some(new), Some(self.old)).await;
        };
        let mut part = scale_of(new, &places);
        let old = scale_of(self.old, &places);
        let managed = std::mem::take(&mut admission.managed);
        admission.validate(Some(&mut part), Some(&old)).await?;
        admission.managed = managed;
        Ok(())
    }

    fn scale(&self) -> Option<Scale> {
        let is_scale = self.subresource == "scale";
        is_scale.then(|| self.call.row.strategy.scale(&self.call.version.version))
    }

    /// A scale is a write of the object itself, by another name.
    fn hooks(&self) -> &str {
        if self.subresource == "scale" {
            ""
        } else {
            self.subresource
        }
    }

    /// A binding sets what no update of a pod may: the server makes the change itself, and the
    /// hooks for clients' changes do not judge it.
    fn bare(&self) -> bool {
        self.subresource == "binding"
    }

    async fn commit(
        &self,
        mut new: Value,
        managed: Bytes,
        reads: Vec<Compare>,
        together: Together,
    ) -> Result<Tried<Arc<Object>>, Status> {
        let (call, row, current) = (self.call, &*self.call.row, self.current);
        let gone = is_done(row, &new);
        let object = if gone { None } else { Some(&mut new) };
        let claims = allocations::plan(call, object, Some(self.old), self.name).await?;
        let claims = claims.with(together);
        codec::settle_changed(row, &mut new, self.old);
        let value = encode_with(&new, &managed);
        let is_same = !gone && value == *current.stored() && !current.is_refreshed();
        // What lies there in an older form is written even without a change: so it is migrated, and
        // encrypted with the key of today.
        if is_same && !self.is_outdated().await? {
            return Ok(Tried::Done(current.clone()));
        }
        let object = written(row, &current.key, &new, value, current.revision)?;
        if self.dry_run {
            return Ok(Tried::Done(Arc::new(object)));
        }
        let change = Change {
            object,
            gone,
            seen: current.revision,
        };
        commit::object(call, change, reads, claims).await
    }

    /// Whether the store has the object otherwise than it would be written now.
    async fn is_outdated(&self) -> Result<bool, Status> {
        let key = State::store_key(&self.call.row, &self.current.key);
        let found = self.call.state.store().is_outdated(key).await;
        found.map_err(|e| from_store(&e))
    }

    fn preconditions(&self, new: &Value) -> Result<(), Status> {
        let resource = self.call.resource();
        for field in ["name", "namespace"] {
            let (now, was) = (meta_text(new, field), meta_text(self.old, field));
            if now != was && !now.is_empty() {
                let path = FieldPath::new("metadata").child(field);
                let e = FieldError::invalid_str(&path, now, "field is immutable");
                return self.call.check(self.name, &[e]);
            }
        }
        let (uid, have) = (meta_text(new, "uid"), meta_text(self.old, "uid"));
        if !uid.is_empty() && uid != have {
            return Err(other_uid(self.call, self.name, uid, have));
        }
        let asked = meta_text(new, "resourceVersion");
        if !asked.is_empty() && asked != self.current.revision.to_string() && asked != "0" {
            if asked.parse::<u64>().is_err() {
                return Err(Status::bad_request(format!(
                    "metadata.resourceVersion: Invalid value: {asked:?}: must be an unsigned integer"
                )));
            }
            return Err(Status::stale(&resource, self.name));
        }
        Ok(())
    }

    /// What only the server sets stays as it is.
    fn keep_server_fields(&self, new: &mut Value) {
        let old = meta(self.old);
        let meta = meta_mut(new);
        for field in [
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "resourceVersion",
            "generateName",
        ] {
            match old.get(field) {
                Some(v) if meta.get(field) == Some(v) => {}
                Some(v) => {
                    meta.insert(field.into(), v.clone());
                }
                None => {
                    meta.remove(field);
                }
            }
        }
        meta.remove("selfLink");
    }

    fn count_generation(&self, new: &mut Value) {
        let strategy = &self.call.row.strategy;
        // To be bound is not a new wish of the pod's owner: its generation stays, as upstream.
        if self.bare() || !strategy.has_generation() {
            return;
        }
        let labels = |object: &Value| meta(object).get("labels").cloned();
        let relabelled = strategy.generation_counts_labels() && labels(new) != labels(self.old);
        if relabelled || !body_of(new).eq(body_of(self.old)) {
            let now = meta(self.old)
                .get("generation")
                .and_then(Value::as_i64)
                .unwrap_or(0);
            meta_mut(new).insert("generation".into(), (now + 1).into());
        }
    }
}

/// What an object asks for: all but its type, metadata and status.
fn body_of(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let aside = |k: &str| matches!(k, "kind" | "apiVersion" | "metadata" | "status");
    let members = object.as_object().into_iter().flatten();
    members.filter(move |(k, _)| !aside(k))
}

/// An object that is being deleted and that nothing holds any longer.
pub fn is_done(row: &registry::Row, object: &Value) -> bool {
    let meta = meta(object);
    let grace = meta
        .get("deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    meta.contains_key("deletionTimestamp") && grace == 0 && !is_held(row, object)
}

/// Finalizers hold an object; those of a namespace are also in its spec.
pub fn is_held(row: &registry::Row, object: &Value) -> bool {
    let some = |v: Option<&Value>| v.and_then(Value::as_array).is_some_and(|a| !a.is_empty());
    some(meta(object).get("finalizers"))
        || row.subresource("finalize").is_some() && some(object.pointer("/spec/finalizers"))
}
