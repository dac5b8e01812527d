//! From JSON to an object of a type: wrong types are errors in Go's words, unknown and duplicate
//! fields are recorded and dropped, and the rest comes out as a Go round trip would write it.
//! Defaults and validation are not here (`registry`), nor is the choice between strict, warn and
//! ignore (`apiserver`).

pub(crate) mod budget;
mod node;
mod typed;
mod yaml;

use std::fmt;

pub use budget::TooMuch;

use serde_json::Value;

use crate::model::*;

/// A decoded object and what strict decoding would reject.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// In the order of the document, each once, at most 100 (upstream's bound).
    pub problems: Vec<StrictProblem>,
}

/// What strict decoding rejects. `Display` gives upstream's text: `unknown field "spec.foo"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StrictProblem {
    /// With the path of the field, such as `spec.containers[0].foo`.
    UnknownField(String),
    /// With the path of the field.
    DuplicateField(String),
    /// A key of a YAML mapping, with its line.
    DuplicateKey { line: usize, key: String },
}

impl fmt::Display for StrictProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownField(path) => write!(f, "unknown field {}", node::go_quote(path)),
            Self::DuplicateField(path) => write!(f, "duplicate field {}", node::go_quote(path)),
            Self::DuplicateKey { line, key } => {
                let key = node::go_quote(key);
                write!(
                    f,
                    "yaml: unmarshal errors:\n  line {line}: key {key} already set in map"
                )
            }
        }
    }
}

/// Why a body is not an object of the type. `Display` gives upstream's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No JSON: `invalid character '}' looking for beginning of value`.
    #[error("{0}")]
    Syntax(String),
    /// A value of a wrong type or form: `json: cannot unmarshal string into Go struct field
    /// DeploymentSpec.spec.replicas of type int32`.
    #[error("{0}")]
    Type(String),
}

/// Decodes a JSON body. Names are case-sensitive; null counts as absent.
///
/// # Errors
/// The body is not JSON, or a value has a wrong type.
pub fn json(table: &TypeTable, id: TypeId, bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let node = node::parse(bytes).map_err(DecodeError::Syntax)?;
    typed::decode(table, id, node)
}

/// Decodes a value that was parsed before (YAML bodies, results of patches).
///
/// # Errors
/// A value has a wrong type.
pub fn value(table: &TypeTable, id: TypeId, value: Value) -> Result<Decoded, DecodeError> {
    typed::decode(table, id, value.into())
}

/// Parses JSON with upstream's syntax errors, without a type. The second part lists duplicate
/// names as [`StrictProblem`]s.
///
/// # Errors
/// The body is not JSON.
pub fn untyped(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let node = node::parse(bytes).map_err(DecodeError::Syntax)?;
    Ok(typed::untyped(node))
}

/// Parses a YAML document, without a type: bounded in depth and size as JSON is, aliases included.
/// The second part lists duplicate keys.
///
/// # Errors
/// The body is not YAML, or more than one may ask for.
pub fn yaml(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| DecodeError::Syntax("invalid UTF-8".to_owned()))?;
    let (value, problems) = yaml::parse(text).map_err(DecodeError::Syntax)?;
    Ok(Decoded { value, problems })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> (&'static TypeTable, TypeId) {
        let table = crate::builtin();
        (
            table,
            table.by_name("io.k8s.api.core.v1.Pod").expect("type"),
        )
    }

    #[test]
    fn small_bodies_that_stand_for_much_are_refused() {
        let (table, id) = pod();
        let containers =
            |n: usize| format!("{{\"spec\":{{\"containers\":[{}{{}}]}}}}", "{},".repeat(n));
        assert!(json(table, id, containers(50_000).as_bytes()).is_ok());
        let refused = json(table, id, containers(900_000).as_bytes()).unwrap_err();
        assert_eq!(refused.to_string(), TooMuch::Values.to_string());
        assert!(untyped(format!("[{}1]", "1,".repeat(1_100_000)).as_bytes()).is_err());
    }

    #[test]
    fn problems_below_a_long_name_are_reported_once_not_a_million_times() {
        let long = "k".repeat(400_000);
        let again = "\"a\":1,".repeat(20_000);
        let body = format!("{{\"{long}\":{{{again}\"b\":1}}}}");
        let problems = untyped(body.as_bytes()).expect("JSON").problems;
        assert_eq!(problems.len(), 1);
        let fields: String = (0..20_000)
            .map(|i| format!("\"a{i}\":1,\"a{i}\":1,"))
            .collect();
        let body = format!("{{\"{long}\":{{{fields}\"b\":1}}}}");
        let problems = untyped(body.as_bytes()).expect("JSON").problems;
        let bytes: usize = problems.iter().map(|p| p.to_string().len()).sum();
        assert!(
            !problems.is_empty() && bytes < 2 << 20,
            "{} problems of {bytes} bytes",
            problems.len()
        );
    }
}
