//! Errors of the API as they are passed on to people.

/// What the server said, without our own words around it; our own where it has said nothing.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
