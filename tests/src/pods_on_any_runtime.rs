//! What becomes of pods by their restart policies, the order of their containers and their rules: the
//! same for every container runtime. The suite `workloads` asks it of containerd, and the crate `sim`,
//! which includes this file, of the runtime in memory.

use serde_json::{Value, json};

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// It runs until it is stopped.
    Stays,
    /// It ends by itself after a moment, with this code.
    Ends(u8),
}

/// A pod, and what must become of it.
pub struct Rule {
    /// The pod's name, which says what the rule is.
    pub name: &'static str,
    /// The object.
    pub pod: Value,
    /// What the object shows in the end; else what it lacks.
    pub holds: fn(&Value) -> Result<(), String>,
}

use Program::{Ends, Stays};

/// All rules. `program`: the fields of a container that make it do what is wanted.
pub fn rules(program: &dyn Fn(Program) -> Value) -> Vec<Rule> {
    let c = |name: &str, does: Program, more: Value| {
        let mut container = program(does);
        container["name"] = name.into();
        for (field, value) in more.as_object().into_iter().flatten() {
            container[field] = value.clone();
        }
        container
    };
    let one = |does: Program| json!([c("a", does, json!({}))]);
    let rule = |name, policy: &str, containers: Value, more: Value, holds| {
        let mut spec = json!({ "restartPolicy": policy, "containers": containers,
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1 });
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec });
        Rule { name, pod, holds }
    };
    let none = || json!({});
    let on_42 = |action: &str| json!([{ "action": action, "exitCodes": { "operator": "In", "values": [42] } }]);
    let again = on_42("Restart");
    vec![
        rule("never-well", "Never", one(Ends(0)), none(), succeeded),
        rule("never-badly", "Never", one(Ends(1)), none(), failed_with_1),
        rule(
            "on-failure-well",
            "OnFailure",
            one(Ends(0)),
            none(),
            succeeded,
        ),
        rule(
            "on-failure-badly",
            "OnFailure",
            one(Ends(1)),
            none(),
            restarts,
        ),
        rule("always", "Always", one(Ends(0)), none(), restarts),
        rule(
            "one-of-two-badly",
            "Never",
            json!([c("b", Ends(0), none()), c("a", Ends(1), none())]),
            none(),
            failed_with_1,
        ),
        rule(
            "first-ones-in-order",
            "Never",
            one(Stays),
            json!({ "initContainers": [c("i", Ends(0), none()), c("j", Ends(0), none())] }),
            one_after_the_other,
        ),
        rule(
            "a-first-one-badly",
            "Never",
            one(Stays),
            json!({ "initContainers": [c("i", Ends(1), none()), c("j", Ends(0), none())] }),
            never_began,
        ),
        rule(
            "a-sidecar-ends-last",
            "Never",
            one(Ends(0)),
            json!({ "initContainers": [c("i", Stays, json!({ "restartPolicy": "Always" }))] }),
            sidecar_ended_last,
        ),
        rule("it-stays", "Always", one(Stays), none(), ready),
        rule(
            "a-sidecar-comes-first",
            "Always",
            one(Stays),
            json!({ "initContainers": [c("i", Stays, json!({ "restartPolicy": "Always" }))] }),
            sidecar_came_first,
        ),
        rule(
            "a-sidecar-that-ends",
            "Never",
            one(Stays),
            json!({ "initContainers": [c("i", Ends(0), json!({ "restartPolicy": "Always" }))] }),
            sidecar_restarts,
        ),
        rule(
            "a-first-one-badly-again",
            "OnFailure",
            one(Stays),
            json!({ "initContainers": [c("i", Ends(1), none())] }),
            tried_again_first,
        ),
        rule(
            "a-deadline",
            "Always",
            one(Stays),
            json!({ "activeDeadlineSeconds": 3 }),
            too_late,
        ),
        rule(
            "a-rule-for-a-code",
            "Never",
            json!([c(
                "a",
                Ends(42),
                json!({ "restartPolicy": "Never", "restartPolicyRules": again })
            )]),
            none(),
            restarts,
        ),
        rule(
            "no-rule-for-a-code",
            "Always",
            json!([c(
                "a",
                Ends(1),
                json!({ "restartPolicy": "Never", "restartPolicyRules": again })
            )]),
            none(),
            failed_with_1,
        ),
        rule(
            "a-code-for-all",
            "Never",
            json!([
                c(
                    "a",
                    Ends(42),
                    json!({ "restartPolicy": "Never",
                        "restartPolicyRules": on_42("RestartAllContainers") })
                ),
                c("b", Stays, none())
            ]),
            json!({ "initContainers": [c("i", Ends(0), none())] }),
            all_began_again,
        ),
        rule(
            "a-container-with-its-own-policy",
            "Never",
            json!([
                c("a", Ends(1), json!({ "restartPolicy": "OnFailure" })),
                c("b", Stays, none())
            ]),
            none(),
            restarts,
        ),
        rule(
            "a-sidecar-saves-nothing",
            "Never",
            one(Ends(1)),
            json!({ "initContainers": [c("i", Stays, json!({ "restartPolicy": "Always" }))] }),
            failed_with_1,
        ),
        rule(
            "a-sidecar-serves-the-first-ones",
            "Always",
            one(Stays),
            json!({ "initContainers": [
                c("i", Stays, json!({ "restartPolicy": "Always" })), c("j", Ends(0), none())] }),
            sidecar_came_before_all,
        ),
    ]
}

