//! Which ResourceClaims a pod and its containers use. Pure.

use super::prepared_claims::Claim;
use crate::pod::spec;
use k8s_openapi::api::core::v1::{Container, Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::ResourceClaim;

/// A claim that a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Used {
    /// Its name in the API.
    pub claim: String,
    /// It was made for the pod, and must be the pod's.
    pub own: bool,
}

/// All claims of a pod. An error: one is not made yet.
pub(super) fn of_pod(pod: &Pod) -> Result<Vec<Used>, String> {
    let mut out = Vec::new();
    for named in spec::of(pod).resource_claims.iter().flatten() {
        out.extend(of_name(pod, named)?);
    }
    // The one that the scheduler made for extended resources.
    let extended = pod.status.as_ref();
    let extended = extended.and_then(|s| s.extended_resource_claim_status.as_ref());
    out.extend(extended.map(|e| Used {
        claim: e.resource_claim_name.clone(),
        own: false,
    }));
    Ok(out)
}

/// The claim that a name in the pod's specification stands for; none where none is needed.
fn of_name(pod: &Pod, named: &PodResourceClaim) -> Result<Option<Used>, String> {
    let whole = || format!("{}/{}", spec::namespace(pod), spec::name(pod));
    if let Some(claim) = &named.resource_claim_name {
        let claim = claim.clone();
        return Ok(Some(Used { claim, own: false }));
    }
    if named.resource_claim_template_name.is_none() {
        return Err(format!(
            "pod {:?}, spec.resourceClaim {:?}: none of the supported fields are set",
            whole(),
            named.name
        ));
    }
    let statuses = pod.status.as_ref();
    let mut statuses = statuses
        .into_iter()
        .flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let made = statuses.find(|s| s.name == named.name);
    let made = made.ok_or_else(|| format!("pod {:?}: ResourceClaim not created yet", whole()))?;
    let claim = made.resource_claim_name.clone();
    Ok(claim.map(|claim| Used { claim, own: true }))
}

/// A claim that a container uses, by its name in the pod's specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OfContainer {
    /// Its name in the pod; none for that of extended resources.
    pub name: Option<String>,
    /// Its name in the API.
    pub claim: String,
    /// The request of the claim that is meant; empty for all.
    pub request: String,
}

/// What a container uses of its pod's claims.
pub(super) fn of_container(pod: &Pod, container: &Container) -> Result<Vec<OfContainer>, String> {
    let mut out = Vec::new();
    let wanted = container.resources.iter();
    for wanted in wanted.flat_map(|r| r.claims.iter().flatten()) {
        let mut all = spec::of(pod).resource_claims.iter().flatten();
        let Some(named) = all.find(|c| c.name == wanted.name) else {
            continue;
        };
        let Some(used) = of_name(pod, named)? else {
            continue;
        };
        out.push(OfContainer {
            name: Some(wanted.name.clone()),
            claim: used.claim,
            request: wanted.request.clone().unwrap_or_default(),
        });
    }
    let status = pod.status.as_ref();
    if let Some(extended) = status.and_then(|s| s.extended_resource_claim_status.as_ref()) {
        let asked = container.resources.as_ref();
        let asked = asked.and_then(|r| r.requests.as_ref().or(r.limits.as_ref()));
        let mappings = extended.request_mappings.iter();
        let own = mappings.filter(|m| {
            m.container_name == container.name
                && asked.is_some_and(|a| a.contains_key(&m.resource_name))
        });
        out.extend(own.map(|m| OfContainer {
            name: None,
            claim: extended.resource_claim_name.clone(),
            request: m.request_name.clone(),
        }));
    }
    Ok(out)
}

