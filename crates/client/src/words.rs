//! Errors of the API as they are passed on to people.

/// What the server said, without our own words around it; our own where it has said nothing.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether something was refused because its namespace ends: nothing can be made in it any more, and the
/// next one of its name is another.
pub fn namespace_ends(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let mut causes = status.details.iter().flat_map(|d| &d.causes);
    causes.any(|c| c.reason == "NamespaceTerminating")
}
