//! What a pod asks for beside the amounts of its containers: claims of devices, and amounts for all of
//! its containers together.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath};
use serde_json::Value;

use super::defaults::container_sums;
use crate::check::{Errors, at, dns_label, dns_subdomain, has, invalid, items, text};
use crate::strategies::quantity::{self, parse, show};

/// Names that an error lists: each error has all of them, and there may be many errors.
const MOST_NAMED: usize = 8;

/// The claims of a pod, and those that its containers use of them.
pub fn claims(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let mut names = BTreeSet::new();
    for (i, claim) in items(spec, "resourceClaims").iter().enumerate() {
        let path = path.child("resourceClaims").index(i);
        let name = text(claim, "name");
        match name {
            "" => errs.push(FieldError::required(&path.child("name"), "")),
            name if !names.insert(name) => {
                let path = path.child("name");
                errs.push(FieldError::duplicate(&path, &name.into()));
            }
            name => dns_label(errs, &path.child("name"), name),
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        let why = match sources.map(|field| has(claim, field)) {
            [true, true] => {
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            }
            [false, false] => {
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            }
            _ => "",
        };
        if !why.is_empty() {
            invalid(errs, &path, claim, why);
        }
        for field in sources.into_iter().filter(|field| has(claim, field)) {
            dns_subdomain(errs, &path.child(field), text(claim, field));
        }
    }
    for list in ["containers", "initContainers"] {
        for (i, c) in items(spec, list).iter().enumerate() {
            let path = path.child(list).index(i).child("resources").child("claims");
            used(errs, &path, items(at(c, "resources"), "claims"), &names);
        }
    }
}

/// The claims that a container uses: of each all, or some of its requests.
fn used(errs: &mut Errors, path: &FieldPath, claims: &[Value], known: &BTreeSet<&str>) {
    let (mut whole, mut partly) = (BTreeSet::new(), BTreeSet::new());
    let mut requests = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let path = path.index(i);
        let (name, request) = (text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            errs.push(FieldError::required(&path, ""));
            continue;
        }
        let twice = if whole.contains(name) {
            Some(name.to_owned())
        } else if request.is_empty() {
            whole.insert(name);
            partly.contains(name).then(|| name.to_owned())
        } else {
            dns_label(errs, &path.child("request"), request);
            partly.insert(name);
            let again = !requests.insert((name, request));
            again.then(|| format!("{name}/{request}"))
        };
        if let Some(shown) = twice {
            errs.push(FieldError::duplicate(&path, &shown.into()));
        }
        if !known.contains(name) {
            let mut e = FieldError::not_found(&path, &name.into());
            e.detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            if known.is_empty() {
                e.detail.push_str(" which is empty");
            } else if known.len() <= MOST_NAMED {
                let all: Vec<&str> = known.iter().copied().collect();
                e.detail.push_str(&format!(": {}", all.join(", ")));
            }
            errs.push(e);
        }
    }
}

