//! Field paths and validation errors, in the API's words (`spec.ports[0].port: Invalid value: …`).

use std::fmt;

use crate::status::Cause;

/// A path to a field, built while descending: `FieldPath::new("spec").child("ports").index(0)`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FieldPath(String);

impl FieldPath {
    pub fn root() -> Self {
        Self::default()
    }
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Self(name.to_owned())
        } else {
            Self(format!("{}.{name}", self.0))
        }
    }
    #[must_use]
    pub fn index(&self, i: usize) -> Self {
        Self(format!("{}[{i}]", self.0))
    }
    #[must_use]
    pub fn key(&self, k: &str) -> Self {
        Self(format!("{}[{k}]", self.0))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// The kinds of field error; the names on the wire are [`FieldErrorType::reason`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
    Internal,
}

impl FieldErrorType {
    /// The `reason` of a `StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }
    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One thing wrong with one field. `Display` gives upstream's whole line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldError {
    pub kind: FieldErrorType,
    pub field: FieldPath,
    /// The offending value as it is printed (strings quoted, objects as JSON), if the kind shows one.
    pub value: Option<String>,
    pub detail: String,
}

/// How a value is printed in a field error: strings in quotes, the rest as JSON.
pub fn show_value(v: &serde_json::Value) -> String {
    v.to_string()
}

impl FieldError {
    fn make(kind: FieldErrorType, field: &FieldPath, value: Option<String>, detail: &str) -> Self {
        Self {
            kind,
            field: field.clone(),
            value,
            detail: detail.to_owned(),
        }
    }
    pub fn required(field: &FieldPath, detail: &str) -> Self {
        Self::make(FieldErrorType::Required, field, None, detail)
    }
    pub fn invalid(field: &FieldPath, value: &serde_json::Value, detail: &str) -> Self {
        Self::make(
            FieldErrorType::Invalid,
            field,
            Some(show_value(value)),
            detail,
        )
    }
    pub fn invalid_str(field: &FieldPath, value: &str, detail: &str) -> Self {
        Self::make(
            FieldErrorType::Invalid,
            field,
            Some(format!("{value:?}")),
            detail,
        )
    }
    pub fn duplicate(field: &FieldPath, value: &serde_json::Value) -> Self {
        Self::make(
            FieldErrorType::Duplicate,
            field,
            Some(show_value(value)),
            "",
        )
    }
    pub fn not_found(field: &FieldPath, value: &serde_json::Value) -> Self {
        Self::make(FieldErrorType::NotFound, field, Some(show_value(value)), "")
    }
    pub fn forbidden(field: &FieldPath, detail: &str) -> Self {
        Self::make(FieldErrorType::Forbidden, field, None, detail)
    }
    pub fn type_invalid(field: &FieldPath, value: &serde_json::Value, detail: &str) -> Self {
        Self::make(
            FieldErrorType::TypeInvalid,
            field,
            Some(show_value(value)),
            detail,
        )
    }
    /// `supported` in the order in which it is to be printed (upstream sorts it).
    pub fn not_supported(field: &FieldPath, value: &str, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = format!("supported values: {}", list.join(", "));
        Self::make(
            FieldErrorType::NotSupported,
            field,
            Some(format!("{value:?}")),
            &detail,
        )
    }
    pub fn too_long(field: &FieldPath, max_bytes: usize) -> Self {
        let detail = format!("may not be more than {max_bytes} bytes");
        Self::make(FieldErrorType::TooLong, field, None, &detail)
    }
    pub fn too_many(field: &FieldPath, actual: usize, max: usize) -> Self {
        let detail = format!("must have at most {max} items");
        Self::make(
            FieldErrorType::TooMany,
            field,
            Some(actual.to_string()),
            &detail,
        )
    }
    /// The message without the field, as a `StatusCause` carries it.
    pub fn message(&self) -> String {
        let mut out = self.kind.words().to_owned();
        if let Some(v) = &self.value {
            out.push_str(": ");
            out.push_str(v);
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
    pub fn cause(&self) -> Cause {
        Cause {
            reason: self.kind.reason().into(),
            message: self.message(),
            field: self.field.as_str().to_owned(),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message())
    }
}
