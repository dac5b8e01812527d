//! The status of ValidatingAdmissionPolicies: what their expressions would get wrong of the kinds
//! that they match. Types come from what the server publishes, as any client could read it; a
//! policy is checked once for each of its generations.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Informer, Informers};
use control::action::{Action, Target};
use control::{Controller, Plan, Watches};
use http::Request;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::Client;
use policy::{Decl, MatchedKind, Warning};
use serde_json::{Value, json};

pub struct PolicyStatus {
    policies: Informer<ValidatingAdmissionPolicy>,
}

impl PolicyStatus {
    pub fn new(informers: &Informers) -> Self {
        Self {
            policies: informers.of(),
        }
    }
}

/// A policy that was not checked yet.
pub struct Observed {
    name: String,
    generation: i64,
    spec: Value,
    /// Kinds that it matches and whose types are known.
    kinds: Vec<(MatchedKind, Arc<Decl>)>,
    params: Option<Arc<Decl>>,
}

/// The paths of a version: its resources, and their types.
fn paths(group: &str, version: &str) -> (String, String) {
    let below = match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    };
    (format!("/{below}"), format!("/openapi/v3/{below}"))
}

/// A document of the server; none when it has no such.
async fn read(client: &Client, path: &str) -> Result<Option<Value>, kube::Error> {
    let request = Request::get(path)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    match client.request::<Value>(request).await {
        Ok(document) => Ok(Some(document)),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 406 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Documents that were read for one policy, by their paths.
struct Documents<'a> {
    client: &'a Client,
    known: BTreeMap<String, Option<Value>>,
}

impl Documents<'_> {
    async fn get(&mut self, path: &str) -> Result<Option<&Value>, kube::Error> {
        if !self.known.contains_key(path) {
            let document = read(self.client, path).await?;
            self.known.insert(path.to_owned(), document);
        }
        Ok(self.known.get(path).and_then(Option::as_ref))
    }

    /// The declaration of a kind, if it is published.
    async fn decl(&mut self, kind: &MatchedKind) -> Result<Option<Arc<Decl>>, kube::Error> {
        let (_, types) = paths(&kind.group, &kind.version);
        let document = self.get(&types).await?;
        Ok(document.and_then(|d| policy::declare(d, &kind.group, &kind.version, &kind.kind)))
    }
}

/// The kind of a resource in a list of a version's resources.
fn kind_in(list: &Value, group: &str, version: &str, resource: &str) -> Option<MatchedKind> {
    let all = list["resources"].as_array()?;
    let found = all.iter().find(|r| r["name"] == resource)?;
    Some(MatchedKind {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: found["kind"].as_str()?.to_owned(),
    })
}

/// The kind of a policy's parameters.
fn param_kind(spec: &Value) -> Option<MatchedKind> {
    let kind = spec.get("paramKind").filter(|k| k.is_object())?;
    let version = kind["apiVersion"].as_str()?;
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    Some(MatchedKind {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind["kind"].as_str()?.to_owned(),
    })
}

/// The status of a policy that was checked.
pub fn plan(name: &str, generation: i64, warnings: &[Warning]) -> Plan {
    let warnings: Vec<Value> = warnings
        .iter()
        .map(|w| json!({"fieldRef": w.field, "warning": w.warning}))
        .collect();
    let warnings = match warnings.is_empty() {
        true => Value::Null,
        false => warnings.into(),
    };
    let status = json!({
        "observedGeneration": generation,
        "typeChecking": {"expressionWarnings": warnings},
    });
    let target = Target::of::<ValidatingAdmissionPolicy>("", name);
    Action::merge_status(target, status).into()
}

impl Controller for PolicyStatus {
    const NAME: &'static str = "validatingadmissionpolicy-status-controller";
    const QUEUE: &'static str = "validatingadmissionpolicy-status";
    const ACCOUNT: &'static str = "validatingadmissionpolicy-status-controller";
    type Key = String;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<String>) {
        watches.on(&self.policies, |policy| {
            policy.metadata.name.iter().cloned().collect()
        });
    }

    fn observe(&self, name: &String) -> Option<Observed> {
        let policy = self.policies.get("", name)?;
        let generation = policy.metadata.generation.unwrap_or(0);
        let seen = policy.status.as_ref().and_then(|s| s.observed_generation);
        if generation <= seen.unwrap_or(0) {
            return None;
        }
        Some(Observed {
            name: name.clone(),
            generation,
            spec: serde_json::to_value(&policy.spec).ok()?,
            kinds: Vec::new(),
            params: None,
        })
    }

    async fn gather(&self, client: &Client, mut seen: Observed) -> Result<Observed, kube::Error> {
        let mut documents = Documents {
            client,
            known: BTreeMap::new(),
        };
        // First which versions are asked about, then what these are.
        let mut versions = Vec::new();
        policy::wanted(&seen.spec, |group, version, _| {
            versions.push((group.to_owned(), version.to_owned()));
            None
        });
        versions.sort();
        versions.dedup();
        let mut lists = BTreeMap::new();
        for (group, version) in versions {
            let (resources, _) = paths(&group, &version);
            if let Some(list) = documents.get(&resources).await? {
                lists.insert((group, version), list.clone());
            }
        }
        let kinds = policy::wanted(&seen.spec, |group, version, resource| {
            let list = lists.get(&(group.to_owned(), version.to_owned()))?;
            kind_in(list, group, version, resource)
        });
        for kind in kinds {
            if let Some(decl) = documents.decl(&kind).await? {
                seen.kinds.push((kind, decl));
            }
        }
        if let Some(kind) = param_kind(&seen.spec) {
            seen.params = documents.decl(&kind).await?;
        }
        Ok(seen)
    }

    fn plan(&self, seen: &Observed, _now_millis: i64) -> Plan {
        let warnings = policy::check(&seen.spec, &seen.kinds, seen.params.as_ref());
        plan(&seen.name, seen.generation, &warnings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checked_policy_says_so_also_without_warnings() {
        let merged = |warnings: &[Warning]| match plan("p", 3, warnings).actions.pop() {
            Some(Action::Patch {
                patch: control::action::Patch::Merge(patch),
                subresource: "status",
                ..
            }) => patch["status"].clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            merged(&[]),
            json!({"observedGeneration": 3, "typeChecking": {"expressionWarnings": null}})
        );
        let warning = Warning {
            field: "spec.validations[0].expression".into(),
            warning: "w".into(),
        };
        assert_eq!(
            merged(&[warning])["typeChecking"]["expressionWarnings"],
            json!([{"fieldRef": "spec.validations[0].expression", "warning": "w"}])
        );
    }

    #[test]
    fn kinds_are_found_by_what_the_server_lists() {
        let list = json!({"resources": [{"name": "deployments/scale", "kind": "Scale"},
            {"name": "deployments", "kind": "Deployment"}]});
        let found = kind_in(&list, "apps", "v1", "deployments").expect("listed");
        assert_eq!(found.to_string(), "apps/v1, Kind=Deployment");
        assert!(kind_in(&list, "apps", "v1", "others").is_none());
        assert_eq!(paths("", "v1").1, "/openapi/v3/api/v1");
        assert_eq!(paths("apps", "v1").0, "/apis/apps/v1");
        let params = json!({"paramKind": {"apiVersion": "a.b/v2", "kind": "C"}});
        assert_eq!(
            param_kind(&params).expect("named").to_string(),
            "a.b/v2, Kind=C"
        );
        assert!(param_kind(&json!({})).is_none());
    }
}
