//! The network between parts and API servers: requests take their time, answers get lost, cables
//! are pulled, and servers die in the middle of a request. What dies does so without a word: its
//! own requests never end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use apiserver::{ApiServer, UserInfo};
use bytes::Bytes;
use clock::{Random, watch};
use futures::stream::{self, BoxStream, StreamExt};
use http::{Request, Response};
use http_body_util::{BodyStream, StreamBody};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use rand::RngExt;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};

use crate::faults::{Fuse, Weather};

/// How long a connection bears it that nothing passes: clients of nodes give up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between tries of a client that finds no server.
const REFUSED: Duration = Duration::from_millis(200);
/// Longest that a request, or an answer, is under way, in microseconds.
const UNDER_WAY_MICROS: u64 = 1_500;

/// Longest that an event of a watch is late, in milliseconds, when it is late.
const LATE_MILLIS: u64 = 5_000;

/// A server that lives.
#[derive(Clone)]
pub(crate) struct Up {
    pub api: ApiServer,
    /// Cancelled when it dies.
    pub dead: CancellationToken,
    /// Of the writes that it may still do.
    pub fuse: Fuse,
}

/// All servers, by number; none at those that are dead.
pub(crate) type Servers = Arc<Mutex<Vec<Option<Up>>>>;

/// What a part's requests go through. Clones share it.
#[derive(Clone)]
pub(crate) struct Cable(Arc<Inner>);

struct Inner {
    servers: Servers,
    /// The only server that it leads to; else any that lives.
    only: Option<usize>,
    /// Whether it is pulled.
    cut: watch::Sender<bool>,
    /// The part is dead.
    dead: CancellationToken,
    /// Of the requests that the part behind it may still send.
    fuse: Fuse,
    /// It dies once the request that it is at has come to an end, which may take long.
    is_dying: AtomicBool,
    last: AtomicUsize,
    weather: Weather,
    random: Random,
}

type Answer = Result<Response<StreamBody<BoxStream<'static, Frame>>>, BoxError>;
type Frame = Result<http_body::Frame<Bytes>, BoxError>;

fn broken(what: &str) -> BoxError {
    Box::new(io::Error::new(
        io::ErrorKind::ConnectionReset,
        what.to_owned(),
    ))
}

impl Cable {
    /// From anywhere to any server.
    pub fn new(servers: &Servers, weather: &Weather, random: Random) -> Self {
        Self::leading(servers, None, weather, random)
    }

    /// Within the process of one server.
    pub fn within(servers: &Servers, only: usize, weather: &Weather, random: Random) -> Self {
        Self::leading(servers, Some(only), weather, random)
    }

    fn leading(servers: &Servers, only: Option<usize>, weather: &Weather, random: Random) -> Self {
        Self(Arc::new(Inner {
            servers: servers.clone(),
            only,
            cut: watch::Sender::new(false),
            dead: CancellationToken::new(),
            fuse: Fuse::default(),
            is_dying: AtomicBool::new(false),
            last: AtomicUsize::new(0),
            weather: weather.clone(),
            random,
        }))
    }

    /// Pulls it, or plugs it in again.
    pub fn set_cut(&self, cut: bool) {
        self.0.cut.send_replace(cut);
    }

    /// The part behind it is dead from now on.
    pub fn kill(&self) {
        self.0.dead.cancel();
    }

    /// Whether it is dead, or nothing keeps it from it any more.
    pub fn is_dead(&self) -> bool {
        self.0.dead.is_cancelled() || self.0.is_dying.load(Ordering::Relaxed)
    }

    /// The part behind it dies at the request of this number, before or after it is done.
    pub fn die_at_request(&self, number: u64) {
        self.0.fuse.light(number);
    }

    /// A client that acts as this user.
    pub fn client(&self, name: &str, groups: &[&str]) -> Client {
        let (cable, user) = (self.clone(), UserInfo::new(name, groups));
        client::in_process(tower::service_fn(move |request: Request<Body>| {
            cable.clone().send(user.clone(), request)
        }))
    }

