//! The checks of one container: names, ports, environment, mounts, probes, security.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath, Quantity, names};
use serde_json::Value;

use super::quantity;
use crate::check::{
    Errors, at, dns_label, flag, has, int, invalid, invalid_each, items, not_negative, one_of,
    optional_word, port, port_or_name, qualified_name, required_text, required_word, text,
};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// What containers of all three lists have in common, but for what they see of volumes.
pub fn common(errs: &mut Errors, path: &FieldPath, c: &Value) {
    match text(c, "name") {
        "" => errs.push(FieldError::required(&path.child("name"), "")),
        name => dns_label(errs, &path.child("name"), name),
    }
    let image = text(c, "image");
    if image.is_empty() {
        errs.push(FieldError::required(&path.child("image"), ""));
    } else if image.trim().len() != image.len() {
        let why = "must not have leading or trailing whitespace";
        errs.push(FieldError::invalid_str(&path.child("image"), image, why));
    }
    let messages = ["File", "FallbackToLogsOnError"];
    required_word(errs, path, c, "terminationMessagePolicy", &messages);
    ports(errs, &path.child("ports"), items(c, "ports"));
    env(errs, &path.child("env"), items(c, "env"));
    env_from(errs, &path.child("envFrom"), items(c, "envFrom"));
    required_word(
        errs,
        path,
        c,
        "imagePullPolicy",
        &["Always", "IfNotPresent", "Never"],
    );
    quantity::requirements(errs, &path.child("resources"), at(c, "resources"));
    resize_policy(errs, &path.child("resizePolicy"), items(c, "resizePolicy"));
    security(
        errs,
        &path.child("securityContext"),
        at(c, "securityContext"),
    );
}

fn ports(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, p) in all.iter().enumerate() {
        let path = path.index(i);
        let name = text(p, "name");
        if !name.is_empty() {
            let wrong = names::is_valid_port_name(name);
            if !wrong.is_empty() {
                invalid_each(errs, &path.child("name"), name, wrong);
            } else if !seen.insert(name) {
                errs.push(FieldError::duplicate(&path.child("name"), &name.into()));
            }
        }
        match int(p, "containerPort").unwrap_or(0) {
            0 => errs.push(FieldError::required(&path.child("containerPort"), "")),
            _ => port(errs, &path.child("containerPort"), at(p, "containerPort")),
        }
        if int(p, "hostPort").unwrap_or(0) != 0 {
            port(errs, &path.child("hostPort"), at(p, "hostPort"));
        }
        required_word(errs, &path, p, "protocol", PROTOCOLS);
    }
}

/// Two containers may not take the same port of the node.
pub fn host_ports(errs: &mut Errors, path: &FieldPath, containers: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, c) in containers.iter().enumerate() {
        for (j, p) in items(c, "ports").iter().enumerate() {
            let number = int(p, "hostPort").unwrap_or(0);
            let key = format!("{}/{}/{number}", text(p, "protocol"), text(p, "hostIP"));
            if number != 0 && !seen.insert(key.clone()) {
                let path = path.index(i).child("ports").index(j).child("hostPort");
                errs.push(FieldError::duplicate(&path, &key.into()));
            }
        }
    }
}

