//! The cluster's CA in each namespace, by which pods verify the API server.

use std::sync::Arc;

use client::{Informer, Informers};
use control::action::Target;
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::ResourceExt;
use serde_json::json;

use super::active;
use crate::common::value_of;

const CA_MAP: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";
/// Says to people what the map is for. Words of somebody else stay as long as the map is right.
const DESCRIPTION: &str = "kubernetes.io/description";
const NOTE: &str =
    "The CA bundle by which pods verify the API server at its address in the cluster.";

/// Publishes the CA.
pub struct RootCa {
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
    ca_pem: String,
}

impl RootCa {
    pub fn new(informers: &Informers, ca_pem: &str) -> Self {
        Self {
            namespaces: informers.of(),
            maps: informers.named(CA_MAP),
            ca_pem: ca_pem.into(),
        }
    }
}

/// A namespace, its ConfigMap, and what that is to say.
pub struct Observed {
    namespace: String,
    map: Option<Arc<ConfigMap>>,
    ca_pem: String,
}

impl Controller for RootCa {
    const NAME: &'static str = "root-ca-certificate-publisher-controller";
    const QUEUE: &'static str = "root_ca_cert_publisher";
    const ACCOUNT: &'static str = "root-ca-cert-publisher";
    type Key = String;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<String>) {
        watches.on(&self.namespaces, |n| vec![n.name_any()]);
        watches.on(&self.maps, |m| m.namespace().into_iter().collect());
    }

    fn observe(&self, namespace: &String) -> Option<Observed> {
        active(&self.namespaces, namespace)?;
        Some(Observed {
            namespace: namespace.clone(),
            map: self.maps.get(namespace, CA_MAP),
            ca_pem: self.ca_pem.clone(),
        })
    }

    fn plan(&self, observed: &Observed, _: i64) -> Plan {
        plan(observed)
    }
}

fn plan(seen: &Observed) -> Plan {
    let target = Target::of::<ConfigMap>(&seen.namespace, CA_MAP);
    let data = json!({ CA_KEY: seen.ca_pem });
    let action = match &seen.map {
        None => {
            let object = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {
                    "name": CA_MAP, "namespace": seen.namespace,
                    "annotations": { DESCRIPTION: NOTE },
                },
                "data": data,
            });
            Action::Create { target, object }
        }
        Some(map) if value_of(&map.data) == data && is_described(map) => return Plan::nothing(),
        Some(map) => {
            let mut object = value_of(&**map);
            object["data"] = data;
            object["metadata"]["annotations"][DESCRIPTION] = NOTE.into();
            Action::Update {
                target,
                subresource: "",
                object,
            }
        }
    };
    Plan::from(action)
}

fn is_described(map: &ConfigMap) -> bool {
    map.annotations()
        .get(DESCRIPTION)
        .is_some_and(|d| !d.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_put_right_whatever_became_of_it() {
        let right = json!({ CA_KEY: "pem" });
        let said = |text: &str| json!({ DESCRIPTION: text, "a": "b" });
        // What the map holds, its annotations, and the description after a write, if there is one.
        let rows = [
            (right.clone(), said(NOTE), None),
            (right.clone(), said("own words"), None),
            (right.clone(), said(""), Some(NOTE)),
            (right.clone(), json!({}), Some(NOTE)),
            (json!({}), said(NOTE), Some(NOTE)),
            (json!({ CA_KEY: "old" }), said("own words"), Some(NOTE)),
            (json!({ CA_KEY: "pem", "more": "x" }), json!({}), Some(NOTE)),
        ];
        for (data, annotations, after) in rows {
            let map = json!({
                "metadata": { "name": CA_MAP, "namespace": "a", "annotations": annotations },
                "data": data,
            });
            let seen = Observed {
                namespace: "a".into(),
                map: Some(Arc::new(
                    serde_json::from_value(map.clone()).expect("a ConfigMap"),
                )),
                ca_pem: "pem".into(),
            };
            let made = plan(&seen);
            let written = made.actions.iter().map(|a| match a {
                Action::Update { object, .. } => object,
                other => panic!("{other:?}"),
            });
            let got: Vec<_> = written
                .map(|o| {
                    (
                        &o["data"],
                        o["metadata"]["annotations"][DESCRIPTION].as_str(),
                    )
                })
                .collect();
            let want: Vec<_> = after.map(|d| (&right, Some(d))).into_iter().collect();
            assert_eq!(got, want, "{map}");
        }
    }

    #[test]
    fn the_map_says_the_ca_and_nothing_else() {
        let mut seen = Observed {
            namespace: "a".into(),
            map: None,
            ca_pem: "pem".into(),
        };
        let made = plan(&seen);
        let [Action::Create { object, .. }] = made.actions.as_slice() else {
            panic!("{made:?}");
        };
        let map: ConfigMap = serde_json::from_value(object.clone()).expect("a ConfigMap");
        seen.map = Some(Arc::new(map));
        assert!(plan(&seen).is_empty());
        seen.ca_pem = "other".into();
        let changed = plan(&seen);
        let [Action::Update { object, .. }] = changed.actions.as_slice() else {
            panic!("{changed:?}");
        };
        assert_eq!(object["data"], json!({ CA_KEY: "other" }));
        assert!(object["metadata"]["annotations"].is_object());
    }
}
