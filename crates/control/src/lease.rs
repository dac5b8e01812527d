//! Leading by Lease: of several processes one works, the others wait. The decision is pure; the
//! clock that counts is the waiting process's own, so that clocks of machines need not agree.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Upstream's defaults: a leader that is silent for 15 s is replaced; it gives up by itself when
/// it could not renew for 10 s; tries are 2 s apart.
#[derive(Clone, Debug)]
pub struct Election {
    pub namespace: String,
    pub name: String,
    /// Who stands for election; unique among processes.
    pub identity: String,
    pub duration: Duration,
    pub renew_deadline: Duration,
    pub retry: Duration,
}

impl Election {
    pub fn new(name: &str, identity: &str) -> Self {
        Self {
            namespace: "kube-system".into(),
            name: name.into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What is remembered of the lease between tries.
#[derive(Clone, Debug)]
struct Observed {
    version: Option<String>,
    since: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decision {
    Take,
    Renew,
    Wait,
}

/// Whether to take, renew or wait, given the holder and for how long the lease has not changed.
fn decide(holder: &str, own: &str, unchanged: Duration, duration: Duration) -> Decision {
    if holder == own {
        Decision::Renew
    } else if holder.is_empty() || unchanged >= duration {
        Decision::Take
    } else {
        Decision::Wait
    }
}

/// Waits for leadership, runs `work` with a token that is cancelled when it is lost, and gives
/// the lease back at the end. Returns when `shutdown` is cancelled or leadership was lost: a
/// process that lost it starts anew.
pub async fn lead<F>(
    client: Client,
    election: Election,
    shutdown: CancellationToken,
    work: impl FnOnce(CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let api: Api<Lease> = Api::namespaced(client, &election.namespace);
    let mut seen = Observed {
        version: None,
        since: Instant::now(),
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            won = attempt(&api, &election, &mut seen) => if won { break },
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(election.retry) => {}
        }
    }
    tracing::info!("{} leads {}", election.identity, election.name);
    let term = shutdown.child_token();
    let worker = tokio::spawn(work(term.clone()));
    let mut renewed = Instant::now();
    while !shutdown.is_cancelled() && renewed.elapsed() < election.renew_deadline {
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(election.retry) => {}
        }
        let left = election.renew_deadline.saturating_sub(renewed.elapsed());
        if let Ok(true) = tokio::time::timeout(left, attempt(&api, &election, &mut seen)).await {
            renewed = Instant::now();
        }
    }
    term.cancel();
    if let Err(e) = worker.await {
        tracing::error!("the leader's work ended badly: {e}");
    }
    if shutdown.is_cancelled() {
        release(&api, &election).await;
    }
}

async fn attempt(api: &Api<Lease>, election: &Election, seen: &mut Observed) -> bool {
    match try_once(api, election, seen).await {
        Ok(leads) => leads,
        Err(e) => {
            tracing::debug!("lease {}: {e}", election.name);
            false
        }
    }
}

async fn try_once(
    api: &Api<Lease>,
    election: &Election,
    seen: &mut Observed,
) -> Result<bool, kube::Error> {
    let now = MicroTime(Timestamp::now());
    let Some(mut lease) = api.get_opt(&election.name).await? else {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(election.name.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(spec_of(election, now, 0)),
        };
        api.create(&PostParams::default(), &lease).await?;
        return Ok(true);
    };
    if seen.version != lease.metadata.resource_version {
        *seen = Observed {
            version: lease.metadata.resource_version.clone(),
            since: Instant::now(),
        };
    }
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    let theirs = spec
        .lease_duration_seconds
        .and_then(|s| u64::try_from(s).ok());
    let duration = theirs.map_or(election.duration, Duration::from_secs);
    lease.spec = Some(
        match decide(&holder, &election.identity, seen.since.elapsed(), duration) {
            Decision::Wait => return Ok(false),
            Decision::Renew => LeaseSpec {
                renew_time: Some(now),
                ..spec
            },
            Decision::Take => spec_of(election, now, spec.lease_transitions.unwrap_or(0) + 1),
        },
    );
    // The resourceVersion makes sure that only one of several takes it.
    let written = api
        .replace(&election.name, &PostParams::default(), &lease)
        .await?;
    *seen = Observed {
        version: written.metadata.resource_version,
        since: Instant::now(),
    };
    Ok(true)
}

fn spec_of(election: &Election, now: MicroTime, transitions: i32) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(election.identity.clone()),
        lease_duration_seconds: i32::try_from(election.duration.as_secs()).ok(),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}

/// The next leader need not wait.
async fn release(api: &Api<Lease>, election: &Election) {
    let Ok(Some(mut lease)) = api.get_opt(&election.name).await else {
        return;
    };
    let Some(spec) = lease.spec.as_mut() else {
        return;
    };
    if spec.holder_identity.as_deref() == Some(&election.identity) {
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        if let Err(e) = api
            .replace(&election.name, &PostParams::default(), &lease)
            .await
        {
            tracing::debug!("giving back lease {}: {e}", election.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_silent_leader_is_replaced() {
        let d = Duration::from_secs(15);
        let cases = [
            ("me", 100, Decision::Renew),
            ("", 0, Decision::Take),
            ("other", 14, Decision::Wait),
            ("other", 15, Decision::Take),
        ];
        for (holder, silent, expected) in cases {
            assert_eq!(
                decide(holder, "me", Duration::from_secs(silent), d),
                expected,
                "{holder} {silent}"
            );
        }
    }
}
