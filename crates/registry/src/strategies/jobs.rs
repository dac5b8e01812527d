//! Jobs and cron jobs.

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::{job_status, workload};
use crate::check::{
    Errors, at, fill, fill_zero, flag, forgive, has, immutable, int, invalid, items_mut, make,
    not_negative, one_of, optional_word, required_word, selector_matches, set, text, unset,
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
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        whole_job(obj, true)
    }
    /// Jobs from before its labels had a prefix need none of those.
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            let mut errs = Errors::new();
            job_status::check(&mut errs, obj);
            job_status::check_update(&mut errs, obj, old);
            return errs;
        }
        let had = at(at(at(at(old, "spec"), "template"), "metadata"), "labels");
        let prefixed = has(had, UID_LABEL) && has(had, NAME_LABEL);
        let mut errs = whole_job(obj, prefixed);
        forgive(&mut errs, || whole_job(old, prefixed));
        let path = FieldPath::new("spec");
        let (spec, was) = (at(obj, "spec"), at(old, "spec"));
        if text(spec, "completionMode") != "Indexed" {
            immutable(&mut errs, &path, spec, was, "completions");
        } else if has(spec, "completions")
            && int(spec, "completions") != int(was, "completions")
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
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warned = name_warning(obj, old);
        let spec = at(obj, "spec");
        if old.is_none_or(|old| at(old, "spec") != spec) {
            warned.extend(spec_warnings("spec", spec));
        }
        warned
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
            // What the client has set is judged, not replaced.
            fill(labels, key, value.clone());
        }
    }
    if let Some(wanted) = make(spec, "selector").and_then(|s| make(s, "matchLabels")) {
        fill(wanted, UID_LABEL, uid);
    }
}

/// What is wrong with a job that is not compared with another. `prefixed`: its pods have the labels
/// with a prefix besides those without.
fn whole_job(obj: &Value, prefixed: bool) -> Errors {
    let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
    let selector = at(spec, "selector");
    let labels = at(at(at(spec, "template"), "metadata"), "labels");
    if selector.is_null() {
        errs.push(FieldError::required(&path.child("selector"), ""));
    } else {
        if !flag(spec, "manualSelector") {
            generated(&mut errs, obj, labels, prefixed);
        }
        crate::check::label_selector(&mut errs, &path.child("selector"), selector);
        if !selector_matches(selector, labels) {
            let path = path.child("template").child("metadata").child("labels");
            let why = "`selector` does not match template `labels`";
            invalid(&mut errs, &path, labels, why);
        }
    }
    job_spec(&mut errs, &path, spec);
    host_names(&mut errs, text(at(obj, "metadata"), "name"), spec);
    errs
}

/// Where the job chooses its pods by its UID, nobody may have set those labels to something else.
fn generated(errs: &mut Errors, obj: &Value, labels: &Value, prefixed: bool) {
    let (meta, path) = (at(obj, "metadata"), FieldPath::new("spec"));
    let (uid, name) = (text(meta, "uid"), text(meta, "name"));
    if uid.is_empty() {
        let path = FieldPath::new("metadata").child("uid");
        errs.push(FieldError::required(&path, ""));
    }
    let old = [("controller-uid", uid), ("job-name", name)];
    let new = [(UID_LABEL, uid), (NAME_LABEL, name)];
    let mut expected = json!({});
    let at_labels = path.child("template").child("metadata").child("labels");
    for (key, value) in old.into_iter().chain(new.into_iter().filter(|_| prefixed)) {
        set(&mut expected, key, value);
        let (path, why) = (at_labels.key(key), format!("must be '{value}'"));
        match at(labels, key).as_str() {
            None => errs.push(FieldError::required(&path, &why)),
            Some(found) if found != value => invalid(errs, &path, labels, &why),
            Some(_) => {}
        }
    }
    let selector = at(at(obj, "spec"), "selector");
    if !selector_matches(selector, &expected) {
        let why = "`selector` not auto-generated";
        invalid(errs, &path.child("selector"), selector, why);
    }
}

