//! What a file says of what the node keeps from pods.

use super::values::{At, amount, text};
use crate::config::Reserved;
use serde_json::Value;
use std::collections::BTreeMap;

/// Both kinds of reserved resources count together.
pub(super) fn add(at: &mut At, v: &Value) -> Result<(), String> {
    let map: BTreeMap<&String, &Value> = v.as_object().ok_or("it is not a map")?.iter().collect();
    let mut more = Reserved::default();
    for (name, v) in map {
        match name.as_str() {
            "cpu" => {
                let text = text(v)?;
                let quantity: api::Quantity = text.parse().map_err(|e| format!("{text:?}: {e}"))?;
                let millis = u64::try_from(quantity.milli_value());
                more.cpu_millis = millis.map_err(|_| format!("{text:?} is not an amount"))?;
            }
            "memory" => more.memory_bytes = amount(v)?,
            "ephemeral-storage" => more.storage_bytes = amount(v)?,
            "pid" => more.pids = amount(v)?,
            other => return Err(format!("{other:?} is not a resource that can be reserved")),
        }
    }
    if at.config.cpus.reserved.is_some() {
        // Which CPUs are reserved says how many.
        more.cpu_millis = 0;
    }
    let have = &mut at.config.reserved;
    have.cpu_millis = have.cpu_millis.saturating_add(more.cpu_millis);
    have.memory_bytes = have.memory_bytes.saturating_add(more.memory_bytes);
    have.storage_bytes = have.storage_bytes.saturating_add(more.storage_bytes);
    have.pids = have.pids.saturating_add(more.pids);
    Ok(())
}
