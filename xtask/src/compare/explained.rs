//! Differences from upstream's documents that are meant, each with its reason. `*` stands for
//! anything; a place is written as the command prints it.

use super::difference::{Difference, matches};

/// The row of [`TABLE`] that explains a difference.
pub fn reason(difference: &Difference) -> Option<usize> {
    let place = difference.to_string();
    TABLE
        .iter()
        .position(|(pattern, _)| matches(pattern, &place))
}

/// Patterns and reasons.
pub const TABLE: &[(&str, &str)] = &[
    (
        "*cbor*",
        "CBOR is alpha and off by default in v1.36 (CBORServingAndStorage); it is not spoken here",
    ),
    (
        "* > info > version: *",
        "published documents have no version; a server has one, as upstream's",
    ),
    (
        "*metrics.k8s.io*",
        "usage is served by the API server itself, where upstream adds a metrics server",
    ),
    (
        "*io.k8s.metrics*",
        "usage is served by the API server itself, where upstream adds a metrics server",
    ),
    (
        "* > /logs/*",
        "files of the server's machine are not served: who may read logs has other ways",
    ),
    (
        "v3 > logs: *",
        "files of the server's machine are not served: who may read logs has other ways",
    ),
    (
        "discovery > api > serverAddressByClientCIDRs: *",
        "each server's own address",
    ),
    (
        "discovery > apis__apiextensions.k8s.io__v1 > resources > customresourcedefinitions > storageVersionHash: *",
        "says in which version objects are stored: definitions are written as v1, by upstream still as v1beta1",
    ),
    (
        "golden > * > stored > metadata > resourceVersion: we lack *",
        "an object's version is that of its key: upstream does not write it into the value either",
    ),
    (
        "golden > * > answer: we lack 1a002200 at the end",
        "an answer ends with the message: upstream's envelope goes on with two empty texts, which mean the same as none",
    ),
];