fn env(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    for (i, e) in all.iter().enumerate() {
        let path = path.index(i);
        if required_text(errs, &path, e, "name") {
            let name = text(e, "name");
            invalid_each(
                errs,
                &path.child("name"),
                name,
                names::is_relaxed_env_var_name(name),
            );
        }
        if has(e, "valueFrom") {
            value_from(errs, &path.child("valueFrom"), e);
        }
    }
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn value_from(errs: &mut Errors, path: &FieldPath, e: &Value) {
    let from = at(e, "valueFrom");
    let mut sources = 0;
    if has(from, "fieldRef") {
        sources += 1;
        field_ref(
            errs,
            &path.child("fieldRef"),
            at(from, "fieldRef"),
            ENV_FIELDS,
        );
    }
    if has(from, "resourceFieldRef") {
        sources += 1;
        resource_ref(
            errs,
            &path.child("resourceFieldRef"),
            at(from, "resourceFieldRef"),
            false,
        );
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if has(from, field) {
            sources += 1;
            key_ref(errs, &path.child(field), at(from, field));
        }
    }
    if has(from, "fileKeyRef") {
        sources += 1;
        file_key_ref(errs, &path.child("fileKeyRef"), at(from, "fileKeyRef"));
    }
    let why = match (sources, text(e, "value").is_empty()) {
        (0, _) => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        (_, false) => "may not be specified when `value` is not empty",
        (2.., _) => "may not have more than one field specified at a time",
        _ => return,
    };
    errs.push(FieldError::invalid_str(path, "", why));
}

fn key_ref(errs: &mut Errors, path: &FieldPath, r: &Value) {
    required_text(errs, path, r, "name");
    match text(r, "key") {
        "" => errs.push(FieldError::required(&path.child("key"), "")),
        key => invalid_each(errs, &path.child("key"), key, names::is_config_map_key(key)),
    }
}

/// A reference to a variable in a file of a volume.
fn file_key_ref(errs: &mut Errors, path: &FieldPath, r: &Value) {
    match text(r, "key") {
        "" => errs.push(FieldError::required(&path.child("key"), "")),
        key => {
            let wrong = names::is_relaxed_env_var_name(key);
            invalid_each(errs, &path.child("key"), key, wrong);
        }
    }
    match text(r, "volumeName") {
        "" => errs.push(FieldError::required(&path.child("volumeName"), "")),
        name => dns_label(errs, &path.child("volumeName"), name),
    }
    match text(r, "path") {
        "" => errs.push(FieldError::required(&path.child("path"), "")),
        inside => no_backsteps(errs, &path.child("path"), inside),
    }
}

/// The volumes that variables in files are read from: only ones that the pod itself fills.
pub fn file_key_volumes(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, c) in items(spec, list).iter().enumerate() {
            for (j, variable) in items(c, "env").iter().enumerate() {
                let from = at(variable, "valueFrom");
                if !has(from, "fileKeyRef") {
                    continue;
                }
                let name = text(at(from, "fileKeyRef"), "volumeName");
                let path = path.child(list).index(i).child("env").index(j);
                let path = path.child("valueFrom").child("fileKeyRef");
                let path = path.child("volumeName");
                let mut volumes = items(spec, "volumes").iter();
                match volumes.find(|v| text(v, "name") == name) {
                    None => errs.push(FieldError::not_found(&path, &name.into())),
                    Some(v) if has(v, "emptyDir") => {}
                    Some(_) => {
                        let why = "referenced volume must be of type emptyDir";
                        errs.push(FieldError::invalid_str(&path, name, why));
                    }
                }
            }
        }
    }
}

/// A reference to a field of the pod; `allowed` sorted.
pub fn field_ref(errs: &mut Errors, path: &FieldPath, r: &Value, allowed: &[&str]) {
    if !required_text(errs, path, r, "apiVersion") || !required_text(errs, path, r, "fieldPath") {
        return;
    }
    let (field, path) = (text(r, "fieldPath"), path.child("fieldPath"));
    let subscript = field.strip_suffix("']").and_then(|f| f.split_once("['"));
    match subscript {
        Some(("metadata.annotations", key)) => {
            qualified_name(errs, &path, &key.to_lowercase());
        }
        Some(("metadata.labels", key)) => qualified_name(errs, &path, key),
        Some((other, _)) => {
            let why = format!("field {other:?} does not support subscript");
            errs.push(FieldError::invalid_str(&path, other, &why));
        }
        None if allowed.contains(&field) => {}
        None if ENV_FIELDS.contains(&field)
            || ["metadata.labels", "metadata.annotations"].contains(&field) =>
        {
            errs.push(FieldError::not_supported(&path, field, allowed));
        }
        None => {
            let why = format!("error converting fieldPath: field label not supported: {field}");
            errs.push(FieldError::invalid_str(&path, field, &why));
        }
    }
}

