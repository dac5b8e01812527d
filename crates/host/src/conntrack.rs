//! Connections that the kernel tracks: listing and forgetting them.
//!
//! A UDP flow keeps the endpoint that was chosen for its first packet as long as packets come, so
//! flows to endpoints that are gone have to be forgotten explicitly.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::netfilter::Channel;
use crate::nft::Family;
use crate::nla::Attributes;

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ENOENT: i32 = 2;

/// How often a listing is repeated that changes spoilt. A listing with gaps is still useful.
const ATTEMPTS: u32 = 3;

/// A tracked connection with ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The transport protocol's number.
    pub protocol: u8,
    /// The end that opened it.
    pub source: SocketAddr,
    /// What it was opened to, before translation.
    pub destination: SocketAddr,
    /// The end that answers: the destination after translation.
    pub answers_from: SocketAddr,
    original: Vec<u8>,
}

impl Flow {
    /// One that was not read from the kernel, for those who decide about flows: deleting it
    /// deletes nothing.
    pub fn between(
        protocol: u8,
        source: SocketAddr,
        destination: SocketAddr,
        answers_from: SocketAddr,
    ) -> Self {
        Self {
            protocol,
            source,
            destination,
            answers_from,
            original: Vec::new(),
        }
    }
}

/// How long connections without traffic are kept, by the parameter's name behind
/// `net.netfilter.nf_conntrack_`, in seconds: the defaults of upstream's proxy
/// (KubeProxyConfiguration, `conntrack`). The kernel's own five days for an open connection fill
/// the table, and its one minute for a half-closed one ends connections whose one side still
/// sends.
const KEPT: [(&str, &str); 2] = [
    ("tcp_timeout_established", "86400"),
    ("tcp_timeout_close_wait", "3600"),
];
/// Connections that may be tracked per core, and at least: upstream's defaults, too.
const PER_CORE: u64 = 32_768;
const AT_LEAST: u64 = 131_072;

/// How many connections a node of so many cores shall be able to track.
fn wanted(cores: usize) -> u64 {
    PER_CORE
        .saturating_mul(u64::try_from(cores).unwrap_or(u64::MAX))
        .max(AT_LEAST)
}

/// Sets how long connections are kept in the network namespace of the calling thread, and lets the
/// kernel track as many as a node of `cores` cores shall; a larger number stays. False if the kernel
/// tracks none yet.
///
/// # Errors
/// What the kernel says of the first parameter that it refuses, with its name. The others are set.
pub fn set_limits(cores: usize) -> io::Result<bool> {
    let most = match room() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?.1,
    };
    let set = |name: &str, value: &str| {
        let name = format!("net.netfilter.nf_conntrack_{name}");
        crate::sysctl::set(&name, value)
            .map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))
    };
    let mut came = Ok(true);
    for (name, seconds) in KEPT {
        came = came.and(set(name, seconds));
    }
    let wanted = wanted(cores);
    if most < wanted {
        came = came.and(set("max", &wanted.to_string()));
    }
    came.map(|_| true)
}

/// How many connections are tracked in the network namespace of the calling thread, and how many
/// there may be; an error where the kernel tracks none.
pub fn room() -> io::Result<(u64, u64)> {
    let number = |name: &str| {
        let text = crate::sysctl::get(&format!("net.netfilter.nf_conntrack_{name}"))?;
        text.parse::<u64>().map_err(io::Error::other)
    };
    Ok((number("count")?, number("max")?))
}

/// The connection table of the network namespace of the thread that opened it.
pub struct Conntrack(Channel);

impl Conntrack {
    /// Opens a socket to it.
    pub fn open() -> io::Result<Self> {
        Channel::open().map(Self)
    }

    /// The connections of a protocol.
    pub fn list(&mut self, family: Family, protocol: u8) -> io::Result<Vec<Flow>> {
        let mut flows = Vec::new();
        for _ in 0..ATTEMPTS {
            flows.clear();
            let number = crate::nft::family_number(family);
            let steady = self.0.dump(
                (SUBSYSTEM << 8) | GET,
                number,
                |_| {},
                |attributes| {
                    flows.extend(flow_of(attributes).filter(|flow| flow.protocol == protocol));
                },
            )?;
            if steady {
                break;
            }
        }
        Ok(flows)
    }

    /// Forgets a connection; one that is gone already is not an error.
    pub fn delete(&mut self, flow: &Flow) -> io::Result<()> {
        let number = crate::nft::family_number(Family::of(flow.source.ip()));
        let errno = self.0.request((SUBSYSTEM << 8) | DELETE, number, |w| {
            w.nested(TUPLE_ORIGINAL, |w| w.raw(&flow.original));
        })?;
        match errno {
            0 | ENOENT => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

fn flow_of(attributes: Attributes<'_>) -> Option<Flow> {
    let (protocol, source, destination) = tuple(attributes.nested(TUPLE_ORIGINAL))?;
    let (_, answers_from, _) = tuple(attributes.nested(TUPLE_REPLY))?;
    let original = attributes.get(TUPLE_ORIGINAL)?.to_vec();
    Some(Flow {
        protocol,
        source,
        destination,
        answers_from,
        original,
    })
}

/// Protocol, source and destination of one direction.
fn tuple(attributes: Attributes<'_>) -> Option<(u8, SocketAddr, SocketAddr)> {
    let (addresses, ports) = (attributes.nested(1), attributes.nested(2));
    let address = |v4: u16, v6: u16| -> Option<IpAddr> {
        match addresses.get(v4) {
            Some(bytes) => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
            None => Some(IpAddr::from(<[u8; 16]>::try_from(addresses.get(v6)?).ok()?)),
        }
    };
    let source = SocketAddr::new(address(1, 3)?, ports.u16(2)?);
    let destination = SocketAddr::new(address(2, 4)?, ports.u16(3)?);
    Some((ports.u8(1)?, source, destination))
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn small_machines_track_as_many_as_four_cores() {
        assert_eq!([1, 4, 8].map(wanted), [131_072, 131_072, 262_144]);
    }
}
