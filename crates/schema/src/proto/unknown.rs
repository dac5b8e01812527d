//! The envelope of a protobuf body: four magic bytes and a `runtime.Unknown` message.

use super::ProtoError;
use super::wire::{Raw, Reader, put_bytes, put_message};

/// Every protobuf body of the API starts with these bytes: `k8s\0`.
pub const MAGIC: [u8; 4] = [b'k', b'8', b's', 0];

/// The content of the envelope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    pub api_version: String,
    pub kind: String,
    /// The message of the type.
    pub raw: Vec<u8>,
    /// Empty: no compression.
    pub content_encoding: String,
    /// Empty: protobuf.
    pub content_type: String,
}

/// Reads the envelope.
///
/// # Errors
/// The magic bytes are missing, or the message is broken.
pub fn unwrap_unknown(bytes: &[u8]) -> Result<Unknown, ProtoError> {
    let body = bytes.strip_prefix(&MAGIC).ok_or(ProtoError::Magic)?;
    let mut out = Unknown::default();
    let mut reader = Reader::new(body);
    while let Some((number, raw)) = reader.field()? {
        let Raw::Bytes(bytes) = raw else { continue };
        match number {
            1 => (out.api_version, out.kind) = type_meta(bytes)?,
            2 => out.raw = bytes.to_vec(),
            3 => out.content_encoding = text(bytes, "contentEncoding")?,
            4 => out.content_type = text(bytes, "contentType")?,
            _ => {}
        }
    }
    Ok(out)
}

fn type_meta(bytes: &[u8]) -> Result<(String, String), ProtoError> {
    let mut out = (String::new(), String::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, raw)) = reader.field()? {
        match (number, raw) {
            (1, Raw::Bytes(b)) => out.0 = text(b, "apiVersion")?,
            (2, Raw::Bytes(b)) => out.1 = text(b, "kind")?,
            _ => {}
        }
    }
    Ok(out)
}

fn text(bytes: &[u8], field: &str) -> Result<String, ProtoError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtoError::Utf8(field.to_owned()))
}

/// Puts a message (from [`super::encode`]) into the envelope.
pub fn wrap_unknown(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 24);
    out.extend_from_slice(&MAGIC);
    let meta: Result<(), std::convert::Infallible> = put_message(&mut out, 1, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
        Ok(())
    });
    let Ok(()) = meta;
    put_bytes(&mut out, 2, raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

/// The message of a watch event, without envelope or frame; `object` is a whole enveloped body.
pub fn watch_event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + kind.len() + 16);
    put_bytes(&mut out, 1, kind.as_bytes());
    let body: Result<(), std::convert::Infallible> = put_message(&mut out, 2, |out| {
        put_bytes(out, 1, object);
        Ok(())
    });
    let Ok(()) = body;
    out
}
