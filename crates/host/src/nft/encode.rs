//! The model as nf_tables netlink messages. Numbers are those of linux/netfilter/nf_tables.h.

use std::net::{IpAddr, SocketAddr};

use super::{
    Chain, ChainKind, End, Family, Field, Key, KeyPart, Part, Pick, Rule, SetKind, Sticky, Table,
    Value, Verdict,
};
use crate::nla::{Writer, flag};

/// The subsystem's number in a message type.
pub(super) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Message numbers.
pub(super) mod message {
    pub const NEW_TABLE: u16 = 0;
    pub const DELETE_TABLE: u16 = 2;
    pub const NEW_CHAIN: u16 = 3;
    pub const GET_CHAIN: u16 = 4;
    pub const DELETE_CHAIN: u16 = 5;
    pub const NEW_RULE: u16 = 6;
    pub const GET_RULE: u16 = 7;
    pub const DELETE_RULE: u16 = 8;
    pub const NEW_SET: u16 = 9;
    pub const GET_SET: u16 = 10;
    pub const DELETE_SET: u16 = 11;
    pub const NEW_ELEMENT: u16 = 12;
    pub const GET_ELEMENT: u16 = 13;
    pub const DELETE_ELEMENT: u16 = 14;
}

pub(super) const SET_ANONYMOUS: u32 = 0x1;
const SET_CONSTANT: u32 = 0x2;
pub(super) const SET_MAP: u32 = 0x8;
pub(super) const SET_TIMEOUT: u32 = 0x10;
const SET_DYNAMIC: u32 = 0x20;
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;

/// The first of sixteen registers of 32 bits. Keys are built from it upwards.
const KEY_REGISTER: u32 = 8;
/// Where a looked up endpoint is put: behind an IPv6 address.
const DATA_REGISTER: u32 = 12;

/// So many elements surely fit into one attribute of 64 KiB, whatever the names are.
const ELEMENTS_PER_MESSAGE: usize = 250;

/// Types that `nft list` knows, so that it can print our sets.
const TYPE_INTEGER: u32 = 4;
const TYPE_PORT: u32 = 13;
const TYPE_BITS: u32 = 6;

/// A request that the kernel carries out as one transaction.
#[derive(Debug, Default)]
pub struct Batch {
    writer: Writer,
    sequence: u32,
    sets: u32,
    commands: u32,
}

impl Batch {
    /// An empty transaction.
    pub fn new() -> Self {
        let mut batch = Self::default();
        batch.envelope(BATCH_BEGIN);
        batch
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// How many changes it holds.
    pub fn len(&self) -> u32 {
        self.commands
    }

    /// Its bytes, closed, and the sequence number of its last command, which is acknowledged.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        let last = self.sequence;
        self.writer.add_flags(flag::ACK);
        self.envelope(BATCH_END);
        (self.writer.as_bytes().to_vec(), last)
    }

    fn envelope(&mut self, kind: u16) {
        self.sequence += 1;
        self.writer
            .begin(kind, flag::REQUEST, self.sequence, 0, SUBSYSTEM);
        self.writer.end();
    }

    fn command(&mut self, kind: u16, flags: u16, family: Family, body: impl FnOnce(&mut Writer)) {
        self.sequence += 1;
        self.commands += 1;
        let kind = (SUBSYSTEM << 8) | kind;
        self.writer.begin(
            kind,
            flag::REQUEST | flags,
            self.sequence,
            family_number(family),
            0,
        );
        body(&mut self.writer);
        self.writer.end();
    }

    /// Creates the table unless it exists.
    pub fn add_table(&mut self, table: &Table) {
        self.command(message::NEW_TABLE, flag::CREATE, table.family, |w| {
            w.text(1, &table.name);
            w.u32(2, 0);
        });
    }

    /// Deletes the table with all its content; an error if it does not exist.
    pub fn delete_table(&mut self, table: &Table) {
        self.command(message::DELETE_TABLE, 0, table.family, |w| {
            w.text(1, &table.name)
        });
    }

