//! What a request wants, and who asks: the input of every authorizer.

use std::collections::BTreeMap;

use api::FieldSelector;
use serde::{Deserialize, Serialize};

/// The extra value that says by which of a user's credentials (a token's id, a certificate's
/// fingerprint) a request was made.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The extra value of a service account's token that is bound to a pod: the pod's node.
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The authenticated user of a request.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UserInfo {
    #[serde(rename = "username")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        Self {
            name: name.into(),
            groups,
            ..Self::default()
        }
    }
    /// A service account; `uid` is empty where it is not known.
    pub fn of_service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: service_account_groups(namespace),
            extra: BTreeMap::new(),
        }
    }
    /// Someone who has shown no credentials.
    pub fn anonymous() -> Self {
        Self::new("system:anonymous", &["system:unauthenticated"])
    }
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
    /// The node's name, when the user is a node.
    pub fn node(&self) -> Option<&str> {
        self.name
            .strip_prefix("system:node:")
            .filter(|_| self.is_in("system:nodes"))
    }
    /// Namespace and name, when the user is a service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.name
            .strip_prefix("system:serviceaccount:")?
            .split_once(':')
    }
}

/// The groups of every service account of a namespace.
pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
    ]
}

/// What a request wants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attributes<'a> {
    /// get, list, watch, create, update, patch, delete, deletecollection, or the lower-case HTTP
    /// method for paths that are not resources.
    pub verb: &'a str,
    /// Set for requests of resources; `path` is set for all others.
    pub is_resource: bool,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
    /// The field selector of a list or watch as text: nodes are only shown their own objects.
    pub field_selector: &'a str,
    /// The label selector of a list or watch as text: a node's own volumes have its name in a label.
    pub label_selector: &'a str,
}

impl Attributes<'_> {
    /// Whether the field selector demands this value of a field.
    pub fn selects(&self, field: &str, value: &str) -> bool {
        // Read as it is served: a term that only looks like one, within another's value, demands
        // nothing.
        FieldSelector::parse(self.field_selector).is_ok_and(|s| {
            let mut terms = s.requirements.iter();
            terms.any(|r| !r.not && r.field == field && r.value == value)
        })
    }
    /// Whether the label selector shows nothing but what has this value of a label.
    pub fn selects_label(&self, key: &str, value: &str) -> bool {
        use api::selector::Operator;
        api::LabelSelector::parse(self.label_selector).is_ok_and(|s| {
            let mut all = s.requirements.iter();
            all.any(|r| {
                let is_one = matches!(r.operator, Operator::Equals | Operator::In);
                is_one && r.key == key && r.values == [value]
            })
        })
    }
    /// The reason of a refusal, in upstream's words.
    pub fn refusal(&self, user: &UserInfo) -> String {
        if !self.is_resource {
            return format!(
                "User {:?} cannot {} path {:?}",
                user.name, self.verb, self.path
            );
        }
        let resource = if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        };
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", self.namespace)
        };
        format!(
            "User {:?} cannot {} resource {resource:?} in API group {:?} {scope}",
            user.name, self.verb, self.group
        )
    }
}

/// An authorizer's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// With the reason, for audit.
    Allow(String),
    /// Nobody else is asked.
    Deny(String),
    /// The next authorizer is asked; if none allows, the request is refused.
    NoOpinion(String),
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_demands_what_its_terms_demand() {
        let selects = |field_selector| {
            let asked = Attributes {
                field_selector,
                ..Attributes::default()
            };
            asked.selects("spec.nodeName", "n1")
        };
        assert!(selects("spec.nodeName=n1"));
        assert!(selects("status.phase!=Failed,spec.nodeName==n1"));
        assert!(!selects("spec.nodeName!=n1"));
        // All of it is the value of one term, which nearly every pod passes.
        assert!(!selects(r"metadata.name!=x\,spec.nodeName=n1"));
        assert!(!selects(r"metadata.name!=x\,spec.nodeName\=n1"));
    }
}
