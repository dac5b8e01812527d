//! What an AuthorizationConfiguration says, and what is wrong with it, in upstream's words.

use std::path::Path;
use std::time::Duration;

use api::{FieldError, FieldPath, names};
use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::conditions::{Condition, compile};
use crate::filters::files::{self, aggregate};

/// The document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthorizationConfiguration {
    pub authorizers: Vec<AuthorizerConfiguration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthorizerConfiguration {
    pub r#type: String,
    pub name: String,
    pub webhook: Option<WebhookConfiguration>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WebhookConfiguration {
    #[serde(rename = "authorizedTTL", deserialize_with = "duration")]
    pub authorized_ttl: Nanos,
    pub cache_authorized_requests: bool,
    #[serde(rename = "unauthorizedTTL", deserialize_with = "duration")]
    pub unauthorized_ttl: Nanos,
    pub cache_unauthorized_requests: bool,
    #[serde(deserialize_with = "duration")]
    pub timeout: Nanos,
    pub subject_access_review_version: String,
    pub match_condition_subject_access_review_version: String,
    pub failure_policy: String,
    pub connection_info: ConnectionInfo,
    pub match_conditions: Vec<MatchCondition>,
}

/// A duration as it is written; it may be negative.
pub type Nanos = i64;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConnectionInfo {
    pub r#type: String,
    pub kube_config_file: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MatchCondition {
    pub expression: String,
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Nanos, D::Error> {
    let text = String::deserialize(from)?;
    api::duration::parse(&text).map_err(|e| serde::de::Error::custom(format!("{text:?}: {e}")))
}

const SECOND: Nanos = 1_000_000_000;
const AUTHORIZED_TTL: Nanos = 300 * SECOND;
const UNAUTHORIZED_TTL: Nanos = 30 * SECOND;
const LONGEST: Nanos = 30 * SECOND;

impl Default for WebhookConfiguration {
    fn default() -> Self {
        Self {
            authorized_ttl: AUTHORIZED_TTL,
            cache_authorized_requests: true,
            unauthorized_ttl: UNAUTHORIZED_TTL,
            cache_unauthorized_requests: true,
            timeout: 0,
            subject_access_review_version: String::new(),
            match_condition_subject_access_review_version: String::new(),
            failure_policy: String::new(),
            connection_info: ConnectionInfo::default(),
            match_conditions: Vec::new(),
        }
    }
}

/// Time that is not negative.
pub fn time(nanos: Nanos) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// Types of authorizers, in the order in which messages name them. ABAC is upstream's, too; its
/// files of policies are not read here.
const KNOWN: [&str; 5] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];

impl AuthorizationConfiguration {
    /// Reads a file (YAML or JSON) and checks it; gives with it the match conditions of each
    /// authorizer.
    pub fn read(bytes: &[u8]) -> Result<(Self, Vec<Vec<Condition>>), String> {
        let mut read: Self = files::read(bytes, "AuthorizationConfiguration")
            .map_err(|e| format!("failed to load AuthorizationConfiguration from file: {e}"))?;
        for webhook in read.authorizers.iter_mut().flat_map(|a| &mut a.webhook) {
            // As upstream's defaults: no time is as none given.
            if webhook.authorized_ttl == 0 {
                webhook.authorized_ttl = AUTHORIZED_TTL;
            }
            if webhook.unauthorized_ttl == 0 {
                webhook.unauthorized_ttl = UNAUTHORIZED_TTL;
            }
        }
        let conditions = read.check().map_err(|errors| aggregate(&errors))?;
        for one in &read.authorizers {
            let expected = one.r#type.to_lowercase();
            if one.r#type != "Webhook" && one.name != expected {
                return Err(format!(
                    "expected name {expected} for authorizer {} instead of {}",
                    one.r#type, one.name
                ));
            }
        }
        Ok((read, conditions))
    }

    /// The match conditions of each authorizer, or all that is wrong.
    pub fn check(&self) -> Result<Vec<Vec<Condition>>, Vec<FieldError>> {
        let mut errors = Vec::new();
        let root = FieldPath::new("authorizers");
        if self.authorizers.is_empty() {
            let why = "at least one authorization mode must be defined";
            errors.push(FieldError::required(&root, why));
        }
        let mut conditions = Vec::new();
        for (i, one) in self.authorizers.iter().enumerate() {
            let before = self.authorizers.iter().take(i).collect::<Vec<_>>();
            conditions.push(one.check(&mut errors, &root.index(i), &before));
        }
        match errors.is_empty() {
            true => Ok(conditions),
            false => Err(errors),
        }
    }
}

impl AuthorizerConfiguration {
    fn check(
        &self,
        errors: &mut Vec<FieldError>,
        path: &FieldPath,
        before: &[&Self],
    ) -> Vec<Condition> {
        let (of, type_path) = (&*self.r#type, path.child("type"));
        if of.is_empty() {
            errors.push(FieldError::required(&type_path, ""));
            return Vec::new();
        }
        if !KNOWN.contains(&of) {
            errors.push(FieldError::not_supported(&type_path, of, &KNOWN));
            return Vec::new();
        }
        if of != "Webhook" && before.iter().any(|other| other.r#type == of) {
            errors.push(FieldError::duplicate(&type_path, &json!(of)));
            return Vec::new();
        }
        let (name, name_path) = (&*self.name, path.child("name"));
        if name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        } else if before.iter().any(|other| other.name == name) {
            errors.push(FieldError::duplicate(&name_path, &json!(name)));
        } else {
            let wrong = names::is_dns1123_subdomain(name);
            if !wrong.is_empty() {
                let why = format!("authorizer name is invalid: {}", wrong.join(", "));
                errors.push(FieldError::invalid_str(&name_path, name, &why));
            }
        }
        let webhook = path.child("webhook");
        match (of, &self.webhook) {
            ("Webhook", None) => {
                errors.push(FieldError::required(&webhook, "required when type=Webhook"));
            }
            ("Webhook", Some(one)) => return one.check(errors, path),
            (_, Some(_)) => {
                let why = "may only be specified when type=Webhook";
                errors.push(FieldError::invalid_str(&webhook, "non-null", why));
            }
            (_, None) => {}
        }
        Vec::new()
    }
}

impl WebhookConfiguration {
    /// Upstream's paths leave `webhook` out.
    fn check(&self, errors: &mut Vec<FieldError>, path: &FieldPath) -> Vec<Condition> {
        let shown = |nanos: Nanos| format!("{}s", nanos as f64 / SECOND as f64);
        let timeout = path.child("timeout");
        if self.timeout == 0 {
            errors.push(FieldError::required(&timeout, ""));
        } else if self.timeout > LONGEST || self.timeout < 0 {
            let value = shown(self.timeout);
            let why = "must be > 0s and <= 30s";
            errors.push(FieldError::invalid_str(&timeout, &value, why));
        }
        for (field, nanos) in [
            ("authorizedTTL", self.authorized_ttl),
            ("unauthorizedTTL", self.unauthorized_ttl),
        ] {
            if nanos < 0 {
                let path = path.child(field);
                errors.push(FieldError::invalid_str(
                    &path,
                    &shown(nanos),
                    "must be > 0s",
                ));
            }
        }
        let mut one_of = |field: &str, value: &str, known: &[&str], needed: Option<&str>| {
            let path = path.child(field);
            match (value, needed) {
                ("", Some(why)) => errors.push(FieldError::required(&path, why)),
                ("", None) => {}
                (value, _) if known.contains(&value) => {}
                (value, _) => errors.push(FieldError::not_supported(&path, value, known)),
            }
        };
        let version = &self.subject_access_review_version;
        one_of(
            "subjectAccessReviewVersion",
            version,
            &["v1", "v1beta1"],
            Some(""),
        );
        let why = "required if match conditions are specified";
        one_of(
            "matchConditionSubjectAccessReviewVersion",
            &self.match_condition_subject_access_review_version,
            &["v1"],
            (!self.match_conditions.is_empty()).then_some(why),
        );
        one_of(
            "failurePolicy",
            &self.failure_policy,
            &["NoOpinion", "Deny"],
            Some(""),
        );
        self.connection_info
            .check(errors, &path.child("connectionInfo"));
        compile(
            errors,
            &self.match_conditions,
            &path.child("matchConditions"),
        )
    }
}

impl ConnectionInfo {
    fn check(&self, errors: &mut Vec<FieldError>, path: &FieldPath) {
        let (type_path, path) = (path.child("type"), path.child("kubeConfigFile"));
        match (&*self.r#type, self.kube_config_file.as_deref()) {
            ("", _) => errors.push(FieldError::required(&type_path, "")),
            // The API server would ask itself.
            ("InClusterConfig", file) => {
                if let Some(file) = file {
                    let why = "can only be set when type=KubeConfigFile";
                    errors.push(FieldError::invalid_str(&path, file, why));
                }
                let known = ["KubeConfigFile"];
                errors.push(FieldError::not_supported(
                    &type_path,
                    "InClusterConfig",
                    &known,
                ));
            }
            ("KubeConfigFile", None | Some("")) => errors.push(FieldError::required(&path, "")),
            ("KubeConfigFile", Some(file)) => {
                let why = match std::fs::metadata(file) {
                    _ if !Path::new(file).is_absolute() => "must be an absolute path".to_owned(),
                    Err(e) => format!("error loading file: {e}"),
                    Ok(found) if !found.is_file() => "must be a regular file".to_owned(),
                    Ok(_) => return,
                };
                errors.push(FieldError::invalid_str(&path, file, &why));
            }
            (other, _) => {
                let known = ["InClusterConfig", "KubeConfigFile"];
                errors.push(FieldError::not_supported(&type_path, other, &known));
            }
        }
    }
}
