//! Writes into the status of a ResourceClaim: who may write it at all may not yet say which devices a
//! claim has, nor speak for any driver. Each of these takes a permission of its own, on a subresource
//! that is there for nothing else: `resourceclaims/binding` and `resourceclaims/driver`.

use std::collections::{BTreeMap, BTreeSet};

use access::attributes::NODE_NAME;
use access::{Attributes, UserInfo};
use api::{FieldError, FieldPath, GroupKind, Status};
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{Admit, Operation, Review, list, text};
use crate::filters::authz;
use crate::state::State;

const GROUP: &str = "resource.k8s.io";
const CLAIMS: &str = "resourceclaims";
/// Before a verb: for drivers that run on the node of the claim's devices.
const ASSOCIATED: &str = "associated-node:";
/// … and for all others.
const ARBITRARY: &str = "arbitrary-node:";

pub struct ClaimStatus;

impl Admit for ClaimStatus {
    fn name(&self) -> &'static str {
        "ResourceClaimStatus"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        operation == Operation::Update
            && subresource == "status"
            && &*row.group == GROUP
            && &*row.resource == CLAIMS
    }
    fn validate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let (Some(new), Some(old)) = (review.object.as_deref(), review.old) else {
                return Ok(());
            };
            if !state.has_feature("DRAResourceClaimGranularStatusAuthorization") {
                return Ok(());
            }
            let mut wrong = Vec::new();
            if changes_binding(new, old) {
                wrong.extend(binding(state, review).await.err());
            }
            // With the allocation go the words of its drivers, whoever takes it.
            let devices = new.pointer("/status/allocation").filter(|a| !a.is_null());
            if devices.is_some() {
                let verbs = verbs(review.user, review.verb, new);
                for driver in changed_drivers(new, old) {
                    wrong.extend(speaks_for(state, review, &verbs, driver).await.err());
                }
            }
            if wrong.is_empty() {
                return Ok(());
            }
            let kind = GroupKind::new(&review.row.group, &review.row.kind);
            Err(Status::invalid(&kind, review.name, &wrong))
        })
    }
}

/// A member of the status; what is empty is as good as absent.
fn member<'a>(claim: &'a Value, field: &str) -> Option<&'a Value> {
    let found = claim.get("status")?.get(field)?;
    let is_empty = found.is_null() || found.as_array().is_some_and(Vec::is_empty);
    (!is_empty).then_some(found)
}

fn changes_binding(new: &Value, old: &Value) -> bool {
    let fields = ["allocation", "reservedFor"];
    fields.iter().any(|f| member(new, f) != member(old, f))
}

/// The drivers of which something was said, changed or taken away.
fn changed_drivers<'a>(new: &'a Value, old: &'a Value) -> BTreeSet<&'a str> {
    fn devices(claim: &Value) -> BTreeMap<[&str; 4], &Value> {
        let all = list(claim, "/status/devices").iter();
        let id = ["/driver", "/pool", "/device", "/shareID"];
        all.map(|d| (id.map(|part| text(d, part)), d)).collect()
    }
    let (now, before) = (devices(new), devices(old));
    let changed = now.iter().filter(|(id, d)| before.get(*id) != Some(*d));
    let gone = before.keys().filter(|id| !now.contains_key(*id));
    changed
        .map(|(id, _)| id)
        .chain(gone)
        .map(|id| id[0])
        .collect()
}

/// The node that an allocation is for, where it is for a single one.
fn node_of(claim: &Value) -> Option<&str> {
    let [term] = list(claim, "/status/allocation/nodeSelector/nodeSelectorTerms") else {
        return None;
    };
    let ([], [field]) = (list(term, "/matchExpressions"), list(term, "/matchFields")) else {
        return None;
    };
    let is_name = text(field, "/key") == "metadata.name" && text(field, "/operator") == "In";
    match list(field, "/values") {
        [name] if is_name => name.as_str().filter(|n| !n.is_empty()),
        _ => None,
    }
}

/// Each of these will do.
fn verbs(user: &UserInfo, verb: &str, claim: &Value) -> Vec<String> {
    let arbitrary = format!("{ARBITRARY}{verb}");
    // As the token says it of the pod that it was issued to.
    let own = match user.extra.get(NODE_NAME).map(Vec::as_slice) {
        Some([own]) => Some(own.as_str()),
        _ => None,
    };
    let is_account = user.service_account().is_some();
    if is_account && own.is_some() && own == node_of(claim) {
        return vec![format!("{ASSOCIATED}{verb}"), arbitrary];
    }
    vec![arbitrary]
}

