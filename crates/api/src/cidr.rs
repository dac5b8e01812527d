//! Ranges of addresses as flags and objects write them: `10.96.0.0/16`, `fd00:10:96::/112`, and
//! lists with one of each family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of the two families of addresses, in the API's words.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum IpFamily {
    Four,
    Six,
}

impl IpFamily {
    /// Both, in the order in which a cluster of both has them unless somebody says otherwise.
    pub const ALL: [Self; 2] = [Self::Four, Self::Six];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Four,
            IpAddr::V6(_) => Self::Six,
        }
    }

    /// `IPv4` or `IPv6`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Four => "IPv4",
            Self::Six => "IPv6",
        }
    }

    /// The family of this word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.word() == word)
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Four => Self::Six,
            Self::Six => Self::Four,
        }
    }

    /// How many bits its addresses have.
    pub fn bits(self) -> u8 {
        match self {
            Self::Four => 32,
            Self::Six => 128,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Which families a cluster's Services may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Families {
    /// That of Services which do not say.
    pub primary: IpFamily,
    /// Whether there is the other one, too.
    pub dual: bool,
}

impl Families {
    /// Whether the cluster has this one.
    pub fn has(self, family: IpFamily) -> bool {
        self.dual || self.primary == family
    }
}

impl Default for Families {
    /// IPv4 alone.
    fn default() -> Self {
        Self {
            primary: IpFamily::Four,
            dual: false,
        }
    }
}

/// The number of an address in its family.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(four) => four.to_bits().into(),
        IpAddr::V6(six) => six.to_bits(),
    }
}

/// A range: all addresses with the same leading bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    /// Its first address.
    pub base: IpAddr,
    /// The number of leading bits.
    pub prefix: u8,
}

impl Cidr {
    /// The range of this size that has the address; `None` if there is no such size.
    pub fn around(address: IpAddr, prefix: u8) -> Option<Self> {
        let family = IpFamily::of(address);
        if prefix > family.bits() {
            return None;
        }
        let mut range = Self {
            base: address,
            prefix,
        };
        range.base = address_of(family, number(address) & !range.hosts());
        Some(range)
    }

    /// The range that an object's text names, of any size: objects may have ranges that flags may
    /// not. What stands beyond the prefix does not count.
    pub fn of_object(text: &str) -> Option<Self> {
        let (base, prefix) = text.split_once('/')?;
        Self::around(base.parse().ok()?, prefix.parse().ok()?)
    }

    /// The numbers of the addresses that Services may have of it: its first address names the
    /// network, and IPv4's last one reaches all of it. `None` if nothing is left.
    pub fn of_services(self) -> Option<RangeInclusive<u128>> {
        let first = number(self.base).checked_add(1)?;
        let last = match self.family() {
            IpFamily::Four => number(self.last()).checked_sub(1)?,
            IpFamily::Six => number(self.last()),
        };
        (first <= last).then_some(first..=last)
    }

    /// Whether a Service may have this address of it.
    pub fn serves(self, address: IpAddr) -> bool {
        self.contains(address)
            && self
                .of_services()
                .is_some_and(|all| all.contains(&number(address)))
    }

    /// The family of its addresses.
    pub fn family(self) -> IpFamily {
        IpFamily::of(self.base)
    }

    /// The bits that its addresses differ in; as a number, its last address less its first.
    fn hosts(self) -> u128 {
        let bits = u32::from(self.family().bits().saturating_sub(self.prefix));
        1u128.checked_shl(bits).map_or(u128::MAX, |size| size - 1)
    }

    /// How many addresses it has, as far as they are counted: 2^32 at most.
    pub fn size(self) -> u64 {
        u64::try_from(self.hosts().saturating_add(1)).map_or(1 << 32, |size| size.min(1 << 32))
    }

    /// Whether the address is in it.
    pub fn contains(self, address: IpAddr) -> bool {
        Self::around(address, self.prefix) == Some(self)
    }

    /// Its last address.
    pub fn last(self) -> IpAddr {
        address_of(self.family(), number(self.base) | self.hosts())
    }

