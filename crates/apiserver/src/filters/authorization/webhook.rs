//! An authorizer that asks a webhook (SubjectAccessReview), and its answers for a while.

use std::time::Duration;

use access::{Attributes, Decision, UserInfo};
use api::selector::Operator;
use api::{FieldSelector, LabelSelector};
use clock::Instant;
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::conditions::{Condition, Matched, matches};
use super::config::{WebhookConfiguration, time};
use crate::configuration_file::drop_nulls;
use crate::filters::answers::{Answers, key};
use crate::filters::webhook::Webhook;
use crate::metrics::authorization::Came;
use crate::state::{Authorizer, State};

/// Answers that are kept; upstream's number. One has some hundred bytes.
const KEPT: usize = 8192;
/// Questions with longer texts that the client chose are not kept; upstream's bound.
const MOST_KEPT_BYTES: usize = 10_000;

/// One webhook.
pub struct WebhookAuthorizer {
    name: String,
    webhook: Webhook,
    version: String,
    within: Duration,
    authorized: Duration,
    unauthorized: Duration,
    denies_on_failure: bool,
    conditions: Vec<Condition>,
    answers: Answers<Status>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    status: Status,
}

/// What a webhook says of a request.
#[derive(Clone, Debug, Deserialize, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Status {
    allowed: bool,
    denied: bool,
    reason: String,
}

impl WebhookAuthorizer {
    pub fn new(
        name: &str,
        configuration: &WebhookConfiguration,
        webhook: Webhook,
        conditions: Vec<Condition>,
    ) -> Self {
        let hold = |nanos, keeps: bool| if keeps { time(nanos) } else { Duration::ZERO };
        let c = configuration;
        Self {
            name: name.to_owned(),
            webhook,
            version: c.subject_access_review_version.clone(),
            within: time(c.timeout),
            authorized: hold(c.authorized_ttl, c.cache_authorized_requests),
            unauthorized: hold(c.unauthorized_ttl, c.cache_unauthorized_requests),
            denies_on_failure: c.failure_policy == "Deny",
            conditions,
            answers: Answers::new(KEPT),
        }
    }

    /// What follows from a failure.
    fn failed(&self, errors: &mut Vec<String>, why: String) -> Decision {
        errors.push(why);
        match self.denies_on_failure {
            true => Decision::Deny(String::new()),
            false => Decision::NoOpinion(String::new()),
        }
    }

    async fn judge(
        &self,
        state: &State,
        user: &UserInfo,
        asked: &Attributes<'_>,
        errors: &mut Vec<String>,
    ) -> Decision {
        let spec = spec(user, asked);
        match self.matched(state, &spec) {
            Matched::Yes => {}
            Matched::No => return Decision::NoOpinion(String::new()),
            Matched::Failed(why) => return self.failed(errors, why),
        }
        let name = key(&[spec.to_string().as_bytes()]);
        let status = match self.answers.get(&name) {
            Some(kept) => kept,
            None => {
                let status = match self.ask(state, spec).await {
                    Ok(status) => status,
                    Err(why) => return self.failed(errors, why),
                };
                if chosen_bytes(asked) < MOST_KEPT_BYTES {
                    let hold = match status.allowed {
                        true => self.authorized,
                        false => self.unauthorized,
                    };
                    self.answers.put(name, status.clone(), hold);
                }
                status
            }
        };
        match (status.allowed, status.denied) {
            (true, true) => {
                let why = "webhook subject access review returned both allow and deny response";
                errors.push(why.into());
                Decision::Deny(status.reason)
            }
            (_, true) => Decision::Deny(status.reason),
            (true, _) => Decision::Allow(status.reason),
            (false, false) => Decision::NoOpinion(status.reason),
        }
    }

    fn matched(&self, state: &State, spec: &Value) -> Matched {
        if self.conditions.is_empty() {
            return Matched::Yes;
        }
        let began = Instant::now();
        let matched = matches(&self.conditions, spec);
        let came = match &matched {
            Matched::Yes => Came::Match,
            Matched::No => Came::Excluded,
            Matched::Failed(_) => Came::Failed,
        };
        let metrics = &state.metrics().authorization;
        metrics.conditions(&self.name, began.elapsed(), came);
        matched
    }

    async fn ask(&self, state: &State, spec: Value) -> Result<Status, String> {
        let review = json!({
            "apiVersion": format!("authorization.k8s.io/{}", self.version),
            "kind": "SubjectAccessReview", "metadata": {},
            "spec": self.in_version(spec), "status": {"allowed": false},
        });
        let metrics = &state.metrics().authorization;
        let mut last = "error";
        let asked = self
            .webhook
            .ask(state, &review, self.within, |took, failed| {
                last = match failed {
                    None => "success",
                    Some(failed) if failed.late => "timeout",
                    Some(_) => "error",
                };
                metrics.webhook(&self.name, last, took);
            });
        let answer = asked.await.map_err(|failed| failed.why);
        answer.and_then(read).inspect_err(|why| {
            if !self.denies_on_failure {
                metrics.failed_open(&self.name, last);
            }
            if let Some(unsaid) = metrics.lines.next(state.now()) {
                let name = &self.name;
                tracing::error!(
                    unsaid,
                    "failed to make webhook authorizer request, webhook {name}: {why}"
                );
            }
        })
    }

    /// v1beta1 names the groups in the singular.
    fn in_version(&self, mut spec: Value) -> Value {
        if self.version == "v1beta1"
            && let Some(map) = spec.as_object_mut()
            && let Some(groups) = map.remove("groups")
        {
            map.insert("group".into(), groups);
        }
        spec
    }
}

