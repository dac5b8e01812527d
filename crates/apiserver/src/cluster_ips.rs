//! Which cluster IP a Service gets, and of which ServiceCIDR: pure. Every range gives addresses whose
//! ServiceCIDR is ready and is not being deleted, however ranges overlap; whose an address is, and
//! that nobody else has it, an `IPAddress` object says, whichever range it was given of.
//!
//! The range of the server's own flag comes first, others follow by their names, each when those
//! before it are full: so a range that was added can be emptied again. Within a range addresses are
//! drawn from its upper part, as upstream's, which leaves the lower one to those who ask by name.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use api::cidr::{Cidr, IpFamily, address_of, number};
use clock::Random;
use rand::RngExt;
use serde_json::Value;

/// The ServiceCIDR that servers make of their flag.
pub const DEFAULT: &str = "kubernetes";
/// The condition under which a ServiceCIDR gives addresses.
pub const READY: &str = "Ready";
/// How often a random address is tried before all that are had are looked at.
const GUESSES: usize = 32;
/// Of a range of more addresses than `LEAST` a part is kept for those who name one: a `SHARE`th, at
/// least `LEAST` and at most `MOST`; upstream's numbers.
const SHARE: u128 = 16;
const LEAST: u128 = 16;
const MOST: u128 = 256;

/// A range that gives addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its ServiceCIDR, which had this revision when it was seen to be ready.
    pub name: String,
    pub revision: u64,
    pub cidr: Cidr,
}

/// Why there is no address; in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No range has the address that was named.
    Mismatched,
    /// Somebody has the address that was named.
    Taken,
    /// All ranges of the family are full, or there are none.
    Full,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mismatched => "the provided network does not match the current range",
            Self::Taken => "provided IP is already allocated",
            Self::Full => "range is full",
        })
    }
}

/// Which addresses are had, by whomever.
pub trait Had {
    fn has(&self, address: IpAddr) -> bool;
    /// All from the first to the last, which are of one family.
    fn between(&self, first: IpAddr, last: IpAddr) -> BTreeSet<IpAddr>;
}

/// The ranges that ServiceCIDRs (name, object, revision) give addresses of, in the order in which
/// they are asked.
pub fn offers<'a>(all: impl IntoIterator<Item = (&'a str, Value, u64)>) -> Vec<Offer> {
    let mut offers: Vec<Offer> = all
        .into_iter()
        .filter(|(_, object, _)| gives(object))
        .flat_map(|(name, object, revision)| {
            cidrs(&object).into_iter().map(move |cidr| Offer {
                name: name.to_owned(),
                revision,
                cidr,
            })
        })
        .collect();
    // Stable: the ranges of one object stay in its order.
    offers.sort_by(|a, b| (a.name != DEFAULT, &a.name).cmp(&(b.name != DEFAULT, &b.name)));
    offers
}

/// The ranges of a ServiceCIDR.
pub fn cidrs(object: &Value) -> Vec<Cidr> {
    let list = object.pointer("/spec/cidrs").and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.filter_map(Cidr::of_object).collect()
}

/// The status of a ServiceCIDR's condition that it gives addresses; `None` if it has no such
/// condition.
pub fn readiness(object: &Value) -> Option<&str> {
    let all = object.pointer("/status/conditions")?.as_array()?;
    let ready = all.iter().find(|c| c["type"] == READY)?;
    ready["status"].as_str()
}

fn gives(object: &Value) -> bool {
    let deleted = object.pointer("/metadata/deletionTimestamp");
    deleted.is_none_or(Value::is_null) && readiness(object) == Some("True")
}

/// The range that gives an address which was named.
pub fn named<'a>(offers: &'a [Offer], ip: IpAddr, had: &dyn Had) -> Result<&'a Offer, Refused> {
    let of = offers.iter().find(|offer| offer.cidr.serves(ip));
    match of {
        None => Err(Refused::Mismatched),
        Some(_) if had.has(ip) => Err(Refused::Taken),
        Some(offer) => Ok(offer),
    }
}

/// An address of a family that nobody has, and the range that gives it.
pub fn give<'a>(
    offers: &'a [Offer],
    family: IpFamily,
    had: &dyn Had,
    random: &Random,
) -> Result<(IpAddr, &'a Offer), Refused> {
    let of_family = offers.iter().filter(|o| o.cidr.family() == family);
    of_family
        .flat_map(|offer| parts(offer.cidr).into_iter().map(move |part| (offer, part)))
        .find_map(|(offer, part)| Some((draw(family, &part, had, random)?, offer)))
        .ok_or(Refused::Full)
}

