//! Jobs and cron jobs.

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::workload;
use crate::check::{
    Errors, IMMUTABLE, at, fill, fill_zero, flag, has, immutable, int, invalid, items, items_mut,
    make, not_negative, one_of, optional_word, required_word, selector_matches, set, text, unset,
};
use crate::strategy::{Context, Dependents, Strategy};

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";

/// The strategy of jobs.
pub struct Job;

fn spec_defaults(spec: &mut Value) {
    let open = !has(spec, "completions") && !has(spec, "parallelism");
    if open {
        set(spec, "completions", 1);
    }
    fill(spec, "parallelism", 1);
    let limit = if has(spec, "backoffLimitPerIndex") {
        i64::from(i32::MAX)
    } else {
        6
    };
    fill(spec, "backoffLimit", limit);
    fill(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    let replace = if has(spec, "podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    fill(spec, "podReplacementPolicy", replace);
    fill(spec, "manualSelector", false);
}

fn shared_defaults(spec: &mut Value) {
    if let Some(t) = make(spec, "template") {
        workload::template_defaults(t);
    }
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in items_mut(policy, "rules") {
            for c in items_mut(rule, "onPodConditions") {
                fill_zero(c, "status", "True");
            }
        }
    }
}

impl Strategy for Job {
    fn default(&self, obj: &mut Value) {
        let of_template = obj.pointer("/spec/template/metadata/labels").cloned();
        if let Some(found) = of_template.filter(|l| l.as_object().is_some_and(|o| !o.is_empty()))
            && let Some(meta) = make(obj, "metadata")
        {
            fill_zero(meta, "labels", found);
        }
        if let Some(spec) = make(obj, "spec") {
            spec_defaults(spec);
            shared_defaults(spec);
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({}));
        own_selector(obj);
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        if cx.subresource == "status" {
            for f in ["active", "succeeded", "failed", "ready", "terminating"] {
                not_negative(&mut errs, &FieldPath::new("status"), at(obj, "status"), f);
            }
            return errs;
        }
        let selector = at(spec, "selector");
        if selector.is_null() {
            errs.push(FieldError::required(&path.child("selector"), ""));
        } else {
            crate::check::label_selector(&mut errs, &path.child("selector"), selector);
            let labels = at(at(at(spec, "template"), "metadata"), "labels");
            if !selector_matches(selector, labels) {
                let path = path.child("template").child("metadata").child("labels");
                invalid(
                    &mut errs,
                    &path,
                    labels,
                    "`selector` does not match template `labels`",
                );
            }
        }
        job_spec(&mut errs, &path, spec);
        host_names(&mut errs, text(at(obj, "metadata"), "name"), spec);
        errs
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path) = (Errors::new(), FieldPath::new("spec"));
        if cx.subresource == "status" {
            status_update(&mut errs, obj, old);
            return errs;
        }
        let (spec, was) = (at(obj, "spec"), at(old, "spec"));
        if text(spec, "completionMode") != "Indexed" {
            immutable(&mut errs, &path, spec, was, "completions");
        } else if int(spec, "completions") != int(was, "completions")
            && int(spec, "completions") != int(spec, "parallelism")
        {
            let (path, value) = (path.child("completions"), at(spec, "completions"));
            let why = "can only be modified in tandem with spec.parallelism";
            invalid(&mut errs, &path, value, why);
        }
        for f in [
            "selector",
            "completionMode",
            "podFailurePolicy",
            "backoffLimitPerIndex",
            "managedBy",
            "successPolicy",
        ] {
            immutable(&mut errs, &path, spec, was, f);
        }
        template_update(&mut errs, &path, obj, old);
        errs
    }
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        workload::template_warnings("spec.template", at(at(obj, "spec"), "template"))
    }
    fn dependents(&self) -> Dependents {
        Dependents::Orphan
    }
    fn warns_on_delete(&self) -> Option<&'static str> {
        Some(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
        )
    }
    fn has_generation(&self) -> bool {
        true
    }
}

/// Whether a condition is true.
fn is_true(status: &Value, ty: &str) -> bool {
    let mut all = items(status, "conditions").iter();
    all.any(|c| text(c, "type") == ty && text(c, "status") == "True")
}

