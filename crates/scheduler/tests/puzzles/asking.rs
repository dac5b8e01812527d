//! How a puzzle is asked, and what its answer must say.

use scheduler::Profile;
use scheduler::why::{Answer, Change, Question, State, WhyError, answer};
use serde_json::{Value, json};

/// What is answered about an object where changes are supposed; without a question, what the changes
/// would do.
pub fn ask(objects: &[Value], question: &str, changes: &[&str]) -> Result<Answer, WhyError> {
    let state = State::read(objects.to_vec()).expect("a manifest");
    let changes = changes.iter().map(|c| c.parse().expect("a change"));
    let changes: Vec<Change> = changes.collect();
    let question = Some(question).filter(|q| !q.is_empty());
    let question: Option<Question> = question.map(|q| q.parse().expect("a question"));
    let profiles = || Ok(vec![Profile::default()]);
    answer(&state, "d", question.as_ref(), &changes, &profiles)
}

/// One puzzle: what the answer must say, and what change it must name.
#[track_caller]
pub fn puzzle(objects: Vec<Value>, question: &str, cause: &str, change: &str) -> Answer {
    let answer = ask(&objects, question, &[]).expect("an answer");
    assert!(
        answer.cause.contains(cause),
        "{cause:?} is not in:\n{answer}"
    );
    let said = answer.change.clone().unwrap_or_default();
    assert!(said.contains(change), "{change:?} is not in:\n{answer}");
    answer
}

/// What a note of the answer must say.
#[track_caller]
pub fn notes(answer: &Answer, said: &str) {
    let mut notes = answer.notes.iter();
    assert!(
        notes.any(|n| n.contains(said)),
        "{said:?} is not in:\n{answer}"
    );
}

/// A node that is ready.
pub fn node(name: &str) -> Value {
    json!({"kind": "Node",
           "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
           "spec": {},
           "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
                      "conditions": [{"type": "Ready", "status": "True"}]}})
}

/// A pod that waits for a node: what its metadata has beside its name, and what its spec has.
pub fn pod(name: &str, metadata: Value, spec: Value) -> Value {
    let mut pod = json!({"kind": "Pod",
        "metadata": {"name": name, "namespace": "d", "uid": name},
        "spec": {"schedulerName": "default-scheduler",
                 "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Pending"}});
    for (part, given) in [("metadata", metadata), ("spec", spec)] {
        for (key, value) in given.as_object().into_iter().flatten() {
            pod[part][key] = value.clone();
        }
    }
    pod
}
