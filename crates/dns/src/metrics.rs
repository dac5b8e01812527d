//! What the DNS server counts, under the names of CoreDNS, which clusters usually have.

use std::net::SocketAddr;
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use metrics::{Counter, Counters, Gauges, Histogram, Histograms, exponential};

use crate::answer::QueryType;

const SERVER: &str = "dns://:53";
const ZONE: &str = ".";
/// The four bits of an answer's header that say what came of it.
const CODES: [&str; 6] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED",
];

/// The figures; those of several servers in one process are counted together.
pub struct DnsMetrics {
    requests: Counters<6>,
    seconds: Histograms<3>,
    request_bytes: Histograms<4>,
    response_bytes: Histograms<4>,
    responses: Counters<5>,
    forwarded: Counters<1>,
    forward: Forwarded,
    hits: Counters<1>,
    misses: Counters<1>,
    stale: Counters<1>,
    entries: Gauges<1>,
    upstream_seconds: Histograms<3>,
    upstream_failures: Counters<2>,
    rejects: Counters<1>,
    truncated: Counters<1>,
    reload_failures: Counters<1>,
    templates: Counters<5>,
    template_failures: Counters<5>,
    programming_seconds: Histograms<1>,
    plugins: Gauges<4>,
    build: Gauges<3>,
}

/// What is counted of questions that were passed on, under the names that CoreDNS had for it before
/// 1.11: its dashboards and alert rules ask for these.
struct Forwarded {
    requests: Counters<1>,
    responses: Counters<2>,
    seconds: Histograms<2>,
    failures: Counters<1>,
    broken: Counters<0>,
}

pub static METRICS: LazyLock<DnsMetrics> = LazyLock::new(|| DnsMetrics {
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
    forward: Forwarded {
        requests: Counters::new(
            "coredns_forward_requests_total",
            "Questions that were passed on, by the server that was asked.",
            ["to"],
        ),
        responses: Counters::new(
            "coredns_forward_responses_total",
            "Answers of other servers.",
            ["rcode", "to"],
        ),
        seconds: Histograms::new(
            "coredns_forward_request_duration_seconds",
            "How long other servers took to answer.",
            ["to", "rcode"],
            &exponential(0.00025, 2.0, 16),
        ),
        failures: Counters::new(
            "coredns_forward_healthcheck_failures_total",
            "Questions that another server did not answer.",
            ["to"],
        ),
        broken: Counters::new(
            "coredns_forward_healthcheck_broken_total",
            "Questions that none of the servers answered which were asked.",
            [],
        ),
    },
    hits: one(
        "coredns_cache_hits_total",
        "Questions answered by what was kept.",
    ),
    misses: one(
        "coredns_cache_misses_total",
        "Questions for which nothing was kept.",
    ),
    stale: one(
        "coredns_cache_served_stale_total",
        "Answers given behind their time, since nobody else answered.",
    ),
    entries: Gauges::new(
        "coredns_cache_entries",
        "Answers that are kept.",
        ["server"],
    ),
    upstream_seconds: Histograms::new(
        "coredns_proxy_request_duration_seconds",
        "How long other servers took to answer.",
        ["proxy_name", "to", "rcode"],
        &exponential(0.00025, 2.0, 16),
    ),
    upstream_failures: Counters::new(
        "coredns_proxy_healthcheck_failures_total",
        "Questions that another server did not answer.",
        ["proxy_name", "to"],
    ),
    rejects: one(
        "coredns_forward_max_concurrent_rejects_total",
        "Questions refused since too many waited for others.",
    ),
    truncated: one(
        "tiphys_dns_truncated_total",
        "Answers cut to what fits, or to what a stranger's question is worth.",
    ),
    reload_failures: one(
        "coredns_reload_failed_total",
        "Configurations that could not be read.",
    ),
    templates: Counters::new(
        "coredns_template_matches_total",
        "Counter of template regex matches.",
        ["server", "zone", "view", "class", "type"],
    ),
    template_failures: Counters::new(
        "coredns_template_rr_failures_total",
        "Questions for which a template made what is not a record.",
        ["server", "zone", "view", "class", "type"],
    ),
    programming_seconds: Histograms::new(
        "coredns_kubernetes_dns_programming_duration_seconds",
        "From the change of a pod or a Service, as its EndpointSlice says, until its name is answered so.",
        ["service_kind"],
        &exponential(0.001, 2.0, 20),
    ),
    plugins: Gauges::new(
        "coredns_plugin_enabled",
        "What is done about questions for names of a zone, in the words of a Corefile.",
        ["server", "zone", "view", "name"],
    ),
    build: Gauges::new(
        "coredns_build_info",
        "A metric with a constant '1' value labeled by version, revision, and goversion from which CoreDNS was built.",
        ["version", "revision", "goversion"],
    ),
});

