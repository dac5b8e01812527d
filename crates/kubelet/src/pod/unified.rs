//! What is written into files of a container's group that only control groups of version 2 have: the
//! kernel ends all of a container for want of memory, memory is protected and slowed down by what is
//! asked for (upstream's MemoryQoS), and swap is limited.

use super::deps::Deps;
use super::resources::{Qos, qos};
use super::swap;
use crate::config::MemoryQos;
use crate::quantity::amount;
use k8s_openapi::api::core::v1::{Container, Pod};

/// Bytes of a page, to which the kernel rounds.
const PAGE: u64 = 4096;

/// Files and what is written into them. Bytes; `allocatable`: what all pods may have.
#[must_use]
pub fn memory(
    pod: &Pod,
    c: &Container,
    allocatable: u64,
    rules: MemoryQos,
) -> Vec<(&'static str, u64)> {
    if !rules.is_on {
        return Vec::new();
    }
    let of = |list| amount(list, "memory").and_then(|b| u64::try_from(b).ok());
    let resources = c.resources.as_ref();
    let asked = of(resources.and_then(|r| r.requests.as_ref())).unwrap_or(0);
    let limit = of(resources.and_then(|r| r.limits.as_ref())).unwrap_or(0);
    let mut all = match (asked > 0 && rules.is_tiered, qos(pod)) {
        (true, Qos::Guaranteed) => vec![("memory.min", asked)],
        (true, _) => vec![("memory.low", asked)],
        (false, _) => vec![("memory.min", 0), ("memory.low", 0)],
    };
    let most = if limit > 0 { limit } else { allocatable };
    if asked != limit && most > asked {
        // Fewer bytes than 2^53, and rounded to pages afterwards.
        let part = ((most - asked) as f64 * rules.throttling) as u64;
        let high = (asked + part) / PAGE * PAGE;
        if high > asked {
            all.push(("memory.high", high));
        }
    }
    all
}

/// All that is written for a container; nothing where the kernel has no such files.
#[must_use]
pub fn files(deps: &Deps, pod: &Pod, c: &Container) -> Vec<(String, String)> {
    if deps.cgroups.version() != 2 {
        return Vec::new();
    }
    let group = deps.cgroups.folder("memory", &deps.config.kubepods());
    let whole = !deps.config.oom_kills_one;
    let together = whole.then_some(("memory.oom.group", 1));
    let allocatable = deps.resources.allocatable_memory_bytes();
    let memory = memory(pod, c, allocatable, deps.config.memory_qos);
    let own = together.into_iter().chain(memory);
    own.filter(|(file, _)| group.join(file).exists())
        .map(|(file, value)| (file.to_owned(), value.to_string()))
        .chain(swap::file(deps, pod, c))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const GIB: u64 = 1 << 30;

    fn of(requests: Value, limits: Value, rules: MemoryQos) -> Vec<(&'static str, u64)> {
        let resources = json!({ "requests": requests, "limits": limits });
        let spec = json!({ "containers": [{ "name": "a", "resources": resources }] });
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        memory(
            &pod,
            &pod.spec.as_ref().unwrap().containers[0],
            4 * GIB,
            rules,
        )
    }

    #[test]
    fn memory_is_slowed_down_below_its_limit_and_protected_by_class() {
        let on = MemoryQos {
            is_on: true,
            throttling: 0.5,
            is_tiered: false,
        };
        let tiered = MemoryQos {
            is_tiered: true,
            ..on
        };
        let one = || json!({ "cpu": "1", "memory": "1Gi" });
        let none = [("memory.min", 0), ("memory.low", 0)];
        assert!(of(one(), one(), MemoryQos::default()).is_empty());
        // Guaranteed: it may have all that it asks for.
        assert_eq!(of(one(), one(), on), none);
        assert_eq!(of(one(), one(), tiered), [("memory.min", GIB)]);
        let two = json!({ "memory": "2Gi" });
        let high = ("memory.high", GIB + GIB / 2);
        assert_eq!(of(one(), two.clone(), on), [none[0], none[1], high]);
        assert_eq!(of(one(), two, tiered), [("memory.low", GIB), high]);
        // Without a limit, all that pods may have is one.
        let all = ("memory.high", GIB + 3 * GIB / 2);
        assert_eq!(of(one(), json!({}), on), [none[0], none[1], all]);
        assert_eq!(of(json!({}), json!({}), on), none);
    }
}
