//! In each namespace the ServiceAccount `default`, and (by [`RootCa`]) the cluster's CA as the
//! ConfigMap `kube-root-ca.crt`, so that pods can reach the API; tokens
//! that lie in Secrets ([`Tokens`], [`UnusedTokens`]).

mod root_ca;
mod tokens;
mod unused_tokens;

use std::sync::Arc;

use client::{Informer, Informers};
use control::action::Target;
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::ResourceExt;
use serde_json::json;

use crate::common::is_deleting;
pub use root_ca::RootCa;
pub use tokens::Tokens;
pub use unused_tokens::UnusedTokens;

const DEFAULT: &str = "default";

/// Makes accounts.
pub struct ServiceAccounts {
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

impl ServiceAccounts {
    pub fn new(informers: &Informers) -> Self {
        Self {
            namespaces: informers.of(),
            accounts: informers.named(DEFAULT),
        }
    }
}

/// The namespace of this name, unless it ends.
fn active(namespaces: &Informer<Namespace>, name: &str) -> Option<Arc<Namespace>> {
    namespaces.get("", name).filter(|n| !is_deleting(&**n))
}

/// A namespace, and whether its account is there.
pub struct Observed {
    namespace: String,
    has_account: bool,
}

impl Controller for ServiceAccounts {
    const NAME: &'static str = "serviceaccount-controller";
    const QUEUE: &'static str = "serviceaccount";
    const ACCOUNT: &'static str = "service-account-controller";
    type Key = String;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<String>) {
        watches.on(&self.namespaces, |n| vec![n.name_any()]);
        watches.on(&self.accounts, |a| a.namespace().into_iter().collect());
    }

    fn observe(&self, namespace: &String) -> Option<Observed> {
        active(&self.namespaces, namespace)?;
        Some(Observed {
            namespace: namespace.clone(),
            has_account: self.accounts.get(namespace, DEFAULT).is_some(),
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
        let object = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": DEFAULT, "namespace": ns } });
        plan.actions.push(Action::Create {
            target: Target::of::<ServiceAccount>(ns, DEFAULT),
            object,
        });
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
        };
        assert_eq!(plan(&seen).actions.len(), 1);
        seen.has_account = true;
        assert!(plan(&seen).is_empty());
    }
}
