//! Managed fields: who set what, recorded with every write. The rules are `patch`'s; here is when
//! they run, in whose name, and which fields a write cannot own because it resets them.

use std::sync::LazyLock;

use api::Status;
use patch::Set;
use serde_json::Value;

use crate::call::Call;
use crate::object::time_text;

/// Whether the verb has to record the fields, or an apply has done it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manage {
    Record,
    Applied,
}

/// The fields that a write of the object or of its status leaves as they are.
fn ignored(call: &Call, subresource: &str) -> &'static Set {
    static NONE: LazyLock<Set> = LazyLock::new(Set::new);
    static STATUS: LazyLock<Set> = LazyLock::new(|| Set::of_fields(&["status"]));
    static REST: LazyLock<Set> = LazyLock::new(|| {
        Set::of_fields(&[
            "spec",
            "metadata.deletionTimestamp",
            "metadata.ownerReferences",
        ])
    });
    match subresource {
        "status" => &REST,
        "" if call.row.subresource("status").is_some() => &STATUS,
        _ => &NONE,
    }
}

/// Records a write that is no apply; objects are in the storage version. `old` is null for a
/// creation.
pub fn record(call: &Call, new: &mut Value, old: &Value, subresource: &str, manage: Manage) {
    if manage == Manage::Applied {
        return;
    }
    let row = &call.row;
    let request = patch::Request {
        table: row.storage_type.table(),
        ty: row.storage_type.id(),
        api_version: &row.storage_api_version(),
        kind: &row.kind,
        subresource,
        manager: &call.field_manager(),
        time: &time_text(call.server.now()),
        ignored: ignored(call, subresource),
        convert: None,
    };
    patch::update(&request, old, new);
}

/// Applies a configuration to an object (null: there is none yet), both in the request's version.
pub fn apply(call: &Call, live: &Value, config: &Value, force: bool) -> Result<Value, Status> {
    let ty = &call.version.ty;
    let subresource = &call.info.subresource;
    let request = patch::Request {
        table: ty.table(),
        ty: ty.id(),
        api_version: &call.group_version().to_string(),
        kind: &call.row.kind,
        subresource,
        manager: &call.field_manager(),
        time: &time_text(call.server.now()),
        ignored: ignored(call, subresource),
        convert: None,
    };
    patch::apply(&request, live, config, force).map_err(|e| e.status())
}