/// A reference to a resource of a container; volumes must name the container.
pub fn resource_ref(errs: &mut Errors, path: &FieldPath, r: &Value, of_volume: bool) {
    const RESOURCES: &[&str] = &[
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    if of_volume && text(r, "containerName").is_empty() {
        errs.push(FieldError::required(&path.child("containerName"), ""));
        return;
    }
    let resource = text(r, "resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"];
    match resource {
        "" => errs.push(FieldError::required(&path.child("resource"), "")),
        _ if huge.iter().any(|h| resource.starts_with(h)) => {}
        _ => one_of(errs, &path.child("resource"), resource, RESOURCES),
    }
    divisor(errs, path, resource, at(r, "divisor"));
}

/// What an amount is shown in: a thousandth or one of CPU, powers of bytes of everything else.
fn divisor(errs: &mut Errors, path: &FieldPath, resource: &str, divisor: &Value) {
    const POWERS: &str = "1 1k 1M 1G 1T 1P 1E 1Ki 1Mi 1Gi 1Ti 1Pi 1Ei";
    if quantity::parse(divisor).is_none_or(|q| q.is_zero()) {
        return;
    }
    let (of, powers, listed) = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => ("cpu", "1m 1", "1m and 1"),
        "memory" => ("memory", POWERS, ""),
        "ephemeral-storage" => ("local ephemeral storage", POWERS, ""),
        name if name.starts_with("hugepages-") => ("hugepages", POWERS, ""),
        _ => return,
    };
    let shown = quantity::show(divisor);
    let canonical = Quantity::canonical(&shown).unwrap_or(shown);
    if powers.split(' ').any(|power| power == canonical) {
        return;
    }
    let listed = match listed {
        "" => powers.replace(' ', ", "),
        listed => listed.to_owned(),
    };
    let why = format!("only divisor's values {listed} are supported with the {of} resource");
    errs.push(FieldError::invalid_str(
        &path.child("divisor"),
        resource,
        &why,
    ));
}

fn env_from(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    for (i, e) in all.iter().enumerate() {
        let prefix = text(e, "prefix");
        if !prefix.is_empty() {
            let wrong = names::is_relaxed_env_var_name(prefix);
            invalid_each(errs, &path.index(i).child("prefix"), prefix, wrong);
        }
        let mut sources = 0;
        for field in ["configMapRef", "secretRef"] {
            if has(e, field) {
                sources += 1;
                required_text(errs, &path.index(i).child(field), at(e, field), "name");
            }
        }
        let why = match sources {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errs.push(FieldError::invalid_str(path, "", why));
    }
}

/// A relative path that does not climb.
pub fn descending(errs: &mut Errors, path: &FieldPath, value: &str) {
    if value.starts_with('/') {
        errs.push(FieldError::invalid_str(
            path,
            value,
            "must be a relative path",
        ));
    }
    no_backsteps(errs, path, value);
}

/// A path without `..`.
pub fn no_backsteps(errs: &mut Errors, path: &FieldPath, value: &str) {
    if value.split('/').any(|p| p == "..") {
        errs.push(FieldError::invalid_str(
            path,
            value,
            "must not contain '..'",
        ));
    }
}

fn resize_policy(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, p) in all.iter().enumerate() {
        let name = text(p, "resourceName");
        if !seen.insert(name) {
            errs.push(FieldError::duplicate(&path.index(i), &name.into()));
        }
        one_of(errs, path, name, &["cpu", "memory"]);
        one_of(
            errs,
            path,
            text(p, "restartPolicy"),
            &["NotRequired", "RestartContainer"],
        );
    }
}