fn one(name: &str, help: &str) -> Counters<1> {
    Counters::new(name, help, ["server"])
}

const SIZES: [f64; 14] = [
    0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16e3, 32e3, 48e3, 64e3,
];

/// Handles of what each question is counted in, which are found by numbers: looking labels up copies
/// them all. What is not counted yet has no handle, and is not shown.
#[derive(Default)]
struct Handles {
    requests: [[[OnceLock<Counter>; KINDS]; 2]; 2],
    request_bytes: [OnceLock<Histogram>; 2],
    seconds: OnceLock<Histogram>,
    response_bytes: [OnceLock<Histogram>; 2],
    responses: [OnceLock<Counter>; CODES.len() + 1],
    looked: [OnceLock<Counter>; 2],
}

static HANDLES: LazyLock<Handles> = LazyLock::new(Handles::default);

/// The types of [`QueryType`].
const KINDS: usize = QueryType::Other as usize + 1;
const PROTOCOLS: [&str; 2] = ["udp", "tcp"];
const FAMILIES: [&str; 2] = ["1", "2"];

/// A question that was taken.
pub struct CountedQuestion {
    /// The number of its protocol.
    proto: usize,
}

impl DnsMetrics {
    /// Counts a question of so many bytes.
    pub fn asked(
        &self,
        kind: QueryType,
        by_udp: bool,
        four: bool,
        bytes: usize,
    ) -> CountedQuestion {
        let (proto, family) = (usize::from(!by_udp), usize::from(!four));
        let handle = HANDLES.requests.get(proto).and_then(|f| f.get(family));
        let (named, family) = (word(&PROTOCOLS, proto), word(&FAMILIES, family));
        if let Some(handle) = handle.and_then(|kinds| kinds.get(kind as usize)) {
            let labels = [SERVER, ZONE, "", named, family, kind.name()];
            handle.get_or_init(|| self.requests.of(labels)).inc();
        }
        if let Some(handle) = HANDLES.request_bytes.get(proto) {
            let make = || self.request_bytes.of([SERVER, ZONE, "", named]);
            handle.get_or_init(make).observe(bytes as f64);
        }
        CountedQuestion { proto }
    }

    /// A question goes to another server.
    pub fn passed_on(&self, server: SocketAddr) {
        self.forwarded.add(["forward"]);
        self.forward.requests.add([&server.to_string()]);
    }

    /// None of the servers that were asked has answered.
    pub fn nobody_answered(&self) {
        self.forward.broken.add([]);
    }

    /// A headless Service's endpoints are answered as they are since so many seconds.
    pub fn programmed(&self, seconds: f64) {
        let kind = ["headless_with_selector"];
        // Two machines' clocks may differ.
        self.programming_seconds.observe(kind, seconds.max(0.0));
    }

    /// This is what acts now: zones, each with the name of a plugin.
    pub fn enabled(&self, plugins: &[(String, &str)]) {
        self.plugins.clear();
        for (zone, name) in plugins {
            self.plugins.set([SERVER, zone, "", name], 1.0);
        }
        if let Some(build) = metrics::process::build() {
            let words = [&build.git_version, &build.git_commit, &build.go_version];
            let labels = words.map(String::as_str);
            self.build.set(labels, 1.0);
        }
    }

    /// What was kept answered, or did not.
    pub fn looked(&self, hit: bool) {
        let counter = if hit { &self.hits } else { &self.misses };
        if let Some(handle) = HANDLES.looked.get(usize::from(hit)) {
            handle.get_or_init(|| counter.of([SERVER])).inc();
        }
    }

    /// An answer was given behind its time.
    pub fn served_stale(&self) {
        self.stale.add([SERVER]);
    }

    /// So many answers are kept.
    pub fn kept(&self, count: usize) {
        self.entries.set([SERVER], count as f64);
    }

    /// Another server gave this answer, after so long, or none.
    pub fn upstream(&self, server: SocketAddr, after: Duration, answer: Option<&[u8]>) {
        let to = server.to_string();
        let Some(answer) = answer else {
            self.upstream_failures.add(["forward", &to]);
            self.forward.failures.add([&to]);
            return;
        };
        let (rcode, seconds) = (word(&CODES, code_of(answer)), after.as_secs_f64());
        self.upstream_seconds
            .observe(["forward", &to, rcode], seconds);
        self.forward.responses.add([rcode, &to]);
        self.forward.seconds.observe([&to, rcode], seconds);
    }

