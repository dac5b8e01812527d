//! Rows of `authentication.k8s.io`, `authorization.k8s.io`, `rbac.authorization.k8s.io`, `certificates.k8s.io`.

use std::sync::Arc;

use super::columns;
use super::def::*;
use super::selectable_fields;
use crate::strategies::{access, pod_certificates};

pub(super) const ROWS: &[Def] = &[
    cluster(
        "authentication.k8s.io",
        "SelfSubjectReview",
        "selfsubjectreviews",
        V1,
    )
    .only_answered(),
    cluster("authentication.k8s.io", "TokenReview", "tokenreviews", V1).only_answered(),
    namespaced(
        "authorization.k8s.io",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        V1,
    )
    .only_answered(),
    cluster(
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        V1,
    )
    .only_answered(),
    cluster(
        "authorization.k8s.io",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        V1,
    )
    .only_answered(),
    cluster(
        "authorization.k8s.io",
        "SubjectAccessReview",
        "subjectaccessreviews",
        V1,
    )
    .only_answered(),
];
pub(super) const CERTIFICATES: &[Def] = &[
    cluster(
        "certificates.k8s.io",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        V1,
    )
    .fields(selectable_fields::SIGNING_REQUESTS)
    .strategy(|| Arc::new(access::SigningRequest))
    .columns(columns::SIGNING_REQUESTS)
    .short(&["csr"])
    .subs(&[Sub("approval", GET_PATCH_UPDATE, Body::Own), STATUS]),
    cluster(
        "certificates.k8s.io",
        "ClusterTrustBundle",
        "clustertrustbundles",
        &["v1beta1", "v1alpha1"],
    )
    .versioned()
    .fields(selectable_fields::SIGNING_REQUESTS)
    .strategy(|| Arc::new(access::TrustBundle))
    .columns(columns::TRUST_BUNDLES),
    namespaced(
        "certificates.k8s.io",
        "PodCertificateRequest",
        "podcertificaterequests",
        &["v1beta1"],
    )
    .versioned()
    .fields(selectable_fields::POD_CERTIFICATES)
    .strategy(|| Arc::new(pod_certificates::PodCertificateRequest))
    .columns(columns::POD_CERTIFICATES)
    .subs(&[STATUS]),
];
pub(super) const ACCESS: &[Def] = &[
    cluster(
        "rbac.authorization.k8s.io",
        "ClusterRoleBinding",
        "clusterrolebindings",
        V1,
    )
    .put_creates()
    .strategy(|| Arc::new(access::Binding { namespaced: false }))
    .columns(columns::ROLE_BINDINGS),
    cluster(
        "rbac.authorization.k8s.io",
        "ClusterRole",
        "clusterroles",
        V1,
    )
    .put_creates()
    .strategy(|| Arc::new(access::Role { namespaced: false }))
    .columns(columns::NAME_CREATED),
    namespaced(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        "rolebindings",
        V1,
    )
    .put_creates()
    .strategy(|| Arc::new(access::Binding { namespaced: true }))
    .columns(columns::ROLE_BINDINGS),
    namespaced("rbac.authorization.k8s.io", "Role", "roles", V1)
        .put_creates()
        .strategy(|| Arc::new(access::Role { namespaced: true }))
        .columns(columns::NAME_CREATED),
];
