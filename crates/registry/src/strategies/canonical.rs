//! Addresses and ranges that are not written as they usually are: clients are warned of them.

use std::net::Ipv6Addr;

use api::FieldPath;
use serde_json::Value;

/// An address, where the same one is usually written otherwise; of IPv4 there is but one way.
fn written_otherwise(address: &str) -> Option<String> {
    let usual = address.parse::<Ipv6Addr>().ok()?.to_string();
    (usual != address).then_some(usual)
}

/// An address that is not written as RFC 5952 has it.
pub fn address(out: &mut Vec<String>, path: &FieldPath, value: &str) {
    if let Some(usual) = written_otherwise(value) {
        out.push(format!(
            "{path}: IPv6 address {value:?} should be in RFC 5952 canonical format ({usual:?})"
        ));
    }
}

/// The same of a range.
pub fn range(out: &mut Vec<String>, path: &FieldPath, value: &str) {
    let Some((first, bits)) = value.split_once('/') else {
        return;
    };
    if let Some(usual) = written_otherwise(first) {
        let usual = format!("{usual}/{bits}");
        out.push(format!(
            "{path}: IPv6 CIDR value {value:?} should be in RFC 5952 canonical format ({usual:?})"
        ));
    }
}

/// Each text of a list.
pub fn each(
    out: &mut Vec<String>,
    path: &FieldPath,
    list: &[Value],
    warn: fn(&mut Vec<String>, &FieldPath, &str),
) {
    for (i, value) in list.iter().enumerate() {
        warn(out, &path.index(i), value.as_str().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_usual() {
        let cases = [
            ("10.0.0.1", None),
            ("2001:db8::1", None),
            ("::", None),
            ("2001:DB8::1", Some("2001:db8::1")),
            ("0:0:0:0:0:0:0:1", Some("::1")),
            ("none", None),
        ];
        for (given, usual) in cases {
            assert_eq!(written_otherwise(given).as_deref(), usual, "{given}");
        }
        let mut out = Vec::new();
        range(&mut out, &FieldPath::new("r"), "FD00::/8");
        range(&mut out, &FieldPath::new("r"), "fd00::/8");
        assert_eq!(
            out,
            [
                "r: IPv6 CIDR value \"FD00::/8\" should be in RFC 5952 canonical format (\"fd00::/8\")"
            ]
        );
    }
}