fn phase(pod: &Value, wanted: &str) -> Result<(), String> {
    let phase = &pod["status"]["phase"];
    check(phase == wanted, || {
        format!("the phase is {phase}, not {wanted}")
    })
}

fn check(well: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if well { Ok(()) } else { Err(why()) }
}

/// The status of a container.
fn status<'a>(pod: &'a Value, name: &str) -> Result<&'a Value, String> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let all = lists
        .iter()
        .filter_map(|list| pod["status"][list].as_array());
    let mut all = all.flatten();
    all.find(|s| s["name"] == name)
        .ok_or_else(|| format!("there is no status of {name}"))
}

/// A time of a container that has ended, or of one that runs.
fn time(pod: &Value, name: &str, which: &str) -> Result<String, String> {
    let state = &status(pod, name)?["state"];
    let found = ["terminated", "running"]
        .iter()
        .find_map(|s| state[s][which].as_str());
    found
        .map(str::to_owned)
        .ok_or_else(|| format!("{name} has no {which}: {state}"))
}

fn succeeded(pod: &Value) -> Result<(), String> {
    phase(pod, "Succeeded")?;
    let a = status(pod, "a")?;
    check(a["restartCount"] == 0, || format!("it was restarted: {a}"))?;
    check(a["state"]["terminated"]["reason"] == "Completed", || {
        a.to_string()
    })
}

fn failed_with_1(pod: &Value) -> Result<(), String> {
    phase(pod, "Failed")?;
    let a = status(pod, "a")?;
    let ended = &a["state"]["terminated"];
    check(ended["exitCode"] == 1 && ended["reason"] == "Error", || {
        a.to_string()
    })?;
    check(a["restartCount"] == 0, || format!("it was restarted: {a}"))
}

fn restarts(pod: &Value) -> Result<(), String> {
    phase(pod, "Running")?;
    let a = status(pod, "a")?;
    check(a["restartCount"].as_u64() >= Some(1), || {
        format!("not yet: {a}")
    })?;
    let last = &a["lastState"]["terminated"]["exitCode"];
    check(last.is_u64(), || {
        format!("nothing is said of the last end: {a}")
    })
}

fn one_after_the_other(pod: &Value) -> Result<(), String> {
    phase(pod, "Running")?;
    for (first, next) in [("i", "j"), ("j", "a")] {
        // Times are whole seconds, so those of one text are in the same order.
        let (end, begin) = (
            time(pod, first, "finishedAt")?,
            time(pod, next, "startedAt")?,
        );
        check(end <= begin, || {
            format!("{next} began at {begin}, before {first} ended at {end}")
        })?;
    }
    Ok(())
}

