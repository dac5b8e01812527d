//! Where addresses of load balancers come from, and which ports of nodes are nobody's to have.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Addresses that load balancers may have, beside those of nodes: ranges of IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool(Vec<RangeInclusive<u32>>);

/// Why a pool cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("{0:?} is neither a range such as 192.0.2.0/28 nor one such as 192.0.2.10-192.0.2.20")]
    NoRange(String),
    #[error("{0:?}: only addresses of IPv4 are announced")]
    Six(String),
}

impl Pool {
    pub fn contains(&self, address: IpAddr) -> bool {
        let IpAddr::V4(four) = address else {
            return false;
        };
        self.0.iter().any(|r| r.contains(&u32::from(four)))
    }

    /// All addresses in the order in which they are given. Those that end in 0 and 255 are left to
    /// who asks for them: some devices take them for a network's own.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let all = self.0.iter().cloned().flatten();
        all.filter(|n| !matches!(n & 0xff, 0 | 0xff))
            .map(|n| IpAddr::V4(Ipv4Addr::from(n)))
    }
}

impl FromStr for Pool {
    type Err = PoolError;

    /// Ranges, with commas between them.
    fn from_str(text: &str) -> Result<Self, PoolError> {
        let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
        let ranges: Vec<_> = parts.map(range).collect::<Result<_, _>>()?;
        if ranges.is_empty() {
            return Err(PoolError::NoRange(text.to_owned()));
        }
        Ok(Self(ranges))
    }
}

fn range(text: &str) -> Result<RangeInclusive<u32>, PoolError> {
    let bad = || PoolError::NoRange(text.to_owned());
    let four = |part: &str| match part.trim().parse() {
        Ok(IpAddr::V4(four)) => Ok(u32::from(four)),
        Ok(IpAddr::V6(_)) => Err(PoolError::Six(text.to_owned())),
        Err(_) => Err(bad()),
    };
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (four(first)?, four(last)?);
        return if first <= last {
            Ok(first..=last)
        } else {
            Err(bad())
        };
    }
    let (base, length) = match text.split_once('/') {
        Some((base, length)) => (four(base)?, length.parse::<u32>().map_err(|_| bad())?),
        None => (four(text)?, 32),
    };
    let hosts = match length {
        0 => return Err(bad()),
        1..=32 => u32::MAX.checked_shr(length).unwrap_or(0),
        _ => return Err(bad()),
    };
    let base = base & !hosts;
    Ok(base..=base | hosts)
}

/// Ports at the nodes' addresses that no Service may have, since the node itself answers there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved(Vec<(u16, Option<String>)>);

impl Reserved {
    /// SSH, etcd, the API server and its balancer, VXLAN, a node's DNS, proxy and kubelet, and the
    /// other parts of a control plane.
    pub const DEFAULT: &'static str =
        "22,2379,2380,6443,6444,8472/UDP,10053,10249,10250,10256,10257,10259";

    pub fn has(&self, port: u16, protocol: &str) -> bool {
        let of = |own: &Option<String>| own.as_deref().is_none_or(|own| own == protocol);
        self.0
            .iter()
            .any(|(number, own)| *number == port && of(own))
    }
}

impl Default for Reserved {
    fn default() -> Self {
        // A test reads it.
        Self::DEFAULT.parse().unwrap_or(Self(Vec::new()))
    }
}

/// Why reserved ports cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no port such as 22 or 8472/UDP")]
pub struct ReservedError(String);

impl FromStr for Reserved {
    type Err = ReservedError;

    /// Ports with commas between them, each of all protocols or of one: `22,8472/UDP`.
    fn from_str(text: &str) -> Result<Self, ReservedError> {
        let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
        let one = |part: &str| {
            let bad = || ReservedError(part.to_owned());
            let (port, protocol) = match part.split_once('/') {
                Some((port, p)) if ["TCP", "UDP", "SCTP"].contains(&p) => (port, Some(p.into())),
                Some(_) => return Err(bad()),
                None => (part, None),
            };
            Ok((port.parse().map_err(|_| bad())?, protocol))
        };
        parts.map(one).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_read_and_give_their_addresses_in_order() {
        let pool: Pool = "192.0.2.254-192.0.3.2, 198.51.100.7,203.0.113.8/30"
            .parse()
            .unwrap();
        let all: Vec<String> = pool.addresses().map(|a| a.to_string()).collect();
        let expected = [
            "192.0.2.254",
            "192.0.3.1",
            "192.0.3.2",
            "198.51.100.7",
            "203.0.113.8",
            "203.0.113.9",
            "203.0.113.10",
            "203.0.113.11",
        ];
        assert_eq!(all, expected);
        // Not given by itself, but had by who asks.
        assert!(pool.contains("192.0.2.255".parse().unwrap()));
        assert!(!pool.contains("192.0.3.3".parse().unwrap()));
        assert!(!pool.contains("2001:db8::1".parse().unwrap()));
        for bad in ["", "x", "192.0.2.9-192.0.2.1", "192.0.2.0/33", "0.0.0.0/0"] {
            assert!(bad.parse::<Pool>().is_err(), "{bad}");
        }
        let six = "2001:db8::/64".parse::<Pool>().unwrap_err();
        assert!(matches!(six, PoolError::Six(_)));
    }

    #[test]
    fn reserved_ports_are_of_one_protocol_or_all() {
        let reserved = Reserved::default();
        assert!(reserved.has(10250, "TCP") && reserved.has(22, "UDP"));
        assert!(reserved.has(8472, "UDP") && !reserved.has(8472, "TCP"));
        assert!(!reserved.has(80, "TCP"));
        assert!(
            "".parse::<Reserved>()
                .is_ok_and(|none| !none.has(22, "TCP"))
        );
        assert!("80/tcp".parse::<Reserved>().is_err() && "x".parse::<Reserved>().is_err());
    }
}
