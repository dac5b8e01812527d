//! What the server says of itself: its groups, versions and resources, OpenAPI, its version, its
//! health, its figures. All derived from the rows; nothing is listed twice.

mod groups;
mod health;
mod openapi;
mod snapshot;
mod stored_keys;
mod why;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::Status;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION, VARY,
};
use http::request::Parts;
use http::{Method, Response};
use parking_lot::Mutex;
use registry::Kinds;
use schema::Type;
use serde_json::{Value, json};
use sha2::Digest;

use crate::aggregation::{Aggregation, ExtensionVersions};
use crate::filters::authn::UserInfo;
use crate::hooks::Plugins;
use crate::http::body::Body;
use crate::http::negotiate::{Accept, Encoding, JSON, takes_gzip};
use crate::http::ordered;
use crate::http::request::{Query, RequestInfo};
use crate::http::respond::{maybe_gzip, respond};
use crate::render;
use crate::state::State;

pub use self::openapi::{Edition, Form, in_protobuf};

pub use api::version::KUBERNETES as GIT_VERSION;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Where the types of these pages are.
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// A document and its hash.
type Hashed = Arc<(Bytes, String)>;

/// A document that is made when first asked for.
type Document = OnceLock<Hashed>;

/// Documents that only change with the rows and with what extension servers serve: those that were
/// asked for last.
#[derive(Default)]
pub struct Documents(ArcSwapOption<Served>);

/// Kinds and their documents, each made when first asked for.
struct Served {
    kinds: Arc<Kinds>,
    shown: Arc<ExtensionVersions>,
    aggregated_core: Document,
    aggregated: Document,
    openapi_v2: Document,
    openapi_v2_protobuf: Document,
    openapi_v3_index: Document,
    openapi_v3: Mutex<BTreeMap<(String, Form), Hashed>>,
}

impl Documents {
    /// The documents of these kinds. A request that began before the kinds changed gets those of
    /// its own kinds, which the next request makes again.
    fn of(&self, kinds: Arc<Kinds>, shown: Arc<ExtensionVersions>) -> Arc<Served> {
        if let Some(known) = &*self.0.load()
            && Arc::ptr_eq(&known.kinds, &kinds)
            && Arc::ptr_eq(&known.shown, &shown)
        {
            return known.clone();
        }
        let made = Arc::new(Served {
            kinds,
            shown,
            aggregated_core: Document::default(),
            aggregated: Document::default(),
            openapi_v2: Document::default(),
            openapi_v2_protobuf: Document::default(),
            openapi_v3_index: Document::default(),
            openapi_v3: Mutex::default(),
        });
        self.0.store(Some(made.clone()));
        made
    }
}

fn hashed(value: &Value) -> Arc<(Bytes, String)> {
    of_text(value.to_string())
}

fn of_text(text: String) -> Arc<(Bytes, String)> {
    let hash = sha2::Sha512::digest(text.as_bytes());
    let hash = hash.iter().map(|b| format!("{b:02X}")).collect();
    Arc::new((text.into(), hash))
}