fn never_began(pod: &Value) -> Result<(), String> {
    phase(pod, "Failed")?;
    for name in ["j", "a"] {
        let waits = &status(pod, name)?["state"]["waiting"]["reason"];
        check(waits == "PodInitializing", || format!("{name}: {waits}"))?;
    }
    let ready = pod["status"]["conditions"].as_array();
    let initialized = ready
        .into_iter()
        .flatten()
        .find(|c| c["type"] == "Initialized");
    check(initialized.is_some_and(|c| c["status"] == "False"), || {
        format!("{initialized:?}")
    })
}

fn sidecar_ended_last(pod: &Value) -> Result<(), String> {
    phase(pod, "Succeeded")?;
    let (main, sidecar) = (time(pod, "a", "finishedAt")?, time(pod, "i", "finishedAt")?);
    check(main <= sidecar, || {
        format!("it ended at {sidecar}, before {main}")
    })
}

/// Whether a condition of the pod is true.
fn condition(pod: &Value, kind: &str) -> Result<(), String> {
    let all = pod["status"]["conditions"].as_array();
    let found = all.into_iter().flatten().find(|c| c["type"] == kind);
    check(found.is_some_and(|c| c["status"] == "True"), || {
        format!("{kind}: {found:?}")
    })
}

fn ready(pod: &Value) -> Result<(), String> {
    phase(pod, "Running")?;
    for kind in ["Initialized", "ContainersReady", "Ready"] {
        condition(pod, kind)?;
    }
    let a = status(pod, "a")?;
    check(a["ready"] == true && a["started"] == true, || a.to_string())
}

fn sidecar_came_first(pod: &Value) -> Result<(), String> {
    ready(pod)?;
    let (sidecar, main) = (time(pod, "i", "startedAt")?, time(pod, "a", "startedAt")?);
    check(sidecar <= main, || {
        format!("it began at {sidecar}, after {main}")
    })
}

fn sidecar_came_before_all(pod: &Value) -> Result<(), String> {
    sidecar_came_first(pod)?;
    let (sidecar, first) = (time(pod, "i", "startedAt")?, time(pod, "j", "startedAt")?);
    check(sidecar <= first, || {
        format!("it began at {sidecar}, after {first}")
    })?;
    let (end, begin) = (time(pod, "j", "finishedAt")?, time(pod, "a", "startedAt")?);
    check(end <= begin, || {
        format!("a began at {begin}, before j ended at {end}")
    })
}

fn all_began_again(pod: &Value) -> Result<(), String> {
    for name in ["i", "a", "b"] {
        let found = status(pod, name)?;
        check(found["restartCount"].as_u64() >= Some(1), || {
            format!("not yet: {found}")
        })?;
    }
    Ok(())
}

fn sidecar_restarts(pod: &Value) -> Result<(), String> {
    phase(pod, "Running")?;
    let i = status(pod, "i")?;
    check(i["restartCount"].as_u64() >= Some(1), || {
        format!("not yet: {i}")
    })?;
    let a = status(pod, "a")?;
    check(a["restartCount"] == 0, || format!("it was restarted: {a}"))
}

fn tried_again_first(pod: &Value) -> Result<(), String> {
    phase(pod, "Pending")?;
    let i = status(pod, "i")?;
    check(i["restartCount"].as_u64() >= Some(1), || {
        format!("not yet: {i}")
    })?;
    let a = &status(pod, "a")?["state"]["waiting"]["reason"];
    check(a == "PodInitializing", || a.to_string())
}

fn too_late(pod: &Value) -> Result<(), String> {
    phase(pod, "Failed")?;
    let reason = &pod["status"]["reason"];
    check(reason == "DeadlineExceeded", || reason.to_string())
}
