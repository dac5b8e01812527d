//! Claims of devices: those that pods want made of a template are made, pods that have their node get
//! claims reserved for them, and who does not use a claim any more is taken off it. Which devices a
//! claim gets is the scheduler's business (documentation "Dynamic Resource Allocation").

mod plan;
pub(crate) use plan::{names, pods_of, wanted};

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Informer, Informers};
use control::{Controller, Count, Plan, Watches};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use kube::{Api, Client, ResourceExt};

use crate::common::{Key as Name, is_deleting, key_of};
use crate::metrics::{Alive, device_claims as figures};
use plan::{Consumer, OfClaim, OfPod};

const PODS_BY_CLAIM: &str = "resource-claim";
const PODS_BY_TEMPLATE: &str = "resource-claim-template";
const CLAIMS_BY_OWNER: &str = "owner-pod";

/// A pod or a claim, by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Pod(Name),
    Claim(Name),
}

pub struct ResourceClaims {
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    templates: Informer<ResourceClaimTemplate>,
    alive: Alive,
}

fn place(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// All claims that a pod uses, as far as they have names, as `namespace/name`.
fn claims_of(pod: &Pod) -> Vec<String> {
    let namespace = pod.namespace().unwrap_or_default();
    let names = plan::names(pod);
    names.map(|name| place(&namespace, &name)).collect()
}

/// What is looked at when a pod changed, or went.
fn keys_of(pod: &Pod, exists: bool) -> Vec<Key> {
    let mut keys = Vec::new();
    if exists && !is_deleting(pod) && plan::wanted(pod).next().is_some() {
        keys.push(Key::Pod(key_of(pod)));
    }
    // Its end may free its claims.
    if !exists || plan::is_done(pod) {
        let namespace = pod.namespace().unwrap_or_default();
        let made = plan::extended(pod).map(|name| place(&namespace, name));
        let claims = claims_of(pod).into_iter().chain(made);
        keys.extend(claims.filter_map(|p| split(&p)).map(Key::Claim));
    }
    keys
}

impl ResourceClaims {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            pods: informers.of(),
            claims: informers.of(),
            templates: informers.of(),
            alive: Alive::default(),
        };
        all.pods.index(PODS_BY_CLAIM, claims_of);
        all.pods.index(PODS_BY_TEMPLATE, |pod| {
            let namespace = pod.namespace().unwrap_or_default();
            let templates =
                plan::wanted(pod).filter_map(|c| c.resource_claim_template_name.clone());
            templates.map(|t| place(&namespace, &t)).collect()
        });
        all.claims.index(CLAIMS_BY_OWNER, |claim| {
            plan::owner(claim)
                .map(|(_, uid)| uid.to_owned())
                .into_iter()
                .collect()
        });
        all
    }
}

