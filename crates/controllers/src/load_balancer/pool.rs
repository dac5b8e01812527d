//! Where addresses of load balancers come from, and which ports of nodes are nobody's to have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use api::cidr::{Cidr, IpFamily, number};

/// Addresses that load balancers may have, beside those of nodes: ranges of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool(Vec<Addresses>);

/// From the first to the last one, both of the same family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Addresses {
    family: IpFamily,
    first: u128,
    last: u128,
}

/// Why a pool cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a range such as 192.0.2.0/28 or 2001:db8::/120 nor one such as 192.0.2.10-192.0.2.20"
)]
pub struct PoolError(String);

impl Addresses {
    /// In the order in which they are given.
    fn given(self) -> impl Iterator<Item = IpAddr> {
        let all = self.first..=self.last;
        all.filter_map(move |n| match self.family {
            // Some devices take them for a network's own.
            IpFamily::Four if matches!(n & 0xff, 0 | 0xff) => None,
            IpFamily::Four => Some(Ipv4Addr::from_bits(u32::try_from(n).ok()?).into()),
            // The first one of a network means its routers.
            IpFamily::Six if n & u128::from(u64::MAX) == 0 => None,
            IpFamily::Six => Some(Ipv6Addr::from_bits(n).into()),
        })
    }
}

impl Pool {
    pub fn contains(&self, address: IpAddr) -> bool {
        let (family, n) = (IpFamily::of(address), number(address));
        let in_it = |r: &Addresses| r.family == family && (r.first..=r.last).contains(&n);
        self.0.iter().any(in_it)
    }

    /// Whether it has addresses of a family.
    pub fn has(&self, family: IpFamily) -> bool {
        self.0.iter().any(|range| range.family == family)
    }

    /// All addresses of a family in the order in which they are given, except those that are left to
    /// who asks for them.
    pub fn addresses(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> + '_ {
        let ours = self.0.iter().filter(move |range| range.family == family);
        ours.flat_map(|range| range.given())
    }
}

impl FromStr for Pool {
    type Err = PoolError;

    /// Ranges, with commas between them.
    fn from_str(text: &str) -> Result<Self, PoolError> {
        let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
        let ranges: Vec<_> = parts.map(range).collect::<Result<_, _>>()?;
        if ranges.is_empty() {
            return Err(PoolError(text.to_owned()));
        }
        Ok(Self(ranges))
    }
}

fn range(text: &str) -> Result<Addresses, PoolError> {
    let bad = || PoolError(text.to_owned());
    let ip = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| bad());
    let (first, last) = if let Some((first, last)) = text.split_once('-') {
        (ip(first)?, ip(last)?)
    } else {
        let (base, length) = match text.split_once('/') {
            Some((base, length)) => (ip(base)?, length.parse::<u8>().map_err(|_| bad())?),
            None => (ip(text)?, IpFamily::of(ip(text)?).bits()),
        };
        let range = Cidr::around(base, length).filter(|_| length > 0);
        let range = range.ok_or_else(bad)?;
        (range.base, range.last())
    };
    let range = Addresses {
        family: IpFamily::of(first),
        first: number(first),
        last: number(last),
    };
    let fits = range.family == IpFamily::of(last) && range.first <= range.last;
    fits.then_some(range).ok_or_else(bad)
}

/// Ports at the nodes' addresses that no Service may have, since the node itself answers there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved(Vec<(u16, Option<String>)>);

impl Reserved {
    /// SSH, etcd, the API server and its balancer, VXLAN, WireGuard (nodes that encrypt what pods send
    /// would reach each other's pods no more), a node's DNS, proxy and kubelet, and the other parts of a
    /// control plane.
    pub const DEFAULT: &'static str =
        "22,2379,2380,6443,6444,8472/UDP,51820/UDP,10053,10249,10250,10256,10257,10259";

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
#[error("{0:?} is not a port such as 22 or 8472/UDP")]
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
        let four = pool.addresses(IpFamily::Four);
        let all: Vec<String> = four.map(|a| a.to_string()).collect();
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
        assert!(!pool.has(IpFamily::Six));
        for bad in [
            "",
            "x",
            "192.0.2.9-192.0.2.1",
            "192.0.2.0/33",
            "0.0.0.0/0",
            "192.0.2.1-2001:db8::1",
            "2001:db8::/129",
        ] {
            assert!(bad.parse::<Pool>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pools_of_both_families_give_an_address_of_each() {
        let pool: Pool = "192.0.2.8/31,2001:db8::/64,2001:db9::5-2001:db9::6"
            .parse()
            .unwrap();
        let six: Vec<String> = pool
            .addresses(IpFamily::Six)
            .take(2)
            .map(|a| a.to_string())
            .collect();
        assert_eq!(six, ["2001:db8::1", "2001:db8::2"]);
        assert_eq!(pool.addresses(IpFamily::Four).count(), 2);
        for (ip, has) in [
            ("2001:db8::ffff:0:1", true),
            ("2001:db8:0:1::", false),
            ("2001:db9::6", true),
            ("2001:db9::7", false),
        ] {
            assert_eq!(pool.contains(ip.parse().unwrap()), has, "{ip}");
        }
    }

    #[test]
    fn reserved_ports_are_of_one_protocol_or_all() {
        let reserved = Reserved::default();
        assert!(reserved.has(10250, "TCP") && reserved.has(22, "UDP"));
        assert!(reserved.has(8472, "UDP") && !reserved.has(8472, "TCP"));
        assert!(reserved.has(51820, "UDP") && !reserved.has(51820, "TCP"));
        assert!(!reserved.has(80, "TCP"));
        assert!(
            "".parse::<Reserved>()
                .is_ok_and(|none| !none.has(22, "TCP"))
        );
        assert!("80/tcp".parse::<Reserved>().is_err() && "x".parse::<Reserved>().is_err());
    }
}
