//! Host ports as nftables rules.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use host::nft::{
    Chain, ChainKind, End, Family, Field, Hook, KeyPart, NftError, PRIORITY_DNAT, PRIORITY_SNAT,
    Part, Point, Prefix, Rule, Ruleset, Set, SetKind, Socket, Table, Value, Verdict, diff,
};

use super::Entry;

/// The table of host ports.
pub const HOST_PORT_TABLE: &str = "tiphys-host-ports";

/// Brings the kernel's table to what the entries say.
pub fn program(entries: &[(String, Entry)]) -> Result<(), NftError> {
    let table = Table {
        family: Family::Ip4,
        name: HOST_PORT_TABLE.into(),
    };
    let mut socket = Socket::open()?;
    let mut installed = socket.read(&table)?;
    let desired = host_port_rules(entries.iter().map(|(_, entry)| entry));
    let delta = diff(&table, &installed, &desired);
    socket.program(&table, delta, &mut installed)
}

/// The rules for the host ports of all pods.
pub fn host_port_rules<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Ruleset {
    let port = vec![Field::Protocol, Field::DestinationPort];
    let address_port = vec![
        Field::DestinationAddress,
        Field::Protocol,
        Field::DestinationPort,
    ];
    let pair = vec![Field::SourceAddress, Field::DestinationAddress];
    let mut everywhere = Set::new(SetKind::Endpoints(port.clone()));
    let mut at_address = Set::new(SetKind::Endpoints(address_port.clone()));
    let mut hairpin = Set::new(SetKind::Set(pair.clone()));
    for entry in entries {
        for mapping in &entry.ports {
            let pod = SocketAddr::new(entry.address.into(), mapping.container_port);
            let protocol = KeyPart::Protocol(number(&mapping.protocol));
            let host_port = KeyPart::Port(mapping.host_port);
            match mapping.host_ip.parse::<IpAddr>() {
                // Pods have IPv4 addresses only, so nothing at an IPv6 one leads to them.
                Ok(IpAddr::V6(_)) => continue,
                Ok(IpAddr::V4(ip)) if !ip.is_unspecified() => {
                    let key = vec![KeyPart::Address(ip.into()), protocol, host_port];
                    at_address.elements.insert(key, Value::Endpoint(pod));
                }
                _ => {
                    everywhere
                        .elements
                        .insert(vec![protocol, host_port], Value::Endpoint(pod));
                }
            }
            let own = KeyPart::Address(IpAddr::V4(entry.address));
            hairpin.elements.insert(vec![own, own], Value::Present);
        }
    }
    let loopback = Prefix {
        address: Ipv4Addr::new(127, 0, 0, 0).into(),
        length: 8,
    };
    let local = Part::Local {
        end: End::Destination,
        negate: false,
    };
    let lead = vec![
        // Only what is for this node: a pod may name any address, and must not get what others
        // send to that one through here.
        Rule(vec![
            local.clone(),
            Part::DnatMap {
                fields: address_port,
                map: "at-address".into(),
            },
        ]),
        // At its loopback addresses a node has services of its own: a port there is only taken
        // from them where the pod asks for just that.
        Rule(vec![
            local,
            Part::Address {
                end: End::Destination,
                within: loopback,
                negate: true,
            },
            Part::DnatMap {
                fields: port,
                map: "everywhere".into(),
            },
        ]),
    ];
    let back = vec![
        Rule(vec![
            Part::InSet {
                fields: pair,
                set: "hairpin".into(),
                negate: false,
            },
            Part::Masquerade,
        ]),
        // What the node sends to its own loopback address, and now leaves it.
        Rule(vec![
            Part::Address {
                end: End::Source,
                within: loopback,
                negate: false,
            },
            Part::OutInterface {
                name: "lo".into(),
                negate: true,
            },
            Part::Masquerade,
        ]),
    ];
    let base = |point, priority, rules| Chain {
        hook: Some(Hook {
            kind: ChainKind::Nat,
            point,
            priority,
        }),
        rules,
    };
    let jump = || vec![Rule(vec![Part::Verdict(Verdict::Jump("lead".into()))])];
    Ruleset {
        chains: [
            (
                "lead".to_owned(),
                Chain {
                    hook: None,
                    rules: lead,
                },
            ),
            (
                "prerouting".to_owned(),
                base(Point::Prerouting, PRIORITY_DNAT, jump()),
            ),
            (
                "output".to_owned(),
                base(Point::Output, PRIORITY_DNAT, jump()),
            ),
            (
                "postrouting".to_owned(),
                base(Point::Postrouting, PRIORITY_SNAT, back),
            ),
        ]
        .into(),
        sets: [
            ("everywhere".to_owned(), everywhere),
            ("at-address".to_owned(), at_address),
            ("hairpin".to_owned(), hairpin),
        ]
        .into(),
    }
}

fn number(protocol: &str) -> u8 {
    match protocol.to_ascii_lowercase().as_str() {
        "udp" => 17,
        "sctp" => 132,
        _ => 6,
    }
}
