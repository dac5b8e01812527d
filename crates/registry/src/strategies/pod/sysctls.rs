//! Kernel parameters that a pod cannot have: those of a namespace that it shares with its node.

use api::{FieldError, FieldPath};
use serde_json::Value;

use crate::check::{Errors, at, flag, items, text};

/// Parameters of the IPC namespace by name; those below `fs.mqueue.` are too.
const IPC: &[&str] = &[
    "kernel.msg",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// Checks the parameters of a `PodSpec` against the namespaces that it shares.
pub fn shared(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let list = items(at(spec, "securityContext"), "sysctls");
    let path = path.child("securityContext").child("sysctls");
    for (i, sysctl) in list.iter().enumerate() {
        let name = text(sysctl, "name");
        // A name may be written with slashes: `net/ipv4/tcp_syncookies`.
        let is = |prefix: &str| {
            let rest = name.strip_prefix(prefix);
            rest.is_some_and(|r| r.starts_with(['.', '/']))
        };
        let of_ipc = IPC.contains(&name.replacen('/', ".", 1).as_str())
            || is("fs.mqueue")
            || is("fs/mqueue");
        let shared = if flag(spec, "hostNetwork") && is("net") {
            "hostNetwork"
        } else if flag(spec, "hostIPC") && of_ipc {
            "hostIPC"
        } else {
            continue;
        };
        let why = format!("may not be specified when '{shared}' is true");
        let path = path.index(i).child("name");
        errs.push(FieldError::invalid_str(&path, name, &why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_namespace_must_be_the_pods_own() {
        for (name, field, good) in [
            ("net.ipv4.tcp_syncookies", "hostNetwork", false),
            ("net/ipv4/tcp_syncookies", "hostNetwork", false),
            ("net.ipv4.tcp_syncookies", "hostIPC", true),
            ("network.x", "hostNetwork", true),
            ("kernel.msgmax", "hostIPC", false),
            ("kernel/sem", "hostIPC", false),
            ("fs.mqueue.msg_max", "hostIPC", false),
            ("kernel.msgmax", "hostNetwork", true),
        ] {
            let mut spec = json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
            spec[field] = json!(true);
            let mut errs = Errors::new();
            shared(&mut errs, &FieldPath::new("spec"), &spec);
            assert_eq!(errs.is_empty(), good, "{name} {field}: {errs:?}");
        }
    }
}
