//! stub
use serde_json::Value;
use crate::model::*;

/// The envelope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    pub api_version: String,
    pub kind: String,
    pub raw: Vec<u8>,
    pub content_encoding: String,
    pub content_type: String,
}
/// Why bytes are not a message of the type, or a value not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProtoError {
    pub message: String,
}
pub fn decode(_table: &TypeTable, _id: TypeId, _bytes: &[u8]) -> Result<Value, ProtoError> { Ok(Value::Null) }
pub fn encode(_table: &TypeTable, _id: TypeId, _value: &Value) -> Result<Vec<u8>, ProtoError> { Ok(Vec::new()) }
pub fn unwrap_unknown(_bytes: &[u8]) -> Result<Unknown, ProtoError> { Ok(Unknown::default()) }
pub fn wrap_unknown(_api_version: &str, _kind: &str, _raw: &[u8]) -> Vec<u8> { Vec::new() }
