//! Takes requests from sockets and from this process, and sees to what every request has: a time
//! limit, a body limit, a caught panic, an identity, a permission, figures.

mod console;
mod debug_pages;
mod route;
mod traced;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use api::Status;
use api::status::Details;
use bytes::Bytes;
use clock::Instant;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Request, Response};
use tokio::net::TcpListener;
use tokio::runtime::RuntimeFlavor;
use tokio::sync::oneshot;
use wire::serve::{Connections, Limits};
use wire::tls::ServerTls;

use crate::aggregation;
use crate::audit::{self, Trail};
use crate::call::{Answer, Call};
use crate::discovery;
use crate::filters::authn::{self, Credentials, UserInfo};
use crate::filters::{authz, impersonate};
use crate::flow_control::{self, Entry, Seat};
use crate::http::body::{self, Body, BoxError};
use crate::http::options;
use crate::http::request::{Query, RequestInfo};
use crate::http::respond;
use crate::metrics::requests::{self, MeasuredRequest};
use crate::server::ApiServer;
use crate::{render, subresources};
use route::{Target, To};

/// Time that a request has which is not a watch or other stream; as upstream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The identity of a client in this process. Only [`ApiServer::local_service`] makes it, so no
/// header can claim it.
#[derive(Clone)]
struct LocalIdentity(Arc<UserInfo>);

impl ApiServer {
    /// Serves HTTPS until the server drains; returns when what runs has ended or had its time.
    pub async fn serve(&self, listener: TcpListener, tls: impl Into<ServerTls>) {
        let server = self.clone();
        let handle = move |request| {
            let server = server.clone();
            async move { server.handle(request).await }
        };
        let connections = Connections::new(Limits::of_this_process());
        requests::count_handshakes(connections.clone(), self.stop().clone());
        let (lanes, draining) = (self.lanes().clone(), self.state().draining().clone());
        let settled = async {
            let running = self.in_flight();
            running.close();
            let ended = tokio::time::timeout(REQUEST_TIMEOUT, running.wait());
            if ended.await.is_err() {
                tracing::warn!("{} requests are cut off by the server's end", running.len());
            }
        };
        wire::serve::serve_within(connections, lanes, listener, tls, handle, draining, settled)
            .await;
    }

    /// A service for clients in this process; it is the named user, without socket and TLS, and
    /// passes the same authorization and admission as everyone.
    pub fn local_service(&self, identity: UserInfo) -> LocalService {
        LocalService {
            server: self.clone(),
            identity: LocalIdentity(Arc::new(identity)),
        }
    }

