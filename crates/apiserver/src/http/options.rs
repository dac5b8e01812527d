//! Query parameters that mean the same for many verbs, and how errors speak of them.

use api::{FieldError, FieldPath, GroupKind, Status};

/// Kind of the options of a verb, as errors name it.
fn options_kind(verb: &str) -> GroupKind {
    let kind = match verb {
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        "delete" | "deletecollection" => "DeleteOptions",
        _ => "CreateOptions",
    };
    GroupKind::new("meta.k8s.io", kind)
}

/// A query parameter with a value that it cannot have.
pub fn unsupported(verb: &str, field: &str, value: &str, supported: &[&str]) -> Status {
    let error = FieldError::not_supported(&FieldPath::new(field), value, supported);
    Status::invalid(&options_kind(verb), "", &[error])
}

/// Reads the values of `dryRun`.
pub fn dry_run<'a>(verb: &str, values: impl Iterator<Item = &'a str>) -> Result<bool, Status> {
    let mut found = false;
    for v in values.filter(|v| !v.is_empty()) {
        if v != "All" {
            return Err(unsupported(verb, "dryRun", v, &["All"]));
        }
        found = true;
    }
    Ok(found)
}