/// What addresses are drawn of, in this order: the upper part of a range, and its lower one.
fn parts(cidr: Cidr) -> Vec<RangeInclusive<u128>> {
    let Some(all) = cidr.of_services() else {
        return Vec::new();
    };
    let (first, last) = all.clone().into_inner();
    let size = (number(cidr.last()) - number(cidr.base)).saturating_add(1);
    let kept = (size / SHARE).clamp(LEAST, MOST);
    match first.checked_add(kept) {
        Some(upper) if size > LEAST && upper <= last => vec![upper..=last, first..=upper - 1],
        _ => vec![all],
    }
}

/// A random address that nobody has; the next free one when most are had.
fn draw(
    family: IpFamily,
    part: &RangeInclusive<u128>,
    had: &dyn Had,
    random: &Random,
) -> Option<IpAddr> {
    let mut random = random.clone();
    for _ in 0..GUESSES {
        let ip = address_of(family, random.random_range(part.clone()));
        if !had.has(ip) {
            return Some(ip);
        }
    }
    let (first, last) = part.clone().into_inner();
    let all = had.between(address_of(family, first), address_of(family, last));
    let from = random.random_range(part.clone());
    let free = gap(family, from..=last, &all);
    let free = free.or_else(|| gap(family, first..=from.checked_sub(1)?, &all));
    free.map(|n| address_of(family, n))
}

