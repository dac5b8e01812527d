//! Get and list: from the cache, at the store's newest revision, at any, or at an exact one.

use api::{FieldError, FieldPath, GroupKind, Status};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use store::StoreError;

use super::convert::Asked;
use crate::cache::{Objects, Selection, objects_of, walk};
use crate::call::{Answer, Call, List};
use crate::errors::{CONTINUE_EXPIRED, from_store};

/// Reads one object.
pub async fn get(call: &Call) -> Result<Answer, Status> {
    let revision = read_revision(call.query.get("resourceVersion"))?;
    match revision {
        None => newest(call).await?,
        Some(0) => call.state.cache().revision(),
        Some(r) => {
            call.state.reach(r).await?;
            r
        }
    };
    let name = &call.info.name;
    let object = call
        .cache()?
        .get(&call.key(name))
        .ok_or_else(|| Status::not_found(&call.resource(), name))?;
    Ok(Answer::Object { code: 200, object })
}

/// Waits until the cache has the store's newest state.
pub async fn newest(call: &Call) -> Result<u64, Status> {
    call.state
        .cache()
        .reach_newest()
        .await
        .map_err(|e| from_store(&e))
}

/// A resourceVersion parameter.
pub fn read_revision(text: Option<&str>) -> Result<Option<u64>, Status> {
    let Some(text) = text else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let path = FieldPath::new("resourceVersion");
        let e = FieldError::invalid_str(&path, text, "strconv.ParseUint: parsing: invalid syntax");
        Status::bad_request(e.to_string())
    })
}

/// A place in a list: continue behind `start` in the state at `rv`; -1 for the newest state.
#[derive(Serialize, Deserialize)]
struct Continue {
    v: String,
    rv: i64,
    start: String,
}

const CONTINUE_VERSION: &str = "meta.k8s.io/v1";

fn continue_token(rv: i64, start: &str) -> String {
    let token = Continue {
        v: CONTINUE_VERSION.into(),
        rv,
        start: start.into(),
    };
    URL_SAFE_NO_PAD.encode(serde_json::to_string(&token).unwrap_or_default())
}

fn read_continue(text: &str) -> Result<Continue, Status> {
    let bad =
        || Status::bad_request("continue key is not valid: encoded continue token is not valid");
    let bytes = URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|_| bad())?;
    let token: Continue = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    if token.v != CONTINUE_VERSION || token.rv == 0 || !is_clean(&token.start) {
        return Err(bad());
    }
    Ok(token)
}

/// Whether a key leads nowhere but below its prefix; a token is the client's to write.
fn is_clean(start: &str) -> bool {
    let key = start.strip_prefix('/').unwrap_or(start);
    key.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The selection of a call. A name that the request was authorized by, from the path or from the
/// field selector, is always part of it.
pub fn selection(call: &Call) -> Result<Selection, Status> {
    let selection = Selection::of_version(
        &call.row,
        &call.version.version,
        if call.row.namespaced {
            &call.info.namespace
        } else {
            ""
        },
        call.query.get("labelSelector").unwrap_or_default(),
        call.query.get("fieldSelector").unwrap_or_default(),
    )?;
    match call.info.name.as_str() {
        "" => Ok(selection),
        name => selection.named(name),
    }
}

/// Errors in list or watch options.
pub fn invalid_options(errors: &[FieldError]) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(
        &GroupKind::new("meta.k8s.io", "ListOptions"),
        "",
        errors,
    ))
}

fn check_options(call: &Call) -> Result<(), Status> {
    let mut errors = Vec::new();
    let path = FieldPath::new("resourceVersionMatch");
    let rv = call.query.get("resourceVersion");
    if let Some(m) = call.query.get("resourceVersionMatch") {
        if rv.is_none() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(&path, why));
        }
        if call.query.get("continue").is_some() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(&path, why));
        }
        if !matches!(m, "Exact" | "NotOlderThan") {
            errors.push(FieldError::not_supported(
                &path,
                m,
                &["Exact", "NotOlderThan", ""],
            ));
        }
        if m == "Exact" && rv == Some("0") {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(&path, why));
        }
    }
    if call.query.tristate("sendInitialEvents").is_some() {
        let path = FieldPath::new("sendInitialEvents");
        errors.push(FieldError::forbidden(
            &path,
            "sendInitialEvents is forbidden for list",
        ));
    }
    invalid_options(&errors)
}

/// Lists objects.
pub async fn list(call: &Call) -> Result<Answer, Status> {
    select(call).await.map(Answer::List)
}

/// What a list of this call holds: its selection, its revision, one page of it.
pub async fn select(call: &Call) -> Result<List, Status> {
    check_options(call)?;
    let selection = selection(call)?;
    let limit = read_limit(call)?;
    if call.row.virtual_kind {
        let revision = newest(call).await?;
        return Ok(page(&Objects::new(), &selection, revision, None, limit));
    }
    let (objects, revision, start) = source(call, &selection).await?;
    let objects = match Asked::of(&call.row).filter(|_| selection.asks_fields()) {
        None => objects,
        // Only in the version of the request do the fields say what is selected.
        Some(asked) => in_version(call, &asked, &objects, &selection).await?,
    };
    Ok(page(
        &objects,
        &selection,
        revision,
        start.as_deref(),
        limit,
    ))
}