    /// Whether some address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        let least = self.prefix.min(other.prefix);
        self.family() == other.family()
            && Self::around(self.base, least) == Self::around(other.base, least)
    }

    /// The `n`th address, if it has so many; the last one, which is IPv4's broadcast address, is
    /// none of them.
    pub fn nth(self, n: u64) -> Option<IpAddr> {
        let n = u128::from(n);
        (n < self.hosts()).then(|| address_of(self.family(), number(self.base) + n))
    }

    /// The `i`th of the ranges with a prefix of this length that it consists of.
    pub fn part(self, prefix: u8, i: u64) -> Option<Self> {
        let family = self.family();
        if prefix < self.prefix || prefix > family.bits() {
            return None;
        }
        let size = u32::from(family.bits() - prefix);
        let offset = u128::from(i).checked_shl(size)?;
        let fits = offset >> size == u128::from(i) && offset <= self.hosts();
        fits.then(|| Self {
            base: address_of(family, number(self.base) + offset),
            prefix,
        })
    }
}

/// The address that has this number in its family; the last one for what IPv4 has not.
pub fn address_of(family: IpFamily, number: u128) -> IpAddr {
    match family {
        IpFamily::Four => Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpFamily::Six => Ipv6Addr::from_bits(number).into(),
    }
}

/// Ranges that are smaller hold too little to be divided, larger ones would be all there is.
const IPV4_PREFIXES: RangeInclusive<u8> = 8..=30;
const IPV6_PREFIXES: RangeInclusive<u8> = 8..=126;

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a range such as 10.96.0.0/16 or fd00:10:96::/112");
        let (base, prefix) = text.split_once('/').ok_or_else(bad)?;
        let base: IpAddr = base.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let sizes = match IpFamily::of(base) {
            IpFamily::Four => IPV4_PREFIXES,
            IpFamily::Six => IPV6_PREFIXES,
        };
        let range = Self::around(base, prefix).filter(|_| sizes.contains(&prefix));
        let range = range.ok_or_else(bad)?;
        if range.base != base {
            return Err(format!("{text:?} has bits beyond its prefix of {prefix}"));
        }
        Ok(range)
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(range: Cidr) -> Self {
        range.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// One range, or two of different families; the first one's family is the cluster's primary one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidrs {
    first: Cidr,
    second: Option<Cidr>,
}

impl Cidrs {
    /// These two; an error if they are of one family.
    pub fn both(first: Cidr, second: Cidr) -> Result<Self, String> {
        if first.family() == second.family() {
            return Err(format!("{first} and {second} are of the same family"));
        }
        Ok(Self {
            first,
            second: Some(second),
        })
    }

    /// The first one.
    pub fn primary(&self) -> Cidr {
        self.first
    }

    /// All, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = Cidr> + Clone + use<> {
        std::iter::once(self.first).chain(self.second)
    }

    /// The one of a family.
    pub fn of(&self, family: IpFamily) -> Option<Cidr> {
        self.iter().find(|range| range.family() == family)
    }

    /// Their families, in their order.
    pub fn families(&self) -> Vec<IpFamily> {
        self.iter().map(Cidr::family).collect()
    }

    /// The same as what Services may have.
    pub fn of_services(&self) -> Families {
        Families {
            primary: self.first.family(),
            dual: self.is_dual(),
        }
    }

    /// Whether there are two.
    pub fn is_dual(&self) -> bool {
        self.second.is_some()
    }

    /// The `n`th address of each.
    pub fn nth(&self, n: u64) -> Option<Vec<IpAddr>> {
        self.iter().map(|range| range.nth(n)).collect()
    }
}

impl From<Cidr> for Cidrs {
    fn from(first: Cidr) -> Self {
        Self {
            first,
            second: None,
        }
    }
}

impl FromStr for Cidrs {
    type Err = String;

    /// With a comma between them.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split(',').map(str::trim).collect::<Vec<_>>()[..] {
            [one] => Ok(one.parse::<Cidr>()?.into()),
            [one, two] => Self::both(one.parse()?, two.parse()?),
            _ => Err(format!("{text:?}: one range, or one of each family")),
        }
    }
}

