//! The protobuf of every kind against `k8s-pb`, an independent implementation made from upstream's
//! own definitions (of v1.35, so that fields newer than that are unknown to it; `cargo xtask compare
//! --golden` holds v1.36's own messages against ours, where upstream's sources are at hand).

mod common;

use std::collections::BTreeSet;

use k8s_pb::{api, apiextensions_apiserver, apimachinery, kube_aggregator, metrics};
use prost::Message;
use schema::{builtin, decode, proto};
use serde_json::{Value, json};

/// What came of a kind's way through the other side.
struct Through {
    name: &'static str,
    /// Fields that the other side does not know.
    lost: BTreeSet<String>,
    /// Of what it knows, its bytes are ours.
    is_equal: bool,
}

/// Our message of a full object, read and written again by the other side. All that it knows must
/// come back.
fn through<M: Message + Default>(name: &'static str) -> Through {
    let table = builtin();
    let id = table.by_name(name).unwrap_or_else(|| panic!("no {name}"));
    let object = common::full(table, id);
    let ours = proto::encode(table, id, &object).expect("encodes");
    let theirs = M::decode(&*ours)
        .unwrap_or_else(|e| panic!("{name}: {e}"))
        .encode_to_vec();
    let back = proto::decode(table, id, &theirs).unwrap_or_else(|e| panic!("{name}: {e}"));
    let before = proto::decode(table, id, &ours).expect("reads its own message");
    let mut lost = BTreeSet::new();
    compare(name, &before, &back, "", &mut lost);
    let known = if lost.is_empty() {
        ours
    } else {
        proto::encode(table, id, &back).expect("encodes what the other side knows")
    };
    Through {
        name,
        lost,
        is_equal: known == theirs,
    }
}

fn compare(name: &str, a: &Value, b: &Value, path: &str, lost: &mut BTreeSet<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => compare(name, a, b, &format!("{path}.{key}"), lost),
                    (Some(_), None) => {
                        lost.insert(key.clone());
                    }
                    _ => panic!("{name}{path}.{key} came from nowhere"),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter()
                .zip(b)
                .for_each(|(a, b)| compare(name, a, b, path, lost));
        }
        // A field that is always written comes back as its zero value.
        (a, b) if a != b && (b.is_null() || b == &json!("") || b == &json!(0)) => {
            lost.insert(path.rsplit('.').next().unwrap_or_default().to_owned());
        }
        (a, b) => assert_eq!(a, b, "{name}{path}"),
    }
}

macro_rules! kinds {
    ($($name:literal => $type:ty,)*) => {
        const NAMES: &[&str] = &[$($name,)*];

        fn all() -> Vec<Through> {
            vec![$(through::<$type>($name),)*]
        }
    };
}

