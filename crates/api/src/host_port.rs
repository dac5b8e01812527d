//! Hosts with ports, as URLs and headers write them.

use std::fmt::Display;

/// `host:port`, or `[host]:port` where the host is an address of IPv6, whose own colons would be
/// taken for the port's.
pub fn host_port(host: &str, port: impl Display) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_ipv6_stand_in_brackets() {
        assert_eq!(host_port("fd00::1", 80), "[fd00::1]:80");
        assert_eq!(host_port("[fd00::1]", 80), "[fd00::1]:80");
        assert_eq!(host_port("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(host_port("web", "http"), "web:http");
    }
}
