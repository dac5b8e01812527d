//! Where a path becomes a target: a page that the server makes itself, a row, a virtual kind, or
//! what lies below an object; and the one place where a verb finds its function. Another server's
//! resources will be a target of their own here.

use std::sync::Arc;

use api::{GroupResource, Status};
use bytes::Bytes;
use http::Method;
use http::request::Parts;
use registry::{Row, ServedVersion};

use crate::audit::Trail;
use crate::call::{self, Answer, Call};
use crate::filters::authn::UserInfo;
use crate::http::negotiate::{Accept, Shape};
use crate::http::request::{Query, RequestInfo};
use crate::http::warnings::Warnings;
use crate::server::ApiServer;
use crate::state::State;
use crate::subresources::connect;
use crate::verbs::{convert, create, delete, list, patch, update, watch};
use crate::{fence, resource_metrics, reviews, subresources, table};

/// What a request is about.
pub enum Target {
    /// Discovery, documents, health, figures.
    Page {
        query: Query,
        user: UserInfo,
    },
    Resource(Box<Call>, To),
}

/// Which part of a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// A stream that ends at a node or in a pod; the request's body is passed on as it comes.
    Stream,
    /// Anything else below an object: its scale, its status, a binding of it.
    Below,
    /// A kind that is answered and never stored.
    Virtual,
    /// Its objects.
    Row,
}

/// Finds the target of a request; the call of a resource takes the headers with it.
pub fn route(
    server: &ApiServer,
    head: &mut Parts,
    info: &Arc<RequestInfo>,
    query: Query,
    user: UserInfo,
    audit: Trail,
) -> Result<Target, Status> {
    if !info.is_resource {
        return Ok(Target::Page { query, user });
    }
    let call = call(server, head, info, query, user, audit)?;
    let to = match &*info.subresource {
        "" if call.row.virtual_kind => To::Virtual,
        "" => To::Row,
        sub if connect::is_stream(sub) => To::Stream,
        _ => To::Below,
    };
    Ok(Target::Resource(Box::new(call), to))
}

/// Runs the verb of a call, whose body has been read.
pub async fn run(call: &Call, to: To, body: Bytes) -> Result<Answer, Status> {
    let answer = answer(call, to, body).await?;
    convert::answer(call, answer).await
}

async fn answer(call: &Call, to: To, body: Bytes) -> Result<Answer, Status> {
    check_scope(call)?;
    let verb = call.info.verb.as_str();
    if to == To::Below {
        check_sub_verb(call)?;
        return Box::pin(subresources::run(call, body)).await;
    }
    if !call.row.has_verb(verb) {
        return Err(not_supported(&call.row, verb));
    }
    match (to, verb) {
        (To::Virtual, "create") => Box::pin(reviews::create(call, &body)).await,
        (To::Virtual, "get") if is_usage(call) => Box::pin(resource_metrics::get(call)).await,
        (To::Virtual, "list") if is_usage(call) => Box::pin(resource_metrics::list(call)).await,
        _ => row(call, body).await,
    }
}

fn is_usage(call: &Call) -> bool {
    &*call.row.group == "metrics.k8s.io"
}

/// Each verb has a box of its own, so that a read is not as large as a patch.
async fn row(call: &Call, body: Bytes) -> Result<Answer, Status> {
    match call.info.verb.as_str() {
        "get" => list::get(call).await,
        "list" => Box::pin(list::list(call)).await,
        "watch" => Box::pin(watch::watch(call)).await,
        "create" => Box::pin(create::create(call, &body)).await,
        "update" => Box::pin(update::update(call, &body)).await,
        "patch" => Box::pin(patch::patch(call, &body)).await,
        "delete" => Box::pin(delete::delete(call, &body)).await,
        "deletecollection" => Box::pin(delete::collection(call, &body)).await,
        verb => Err(not_supported(&call.row, verb)),
    }
}

/// What built-in kinds have no method for is refused by the path alone, as upstream; a custom kind
/// names the verb.
fn not_supported(row: &Row, verb: &str) -> Status {
    if row.strategy.is_custom() {
        let resource = GroupResource::new(&row.group, &row.resource);
        return Status::method_not_supported(&resource, verb);
    }
    Status::method_not_allowed()
}

/// A namespace belongs in the path of namespaced kinds and nowhere else.
fn check_scope(call: &Call) -> Result<(), Status> {
    let info = &call.info;
    let is_namespaces = info.group.is_empty() && info.resource == "namespaces";
    // A single object of a namespaced kind is in a namespace, also for a watch by the old path.
    let everywhere = match info.verb.as_str() {
        "watch" if info.legacy_watch => info.name.is_empty(),
        verb => matches!(verb, "list" | "watch"),
    };
    if call.row.namespaced && info.namespace.is_empty() && !everywhere
        || !call.row.namespaced && !info.namespace.is_empty() && !is_namespaces
    {
        return Err(Status::no_such_path());
    }
    Ok(())
}

