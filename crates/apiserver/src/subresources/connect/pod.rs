//! What of a pod's object matters for streams: its node, its containers, and the kubelet's path.

use api::Status;
use api::percent::encoded_part;
use serde_json::{Value, json};

use crate::call::Call;

fn names<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a str> {
    let all = pod["spec"][list].as_array().into_iter().flatten();
    all.filter_map(|c| c["name"].as_str())
}

/// The container that is meant: the one named, or the only one.
pub(super) fn container<'a>(pod: &'a Value, asked: &'a str) -> Result<&'a str, Status> {
    let pod_name = pod.pointer("/metadata/name").and_then(Value::as_str);
    let pod_name = pod_name.unwrap_or_default();
    let all = || {
        names(pod, "initContainers")
            .chain(names(pod, "containers"))
            .chain(names(pod, "ephemeralContainers"))
    };
    if !asked.is_empty() {
        return all().find(|n| *n == asked).ok_or_else(|| {
            Status::bad_request(format!("container {asked} is not valid for pod {pod_name}"))
        });
    }
    let mut plain = names(pod, "containers");
    match (plain.next(), plain.next()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Status::bad_request(format!(
            "a container name must be specified for pod {pod_name}"
        ))),
        _ => Err(Status::bad_request(format!(
            "a container name must be specified for pod {pod_name}, choose one of: [{}]",
            all().collect::<Vec<_>>().join(" ")
        ))),
    }
}

/// The options of a connection as an object of their kind.
pub(super) fn options(call: &Call, kind: &str) -> Value {
    let query = &call.query;
    let mut all = json!({"kind": kind, "apiVersion": "v1"});
    match &*call.info.subresource {
        "portforward" => {
            let ports = query.all("ports").flat_map(|p| p.split(','));
            let ports: Vec<i64> = ports.filter_map(|p| p.parse().ok()).collect();
            if !ports.is_empty() {
                all["ports"] = json!(ports);
            }
        }
        "proxy" => {
            if !call.info.rest.is_empty() {
                all["path"] = call.info.rest.as_str().into();
            }
        }
        what => {
            for flag in ["stdin", "stdout", "stderr", "tty"] {
                if query.flag(flag) {
                    all[flag] = true.into();
                }
            }
            if let Some(container) = query.get("container") {
                all["container"] = container.into();
            }
            if what == "exec" {
                all["command"] = query.all("command").collect();
            }
        }
    }
    all
}

/// The kubelet's path and query for exec, attach and portforward.
pub(super) fn stream_path(call: &Call, pod: &Value) -> Result<String, Status> {
    let (namespace, name) = (
        encoded_part(&call.info.namespace),
        encoded_part(&call.info.name),
    );
    let query = &call.query;
    let mut params = Vec::new();
    if call.info.subresource == "portforward" {
        let ports: Vec<&str> = query.all("ports").flat_map(|p| p.split(',')).collect();
        if let Some(bad) = ports.iter().find(|p| p.parse::<u16>().is_err()) {
            return Err(Status::bad_request(format!("invalid port {bad:?}")));
        }
        if !ports.is_empty() {
            params.push(format!("port={}", ports.join(",")));
        }
        return Ok(joined(format!("/portForward/{namespace}/{name}"), &params));
    }
    let asked = query.get("container").unwrap_or_default();
    let container = encoded_part(container(pod, asked)?);
    let given = [
        ("stdin", "input"),
        ("stdout", "output"),
        ("stderr", "error"),
        ("tty", "tty"),
    ];
    for (ours, kubelets) in given {
        if query.flag(ours) {
            params.push(format!("{kubelets}=1"));
        }
    }
    if call.info.subresource == "exec" {
        params.extend(
            query
                .all("command")
                .map(|c| format!("command={}", encoded_part(c))),
        );
    }
    let what = &call.info.subresource;
    Ok(joined(
        format!("/{what}/{namespace}/{name}/{container}"),
        &params,
    ))
}

pub(super) fn joined(path: String, params: &[String]) -> String {
    if params.is_empty() {
        path
    } else {
        format!("{path}?{}", params.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_is_chosen_as_upstream_does() {
        let one = json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}});
        assert_eq!(container(&one, ""), Ok("a"));
        assert_eq!(container(&one, "i"), Ok("i"));
        let message = |pod: &Value, asked: &str| container(pod, asked).unwrap_err().message;
        assert_eq!(message(&one, "x"), "container x is not valid for pod p");
        let two = json!({"metadata": {"name": "p"}, "spec": {
            "initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(
            message(&two, ""),
            "a container name must be specified for pod p, choose one of: [i a b]"
        );
        assert_eq!(
            message(&json!({}), ""),
            "a container name must be specified for pod "
        );
    }
}
