//! The bytes of keys and of what they map to, and how sets of them are declared.

use std::net::{IpAddr, SocketAddr};

use super::{Family, Field, Key, KeyPart, SetKind};
use crate::nla::Writer;

pub(super) const SET_MAP: u32 = 0x8;
pub(super) const SET_TIMEOUT: u32 = 0x10;
const SET_DYNAMIC: u32 = 0x20;
const SET_INTERVAL: u32 = 0x4;
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;

/// Types that `nft list` knows, so that it can print our sets.
const TYPE_INTEGER: u32 = 4;
const TYPE_PORT: u32 = 13;
const TYPE_MARK: u32 = 19;
const TYPE_BITS: u32 = 6;
/// A number behind a word of nothing: see [`decoy`](super::expr::decoy).
pub(super) const NUMBER: (u32, u32) = ((TYPE_MARK << TYPE_BITS) | TYPE_MARK, 8);

/// How a set is declared to the kernel: flags, and type and length of key and data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub(super) flags: u32,
    pub(super) key: (u32, u32),
    pub(super) data: Option<(u32, u32)>,
}

impl Layout {
    /// The declaration of a named set.
    pub fn of(kind: &SetKind, family: Family) -> Self {
        let endpoints = Some(endpoint_type(family));
        match kind {
            SetKind::Set(fields) => Self {
                flags: 0,
                key: key_type(fields, family),
                data: None,
            },
            SetKind::Verdicts(fields) => Self {
                flags: SET_MAP,
                key: key_type(fields, family),
                data: Some((DATA_VERDICT, 16)),
            },
            SetKind::Endpoints(fields) => Self {
                flags: SET_MAP,
                key: key_type(fields, family),
                data: endpoints,
            },
            SetKind::Numbers(fields) => Self {
                flags: SET_MAP,
                key: key_type(fields, family),
                data: Some(NUMBER),
            },
            SetKind::Affinity => Self {
                flags: SET_MAP | SET_TIMEOUT | SET_DYNAMIC,
                key: key_type(&[Field::SourceAddress], family),
                data: Some(remembered_type(family)),
            },
            SetKind::Ranges(field) => Self {
                flags: SET_INTERVAL,
                key: key_type(&[*field], family),
                data: None,
            },
        }
    }

    pub(super) fn numbered(family: Family) -> Self {
        Self {
            flags: SET_MAP,
            key: (TYPE_INTEGER, 4),
            data: Some(endpoint_type(family)),
        }
    }

    /// As [`Layout::numbered`], of endpoints as they are remembered.
    pub(super) fn numbered_remembered(family: Family) -> Self {
        Self {
            data: Some(remembered_type(family)),
            ..Self::numbered(family)
        }
    }

    pub(super) fn of_endpoints(family: Family) -> Self {
        Self {
            flags: 0,
            key: endpoint_type(family),
            data: None,
        }
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.u32(4, self.key.0);
        w.u32(5, self.key.1);
        if let Some((kind, length)) = self.data {
            w.u32(6, kind);
            w.u32(7, length);
        }
        if self.key.0 == TYPE_INTEGER {
            // For nft: the key's bytes are in the host's order.
            let mut order = vec![0, 4];
            order.extend(1u32.to_ne_bytes());
            w.bytes(13, &order);
        }
    }
}

pub(super) fn key_type(fields: &[Field], family: Family) -> (u32, u32) {
    let one = |field: &Field| match (field, family) {
        (field, family) if field.is_address() => match family {
            Family::Ip4 => (7, 4),
            Family::Ip6 => (8, 16),
        },
        (Field::Protocol | Field::ConnectionProtocol, _) => (12, 1),
        (Field::Number, _) => (TYPE_MARK, 4),
        _ => (TYPE_PORT, 2),
    };
    if let [field] = fields {
        return one(field);
    }
    fields
        .iter()
        .map(one)
        .fold((0, 0), |(kind, length), (k, l): (u32, u32)| {
            ((kind << TYPE_BITS) | k, length + l.next_multiple_of(4))
        })
}