fn attributes<'a>(review: &'a Review<'_>, subresource: &'a str) -> Attributes<'a> {
    Attributes {
        verb: review.verb,
        is_resource: true,
        group: GROUP,
        version: review.version,
        resource: CLAIMS,
        subresource,
        ..Attributes::default()
    }
}

/// Whether the user may say what a claim gets: in all namespaces or in none.
async fn binding(state: &State, review: &Review<'_>) -> Result<(), FieldError> {
    let asked = attributes(review, "binding");
    let allowed = authz::authorize(state, review.user, &asked).await;
    allowed.map_err(|refused| {
        let why = format!(
            "changing status.allocation or status.reservedFor requires \
             resource=\"resourceclaims/binding\", verb=\"{}\" permission: {}",
            review.verb, refused.message
        );
        FieldError::forbidden(&FieldPath::new("status").child("allocation"), &why)
    })
}

/// Whether the user may speak for a driver.
async fn speaks_for(
    state: &State,
    review: &Review<'_>,
    verbs: &[String],
    driver: &str,
) -> Result<(), FieldError> {
    let mut first = None;
    for verb in verbs {
        let asked = Attributes {
            verb: verb.as_str(),
            namespace: review.namespace,
            name: driver,
            ..attributes(review, "driver")
        };
        match authz::authorize(state, review.user, &asked).await {
            Ok(()) => return Ok(()),
            Err(refused) => {
                first.get_or_insert(refused.message);
            }
        }
    }
    let why = format!(
        "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" \
         permission: {}",
        verbs.join(" "),
        first.unwrap_or_default()
    );
    let path = FieldPath::new("status").child("devices");
    Err(FieldError::forbidden(&path, &why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claim(devices: Value) -> Value {
        json!({ "status": { "devices": devices } })
    }

    fn device(driver: &str, name: &str, data: u8) -> Value {
        json!({ "driver": driver, "pool": "p", "device": name, "data": { "n": data } })
    }

    #[test]
    fn drivers_are_those_of_which_something_else_is_said() {
        let old = claim(json!([
            device("a", "0", 1),
            device("b", "0", 1),
            device("c", "0", 1)
        ]));
        let new = claim(json!([
            device("c", "0", 1),
            device("a", "0", 2),
            device("d", "0", 1)
        ]));
        let all: Vec<&str> = changed_drivers(&new, &old).into_iter().collect();
        assert_eq!(all, ["a", "b", "d"]);
        assert!(changed_drivers(&old, &old).is_empty());
    }

    #[test]
    fn an_empty_list_changes_nothing() {
        let old = json!({ "status": { "reservedFor": [] } });
        assert!(!changes_binding(&json!({}), &old));
        let reserved = json!({ "status": { "reservedFor": [{ "name": "p" }] } });
        assert!(changes_binding(&reserved, &old));
        let allocated = json!({ "status": { "allocation": {} } });
        assert!(changes_binding(&allocated, &old));
    }

    #[test]
    fn a_driver_on_the_claims_node_has_a_second_verb() {
        let name =
            |values: &[&str]| json!({ "key": "metadata.name", "operator": "In", "values": values });
        let on = |terms: Value| json!({ "status": { "allocation": { "nodeSelector": { "nodeSelectorTerms": terms } } } });
        let one = on(json!([{ "matchFields": [name(&["n"])] }]));
        let mut driver = UserInfo::of_service_account("default", "driver", "");
        let both = ["associated-node:patch", "arbitrary-node:patch"];
        assert_eq!(verbs(&driver, "patch", &one), both[1..]);
        driver
            .extra
            .insert(NODE_NAME.to_owned(), vec!["n".to_owned()]);
        assert_eq!(verbs(&driver, "patch", &one), both);
        for other in [
            json!([{ "matchFields": [name(&["m"])] }]),
            json!([{ "matchFields": [name(&["n", "m"])] }]),
            json!([{ "matchFields": [name(&["n"])] }, { "matchFields": [name(&["n"])] }]),
            json!([{ "matchFields": [name(&["n"])], "matchExpressions": [name(&["n"])] }]),
        ] {
            assert_eq!(verbs(&driver, "patch", &on(other)), both[1..]);
        }
        driver.name = "n".to_owned();
        assert_eq!(verbs(&driver, "patch", &one), both[1..]);
    }
}
