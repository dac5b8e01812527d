//! Many custom kinds that nobody uses, as operators bring them: what each holds in memory, what a
//! start costs with them, and one of them with many objects, listed and watched.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};

use crate::load::{Client, LoadRequest, closed_loop};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::{Server, private_mb, scratch};
use crate::watch::{self, Watched};

const DEFINITIONS: u32 = 300;
const OBJECTS: u64 = 10_000;
const CONNECTIONS: usize = 4;
const CONCURRENCY: usize = 32;
const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Far above what any of these takes.
const MOST: Duration = Duration::from_secs(600);
/// How often it is looked whether the last definition is served.
const LOOK: Duration = Duration::from_millis(20);

const CREATED_UNTIL: &str = "a CRD created until it is served";
const IDLE: &str = "memory per idle CRD, created in this run";
const START: &str = "start to ready with 300 CRDs";
const IDLE_AGAIN: &str = "memory per idle CRD, after a restart";
const MADE: &str = "CREATE of custom objects";
const LISTED: &str = "LIST of 10,000 custom objects";
const STREAMED: &str = "WATCH of 10,000 custom objects until its bookmark";
const WATCHED: &str = "watch of custom objects: 200 watchers × 200 events/s";

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let wants = |names: &[&str]| names.iter().any(|name| name.contains(&plan.only));
    let dir = scratch()?;
    let server = if wants(&[CREATED_UNTIL, IDLE, START, IDLE_AGAIN]) {
        idle(plan, dir.path(), report).await?
    } else {
        let server = Server::start(plan, "apiserver", dir.path()).await?;
        let client = Client::connect(&server.access, 1).await?;
        client
            .must(0, LoadRequest::post(PATH, &definition(0)))
            .await?;
        served(&client, 0).await?;
        server
    };
    if wants(&[MADE, LISTED, STREAMED, WATCHED]) {
        objects(plan, &server, report).await?;
    }
    server.stop().await
}

/// Definitions that nobody uses; gives the server that was started with them.
async fn idle(plan: &Plan, dir: &Path, report: &mut Report) -> Result<Server> {
    let settle = Duration::from_secs(if plan.quick { 10 } else { 60 });
    let server = Server::start(plan, "apiserver", dir).await?;
    tokio::time::sleep(settle).await;
    let before = private_mb(server.pid());
    let client = Arc::new(Client::connect(&server.access, CONNECTIONS).await?);
    let begun = Instant::now();
    for number in 0..DEFINITIONS {
        client
            .must(0, LoadRequest::post(PATH, &definition(number)))
            .await?;
    }
    served(&client, DEFINITIONS - 1).await?;
    let each = begun.elapsed().as_secs_f64() * 1e3 / f64::from(DEFINITIONS);
    report.add(Row::value(CREATED_UNTIL, "ms", each));
    let bytes = serde_json::to_vec(&definition(0))?.len() as f64 / 1e3;
    report.add(Row::value(
        "a CRD of the usual schema, as JSON",
        "kB",
        bytes,
    ));
    tokio::time::sleep(settle).await;
    let kb = |now: f64| (now - before) * 1e3 / f64::from(DEFINITIONS);
    report.add(Row::value(IDLE, "kB", kb(private_mb(server.pid()))));
    drop(client);
    server.stop().await?;
    let server = Server::start(plan, "apiserver", dir).await?;
    report.add(Row::value(START, "s", server.ready_after.as_secs_f64()));
    tokio::time::sleep(settle).await;
    report.add(Row::value(IDLE_AGAIN, "kB", kb(private_mb(server.pid()))));
    Ok(server)
}

/// Objects of one custom kind, created, and then listed whole and watched from their beginning
/// again and again; and many watchers of them while some change.
async fn objects(plan: &Plan, server: &Server, report: &mut Report) -> Result<()> {
    let client = Arc::new(Client::connect(&server.access, CONNECTIONS).await?);
    let path = format!("{}/namespaces/default/kind0s", group(0));
    let made = path.clone();
    let ask = move |i| LoadRequest::post(made.clone(), &object(i));
    let begun = Instant::now();
    closed_loop(&client, CONCURRENCY, MOST, OBJECTS, ask).await?;
    let rate = OBJECTS as f64 / begun.elapsed().as_secs_f64();
    report.add(Row::value(MADE, "per s", rate));
    if LISTED.contains(&plan.only) {
        let each = again(plan, async || {
            let reply = client.get(0, &path).await?;
            if !reply.status.is_success() {
                bail!("a list was refused: {}", reply.status);
            }
            Ok(())
        });
        report.add(Row::value(LISTED, "ms", each.await?));
    }
    if STREAMED.contains(&plan.only) {
        let each = again(plan, || until_bookmark(&client, &path));
        report.add(Row::value(STREAMED, "ms", each.await?));
    }
    if WATCHED.contains(&plan.only) {
        let list = client
            .must(0, LoadRequest::get(format!("{path}?limit=1")))
            .await?;
        let revision = list["metadata"]["resourceVersion"].as_str();
        let watched = Watched {
            path: &path,
            revision: revision.context("a list without a revision")?,
            change: &|nth, sent| {
                let body = json!({ "metadata": { "annotations": { "sent": sent } } });
                LoadRequest::merge(format!("{path}/{}", name(nth as u64)), &body)
            },
        };
        watch::fan_out(plan, server, CONNECTIONS, WATCHED, &watched, report).await?;
    }
    Ok(())
}

/// Does it one after another for the time of a case; gives the milliseconds of each.
async fn again(plan: &Plan, mut each: impl AsyncFnMut() -> Result<()>) -> Result<f64> {
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < plan.time {
        each().await?;
        count += 1;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e3 / f64::from(count))
}

/// A watch that begins with a list, as informers do, read until it says that the list is whole.
async fn until_bookmark(client: &Client, path: &str) -> Result<()> {
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let answer = client
        .begin(0, LoadRequest::get(format!("{path}?{query}")))
        .await?;
    if !answer.status().is_success() {
        bail!("a watch was refused: {}", answer.status());
    }
    let (mut body, mut seen, mut rest) = (answer.into_body(), 0, Vec::new());
    while let Some(frame) = body.frame().await {
        rest.extend_from_slice(&frame?.into_data().unwrap_or_default());
        // An event may be cut anywhere: what follows the last line end waits for more.
        let whole = memchr::memrchr(b'\n', &rest).map_or(0, |at| at + 1);
        let lines: Vec<u8> = rest.drain(..whole).collect();
        seen += memchr::memchr_iter(b'\n', &lines).count() as u64;
        if memchr::memmem::find(&lines, b"k8s.io/initial-events-end").is_some() {
            // The bookmark is the last line.
            if seen != OBJECTS + 1 {
                bail!("{seen} events, not {OBJECTS} and a bookmark");
            }
            return Ok(());
        }
    }
    bail!("a watch ended before its bookmark")
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

fn name(number: u64) -> String {
    format!("o-{number:06}")
}

fn object(number: u64) -> Value {
    json!({
        "apiVersion": "g0.bench.example.com/v1",
        "kind": "Kind0",
        "metadata": {"name": name(number)},
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