fn split(place: &str) -> Option<Name> {
    let (namespace, name) = place.split_once('/')?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// What is known for a key.
pub enum Observed {
    Pod(OfPod),
    Claim(OfClaim),
}

impl Controller for ResourceClaims {
    const NAME: &'static str = "resource_claim";
    const ACCOUNT: &'static str = "resource-claim-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        figures::show(&self.claims, &self.alive);
        watches.on_change(&self.pods, |change| {
            let Some(pod) = change.new.as_ref().or(change.old.as_ref()) else {
                return Vec::new();
            };
            keys_of(pod, change.new.is_some())
        });
        let pods = self.pods.clone();
        watches.on_change(&self.claims, move |change| {
            let Some(claim) = change.new.as_ref().or(change.old.as_ref()) else {
                return Vec::new();
            };
            let (namespace, name) = key_of(&**claim);
            let users = pods.by_index(PODS_BY_CLAIM, &place(&namespace, &name));
            let mut keys: Vec<Key> = users.iter().map(|p| Key::Pod(key_of(&**p))).collect();
            // The pod that it was made for has to hear its name.
            if let Some((pod, _)) = plan::owner(claim) {
                keys.push(Key::Pod((namespace.clone(), pod.to_owned())));
            }
            if change.new.is_some() {
                keys.push(Key::Claim((namespace, name)));
            }
            keys
        });
        let pods = self.pods.clone();
        watches.on_change(&self.templates, move |change| {
            let Some(template) = change.new.as_ref() else {
                return Vec::new();
            };
            let (namespace, name) = key_of(&**template);
            let users = pods.by_index(PODS_BY_TEMPLATE, &place(&namespace, &name));
            users.iter().map(|p| Key::Pod(key_of(&**p))).collect()
        });
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        match key {
            Key::Pod((namespace, name)) => {
                let pod = self.pods.get(namespace, name)?;
                if is_deleting(&*pod) || plan::is_done(&pod) {
                    return None;
                }
                let mut claims: BTreeMap<String, Arc<ResourceClaim>> = BTreeMap::new();
                let named = plan::names(&pod).filter_map(|n| self.claims.get(namespace, &n));
                let uid = pod.uid().unwrap_or_default();
                let made = self.claims.by_index(CLAIMS_BY_OWNER, &uid);
                for claim in named.chain(made) {
                    claims.insert(claim.name_any(), claim);
                }
                let templates = plan::wanted(&pod).filter_map(|c| {
                    let name = c.resource_claim_template_name.clone()?;
                    Some((name.clone(), self.templates.get(namespace, &name)?))
                });
                let templates = templates.collect();
                Some(Observed::Pod(OfPod {
                    pod,
                    claims,
                    templates,
                }))
            }
            Key::Claim((namespace, name)) => {
                let claim = self.claims.get(namespace, name)?;
                let consumers = plan::pods_of(&claim).map(|(name, uid)| {
                    let known = self.pods.get(namespace, name);
                    let state = known.map_or(Consumer::Unknown, |pod| Consumer::of(&pod, uid));
                    (uid.to_owned(), state)
                });
                let consumers = consumers.collect();
                let owner = plan::owner(&claim).and_then(|(name, uid)| {
                    let pod = self.pods.get(namespace, name)?;
                    Some(Consumer::of(&pod, uid))
                });
                Some(Observed::Claim(OfClaim {
                    claim,
                    consumers,
                    owner,
                }))
            }
        }
    }

    /// The scheduler may know a pod before this cache does: the API is asked about one that is not
    /// there before it is taken off its claim.
    async fn gather(&self, client: &Client, seen: Observed) -> Result<Observed, kube::Error> {
        let Observed::Claim(mut of) = seen else {
            return Ok(seen);
        };
        let namespace = of.claim.namespace().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let claim = of.claim.clone();
        for (name, uid) in plan::pods_of(&claim) {
            if of.consumers.get(uid) != Some(&Consumer::Unknown) {
                continue;
            }
            let found = api.get_opt(name).await?;
            let state = found.map_or(Consumer::Gone, |pod| Consumer::of(&pod, uid));
            of.consumers.insert(uid.to_owned(), state);
        }
        Ok(Observed::Claim(of))
    }

    fn plan(&self, seen: &Observed, _: i64) -> Plan {
        match seen {
            Observed::Pod(of) => plan::of_pod(of),
            Observed::Claim(of) => plan::of_claim(of),
        }
    }

    fn metrics(&self, _: &Observed, plan: &Plan) -> Option<Count> {
        figures::count_made(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_end_of_a_pod_is_told_to_all_its_claims() {
        let both: &[&str] = &["pod", "named", "made"];
        // Names a claim, has one for extended resources; its phase, whether it is there; who hears.
        let rows: [(bool, bool, &str, bool, &[&str]); 10] = [
            (false, false, "Succeeded", true, &[]),
            (true, false, "Running", true, &["pod"]),
            (false, true, "Running", true, &[]),
            (false, true, "Succeeded", true, &["made"]),
            (false, true, "Failed", true, &["made"]),
            (false, true, "Running", false, &["made"]),
            (true, false, "Failed", true, &["pod", "named"]),
            (true, true, "Running", true, &["pod"]),
            (true, true, "Succeeded", true, both),
            (true, true, "Running", false, &["named", "made"]),
        ];
        for (named, made, phase, exists, want) in rows {
            let mut pod = json!({
                "metadata": { "name": "pod", "namespace": "n" },
                "spec": { "containers": [], "nodeName": "node" },
                "status": { "phase": phase },
            });
            if named {
                let claim = json!([{ "name": "c", "resourceClaimName": "named" }]);
                pod["spec"]["resourceClaims"] = claim;
            }
            if made {
                pod["status"]["extendedResourceClaimStatus"] =
                    json!({ "resourceClaimName": "made", "requestMappings": [] });
            }
            let pod: Pod = serde_json::from_value(pod).expect("a pod");
            let got: Vec<String> = keys_of(&pod, exists)
                .into_iter()
                .map(|key| match key {
                    Key::Pod((_, name)) | Key::Claim((_, name)) => name,
                })
                .collect();
            assert_eq!(got, want, "{named} {made} {phase} {exists}");
        }
    }
}