/// A new job's name is that of its pods, and of their hosts.
fn name_warning(obj: &Value, old: Option<&Value>) -> Vec<String> {
    let name = text(at(obj, "metadata"), "name");
    let wrong = api::names::is_dns1123_label(name);
    if old.is_some() || wrong.is_empty() {
        return Vec::new();
    }
    let why = "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended";
    vec![format!("metadata.name: {why}: [{}]", wrong.join(" "))]
}

/// Above these, the status of an indexed job may not hold all of its indexes.
const MANY_COMPLETIONS: i64 = 100_000;
const MANY_AT_ONCE: i64 = 10_000;

/// Warnings of the specification of a job.
fn spec_warnings(path: &str, spec: &Value) -> Vec<String> {
    let above = |field: &str, most: i64| int(spec, field).is_some_and(|n| n > most);
    let mut warned = Vec::new();
    if text(spec, "completionMode") == "Indexed"
        && above("completions", MANY_COMPLETIONS)
        && above("parallelism", MANY_AT_ONCE)
    {
        warned.push(format!("{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"));
    }
    let template = format!("{path}.template");
    warned.extend(workload::template_warnings(&template, at(spec, "template")));
    warned
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
    let status = at(old, "status");
    let stopped =
        !has(status, "startTime") || job_status::has_condition(status, "Suspended", "True");
    let suspended = flag(was, "suspend") && stopped && int(status, "active").unwrap_or(0) == 0;
    if !suspended {
        immutable(errs, path, spec, was, "template");
        return;
    }
    let pod = |spec: &Value| {
        let mut pod = at(at(spec, "template"), "spec").clone();
        for field in ["nodeSelector", "tolerations", "schedulingGates"] {
            unset(&mut pod, field);
        }
        if let Some(affinity) = pod.get_mut("affinity") {
            unset(affinity, "nodeAffinity");
        }
        if pod.get("affinity").is_some_and(crate::check::is_empty) {
            unset(&mut pod, "affinity");
        }
        for list in ["containers", "initContainers"] {
            items_mut(&mut pod, list)
                .iter_mut()
                .for_each(|c| unset(c, "resources"));
        }
        pod
    };
    if pod(spec) != pod(was) {
        let path = path.child("template").child("spec");
        let pod = at(at(spec, "template"), "spec");
        invalid(errs, &path, pod, crate::check::IMMUTABLE);
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
    } else if !name.split('/').all(is_part) || api::cron_schedule::zone(name).is_none() {
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
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        whole_cron_job(obj, None)
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return Errors::new();
        }
        let was = Some(at(old, "spec"));
        let mut errs = whole_cron_job(obj, was);
        forgive(&mut errs, || whole_cron_job(old, was));
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
    fn warnings(&self, obj: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warned = name_warning(obj, old);
        let spec = at(obj, "spec");
        if old.is_none_or(|old| at(old, "spec") != spec) {
            let job = at(at(spec, "jobTemplate"), "spec");
            warned.extend(spec_warnings("spec.jobTemplate.spec", job));
        }
        if old.is_some() && text(spec, "schedule").contains("TZ") {
            warned.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        warned
    }
    fn has_generation(&self) -> bool {
        true
    }
}

/// What is wrong with a cron job. `was`: its specification before, which may have a time zone in its
/// schedule, and one that nobody knows any more.
fn whole_cron_job(obj: &Value, was: Option<&Value>) -> Errors {
    let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
    match text(spec, "schedule") {
        "" => errs.push(FieldError::required(&path.child("schedule"), "")),
        s => {
            let path = path.child("schedule");
            if let Err(why) = api::cron_schedule::Schedule::parse(s) {
                errs.push(FieldError::invalid_str(&path, s, &why));
            }
            let had = was.is_some_and(|was| text(was, "schedule").contains("TZ"));
            let why = if !had {
                "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            } else if has(spec, "timeZone") {
                "cannot use both timeZone field and TZ or CRON_TZ in schedule"
            } else {
                ""
            };
            if s.contains("TZ") && !why.is_empty() {
                errs.push(FieldError::invalid_str(&path, s, why));
            }
        }
    }
    not_negative(&mut errs, &path, spec, "startingDeadlineSeconds");
    if was.is_none_or(|was| at(was, "timeZone") != at(spec, "timeZone")) {
        time_zone(&mut errs, &path.child("timeZone"), at(spec, "timeZone"));
    }
    let policies = ["Allow", "Forbid", "Replace"];
    required_word(&mut errs, &path, spec, "concurrencyPolicy", &policies);
    let of_job = path.child("jobTemplate").child("spec");
    let job = at(at(spec, "jobTemplate"), "spec");
    job_spec(&mut errs, &of_job, job);
    if has(job, "selector") {
        let (path, why) = (
            of_job.child("selector"),
            "`selector` will be auto-generated",
        );
        invalid(&mut errs, &path, at(job, "selector"), why);
    }
    if flag(job, "manualSelector") {
        let (path, known) = (of_job.child("manualSelector"), ["nil", "false"]);
        // Upstream shows the value as it is, which is not a text.
        errs.push(FieldError {
            value: Some("true".to_owned()),
            ..FieldError::not_supported(&path, "true", &known)
        });
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(&mut errs, &path, spec, field);
    }
    errs
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
    fn labels_of_a_job_are_its_own() {
        let say = |change: &dyn Fn(&mut Value)| {
            let mut job = json!({ "metadata": { "name": "j", "uid": "u" },
                "spec": { "template": { "spec": { "restartPolicy": "Never",
                    "containers": [{ "name": "a", "image": "x" }] } } } });
            change(&mut job);
            Job.default(&mut job);
            own_selector(&mut job);
            let all = Job.validate(&job, &Context::of_nobody());
            all.iter()
                .map(|e| (e.field.as_str().to_owned(), e.detail.clone()))
                .collect::<Vec<_>>()
        };
        assert!(say(&|_| ()).is_empty());
        let of = |key: &str| format!("spec.template.metadata.labels[{key}]");
        let other = json!({ UID_LABEL: "v", "job-name": "j" });
        let found = say(&|job| {
            job["spec"]["template"]["metadata"] = json!({ "labels": other.clone() });
        });
        let unmatched = "`selector` does not match template `labels`".to_owned();
        assert_eq!(
            found,
            [
                (of(UID_LABEL), "must be 'u'".to_owned()),
                ("spec.template.metadata.labels".to_owned(), unmatched),
            ]
        );
        let found = say(&|job| {
            job["spec"]["selector"] = json!({ "matchLabels": { "mine": "yes" } });
            job["spec"]["template"]["metadata"] = json!({ "labels": { "mine": "yes" } });
        });
        let why = "`selector` not auto-generated".to_owned();
        assert_eq!(found, [("spec.selector".to_owned(), why)]);
    }

    #[test]
    fn a_cron_job_may_keep_what_is_refused_today() {
        let cron = |schedule: &str, zone: Value| {
            json!({ "spec": { "schedule": schedule, "concurrencyPolicy": "Allow", "timeZone": zone,
                "jobTemplate": { "spec": { "template": { "spec": { "restartPolicy": "Never" } } } } } })
        };
        let say = |new: &Value, old: Option<&Value>| {
            let all = whole_cron_job(new, old.map(|o| at(o, "spec")));
            let own = |e: &&FieldError| !e.field.as_str().contains("jobTemplate");
            all.iter()
                .filter(own)
                .map(FieldError::message)
                .collect::<Vec<_>>()
        };
        let (zoned, plain) = (
            cron("TZ=UTC 0 0 * * *", Value::Null),
            cron("0 0 * * *", json!("No/Where")),
        );
        assert_eq!(say(&zoned, None).len(), 1, "{:?}", say(&zoned, None));
        assert_eq!(say(&zoned, Some(&zoned)), Vec::<String>::new());
        let both = cron("TZ=UTC 0 0 * * *", json!("Etc/UTC"));
        assert_eq!(
            say(&both, Some(&zoned)),
            [
                "Invalid value: \"TZ=UTC 0 0 * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule"
            ]
        );
        assert_eq!(say(&plain, None).len(), 1);
        assert_eq!(say(&plain, Some(&plain)), Vec::<String>::new());
    }
}
