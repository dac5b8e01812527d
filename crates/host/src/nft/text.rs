//! The text of rules and tables, close to nft's own language: for expect-tests, for logs, and as
//! what a rule's fingerprint is taken of. It therefore has to show everything that matters.

use std::fmt::{self, Display, Formatter, Write};
use std::net::SocketAddr;

use super::{
    Chain, ChainKind, End, Field, KeyPart, Part, Point, Rule, Ruleset, Set, SetKind, Value, Verdict,
};

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        separated(f, " ", &self.0)
    }
}

impl Display for Part {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address {
                end,
                within,
                negate,
            } => {
                write!(f, "ip {} {}{within}", end_word(*end), not(*negate))
            }
            Self::Local { end, negate } => {
                write!(f, "fib {} type {}local", end_word(*end), not(*negate))
            }
            Self::Mark { mask, value } => write!(f, "mark & {mask:#x} == {value:#x}"),
            Self::OutInterface { name, negate } => write!(f, "oifname {}{name}", not(*negate)),
            Self::InInterface { name, negate } => write!(f, "iifname {}{name}", not(*negate)),
            Self::InGroup(group) => write!(f, "iifgroup {group}"),
            Self::WrongWay => f.write_str("fib saddr . iif oif missing"),
            Self::Protocol(number) => write!(f, "l4proto {}", protocol(*number)),
            Self::NewConnection => f.write_str("ct state new"),
            Self::Unconnected => f.write_str("ct state invalid,untracked"),
            Self::ConnectionProtocol(number) => write!(f, "ct protocol {}", protocol(*number)),
            Self::ServerPorts { first, last } if first == last => {
                write!(f, "ct reply sport {first}")
            }
            Self::ServerPorts { first, last } => write!(f, "ct reply sport {first}-{last}"),
            Self::InSet {
                fields,
                set,
                negate,
            } => {
                separated(f, " . ", fields)?;
                write!(f, " {}@{set}", not(*negate))
            }
            Self::VerdictMap { fields, map } => {
                separated(f, " . ", fields)?;
                write!(f, " vmap @{map}")
            }
            Self::VerdictOfNumber {
                fields,
                numbers,
                verdicts,
            } => {
                separated(f, " . ", fields)?;
                write!(f, " map @{numbers} vmap @{verdicts}")
            }
            Self::VerdictOfKey {
                key,
                numbers,
                verdicts,
            } => {
                separated(f, " . ", key)?;
                write!(f, " map @{numbers} vmap @{verdicts}")
            }
            Self::Counter => f.write_str("counter"),
            Self::SetMark { clear, flip } => write!(f, "mark set mark & ~{clear:#x} ^ {flip:#x}"),
            Self::Dnat {
                endpoints,
                remember,
            } => {
                if let Some(sticky) = remember {
                    write!(f, "update @{} for {}s ", sticky.map, sticky.timeout_seconds)?;
                }
                write!(f, "dnat to numgen inc mod {}", endpoints.len())?;
                braces(f, endpoints)
            }
            Self::DnatTurn { map, first, count } => {
                write!(
                    f,
                    "dnat to numgen inc mod {count} offset {first} map @{map}"
                )
            }
            Self::DnatRemembered { sticky, endpoints } => {
                write!(f, "dnat to ip saddr map @{}", sticky.map)?;
                write!(f, " for {}s if in", sticky.timeout_seconds)?;
                braces(f, endpoints)
            }
            Self::Forget { map } => write!(f, "delete ip saddr @{map}"),
            Self::DnatMap { fields, map } => {
                f.write_str("dnat to ")?;
                separated(f, " . ", fields)?;
                write!(f, " map @{map}")
            }
            Self::Masquerade => f.write_str("masquerade fully-random"),
            Self::Snat(address) => write!(f, "snat to {address}"),
            Self::Reject => f.write_str("reject"),
            Self::Verdict(verdict) => verdict.fmt(f),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl Display for Field {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SourceAddress => "ip saddr",
            Self::DestinationAddress => "ip daddr",
            Self::Protocol => "l4proto",
            Self::DestinationPort => "dport",
            Self::Client => "ct original saddr",
            Self::Server => "ct reply saddr",
            Self::ConnectionProtocol => "ct protocol",
            Self::ServerPort => "ct reply sport",
            Self::Number => "number",
        })
    }
}

impl Display for KeyPart {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Protocol(number) => f.write_str(&protocol(*number)),
            Self::Port(port) => port.fmt(f),
            Self::Number(number) => number.fmt(f),
        }
    }
}

impl Display for SetKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(fields) => separated(f, " . ", fields),
            Self::Verdicts(fields) => {
                separated(f, " . ", fields)?;
                f.write_str(" : verdict")
            }
            Self::Endpoints(fields) => {
                separated(f, " . ", fields)?;
                f.write_str(" : address . port")
            }
            Self::Numbers(fields) => {
                separated(f, " . ", fields)?;
                f.write_str(" : number")
            }
            Self::Affinity => f.write_str("ip saddr : address . port, dynamic, timeout"),
            Self::Ranges(field) => write!(f, "{field}, interval"),
        }
    }
}

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (name, set) in &self.sets {
            write_set(f, name, set)?;
        }
        for (name, chain) in &self.chains {
            write_chain(f, name, chain)?;
        }
        Ok(())
    }
}

fn write_set(f: &mut Formatter<'_>, name: &str, set: &Set) -> fmt::Result {
    writeln!(f, "set {name} {{ {}", set.kind)?;
    for (key, value) in &set.elements {
        f.write_str("  ")?;
        separated(f, " . ", key)?;
        match value {
            Value::Present => {}
            Value::End => f.write_str(" end")?,
            Value::Verdict(verdict) => write!(f, " : {verdict}")?,
            Value::Endpoint(endpoint) => write!(f, " : {endpoint}")?,
            Value::Number(number) => write!(f, " : {number}")?,
        }
        f.write_char('\n')?;
    }
    f.write_str("}\n")
}

fn write_chain(f: &mut Formatter<'_>, name: &str, chain: &Chain) -> fmt::Result {
    write!(f, "chain {name} {{")?;
    if let Some(hook) = chain.hook {
        let kind = match hook.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        let point = match hook.point {
            Point::Prerouting => "prerouting",
            Point::Input => "input",
            Point::Forward => "forward",
            Point::Output => "output",
            Point::Postrouting => "postrouting",
        };
        write!(f, " type {kind} hook {point} priority {}", hook.priority)?;
    }
    f.write_char('\n')?;
    for rule in &chain.rules {
        writeln!(f, "  {rule}")?;
    }
    f.write_str("}\n")
}

fn separated<T: Display>(f: &mut Formatter<'_>, separator: &str, items: &[T]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

fn braces(f: &mut Formatter<'_>, endpoints: &[SocketAddr]) -> fmt::Result {
    f.write_str(" { ")?;
    separated(f, ", ", endpoints)?;
    f.write_str(" }")
}

fn end_word(end: End) -> &'static str {
    match end {
        End::Source => "saddr",
        End::Destination => "daddr",
    }
}

fn not(negate: bool) -> &'static str {
    if negate { "!= " } else { "" }
}

fn protocol(number: u8) -> String {
    match number {
        6 => "tcp".into(),
        17 => "udp".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    }
}
