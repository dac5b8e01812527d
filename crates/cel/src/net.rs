//! Addresses and networks as expressions hold them.

use std::fmt;
use std::net::IpAddr;

/// An IP address without zone, and no IPv4 address in IPv6 form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip(pub(crate) IpAddr);

/// An address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr(pub(crate) IpAddr, pub(crate) u8);

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

fn bits(ip: &IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(*ip)) << 96,
        IpAddr::V6(ip) => u128::from(*ip),
    }
}

fn mask(len: u8) -> u128 {
    match len {
        0 => 0,
        len => u128::MAX << (128 - u32::from(len.min(128))),
    }
}

impl Ip {
    pub(crate) fn bytes(self) -> u64 {
        if self.0.is_ipv4() { 4 } else { 16 }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (ip, zone) = address(text).map_err(|why| {
            format!("IP Address {text:?} parse error during conversion from string: {why}")
        })?;
        if zone {
            return Err(format!(
                "IP address {text:?} with zone value is not allowed"
            ));
        }
        if mapped(&ip) {
            return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
        }
        Ok(Self(ip))
    }
}

/// An address, and whether it has a zone; else what is wrong, in the words of the parser that upstream
/// uses.
fn address(text: &str) -> Result<(IpAddr, bool), String> {
    let zone = text.split_once('%').filter(|(bare, _)| bare.contains(':'));
    let bare = zone.map_or(text, |(bare, _)| bare);
    let why = match (bare.parse::<IpAddr>(), zone) {
        (Ok(_), Some((_, ""))) => Fault::of("zone must be a non-empty string"),
        (Ok(ip), zone) => return Ok((ip, zone.is_some())),
        (Err(_), _) => fault(text).err().unwrap_or(Fault::of(UNREADABLE)),
    };
    Err(match why.at {
        Some(at) => format!("ParseAddr({text:?}): {} (at {at:?})", why.what),
        None => format!("ParseAddr({text:?}): {}", why.what),
    })
}

/// What is wrong with an address, and from where on.
#[derive(Debug, PartialEq, Eq)]
struct Fault<'t> {
    what: &'static str,
    at: Option<&'t str>,
}

const UNREADABLE: &str = "unable to parse IP";

impl<'t> Fault<'t> {
    fn of(what: &'static str) -> Self {
        Self { what, at: None }
    }
    fn at(what: &'static str, at: &'t str) -> Self {
        let at = Some(at);
        Self { what, at }
    }
}

/// Looks for the first thing that is wrong with a text that is not an address.
fn fault(text: &str) -> Result<(), Fault<'_>> {
    match text.chars().find(|c| matches!(c, '.' | ':' | '%')) {
        Some('.') => fault_of_four(text),
        Some(':') => fault_of_six(text),
        Some(_) => Err(Fault::of("missing IPv6 address")),
        None => Err(Fault::of(UNREADABLE)),
    }
}

fn fault_of_four(text: &str) -> Result<(), Fault<'_>> {
    let (mut value, mut digits, mut dots) = (0, 0, 0);
    for (i, c) in text.char_indices() {
        if let Some(digit) = c.to_digit(10) {
            if digits == 1 && value == 0 {
                return Err(Fault::of("IPv4 field has octet with leading zero"));
            }
            (value, digits) = (value * 10 + digit, digits + 1);
            if value > 255 {
                return Err(Fault::of("IPv4 field has value >255"));
            }
        } else if c == '.' {
            let rest = &text[i..];
            if digits == 0 || rest.len() == 1 {
                return Err(Fault::at("IPv4 field must have at least one digit", rest));
            }
            if dots == 3 {
                return Err(Fault::of("IPv4 address too long"));
            }
            (value, digits, dots) = (0, 0, dots + 1);
        } else {
            return Err(Fault::at("unexpected character", &text[i..]));
        }
    }
    if dots < 3 {
        return Err(Fault::of("IPv4 address too short"));
    }
    Ok(())
}

