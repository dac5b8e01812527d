//! `scale`: the number of replicas of a scalable kind, in one form for all.

use std::sync::Arc;

use api::{FieldError, FieldPath, GroupKind, GroupVersion, Status};
use registry::Scale;
use serde_json::{Value, json};

use crate::cache::Object;
use crate::call::{Answer, Call};
use crate::codec::{self, Expected, Strictness};
use crate::object::meta_text;
use crate::render;
use crate::scaled::{put, scale_of};
use crate::verbs::decode::{decode_body, match_name, to_storage};
use crate::verbs::update::{ChangedObject, change, change_as};
use crate::verbs::{convert, managed_fields, patch};

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
        _ if call.content_type() == patch::APPLY => apply(call, body).await?,
        _ => {
            let patch = patch::Patch::read(call, body)?;
            set(call, |now| patch.apply_to_part(call, now)).await?
        }
    };
    let sub = call.subresource().ok_or_else(Status::no_such_path)?;
    let places = call.row.strategy.scale(&call.version.version);
    let value = in_version(call, &object).await?;
    if call.info.verb == "get" && is_without(call, &value, &places) {
        let path = places.replicas.replace('/', ".");
        return Err(Status::internal(format!(
            "the spec replicas field {path:?} does not exist"
        )));
    }
    Ok(Answer::Value {
        code: 200,
        value: scale_of(&value, &places),
        ty: sub.ty.clone(),
    })
}

/// Whether a custom object does not say how many there are to be. Built-in kinds have a default.
fn is_without(call: &Call, object: &Value, places: &Scale) -> bool {
    call.row.strategy.is_custom() && object.pointer(&places.replicas).is_none_or(Value::is_null)
}

/// The number that stands for none, while a scale without one is changed.
const NO_NUMBER: i64 = i32::MIN as i64;

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
            let mut scale = scale_of(&old, &places);
            if is_without(call, &old, &places) {
                scale["spec"]["replicas"] = NO_NUMBER.into();
            }
            let scale = make(scale)?;
            let mut new = old;
            let count = replicas(call, &scale)?.unwrap_or(0);
            put(&mut new, &places.replicas, count.into());
            preconditions(&scale, &mut new);
            Ok(match is_own(call) {
                true => to_storage(call, new),
                false => new,
            })
        },
    )
    .await
}

/// The number that a scale asks for, if any.
fn replicas(call: &Call, scale: &Value) -> Result<Option<i64>, Status> {
    let count = scale.pointer("/spec/replicas").and_then(Value::as_i64);
    if call.row.strategy.is_custom() {
        // A custom kind judges the number itself, as a field of its object.
        let places = call.row.strategy.scale(&call.version.version);
        let path = places.replicas.replace('/', ".");
        return match count {
            Some(NO_NUMBER) => Err(Status::bad_request(format!(
                "the spec replicas field {path:?} cannot be empty"
            ))),
            count => Ok(count),
        };
    }
    if let Some(count) = count.filter(|count| *count < 0) {
        let path = FieldPath::new("spec").child("replicas");
        let why = "must be greater than or equal to 0";
        let e = FieldError::invalid(&path, &count.into(), why);
        let kind = GroupKind::new("autoscaling", "Scale");
        return Err(Status::invalid(&kind, &call.info.name, &[e]));
    }
    Ok(count)
}

/// Which object, and which version of it, a scale is of.
fn preconditions(scale: &Value, object: &mut Value) {
    for precondition in ["uid", "resourceVersion"] {
        let asked = meta_text(scale, precondition);
        if !asked.is_empty() {
            object["metadata"][precondition] = asked.into();
        }
    }
}

/// Applies a scale: as a configuration of the object that says the number alone. Whoever applied one
/// owns the number, by the way of the scale.
async fn apply(call: &Call, body: &[u8]) -> Result<Arc<Object>, Status> {
    let dry_run = call.write_options()?;
    patch::check_options(call)?;
    let strictness = Strictness::read(&call.info.verb, call.query.get("fieldValidation"))?;
    let sub = call.subresource().ok_or_else(Status::no_such_path)?;
    let api_version = GroupVersion::new(&sub.group, &sub.version).to_string();
    let expected = Expected {
        api_version: &api_version,
        kind: &sub.kind,
        ty: sub.ty.as_ref().ok_or_else(Status::no_such_path)?,
    };
    let mut warnings = Vec::new();
    let mut scale = codec::read_config(body, &expected, strictness, &mut warnings)?;
    warnings.into_iter().for_each(|w| call.warn(w));
    call.audit.request_body(&scale);
    if text(&scale, "kind") != &*sub.kind || text(&scale, "apiVersion") != api_version {
        let (version, kind) = (text(&scale, "apiVersion"), text(&scale, "kind"));
        let why = format!("invalid object type: {version}, Kind={kind}");
        return Err(Status::bad_request(why));
    }
    match_name(call, &mut scale)?;
    let places = call.row.strategy.scale(&call.version.version);
    let mut config = json!({
        "apiVersion": call.group_version().to_string(), "kind": &*call.row.kind,
        "metadata": { "name": call.info.name },
    });
    if call.row.namespaced {
        config["metadata"]["namespace"] = call.info.namespace.as_str().into();
    }
    if let Some(count) = replicas(call, &scale)? {
        put(&mut config, &places.replicas, count.into());
    }
    let force = call.query.flag("force");
    change_as(call, &call.info.name, "scale", dry_run, |current, live| {
        let now = render::value_of(&call.row, &call.version, current);
        let (mut new, managed) = managed_fields::apply(call, &now, &live.managed, &config, force)?;
        preconditions(&scale, &mut new);
        Ok(ChangedObject {
            value: to_storage(call, new),
            managed: Some(managed),
        })
    })
    .await
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
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
