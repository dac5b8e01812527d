//! Secrets of type `kubernetes.io/service-account-token`: each gets a token of the account that its
//! annotation names, and goes with that account; an account forgets a Secret that is gone. Tokens
//! that end, which pods use, are the API server's (`TokenRequest`).

use std::sync::Arc;

use client::{Informer, Informers};
use control::action::Target;
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use wire::jwt::Signer;

use crate::common::{is_deleting, key_of, uid_of, value_of};

pub(super) const TYPE: &str = "kubernetes.io/service-account-token";
pub(super) const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
pub(super) const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Issuer of tokens that lie in Secrets.
const ISSUER: &str = "kubernetes/serviceaccount";

/// Fills Secrets with tokens.
pub struct Tokens {
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    ca_pem: String,
    signer: Arc<Signer>,
}

impl Tokens {
    /// `signer` is the key whose tokens the API server believes.
    pub fn new(informers: &Informers, ca_pem: &str, signer: Arc<Signer>) -> Self {
        Self {
            secrets: informers.of_type(TYPE),
            accounts: informers.of(),
            ca_pem: ca_pem.to_owned(),
            signer,
        }
    }
}

/// What is looked at.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Key {
    Secret {
        namespace: String,
        name: String,
    },
    /// Of an account, a Secret that may be gone.
    Reference {
        namespace: String,
        account: String,
        secret: String,
    },
}

pub enum Observed {
    Secret(Box<SeenSecret>),
    /// An account and the name of a Secret that is gone.
    Gone(Arc<ServiceAccount>, String),
}

/// A Secret, and what it is to hold.
pub struct SeenSecret {
    secret: Arc<Secret>,
    account: Option<Arc<ServiceAccount>>,
    /// Where it has none yet.
    token: Option<String>,
    ca_pem: String,
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> &'a str {
    secret.annotations().get(name).map_or("", String::as_str)
}

pub(super) fn is_of(secret: &Secret, account: &ServiceAccount) -> bool {
    let uid = annotation(secret, ACCOUNT_UID);
    annotation(secret, ACCOUNT_NAME) == account.name_any()
        && (uid.is_empty() || uid == uid_of(account))
}

fn bytes<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    let data = secret.data.as_ref().and_then(|d| d.get(key));
    data.map_or(&[], |b| b.0.as_slice())
}

fn claims(secret: &Secret, account: &ServiceAccount) -> Value {
    let (namespace, name) = key_of(account);
    let private = "kubernetes.io/serviceaccount";
    json!({
        "iss": ISSUER,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        format!("{private}/namespace"): namespace,
        format!("{private}/secret.name"): secret.name_any(),
        format!("{private}/service-account.name"): name,
        format!("{private}/service-account.uid"): uid_of(account),
    })
}

impl Controller for Tokens {
    const NAME: &'static str = "serviceaccount-token-controller";
    const QUEUE: &'static str = "serviceaccount_tokens_service";
    const ACCOUNT: &'static str = "";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on_change(&self.secrets, |change| {
            let keys = change.new.iter().map(|secret| {
                let (namespace, name) = key_of(&**secret);
                Key::Secret { namespace, name }
            });
            let gone = change.old.iter().filter(|_| change.new.is_none());
            let gone = gone.map(|secret| {
                let (namespace, name) = key_of(&**secret);
                Key::Reference {
                    namespace,
                    account: annotation(secret, ACCOUNT_NAME).to_owned(),
                    secret: name,
                }
            });
            keys.chain(gone).collect()
        });
        let secrets = self.secrets.clone();
        watches.on_change(&self.accounts, move |change| {
            let both = change.old.iter().chain(&change.new);
            // An account that only changed does not concern its tokens.
            let is_update = change.old.is_some() && change.new.is_some();
            let both = both.filter(|_| !is_update);
            let all = both.flat_map(|account| {
                let here = secrets.list_namespace(&account.namespace().unwrap_or_default());
                let own = here.into_iter().filter(|s| is_of(s, account));
                own.map(|secret| {
                    let (namespace, name) = key_of(&*secret);
                    Key::Secret { namespace, name }
                })
                .collect::<Vec<_>>()
            });
            all.collect()
        });
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        match key {
            Key::Secret { namespace, name } => {
                let secret = self.secrets.get(namespace, name)?;
                let account = annotation(&secret, ACCOUNT_NAME);
                let account = self.accounts.get(namespace, account);
                Some(Observed::Secret(Box::new(SeenSecret {
                    account: account.filter(|a| is_of(&secret, a)),
                    token: None,
                    ca_pem: self.ca_pem.clone(),
                    secret,
                })))
            }
            Key::Reference {
                namespace,
                account,
                secret,
            } => {
                let account = self.accounts.get(namespace, account)?;
                let gone = self.secrets.get(namespace, secret).is_none();
                gone.then(|| Observed::Gone(account, secret.clone()))
            }
        }
    }

    /// An account that the cache does not have may have come just now. A signature needs chance.
    async fn gather(&self, client: &Client, seen: Observed) -> Result<Observed, kube::Error> {
        let Observed::Secret(mut seen) = seen else {
            return Ok(seen);
        };
        if seen.account.is_none() {
            let namespace = seen.secret.namespace().unwrap_or_default();
            let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
            let name = annotation(&seen.secret, ACCOUNT_NAME);
            let found = accounts.get_opt(name).await?;
            let found = found.filter(|a| is_of(&seen.secret, a));
            seen.account = found.map(Arc::new);
        }
        if let Some(account) = &seen.account
            && bytes(&seen.secret, "token").is_empty()
        {
            match self.signer.sign(&claims(&seen.secret, account)) {
                Ok(token) => seen.token = Some(token),
                Err(e) => tracing::error!("signing a token for {:?}: {e}", key_of(&*seen.secret)),
            }
        }
        Ok(Observed::Secret(seen))
    }

    fn plan(&self, seen: &Observed, _: i64) -> Plan {
        match seen {
            Observed::Secret(seen) => fill(seen),
            Observed::Gone(account, secret) => forget(account, secret),
        }
    }
}

