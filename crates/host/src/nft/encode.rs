//! The model as nf_tables netlink messages. Numbers are those of linux/netfilter/nf_tables.h.

use std::net::SocketAddr;

use super::expr::{
    CT_STATE, DATA_REGISTER, KEY_REGISTER, PAD_REGISTER, address_field, bitwise, compare,
    compare_by, connection, decoy, dnat, dynamic, expression, interface, load, load_all,
    load_constant, load_key, local, lookup, lookup_in, masked, meta_load, nat, pad, reverse_path,
    verdict_of_number,
};
use super::layout::{
    Layout, endpoint_bytes, family_number, key_bytes, number_bytes, octets, remembered_bytes,
};
use super::user_data::user_data_of;
use super::{
    Chain, ChainKind, Family, Field, Key, Part, Rule, SetKind, Sticky, Table, Value, Verdict,
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
    pub const GET_GENERATION: u16 = 16;
}

pub(super) const SET_ANONYMOUS: u32 = 0x1;
const SET_CONSTANT: u32 = 0x2;
/// NFT_SET_ELEM_INTERVAL_END
pub(super) const ELEMENT_END: u32 = 0x1;

/// So many elements surely fit into one attribute of 64 KiB, whatever the names are.
const ELEMENTS_PER_MESSAGE: usize = 250;

