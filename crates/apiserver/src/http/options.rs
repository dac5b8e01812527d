//! Query parameters that mean the same for many verbs, and how errors speak of them.

use std::time::Duration;

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

/// Bytes of a field manager's name at most; as upstream.
pub const MANAGER_MAX: usize = 128;

/// Checks the name under which managed fields are to be recorded.
pub fn field_manager(verb: &str, name: Option<&str>) -> Result<(), Status> {
    let name = name.unwrap_or_default();
    let path = FieldPath::new("fieldManager");
    let mut errors = Vec::new();
    if name.len() > MANAGER_MAX {
        errors.push(FieldError::too_long(&path, MANAGER_MAX));
    }
    let hidden = |c: &char| c.is_control() || (c.is_whitespace() && *c != ' ');
    if let Some((at, c)) = name.char_indices().find(|(_, c)| hidden(c)) {
        let why = format!(
            "invalid character U+{:04X} (at position {at})",
            u32::from(c)
        );
        errors.push(FieldError::invalid_str(&path, name, &why));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&options_kind(verb), "", &errors))
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

/// How long a request may take: as long as it asks for by `timeout`, and `most` where that is longer,
/// nothing, or not asked for.
pub fn patience(timeout: Option<&str>, most: Duration) -> Result<Duration, Status> {
    let Some(text) = timeout else {
        return Ok(most);
    };
    let nanos = api::duration::parse(text).map_err(|why| {
        Status::bad_request(format!(
            "invalid timeout specified in the request URL - {why}"
        ))
    })?;
    let asked = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0);
    Ok(asked.map_or(most, |nanos| most.min(Duration::from_nanos(nanos))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_time_that_it_asks_for_within_a_bound() {
        let most = Duration::from_secs(60);
        for (asked, want) in [
            (None, most),
            (Some("5s"), Duration::from_secs(5)),
            (Some("1.5s"), Duration::from_millis(1500)),
            (Some("0"), most),
            (Some("0s"), most),
            (Some("-1s"), most),
            (Some("2h"), most),
        ] {
            assert_eq!(patience(asked, most).ok(), Some(want), "{asked:?}");
        }
        for wrong in ["5", "x", "1 s", "5x"] {
            let refused = patience(Some(wrong), most).expect_err(wrong);
            let start = "invalid timeout specified in the request URL - time: ";
            assert!(refused.message.starts_with(start), "{}", refused.message);
            assert_eq!(refused.code, 400);
        }
    }
}