/// What a controller, whichever it is, may not take back of a job's status.
fn status_update(errs: &mut Errors, obj: &Value, old: &Value) {
    let (status, was, path) = (
        at(obj, "status"),
        at(old, "status"),
        FieldPath::new("status"),
    );
    for ty in ["Failed", "Complete", "FailureTarget", "SuccessCriteriaMet"] {
        if is_true(was, ty) && !is_true(status, ty) {
            let what = match ty {
                "SuccessCriteriaMet" => "",
                _ => "terminal ",
            };
            let why = format!("cannot disable the {what}{ty}=True condition");
            let conditions = path.child("conditions");
            errs.push(FieldError {
                value: None,
                ..FieldError::invalid_str(&conditions, "", &why)
            });
        }
    }
    let count = |of: &Value, field: &str| int(of, field).unwrap_or(0);
    let spec = at(obj, "spec");
    // An indexed job may be made smaller.
    let shrinks = text(spec, "completionMode") == "Indexed"
        && at(spec, "completions") == at(spec, "parallelism");
    for field in ["failed", "succeeded"] {
        let fewer = count(status, field) < count(was, field);
        if fewer && (field == "failed" || !shrinks) {
            let why = format!("cannot decrease the {field} counter");
            invalid(errs, &path.child(field), &count(status, field).into(), &why);
        }
    }
    let moved = |field: &str| has(was, field) && at(status, field) != at(was, field);
    if has(status, "completionTime") && moved("completionTime") {
        let path = path.child("completionTime");
        invalid(errs, &path, at(status, "completionTime"), IMMUTABLE);
    }
    let resumes = is_true(was, "Suspended") && !is_true(status, "Suspended");
    if moved("startTime") && !flag(spec, "suspend") && !resumes {
        let why = "field is immutable for unsuspended job once set";
        invalid(errs, &path.child("startTime"), at(status, "startTime"), why);
    }
}

/// Unless the client chose a selector itself, the job's UID distinguishes its pods from all others.
fn own_selector(obj: &mut Value) {
    if flag(at(obj, "spec"), "manualSelector") {
        return;
    }
    let uid = text(at(obj, "metadata"), "uid").to_owned();
    let name = text(at(obj, "metadata"), "name").to_owned();
    if uid.is_empty() {
        return;
    }
    let Some(spec) = make(obj, "spec") else {
        return;
    };
    let labels = make(spec, "template")
        .and_then(|t| make(t, "metadata"))
        .and_then(|m| make(m, "labels"));
    if let Some(labels) = labels {
        for (key, value) in [
            ("controller-uid", &uid),
            ("job-name", &name),
            (UID_LABEL, &uid),
            (NAME_LABEL, &name),
        ] {
            set(labels, key, value.clone());
        }
    }
    if let Some(wanted) = make(spec, "selector").and_then(|s| make(s, "matchLabels")) {
        set(wanted, UID_LABEL, uid);
    }
}

/// Pods of an indexed job are called as the job, with their index.
fn host_names(errs: &mut Errors, name: &str, spec: &Value) {
    let completions = int(spec, "completions").unwrap_or(0);
    if text(spec, "completionMode") != "Indexed" || completions <= 0 {
        return;
    }
    let longest = format!("{name}-{}", completions - 1);
    if !api::names::is_dns1123_label(&longest).is_empty() {
        let why = format!("will not able to create pod with invalid DNS label: {longest}");
        let path = FieldPath::new("metadata").child("name");
        errs.push(FieldError::invalid_str(&path, name, &why));
    }
}

/// The template is fixed. While the job is suspended and no pod of it runs, where pods may go and what
/// they ask for may change: before its start, and each time that its controller has stopped it.
fn template_update(errs: &mut Errors, path: &FieldPath, obj: &Value, old: &Value) {
    let (spec, was) = (at(obj, "spec"), at(old, "spec"));
    let rest = |spec: &Value, free: bool| {
        let mut template = at(spec, "template").clone();
        if !free {
            return template;
        }
        if let Some(meta) = template.get_mut("metadata") {
            unset(meta, "annotations");
            unset(meta, "labels");
        }
        if let Some(pod) = template.get_mut("spec") {
            for field in ["nodeSelector", "tolerations", "schedulingGates"] {
                unset(pod, field);
            }
            if let Some(affinity) = pod.get_mut("affinity") {
                unset(affinity, "nodeAffinity");
            }
            if pod.get("affinity").is_some_and(crate::check::is_empty) {
                unset(pod, "affinity");
            }
            for list in ["containers", "initContainers"] {
                items_mut(pod, list)
                    .iter_mut()
                    .for_each(|c| unset(c, "resources"));
            }
        }
        template
    };
    let status = at(old, "status");
    let stopped = !has(status, "startTime") || is_true(status, "Suspended");
    let suspended = flag(was, "suspend") && stopped && int(status, "active").unwrap_or(0) == 0;
    if rest(spec, suspended) != rest(was, suspended) {
        let why = "field is immutable";
        invalid(errs, &path.child("template"), at(spec, "template"), why);
    }
}

