//! The messages about pods that cannot be scheduled; the texts are upstream's, since
//! people and tools know them.

use std::collections::BTreeMap;
use std::fmt::Write;

/// There is not one node.
pub const NO_NODES: &str = "no nodes available to schedule pods";
/// Of a node on which no pod may be preempted.
pub const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
/// Of a node that would not fit without pods either.
pub const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
/// Extenders let no pod go.
pub const NO_CANDIDATE: &str = "no candidate node for preemption";
pub const NEVER_PREEMPTS: &str = "not eligible due to preemptionPolicy=Never.";
pub const STILL_TERMINATING: &str = "not eligible due to a terminating pod on the nominated node.";
/// Of a pod of a gang that would not be complete, whoever made room.
pub const GANG: &str = "not eligible since its group would not get all of its nodes by it.";
/// What a pod of a gang waits for; more may follow.
pub const GANG_WAITS: &str = "waiting for minCount pods from a gang to be scheduled";
/// Of a pod that waits for its gates.
pub const GATED: &str = "Scheduling is blocked due to non-empty scheduling gates";

/// Of a pod that no node could have, whatever it is.
pub fn refused<'a>(nodes: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let reasons: Vec<&str> = reasons.collect();
    format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
}

/// Of a pod that had a node, and was not permitted to be bound to it in this time.
pub fn not_permitted(plugin: &str, after_ms: u64) -> String {
    let seconds = after_ms / 1_000;
    // As upstream prints times.
    let time = match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!(
            "{}h{}m{}s",
            seconds / 3_600,
            seconds / 60 % 60,
            seconds % 60
        ),
    };
    let why = format!("rejected due to timeout after waiting {time} at plugin {plugin}");
    histogram(1, std::iter::once(why.as_str()))
}

/// How often each of these reasons is given. Nodes side by side mostly say the same, which costs only
/// a comparison.
pub fn count<'a>(reasons: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut counts: BTreeMap<&'a str, usize> = BTreeMap::new();
    let mut run: Option<(&'a str, usize)> = None;
    let mut add = |run: Option<(&'a str, usize)>| {
        if let Some((reason, times)) = run {
            *counts.entry(reason).or_default() += times;
        }
    };
    for reason in reasons {
        if let Some((same, times)) = &mut run
            && *same == reason
        {
            *times += 1;
            continue;
        }
        add(run.replace((reason, 1)));
    }
    add(run);
    counts
}

/// As [`counted`], from the reasons themselves.
pub fn histogram<'a>(nodes: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    counted(nodes, count(reasons).into_iter())
}

/// `0/3 nodes are available: 1 this, 2 that.`; the reasons are sorted as texts, number first.
pub fn counted<'a>(nodes: usize, reasons: impl Iterator<Item = (&'a str, usize)>) -> String {
    let mut parts: Vec<String> = reasons.map(|(r, n)| format!("{n} {r}")).collect();
    parts.sort();
    let mut out = format!("0/{nodes} nodes are available:");
    if !parts.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(out, " {}.", parts.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::{Reason, Verdict};

    #[test]
    fn reasons_are_counted_and_sorted_as_text() {
        let short = Reason::many(vec![
            "Insufficient memory".into(),
            "Insufficient cpu".into(),
        ]);
        let mut verdicts = vec![Verdict::NotNow(short); 10];
        verdicts.push(Verdict::Never(Reason::one(
            "node(s) had untolerated taint(s)",
        )));
        verdicts.push(Verdict::Fits);
        assert_eq!(
            histogram(12, verdicts.iter().flat_map(Verdict::reasons)),
            "0/12 nodes are available: 1 node(s) had untolerated taint(s), 10 Insufficient cpu, \
             10 Insufficient memory."
        );
        assert_eq!(histogram(2, std::iter::empty()), "0/2 nodes are available:");
    }
}
