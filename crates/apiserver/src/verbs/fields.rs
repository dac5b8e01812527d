//! Managed fields: who set what, recorded with every write. The rules are `patch`'s; here is when
//! they run and under which name.

use serde_json::Value;

use crate::call::Call;

/// Records a write that is no apply. `old` is null for a creation.
pub fn record(_call: &Call, _new: &mut Value, _old: &Value, _subresource: &str) {}
