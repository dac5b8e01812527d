//! Rows of `admissionregistration.k8s.io`, `apiextensions.k8s.io`, `apiregistration.k8s.io`.

use std::sync::Arc;

use super::columns;
use super::def::*;
use crate::strategies::{others, policies, webhooks};

pub(super) const AGGREGATION: &[Def] =
    &[
        cluster("apiregistration.k8s.io", "APIService", "apiservices", V1)
            .versioned()
            .strategy(|| Arc::new(others::ApiService))
            .columns(columns::API_SERVICES)
            .categories(&["api-extensions"])
            .subs(&[STATUS])
            .prefix("apiregistration.k8s.io/apiservices"),
    ];
pub(super) const ROWS: &[Def] = &[
    cluster(
        "admissionregistration.k8s.io",
        "MutatingAdmissionPolicy",
        "mutatingadmissionpolicies",
        &["v1", "v1beta1", "v1alpha1"],
    )
    .versioned()
    .strategy(|| Arc::new(policies::AdmissionPolicy { mutating: true }))
    .columns(columns::MUTATING_POLICIES)
    .categories(&["api-extensions"])
    .stored("admissionregistration.k8s.io", "v1beta1"),
    cluster(
        "admissionregistration.k8s.io",
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
        &["v1", "v1beta1", "v1alpha1"],
    )
    .versioned()
    .strategy(|| Arc::new(policies::AdmissionBinding { mutating: true }))
    .columns(columns::POLICY_BINDINGS)
    .categories(&["api-extensions"])
    .stored("admissionregistration.k8s.io", "v1beta1"),
    cluster(
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        V1,
    )
    .versioned()
    .strategy(|| Arc::new(webhooks::Webhooks { mutating: true }))
    .columns(columns::WEBHOOKS)
    .categories(&["api-extensions"]),
    cluster(
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        V1,
    )
    .versioned()
    .strategy(|| Arc::new(policies::AdmissionPolicy { mutating: false }))
    .columns(columns::VALIDATING_POLICIES)
    .categories(&["api-extensions"])
    .subs(&[STATUS]),
    cluster(
        "admissionregistration.k8s.io",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        V1,
    )
    .versioned()
    .strategy(|| Arc::new(policies::AdmissionBinding { mutating: false }))
    .columns(columns::POLICY_BINDINGS)
    .categories(&["api-extensions"]),
    cluster(
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        V1,
    )
    .versioned()
    .strategy(|| Arc::new(webhooks::Webhooks { mutating: false }))
    .columns(columns::WEBHOOKS)
    .categories(&["api-extensions"]),
    cluster(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        V1,
    )
    .versioned()
    .strategy(|| Arc::new(crate::custom::Definition))
    .columns(columns::NAME_CREATED)
    .short(&["crd", "crds"])
    .categories(&["api-extensions"])
    .subs(&[STATUS])
    .prefix("apiextensions.k8s.io/customresourcedefinitions"),
];