pub(super) fn endpoint_type(family: Family) -> (u32, u32) {
    let address = match family {
        Family::Ip4 => 7,
        Family::Ip6 => 8,
    };
    (
        (address << TYPE_BITS) | TYPE_PORT,
        address_length(family) + 4,
    )
}

/// An endpoint behind a word of nothing: see [`decoy`](super::expr::decoy).
fn remembered_type(family: Family) -> (u32, u32) {
    let (kind, length) = endpoint_type(family);
    ((TYPE_MARK << (2 * TYPE_BITS)) | kind, 4 + length)
}

pub(super) fn remembered_bytes(endpoint: &SocketAddr) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(endpoint_bytes(endpoint));
    bytes
}

pub(crate) fn family_number(family: Family) -> u8 {
    match family {
        Family::Ip4 => 2,
        Family::Ip6 => 10,
    }
}

pub(super) fn address_length(family: Family) -> u32 {
    match family {
        Family::Ip4 => 4,
        Family::Ip6 => 16,
    }
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub(super) fn endpoint_bytes(endpoint: &SocketAddr) -> Vec<u8> {
    let mut bytes = octets(endpoint.ip());
    bytes.extend_from_slice(&endpoint.port().to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

pub(super) fn number_bytes(number: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(number.to_ne_bytes());
    bytes
}

/// The number that these bytes stand for.
pub(super) fn number_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?))
}

pub(super) fn key_bytes(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in key {
        match part {
            KeyPart::Address(address) => bytes.extend(octets(*address)),
            KeyPart::Protocol(number) => bytes.push(*number),
            KeyPart::Port(port) => bytes.extend(port.to_be_bytes()),
            KeyPart::Number(number) => bytes.extend(number.to_ne_bytes()),
        }
        // Only fields of a longer key are padded to whole registers.
        while key.len() > 1 && !bytes.len().is_multiple_of(4) {
            bytes.push(0);
        }
    }
    bytes
}

/// The fields of a key of this type. All fields of one type are the same here: an address is read
/// as a destination, a protocol and a port as a packet's.
pub(super) fn fields_of(mut key_type: u32) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while key_type != 0 {
        fields.insert(
            0,
            match key_type & ((1 << TYPE_BITS) - 1) {
                7 | 8 => Field::DestinationAddress,
                12 => Field::Protocol,
                TYPE_PORT => Field::DestinationPort,
                TYPE_MARK => Field::Number,
                _ => return None,
            },
        );
        key_type >>= TYPE_BITS;
    }
    Some(fields)
}

/// The key that these bytes stand for, if they have the layout of the fields.
pub(super) fn key_of(bytes: &[u8], fields: &[Field], family: Family) -> Option<Key> {
    let mut rest = bytes;
    let mut key = Key::new();
    for field in fields {
        let (part, length) = match field {
            field if field.is_address() => (
                KeyPart::Address(address_of(rest, family)?),
                address_length(family) as usize,
            ),
            Field::Protocol | Field::ConnectionProtocol => (KeyPart::Protocol(*rest.first()?), 4),
            Field::Number => (
                KeyPart::Number(u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?)),
                4,
            ),
            _ => (
                KeyPart::Port(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?)),
                4,
            ),
        };
        key.push(part);
        rest = rest.get(length..).unwrap_or_default();
    }
    Some(key)
}

fn address_of(bytes: &[u8], family: Family) -> Option<IpAddr> {
    Some(match family {
        Family::Ip4 => IpAddr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?),
        Family::Ip6 => IpAddr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?),
    })
}

/// The endpoint that these bytes stand for.
pub(super) fn endpoint_of(bytes: &[u8], family: Family) -> Option<SocketAddr> {
    let address = address_of(bytes, family)?;
    let port = bytes.get(address_length(family) as usize..)?.get(..2)?;
    Some(SocketAddr::new(
        address,
        u16::from_be_bytes(port.try_into().ok()?),
    ))
}
