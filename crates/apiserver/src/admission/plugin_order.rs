//! The plugins of a cluster: which there are, in upstream's order, which are on when nobody says
//! otherwise, and what can be said about them.

use std::sync::Arc;

use super::{
    Admit, always_pull, anti_affinity, certificates, claim_resize, claim_status, declared_features,
    default_class, escalation, event_rate, extended_resources, external_ips, in_use, ingress_class,
    limit_ranges, namespaces, node_restriction, node_selector, owners, plain, pod_certificates,
    pod_groups, pod_resize, pod_security, policies, priority, quotas, runtime_class,
    service_account, taints, tls_secrets, toleration_lists, tolerations, topology, trust_bundles,
    webhooks,
};

/// The configuration of the plugins.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long pods stay on a node that is not ready; see `tolerations`.
    pub default_not_ready_toleration_seconds: i64,
    /// The same for a node that is not heard of.
    pub default_unreachable_toleration_seconds: i64,
    pub pod_security: pod_security::Configuration,
    /// What may be used only where a quota covers it.
    pub limited: Vec<quota::Limited>,
    pub event_limits: Vec<event_rate::Limit>,
    pub node_selectors: node_selector::Selectors,
    pub tolerations: toleration_lists::Lists,
    /// By name; checked by [`Options::choose`].
    enabled: Vec<String>,
    disabled: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            default_not_ready_toleration_seconds: tolerations::DEFAULT_SECONDS,
            default_unreachable_toleration_seconds: tolerations::DEFAULT_SECONDS,
            pod_security: pod_security::Configuration::default(),
            limited: Vec::new(),
            event_limits: Vec::new(),
            node_selectors: node_selector::Selectors::default(),
            tolerations: toleration_lists::Lists::default(),
            enabled: Vec::new(),
            disabled: Vec::new(),
        }
    }
}

