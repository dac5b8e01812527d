//! The webhook back end: batches of events, posted to a server that a kubeconfig names.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clock::Instant;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::kubeconfig::Remote;
use wire::tls::TlsError;
use wire::trust::Trust;

use super::sink::{self, Entry, Losses};
use crate::dialer::TlsSide;
use crate::egress::{self, Backend, BackendError, Bounds, OutgoingRequest};
use crate::state::State;

/// Tries of a batch, growth of the wait between them, and by how much it is drawn longer; upstream's.
const TRIES: u32 = 5;
const GROWTH: f64 = 1.5;
const JITTER: f64 = 0.2;
/// Batches that are on their way at once: others wait in the queue.
const AT_ONCE: usize = 8;
/// Of a batch; upstream's default of the largest batch.
const BATCH_BYTES: usize = 10 << 20;
/// What a try may take; of the answer only its code matters.
const BOUNDS: Bounds = Bounds {
    within: Duration::from_secs(30),
    answer_bytes: 64 << 10,
};
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static("kube-apiserver");

/// How events become batches.
#[derive(Clone, Copy, Debug)]
pub struct Batches {
    /// Events of one.
    pub most: usize,
    /// A batch that is not full is sent after so long.
    pub wait: Duration,
    /// Batches a second, and at once after a pause; none for as fast as it goes.
    pub throttle: Option<(f64, f64)>,
    /// Before the second try of a batch.
    pub backoff: Duration,
}

impl Default for Batches {
    /// Upstream's.
    fn default() -> Self {
        Self {
            most: 400,
            wait: Duration::from_secs(30),
            throttle: Some((10.0, 15.0)),
            backoff: Duration::from_secs(10),
        }
    }
}

/// Why a server that a kubeconfig names cannot be posted to.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Place(#[from] BackendError),
    #[error("its token cannot stand in a header")]
    Token,
}

/// Where events are posted, and how.
#[derive(Clone)]
pub struct Webhook {
    backend: Backend,
    /// With who this server is there.
    headers: HeaderMap,
    batches: Batches,
}

impl Webhook {
    pub fn new(remote: &Remote, batches: Batches) -> Result<Self, RemoteError> {
        let trust = match &remote.ca_pem {
            _ if remote.insecure => Trust::Anyone,
            Some(pem) => Trust::Bundle(pem),
            None => Trust::System,
        };
        let tls = TlsSide::new(trust, remote.pair.as_ref())?;
        let mut backend = Backend::url(&remote.server, tls)?;
        if let Some(name) = &remote.server_name {
            backend = backend.shown_as(name);
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ACCEPT, JSON);
        headers.insert(USER_AGENT, AGENT);
        if let Some(token) = &remote.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|_| RemoteError::Token)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(Self {
            backend,
            headers,
            batches,
        })
    }

    /// Posts a batch, several times if need be; why it did not arrive.
    async fn deliver(&self, state: &State, batch: &[Entry]) -> Result<(), String> {
        let body = list(batch);
        let mut wait = self.batches.backoff;
        let mut tried = 0;
        loop {
            let asked = OutgoingRequest {
                method: Method::POST,
                path: String::new(),
                headers: self.headers.clone(),
                body: body.clone(),
            };
            let why = match egress::call(state, &self.backend, asked, BOUNDS).await {
                Ok((head, _)) if head.status.is_success() => return Ok(()),
                Ok((head, _)) => format!("the audit webhook answers {}", head.status),
                Err(e) => e.to_string(),
            };
            tried += 1;
            if tried == TRIES {
                return Err(why);
            }
            tokio::time::sleep(wait.mul_f64(1.0 + JITTER * state.random().fraction())).await;
            wait = wait.mul_f64(GROWTH);
        }
    }
}

/// An EventList of audit.k8s.io/v1.
fn list(batch: &[Entry]) -> Bytes {
    let size: usize = batch.iter().map(|e| e.line.len() + 1).sum();
    let head =
        b"{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{},\"items\":[";
    let mut out = Vec::with_capacity(head.len() + size + 2);
    out.extend_from_slice(head);
    for (nth, entry) in batch.iter().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&entry.line);
    }
    out.extend_from_slice(b"]}");
    out.into()
}

/// Lets batches through at a pace.
struct Pace {
    per_second: f64,
    most: f64,
    /// Batches that may go now, as of `at`.
    saved: f64,
    at: Instant,
}

impl Pace {
    fn new((per_second, most): (f64, f64)) -> Self {
        Self {
            per_second,
            most,
            saved: most,
            at: Instant::now(),
        }
    }

    /// How long the next batch is to wait.
    fn next(&mut self) -> Duration {
        let now = Instant::now();
        let gained = now.duration_since(self.at).as_secs_f64() * self.per_second;
        self.saved = (self.saved + gained).min(self.most) - 1.0;
        self.at = now;
        Duration::from_secs_f64((-self.saved).max(0.0) / self.per_second)
    }
}

/// Adds to a batch what comes until it is full, or was waited for long enough.
async fn fill(queue: &mut mpsc::Receiver<Entry>, batch: &mut Vec<Entry>, batches: Batches) {
    let until = Instant::now() + batches.wait;
    let mut bytes: usize = batch.iter().map(|e| e.line.len()).sum();
    while batch.len() < batches.most && bytes < BATCH_BYTES {
        let next = if batch.iter().any(|e| e.told.is_some()) {
            // Requests wait for it.
            queue.try_recv().ok()
        } else {
            tokio::time::timeout_at(until, queue.recv())
                .await
                .ok()
                .flatten()
        };
        let Some(entry) = next else { return };
        bytes += entry.line.len();
        batch.push(entry);
    }
}

/// Posts what comes, until the queue is closed and empty.
pub async fn keep(
    webhook: Webhook,
    state: State,
    mut queue: mpsc::Receiver<Entry>,
    losses: Losses,
    closing: CancellationToken,
) {
    let (webhook, losses) = (Arc::new(webhook), Arc::new(losses));
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut pace = webhook.batches.throttle.map(Pace::new);
    let mut running = JoinSet::new();
    let mut batch = Vec::new();
    while sink::next(&mut queue, &mut batch, 1, &closing).await > 0 {
        tokio::select! {
            biased;
            () = closing.cancelled() => {
                queue.close();
                fill(&mut queue, &mut batch, webhook.batches).await;
            }
            () = fill(&mut queue, &mut batch, webhook.batches) => {}
        }
        if let Some(pace) = &mut pace {
            tokio::time::sleep(pace.next()).await;
        }
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let mut batch = std::mem::take(&mut batch);
        let (webhook, state, losses) = (webhook.clone(), state.clone(), losses.clone());
        while running.try_join_next().is_some() {}
        running.spawn(async move {
            let _place = place;
            let done = webhook.deliver(&state, &batch).await;
            if let Err(why) = &done {
                losses.count("webhook", batch.len() as u64, why);
            }
            batch.iter_mut().for_each(|e| e.settle(done.is_ok()));
        });
    }
    while running.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn batches_go_at_a_pace() {
        let mut pace = Pace::new((10.0, 2.0));
        assert_eq!(pace.next(), Duration::ZERO);
        assert_eq!(pace.next(), Duration::ZERO);
        let wait = pace.next();
        assert!((wait.as_secs_f64() - 0.1).abs() < 1e-6, "{wait:?}");
        tokio::time::sleep(wait).await;
        let wait = pace.next();
        assert!((wait.as_secs_f64() - 0.1).abs() < 1e-6, "{wait:?}");
    }
}
