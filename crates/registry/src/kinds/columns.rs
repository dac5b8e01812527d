//! The columns that `kubectl get` shows, as upstream's printers name and fill them.

use serde_json::Value;

use super::def::Col;
use crate::print;

/// What a kind without columns of its own shows.
pub const NAME_AGE: &[Col] = &[name(), age()];

/// A column that is always shown.
pub(crate) const fn col(
    name: &'static str,
    ty: &'static str,
    cell: fn(&Value, i64) -> Value,
) -> Col {
    Col {
        name,
        ty,
        format: "",
        priority: 0,
        cell,
    }
}

pub(crate) const fn name() -> Col {
    Col {
        name: "Name",
        ty: "string",
        format: "name",
        priority: 0,
        cell: print::name,
    }
}

pub(crate) const fn age() -> Col {
    col("Age", "string", print::age)
}