/// The first number of a range whose address is not among these.
fn gap(family: IpFamily, range: RangeInclusive<u128>, had: &BTreeSet<IpAddr>) -> Option<u128> {
    let (mut next, last) = range.into_inner();
    if next > last {
        return None;
    }
    for ip in had.range(address_of(family, next)..=address_of(family, last)) {
        if number(*ip) > next {
            break;
        }
        next = next.checked_add(1)?;
    }
    (next <= last).then_some(next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    impl Had for BTreeSet<IpAddr> {
        fn has(&self, address: IpAddr) -> bool {
            self.contains(&address)
        }
        fn between(&self, first: IpAddr, last: IpAddr) -> BTreeSet<IpAddr> {
            self.range(first..=last).copied().collect()
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn object(cidrs: &[&str], ready: &str, deleted: Option<&str>) -> Value {
        json!({
            "metadata": { "deletionTimestamp": deleted },
            "spec": { "cidrs": cidrs },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        })
    }

    fn ready(name: &'static str, cidrs: &[&str]) -> (&'static str, Value, u64) {
        (name, object(cidrs, "True", None), 7)
    }

    #[test]
    fn ranges_give_when_they_are_ready_and_stay() {
        let later = Some("2026-01-01T00:00:00Z");
        let all = offers([
            ready("b", &["10.2.0.0/24", "fd00:2::/112"]),
            ("gone", object(&["10.3.0.0/24"], "True", later), 7),
            ("new", json!({ "spec": { "cidrs": ["10.4.0.0/24"] } }), 7),
            ("not", object(&["10.5.0.0/24"], "False", None), 7),
            ready("a", &["10.1.0.0/24"]),
            ready(DEFAULT, &["fd00:96::/112", "10.96.0.0/24"]),
        ]);
        let seen: Vec<_> = all.iter().map(|o| (&*o.name, o.cidr.to_string())).collect();
        let want = [
            (DEFAULT, "fd00:96::/112"),
            (DEFAULT, "10.96.0.0/24"),
            ("a", "10.1.0.0/24"),
            ("b", "10.2.0.0/24"),
            ("b", "fd00:2::/112"),
        ];
        assert_eq!(seen, want.map(|(name, cidr)| (name, cidr.to_owned())));
    }

    #[test]
    fn a_named_address_is_of_any_range_that_has_it() {
        let all = offers([
            ready(DEFAULT, &["10.96.0.0/24"]),
            ready("wide", &["10.96.0.0/16"]),
        ]);
        let had = BTreeSet::from([ip("10.96.0.7")]);
        let of = |text: &str| named(&all, ip(text), &had).map(|o| &*o.name);
        assert_eq!(of("10.96.0.8"), Ok(DEFAULT));
        assert_eq!(of("10.96.0.7"), Err(Refused::Taken));
        // The address that reaches all of the one range is a usual one of the other.
        assert_eq!(of("10.96.0.255"), Ok("wide"));
        assert_eq!(of("10.96.1.0"), Ok("wide"));
        for none in ["10.96.0.0", "10.96.255.255", "10.97.0.1", "fd00::1"] {
            assert_eq!(of(none), Err(Refused::Mismatched), "{none}");
        }
    }

    #[test]
    fn a_part_is_left_to_those_who_name_an_address() {
        let part = |text: &str| -> Vec<(String, String)> {
            let cidr = Cidr::of_object(text).expect("a range");
            let show = |n| address_of(cidr.family(), n).to_string();
            let parts = parts(cidr).into_iter().map(RangeInclusive::into_inner);
            parts.map(|(a, b)| (show(a), show(b))).collect()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            part("10.0.0.0/16"),
            [
                pair("10.0.1.1", "10.0.255.254"),
                pair("10.0.0.1", "10.0.1.0")
            ]
        );
        assert_eq!(
            part("10.0.0.0/27"),
            [
                pair("10.0.0.17", "10.0.0.30"),
                pair("10.0.0.1", "10.0.0.16")
            ]
        );
        assert_eq!(part("10.0.0.0/28"), [pair("10.0.0.1", "10.0.0.14")]);
        assert_eq!(
            part("fd00::/64"),
            [
                pair("fd00::101", "fd00::ffff:ffff:ffff:ffff"),
                pair("fd00::1", "fd00::100")
            ]
        );
        assert!(part("10.0.0.0/32").is_empty());
        assert_eq!(part("::/0").len(), 2);
    }

    #[test]
    fn a_full_range_leaves_it_to_the_next() {
        let all = offers([
            ready(DEFAULT, &["10.96.0.0/29"]),
            ready("more", &["10.97.0.0/29"]),
        ]);
        let random = Random::seeded(3);
        let mut had = BTreeSet::new();
        let mut order = Vec::new();
        while let Ok((ip, offer)) = give(&all, IpFamily::Four, &had, &random) {
            assert!(offer.cidr.serves(ip) && had.insert(ip), "{ip}");
            order.push(&*offer.name);
        }
        let want = [[DEFAULT; 6], ["more"; 6]].concat();
        assert_eq!(order, want);
        let six = give(&all, IpFamily::Six, &had, &random);
        assert_eq!(six, Err(Refused::Full));
    }

    proptest! {
        /// Whatever is had: an address is given as long as one is free, it is free, of a range that
        /// offers it, of no later range while an earlier one has some, and the same each time.
        #[test]
        fn what_is_free_is_found(
            seed: u64,
            bases in proptest::collection::vec((0_u8..4, 24_u8..=32), 1..4),
            had in proptest::collection::btree_set(0_u32..1024, 0..600),
            full: bool,
        ) {
            let texts: Vec<String> = bases.iter().map(|(n, p)| format!("10.0.{n}.0/{p}")).collect();
            let names = ["a", "b", "c"];
            let all = offers(names.into_iter().zip(&texts).map(|(n, t)| ready(n, &[t.as_str()])));
            let mut had: BTreeSet<IpAddr> =
                had.iter().map(|n| address_of(IpFamily::Four, u128::from(0x0a00_0000 + n))).collect();
            let of = |offer: &Offer| -> Vec<IpAddr> {
                let all = offer.cidr.of_services().into_iter().flatten();
                all.map(|n| address_of(IpFamily::Four, n)).collect()
            };
            if full && let Some(first) = all.first() {
                had.extend(of(first).iter().skip(1));
            }
            let free = |offer: &Offer| of(offer).iter().any(|ip| !had.contains(ip));
            let got = give(&all, IpFamily::Four, &had, &Random::seeded(seed));
            let again = give(&all, IpFamily::Four, &had, &Random::seeded(seed));
            prop_assert_eq!(got, again);
            match (got, all.iter().find(|o| free(o))) {
                (Ok((ip, offer)), Some(first)) => {
                    prop_assert_eq!(offer, first);
                    prop_assert!(offer.cidr.serves(ip) && !had.contains(&ip));
                    prop_assert!(named(&all, ip, &had).is_ok());
                }
                (Err(why), None) => prop_assert_eq!(why, Refused::Full),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
