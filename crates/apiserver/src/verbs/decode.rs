//! What the body of a write says: decoded by its type, in the storage version with defaults, and
//! about the object that the path names.

use api::Status;
use registry::Conversion;
use serde_json::Value;

use crate::call::Call;
use crate::codec::{self, Expected, Strictness};
use crate::object::{meta_mut, meta_text};

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
    let decoded = codec::decode(
        call.content_type(),
        body,
        &expected(call, &api_version),
        strictness,
        &mut warnings,
    );
    warnings.into_iter().for_each(|w| call.warn(w));
    let decoded = decoded?;
    call.audit.object(&decoded);
    Ok(to_storage(call, decoded))
}

/// From the request's version to the stored one, with defaults; a value whose conversion is asked
/// of somebody else stays as it is (see [`super::convert`]).
pub fn to_storage(call: &Call, mut value: Value) -> Value {
    let row = &call.row;
    if !call.in_storage_version() {
        if let Conversion::Asked(_) = row.conversion {
            // The verb waits for that, before anything else is done.
            return value;
        }
        row.strategy
            .convert(&mut value, &row.storage_version, &row.storage_group);
    }
    row.strategy.default(&mut value);
    value
}

/// Decodes the body of a subresource whose kind is not the resource's.
pub fn decode_body(call: &Call, body: &[u8]) -> Result<Value, Status> {
    let sub = call.subresource().ok_or_else(Status::no_such_path)?;
    let api_version = api::GroupVersion::new(&sub.group, &sub.version).to_string();
    let expected = Expected {
        api_version: &api_version,
        kind: &sub.kind,
        ty: sub.ty.as_ref().ok_or_else(Status::no_such_path)?,
    };
    let strictness = Strictness::read(&call.info.verb, call.query.get("fieldValidation"))?;
    let mut warnings = Vec::new();
    let value = codec::decode(
        call.content_type(),
        body,
        &expected,
        strictness,
        &mut warnings,
    );
    warnings.into_iter().for_each(|w| call.warn(w));
    if let Ok(value) = &value {
        call.audit.object(value);
    }
    value
}

/// Sets or checks the namespace of the body against that of the path.
pub fn match_namespace(call: &Call, object: &mut Value) -> Result<(), Status> {
    let (want, have) = (&call.info.namespace, meta_text(object, "namespace"));
    if !call.row.namespaced {
        // Validation refuses a namespace on such kinds.
        return Ok(());
    }
    if have.is_empty() {
        meta_mut(object).insert("namespace".into(), want.as_str().into());
    } else if have != want {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Sets or checks the name of the body against that of the path.
pub fn match_name(call: &Call, object: &mut Value) -> Result<(), Status> {
    let (want, have) = (&call.info.name, meta_text(object, "name"));
    if have.is_empty() {
        meta_mut(object).insert("name".into(), want.as_str().into());
    } else if have != want {
        return Err(Status::bad_request(format!(
            "the name of the object ({have}) does not match the name on the URL ({want})"
        )));
    }
    Ok(())
}
