//! Certificate requests: they carry the user that made them; approving and signing need a
//! permission for the signer; nobody becomes a master through one.

use access::{Attributes, UserInfo};
use api::{FieldError, FieldPath, GroupKind, Status};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::{Value, json};

use super::{Admit, Operation, Review, text};
use crate::filters::authn::MASTERS;
use crate::filters::authz;
use crate::state::State;

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

fn is_requests(row: &Row) -> bool {
    &*row.group == GROUP && &*row.resource == REQUESTS
}

/// The names in the request of a CertificateSigningRequest.
pub(super) fn names(object: &Value) -> Result<wire::pki::Names, String> {
    let pem = STANDARD
        .decode(text(object, "/spec/request"))
        .map_err(|e| e.to_string())?;
    let pem = String::from_utf8(pem).map_err(|e| e.to_string())?;
    wire::pki::request_names(&pem).map_err(|e| e.to_string())
}

/// Writes the creator into a new request; what the client wrote there does not count. And refuses one
/// that is not signed by the key that it asks for, which is more than a kind's own rules can see.
pub struct Requester;

impl Admit for Requester {
    fn name(&self) -> &'static str {
        "CertificateRequester"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && is_requests(row)
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if let Some(request) = review.object.as_deref_mut() {
            sign_in(request, review.user);
        }
        Box::pin(std::future::ready(Ok(())))
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let done = review.object.as_deref().map_or(Ok(()), |request| {
            signed(request).map_err(|wrong| {
                let kind = GroupKind::new(&review.row.group, &review.row.kind);
                Status::invalid(&kind, review.name, &[wrong])
            })
        });
        Box::pin(std::future::ready(done))
    }
}

/// Whether the key that a request holds has signed it.
fn signed(object: &Value) -> Result<(), FieldError> {
    let request = text(object, "/spec/request");
    // That it is a request at all, the kind's own rules have said.
    let pem = STANDARD.decode(request).unwrap_or_default();
    let checked = wire::pki::check_request_signature(&String::from_utf8_lossy(&pem));
    checked.map_err(|why| {
        let path = FieldPath::new("spec").child("request");
        FieldError::invalid_str(&path, request, &why)
    })
}

fn sign_in(request: &mut Value, user: &UserInfo) {
    let Some(spec) = request.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    spec.insert("username".into(), user.name.as_str().into());
    if !user.uid.is_empty() {
        spec.insert("uid".into(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        spec.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".into(), json!(user.extra));
    }
}

/// Whether a user may use a signer: by its name, or by all names of its domain.
pub(super) async fn may(state: &State, user: &UserInfo, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    let all = format!("{domain}/*");
    for name in [signer, &all] {
        let asked = Attributes {
            verb,
            is_resource: true,
            group: GROUP,
            version: "*",
            resource: "signers",
            name,
            ..Attributes::default()
        };
        if authz::decide(state, user, &asked).await.is_allowed() {
            return true;
        }
    }
    false
}

/// The signer that the stored request names: a write cannot choose another to be judged by.
fn signer(review: &Review<'_>) -> String {
    review
        .old
        .map_or("", |o| text(o, "/spec/signerName"))
        .to_owned()
}

pub struct CertificateApproval;

impl Admit for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Update && subresource == "approval" && is_requests(row)
    }
    fn validate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let signer = signer(review);
            if may(state, review.user, "approve", &signer).await {
                return Ok(());
            }
            Err(review.forbidden(&format!(
                "user not permitted to approve requests with signerName {signer:?}"
            )))
        })
    }
}

pub struct CertificateSigning;

impl Admit for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Update && subresource == "status" && is_requests(row)
    }
    fn validate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let same = |field: &str| {
                let part = |v: Option<&Value>| v.and_then(|v| v.pointer(field)).cloned();
                part(review.object.as_deref()) == part(review.old)
            };
            let signer = signer(review);
            if same("/status/certificate") && same("/status/conditions")
                || may(state, review.user, "sign", &signer).await
            {
                return Ok(());
            }
            Err(review.forbidden(&format!(
                "user not permitted to sign requests with signerName {signer:?}"
            )))
        })
    }
}

pub struct CertificateSubjectRestriction;

impl Admit for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Create && subresource.is_empty() && is_requests(row)
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let refuse = |why: String| Err(review.forbidden(&why));
        let done = match review.object.as_deref() {
            Some(o) if text(o, "/spec/signerName") == CLIENT_SIGNER => match names(o) {
                Err(e) => refuse(format!("failed to parse CSR: {e}")),
                Ok(n) if n.organizations.iter().any(|g| g == MASTERS) => refuse(format!(
                    "use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"
                )),
                Ok(_) => Ok(()),
            },
            _ => Ok(()),
        };
        Box::pin(std::future::ready(done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_signed_by_its_own_key() {
        let subject = wire::pki::Subject::client("jane", &[]);
        let (good, _) = wire::pki::make_request(&subject).expect("request");
        let of = |pem: &str| json!({ "spec": { "request": STANDARD.encode(pem) } });
        assert_eq!(signed(&of(&good)), Ok(()));
        // The last letters are of the signature.
        let end = good.rfind("-----END").expect("an end");
        let (head, tail) = good.split_at(end);
        let mut letters: Vec<char> = head.trim_end().chars().collect();
        let at = letters.len() - 8;
        letters[at] = if letters[at] == 'A' { 'B' } else { 'A' };
        let forged = format!("{}\n{tail}", letters.into_iter().collect::<String>());
        let wrong = signed(&of(&forged)).expect_err("another signature");
        assert_eq!(wrong.field.as_str(), "spec.request");
        assert_eq!(wrong.cause().reason, "FieldValueInvalid");
        assert!(signed(&of("")).is_err());
    }

    #[test]
    fn a_request_carries_its_creator() {
        let mut request =
            json!({ "spec": { "username": "root", "uid": "0", "signerName": "a/b" } });
        sign_in(&mut request, &UserInfo::new("u", &["g"]));
        assert_eq!(
            request["spec"],
            json!({ "username": "u", "groups": ["g"], "signerName": "a/b" })
        );
    }
}
