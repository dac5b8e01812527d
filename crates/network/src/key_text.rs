//! Keys as WireGuard's tools and a Node's annotation have them: base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use host::wireguard::Key;

/// A key that stands in a text; none where that is not one.
pub fn key_of(text: &str) -> Option<Key> {
    let bytes = STANDARD.decode(text.trim()).ok()?;
    bytes.try_into().ok().map(Key)
}

/// A key as a text.
pub fn text_of(key: Key) -> String {
    STANDARD.encode(key.0)
}
