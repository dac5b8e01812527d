//! The election of a leader by a Lease, as operators do it that have no library for it: who finds
//! it free or expired takes it, by an update that fails when somebody else was faster.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::time::Instant;

/// How long a leader may be silent before another one takes its place: on a busy machine, too, only when it
/// has ended.
const LEASE: Duration = Duration::from_secs(6);
/// How often it is renewed, or looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A candidate.
pub struct Candidate {
    pub leases: Api<Lease>,
    pub lease: String,
    pub identity: String,
}

impl Candidate {
    /// Returns when it leads.
    ///
    /// # Errors
    /// When the API refuses something other than a lost race.
    pub async fn lead(&self) -> Result<()> {
        // When the holder's last renewal was seen: its clock may be another one.
        let mut seen: Option<(LeaseSpec, Instant)> = None;
        loop {
            match self.leases.get_opt(&self.lease).await? {
                None => {
                    if taken(
                        self.leases
                            .create(&PostParams::default(), &self.held(None))
                            .await,
                    )? {
                        return Ok(());
                    }
                }
                Some(lease) => {
                    let spec = lease.spec.clone().unwrap_or_default();
                    let mine = spec.holder_identity.as_ref() == Some(&self.identity);
                    let since = match &seen {
                        Some((known, at)) if *known == spec => at.elapsed(),
                        _ => {
                            seen = Some((spec, Instant::now()));
                            Duration::ZERO
                        }
                    };
                    if (mine || since > LEASE) && taken(self.take(Some(lease)).await)? {
                        return Ok(());
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Renews until somebody else leads, which is an error.
    ///
    /// # Errors
    /// Always: when the lease was lost, or could not be renewed in time.
    pub async fn stay(&self) -> Result<()> {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let Ok(lease) = self.leases.get(&self.lease).await else {
                ensure!(
                    renewed.elapsed() < LEASE,
                    "the lease was not renewed in time"
                );
                continue;
            };
            let holder = lease.spec.as_ref().and_then(|s| s.holder_identity.clone());
            ensure!(
                holder.as_ref() == Some(&self.identity),
                "{holder:?} leads now"
            );
            if taken(self.take(Some(lease)).await)? {
                renewed = Instant::now();
            }
        }
    }

    async fn take(&self, lease: Option<Lease>) -> Result<Lease, kube::Error> {
        let held = self.held(lease);
        self.leases
            .replace(&self.lease, &PostParams::default(), &held)
            .await
    }

    fn held(&self, before: Option<Lease>) -> Lease {
        let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
        let metadata = before.as_ref().map(|l| l.metadata.clone());
        let before = before.and_then(|l| l.spec).unwrap_or_default();
        let same = before.holder_identity.as_ref() == Some(&self.identity);
        let changes = before.lease_transitions.unwrap_or(0);
        Lease {
            metadata: metadata.unwrap_or_else(|| ObjectMeta {
                name: Some(self.lease.clone()),
                ..ObjectMeta::default()
            }),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
                acquire_time: if same {
                    before.acquire_time
                } else {
                    Some(now.clone())
                },
                renew_time: Some(now),
                lease_transitions: Some(if same { changes } else { changes + 1 }),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// Whether a write came through; that another one was faster is not an error.
fn taken(outcome: Result<Lease, kube::Error>) -> Result<bool> {
    match outcome {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(e) => Err(e.into()),
    }
}
