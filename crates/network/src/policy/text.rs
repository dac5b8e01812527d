//! Texts that are the same for the same meaning, and the names that sets and chains have by them: equal
//! content has one name, also after a restart.

use std::fmt::Write;

use api::selector::LabelSelector;
use sha2::{Digest, Sha256};

/// A selector in words that are the same for the same requirements. Keys and values have no
/// characters that could make two selectors look alike.
pub(super) fn text_of(selector: &LabelSelector) -> String {
    if selector.nothing {
        return "none".into();
    }
    let mut all: Vec<String> = selector
        .requirements
        .iter()
        .map(ToString::to_string)
        .collect();
    all.sort();
    all.dedup();
    format!("[{}]", all.join(","))
}

/// A name that nobody can make two contents have: half of SHA-256, which is enough to keep others
/// from being found.
pub(super) fn digest(word: &str, text: &str) -> String {
    let mut name = format!("{word}-");
    for byte in Sha256::digest(text.as_bytes()).iter().take(16) {
        let _ = write!(name, "{byte:02x}");
    }
    name
}