    /// Answers one request. What only some requests need on the way has a box of its own, since the
    /// state of a request is as large as the largest that it may hold; and the parts that all go
    /// through are pinned where they are made, since each await would move what it is given, which is
    /// kilobytes.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let started = Instant::now();
        let (mut head, body) = request.into_parts();
        let id = audit::trail::id(&head, &self.state().random());
        head.extensions
            .insert(audit::Numbered::new(id.clone(), started));
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let info = Arc::new(RequestInfo::parse(&head.method, head.uri.path(), &query));
        // Counted before it is looked whether the door is closed: so it is refused or waited for.
        let in_flight = (!info.long_running()).then(|| self.in_flight().token());
        let is_local = head.extensions.get::<LocalIdentity>().is_some();
        let limit = match info.long_running() {
            _ if self.in_flight().is_closed() && !is_local => Err(draining()),
            true => Ok(None),
            false => options::patience(query.get("timeout"), REQUEST_TIMEOUT).map(Some),
        };
        let is_head = head.method == Method::HEAD;
        let content_type = head.headers.get(http::header::CONTENT_TYPE);
        let content_type = content_type.and_then(|v| v.to_str().ok());
        let (dry_run, is_apply) = MeasuredRequest::kind(&head.method, &query, content_type);
        let trace = MeasuredRequest::trace_of(&head.headers);
        let trail = OnceLock::new();
        let done = {
            let running = pin!(self.limited(limit, head, body, &info, query, &trail));
            AssertUnwindSafe(running).catch_unwind().await
        };
        let trail = trail.into_inner().unwrap_or_default();
        let answered = done.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            tracing::error!(
                path = info.path,
                "a request panicked: {}",
                text.unwrap_or("?")
            );
            text.unwrap_or("?").to_owned()
        });
        let mut response = match answered {
            Ok(response) => trail.answered(response, info.long_running()).await,
            Err(text) => {
                trail.panicked(&text).await;
                respond::status(&Status::internal(
                    "this request caused a fault in the server",
                ))
            }
        };
        let (code, took) = (response.status().as_u16(), started.elapsed());
        let is_served = code != 404 || self.serves(&info);
        let asked = MeasuredRequest::new(&info, dry_run, is_apply);
        let asked = asked.served(is_served).traced(trace);
        let size = response.body().whole().map(Bytes::len);
        let metrics = &self.state().metrics().requests;
        metrics.answered(&asked, code, took, size);
        // What one may read another may not, and all of it changes.
        response
            .headers_mut()
            .entry(http::header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("no-cache, private"));
        response.headers_mut().entry(audit::ID).or_insert(id);
        if is_head {
            response.map(|_| Body::empty())
        } else if !info.long_running() && response.body().is_stream() {
            response.map(|body| body.holding(in_flight))
        } else {
            response
        }
    }

    async fn limited<B>(
        &self,
        limit: Result<Option<Duration>, Status>,
        head: Parts,
        body: B,
        info: &Arc<RequestInfo>,
        query: Query,
        trail: &OnceLock<Trail>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let limit = match limit {
            Ok(limit) => limit,
            // Before anybody asks who it is, as upstream.
            Err(refused) => {
                self.follow(trail, &head, info, &query, None);
                return respond::status(&refused);
            }
        };
        let work = pin!(self.identified(head, body, info, query, trail));
        match limit {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                self.state().metrics().requests.terminated(info, 504);
                respond::status(&Status::timeout(
                    "request did not complete within the allotted timeout",
                ))
            }),
        }
    }

    async fn identified<B>(
        &self,
        head: Parts,
        body: B,
        info: &Arc<RequestInfo>,
        query: Query,
        trail: &OnceLock<Trail>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if let Some(page) = console::answer(&head) {
            return page;
        }
        let user = match head.extensions.get::<LocalIdentity>() {
            Some(local) => authn::completed((*local.0).clone()),
            None => {
                let peer = head.extensions.get::<wire::serve::Peer>();
                let shown = Credentials {
                    headers: &head.headers,
                    peer,
                    path: &info.path,
                };
                match authn::authenticate(&self.plugins().authenticators, self.state(), &shown)
                    .await
                {
                    Ok(user) => {
                        self.keep_connection(&head, &user);
                        user
                    }
                    // Counted and logged.
                    Err(why) => {
                        self.end_connection(&head);
                        self.follow(trail, &head, info, &query, None);
                        return respond::status(&why.status());
                    }
                }
            }
        };
        let came = head
            .extensions
            .get::<audit::Numbered>()
            .map_or_else(Instant::now, |n| n.came);
        match traced::begin(self.state(), &head, info, &user, came) {
            None => {
                let work = pin!(self.known(head, body, info, query, trail, user));
                work.await
            }
            Some(span) => {
                let work = Box::pin(self.known(head, body, info, query, trail, user));
                let response = span.over(work).await;
                traced::end(&span, &response);
                response
            }
        }
    }

    /// Answers a request of which is known whose it is.
    async fn known<B>(
        &self,
        mut head: Parts,
        body: B,
        info: &Arc<RequestInfo>,
        query: Query,
        trail: &OnceLock<Trail>,
        user: UserInfo,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let trail = self.follow(trail, &head, info, &query, Some(&user));
        if !trail.received().await {
            return respond::status(&Status::internal("failed to store audit event"));
        }
        authn::strip(&mut head.headers);
        for way in &self.plugins().authenticators {
            way.strip(&mut head.headers);
        }
        let asked = authz::attributes(info, &query);
        let acting = (self.state(), self.ways());
        let acting = impersonate::apply(acting, user, &mut head.headers, &asked, &trail);
        let user = match acting.await {
            Ok(user) => user,
            Err(s) => return respond::status(&s),
        };
        let entry = self.entry(&user, info, &query).await;
        let mut response = match &entry {
            Entry::Refused(refused) => {
                self.state().metrics().requests.terminated(info, 429);
                respond::status(&refused.status)
            }
            Entry::Free | Entry::Seat(_) => {
                self.permitted(head, body, info, query, user, trail).await
            }
        };
        entry.mark(response.headers_mut());
        match entry {
            // A watch has its seat until its first event only.
            Entry::Seat(seat) if !info.long_running() && response.body().is_stream() => {
                response.map(|body| sent_seated(body, seat))
            }
            _ => response,
        }
    }

    /// A place among the requests that run, as soon as there is one.
    async fn entry(&self, user: &UserInfo, info: &RequestInfo, query: &Query) -> Entry {
        let state = self.state();
        let cost = |most| {
            let (kinds, cache) = (state.kinds(), state.cache());
            flow_control::estimate(&kinds, cache, info, query, most)
        };
        let flow_control = state.flow_control();
        flow_control
            .enter(state.configurations(), user, info, cost)
            .await
    }

    async fn permitted<B>(
        &self,
        head: Parts,
        body: B,
        info: &Arc<RequestInfo>,
        query: Query,
        user: UserInfo,
        trail: Trail,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let asked = authz::attributes(info, &query);
        if let Err(s) = authz::recorded(self.state(), &user, &asked, &trail).await {
            return respond::status(&s);
        }
        self.route(head, body, info, query, user, trail).await
    }

    /// Begins the trail of a request in the audit log.
    fn follow(
        &self,
        trail: &OnceLock<Trail>,
        head: &Parts,
        info: &RequestInfo,
        query: &Query,
        user: Option<&UserInfo>,
    ) -> Trail {
        let Some(audit) = self.audit() else {
            return Trail::default();
        };
        trail
            .get_or_init(|| {
                audit.begin(&audit::Begin {
                    head,
                    info,
                    asked: &authz::attributes(info, query),
                    user,
                })
            })
            .clone()
    }

    async fn route<B>(
        &self,
        mut head: Parts,
        body: B,
        info: &Arc<RequestInfo>,
        query: Query,
        user: UserInfo,
        trail: Trail,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if let Some(remote) = self.aggregation().of_path(&info.path) {
            // So that its audit log speaks of the same request.
            if let Some(numbered) = head.extensions.get::<audit::Numbered>() {
                head.headers.insert(audit::ID, numbered.id.clone());
            }
            let serve = aggregation::proxy::serve(self.state(), &remote, head, body, &user);
            return Box::pin(serve).await;
        }
        let body = match debug_pages::serves(&head) {
            true => match Box::pin(debug_pages::answer(&head, body)).await {
                Ok(page) => return page,
                Err(body) => body,
            },
            false => body,
        };
        let (call, to) = match route::route(self, &mut head, info, query, user, trail) {
            Ok(Target::Resource(call, to)) => (call, to),
            Ok(Target::Page { query, user }) => {
                let known = (self.documents(), &**self.aggregation(), &**self.plugins());
                let page = discovery::answer(self.state(), known, &head, &query, info, &user);
                let page = Box::pin(page).await;
                return page.unwrap_or_else(|s| respond::status(&s));
            }
            Err(s) => return respond::status(&s),
        };
        let (call, done) = if to == To::Stream {
            // The call has taken them.
            head.headers = call.headers.clone();
            let done = Box::pin(subresources::connect::run(&call, head, body)).await;
            (call, done)
        } else {
            match body::read(body).await {
                Ok(bytes) => self.run(call, to, bytes).await,
                Err(body::ReadError::TooLarge) => (call, Err(Status::too_large(body::LIMIT_BYTES))),
                Err(e) => (call, Err(Status::bad_request(e.to_string()))),
            }
        };
        let mut response = match done {
            Ok(a) => {
                let is_stream = matches!(a, Answer::Response(_));
                if call.audit.wants_responses() && !is_stream {
                    call.audit
                        .response_body(render::whole_json(&call, &a, Trail::most_bytes()));
                }
                respond::maybe_gzip(call.accept.gzip, render::answer(&call, a))
            }
            Err(s) => {
                call.audit.refused(&s);
                respond::status(&s)
            }
        };
        for text in call.warnings.lock().texts() {
            // Not of text alone: a name that it quotes may be in any script.
            if let Ok(v) = HeaderValue::from_bytes(warning(text).as_bytes()) {
                response.headers_mut().append(http::header::WARNING, v);
            }
        }
        response
    }

    /// Runs a verb; one with much to decode or to merge runs beside the threads that serve
    /// connections, and only a few of those at a time.
    async fn run(
        &self,
        call: Box<Call>,
        to: To,
        bytes: Bytes,
    ) -> (Box<Call>, Result<Answer, Status>) {
        if is_heavy(&call, bytes.len()) {
            let runtime = tokio::runtime::Handle::current();
            // A runtime of one thread has none to run beside.
            if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
                return Box::pin(self.run_beside(runtime, call, to, bytes)).await;
            }
        }
        let done = verb(&call, to, bytes).await;
        (call, done)
    }

    async fn run_beside(
        &self,
        runtime: tokio::runtime::Handle,
        call: Box<Call>,
        to: To,
        bytes: Bytes,
    ) -> (Box<Call>, Result<Answer, Status>) {
        let Ok(place) = self.heavy().clone().acquire_owned().await else {
            return (
                call,
                Err(Status::unavailable("the server is shutting down")),
            );
        };
        let around = traces::here();
        let work = move || {
            // Held until the work has ended, also when its client has gone.
            let _place = place;
            let done = match around {
                None => runtime.block_on(verb(&call, to, bytes)),
                Some(around) => runtime.block_on(around.over(verb(&call, to, bytes))),
            };
            (call, done)
        };
        #[expect(clippy::disallowed_methods, reason = "long computing")]
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(e) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(e) => std::panic::panic_any(e.to_string()),
            },
        }
    }
}

