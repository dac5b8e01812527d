//! nftables as values: a small model of tables, its text for people and tests, and the programming
//! of it by netlink in atomic batches.
//!
//! A [`Ruleset`] is the whole desired content of one table. [`diff`] compares it with what is
//! [`Installed`] and gives a [`Batch`], which the kernel takes as one transaction or not at all.
//! Each rule carries the hash of its own text beside it, so what is installed can be read back
//! and compared without decoding expressions: a restart repairs, it never flushes first.
//!
//! The unit of change is the chain for rules and the element for sets. It knows nothing of
//! Services; `proxy` and `network` decide what stands in the tables.

mod encode;
mod expr;
mod layout;
mod mirror;
mod plan;
mod socket;
mod stages;
mod text;
mod user_data;

pub use encode::Batch;
pub use layout::Layout;
pub(crate) use layout::family_number;
pub use mirror::Mirror;
pub use plan::{Delta, Dirty, diff, diff_part};
pub use socket::{NftError, Socket};
pub use stages::{Order, Stages};

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Ip4,
    /// IPv6.
    Ip6,
}

impl Family {
    /// The family that an address belongs to.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::Ip4
        } else {
            Self::Ip6
        }
    }
}

/// A table's identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name, unique in the family and network namespace.
    pub name: String,
}

/// The desired content of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Named sets and maps by name.
    pub sets: BTreeMap<String, Set>,
}

/// A list of rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it; `None` for a chain that is only jumped to.
    pub hook: Option<Hook>,
    /// The rules in order.
    pub rules: Vec<Rule>,
}

/// Where a base chain is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook {
    /// Whether it may translate addresses.
    pub kind: ChainKind,
    /// The point in a packet's way.
    pub point: Point,
    /// The order among chains at the same point, lowest first.
    pub priority: i32,
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainKind {
    /// Accept, drop, reject.
    Filter,
    /// Translate addresses of new connections.
    Nat,
}

/// A point in a packet's way, numbered as in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Arrived, before routing.
    Prerouting = 0,
    /// For this host.
    Input = 1,
    /// Passing through.
    Forward = 2,
    /// Made by this host.
    Output = 3,
    /// About to leave.
    Postrouting = 4,
}

/// Before connections are tracked, so that addresses are those on the wire (`NF_IP_PRI_RAW`).
pub const PRIORITY_RAW: i32 = -300;
/// The priority of destination translation (`NF_IP_PRI_NAT_DST`).
pub const PRIORITY_DNAT: i32 = -100;
/// The priority of source translation (`NF_IP_PRI_NAT_SRC`).
pub const PRIORITY_SNAT: i32 = 100;
/// The priority of filters (`NF_IP_PRI_FILTER`).
pub const PRIORITY_FILTER: i32 = 0;

/// A rule: its parts are evaluated from left to right until one does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule(pub Vec<Part>);

/// A network: an address and the number of its leading bits that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// Any address in it.
    pub address: IpAddr,
    /// 0..=32 or 0..=128.
    pub length: u8,
}

impl std::str::FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a network such as 10.0.0.0/8");
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let length: u8 = length.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if length > most {
            Err(bad())
        } else {
            Ok(Self { address, length })
        }
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Prefix {
    /// The network of one address alone.
    pub fn of_one(address: IpAddr) -> Self {
        let length = if address.is_ipv4() { 32 } else { 128 };
        Self { address, length }
    }

    /// Whether there are other addresses in it.
    pub fn has_others(&self) -> bool {
        *self != Self::of_one(self.address)
    }

    /// Whether the address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.length))
                    .unwrap_or(0);
                (net.to_bits() ^ ip.to_bits()) & mask == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.length))
                    .unwrap_or(0);
                (net.to_bits() ^ ip.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

/// A field of a packet that can be part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The source address.
    SourceAddress,
    /// The destination address.
    DestinationAddress,
    /// The transport protocol's number.
    Protocol,
    /// The destination port of TCP, UDP or SCTP.
    DestinationPort,
    /// The end that opened the connection, before its address was translated. As all that is said
    /// of a connection, it is the same for packets in both directions, and for the errors of ICMP
    /// about it; what belongs to no tracked connection has none and matches nothing.
    Client,
    /// The end that answers: where the connection was opened to, after translation.
    Server,
    /// The number of the connection's transport protocol.
    ConnectionProtocol,
    /// The port that the server answers from.
    ServerPort,
    /// A number that a map gave or that was counted; no packet has it, so it is never loaded.
    Number,
}

impl Field {
    /// Whether it is an address, of the length that the family has.
    pub(crate) fn is_address(self) -> bool {
        use Field::{Client, DestinationAddress, Server, SourceAddress};
        matches!(self, SourceAddress | DestinationAddress | Client | Server)
    }
}

/// Which end of a packet a match looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// A client's endpoint is remembered in a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// The map's name; see [`SetKind::Affinity`].
    pub map: String,
    /// How long after the last new connection it is remembered.
    pub timeout_seconds: u32,
}

