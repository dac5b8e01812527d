//! Leading by Lease: of several processes one works, the others wait. The decision is pure; the
//! clock that counts is the waiting process's own, so that clocks of machines need not agree.
//! That two never work at once does not rest on clocks at all: the work's writes carry the fence
//! of this election, and the API server refuses them once the Lease has changed hands. So the
//! times may be short.

use std::sync::LazyLock;
use std::time::Duration;

use api::Fence;
use clock::Clock;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use metrics::Gauges;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A candidate, and what it stands for.
#[derive(Clone, Debug)]
pub struct Election {
    pub namespace: String,
    pub name: String,
    /// The candidate's identity; unique among processes.
    pub identity: String,
    pub times: Times,
    /// What the Lease says of times is for people; see the head of this file.
    pub clock: Clock,
}

impl Election {
    /// In upstream's namespace, with the usual times.
    pub fn new(name: &str, identity: &str, clock: Clock) -> Self {
        Self {
            namespace: "kube-system".into(),
            name: name.into(),
            identity: identity.into(),
            times: Times::default(),
            clock,
        }
    }
}

/// How patient candidates and leaders are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    duration: Duration,
    renew_deadline: Duration,
    retry: Duration,
}

impl Default for Times {
    /// 6 s, 4 s and 1 s (upstream: 15 s, 10 s, 2 s). The deadline is longer than an election
    /// among etcd's members, or the change to another API server, takes. A leader that ends
    /// cleanly is followed within a second, one that dies within seven.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(6),
            renew_deadline: Duration::from_secs(4),
            retry: Duration::from_secs(1),
        }
    }
}

/// Times by which leaders would lose the lease that they still rely on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTimes {
    #[error("the lease must last longer than the renew deadline, and at least one second")]
    Duration,
    #[error("the renew deadline must be longer than 1.2 times the retry period")]
    Deadline,
    #[error("the retry period must not be zero")]
    Retry,
}

impl Times {
    /// A leader that is silent for `duration` is replaced (whole seconds, since the Lease says
    /// it), one that could not renew for `renew_deadline` gives up by itself; `retry` lies between
    /// tries and between renewals. They must go together; the rules are upstream's.
    pub fn new(
        duration: Duration,
        renew_deadline: Duration,
        retry: Duration,
    ) -> Result<Self, BadTimes> {
        if retry.is_zero() {
            return Err(BadTimes::Retry);
        }
        if renew_deadline <= retry.mul_f64(1.2) {
            return Err(BadTimes::Deadline);
        }
        if duration <= renew_deadline || duration.as_secs() == 0 {
            return Err(BadTimes::Duration);
        }
        Ok(Self {
            duration,
            renew_deadline,
            retry,
        })
    }

    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Time after which a leader that cannot renew its lease gives up by itself.
    pub fn renew_deadline(&self) -> Duration {
        self.renew_deadline
    }

    /// Time between two tries.
    pub fn retry(&self) -> Duration {
        self.retry
    }
}

/// What is remembered of the lease between tries.
#[derive(Clone, Debug)]
struct Observed {
    version: Option<String>,
    since: Instant,
}

/// A lease as it is found.
#[derive(Clone, Copy, Debug)]
struct ObservedLease<'a> {
    holder: &'a str,
    transitions: i32,
    /// How long it has not changed, and how long it may not.
    unchanged: Duration,
    duration: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decision {
    Create,
    Take {
        transitions: i32,
    },
    Renew,
    Wait,
    /// It changed hands: the term is over.
    Lost,
}

/// What to do about a lease; `term` is the number of transitions at which this process took it,
/// if it leads.
fn decide(found: Option<ObservedLease<'_>>, own: &str, term: Option<i32>) -> Decision {
    match (found, term) {
        (None, None) => Decision::Create,
        // With the lease its fence is gone, and another may have led meanwhile.
        (None, Some(_)) => Decision::Lost,
        (Some(l), Some(term)) if l.holder == own && l.transitions == term => Decision::Renew,
        (Some(_), Some(_)) => Decision::Lost,
        // Its own from a try whose answer was lost: the fence of that is not known, so it is
        // taken once more.
        (Some(l), None) if l.holder.is_empty() || l.holder == own || l.unchanged >= l.duration => {
            Decision::Take {
                transitions: l.transitions.saturating_add(1),
            }
        }
        (Some(_), None) => Decision::Wait,
    }
}

static LEADS: LazyLock<Gauges<1>> = LazyLock::new(|| {
    Gauges::new(
        "leader_election_master_status",
        "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 \
         indicates master. 'name' is the string used to identify the lease.",
        ["name"],
    )
});

/// The time in which a process leads.
#[derive(Clone, Debug)]
struct Term {
    transitions: i32,
    fence: Fence,
}