/// Runs a verb, as a part of the request where that is traced.
async fn verb(call: &Call, to: To, bytes: Bytes) -> Result<Answer, Status> {
    match traces::part(traced::verb(&call.info)) {
        None => route::run(call, to, bytes).await,
        Some(part) => part.over(Box::pin(route::run(call, to, bytes))).await,
    }
}

/// A list's pieces are made while they are sent, so it keeps its seat until the last one; one that
/// its client does not read loses it when its time is over.
fn sent_seated(body: Body, seat: Seat) -> Body {
    let (end, ended) = oneshot::channel::<()>();
    tokio::spawn(async move {
        // It ends by being dropped, too.
        let _ = tokio::time::timeout(REQUEST_TIMEOUT, ended).await;
        drop(seat);
    });
    body.holding(end)
}

/// The answer to a request that comes after the door was closed; as upstream.
fn draining() -> Status {
    let mut status = Status::unavailable("apiserver is shutting down");
    status.details = Some(Details {
        retry_after_seconds: 1,
        ..Details::default()
    });
    status
}

impl ApiServer {
    /// A connection whose request has shown credentials is not among the first to be closed when
    /// there are too many; one whose request has shown none ends.
    fn keep_connection(&self, head: &Parts, user: &UserInfo) {
        if user.name == authn::ANONYMOUS || user.is_in(authn::UNAUTHENTICATED) {
            self.end_connection(head);
        } else if let Some(connection) = head.extensions.get::<Arc<wire::serve::Connection>>() {
            connection.authenticated(&user.name, &user.groups);
        }
    }