fn fault_of_six(text: &str) -> Result<(), Fault<'_>> {
    let mut rest = match text.split_once('%') {
        Some((_, "")) => return Err(Fault::of("zone must be a non-empty string")),
        Some((bare, _)) => bare,
        None => text,
    };
    let mut gap = false;
    if let Some(after) = rest.strip_prefix("::") {
        (rest, gap) = (after, true);
        if rest.is_empty() {
            return Ok(());
        }
    }
    // Of eight groups; an address of the other family at the end counts as two.
    let mut groups = 0;
    while groups < 8 {
        let end = rest.find(|c: char| !c.is_ascii_hexdigit());
        let digits = end.unwrap_or(rest.len());
        if digits > 4 {
            let what = "each group must have 4 or fewer digits";
            return Err(Fault::at(what, rest));
        }
        if digits == 0 {
            let what = "each colon-separated field must have at least one digit";
            return Err(Fault::at(what, rest));
        }
        if rest[digits..].starts_with('.') {
            if !gap && groups != 6 {
                let what = "embedded IPv4 address must replace the final 2 fields of the address";
                return Err(Fault::at(what, rest));
            }
            if groups > 6 {
                let what = "too many hex fields to fit an embedded IPv4 at the end of the address";
                return Err(Fault::at(what, rest));
            }
            fault_of_four(rest)?;
            (rest, groups) = ("", groups + 2);
            break;
        }
        groups += 1;
        rest = &rest[digits..];
        if rest.is_empty() {
            break;
        }
        let Some(after) = rest.strip_prefix(':') else {
            return Err(Fault::at("unexpected character, want colon", rest));
        };
        if after.is_empty() {
            let what = "colon must be followed by more characters";
            return Err(Fault::at(what, rest));
        }
        rest = after;
        if let Some(after) = rest.strip_prefix(':') {
            if gap {
                return Err(Fault::at("multiple :: in address", rest));
            }
            (rest, gap) = (after, true);
            if rest.is_empty() {
                break;
            }
        }
    }
    if !rest.is_empty() {
        return Err(Fault::at("trailing garbage after address", rest));
    }
    match (groups < 8, gap) {
        (true, false) => Err(Fault::of("address string too short")),
        (false, true) => {
            let what = "the :: must expand to at least one field of zeros";
            Err(Fault::of(what))
        }
        _ => Ok(()),
    }
}

fn mapped(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

impl Cidr {
    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.1).div_ceil(8)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let prefix = |what: &str| {
            format!(
                "network address parse error during conversion from string: netip.ParsePrefix({text:?}): {what}"
            )
        };
        let (ip, len) = text.rsplit_once('/').ok_or_else(|| prefix("no '/'"))?;
        let (ip, zone) = address(ip).map_err(|why| prefix(&why))?;
        if zone {
            return Err(prefix("IPv6 zones cannot be present in a prefix"));
        }
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let plain =
            len.bytes().all(|b| b.is_ascii_digit()) && (len == "0" || !len.starts_with('0'));
        let bits = len.parse::<u8>().ok().filter(|_| plain);
        let bits = bits.ok_or_else(|| prefix(&format!("bad bits after slash: {len:?}")))?;
        if bits > most {
            return Err(prefix("prefix length out of range"));
        }
        if mapped(&ip) {
            return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
        }
        Ok(Self(ip, bits))
    }

    pub(crate) fn contains(self, ip: &IpAddr) -> bool {
        let mask = mask(self.1);
        self.0.is_ipv4() == ip.is_ipv4() && bits(&self.0) & mask == bits(ip) & mask
    }

    pub(crate) fn masked(self) -> Self {
        let kept = bits(&self.0) & mask(self.1);
        let ip = match self.0 {
            IpAddr::V4(_) => IpAddr::V4(((kept >> 96) as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(kept.into()),
        };
        Self(ip, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_an_address_is_said_as_upstream_says_it() {
        for (text, want) in [
            ("a", "unable to parse IP"),
            ("", "unable to parse IP"),
            ("192.168.0.1.0", "IPv4 address too long"),
            ("1.2.3", "IPv4 address too short"),
            ("1.2.3.256", "IPv4 field has value >255"),
            ("1.2.3.04", "IPv4 field has octet with leading zero"),
            (
                "1..2.3",
                "IPv4 field must have at least one digit (at \".2.3\")",
            ),
            (
                "1.2.3.",
                "IPv4 field must have at least one digit (at \".\")",
            ),
            ("1.2.3.x", "unexpected character (at \"x\")"),
            ("%eth0", "missing IPv6 address"),
            ("fe80::1%", "zone must be a non-empty string"),
            (
                "2001:db8:::68",
                "each colon-separated field must have at least one digit (at \":68\")",
            ),
            (
                "12345::",
                "each group must have 4 or fewer digits (at \"12345::\")",
            ),
            ("1:2", "address string too short"),
            ("1::2::3", "multiple :: in address (at \":3\")"),
            (
                "1:2:3:4:5:6:7:8:9",
                "trailing garbage after address (at \"9\")",
            ),
            (
                "1:2:3:4:5:6:7::8",
                "the :: must expand to at least one field of zeros",
            ),
            (
                "1:g",
                "each colon-separated field must have at least one digit (at \"g\")",
            ),
            ("1g::", "unexpected character, want colon (at \"g::\")"),
            ("1:", "colon must be followed by more characters (at \":\")"),
            (
                "1:1.2.3.4",
                "embedded IPv4 address must replace the final 2 fields of the address (at \"1.2.3.4\")",
            ),
            ("::1.2.3.400", "IPv4 field has value >255"),
        ] {
            let want = format!("ParseAddr({text:?}): {want}");
            assert_eq!(address(text), Err(want), "{text}");
        }
        for good in [
            "::",
            "::1",
            "1::",
            "1:2:3:4:5:6:7:8",
            "fe80::1%eth0",
            "1.2.3.4",
        ] {
            assert!(address(good).is_ok() && fault(good) == Ok(()), "{good}");
        }
    }
}
