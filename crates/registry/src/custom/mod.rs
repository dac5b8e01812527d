//! Custom resources: what a CustomResourceDefinition must be ([`Definition`]), what becomes of its
//! status ([`status`]), and the row that it stands for ([`row`]).

mod check;
mod definition;
mod facts;
mod instance;
pub mod row;
pub mod status;

pub use definition::{CLEANUP, Definition};
pub use facts::Facts;

use serde_json::Value;

use crate::check::{at, flag, items, text};

/// The versions of a definition.
pub(crate) fn versions(crd: &Value) -> &[Value] {
    items(at(crd, "spec"), "versions")
}

/// The schema of a version; none if it has none.
pub(crate) fn schema(version: &Value) -> Option<&Value> {
    let schema = at(at(version, "schema"), "openAPIV3Schema");
    schema.is_object().then_some(schema)
}

/// Whether a part of all versions is the same; upstream then names it as a part of the whole.
pub(crate) fn is_common(versions: &[Value], field: &str) -> bool {
    let first = versions.first().map(|v| at(v, field));
    versions.iter().all(|v| Some(at(v, field)) == first)
}

/// The name of the version in which objects are stored.
pub(crate) fn storage_version(crd: &Value) -> &str {
    let stored = versions(crd).iter().find(|v| flag(v, "storage"));
    stored.map_or("", |v| text(v, "name"))
}

#[cfg(test)]
mod tests;
