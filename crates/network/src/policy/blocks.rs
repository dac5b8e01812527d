//! Blocks of addresses, each with holes, as a set of the kernel has them: ranges that do not meet.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use host::nft::{Family, Key, KeyPart, Value};

use super::model::Block;
use super::text::digest;

/// Blocks in words that are the same for the same addresses.
pub(super) fn blocks_text(blocks: &[Block]) -> String {
    let mut all: Vec<String> = blocks
        .iter()
        .map(|block| {
            let mut except: Vec<String> = block.except.iter().map(ToString::to_string).collect();
            except.sort();
            format!("{} but [{}]", block.within, except.join(","))
        })
        .collect();
    all.sort();
    all.dedup();
    all.join(" ")
}

/// The name of the set of some blocks.
pub fn blocks_name(blocks: &[Block]) -> String {
    digest("blocks", &blocks_text(blocks))
}

/// The elements of the set of some blocks, of one family: their ranges, which neither meet nor
/// overlap.
pub fn block_elements(blocks: &[Block], family: Family) -> BTreeMap<Key, Value> {
    let mut elements = BTreeMap::new();
    let most = most(family);
    let key = |number: u128| vec![KeyPart::Address(address(number, family))];
    for (first, last) in ranges(blocks, family) {
        elements.insert(key(first), Value::Present);
        if last < most {
            elements.insert(key(last + 1), Value::End);
        }
    }
    elements
}

/// The ranges of some blocks, in order; none touches the next.
fn ranges(blocks: &[Block], family: Family) -> Vec<(u128, u128)> {
    let ours = |prefix: &&host::nft::Prefix| Family::of(prefix.address) == family;
    let mut all: Vec<(u128, u128)> = Vec::new();
    for block in blocks
        .iter()
        .filter(|b| Family::of(b.within.address) == family)
    {
        let mut holes: Vec<(u128, u128)> = block.except.iter().filter(ours).map(bounds).collect();
        holes.sort_unstable();
        let (mut next, end) = bounds(&block.within);
        let mut open = true;
        for (first, last) in holes {
            if last < next || first > end {
                continue;
            }
            if first > next {
                all.push((next, first - 1));
            }
            if last >= end {
                open = false;
                break;
            }
            next = last + 1;
        }
        if open {
            all.push((next, end));
        }
    }
    all.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in all {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn most(family: Family) -> u128 {
    match family {
        Family::Ip4 => u128::from(u32::MAX),
        Family::Ip6 => u128::MAX,
    }
}

fn address(number: u128, family: Family) -> IpAddr {
    match family {
        // Never more than `most`.
        Family::Ip4 => Ipv4Addr::from_bits(number as u32).into(),
        Family::Ip6 => Ipv6Addr::from_bits(number).into(),
    }
}

/// The first and the last address of a network, as numbers.
fn bounds(prefix: &host::nft::Prefix) -> (u128, u128) {
    let (number, bits) = match prefix.address {
        IpAddr::V4(a) => (u128::from(a.to_bits()), 32),
        IpAddr::V6(a) => (a.to_bits(), 128),
    };
    let free = bits - u32::from(prefix.length).min(bits);
    let hosts = match free {
        128 => u128::MAX,
        free => (1u128 << free) - 1,
    };
    (number & !hosts, number | hosts)
}
