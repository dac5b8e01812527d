//! Get and list: from the cache, at the store's newest revision, at any, or at an exact one; from the
//! store what the cache does not have, or does not come to in time.

use std::num::{IntErrorKind, ParseIntError};
use std::sync::Arc;

use api::{FieldError, FieldPath, GroupKind, Status};
use store::StoreError;
use tokio::time::Instant;

use super::convert::AskedConversion;
use super::paging::ContinueToken;
use crate::cache::{Contents, Newest, Object, Objects, ResourceCache, Selection, walk};
use crate::call::{Answer, Call, List};
use crate::errors::from_store;
use crate::metrics::watch_cache::ListedFrom;

/// Reads one object.
pub async fn get(call: &Call) -> Result<Answer, Status> {
    let revision = read_revision(call.query.get("resourceVersion"));
    let (name, key) = (&call.info.name, call.key(&call.info.name));
    let found = match revision.map_err(|e| unread(&e))? {
        None => newest_object(call, &key).await?,
        // What the cache has is new enough for 0.
        Some(revision) => {
            call.state.reach(revision).await?;
            call.cache()?.find(&key)?
        }
    };
    let object = found.ok_or_else(|| Status::not_found(&call.resource(), name))?;
    Ok(Answer::Object { code: 200, object })
}

/// Where the newest state is; waits for the cache to have it.
pub async fn newest(call: &Call) -> Result<Newest, Status> {
    let began = Instant::now();
    let newest = call.state.cache().newest().await;
    if let Some(cache) = call.state.cache().of(&call.row) {
        cache.figures.waited(began.elapsed());
    }
    newest.map_err(|e| from_store(&e))
}

/// Reads the newest state, by a function that is given where it is, and counts that.
async fn read_newest<T, F>(call: &Call, read: impl FnOnce(Newest) -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let newest = newest(call).await;
    let fell_back = matches!(newest, Ok(Newest::Stored(_)));
    let done = match newest {
        Ok(newest) => read(newest).await,
        Err(e) => Err(e),
    };
    if let Some(cache) = call.state.cache().of(&call.row) {
        cache.figures.read_newest(done.is_ok(), fell_back);
    }
    done
}

/// An object of the request's resource in the newest state.
pub async fn newest_object(call: &Call, key: &str) -> Result<Option<Arc<Object>>, Status> {
    let cache = call.cache()?;
    read_newest(call, |newest| call.state.object_in(newest, &cache, key)).await
}

/// A resourceVersion parameter; what is wrong with it is said in other words by each verb.
pub fn read_revision(text: Option<&str>) -> Result<Option<u64>, FieldError> {
    let Some(text) = text else { return Ok(None) };
    // Go's numbers without a sign have none, not even that of plus.
    let unsigned = if text.starts_with('+') { "" } else { text };
    unsigned.parse().map(Some).map_err(|e| {
        let path = FieldPath::new("resourceVersion");
        FieldError::invalid_str(&path, text, &go_number("ParseUint", text, &e))
    })
}

/// As upstream, where verbs take an error of the store's for one of their own.
pub fn unread(e: &FieldError) -> Status {
    Status {
        code: 500,
        status: "Failure".into(),
        message: e.to_string(),
        ..Status::default()
    }
}

/// What Go says of a text that is not a number.
fn go_number(reader: &str, text: &str, error: &ParseIntError) -> String {
    let why = match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{reader}: parsing {text:?}: {why}")
}

/// A number in the query.
pub fn read_number(call: &Call, name: &str) -> Result<i64, Status> {
    let Some(text) = call.query.get(name) else {
        return Ok(0);
    };
    let number = text.parse::<i64>();
    number.map_err(|e| Status::bad_request(go_number("ParseInt", text, &e)))
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
    let limit = read_limit(call)?;
    check_options(call)?;
    let selection = selection(call)?;
    if call.row.virtual_kind {
        let revision = newest(call).await?.revision();
        return Ok(page(&Objects::new(), &selection, revision, None, limit).0);
    }
    let ((objects, revision, from), start) = source(call, &selection, limit).await?;
    let objects = match AskedConversion::of(&call.row).filter(|_| selection.asks_fields()) {
        None => objects,
        // Only in the version of the request do the fields say what is selected.
        Some(asked) => in_version(call, &asked, &objects, &selection).await?,
    };
    let (list, walked) = page(&objects, &selection, revision, start.as_deref(), limit);
    let cache = call.cache()?;
    cache.figures.listed(from, walked, list.objects.len());
    Ok(list)
}