    /// Creates the chain, without its rules.
    pub fn add_chain(&mut self, table: &Table, name: &str, chain: &Chain) {
        self.command(message::NEW_CHAIN, flag::CREATE, table.family, |w| {
            w.text(1, &table.name);
            w.text(3, name);
            if let Some(hook) = chain.hook {
                w.nested(4, |w| {
                    w.u32(1, hook.point as u32);
                    w.u32(2, hook.priority as u32);
                });
                w.text(
                    7,
                    match hook.kind {
                        ChainKind::Filter => "filter",
                        ChainKind::Nat => "nat",
                    },
                );
            }
        });
    }

    /// Deletes the chain, which must be empty and unreferenced by then.
    pub fn delete_chain(&mut self, table: &Table, name: &str) {
        self.command(message::DELETE_CHAIN, 0, table.family, |w| {
            w.text(1, &table.name);
            w.text(3, name);
        });
    }

    /// Deletes all rules of the chain.
    pub fn flush_chain(&mut self, table: &Table, name: &str) {
        self.command(message::DELETE_RULE, 0, table.family, |w| {
            w.text(1, &table.name);
            w.text(2, name);
        });
    }

    /// Appends a rule to the chain, and creates the unnamed sets that it uses.
    pub fn add_rule(&mut self, table: &Table, chain: &str, rule: &Rule) {
        let mut body = Writer::default();
        for part in &rule.0 {
            self.part(table, &mut body, part);
        }
        let comment = comment_of(rule.fingerprint());
        self.command(
            message::NEW_RULE,
            flag::CREATE | flag::APPEND,
            table.family,
            |w| {
                w.text(1, &table.name);
                w.text(2, chain);
                w.nested(4, |w| w.raw(body.as_bytes()));
                w.bytes(7, &comment);
            },
        );
    }

    /// Creates a named set or map, without its elements.
    pub fn add_set(&mut self, table: &Table, name: &str, kind: &SetKind) {
        self.sets += 1;
        let id = self.sets;
        self.command(message::NEW_SET, flag::CREATE, table.family, |w| {
            let layout = Layout::of(kind, table.family);
            w.text(1, &table.name);
            w.text(2, name);
            w.u32(3, layout.flags);
            layout.write(w);
            w.u32(10, id);
            if matches!(kind, SetKind::Affinity) {
                w.nested(9, |w| w.u32(1, 65_536));
            }
        });
    }

    /// Deletes a named set, which must be unreferenced by then.
    pub fn delete_set(&mut self, table: &Table, name: &str) {
        self.command(message::DELETE_SET, 0, table.family, |w| {
            w.text(1, &table.name);
            w.text(2, name);
        });
    }