fn fill(seen: &SeenSecret) -> Plan {
    let secret = &*seen.secret;
    let (namespace, name) = key_of(secret);
    let target = Target::of::<Secret>(&namespace, &name);
    if is_deleting(secret) {
        return Plan::nothing();
    }
    let Some(account) = &seen.account else {
        return Plan::from(Action::delete(target, secret.uid())).because(format!(
            "its account {} is gone",
            annotation(secret, ACCOUNT_NAME)
        ));
    };
    let mut changed = secret.clone();
    let data = changed.data.get_or_insert_default();
    let mut put = |key: &str, value: &str| {
        data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
    };
    if !seen.ca_pem.is_empty() && bytes(secret, "ca.crt") != seen.ca_pem.as_bytes() {
        put("ca.crt", &seen.ca_pem);
    }
    if bytes(secret, "namespace").is_empty() {
        put("namespace", &namespace);
    }
    if let Some(token) = &seen.token {
        put("token", token);
    }
    if changed.data == secret.data {
        return Plan::nothing();
    }
    let annotations = changed.annotations_mut();
    annotations.insert(ACCOUNT_NAME.to_owned(), account.name_any());
    annotations.insert(ACCOUNT_UID.to_owned(), uid_of(&**account));
    Action::Update {
        target,
        subresource: "",
        object: value_of(&changed),
    }
    .into()
}

fn forget(account: &ServiceAccount, secret: &str) -> Plan {
    let mut changed = account.clone();
    if let Some(all) = &mut changed.secrets {
        all.retain(|r| r.name.as_deref() != Some(secret));
    }
    if changed.secrets == account.secrets {
        return Plan::nothing();
    }
    let (namespace, name) = key_of(account);
    Action::Update {
        target: Target::of::<ServiceAccount>(&namespace, &name),
        subresource: "",
        object: value_of(&changed),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(data: Value, uid: &str) -> Arc<Secret> {
        let value = json!({ "metadata": { "name": "s", "namespace": "a", "uid": "1",
            "annotations": { ACCOUNT_NAME: "robot", ACCOUNT_UID: uid } },
            "type": TYPE, "data": data });
        Arc::new(serde_json::from_value(value).expect("a Secret"))
    }

    fn account() -> Arc<ServiceAccount> {
        let value = json!({ "metadata": { "name": "robot", "namespace": "a", "uid": "r" },
            "secrets": [{ "name": "s" }, { "name": "t" }] });
        Arc::new(serde_json::from_value(value).expect("an account"))
    }

    fn seen(data: Value, account: Option<Arc<ServiceAccount>>, token: Option<&str>) -> SeenSecret {
        SeenSecret {
            secret: secret(data, ""),
            account,
            token: token.map(str::to_owned),
            ca_pem: "ca".into(),
        }
    }

    #[test]
    fn a_secret_gets_what_it_lacks_and_nothing_twice() {
        let made = fill(&seen(
            json!({ "mine": "bWluZQ==" }),
            Some(account()),
            Some("t"),
        ));
        let [Action::Update { object, .. }] = made.actions.as_slice() else {
            panic!("{made:?}");
        };
        let data =
            json!({ "mine": "bWluZQ==", "ca.crt": "Y2E=", "namespace": "YQ==", "token": "dA==" });
        assert_eq!(object["data"], data);
        assert_eq!(object["metadata"]["annotations"][ACCOUNT_UID], "r");
        assert!(fill(&seen(data, Some(account()), None)).is_empty());
    }

    #[test]
    fn a_secret_goes_with_its_account() {
        let gone = fill(&seen(json!({}), None, None));
        assert!(
            matches!(gone.actions.as_slice(), [Action::Delete { uid: Some(uid), .. }] if uid == "1")
        );
        assert!(is_of(&secret(json!({}), ""), &account()));
        // Another account of the same name.
        assert!(!is_of(&secret(json!({}), "old"), &account()));
    }

    #[test]
    fn an_account_forgets_what_is_gone() {
        let made = forget(&account(), "s");
        let [Action::Update { object, .. }] = made.actions.as_slice() else {
            panic!("{made:?}");
        };
        assert_eq!(object["secrets"], json!([{ "name": "t" }]));
        assert!(forget(&account(), "other").is_empty());
    }
}