kinds! {
    "io.k8s.api.admission.v1.AdmissionReview" => api::admission::v1::AdmissionReview,
    "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration" => api::admissionregistration::v1::MutatingWebhookConfiguration,
    "io.k8s.api.admissionregistration.v1.MutatingWebhookConfigurationList" => api::admissionregistration::v1::MutatingWebhookConfigurationList,
    "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy" => api::admissionregistration::v1::ValidatingAdmissionPolicy,
    "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding" => api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBindingList" => api::admissionregistration::v1::ValidatingAdmissionPolicyBindingList,
    "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyList" => api::admissionregistration::v1::ValidatingAdmissionPolicyList,
    "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration" => api::admissionregistration::v1::ValidatingWebhookConfiguration,
    "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfigurationList" => api::admissionregistration::v1::ValidatingWebhookConfigurationList,
    "io.k8s.api.admissionregistration.v1alpha1.MutatingAdmissionPolicy" => api::admissionregistration::v1alpha1::MutatingAdmissionPolicy,
    "io.k8s.api.admissionregistration.v1alpha1.MutatingAdmissionPolicyBinding" => api::admissionregistration::v1alpha1::MutatingAdmissionPolicyBinding,
    "io.k8s.api.admissionregistration.v1alpha1.MutatingAdmissionPolicyBindingList" => api::admissionregistration::v1alpha1::MutatingAdmissionPolicyBindingList,
    "io.k8s.api.admissionregistration.v1alpha1.MutatingAdmissionPolicyList" => api::admissionregistration::v1alpha1::MutatingAdmissionPolicyList,
    "io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicy" => api::admissionregistration::v1beta1::MutatingAdmissionPolicy,
    "io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicyBinding" => api::admissionregistration::v1beta1::MutatingAdmissionPolicyBinding,
    "io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicyBindingList" => api::admissionregistration::v1beta1::MutatingAdmissionPolicyBindingList,
    "io.k8s.api.admissionregistration.v1beta1.MutatingAdmissionPolicyList" => api::admissionregistration::v1beta1::MutatingAdmissionPolicyList,
    "io.k8s.api.apidiscovery.v2.APIGroupDiscovery" => api::apidiscovery::v2::APIGroupDiscovery,
    "io.k8s.api.apidiscovery.v2.APIGroupDiscoveryList" => api::apidiscovery::v2::APIGroupDiscoveryList,
    "io.k8s.api.apidiscovery.v2beta1.APIGroupDiscovery" => api::apidiscovery::v2beta1::APIGroupDiscovery,
    "io.k8s.api.apidiscovery.v2beta1.APIGroupDiscoveryList" => api::apidiscovery::v2beta1::APIGroupDiscoveryList,
    "io.k8s.api.apiserverinternal.v1alpha1.StorageVersion" => api::apiserverinternal::v1alpha1::StorageVersion,
    "io.k8s.api.apiserverinternal.v1alpha1.StorageVersionList" => api::apiserverinternal::v1alpha1::StorageVersionList,
    "io.k8s.api.apps.v1.ControllerRevision" => api::apps::v1::ControllerRevision,
    "io.k8s.api.apps.v1.ControllerRevisionList" => api::apps::v1::ControllerRevisionList,
    "io.k8s.api.apps.v1.DaemonSet" => api::apps::v1::DaemonSet,
    "io.k8s.api.apps.v1.DaemonSetList" => api::apps::v1::DaemonSetList,
    "io.k8s.api.apps.v1.Deployment" => api::apps::v1::Deployment,
    "io.k8s.api.apps.v1.DeploymentList" => api::apps::v1::DeploymentList,
    "io.k8s.api.apps.v1.ReplicaSet" => api::apps::v1::ReplicaSet,
    "io.k8s.api.apps.v1.ReplicaSetList" => api::apps::v1::ReplicaSetList,
    "io.k8s.api.apps.v1.StatefulSet" => api::apps::v1::StatefulSet,
    "io.k8s.api.apps.v1.StatefulSetList" => api::apps::v1::StatefulSetList,
    "io.k8s.api.authentication.v1.SelfSubjectReview" => api::authentication::v1::SelfSubjectReview,
    "io.k8s.api.authentication.v1.TokenRequest" => api::authentication::v1::TokenRequest,
    "io.k8s.api.authentication.v1.TokenReview" => api::authentication::v1::TokenReview,
    "io.k8s.api.authorization.v1.LocalSubjectAccessReview" => api::authorization::v1::LocalSubjectAccessReview,
    "io.k8s.api.authorization.v1.SelfSubjectAccessReview" => api::authorization::v1::SelfSubjectAccessReview,
    "io.k8s.api.authorization.v1.SelfSubjectRulesReview" => api::authorization::v1::SelfSubjectRulesReview,
    "io.k8s.api.authorization.v1.SubjectAccessReview" => api::authorization::v1::SubjectAccessReview,
    "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler" => api::autoscaling::v1::HorizontalPodAutoscaler,
    "io.k8s.api.autoscaling.v1.HorizontalPodAutoscalerList" => api::autoscaling::v1::HorizontalPodAutoscalerList,
    "io.k8s.api.autoscaling.v1.Scale" => api::autoscaling::v1::Scale,
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler" => api::autoscaling::v2::HorizontalPodAutoscaler,
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerList" => api::autoscaling::v2::HorizontalPodAutoscalerList,
    "io.k8s.api.batch.v1.CronJob" => api::batch::v1::CronJob,
    "io.k8s.api.batch.v1.CronJobList" => api::batch::v1::CronJobList,
    "io.k8s.api.batch.v1.Job" => api::batch::v1::Job,
    "io.k8s.api.batch.v1.JobList" => api::batch::v1::JobList,
    "io.k8s.api.certificates.v1.CertificateSigningRequest" => api::certificates::v1::CertificateSigningRequest,
    "io.k8s.api.certificates.v1.CertificateSigningRequestList" => api::certificates::v1::CertificateSigningRequestList,
    "io.k8s.api.certificates.v1alpha1.ClusterTrustBundle" => api::certificates::v1alpha1::ClusterTrustBundle,
    "io.k8s.api.certificates.v1alpha1.ClusterTrustBundleList" => api::certificates::v1alpha1::ClusterTrustBundleList,
    "io.k8s.api.certificates.v1beta1.ClusterTrustBundle" => api::certificates::v1beta1::ClusterTrustBundle,
    "io.k8s.api.certificates.v1beta1.ClusterTrustBundleList" => api::certificates::v1beta1::ClusterTrustBundleList,
    "io.k8s.api.certificates.v1beta1.PodCertificateRequest" => api::certificates::v1beta1::PodCertificateRequest,
    "io.k8s.api.certificates.v1beta1.PodCertificateRequestList" => api::certificates::v1beta1::PodCertificateRequestList,
    "io.k8s.api.coordination.v1.Lease" => api::coordination::v1::Lease,
    "io.k8s.api.coordination.v1.LeaseList" => api::coordination::v1::LeaseList,
    "io.k8s.api.coordination.v1alpha2.LeaseCandidate" => api::coordination::v1alpha2::LeaseCandidate,
    "io.k8s.api.coordination.v1alpha2.LeaseCandidateList" => api::coordination::v1alpha2::LeaseCandidateList,
    "io.k8s.api.coordination.v1beta1.LeaseCandidate" => api::coordination::v1beta1::LeaseCandidate,
    "io.k8s.api.coordination.v1beta1.LeaseCandidateList" => api::coordination::v1beta1::LeaseCandidateList,
    "io.k8s.api.core.v1.Binding" => api::core::v1::Binding,
    "io.k8s.api.core.v1.ComponentStatus" => api::core::v1::ComponentStatus,
    "io.k8s.api.core.v1.ComponentStatusList" => api::core::v1::ComponentStatusList,
    "io.k8s.api.core.v1.ConfigMap" => api::core::v1::ConfigMap,
    "io.k8s.api.core.v1.ConfigMapList" => api::core::v1::ConfigMapList,
    "io.k8s.api.core.v1.Endpoints" => api::core::v1::Endpoints,
    "io.k8s.api.core.v1.EndpointsList" => api::core::v1::EndpointsList,
    "io.k8s.api.core.v1.Event" => api::core::v1::Event,
    "io.k8s.api.core.v1.EventList" => api::core::v1::EventList,
    "io.k8s.api.core.v1.LimitRange" => api::core::v1::LimitRange,
    "io.k8s.api.core.v1.LimitRangeList" => api::core::v1::LimitRangeList,
    "io.k8s.api.core.v1.Namespace" => api::core::v1::Namespace,
    "io.k8s.api.core.v1.NamespaceList" => api::core::v1::NamespaceList,
    "io.k8s.api.core.v1.Node" => api::core::v1::Node,
    "io.k8s.api.core.v1.NodeList" => api::core::v1::NodeList,
    "io.k8s.api.core.v1.NodeProxyOptions" => api::core::v1::NodeProxyOptions,
    "io.k8s.api.core.v1.PersistentVolume" => api::core::v1::PersistentVolume,
    "io.k8s.api.core.v1.PersistentVolumeClaim" => api::core::v1::PersistentVolumeClaim,
    "io.k8s.api.core.v1.PersistentVolumeClaimList" => api::core::v1::PersistentVolumeClaimList,
    "io.k8s.api.core.v1.PersistentVolumeList" => api::core::v1::PersistentVolumeList,
    "io.k8s.api.core.v1.Pod" => api::core::v1::Pod,
    "io.k8s.api.core.v1.PodAttachOptions" => api::core::v1::PodAttachOptions,
    "io.k8s.api.core.v1.PodExecOptions" => api::core::v1::PodExecOptions,
    "io.k8s.api.core.v1.PodList" => api::core::v1::PodList,
    "io.k8s.api.core.v1.PodLogOptions" => api::core::v1::PodLogOptions,
    "io.k8s.api.core.v1.PodPortForwardOptions" => api::core::v1::PodPortForwardOptions,
    "io.k8s.api.core.v1.PodProxyOptions" => api::core::v1::PodProxyOptions,
    "io.k8s.api.core.v1.PodStatusResult" => api::core::v1::PodStatusResult,
    "io.k8s.api.core.v1.PodTemplate" => api::core::v1::PodTemplate,
    "io.k8s.api.core.v1.PodTemplateList" => api::core::v1::PodTemplateList,
    "io.k8s.api.core.v1.RangeAllocation" => api::core::v1::RangeAllocation,
    "io.k8s.api.core.v1.ReplicationController" => api::core::v1::ReplicationController,
    "io.k8s.api.core.v1.ReplicationControllerList" => api::core::v1::ReplicationControllerList,
    "io.k8s.api.core.v1.ResourceQuota" => api::core::v1::ResourceQuota,
    "io.k8s.api.core.v1.ResourceQuotaList" => api::core::v1::ResourceQuotaList,
    "io.k8s.api.core.v1.Secret" => api::core::v1::Secret,
    "io.k8s.api.core.v1.SecretList" => api::core::v1::SecretList,
    "io.k8s.api.core.v1.SerializedReference" => api::core::v1::SerializedReference,
    "io.k8s.api.core.v1.Service" => api::core::v1::Service,
    "io.k8s.api.core.v1.ServiceAccount" => api::core::v1::ServiceAccount,
    "io.k8s.api.core.v1.ServiceAccountList" => api::core::v1::ServiceAccountList,
    "io.k8s.api.core.v1.ServiceList" => api::core::v1::ServiceList,
    "io.k8s.api.core.v1.ServiceProxyOptions" => api::core::v1::ServiceProxyOptions,
    "io.k8s.api.discovery.v1.EndpointSlice" => api::discovery::v1::EndpointSlice,
    "io.k8s.api.discovery.v1.EndpointSliceList" => api::discovery::v1::EndpointSliceList,
    "io.k8s.api.events.v1.Event" => api::events::v1::Event,
    "io.k8s.api.events.v1.EventList" => api::events::v1::EventList,
    "io.k8s.api.flowcontrol.v1.FlowSchema" => api::flowcontrol::v1::FlowSchema,
    "io.k8s.api.flowcontrol.v1.FlowSchemaList" => api::flowcontrol::v1::FlowSchemaList,
    "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration" => api::flowcontrol::v1::PriorityLevelConfiguration,
    "io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationList" => api::flowcontrol::v1::PriorityLevelConfigurationList,
    "io.k8s.api.networking.v1.IPAddress" => api::networking::v1::IPAddress,
    "io.k8s.api.networking.v1.IPAddressList" => api::networking::v1::IPAddressList,
    "io.k8s.api.networking.v1.Ingress" => api::networking::v1::Ingress,
    "io.k8s.api.networking.v1.IngressClass" => api::networking::v1::IngressClass,
    "io.k8s.api.networking.v1.IngressClassList" => api::networking::v1::IngressClassList,
    "io.k8s.api.networking.v1.IngressList" => api::networking::v1::IngressList,
    "io.k8s.api.networking.v1.NetworkPolicy" => api::networking::v1::NetworkPolicy,
    "io.k8s.api.networking.v1.NetworkPolicyList" => api::networking::v1::NetworkPolicyList,
    "io.k8s.api.networking.v1.ServiceCIDR" => api::networking::v1::ServiceCIDR,
    "io.k8s.api.networking.v1.ServiceCIDRList" => api::networking::v1::ServiceCIDRList,
    "io.k8s.api.networking.v1beta1.IPAddress" => api::networking::v1beta1::IPAddress,
    "io.k8s.api.networking.v1beta1.IPAddressList" => api::networking::v1beta1::IPAddressList,
    "io.k8s.api.networking.v1beta1.ServiceCIDR" => api::networking::v1beta1::ServiceCIDR,
    "io.k8s.api.networking.v1beta1.ServiceCIDRList" => api::networking::v1beta1::ServiceCIDRList,
    "io.k8s.api.node.v1.RuntimeClass" => api::node::v1::RuntimeClass,
    "io.k8s.api.node.v1.RuntimeClassList" => api::node::v1::RuntimeClassList,
    "io.k8s.api.policy.v1.Eviction" => api::policy::v1::Eviction,
    "io.k8s.api.policy.v1.PodDisruptionBudget" => api::policy::v1::PodDisruptionBudget,
    "io.k8s.api.policy.v1.PodDisruptionBudgetList" => api::policy::v1::PodDisruptionBudgetList,
    "io.k8s.api.rbac.v1.ClusterRole" => api::rbac::v1::ClusterRole,
    "io.k8s.api.rbac.v1.ClusterRoleBinding" => api::rbac::v1::ClusterRoleBinding,
    "io.k8s.api.rbac.v1.ClusterRoleBindingList" => api::rbac::v1::ClusterRoleBindingList,
    "io.k8s.api.rbac.v1.ClusterRoleList" => api::rbac::v1::ClusterRoleList,
    "io.k8s.api.rbac.v1.Role" => api::rbac::v1::Role,
    "io.k8s.api.rbac.v1.RoleBinding" => api::rbac::v1::RoleBinding,
    "io.k8s.api.rbac.v1.RoleBindingList" => api::rbac::v1::RoleBindingList,
    "io.k8s.api.rbac.v1.RoleList" => api::rbac::v1::RoleList,
    "io.k8s.api.resource.v1.DeviceClass" => api::resource::v1::DeviceClass,
    "io.k8s.api.resource.v1.DeviceClassList" => api::resource::v1::DeviceClassList,
    "io.k8s.api.resource.v1.ResourceClaim" => api::resource::v1::ResourceClaim,
    "io.k8s.api.resource.v1.ResourceClaimList" => api::resource::v1::ResourceClaimList,
    "io.k8s.api.resource.v1.ResourceClaimTemplate" => api::resource::v1::ResourceClaimTemplate,
    "io.k8s.api.resource.v1.ResourceClaimTemplateList" => api::resource::v1::ResourceClaimTemplateList,
    "io.k8s.api.resource.v1.ResourceSlice" => api::resource::v1::ResourceSlice,
    "io.k8s.api.resource.v1.ResourceSliceList" => api::resource::v1::ResourceSliceList,
    "io.k8s.api.resource.v1alpha3.DeviceTaintRule" => api::resource::v1alpha3::DeviceTaintRule,
    "io.k8s.api.resource.v1alpha3.DeviceTaintRuleList" => api::resource::v1alpha3::DeviceTaintRuleList,
    "io.k8s.api.resource.v1beta1.DeviceClass" => api::resource::v1beta1::DeviceClass,
    "io.k8s.api.resource.v1beta1.DeviceClassList" => api::resource::v1beta1::DeviceClassList,
    "io.k8s.api.resource.v1beta1.ResourceClaim" => api::resource::v1beta1::ResourceClaim,
    "io.k8s.api.resource.v1beta1.ResourceClaimList" => api::resource::v1beta1::ResourceClaimList,
    "io.k8s.api.resource.v1beta1.ResourceClaimTemplate" => api::resource::v1beta1::ResourceClaimTemplate,
    "io.k8s.api.resource.v1beta1.ResourceClaimTemplateList" => api::resource::v1beta1::ResourceClaimTemplateList,
    "io.k8s.api.resource.v1beta1.ResourceSlice" => api::resource::v1beta1::ResourceSlice,
    "io.k8s.api.resource.v1beta1.ResourceSliceList" => api::resource::v1beta1::ResourceSliceList,
    "io.k8s.api.resource.v1beta2.DeviceClass" => api::resource::v1beta2::DeviceClass,
    "io.k8s.api.resource.v1beta2.DeviceClassList" => api::resource::v1beta2::DeviceClassList,
    "io.k8s.api.resource.v1beta2.ResourceClaim" => api::resource::v1beta2::ResourceClaim,
    "io.k8s.api.resource.v1beta2.ResourceClaimList" => api::resource::v1beta2::ResourceClaimList,
    "io.k8s.api.resource.v1beta2.ResourceClaimTemplate" => api::resource::v1beta2::ResourceClaimTemplate,
    "io.k8s.api.resource.v1beta2.ResourceClaimTemplateList" => api::resource::v1beta2::ResourceClaimTemplateList,
    "io.k8s.api.resource.v1beta2.ResourceSlice" => api::resource::v1beta2::ResourceSlice,
    "io.k8s.api.resource.v1beta2.ResourceSliceList" => api::resource::v1beta2::ResourceSliceList,
    "io.k8s.api.scheduling.v1.PriorityClass" => api::scheduling::v1::PriorityClass,
    "io.k8s.api.scheduling.v1.PriorityClassList" => api::scheduling::v1::PriorityClassList,
    "io.k8s.api.storage.v1.CSIDriver" => api::storage::v1::CSIDriver,
    "io.k8s.api.storage.v1.CSIDriverList" => api::storage::v1::CSIDriverList,
    "io.k8s.api.storage.v1.CSINode" => api::storage::v1::CSINode,
    "io.k8s.api.storage.v1.CSINodeList" => api::storage::v1::CSINodeList,
    "io.k8s.api.storage.v1.CSIStorageCapacity" => api::storage::v1::CSIStorageCapacity,
    "io.k8s.api.storage.v1.CSIStorageCapacityList" => api::storage::v1::CSIStorageCapacityList,
    "io.k8s.api.storage.v1.StorageClass" => api::storage::v1::StorageClass,
    "io.k8s.api.storage.v1.StorageClassList" => api::storage::v1::StorageClassList,
    "io.k8s.api.storage.v1.VolumeAttachment" => api::storage::v1::VolumeAttachment,
    "io.k8s.api.storage.v1.VolumeAttachmentList" => api::storage::v1::VolumeAttachmentList,
    "io.k8s.api.storage.v1.VolumeAttributesClass" => api::storage::v1::VolumeAttributesClass,
    "io.k8s.api.storage.v1.VolumeAttributesClassList" => api::storage::v1::VolumeAttributesClassList,
    "io.k8s.api.storage.v1beta1.VolumeAttributesClass" => api::storage::v1beta1::VolumeAttributesClass,
    "io.k8s.api.storage.v1beta1.VolumeAttributesClassList" => api::storage::v1beta1::VolumeAttributesClassList,
    "io.k8s.api.storagemigration.v1beta1.StorageVersionMigration" => api::storagemigration::v1beta1::StorageVersionMigration,
    "io.k8s.api.storagemigration.v1beta1.StorageVersionMigrationList" => api::storagemigration::v1beta1::StorageVersionMigrationList,
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.ConversionReview" => apiextensions_apiserver::pkg::apis::apiextensions::v1::ConversionReview,
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition" => apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionList" => apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionList,
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup" => apimachinery::pkg::apis::meta::v1::APIGroup,
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList" => apimachinery::pkg::apis::meta::v1::APIGroupList,
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList" => apimachinery::pkg::apis::meta::v1::APIResourceList,
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions" => apimachinery::pkg::apis::meta::v1::APIVersions,
    "io.k8s.apimachinery.pkg.apis.meta.v1.CreateOptions" => apimachinery::pkg::apis::meta::v1::CreateOptions,
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions" => apimachinery::pkg::apis::meta::v1::DeleteOptions,
    "io.k8s.apimachinery.pkg.apis.meta.v1.GetOptions" => apimachinery::pkg::apis::meta::v1::GetOptions,
    "io.k8s.apimachinery.pkg.apis.meta.v1.List" => apimachinery::pkg::apis::meta::v1::List,
    "io.k8s.apimachinery.pkg.apis.meta.v1.ListOptions" => apimachinery::pkg::apis::meta::v1::ListOptions,
    "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata" => apimachinery::pkg::apis::meta::v1::PartialObjectMetadata,
    "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList" => apimachinery::pkg::apis::meta::v1::PartialObjectMetadataList,
    "io.k8s.apimachinery.pkg.apis.meta.v1.PatchOptions" => apimachinery::pkg::apis::meta::v1::PatchOptions,
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status" => apimachinery::pkg::apis::meta::v1::Status,
    "io.k8s.apimachinery.pkg.apis.meta.v1.TableOptions" => apimachinery::pkg::apis::meta::v1::TableOptions,
    "io.k8s.apimachinery.pkg.apis.meta.v1.UpdateOptions" => apimachinery::pkg::apis::meta::v1::UpdateOptions,
    "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent" => apimachinery::pkg::apis::meta::v1::WatchEvent,
    "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService" => kube_aggregator::pkg::apis::apiregistration::v1::APIService,
    "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceList" => kube_aggregator::pkg::apis::apiregistration::v1::APIServiceList,
    "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics" => metrics::pkg::apis::metrics::v1beta1::NodeMetrics,
    "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetricsList" => metrics::pkg::apis::metrics::v1beta1::NodeMetricsList,
    "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics" => metrics::pkg::apis::metrics::v1beta1::PodMetrics,
    "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetricsList" => metrics::pkg::apis::metrics::v1beta1::PodMetricsList,
}

