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
        if text.contains('%') && text.contains(':') {
            return Err(format!(
                "IP address {text:?} with zone value is not allowed"
            ));
        }
        let ip: IpAddr = text.parse().map_err(|_| {
            format!(
                "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
            )
        })?;
        if mapped(&ip) {
            return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
        }
        Ok(Self(ip))
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
        if ip.contains('%') {
            return Err(prefix("IPv6 zones cannot be present in a prefix"));
        }
        let ip: IpAddr = ip
            .parse()
            .map_err(|_| prefix(&format!("ParseAddr({ip:?}): unable to parse IP")))?;
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
