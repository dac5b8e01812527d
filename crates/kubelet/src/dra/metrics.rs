//! What is counted of dynamic resources, under upstream's names.

use super::prepared_claims::Claim;
use clock::Instant;
use metrics::{Gauges, Histograms, exponential};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use tonic::Code;

/// The value of `driver_name` that stands for all drivers together.
const ANY: &str = "<any>";
/// From 0.1 s to 40 s, as upstream: a driver may take 45 s.
const FIRST: f64 = 0.1;
const LAST: f64 = 40.0;
const COUNT: u8 = 15;

pub(super) struct Metrics {
    operations: Histograms<2>,
    calls: Histograms<3>,
    in_use: Gauges<1>,
}

pub(super) static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let factor = (LAST / FIRST).powf(1.0 / f64::from(COUNT - 1));
    let bounds = exponential(FIRST, factor, COUNT.into());
    Metrics {
        operations: Histograms::new(
            "dra_operations_duration_seconds",
            "Latency histogram in seconds for the duration of handling all ResourceClaims referenced by a pod when the pod starts or stops. Identified by the name of the operation (PrepareResources or UnprepareResources) and separated by the success of the operation.",
            ["operation_name", "is_error"],
            &bounds,
        ),
        calls: Histograms::new(
            "dra_grpc_operations_duration_seconds",
            "Duration in seconds of the DRA gRPC operations",
            ["driver_name", "method_name", "grpc_status_code"],
            &bounds,
        ),
        in_use: Gauges::new(
            "dra_resource_claims_in_use",
            "The number of ResourceClaims that are currently in use on the node, by driver name (driver_name label value) and across all drivers (special value <any> for driver_name).",
            ["driver_name"],
        ),
    }
});

impl Metrics {
    /// All claims of a pod were prepared, or given back.
    pub(super) fn handled(&self, operation: &str, began: Instant, well: bool) {
        let is_error = if well { "false" } else { "true" };
        let took = began.elapsed().as_secs_f64();
        self.operations.observe([operation, is_error], took);
    }

    /// A driver was called.
    pub(super) fn called(&self, driver: &str, method: &str, began: Instant, code: Code) {
        let took = began.elapsed().as_secs_f64();
        self.calls.observe([driver, method, word(code)], took);
    }

    /// Which claims are in use now.
    pub(super) fn use_is(&self, claims: &BTreeMap<String, Claim>) {
        self.in_use.clear();
        let drivers: BTreeSet<&String> = claims.values().flat_map(|c| c.drivers.keys()).collect();
        let count = |driver: Option<&String>| {
            let uses = |c: &&Claim| driver.is_none_or(|d| c.drivers.contains_key(d));
            claims.values().filter(uses).count() as f64
        };
        self.in_use.set([ANY], count(None));
        for driver in drivers {
            self.in_use.set([driver], count(Some(driver)));
        }
    }
}

/// Upstream's word for a code of gRPC.
fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
