//! Tokens in Secrets that were made by themselves, as clusters before v1.24 did, and that nobody has
//! used for a year: first they are marked, so that the API server does not believe them, and a
//! year later they are removed. Those that people made stay.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::{Informer, Informers};
use control::action::{Patch, Target};
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::tokens::{TYPE, is_of};
use crate::common::{Key, is_deleting, key_of, millis_of, uid_of, value_of};

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Where the API server says since when it notes uses.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const DAY_MILLIS: i64 = 86_400_000;
/// Upstream's `--legacy-service-account-token-clean-up-period`.
const UNUSED_MILLIS: i64 = 365 * DAY_MILLIS;
/// Each Secret is looked at once a day, as upstream.
const LOOK_AGAIN_MILLIS: u64 = 86_400_000;

/// Marks and removes tokens that nobody uses.
pub struct UnusedTokens {
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    /// Reads pods as the component itself, since the account may not.
    reader: Client,
}

impl UnusedTokens {
    pub fn new(informers: &Informers) -> Self {
        Self {
            secrets: informers.of_type(TYPE),
            accounts: informers.of(),
            reader: informers.client().clone(),
        }
    }
}

/// A Secret with a token that was made by itself.
pub struct Observed {
    secret: Arc<Secret>,
    /// The day since when uses are noted; none is known where it cannot be read.
    tracked_since: Option<String>,
    is_mounted: bool,
}

/// A day as `2026-01-02`.
fn date(millis: i64) -> String {
    let text = crate::common::time_text(millis);
    text.split('T').next().unwrap_or_default().to_owned()
}

/// The beginning of a day.
fn day(text: &str) -> Option<i64> {
    let well_formed = text.len() == 10;
    let time = jiff::civil::Date::strptime("%Y-%m-%d", text).ok()?;
    let zoned = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    well_formed.then(|| zoned.timestamp().as_millisecond())
}

fn label<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    secret.labels().get(name).map(String::as_str)
}

/// Whether it is old enough to look whether anybody uses it.
fn is_old(secret: &Secret, now_millis: i64) -> bool {
    let oldest = now_millis - UNUSED_MILLIS;
    let made = millis_of(secret.metadata.creation_timestamp.as_ref()).unwrap_or(now_millis);
    let unused = match label(secret, LAST_USED) {
        // What cannot be read says nothing.
        Some(used) => day(used).is_some() && *used < *date(oldest),
        None => true,
    };
    !is_deleting(secret) && made < oldest && unused
}

fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let mut plan = Plan {
        wake_after_millis: Some(LOOK_AGAIN_MILLIS),
        ..Plan::default()
    };
    let secret = &*seen.secret;
    // From the day after the first one on it is known for sure.
    let tracked = seen.tracked_since.as_deref().and_then(day);
    let long_enough = tracked.is_some_and(|t| now_millis >= t + DAY_MILLIS + UNUSED_MILLIS);
    if !long_enough || seen.is_mounted || !is_old(secret, now_millis) {
        return plan;
    }
    let (namespace, name) = key_of(secret);
    let target = Target::of::<Secret>(&namespace, &name);
    let marked = label(secret, INVALID_SINCE).filter(|since| day(since).is_some());
    match marked {
        None => plan.actions.push(Action::Patch {
            target,
            subresource: "",
            patch: Patch::Merge(json!({ "metadata": {
                "uid": uid_of(secret), "labels": { INVALID_SINCE: date(now_millis) } } })),
        }),
        Some(since) if *since < *date(now_millis - UNUSED_MILLIS) => {
            plan.actions.push(Action::Delete {
                target,
                uid: secret.uid(),
                // It may be used at the last moment.
                resource_version: secret.resource_version(),
                grace_seconds: None,
                propagation: None,
            });
        }
        Some(_) => {}
    }
    plan
}

/// The Secrets that a pod names, in whichever way.
fn secrets_of(pod: &Pod) -> BTreeSet<String> {
    fn collect(value: &Value, under: &str, out: &mut BTreeSet<String>) {
        match value {
            Value::Object(all) => {
                for (key, value) in all {
                    let names = key == "secretName"
                        || key == "name"
                            && (under.ends_with("ecretRef")
                                || matches!(under, "secretKeyRef" | "secret" | "imagePullSecrets"));
                    match value.as_str().filter(|_| names) {
                        Some(name) => drop(out.insert(name.to_owned())),
                        None => collect(value, key, out),
                    }
                }
            }
            Value::Array(all) => all.iter().for_each(|v| collect(v, under, out)),
            _ => {}
        }
    }
    let mut out = BTreeSet::new();
    collect(&value_of(&pod.spec), "", &mut out);
    out
}