/// The restart policy of one container and the rules of exit codes.
pub fn restart_rules(errs: &mut Errors, path: &FieldPath, c: &Value) {
    let words = ["Always", "Never", "OnFailure"];
    optional_word(errs, path, c, "restartPolicy", &words);
    let rules = items(c, "restartPolicyRules");
    if !rules.is_empty() && !has(c, "restartPolicy") {
        let why = "must specify restartPolicy when restart rules are used";
        errs.push(FieldError::required(&path.child("restartPolicy"), why));
    }
    let path = path.child("restartPolicyRules");
    if rules.len() > MOST_RULES {
        errs.push(FieldError::too_many(&path, rules.len(), MOST_RULES));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        let words = ["Restart", "RestartAllContainers"];
        one_of(errs, &path.child("action"), text(rule, "action"), &words);
        let (codes, path) = (at(rule, "exitCodes"), path.child("exitCodes"));
        if codes.is_null() {
            errs.push(FieldError::required(&path, "must be specified"));
            continue;
        }
        let operator = path.child("operator");
        one_of(errs, &operator, text(codes, "operator"), &["In", "NotIn"]);
        let values = items(codes, "values").len();
        if values > MOST_CODES {
            errs.push(FieldError::too_many(&path, values, MOST_CODES));
        }
    }
}

/// Upstream's bounds of the rules of a container, and of the exit codes of a rule.
const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;