/// What an answer says of the request.
pub fn read(mut answer: Value) -> Result<Status, String> {
    if answer["kind"] != "SubjectAccessReview" {
        let kind = &answer["kind"];
        return Err(format!("the answer is no SubjectAccessReview but {kind}"));
    }
    drop_nulls(&mut answer);
    let answer: Result<Answer, _> = serde_json::from_value(answer);
    let answer = answer.map_err(|e| format!("the answer cannot be read: {e}"))?;
    Ok(answer.status)
}

/// The spec of a v1 SubjectAccessReview: what is empty is left out.
fn spec(user: &UserInfo, asked: &Attributes<'_>) -> Value {
    let mut spec = Map::new();
    if asked.is_resource {
        spec.insert("resourceAttributes".into(), resource(asked));
    } else {
        let path = texts(&[("path", asked.path), ("verb", asked.verb)]);
        spec.insert("nonResourceAttributes".into(), path.into());
    }
    spec.extend(texts(&[("user", &user.name), ("uid", &user.uid)]));
    if !user.groups.is_empty() {
        spec.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".into(), json!(user.extra));
    }
    spec.into()
}

fn texts(all: &[(&str, &str)]) -> Map<String, Value> {
    let there = all.iter().filter(|(_, text)| !text.is_empty());
    there
        .map(|(name, text)| ((*name).to_owned(), (*text).into()))
        .collect()
}

fn resource(asked: &Attributes<'_>) -> Value {
    let mut map = texts(&[
        ("namespace", asked.namespace),
        ("verb", asked.verb),
        ("group", asked.group),
        ("version", asked.version),
        ("resource", asked.resource),
        ("subresource", asked.subresource),
        ("name", asked.name),
    ]);
    // A selector that cannot be read narrows nothing, so that more is asked for than is done.
    let fields = FieldSelector::parse(asked.field_selector).unwrap_or_default();
    let fields = fields.requirements.iter().map(|r| {
        let operator = if r.not { "NotIn" } else { "In" };
        json!({"key": r.field, "operator": operator, "values": [r.value]})
    });
    let labels = LabelSelector::parse(asked.label_selector).unwrap_or_default();
    let labels = labels.requirements.iter().filter_map(|r| {
        let operator = match r.operator {
            Operator::Equals | Operator::In => "In",
            Operator::NotEquals | Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        let mut one = json!({"key": r.key, "operator": operator});
        if !r.values.is_empty() {
            one["values"] = json!(r.values);
        }
        Some(one)
    });
    let all: [(&str, Vec<Value>); 2] = [
        ("fieldSelector", fields.collect()),
        ("labelSelector", labels.collect()),
    ];
    for (name, requirements) in all {
        if !requirements.is_empty() {
            map.insert(name.into(), json!({ "requirements": requirements }));
        }
    }
    map.into()
}

/// Bytes of what the client chose in a question.
fn chosen_bytes(asked: &Attributes<'_>) -> usize {
    let all = [
        asked.namespace,
        asked.verb,
        asked.group,
        asked.version,
        asked.resource,
        asked.subresource,
        asked.name,
        asked.path,
    ];
    all.iter().map(|text| text.len()).sum()
}

impl Authorizer for WebhookAuthorizer {
    fn authorize<'a>(
        &'a self,
        state: &'a State,
        user: &'a UserInfo,
        asked: &'a Attributes<'a>,
        errors: &'a mut Vec<String>,
    ) -> BoxFuture<'a, Decision> {
        Box::pin(self.judge(state, user, asked, errors))
    }

    fn rules(&self, _: &State, _: &UserInfo, _: &str, rules: &mut crate::state::Rules) {
        let why = "webhook authorizer does not support user rule resolution";
        rules.incomplete(why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_says_what_is_asked() {
        let user = UserInfo::new("jane", &["g"]);
        let asked = Attributes {
            verb: "list",
            is_resource: true,
            version: "v1",
            resource: "pods",
            namespace: "a",
            field_selector: "spec.nodeName=n,status.phase!=Failed",
            label_selector: "a=b,c in (d,e),!f,g",
            ..Attributes::default()
        };
        assert_eq!(
            spec(&user, &asked),
            json!({
                "user": "jane", "groups": ["g"],
                "resourceAttributes": {
                    "verb": "list", "version": "v1", "resource": "pods", "namespace": "a",
                    "fieldSelector": {"requirements": [
                        {"key": "spec.nodeName", "operator": "In", "values": ["n"]},
                        {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]},
                    ]},
                    "labelSelector": {"requirements": [
                        {"key": "a", "operator": "In", "values": ["b"]},
                        {"key": "c", "operator": "In", "values": ["d", "e"]},
                        {"key": "f", "operator": "DoesNotExist"},
                        {"key": "g", "operator": "Exists"},
                    ]},
                },
            })
        );
        let path = Attributes {
            verb: "get",
            path: "/x",
            ..Attributes::default()
        };
        assert_eq!(
            spec(&user, &path),
            json!({"user": "jane", "groups": ["g"], "nonResourceAttributes": {"path": "/x", "verb": "get"}})
        );
    }

    #[test]
    fn answers_are_reviews() {
        let status = |status: Value| read(json!({"kind": "SubjectAccessReview", "status": status}));
        let allowed = Status {
            allowed: true,
            reason: "r".into(),
            ..Status::default()
        };
        assert_eq!(status(json!({"allowed": true, "reason": "r"})), Ok(allowed));
        assert_eq!(status(Value::Null), Ok(Status::default()));
        assert!(status(json!({"allowed": "yes"})).is_err());
        assert!(read(json!({"kind": "Status"})).is_err());
    }
}
