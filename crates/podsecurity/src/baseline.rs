//! The checks of the level baseline: known ways out of a container are closed.

use serde_json::Value;

use crate::checks::Violation;
use crate::select::{
    Pod, Set, containers, flag, has, list, part_of, plural, quoted, setters, text,
};

const ALLOWED_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Names of sysctls with the minor version of the standards since which each is allowed.
const ALLOWED_SYSCTLS: &[(&str, u64)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

pub(crate) fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let mut values = Set::new();
    let mut bad = |of: &Value| match part_of(of, "appArmorProfile") {
        Some(p) if !matches!(text(p, "type"), "RuntimeDefault" | "Localhost") => {
            values.insert(text(p, "type").to_owned());
            true
        }
        _ => false,
    };
    let own = bad(pod.spec);
    let names = pod.named(&mut bad);
    let mut who: Vec<String> = setters(own, &names).into_iter().collect();
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let annotations: Set = pod
        .annotations()
        .filter(|(key, value)| key.starts_with(APP_ARMOR) && !allowed(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !annotations.is_empty() {
        who.push(plural(annotations.len(), "annotation", "annotations").to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    let reason = plural(
        values.len(),
        "forbidden AppArmor profile",
        "forbidden AppArmor profiles",
    );
    let detail = format!(
        "{} must not set AppArmor profile type to {}",
        who.join(" and "),
        quoted(&values)
    );
    Some(Violation::new(reason, detail))
}

pub(crate) fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let mut forbidden = Set::new();
    let names = pod.named(|c| {
        let added = part_of(c, "capabilities").map_or(&[][..], |c| list(c, "add"));
        let bad = added.iter().filter_map(Value::as_str);
        let bad: Vec<&str> = bad.filter(|c| !ALLOWED_CAPABILITIES.contains(c)).collect();
        forbidden.extend(bad.iter().map(|c| (*c).to_owned()));
        !bad.is_empty()
    });
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(&forbidden)
        );
        Violation::new("non-default capabilities", detail)
    })
}

pub(crate) fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let used = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| flag(pod.spec, field) == Some(true));
    let used: Vec<String> = used.map(|field| format!("{field}=true")).collect();
    (!used.is_empty()).then(|| Violation::new("host namespaces", used.join(", ")))
}

pub(crate) fn host_paths(pod: &Pod<'_>) -> Option<Violation> {
    let volumes = list(pod.spec, "volumes").iter();
    let names: Vec<&str> = volumes
        .filter(|v| has(v, "hostPath"))
        .map(|v| text(v, "name"))
        .collect();
    (!names.is_empty()).then(|| {
        let word = plural(names.len(), "volume", "volumes");
        Violation::new("hostPath volumes", format!("{word} {}", quoted(&names)))
    })
}

pub(crate) fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let mut ports = Set::new();
    let names = pod.named(|c| {
        let own = list(c, "ports").iter();
        let own = own.filter_map(|p| p.get("hostPort").and_then(Value::as_i64));
        let own: Vec<i64> = own.filter(|p| *p != 0).collect();
        ports.extend(own.iter().map(ToString::to_string));
        !own.is_empty()
    });
    (!names.is_empty()).then(|| {
        let all: Vec<&str> = ports.iter().map(String::as_str).collect();
        let detail = format!(
            "{} {} {} {}",
            containers(&names),
            plural(names.len(), "uses", "use"),
            plural(all.len(), "hostPort", "hostPorts"),
            all.join(", ")
        );
        Violation::new("hostPort", detail)
    })
}

/// Probes and hooks that are sent to another host.
pub(crate) fn hosts(pod: &Pod<'_>) -> Option<Violation> {
    let mut hosts = Set::new();
    let mut names: Vec<&str> = pod.named(|c| {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"];
        let handlers = probes.iter().filter_map(|p| c.get(*p));
        let hooks = ["postStart", "preStop"].iter();
        let hooks = hooks.filter_map(|h| c.get("lifecycle")?.get(*h));
        let own = handlers.chain(hooks).flat_map(|handler| {
            let ways = ["httpGet", "tcpSocket"].into_iter();
            ways.filter_map(|way| handler.get(way))
        });
        let own: Vec<&str> = own
            .map(|way| text(way, "host"))
            .filter(|host| !host.is_empty())
            .collect();
        hosts.extend(own.iter().map(|h| (*h).to_owned()));
        !own.is_empty()
    });
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {}",
            containers(&names),
            plural(names.len(), "uses", "use"),
            plural(
                hosts.len(),
                "probe or lifecycle host",
                "probe or lifecycle hosts"
            ),
            quoted(&hosts)
        );
        Violation::new("probe or lifecycle host", detail)
    })
}

pub(crate) fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.named(|c| part_of(c, "privileged") == Some(&Value::Bool(true)));
    (!names.is_empty()).then(|| {
        let who = containers(&names);
        let detail = format!("{who} must not set securityContext.privileged=true");
        Violation::new("privileged", detail)
    })
}