impl TryFrom<String> for Cidrs {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Cidrs> for String {
    fn from(ranges: Cidrs) -> Self {
        ranges.to_string()
    }
}

impl fmt::Display for Cidrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        self.second.map_or(Ok(()), |second| write!(f, ",{second}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Cidr {
        text.parse().expect("a range")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn ranges_are_read_and_refused() {
        for good in ["10.96.0.0/12", "fd00:10:96::/112", "fd00:10:244::/56"] {
            assert_eq!(range(good).to_string(), good);
        }
        for bad in [
            "10.96.0.1/16",
            "10.0.0.0",
            "a/8",
            "10.0.0.0/33",
            "10.0.0.0/0",
            "10.0.0.0/31",
            "fd00::1/64",
            "fd00::/129",
            "::/0",
        ] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_and_parts_are_counted() {
        let four = range("10.1.0.0/30");
        assert_eq!(four.nth(2), Some(ip("10.1.0.2")));
        assert_eq!((four.nth(3), four.size()), (None, 4));
        let six = range("fd00:10:96::/112");
        assert_eq!(six.nth(10), Some(ip("fd00:10:96::a")));
        assert_eq!((six.nth(0xffff), six.size()), (None, 1 << 16));
        assert_eq!(range("fd00::/64").size(), 1 << 32);
        assert!(six.contains(ip("fd00:10:96::ffff")) && !six.contains(ip("fd00:10:96::1:0")));
        assert!(!six.contains(ip("10.96.0.1")) && !range("10.0.0.0/8").contains(ip("fd00::")));
        let pods = range("fd00:10:244::/56");
        assert_eq!(pods.part(64, 1), Some(range("fd00:10:244:1::/64")));
        assert_eq!(pods.part(64, 255), Some(range("fd00:10:244:ff::/64")));
        assert_eq!(pods.part(64, 256), None);
        assert_eq!(pods.part(48, 0), None);
        assert_eq!(range("10.4.0.0/22").part(24, 3), Some(range("10.4.3.0/24")));
        assert_eq!(range("10.4.0.0/22").part(24, 4), None);
        assert_eq!(range("10.4.0.0/22").part(24, u64::MAX), None);
    }

    #[test]
    fn services_have_neither_the_network_nor_all_of_it() {
        let of = |text: &str| Cidr::of_object(text).expect("a range");
        let small = of("10.1.0.4/30");
        assert_eq!(small.of_services().map(|all| all.count()), Some(2));
        for (address, serves) in [
            ("10.1.0.4", false),
            ("10.1.0.5", true),
            ("10.1.0.6", true),
            ("10.1.0.7", false),
            ("10.1.0.9", false),
            ("fd00::1", false),
        ] {
            assert_eq!(small.serves(ip(address)), serves, "{address}");
        }
        assert!(of("fd00::/127").serves(ip("fd00::1")));
        assert!(!of("fd00::/127").serves(ip("fd00::")));
        for none in [
            "10.1.0.0/31",
            "10.1.0.1/32",
            "fd00::1/128",
            "255.255.255.255/32",
        ] {
            assert_eq!(of(none).of_services(), None, "{none}");
        }
        for all in ["0.0.0.0/0", "::/0"] {
            assert!(of(all).of_services().is_some(), "{all}");
        }
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "fd00::/129",
            "a/1",
            "10.0.0.0/-1",
        ] {
            assert_eq!(Cidr::of_object(bad), None, "{bad}");
        }
    }

    #[test]
    fn overlaps_are_found_within_a_family() {
        assert!(range("10.96.0.0/16").overlaps(range("10.96.4.0/24")));
        assert!(!range("10.96.0.0/16").overlaps(range("10.97.0.0/16")));
        assert!(range("fd00:10::/32").overlaps(range("fd00:10:96::/112")));
        assert!(!range("fd00:10:96::/112").overlaps(range("fd00:10:97::/112")));
        let all = Cidr::around(ip("0.0.0.0"), 0).expect("a range");
        assert!(all.overlaps(range("10.0.0.0/8")) && !all.overlaps(range("fd00::/64")));
    }

    #[test]
    fn a_list_has_one_of_each_family() {
        let read = |text: &str| text.parse::<Cidrs>();
        let two = read("fd00:10:96::/112, 10.96.0.0/16").expect("two");
        assert_eq!(two.to_string(), "fd00:10:96::/112,10.96.0.0/16");
        assert_eq!(two.families(), [IpFamily::Six, IpFamily::Four]);
        assert_eq!(two.of(IpFamily::Four), Some(range("10.96.0.0/16")));
        assert_eq!(two.nth(1), Some(vec![ip("fd00:10:96::1"), ip("10.96.0.1")]));
        assert!(!read("10.96.0.0/16").expect("one").is_dual());
        for bad in ["", "10.96.0.0/16,", "10.96.0.0/16,10.97.0.0/16", "a,b,c"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let text = serde_json::to_string(&two).expect("text");
        assert_eq!(serde_json::from_str::<Cidrs>(&text).expect("read"), two);
    }
}
