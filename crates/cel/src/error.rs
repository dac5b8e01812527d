//! Why an expression has no value.

use std::borrow::Cow;

/// An error of evaluation. The text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// As any value, it may be absorbed: `true || error` is true.
    #[error("{0}")]
    Value(Cow<'static, str>),
    /// The limit of the call was reached; nothing absorbs that.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostExceeded,
}

impl EvalError {
    pub(crate) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Value(text.into())
    }
    pub(crate) fn no_overload() -> Self {
        Self::new("no such overload")
    }
    /// Whether it was caused by types that only showed at run time.
    pub fn is_no_overload(&self) -> bool {
        matches!(self, Self::Value(text) if text.starts_with("no such overload"))
    }
}
