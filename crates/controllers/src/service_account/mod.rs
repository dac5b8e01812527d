//! In each namespace the ServiceAccount `default`, and the cluster's CA as the ConfigMap
//! `kube-root-ca.crt`, so that pods can reach the API.

use client::{Informer, Informers};
use control::action::Target;
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::ResourceExt;
use serde_json::json;

const ACCOUNT: &str = "default";
const CA_MAP: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";

pub struct ServiceAccounts {
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
    maps: Informer<ConfigMap>,
    ca_pem: String,
}

impl ServiceAccounts {
    pub fn new(informers: &Informers, ca_pem: &str) -> Self {
        Self {
            namespaces: informers.of(),
            accounts: informers.named(ACCOUNT),
            maps: informers.named(CA_MAP),
            ca_pem: ca_pem.into(),
        }
    }
}

pub struct Observed {
    pub namespace: String,
    pub has_account: bool,
    /// What the ConfigMap says, if it is there.
    pub ca_told: Option<String>,
    pub ca_pem: String,
}

impl Controller for ServiceAccounts {
    const NAME: &'static str = "serviceaccount-controller";
    type Key = String;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<String>) {
        watches.on(&self.namespaces, |n| vec![n.name_any()]);
        watches.on(&self.accounts, |a| a.namespace().into_iter().collect());
        watches.on(&self.maps, |m| m.namespace().into_iter().collect());
    }

    fn observe(&self, namespace: &String) -> Option<Observed> {
        let found = self.namespaces.get("", namespace)?;
        let active = found.metadata.deletion_timestamp.is_none();
        let told = self.maps.get(namespace, CA_MAP);
        active.then(|| Observed {
            namespace: namespace.clone(),
            has_account: self.accounts.get(namespace, ACCOUNT).is_some(),
            ca_told: told.map(|m| {
                m.data
                    .as_ref()
                    .and_then(|d| d.get(CA_KEY))
                    .cloned()
                    .unwrap_or_default()
            }),
            ca_pem: self.ca_pem.clone(),
        })
    }

    fn plan(&self, observed: &Observed, _: i64) -> Plan {
        plan(observed)
    }
}

fn plan(seen: &Observed) -> Plan {
    let mut plan = Plan::default();
    let ns = &seen.namespace;
    if !seen.has_account {
        let object = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": ACCOUNT, "namespace": ns } });
        plan.actions.push(Action::Create {
            target: Target::of::<ServiceAccount>(ns, ACCOUNT),
            object,
        });
    }
    let target = Target::of::<ConfigMap>(ns, CA_MAP);
    match &seen.ca_told {
        _ if seen.ca_pem.is_empty() => {}
        None => {
            let note =
                "The CA bundle by which pods verify the API server at its address in the cluster.";
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": CA_MAP, "namespace": ns, "annotations": { "kubernetes.io/description": note } },
                "data": { CA_KEY: seen.ca_pem },
            });
            plan.actions.push(Action::Create { target, object });
        }
        Some(told) if *told != seen.ca_pem => {
            plan.actions.push(Action::merge(
                target,
                json!({ "data": { CA_KEY: seen.ca_pem } }),
            ));
        }
        Some(_) => {}
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_made_once() {
        let mut seen = Observed {
            namespace: "a".into(),
            has_account: false,
            ca_told: None,
            ca_pem: "pem".into(),
        };
        assert_eq!(plan(&seen).actions.len(), 2);
        seen.has_account = true;
        seen.ca_told = Some("old".into());
        assert!(matches!(
            plan(&seen).actions.as_slice(),
            [Action::Patch { .. }]
        ));
        seen.ca_told = Some("pem".into());
        assert!(plan(&seen).is_empty());
    }
}
