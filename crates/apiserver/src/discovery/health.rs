//! `/healthz`, `/livez`, `/readyz`, as a whole and check by check.

use std::time::Duration;

use api::Status;
use http::Response;

use crate::http::body::Body;
use crate::http::request::Query;
use crate::http::respond::respond;
use crate::state::State;

/// Time in which the store must answer; as upstream's `--etcd-healthcheck-timeout`.
const STORE_ANSWERS: Duration = Duration::from_secs(2);
const TEXT: &str = "text/plain; charset=utf-8";

/// A named check and what is wrong, if anything.
struct Check {
    name: &'static str,
    failure: Option<&'static str>,
}

async fn checks(state: &State, endpoint: &str) -> Vec<Check> {
    let passed = |name| Check {
        name,
        failure: None,
    };
    let shown = state.cache().revision();
    let store = tokio::time::timeout(STORE_ANSWERS, state.store().revision()).await;
    let store = match store {
        Ok(Ok(newest)) if newest < shown => Err("the store was set back"),
        Ok(Ok(newest)) => Ok(newest),
        Ok(Err(e)) => {
            tracing::warn!("{endpoint}: {e}");
            Err("the store cannot be read")
        }
        Err(_) => Err("the store does not answer"),
    };
    let mut all = vec![
        passed("ping"),
        passed("log"),
        Check {
            name: "etcd",
            failure: store.err(),
        },
    ];
    let keys = state.settings().keys.as_ref().and_then(|k| k.services());
    // Of no use to whoever would start the server again: as upstream.
    if let Some(services) = keys.filter(|_| endpoint != "livez") {
        let failed = services.await.err();
        if let Some(why) = &failed {
            tracing::warn!("{endpoint}: {why}");
        }
        all.push(Check {
            name: "kms-providers",
            failure: failed.map(|_| "a KMS provider is not well"),
        });
    }
    if endpoint == "readyz" {
        let behind = match store {
            Ok(revision) => state.cache().reach(revision).await.is_err(),
            Err(_) => true,
        };
        all.push(Check {
            name: "etcd-readiness",
            failure: store.err(),
        });
        all.push(Check {
            name: "informer-sync",
            failure: if behind {
                Some("the cache is behind the store")
            } else if state.knows_its_configuration() {
                None
            } else {
                Some("objects by which the server is configured have never been readable")
            },
        });
        // What is stored was read before there was a server to ask.
        all.push(passed("poststarthook/storage-readiness"));
        all.push(Check {
            name: "poststarthook/bootstrap-controller",
            failure: (!state.is_bootstrapped()).then_some("first objects are not made yet"),
        });
        all.push(Check {
            name: "shutdown",
            failure: state.is_leaving().then_some("the server is shutting down"),
        });
    }
    all
}

/// Answers `/{endpoint}` and `/{endpoint}/{check}`.
pub async fn answer(
    state: &State,
    path: &str,
    rest: &[&str],
    query: &Query,
) -> Result<Response<Body>, Status> {
    let endpoint = match path.split('/').next() {
        Some("livez") => "livez",
        Some("readyz") => "readyz",
        _ => "healthz",
    };
    let mut all = checks(state, endpoint).await;
    if !rest.is_empty() {
        let name = rest.join("/");
        let Some(check) = all.iter().find(|c| c.name == name) else {
            return Err(Status::no_such_path());
        };
        return Ok(match check.failure {
            None => respond(200, TEXT, "ok"),
            Some(why) => respond(500, TEXT, format!("internal server error: {why}\n")),
        });
    }
    all.retain(|c| !query.all("exclude").any(|e| e == c.name));
    for check in &all {
        ::metrics::slis::observe(check.name, endpoint, check.failure.is_none());
    }
    let failed = all.iter().any(|c| c.failure.is_some());
    if !failed && !query.flag("verbose") {
        return Ok(respond(200, TEXT, "ok"));
    }
    let mut text = String::new();
    for c in &all {
        match c.failure {
            None => text.push_str(&format!("[+]{} ok\n", c.name)),
            Some(_) => text.push_str(&format!("[-]{} failed: reason withheld\n", c.name)),
        }
    }
    text.push_str(&format!(
        "{endpoint} check {}\n",
        if failed { "failed" } else { "passed" }
    ));
    Ok(respond(if failed { 500 } else { 200 }, TEXT, text))
}
