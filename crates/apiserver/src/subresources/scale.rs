//! `scale`: the number of replicas of a scalable kind, in one form for all.

use std::sync::Arc;

use api::{FieldError, FieldPath, GroupKind, Status};
use serde_json::Value;

use crate::cache::Object;
use crate::call::{Answer, Call};
use crate::object::meta_text;
use crate::render;
use crate::scaled::{put, scale_of};
use crate::verbs::decode::{decode_body, match_name, to_storage};
use crate::verbs::update::change;
use crate::verbs::{convert, patch};

/// Gets, updates or patches the scale of the path's object.
pub async fn run(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let name = &call.info.name;
    let object = match call.info.verb.as_str() {
        "get" => call.stored(name).await?,
        "update" => {
            let mut scale = decode_body(call, body)?;
            match_name(call, &mut scale)?;
            set(call, |_| Ok(scale.clone())).await?
        }
        _ => {
            let patch = patch::Patch::read(call, body)?;
            set(call, |now| patch.apply_to_part(call, now)).await?
        }
    };
    let sub = call.subresource().ok_or_else(Status::no_such_path)?;
    Ok(Answer::Value {
        code: 200,
        value: scale_of(
            &in_version(call, &object).await?,
            &call.row.strategy.scale(&call.version.version),
        ),
        ty: sub.ty.clone(),
    })
}

async fn set<F>(call: &Call, mut make: F) -> Result<Arc<Object>, Status>
where
    F: FnMut(Value) -> Result<Value, Status> + Send,
{
    let dry_run = call.write_options()?;
    let places = call.row.strategy.scale(&call.version.version);
    change(
        call,
        &call.info.name,
        "scale",
        dry_run,
        |current, stored| {
            // Where the number is, the version of the request says.
            let old = match is_own(call) {
                true => render::value_of(&call.row, &call.version, current),
                false => stored.clone(),
            };
            let scale = make(scale_of(&old, &places))?;
            let replicas = scale
                .pointer("/spec/replicas")
                .and_then(Value::as_i64)
                .unwrap_or(0);
            if replicas < 0 {
                let path = FieldPath::new("spec").child("replicas");
                let e = FieldError::invalid(
                    &path,
                    &replicas.into(),
                    "must be greater than or equal to 0",
                );
                return Err(Status::invalid(
                    &GroupKind::new("autoscaling", "Scale"),
                    &call.info.name,
                    &[e],
                ));
            }
            let mut new = old;
            put(&mut new, &places.replicas, replicas.into());
            for precondition in ["uid", "resourceVersion"] {
                let asked = meta_text(&scale, precondition);
                if !asked.is_empty() {
                    new["metadata"][precondition] = asked.into();
                }
            }
            Ok(match is_own(call) {
                true => to_storage(call, new),
                false => new,
            })
        },
    )
    .await
}

/// Whether the request's version has a scale of its own: of a custom kind, in another version than
/// the stored one.
fn is_own(call: &Call) -> bool {
    call.version.own.is_some() && !call.in_storage_version()
}

/// The object as the version of the request has it.
async fn in_version(call: &Call, object: &Arc<Object>) -> Result<Value, Status> {
    if !is_own(call) {
        return Ok(object.to_value());
    }
    let (_, shown) = convert::both(call, object).await?;
    Ok(render::value_of(&call.row, &call.version, &shown))
}
