//! Managed fields: who set what, recorded with every write. The rules are `patch`'s; here is when
//! they run, in whose name, and which fields a write cannot own because it resets them.

use std::borrow::Cow;
use std::sync::LazyLock;

use api::Status;
use bytes::Bytes;
use patch::Set;
use serde_json::Value;

use crate::call::Call;
use crate::object::time_text;

/// The fields that a write of the object or of its status leaves as they are.
fn ignored(call: &Call, subresource: &str) -> &'static Set {
    static NONE: LazyLock<Set> = LazyLock::new(Set::new);
    static STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["status"]));
    const REST: [&str; 3] = [
        "spec",
        "metadata.deletionTimestamp",
        "metadata.ownerReferences",
    ];
    static OF_STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&REST));
    static NOR_LABELS: LazyLock<Set> = LazyLock::new(|| {
        let [spec, deleted, owners] = REST;
        Set::of_fields(&[spec, deleted, owners, "metadata.labels"])
    });
    static NOR_METADATA: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["spec", "metadata"]));
    match subresource {
        "status" => match call.row.strategy.status_leaves() {
            [] => &OF_STATUS,
            ["labels"] => &NOR_LABELS,
            _ => &NOR_METADATA,
        },
        "" if call.row.subresource_of(&call.version, "status").is_some() => &STATUS,
        _ => &NONE,
    }
}

/// When a write was made. One of a scale has no time, as upstream, where what it owns is that of another
/// kind, translated: whoever scales for the first time is not known by a time there.
fn time(call: &Call, subresource: &str) -> String {
    match subresource {
        "scale" => String::new(),
        _ => time_text(call.state.now()),
    }
}

/// Records a write that is not an apply; objects are in the storage version. `old` is null for a
/// creation, and `managed` are its managed fields; gives those of `new`.
pub fn record(
    call: &Call,
    new: &mut Value,
    old: &Value,
    managed: &Bytes,
    subresource: &str,
) -> Bytes {
    let row = &call.row;
    let request = patch::Request {
        table: row.storage_type.table(),
        ty: row.storage_type.id(),
        api_version: &row.storage_api_version(),
        kind: &row.kind,
        subresource,
        manager: &call.field_manager(),
        time: &time(call, subresource),
        ignored: ignored(call, subresource),
        convert: None,
    };
    match patch::update(&request, old, managed, new) {
        Cow::Borrowed([]) => Bytes::new(),
        Cow::Borrowed(_) => managed.clone(),
        Cow::Owned(list) => list.into(),
    }
}

/// Applies a configuration to an object (null: there is none yet), both in the request's version;
/// gives the new object and its managed fields.
pub fn apply(
    call: &Call,
    live: &Value,
    managed: &Bytes,
    config: &Value,
    force: bool,
) -> Result<(Value, Bytes), Status> {
    let ty = &call.version.ty;
    let subresource = &call.info.subresource;
    let request = patch::Request {
        table: ty.table(),
        ty: ty.id(),
        api_version: &call.group_version().to_string(),
        kind: &call.row.kind,
        subresource,
        manager: &call.field_manager(),
        time: &time(call, subresource),
        ignored: ignored(call, subresource),
        convert: None,
    };
    let (new, managed) =
        patch::apply(&request, live, managed, config, force).map_err(|e| e.status())?;
    Ok((new, managed.into()))
}
