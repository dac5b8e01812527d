//! Fences: a Lease that changes hands gets a new key beside it, written in the same transaction;
//! a request that carries a fence ([`api::Fence`]) is committed only while that key is unchanged.
//! So the store itself refuses what a deposed or paused leader still sends. Which Leases are
//! about leadership is the registry's to say.

use api::{Fence, Status};
use bytes::Bytes;
use http::HeaderMap;
use registry::Claim;
use serde_json::json;
use store::{Compare, KeyValue, Op, PRIVATE_PREFIX};

use crate::call::Call;

/// Reads the fence of a request; text that is none is an error, since the client relies on it.
pub fn read(headers: &HeaderMap) -> Result<Option<Fence>, Status> {
    let Some(value) = headers.get(Fence::HEADER) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    text.parse()
        .map(Some)
        .map_err(|e: api::fence::BadFence| Status::bad_request(e.to_string()))
}

/// The key of a Lease's fence.
pub fn key(namespace: &str, name: &str) -> Bytes {
    let below = format!("fences/{namespace}/{name}");
    [PRIVATE_PREFIX, below.as_bytes()].concat().into()
}

/// What must hold for a fenced write.
pub fn compare(fence: &Fence) -> Compare {
    Compare::ModRevision(key(&fence.namespace, &fence.name), fence.revision)
}

/// Whether a fence's key, as a refused transaction found it, is still the one that is meant.
pub fn holds(fence: &Fence, found: Option<&KeyValue>) -> bool {
    found.is_some_and(|kv| kv.mod_revision == fence.revision)
}

/// The answer to a write of a former leader. Trying again does not help.
pub fn lost(call: &Call, name: &str, fence: &Fence) -> Status {
    let why = format!(
        "leadership was lost: lease {}/{} has changed hands since revision {}",
        fence.namespace, fence.name, fence.revision
    );
    Status::conflict(&call.resource(), name, &why)
}

/// The new fence of a Lease whose leadership changes; without a Lease there is no fence.
pub fn op(namespace: &str, name: &str, had: &[Claim], want: &[Claim]) -> Option<Op> {
    let leadership = |claims: &[Claim]| {
        let mut all = claims.iter();
        all.find(|c| matches!(c, Claim::Leadership { .. })).cloned()
    };
    let key = key(namespace, name);
    match (leadership(had), leadership(want)) {
        (had, want) if had == want => None,
        (_, None) => Some(Op::Delete { key }),
        (
            _,
            Some(Claim::Leadership {
                holder,
                transitions,
            }),
        ) => {
            // The revision is what counts; the value is for people.
            let value = json!({ "holder": holder, "transitions": transitions });
            Some(Op::Put {
                key,
                value: value.to_string().into(),
                expires_after_seconds: None,
            })
        }
        (_, Some(_)) => None,
    }
}