    /// Adds elements to a named set.
    pub fn add_elements<'a>(
        &mut self,
        table: &Table,
        set: &str,
        elements: impl IntoIterator<Item = (&'a Key, &'a Value)>,
    ) {
        let elements: Vec<_> = elements
            .into_iter()
            .map(|(key, value)| (key_bytes(key), Some(value.clone())))
            .collect();
        self.elements(
            message::NEW_ELEMENT,
            flag::CREATE,
            table,
            set,
            None,
            &elements,
        );
    }

    /// Deletes elements of a named set.
    pub fn delete_elements<'a>(
        &mut self,
        table: &Table,
        set: &str,
        keys: impl IntoIterator<Item = &'a Key>,
    ) {
        let elements: Vec<_> = keys.into_iter().map(|key| (key_bytes(key), None)).collect();
        self.elements(message::DELETE_ELEMENT, 0, table, set, None, &elements);
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        table: &Table,
        set: &str,
        id: Option<u32>,
        elements: &[(Vec<u8>, Option<Value>)],
    ) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.command(kind, flags, table.family, |w| {
                w.text(1, &table.name);
                w.text(2, set);
                if let Some(id) = id {
                    w.u32(4, id);
                }
                w.nested(3, |w| {
                    for (key, value) in chunk {
                        w.nested(1, |w| element(w, key, value.as_ref()));
                    }
                });
            });
        }
    }

    /// Creates a set that belongs to the next rule alone; gives its identifier in this batch.
    fn anonymous_set(
        &mut self,
        table: &Table,
        layout: Layout,
        elements: &[(Vec<u8>, Option<Value>)],
    ) -> (String, u32) {
        self.sets += 1;
        let id = self.sets;
        let name = if layout.data.is_some() {
            "__map%d"
        } else {
            "__set%d"
        };
        self.command(message::NEW_SET, flag::CREATE, table.family, |w| {
            w.text(1, &table.name);
            w.text(2, name);
            w.u32(3, layout.flags | SET_ANONYMOUS | SET_CONSTANT);
            layout.write(w);
            w.nested(9, |w| w.u32(1, elements.len() as u32));
            w.u32(10, id);
        });
        self.elements(
            message::NEW_ELEMENT,
            flag::CREATE,
            table,
            name,
            Some(id),
            elements,
        );
        (name.to_owned(), id)
    }

    fn part(&mut self, table: &Table, w: &mut Writer, part: &Part) {
        let family = table.family;
        match part {
            Part::Address {
                end,
                within,
                negate,
            } => {
                load(w, family, address_field(*end), KEY_REGISTER);
                let (mask, value) = masked(within.address, within.length);
                bitwise(w, KEY_REGISTER, &mask, &vec![0; mask.len()]);
                compare(w, KEY_REGISTER, *negate, &value);
            }
            Part::Local { end, negate } => local(w, *end, *negate),
            Part::Mark { mask, value } => {
                meta_load(w, 3, KEY_REGISTER);
                bitwise(w, KEY_REGISTER, &mask.to_ne_bytes(), &[0; 4]);
                compare(w, KEY_REGISTER, false, &value.to_ne_bytes());
            }
            Part::OutInterface { name, negate } => interface(w, 7, name, *negate),
            Part::InInterface { name, negate } => interface(w, 6, name, *negate),
            Part::Protocol(number) => {
                meta_load(w, 16, KEY_REGISTER);
                compare(w, KEY_REGISTER, false, &[*number]);
            }
            Part::NewConnection => {
                expression(w, "ct", |w| {
                    w.u32(1, KEY_REGISTER);
                    w.u32(2, 0);
                });
                // The bit of IP_CT_NEW in NF_CT_STATE_BIT's numbering.
                bitwise(w, KEY_REGISTER, &8u32.to_ne_bytes(), &[0; 4]);
                compare(w, KEY_REGISTER, true, &[0; 4]);
            }
            Part::InSet {
                fields,
                set,
                negate,
            } => {
                load_all(w, family, fields);
                lookup(w, set, None, None, *negate);
            }
            Part::VerdictMap { fields, map } => {
                load_all(w, family, fields);
                lookup(w, map, None, Some(0), false);
            }
            Part::Counter => expression(w, "counter", |w| {
                w.u64(1, 0);
                w.u64(2, 0);
            }),
            Part::SetMark { clear, flip } => {
                meta_load(w, 3, KEY_REGISTER);
                bitwise(
                    w,
                    KEY_REGISTER,
                    &(!clear).to_ne_bytes(),
                    &flip.to_ne_bytes(),
                );
                expression(w, "meta", |w| {
                    w.u32(2, 3);
                    w.u32(3, KEY_REGISTER);
                });
            }
            Part::Dnat {
                pick,
                endpoints,
                remember,
            } => {
                self.choose(table, w, *pick, endpoints);
                if let Some(sticky) = remember {
                    load(w, family, Field::SourceAddress, KEY_REGISTER);
                    dynamic(w, 1, sticky);
                }
                dnat(w, family);
            }
            Part::DnatRemembered { sticky, endpoints } => {
                self.remembered(table, w, sticky, endpoints);
            }
            Part::Forget { map } => {
                load(w, family, Field::SourceAddress, KEY_REGISTER);
                lookup(w, map, None, Some(DATA_REGISTER), false);
                dynamic(
                    w,
                    2,
                    &Sticky {
                        map: map.clone(),
                        timeout_seconds: 0,
                    },
                );
            }
            Part::DnatMap { fields, map } => {
                load_all(w, family, fields);
                lookup(w, map, None, Some(DATA_REGISTER), false);
                dnat(w, family);
            }
            Part::Masquerade => expression(w, "masq", |w| w.u32(1, 0x10)),
            Part::Snat(address) => {
                load_constant(w, DATA_REGISTER, &octets(*address));
                nat(w, family, 0, None);
            }
            Part::Reject => expression(w, "reject", |w| {
                w.u32(1, 0);
                w.bytes(
                    2,
                    &[match family {
                        Family::Ip4 => 3,
                        Family::Ip6 => 4,
                    }],
                );
            }),
            Part::Verdict(verdict) => expression(w, "immediate", |w| {
                w.u32(1, 0);
                w.nested(2, |w| write_verdict(w, verdict));
            }),
        }
    }

    /// Leaves one of the endpoints in the data register.
    fn choose(&mut self, table: &Table, w: &mut Writer, pick: Pick, endpoints: &[SocketAddr]) {
        if let [only] = endpoints {
            let bytes = endpoint_bytes(only);
            let (address, port) = bytes.split_at(bytes.len() - 4);
            load_constant(w, DATA_REGISTER, address);
            let words = (address.len() / 4) as u32;
            load_constant(w, DATA_REGISTER + words, port);
            return;
        }
        let elements: Vec<_> = endpoints
            .iter()
            .enumerate()
            .map(|(i, e)| ((i as u32).to_ne_bytes().to_vec(), Some(Value::Endpoint(*e))))
            .collect();
        let (name, id) = self.anonymous_set(table, Layout::numbered(table.family), &elements);
        let count = endpoints.len() as u32;
        match pick {
            Pick::RoundRobin => expression(w, "numgen", |w| {
                w.u32(1, KEY_REGISTER);
                w.u32(2, count);
                w.u32(3, 0);
                w.u32(4, 0);
            }),
            Pick::SourceHash => {
                load(w, table.family, Field::SourceAddress, DATA_REGISTER);
                expression(w, "hash", |w| {
                    w.u32(1, DATA_REGISTER);
                    w.u32(2, KEY_REGISTER);
                    w.u32(3, address_length(table.family));
                    w.u32(4, count);
                    w.u32(5, 0x7469_7068);
                    w.u32(7, 0);
                });
            }
        }
        lookup(w, &name, Some(id), Some(DATA_REGISTER), false);
    }

    fn remembered(&mut self, table: &Table, w: &mut Writer, sticky: &Sticky, known: &[SocketAddr]) {
        load(w, table.family, Field::SourceAddress, KEY_REGISTER);
        lookup(w, &sticky.map, None, Some(DATA_REGISTER), false);
        let elements: Vec<_> = known.iter().map(|e| (endpoint_bytes(e), None)).collect();
        let (name, id) = self.anonymous_set(table, Layout::of_endpoints(table.family), &elements);
        lookup_in(w, DATA_REGISTER, &name, Some(id), None, false);
        dynamic(w, 1, sticky);
        dnat(w, table.family);
    }
}

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
            SetKind::Affinity => Self {
                flags: SET_MAP | SET_TIMEOUT | SET_DYNAMIC,
                key: key_type(&[Field::SourceAddress], family),
                data: endpoints,
            },
        }
    }

    fn numbered(family: Family) -> Self {
        Self {
            flags: SET_MAP,
            key: (TYPE_INTEGER, 4),
            data: Some(endpoint_type(family)),
        }
    }

    fn of_endpoints(family: Family) -> Self {
        Self {
            flags: 0,
            key: endpoint_type(family),
            data: None,
        }
    }

    fn write(&self, w: &mut Writer) {
        w.u32(4, self.key.0);
        w.u32(5, self.key.1);
        if let Some((kind, length)) = self.data {
            w.u32(6, kind);
            w.u32(7, length);
        }
    }
}