/// A request that the kernel carries out as one transaction.
#[derive(Debug, Default)]
pub struct Batch {
    writer: Writer,
    sequence: u32,
    sets: u32,
    commands: u32,
    /// Where the next unnamed set belongs: its rule's chain, and how many the chain had before.
    place: (String, u32),
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
        if self.place.0 != chain {
            self.place = (chain.to_owned(), 0);
        }
        for part in &rule.0 {
            self.part(table, &mut body, part);
        }
        let user_data = user_data_of(rule);
        self.command(
            message::NEW_RULE,
            flag::CREATE | flag::APPEND,
            table.family,
            |w| {
                w.text(1, &table.name);
                w.text(2, chain);
                w.nested(4, |w| w.raw(body.as_bytes()));
                w.bytes(7, &user_data);
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
            .map(|(key, value)| (key_bytes(key), Data::of(value)))
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
        elements: impl IntoIterator<Item = (&'a Key, &'a Value)>,
    ) {
        // The end of a range is another element than the beginning of one with the same key.
        let end = |value: &Value| match value {
            Value::End => Data::End,
            _ => Data::None,
        };
        let elements: Vec<_> = elements
            .into_iter()
            .map(|(key, value)| (key_bytes(key), end(value)))
            .collect();
        self.elements(message::DELETE_ELEMENT, 0, table, set, None, &elements);
    }

    fn elements(
        &mut self,
        kind: u16,
        flags: u16,
        table: &Table,
        set: &str,
        id: Option<u32>,
        elements: &[(Vec<u8>, Data<'_>)],
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
                        w.nested(1, |w| element(w, key, value));
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
        elements: &[(Vec<u8>, Data<'_>)],
    ) -> (String, u32) {
        self.sets += 1;
        let id = self.sets;
        // With a pattern for a name, such as `__map%d`, the kernel would look through the names of all
        // sets for a free number. Those of the chain's former rules are gone in this transaction.
        self.place.1 += 1;
        let (chain, number) = &self.place;
        let name = format!("__{chain}/{number}");
        self.command(message::NEW_SET, flag::CREATE, table.family, |w| {
            w.text(1, &table.name);
            w.text(2, &name);
            w.u32(3, layout.flags | SET_ANONYMOUS | SET_CONSTANT);
            layout.write(w);
            w.nested(9, |w| w.u32(1, elements.len() as u32));
            w.u32(10, id);
        });
        self.elements(
            message::NEW_ELEMENT,
            flag::CREATE,
            table,
            &name,
            Some(id),
            elements,
        );
        (name, id)
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
            Part::InGroup(group) => {
                meta_load(w, 21, KEY_REGISTER);
                compare(w, KEY_REGISTER, false, &group.to_ne_bytes());
            }
            Part::WrongWay => reverse_path(w),
            Part::Protocol(number) => {
                meta_load(w, 16, KEY_REGISTER);
                compare(w, KEY_REGISTER, false, &[*number]);
            }
            Part::NewConnection => {
                connection(w, KEY_REGISTER, CT_STATE, None);
                // The bit of IP_CT_NEW in NF_CT_STATE_BIT's numbering.
                bitwise(w, KEY_REGISTER, &8u32.to_ne_bytes(), &[0; 4]);
                compare(w, KEY_REGISTER, true, &[0; 4]);
            }
            Part::Unconnected => {
                connection(w, KEY_REGISTER, CT_STATE, None);
                // NF_CT_STATE_INVALID_BIT, NF_CT_STATE_UNTRACKED_BIT
                bitwise(w, KEY_REGISTER, &0x41u32.to_ne_bytes(), &[0; 4]);
                compare(w, KEY_REGISTER, true, &[0; 4]);
            }
            Part::ConnectionProtocol(number) => {
                load(w, family, Field::ConnectionProtocol, KEY_REGISTER);
                compare(w, KEY_REGISTER, false, &[*number]);
            }
            Part::ServerPorts { first, last } => {
                load(w, family, Field::ServerPort, KEY_REGISTER);
                if first == last {
                    compare(w, KEY_REGISTER, false, &first.to_be_bytes());
                } else {
                    compare_by(w, KEY_REGISTER, 5, &first.to_be_bytes());
                    compare_by(w, KEY_REGISTER, 3, &last.to_be_bytes());
                }
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
            Part::VerdictOfNumber {
                fields,
                numbers,
                verdicts,
            } => {
                load_all(w, family, fields);
                verdict_of_number(w, numbers, verdicts);
            }
            Part::VerdictOfKey {
                key,
                numbers,
                verdicts,
            } => {
                load_key(w, key);
                verdict_of_number(w, numbers, verdicts);
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
                endpoints,
                remember: None,
            } => {
                self.choose(table, w, endpoints);
                dnat(w, family);
            }
            Part::Dnat {
                endpoints,
                remember: Some(sticky),
            } => {
                self.choose_and_remember(table, w, endpoints);
                load(w, family, Field::SourceAddress, KEY_REGISTER);
                dynamic(w, 1, sticky);
                dnat(w, family);
            }
            Part::DnatTurn { map, first, count } => {
                turn(w, *first, *count);
                lookup(w, map, None, Some(DATA_REGISTER), false);
                dnat(w, family);
            }
            Part::DnatRemembered { sticky, endpoints } => {
                self.remembered(table, w, sticky, endpoints);
            }
            Part::Forget { map } => {
                recall(w, family, map);
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
    fn choose(&mut self, table: &Table, w: &mut Writer, endpoints: &[SocketAddr]) {
        if let [only] = endpoints {
            return load_endpoint(w, only);
        }
        let data = |endpoint: &SocketAddr| endpoint_bytes(endpoint);
        let set = self.numbered(table, Layout::numbered(table.family), endpoints, data);
        turn(w, 0, endpoints.len() as u32);
        lookup(w, &set.0, Some(set.1), Some(DATA_REGISTER), false);
    }

    /// As [`Batch::choose`], as it is remembered.
    fn choose_and_remember(&mut self, table: &Table, w: &mut Writer, endpoints: &[SocketAddr]) {
        if let [only] = endpoints {
            load_endpoint(w, only);
            return pad(w);
        }
        let layout = Layout::numbered_remembered(table.family);
        let set = self.numbered(table, layout, endpoints, remembered_bytes);
        turn(w, 0, endpoints.len() as u32);
        decoy(w, table.family);
        lookup(w, &set.0, Some(set.1), Some(PAD_REGISTER), false);
        pad(w);
    }

    /// A map from numbers to endpoints.
    fn numbered(
        &mut self,
        table: &Table,
        layout: Layout,
        endpoints: &[SocketAddr],
        data: impl Fn(&SocketAddr) -> Vec<u8>,
    ) -> (String, u32) {
        let numbers = (0u32..).map(|number| number.to_ne_bytes().to_vec());
        let elements: Vec<_> = numbers
            .zip(endpoints)
            .map(|(number, endpoint)| (number, Data::Bytes(data(endpoint))))
            .collect();
        self.anonymous_set(table, layout, &elements)
    }

    fn remembered(&mut self, table: &Table, w: &mut Writer, sticky: &Sticky, known: &[SocketAddr]) {
        recall(w, table.family, &sticky.map);
        let elements: Vec<_> = known
            .iter()
            .map(|e| (endpoint_bytes(e), Data::None))
            .collect();
        let (name, id) = self.anonymous_set(table, Layout::of_endpoints(table.family), &elements);
        lookup_in(w, DATA_REGISTER, &name, Some(id), None, false);
        dynamic(w, 1, sticky);
        dnat(w, table.family);
    }
}

/// Leaves the endpoint in the data register.
fn load_endpoint(w: &mut Writer, endpoint: &SocketAddr) {
    let address = octets(endpoint.ip());
    load_constant(w, DATA_REGISTER, &address);
    let words = (address.len() / 4) as u32;
    // As long as a port is: nft aborts over one of four bytes.
    let port = endpoint.port().to_be_bytes();
    load_constant(w, DATA_REGISTER + words, &port);
}

/// Leaves the next of so many numbers, from the first on, in the key register.
fn turn(w: &mut Writer, first: u32, count: u32) {
    expression(w, "numgen", |w| {
        w.u32(1, KEY_REGISTER);
        w.u32(2, count);
        w.u32(3, 0);
        w.u32(4, first);
    });
}

/// Leaves what is remembered for the source in the data register, and the source in the key's.
fn recall(w: &mut Writer, family: Family, map: &str) {
    load(w, family, Field::SourceAddress, KEY_REGISTER);
    decoy(w, family);
    lookup(w, map, None, Some(PAD_REGISTER), false);
    pad(w);
}

/// What stands beside a key.
enum Data<'a> {
    None,
    End,
    Verdict(&'a Verdict),
    Bytes(Vec<u8>),
}

impl<'a> Data<'a> {
    fn of(value: &'a Value) -> Self {
        match value {
            Value::Present => Self::None,
            Value::End => Self::End,
            Value::Verdict(verdict) => Self::Verdict(verdict),
            Value::Endpoint(endpoint) => Self::Bytes(endpoint_bytes(endpoint)),
            Value::Number(number) => Self::Bytes(number_bytes(*number)),
        }
    }
}

fn element(w: &mut Writer, key: &[u8], data: &Data<'_>) {
    w.nested(1, |w| w.bytes(1, key));
    match data {
        Data::None => {}
        Data::End => w.u32(3, ELEMENT_END),
        Data::Verdict(verdict) => w.nested(2, |w| write_verdict(w, verdict)),
        Data::Bytes(bytes) => w.nested(2, |w| w.bytes(1, bytes)),
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
