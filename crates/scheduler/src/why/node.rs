//! Why a node is not ready, or takes no pods.

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::budget;
use super::readiness::told;
use super::report::Answer;
use super::state::{self, State};

pub fn explain(state: &State, of: &Node) -> Answer {
    let name = of.name_any();
    let about = format!("node {name}");
    if let Some(held) = state::held(of) {
        return Answer::of(about, held);
    }
    let conditions = of.status.as_ref().and_then(|s| s.conditions.as_deref());
    let conditions = conditions.unwrap_or_default();
    let is_closed = of.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
    let ready = conditions.iter().find(|c| c.type_ == "Ready");
    let mut answer = match ready.map(|c| (c.status.as_str(), c)) {
        None => Answer::of(about, "it has not said yet how it is")
            .change("start its agent, or see why that does not reach the servers"),
        Some(("True", _)) if is_closed => {
            Answer::of(about, "it is ready, and closed: it takes no new pods")
                .change(format!("kubectl uncordon {name}"))
        }
        Some(("True", _)) => Answer::of(about, "it is ready"),
        Some(("Unknown", c)) => Answer::of(about, format!("it is not heard from: {}", told(c)))
            .change("start its agent, or mend the network between it and the servers"),
        Some((_, c)) => Answer::of(about, format!("it is not ready: {}", told(c))),
    };
    if is_closed && ready.is_none_or(|c| c.status != "True") {
        answer = answer.note("it is closed as well: it takes no new pods");
    }
    if is_closed {
        for kept in budget::keeps(state, &name) {
            answer = answer.note(kept);
        }
    }
    // Of all others it is good when they are not true.
    for c in conditions {
        if c.type_ != "Ready" && c.status == "True" {
            answer = answer.note(format!("{}: {}", c.type_, told(c)));
        }
    }
    let taints = of.spec.iter().flat_map(|s| s.taints.iter().flatten());
    for taint in taints {
        let value = taint.value.as_deref().filter(|v| !v.is_empty());
        let value = value.map(|v| format!("={v}")).unwrap_or_default();
        answer = answer.note(format!(
            "pods must tolerate its taint {}{value}:{}",
            taint.key, taint.effect
        ));
    }
    answer
}
