//! The audit log: who asked what of whom, and what came of it. [`policy`] says how much of a request
//! is recorded, a [`Trail`] goes with the request and notes what happens, [`event`] writes it
//! down once, and [`sink`] keeps back ends apart from requests: a file ([`log`]) and a webhook
//! ([`webhook`]). It knows neither verbs nor filters.

pub mod event;
pub mod log;
pub mod policy;
pub mod sink;
pub mod trail;
pub mod webhook;

use std::sync::Arc;
use std::time::Duration;

use clock::Clock;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::metrics::audit::AuditMetrics;
use crate::state::State;
use log::LogFile;
use policy::Policy;
use sink::{Losses, Mode, Sink};
pub use trail::{Begin, Numbered, Trail};
use webhook::Webhook;

/// The header with a request's number; a client may choose it.
pub const ID: http::HeaderName = http::HeaderName::from_static("audit-id");
/// Events that wait for a back end; upstream's number.
pub const QUEUE: usize = 10_000;
/// Time that back ends get for what is in their queues when the server ends.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How a back end is fed.
#[derive(Clone, Copy, Debug)]
pub struct Feed {
    pub mode: Mode,
    /// Events that wait.
    pub queue: usize,
    /// Events that are larger lose their bodies; in bytes.
    pub truncate: Option<usize>,
}

/// What a server is to record, and where.
#[derive(Clone)]
pub struct Plan {
    pub policy: Arc<Policy>,
    /// Given to the first server that starts by it.
    pub log: Option<(Arc<Mutex<Option<LogFile>>>, Feed)>,
    pub webhook: Option<(Webhook, Feed)>,
}

impl Plan {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy: Arc::new(policy),
            log: None,
            webhook: None,
        }
    }

    #[must_use]
    pub fn with_log(mut self, file: LogFile, feed: Feed) -> Self {
        self.log = Some((Arc::new(Mutex::new(Some(file))), feed));
        self
    }
}

/// The audit log of a server.
pub struct Audit {
    policy: Arc<Policy>,
    sinks: Vec<Sink>,
    clock: Clock,
    metrics: AuditMetrics,
    /// Queues take nothing any more.
    closing: CancellationToken,
    /// The back ends; gone when they were waited for.
    tasks: Mutex<JoinSet<()>>,
}

impl Audit {
    /// Starts the back ends.
    pub fn start(plan: Plan, state: &State) -> Arc<Self> {
        let metrics = state.metrics().audit.clone();
        let closing = CancellationToken::new();
        let (mut sinks, mut tasks) = (Vec::new(), JoinSet::new());
        let queue =
            |name, feed: Feed| Sink::new(name, feed.mode, feed.truncate, feed.queue, &metrics);
        if let Some((file, feed)) = plan.log
            && let Some(file) = file.lock().take()
        {
            let (sink, queue) = queue("log", feed);
            sinks.push(sink);
            let losses = Losses::new(metrics.clone());
            tasks.spawn(log::keep(file, queue, losses, closing.clone()));
        }
        if let Some((webhook, feed)) = plan.webhook {
            let (sink, queue) = queue("webhook", feed);
            sinks.push(sink);
            let losses = Losses::new(metrics.clone());
            let work = webhook::keep(webhook, state.clone(), queue, losses, closing.clone());
            tasks.spawn(work);
        }
        Arc::new(Self {
            policy: plan.policy,
            sinks,
            clock: state.settings().clock,
            metrics,
            closing,
            tasks: Mutex::new(tasks),
        })
    }

    /// Lets the back ends end with what is in their queues. What happens later is not recorded.
    pub async fn finish(&self) {
        self.closing.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS, all).await.is_err() {
            tracing::error!("audit: the server ends before all events have arrived");
        }
    }
}