pub(crate) fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    let mut types = Set::new();
    let names = pod.named(|c| match part_of(c, "procMount").and_then(Value::as_str) {
        Some(other) if other != "Default" => {
            types.insert(other.to_owned());
            true
        }
        _ => false,
    });
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} must not set securityContext.procMount to {}",
            containers(&names),
            quoted(&types)
        );
        Violation::new("procMount", detail)
    })
}

pub(crate) fn proc_mount_unless_own_users(pod: &Pod<'_>) -> Option<Violation> {
    if pod.has_user_namespace() {
        return None;
    }
    proc_mount(pod)
}

pub(crate) fn se_linux(pod: &Pod<'_>) -> Option<Violation> {
    se_linux_beside(
        pod,
        &["", "container_t", "container_init_t", "container_kvm_t"],
    )
}

pub(crate) fn se_linux_1_31(pod: &Pod<'_>) -> Option<Violation> {
    let allowed = [
        "",
        "container_t",
        "container_init_t",
        "container_kvm_t",
        "container_engine_t",
    ];
    se_linux_beside(pod, &allowed)
}

fn se_linux_beside(pod: &Pod<'_>, allowed: &[&str]) -> Option<Violation> {
    let (mut types, mut user, mut role) = (Set::new(), false, false);
    let mut bad = |of: &Value| {
        let Some(options) = part_of(of, "seLinuxOptions") else {
            return false;
        };
        let kind = text(options, "type");
        let known = allowed.contains(&kind);
        if !known {
            types.insert(kind.to_owned());
        }
        let (has_user, has_role) = (
            !text(options, "user").is_empty(),
            !text(options, "role").is_empty(),
        );
        (user, role) = (user || has_user, role || has_role);
        !known || has_user || has_role
    };
    let own = bad(pod.spec);
    let names = pod.named(&mut bad);
    let who = setters(own, &names)?;
    let mut what = Vec::new();
    if !types.is_empty() {
        let word = plural(types.len(), "type", "types");
        what.push(format!("{word} {}", quoted(&types)));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    let detail = format!(
        "{who} set forbidden securityContext.seLinuxOptions: {}",
        what.join("; ")
    );
    Some(Violation::new("seLinuxOptions", detail))
}

/// The annotations that came before the fields.
pub(crate) fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let allowed =
        |v: &str| v == "runtime/default" || v == "docker/default" || v.starts_with("localhost/");
    let names: Vec<&str> = pod.containers().map(|c| text(c, "name")).collect();
    let concerns = |key: &str| {
        let of = key.strip_prefix(SECCOMP_CONTAINER);
        key == SECCOMP_POD || of.is_some_and(|name| names.contains(&name))
    };
    let bad: Set = pod
        .annotations()
        .filter(|(key, value)| concerns(key) && !allowed(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    (!bad.is_empty()).then(|| {
        let word = plural(bad.len(), "annotation", "annotations");
        let all: Vec<&str> = bad.iter().map(String::as_str).collect();
        let detail = format!("forbidden {word} {}", all.join(", "));
        Violation::new("seccompProfile", detail)
    })
}

/// Whether a seccomp profile is given, and then whether it is an allowed one; other types are
/// collected.
pub(crate) fn seccomp_of(of: &Value, others: &mut Set) -> Option<bool> {
    let profile = part_of(of, "seccompProfile")?;
    let kind = text(profile, "type");
    let allowed = matches!(kind, "RuntimeDefault" | "Localhost");
    if !allowed {
        others.insert(kind.to_owned());
    }
    Some(allowed)
}

pub(crate) fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let mut others = Set::new();
    let own = seccomp_of(pod.spec, &mut others) == Some(false);
    let names = pod.named(|c| seccomp_of(c, &mut others) == Some(false));
    let who = setters(own, &names)?;
    Some(unconfined(&who, &others))
}

pub(crate) fn unconfined(who: &str, types: &Set) -> Violation {
    let types = quoted(types);
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {types}");
    Violation::new("seccompProfile", detail)
}

pub(crate) fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_at(pod, 0)
}
pub(crate) fn sysctls_1_27(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_at(pod, 27)
}
pub(crate) fn sysctls_1_29(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_at(pod, 29)
}
pub(crate) fn sysctls_1_32(pod: &Pod<'_>) -> Option<Violation> {
    sysctls_at(pod, 32)
}

fn sysctls_at(pod: &Pod<'_>, minor: u64) -> Option<Violation> {
    let all = pod.own("sysctls").and_then(Value::as_array);
    let names = all.into_iter().flatten().map(|s| text(s, "name"));
    let allowed = |name: &&str| {
        let known = |(n, since): &(&str, u64)| n == name && *since <= minor;
        ALLOWED_SYSCTLS.iter().any(known)
    };
    let bad: Vec<&str> = names.filter(|n| !allowed(n)).collect();
    (!bad.is_empty()).then(|| Violation::new("forbidden sysctls", bad.join(", ")))
}

pub(crate) fn windows_host(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |of: &Value| {
        let options = part_of(of, "windowsOptions");
        options.is_some_and(|o| flag(o, "hostProcess") == Some(true))
    };
    let names = pod.named(bad);
    let who = setters(bad(pod.spec), &names)?;
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    Some(Violation::new("hostProcess", detail))
}
