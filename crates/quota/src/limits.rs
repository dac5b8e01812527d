//! Limit ranges: the defaults that a namespace gives to containers, and the least, the most and
//! the ratios that it allows to containers, pods and claims. Words are upstream's.

use api::Quantity;
use serde_json::{Map, Value};

use crate::amounts::Amounts;
use crate::pod::{self, list, text};

/// Says what was filled in.
pub const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Fills in what a pod's containers do not say, from one limit range.
pub fn default_pod(range: &Value, pod: &mut Value) {
    let (mut requests, mut limits) = (Amounts::default(), Amounts::default());
    for limit in of_type(range, "Container") {
        let own = |field| Amounts::read(limit.get(field));
        own("defaultRequest")
            .iter()
            .for_each(|(n, q)| requests.set(n, *q));
        own("default").iter().for_each(|(n, q)| limits.set(n, *q));
    }
    let mut told = Vec::new();
    for (field, what) in [
        ("containers", "container"),
        ("initContainers", "init container"),
    ] {
        let containers = pod.pointer_mut(&format!("/spec/{field}"));
        for container in containers
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let name = text(container, "name").to_owned();
            for (list, defaults, word) in [
                ("requests", &requests, "request"),
                ("limits", &limits, "limit"),
            ] {
                let set = fill(container, list, defaults);
                if !set.is_empty() {
                    told.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if told.is_empty() {
        return;
    }
    let text = format!("LimitRanger plugin set: {}", told.join("; "));
    if let Some(annotations) = object(pod, "metadata").and_then(|m| member(m, "annotations")) {
        annotations.insert(ANNOTATION.into(), text.into());
    }
}

fn object<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    member(value.as_object_mut()?, field)
}

/// A member that is an object, made when it is absent or null.
fn member<'a>(of: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Map<String, Value>> {
    let inner = of.entry(field).or_insert(Value::Null);
    if inner.is_null() {
        *inner = Value::Object(Map::new());
    }
    inner.as_object_mut()
}

/// The names of what was set.
fn fill(container: &mut Value, list: &str, defaults: &Amounts) -> Vec<String> {
    let mut set = Vec::new();
    let have = Amounts::read(container.pointer(&format!("/resources/{list}")));
    for (name, amount) in defaults.iter().filter(|(n, _)| have.get(n).is_none()) {
        let resources = object(container, "resources").and_then(|r| member(r, list));
        if let Some(amounts) = resources {
            amounts.insert(name.to_owned(), amount.to_string().into());
            set.push(name.to_owned());
        }
    }
    set
}

fn of_type<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    list(range, "/spec/limits")
        .iter()
        .filter(move |l| text(l, "type") == kind)
}

/// What is wrong with a pod by one limit range.
pub fn check_pod(range: &Value, pod: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for limit in list(range, "/spec/limits") {
        match text(limit, "type") {
            "Container" => {
                let containers = list(pod, "/spec/containers").iter();
                for container in containers.chain(list(pod, "/spec/initContainers")) {
                    let of = |field| Amounts::read(container.pointer(field));
                    let (requests, limits) = (of("/resources/requests"), of("/resources/limits"));
                    compare(limit, "Container", &requests, &limits, &mut wrong);
                }
            }
            "Pod" => {
                let requests = pod::requests(pod, pod::LIMIT_RANGE);
                let limits = pod::limits(pod, pod::LIMIT_RANGE);
                compare(limit, "Pod", &requests, &limits, &mut wrong);
            }
            _ => {}
        }
    }
    wrong
}

/// What is wrong with a claim by one limit range: only what it requests counts.
pub fn check_claim(range: &Value, claim: &Value) -> Vec<String> {
    let kind = "PersistentVolumeClaim";
    let requests = Amounts::read(claim.pointer("/spec/resources/requests"));
    let mut wrong = Vec::new();
    for limit in of_type(range, kind) {
        for (name, least) in Amounts::read(limit.get("min")).iter() {
            wrong.extend(too_little(
                kind,
                name,
                *least,
                &requests,
                &Amounts::default(),
            ));
        }
        for (name, most) in Amounts::read(limit.get("max")).iter() {
            let head = format!("maximum {name} usage per {kind} is {most}");
            match requests.get(name) {
                None => wrong.push(format!("{head}.  No request is specified")),
                Some(asked) if asked > most => {
                    wrong.push(format!("{head}, but request is {asked}"));
                }
                Some(_) => {}
            }
        }
    }
    wrong
}

fn compare(
    limit: &Value,
    kind: &str,
    requests: &Amounts,
    limits: &Amounts,
    wrong: &mut Vec<String>,
) {
    for (name, least) in Amounts::read(limit.get("min")).iter() {
        wrong.extend(too_little(kind, name, *least, requests, limits));
    }
    for (name, most) in Amounts::read(limit.get("max")).iter() {
        wrong.extend(too_much(kind, name, *most, requests, limits));
    }
    for (name, ratio) in Amounts::read(limit.get("maxLimitRequestRatio")).iter() {
        wrong.extend(too_far_apart(kind, name, *ratio, requests, limits));
    }
}

fn too_little(
    kind: &str,
    name: &str,
    least: Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let head = format!("minimum {name} usage per {kind} is {least}");
    match (requests.get(name), limits.get(name)) {
        (None, _) => Some(format!("{head}.  No request is specified")),
        (Some(asked), _) if *asked < least => Some(format!("{head}, but request is {asked}")),
        (_, Some(limit)) if *limit < least => Some(format!("{head}, but limit is {limit}")),
        _ => None,
    }
}

