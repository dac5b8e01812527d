//! What the caches must have seen before a key is planned again, so that a stale cache cannot double
//! an action.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, DynamicObject};
use tokio::time::Instant;

use crate::action::Target;

/// UID, resourceVersion and whether the object is being deleted.
pub(crate) type ObjectVersion = (String, u64, bool);
/// What is known of an object, and up to which version the cache knows everything.
pub(crate) type LookUp = Arc<dyn Fn(&str, &str) -> (Option<ObjectVersion>, u64) + Send + Sync>;
/// What is known of objects, by kind.
pub(crate) type LookUps = HashMap<String, LookUp>;

pub(crate) fn known_of(meta: &ObjectMeta) -> ObjectVersion {
    let version = meta
        .resource_version
        .as_deref()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    (
        meta.uid.clone().unwrap_or_default(),
        version,
        meta.deletion_timestamp.is_some(),
    )
}

pub(crate) fn name_of(resource: &ApiResource) -> String {
    format!("{}/{}", resource.group, resource.plural)
}

/// What must be seen before a key is planned again.
pub(crate) struct Expectation {
    kind: String,
    namespace: String,
    name: String,
    what: Expected,
    until: Instant,
}

pub(crate) enum Expected {
    /// The object of this UID, at this version or later, or gone.
    AtLeast(String, u64),
    /// Gone, being deleted, or another object.
    Gone(String),
    /// Nothing that could be seen: only time shows it.
    Settled,
}

/// A change that has not been seen after this time is given up: the watch may have missed it, or
/// the object is of a kind nobody watches.
const EXPECT_AT_MOST: Duration = Duration::from_secs(30);
/// A creation without a clear answer may still come to be. Until then another try would make a
/// second object. 10 s: etcd gives up a request after 7 s.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

impl Expectation {
    pub(crate) fn is_met(&self, look_up: &LookUps) -> bool {
        if matches!(self.what, Expected::Settled) {
            return Instant::now() >= self.until;
        }
        let Some(look) = look_up.get(&self.kind) else {
            return true;
        };
        let (known, latest) = look(&self.namespace, &self.name);
        let met = match (&self.what, known) {
            (Expected::AtLeast(uid, version), Some((u, v, _))) => u != *uid || v >= *version,
            // Not yet there, or, when the cache is past that version, gone again.
            (Expected::AtLeast(_, version), None) => latest >= *version,
            (Expected::Gone(_), None) => true,
            (Expected::Gone(uid), Some((u, _, deleting))) => u != *uid || deleting,
            (Expected::Settled, _) => false,
        };
        met || Instant::now() >= self.until
    }
}

pub(crate) fn expect_settled(target: &Target) -> Expectation {
    Expectation {
        until: Instant::now() + SETTLES_WITHIN,
        ..expect(target, "", Expected::Settled)
    }
}

pub(crate) fn expect(target: &Target, name: &str, what: Expected) -> Expectation {
    Expectation {
        kind: name_of(&target.resource),
        namespace: target.namespace.clone(),
        name: name.to_owned(),
        what,
        until: Instant::now() + EXPECT_AT_MOST,
    }
}

pub(crate) fn expect_at_least(target: &Target, made: &DynamicObject) -> Expectation {
    let (uid, version, _) = known_of(&made.metadata);
    let name = made.metadata.name.clone().unwrap_or_default();
    expect(target, &name, Expected::AtLeast(uid, version))
}
