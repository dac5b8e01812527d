//! What one check works with: the suite's cluster and a namespace of its own.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::command::{self, Ran, Running, eventually, words};

/// How long kubectl waits for a condition: a guard, no measure.
const WAIT: &str = "--timeout=280s";

pub struct Context<'a> {
    pub cluster: &'a Cluster,
    pub ns: String,
}

impl Context<'_> {
    /// kubectl in the check's namespace.
    pub fn command(&self, line: &str) -> Command {
        let mut command = self.cluster.kubectl_command();
        command.args(["--namespace", &self.ns]).args(words(line));
        command
    }
    /// Runs kubectl, which may fail.
    pub fn run(&self, line: &str) -> Result<Ran> {
        command::run(self.command(line), "")
    }
    /// Runs kubectl with something to read, which may fail.
    pub fn run_with(&self, line: &str, stdin: &str) -> Result<Ran> {
        command::run(self.command(line), stdin)
    }
    /// Runs kubectl, which must succeed, and gives what it printed.
    pub fn kubectl(&self, line: &str) -> Result<String> {
        self.run(line)?.ok()
    }
    /// Runs kubectl, which must fail, and gives what it complained.
    pub fn refused(&self, line: &str) -> Result<String> {
        self.run(line)?.failed()
    }
    /// Starts kubectl beside the check.
    pub fn start(&self, line: &str) -> Result<Running> {
        Running::start(self.command(line))
    }
    /// `kubectl apply` of YAML or JSON.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.run_with("apply -f -", manifest)?.ok()
    }
    pub fn apply_json(&self, object: &Value) -> Result<String> {
        self.apply(&object.to_string())
    }
    /// `kubectl get … -o json`.
    pub fn json(&self, line: &str) -> Result<Value> {
        let text = self.kubectl(&format!("{line} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("{line}: {text}"))
    }
    /// One field, by a path such as `.status.podIP`.
    pub fn field(&self, what: &str, path: &str) -> Result<String> {
        self.kubectl(&format!("get {what} -o 'jsonpath={{{path}}}'"))
    }
    /// Waits for a condition such as `condition=Ready`, `delete`, `jsonpath={.a}=b`.
    pub fn wait(&self, what: &str, condition: &str) -> Result<()> {
        self.kubectl(&format!("wait {what} '--for={condition}' {WAIT}"))
            .map(drop)
    }
    pub fn wait_ready(&self, pod: &str) -> Result<()> {
        self.wait(&format!("pod/{pod}"), "condition=Ready")
    }
    pub fn wait_rollout(&self, what: &str) -> Result<()> {
        self.kubectl(&format!("rollout status {what} {WAIT}"))
            .map(drop)
    }
    /// Runs a shell line in a pod's first container; it must succeed.
    pub fn sh(&self, pod: &str, line: &str) -> Result<String> {
        self.sh_in(pod, "", line)
    }
    /// The same in a named container.
    pub fn sh_in(&self, pod: &str, container: &str, line: &str) -> Result<String> {
        let mut command = self.command(&format!("exec {pod}"));
        if !container.is_empty() {
            command.args(["-c", container]);
        }
        command.args(["--", "sh", "-c", line]);
        command::run(command, "")?.ok()
    }
    pub fn logs(&self, line: &str) -> Result<String> {
        self.kubectl(&format!("logs {line}"))
    }
    /// Waits until a log has this text and no other: a container that is ready need not have said it yet.
    pub fn wait_logs(&self, line: &str, text: &str) -> Result<()> {
        eventually(&format!("the log of {line} is {text:?}"), || {
            let said = self.logs(line)?;
            ensure!(said == text, "{said:?}");
            Ok(())
        })
    }

    /// Makes a pod that runs a shell line, and waits until it is ready.
    pub fn shell_pod(&self, name: &str, line: &str) -> Result<()> {
        self.apply_json(&pod(name, line))?;
        self.wait_ready(name)
    }
    pub fn pod_ip(&self, name: &str) -> Result<IpAddr> {
        let text = self.field(&format!("pod {name}"), ".status.podIP")?;
        text.parse()
            .with_context(|| format!("pod IP of {name}: {text:?}"))
    }
    /// Names of the pods with these labels, in order; those that are being deleted left out.
    pub fn pods(&self, selector: &str) -> Result<Vec<String>> {
        self.names("pods", selector)
    }
    /// The same of any resource.
    pub fn names(&self, resource: &str, selector: &str) -> Result<Vec<String>> {
        let list = self.json(&format!("get {resource} -l '{selector}'"))?;
        let items = list["items"].as_array().context("no items")?;
        let alive = items
            .iter()
            .filter(|p| p["metadata"]["deletionTimestamp"].is_null());
        Ok(alive
            .filter_map(|p| p["metadata"]["name"].as_str().map(str::to_owned))
            .collect())
    }
    /// Waits until a Service has this many ready endpoints.
    pub fn wait_endpoints(&self, service: &str, count: usize) -> Result<()> {
        eventually(&format!("{service} has {count} ready endpoints"), || {
            let slices = self.json(&format!(
                "get endpointslices -l kubernetes.io/service-name={service}"
            ))?;
            let items = slices["items"].as_array().context("no items")?;
            let endpoints = items
                .iter()
                .flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
            let ready = endpoints
                .filter(|e| e["conditions"]["ready"] == true)
                .count();
            ensure!(ready == count, "{ready} of {count}");
            Ok(())
        })
    }
    /// Waits for an event with this reason whose message contains a text.
    pub fn wait_event(&self, reason: &str, message: &str) -> Result<Value> {
        eventually(&format!("there is an event {reason}: {message}"), || {
            let events = self.json(&format!("get events --field-selector reason={reason}"))?;
            let items = events["items"].as_array().context("no items")?;
            let has = |e: &&Value| e["message"].as_str().is_some_and(|m| m.contains(message));
            items.iter().find(has).cloned().with_context(|| {
                let seen: Vec<&str> = items.iter().filter_map(|e| e["message"].as_str()).collect();
                format!("seen with that reason: {seen:?}")
            })
        })
    }

    /// Asks the API with the administrator's certificate: code and body.
    pub fn api(&self, method: Method, path: &str, body: &Value) -> Result<(u16, Value)> {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let kind = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        self.raw(method, path, kind, text.into_bytes())
    }
    /// The same with any body.
    pub fn raw(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Value)> {
        ask(
            self.cluster,
            self.cluster.client()?,
            method,
            path,
            kind,
            body,
        )
    }
}

/// Asks the API as a client: code and body.
pub fn ask(
    cluster: &Cluster,
    client: kube::Client,
    method: Method,
    path: &str,
    kind: &str,
    body: Vec<u8>,
) -> Result<(u16, Value)> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .header("accept", "application/json")
        .body(Body::from(body))?;
    let answer = async move {
        let response = client.send(request).await?;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await?.to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok::<_, anyhow::Error>((code, value))
    };
    cluster
        .block_on(async { tokio::time::timeout(command::GUARD, answer).await })
        .with_context(|| format!("{path} was not answered"))?
}

/// A pod of busybox that runs a shell line and ends quickly when asked to.
pub fn pod(name: &str, line: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": crate::BUSYBOX,
                "command": ["sh", "-c", line],
            }],
        },
    })
}

/// A line that keeps a container running for as long as it is let.
pub const STAY: &str = "exec sleep 1000000";

/// A Deployment of the demo's server.
pub fn web(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "terminationGracePeriodSeconds": 2,
                    "containers": [{
                        "name": "web", "image": crate::DEMO,
                        "ports": [{ "name": "http", "containerPort": 8080 }],
                        // An answer that a busy machine gives late is one.
                        "readinessProbe": { "httpGet": { "path": "/healthz", "port": "http" },
                            "periodSeconds": 1, "timeoutSeconds": 60 },
                    }],
                },
            },
        },
    })
}

/// A Service before the pods with label `app`.
pub fn service(name: &str, app: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name },
        "spec": {
            "type": kind,
            "selector": { "app": app },
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
        },
    })
}
