//! Trust anchors of ClusterTrustBundles in projected volumes: those of one bundle by its name, or of
//! all bundles of a signer that a selector means, each anchor once. Changes reach the volume as they
//! happen.

use super::followed::{Followed, FollowedObjects};
use super::wakes::{Wake, Wakes};
use api::selector::LabelSelector;
use clock::Random;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use std::collections::{BTreeMap, BTreeSet};
use wire::pod_keys;

/// The longest selector that is taken, in bytes; upstream's.
const LONGEST_SELECTOR: usize = 100 * 1024;

/// What is kept of a bundle.
#[derive(Debug, PartialEq, Eq)]
pub struct Bundle {
    signer: String,
    labels: BTreeMap<String, String>,
    /// Its certificates, DER; why they cannot be read, where its text is not a list of them.
    anchors: Result<BTreeSet<Vec<u8>>, String>,
}

fn bundle(object: ClusterTrustBundle) -> Bundle {
    Bundle {
        signer: object.spec.signer_name.unwrap_or_default(),
        labels: object.metadata.labels.unwrap_or_default(),
        anchors: pod_keys::certificates_der(&object.spec.trust_bundle)
            .map(|all| all.into_iter().collect()),
    }
}

/// The bundles of the cluster, followed once a pod names one.
#[derive(Debug)]
pub struct TrustBundles(Followed<ClusterTrustBundle, Bundle>);

impl TrustBundles {
    /// Nothing is followed yet. `wakes`: who hears of changes.
    #[must_use]
    pub fn new(client: kube::Client, random: Random, wakes: &Wakes) -> Self {
        let wakes = wakes.clone();
        let api = kube::Api::all(client);
        Self(Followed::new(api, None, random, bundle, move |_| {
            wakes.send(Wake::TrustBundles);
        }))
    }

    /// The anchors that a source means, as PEM. An error says why there are none.
    pub async fn get(&self, source: &ClusterTrustBundleProjection) -> Result<String, String> {
        anchors(&self.0.all().await?, source)
    }
}

fn anchors(
    all: &FollowedObjects<Bundle>,
    source: &ClusterTrustBundleProjection,
) -> Result<String, String> {
    let optional = source.optional == Some(true);
    let mut found = Vec::new();
    match (source.name.as_deref(), source.signer_name.as_deref()) {
        (Some(name), _) => {
            let bundle = all.get(&(String::new(), name.to_owned()));
            if bundle.is_none() && !optional {
                return Err(format!("clustertrustbundle {name:?} not found"));
            }
            found.extend(bundle.map(|b| (name, b)));
        }
        (None, Some(signer)) => {
            let selector = selector(source)?;
            let meant = all.iter().filter(|(_, b)| b.signer == signer);
            let meant = meant.filter(|(_, b)| selector.matches(&b.labels));
            found.extend(meant.map(|((_, name), b)| (name.as_str(), b)));
            if found.is_empty() && !optional {
                return Err(
                    "combination of signerName and labelSelector matched zero ClusterTrustBundles"
                        .into(),
                );
            }
        }
        (None, None) => {
            let why = "ClusterTrustBundle projection requires either name or signerName to be set";
            return Err(why.into());
        }
    }
    let mut anchors = BTreeSet::new();
    for (name, bundle) in found {
        let own = bundle.anchors.as_ref();
        anchors.extend(own.map_err(|why| format!("clustertrustbundle {name:?}: {why}"))?);
    }
    // In the order of their bytes: it stays the same while the anchors do.
    let all: Vec<String> = anchors
        .into_iter()
        .map(|der| pod_keys::certificate_pem(der))
        .collect();
    Ok(all.concat())
}

/// Without a selector nothing is meant, as upstream; an empty one means all.
fn selector(source: &ClusterTrustBundleProjection) -> Result<LabelSelector, String> {
    let Some(given) = &source.label_selector else {
        return Ok(LabelSelector::nothing());
    };
    let wrong = |why: String| format!("while parsing label selector: {why}");
    let value = serde_json::to_value(given).map_err(|e| wrong(e.to_string()))?;
    if value.to_string().len() > LONGEST_SELECTOR {
        return Err(wrong(format!("it is longer than {LONGEST_SELECTOR} bytes")));
    }
    LabelSelector::from_json(&value).map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    fn authority(name: &str) -> String {
        wire::pki::Ca::generate(name, 0).unwrap().pair.cert_pem
    }

    fn kept(objects: &[Value]) -> FollowedObjects<Bundle> {
        let mut all = FollowedObjects::default();
        let key = |o: &ClusterTrustBundle| (String::new(), o.metadata.name.clone().unwrap());
        let mut take = |event| drop(all.take(event, key, |o| Some(bundle(o).into())));
        take(Event::Init);
        for object in objects {
            take(Event::InitApply(
                serde_json::from_value(object.clone()).unwrap(),
            ));
        }
        take(Event::InitDone);
        all
    }

    #[test]
    fn anchors_are_found_by_name_or_by_signer_and_each_stands_once() {
        let (a, b) = (authority("a"), authority("b"));
        let one = |name: &str, signer: &str, live: &str, text: String| {
            json!({ "metadata": { "name": name, "labels": { "live": live } },
                "spec": { "signerName": signer, "trustBundle": text } })
        };
        let all = kept(&[
            one("plain", "", "no", format!("ours\n{a}")),
            one("x.io:s:1", "x.io/s", "yes", format!("{a}{b}")),
            one("x.io:s:2", "x.io/s", "yes", b.clone()),
            one("x.io:s:3", "x.io/s", "no", a.clone()),
            one(
                "y.io:s:1",
                "y.io/s",
                "yes",
                "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".into(),
            ),
        ]);
        let get = |source: Value| {
            let mut source = source;
            source["path"] = json!("ca.pem");
            anchors(&all, &serde_json::from_value(source).unwrap())
        };
        let count = |found: Result<String, String>| found.unwrap().matches("BEGIN").count();
        // What stands around the certificates is left out.
        assert_eq!(get(json!({ "name": "plain" })).unwrap(), a);
        let live = json!({ "matchLabels": { "live": "yes" } });
        let signer = |labels: &Value, optional: bool| {
            get(json!({ "signerName": "x.io/s", "labelSelector": labels, "optional": optional }))
        };
        assert_eq!(count(signer(&live, false)), 2);
        assert_eq!(count(signer(&json!({}), false)), 2);
        let dead = json!({ "matchLabels": { "live": "no" } });
        assert_eq!(signer(&dead, false).unwrap(), a);
        // No selector means nothing.
        assert!(
            signer(&Value::Null, false)
                .unwrap_err()
                .contains("matched zero")
        );
        assert_eq!(signer(&Value::Null, true).unwrap(), "");
        assert!(
            get(json!({ "name": "none" }))
                .unwrap_err()
                .contains("not found")
        );
        assert_eq!(
            get(json!({ "name": "none", "optional": true })).unwrap(),
            ""
        );
        assert!(
            get(json!({ "name": "y.io:s:1" }))
                .unwrap_err()
                .contains("y.io:s:1")
        );
        assert!(get(json!({})).is_err());
    }
}
