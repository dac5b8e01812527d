//! Host ports as nftables rules.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use host::conntrack::{Conntrack, Flow};
use host::nft::{
    Chain, ChainKind, End, Family, Field, Hook, KeyPart, NftError, PRIORITY_DNAT, PRIORITY_SNAT,
    Part, Point, Prefix, Rule, Ruleset, Set, SetKind, Socket, Table, Value, Verdict, diff,
};

use super::Entry;

/// The table of host ports.
pub const HOST_PORT_TABLE: &str = "tiphys-host-ports";

/// The protocols whose flows keep for a long time what was decided about their first packet: UDP and
/// SCTP.
pub const FLOWING: [u8; 2] = [17, 132];

const EVERYWHERE: &str = "everywhere";
const AT_ADDRESS: &str = "at-address";

/// Brings the kernel's tables to what the entries say, and lets flows that began under other rules
/// begin again: a client that keeps sending would never get to a pod that came later.
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
        let rules = host_port_rules(family, entries());
        let delta = diff(&table, &installed, &rules);
        let changed = !delta.is_empty();
        socket.program(&table, delta, &mut installed)?;
        // A flow that cannot be forgotten ends by its own timeout.
        if changed && let Err(error) = forget_misled(family, &rules) {
            tracing::warn!(%error, "flows to host ports may lead where they led before");
        }
    }
    Ok(())
}

/// Forgets flows that the rules would lead elsewhere.
fn forget_misled(family: Family, rules: &Ruleset) -> std::io::Result<()> {
    let maps = || {
        [EVERYWHERE, AT_ADDRESS]
            .into_iter()
            .filter_map(move |m| rules.sets.get(m))
    };
    let has = |protocol| {
        let mut keys = maps().flat_map(|map| map.elements.keys());
        keys.any(|key| key.contains(&KeyPart::Protocol(protocol)))
    };
    let protocols: Vec<u8> = FLOWING.into_iter().filter(|p| has(*p)).collect();
    if protocols.is_empty() {
        return Ok(());
    }
    let own = host::netlink::own_addresses()?;
    let mut conntrack = Conntrack::open()?;
    for protocol in protocols {
        for flow in conntrack.list(family, protocol)? {
            if led(rules, &own, &flow).is_some_and(|pod| pod != flow.answers_from) {
                conntrack.delete(&flow)?;
            }
        }
    }
    Ok(())
}

/// Where the rules lead a flow; `None` for one that they leave alone, such as one that only goes
/// through this node. `own` are the node's addresses.
fn led(rules: &Ruleset, own: &BTreeSet<IpAddr>, flow: &Flow) -> Option<SocketAddr> {
    let ip = flow.destination.ip();
    if !own.contains(&ip) && !ip.is_loopback() {
        return None;
    }
    let (protocol, port) = (
        KeyPart::Protocol(flow.protocol),
        KeyPart::Port(flow.destination.port()),
    );
    let find = |map: &str, key: Vec<KeyPart>| match rules.sets.get(map)?.elements.get(&key)? {
        Value::Endpoint(pod) => Some(*pod),
        _ => None,
    };
    let address = KeyPart::Address(ip);
    find(AT_ADDRESS, vec![address, protocol, port]).or_else(|| match ip.is_loopback() {
        true => None,
        false => find(EVERYWHERE, vec![protocol, port]),
    })
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
                map: AT_ADDRESS.into(),
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
                map: EVERYWHERE.into(),
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
            (EVERYWHERE.to_owned(), everywhere),
            (AT_ADDRESS.to_owned(), at_address),
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

#[cfg(test)]
mod tests {
    use super::super::PortMapping;
    use super::*;

    fn entry(address: &str, host_port: u16, protocol: &str, host_ip: &str) -> Entry {
        Entry {
            address: address.parse().unwrap(),
            others: Vec::new(),
            interface: "veth0".into(),
            ports: vec![PortMapping {
                host_port,
                container_port: 53,
                protocol: protocol.into(),
                host_ip: host_ip.into(),
            }],
            pod: None,
        }
    }

    #[test]
    fn flows_are_led_as_packets_are() {
        let entries = [
            entry("10.244.0.2", 5300, "udp", ""),
            entry("10.244.0.3", 5300, "UDP", "192.0.2.1"),
            entry("10.244.0.4", 5300, "udp", "127.0.0.1"),
            entry("10.244.0.5", 5400, "tcp", ""),
            entry("10.244.0.6", 5500, "sctp", ""),
            entry("10.244.0.7", 5600, "udp", "127.0.0.1"),
        ];
        let rules = host_port_rules(Family::Ip4, &entries);
        let own = ["192.0.2.1", "198.51.100.1"].map(|ip| ip.parse().unwrap());
        let own = BTreeSet::from(own);
        for (protocol, to, expected) in [
            (17, "198.51.100.1:5300", Some("10.244.0.2:53")),
            (17, "192.0.2.1:5300", Some("10.244.0.3:53")),
            (17, "127.0.0.1:5300", Some("10.244.0.4:53")),
            // Another's, through this node.
            (17, "192.0.2.9:5300", None),
            // Nobody's, another protocol's, and what is mapped at one address alone.
            (17, "192.0.2.1:5301", None),
            (17, "192.0.2.1:5400", None),
            (132, "192.0.2.1:5500", Some("10.244.0.6:53")),
            (17, "192.0.2.1:5500", None),
            (17, "192.0.2.1:5600", None),
            (17, "127.0.0.2:5300", None),
        ] {
            let [source, to] = ["203.0.113.1:9999", to].map(|a| a.parse().unwrap());
            let flow = Flow::between(protocol, source, to, to);
            let expected = expected.map(|pod| pod.parse().unwrap());
            assert_eq!(led(&rules, &own, &flow), expected, "{protocol} {to}");
        }
    }
}
