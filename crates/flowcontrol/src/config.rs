//! FlowSchemas and PriorityLevelConfigurations as they are stored, read into what decides. An
//! object that validation would refuse today (an older server stored it) is broken, and counts as
//! if it did not exist.

use serde::Deserialize;
use serde_json::Value;

use crate::EXEMPT;
use crate::shuffle;

/// A PriorityLevelConfiguration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    pub name: String,
    pub uid: String,
    /// Its part of the server's seats, beside the parts of the others.
    pub shares: u32,
    /// How much of its seats it gives away while it does not need them.
    pub lendable_percent: u32,
    /// How much it may borrow, in percent of its own seats; without it, as much as there is.
    pub borrowing_limit_percent: Option<u32>,
    pub response: Response,
}

/// What becomes of a request for which there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// There always is one.
    Exempt,
    Reject,
    Queue(Queuing),
}

/// How requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    pub queues: u32,
    /// Queues that one flow may use.
    pub hand_size: u32,
    /// Requests that wait in one queue at most.
    pub length_limit: u32,
}

/// A FlowSchema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    pub name: String,
    pub uid: String,
    pub level: String,
    /// Lower ones are asked first.
    pub precedence: i32,
    /// What divides its requests into flows; without it all of them are one.
    pub distinguisher: Option<Distinguisher>,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Distinguisher {
    ByUser,
    ByNamespace,
}

/// Whose requests, and which of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    pub subjects: Vec<Subject>,
    pub resource_rules: Vec<ResourceRule>,
    pub non_resource_rules: Vec<NonResourceRule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Subject {
    #[serde(rename = "User")]
    User { user: Named },
    #[serde(rename = "Group")]
    Group { group: Named },
    #[serde(rename = "ServiceAccount")]
    ServiceAccount {
        #[serde(rename = "serviceAccount")]
        account: Account,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Named {
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Account {
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceRule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    /// Whether it matches requests that are about no namespace.
    pub cluster_scope: bool,
    pub namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NonResourceRule {
    pub verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub urls: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SchemaSpec {
    priority_level_configuration: Named,
    #[serde(default)]
    matching_precedence: i32,
    distinguisher_method: Option<Method>,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Method {
    #[serde(rename = "type")]
    kind: Distinguisher,
}

#[derive(Deserialize)]
struct LevelSpec {
    #[serde(rename = "type")]
    kind: Enablement,
    limited: Option<Limited>,
    exempt: Option<Exempt>,
}

#[derive(PartialEq, Eq, Deserialize)]
enum Enablement {
    Exempt,
    Limited,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limited {
    nominal_concurrency_shares: Option<u32>,
    lendable_percent: Option<u32>,
    borrowing_limit_percent: Option<u32>,
    limit_response: LimitResponse,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exempt {
    nominal_concurrency_shares: Option<u32>,
    lendable_percent: Option<u32>,
}

#[derive(Deserialize)]
struct LimitResponse {
    #[serde(rename = "type")]
    kind: ResponseKind,
    queuing: Option<QueuingSpec>,
}

#[derive(Deserialize)]
enum ResponseKind {
    Queue,
    Reject,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueuingSpec {
    queues: u32,
    hand_size: u32,
    queue_length_limit: u32,
}

fn meta(object: &Value, field: &str) -> String {
    let text = object.get("metadata").and_then(|m| m.get(field));
    text.and_then(Value::as_str).unwrap_or_default().to_owned()
}

impl Schema {
    /// Reads an object; the error says why it is broken.
    pub fn read(object: &Value) -> Result<Self, String> {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let spec = SchemaSpec::deserialize(spec).map_err(|e| e.to_string())?;
        Ok(Self {
            name: meta(object, "name"),
            uid: meta(object, "uid"),
            level: spec.priority_level_configuration.name,
            precedence: spec.matching_precedence,
            distinguisher: spec.distinguisher_method.map(|m| m.kind),
            rules: spec.rules,
        })
    }

    /// The order in which schemas are asked.
    pub fn order(&self) -> (i32, &str) {
        (self.precedence, &self.name)
    }
}

impl Level {
    /// Reads an object; the error says why it is broken.
    pub fn read(object: &Value) -> Result<Self, String> {
        let name = meta(object, "name");
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let spec = LevelSpec::deserialize(spec).map_err(|e| e.to_string())?;
        if (spec.kind == Enablement::Exempt) != (name == EXEMPT) {
            return Err("its name and its type do not belong together".to_owned());
        }
        let (shares, lendable, borrowing, response) = match (spec.kind, spec.limited, spec.exempt) {
            (Enablement::Exempt, None, exempt) => {
                let e = exempt.unwrap_or_default();
                let shares = e.nominal_concurrency_shares.unwrap_or(0);
                (shares, e.lendable_percent, None, Response::Exempt)
            }
            (Enablement::Limited, Some(l), None) => {
                let shares = l.nominal_concurrency_shares.unwrap_or(30);
                let response = l.limit_response.read()?;
                let borrowing = l.borrowing_limit_percent;
                (shares, l.lendable_percent, borrowing, response)
            }
            _ => return Err("its type and what it is limited by do not belong together".to_owned()),
        };
        Ok(Self {
            uid: meta(object, "uid"),
            name,
            shares,
            lendable_percent: lendable.unwrap_or(0).min(100),
            borrowing_limit_percent: borrowing,
            response,
        })
    }
}

impl LimitResponse {
    fn read(self) -> Result<Response, String> {
        match (self.kind, self.queuing) {
            (ResponseKind::Reject, None) => Ok(Response::Reject),
            (ResponseKind::Queue, Some(q)) => {
                if !shuffle::is_possible(q.queues, q.hand_size) {
                    return Err("its queues and hand size are out of bounds".to_owned());
                }
                Ok(Response::Queue(Queuing {
                    queues: q.queues,
                    hand_size: q.hand_size,
                    length_limit: q.queue_length_limit,
                }))
            }
            _ => Err("its limit response and its queuing do not belong together".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::defaults;

    #[test]
    fn all_defaults_can_be_read() {
        for object in defaults::levels() {
            Level::read(&object.value).expect("level");
        }
        for object in defaults::schemas() {
            Schema::read(&object.value).expect("schema");
        }
    }

    #[test]
    fn what_does_not_belong_together_is_broken() {
        let level = |name: &str, spec: Value| {
            Level::read(&json!({ "metadata": { "name": name }, "spec": spec }))
        };
        let queue = |queues: u32, hand: u32| {
            let queuing = json!({ "queues": queues, "handSize": hand, "queueLengthLimit": 5 });
            json!({ "type": "Limited", "limited": { "limitResponse": { "type": "Queue", "queuing": queuing } } })
        };
        assert!(level("a", queue(8, 2)).is_ok());
        assert!(level("a", queue(2, 8)).is_err());
        assert!(level("exempt", queue(8, 2)).is_err());
        assert!(level("a", json!({ "type": "Exempt" })).is_err());
        assert!(level("a", json!({ "type": "Limited" })).is_err());
        let reject =
            json!({ "type": "Limited", "limited": { "limitResponse": { "type": "Queue" } } });
        assert!(level("a", reject).is_err());
        assert!(Schema::read(&json!({ "metadata": { "name": "a" }, "spec": {} })).is_err());
    }
}
