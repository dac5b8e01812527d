//! stub
use serde_json::Value;
use crate::model::*;

/// A decoded object and what strict decoding would reject.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    pub problems: Vec<StrictProblem>,
}
/// What strict decoding rejects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StrictProblem {
    UnknownField(String),
    DuplicateField(String),
}
/// The body does not fit the type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DecodeError {
    pub message: String,
}
pub fn json(_table: &TypeTable, _id: TypeId, bytes: &[u8]) -> Result<Decoded, DecodeError> {
    serde_json::from_slice(bytes).map(|value| Decoded { value, problems: Vec::new() }).map_err(|e| DecodeError { message: e.to_string() })
}
pub fn value(_table: &TypeTable, _id: TypeId, value: Value) -> Result<Decoded, DecodeError> {
    Ok(Decoded { value, problems: Vec::new() })
}
