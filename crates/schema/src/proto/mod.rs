//! Protobuf bodies of built-in types, both ways, along the table's field numbers. Written as
//! upstream writes them: ascending numbers, sorted maps, and values that are not pointers always.

mod read;
mod unknown;
mod wire;
mod write;

pub use read::decode;
pub use unknown::{MAGIC, Unknown, unwrap_unknown, watch_event, wrap_unknown};
pub use write::encode;

/// Why bytes are not a message of the type, or why a value cannot be written as one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    #[error("unexpected EOF")]
    Eof,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: illegal tag {0}")]
    Tag(u64),
    #[error("proto: wrong wireType = {wire} for field {number}")]
    Wire { number: u32, wire: u8 },
    #[error("proto: field {0} holds invalid UTF-8")]
    Utf8(String),
    #[error("proto: messages are nested too deep")]
    Depth,
    #[error("proto: {0}")]
    TooMuch(crate::decode::TooMuch),
    /// A scalar in the message cannot be read: a time out of range, raw JSON that is none.
    #[error("{field}: {what}")]
    Scalar { field: String, what: String },
    /// The value does not fit the type; decoding it as JSON first would have refused it.
    #[error("{field}: cannot be written as {ty}")]
    Value { field: String, ty: &'static str },
    /// The fields of the type have no numbers.
    #[error("{0} has no protobuf form")]
    NoForm(String),
    /// The body does not start with the four bytes that mark upstream's protobuf.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Magic,
}