/// What came of a try.
enum Tried {
    Leads(Term),
    Renewed,
    Waits,
    Lost,
}

/// Waits for leadership, runs `work` with the fence that its writes are to carry and a token that
/// is cancelled when leadership is lost, and gives the lease back at the end. Returns when
/// `shutdown` is cancelled, leadership was lost or the work has ended by itself: a caller that
/// wants to lead again starts again.
pub async fn lead<F>(
    client: Client,
    election: Election,
    shutdown: CancellationToken,
    work: impl FnOnce(Fence, CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut candidate = Candidate::new(client, election);
    LEADS.set([&candidate.election.name], 0.0);
    let Some(term) = candidate.win(&shutdown).await else {
        return;
    };
    LEADS.set([&candidate.election.name], 1.0);
    let election = &candidate.election;
    tracing::info!(
        "{} leads {} ({})",
        election.identity,
        election.name,
        term.fence
    );
    let end = shutdown.child_token();
    let mut worker = tokio::spawn(work(term.fence.clone(), end.clone()));
    let (kept, ended) = tokio::select! {
        biased;
        kept = candidate.keep(&term, &shutdown) => (kept, None),
        // A leader without work would only keep others from it.
        ended = &mut worker => (true, Some(ended)),
    };
    end.cancel();
    let ended = match ended {
        Some(ended) => ended,
        None => worker.await,
    };
    if let Err(e) = ended {
        tracing::error!("the leader's work ended badly: {e}");
    }
    LEADS.set([&candidate.election.name], 0.0);
    if kept {
        candidate.release(&term).await;
    } else {
        let election = &candidate.election;
        tracing::warn!("{} leads {} no longer", election.identity, election.name);
    }
}

struct Candidate {
    api: Api<Lease>,
    election: Election,
    seen: Observed,
}

impl Candidate {
    fn new(client: Client, election: Election) -> Self {
        Self {
            api: Api::namespaced(client, &election.namespace),
            election,
            seen: Observed {
                version: None,
                since: Instant::now(),
            },
        }
    }

    /// Tries until it leads; `None` when it is to shut down.
    async fn win(&mut self, shutdown: &CancellationToken) -> Option<Term> {
        loop {
            // A try that hangs must not keep it from the next one.
            let limit = self.election.times.renew_deadline;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                tried = tokio::time::timeout(limit, self.attempt(None)) => {
                    if let Ok(Tried::Leads(term)) = tried {
                        return Some(term);
                    }
                }
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(self.election.times.retry) => {}
            }
        }
    }

    /// Renews until it is to shut down (`true`) or has lost the lease.
    async fn keep(&mut self, term: &Term, shutdown: &CancellationToken) -> bool {
        let deadline = self.election.times.renew_deadline;
        let mut renewed = Instant::now();
        while renewed.elapsed() < deadline {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return true,
                () = tokio::time::sleep(self.election.times.retry) => {}
            }
            // The lease counts from when it was asked for, not from when the answer came.
            let asked = Instant::now();
            let left = deadline.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.attempt(Some(term))).await {
                Ok(Tried::Renewed) => renewed = asked,
                Ok(Tried::Lost) => return false,
                Ok(Tried::Leads(_) | Tried::Waits) | Err(_) => {}
            }
        }
        false
    }

    async fn attempt(&mut self, term: Option<&Term>) -> Tried {
        match self.try_once(term).await {
            Ok(tried) => tried,
            Err(e) => {
                tracing::debug!("lease {}: {e}", self.election.name);
                Tried::Waits
            }
        }
    }

    async fn try_once(&mut self, term: Option<&Term>) -> Result<Tried, kube::Error> {
        let lease = self.api.get_opt(&self.election.name).await?;
        let decision = self.judge(lease.as_ref(), term);
        let now = MicroTime(self.election.clock.now());
        let mut lease = lease.unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.election.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let transitions = match decision {
            Decision::Wait => return Ok(Tried::Waits),
            Decision::Lost => return Ok(Tried::Lost),
            Decision::Renew => {
                lease.spec.get_or_insert_default().renew_time = Some(now);
                self.replace(&lease).await?;
                return Ok(Tried::Renewed);
            }
            Decision::Create => 0,
            Decision::Take { transitions } => transitions,
        };
        lease.spec = Some(spec_of(&self.election, now, transitions));
        let written = if decision == Decision::Create {
            self.api.create(&PostParams::default(), &lease).await?
        } else {
            self.replace(&lease).await?
        };
        Ok(self
            .term(&written, transitions)
            .map_or(Tried::Waits, Tried::Leads))
    }

    fn judge(&mut self, lease: Option<&Lease>, term: Option<&Term>) -> Decision {
        let own = &self.election.identity;
        let Some(lease) = lease else {
            return decide(None, own, term.map(|t| t.transitions));
        };
        if self.seen.version != lease.metadata.resource_version {
            self.saw(lease);
        }
        let spec = lease.spec.as_ref();
        let theirs = spec
            .and_then(|s| s.lease_duration_seconds)
            .and_then(|s| u64::try_from(s).ok());
        let found = ObservedLease {
            holder: spec
                .and_then(|s| s.holder_identity.as_deref())
                .unwrap_or_default(),
            transitions: spec.and_then(|s| s.lease_transitions).unwrap_or(0),
            unchanged: self.seen.since.elapsed(),
            duration: theirs.map_or(self.election.times.duration, Duration::from_secs),
        };
        decide(
            Some(found),
            &self.election.identity,
            term.map(|t| t.transitions),
        )
    }

    fn saw(&mut self, lease: &Lease) {
        self.seen = Observed {
            version: lease.metadata.resource_version.clone(),
            since: Instant::now(),
        };
    }

    /// Writes the lease; its resourceVersion makes sure that only one of several takes it.
    async fn replace(&mut self, lease: &Lease) -> Result<Lease, kube::Error> {
        let params = PostParams::default();
        let written = self
            .api
            .replace(&self.election.name, &params, lease)
            .await?;
        self.saw(&written);
        Ok(written)
    }

    /// The fence has the revision at which the lease was taken.
    fn term(&self, written: &Lease, transitions: i32) -> Option<Term> {
        let revision = written.metadata.resource_version.as_deref()?.parse().ok()?;
        Some(Term {
            transitions,
            fence: Fence {
                namespace: self.election.namespace.clone(),
                name: self.election.name.clone(),
                revision,
            },
        })
    }

    /// Gives the lease back: the next leader need not wait.
    async fn release(&mut self, term: &Term) {
        let limit = self.election.times.renew_deadline;
        match tokio::time::timeout(limit, self.try_release(term)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::debug!("giving back lease {}: {e}", self.election.name),
            Err(_) => tracing::debug!("giving back lease {}: no answer", self.election.name),
        }
    }

    async fn try_release(&mut self, term: &Term) -> Result<(), kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.election.name).await? else {
            return Ok(());
        };
        if self.judge(Some(&lease), Some(term)) != Decision::Renew {
            return Ok(());
        }
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        self.replace(&lease).await.map(drop)
    }
}

