//! DenyServiceExternalIPs: no Service takes traffic for an address that is not its own
//! (CVE-2020-8554); those that have one keep it.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;

use super::{Admit, Operation, Review, list};
use crate::state::State;

pub struct DenyServiceExternalIPs;

impl Admit for DenyServiceExternalIPs {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && subresource.is_empty()
            && row.group.is_empty()
            && &*row.resource == "services"
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let of = |service| list(service, "/spec/externalIPs");
        let new = review.object.as_deref().map_or(&[][..], of);
        let old = review.old.map_or(&[][..], of);
        let done = if new.iter().all(|ip| old.contains(ip)) {
            Ok(())
        } else {
            Err(review.forbidden("Use of external IPs is denied by admission control"))
        };
        Box::pin(std::future::ready(done))
    }
}