fn key_type(fields: &[Field], family: Family) -> (u32, u32) {
    let one = |field: &Field| match (field, family) {
        (Field::SourceAddress | Field::DestinationAddress, Family::Ip4) => (7, 4),
        (Field::SourceAddress | Field::DestinationAddress, Family::Ip6) => (8, 16),
        (Field::Protocol, _) => (12, 1),
        (Field::DestinationPort, _) => (TYPE_PORT, 2),
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

fn endpoint_type(family: Family) -> (u32, u32) {
    let address = match family {
        Family::Ip4 => 7,
        Family::Ip6 => 8,
    };
    (
        (address << TYPE_BITS) | TYPE_PORT,
        address_length(family) + 4,
    )
}

pub(crate) fn family_number(family: Family) -> u8 {
    match family {
        Family::Ip4 => 2,
        Family::Ip6 => 10,
    }
}

fn address_length(family: Family) -> u32 {
    match family {
        Family::Ip4 => 4,
        Family::Ip6 => 16,
    }
}

/// A rule's comment in the form of nft's user data: type 0, length, text with its zero.
fn comment_of(fingerprint: u64) -> Vec<u8> {
    let text = format!("{fingerprint:016x}\0");
    let mut bytes = vec![0, text.len() as u8];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// The fingerprint in a rule's comment; zero if there is none.
pub(super) fn fingerprint_of(comment: &[u8]) -> u64 {
    comment
        .get(2..18)
        .and_then(|text| std::str::from_utf8(text).ok())
        .and_then(|text| u64::from_str_radix(text, 16).ok())
        .unwrap_or(0)
}

fn element(w: &mut Writer, key: &[u8], value: Option<&Value>) {
    w.nested(1, |w| w.bytes(1, key));
    match value {
        None | Some(Value::Present) => {}
        Some(Value::Verdict(verdict)) => w.nested(2, |w| write_verdict(w, verdict)),
        Some(Value::Endpoint(endpoint)) => {
            w.nested(2, |w| w.bytes(1, &endpoint_bytes(endpoint)));
        }
    }
}

fn write_verdict(w: &mut Writer, verdict: &Verdict) {
    w.nested(2, |w| match verdict {
        Verdict::Drop => w.u32(1, 0),
        Verdict::Accept => w.u32(1, 1),
        Verdict::Return => w.u32(1, -5_i32 as u32),
        Verdict::Jump(chain) => {
            w.u32(1, -3_i32 as u32);
            w.text(2, chain);
        }
        Verdict::Goto(chain) => {
            w.u32(1, -4_i32 as u32);
            w.text(2, chain);
        }
    });
}

fn expression(w: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
    w.nested(1, |w| {
        w.text(1, name);
        w.nested(2, data);
    });
}

fn load_all(w: &mut Writer, family: Family, fields: &[Field]) {
    let mut register = KEY_REGISTER;
    for field in fields {
        load(w, family, *field, register);
        register += match field {
            Field::SourceAddress | Field::DestinationAddress => address_length(family) / 4,
            Field::Protocol | Field::DestinationPort => 1,
        };
    }
}

fn load(w: &mut Writer, family: Family, field: Field, register: u32) {
    match (field, family) {
        (Field::SourceAddress, Family::Ip4) => payload(w, register, 1, 12, 4),
        (Field::DestinationAddress, Family::Ip4) => payload(w, register, 1, 16, 4),
        (Field::SourceAddress, Family::Ip6) => payload(w, register, 1, 8, 16),
        (Field::DestinationAddress, Family::Ip6) => payload(w, register, 1, 24, 16),
        (Field::Protocol, _) => meta_load(w, 16, register),
        (Field::DestinationPort, _) => payload(w, register, 2, 2, 2),
    }
}

fn payload(w: &mut Writer, register: u32, base: u32, offset: u32, length: u32) {
    expression(w, "payload", |w| {
        w.u32(1, register);
        w.u32(2, base);
        w.u32(3, offset);
        w.u32(4, length);
    });
}

fn meta_load(w: &mut Writer, key: u32, register: u32) {
    expression(w, "meta", |w| {
        w.u32(1, register);
        w.u32(2, key);
    });
}

fn bitwise(w: &mut Writer, register: u32, mask: &[u8], flip: &[u8]) {
    expression(w, "bitwise", |w| {
        w.u32(1, register);
        w.u32(2, register);
        w.u32(3, mask.len() as u32);
        w.nested(4, |w| w.bytes(1, mask));
        w.nested(5, |w| w.bytes(1, flip));
    });
}

fn compare(w: &mut Writer, register: u32, negate: bool, value: &[u8]) {
    expression(w, "cmp", |w| {
        w.u32(1, register);
        w.u32(2, u32::from(negate));
        w.nested(3, |w| w.bytes(1, value));
    });
}

fn lookup(w: &mut Writer, set: &str, id: Option<u32>, into: Option<u32>, negate: bool) {
    lookup_in(w, KEY_REGISTER, set, id, into, negate);
}

fn lookup_in(
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
fn dynamic(w: &mut Writer, operation: u32, sticky: &Sticky) {
    expression(w, "dynset", |w| {
        w.text(1, &sticky.map);
        w.u32(3, operation);
        w.u32(4, KEY_REGISTER);
        w.u32(5, DATA_REGISTER);
        if sticky.timeout_seconds > 0 {
            w.u64(6, u64::from(sticky.timeout_seconds) * 1000);
        }
    });
}

fn dnat(w: &mut Writer, family: Family) {
    nat(
        w,
        family,
        1,
        Some(DATA_REGISTER + address_length(family) / 4),
    );
}

fn nat(w: &mut Writer, family: Family, kind: u32, port_register: Option<u32>) {
    expression(w, "nat", |w| {
        w.u32(1, kind);
        w.u32(2, u32::from(family_number(family)));
        w.u32(3, DATA_REGISTER);
        if let Some(register) = port_register {
            w.u32(5, register);
        }
    });
}

fn local(w: &mut Writer, end: End, negate: bool) {
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

fn interface(w: &mut Writer, key: u32, name: &str, negate: bool) {
    meta_load(w, key, KEY_REGISTER);
    let mut bytes = [0u8; 16];
    for (place, byte) in bytes.iter_mut().take(15).zip(name.bytes()) {
        *place = byte;
    }
    compare(w, KEY_REGISTER, negate, &bytes);
}

fn load_constant(w: &mut Writer, register: u32, value: &[u8]) {
    expression(w, "immediate", |w| {
        w.u32(1, register);
        w.nested(2, |w| w.bytes(1, value));
    });
}

fn address_field(end: End) -> Field {
    match end {
        End::Source => Field::SourceAddress,
        End::Destination => Field::DestinationAddress,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// The mask of a prefix and the address under it.
fn masked(address: IpAddr, length: u8) -> (Vec<u8>, Vec<u8>) {
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

fn endpoint_bytes(endpoint: &SocketAddr) -> Vec<u8> {
    let mut bytes = octets(endpoint.ip());
    bytes.extend_from_slice(&endpoint.port().to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

fn key_bytes(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in key {
        match part {
            KeyPart::Address(address) => bytes.extend(octets(*address)),
            KeyPart::Protocol(number) => bytes.push(*number),
            KeyPart::Port(port) => bytes.extend(port.to_be_bytes()),
        }
        // Only fields of a longer key are padded to whole registers.
        while key.len() > 1 && !bytes.len().is_multiple_of(4) {
            bytes.push(0);
        }
    }
    bytes
}

/// The fields of a key of this type. Source and destination have the same type: an address is
/// read as a destination.
pub(super) fn fields_of(mut key_type: u32) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while key_type != 0 {
        fields.insert(
            0,
            match key_type & ((1 << TYPE_BITS) - 1) {
                7 | 8 => Field::DestinationAddress,
                12 => Field::Protocol,
                TYPE_PORT => Field::DestinationPort,
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
            Field::SourceAddress | Field::DestinationAddress => (
                KeyPart::Address(address_of(rest, family)?),
                address_length(family) as usize,
            ),
            Field::Protocol => (KeyPart::Protocol(*rest.first()?), 4),
            Field::DestinationPort => (
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
