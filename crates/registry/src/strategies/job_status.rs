//! What a job's status may say, whichever controller writes it: which things go together, and what may
//! not be taken back. As upstream, most rules are asked only where what they are about has changed, so
//! that a status which is wrong already does not keep others from being written.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath};
use serde_json::Value;

use super::job_policies::{indexes, interval};
use crate::check::{
    Errors, IMMUTABLE, at, flag, has, int, invalid, is_empty, items, not_negative, text,
};

/// A status with the spec that it is about.
#[derive(Clone, Copy)]
struct JobView<'a> {
    spec: &'a Value,
    status: &'a Value,
}

impl<'a> JobView<'a> {
    fn of(job: &'a Value) -> Self {
        Self {
            spec: at(job, "spec"),
            status: at(job, "status"),
        }
    }
    /// Whether a condition is true.
    fn is(self, ty: &str) -> bool {
        has_condition(self.status, ty, "True")
    }
    fn is_finished(self) -> bool {
        self.is("Complete") || self.is("Failed")
    }
    fn count(self, field: &str) -> i64 {
        int(self.status, field).unwrap_or(0)
    }
    fn is_indexed(self) -> bool {
        text(self.spec, "completionMode") == "Indexed"
    }
}

/// Whether the status has a condition that says this.
pub fn has_condition(status: &Value, ty: &str, says: &str) -> bool {
    let mut all = items(status, "conditions").iter();
    all.any(|c| text(c, "type") == ty && text(c, "status") == says)
}

/// What became of each part of a status.
struct Changed<'a> {
    new: JobView<'a>,
    old: JobView<'a>,
}

impl Changed<'_> {
    fn field(&self, field: &str) -> bool {
        at(self.new.status, field) != at(self.old.status, field)
    }
    /// A number or a text that is not a pointer upstream: absent is the same as zero or empty.
    fn plain(&self, field: &str) -> bool {
        let zero = |v: &Value| is_empty(v) || v.as_i64() == Some(0);
        let (new, old) = (at(self.new.status, field), at(self.old.status, field));
        new != old && !(zero(new) && zero(old))
    }
    fn condition(&self, ty: &str) -> bool {
        self.new.is(ty) != self.old.is(ty)
    }
    fn finished(&self) -> bool {
        self.new.is_finished() != self.old.is_finished()
    }
    /// The pods that are named and not counted; a list without any is as none.
    fn uncounted(&self) -> bool {
        let lists = |t: JobView<'_>| {
            let of = at(t.status, "uncountedTerminatedPods");
            ["succeeded", "failed"].map(|list| items(of, list).to_vec())
        };
        lists(self.new) != lists(self.old)
    }
}

/// What is wrong with a status by itself.
pub fn check(errs: &mut Errors, job: &Value) {
    let (status, path) = (at(job, "status"), FieldPath::new("status"));
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        not_negative(errs, &path, status, field);
    }
    let path = path.child("uncountedTerminatedPods");
    let mut seen = BTreeSet::new();
    for list in ["succeeded", "failed"] {
        let uncounted = items(at(status, "uncountedTerminatedPods"), list);
        for (i, uid) in uncounted.iter().enumerate() {
            let path = path.child(list).index(i);
            match uid.as_str().unwrap_or("") {
                "" => errs.push(FieldError::invalid_str(&path, "", "must not be empty")),
                named if !seen.insert(named) => errs.push(FieldError::duplicate(&path, uid)),
                _ => {}
            }
        }
    }
}

/// What is wrong with a status that comes after another.
pub fn check_update(errs: &mut Errors, job: &Value, before: &Value) {
    let changed = Changed {
        new: JobView::of(job),
        old: JobView::of(before),
    };
    conditions(errs, &changed);
    times(errs, &changed);
    pods(errs, &changed);
    ended_indexes(errs, &changed);
    taken_back(errs, &changed);
}

/// An error of the conditions as a whole, which are not shown.
fn conflict(errs: &mut Errors, why: &str) {
    let path = FieldPath::new("status").child("conditions");
    errs.push(FieldError {
        value: None,
        ..FieldError::invalid_str(&path, "", why)
    });
}

