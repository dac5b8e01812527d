//! Host ports as nftables rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use host::nft::{
    Chain, ChainKind, End, Family, Field, Hook, KeyPart, NftError, PRIORITY_DNAT, PRIORITY_SNAT,
    Part, Point, Prefix, Rule, Ruleset, Set, SetKind, Socket, Table, Value, Verdict, diff,
};

use super::Entry;

/// The table of host ports.
pub const HOST_PORT_TABLE: &str = "tiphys-host-ports";

/// Brings the kernel's tables to what the entries say.
pub fn program(entries: &[(String, Entry)]) -> Result<(), NftError> {
    let mut socket = Socket::open()?;
    let entries = || entries.iter().map(|(_, entry)| entry);
    for family in [Family::Ip4, Family::Ip6] {
        // Pods without addresses of a family need no table of it, which the kernel may not have.
        let has = |ip: IpAddr| Family::of(ip) == family;
        let needed = family == Family::Ip4 || entries().any(|e| e.addresses().any(has));
        let name = HOST_PORT_TABLE.into();
        let table = Table { family, name };
        let mut installed = match socket.read(&table) {
            Ok(installed) if !needed && installed.chains.is_empty() => continue,
            Err(_) if !needed => continue,
            read => read?,
        };
        let delta = diff(&table, &installed, &host_port_rules(family, entries()));
        socket.program(&table, delta, &mut installed)?;
    }
    Ok(())
}

/// The rules for the host ports of all pods at their addresses of a family.
pub fn host_port_rules<'a>(
    family: Family,
    entries: impl IntoIterator<Item = &'a Entry>,
) -> Ruleset {
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
        let Some(address) = entry.addresses().find(|ip| Family::of(*ip) == family) else {
            continue;
        };
        for mapping in &entry.ports {
            let pod = SocketAddr::new(address, mapping.container_port);
            let protocol = KeyPart::Protocol(number(&mapping.protocol));
            let host_port = KeyPart::Port(mapping.host_port);
            match mapping.host_ip.parse::<IpAddr>() {
                // An address of the node leads to one of the pod of the same family.
                Ok(ip) if Family::of(ip) != family => continue,
                Ok(ip) if !ip.is_unspecified() => {
                    let key = vec![KeyPart::Address(ip), protocol, host_port];
                    at_address.elements.insert(key, Value::Endpoint(pod));
                }
                _ => {
                    everywhere
                        .elements
                        .insert(vec![protocol, host_port], Value::Endpoint(pod));
                }
            }
            let own = KeyPart::Address(address);
            hairpin.elements.insert(vec![own, own], Value::Present);
        }
    }
    let loopback = match family {
        Family::Ip4 => Prefix {
            address: Ipv4Addr::new(127, 0, 0, 0).into(),
            length: 8,
        },
        Family::Ip6 => Prefix::of_one(Ipv6Addr::LOCALHOST.into()),
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