/// One step of a rule: a match, a side effect or a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The address is (not) in the network.
    Address {
        end: End,
        within: Prefix,
        negate: bool,
    },
    /// The address is (not) one of this host's.
    Local { end: End, negate: bool },
    /// The packet's mark under the mask equals the value.
    Mark { mask: u32, value: u32 },
    /// The interface that the packet leaves by has (not) this name.
    OutInterface { name: String, negate: bool },
    /// The interface that the packet came by has (not) this name.
    InInterface { name: String, negate: bool },
    /// The interface that the packet came by is of this group of interfaces.
    InGroup(u32),
    /// What is sent to the packet's source does not leave by the interface that it came by: the
    /// source address is forged. Only at [`Point::Prerouting`].
    WrongWay,
    /// The transport protocol has this number.
    Protocol(u8),
    /// The connection is new.
    NewConnection,
    /// The packet belongs to no connection that the kernel tracks.
    Unconnected,
    /// The connection's transport protocol has this number.
    ConnectionProtocol(u8),
    /// The port that the server answers from is one of these, both ends included.
    ServerPorts { first: u16, last: u16 },
    /// The fields together are (not) an element of the set.
    InSet {
        fields: Vec<Field>,
        set: String,
        negate: bool,
    },
    /// Do what the map says for the fields; without an element, go on.
    VerdictMap { fields: Vec<Field>, map: String },
    /// Do what `verdicts` says of the number that `numbers` has for the fields; without either, go
    /// on. Numbers may change without anything that leads to chains, which the kernel would check.
    VerdictOfNumber {
        fields: Vec<Field>,
        numbers: String,
        verdicts: String,
    },
    /// The same for a key that no packet is asked for.
    VerdictOfKey {
        key: Key,
        numbers: String,
        verdicts: String,
    },
    /// Count packets and bytes.
    Counter,
    /// Set bits of the packet's mark: `(mark & !clear) ^ flip`.
    SetMark { clear: u32, flip: u32 },
    /// Translate the destination to one of the endpoints, in turn: the kernel counts per rule.
    Dnat {
        endpoints: Vec<SocketAddr>,
        remember: Option<Sticky>,
    },
    /// Translate the destination to what the map holds for the next of so many numbers, from the first
    /// on; the kernel counts per rule.
    DnatTurn { map: String, first: u32, count: u32 },
    /// Translate to the remembered endpoint of this source, if it is one of those given, and
    /// remember it again.
    DnatRemembered {
        sticky: Sticky,
        endpoints: Vec<SocketAddr>,
    },
    /// Forget the endpoint of this source.
    Forget { map: String },
    /// Translate the destination to what the map holds for the fields.
    DnatMap { fields: Vec<Field>, map: String },
    /// Translate the source to the address of the interface that the packet leaves by, with a
    /// random port.
    Masquerade,
    /// Translate the source to this address.
    Snat(IpAddr),
    /// Refuse with ICMP "port unreachable".
    Reject,
    /// A verdict that ends the rule.
    Verdict(Verdict),
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It passes this base chain.
    Accept,
    /// It vanishes.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Go through the chain and come back.
    Jump(String),
    /// Go through the chain and come back to the caller.
    Goto(String),
}

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// What its elements are made of.
    pub kind: SetKind,
    /// The elements. Empty for an affinity map, whose content is the kernel's alone.
    pub elements: BTreeMap<Key, Value>,
}

/// The make-up of a set's elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetKind {
    /// Only keys.
    Set(Vec<Field>),
    /// Keys to verdicts.
    Verdicts(Vec<Field>),
    /// Keys to an address and a port.
    Endpoints(Vec<Field>),
    /// Keys to a number.
    Numbers(Vec<Field>),
    /// Source address to an address and a port, filled by rules, with a timeout.
    Affinity,
    /// Ranges of a field: each begins with an element [`Value::Present`], and ends before an
    /// element [`Value::End`], or never.
    Ranges(Field),
}

/// An element's key: one value per field.
pub type Key = Vec<KeyPart>;

/// A field's value within a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyPart {
    /// An address.
    Address(IpAddr),
    /// A transport protocol's number.
    Protocol(u8),
    /// A port.
    Port(u16),
    /// A number of ours.
    Number(u32),
}

/// What an element maps to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Nothing: an element of a set.
    Present,
    /// Nothing: the first key behind a range.
    End,
    /// A verdict.
    Verdict(Verdict),
    /// An address and a port.
    Endpoint(SocketAddr),
    /// A number.
    Number(u32),
}

/// What stands in the kernel's table, as far as it matters for comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// Whether the table exists.
    pub table: bool,
    /// Chains by name.
    pub chains: BTreeMap<String, InstalledChain>,
    /// Named sets by name.
    pub sets: BTreeMap<String, InstalledSet>,
}

/// A named set in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledSet {
    /// How it was declared.
    pub layout: Layout,
    /// Its elements; none for an affinity map.
    pub elements: BTreeMap<Key, Value>,
}

/// A chain in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstalledChain {
    /// Where it is attached.
    pub hook: Option<Hook>,
    /// The hashes of its rules' texts; zero for a rule that is not ours.
    pub rules: Vec<u64>,
}

impl Rule {
    /// The hash of the rule's text (64 bit FNV-1a), never zero.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in self.to_string().bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash.max(1)
    }
}

impl Chain {
    /// What [`Installed`] will hold once this chain is programmed.
    pub fn installed(&self) -> InstalledChain {
        InstalledChain {
            hook: self.hook,
            rules: self.rules.iter().map(Rule::fingerprint).collect(),
        }
    }
}

impl Set {
    /// An empty set of this kind.
    pub fn new(kind: SetKind) -> Self {
        Self {
            kind,
            elements: BTreeMap::new(),
        }
    }
}