fn conditions(errs: &mut Errors, changed: &Changed<'_>) {
    let new = changed.new;
    let [complete, failed, target, met] =
        ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"].map(|ty| new.is(ty));
    let moved = |ty: &str| changed.condition(ty);
    if complete && failed && (moved("Complete") || moved("Failed")) {
        conflict(errs, "cannot set Complete=True and Failed=true conditions");
    }
    if complete && target && (moved("Complete") || moved("FailureTarget")) {
        let why = "cannot set Complete=True and FailureTarget=true conditions";
        conflict(errs, why);
    }
    if failed && !target && (moved("Failed") || changed.field("failedIndexes")) {
        let why = "cannot set Failed=True condition without the FailureTarget=true condition";
        conflict(errs, why);
    }
    if complete && !met && (moved("Complete") || moved("SuccessCriteriaMet")) {
        let why =
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        conflict(errs, why);
    }
    if met && failed {
        let why = "cannot set SuccessCriteriaMet=True and Failed=true conditions";
        conflict(errs, why);
    }
    if met && target {
        let why = "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions";
        conflict(errs, why);
    }
    if complete && !met && has(new.spec, "successPolicy") {
        let why =
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        conflict(errs, why);
    }
}

fn times(errs: &mut Errors, changed: &Changed<'_>) {
    let (new, path) = (changed.new, FieldPath::new("status"));
    let (start, end) = (
        at(new.status, "startTime"),
        at(new.status, "completionTime"),
    );
    let (start_path, end_path) = (path.child("startTime"), path.child("completionTime"));
    if changed.condition("Complete") || changed.field("completionTime") {
        match (end.is_null(), new.is("Complete")) {
            (false, false) => {
                let why = "cannot set completionTime when there is no Complete=True condition";
                invalid(errs, &end_path, end, why);
            }
            (true, true) => {
                let why = "completionTime is required for Complete jobs";
                errs.push(FieldError::required(&end_path, why));
            }
            _ => {}
        }
    }
    let time = |v: &Value| v.as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    if (changed.field("startTime") || changed.field("completionTime"))
        && let (Some(start), Some(ended)) = (time(start), time(end))
        && ended < start
    {
        invalid(
            errs,
            &end_path,
            end,
            "must be equal to or after `startTime`",
        );
    }
    let never_ran = flag(new.spec, "suspend") && int(new.spec, "completions") == Some(0);
    let asked = (changed.finished() || changed.field("startTime")) && !never_ran;
    if asked && start.is_null() && new.is_finished() {
        let why = "startTime is required for finished job";
        errs.push(FieldError::required(&start_path, why));
    }
    let was = |field: &str| at(changed.old.status, field);
    if !end.is_null() && !was("completionTime").is_null() && changed.field("completionTime") {
        invalid(errs, &end_path, end, IMMUTABLE);
    }
    let resumes = changed.old.is("Suspended") && has_condition(new.status, "Suspended", "False");
    let moved = !was("startTime").is_null() && changed.field("startTime");
    if moved && !flag(new.spec, "suspend") && !resumes {
        let why = "field is immutable for unsuspended job once set";
        invalid(errs, &start_path, start, why);
    }
}

/// Whether a job that has finished has pods yet, and more are ready than there are.
fn pods(errs: &mut Errors, changed: &Changed<'_>) {
    let (new, path) = (changed.new, FieldPath::new("status"));
    let value = |field: &str| at(new.status, field);
    let finished = new.is_finished();
    let count = |field: &str| new.count(field);
    if finished && count("active") > 0 && (changed.finished() || changed.plain("active")) {
        let why = "active>0 is invalid for finished job";
        invalid(errs, &path.child("active"), value("active"), why);
    }
    let uncounted = value("uncountedTerminatedPods");
    let open = ["failed", "succeeded"]
        .iter()
        .any(|list| !items(uncounted, list).is_empty());
    if finished && open && (changed.finished() || changed.uncounted()) {
        let why = "must be empty for finished job";
        invalid(errs, &path.child("uncountedTerminatedPods"), uncounted, why);
    }
    if finished && count("terminating") > 0 && (changed.finished() || changed.field("terminating"))
    {
        let why = "terminating>0 is invalid for finished job";
        invalid(errs, &path.child("terminating"), value("terminating"), why);
    }
    let counts = changed.field("ready") || changed.plain("active");
    if counts && count("ready") > count("active") {
        let why = "cannot set more ready pods than active";
        invalid(errs, &path.child("ready"), value("ready"), why);
    }
}

