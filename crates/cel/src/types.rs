//! CEL types as the checker sees them. Values at run time carry no types of this kind; they know
//! what they are (`value.rs`).

use std::fmt;
use std::sync::Arc;

use crate::decl::Decl;

/// A CEL type.
#[derive(Clone, Debug)]
pub enum Type {
    Dyn,
    /// Of an expression that has been reported: assignable to everything, so that one mistake
    /// gives one error.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    /// A type with fields; equal by name.
    Object(Arc<Decl>),
    /// `kubernetes.Quantity`, `net.IP` and such: no fields, only functions.
    Opaque(Arc<str>),
    Optional(Arc<Type>),
    /// The type of a type; of nothing known when none.
    Type(Option<Arc<Type>>),
    /// A variable of inference, or a parameter of a declaration.
    Param(u32),
}

impl Type {
    pub fn list(item: Type) -> Self {
        Self::List(Arc::new(item))
    }
    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new((key, value)))
    }
    pub fn optional(inner: Type) -> Self {
        Self::Optional(Arc::new(inner))
    }
    pub fn opaque(name: &str) -> Self {
        Self::Opaque(Arc::from(name))
    }

    /// The type's name as the language has it, where `Display` is what messages of the checker
    /// show: `google.protobuf.Duration` is `duration` there.
    pub fn text(&self) -> String {
        match self {
            Self::Null => "null_type".into(),
            Self::Duration => "google.protobuf.Duration".into(),
            Self::Timestamp => "google.protobuf.Timestamp".into(),
            Self::List(item) => format!("list({})", item.text()),
            Self::Map(entry) => format!("map({}, {})", entry.0.text(), entry.1.text()),
            Self::Optional(inner) => format!("optional_type({})", inner.text()),
            Self::Type(Some(inner)) => format!("type({})", inner.text()),
            other => other.to_string(),
        }
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// Of constant size, so that handling it costs a fixed amount.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Self::Bool
            | Self::Double
            | Self::Duration
            | Self::Int
            | Self::Timestamp
            | Self::Uint => true,
            Self::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => {
                Arc::ptr_eq(a, b) || a == b
            }
            (Self::Map(a), Self::Map(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Object(a), Self::Object(b)) => Arc::ptr_eq(a, b) || a.name == b.name,
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Param(a), Self::Param(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}
impl Eq for Type {}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(entry) => write!(f, "map({}, {})", entry.0, entry.1),
            Self::Object(decl) => f.write_str(&decl.name),
            Self::Opaque(name) => f.write_str(name),
            Self::Optional(inner) => write!(f, "optional_type({inner})"),
            Self::Type(None) => f.write_str("type"),
            Self::Type(Some(inner)) => write!(f, "type({inner})"),
            Self::Param(n) => write!(f, "_var{n}"),
        }
    }
}