    /// A question was refused since too many waited.
    pub fn rejected(&self) {
        self.rejects.add([SERVER]);
    }

    /// A template answered.
    pub fn made(&self, kind: QueryType) {
        self.templates.add([SERVER, ZONE, "", "IN", kind.name()]);
    }

    /// What a template made is not a record.
    pub fn not_made(&self, kind: QueryType) {
        self.template_failures
            .add([SERVER, ZONE, "", "IN", kind.name()]);
    }

    /// A configuration could not be read.
    pub fn reload_failed(&self) {
        self.reload_failures.add([SERVER]);
    }
}

impl CountedQuestion {
    /// Counts its answer; none when nobody will get one.
    pub fn answered(&self, answer: Option<&[u8]>, took: Duration) {
        let metrics = &*METRICS;
        let seconds = || metrics.seconds.of([SERVER, ZONE, ""]);
        let seconds = HANDLES.seconds.get_or_init(seconds);
        seconds.observe(took.as_secs_f64());
        let Some(answer) = answer else { return };
        if let Some(handle) = HANDLES.response_bytes.get(self.proto) {
            let labels = [SERVER, ZONE, "", word(&PROTOCOLS, self.proto)];
            let make = || metrics.response_bytes.of(labels);
            handle.get_or_init(make).observe(answer.len() as f64);
        }
        let code = code_of(answer);
        if let Some(handle) = HANDLES.responses.get(code) {
            let labels = [SERVER, ZONE, "", word(&CODES, code), ""];
            handle.get_or_init(|| metrics.responses.of(labels)).inc();
        }
        if crate::packet::is_cut(answer) {
            metrics.truncated.add([SERVER]);
        }
    }
}

/// What came of a question, as a place in [`CODES`] or behind them.
fn code_of(answer: &[u8]) -> usize {
    let code = answer.get(3).map_or(2, |b| usize::from(b & 0xf));
    code.min(CODES.len())
}

/// The word of a number.
fn word(words: &[&'static str], number: usize) -> &'static str {
    words.get(number).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_those_of_coredns() {
        let taken = METRICS.asked(QueryType::A, true, true, 40);
        taken.answered(Some(&[0, 0, 0x81, 0x83, 0]), Duration::from_millis(1));
        let server = SocketAddr::from(([192, 0, 2, 53], 53));
        METRICS.passed_on(server);
        let refused = [0, 0, 0x81, 0x85];
        METRICS.upstream(server, Duration::from_millis(1), Some(&refused));
        METRICS.upstream(server, Duration::from_millis(1), None);
        METRICS.programmed(1.0);
        METRICS.enabled(&[("example.com.".to_owned(), "forward")]);
        let text = metrics::prometheus(&metrics::lines());
        for line in [
            "coredns_dns_requests_total{server=\"dns://:53\",zone=\".\",view=\"\",proto=\"udp\",family=\"1\",type=\"A\"} 1",
            "coredns_dns_responses_total{server=\"dns://:53\",zone=\".\",view=\"\",rcode=\"NXDOMAIN\",plugin=\"\"} 1",
            "coredns_dns_request_duration_seconds_count{server=\"dns://:53\",zone=\".\",view=\"\"} 1",
            "coredns_dns_response_size_bytes_count{server=\"dns://:53\",zone=\".\",view=\"\",proto=\"udp\"} 1",
            "coredns_proxy_requests_total{proxy_name=\"forward\"} 1",
            "coredns_proxy_request_duration_seconds_count{proxy_name=\"forward\",to=\"192.0.2.53:53\",rcode=\"REFUSED\"} 1",
            "coredns_proxy_healthcheck_failures_total{proxy_name=\"forward\",to=\"192.0.2.53:53\"} 1",
            "coredns_forward_requests_total{to=\"192.0.2.53:53\"} 1",
            "coredns_forward_responses_total{rcode=\"REFUSED\",to=\"192.0.2.53:53\"} 1",
            "coredns_forward_healthcheck_failures_total{to=\"192.0.2.53:53\"} 1",
            "coredns_kubernetes_dns_programming_duration_seconds_count{service_kind=\"headless_with_selector\"} 1",
            "coredns_plugin_enabled{server=\"dns://:53\",zone=\"example.com.\",view=\"\",name=\"forward\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