fn too_much(
    kind: &str,
    name: &str,
    most: Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let head = format!("maximum {name} usage per {kind} is {most}");
    match (limits.get(name), requests.get(name)) {
        (None, _) => Some(format!("{head}.  No limit is specified")),
        (Some(limit), _) if *limit > most => Some(format!("{head}, but limit is {limit}")),
        (_, Some(asked)) if *asked > most => Some(format!("{head}, but request is {asked}")),
        _ => None,
    }
}

/// Amounts above this are compared by whole units, as upstream, whose thousandths would overflow.
const MILLIS_MAX: i64 = i64::MAX / 1000;

fn too_far_apart(
    kind: &str,
    name: &str,
    most: Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let head = format!("{name} max limit to request ratio per {kind} is {most}");
    let some = |all: &Amounts| all.get(name).filter(|q| !q.is_zero()).copied();
    let Some(asked) = some(requests) else {
        return Some(format!(
            "{head}, but no request is specified or request is 0"
        ));
    };
    let Some(limit) = some(limits) else {
        return Some(format!("{head}, but no limit is specified or limit is 0"));
    };
    let precise = asked.value() <= MILLIS_MAX && limit.value() <= MILLIS_MAX;
    let number = |q: Quantity| {
        if precise {
            q.milli_value() as f64
        } else {
            q.value() as f64
        }
    };
    let ratio = number(limit) / number(asked);
    (ratio * 1000.0 > most.milli_value() as f64)
        .then(|| format!("{head}, but provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_filled_in_and_told() {
        let range = json!({ "spec": { "limits": [{ "type": "Container",
            "default": { "cpu": "500m", "memory": "500Mi" }, "defaultRequest": { "cpu": "100m" } }] } });
        let mut pod = json!({ "metadata": {}, "spec": {
            "containers": [{ "name": "a" }, { "name": "b", "resources": { "limits": { "cpu": "1" }, "requests": { "cpu": "1" } } }],
            "initContainers": [{ "name": "i" }] } });
        default_pod(&range, &mut pod);
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a; memory limit for container b; cpu request for init container i; cpu, memory limit for init container i"
        );
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({ "limits": { "cpu": "500m", "memory": "500Mi" }, "requests": { "cpu": "100m" } })
        );
        assert_eq!(
            pod["spec"]["containers"][1]["resources"]["limits"]["cpu"],
            "1"
        );
        let mut untouched = json!({ "metadata": {}, "spec": { "containers": [] } });
        default_pod(&range, &mut untouched);
        assert_eq!(untouched["metadata"], json!({}));
    }

    #[test]
    fn least_most_and_ratio() {
        let pod = |request: Value, limit: Value| json!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": request, "limits": limit } }] } });
        let range = |kind: &str, rule: Value| {
            let mut limit = rule;
            limit["type"] = json!(kind);
            json!({ "spec": { "limits": [limit] } })
        };
        let cpu = |amount: &str| json!({ "cpu": amount });
        for (rule, pod, want) in [
            (json!({ "min": cpu("1") }), pod(cpu("2"), cpu("3")), None),
            (
                json!({ "min": cpu("1") }),
                pod(json!({}), json!({})),
                Some("minimum cpu usage per Pod is 1.  No request is specified"),
            ),
            (
                json!({ "min": cpu("1") }),
                pod(cpu("500m"), json!({})),
                Some("minimum cpu usage per Pod is 1, but request is 500m"),
            ),
            (
                json!({ "max": cpu("1") }),
                pod(cpu("1"), json!({})),
                Some("maximum cpu usage per Pod is 1.  No limit is specified"),
            ),
            (
                json!({ "max": cpu("1") }),
                pod(cpu("1"), cpu("2")),
                Some("maximum cpu usage per Pod is 1, but limit is 2"),
            ),
            (
                json!({ "maxLimitRequestRatio": cpu("1500m") }),
                pod(cpu("1"), cpu("2")),
                Some(
                    "cpu max limit to request ratio per Pod is 1500m, but provided ratio is 2.000000",
                ),
            ),
            (
                json!({ "maxLimitRequestRatio": cpu("2") }),
                pod(cpu("1"), cpu("2")),
                None,
            ),
            (
                json!({ "maxLimitRequestRatio": cpu("2") }),
                pod(cpu("1"), json!({})),
                Some(
                    "cpu max limit to request ratio per Pod is 2, but no limit is specified or limit is 0",
                ),
            ),
        ] {
            let got = check_pod(&range("Pod", rule.clone()), &pod);
            assert_eq!(got.first().map(String::as_str), want);
            let got = check_pod(&range("Container", rule.clone()), &pod);
            let want = want.map(|w| w.replace("Pod", "Container"));
            assert_eq!(got.first(), want.as_ref());
            assert!(check_claim(&range("Pod", rule), &pod).is_empty());
        }
    }

    #[test]
    fn claims_are_judged_by_what_they_request() {
        let range = json!({ "spec": { "limits": [{ "type": "PersistentVolumeClaim",
            "min": { "storage": "1Gi" }, "max": { "storage": "2Gi" } }] } });
        let claim =
            |size: &str| json!({ "spec": { "resources": { "requests": { "storage": size } } } });
        assert!(check_claim(&range, &claim("2Gi")).is_empty());
        assert_eq!(
            check_claim(&range, &claim("3Gi")),
            ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
        );
        assert_eq!(
            check_claim(&range, &claim("512Mi")),
            ["minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi"]
        );
    }
}
