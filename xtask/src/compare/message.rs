//! Where the bytes of two protobuf messages differ first, by the numbers of the fields around it:
//! numbers are all that bytes say of themselves.

use super::difference::Difference;

/// What every enveloped message begins with.
const MAGIC: &[u8] = b"k8s\0";

/// How many bytes are shown.
const SHOWN: usize = 24;

/// The first difference, if there is one.
pub fn first(place: &str, theirs: &[u8], ours: &[u8]) -> Option<Difference> {
    if theirs == ours {
        return None;
    }
    let mut place = place.to_owned();
    let mut theirs = theirs.strip_prefix(MAGIC).unwrap_or(theirs);
    let mut ours = ours.strip_prefix(MAGIC).unwrap_or(ours);
    while let Some((number, a, b)) = inside(theirs, ours) {
        place = format!("{place} > {number}");
        (theirs, ours) = (a, b);
    }
    if let Some(rest) = theirs.strip_prefix(ours) {
        let what = format!("{} at the end", hex(rest));
        return Some(Difference::missing(place, &what));
    }
    if let Some(rest) = ours.strip_prefix(theirs) {
        let what = format!("{} at the end", hex(rest));
        return Some(Difference::extra(place, &what));
    }
    let same = theirs.iter().zip(ours).take_while(|(a, b)| a == b).count();
    let rest = |bytes: &[u8]| hex(bytes.get(same..).unwrap_or_default());
    let what = format!("{} instead of {} at byte {same}", rest(ours), rest(theirs));
    Some(Difference::other(place, what))
}

/// The first field that differs, if both sides have it and it may be a message: its number and
/// both contents.
fn inside<'m>(mut theirs: &'m [u8], mut ours: &'m [u8]) -> Option<(u64, &'m [u8], &'m [u8])> {
    if !is_message(theirs) || !is_message(ours) {
        return None;
    }
    loop {
        let (a, b) = (field(theirs)?, field(ours)?);
        if a.tag != b.tag {
            return None;
        }
        if a.content != b.content {
            let is_text = a.tag & 7 == 2;
            return is_text.then_some((a.tag >> 3, a.content, b.content));
        }
        (theirs, ours) = (a.rest, b.rest);
    }
}

fn is_message(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match field(bytes) {
            Some(field) => bytes = field.rest,
            None => return false,
        }
    }
    true
}

struct Field<'m> {
    /// Number and wire type.
    tag: u64,
    content: &'m [u8],
    rest: &'m [u8],
}

fn field(bytes: &[u8]) -> Option<Field<'_>> {
    let (tag, after) = varint(bytes)?;
    if tag >> 3 == 0 {
        return None;
    }
    let (content, rest) = match tag & 7 {
        0 => {
            let (_, rest) = varint(after)?;
            after.split_at_checked(after.len() - rest.len())?
        }
        1 => after.split_at_checked(8)?,
        2 => {
            let (len, body) = varint(after)?;
            body.split_at_checked(usize::try_from(len).ok()?)?
        }
        5 => after.split_at_checked(4)?,
        _ => return None,
    };
    Some(Field { tag, content, rest })
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut out = 0_u64;
    for (nth, byte) in bytes.iter().enumerate().take(10) {
        out |= u64::from(byte & 0x7f) << (7 * nth);
        if *byte < 0x80 {
            return Some((out, bytes.get(nth + 1..)?));
        }
    }
    None
}

fn hex(bytes: &[u8]) -> String {
    let shown = bytes.iter().take(SHOWN);
    let mut text: String = shown.map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > SHOWN {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(theirs: &[u8], ours: &[u8]) -> String {
        first("m", theirs, ours).map_or_else(String::new, |found| found.to_string())
    }

    #[test]
    fn the_numbers_lead_to_the_difference() {
        // Field 2 is a message whose field 1 is a number and whose field 3 is a text.
        let theirs = b"k8s\0\x0a\x01a\x12\x05\x08\x01\x1a\x01x";
        assert_eq!(text(theirs, theirs), "");
        let other_text = b"k8s\0\x0a\x01a\x12\x05\x08\x01\x1a\x01y";
        assert_eq!(
            text(theirs, other_text),
            "m > 2 > 3: 79 instead of 78 at byte 0"
        );
        let other_number = b"k8s\0\x0a\x01a\x12\x05\x08\x02\x1a\x01x";
        assert_eq!(
            text(theirs, other_number),
            "m > 2: 021a0178 instead of 011a0178 at byte 1"
        );
        let longer = b"k8s\0\x0a\x01a\x12\x05\x08\x01\x1a\x01x\x1a\x00";
        assert_eq!(text(longer, theirs), "m: we lack 1a00 at the end");
        assert_eq!(text(theirs, longer), "m: only we have 1a00 at the end");
    }

    #[test]
    fn what_is_not_a_message_is_compared_as_it_is() {
        assert_eq!(text(b"\xff", b"\xfe"), "m: fe instead of ff at byte 0");
        assert_eq!(
            text(b"\x0a\x09a", b"\x0a\x09b"),
            "m: 62 instead of 61 at byte 2"
        );
    }
}
