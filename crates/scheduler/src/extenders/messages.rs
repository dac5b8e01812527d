//! What is said to an extender and what it says, as upstream's `kube-scheduler/extender/v1`. Names of
//! fields in answers are read whatever their case, as Go reads them.

use serde_json::{Map, Value, json};

use super::{Chosen, Extender};

/// What an extender answers that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    #[error("the answer is not {0}")]
    Shape(&'static str),
    #[error("{0}")]
    Error(String),
    #[error("it claims to have filtered node {0:?}, which it was not asked about")]
    Node(String),
}

/// What was filtered, as names of nodes and reasons.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    pub good: Vec<String>,
    /// In order: those that no preemption helps, then the others.
    pub never: Vec<(String, String)>,
    pub not_now: Vec<(String, String)>,
}

fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = object.as_object()?;
    let found = fields.get(name).or_else(|| {
        let mut all = fields.iter();
        all.find(|(k, _)| k.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    });
    found.filter(|v| !v.is_null())
}

fn text(object: &Value, name: &str) -> String {
    let found = field(object, name).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

/// Nodes with their objects, as an extender gets them.
pub fn about_nodes(extender: &Extender, pod: &Value, nodes: &[(String, Value)]) -> Value {
    if extender.knows_nodes {
        let names: Vec<&str> = nodes.iter().map(|(name, _)| name.as_str()).collect();
        return json!({"Pod": pod, "Nodes": null, "NodeNames": names});
    }
    let items: Vec<&Value> = nodes.iter().map(|(_, node)| node).collect();
    json!({"Pod": pod, "Nodes": {"metadata": {}, "items": items}, "NodeNames": null})
}

fn reasons(answer: &Value, name: &str) -> Vec<(String, String)> {
    let found = field(answer, name).and_then(Value::as_object);
    let all = found.into_iter().flat_map(Map::iter);
    all.map(|(node, why)| (node.clone(), why.as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// # Errors
/// When it is an error, or speaks of nodes that it was not asked about.
pub fn filtered(
    extender: &Extender,
    answer: &Value,
    asked: &[(String, Value)],
) -> Result<Filtered, Nonsense> {
    if !answer.is_object() {
        return Err(Nonsense::Shape("an ExtenderFilterResult"));
    }
    let error = text(answer, "Error");
    if !error.is_empty() {
        return Err(Nonsense::Error(error));
    }
    let names = field(answer, "NodeNames").and_then(Value::as_array);
    let items = field(answer, "Nodes").and_then(|n| field(n, "items")?.as_array());
    let good: Vec<String> = match (names.filter(|_| extender.knows_nodes), items) {
        (Some(names), _) => {
            let names = names.iter().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        }
        (None, Some(items)) => {
            let names = items.iter().filter_map(|n| n["metadata"]["name"].as_str());
            names.map(str::to_owned).collect()
        }
        (None, None) => Vec::new(),
    };
    let strange = good.iter().find(|n| !asked.iter().any(|(a, _)| a == *n));
    if let Some(node) = strange {
        return Err(Nonsense::Node(node.clone()));
    }
    Ok(Filtered {
        good,
        never: reasons(answer, "FailedAndUnresolvableNodes"),
        not_now: reasons(answer, "FailedNodes"),
    })
}

/// The points of nodes.
pub fn points(answer: &Value) -> Result<Vec<(String, i64)>, Nonsense> {
    let list = answer.as_array();
    let list = list.ok_or(Nonsense::Shape("a HostPriorityList"))?.iter();
    let points = list.map(|p| {
        let score = field(p, "Score").and_then(Value::as_i64).unwrap_or(0);
        (text(p, "Host"), score)
    });
    Ok(points.collect())
}

pub fn binding(namespace: &str, name: &str, uid: &str, node: &str) -> Value {
    json!({"PodName": name, "PodNamespace": namespace, "PodUID": uid, "Node": node})
}

/// # Errors
/// When it was not bound.
pub fn bound(answer: &Value) -> Result<(), Nonsense> {
    match text(answer, "Error") {
        error if error.is_empty() => Ok(()),
        error => Err(Nonsense::Error(error)),
    }
}

/// Victims by node; `pods` has the objects of those that an extender does not know by itself.
pub fn about_victims(
    extender: &Extender,
    pod: &Value,
    nodes: &[Chosen],
    pods: &dyn Fn(&str) -> Option<Value>,
) -> Value {
    let each = nodes.iter().map(|c| {
        let victims: Vec<Value> = if extender.knows_nodes {
            c.victims.iter().map(|uid| json!({"UID": uid})).collect()
        } else {
            c.victims.iter().filter_map(|uid| pods(uid)).collect()
        };
        let victims = json!({"Pods": victims, "NumPDBViolations": c.violations});
        (c.node.clone(), victims)
    });
    let map: Map<String, Value> = each.collect();
    if extender.knows_nodes {
        json!({"Pod": pod, "NodeNameToVictims": null, "NodeNameToMetaVictims": map})
    } else {
        json!({"Pod": pod, "NodeNameToVictims": map, "NodeNameToMetaVictims": null})
    }
}

/// Which victims may go, in the order of the nodes.
pub fn victims(answer: &Value) -> Result<Vec<Chosen>, Nonsense> {
    if !answer.is_object() {
        return Err(Nonsense::Shape("an ExtenderPreemptionResult"));
    }
    let map = field(answer, "NodeNameToMetaVictims").and_then(Value::as_object);
    let each = map.into_iter().flat_map(Map::iter).map(|(node, victims)| {
        let pods = field(victims, "Pods").and_then(Value::as_array);
        let violations = field(victims, "NumPDBViolations").and_then(Value::as_u64);
        Chosen {
            node: node.clone(),
            victims: pods.into_iter().flatten().map(|p| text(p, "UID")).collect(),
            violations: usize::try_from(violations.unwrap_or(0)).unwrap_or(usize::MAX),
        }
    });
    Ok(each.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Vec<(String, Value)> {
        let node = |name: &str| (name.to_owned(), json!({"metadata": {"name": name}}));
        vec![node("a"), node("b"), node("c")]
    }

    #[test]
    fn answers_are_read_whatever_the_case_of_their_fields() {
        let knows = Extender {
            knows_nodes: true,
            ..Extender::default()
        };
        let answer = json!({"nodenames": ["a"], "failedNodes": {"b": "full"},
            "FailedAndUnresolvableNodes": {"c": "broken"}, "error": ""});
        let filtered = filtered(&knows, &answer, &asked()).expect("an answer");
        assert_eq!(filtered.good, ["a"]);
        assert_eq!(filtered.not_now, [("b".to_owned(), "full".to_owned())]);
        assert_eq!(filtered.never, [("c".to_owned(), "broken".to_owned())]);
        let list = json!([{"host": "a", "score": 7}, {"Host": "b", "Score": 1}]);
        assert_eq!(
            points(&list),
            Ok(vec![("a".to_owned(), 7), ("b".to_owned(), 1)])
        );
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let plain = Extender::default();
        let with = |answer: Value| filtered(&plain, &answer, &asked());
        assert_eq!(
            with(json!({"Error": "no memory"})),
            Err(Nonsense::Error("no memory".into()))
        );
        let other = json!({"Nodes": {"items": [{"metadata": {"name": "x"}}]}});
        assert_eq!(with(other), Err(Nonsense::Node("x".into())));
        assert!(matches!(with(json!("yes")), Err(Nonsense::Shape(_))));
        // Names alone count only from one that gets names.
        let names = with(json!({"NodeNames": ["a"]})).expect("an answer");
        assert!(names.good.is_empty());
    }

    #[test]
    fn an_extender_is_told_what_it_does_not_know() {
        let mut extender = Extender::default();
        let pod = json!({"metadata": {"name": "p"}});
        let whole = about_nodes(&extender, &pod, &asked());
        assert_eq!(whole["Nodes"]["items"][1]["metadata"]["name"], "b");
        assert!(whole["NodeNames"].is_null());
        let chosen = [Chosen {
            node: "a".into(),
            victims: vec!["v".into()],
            violations: 1,
        }];
        let pods = |uid: &str| Some(json!({"metadata": {"uid": uid, "name": "victim"}}));
        let told = about_victims(&extender, &pod, &chosen, &pods);
        assert_eq!(
            told["NodeNameToVictims"]["a"]["Pods"][0]["metadata"]["name"],
            "victim"
        );
        extender.knows_nodes = true;
        let told = about_victims(&extender, &pod, &chosen, &pods);
        assert_eq!(
            told["NodeNameToMetaVictims"],
            json!({"a": {"Pods": [{"UID": "v"}], "NumPDBViolations": 1}})
        );
        let answer = json!({"NodeNameToMetaVictims": told["NodeNameToMetaVictims"]});
        assert_eq!(victims(&answer), Ok(chosen.to_vec()));
    }
}
