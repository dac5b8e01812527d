//! The table of checks: of which level each is, and since which version of the standards.

use serde_json::Value;

use crate::policy::{Level, Standard, Version};
use crate::select::Pod;
use crate::{baseline, restricted};

/// What a check finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Short, as for all pods of a namespace.
    pub reason: String,
    /// What exactly; may be empty.
    pub detail: String,
}

impl Violation {
    pub(crate) fn new(reason: &str, detail: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            detail: detail.into(),
        }
    }
}

pub(crate) type CheckFn = fn(&Pod<'_>) -> Option<Violation>;

struct Check {
    name: &'static str,
    level: Level,
    /// The minor versions since which a rule holds, increasing.
    since: &'static [(u64, CheckFn)],
    /// The check of the lower level that is needless where this one is made.
    instead_of: &'static str,
}

const fn baseline(name: &'static str, since: &'static [(u64, CheckFn)]) -> Check {
    Check {
        name,
        level: Level::Baseline,
        since,
        instead_of: "",
    }
}

const fn restricted(
    name: &'static str,
    instead_of: &'static str,
    since: &'static [(u64, CheckFn)],
) -> Check {
    Check {
        name,
        level: Level::Restricted,
        since,
        instead_of,
    }
}

/// In the order of messages: by level, then by name.
const CHECKS: &[Check] = &[
    baseline("appArmorProfile", &[(0, baseline::app_armor)]),
    baseline("capabilities_baseline", &[(0, baseline::capabilities)]),
    baseline("hostNamespaces", &[(0, baseline::host_namespaces)]),
    baseline("hostPathVolumes", &[(0, baseline::host_paths)]),
    baseline("hostPorts", &[(0, baseline::host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, baseline::hosts)]),
    baseline("privileged", &[(0, baseline::privileged)]),
    baseline(
        "procMount",
        &[
            (0, baseline::proc_mount),
            (35, baseline::proc_mount_unless_own_users),
        ],
    ),
    baseline(
        "seLinuxOptions",
        &[(0, baseline::se_linux), (31, baseline::se_linux_1_31)],
    ),
    baseline(
        "seccompProfile_baseline",
        &[(0, baseline::seccomp_annotations), (19, baseline::seccomp)],
    ),
    baseline(
        "sysctls",
        &[
            (0, baseline::sysctls),
            (27, baseline::sysctls_1_27),
            (29, baseline::sysctls_1_29),
            (32, baseline::sysctls_1_32),
        ],
    ),
    baseline("windowsHostProcess", &[(0, baseline::windows_host)]),
    restricted(
        "allowPrivilegeEscalation",
        "",
        &[
            (8, restricted::escalation),
            (25, restricted::escalation_1_25),
        ],
    ),
    restricted(
        "capabilities_restricted",
        "capabilities_baseline",
        &[
            (22, restricted::capabilities),
            (25, restricted::capabilities_1_25),
        ],
    ),
    restricted(
        "procMount_restricted",
        "procMount",
        &[(35, baseline::proc_mount)],
    ),
    restricted(
        "restrictedVolumes",
        "hostPathVolumes",
        &[(0, restricted::volumes)],
    ),
    restricted(
        "runAsNonRoot",
        "",
        &[(0, restricted::non_root), (35, restricted::non_root_1_35)],
    ),
    restricted(
        "runAsUser",
        "",
        &[(23, restricted::user), (35, restricted::user_1_35)],
    ),
    restricted(
        "seccompProfile_restricted",
        "seccompProfile_baseline",
        &[(19, restricted::seccomp), (25, restricted::seccomp_1_25)],
    ),
];

/// What of a pod violates a standard. `metadata` and `spec` are a pod's, or a template's.
pub fn evaluate(standard: Standard, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let pod = Pod { metadata, spec };
    let rules = rules(standard);
    rules.into_iter().filter_map(|rule| rule(&pod)).collect()
}

fn rules(standard: Standard) -> Vec<CheckFn> {
    let minor = match standard.version {
        Version::Minor(minor) => minor,
        Version::Latest => u64::MAX,
    };
    let of = |check: &'static Check| {
        let past = check.since.iter().rev().find(|(since, _)| *since <= minor);
        past.filter(|_| check.level <= standard.level)
            .map(|(_, rule)| (check, *rule))
    };
    let all: Vec<(&Check, CheckFn)> = CHECKS.iter().filter_map(of).collect();
    let needless = |name: &str| all.iter().any(|(other, _)| other.instead_of == name);
    all.iter()
        .filter(|(check, _)| !needless(check.name))
        .map(|(_, rule)| *rule)
        .collect()
}

/// The reasons alone.
pub fn reasons(violations: &[Violation]) -> String {
    let each: Vec<&str> = violations.iter().map(|v| v.reason.as_str()).collect();
    each.join(", ")
}

