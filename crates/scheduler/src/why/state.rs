//! The objects that questions are answered from.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1 as devices;
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use serde_json::Value;

use super::report::{Profiles, WhyError};
use crate::core::Core;
use crate::decide::Profile;
use crate::feeds;
use crate::queue::Waits;

/// A cluster as the API shows it.
#[derive(Clone, Default)]
pub struct State {
    pub pods: Vec<k8s::Pod>,
    pub nodes: Vec<k8s::Node>,
    pub namespaces: Vec<k8s::Namespace>,
    pub services: Vec<k8s::Service>,
    pub slices: Vec<EndpointSlice>,
    pub claims: Vec<k8s::PersistentVolumeClaim>,
    pub volumes: Vec<k8s::PersistentVolume>,
    pub replication_controllers: Vec<k8s::ReplicationController>,
    pub replica_sets: Vec<apps::ReplicaSet>,
    pub stateful_sets: Vec<apps::StatefulSet>,
    pub deployments: Vec<apps::Deployment>,
    pub daemon_sets: Vec<apps::DaemonSet>,
    pub jobs: Vec<Job>,
    pub cron_jobs: Vec<CronJob>,
    pub autoscalers: Vec<HorizontalPodAutoscaler>,
    pub budgets: Vec<PodDisruptionBudget>,
    pub classes: Vec<storage::StorageClass>,
    pub csi_nodes: Vec<storage::CSINode>,
    pub drivers: Vec<storage::CSIDriver>,
    pub capacities: Vec<storage::CSIStorageCapacity>,
    pub attachments: Vec<storage::VolumeAttachment>,
    pub device_claims: Vec<devices::ResourceClaim>,
    pub device_classes: Vec<devices::DeviceClass>,
    pub device_slices: Vec<devices::ResourceSlice>,
    /// Warnings about what is asked about, and about its pods.
    pub events: Vec<k8s::Event>,
    /// None where they are not served, or no pod names one.
    pub pod_groups: Option<Vec<PodGroup>>,
    /// Objects of any kind that are being deleted and that finalizers hold.
    pub held: Vec<TerminatingObject>,
}

/// An object that finalizers hold.
#[derive(Clone, Debug)]
pub struct TerminatingObject {
    pub namespace: String,
    /// As a person names it: `widget.example.com w`.
    pub what: String,
    /// Each finalizer, and who set it as far as the managed fields show.
    pub finalizers: Vec<(String, Option<String>)>,
}

impl TerminatingObject {
    /// `kind` as a person names it; none for an object that is not held.
    pub fn read(kind: &str, meta: &ObjectMeta) -> Option<Self> {
        meta.deletion_timestamp.as_ref()?;
        let finalizers = meta.finalizers.iter().flatten();
        let finalizers: Vec<_> = finalizers.map(|f| (f.clone(), setter(meta, f))).collect();
        (!finalizers.is_empty()).then(|| Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            what: format!("{kind} {}", meta.name.as_deref().unwrap_or_default()),
            finalizers,
        })
    }
}

/// The manager that owns a finalizer.
fn setter(meta: &ObjectMeta, finalizer: &str) -> Option<String> {
    let member = format!("v:\"{finalizer}\"");
    let mut entries = meta.managed_fields.iter().flatten();
    let owner = entries.find(|e| {
        let fields = e.fields_v1.as_ref().map(|f| &f.0);
        let set = fields.and_then(|f| f.get("f:metadata")?.get("f:finalizers"));
        set.is_some_and(|set| set.get(&member).is_some())
    });
    owner.and_then(|e| e.manager.clone())
}

/// Whether an object is the one of this name; without a namespace, whatever its namespace.
pub fn is<K: ResourceExt>(object: &K, namespace: &str, name: &str) -> bool {
    object.name_any() == name
        && (namespace.is_empty() || object.namespace().as_deref() == Some(namespace))
}

/// The owner that controls an object.
pub fn controller<K: ResourceExt>(object: &K) -> Option<&OwnerReference> {
    let mut owners = object.owner_references().iter();
    owners.find(|o| o.controller == Some(true))
}

/// What holds an object that is being deleted; none where nobody deletes it.
pub fn held<K: Resource>(object: &K) -> Option<String> {
    let meta = object.meta();
    meta.deletion_timestamp.as_ref()?;
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    Some(match finalizers {
        [] => "it is being deleted".to_owned(),
        all => format!("it is being deleted; held by: {}", all.join(", ")),
    })
}

/// The pods that an object controls, also those that have run to their end.
pub fn pods_of<'a>(
    state: &'a State,
    owner: &impl ResourceExt,
) -> impl Iterator<Item = &'a k8s::Pod> {
    let uid = owner.uid().unwrap_or_default();
    let all = state.pods.iter();
    all.filter(move |pod| controller(*pod).is_some_and(|o| o.uid == uid))
}

