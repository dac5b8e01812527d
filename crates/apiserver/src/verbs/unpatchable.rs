//! What a patch says whose result is not an object of the kind, in upstream's words. Upstream decodes the
//! result of a strategic merge patch from Go's maps, without paths, and shows the patch as Go prints
//! it; of the other patches it shows the whole result.

use api::{FieldError, FieldPath, GroupKind, Status};
use schema::Type;
use serde_json::Value;

use super::patch::Patch;

/// The refusal of a patch by which `new` would come to be; `why` is what the decoder says of it.
pub fn refusal(patch: &Patch, ty: &Type, new: &Value, why: &str) -> Status {
    let (shown, why) = match patch {
        Patch::Json(_) | Patch::Merge(_) => (new.to_string(), why.to_owned()),
        Patch::Strategic(patch) => {
            let mut shown = String::new();
            print(patch, &mut shown);
            (shown, restored(ty, why))
        }
    };
    let error = FieldError::invalid(&FieldPath::new("patch"), &shown.into(), &why);
    Status::invalid(&GroupKind::new("", ""), "", &[error])
}

/// `json: cannot unmarshal string into Go struct field ObjectMeta.metadata.labels of type
/// map[string]string` as `cannot restore map from string`.
fn restored(ty: &Type, why: &str) -> String {
    let said = why.strip_prefix("json: cannot unmarshal ");
    let found =
        said.and_then(|rest| Some((rest.split(' ').next()?, rest.rsplit_once(" of type ")?.1)));
    let Some((value, wanted)) = found else {
        return why.to_owned();
    };
    let kind = match value {
        "object" => "map",
        "array" => "slice",
        // As it was sent: whole numbers are of this type.
        "number" => "int64",
        other => other,
    };
    let name = wanted.rsplit('.').next().unwrap_or(wanted);
    let ends = |def: &schema::TypeDef| def.name.rsplit('.').next() == Some(name);
    let is_scalar = matches!(kind, "string" | "int64" | "bool");
    match wanted {
        _ if wanted.starts_with("map[") => format!("cannot restore map from {kind}"),
        _ if wanted.starts_with("[]") => format!("cannot restore slice from {kind}"),
        _ if ty.table().types().iter().any(ends) => format!("cannot restore struct from: {kind}"),
        // Go turns numbers into text, which JSON does not know.
        "string" if kind == "int64" => "cannot convert int64 to string".to_owned(),
        _ if is_scalar && kind == "int64" => format!("cannot convert int64 to {wanted}"),
        "int32" | "int64" | "float64" | "bool" | "string" => format!("unrecognized type: {wanted}"),
        _ => "unrecognized type: string".to_owned(),
    }
}

/// As Go prints maps and slices with `%+v`.
fn print(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (nth, item) in items.iter().enumerate() {
                if nth > 0 {
                    out.push(' ');
                }
                print(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str("map[");
            for (nth, (name, item)) in map.iter().enumerate() {
                if nth > 0 {
                    out.push(' ');
                }
                out.push_str(name);
                out.push(':');
                print(item, out);
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn gos_words_for_what_cannot_be_restored() {
        let ty = Type::named(schema::builtin(), "io.k8s.api.core.v1.Pod").expect("Pod");
        let said = |value: &str, wanted: &str| {
            restored(
                &ty,
                &format!(
                    "json: cannot unmarshal {value} into Go struct field X.y of type {wanted}"
                ),
            )
        };
        assert_eq!(
            said("string", "map[string]string"),
            "cannot restore map from string"
        );
        assert_eq!(
            said("object", "[]v1.Container"),
            "cannot restore slice from map"
        );
        assert_eq!(
            said("array", "v1.PodSpec"),
            "cannot restore struct from: slice"
        );
        assert_eq!(said("number", "string"), "cannot convert int64 to string");
        assert_eq!(
            said("number", "v1.RestartPolicy"),
            "cannot convert int64 to v1.RestartPolicy"
        );
        assert_eq!(said("string", "int32"), "unrecognized type: int32");
        assert_eq!(
            restored(&ty, "quantities must match"),
            "quantities must match"
        );
    }

    #[test]
    fn patches_are_shown_as_go_shows_them() {
        let mut out = String::new();
        print(
            &json!({"metadata": {"labels": "x", "finalizers": ["a", 1, null]}}),
            &mut out,
        );
        assert_eq!(out, "map[metadata:map[finalizers:[a 1 <nil>] labels:x]]");
    }
}
