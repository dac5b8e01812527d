//! `Status`: the one form in which the API reports errors to clients
//! (API conventions, "Response Status Kind"). Every error of the server ends as one of these.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::field::FieldError;
use crate::gvk::{GroupKind, GroupResource};

/// A `v1` `Status`. It serializes to the wire form; `kind` and `apiVersion` are added by
/// [`Status::to_json`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// `Failure` or `Success`.
    pub status: String,
    /// Machine-readable reason, such as `NotFound`; empty when there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// `metadata.continue`: with an expired continue token, one that goes on in the newest state;
    /// empty otherwise.
    #[serde(skip)]
    pub next: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource (plural) for most errors, the kind for `Invalid`: as upstream.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds after which the client may try again; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Cause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.reason, self.code, self.message)
    }
}
impl std::error::Error for Status {}

impl Status {
    fn failure(code: u16, reason: &str, message: String) -> Self {
        Self {
            code,
            status: "Failure".into(),
            reason: reason.into(),
            message,
            details: None,
            next: String::new(),
        }
    }
    fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        self.details = Some(Details {
            name: name.into(),
            group: resource.group.to_string(),
            kind: resource.resource.to_string(),
            ..Details::default()
        });
        self
    }
    /// The wire form, a JSON object with `kind`, `apiVersion` and (mostly empty) `metadata`.
    pub fn to_json(&self) -> serde_json::Value {
        let mut v = serde_json::to_value(self).unwrap_or_default();
        if let Some(o) = v.as_object_mut() {
            o.insert("kind".into(), "Status".into());
            o.insert("apiVersion".into(), "v1".into());
            let mut meta = serde_json::json!({});
            if !self.next.is_empty() {
                meta["continue"] = self.next.as_str().into();
            }
            o.insert("metadata".into(), meta);
        }
        v
    }
    pub fn is(&self, reason: &str) -> bool {
        self.reason == reason
    }

    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::failure(404, "NotFound", format!("{resource} {name:?} not found"))
            .about(resource, name)
    }
    /// The path names no resource that is served.
    pub fn no_such_path() -> Self {
        let mut s = Self::failure(
            404,
            "NotFound",
            "the server could not find the requested resource".into(),
        );
        s.details = Some(Details::default());
        s
    }
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::failure(
            409,
            "AlreadyExists",
            format!("{resource} {name:?} already exists"),
        )
        .about(resource, name)
    }
    pub fn conflict(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {why}");
        Self::failure(409, "Conflict", message).about(resource, name)
    }
    /// A write raced with another one: upstream's words for a stale resourceVersion.
    pub fn stale(resource: &GroupResource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }
    /// `why` as upstream: `User "x" cannot get resource …`.
    pub fn forbidden(resource: &GroupResource, name: &str, why: &str) -> Self {
        let message = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{resource} is forbidden: {why}"),
            (false, false) => format!("{resource} {name:?} is forbidden: {why}"),
        };
        Self::failure(403, "Forbidden", message).about(resource, name)
    }
    pub fn unauthorized() -> Self {
        Self::failure(401, "Unauthorized", "Unauthorized".into())
    }
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message.into())
    }
    /// Validation failed; all errors are listed, with their field paths as causes.
    pub fn invalid(kind: &GroupKind, name: &str, errors: &[FieldError]) -> Self {
        // Each line once, as upstream.
        let mut said = HashSet::new();
        let mut lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.retain(|line| said.insert(line.clone()));
        let what = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut s = Self::failure(
            422,
            "Invalid",
            format!("{kind} {name:?} is invalid: {what}"),
        );
        s.details = Some(Details {
            name: name.into(),
            group: kind.group.to_string(),
            kind: kind.kind.to_string(),
            causes: errors.iter().map(FieldError::cause).collect(),
            ..Details::default()
        });
        s
    }
    pub fn method_not_supported(resource: &GroupResource, action: &str) -> Self {
        let message = format!(
            "{action} is not supported on resources of kind {:?}",
            resource.to_string()
        );
        Self::failure(405, "MethodNotAllowed", message).about(resource, "")
    }
    /// The path is known, but not by this method.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut s = Self::failure(405, "MethodNotAllowed", message.into());
        s.details = Some(Details::default());
        s
    }
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::failure(406, "NotAcceptable", message.into())
    }
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::failure(415, "UnsupportedMediaType", message.into())
    }
    pub fn too_large(limit_bytes: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit_bytes}");
        Self::failure(413, "RequestEntityTooLarge", message)
    }
    /// The revision asked for is compacted or older than the watch window.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message.into())
    }
    pub fn gone(message: impl Into<String>) -> Self {
        Self::failure(410, "Gone", message.into())
    }
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut s = Self::failure(429, "TooManyRequests", message.into());
        s.details = Some(Details {
            retry_after_seconds,
            ..Details::default()
        });
        s
    }
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::failure(504, "Timeout", message.into())
    }
    /// A revision that is in the future: the client may try again.
    pub fn too_large_resource_version(current: u64, asked: u64) -> Self {
        let mut s = Self::failure(
            504,
            "Timeout",
            format!("Too large resource version: {asked}, current: {current}"),
        );
        s.details = Some(Details {
            retry_after_seconds: 1,
            causes: vec![Cause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".into(),
                field: String::new(),
            }],
            ..Details::default()
        });
        s
    }
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message.into())
    }
    /// `message` is for the client: no secrets and no paths of this machine.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let mut s = Self::failure(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        );
        s.details = Some(Details {
            causes: vec![Cause {
                message: message.to_string(),
                ..Cause::default()
            }],
            ..Details::default()
        });
        s
    }
    /// The answer to a deletion that is complete.
    pub fn success() -> Self {
        Self {
            code: 200,
            status: "Success".into(),
            ..Self::default()
        }
    }
}