fn job_spec(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    for f in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(errs, path, spec, f);
    }
    let modes = ["Indexed", "NonIndexed"];
    optional_word(errs, path, spec, "completionMode", &modes);
    if text(spec, "completionMode") == "Indexed" {
        if !has(spec, "completions") {
            let why = "when completion mode is Indexed";
            errs.push(FieldError::required(&path.child("completions"), why));
        }
        super::job_policies::limits(errs, path, spec);
        if int(spec, "parallelism").is_some_and(|p| p > 100_000) {
            let why = "must be less than or equal to 100000 when completion mode is Indexed";
            invalid(
                errs,
                &path.child("parallelism"),
                at(spec, "parallelism"),
                why,
            );
        }
    } else {
        for f in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if has(spec, f) {
                invalid(
                    errs,
                    &path.child(f),
                    at(spec, f),
                    "requires indexed completion mode",
                );
            }
        }
    }
    super::job_policies::check(errs, path, spec);
    if has(spec, "podReplacementPolicy") {
        let words: &[&str] = if has(spec, "podFailurePolicy") {
            &["Failed"]
        } else {
            &["Failed", "TerminatingOrFailed"]
        };
        one_of(
            errs,
            &path.child("podReplacementPolicy"),
            text(spec, "podReplacementPolicy"),
            words,
        );
    }
    let (t, path) = (at(spec, "template"), path.child("template"));
    workload::template(errs, &path, t);
    let path = path.child("spec").child("restartPolicy");
    match text(at(t, "spec"), "restartPolicy") {
        "" | "Always" => {
            errs.push(FieldError::required(
                &path,
                "valid values: \"OnFailure\", \"Never\"",
            ));
        }
        "OnFailure" if has(spec, "podFailurePolicy") => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            errs.push(FieldError::invalid_str(&path, "OnFailure", why));
        }
        other => one_of(errs, &path, other, &["OnFailure", "Never"]),
    }
}

