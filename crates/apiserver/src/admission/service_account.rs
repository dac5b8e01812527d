//! ServiceAccount: each pod runs as an account of its namespace, which must exist, and gets a
//! token for it in a volume.

use std::time::Duration;

use api::Status;
use clock::Random;
use futures::future::BoxFuture;
use rand::RngExt;
use registry::Row;
use serde_json::{Value, json};

use super::{AdmissionAttributes, Admit, Need, Operation, Review, is_new_pod, list, push, text};
use crate::filters::tokens::POD_TOKEN_SECONDS;
use crate::state::State;

const MIRROR: &str = "kubernetes.io/config.mirror";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
const ROOT_CA: &str = "kube-root-ca.crt";
/// The account of pods that name none.
const DEFAULT: &str = "default";
/// The label of the pod's account.
const ACCOUNT: &str = "service account";
/// A pod that is created at once waits so long for its namespace's account.
const WAIT: Duration = Duration::from_secs(2);
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub struct ServiceAccount;

impl Admit for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        is_new_pod(operation, row, subresource)
    }
    /// The account of a namespace's own controller appears soon after the namespace: a pod that
    /// is created at once waits for it.
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        if asked.object.is_none_or(is_mirror) {
            return Vec::new();
        }
        let name = match asked.text("/spec/serviceAccountName") {
            "" => DEFAULT,
            name => name,
        };
        let kind = ("", "serviceaccounts");
        let mut need = Need::relied(ACCOUNT, kind, asked.namespace, name);
        if let Need::One { patience, .. } = &mut need
            && name == DEFAULT
        {
            *patience = WAIT;
        }
        vec![need]
    }
    fn mutate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(pod) = review.object.as_deref_mut() else {
                return Ok(());
            };
            if is_mirror(pod) {
                return check_mirror(pod).map_err(|why| review.forbidden(why));
            }
            if text(pod, "/spec/serviceAccountName").is_empty() {
                pod["spec"]["serviceAccountName"] = DEFAULT.into();
            }
            let name = text(pod, "/spec/serviceAccountName").to_owned();
            // The old name of the field says the same.
            pod["spec"]["serviceAccount"] = name.as_str().into();
            let account = review.found.get(ACCOUNT).map(|o| o.to_value());
            let Some(account) = account else {
                return Err(review.forbidden(&format!(
                    "error looking up service account {}/{name}: serviceaccount {name:?} not found",
                    review.namespace
                )));
            };
            if automounts(&account, pod) {
                mount_token(pod, &random_name(state.random()));
            }
            if list(pod, "/spec/imagePullSecrets").is_empty()
                && !list(&account, "/imagePullSecrets").is_empty()
            {
                pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
            }
            check_secrets(&account, pod).map_err(|why| review.forbidden(&why))
        })
    }
}

fn is_mirror(pod: &Value) -> bool {
    let all = pod.pointer("/metadata/annotations");
    all.is_some_and(|a| a.get(MIRROR).is_some())
}

/// A node's own pods reach no secret of the API.
fn check_mirror(pod: &Value) -> Result<(), &'static str> {
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Err("a mirror pod may not reference service accounts");
    }
    if secrets_of(pod).next().is_some() {
        return Err("a mirror pod may not reference secrets");
    }
    let sources = || {
        let volumes = list(pod, "/spec/volumes").iter();
        volumes.flat_map(|v| list(v, "/projected/sources"))
    };
    if sources().any(|s| s.get("serviceAccountToken").is_some()) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    if sources().any(|s| s.get("secret").is_some()) {
        return Err("a mirror pod may not reference secrets");
    }
    Ok(())
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["/spec/initContainers", "/spec/containers"]
        .into_iter()
        .flat_map(|l| list(pod, l))
}

/// The secrets that a pod names in volumes and environments.
fn secrets_of(pod: &Value) -> impl Iterator<Item = &str> {
    let volumes = list(pod, "/spec/volumes")
        .iter()
        .map(|v| text(v, "/secret/secretName"));
    let env = containers(pod)
        .flat_map(|c| list(c, "/env"))
        .map(|e| text(e, "/valueFrom/secretKeyRef/name"));
    let from = containers(pod)
        .flat_map(|c| list(c, "/envFrom"))
        .map(|e| text(e, "/secretRef/name"));
    let pull = list(pod, "/spec/imagePullSecrets")
        .iter()
        .map(|s| text(s, "/name"));
    volumes
        .chain(env)
        .chain(from)
        .chain(pull)
        .filter(|n| !n.is_empty())
}

/// The pod's word counts, then the account's.
fn automounts(account: &Value, pod: &Value) -> bool {
    pod.pointer("/spec/automountServiceAccountToken")
        .and_then(Value::as_bool)
        .or_else(|| {
            account
                .get("automountServiceAccountToken")
                .and_then(Value::as_bool)
        })
        .unwrap_or(true)
}

fn random_name(mut random: Random) -> String {
    let letters = (0..5).map(|_| {
        let nth = random.random_range(0..ALPHABET.len());
        ALPHABET.get(nth).map_or('x', |b| char::from(*b))
    });
    format!("{VOLUME}{}", letters.collect::<String>())
}

