//! Patch: JSON, merge and strategic merge patches, and server-side apply. The merging itself is
//! `patch`'s; here is what it is applied to, and how often.

use std::sync::Arc;

use api::Status;
use serde_json::Value;

use super::update::change;
use super::write::{expected, to_storage};
use crate::call::{Answer, Call};
use crate::codec::{self, Strictness};
use crate::render;

/// A patch, read from a body.
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    /// Reads a patch; its kind is the content type's.
    pub fn read(call: &Call, body: &[u8]) -> Result<Self, Status> {
        let make: fn(Value) -> Self = match call.content_type() {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            "application/strategic-merge-patch+json" => Self::Strategic,
            _ => {
                return Err(Status::unsupported_media_type(
                    "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml, application/apply-patch+cbor",
                ));
            }
        };
        let value = serde_json::from_slice(body)
            .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
        Ok(make(value))
    }

    /// Applies the patch to a value of a type.
    fn apply(&self, _call: &Call, _type_name: &str, mut now: Value) -> Result<Value, Status> {
        match self {
            Self::Merge(p) | Self::Strategic(p) | Self::Json(p) => {
                merge(&mut now, p);
                Ok(now)
            }
        }
    }

    /// Applies the patch to the body of a subresource of another kind.
    pub fn apply_to_part(&self, call: &Call, now: Value) -> Result<Value, Status> {
        let sub = call.subresource().ok_or_else(Status::no_such_path)?;
        self.apply(call, &sub.type_name, now)
    }
}

fn merge(now: &mut Value, p: &Value) {
    if let (Value::Object(n), Value::Object(p)) = (&mut *now, p) {
        for (k, v) in p {
            if v.is_null() {
                n.remove(k);
            } else {
                merge(n.entry(k.clone()).or_insert(Value::Null), v);
            }
        }
    } else {
        *now = p.clone();
    }
}

/// Patches an object, or the part of it that a subresource names.
pub async fn patch(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let dry_run = call.dry_run()?;
    let strictness = Strictness::read(call.query.get("fieldValidation"))?;
    let patch = Patch::read(call, body)?;
    let sub = call.info.subresource.clone();
    let api_version = call.group_version().to_string();
    let mut warnings = Vec::new();
    let object = change(call, &call.info.name, &sub, dry_run, |current, _| {
        let now = render::value_of(&call.row, &call.version, current);
        let new = patch.apply(call, &call.version.type_name, now)?;
        warnings.clear();
        let new = codec::decode_value(
            new,
            &expected(call, &api_version),
            strictness,
            &mut warnings,
        )?;
        Ok(to_storage(call, new))
    })
    .await?;
    warnings.into_iter().for_each(|w| call.warn(w));
    Ok(Answer::Object {
        code: 200,
        object: Arc::clone(&object),
    })
}