    async fn send(self, user: UserInfo, request: Request<Body>) -> Answer {
        let dead = self.0.dead.clone();
        if self.0.fuse.burns_down() {
            self.0.is_dying.store(true, Ordering::Relaxed);
            if self.0.random.number().is_multiple_of(2) {
                drop(self.ask(user, request).await);
            }
            dead.cancel();
            return std::future::pending().await;
        }
        tokio::select! {
            biased;
            // Nobody is there any more who could hear an answer.
            () = dead.cancelled() => std::future::pending().await,
            answer = self.ask(user, request) => answer,
        }
    }

    async fn ask(self, user: UserInfo, request: Request<Body>) -> Answer {
        self.pass().await?;
        let Some(up) = self.choose() else {
            tokio::time::sleep(REFUSED).await;
            return Err(broken("connection refused"));
        };
        let is_watch = request
            .uri()
            .query()
            .is_some_and(|q| q.contains("watch=true"));
        let mut service = up.api.local_service(user);
        let answer = tokio::select! {
            biased;
            () = up.dead.cancelled() => return Err(broken("the server is gone")),
            answer = service.call(request) => answer?,
        };
        if self.0.only.is_none() && self.0.weather.strikes(&self.0.random) {
            return Err(broken("the answer was lost"));
        }
        self.pass().await?;
        let answer = answer.map(move |body| {
            let state = Some((BodyStream::new(body), self.clone(), up.dead.clone()));
            let frames = stream::unfold(state, move |state| async move {
                let (mut body, cable, dead) = state?;
                let next = tokio::select! {
                    biased;
                    () = dead.cancelled() => Some(Err(broken("the server is gone"))),
                    next = body.next() => next,
                };
                let came = match cable.pass().await {
                    Ok(()) if is_watch => cable.watched().await,
                    other => other,
                };
                let frame = match (next?, came) {
                    (Ok(frame), Ok(())) => frame,
                    (Err(e), _) | (_, Err(e)) => return Some((Err(e), None)),
                };
                Some((Ok(frame), Some((body, cable, dead))))
            });
            StreamBody::new(frames.boxed())
        });
        Ok(answer)
    }

    /// An event of a watch on its way: it may come late, with all that follow it, or never.
    async fn watched(&self) -> Result<(), BoxError> {
        if !self.0.weather.strikes(&self.0.random) {
            return Ok(());
        }
        if self.0.random.number().is_multiple_of(2) {
            return Err(broken("the watch broke off"));
        }
        let late = self.0.random.clone().random_range(0..LATE_MILLIS);
        tokio::time::sleep(Duration::from_millis(late)).await;
        Ok(())
    }

    /// The way of a request, or of a part of an answer.
    async fn pass(&self) -> Result<(), BoxError> {
        if self.0.only.is_some() {
            return Ok(());
        }
        let micros = self.0.random.clone().random_range(0..UNDER_WAY_MICROS);
        tokio::time::sleep(Duration::from_micros(micros)).await;
        let mut cut = self.0.cut.subscribe();
        let whole = cut.wait_for(|cut| !cut);
        match tokio::time::timeout(PATIENCE, whole).await {
            Ok(_) => Ok(()),
            Err(_) => Err(broken("nothing came through")),
        }
    }

    /// A server that lives: the last one again, or the next.
    fn choose(&self) -> Option<Up> {
        let servers = self.0.servers.lock();
        if let Some(only) = self.0.only {
            return servers.get(only).cloned().flatten();
        }
        let last = self.0.last.load(Ordering::SeqCst);
        let all = (0..servers.len()).map(|n| (last + n) % servers.len().max(1));
        for n in all {
            if let Some(up) = servers.get(n).cloned().flatten() {
                self.0.last.store(n, Ordering::SeqCst);
                return Some(up);
            }
        }
        None
    }
}
