//! The forms that values of a description have, and what an error says of one that has another.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Why a description cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// Names field, line and column.
    #[error(transparent)]
    Form(#[from] serde_norway::Error),
    #[error("{path}: {why}")]
    Field { path: String, why: String },
}

pub(super) fn wrong<T>(
    path: impl Into<String>,
    why: impl Into<String>,
) -> Result<T, DescriptionError> {
    Err(DescriptionError::Field {
        path: path.into(),
        why: why.into(),
    })
}

/// A length of time as Go writes it: `90s`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    pub(super) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(SpanVisitor)
    }
}

/// Reads the text itself, so that an error has the text's own place.
struct SpanVisitor;

impl Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a length of time, such as 90s or 1h30m")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        let nanos = api::duration::parse(text).ok();
        let nanos = nanos.and_then(|n| u64::try_from(n).ok()).ok_or_else(|| {
            let why = format!("{text:?} is not a length of time, such as 90s or 1h30m,");
            E::custom(why)
        })?;
        Ok(Span(Duration::from_nanos(nanos)))
    }
}

/// An object of Kubernetes. It is read by YAML's own rules, so that a field that is there twice is
/// refused and `<<` merges, as kubectl has it.
struct Object(Value);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut yaml = serde_norway::Value::deserialize(from)?;
        yaml.apply_merge()
            .map_err(<D::Error as de::Error>::custom)?;
        let json = serde_json::to_value(yaml).map_err(<D::Error as de::Error>::custom)?;
        Ok(Self(json))
    }
}

pub(super) fn object<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Ok(Option::<Object>::deserialize(from)?.map(|o| o.0))
}

pub(super) fn objects<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Value>, D::Error> {
    let all = Vec::<Object>::deserialize(from)?;
    Ok(all.into_iter().map(|o| o.0).collect())
}
