//! Patch: JSON, merge and strategic merge patches, and server-side apply. The merging itself is
//! `patch`'s; here is what it is applied to, and how often.

use std::cell::OnceCell;

use api::{FieldError, FieldPath, GroupKind, Status};
use bytes::Bytes;
use schema::Type;
use serde_json::Value;

use super::commit::{ATTEMPTS, gave_up};
use super::create::create_value;
use super::decode::{expected, match_name, match_namespace, to_storage};
use super::managed_fields;
use super::unpatchable;
use super::update::{ChangedObject, change, change_as, versioned};
use crate::call::{Answer, Call};
use crate::codec::{self, Strictness};
use crate::object::meta_text;
use crate::render;

/// The media type of a configuration that is applied.
pub const APPLY: &str = "application/apply-patch+yaml";

const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A patch, read from a body.
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads a patch; its kind is the content type's.
    pub fn read(call: &Call, body: &[u8]) -> Result<Self, Status> {
        // Schemas of custom kinds have no keys for strategic merges.
        let is_custom = call.row.strategy.is_custom();
        let make: fn(Value) -> Self = match call.content_type() {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            STRATEGIC if !is_custom => Self::Strategic,
            _ => {
                let strategic = match is_custom {
                    true => String::new(),
                    false => format!(", {STRATEGIC}"),
                };
                return Err(Status::unsupported_media_type(format!(
                    "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json{strategic}, application/apply-patch+yaml, application/apply-patch+cbor",
                )));
            }
        };
        let decoded = schema::decode::untyped(body)
            .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
        call.audit.request_body(&decoded.value);
        Ok(make(decoded.value))
    }

    /// Whether what the patch makes depends on the managed fields of the object. Merges replace
    /// them as a whole.
    fn reads_managed_fields(&self) -> bool {
        let Self::Json(Value::Array(operations)) = self else {
            return false;
        };
        // Some of them, or all of the object, or all of its metadata.
        let meets = |pointer: &str| {
            const MANAGED: &str = "/metadata/managedFields";
            pointer.starts_with(MANAGED) || MANAGED.starts_with(pointer)
        };
        operations.iter().any(|operation| {
            ["path", "from"]
                .iter()
                .filter_map(|member| operation.get(member)?.as_str())
                .any(meets)
        })
    }

    /// Applies the patch to a value of a type.
    fn apply(&self, ty: &Type, mut now: Value) -> Result<Value, Status> {
        let done = match self {
            Self::Json(p) => patch::json_patch(&mut now, p),
            Self::Merge(p) => patch::merge_patch(&mut now, p),
            Self::Strategic(p) => patch::strategic(ty.table(), ty.id(), &mut now, p),
        };
        if let Err(e) = &done {
            tracing::debug!("patch: {e}");
        }
        done.map(|()| now).map_err(|e| e.status())
    }

    /// Applies the patch to the body of a subresource of another kind.
    pub fn apply_to_part(&self, call: &Call, now: Value) -> Result<Value, Status> {
        let ty = call.subresource().and_then(|s| s.ty.as_ref());
        self.apply(ty.ok_or_else(Status::no_such_path)?, now)
    }
}

/// Patches an object, or the part of it that a subresource names.
pub async fn patch(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let dry_run = call.write_options()?;
    let strictness = Strictness::read(&call.info.verb, call.query.get("fieldValidation"))?;
    check_options(call)?;
    if call.content_type() == APPLY {
        return apply(call, body, strictness, dry_run).await;
    }
    let patch = Patch::read(call, body)?;
    let mut warnings = Vec::new();
    let name = &call.info.name;
    let sub = &call.info.subresource;
    let object = change(call, name, sub, dry_run, |current, old| {
        // In the storage version it is parsed already.
        let stored = call.in_storage_version().then_some(old);
        let now = match stored.filter(|_| !patch.reads_managed_fields()) {
            Some(stored) => stored.clone(),
            None => render::value_of(&call.row, &call.version, current),
        };
        let new = patch.apply(&call.version.ty, now)?;
        let why = OnceCell::new();
        let done = checked(call, new, stored, strictness, &mut warnings, &why).and_then(|new| {
            versioned(call, &new, old)?;
            Ok(new)
        });
        let Some(why) = why.get().filter(|_| !call.row.strategy.is_custom()) else {
            return done;
        };
        // Made once more, to be shown: this is rare, and a copy of each result would not be.
        let now = render::value_of(&call.row, &call.version, current);
        let new = patch.apply(&call.version.ty, now)?;
        Err(unpatchable::refusal(&patch, &call.version.ty, &new, why))
    })
    .await?;
    warnings.into_iter().for_each(|w| call.warn(w));
    Ok(Answer::Object { code: 200, object })
}

