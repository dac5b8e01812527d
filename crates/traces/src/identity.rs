//! Which trace a span without a parent belongs to, and whether that is recorded. Work for one object
//! of the API is one trace in all components, though none of them calls another: its ID is the
//! object's UID, and the share that is recorded is chosen by the ID alone, so that all choose alike.

use std::cell::Cell;

use opentelemetry::trace::{Link, SpanId, SpanKind, TraceContextExt, TraceId};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, SamplingDecision, SamplingResult, ShouldSample,
};

thread_local! {
    /// The next trace that begins on this thread.
    static NEXT: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Runs `begin`, in which a trace begins; its ID is this UID, where it is one.
pub(super) fn within<T>(uid: &str, begin: impl FnOnce() -> T) -> T {
    NEXT.set(trace_of(uid));
    let out = begin();
    NEXT.set(None);
    out
}

/// A UID has as many digits as the ID of a trace.
fn trace_of(uid: &str) -> Option<TraceId> {
    let digits: String = uid.chars().filter(|c| *c != '-').collect();
    let id = (digits.len() == 32).then(|| TraceId::from_hex(&digits));
    id?.ok().filter(|id| *id != TraceId::INVALID)
}

/// Draws IDs, except of traces that were named.
#[derive(Debug, Default)]
pub(super) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        NEXT.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

/// Records so many of a million traces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share(pub u32);

impl Share {
    /// By the first half of the ID: in the second half of a UID the first bits are the same in all.
    fn takes(self, id: TraceId) -> bool {
        let first = u128::from_be_bytes(id.to_bytes()) >> 64;
        first * 1_000_000 < u128::from(self.0) << 64
    }
}

impl ShouldSample for Share {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        id: TraceId,
        _name: &str,
        _kind: &SpanKind,
        _attributes: &[KeyValue],
        _links: &[Link],
    ) -> SamplingResult {
        let state = parent.map(|p| p.span().span_context().trace_state().clone());
        let decision = match self.takes(id) {
            true => SamplingDecision::RecordAndSample,
            false => SamplingDecision::Drop,
        };
        SamplingResult {
            decision,
            attributes: Vec::new(),
            trace_state: state.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_names_a_trace() {
        let uid = "0af76519-16cd-43dd-8448-eb211c80319c";
        let id = trace_of(uid).expect("a trace");
        assert_eq!(id.to_string(), uid.replace('-', ""));
        for none in ["", "x", "00000000-0000-0000-0000-000000000000"] {
            assert_eq!(trace_of(none), None, "{none}");
        }
        let ids = Ids::default();
        assert_eq!(within(uid, || ids.new_trace_id()), id);
        assert_ne!(ids.new_trace_id(), id);
        // What begins nothing leaves nothing behind.
        within(uid, || ());
        assert_ne!(ids.new_trace_id(), id);
    }

    #[test]
    fn the_share_is_as_large_as_was_asked_for() {
        let first =
            |part: u64| TraceId::from((u128::from(u64::MAX / 1_000 * part) << 64) | (2_u128 << 62));
        let taken = |share: u32| (0..1_000).filter(|p| Share(share).takes(first(*p))).count();
        for (share, want) in [(0, 0), (1_000_000, 1_000), (100_000, 100), (500_000, 500)] {
            assert!(
                taken(share).abs_diff(want) <= 1,
                "{share}: {}",
                taken(share)
            );
        }
    }
}
