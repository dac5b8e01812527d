//! Who is believed to be where his address says: this machine and the cluster. Answers to all others are
//! kept short by UDP, since who is at a forged address did not ask for them. Pure.

use std::net::{IpAddr, SocketAddr};

/// The networks of those who are believed.
pub struct Trusted(Vec<(IpAddr, u8)>);

impl Trusted {
    /// These networks, and the addresses where this server listens: they are this machine's.
    pub fn new(mut networks: Vec<(IpAddr, u8)>, listen: &[SocketAddr]) -> Self {
        networks.extend(listen.iter().map(|own| (own.ip(), 128)));
        Self(networks)
    }

    /// Whether whoever asks from there is believed.
    pub fn has(&self, from: IpAddr) -> bool {
        // An address of IPv4 may come by a socket of IPv6.
        let from = from.to_canonical();
        from.is_loopback() || self.0.iter().any(|network| network_has(*network, from))
    }
}

/// Whether an address lies in a network.
fn network_has((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    let differs = |bits: u32, differ: u128| {
        let kept = u32::from(length).min(bits);
        kept > 0 && differ >> (bits - kept) != 0
    };
    match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => !differs(32, u128::from(a.to_bits() ^ b.to_bits())),
        (IpAddr::V6(a), IpAddr::V6(b)) => !differs(128, a.to_bits() ^ b.to_bits()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_this_machine_are_believed_and_nobody_else() {
        let network =
            |address: &str, length| (address.parse::<IpAddr>().expect("an address"), length);
        let networks = vec![network("10.244.0.0", 16), network("fd00:10:244::", 56)];
        let listen = ["192.0.2.1:10053", "[2001:db8::1]:10053"];
        let listen = listen.map(|own| own.parse::<SocketAddr>().expect("an address"));
        let trusted = Trusted::new(networks, &listen);
        for (from, expected) in [
            ("127.0.0.1", true),
            ("127.8.9.10", true),
            ("::1", true),
            ("10.244.255.1", true),
            ("::ffff:10.244.0.7", true),
            ("::ffff:127.0.0.1", true),
            ("fd00:10:244:ff::9", true),
            ("192.0.2.1", true),
            ("2001:db8::1", true),
            // Neighbours of this machine, other networks, and all the world.
            ("192.0.2.2", false),
            ("2001:db8::2", false),
            ("10.245.0.1", false),
            ("::ffff:10.245.0.1", false),
            ("fd00:10:245::9", false),
            ("203.0.113.9", false),
            ("::", false),
            ("0.0.0.0", false),
        ] {
            let address = from.parse().expect("an address");
            assert_eq!(trusted.has(address), expected, "{from}");
        }
        let nobody = Trusted::new(Vec::new(), &[]);
        assert!(!nobody.has(IpAddr::from([10, 244, 0, 7])));
        assert!(nobody.has(IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn an_address_lies_in_a_network() {
        for (network, length, address, expected) in [
            ("10.244.0.0", 16, "10.244.3.4", true),
            ("10.244.0.0", 16, "10.245.3.4", false),
            ("0.0.0.0", 0, "203.0.113.1", true),
            ("192.0.2.1", 32, "192.0.2.1", true),
            ("192.0.2.1", 32, "192.0.2.0", false),
            ("fd00::", 8, "fd12::1", true),
            ("fd00::", 8, "2001:db8::1", false),
            ("::", 0, "10.0.0.1", false),
        ] {
            let network = (network.parse().expect("an address"), length);
            let address = address.parse().expect("an address");
            assert_eq!(
                network_has(network, address),
                expected,
                "{network:?} {address}"
            );
        }
    }
}