/// Answers a path that is not a resource.
pub async fn answer(
    state: &State,
    (documents, aggregation, plugins): (&Documents, &Aggregation, &Plugins),
    head: &Parts,
    query: &Query,
    info: &RequestInfo,
    user: &UserInfo,
) -> Result<Response<Body>, Status> {
    if head.method == Method::POST
        && let Some(word) = info.path.strip_prefix("/tiphys/secrets/")
        && let Some(wish) = stored_keys::KeyAction::read(word)
    {
        return stored_keys::answer(state, user, wish).await;
    }
    let parts = words(&info.path)?;
    let is_api_page = matches!(
        parts.first(),
        Some(&("api" | "apis" | "version" | "openid" | ".well-known"))
    );
    match head.method {
        Method::GET => {}
        Method::HEAD if !is_api_page => {}
        // As upstream, which routes these pages by their method.
        _ if is_api_page => return Err(Status::method_not_allowed()),
        _ => return Err(Status::no_such_path()),
    }
    let path = info.path.trim_end_matches('/');
    let documents = documents.of(state.kinds(), aggregation.shown());
    let (kinds, shown) = (&*documents.kinds, &*documents.shown);
    match parts.as_slice() {
        [] => Ok(raw(&groups::paths(kinds, shown))),
        ["version"] => Ok(raw(&version())),
        ["healthz" | "livez" | "readyz", rest @ ..] => {
            health::answer(state, path.trim_start_matches('/'), rest, query).await
        }
        ["openid", "v1", "jwks"] | [".well-known", "openid-configuration"] => {
            let found = crate::filters::tokens::document(state, path);
            let page = found.ok_or_else(Status::no_such_path)?;
            let mut made = respond(200, page.media, page.text);
            let keep = format!("public, max-age={}", page.hold_for);
            if let Ok(keep) = HeaderValue::try_from(keep) {
                made.headers_mut().insert(CACHE_CONTROL, keep);
            }
            Ok(made)
        }
        ["metrics"] => Ok(metrics(head, &lines(state, aggregation).await)),
        ["metrics", "slis"] => Ok(metrics(head, &::metrics::slis::lines())),
        // Of a part that runs in this process, such as the scheduler's of what pods ask for.
        ["metrics", _] => {
            let text = ::metrics::pages::lines(path).ok_or_else(Status::no_such_path)?;
            Ok(metrics(head, &text))
        }
        ["debug", "api_priority_and_fairness", page] => {
            let with_details = query.get("includeRequestDetails").is_some();
            let made = state
                .flow_control()
                .dump(state.configurations(), page, with_details);
            let text = made.ok_or_else(Status::no_such_path)?;
            Ok(respond(200, "text/plain; charset=utf-8", text))
        }
        ["tiphys", "snapshot"] if head.method == Method::GET => snapshot::answer(state, user).await,
        ["tiphys", "why"] if head.method == Method::GET => match &plugins.explain {
            Some(explain) => why::answer(&**explain, query, user).await,
            None => Err(Status::no_such_path()),
        },
        ["api"] if wants_aggregated(head) => {
            let made = || of_text(ordered::line(&groups::aggregated(kinds, shown, true)));
            Ok(aggregated(
                head,
                documents.aggregated_core.get_or_init(made),
            ))
        }
        ["apis"] if wants_aggregated(head) => {
            let made = || of_text(ordered::line(&groups::aggregated(kinds, shown, false)));
            Ok(aggregated(head, documents.aggregated.get_or_init(made)))
        }
        ["api"] => {
            let c = state.settings();
            let address = format!("{}:{}", c.advertise_address, c.secure_port);
            negotiated(head, query, Some(groups::core_versions(&address)))
        }
        ["apis"] => negotiated(head, query, Some(groups::list(kinds, shown))),
        ["api", version] => negotiated(head, query, groups::resources(kinds, "", version)),
        ["apis", group] => negotiated(head, query, groups::one(kinds, shown, group)),
        ["apis", group, version] => {
            negotiated(head, query, groups::resources(kinds, group, version))
        }
        ["openapi", "v2"] => openapi_v2(&documents, head),
        ["openapi", "v3"] => {
            // Its hashes are of every custom kind's schema, and kubectl asks for it often.
            let made = || hashed(&openapi::index(kinds, shown));
            Ok(document(
                head,
                documents.openapi_v3_index.get_or_init(made),
                JSON,
            ))
        }
        ["openapi", "v3", rest @ ..] => openapi_v3(state, &documents, head, query, &rest.join("/")),
        _ => Err(Status::no_such_path()),
    }
}

/// The page of figures, in the form that was asked for.
fn metrics(head: &Parts, lines: &str) -> Response<Body> {
    let accept = head.headers.get(http::header::ACCEPT);
    let (kind, text) = metrics::page_for(accept.and_then(|v| v.to_str().ok()), lines);
    respond(200, kind, text)
}

