//! What holds a namespace that does not go.

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;

use super::report::Answer;
use super::state::{State, TerminatingObject};

/// Objects that are named one by one beside the first.
const NAMED: usize = 10;

/// Who has to remove what of an object.
fn must_remove(held: &TerminatingObject) -> String {
    let each = held.finalizers.iter().map(|(finalizer, by)| match by {
        Some(manager) => format!("{manager}, which set {finalizer}"),
        None => format!("whoever set {finalizer}"),
    });
    let each: Vec<String> = each.collect();
    format!("{} on {} must remove it", each.join(", and "), held.what)
}

pub fn explain(state: &State, of: &Namespace) -> Answer {
    let name = of.name_any();
    let about = format!("namespace {name}");
    if of.metadata.deletion_timestamp.is_none() {
        return Answer::of(about, "it is active: nobody has deleted it");
    }
    let conditions = of.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let said: Vec<(String, String)> = conditions
        .into_iter()
        .filter(|c| c.status == "True")
        .map(|c| (c.type_.clone(), c.message.clone().unwrap_or_default()))
        .collect();
    let of_type = |kind: &str| {
        said.iter()
            .find(|(t, _)| t == kind)
            .map(|(_, m)| m.as_str())
    };
    // The order is that of what must go first: a finalizer explains content that stays.
    if let Some(message) = of_type("NamespaceFinalizersRemaining") {
        let held = state.held.iter().filter(|h| h.namespace == name);
        let held: Vec<&TerminatingObject> = held.collect();
        let mut answer = Answer::of(about, format!("finalizers hold what is in it: {message}"))
            .change(match held.first() {
                Some(first) => must_remove(first),
                None => "whoever set these finalizers must remove them".to_owned(),
            });
        for other in held.iter().skip(1).take(NAMED) {
            answer = answer.note(must_remove(other));
        }
        return answer;
    }
    for kind in [
        "NamespaceDeletionDiscoveryFailure",
        "NamespaceDeletionGroupVersionParsingFailure",
        "NamespaceDeletionContentFailure",
    ] {
        if let Some(message) = of_type(kind) {
            let answer = Answer::of(about, format!("{kind}: {message}"));
            // Whoever serves a group is asked what of it is in the namespace.
            return match kind {
                "NamespaceDeletionContentFailure" => answer,
                _ => answer.change(
                    "mend what serves these groups, or delete their APIServices: kubectl get \
                     apiservices shows which are not available",
                ),
            };
        }
    }
    if let Some(message) = of_type("NamespaceContentRemaining") {
        return Answer::of(about, format!("it is not empty yet: {message}"));
    }
    let own = of
        .spec
        .as_ref()
        .and_then(|s| s.finalizers.clone())
        .unwrap_or_default();
    let others: Vec<&String> = own.iter().filter(|f| *f != "kubernetes").collect();
    let held: Vec<&String> = others.into_iter().chain(of.finalizers()).collect();
    if let Some(first) = held.first() {
        let names: Vec<&str> = held.iter().map(|f| f.as_str()).collect();
        return Answer::of(
            about,
            format!("its own finalizers hold it: {}", names.join(", ")),
        )
        .change(format!("whoever set {first} must remove it"));
    }
    Answer::of(about, "its content is being deleted")
}