/// Whether the pod may have the claim prepared on this node; what is to be noted of it.
pub(super) fn check(pod: &Pod, used: &Used, claim: &ResourceClaim) -> Result<Claim, String> {
    let meta = &claim.metadata;
    let (namespace, name) = (spec::namespace(pod), spec::name(pod));
    let (uid, pod_uid) = (meta.uid.clone().unwrap_or_default(), spec::uid(pod));
    if used.own {
        let mut owners = meta.owner_references.iter().flatten();
        if !owners.any(|o| o.controller == Some(true) && o.uid == pod_uid) {
            return Err(format!(
                "ResourceClaim {namespace}/{} was not created for Pod {namespace}/{name} (Pod is not owner)",
                used.claim
            ));
        }
    }
    let status = claim.status.clone().unwrap_or_default();
    let mut reserved = status.reserved_for.iter().flatten();
    if !reserved.any(|r| r.uid == pod_uid) {
        return Err(format!(
            "pod {name} ({pod_uid}) is not allowed to use ResourceClaim {} ({uid})",
            used.claim
        ));
    }
    let allocation = status
        .allocation
        .ok_or_else(|| format!("ResourceClaim {}: not allocated", used.claim))?;
    let results = allocation.devices.and_then(|d| d.results);
    let drivers = results.unwrap_or_default().into_iter();
    Ok(Claim {
        uid,
        name: used.claim.clone(),
        namespace: namespace.to_owned(),
        drivers: drivers.map(|r| (r.driver, Vec::new())).collect(),
        ..Claim::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {
                "resourceClaims": [
                    {"name": "shared", "resourceClaimName": "c"},
                    {"name": "own", "resourceClaimTemplateName": "t"}],
                "containers": [{"name": "a", "resources": {
                    "requests": {"x.io/d": "1"},
                    "claims": [{"name": "shared", "request": "r"}, {"name": "own"}]}}]},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn names_stand_for_claims_once_they_are_made() {
        assert!(
            of_pod(&pod(json!({})))
                .unwrap_err()
                .ends_with("not created yet")
        );
        let unneeded = pod(json!({"resourceClaimStatuses": [{"name": "own"}]}));
        assert_eq!(of_pod(&unneeded).unwrap().len(), 1);
        let made = pod(json!({
            "resourceClaimStatuses": [{"name": "own", "resourceClaimName": "p-own-1"}],
            "extendedResourceClaimStatus": {"resourceClaimName": "e", "requestMappings": [
                {"containerName": "a", "resourceName": "x.io/d", "requestName": "q"},
                {"containerName": "b", "resourceName": "x.io/d", "requestName": "z"}]}}));
        let used = of_pod(&made).unwrap();
        let used: Vec<_> = used.iter().map(|u| (u.claim.as_str(), u.own)).collect();
        assert_eq!(used, [("c", false), ("p-own-1", true), ("e", false)]);
        let of_a = of_container(&made, &spec::containers(&made)[0]).unwrap();
        let of_a: Vec<_> = of_a
            .iter()
            .map(|u| (u.claim.as_str(), u.request.as_str()))
            .collect();
        assert_eq!(of_a, [("c", "r"), ("p-own-1", ""), ("e", "q")]);
    }

    #[test]
    fn only_a_pod_that_the_claim_is_for_gets_it() {
        let p = pod(json!({}));
        let used = |own| Used {
            claim: "c".into(),
            own,
        };
        let claim = |owner: &str, reserved: &str, allocated: bool| -> ResourceClaim {
            let results = json!({"devices": {"results": [
                {"driver": "d.io", "pool": "n", "device": "x", "request": "r"}]}});
            serde_json::from_value(json!({
                "metadata": {"name": "c", "uid": "cu", "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]},
                "spec": {},
                "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": reserved}],
                    "allocation": allocated.then_some(results)},
            }))
            .unwrap()
        };
        let good = check(&p, &used(true), &claim("u", "u", true)).unwrap();
        assert!(good.uid == "cu" && good.drivers.contains_key("d.io"));
        let why = |own, c: &ResourceClaim| check(&p, &used(own), c).unwrap_err();
        assert!(why(true, &claim("x", "u", true)).ends_with("(Pod is not owner)"));
        assert!(check(&p, &used(false), &claim("x", "u", true)).is_ok());
        assert!(why(false, &claim("u", "x", true)).contains("is not allowed to use"));
        assert_eq!(
            why(false, &claim("u", "u", false)),
            "ResourceClaim c: not allocated"
        );
    }
}
