//! Secrets with a certificate and its key: a warning where one is not of the other, which no server
//! could use. That both are there at all, the kind's own rules look at.

use api::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{Admit, Operation, Review, text};
use crate::state::State;

pub struct TlsSecrets;

impl Admit for TlsSecrets {
    fn name(&self) -> &'static str {
        "TlsSecrets"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && subresource.is_empty()
            && row.group.is_empty()
            && &*row.resource == "secrets"
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let problem = review.object.as_deref().and_then(problem);
        review.warnings.extend(problem.map(str::to_owned));
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What is wrong with the pair of a secret.
fn problem(secret: &Value) -> Option<&'static str> {
    if text(secret, "/type") != "kubernetes.io/tls" {
        return None;
    }
    let plain = |key: &str| {
        let bytes = STANDARD.decode(text(secret, key)).ok()?;
        String::from_utf8(bytes).ok()
    };
    let (certificate, key) = (plain("/data/tls.crt")?, plain("/data/tls.key")?);
    wire::pki::pair_problem(&certificate, &key)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wire::pki::{Ca, Subject};

    use super::*;

    #[test]
    fn a_certificate_and_its_key_belong_together() {
        let ca = Ca::generate("ca", 0).expect("an authority");
        let issue = || ca.issue(&Subject::client("u", &[]), 0, 1).expect("a pair");
        let (one, other) = (issue(), issue());
        let of = |kind: &str, certificate: &str, key: &str| {
            problem(&json!({ "type": kind, "data": {
                "tls.crt": STANDARD.encode(certificate), "tls.key": STANDARD.encode(key) } }))
        };
        let tls = "kubernetes.io/tls";
        assert_eq!(of(tls, &one.cert_pem, &one.key_pem), None);
        assert_eq!(
            of(tls, &one.cert_pem, &other.key_pem),
            Some("tls: private key does not match public key")
        );
        assert_eq!(of("Opaque", &one.cert_pem, &other.key_pem), None);
        assert_eq!(of(tls, "none", "none"), None);
    }
}
