//! PEM, and as much of DER as distinguishes what is signed (a certificate, or a request for one) from
//! what is not. Whether a signature holds, admission asks (`CertificateRequester`), and whoever signs.

use crate::base64;

/// A block of a text.
#[derive(Debug, PartialEq, Eq)]
pub struct Block<'t> {
    /// Such as `CERTIFICATE`.
    pub label: &'t str,
    pub bytes: Vec<u8>,
    /// It begins with lines such as `Proc-Type: 4,ENCRYPTED`.
    pub has_headers: bool,
}

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

/// The blocks of a text, and whether there is something else between them. What does not end, or is no
/// base64, is not a block, and the last thing that is read.
pub fn blocks(text: &str) -> (Vec<Block<'_>>, bool) {
    let (mut found, mut other) = (Vec::new(), false);
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let (before, begun) = rest.split_at(at);
        other |= !before.trim().is_empty();
        rest = begun.strip_prefix(BEGIN).unwrap_or_default();
        match block(rest) {
            Some((block, after)) => {
                found.push(block);
                rest = after;
            }
            // Looking for more of them would read the rest once for each that begins.
            None => return (found, true),
        }
    }
    (found, other || !rest.trim().is_empty())
}

/// The block whose label a text begins with, and what follows it.
fn block(text: &str) -> Option<(Block<'_>, &str)> {
    let (label, rest) = text.split_once(DASHES)?;
    if label.contains(['\n', '-']) {
        return None;
    }
    let (body, rest) = rest.split_once("-----END ")?;
    let after = rest.strip_prefix(label)?.strip_prefix(DASHES)?;
    let lines = body.lines().map(str::trim).filter(|line| !line.is_empty());
    let (headers, letters): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.contains(':'));
    let block = Block {
        label,
        bytes: base64::decode(&letters.concat())?,
        has_headers: !headers.is_empty(),
    };
    Some((block, after))
}

/// Whether bytes are one thing after the other, at least one, each of which is a content, an algorithm,
/// and the signature that it makes of the content.
pub fn is_signed(bytes: &[u8]) -> bool {
    const SEQUENCE: u8 = 0x30;
    const BITS: u8 = 0x03;
    let mut rest = bytes;
    let mut any = false;
    while !rest.is_empty() {
        let Some((SEQUENCE, inside, after)) = element(rest) else {
            return false;
        };
        let mut parts = Vec::new();
        let mut left = inside;
        while let Some((tag, _, after)) = element(left).filter(|_| parts.len() < 4) {
            parts.push(tag);
            left = after;
        }
        if !left.is_empty() || parts != [SEQUENCE, SEQUENCE, BITS] {
            return false;
        }
        (rest, any) = (after, true);
    }
    any
}

/// The first element of bytes: its tag, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (number, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            let length = number.iter().fold(0, |n, b| n << 8 | usize::from(*b));
            (length, rest)
        }
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((*tag, content, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least that is signed: two empty sequences and no bits.
    const SIGNED: [u8; 8] = [0x30, 6, 0x30, 0, 0x30, 0, 3, 0];

    fn pem(label: &str, bytes: &[u8]) -> String {
        let body = base64::encode(bytes);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    }

    #[test]
    fn blocks_are_found_and_what_is_beside_them() {
        let (one, two) = (pem("CERTIFICATE", &[1, 2]), pem("PRIVATE KEY", &[3]));
        let block = |label, bytes: &[u8]| Block {
            label,
            bytes: bytes.to_vec(),
            has_headers: false,
        };
        let both = [block("CERTIFICATE", &[1, 2]), block("PRIVATE KEY", &[3])];
        let text = format!("{one}\n{two}");
        let (found, other) = blocks(&text);
        assert_eq!((found.as_slice(), other), (both.as_slice(), false));
        let text = format!("{one} and {two}");
        let (found, other) = blocks(&text);
        assert_eq!((found.len(), other), (2, true));
        let headed = one.replace("-----\nAQI", "-----\nProc-Type: 4\n\nAQI");
        let (found, _) = blocks(&headed);
        assert!(
            found[0].has_headers && found[0].bytes == [1, 2],
            "{found:?}"
        );
        for bad in [
            String::new(),
            "x".to_owned(),
            one.replace("END CERTIFICATE", "END KEY"),
            one.replace("AQI=", "A*I="),
            "-----BEGIN ".repeat(1000),
        ] {
            let (found, other) = blocks(&bad);
            assert_eq!((found.len(), other), (0, !bad.is_empty()), "{bad}");
        }
    }

    #[test]
    fn what_is_signed_has_three_parts() {
        assert!(is_signed(&SIGNED));
        assert!(is_signed(&[SIGNED, SIGNED].concat()));
        let long = [&[0x30, 0x81, 6][..], &SIGNED[2..]].concat();
        assert!(is_signed(&long));
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 0],
            &SIGNED[..7],
            &[0x30, 4, 0x30, 0, 0x30, 0],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0],
            b"request",
        ] {
            assert!(!is_signed(bad), "{bad:?}");
        }
    }
}