impl Controller for UnusedTokens {
    const NAME: &'static str = "legacy-serviceaccount-token-cleaner-controller";
    const ACCOUNT: &'static str = "legacy-service-account-token-cleaner";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.secrets, |s| vec![key_of(s)]);
        watches.expect_from(&self.accounts);
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let secret = self.secrets.get(namespace, name)?;
        let accounts = self.accounts.list_namespace(namespace);
        let names = |a: &ServiceAccount| {
            let mut all = a.secrets.iter().flatten();
            all.any(|r| r.name.as_deref() == Some(name))
        };
        // An account names the Secret that was made for it by itself, and no other.
        let own = accounts.iter().any(|a| is_of(&secret, a) && names(a));
        own.then_some(Observed {
            secret,
            tracked_since: None,
            is_mounted: true,
        })
    }

    /// Old clusters alone have such Secrets, so pods are read whole, and only for them.
    async fn gather(&self, client: &Client, mut seen: Observed) -> Result<Observed, kube::Error> {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), client::accounts::NAMESPACE);
        let map = maps.get_opt(TRACKING).await?;
        seen.tracked_since = map.and_then(|m| m.data?.remove("since"));
        let (namespace, name) = key_of(&*seen.secret);
        let pods: Api<Pod> = Api::namespaced(self.reader.clone(), &namespace);
        let pods = pods.list(&ListParams::default()).await?;
        seen.is_mounted = pods.iter().any(|p| secrets_of(p).contains(&name));
        Ok(seen)
    }

    fn plan(&self, seen: &Observed, now_millis: i64) -> Plan {
        plan(seen, now_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2027-06-01.
    const NOW: i64 = 1_811_808_000_000;

    fn seen(labels: Value) -> Observed {
        let secret = json!({ "metadata": { "name": "s", "namespace": "a", "uid": "u",
            "creationTimestamp": "2024-01-01T00:00:00Z", "labels": labels }, "type": TYPE });
        Observed {
            secret: Arc::new(serde_json::from_value(secret).expect("a Secret")),
            tracked_since: Some("2026-01-01".into()),
            is_mounted: false,
        }
    }

    fn acts(seen: &Observed) -> &'static str {
        match plan(seen, NOW).actions.as_slice() {
            [Action::Patch { patch, .. }] => {
                let marked = json!({ "metadata": { "uid": "u",
                    "labels": { INVALID_SINCE: "2027-06-01" } } });
                assert_eq!(*patch, Patch::Merge(marked));
                "marks"
            }
            [Action::Delete { .. }] => "removes",
            [] => "leaves",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_nobody_used_for_a_year_is_marked_and_a_year_later_removed() {
        assert_eq!(acts(&seen(json!({}))), "marks");
        assert_eq!(acts(&seen(json!({ LAST_USED: "2026-05-31" }))), "marks");
        assert_eq!(acts(&seen(json!({ LAST_USED: "2026-06-02" }))), "leaves");
        assert_eq!(acts(&seen(json!({ LAST_USED: "yesterday" }))), "leaves");
        assert_eq!(
            acts(&seen(json!({ INVALID_SINCE: "2026-06-02" }))),
            "leaves"
        );
        assert_eq!(
            acts(&seen(json!({ INVALID_SINCE: "2026-05-30" }))),
            "removes"
        );
        let mut mounted = seen(json!({}));
        mounted.is_mounted = true;
        assert_eq!(acts(&mounted), "leaves");
        for since in [None, Some("2026-12-01".to_owned())] {
            let mut young = seen(json!({}));
            young.tracked_since = since;
            assert_eq!(acts(&young), "leaves");
        }
    }

    #[test]
    fn a_pod_holds_secrets_in_every_way_that_it_can_name_them() {
        let pod = json!({ "metadata": {}, "spec": {
            "imagePullSecrets": [{ "name": "pull" }],
            "containers": [{ "name": "c", "envFrom": [{ "secretRef": { "name": "all" } }],
                "env": [{ "name": "E", "valueFrom": { "secretKeyRef": { "name": "one", "key": "k" } } }] }],
            "volumes": [{ "name": "v", "secret": { "secretName": "mounted" } },
                { "name": "w", "projected": { "sources": [{ "secret": { "name": "projected" } }] } }] } });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let all: Vec<String> = secrets_of(&pod).into_iter().collect();
        assert_eq!(all, ["all", "mounted", "one", "projected", "pull"]);
    }
}