/// A zone of the IANA database, by its name.
fn time_zone(errs: &mut Errors, path: &FieldPath, zone: &Value) {
    let Some(name) = zone.as_str() else {
        return;
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
    let is_part = |part: &str| {
        !matches!(part, "." | "..")
            && !part.starts_with('-')
            && (1..=14).contains(&part.len())
            && part.chars().all(fits)
    };
    let why = if name.is_empty() {
        "timeZone must be nil or non-empty string".to_owned()
    } else if name.eq_ignore_ascii_case("Local") {
        "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
            .to_owned()
    } else if !name.split('/').all(is_part) || api::cron::zone(name).is_none() {
        format!("unknown time zone {name}")
    } else {
        return;
    };
    errs.push(FieldError::invalid_str(path, name, &why));
}

/// The strategy of cron jobs.
pub struct CronJob;

impl Strategy for CronJob {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = make(obj, "spec") else {
            return;
        };
        fill_zero(spec, "concurrencyPolicy", "Allow");
        fill(spec, "suspend", false);
        fill(spec, "successfulJobsHistoryLimit", 3);
        fill(spec, "failedJobsHistoryLimit", 1);
        if let Some(job) = make(spec, "jobTemplate").and_then(|t| make(t, "spec")) {
            shared_defaults(job);
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        set(obj, "status", json!({}));
    }
    fn validate(&self, obj: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        if cx.subresource == "status" {
            return errs;
        }
        match text(spec, "schedule") {
            "" => errs.push(FieldError::required(&path.child("schedule"), "")),
            s => {
                let path = path.child("schedule");
                if let Err(why) = api::cron::Schedule::parse(s) {
                    errs.push(FieldError::invalid_str(&path, s, &why));
                }
                if s.contains("TZ") {
                    let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
                    errs.push(FieldError::invalid_str(&path, s, why));
                }
            }
        }
        for f in [
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "failedJobsHistoryLimit",
        ] {
            not_negative(&mut errs, &path, spec, f);
        }
        time_zone(&mut errs, &path.child("timeZone"), at(spec, "timeZone"));
        let policies = ["Allow", "Forbid", "Replace"];
        required_word(&mut errs, &path, spec, "concurrencyPolicy", &policies);
        let path = path.child("jobTemplate").child("spec");
        let job = at(at(spec, "jobTemplate"), "spec");
        if flag(job, "manualSelector") {
            let (path, known) = (path.child("manualSelector"), ["nil", "false"]);
            errs.push(FieldError::not_supported(&path, "true", &known));
        }
        if has(job, "selector") {
            let why = "`selector` will be auto-generated";
            invalid(&mut errs, &path.child("selector"), at(job, "selector"), why);
        }
        job_spec(&mut errs, &path, job);
        errs
    }
    /// Jobs get eleven more characters from the time of their run.
    fn validate_name(&self, name: &str, generate: bool) -> Vec<String> {
        let mut wrong = crate::meta::name_is_subdomain(name, generate);
        if name.len() > 52 {
            wrong.push("must be no more than 52 characters".to_owned());
        }
        wrong
    }
    fn warnings(&self, obj: &Value, _old: Option<&Value>) -> Vec<String> {
        let t = obj
            .pointer("/spec/jobTemplate/spec/template")
            .unwrap_or(&Value::Null);
        workload::template_warnings("spec.jobTemplate.spec.template", t)
    }
    fn has_generation(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_job_may_be_told_anew_where_its_pods_go() {
        let job = |suspend: bool, cpu: &str, status: Value| {
            let pod = json!({ "nodeSelector": { "cpu": cpu }, "containers": [
                { "name": "c", "image": "i", "resources": { "requests": { "cpu": cpu } } }] });
            json!({ "spec": { "suspend": suspend, "template": { "spec": pod } }, "status": status })
        };
        let started = |more: Value| {
            let mut status = json!({ "startTime": "2030-01-01T00:00:00Z" });
            for (key, value) in more.as_object().into_iter().flatten() {
                status[key] = value.clone();
            }
            status
        };
        let stopped = json!({ "conditions": [{ "type": "Suspended", "status": "True" }] });
        let mut ending = stopped.clone();
        ending["active"] = 1.into();
        for (suspend, status, free) in [
            (true, json!({}), true),
            (true, started(json!({})), false),
            (true, started(stopped.clone()), true),
            (true, started(ending), false),
            (false, json!({}), false),
            (false, started(stopped), false),
        ] {
            let (old, new) = (job(suspend, "1", status.clone()), job(suspend, "2", status));
            let mut errs = Errors::new();
            template_update(&mut errs, &FieldPath::new("spec"), &new, &old);
            assert_eq!(errs.is_empty(), free, "{old}: {errs:?}");
        }
    }

    #[test]
    fn what_became_of_a_job_stays() {
        let say = |spec: Value, new: Value, old: Value| {
            let mut errs = Errors::new();
            let of = |status: Value| json!({ "spec": spec, "status": status });
            status_update(&mut errs, &of(new), &of(old));
            errs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let is = |ty: &str| json!({ "conditions": [{ "type": ty, "status": "True" }] });
        let plain = || json!({});
        for ty in ["Failed", "Complete", "FailureTarget"] {
            assert_eq!(
                say(plain(), plain(), is(ty)),
                [format!(
                    "status.conditions: Invalid value: cannot disable the terminal {ty}=True condition"
                )]
            );
            assert_eq!(say(plain(), is(ty), is(ty)), Vec::<String>::new());
        }
        let fewer = (
            json!({ "failed": 1, "succeeded": 1 }),
            json!({ "failed": 2, "succeeded": 2 }),
        );
        assert_eq!(
            say(plain(), fewer.0.clone(), fewer.1.clone()),
            [
                "status.failed: Invalid value: 1: cannot decrease the failed counter",
                "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter",
            ]
        );
        let indexed = json!({ "completionMode": "Indexed", "completions": 1, "parallelism": 1 });
        assert_eq!(say(indexed, fewer.0, fewer.1).len(), 1);
        let at = |field: &str, time: &str| json!({ field: time });
        assert_eq!(
            say(
                plain(),
                at("completionTime", "b"),
                at("completionTime", "a")
            )
            .len(),
            1
        );
        assert_eq!(
            say(plain(), plain(), at("completionTime", "a")),
            Vec::<String>::new()
        );
        assert_eq!(
            say(plain(), at("startTime", "b"), at("startTime", "a")).len(),
            1
        );
        let suspended = json!({ "suspend": true });
        assert_eq!(
            say(suspended, plain(), at("startTime", "a")),
            Vec::<String>::new()
        );
    }
}
