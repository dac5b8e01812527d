//! The two editions of OpenAPI in which the same is written.

use serde_json::{Value, json};

/// Which edition of OpenAPI is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Edition {
    /// Swagger 2.0: one document of all.
    V2,
    /// 3.0: a document for each group and version.
    V3,
}

impl Edition {
    /// How a definition of a name is referred to.
    pub fn reference(self, name: &str) -> Value {
        let base = match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        };
        json!({ "$ref": format!("{base}{name}") })
    }
}