/// Reasons with details.
pub fn show(violations: &[Violation]) -> String {
    let each = violations.iter().map(|v| match v.detail.as_str() {
        "" => v.reason.clone(),
        detail => format!("{} ({detail})", v.reason),
    });
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn standard(level: Level, version: Version) -> Standard {
        Standard { level, version }
    }

    fn at(level: Level, version: Version, spec: &Value) -> String {
        show(&evaluate(standard(level, version), &json!({}), spec))
    }

    #[test]
    fn the_plainest_pod_under_restricted() {
        let spec = json!({ "containers": [{ "name": "c" }] });
        let want = "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
            unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
            runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
            seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";
        assert_eq!(at(Level::Restricted, Version::Latest, &spec), want);
        assert_eq!(at(Level::Baseline, Version::Latest, &spec), "");
        let old = at(Level::Restricted, Version::Minor(7), &spec);
        assert!(old.starts_with("runAsNonRoot != true (") && !old.contains("seccomp"));
        let good = json!({
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{ "name": "c", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }],
        });
        for minor in 0..40 {
            assert_eq!(at(Level::Restricted, Version::Minor(minor), &good), "");
        }
    }

    #[test]
    fn checks_stand_in_order_and_replace_what_exists() {
        let key = |c: &Check| (c.level, c.name);
        assert!(CHECKS.windows(2).all(|w| key(&w[0]) < key(&w[1])));
        for check in CHECKS {
            assert!(check.since.windows(2).all(|w| w[0].0 < w[1].0));
            let replaced = check.instead_of;
            assert!(replaced.is_empty() || CHECKS.iter().any(|c| c.name == replaced));
        }
    }

    #[test]
    fn rules_change_with_versions() {
        let proc = json!({ "hostUsers": false, "containers": [{ "name": "c", "securityContext": { "procMount": "Unmasked" } }] });
        let says =
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")";
        assert_eq!(at(Level::Baseline, Version::Minor(34), &proc), says);
        assert_eq!(at(Level::Baseline, Version::Minor(35), &proc), "");
        assert!(at(Level::Restricted, Version::Latest, &proc).contains(says));
        let sysctl = json!({ "containers": [], "securityContext": { "sysctls": [{ "name": "net.ipv4.tcp_rmem" }] } });
        assert_eq!(
            at(Level::Baseline, Version::Minor(31), &sysctl),
            "forbidden sysctls (net.ipv4.tcp_rmem)"
        );
        assert_eq!(at(Level::Baseline, Version::Minor(32), &sysctl), "");
        let windows = json!({ "os": { "name": "windows" }, "containers": [{ "name": "c", "securityContext": { "runAsNonRoot": true } }] });
        assert_eq!(at(Level::Restricted, Version::Latest, &windows), "");
        assert!(!at(Level::Restricted, Version::Minor(24), &windows).is_empty());
    }

    #[test]
    fn baseline_names_what_it_finds() {
        let bad = |part: Value| json!({ "containers": [{ "name": "a", "securityContext": part }, { "name": "b" }] });
        for (spec, want) in [
            (
                json!({ "hostNetwork": true, "hostPID": true, "containers": [] }),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (
                bad(json!({ "privileged": true })),
                "privileged (container \"a\" must not set securityContext.privileged=true)",
            ),
            (
                bad(json!({ "capabilities": { "add": ["NET_RAW", "CHOWN", "BPF"] } })),
                "non-default capabilities (container \"a\" must not include \"BPF\", \"NET_RAW\" in securityContext.capabilities.add)",
            ),
            (
                json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/" } }], "containers": [] }),
                "hostPath volumes (volume \"v\")",
            ),
            (
                json!({ "containers": [{ "name": "a", "ports": [{ "hostPort": 80 }, { "hostPort": 443 }] }] }),
                "hostPort (container \"a\" uses hostPorts 443, 80)",
            ),
            (
                json!({ "containers": [{ "name": "a", "livenessProbe": { "httpGet": { "host": "h" } } }] }),
                "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")",
            ),
            (
                bad(json!({ "seLinuxOptions": { "type": "x", "user": "u" } })),
                "seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
            ),
            (
                bad(json!({ "seccompProfile": { "type": "Unconfined" } })),
                "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                json!({ "securityContext": { "appArmorProfile": { "type": "Unconfined" } }, "containers": [] }),
                "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
            ),
            (
                json!({ "securityContext": { "windowsOptions": { "hostProcess": true } }, "containers": [] }),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
        ] {
            assert_eq!(at(Level::Baseline, Version::Latest, &spec), want);
        }
    }

    #[test]
    fn restricted_names_what_it_finds() {
        let ok = json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
        let spec = |own: Value, volumes: Value| {
            let mut context =
                json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
            if let (Some(all), Some(own)) = (context.as_object_mut(), own.as_object()) {
                all.extend(own.clone());
            }
            json!({ "securityContext": context, "volumes": volumes, "containers": [{ "name": "c", "securityContext": ok }] })
        };
        for (spec, want) in [
            (
                spec(
                    json!({}),
                    json!([{ "name": "v", "nfs": {} }, { "name": "w", "hostPath": {} }, { "name": "e", "emptyDir": {} }]),
                ),
                "restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\")",
            ),
            (
                spec(json!({ "runAsNonRoot": false }), json!([])),
                "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
            ),
            (
                spec(json!({ "runAsUser": 0 }), json!([])),
                "runAsUser=0 (pod must not set runAsUser=0)",
            ),
            (
                spec(
                    json!({ "seccompProfile": { "type": "Unconfined" } }),
                    json!([]),
                ),
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
        ] {
            assert_eq!(at(Level::Restricted, Version::Latest, &spec), want);
        }
    }
}
