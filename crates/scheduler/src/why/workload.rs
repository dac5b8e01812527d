//! Workloads that can be supposed to have another number of pods: which pods they have, what the next
//! ones would be like, and how many it may have. Each kind has a row here; what scaling is, is the same
//! for all of them ([`super::change`]).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use super::deployment;
use super::report::WhyError;
use super::state::{self, State};
use crate::pod::is_terminal;

/// What can be scaled, for whoever asks for something else.
pub const SCALED: &str = "scale a deployment, replicaset, statefulset, replicationcontroller or job \
    (its parallelism), as scale/deploy/NAME=50; a DaemonSet has a pod on each of its nodes";

/// A kind that can be scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaled {
    Deployment,
    ReplicaSet,
    StatefulSet,
    ReplicationController,
    Job,
}

struct ScaledKind {
    kind: Scaled,
    /// How it is called; answers call it by the first.
    names: &'static [&'static str],
    /// The one of a namespace and a name.
    read: fn(&State, &str, &str) -> Option<Workload>,
}

static KINDS: [ScaledKind; 5] = [
    ScaledKind {
        kind: Scaled::Deployment,
        names: &["deployment", "deployments", "deploy"],
        read: |state, namespace, name| {
            let of = find(&state.deployments, namespace, name)?;
            let template = of.spec.as_ref().map(|s| &s.template);
            let pods = deployment::pods(state, of).into_iter().cloned().collect();
            // They are its sets' pods.
            let owner = deployment::newest_set(state, of);
            let owner = owner.and_then(|set| set.controller_owner_ref(&()));
            Some(Workload {
                owner,
                pods,
                ..Workload::of(state, of, template)
            })
        },
    },
    ScaledKind {
        kind: Scaled::ReplicaSet,
        names: &["replicaset", "replicasets", "rs"],
        read: |state, namespace, name| {
            let of = find(&state.replica_sets, namespace, name)?;
            let template = of.spec.as_ref().and_then(|s| s.template.as_ref());
            Some(Workload::of(state, of, template))
        },
    },
    ScaledKind {
        kind: Scaled::StatefulSet,
        names: &["statefulset", "statefulsets", "sts"],
        read: |state, namespace, name| {
            let of = find(&state.stateful_sets, namespace, name)?;
            let spec = of.spec.as_ref();
            let ordinals = spec.and_then(|s| s.ordinals.as_ref());
            let claims = spec.and_then(|s| s.volume_claim_templates.as_ref());
            Some(Workload {
                first: Some(ordinals.and_then(|o| o.start).unwrap_or(0)),
                claims: claims.into_iter().flatten().map(|c| c.name_any()).collect(),
                ..Workload::of(state, of, spec.map(|s| &s.template))
            })
        },
    },
    ScaledKind {
        kind: Scaled::ReplicationController,
        names: &["replicationcontroller", "replicationcontrollers", "rc"],
        read: |state, namespace, name| {
            let of = find(&state.replication_controllers, namespace, name)?;
            let template = of.spec.as_ref().and_then(|s| s.template.as_ref());
            Some(Workload::of(state, of, template))
        },
    },
    ScaledKind {
        kind: Scaled::Job,
        names: &["job", "jobs"],
        read: |state, namespace, name| {
            let of = find(&state.jobs, namespace, name)?;
            let plain = Workload::of(state, of, of.spec.as_ref().map(|s| &s.template));
            Some(Workload {
                most: most_of_job(of, plain.pods.len()),
                ..plain
            })
        },
    },
];

fn find<'a, K: ResourceExt>(all: &'a [K], namespace: &str, name: &str) -> Option<&'a K> {
    all.iter().find(|o| state::is(*o, namespace, name))
}

/// How many pods a Job has at most at a time, whatever its parallelism, and why. `active`: so many run.
fn most_of_job(job: &Job, active: usize) -> Option<(usize, &'static str)> {
    let (spec, status) = (job.spec.as_ref()?, job.status.as_ref());
    let conditions = status.and_then(|s| s.conditions.as_ref());
    let ends = ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"];
    let mut conditions = conditions.into_iter().flatten();
    if conditions.any(|c| c.status == "True" && ends.contains(&c.type_.as_str())) {
        return Some((0, "it has ended"));
    }
    if spec.suspend == Some(true) {
        return Some((0, "it is suspended"));
    }
    let succeeded = status.and_then(|s| s.succeeded).unwrap_or(0);
    match spec.completions {
        Some(all) => {
            let left = usize::try_from(all.saturating_sub(succeeded)).unwrap_or(0);
            Some((left, "no more completions are left"))
        }
        None if succeeded > 0 => Some((active, "one of its pods has succeeded")),
        None => None,
    }
}

/// A workload, as far as the number of its pods is concerned.
pub struct Workload {
    /// As a person names it, with its kind and namespace.
    pub about: String,
    /// Who sets the number of its pods beside its user.
    pub set_by: Option<String>,
    /// So many pods it has at most, and why.
    pub most: Option<(usize, &'static str)>,
    name: String,
    namespace: Option<String>,
    /// Those that have not run to their end.
    pods: Vec<Pod>,
    template: PodTemplateSpec,
    /// Who controls its pods.
    owner: Option<OwnerReference>,
    /// The first number, where its pods are numbered.
    first: Option<i32>,
    /// The volumes of which each pod has its own, by name.
    claims: Vec<String>,
}

impl Scaled {
    /// The kind that is called so.
    pub fn named(name: &str) -> Option<Self> {
        let found = KINDS.iter().find(|k| k.names.contains(&name));
        found.map(|k| k.kind)
    }

