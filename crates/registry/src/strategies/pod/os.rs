//! What a pod cannot ask of the operating system that it names.

use api::{FieldError, FieldPath};
use serde_json::Value;

use super::parts::each_container;
use crate::check::{Errors, at, flag, has, is_empty, one_of, text};

/// Fields of a pod's security context that Windows has not.
const LINUX_ONLY: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
/// Those of a container's.
const CONTAINERS_LINUX_ONLY: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// Checks the system that a `PodSpec` names, if any, and what else it says against it.
pub fn check(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    if !has(spec, "os") {
        return;
    }
    match text(at(spec, "os"), "name") {
        "" => {
            let path = path.child("os").child("name");
            errs.push(FieldError::required(&path, ""));
        }
        "linux" => linux(errs, path, spec),
        "windows" => windows(errs, path, spec),
        other => one_of(errs, &path.child("os"), other, &["linux", "windows"]),
    }
}

fn linux(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let mut no_windows = |path: FieldPath, holder: &Value| {
        if has(at(holder, "securityContext"), "windowsOptions") {
            let why = "windows options cannot be set for a linux pod";
            let path = path.child("securityContext").child("windowsOptions");
            errs.push(FieldError::forbidden(&path, why));
        }
    };
    no_windows(path.clone(), spec);
    each_container(path, spec, no_windows);
}

fn windows(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let mut none = |path: &FieldPath, field: &str| {
        let why = "cannot be set for a windows pod";
        errs.push(FieldError::forbidden(&path.child(field), why));
    };
    let (context, context_path) = (at(spec, "securityContext"), path.child("securityContext"));
    for field in LINUX_ONLY.into_iter().filter(|f| has(context, f)) {
        none(&context_path, field);
    }
    if !is_empty(at(context, "sysctls")) {
        none(&context_path, "sysctls");
    }
    for field in ["hostUsers", "shareProcessNamespace"] {
        if has(spec, field) {
            none(path, field);
        }
    }
    for field in ["hostPID", "hostIPC"] {
        if flag(spec, field) {
            none(path, field);
        }
    }
    each_container(path, spec, |path, c| {
        let context = at(c, "securityContext");
        for field in CONTAINERS_LINUX_ONLY
            .into_iter()
            .filter(|f| has(context, f))
        {
            none(&path.child("securityContext"), field);
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(spec: &Value) -> Vec<String> {
        let mut errs = Errors::new();
        check(&mut errs, &FieldPath::new("spec"), spec);
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pod_asks_nothing_that_its_system_has_not() {
        let spec = |os: &str| {
            json!({
                "os": { "name": os }, "hostPID": true,
                "securityContext": { "fsGroup": 1, "windowsOptions": {} },
                "containers": [{ "name": "c", "securityContext": { "privileged": false, "windowsOptions": {} } }],
            })
        };
        assert_eq!(
            wrong(&spec("linux")),
            [
                "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
                "spec.containers[0].securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
            ]
        );
        assert_eq!(
            wrong(&spec("windows")),
            [
                "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
                "spec.hostPID: Forbidden: cannot be set for a windows pod",
                "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
            ]
        );
        assert_eq!(
            wrong(&json!({ "os": {} })),
            ["spec.os.name: Required value"]
        );
        assert_eq!(
            wrong(&spec("plan9")),
            ["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""]
        );
        assert_eq!(wrong(&json!({})), Vec::<String>::new());
    }
}