    /// HTTP/2 lets one connection ask for very much at little cost; who shows no credentials is
    /// answered, and has to come again.
    fn end_connection(&self, head: &Parts) {
        let connection = head.extensions.get::<Arc<wire::serve::Connection>>();
        let connection = connection.filter(|_| head.version == http::Version::HTTP_2);
        if let Some(connection) = connection
            && self
                .state()
                .has_feature("UnauthenticatedHTTP2DOSMitigation")
        {
            connection.finish();
        }
    }
}

/// Bytes of a body, or of the object that a patch changes, from which the work is no longer small
/// beside a request's other costs: some tenths of a millisecond.
const HEAVY_BYTES: usize = 64 << 10;

fn is_heavy(call: &Call, body: usize) -> bool {
    if body >= HEAVY_BYTES {
        return true;
    }
    // A small patch may change a large object.
    let changes = matches!(&*call.info.verb, "patch" | "update") && !call.row.virtual_kind;
    let stored = || call.cache().ok()?.get(&call.key(&call.info.name));
    changes && stored().is_some_and(|o| o.len_bound() >= HEAVY_BYTES)
}

/// A `Warning` header: code 299, no agent, the text quoted.
fn warning(text: &str) -> String {
    let mut out = String::from("299 - \"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The server as a [`tower::Service`] for one user of this process.
#[derive(Clone)]
pub struct LocalService {
    server: ApiServer,
    identity: LocalIdentity,
}

impl<B> tower::Service<Request<B>> for LocalService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.identity.clone());
        let server = self.server.clone();
        Box::pin(async move { Ok(server.handle(request).await) })
    }
}