fn spec_of(election: &Election, now: MicroTime, transitions: i32) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(election.identity.clone()),
        lease_duration_seconds: i32::try_from(election.times.duration.as_secs()).ok(),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(holder: &str, silent: u64) -> ObservedLease<'_> {
        ObservedLease {
            holder,
            transitions: 3,
            unchanged: Duration::from_secs(silent),
            duration: Duration::from_secs(15),
        }
    }

    #[test]
    fn only_a_silent_leader_is_replaced() {
        let take = Decision::Take { transitions: 4 };
        let cases = [
            ("", 0, take),
            ("other", 14, Decision::Wait),
            ("other", 15, take),
            // A lease that is its own without a term: its fence is not known.
            ("me", 0, take),
        ];
        for (holder, silent, expected) in cases {
            let decision = decide(Some(found(holder, silent)), "me", None);
            assert_eq!(decision, expected, "{holder} {silent}");
        }
        assert_eq!(decide(None, "me", None), Decision::Create);
    }

    #[test]
    fn a_term_ends_when_the_lease_changes_hands() {
        let cases = [
            (Some(found("me", 100)), 3, Decision::Renew),
            (Some(found("me", 0)), 2, Decision::Lost),
            (Some(found("other", 0)), 3, Decision::Lost),
            (Some(found("", 100)), 3, Decision::Lost),
            (None, 3, Decision::Lost),
        ];
        for (lease, term, expected) in cases {
            assert_eq!(
                decide(lease, "me", Some(term)),
                expected,
                "{lease:?} {term}"
            );
        }
    }

    #[test]
    fn times_must_go_together() {
        let times = |d, r, t| {
            let s = Duration::from_secs_f64;
            Times::new(s(d), s(r), s(t))
        };
        assert!(times(15.0, 10.0, 2.0).is_ok());
        assert_eq!(times(10.0, 10.0, 2.0), Err(BadTimes::Duration));
        assert_eq!(times(0.9, 0.5, 0.1), Err(BadTimes::Duration));
        assert_eq!(times(15.0, 2.0, 2.0), Err(BadTimes::Deadline));
        assert_eq!(times(15.0, 10.0, 0.0), Err(BadTimes::Retry));
        assert_eq!(times(6.0, 4.0, 1.0), Ok(Times::default()));
    }
}
