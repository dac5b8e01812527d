//! Files of configuration that have a kind and a version, as objects have: read from YAML or JSON,
//! strictly, since a field that is ignored would be a rule that does not hold.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Form(String),
    #[error("{kind:?} of version {version:?} is no {wanted} of {versions}")]
    Kind {
        kind: String,
        version: String,
        wanted: &'static str,
        versions: String,
    },
}

/// Reads a document of a kind, of one of the versions; `T` is what it says beside those two.
pub fn read<T: DeserializeOwned>(
    bytes: &[u8],
    wanted: &'static str,
    versions: &[&str],
) -> Result<T, Problem> {
    let read = schema::decode::yaml(bytes).map_err(|e| Problem::Form(e.to_string()))?;
    if let Some(problem) = read.problems.first() {
        return Err(Problem::Form(problem.to_string()));
    }
    let mut value = read.value;
    drop_nulls(&mut value);
    let mut take = |field: &str| {
        let taken = value.as_object_mut().and_then(|o| o.remove(field));
        let text = taken.as_ref().and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let (kind, version) = (take("kind"), take("apiVersion"));
    if kind != wanted || !versions.contains(&&*version) {
        return Err(Problem::Kind {
            kind,
            version,
            wanted,
            versions: versions.join(", "),
        });
    }
    serde_json::from_value(value).map_err(|e| Problem::Form(e.to_string()))
}

/// A field that is null is a field that is not there.
pub fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
