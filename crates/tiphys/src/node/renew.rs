//! Exchanges the certificates of a node that runs, before they end: at 70 to 90 % of their lifetime,
//! as upstream's kubelet, so that nodes that joined together do not ask together. Nothing restarts:
//! clients and the kubelet's port take the new ones up.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use client::{Credential, Swap};
use metrics::{Counters, Gauges};
use rand::RngExt;
use tokio_util::sync::CancellationToken;
use wire::pki::{Pair, validity};
use wire::tls::Identity;

use super::join::{CertificateNeed, Credentials, Entry};

/// The longest sleep at a stretch: the clock of a machine may be set, and a machine may sleep.
const LOOK: Duration = Duration::from_secs(600);
/// Pauses after a try that failed: from the first, doubled, up to the longest. They add up to
/// some 150 tries a day, each of them logged.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// A request that nobody has decided by then is asked for again; as upstream.
const TRY_WITHIN: Duration = Duration::from_secs(900);

/// Where a node's credentials are in use.
pub struct Uses {
    pub node: Swap,
    pub proxy: Swap,
    pub serving: Identity,
}

/// From when to when a certificate is good, in seconds since the epoch.
type Span = (i64, i64);

/// When the next one is asked for; `chance` from 0 to 1.
fn renew_at((from, until): Span, chance: f64) -> i64 {
    let per_mille = 700 + (200.0 * chance) as i64;
    from + (until - from) * per_mille / 1_000
}

/// What is shown of a certificate: until when it is good, and how often its renewal failed.
#[derive(Clone)]
struct CertificateMetrics {
    until: Arc<AtomicI64>,
    failures: Counters<0>,
}

impl CertificateMetrics {
    /// `ttl` and `failures` are upstream's names.
    fn new(ttl: &str, failures: &str, until: i64) -> Self {
        let left = Gauges::new(
            ttl,
            "Gauge of the shortest TTL (time-to-live) of the kubelet's certificate. The value is in \
             seconds until certificate expiry (negative if already expired).",
            [],
        );
        let shown = Self {
            until: Arc::new(AtomicI64::new(until)),
            failures: Counters::new(failures, "Counter of certificate renewal errors.", []),
        };
        // So that it is there before the first failure.
        shown.failures.of([]);
        let weak = Arc::downgrade(&shown.until);
        metrics::before_reading(move || {
            let Some(until) = weak.upgrade() else {
                return false;
            };
            let now = jiff::Timestamp::now().as_second();
            left.set([], (until.load(Ordering::Relaxed) - now) as f64);
            true
        });
        shown
    }

    /// Notes what became of a renewal.
    fn note(&self, renewed: Result<Span>) -> Result<Span> {
        match &renewed {
            Ok((_, until)) => self.until.store(*until, Ordering::Relaxed),
            Err(_) => self.failures.add([]),
        }
        renewed
    }
}

/// Exchanges all three until `end`.
pub async fn run(
    entry: Entry,
    credentials: Credentials,
    uses: Uses,
    end: CancellationToken,
) -> Result<()> {
    let [node, proxy, serving] = entry.asks();
    let spans = [
        validity(&credentials.node.cert_pem)?,
        validity(&credentials.proxy.cert_pem)?,
        validity(&credentials.serving.cert_pem)?,
    ];
    let all = Arc::new(Renewal {
        asks_as: uses.node.client(),
        entry,
        credentials,
    });
    let of_client = CertificateMetrics::new(
        "kubelet_certificate_manager_client_ttl_seconds",
        "kubelet_certificate_manager_client_expiration_renew_errors",
        spans[0].1,
    );
    let of_server = CertificateMetrics::new(
        "kubelet_certificate_manager_server_ttl_seconds",
        "kubelet_server_expiration_renew_errors",
        spans[2].1,
    );
    let work = async {
        tokio::join!(
            keep(&node, spans[0], || async {
                of_client.note(all.client(&node, &uses.node, "kubelet").await)
            }),
            keep(&proxy, spans[1], || all.client(
                &proxy,
                &uses.proxy,
                "kube-proxy"
            )),
            keep(&serving, spans[2], || async {
                of_server.note(all.serving(&serving, &uses.serving).await)
            }),
        )
    };
    tokio::select! {
        _ = work => {}
        () = end.cancelled() => {}
    }
    Ok(())
}