/// Whether an ended container may be started again: its own rules decide, then its own policy,
/// then that of the pod.
pub fn may_restart(spec: &Value, c: &Value, exit_code: i64) -> bool {
    let own = text(c, "restartPolicy");
    if !own.is_empty() {
        let matches = |rule: &&Value| {
            let codes = at(rule, "exitCodes");
            let listed = items(codes, "values");
            let listed = listed.iter().any(|v| v.as_i64() == Some(exit_code));
            match text(codes, "operator") {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        };
        if items(c, "restartPolicyRules").iter().any(|r| matches(&r)) {
            return true;
        }
    }
    match if own.is_empty() {
        text(spec, "restartPolicy")
    } else {
        own
    } {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether some container's end may start all of the pod's again.
pub fn all_may_restart(spec: &Value) -> bool {
    let lists = ["initContainers", "containers"].map(|list| items(spec, list));
    let mut rules = lists
        .into_iter()
        .flatten()
        .flat_map(|c| items(c, "restartPolicyRules"));
    rules.any(|rule| text(rule, "action") == "RestartAllContainers")
}

/// The three probes.
pub fn probes(errs: &mut Errors, path: &FieldPath, c: &Value) {
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let (p, path) = (at(c, field), path.child(field));
        if p.is_null() {
            continue;
        }
        handler(errs, &path, p);
        for n in [
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ] {
            not_negative(errs, &path, p, n);
        }
        crate::check::positive(errs, &path, p, "terminationGracePeriodSeconds");
        let once = int(p, "successThreshold").unwrap_or(1) == 1;
        if field == "readinessProbe" {
            if has(p, "terminationGracePeriodSeconds") {
                let path = path.child("terminationGracePeriodSeconds");
                let why = "must not be set for readinessProbes";
                invalid(errs, &path, at(p, "terminationGracePeriodSeconds"), why);
            }
        } else if !once {
            let path = path.child("successThreshold");
            invalid(errs, &path, at(p, "successThreshold"), "must be 1");
        }
    }
}

/// The signals that a container may be stopped with; upstream's.
fn is_signal(name: &str) -> bool {
    const PLAIN: &str = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX";
    let Some(name) = name.strip_prefix("SIG") else {
        return false;
    };
    let distance = |prefix: &str, most: u32| {
        let number = name.strip_prefix(prefix);
        let number = number.filter(|n| !n.starts_with(['0', '+']));
        number
            .and_then(|n| n.parse().ok())
            .is_some_and(|n: u32| n <= most)
    };
    PLAIN.split(' ').any(|plain| plain == name) || distance("RTMIN+", 15) || distance("RTMAX-", 14)
}

/// The signal that a container is stopped with, of a pod for an operating system. Upstream wants that
/// to be named where its gate ContainerStopSignals is on, and drops the field where it is off; here it
/// counts, and nodes run Linux.
pub fn stop_signal(errs: &mut Errors, path: &FieldPath, l: &Value, os: &str) {
    if !has(l, "stopSignal") {
        return;
    }
    let (path, name) = (path.child("stopSignal"), text(l, "stopSignal"));
    match os {
        "windows" => one_of(errs, &path, name, &["SIGKILL", "SIGTERM"]),
        _ if is_signal(name) => {}
        _ => errs.push(FieldError::invalid_str(
            &path,
            name,
            "is not a signal of Linux",
        )),
    }
}

/// What is done after the start and before the stop; `grace`: the seconds that the pod has to end.
pub fn lifecycle(errs: &mut Errors, path: &FieldPath, l: &Value, grace: Option<i64>) {
    for field in ["postStart", "preStop"] {
        if has(l, field) {
            let (path, h) = (path.child(field), at(l, field));
            handler(errs, &path, h);
            sleep(errs, &path.child("sleep"), at(h, "sleep"), grace);
        }
    }
}

/// A pause that ends before the pod is killed.
fn sleep(errs: &mut Errors, path: &FieldPath, sleep: &Value, grace: Option<i64>) {
    let seconds = int(sleep, "seconds").unwrap_or(0);
    if let Some(grace) = grace
        && !sleep.is_null()
        && !(0..=grace).contains(&seconds)
    {
        let why =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        invalid(errs, path, &seconds.into(), &why);
    }
}

fn handler(errs: &mut Errors, path: &FieldPath, h: &Value) {
    let mut found = false;
    for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let (v, path) = (at(h, kind), path.child(kind));
        if v.is_null() {
            continue;
        }
        if found {
            let why = "may not specify more than 1 handler type";
            errs.push(FieldError::forbidden(&path, why));
            continue;
        }
        found = true;
        match kind {
            "exec" if items(v, "command").is_empty() => {
                errs.push(FieldError::required(&path.child("command"), ""));
            }
            "httpGet" => http_get(errs, &path, v),
            "tcpSocket" => port_or_name(errs, &path.child("port"), at(v, "port")),
            "grpc" => port(errs, &path.child("port"), at(v, "port")),
            _ => {}
        }
    }
    if !found {
        errs.push(FieldError::required(path, "must specify a handler type"));
    }
}

fn http_get(errs: &mut Errors, path: &FieldPath, v: &Value) {
    required_text(errs, path, v, "path");
    port_or_name(errs, &path.child("port"), at(v, "port"));
    one_of(
        errs,
        &path.child("scheme"),
        text(v, "scheme"),
        &["HTTP", "HTTPS"],
    );
    for h in items(v, "httpHeaders") {
        let name = text(h, "name");
        invalid_each(
            errs,
            &path.child("httpHeaders"),
            name,
            names::is_http_header_name(name),
        );
    }
}

/// The security settings of a container.
fn security(errs: &mut Errors, path: &FieldPath, s: &Value) {
    if s.is_null() {
        return;
    }
    ids(errs, path, s, &["runAsUser", "runAsGroup"]);
    optional_word(errs, path, s, "procMount", &["Default", "Unmasked"]);
    profile(errs, &path.child("seccompProfile"), at(s, "seccompProfile"));
    profile(
        errs,
        &path.child("appArmorProfile"),
        at(s, "appArmorProfile"),
    );
    if at(s, "allowPrivilegeEscalation").as_bool() == Some(false) {
        if flag(s, "privileged") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            invalid(errs, path, s, why);
        }
        let added = items(at(s, "capabilities"), "add");
        if added.iter().any(|c| c.as_str() == Some("CAP_SYS_ADMIN")) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            invalid(errs, path, s, why);
        }
    }
}

