//! What holds a namespace that does not go.

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;

use super::answers::Answer;
use super::state::State;

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
        let holders = holders(state, &name);
        return Answer::of(about, format!("finalizers hold what is in it: {message}")).change(
            match holders.first() {
                Some((what, finalizer)) => {
                    format!("whoever set {finalizer} on {what} must remove it")
                }
                None => "whoever set these finalizers must remove them".to_owned(),
            },
        );
    }
    for kind in [
        "NamespaceDeletionDiscoveryFailure",
        "NamespaceDeletionGroupVersionParsingFailure",
        "NamespaceDeletionContentFailure",
    ] {
        if let Some(message) = of_type(kind) {
            return Answer::of(about, format!("{kind}: {message}"));
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

/// Objects of the kinds at hand that are going and held: what and by whom.
fn holders(state: &State, namespace: &str) -> Vec<(String, String)> {
    fn held<K: ResourceExt>(kind: &str, of: &[K], namespace: &str) -> Vec<(String, String)> {
        let of = of.iter().filter(|o| {
            o.namespace().as_deref() == Some(namespace) && o.meta().deletion_timestamp.is_some()
        });
        of.filter_map(|o| {
            let finalizer = o.finalizers().first()?;
            Some((format!("{kind} {}", o.name_any()), finalizer.clone()))
        })
        .collect()
    }
    let mut out = held("pod", &state.pods, namespace);
    out.extend(held("persistentvolumeclaim", &state.claims, namespace));
    out.extend(held("service", &state.services, namespace));
    out.extend(held("deployment", &state.deployments, namespace));
    out
}
