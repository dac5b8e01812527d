//! What the DNS server counts, under the names of CoreDNS, which clusters usually have.

use std::sync::LazyLock;
use std::time::Duration;

use figures::{Counters, Histograms, exponential};

use crate::answer::QueryType;

const SERVER: &str = "dns://:53";
const ZONE: &str = ".";
/// The four bits of an answer's header that say what came of it.
const CODES: [&str; 6] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED",
];

/// The figures; those of several servers in one process are counted together.
pub struct DnsFigures {
    requests: Counters<6>,
    seconds: Histograms<3>,
    request_bytes: Histograms<4>,
    response_bytes: Histograms<4>,
    responses: Counters<5>,
    forwarded: Counters<1>,
}

pub static FIGURES: LazyLock<DnsFigures> = LazyLock::new(|| DnsFigures {
    requests: Counters::new(
        "coredns_dns_requests_total",
        "Counter of DNS requests made per zone, protocol and family.",
        ["server", "zone", "view", "proto", "family", "type"],
    ),
    seconds: Histograms::new(
        "coredns_dns_request_duration_seconds",
        "Histogram of the time (in seconds) each request took per zone.",
        ["server", "zone", "view"],
        &exponential(0.00025, 2.0, 16),
    ),
    request_bytes: Histograms::new(
        "coredns_dns_request_size_bytes",
        "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.",
        ["server", "zone", "view", "proto"],
        &SIZES,
    ),
    response_bytes: Histograms::new(
        "coredns_dns_response_size_bytes",
        "Size of the returned response in bytes.",
        ["server", "zone", "view", "proto"],
        &SIZES,
    ),
    responses: Counters::new(
        "coredns_dns_responses_total",
        "Counter of response status codes.",
        ["server", "zone", "view", "rcode", "plugin"],
    ),
    forwarded: Counters::new(
        "coredns_proxy_requests_total",
        "Questions that were passed on to other servers.",
        ["proxy_name"],
    ),
});

const SIZES: [f64; 14] = [
    0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16e3, 32e3, 48e3, 64e3,
];

/// A question that was taken.
pub struct Taken {
    proto: &'static str,
}

impl DnsFigures {
    /// Counts a question of so many bytes.
    pub fn asked(&self, kind: QueryType, by_udp: bool, bytes: usize) -> Taken {
        let proto = if by_udp { "udp" } else { "tcp" };
        let kind = kind.name();
        self.requests.add([SERVER, ZONE, "", proto, "1", kind]);
        let labels = [SERVER, ZONE, "", proto];
        self.request_bytes.observe(labels, bytes as f64);
        Taken { proto }
    }

    /// A question goes to another server.
    pub fn passed_on(&self) {
        self.forwarded.add(["forward"]);
    }
}

impl Taken {
    /// Counts its answer; none when nobody will get one.
    pub fn answered(&self, answer: Option<&[u8]>, took: Duration) {
        let figures = &*FIGURES;
        let label = [SERVER, ZONE, ""];
        figures.seconds.observe(label, took.as_secs_f64());
        let Some(answer) = answer else { return };
        let labels = [SERVER, ZONE, "", self.proto];
        figures.response_bytes.observe(labels, answer.len() as f64);
        let code = answer.get(3).map_or(2, |b| usize::from(b & 0xf));
        let code = CODES.get(code).copied().unwrap_or("other");
        figures.responses.add([SERVER, ZONE, "", code, ""]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_those_of_coredns() {
        let taken = FIGURES.asked(QueryType::A, true, 40);
        taken.answered(Some(&[0, 0, 0x81, 0x83, 0]), Duration::from_millis(1));
        FIGURES.passed_on();
        let text = figures::prometheus(&figures::lines());
        for line in [
            "coredns_dns_requests_total{server=\"dns://:53\",zone=\".\",view=\"\",proto=\"udp\",family=\"1\",type=\"A\"} 1",
            "coredns_dns_responses_total{server=\"dns://:53\",zone=\".\",view=\"\",rcode=\"NXDOMAIN\",plugin=\"\"} 1",
            "coredns_dns_request_duration_seconds_count{server=\"dns://:53\",zone=\".\",view=\"\"} 1",
            "coredns_dns_response_size_bytes_count{server=\"dns://:53\",zone=\".\",view=\"\",proto=\"udp\"} 1",
            "coredns_proxy_requests_total{proxy_name=\"forward\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