/// How long the page of figures waits for the store; upstream's value.
const STORE_PATIENCE: Duration = Duration::from_secs(1);

/// The line of the store's size; none where it has no disk, or does not say soon.
async fn store_size(state: &State) -> String {
    let said = tokio::time::timeout(STORE_PATIENCE, state.store().disk_bytes()).await;
    match said {
        Ok(Ok(None)) => String::new(),
        Ok(Ok(Some(bytes))) => {
            let (name, help) = (
                "apiserver_storage_size_bytes",
                "Size of the storage database file physically allocated in bytes.",
            );
            format!(
                "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{{storage_cluster_id=\"etcd-0\"}} {bytes}\n"
            )
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "the size of the store is unknown");
            String::new()
        }
        Err(_) => {
            tracing::warn!("the store does not say in time how large it is");
            String::new()
        }
    }
}

/// What `/metrics` shows: figures of the server, and of what runs beside it in this process.
async fn lines(state: &State, aggregation: &Aggregation) -> String {
    crate::allocations::show(state);
    let caches = state.cache().all();
    let objects = caches.iter().map(|c| (c.row.clone(), c.len()));
    let more = state.settings().more_metrics.map(|more| more());
    let flow_control = state.flow_control().metrics(state.configurations());
    let process = metrics::lines();
    let more = more.unwrap_or_default()
        + &store_size(state).await
        + &aggregation.metrics()
        + &flow_control
        + &process;
    state.metrics().text(objects, &more)
}

/// The words of a path. An empty one within it is on no page; a slash behind it means nothing for
/// what upstream routes as it routes resources, and elsewhere names another page, which is not there.
fn words(path: &str) -> Result<Vec<&str>, Status> {
    let bare = path.strip_prefix('/').unwrap_or(path);
    if bare.is_empty() {
        return Ok(Vec::new());
    }
    let bare = match bare.split('/').next() {
        Some("api" | "apis" | "version" | "openid" | ".well-known" | "tiphys") => {
            bare.trim_end_matches('/')
        }
        _ => bare,
    };
    let words: Vec<&str> = bare.split('/').collect();
    match words.iter().any(|word| word.is_empty()) {
        true => Err(Status::no_such_path()),
        false => Ok(words),
    }
}

/// JSON for people, whatever the client accepts: as upstream writes these pages.
fn raw(value: &Value) -> Response<Body> {
    respond(200, JSON, ordered::pretty(value))
}

/// A page in the form that the client accepts.
fn negotiated(head: &Parts, query: &Query, page: Option<Value>) -> Result<Response<Body>, Status> {
    let page = page.ok_or_else(Status::no_such_path)?;
    let accept = Accept::negotiate(&head.headers, query, false)?;
    let kind = page["kind"].as_str().unwrap_or_default();
    Ok(match accept.encoding {
        Encoding::Json if accept.pretty => raw(&page),
        Encoding::Json => respond(200, JSON, ordered::line(&page)),
        Encoding::Yaml | Encoding::Proto => {
            let ty = Type::named(schema::builtin(), &format!("{META}.{kind}"));
            render::whole(&accept, 200, &page, ty.as_ref())
        }
    })
}

/// The form of a document that the client takes.
fn form(head: &Parts, edition: Edition) -> Result<Form, Status> {
    let accept = head.headers.get(ACCEPT);
    // What cannot be read is a type that nobody has.
    let accept = accept.map_or("", |v| v.to_str().unwrap_or("?"));
    Form::chosen(accept, edition).ok_or_else(|| {
        let protobuf = Form::Protobuf.media(edition);
        Status::not_acceptable(format!(
            "only the following media types are accepted: {JSON}, {protobuf}"
        ))
    })
}