/// Why plugins cannot be chosen so; texts are upstream's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    #[error("{flag} plugin {name:?} is unknown")]
    Unknown { flag: &'static str, name: String },
    #[error("[{0}] in enable-admission-plugins and disable-admission-plugins overlapped")]
    Both(String),
    #[error("enable-admission-plugins plugin {name:?} is not supported: {why}")]
    Unsupported { name: String, why: &'static str },
    #[error("enable-admission-plugins plugin {0:?} needs a configuration")]
    Unconfigured(String),
}

type Make = fn(&Options) -> Arc<dyn Admit>;

enum Use {
    /// A part of the server that is not a plugin upstream: never off.
    Always(Make),
    On(Make),
    Off(Make),
    /// Does nothing: what it looks at is not served, or is decided elsewhere.
    Idle,
    Unsupported(&'static str),
}

struct KnownPlugin {
    name: &'static str,
    used: Use,
}

const fn known(name: &'static str, used: Use) -> KnownPlugin {
    KnownPlugin { name, used }
}

fn arc<P: Admit>(plugin: P) -> Arc<dyn Admit> {
    Arc::new(plugin)
}

/// All plugins, in the order in which they run. A quota is charged last, when nobody refuses any
/// more.
const PLUGINS: &[KnownPlugin] = &[
    known("AlwaysAdmit", Use::Off(|_| arc(plain::AlwaysAdmit))),
    known(
        "NamespaceAutoProvision",
        Use::Unsupported("no rule of this server writes another object"),
    ),
    known(
        "NamespaceLifecycle",
        Use::On(|_| arc(namespaces::NamespaceLifecycle)),
    ),
    known("NamespaceExists", Use::Off(|_| arc(plain::NamespaceExists))),
    known(
        "LimitPodHardAntiAffinityTopology",
        Use::Off(|_| arc(anti_affinity::LimitPodHardAntiAffinityTopology)),
    ),
    known("LimitRanger", Use::On(|_| arc(limit_ranges::LimitRanger))),
    known(
        "ServiceAccount",
        Use::On(|_| arc(service_account::ServiceAccount)),
    ),
    // Upstream's default is off, and every installer turns it on.
    known(
        "NodeRestriction",
        Use::On(|_| arc(node_restriction::NodeRestriction)),
    ),
    known(
        "TaintNodesByCondition",
        Use::On(|_| arc(taints::TaintNodesByCondition)),
    ),
    known(
        "AlwaysPullImages",
        Use::Off(|_| arc(always_pull::AlwaysPullImages)),
    ),
    known(
        "ImagePolicyWebhook",
        Use::Unsupported("a validating webhook can do what it did"),
    ),
    known(
        "PodSecurity",
        Use::On(|o| arc(pod_security::PodSecurity::new(o.pod_security.clone()))),
    ),
    known(
        "PodNodeSelector",
        Use::Off(|o| arc(node_selector::PodNodeSelector(o.node_selectors.clone()))),
    ),
    known("Priority", Use::On(|_| arc(priority::Priority))),
    known(
        "DefaultTolerationSeconds",
        Use::On(|o| {
            arc(tolerations::DefaultTolerationSeconds {
                not_ready_seconds: o.default_not_ready_toleration_seconds,
                unreachable_seconds: o.default_unreachable_toleration_seconds,
            })
        }),
    ),
    known(
        "PodTolerationRestriction",
        Use::Off(|o| {
            arc(toleration_lists::PodTolerationRestriction(
                o.tolerations.clone(),
            ))
        }),
    ),
    known(
        "EventRateLimit",
        Use::Off(|o| arc(event_rate::EventRateLimit::new(&o.event_limits))),
    ),
    known(
        "ExtendedResourceToleration",
        Use::Off(|_| arc(extended_resources::ExtendedResourceToleration)),
    ),
    known(
        "DefaultStorageClass",
        Use::On(|_| arc(default_class::STORAGE)),
    ),
    known(
        "StorageObjectInUseProtection",
        Use::On(|_| arc(in_use::STORAGE)),
    ),
    known("PodGroupProtection", Use::On(|_| arc(in_use::POD_GROUPS))),
    known(
        "OwnerReferencesPermissionEnforcement",
        Use::Off(|_| arc(owners::OwnerReferencesPermissionEnforcement)),
    ),
    known(
        "PersistentVolumeClaimResize",
        Use::On(|_| arc(claim_resize::PersistentVolumeClaimResize)),
    ),
    known(
        "RuntimeClass",
        Use::On(|_| arc(runtime_class::RuntimeClass)),
    ),
    known(
        "CertificateRequester",
        Use::Always(|_| arc(certificates::Requester)),
    ),
    known(
        "CertificateApproval",
        Use::On(|_| arc(certificates::CertificateApproval)),
    ),
    known(
        "CertificateSigning",
        Use::On(|_| arc(certificates::CertificateSigning)),
    ),
    known(
        "PodCertificateRequests",
        Use::Always(|_| arc(pod_certificates::PodCertificateRequests)),
    ),
    known(
        "TrustAnchors",
        Use::Always(|_| arc(trust_bundles::TrustAnchors)),
    ),
    known("TlsSecrets", Use::Always(|_| arc(tls_secrets::TlsSecrets))),
    known(
        "ResourceClaimStatus",
        Use::Always(|_| arc(claim_status::ClaimStatus)),
    ),
    known(
        "ClusterTrustBundleAttest",
        Use::On(|_| arc(trust_bundles::ClusterTrustBundleAttest)),
    ),
    known(
        "CertificateSubjectRestriction",
        Use::On(|_| arc(certificates::CertificateSubjectRestriction)),
    ),
    known(
        "DefaultIngressClass",
        Use::On(|_| arc(default_class::INGRESS)),
    ),
    known(
        "IngressHasController",
        Use::Always(|_| arc(ingress_class::IngressHasController)),
    ),
    known(
        "DenyServiceExternalIPs",
        Use::Off(|_| arc(external_ips::DenyServiceExternalIPs)),
    ),
    known(
        "PodTopologyLabels",
        Use::On(|_| arc(topology::PodTopologyLabels)),
    ),
    known(
        "PodGroupWorkloadExists",
        Use::On(|_| arc(pod_groups::PodGroupWorkloadExists)),
    ),
    known(
        "NodeDeclaredFeatureValidator",
        Use::On(|_| arc(declared_features::NodeDeclaredFeatureValidator)),
    ),
    known("JobValidation", Use::Idle),
    known(
        "PodResizeValidator",
        Use::On(|_| arc(pod_resize::PodResizeValidator)),
    ),
    known(
        "MutatingAdmissionPolicy",
        Use::On(|_| arc(policies::MutatingPolicies::default())),
    ),
    known(
        "MutatingAdmissionWebhook",
        Use::On(|_| arc(webhooks::MutatingWebhooks::default())),
    ),
    known(
        "AdmissionPolicyParameters",
        Use::Always(|_| arc(policies::Parameters)),
    ),
    known(
        "ValidatingAdmissionPolicy",
        Use::On(|_| arc(policies::ValidatingPolicies::default())),
    ),
    known(
        "ValidatingAdmissionWebhook",
        Use::On(|_| arc(webhooks::ValidatingWebhooks::default())),
    ),
    // It looks at what all others have made of an object.
    known(
        "RBACEscalation",
        Use::Always(|_| arc(escalation::Escalation)),
    ),
    known(
        "ResourceQuota",
        Use::On(|o| arc(quotas::ResourceQuota::new(o.limited.clone()))),
    ),
    known("AlwaysDeny", Use::Off(|_| arc(plain::AlwaysDeny))),
];

/// The plugin of a name that flags and configurations may use.
fn find(name: &str) -> Option<&'static KnownPlugin> {
    let all = PLUGINS.iter().find(|p| p.name == name);
    all.filter(|p| !matches!(p.used, Use::Always(_)))
}

/// Whether a plugin has this name.
pub fn is_known(name: &str) -> bool {
    find(name).is_some()
}

impl Options {
    /// Turns plugins on and off, by `--enable-admission-plugins` and `--disable-admission-plugins`.
    pub fn choose(
        &mut self,
        enabled: Vec<String>,
        disabled: Vec<String>,
    ) -> Result<(), ChoiceError> {
        for (flag, names) in [
            ("enable-admission-plugins", &enabled),
            ("disable-admission-plugins", &disabled),
        ] {
            if let Some(name) = names.iter().find(|n| !is_known(n)) {
                let name = name.clone();
                return Err(ChoiceError::Unknown { flag, name });
            }
        }
        let both = enabled.iter().filter(|n| disabled.contains(n));
        let mut both: Vec<&str> = both.map(String::as_str).collect();
        both.sort_unstable();
        if !both.is_empty() {
            return Err(ChoiceError::Both(both.join(" ")));
        }
        for name in &enabled {
            match find(name).map(|p| &p.used) {
                Some(Use::Unsupported(why)) => {
                    let name = name.clone();
                    return Err(ChoiceError::Unsupported { name, why });
                }
                Some(Use::Idle) => {
                    tracing::warn!("admission plugin {name} has nothing to do in this cluster");
                }
                _ => {}
            }
        }
        if enabled.iter().any(|n| n == "EventRateLimit") && self.event_limits.is_empty() {
            return Err(ChoiceError::Unconfigured("EventRateLimit".to_owned()));
        }
        (self.enabled, self.disabled) = (enabled, disabled);
        Ok(())
    }
}

/// The plugins that are on, in order.
pub fn standard(options: &Options) -> Vec<Arc<dyn Admit>> {
    let has = |names: &[String], name: &str| names.iter().any(|n| n == name);
    let made = PLUGINS.iter().filter_map(|plugin| match plugin.used {
        Use::Always(make) => Some(make(options)),
        Use::On(make) => (!has(&options.disabled, plugin.name)).then(|| make(options)),
        Use::Off(make) => has(&options.enabled, plugin.name).then(|| make(options)),
        Use::Idle | Use::Unsupported(_) => None,
    });
    made.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(enabled: &[&str], disabled: &[&str]) -> Result<Vec<&'static str>, String> {
        let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let mut options = Options::default();
        options
            .choose(own(enabled), own(disabled))
            .map_err(|e| e.to_string())?;
        Ok(standard(&options).iter().map(|p| p.name()).collect())
    }

    #[test]
    fn plugins_are_chosen_by_name() {
        let all = choose(&[], &[]).expect("defaults");
        assert!(all.contains(&"LimitRanger") && !all.contains(&"AlwaysPullImages"));
        assert_eq!(all.last(), Some(&"ResourceQuota"));
        let other = choose(&["AlwaysPullImages"], &["LimitRanger"]).expect("known names");
        assert!(!other.contains(&"LimitRanger") && other.contains(&"AlwaysPullImages"));
        assert_eq!(other.len(), all.len());
        for (enabled, disabled, why) in [
            (
                "Nothing",
                "",
                "enable-admission-plugins plugin \"Nothing\" is unknown",
            ),
            (
                "",
                "RBACEscalation",
                "disable-admission-plugins plugin \"RBACEscalation\" is unknown",
            ),
            (
                "Priority",
                "Priority",
                "[Priority] in enable-admission-plugins and disable-admission-plugins overlapped",
            ),
            (
                "ImagePolicyWebhook",
                "",
                "enable-admission-plugins plugin \"ImagePolicyWebhook\" is not supported: a validating webhook can do what it did",
            ),
            (
                "EventRateLimit",
                "",
                "enable-admission-plugins plugin \"EventRateLimit\" needs a configuration",
            ),
        ] {
            let names = |n: &'static str| if n.is_empty() { vec![] } else { vec![n] };
            assert_eq!(
                choose(&names(enabled), &names(disabled)),
                Err(why.to_owned())
            );
        }
    }

    #[test]
    fn every_plugin_has_the_name_of_its_row() {
        let all: Vec<String> = PLUGINS
            .iter()
            .filter(|p| matches!(p.used, Use::Off(_)))
            .map(|p| p.name.to_owned())
            .collect();
        let options = Options {
            enabled: all,
            ..Options::default()
        };
        let names: Vec<&str> = standard(&options).iter().map(|p| p.name()).collect();
        let rows = PLUGINS
            .iter()
            .filter(|p| !matches!(p.used, Use::Idle | Use::Unsupported(_)));
        let rows: Vec<&str> = rows.map(|p| p.name).collect();
        assert_eq!(names, rows);
    }
}
