//! What is done with a container as it lives: its probes, what happens after its start and before its
//! stop, and when it starts again.

use api::{FieldError, FieldPath, names};
use serde_json::Value;

use crate::check::{
    Errors, at, has, int, invalid, invalid_each, items, not_negative, one_of, optional_word, port,
    port_or_name, required_text, text,
};

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
/// to be named; nodes here run Linux. Where the gate ContainerStopSignals is off, the field has been
/// dropped before.
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