/// The indexes of an indexed job that have succeeded, and those that have failed.
fn ended_indexes(errs: &mut Errors, changed: &Changed<'_>) {
    let (new, path) = (changed.new, FieldPath::new("status"));
    let completions = int(new.spec, "completions");
    let per_index = has(new.spec, "backoffLimitPerIndex");
    let parts = ["completedIndexes", "failedIndexes"];
    let [(completed, done_path), (failed, failed_path)] =
        parts.map(|field| (at(new.status, field), path.child(field)));
    let [is_done_new, is_failed_new] = [changed.plain(parts[0]), changed.field(parts[1])];
    let mut read = |path: &FieldPath, value: &Value, field: &str| {
        let text = value.as_str().unwrap_or("");
        if let Some(Err(why)) = completions.map(|n| indexes(text, n)) {
            let why = format!("error parsing {field}: {why}");
            invalid(errs, path, value, &why);
        }
    };
    if is_done_new {
        read(&done_path, completed, parts[0]);
    }
    if is_failed_new && per_index {
        read(&failed_path, failed, parts[1]);
    }
    if is_done_new && !is_empty(completed) && !new.is_indexed() {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        invalid(errs, &done_path, completed, why);
    }
    if is_failed_new && !failed.is_null() && !per_index {
        let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        invalid(errs, &failed_path, failed, why);
    }
    if (is_done_new || is_failed_new)
        && let Some(completions) = completions
        && let Some(index) = in_both(completed, failed, completions)
    {
        let why = format!("failedIndexes and completedIndexes overlap at index: {index}");
        invalid(errs, &failed_path, failed, &why);
    }
}

/// The first index that two texts name; what cannot be read of them is passed over.
fn in_both(one: &Value, other: &Value, completions: i64) -> Option<i64> {
    let read = |text: &Value| -> Vec<(i64, i64)> {
        let parts = text.as_str().unwrap_or("").split(',');
        parts
            .filter_map(|p| interval(p, completions).ok())
            .collect()
    };
    let (one, other) = (read(one), read(other));
    let (mut i, mut j) = (0, 0);
    while let (Some((a, b)), Some((c, d))) = (one.get(i), other.get(j)) {
        if a <= d && c <= b {
            return Some(*a.max(c));
        }
        if a <= c {
            i += 1;
        } else {
            j += 1;
        }
    }
    None
}

