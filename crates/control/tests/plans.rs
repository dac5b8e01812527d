//! What the shell does of a plan, and in which order; and that it makes nothing for an owner that
//! has gone, though the caches do not know it yet.
#![expect(clippy::disallowed_methods, reason = "a pretended server")]
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Informers};
use control::Watches;
use control::action::{Action, Plan, Target};
use control::controller::{Controller, run};
use control::events::Recorder;
use http::{Method, Request, Response};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Has one plan, over and over.
struct Planner {
    owners: Informer<ConfigMap>,
    owned: Informer<Secret>,
    plan: Plan,
}

impl Controller for Planner {
    const NAME: &'static str = "planner";
    const ACCOUNT: &'static str = "planner";
    const ADOPTS: bool = true;
    type Key = ();
    type Observed = ();

    fn watches(&self, watches: &mut Watches<()>) {
        watches.on(&self.owners, |_| vec![()]);
        watches.on(&self.owned, |_| vec![()]);
    }
    fn observe(&self, (): &()) -> Option<()> {
        Some(())
    }
    fn plan(&self, (): &(), _now_millis: i64) -> Plan {
        self.plan.clone()
    }
}

fn owner() -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": {
        "name": "owner", "namespace": "default", "uid": "o", "resourceVersion": "1" } })
}

/// A Secret that nobody owns: by its version it is known up to when all of them are seen.
fn another() -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": {
        "name": "another", "namespace": "default", "uid": "n", "resourceVersion": "1" } })
}

fn failure(code: u16) -> (u16, Value) {
    let reason = if code == 404 { "NotFound" } else { "R" };
    let status = json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": code, "reason": reason, "message": "m" });
    (code, status)
}

/// Lists the owner and nothing that it owns; `answer` says what else is answered. Tells of all but
/// lists and watches.
fn api(
    answer: impl Fn(&Method, &str) -> (u16, Value) + Send + Sync + 'static,
) -> (kube::Client, mpsc::UnboundedReceiver<String>) {
    let (sender, asked) = mpsc::unbounded_channel();
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (sender, answer) = (sender.clone(), answer.clone());
        async move {
            let (method, path) = (request.method().clone(), request.uri().path().to_owned());
            let is_watch = request.uri().query().is_some_and(|q| q.contains("watch"));
            let list = |kind: &str, items: Vec<Value>| {
                let metadata = json!({ "resourceVersion": "1" });
                json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, "items": items })
            };
            let (code, body) = match (method == Method::GET, path.as_str()) {
                _ if is_watch => std::future::pending().await,
                (true, "/api/v1/configmaps") => (200, list("ConfigMapList", vec![owner()])),
                (true, "/api/v1/secrets") => (200, list("SecretList", vec![another()])),
                _ => {
                    let name = path.rsplit('/').next().unwrap_or_default();
                    let _ = sender.send(format!("{method} {name}"));
                    answer(&method, name)
                }
            };
            let made = Response::builder().status(code);
            made.body(Body::from(body.to_string().into_bytes()))
        }
    });
    (kube::Client::new(service, "default"), asked)
}

/// What is asked in ten seconds.
async fn asked(
    plan: Plan,
    answer: impl Fn(&Method, &str) -> (u16, Value) + Send + Sync + 'static,
) -> Vec<String> {
    let (client, mut asked) = api(answer);
    let (clock, random) = (clock::Clock::system(), clock::Random::system());
    let informers = Informers::new(client.clone(), clock, random);
    let recorder = Recorder::new(client.clone(), "planner", "", clock);
    let planner = Planner {
        owners: informers.of(),
        owned: informers.of(),
        plan,
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(planner, client, recorder, stop.clone()));
    tokio::time::sleep(Duration::from_secs(10)).await;
    stop.cancel();
    running.await.expect("no panic");
    let mut all = Vec::new();
    while let Ok(one) = asked.try_recv() {
        all.push(one);
    }
    all
}

fn owned() -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": {
        "name": "owned", "namespace": "default", "uid": "s", "resourceVersion": "1",
        "ownerReferences": [{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "o",
            "controller": true }] } })
}