    /// The one of a namespace and a name.
    ///
    /// # Errors
    /// When it is not there.
    pub fn find(self, state: &State, namespace: &str, name: &str) -> Result<Workload, WhyError> {
        let row = KINDS.iter().find(|k| k.kind == self);
        let kind = row.and_then(|k| k.names.first()).copied();
        let found = row.and_then(|k| (k.read)(state, namespace, name));
        let about = format!("{} {namespace}/{name}", kind.unwrap_or_default());
        match found {
            Some(found) => Ok(Workload { about, ..found }),
            None => Err(WhyError::NotFound(about)),
        }
    }
}

impl Workload {
    /// One that controls its pods itself.
    fn of<K>(state: &State, of: &K, template: Option<&PodTemplateSpec>) -> Self
    where
        K: Resource<DynamicType = ()>,
    {
        let pods = state::pods_of(state, of).filter(|p| !is_terminal(p));
        // Who makes Jobs says how many they are, not how many pods each has.
        let set_by = state::controller(of).filter(|o| o.kind != "CronJob");
        Self {
            about: String::new(),
            set_by: set_by.map(|o| format!("{} {}", o.kind.to_lowercase(), o.name)),
            most: None,
            name: of.name_any(),
            namespace: of.namespace(),
            pods: pods.cloned().collect(),
            template: template.cloned().unwrap_or_default(),
            owner: of.controller_owner_ref(&()),
            first: None,
            claims: Vec::new(),
        }
    }

    /// Where it is to have so many pods: the UIDs of those that go, and the names of those that come.
    pub fn scaled(&self, replicas: usize) -> (BTreeSet<String>, Vec<String>) {
        let (stay, new): (BTreeSet<String>, Vec<String>) = match self.first {
            Some(first) => {
                let there = self.pods.iter();
                let there: BTreeMap<String, String> = there
                    .map(|p| (p.name_any(), p.uid().unwrap_or_default()))
                    .collect();
                let numbers = (i64::from(first)..).take(replicas);
                let wanted = numbers.map(|n| format!("{}-{n}", self.name));
                let (old, new): (Vec<String>, Vec<String>) =
                    wanted.partition(|name| there.contains_key(name));
                let stay = old.iter().filter_map(|name| there.get(name).cloned());
                (stay.collect(), new)
            }
            None => {
                let mut order: Vec<&Pod> = self.pods.iter().collect();
                // Those without a node go first.
                order.sort_by_key(|p| {
                    let node = p.spec.as_ref().and_then(|s| s.node_name.as_ref());
                    node.is_none()
                });
                let stay = order.iter().take(replicas).filter_map(|p| p.uid());
                let new = self.pods.len()..replicas;
                let new = new.map(|i| format!("{}-supposed-{i}", self.name));
                (stay.collect(), new.collect())
            }
        };
        let gone = self.pods.iter().filter_map(|p| p.uid());
        (gone.filter(|uid| !stay.contains(uid)).collect(), new)
    }

    /// What its next pod is like: as those that it has, which may differ from its template by what
    /// admission made of them.
    fn model(&self) -> Pod {
        if let Some(pod) = self.pods.first() {
            return pod.clone();
        }
        let mut pod = Pod {
            metadata: self.template.metadata.clone().unwrap_or_default(),
            spec: self.template.spec.clone(),
            status: None,
        };
        pod.metadata.namespace.clone_from(&self.namespace);
        pod.metadata.owner_references = self.owner.clone().map(|owner| vec![owner]);
        pod
    }

    /// A pod of this name that comes, and whether volumes have to be made for it: claims that are there
    /// are those that were left by a pod of its name.
    pub fn next_pod(&self, name: &str, state: &State) -> (Pod, bool) {
        let mut pod = self.model();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.creation_timestamp = None;
        if let (Some(_), Some((_, number))) = (self.first, name.rsplit_once('-')) {
            let labels = pod.metadata.labels.get_or_insert_default();
            labels.insert("statefulset.kubernetes.io/pod-name".into(), name.into());
            labels.insert("apps.kubernetes.io/pod-index".into(), number.into());
        }
        let spec = pod.spec.get_or_insert_default();
        let volumes = spec.volumes.get_or_insert_default();
        volumes.retain(|v| !self.claims.contains(&v.name));
        let namespace = self.namespace.as_deref().unwrap_or_default();
        let mut are_made = false;
        for volume in &self.claims {
            let claim_name = format!("{volume}-{name}");
            if find(&state.claims, namespace, &claim_name).is_none() {
                are_made = true;
                continue;
            }
            volumes.push(Volume {
                name: volume.clone(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name,
                    read_only: None,
                }),
                ..Volume::default()
            });
        }
        (pod, are_made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_names_of_its_own_and_is_offered() {
        let mut names: Vec<&str> = Vec::new();
        for row in &KINDS {
            let called = row.names.first().copied().unwrap_or_default();
            assert!(SCALED.contains(called), "{called} is not in: {SCALED}");
            assert_eq!(Scaled::named(called), Some(row.kind));
            names.extend_from_slice(row.names);
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(Scaled::named("daemonset"), None);
    }
}
