//! The sentences of `kubectl explain`: compressed by the build script, unpacked when a document
//! is made and dropped after it, since nothing else needs them.

use std::collections::HashMap;
use std::io::Read as _;

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.z"));

/// All descriptions, unpacked.
pub(crate) struct Descriptions {
    text: String,
    /// (definition, field) → byte range of the escaped text.
    at: HashMap<(u64, u64), (usize, usize)>,
}

impl Descriptions {
    pub(crate) fn unpack() -> Self {
        let mut text = String::new();
        // The bytes are a part of the program; were they broken, there would be no descriptions.
        if flate2::read::ZlibDecoder::new(PACKED)
            .read_to_string(&mut text)
            .is_err()
        {
            text.clear();
        }
        let mut at = HashMap::new();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let mut parts = line.trim_end_matches('\n').splitn(3, '\t');
            if let (Some(name), Some(field), Some(sentence)) =
                (parts.next(), parts.next(), parts.next())
            {
                let from = start + name.len() + field.len() + 2;
                at.insert((hash(name), hash(field)), (from, from + sentence.len()));
            }
            start += line.len();
        }
        Self { text, at }
    }

    /// The description of a field, or of the type itself when `field` is empty.
    pub(crate) fn get(&self, definition: &str, field: &str) -> Option<String> {
        let &(from, to) = self.at.get(&(hash(definition), hash(field)))?;
        self.text.get(from..to).map(unescape)
    }
}

/// FNV-1a: keys without a copy of their text. Two of some thousand names do not collide; a test
/// looks.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The escapes of a string literal.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('u') => {
                let digits: String = chars.by_ref().skip(1).take_while(|c| *c != '}').collect();
                out.extend(
                    u32::from_str_radix(&digits, 16)
                        .ok()
                        .and_then(char::from_u32),
                );
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_every_field_is_described() {
        let d = Descriptions::unpack();
        assert!(
            d.get("io.k8s.api.core.v1.Pod", "spec")
                .is_some_and(|s| s.contains("pod"))
        );
        assert!(d.at.len() > 3000, "{}", d.at.len());
        assert_eq!(
            d.text.lines().count(),
            d.at.len(),
            "two names have one hash"
        );
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(r#"a\n\"b\" \u{e9}\\"#), "a\n\"b\" é\\");
    }
}
