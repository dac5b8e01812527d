//! Addresses of Services that no Service has: what goes there ends on the node. It would leave by the
//! default route otherwise, and a flow that has left so would not be led to the Service that gets the
//! address. As upstream's, silently: a client that was faster than the rules tries again.

use host::nft::{Chain, End, Family, Part, Prefix, Rule, Verdict};

/// The chain's name; new connections that no Service's rules have taken come here.
pub const UNALLOCATED: &str = "unallocated";

/// The chain of a family, by the ranges of Services' addresses. A range in which somebody has pods,
/// or this host, keeps nobody from these.
pub fn unallocated<'a>(
    family: Family,
    pods: Option<Prefix>,
    ranges: impl IntoIterator<Item = &'a Prefix>,
) -> Chain {
    let to = |within: Prefix, negate: bool| Part::Address {
        end: End::Destination,
        within,
        negate,
    };
    let ranges = ranges.into_iter();
    let ranges = ranges.filter(|range| Family::of(range.address) == family);
    let rules = ranges.map(|range| {
        let mut parts = vec![to(*range, false)];
        parts.extend(pods.map(|pods| to(pods, true)));
        parts.push(Part::Local {
            end: End::Destination,
            negate: true,
        });
        parts.push(Part::Verdict(Verdict::Drop));
        Rule(parts)
    });
    Chain {
        hook: None,
        rules: rules.collect(),
    }
}
