//! What expressions of admission see of a request ([`policy::ExpressionInputs`]), and the authorizers that
//! answer them.
//!
//! Expressions run at once, but an authorizer may have to be waited for. So an expression that asks
//! for what is not known yet is given up, the answer is fetched, and it runs again ([`Answers`]).

use std::cell::RefCell;
use std::collections::HashMap;

use access::{Attributes, UserInfo};
use cel::{Check, Decision};
use futures::FutureExt;
use serde_json::{Map, Value, json};

use super::matching::{Gvk, Hit, Subject};
use crate::filters::authz;
use crate::state::State;

/// How often an expression is begun again for answers of authorizers, at most; each time at least
/// one more is known. Beyond, what is not known is an error.
const ROUNDS: usize = 64;

/// The variable `request`: what a review says of a request, without its objects.
pub fn request(
    subject: &Subject<'_>,
    hit: &Hit,
    user: &UserInfo,
    dry_run: bool,
    options: Option<&Value>,
) -> Value {
    let own = Gvk::of(subject.row, subject.version, subject.subresource).unwrap_or_default();
    let mut all = json!({
        "kind": kind(&hit.kind),
        "resource": {
            "group": *hit.row.group, "version": *hit.version, "resource": *hit.row.resource,
        },
        "requestKind": kind(&own),
        "requestResource": {
            "group": *subject.row.group, "version": subject.version,
            "resource": *subject.row.resource,
        },
        "operation": subject.operation.word(),
        "userInfo": user,
        "dryRun": dry_run,
    });
    let Some(map) = all.as_object_mut() else {
        return all;
    };
    put(map, "subResource", subject.subresource);
    put(map, "requestSubResource", subject.subresource);
    put(map, "name", subject.name);
    put(map, "namespace", subject.namespace());
    if let Some(options) = options {
        map.insert("options".into(), options.clone());
    }
    all
}

/// What is empty is left out, as in a review.
fn put(map: &mut Map<String, Value>, name: &str, value: &str) {
    if !value.is_empty() {
        map.insert(name.into(), value.into());
    }
}

fn kind(of: &Gvk) -> Value {
    json!({"group": *of.group, "version": *of.version, "kind": *of.kind})
}

/// A namespace as expressions see it: without what they have no type for.
pub fn namespace_object(namespace: &Value) -> Value {
    const SHOWN: [&str; 11] = [
        "name",
        "generateName",
        "namespace",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "finalizers",
    ];
    let meta = crate::object::meta(namespace);
    let shown = SHOWN
        .iter()
        .filter_map(|f| Some(((*f).to_owned(), meta.get(*f)?.clone())));
    let mut metadata: Map<String, Value> = shown.collect();
    if let Some(uid) = meta.get("uid") {
        metadata.insert("UID".into(), uid.clone());
    }
    json!({
        "metadata": metadata,
        "spec": namespace.get("spec").cloned().unwrap_or_else(|| json!({})),
        "status": namespace.get("status").cloned().unwrap_or_else(|| json!({})),
    })
}

/// What `authorizer.requestResource` asks about.
pub fn resource_check(subject: &Subject<'_>) -> Check {
    Check {
        group: subject.row.group.to_string(),
        resource: subject.row.resource.to_string(),
        subresource: subject.subresource.to_owned(),
        namespace: subject.namespace().to_owned(),
        name: subject.name.to_owned(),
        ..Check::default()
    }
}

/// Answers of the authorizers to what expressions asked.
pub struct Answers<'a> {
    state: &'a State,
    user: &'a UserInfo,
    known: HashMap<String, Decision>,
    /// Asked and not known yet.
    open: RefCell<Vec<Check>>,
    is_last: bool,
}

/// The name of a question.
fn key(check: &Check) -> String {
    format!("{check:?}")
}

impl cel::Authorizer for Answers<'_> {
    fn authorize(&self, check: &Check) -> Decision {
        if let Some(known) = self.known.get(&key(check)) {
            return known.clone();
        }
        // Most answers are there at once.
        if let Some(now) = ask(self.state, self.user, check).now_or_never() {
            return now;
        }
        if !self.is_last {
            self.open.borrow_mut().push(check.clone());
        }
        Decision {
            allowed: false,
            reason: String::new(),
            error: Some("the authorizer was asked too many questions".into()),
        }
    }
}

async fn ask(state: &State, user: &UserInfo, check: &Check) -> Decision {
    let account = check.service_account.as_ref().map(|(namespace, name)| {
        let mut groups = access::attributes::service_account_groups(namespace);
        groups.push("system:authenticated".to_owned());
        UserInfo {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups,
            ..UserInfo::default()
        }
    });
    let asked = match &check.path {
        Some(path) => Attributes {
            verb: &check.verb,
            path,
            ..Attributes::default()
        },
        None => Attributes {
            verb: &check.verb,
            is_resource: true,
            group: &check.group,
            version: "*",
            resource: &check.resource,
            subresource: &check.subresource,
            namespace: &check.namespace,
            name: &check.name,
            path: "",
            field_selector: check.field_selector.as_deref().unwrap_or_default(),
            label_selector: check.label_selector.as_deref().unwrap_or_default(),
        },
    };
    let decision = authz::decide(state, account.as_ref().unwrap_or(user), &asked).await;
    let allowed = decision.is_allowed();
    let (access::Decision::Allow(reason)
    | access::Decision::Deny(reason)
    | access::Decision::NoOpinion(reason)) = decision;
    Decision {
        allowed,
        reason,
        error: None,
    }
}

/// Runs expressions that may ask the authorizers: again, for as long as they ask for what is not
/// known.
pub async fn with_answers<T>(
    state: &State,
    user: &UserInfo,
    mut run: impl FnMut(&Answers<'_>) -> T,
) -> T {
    let mut answers = Answers {
        state,
        user,
        known: HashMap::new(),
        open: RefCell::default(),
        is_last: false,
    };
    for _ in 0..ROUNDS {
        let done = run(&answers);
        let open = answers.open.take();
        if open.is_empty() {
            return done;
        }
        for check in open {
            let decision = ask(state, user, &check).await;
            answers.known.insert(key(&check), decision);
        }
    }
    answers.is_last = true;
    run(&answers)
}
