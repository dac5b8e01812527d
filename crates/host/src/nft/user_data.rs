//! What is kept beside a rule for whoever reads it back: the hash of its text, and where nft cannot
//! show a rule as it is, the text itself as a comment.

use super::{Part, Rule};

/// The fingerprint's type in a rule's user data. nft passes over it, and does not write it: so a rule
/// that somebody saved and loaded again by nft, which may say something else then, is not ours.
const FINGERPRINT: u8 = 0xf1;
/// nft's own type for a comment.
const COMMENT: u8 = 0;
/// So much of a rule's text at most; nft's bound is 128 with the zero.
const COMMENT_BYTES: usize = 120;

/// A rule's user data: type, length and value of each, in nft's form.
pub(super) fn user_data_of(rule: &Rule) -> Vec<u8> {
    let mut bytes = vec![FINGERPRINT, 8];
    bytes.extend(rule.fingerprint().to_be_bytes());
    if rule.0.iter().any(is_misread) {
        let text: String = rule.to_string();
        let text: String = text.chars().filter(char::is_ascii).collect();
        let text = text.get(..COMMENT_BYTES).unwrap_or(&text);
        bytes.extend([COMMENT, text.len() as u8 + 1]);
        bytes.extend(text.bytes());
        bytes.push(0);
    }
    bytes
}

/// Whether nft shows it as something else; see [`decoy`](super::expr::decoy).
fn is_misread(part: &Part) -> bool {
    match part {
        Part::VerdictOfNumber { .. } | Part::VerdictOfKey { .. } => true,
        Part::DnatRemembered { .. } | Part::Forget { .. } => true,
        Part::Dnat { remember, .. } => remember.is_some(),
        _ => false,
    }
}

/// The fingerprint in a rule's user data; zero if there is none.
pub(super) fn fingerprint_of(user_data: &[u8]) -> u64 {
    let mut rest = user_data;
    while let [kind, length, more @ ..] = rest {
        let Some((value, next)) = more.split_at_checked(usize::from(*length)) else {
            break;
        };
        if *kind == FINGERPRINT {
            return value.try_into().map_or(0, u64::from_be_bytes);
        }
        rest = next;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    #[test]
    fn a_fingerprint_is_found_and_nothing_is_taken_for_one() {
        let rule = |map: &str| Rule(vec![Part::Forget { map: map.into() }]);
        let long = rule(&"ä".repeat(300));
        for rule in [rule("m"), long, Rule(vec![Part::Reject])] {
            let bytes = user_data_of(&rule);
            assert_eq!(fingerprint_of(&bytes), rule.fingerprint());
            // The kernel's bound.
            assert!(bytes.len() <= 256);
            for cut in 0..10 {
                assert_eq!(fingerprint_of(&bytes[..cut]), 0);
            }
        }
        let comment = b"\x00\x120123456789abcdef\x00";
        assert_eq!(fingerprint_of(comment), 0);
    }

    #[test]
    fn a_comment_says_what_nft_cannot_show() {
        let says = |part: Part| {
            let bytes = user_data_of(&Rule(vec![part]));
            String::from_utf8_lossy(&bytes[10..]).into_owned()
        };
        let map = "m".to_owned();
        assert_eq!(says(Part::Forget { map }), "\0\x13delete ip saddr @m\0");
        assert_eq!(says(Part::Reject), "");
    }
}