#[test]
fn every_kind_passes_through_the_other_implementation() {
    let all = all();
    let whole = all.iter().filter(|t| t.lost.is_empty()).count();
    let equal = all.iter().filter(|t| t.is_equal).count();
    let other: Vec<&str> = all.iter().filter(|t| !t.is_equal).map(|t| t.name).collect();
    let new: BTreeSet<&String> = all.iter().flat_map(|t| &t.lost).collect();
    let new: Vec<&str> = new.into_iter().map(String::as_str).collect();
    expect_test::expect![[r#"
        210 kinds, 209 with equal bytes, 103 of them whole
        a new field is written always:
        io.k8s.apimachinery.pkg.apis.meta.v1.ListOptions
        unknown to v1.35:
        bools
        ints
        message
        nodeAllocatableResourceClaimStatuses
        nodeAllocatableResourceMappings
        preventPodSchedulingIfMissing
        schedulingGroup
        shardInfo
        shardSelector
        strings
        stubPKCS10Request
        versions
        volumeStatus
    "#]]
    .assert_eq(&format!(
        "{} kinds, {equal} with equal bytes, {whole} of them whole\n\
        a new field is written always:\n{}\nunknown to v1.35:\n{}\n",
        all.len(),
        other.join("\n"),
        new.join("\n")
    ));
}

/// Kinds with a protobuf form that have no counterpart, so that none is forgotten.
#[test]
fn kinds_that_the_other_implementation_lacks() {
    let lacking: Vec<&str> = builtin()
        .types()
        .iter()
        .filter(|t| !t.gvks.is_empty() && t.has_proto() && !NAMES.contains(&&*t.name))
        .map(|t| &*t.name)
        .collect();
    expect_test::expect![[r#"
        io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy
        io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding
        io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBindingList
        io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyList
        io.k8s.api.resource.v1alpha3.ResourcePoolStatusRequest
        io.k8s.api.resource.v1alpha3.ResourcePoolStatusRequestList
        io.k8s.api.resource.v1beta2.DeviceTaintRule
        io.k8s.api.resource.v1beta2.DeviceTaintRuleList
        io.k8s.api.scheduling.v1alpha2.PodGroup
        io.k8s.api.scheduling.v1alpha2.PodGroupList
        io.k8s.api.scheduling.v1alpha2.Workload
        io.k8s.api.scheduling.v1alpha2.WorkloadList
    "#]]
    .assert_eq(&format!("{}\n", lacking.join("\n")));
}

/// Names, not only numbers: a message built by hand from the other side's fields.
#[test]
fn a_pod_of_the_other_implementation() {
    use api::core::v1::{Container, ContainerPort, Pod, PodSpec, Probe, ProbeHandler};
    use apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
    use apimachinery::pkg::util::intstr::IntOrString;
    let probe = Probe {
        handler: Some(ProbeHandler {
            http_get: Some(api::core::v1::HttpGetAction {
                path: Some("/healthz".into()),
                port: Some(IntOrString {
                    r#type: Some(1),
                    str_val: Some("web".into()),
                    int_val: None,
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        period_seconds: Some(3),
        ..Default::default()
    };
    let pod = Pod {
        metadata: Some(ObjectMeta {
            name: Some("p".into()),
            uid: Some("u-1".into()),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            creation_timestamp: Some(Time {
                seconds: Some(1_767_323_045),
                nanos: Some(0),
            }),
            ..Default::default()
        }),
        spec: Some(PodSpec {
            termination_grace_period_seconds: Some(0),
            host_network: Some(true),
            containers: vec![Container {
                name: Some("c".into()),
                image: Some("i:1".into()),
                ports: vec![ContainerPort {
                    container_port: Some(80),
                    ..Default::default()
                }],
                liveness_probe: Some(probe),
                ..Default::default()
            }],
            ..Default::default()
        }),
        status: None,
    };
    let table = builtin();
    let id = table.by_gvk("", "v1", "Pod").expect("Pod");
    let read = proto::decode(table, id, &pod.encode_to_vec()).expect("reads");
    let want = json!({
        "metadata": {
            "name": "p", "uid": "u-1", "labels": {"a": "b"},
            "creationTimestamp": "2026-01-02T03:04:05Z",
        },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "hostNetwork": true,
            "containers": [{
                "name": "c", "image": "i:1", "resources": {},
                "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": "web"}, "periodSeconds": 3},
            }],
        },
        "status": {},
    });
    assert_eq!(read, want);
    let decoded = decode::value(table, id, want.clone()).expect("decodes");
    assert_eq!(decoded.value, want);
    let ours =
        Pod::decode(&*proto::encode(table, id, &want).expect("writes")).expect("other reads");
    let spec = ours.spec.expect("spec");
    assert_eq!(spec.host_network, Some(true));
    assert_eq!(spec.termination_grace_period_seconds, Some(0));
    let handler = spec.containers[0]
        .liveness_probe
        .clone()
        .and_then(|p| p.handler);
    let http = handler.and_then(|h| h.http_get).expect("httpGet");
    assert_eq!(http.port.and_then(|p| p.str_val).as_deref(), Some("web"));
}

#[test]
fn the_envelope_of_the_other_implementation() {
    use apimachinery::pkg::runtime::{TypeMeta, Unknown};
    let envelope = Unknown {
        type_meta: Some(TypeMeta {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
        }),
        raw: Some(vec![1, 2, 3]),
        content_encoding: Some(String::new()),
        content_type: Some(String::new()),
    };
    let mut bytes = proto::MAGIC.to_vec();
    bytes.extend(envelope.encode_to_vec());
    assert_eq!(proto::wrap_unknown("v1", "Pod", &[1, 2, 3]), bytes);
    let read = proto::unwrap_unknown(&bytes).expect("reads");
    assert_eq!(
        (&*read.api_version, &*read.kind, &*read.raw),
        ("v1", "Pod", &[1u8, 2, 3][..])
    );
    assert_eq!(proto::unwrap_unknown(b"{}"), Err(proto::ProtoError::Magic));
}