/// The amounts of a pod as a whole: not less than its containers have together.
pub fn whole(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let (resources, path) = (at(spec, "resources"), path.child("resources"));
    if resources.is_null() {
        return;
    }
    if text(at(spec, "os"), "name") == "windows" {
        let why = "may not be set for a windows pod";
        errs.push(FieldError::forbidden(&path, why));
        return;
    }
    if has(resources, "claims") {
        let why = "claims may not be set for Resources at pod-level";
        errs.push(FieldError::forbidden(&path.child("claims"), why));
    }
    quantity::requirements(errs, &path, resources);
    for side in ["limits", "requests"] {
        for name in at(resources, side)
            .as_object()
            .into_iter()
            .flat_map(|o| o.keys())
        {
            let known = ["cpu", "memory"].contains(&name.as_str());
            if !known && !name.starts_with("hugepages-") {
                let path = path.child(side).key(name);
                let names = ["cpu", "hugepages-", "memory"];
                errs.push(FieldError::not_supported(&path, name, &names));
            }
        }
    }
    for side in ["requests", "limits"] {
        for (name, sum) in container_sums(spec, side) {
            // Only pages must be there for all; a limit of other things is one of each container.
            let counts = side == "requests" || name.starts_with("hugepages-");
            let given = at(at(resources, side), &name);
            if counts && parse(given).is_some_and(|given| sum > given) {
                let why =
                    format!("must be greater than or equal to aggregate container {side} of {sum}");
                let path = path.child(side).key(&name);
                errs.push(FieldError::invalid_str(&path, &show(given), &why));
            }
        }
    }
    let limits = at(resources, "limits");
    for (i, c) in items(spec, "containers").iter().enumerate() {
        let own = at(at(c, "resources"), "limits").as_object();
        for (name, limit) in own.into_iter().flatten() {
            let most = at(limits, name);
            let over = parse(limit).zip(parse(most)).is_some_and(|(l, m)| l > m);
            if over {
                let why = format!("must be less than or equal to pod limits of {}", show(most));
                let path = path.child("containers").index(i).key(name).child("limits");
                errs.push(FieldError::invalid_str(&path, &show(limit), &why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(check: fn(&mut Errors, &FieldPath, &Value), spec: &Value) -> Vec<String> {
        let mut errs = Errors::new();
        check(&mut errs, &FieldPath::new("spec"), spec);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn claims_have_one_source_and_containers_use_what_the_pod_has() {
        let good = json!([{ "name": "a", "resourceClaimName": "x" }, { "name": "b", "resourceClaimTemplateName": "y" }]);
        let using = |claims: Value| json!({ "resourceClaims": good, "containers": [{ "name": "c", "resources": { "claims": claims } }] });
        let at = "spec.containers[0].resources.claims";
        for (spec, want) in [
            (using(json!([{ "name": "a" }, { "name": "b", "request": "r" }, { "name": "b", "request": "s" }])), vec![]),
            (
                using(json!([{ "name": "c" }])),
                vec![format!("{at}[0]: Not found: \"c\": must be one of the names in pod.spec.resourceClaims: a, b")],
            ),
            (
                using(json!([{ "name": "a" }, { "name": "a", "request": "r" }])),
                vec![format!("{at}[1]: Duplicate value: \"a\"")],
            ),
            (
                using(json!([{ "name": "a", "request": "r" }, { "name": "a" }])),
                vec![format!("{at}[1]: Duplicate value: \"a\"")],
            ),
            (
                using(json!([{ "name": "a", "request": "r" }, { "name": "a", "request": "r" }])),
                vec![format!("{at}[1]: Duplicate value: \"a/r\"")],
            ),
            (using(json!([{ "name": "" }])), vec![format!("{at}[0]: Required value")]),
            (
                json!({ "containers": [{ "resources": { "claims": [{ "name": "a" }] } }] }),
                vec![format!("{at}[0]: Not found: \"a\": must be one of the names in pod.spec.resourceClaims which is empty")],
            ),
            (
                json!({ "resourceClaims": [{ "name": "a" }] }),
                vec!["spec.resourceClaims[0]: Invalid value: {\"name\":\"a\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`".to_owned()],
            ),
            (
                json!({ "resourceClaims": [{ "name": "a", "resourceClaimName": "x" }, { "name": "a", "resourceClaimName": "x" }] }),
                vec!["spec.resourceClaims[1].name: Duplicate value: \"a\"".to_owned()],
            ),
        ] {
            assert_eq!(wrong(claims, &spec), want, "{spec}");
        }
        let both = json!({ "resourceClaims": [{ "name": "a", "resourceClaimName": "x", "resourceClaimTemplateName": "y" }] });
        assert!(wrong(claims, &both)[0].contains("at most one of"));
        let names = wrong(
            claims,
            &json!({ "resourceClaims": [{ "name": "A", "resourceClaimName": "X" }] }),
        );
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn a_pod_has_at_least_what_its_containers_have() {
        let spec = |resources: Value| {
            json!({
                "resources": resources,
                "containers": [
                    { "resources": { "requests": { "cpu": "1" }, "limits": { "cpu": "2" } } },
                    { "resources": { "requests": { "cpu": "500m" } } },
                ],
            })
        };
        for (resources, want) in [
            (
                json!({ "requests": { "cpu": "1500m" }, "limits": { "cpu": "2" } }),
                "",
            ),
            (
                json!({ "requests": { "cpu": "1" } }),
                "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 1500m",
            ),
            (
                json!({ "limits": { "cpu": "1900m" } }),
                "spec.resources.containers[0][cpu].limits: Invalid value: \"2\": must be less than or equal to pod limits of 1900m",
            ),
            (
                json!({ "claims": [] }),
                "spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level",
            ),
            (
                json!({ "requests": { "ephemeral-storage": "1" } }),
                "spec.resources.requests[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
            ),
        ] {
            let found = wrong(whole, &spec(resources.clone()));
            let want: Vec<&str> = [want].into_iter().filter(|w| !w.is_empty()).collect();
            assert_eq!(found, want, "{resources}");
        }
        let mut windows = spec(json!({}));
        windows["os"] = json!({ "name": "windows" });
        assert_eq!(
            wrong(whole, &windows),
            ["spec.resources: Forbidden: may not be set for a windows pod"]
        );
    }
}
