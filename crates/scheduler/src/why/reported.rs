//! What events say of an object: the last thing that went wrong with it, and what would mend that where
//! pods are refused. Events are the only place where most parts of a cluster say why.

use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;

use super::report::{self, Answer};
use super::state::State;

/// The last warning about an object, of those that `is_meant` by their reasons.
pub fn last_warning<'a, K: ResourceExt>(
    state: &'a State,
    of: &K,
    is_meant: impl Fn(&str) -> bool,
) -> Option<&'a Event> {
    let uid = of.uid()?;
    let all = state.events.iter().filter(|e| {
        e.involved_object.uid.as_deref() == Some(uid.as_str())
            && e.type_.as_deref() == Some("Warning")
            && is_meant(e.reason.as_deref().unwrap_or_default())
    });
    all.max_by_key(|e| {
        let again = e
            .series
            .as_ref()
            .and_then(|s| s.last_observed_time.as_ref());
        let again = again.map(|t| t.0);
        let last = e.last_timestamp.as_ref().map(|t| t.0);
        again.max(last).max(e.event_time.as_ref().map(|t| t.0))
    })
}

/// An event as it is quoted.
pub fn quoted(event: &Event) -> String {
    report::quoted(event.reason.as_deref(), event.message.as_deref())
}

/// Of something whose pods have not been made: what refuses them, as its events say.
pub fn not_made<K: ResourceExt>(
    state: &State,
    of: &K,
    about: String,
    said: &str,
    kind: &str,
) -> Answer {
    let Some(event) = last_warning(state, of, |reason| reason == "FailedCreate") else {
        let name = of.name_any();
        return Answer::of(about, said).note(format!(
            "nothing is known to refuse them; if something does, the events say so: \
             kubectl describe {kind} {name}"
        ));
    };
    let message = event.message.as_deref().unwrap_or_default();
    refused(Answer::of(about, format!("{said}: {message}")), message)
}

/// The name that stands behind some words of a message.
fn named<'a>(message: &'a str, words: &str) -> Option<&'a str> {
    let (_, after) = message.split_once(words)?;
    let after = after.trim_start_matches([' ', '"', '\'']);
    let name = after.split(['"', '\'', ',', ' ']).next()?;
    Some(name.trim_end_matches(':')).filter(|name| !name.is_empty())
}

/// Adds what would mend it that the API server refuses pods, by the words in which it does.
pub fn refused(answer: Answer, message: &str) -> Answer {
    let of = |words: &str| named(message, words);
    let change = if let Some(quota) = of("exceeded quota: ") {
        format!("raise resourcequota {quota}, or ask for less")
    } else if let Some(quota) = of("failed quota: ") {
        format!("say in the pod template what resourcequota {quota} counts")
    } else if let Some(hook) = of("failed calling webhook ") {
        format!(
            "mend what answers for admission webhook {hook}, or let its failurePolicy be Ignore"
        )
    } else if let Some(hook) = of("admission webhook ") {
        format!("mend what admission webhook {hook} objects to")
    } else if let Some(policy) = of("ValidatingAdmissionPolicy ") {
        format!("mend what policy {policy} objects to")
    } else if let Some(account) = of("serviceaccount ") {
        format!("create serviceaccount {account}")
    } else if let Some(class) = of("no PriorityClass with name ") {
        format!("create priorityclass {class}")
    } else if message.contains("violates PodSecurity") {
        "mend the pod template, or lower the namespace's pod-security.kubernetes.io/enforce"
            .to_owned()
    } else if message.contains(" usage per ") {
        "keep to the namespace's limitrange, or change that".to_owned()
    } else {
        return answer;
    };
    answer.change(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refuses_is_read_from_the_words() {
        for (message, change) in [
            (
                "pods \"w-1\" is forbidden: exceeded quota: team, requested: cpu=1, used: cpu=3, limited: cpu=3",
                "raise resourcequota team, or ask for less",
            ),
            (
                "pods \"w-1\" is forbidden: failed quota: team: must specify limits.cpu for: c",
                "say in the pod template what resourcequota team counts",
            ),
            (
                "admission webhook \"check.example.com\" denied the request: no",
                "mend what admission webhook check.example.com objects to",
            ),
            (
                "Internal error occurred: failed calling webhook \"check.example.com\": failed to call webhook: Post",
                "mend what answers for admission webhook check.example.com, or let its failurePolicy be Ignore",
            ),
            (
                "pods \"w-1\" is forbidden: error looking up service account d/robot: serviceaccount \"robot\" not found",
                "create serviceaccount robot",
            ),
            (
                "pods \"w-1\" is forbidden: no PriorityClass with name urgent was found",
                "create priorityclass urgent",
            ),
        ] {
            let answer = refused(Answer::of("w", "refused"), message);
            assert_eq!(answer.change.as_deref(), Some(change), "{message}");
        }
        let other = refused(Answer::of("w", "refused"), "the moon is full");
        assert_eq!(other.change, None);
    }
}
