//! What controllers do about accounts and roles, in a whole control plane: tokens that lie in
//! Secrets are believed, and go with their account; roles that are made of others show their rules.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::DeleteParams;
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::devices_test::{LOOK, control_plane, create};
use super::local;

/// Longest that any of it may take; all comes by itself.
const LIMIT: Duration = Duration::from_secs(300);

async fn token_of(secrets: &Api<Secret>) -> String {
    loop {
        let secret = secrets.get("robot-token").await.expect("the Secret");
        let token = secret.data.and_then(|mut d| d.remove("token"));
        if let Some(token) = token {
            return String::from_utf8(token.0).expect("a text");
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn tokens(admin: &Client) {
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), "default");
    create(&accounts, json!({"metadata": {"name": "robot"}})).await;
    let secret = json!({"type": "kubernetes.io/service-account-token",
        "metadata": {"name": "robot-token",
            "annotations": {"kubernetes.io/service-account.name": "robot"}}});
    create(&secrets, secret).await;
    let token = token_of(&secrets).await;
    let reviews: Api<TokenReview> = Api::all(admin.clone());
    let seen = create(&reviews, json!({"spec": {"token": token}})).await;
    let status = seen.status.expect("a status");
    assert_eq!(status.authenticated, Some(true), "{status:?}");
    let user = status.user.and_then(|u| u.username).unwrap_or_default();
    assert_eq!(user, "system:serviceaccount:default:robot");
    let now = DeleteParams::default();
    accounts.delete("robot", &now).await.expect("deleted");
    while secrets
        .get_opt("robot-token")
        .await
        .expect("an answer")
        .is_some()
    {
        tokio::time::sleep(LOOK).await;
    }
}

async fn roles(admin: &Client) {
    let all: Api<ClusterRole> = Api::all(admin.clone());
    let chooser = json!({"metadata": {"name": "whole"}, "rules": [], "aggregationRule": {
        "clusterRoleSelectors": [{"matchLabels": {"into": "whole"}}]}});
    create(&all, chooser).await;
    let rule = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
    let part = json!({"metadata": {"name": "part", "labels": {"into": "whole"}}, "rules": [rule]});
    create(&all, part).await;
    loop {
        let whole = all.get("whole").await.expect("the role");
        if whole.rules.is_some_and(|r| r.len() == 1) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_in_secrets_and_roles_of_roles_are_made() {
    let stop = CancellationToken::new();
    let server = control_plane(&stop, scheduler::Config::default()).await;
    let admin = local(&server, "admin", &["system:masters"]);
    let both = async { tokio::join!(tokens(&admin), roles(&admin)) };
    tokio::time::timeout(LIMIT, both)
        .await
        .expect("it does not end");
    stop.cancel();
}
