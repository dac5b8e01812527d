//! Percent-encoding. Which characters stand for themselves differs from place to place of a URL.

/// Bytes with all those encoded that are not `is_plain`.
pub fn encoded(bytes: &[u8], is_plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &b in bytes {
        if is_plain(b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// What may not stand in a segment of a path or in a value of a query, encoded.
pub fn encoded_part(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    encoded(text.as_bytes(), is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_whole() {
        for (text, sent) in [
            ("echo a&b=c d/ü", "echo%20a%26b%3Dc%20d%2F%C3%BC"),
            ("a=b,c in (d)", "a%3Db%2Cc%20in%20%28d%29"),
            ("a-b._~9", "a-b._~9"),
        ] {
            assert_eq!(encoded_part(text), sent);
        }
        assert_eq!(encoded(b"a/b%", |b| b != b'%'), "a/b%25");
    }
}