/// Mounts the token volume in every container that has nothing at its place.
fn mount_token(pod: &mut Value, new_name: &str) {
    let existing = list(pod, "/spec/volumes")
        .iter()
        .map(|v| text(v, "/name"))
        .find(|n| n.starts_with(VOLUME))
        .map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| new_name.to_owned());
    let mut needed = false;
    for field in ["initContainers", "containers"] {
        let all = pod["spec"].get_mut(field).and_then(Value::as_array_mut);
        for container in all.into_iter().flatten() {
            let taken = list(container, "/volumeMounts")
                .iter()
                .any(|m| text(m, "/mountPath") == MOUNT_PATH);
            if taken || !container.is_object() {
                continue;
            }
            needed = true;
            let mount = json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH });
            match container
                .get_mut("volumeMounts")
                .and_then(Value::as_array_mut)
            {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
        }
    }
    if needed && existing.is_none() {
        push(pod, "volumes", volume(&name));
    }
}

/// Token, certificate authority and namespace in one folder.
fn volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": POD_TOKEN_SECONDS, "path": "token" } },
                { "configMap": { "name": ROOT_CA, "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{
                    "path": "namespace",
                    "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                }] } },
            ],
        },
    })
}

/// An account may insist that its pods use only the secrets that it lists.
fn check_secrets(account: &Value, pod: &Value) -> Result<(), String> {
    let annotation = "/metadata/annotations/kubernetes.io~1enforce-mountable-secrets";
    if !matches!(
        text(account, annotation),
        "1" | "t" | "T" | "true" | "True" | "TRUE"
    ) {
        return Ok(());
    }
    let name = text(account, "/metadata/name");
    let named = |field: &str, wanted: &str| {
        list(account, field)
            .iter()
            .any(|s| text(s, "/name") == wanted)
    };
    for volume in list(pod, "/spec/volumes") {
        let secret = text(volume, "/secret/secretName");
        if !secret.is_empty() && !named("/secrets", secret) {
            return Err(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret"
            ));
        }
    }
    for (field, word) in [
        ("/spec/initContainers", "init container"),
        ("/spec/containers", "container"),
    ] {
        for container in list(pod, field) {
            let own = text(container, "/name");
            for env in list(container, "/env") {
                let secret = text(env, "/valueFrom/secretKeyRef/name");
                if !secret.is_empty() && !named("/secrets", secret) {
                    return Err(format!(
                        "{word} {own} with envVar {} referencing secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret",
                        text(env, "/name")
                    ));
                }
            }
            for from in list(container, "/envFrom") {
                let secret = text(from, "/secretRef/name");
                if !secret.is_empty() && !named("/secrets", secret) {
                    return Err(format!(
                        "{word} {own} with envFrom referencing secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret"
                    ));
                }
            }
        }
    }
    for (n, secret) in list(pod, "/spec/imagePullSecrets").iter().enumerate() {
        let secret = text(secret, "/name");
        if !named("/imagePullSecrets", secret) {
            return Err(format!(
                "imagePullSecrets[{n}].name={secret:?} is not allowed because service account {name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_where_nothing_is() {
        let mut pod = json!({ "spec": {
            "containers": [
                { "name": "a" },
                { "name": "b", "volumeMounts": [{ "name": "x", "mountPath": MOUNT_PATH }] },
            ],
        }});
        mount_token(&mut pod, "kube-api-access-abcde");
        assert_eq!(pod["spec"]["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(
            pod["spec"]["containers"][0]["volumeMounts"][0]["readOnly"],
            true
        );
        assert_eq!(
            pod["spec"]["containers"][1]["volumeMounts"]
                .as_array()
                .map(Vec::len),
            Some(1)
        );
        let before = pod.clone();
        mount_token(&mut pod, "kube-api-access-fffff");
        assert_eq!(pod, before);
    }

    #[test]
    fn nothing_is_added_that_nobody_mounts() {
        let mut pod = json!({ "spec": { "containers": [] } });
        mount_token(&mut pod, "kube-api-access-abcde");
        assert_eq!(pod["spec"].get("volumes"), None);
    }

    #[test]
    fn the_pods_word_counts_first() {
        let no = json!({ "automountServiceAccountToken": false });
        assert!(!automounts(&no, &json!({ "spec": {} })));
        assert!(automounts(
            &no,
            &json!({ "spec": { "automountServiceAccountToken": true } })
        ));
        assert!(automounts(&json!({}), &json!({ "spec": {} })));
    }

    #[test]
    fn mirror_pods_reach_no_secrets() {
        assert_eq!(check_mirror(&json!({ "spec": {} })), Ok(()));
        for spec in [
            json!({ "serviceAccountName": "x" }),
            json!({ "volumes": [{ "secret": { "secretName": "s" } }] }),
            json!({ "volumes": [{ "projected": { "sources": [{ "serviceAccountToken": {} }] } }] }),
        ] {
            assert!(check_mirror(&json!({ "spec": spec })).is_err());
        }
    }
}
