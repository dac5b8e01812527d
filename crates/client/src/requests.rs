//! Figures of the requests of this process's components, under upstream's names. All go to the API
//! server: that is their host.

use std::sync::LazyLock;
use std::time::Duration;

use http::{Method, StatusCode};
use metrics::{Counters, Histograms};

const HOST: &str = "apiserver";
/// Seconds; upstream's.
const SECONDS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0,
];

static TOTAL: LazyLock<Counters<3>> = LazyLock::new(|| {
    Counters::new(
        "rest_client_requests_total",
        "Number of HTTP requests, by status code, method and host",
        ["code", "host", "method"],
    )
});

static DURATION: LazyLock<Histograms<2>> = LazyLock::new(|| {
    Histograms::new(
        "rest_client_request_duration_seconds",
        "Time until the head of the answer, by verb and host",
        ["host", "verb"],
        &SECONDS,
    )
});

/// Counts a request when its answer begins; without a code when there was none.
pub(crate) fn answered(method: &Method, code: Option<StatusCode>, took: Duration) {
    let code = code.as_ref().map_or("<error>", StatusCode::as_str);
    TOTAL.add([code, HOST, method.as_str()]);
    DURATION.observe([HOST, method.as_str()], took.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_upstreams() {
        answered(
            &Method::PATCH,
            Some(StatusCode::CONFLICT),
            Duration::from_secs(1),
        );
        answered(&Method::PATCH, None, Duration::from_secs(1));
        let text = metrics::prometheus(&metrics::lines());
        for line in [
            "rest_client_requests_total{code=\"409\",host=\"apiserver\",method=\"PATCH\"} 1",
            "rest_client_requests_total{code=\"<error>\",host=\"apiserver\",method=\"PATCH\"} 1",
            "rest_client_request_duration_seconds_count{host=\"apiserver\",verb=\"PATCH\"} 2",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