/// A value that a patch made, decoded, in the storage version. If it is not an object of the kind, `why`
/// says why.
fn checked(
    call: &Call,
    new: Value,
    stored: Option<&Value>,
    strictness: Strictness,
    warnings: &mut Vec<String>,
    why: &OnceCell<String>,
) -> Result<Value, Status> {
    let api_version = call.group_version().to_string();
    // Only the last try's warnings count.
    warnings.clear();
    let new = codec::decode_value(
        new,
        stored,
        &expected(call, &api_version),
        strictness,
        warnings,
        why,
    )?;
    Ok(to_storage(call, new))
}

/// Refuses the options of one kind of patch on another.
pub fn check_options(call: &Call) -> Result<(), Status> {
    let mut errors = Vec::new();
    if call.content_type() == APPLY {
        if call.query.get("fieldManager").is_none() {
            let path = FieldPath::new("fieldManager");
            errors.push(FieldError::required(&path, "is required for apply patch"));
        }
    } else if call.query.tristate("force").is_some() {
        let path = FieldPath::new("force");
        errors.push(FieldError::forbidden(
            &path,
            "may not be specified for non-apply patch",
        ));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(
        &GroupKind::new("meta.k8s.io", "PatchOptions"),
        "",
        &errors,
    ))
}

/// A configuration that names the object which it is of is not for another one, made in its place.
fn is_of_nobody(call: &Call, new: &Value) -> Result<(), Status> {
    let uid = meta_text(new, "uid");
    if uid.is_empty() {
        return Ok(());
    }
    // Upstream's words.
    let why = format!(
        "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
    );
    Err(Status::conflict(&call.resource(), &call.info.name, &why))
}

/// Server-side apply: makes the object when there is none.
async fn apply(
    call: &Call,
    body: &[u8],
    strictness: Strictness,
    dry_run: bool,
) -> Result<Answer, Status> {
    let force = call.query.flag("force");
    let api_version = call.group_version().to_string();
    let mut early = Vec::new();
    let expect = expected(call, &api_version);
    let mut config = codec::read_config(body, &expect, strictness, &mut early)?;
    call.audit.request_body(&config);
    if config.is_object() {
        match_name(call, &mut config)?;
        match_namespace(call, &mut config)?;
    }
    let (name, sub) = (&call.info.name, &call.info.subresource);
    for _ in 0..ATTEMPTS {
        let mut warnings = Vec::new();
        let done = change_as(call, name, sub, dry_run, |current, live| {
            let now = render::value_of(&call.row, &call.version, current);
            let (new, managed) = managed_fields::apply(call, &now, &live.managed, &config, force)?;
            let value = checked(call, new, None, strictness, &mut warnings, &OnceCell::new())?;
            versioned(call, &value, &live.value)?;
            Ok(ChangedObject {
                value,
                managed: Some(managed),
            })
        })
        .await;
        let (code, object) = match done {
            Err(s) if s.is("NotFound") && sub.is_empty() => {
                call.may_also("create").await?;
                let none = Bytes::new();
                let (new, managed) =
                    managed_fields::apply(call, &Value::Null, &none, &config, force)?;
                let new = checked(call, new, None, strictness, &mut warnings, &OnceCell::new())?;
                is_of_nobody(call, &new)?;
                match create_value(call, new, dry_run, Some(managed)).await {
                    // Somebody else was faster: apply to what they made.
                    Err(s) if s.is("AlreadyExists") => continue,
                    made => (201, made?),
                }
            }
            done => (200, done?),
        };
        early.into_iter().chain(warnings).for_each(|w| call.warn(w));
        return Ok(Answer::Object { code, object });
    }
    Err(gave_up(call, name))
}