/// The objects that may be selected, in the version of the request.
async fn in_version(
    call: &Call,
    asked: &Asked,
    objects: &Objects,
    selection: &Selection,
) -> Result<Objects, Status> {
    let rest = selection.without_fields();
    let chosen = walk(objects, &selection.namespace, None).filter(|o| rest.matches(o));
    let chosen = chosen.cloned().collect();
    let version = call.group_version().to_string();
    let made = asked.objects(chosen, &version).await?;
    Ok(made.into_iter().map(|o| (o.key.clone(), o)).collect())
}

fn read_limit(call: &Call) -> Result<usize, Status> {
    let Some(text) = call.query.get("limit") else {
        return Ok(0);
    };
    // One below zero is none; as upstream.
    let limit: i64 = text.parse().map_err(|_| {
        Status::bad_request(format!(
            "limit: Invalid value: {text:?}: must be an integer"
        ))
    })?;
    Ok(usize::try_from(limit).unwrap_or(0))
}

/// The state to list from, its revision, and the key to begin at.
async fn source(
    call: &Call,
    selection: &Selection,
) -> Result<(Objects, u64, Option<String>), Status> {
    let cache = call.cache()?;
    if let Some(token) = call.query.get("continue") {
        let token = read_continue(token)?;
        if let Ok(rv) = u64::try_from(token.rv) {
            let objects = exact(call, rv)
                .await
                .map_err(|e| continue_error(e, &token.start))?;
            return Ok((objects, rv, Some(token.start)));
        }
        let rv = newest(call).await?;
        let (objects, shown) = cache.candidates(selection);
        return Ok((objects, rv.max(shown), Some(token.start)));
    }
    let asked = read_revision(call.query.get("resourceVersion"))?;
    let revision = match (asked, call.query.get("resourceVersionMatch")) {
        (None, _) => newest(call).await?,
        (Some(rv), Some("Exact")) => return Ok((exact(call, rv).await?, rv, None)),
        (Some(0), _) => call.state.cache().revision(),
        (Some(rv), _) => {
            call.state.reach(rv).await?;
            call.state.cache().revision()
        }
    };
    // The cache may have moved on since: the list says what it shows.
    let (objects, shown) = cache.candidates(selection);
    Ok((objects, revision.max(shown), None))
}

/// The objects at an exact revision: from the ring, or from the store's older versions.
async fn exact(call: &Call, revision: u64) -> Result<Objects, Status> {
    call.state.reach(revision).await?;
    let (cache, store, prefix) = (call.cache()?, call.state.store(), prefix(call));
    let failed = |e| match e {
        StoreError::Compacted { asked, oldest } => Status::expired(format!(
            "The resourceVersion for the provided list is too old: {asked} ({oldest})"
        )),
        e => from_store(&e),
    };
    // The store says whether the revision may still be read: the ring of a resource that seldom
    // changes goes back further than what is promised.
    store.get(prefix.clone(), revision).await.map_err(failed)?;
    if let Ok(objects) = cache.at(revision) {
        return Ok(objects);
    }
    let page = store
        .range(prefix.clone(), prefix.clone(), 0, revision)
        .await;
    let page = page.map_err(failed)?;
    let objects = objects_of(&cache.row, page.items);
    Ok(objects.map(|o| (o.key.clone(), o)).collect())
}

fn prefix(call: &Call) -> bytes::Bytes {
    format!("{}/", call.row.storage_prefix).into()
}

/// The state that a continue token names is gone: the client is offered one that goes on in the
/// newest state.
fn continue_error(mut e: Status, start: &str) -> Status {
    if e.code == 410 {
        e.message = CONTINUE_EXPIRED.to_owned();
        e.next = continue_token(-1, start);
    }
    e
}

/// One page; `limit` 0 for all.
fn page(
    objects: &Objects,
    selection: &Selection,
    revision: u64,
    start: Option<&str>,
    limit: usize,
) -> List {
    let mut walk = walk(objects, &selection.namespace, start);
    let everything = selection.is_everything();
    let mut list = List {
        objects: Vec::new(),
        revision,
        next: String::new(),
        remaining: None,
    };
    for o in walk.by_ref() {
        if !everything && !selection.matches(o) {
            continue;
        }
        if limit > 0 && list.objects.len() == limit {
            let last = list.objects.last().map_or("", |o| &*o.key);
            let rv = i64::try_from(revision).unwrap_or(i64::MAX);
            list.next = continue_token(rv, &format!("{last}\0"));
            // With a selector the rest is not counted: that would be a scan for a hint.
            list.remaining = everything.then(|| 1 + walk.count() as u64);
            break;
        }
        list.objects.push(o.clone());
    }
    list
}
