//! The named formats that texts can be checked against.

use api::names;

use crate::env::FORMATS;
use crate::{time, url};

/// A named format, as an index into the table of formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format(usize);

impl Format {
    pub(crate) fn named(name: &str) -> Option<Self> {
        FORMATS.iter().position(|(n, _)| *n == name).map(Self)
    }

    pub(crate) fn name(self) -> &'static str {
        FORMATS.get(self.0).map_or("", |(_, shown)| shown)
    }

    /// What upstream reckons its expression's length to be, for the cost.
    pub(crate) fn regex_size(self) -> u64 {
        match FORMATS.get(self.0).map_or("", |(name, _)| name) {
            "dns1123Label" | "dns1035Label" | "dns1123LabelPrefix" | "dns1035LabelPrefix" => 30,
            "labelValue" => 40,
            "uri" => URL_PATTERN_LENGTH,
            "byte" => BASE64_PATTERN_LENGTH,
            "uuid" => UUID_PATTERN_LENGTH,
            "date" | "datetime" => DATE_TIME_PATTERN_LENGTH,
            _ => 60,
        }
    }

    /// What is wrong with a text of this format.
    pub fn problems(self, text: &str) -> Vec<String> {
        let name = FORMATS.get(self.0).map_or("", |(name, _)| name);
        let masked;
        let text = match name.strip_suffix("Prefix") {
            // A name is to follow: a dash at the end is then one in the middle.
            Some(_) if text.len() > 1 && text.ends_with('-') => {
                masked = format!("{}a", &text[..text.len() - 1]);
                &masked
            }
            _ => text,
        };
        let unless = |ok: bool, what: &str| {
            if ok {
                Vec::new()
            } else {
                vec![what.to_owned()]
            }
        };
        match name {
            "dns1123Label" | "dns1123LabelPrefix" => names::is_dns1123_label(text),
            "dns1123Subdomain" | "dns1123SubdomainPrefix" => names::is_dns1123_subdomain(text),
            "dns1035Label" | "dns1035LabelPrefix" => names::is_dns1035_label(text),
            "qualifiedName" => names::is_qualified_name(text),
            "labelValue" => names::is_valid_label_value(text),
            "uri" => url::is_request_uri(text).err().into_iter().collect(),
            "uuid" => unless(is_uuid(text), "does not match the UUID format"),
            "byte" => unless(is_base64(text), "invalid base64"),
            "date" => unless(time::parse_date(text).is_some(), "invalid date"),
            _ => unless(is_date_time(text), "invalid datetime"),
        }
    }
}

const URL_PATTERN_LENGTH: u64 = 1103;
const BASE64_PATTERN_LENGTH: u64 = 84;
const UUID_PATTERN_LENGTH: u64 = 70;
const DATE_TIME_PATTERN_LENGTH: u64 = 71;

/// A UUID with or without dashes.
pub fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let hex = text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    let lengths: Vec<usize> = groups.iter().map(|g| g.len()).collect();
    // Each dash may be left out.
    hex && lengths.iter().sum::<usize>() == 32 && {
        let mut at = 0;
        lengths[..lengths.len() - 1].iter().all(|len| {
            at += len;
            [8, 12, 16, 20].contains(&at)
        }) && text.as_bytes().windows(2).all(|w| w != b"--")
    }
}

/// Base64 in its standard alphabet, padded, and not empty.
pub fn is_base64(text: &str) -> bool {
    use base64::Engine;
    !text.is_empty()
        && base64::engine::general_purpose::STANDARD
            .decode(text)
            .is_ok()
}

/// A time as the format `date-time` has it: RFC 3339 with a second and an offset.
pub fn is_date_time(text: &str) -> bool {
    time::parse_timestamp(&text.to_uppercase()).is_some()
}