/// The objects that may be selected, in the version of the request.
async fn in_version(
    call: &Call,
    asked: &AskedConversion,
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

/// Objects of a page; 0 for all, as with a negative number.
fn read_limit(call: &Call) -> Result<usize, Status> {
    let limit = read_number(call, "limit")?.max(0);
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// The objects to choose from, their revision, and where they were.
type Listed = (Objects, u64, ListedFrom);

/// The state to list from, and the key to begin at.
async fn source(
    call: &Call,
    selection: &Selection,
    limit: usize,
) -> Result<(Listed, Option<String>), Status> {
    let given = call.query.get("resourceVersion");
    if let Some(token) = call.query.get("continue") {
        let place = ContinueToken::read(token)?;
        if given.is_some_and(|rv| rv != "0") {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        if let Ok(rv) = u64::try_from(place.rv) {
            return match exact(call, selection, rv).await {
                Ok(listed) => Ok((listed, Some(place.start))),
                Err(e) if e.code == 410 => Err(place.expired()),
                Err(e) => Err(e),
            };
        }
        return Ok((in_newest(call, selection).await?, Some(place.start)));
    }
    let asked = read_revision(given)
        .map_err(|e| Status::bad_request(format!("invalid resource version: {e}")))?;
    let is_exact = match call.query.get("resourceVersionMatch") {
        // Pages have always begun at the revision that is asked for.
        None => limit > 0,
        Some(how) => how == "Exact",
    };
    let listed = match asked {
        None => in_newest(call, selection).await?,
        Some(rv) if is_exact && rv > 0 => Box::pin(exact(call, selection, rv)).await?,
        // What the cache has is new enough for 0.
        Some(rv) => {
            call.state.reach(rv).await?;
            let cache = call.cache()?;
            in_cache(call, &cache, selection)?
        }
    };
    Ok((listed, None))
}

/// The objects as the cache has them.
fn in_cache(call: &Call, cache: &ResourceCache, selection: &Selection) -> Result<Listed, Status> {
    let field = selection.indexed(&call.row).map(|(field, _)| field);
    let revision = call.state.cache().revision();
    // The cache may have moved on since: the list says what it shows.
    let (objects, shown) = cache.candidates(selection)?;
    Ok((objects, revision.max(shown), ListedFrom::Cache(field)))
}

/// The objects in the newest state.
async fn in_newest(call: &Call, selection: &Selection) -> Result<Listed, Status> {
    let cache = call.cache()?;
    let cache = &*cache;
    read_newest(call, |newest| async move {
        match newest {
            Newest::Cached(_) => in_cache(call, cache, selection),
            Newest::Stored(_) => {
                // Rare, so in a box: every request would carry its state otherwise.
                let read = Box::pin(in_store(call, cache, selection, 0)).await;
                read.unwrap_or_else(|e| Err(from_store(&e)))
            }
        }
    })
    .await
}

/// The objects at an exact revision: from the ring, or from the store, which has older versions, and
/// newer ones where the cache does not come to them. So a list that began with a page from the store
/// goes on, too.
async fn exact(call: &Call, selection: &Selection, revision: u64) -> Result<Listed, Status> {
    let (cache, all) = (call.cache()?, call.state.cache());
    let have = all.revision();
    let too_new = if have < revision && all.is_stalled() {
        Some(Status::too_large_resource_version(have, revision))
    } else {
        call.state.reach(revision).await.err()
    };
    let failed = |e| match e {
        StoreError::Compacted { .. } => {
            Status::expired("The resourceVersion for the provided list is too old.".to_owned())
        }
        e => from_store(&e),
    };
    // The store says whether the revision may still be read: the ring of a resource that seldom
    // changes goes back further than what is promised.
    let any = call.state.store().get(prefix(call, selection), revision);
    match (any.await, too_new) {
        (Err(StoreError::Future { .. }), Some(too_new)) => return Err(too_new),
        (Err(e), _) => return Err(failed(e)),
        (Ok(_), None) => {
            if let Ok(objects) = cache.at(revision) {
                return Ok((objects, revision, ListedFrom::Cache(None)));
            }
        }
        (Ok(_), Some(_)) => {}
    }
    let read = in_store(call, &cache, selection, revision).await;
    read.unwrap_or_else(|e| Err(failed(e)))
}

/// The objects in the store, at a revision or (0) now; an error where one cannot be read that may be
/// selected.
async fn in_store(
    call: &Call,
    cache: &ResourceCache,
    selection: &Selection,
    at: u64,
) -> Result<Result<Listed, Status>, StoreError> {
    let prefix = prefix(call, selection);
    let store = call.state.store();
    let page = store.range(prefix.clone(), prefix, 0, at).await?;
    cache.figures.read_from_store(page.items.len());
    // A page at a revision may name the newest one.
    let revision = if at == 0 { page.revision } else { at };
    let objects = Contents::of(&cache.row, page.items).selected(&cache.row, selection);
    Ok(objects.map(|objects| {
        let objects = objects.into_iter().map(|o| (o.key.clone(), o));
        (objects.collect(), revision, ListedFrom::Store)
    }))
}

/// What the keys of all that may be selected begin with.
fn prefix(call: &Call, selection: &Selection) -> bytes::Bytes {
    let all = &call.row.storage_prefix;
    match selection.namespace.as_str() {
        "" => format!("{all}/").into(),
        namespace => format!("{all}/{namespace}/").into(),
    }
}

/// One page, and how many objects were looked at for it; `limit` 0 for all.
fn page(
    objects: &Objects,
    selection: &Selection,
    revision: u64,
    start: Option<&str>,
    limit: usize,
) -> (List, usize) {
    let mut walk = walk(objects, &selection.namespace, start);
    let everything = selection.is_everything();
    let mut list = List {
        objects: Vec::new(),
        revision,
        next: String::new(),
        remaining: None,
    };
    let mut walked = 0;
    for o in walk.by_ref() {
        walked += 1;
        if !everything && !selection.matches(o) {
            continue;
        }
        if limit > 0 && list.objects.len() == limit {
            let last = list.objects.last().map_or("", |o| &*o.key);
            list.next = ContinueToken::behind(last, revision).token();
            // With a selector the rest is not counted: that would be a scan for a hint.
            list.remaining = everything.then(|| 1 + walk.count() as u64);
            break;
        }
        list.objects.push(o.clone());
    }
    (list, walked)
}
