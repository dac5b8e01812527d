//! Expressions: the instructions that the kernel runs for a rule. Each writes what it finds into
//! registers and reads what others left there.

use std::net::IpAddr;

use super::layout::{address_length, family_number, key_bytes, octets};
use super::{End, Family, Field, Key, Sticky};
use crate::nla::Writer;

/// The first of sixteen registers of 32 bits. Keys are built from it upwards.
pub(super) const KEY_REGISTER: u32 = 8;
/// Where what rules remember is put: a word of nothing, and an endpoint (see [`SetKind::Affinity`]).
///
/// [`SetKind::Affinity`]: super::SetKind::Affinity
pub(super) const PAD_REGISTER: u32 = 12;
/// Where a looked up endpoint is put: behind an IPv6 address and the word of nothing.
pub(super) const DATA_REGISTER: u32 = 13;

/// Where a looked up number is put: behind the longest key, and its own word of nothing.
const NUMBER_REGISTER: u32 = 21;

pub(super) fn expression(w: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    w.nested(1, |w| {
        w.text(1, name);
        w.nested(2, data);
    });
}

pub(super) fn load_all(w: &mut Writer, family: Family, fields: &[Field]) {
    let mut register = KEY_REGISTER;
    for field in fields {
        load(w, family, *field, register);
        register += if field.is_address() {
            address_length(family) / 4
        } else {
            1
        };
    }
}

/// As [`load_all`], of what is known beforehand.
pub(super) fn load_key(w: &mut Writer, key: &Key) {
    let mut register = KEY_REGISTER;
    for part in key {
        let mut bytes = key_bytes(&vec![*part]);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        load_constant(w, register, &bytes);
        register += (bytes.len() / 4) as u32;
    }
}

pub(super) fn load(w: &mut Writer, family: Family, field: Field, register: u32) {
    match (field, family) {
        (Field::SourceAddress, Family::Ip4) => payload(w, register, 1, 12, 4),
        (Field::DestinationAddress, Family::Ip4) => payload(w, register, 1, 16, 4),
        (Field::SourceAddress, Family::Ip6) => payload(w, register, 1, 8, 16),
        (Field::DestinationAddress, Family::Ip6) => payload(w, register, 1, 24, 16),
        (Field::Protocol, _) => meta_load(w, 16, register),
        (Field::DestinationPort, _) => payload(w, register, 2, 2, 2),
        (Field::Client, _) => connection(w, register, ct_source(family), Some(ORIGINAL)),
        (Field::Server, _) => connection(w, register, ct_source(family), Some(REPLY)),
        (Field::ConnectionProtocol, _) => connection(w, register, CT_PROTOCOL, None),
        (Field::ServerPort, _) => connection(w, register, CT_SOURCE_PORT, Some(REPLY)),
        (Field::Number, _) => {}
    }
}

/// What is loaded of a connection: NFT_CT_STATE and its like.
pub(super) const CT_STATE: u32 = 0;
const CT_PROTOCOL: u32 = 10;
const CT_SOURCE_PORT: u32 = 11;
/// The source address by its family's own number: of the number for any family (8), nft does not know
/// the length, and `nft list` aborts over keys that begin with it.
fn ct_source(family: Family) -> u32 {
    match family {
        Family::Ip4 => 19,
        Family::Ip6 => 21,
    }
}

/// The directions of a connection.
const ORIGINAL: u8 = 0;
const REPLY: u8 = 1;

pub(super) fn connection(w: &mut Writer, register: u32, key: u32, direction: Option<u8>) {
    expression(w, "ct", |w| {
        w.u32(1, register);
        w.u32(2, key);
        if let Some(direction) = direction {
            w.bytes(3, &[direction]);
        }
    });
}

pub(super) fn payload(w: &mut Writer, register: u32, base: u32, offset: u32, length: u32) {
    expression(w, "payload", |w| {
        w.u32(1, register);
        w.u32(2, base);
        w.u32(3, offset);
        w.u32(4, length);
    });
}

pub(super) fn meta_load(w: &mut Writer, key: u32, register: u32) {
    expression(w, "meta", |w| {
        w.u32(1, register);
        w.u32(2, key);
    });
}

pub(super) fn bitwise(w: &mut Writer, register: u32, mask: &[u8], flip: &[u8]) {
    expression(w, "bitwise", |w| {
        w.u32(1, register);
        w.u32(2, register);
        w.u32(3, mask.len() as u32);
        w.nested(4, |w| w.bytes(1, mask));
        w.nested(5, |w| w.bytes(1, flip));
    });
}

pub(super) fn compare(w: &mut Writer, register: u32, negate: bool, value: &[u8]) {
    compare_by(w, register, u32::from(negate), value);
}

/// Numbers in network order are compared as their bytes are: 0 equal, 1 not, 3 at most, 5 at least.
pub(super) fn compare_by(w: &mut Writer, register: u32, operation: u32, value: &[u8]) {
    expression(w, "cmp", |w| {
        w.u32(1, register);
        w.u32(2, operation);
        w.nested(3, |w| w.bytes(1, value));
    });
}