fn ids(errs: &mut Errors, path: &FieldPath, s: &Value, fields: &[&str]) {
    for field in fields {
        if int(s, field).is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n)) {
            let why = "must be between 0 and 2147483647, inclusive";
            invalid(errs, &path.child(field), at(s, field), why);
        }
    }
}

fn profile(errs: &mut Errors, path: &FieldPath, p: &Value) {
    if p.is_null() {
        return;
    }
    let local = text(p, "localhostProfile");
    match text(p, "type") {
        "" => errs.push(FieldError::required(
            &path.child("type"),
            "type is required",
        )),
        "Localhost" if local.is_empty() => errs.push(FieldError::required(
            &path.child("localhostProfile"),
            "must be set when seccomp type is Localhost",
        )),
        "Localhost" => descending(errs, &path.child("localhostProfile"), local),
        ty => {
            if !local.is_empty() {
                let why = "can only be set when seccomp type is Localhost";
                errs.push(FieldError::invalid_str(
                    &path.child("localhostProfile"),
                    local,
                    why,
                ));
            }
            one_of(
                errs,
                &path.child("type"),
                ty,
                &["Localhost", "RuntimeDefault", "Unconfined"],
            );
        }
    }
}

/// Segments of small letters, digits, `-` and `_`, divided by dots or slashes.
fn is_sysctl(name: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |s: &str| {
        let ends = s.bytes().next().zip(s.bytes().next_back());
        ends.is_some_and(|(a, z)| alphanumeric(a) && alphanumeric(z))
            && s.bytes()
                .all(|b| alphanumeric(b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

/// The security settings of a pod.
pub fn pod_security(errs: &mut Errors, path: &FieldPath, s: &Value) {
    ids(errs, path, s, &["runAsUser", "runAsGroup", "fsGroup"]);
    for (i, g) in items(s, "supplementalGroups").iter().enumerate() {
        if g.as_i64()
            .is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n))
        {
            let why = "must be between 0 and 2147483647, inclusive";
            invalid(errs, &path.child("supplementalGroups").index(i), g, why);
        }
    }
    let mut seen = BTreeSet::new();
    for (i, c) in items(s, "sysctls").iter().enumerate() {
        let (name, path) = (
            text(c, "name"),
            path.child("sysctls").index(i).child("name"),
        );
        if name.is_empty() {
            errs.push(FieldError::required(&path, ""));
        } else if !is_sysctl(name) {
            let why = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errs.push(FieldError::invalid_str(&path, name, why));
        } else if seen.contains(name) {
            errs.push(FieldError::duplicate(&path, &name.into()));
        }
        seen.insert(name);
    }
    optional_word(
        errs,
        path,
        s,
        "fsGroupChangePolicy",
        &["Always", "OnRootMismatch"],
    );
    profile(errs, &path.child("seccompProfile"), at(s, "seccompProfile"));
    profile(
        errs,
        &path.child("appArmorProfile"),
        at(s, "appArmorProfile"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_is_stopped_with_a_signal_of_its_system() {
        let wrong = |name: &str, os: &str| {
            let mut errs = Errors::new();
            stop_signal(
                &mut errs,
                &FieldPath::new("l"),
                &json!({ "stopSignal": name }),
                os,
            );
            errs.len()
        };
        for name in [
            "SIGTERM",
            "SIGUSR2",
            "SIGRTMIN",
            "SIGRTMIN+15",
            "SIGRTMAX-14",
        ] {
            assert_eq!((wrong(name, "linux"), wrong(name, "")), (0, 0), "{name}");
        }
        for name in [
            "",
            "TERM",
            "SIGNONE",
            "SIGRTMIN+16",
            "SIGRTMIN+0",
            "SIGRTMAX-15",
            "SIGRTMIN++1",
        ] {
            assert_eq!(wrong(name, "linux"), 1, "{name}");
        }
        assert_eq!(
            (wrong("SIGKILL", "windows"), wrong("SIGINT", "windows")),
            (0, 1)
        );
    }
}
