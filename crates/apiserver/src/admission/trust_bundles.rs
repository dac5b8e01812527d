//! ClusterTrustBundleAttest: who publishes trust anchors for a signer must be allowed to speak for
//! it.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;

use super::certificates::may;
use super::escalation::only_collector_fields;
use super::{Admit, Operation, Review, text};
use crate::state::State;

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