/// The document of v2, which is large, and compressed for who takes that.
fn openapi_v2(documents: &Served, head: &Parts) -> Result<Response<Body>, Status> {
    let form = form(head, Edition::V2)?;
    let value = || openapi::v2(&documents.kinds, &documents.shown);
    let doc = match form {
        Form::Json => documents.openapi_v2.get_or_init(|| hashed(&value())),
        // Its tag is that of JSON, as upstream; caches know them apart by `Vary`. The JSON itself is
        // not kept for that.
        Form::Protobuf => documents.openapi_v2_protobuf.get_or_init(|| {
            let value = value();
            let bytes = in_protobuf(Edition::V2, &value);
            Arc::new((bytes.into(), hashed(&value).1.clone()))
        }),
    };
    let made = document(head, doc, form.media(Edition::V2));
    Ok(maybe_gzip(takes_gzip(&head.headers), made))
}

/// Upstream lets caches keep what was asked for by the hash in its address.
const KEEP_SECONDS: i64 = 365 * 24 * 3600;

/// A document of v3. Who names a hash that is not the document's is sent to the one that is.
fn openapi_v3(
    state: &State,
    documents: &Served,
    head: &Parts,
    query: &Query,
    name: &str,
) -> Result<Response<Body>, Status> {
    let form = form(head, Edition::V3)?;
    let doc = openapi::v3(documents, name, form).ok_or_else(Status::no_such_path)?;
    let mut r = match query.get("hash") {
        Some(hash) if hash != doc.1 => {
            let mut r = respond(301, JSON, Bytes::new());
            let place = format!("/openapi/v3/{name}?hash={}", doc.1);
            if let Ok(place) = HeaderValue::from_str(&place) {
                r.headers_mut().insert(LOCATION, place);
            }
            return Ok(r);
        }
        _ => document(head, &doc, form.media(Edition::V3)),
    };
    if query.get("hash").is_some() {
        let keep = HeaderValue::from_static("public, immutable");
        r.headers_mut().insert(CACHE_CONTROL, keep);
        let until = state
            .settings()
            .clock
            .seconds()
            .saturating_add(KEEP_SECONDS);
        let until = jiff::Timestamp::from_second(until).unwrap_or(jiff::Timestamp::MAX);
        let until = until.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(until) = HeaderValue::from_str(&until) {
            r.headers_mut().insert(EXPIRES, until);
        }
    }
    Ok(r)
}

fn aggregated(head: &Parts, doc: &Arc<(Bytes, String)>) -> Response<Body> {
    let mut r = document(head, doc, AGGREGATED);
    let public = HeaderValue::from_static("public");
    r.headers_mut().insert(CACHE_CONTROL, public);
    r
}

/// A document with its ETag; 304 for a client that has it.
fn document(
    head: &Parts,
    doc: &Arc<(Bytes, String)>,
    content_type: &'static str,
) -> Response<Body> {
    let tag = format!("\"{}\"", doc.1);
    let known = head
        .headers
        .get(IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok());
    let mut r = if known.is_some_and(|k| k.trim_matches('"') == doc.1) {
        respond(304, content_type, Bytes::new())
    } else {
        respond(200, content_type, doc.0.clone())
    };
    if let Ok(v) = HeaderValue::from_str(&tag) {
        r.headers_mut().insert(ETAG, v);
    }
    r.headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept"));
    r
}

/// Whether the aggregated form comes first among those that the client takes.
fn wants_aggregated(head: &Parts) -> bool {
    let text = head
        .headers
        .get(ACCEPT)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    text.split(',').any(|range| {
        let has = |p: &str| range.split(';').any(|q| q.trim() == p);
        has("as=APIGroupDiscoveryList") && has("v=v2") && has("g=apidiscovery.k8s.io")
    })
}

/// Says in this process's figures which version it is.
pub fn show_build() {
    let version = version();
    let text = |field: &str| version[field].as_str().unwrap_or_default().to_owned();
    metrics::process::is_build(metrics::process::Build {
        major: text("major"),
        minor: text("minor"),
        git_version: text("gitVersion"),
        git_commit: text("gitCommit"),
        build_date: text("buildDate"),
        platform: text("platform"),
        compiler: text("compiler"),
        go_version: text("goVersion"),
    });
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": format!("{GIT_VERSION}+tiphys-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, api::version::architecture()),
    })
}