/// Whether a set of labels has all of these.
pub fn has_all(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

impl State {
    /// Objects as a manifest has them; those of other kinds are left out.
    ///
    /// # Errors
    /// When one does not have the shape of its kind.
    pub fn read(objects: impl IntoIterator<Item = Value>) -> Result<Self, serde_json::Error> {
        let mut out = Self::default();
        for object in objects {
            let kind = object.get("kind").and_then(Value::as_str);
            let meta = object.get("metadata").cloned().unwrap_or_default();
            let meta: ObjectMeta = serde_json::from_value(meta)?;
            let name = kind.unwrap_or_default().to_lowercase();
            out.held.extend(TerminatingObject::read(&name, &meta));
            match kind.unwrap_or_default() {
                "Pod" => out.pods.push(serde_json::from_value(object)?),
                "Node" => out.nodes.push(serde_json::from_value(object)?),
                "Namespace" => out.namespaces.push(serde_json::from_value(object)?),
                "Service" => out.services.push(serde_json::from_value(object)?),
                "EndpointSlice" => out.slices.push(serde_json::from_value(object)?),
                "PersistentVolumeClaim" => out.claims.push(serde_json::from_value(object)?),
                "PersistentVolume" => out.volumes.push(serde_json::from_value(object)?),
                "ReplicationController" => {
                    out.replication_controllers
                        .push(serde_json::from_value(object)?);
                }
                "ReplicaSet" => out.replica_sets.push(serde_json::from_value(object)?),
                "StatefulSet" => out.stateful_sets.push(serde_json::from_value(object)?),
                "Deployment" => out.deployments.push(serde_json::from_value(object)?),
                "DaemonSet" => out.daemon_sets.push(serde_json::from_value(object)?),
                "Job" => out.jobs.push(serde_json::from_value(object)?),
                "CronJob" => out.cron_jobs.push(serde_json::from_value(object)?),
                "HorizontalPodAutoscaler" => {
                    out.autoscalers.push(serde_json::from_value(object)?);
                }
                "PodDisruptionBudget" => out.budgets.push(serde_json::from_value(object)?),
                "StorageClass" => out.classes.push(serde_json::from_value(object)?),
                "CSINode" => out.csi_nodes.push(serde_json::from_value(object)?),
                "CSIDriver" => out.drivers.push(serde_json::from_value(object)?),
                "CSIStorageCapacity" => out.capacities.push(serde_json::from_value(object)?),
                "ResourceClaim" => out.device_claims.push(serde_json::from_value(object)?),
                "DeviceClass" => out.device_classes.push(serde_json::from_value(object)?),
                "ResourceSlice" => out.device_slices.push(serde_json::from_value(object)?),
                "Event" => out.events.push(serde_json::from_value(object)?),
                "PodGroup" => {
                    let groups = out.pod_groups.get_or_insert_default();
                    groups.push(serde_json::from_value(object)?);
                }
                "VolumeAttachment" => out.attachments.push(serde_json::from_value(object)?),
                _ => {}
            }
        }
        Ok(out)
    }

    /// A scheduler with these profiles that has seen all of it.
    ///
    /// # Errors
    /// When there are no profiles.
    pub fn core_of(&self, profiles: Profiles<'_>) -> Result<Core, WhyError> {
        Ok(self.core(profiles().map_err(WhyError::Profiles)?))
    }

    /// A scheduler that has seen all of it.
    pub fn core(&self, profiles: Vec<Profile>) -> Core {
        let mut core = Core::new(profiles, Waits::default());
        for o in &self.namespaces {
            core.namespace_changed(None, Some(o));
        }
        for o in &self.budgets {
            core.budget_changed(None, Some(o));
        }
        for o in &self.claims {
            core.claim_changed(None, Some(o));
        }
        for o in &self.volumes {
            core.volume_changed(None, Some(o));
        }
        for o in &self.classes {
            feeds::class_changed(&mut core, None, Some(o));
        }
        for o in &self.csi_nodes {
            feeds::limits_changed(&mut core, None, Some(o));
        }
        for o in &self.drivers {
            feeds::driver_changed(&mut core, None, Some(o));
        }
        for o in &self.capacities {
            feeds::capacity_changed(&mut core, None, Some(o));
        }
        for o in &self.attachments {
            feeds::attachment_changed(&mut core, None, Some(o));
        }
        for o in &self.device_claims {
            core.device_claim_changed(None, Some(o));
        }
        for o in &self.device_classes {
            feeds::device_class_changed(&mut core, None, Some(o));
        }
        for o in &self.device_slices {
            feeds::slice_changed(&mut core, None, Some(o));
        }
        if let Some(groups) = &self.pod_groups {
            core.pod_groups_served();
            for o in groups {
                feeds::pod_group_added(&mut core, o);
            }
        }
        for o in &self.services {
            feeds::service_changed(&mut core, None, Some(o));
        }
        for o in &self.replication_controllers {
            feeds::replication_controller_changed(&mut core, None, Some(o));
        }
        for o in &self.replica_sets {
            feeds::replica_set_changed(&mut core, None, Some(o));
        }
        for o in &self.stateful_sets {
            feeds::stateful_set_changed(&mut core, None, Some(o));
        }
        for o in &self.nodes {
            core.node_changed(None, Some(o));
        }
        for o in &self.pods {
            core.pod_changed(None, Some(o), 0);
        }
        core
    }
}