struct Renewal {
    entry: Entry,
    /// For the server's address and its CA.
    credentials: Credentials,
    /// The node, by the certificate that it has at the moment.
    asks_as: kube::Client,
}

impl Renewal {
    async fn ask(&self, ask: &CertificateNeed) -> Result<Pair> {
        let asked = self.entry.renew(&self.asks_as, ask);
        match tokio::time::timeout(TRY_WITHIN, asked).await {
            Ok(pair) => pair,
            Err(_) => bail!("it was not approved within {} s", TRY_WITHIN.as_secs()),
        }
    }

    async fn client(&self, ask: &CertificateNeed, place: &Swap, agent: &str) -> Result<Span> {
        let pair = self.ask(ask).await?;
        let (server, ca) = (&self.credentials.server, &self.credentials.ca_pem);
        let next = client::from_parts(server, ca, Credential::Certificate(&pair), agent);
        place.exchange(next.await?);
        Ok(validity(&pair.cert_pem)?)
    }

    async fn serving(&self, ask: &CertificateNeed, place: &Identity) -> Result<Span> {
        let pair = self.ask(ask).await?;
        place.exchange(&pair).context("the new certificate")?;
        Ok(validity(&pair.cert_pem)?)
    }
}

async fn keep<F: Future<Output = Result<Span>>>(
    ask: &CertificateNeed,
    span: Span,
    renew: impl Fn() -> F,
) {
    let now = || jiff::Timestamp::now().as_second();
    let chance = || rand::rng().random_range(0.0..1.0);
    keep_by(ask.name, span, now, chance, renew).await;
}

/// Renews one certificate whenever its time has come. `now` in seconds since the epoch.
async fn keep_by<F: Future<Output = Result<Span>>>(
    name: &str,
    mut span: Span,
    now: impl Fn() -> i64,
    chance: impl Fn() -> f64,
    renew: impl Fn() -> F,
) {
    loop {
        let at = renew_at(span, chance());
        while now() < at {
            let left = u64::try_from(at - now()).unwrap_or(0);
            tokio::time::sleep(LOOK.min(Duration::from_secs(left))).await;
        }
        let mut pause = FIRST_PAUSE;
        loop {
            match renew().await {
                Ok(next) => {
                    tracing::info!("the {name} certificate was renewed");
                    span = next;
                    break;
                }
                Err(e) => {
                    let left = span.1 - now();
                    tracing::warn!(
                        "renewing the {name} certificate, which ends in {left} s: {e:#}; tried again in {} s",
                        pause.as_secs()
                    );
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;

    #[test]
    fn certificates_are_renewed_between_70_and_90_percent() {
        assert_eq!(renew_at((1_000, 2_000), 0.0), 1_700);
        assert_eq!(renew_at((1_000, 2_000), 0.5), 1_800);
        assert_eq!(renew_at((1_000, 2_000), 1.0), 1_900);
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_renewed_in_time_and_a_failure_is_tried_again() {
        let start = Instant::now();
        let now = || i64::try_from(start.elapsed().as_secs()).expect("seconds");
        let tries = Mutex::new(Vec::new());
        let renew = || async {
            let mut tries = tries.lock().expect("lock");
            tries.push(now());
            // The second renewal has a server that is away at first.
            if matches!(tries.len(), 2..=4) {
                bail!("nobody answers");
            }
            Ok((now(), now() + 10_000))
        };
        let work = keep_by("test", (0, 1_000), now, || 0.5, renew);
        let limit = Duration::from_secs(17_000);
        assert!(tokio::time::timeout(limit, work).await.is_err());
        let tries = tries.lock().expect("lock").clone();
        assert_eq!(tries, [800, 8_800, 8_802, 8_806, 8_814, 16_814]);
    }
}
