//! ClusterTrustBundleAttest: who publishes trust anchors for a signer must be allowed to speak for
//! it. And what is published must be certificates of authorities.

use api::{FieldError, FieldPath, GroupKind, Status};
use futures::future::BoxFuture;
use registry::Row;

use super::certificates::may;
use super::escalation::only_collector_fields;
use super::{Admit, Operation, Review, text};
use crate::state::State;

/// Looks into the bundle, which is more than a kind's own rules can.
pub struct TrustAnchors;

impl Admit for TrustAnchors {
    fn name(&self) -> &'static str {
        "TrustAnchors"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        ClusterTrustBundleAttest.handles(operation, row, subresource)
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(anchors(review)))
    }
}

fn anchors(review: &Review<'_>) -> Result<(), Status> {
    const PLACE: &str = "/spec/trustBundle";
    let Some(bundle) = review.object.as_deref().map(|o| text(o, PLACE)) else {
        return Ok(());
    };
    // One that was good once stays so.
    if review.old.is_some_and(|old| text(old, PLACE) == bundle) {
        return Ok(());
    }
    wire::pod_keys::check_anchors(bundle).map_err(|why| {
        let path = FieldPath::new("spec").child("trustBundle");
        let wrong = FieldError::invalid_str(&path, "<value omitted>", &why);
        let kind = GroupKind::new(&review.row.group, &review.row.kind);
        Status::invalid(&kind, review.name, &[wrong])
    })
}

pub struct ClusterTrustBundleAttest;

impl Admit for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && subresource.is_empty()
            && &*row.group == "certificates.k8s.io"
            && &*row.resource == "clustertrustbundles"
    }
    fn validate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(bundle) = review.object.as_deref() else {
                return Ok(());
            };
            let signer = text(bundle, "/spec/signerName");
            let same = review
                .old
                .is_some_and(|old| only_collector_fields(bundle, old));
            if signer.is_empty() || same || may(state, review.user, "attest", signer).await {
                return Ok(());
            }
            Err(review.forbidden(&format!(
                "user not permitted to attest for signerName {signer:?}"
            )))
        })
    }
}