/// What may not be taken back of what the status said.
fn taken_back(errs: &mut Errors, changed: &Changed<'_>) {
    let (new, old, path) = (changed.new, changed.old, FieldPath::new("status"));
    for ty in ["Failed", "Complete", "FailureTarget"] {
        if old.is(ty) && !new.is(ty) {
            conflict(
                errs,
                &format!("cannot disable the terminal {ty}=True condition"),
            );
        }
    }
    // An indexed job may be made smaller.
    let shrinks = new.is_indexed() && at(new.spec, "completions") == at(new.spec, "parallelism");
    for field in ["failed", "succeeded"] {
        let fewer = new.count(field) < old.count(field);
        if fewer && (field == "failed" || !shrinks) {
            let why = format!("cannot decrease the {field} counter");
            invalid(errs, &path.child(field), &new.count(field).into(), &why);
        }
    }
    match (old.is("SuccessCriteriaMet"), new.is("SuccessCriteriaMet")) {
        (true, false) => conflict(errs, "cannot disable the SuccessCriteriaMet=True condition"),
        (false, true) if old.is("Complete") => {
            let why =
                "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
            conflict(errs, why);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const EARLY: &str = "2030-01-01T00:00:00Z";
    const LATE: &str = "2030-01-01T00:00:09Z";

    fn say(spec: &Value, new: &Value, old: &Value) -> Vec<String> {
        let mut errs = Errors::new();
        let of = |status: &Value| json!({ "spec": spec, "status": status });
        check(&mut errs, &of(new));
        check_update(&mut errs, &of(new), &of(old));
        errs.iter().map(ToString::to_string).collect()
    }

    /// A status in which these conditions are true, with more.
    fn is(types: &[&str], more: &Value) -> Value {
        let all = types.iter();
        let all: Vec<_> = all
            .map(|ty| json!({ "type": ty, "status": "True" }))
            .collect();
        let mut status = json!({ "conditions": all });
        for (key, value) in more.as_object().into_iter().flatten() {
            status[key] = value.clone();
        }
        status
    }

    #[test]
    fn what_became_of_a_job_stays() {
        let none = json!({});
        for ty in ["Failed", "Complete", "FailureTarget"] {
            let why = format!(
                "status.conditions: Invalid value: cannot disable the terminal {ty}=True condition"
            );
            let found = say(&none, &none, &is(&[ty], &none));
            assert!(found.contains(&why), "{ty}: {found:?}");
            let stays = is(&[ty], &none);
            assert_eq!(say(&none, &stays, &stays), Vec::<String>::new());
        }
        assert_eq!(
            say(&none, &none, &is(&["SuccessCriteriaMet"], &none)),
            [
                "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition"
            ]
        );
        let (fewer, more) = (
            json!({ "failed": 1, "succeeded": 1 }),
            json!({ "failed": 2, "succeeded": 2 }),
        );
        assert_eq!(
            say(&none, &fewer, &more),
            [
                "status.failed: Invalid value: 1: cannot decrease the failed counter",
                "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter",
            ]
        );
        let indexed = json!({ "completionMode": "Indexed", "completions": 1, "parallelism": 1 });
        assert_eq!(say(&indexed, &fewer, &more).len(), 1);
    }

    #[test]
    fn times_go_with_conditions() {
        let (none, ends) = (json!({}), ["Complete", "SuccessCriteriaMet"]);
        let times = |start: &str, end: &str| json!({ "startTime": start, "completionTime": end });
        let done = is(&ends, &times(EARLY, LATE));
        assert_eq!(say(&none, &done, &none), Vec::<String>::new());
        assert_eq!(
            say(&none, &is(&ends, &json!({ "startTime": EARLY })), &none),
            ["status.completionTime: Required value: completionTime is required for Complete jobs"]
        );
        assert_eq!(
            say(&none, &times(EARLY, LATE), &none),
            [format!(
                "status.completionTime: Invalid value: \"{LATE}\": cannot set completionTime when there is no Complete=True condition"
            )]
        );
        assert_eq!(
            say(&none, &is(&ends, &times(LATE, EARLY)), &none),
            [format!(
                "status.completionTime: Invalid value: \"{EARLY}\": must be equal to or after `startTime`"
            )]
        );
        assert_eq!(
            say(&none, &is(&ends, &json!({ "completionTime": LATE })), &none),
            ["status.startTime: Required value: startTime is required for finished job"]
        );
        let never = json!({ "suspend": true, "completions": 0 });
        let found = say(
            &never,
            &is(&ends, &json!({ "completionTime": LATE })),
            &none,
        );
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(
            say(&none, &is(&ends, &times(EARLY, EARLY)), &done),
            [format!(
                "status.completionTime: Invalid value: \"{EARLY}\": field is immutable"
            )]
        );
    }

    #[test]
    fn a_start_moves_only_around_a_suspension() {
        let (early, late) = (json!({ "startTime": EARLY }), json!({ "startTime": LATE }));
        let none = json!({});
        assert_eq!(
            say(&none, &late, &early),
            [format!(
                "status.startTime: Invalid value: \"{LATE}\": field is immutable for unsuspended job once set"
            )]
        );
        assert_eq!(
            say(&none, &none, &early),
            [
                "status.startTime: Invalid value: null: field is immutable for unsuspended job once set"
            ]
        );
        assert_eq!(
            say(&json!({ "suspend": true }), &none, &early),
            Vec::<String>::new()
        );
        let suspended = is(&["Suspended"], &early);
        let mut resumed = late.clone();
        resumed["conditions"] = json!([{ "type": "Suspended", "status": "False" }]);
        assert_eq!(say(&none, &resumed, &suspended), Vec::<String>::new());
        // The condition is said to be over, not left out.
        assert_eq!(say(&none, &late, &suspended).len(), 1);
    }

    #[test]
    fn ends_exclude_each_other() {
        let none = json!({});
        let ran = json!({ "startTime": EARLY });
        for (types, wrong) in [
            (&["Failed", "FailureTarget"][..], 0),
            (&["Failed"][..], 1),
            (&["Failed", "SuccessCriteriaMet"][..], 2),
            (&["FailureTarget", "SuccessCriteriaMet"][..], 1),
        ] {
            let found = say(&none, &is(types, &ran), &none);
            assert_eq!(found.len(), wrong, "{types:?}: {found:#?}");
        }
        let ended = json!({ "startTime": EARLY, "completionTime": LATE });
        for (types, wrong) in [
            (&["Complete"][..], 1),
            (&["Complete", "SuccessCriteriaMet"][..], 0),
            (&["Complete", "SuccessCriteriaMet", "FailureTarget"][..], 2),
            (&["Complete", "SuccessCriteriaMet", "Failed"][..], 3),
        ] {
            let found = say(&none, &is(types, &ended), &none);
            assert_eq!(found.len(), wrong, "{types:?}: {found:#?}");
        }
        let (late, complete) = (
            ["Complete", "SuccessCriteriaMet"],
            is(&["Complete"], &ended),
        );
        assert_eq!(
            say(&none, &is(&late, &ended), &complete),
            [
                "status.conditions: Invalid value: cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions"
            ]
        );
    }

    #[test]
    fn pods_are_counted_once_and_gone_in_the_end() {
        let none = json!({});
        let of = |more: Value| is(&["Failed", "FailureTarget"], &more);
        for (more, field) in [
            (json!({ "active": 1 }), "status.active"),
            (json!({ "terminating": 1 }), "status.terminating"),
            (
                json!({ "uncountedTerminatedPods": { "failed": ["a"] } }),
                "status.uncountedTerminatedPods",
            ),
        ] {
            let mut status = of(more);
            status["startTime"] = EARLY.into();
            let found = say(&none, &status, &none);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(field), "{found:?}");
            // What was so before may stay.
            assert_eq!(say(&none, &status, &status), Vec::<String>::new());
        }
        let twice =
            json!({ "uncountedTerminatedPods": { "succeeded": ["a", ""], "failed": ["a"] } });
        assert_eq!(
            say(&none, &twice, &none),
            [
                "status.uncountedTerminatedPods.succeeded[1]: Invalid value: \"\": must not be empty",
                "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
            ]
        );
        assert_eq!(
            say(&none, &json!({ "ready": 2, "active": 1 }), &none),
            ["status.ready: Invalid value: 2: cannot set more ready pods than active"]
        );
        assert_eq!(
            say(&none, &json!({ "failed": -1 }), &json!({ "failed": -1 })),
            ["status.failed: Invalid value: -1: must be greater than or equal to 0"]
        );
    }

    #[test]
    fn indexes_are_of_indexed_jobs_and_end_once() {
        let none = json!({});
        let indexed =
            json!({ "completionMode": "Indexed", "completions": 6, "backoffLimitPerIndex": 1 });
        for (spec, status, wrong) in [
            (
                &indexed,
                json!({ "completedIndexes": "0,2-3", "failedIndexes": "1,4-5" }),
                "",
            ),
            (
                &indexed,
                json!({ "completedIndexes": "0,2-3", "failedIndexes": "3" }),
                "status.failedIndexes: Invalid value: \"3\": failedIndexes and completedIndexes overlap at index: 3",
            ),
            (
                &indexed,
                json!({ "completedIndexes": "2,1" }),
                "status.completedIndexes: Invalid value: \"2,1\": error parsing completedIndexes: non-increasing order, previous: 2, current: 1",
            ),
            (
                &indexed,
                json!({ "failedIndexes": "6" }),
                "status.failedIndexes: Invalid value: \"6\": error parsing failedIndexes: too large index: \"6\"",
            ),
            (
                &none,
                json!({ "completedIndexes": "1" }),
                "status.completedIndexes: Invalid value: \"1\": cannot set non-empty completedIndexes when non-indexed completion mode",
            ),
            (
                &none,
                json!({ "failedIndexes": "" }),
                "status.failedIndexes: Invalid value: \"\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
            ),
        ] {
            let found = say(spec, &status, &none);
            let wrong: Vec<_> = Some(wrong).into_iter().filter(|w| !w.is_empty()).collect();
            assert_eq!(found, wrong, "{status}");
        }
    }
}