fn check_sub_verb(call: &Call) -> Result<(), Status> {
    let sub = call.subresource().ok_or_else(Status::no_such_path)?;
    if sub.verbs.iter().any(|v| **v == *call.info.verb) {
        Ok(())
    } else {
        Err(not_supported(&call.row, &call.info.verb))
    }
}

impl ApiServer {
    /// Whether a path names a resource, and where it names one a subresource, that is served.
    pub(super) fn serves(&self, info: &RequestInfo) -> bool {
        let kinds = self.kinds();
        let row = kinds.by_resource(&info.group, &info.version, &info.resource);
        let Some((row, version)) = row.and_then(|row| Some((row, row.version(&info.version)?)))
        else {
            return false;
        };
        info.subresource.is_empty() || row.subresource_of(version, &info.subresource).is_some()
    }
}

/// One request to a resource.
fn call(
    server: &ApiServer,
    head: &mut Parts,
    info: &Arc<RequestInfo>,
    query: Query,
    user: UserInfo,
    audit: Trail,
) -> Result<Call, Status> {
    let kinds = server.kinds();
    let row = kinds
        .by_resource(&info.group, &info.version, &info.resource)
        .ok_or_else(Status::no_such_path)?
        .clone();
    let version = row
        .version(&info.version)
        .ok_or_else(Status::no_such_path)?
        .clone();
    // A proxy passes every method on; it is authorized with the empty verb, as upstream.
    let passes_all = info.subresource == "proxy";
    // Upstream's routes of built-in kinds know no HEAD; custom kinds are read by the verb alone.
    let is_head = head.method == Method::HEAD && !row.strategy.is_custom();
    if !passes_all && (info.verb.is_empty() || is_head) {
        return Err(not_supported(&row, &info.verb));
    }
    if info.name.is_empty() && !info.subresource.is_empty() {
        return Err(Status::bad_request("name must be provided"));
    }
    if info.legacy_watch && !info.subresource.is_empty() {
        return Err(Status::no_such_path());
    }
    if info.legacy_watch && head.method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    if is_misplaced(info) {
        return Err(Status::method_not_allowed());
    }
    let of_one = matches!(&*info.verb, "get" | "update" | "patch" | "delete");
    if of_one && info.subresource.is_empty() {
        call::check_name(&info.name)?;
    }
    let mut accept = if connect::is_stream(&info.subresource) {
        Accept::json()
    } else {
        Accept::negotiate(&head.headers, &query, !row.virtual_kind)?
    };
    if matches!(accept.shape, Shape::Table(_)) {
        table::check(&query)?;
    }
    accept.gzip = accept.gzip && server.state().has_feature("APIResponseCompression");
    let mut warnings = Warnings::default();
    if let Some(text) = deprecation(&row, &version, &audit) {
        warnings.add(text);
    }
    if version.deprecated {
        note_deprecated(server.state(), &row, &version, &info.subresource);
    }
    let fence = fence::read(&head.headers)?;
    Ok(Call {
        state: server.state().clone(),
        plugins: server.plugins().clone(),
        info: info.clone(),
        query,
        user,
        headers: std::mem::take(&mut head.headers),
        accept,
        kinds,
        row,
        version,
        fence,
        warnings: parking_lot::Mutex::new(warnings),
        audit,
    })
}

/// The warning of a version that is deprecated, which the audit log hears of, too.
fn deprecation(row: &Row, version: &ServedVersion, audit: &Trail) -> Option<String> {
    if !version.deprecated {
        return None;
    }
    audit.annotate("k8s.io/deprecated", "true");
    if let Some(own) = &version.own {
        return own.warning.as_ref().map(ToString::to_string);
    }
    let of = (&*row.group, &*version.version, &*row.kind);
    if let Some(minor) = registry::gone_in(of.0, of.1, of.2) {
        audit.annotate("k8s.io/removed-release", format!("1.{minor}"));
    }
    registry::deprecation_warning(of.0, of.1, of.2)
}

/// Counts a request for a version that is deprecated.
fn note_deprecated(state: &State, row: &Row, version: &ServedVersion, subresource: &str) {
    // Only names that exist, or the labels would be the clients' to fill.
    if !subresource.is_empty() && row.subresource_of(version, subresource).is_none() {
        return;
    }
    let names = [&*row.group, &*version.version, &*row.resource, subresource];
    // When versions of custom kinds go nobody has said.
    let gone_in = match version.own {
        Some(_) => None,
        None => registry::gone_in(&row.group, &version.version, &row.kind),
    };
    state.metrics().requests.deprecated(names, gone_in);
}

/// A creation of something that has its name in the path, or a change of a whole collection.
fn is_misplaced(info: &RequestInfo) -> bool {
    info.subresource.is_empty()
        && match info.verb.as_str() {
            "create" => !info.name.is_empty(),
            "update" | "patch" => info.name.is_empty(),
            _ => false,
        }
}
