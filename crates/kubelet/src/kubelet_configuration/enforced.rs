//! Which groups are limited to what is allocatable or reserved, by what files say of it in several
//! fields together.

use crate::config::{Enforced, LimitedGroup};
use serde_json::{Map, Value};

/// A part of the machine for which something is reserved: its word, and the fields that say so.
const PARTS: [(&str, &str, &str, &str); 2] = [
    (
        "System",
        "system-reserved",
        "systemReserved",
        "systemReservedCgroup",
    ),
    (
        "Kube",
        "kube-reserved",
        "kubeReserved",
        "kubeReservedCgroup",
    ),
];

/// What the fields say; else what is wrong, in upstream's words.
pub(super) fn read(fields: &Map<String, Value>) -> Result<Enforced, String> {
    let Some(list) = fields.get("enforceNodeAllocatable") else {
        return Ok(Enforced::default());
    };
    let words = list.as_array().into_iter().flatten();
    let words: Option<Vec<&str>> = words.map(Value::as_str).collect();
    let words = words
        .filter(|_| list.is_array())
        .ok_or_else(|| "enforceNodeAllocatable: it is not a list of texts".to_owned())?;
    let wrong = |why: String| Err(format!("enforceNodeAllocatable: {why}"));
    let mut out = Enforced {
        pods: words.contains(&"pods"),
        groups: Vec::new(),
    };
    for (at, word) in words.iter().enumerate() {
        if words.get(..at).is_some_and(|before| before.contains(word)) {
            return wrong(format!("duplicated enforcements {word:?}"));
        }
        let (plain, compressible) = match word.strip_suffix("-compressible") {
            Some(plain) => (plain, true),
            None => (*word, false),
        };
        let part = PARTS.iter().find(|(_, name, ..)| *name == plain);
        match (*word, part) {
            ("pods", _) => {}
            ("none", _) if words.len() == 1 => {}
            ("none", _) => {
                return wrong("nothing may be beside \"none\"".into());
            }
            (_, None) => {
                return wrong(format!("option {word:?} is not valid"));
            }
            (_, Some(_)) if compressible && words.contains(&plain) => {
                return wrong(format!(
                    "both {plain:?} and {word:?} cannot be specified together"
                ));
            }
            (_, Some((title, name, reserved, group))) => {
                let path = fields.get(*group).and_then(Value::as_str);
                let Some(path) = path.filter(|p| !p.is_empty()) else {
                    return wrong(format!(
                        "{group} must be specified when {name:?} is included"
                    ));
                };
                let amount = |kind: &str| amount(fields.get(*reserved), kind);
                let firm = |kind| amount(kind).map(|a| a.filter(|_| !compressible));
                out.groups.push(LimitedGroup {
                    what: title,
                    group: path.to_owned(),
                    cpu_millis: amount("cpu")?.map(|q| q.milli_value()),
                    memory_bytes: firm("memory")?.map(|q| q.value()),
                    pids: firm("pid")?.map(|q| q.value()),
                });
            }
        }
    }
    Ok(out)
}

fn amount(reserved: Option<&Value>, kind: &str) -> Result<Option<api::Quantity>, String> {
    let Some(text) = reserved.and_then(|r| r.get(kind)).and_then(Value::as_str) else {
        return Ok(None);
    };
    let parsed = text.parse::<api::Quantity>();
    parsed
        .map(Some)
        .map_err(|e| format!("{kind}: {text:?}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(fields: Value) -> Result<Enforced, String> {
        read(fields.as_object().unwrap())
    }

    #[test]
    fn groups_are_limited_to_what_is_reserved_for_them() {
        assert_eq!(of(json!({})), Ok(Enforced::default()));
        assert!(of(json!({})).unwrap().pods);
        let none = of(json!({ "enforceNodeAllocatable": ["none"] })).unwrap();
        assert!(!none.pods && none.groups.is_empty());
        let all = of(json!({
            "enforceNodeAllocatable": ["pods", "system-reserved", "kube-reserved-compressible"],
            "systemReserved": { "cpu": "500m", "memory": "1Gi", "pid": "100" },
            "systemReservedCgroup": "/system",
            "kubeReserved": { "cpu": "1", "memory": "1Gi" }, "kubeReservedCgroup": "/kube",
        }))
        .unwrap();
        let group = |what, group: &str, cpu, memory, pids| LimitedGroup {
            what,
            group: group.to_owned(),
            cpu_millis: Some(cpu),
            memory_bytes: memory,
            pids,
        };
        assert!(all.pods);
        assert_eq!(
            all.groups,
            [
                group("System", "/system", 500, Some(1 << 30), Some(100)),
                group("Kube", "/kube", 1000, None, None),
            ]
        );
    }

    #[test]
    fn what_cannot_be_enforced_is_refused() {
        for (fields, why) in [
            (json!({ "enforceNodeAllocatable": "pods" }), "not a list"),
            (json!({ "enforceNodeAllocatable": ["all"] }), "not valid"),
            (
                json!({ "enforceNodeAllocatable": ["pods", "pods"] }),
                "duplicated",
            ),
            (
                json!({ "enforceNodeAllocatable": ["pods", "none"] }),
                "beside \"none\"",
            ),
            (
                json!({ "enforceNodeAllocatable": ["system-reserved"] }),
                "systemReservedCgroup must be specified",
            ),
            (
                json!({ "enforceNodeAllocatable": ["kube-reserved", "kube-reserved-compressible"],
                    "kubeReservedCgroup": "/k" }),
                "cannot be specified together",
            ),
        ] {
            let fault = of(fields).unwrap_err();
            assert!(fault.contains(why), "{fault}");
        }
    }
}
