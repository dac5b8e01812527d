//! Many custom kinds that nobody uses, as operators bring them: what each holds in memory, what a
//! start costs with them, and one of them listed with many objects.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::load::{Ask, Client, closed_loop};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{Server, private_mb, scratch};

const DEFINITIONS: u32 = 300;
const OBJECTS: u64 = 10_000;
const CONNECTIONS: usize = 4;
const CONCURRENCY: usize = 32;
const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Far above what any of these takes.
const MOST: Duration = Duration::from_secs(600);
/// How often it is looked whether the last definition is served.
const LOOK: Duration = Duration::from_millis(20);

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let settle = Duration::from_secs(if plan.quick { 10 } else { 60 });
    let dir = scratch()?;
    let server = Server::start(plan, "apiserver", dir.path()).await?;
    tokio::time::sleep(settle).await;
    let before = private_mb(server.pid());
    let client = Arc::new(Client::connect(&server.access, CONNECTIONS).await?);
    let begun = Instant::now();
    for number in 0..DEFINITIONS {
        client.must(0, Ask::post(PATH, &definition(number))).await?;
    }
    served(&client, DEFINITIONS - 1).await?;
    let each = begun.elapsed().as_secs_f64() * 1e3 / f64::from(DEFINITIONS);
    report.add(Row::value("a CRD created until it is served", "ms", each));
    let bytes = serde_json::to_vec(&definition(0))?.len() as f64 / 1e3;
    report.add(Row::value(
        "a CRD of the usual schema, as JSON",
        "kB",
        bytes,
    ));
    tokio::time::sleep(settle).await;
    let kb = |now: f64, then: f64| (now - then) * 1e3 / f64::from(DEFINITIONS);
    report.add(Row::value(
        "memory per idle CRD, created in this run",
        "kB",
        kb(private_mb(server.pid()), before),
    ));
    drop(client);
    server.stop().await?;
    let server = Server::start(plan, "apiserver", dir.path()).await?;
    report.add(Row::value(
        "start to ready with 300 CRDs",
        "s",
        server.ready_after.as_secs_f64(),
    ));
    tokio::time::sleep(settle).await;
    report.add(Row::value(
        "memory per idle CRD, after a restart",
        "kB",
        kb(private_mb(server.pid()), before),
    ));
    objects(plan, &server, report).await?;
    server.stop().await
}

/// Objects of one custom kind, created and then listed whole again and again.
async fn objects(plan: &Plan, server: &Server, report: &mut Report) -> Result<()> {
    let client = Arc::new(Client::connect(&server.access, CONNECTIONS).await?);
    let path = format!("{}/namespaces/default/kind0s", group(0));
    let made = path.clone();
    let ask = move |i| Ask::post(made.clone(), &object(i));
    let begun = Instant::now();
    closed_loop(&client, CONCURRENCY, MOST, OBJECTS, ask).await?;
    let rate = OBJECTS as f64 / begun.elapsed().as_secs_f64();
    report.add(Row::value("CREATE of custom objects", "per s", rate));
    let (begun, mut lists) = (Instant::now(), 0_u32);
    while begun.elapsed() < plan.time {
        let reply = client.get(0, &path).await?;
        if !reply.status.is_success() {
            bail!("a list was refused: {}", reply.status);
        }
        lists += 1;
    }
    let each = begun.elapsed().as_secs_f64() * 1e3 / f64::from(lists);
    report.add(Row::value("LIST of 10,000 custom objects", "ms", each));
    Ok(())
}

async fn served(client: &Client, number: u32) -> Result<()> {
    let begun = Instant::now();
    let path = format!("{}/kind{number}s", group(number));
    while begun.elapsed() < MOST {
        if client.get(0, &path).await?.status.is_success() {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(anyhow::anyhow!("{path} is not served")).context("waiting for the last definition")
}

fn group(number: u32) -> String {
    format!("/apis/g{}.bench.example.com/v1", number % 30)
}

fn object(number: u64) -> Value {
    json!({
        "apiVersion": "g0.bench.example.com/v1",
        "kind": "Kind0",
        "metadata": {"name": format!("o-{number:06}")},
        "spec": {"field0": "a", "field1": "b", "replicas": 3, "parts": [
            {"field0": "x", "field1": "y"}, {"field0": "z"}]},
    })
}

/// Some 60 fields on four levels with a sentence each, an enum, a pattern, a rule and the usual
/// conditions: the size of a usual operator's kind.
fn definition(number: u32) -> Value {
    let part = json!({"type": "object", "properties": strings(10)});
    let mut spec = strings(20);
    spec.insert(
        "replicas".into(),
        json!({"type": "integer", "format": "int32", "minimum": 0}),
    );
    spec.insert(
        "parts".into(),
        json!({"type": "array", "maxItems": 100, "items": part}),
    );
    spec.insert(
        "template".into(),
        json!({"type": "object", "properties": {
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "settings": {"type": "object", "properties": strings(15)},
        }}),
    );
    spec.insert(
        "mode".into(),
        json!({"type": "string", "enum": ["Fast", "Safe"]}),
    );
    let condition = json!({"type": "object", "required": ["type", "status"], "properties": {
        "type": {"type": "string", "maxLength": 316},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": {"type": "string", "pattern": "^[A-Za-z]*$"},
        "message": {"type": "string"},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
    }});
    let group = format!("g{}.bench.example.com", number % 30);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("kind{number}s.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": format!("kind{number}s"), "singular": format!("kind{number}"),
                "kind": format!("Kind{number}"), "listKind": format!("Kind{number}List")},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Mode", "type": "string", "jsonPath": ".spec.mode"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": spec, "x-kubernetes-validations": [
                        {"rule": "!has(self.replicas) || self.replicas < 1000"}]},
                    "status": {"type": "object", "properties": {"conditions": {
                        "type": "array", "items": condition,
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["type"]}}},
                }}},
            }],
        },
    })
}

fn strings(count: usize) -> Map<String, Value> {
    let field = |number| {
        let text = "What this field of the kind is for, in a sentence of the usual length that \
                    says what happens when it is left out.";
        (
            format!("field{number}"),
            json!({"type": "string", "description": text}),
        )
    };
    (0..count).map(field).collect()
}
