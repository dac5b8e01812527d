//! The plugins of every cluster, and what can be said about them.

use std::sync::Arc;

use super::{
    Admit, certificates, default_class, escalation, namespaces, node_restriction, policies,
    priority, resize, runtime_class, service_account, taints, tolerations, topology, webhooks,
};

/// The configuration of the plugins.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long pods stay on a node that is not ready; see `tolerations`.
    pub default_not_ready_toleration_seconds: i64,
    /// The same for a node that is not heard of.
    pub default_unreachable_toleration_seconds: i64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            default_not_ready_toleration_seconds: tolerations::DEFAULT_SECONDS,
            default_unreachable_toleration_seconds: tolerations::DEFAULT_SECONDS,
        }
    }
}

/// The plugins of every cluster, in upstream's order. RBAC's escalation rules come last: they
/// look at what all others have made of an object.
pub fn standard(options: &Options) -> Vec<Arc<dyn Admit>> {
    vec![
        Arc::new(namespaces::NamespaceLifecycle),
        Arc::new(service_account::ServiceAccount),
        Arc::new(node_restriction::NodeRestriction),
        Arc::new(taints::TaintNodesByCondition),
        Arc::new(priority::Priority),
        Arc::new(tolerations::DefaultTolerationSeconds {
            not_ready_seconds: options.default_not_ready_toleration_seconds,
            unreachable_seconds: options.default_unreachable_toleration_seconds,
        }),
        Arc::new(default_class::STORAGE),
        Arc::new(resize::PersistentVolumeClaimResize),
        Arc::new(runtime_class::RuntimeClass),
        Arc::new(certificates::Requester),
        Arc::new(certificates::CertificateApproval),
        Arc::new(certificates::CertificateSigning),
        Arc::new(certificates::CertificateSubjectRestriction),
        Arc::new(default_class::INGRESS),
        Arc::new(topology::PodTopologyLabels),
        Arc::new(policies::MutatingPolicies::default()),
        Arc::new(webhooks::MutatingWebhooks::default()),
        Arc::new(policies::Parameters),
        Arc::new(policies::ValidatingPolicies::default()),
        Arc::new(webhooks::ValidatingWebhooks::default()),
        Arc::new(escalation::Escalation),
    ]
}
