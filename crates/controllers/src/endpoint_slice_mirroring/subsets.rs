//! The subsets of an Endpoints object in their simplest form: ports that the same addresses have
//! are together, whatever way somebody wrote them down. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset};

/// A port as it is compared: name, number, protocol, application protocol.
pub type Port = (String, i32, String, Option<String>);
/// What distinguishes addresses: the IP, and the UID of what is behind it.
type AddressKey = (String, String);

/// Addresses with the same ports.
#[derive(Debug, PartialEq)]
pub struct Subset {
    /// Empty: the Service has none, or all of them lead nowhere in particular.
    pub ports: Vec<Port>,
    /// With whether each is ready; those that are come first.
    pub addresses: Vec<(EndpointAddress, bool)>,
}

fn port(p: &EndpointPort) -> Port {
    (
        p.name.clone().unwrap_or_default(),
        p.port,
        p.protocol.clone().unwrap_or_else(|| "TCP".into()),
        p.app_protocol.clone(),
    )
}

fn key(a: &EndpointAddress) -> AddressKey {
    let uid = a.target_ref.as_ref().and_then(|t| t.uid.clone());
    (a.ip.clone(), uid.unwrap_or_default())
}

/// Regroups subsets. An address that is both ready and not ready for a port is not.
pub fn repack(subsets: &[EndpointSubset]) -> Vec<Subset> {
    let mut addresses: BTreeMap<AddressKey, &EndpointAddress> = BTreeMap::new();
    // `None` stands for addresses without any port.
    let mut ready: BTreeMap<Option<Port>, BTreeMap<AddressKey, bool>> = BTreeMap::new();
    for subset in subsets {
        let mut ports: Vec<Option<Port>> = subset
            .ports
            .iter()
            .flatten()
            .map(|p| Some(port(p)))
            .collect();
        if ports.is_empty() {
            ports.push(None);
        }
        let good = subset.addresses.iter().flatten().map(|a| (a, true));
        let bad = subset.not_ready_addresses.iter().flatten();
        for (address, is_ready) in good.chain(bad.map(|a| (a, false))) {
            let key = key(address);
            addresses.entry(key.clone()).or_insert(address);
            for port in &ports {
                let of_port = ready.entry(port.clone()).or_default();
                let was = of_port.entry(key.clone()).or_insert(is_ready);
                *was &= is_ready;
            }
        }
    }
    let mut groups: BTreeMap<BTreeMap<AddressKey, bool>, Vec<Port>> = BTreeMap::new();
    let mut bare = None;
    for (port, of_port) in ready {
        match port {
            Some(port) => groups.entry(of_port).or_default().push(port),
            None => bare = Some(of_port),
        }
    }
    let with_ports = groups.into_iter().map(|(of, ports)| (ports, of));
    let without = bare.map(|of| (Vec::new(), of));
    let listed = |of: BTreeMap<AddressKey, bool>| {
        let (good, bad): (Vec<_>, Vec<_>) = of.into_iter().partition(|(_, ready)| *ready);
        let all = good.into_iter().chain(bad);
        all.filter_map(|(key, ready)| Some(((*addresses.get(&key)?).clone(), ready)))
            .collect()
    };
    let mut all: Vec<Subset> = with_ports
        .chain(without)
        .map(|(ports, of)| Subset {
            ports,
            addresses: listed(of),
        })
        .collect();
    all.sort_by(|a, b| a.ports.cmp(&b.ports));
    all
}