/// Makes what is never seen, once a second.
fn makes() -> Plan {
    Plan {
        actions: vec![Action::Create {
            target: Target::of::<Secret>("default", "owned"),
            object: owned(),
        }],
        wake_after_millis: Some(1_000),
        ..Plan::default()
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_made_for_an_owner_that_has_gone() {
    let made = |owner: fn() -> (u16, Value)| {
        asked(makes(), move |method, _| match *method {
            Method::POST => (201, owned()),
            _ => owner(),
        })
    };
    let creations = |all: &[String]| all.iter().filter(|a| *a == "POST secrets").count();
    let lives = made(|| (200, owner())).await;
    assert!(creations(&lives) > 5, "{lives:?}");
    for answer in GONE {
        // It is asked about when what was made has gone, and not again before its own watch comes.
        let all = made(answer).await;
        assert_eq!(all, ["POST secrets", "GET owner"]);
    }
}

/// What the API says of an owner that the caches still show.
const GONE: [fn() -> (u16, Value); 3] = [
    || failure(404),
    || {
        let mut another = owner();
        another["metadata"]["uid"] = json!("p");
        (200, another)
    },
    || {
        let mut going = owner();
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        (200, going)
    },
];

/// Somebody deletes the owner and lets what it owned live: the caches show that this has no owner any
/// more, and not yet that the owner goes. Adopted again, it would be collected with it.
#[tokio::test(start_paused = true)]
async fn nothing_is_adopted_for_an_owner_that_has_gone() {
    let adopts = || {
        let owners = owned()["metadata"]["ownerReferences"].clone();
        let patch = json!({ "metadata": { "uid": "n", "ownerReferences": owners } });
        let target = Target::of::<Secret>("default", "another");
        Plan::from(Action::merge(target, patch))
    };
    let adopted = |owner: fn() -> (u16, Value)| {
        asked(adopts(), move |method, _| match *method {
            Method::PATCH => (200, another()),
            _ => owner(),
        })
    };
    let lives = adopted(|| (200, owner())).await;
    assert_eq!(lives[..2], ["GET owner", "PATCH another"], "{lives:?}");
    for answer in GONE {
        assert_eq!(adopted(answer).await, ["GET owner"]);
    }
}

fn write(name: &str) -> Action {
    Action::merge(Target::of::<ConfigMap>("default", name), json!({}))
}

#[tokio::test(start_paused = true)]
async fn what_says_that_all_is_done_waits_for_it() {
    let plan = || Plan {
        actions: vec![write("a"), write("b")],
        then: vec![write("done")],
        otherwise: vec![write("failed")],
        last: vec![write("a"), write("last")],
        ..Plan::default()
    };
    let mut all = asked(plan(), |_, _| (200, owner())).await;
    all[..2].sort();
    all[3..].sort();
    assert_eq!(
        all,
        ["PATCH a", "PATCH b", "PATCH done", "PATCH a", "PATCH last"]
    );
    let mut all = asked(plan(), |_, name| match name {
        "a" => failure(409),
        _ => (200, owner()),
    })
    .await;
    // It is tried again and again.
    all.truncate(4);
    all[..2].sort();
    assert_eq!(all, ["PATCH a", "PATCH b", "PATCH failed", "PATCH last"]);
    // Its own failure is not one of the actions.
    let all = asked(plan(), |_, name| match name {
        "done" => failure(409),
        _ => (200, owner()),
    })
    .await;
    assert!(!all.contains(&"PATCH failed".to_owned()), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn an_event_is_recorded_with_the_status_that_says_the_same() {
    let about = serde_json::from_value(json!({ "kind": "ConfigMap", "namespace": "default",
        "name": "owner", "uid": "o" }));
    let event = Action::Event {
        about: about.expect("a reference"),
        warning: false,
        reason: "Completed",
        message: "it is".to_owned(),
    };
    let status = Action::merge_status(Target::of::<ConfigMap>("default", "owner"), json!({}));
    let others = Action::merge_status(Target::of::<ConfigMap>("default", "another"), json!({}));
    let plan = |first: Vec<Action>| Plan {
        actions: first,
        last: vec![event.clone(), status.clone()],
        ..Plan::default()
    };
    let events = |all: &[String]| all.iter().filter(|a| *a == "POST events").count();
    let all = asked(plan(Vec::new()), |_, _| (200, owner())).await;
    assert_eq!(events(&all), 1, "{all:?}");
    // The status was written by somebody else meanwhile: it is tried again and again.
    let refused = |_: &Method, name: &str| match name {
        "status" => failure(409),
        _ => (200, owner()),
    };
    let all = asked(plan(Vec::new()), refused).await;
    assert!(all.len() > 2 && events(&all) == 0, "{all:?}");
    // That of another object says nothing of this event, which is not said again.
    let plan_of_two = Plan {
        last: vec![event.clone(), others],
        ..Plan::default()
    };
    let all = asked(plan_of_two, refused).await;
    assert!(events(&all) > 0, "{all:?}");
    // What failed before keeps the status from being written at all.
    let before = |_: &Method, name: &str| match name {
        "owner" => failure(409),
        _ => (200, owner()),
    };
    let all = asked(plan(vec![write("owner")]), before).await;
    assert!(
        events(&all) == 0 && !all.contains(&"PATCH status".to_owned()),
        "{all:?}"
    );
}