pub(super) fn lookup(w: &mut Writer, set: &str, id: Option<u32>, into: Option<u32>, negate: bool) {
    lookup_in(w, KEY_REGISTER, set, id, into, negate);
}

pub(super) fn lookup_in(
    w: &mut Writer,
    key: u32,
    set: &str,
    id: Option<u32>,
    into: Option<u32>,
    negate: bool,
) {
    expression(w, "lookup", |w| {
        w.text(1, set);
        w.u32(2, key);
        if let Some(register) = into {
            w.u32(3, register);
        }
        if let Some(id) = id {
            w.u32(4, id);
        }
        if negate {
            w.u32(5, 1);
        }
    });
}

/// Changes the element of the key register in a map that rules fill: 1 updates, 2 deletes.
pub(super) fn dynamic(w: &mut Writer, operation: u32, sticky: &Sticky) {
    expression(w, "dynset", |w| {
        w.text(1, &sticky.map);
        w.u32(3, operation);
        w.u32(4, KEY_REGISTER);
        w.u32(5, PAD_REGISTER);
        if sticky.timeout_seconds > 0 {
            w.u64(6, u64::from(sticky.timeout_seconds) * 1000);
        }
    });
}

/// Fills the registers of an endpoint with something of the same shape before a lookup writes there.
///
/// nft 1.0.6 takes the length of what a register holds from who wrote it last, knows none of what
/// comes from a map, and aborts (`nft list`) where that is a key or remembered in turn. A map that
/// writes one register before leaves nft believing in these fields. The rule's comment says what is.
pub(super) fn decoy(w: &mut Writer, family: Family) {
    load(w, family, Field::DestinationAddress, DATA_REGISTER);
    let port = DATA_REGISTER + address_length(family) / 4;
    load(w, family, Field::DestinationPort, port);
}

/// After the lookup: the word of nothing has a length for nft, too.
pub(super) fn pad(w: &mut Writer) {
    load_constant(w, PAD_REGISTER, &[0; 4]);
}

/// Ends with what `verdicts` says of the number that `numbers` has for the key registers.
pub(super) fn verdict_of_number(w: &mut Writer, numbers: &str, verdicts: &str) {
    // As `decoy`: nft believes the number to be the packet's mark.
    meta_load(w, 3, NUMBER_REGISTER);
    lookup(w, numbers, None, Some(NUMBER_REGISTER - 1), false);
    lookup_in(w, NUMBER_REGISTER, verdicts, None, Some(0), false);
}

pub(super) fn dnat(w: &mut Writer, family: Family) {
    nat(
        w,
        family,
        1,
        Some(DATA_REGISTER + address_length(family) / 4),
    );
}

pub(super) fn nat(w: &mut Writer, family: Family, kind: u32, port_register: Option<u32>) {
    expression(w, "nat", |w| {
        w.u32(1, kind);
        w.u32(2, u32::from(family_number(family)));
        w.u32(3, DATA_REGISTER);
        if let Some(register) = port_register {
            w.u32(5, register);
        }
    });
}

pub(super) fn local(w: &mut Writer, end: End, negate: bool) {
    expression(w, "fib", |w| {
        w.u32(1, KEY_REGISTER);
        w.u32(2, 3);
        w.u32(
            3,
            match end {
                End::Source => 1,
                End::Destination => 2,
            },
        );
    });
    // RTN_LOCAL
    compare(w, KEY_REGISTER, negate, &2u32.to_ne_bytes());
}

/// Whether there is no way to the source by the interface that the packet came by.
pub(super) fn reverse_path(w: &mut Writer) {
    expression(w, "fib", |w| {
        w.u32(1, KEY_REGISTER);
        // The number of the interface to leave by; none is 0.
        w.u32(2, 1);
        // NFTA_FIB_F_SADDR, NFTA_FIB_F_IIF
        w.u32(3, 1 | 8);
    });
    compare(w, KEY_REGISTER, false, &0u32.to_ne_bytes());
}

pub(super) fn interface(w: &mut Writer, key: u32, name: &str, negate: bool) {
    meta_load(w, key, KEY_REGISTER);
    let mut bytes = [0u8; 16];
    for (place, byte) in bytes.iter_mut().take(15).zip(name.bytes()) {
        *place = byte;
    }
    compare(w, KEY_REGISTER, negate, &bytes);
}

pub(super) fn load_constant(w: &mut Writer, register: u32, value: &[u8]) {
    expression(w, "immediate", |w| {
        w.u32(1, register);
        w.nested(2, |w| w.bytes(1, value));
    });
}

pub(super) fn address_field(end: End) -> Field {
    match end {
        End::Source => Field::SourceAddress,
        End::Destination => Field::DestinationAddress,
    }
}

/// The mask of a prefix and the address under it.
pub(super) fn masked(address: IpAddr, length: u8) -> (Vec<u8>, Vec<u8>) {
    let bytes = octets(address);
    let mask: Vec<u8> = (0..bytes.len())
        .map(|i| {
            let bits = usize::from(length).saturating_sub(i * 8).min(8);
            u8::MAX.checked_shl(8 - bits as u32).unwrap_or(0)
        })
        .collect();
    let value = bytes.iter().zip(&mask).map(|(b, m)| b & m).collect();
    (mask, value)
}
