//! The members of the cluster: one connection each, which of them is asked now, and what their
//! answers have said of revision and term. A member that fails hands over to the next.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use clock::watch;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::failure::{Failure, classify};
use super::proto::maintenance_client::MaintenanceClient;
use super::proto::{self, ResponseHeader};
use super::wire::unsigned;
use crate::contract::{Revision, StoreError};

/// Patience with a read, which is then asked elsewhere: first short, so that a silent member
/// costs little, then longer, so that a slow cluster still answers.
const READ_PATIENCE: [Duration; 3] = [
    Duration::from_millis(1500),
    Duration::from_secs(3),
    Duration::from_secs(6),
];
/// A request ends after this in any case: longer than etcd's own limit (5 s and two elections).
pub const LIMIT: Duration = Duration::from_secs(10);
/// A member that says nothing of itself for so long is taken as silent: it answers from memory.
pub const STATUS_PATIENCE: Duration = Duration::from_secs(1);
/// Pause before another member is asked: a fraction of an election.
pub const PAUSE: Duration = Duration::from_millis(100);
/// Defragmenting 8 GiB, the largest that etcd advises, takes about a minute.
const DEFRAGMENT_LIMIT: Duration = Duration::from_secs(300);

const NOSPACE: i32 = proto::AlarmType::Nospace as i32;

/// The newest that any answer reported.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewestKnown {
    pub revision: Revision,
    pub term: u64,
}

pub struct Member {
    name: String,
    endpoint: Endpoint,
    channel: Mutex<Channel>,
    /// It has said to which cluster it belongs.
    is_known: AtomicBool,
}

impl Member {
    /// Connects when it is first used.
    pub fn new(name: String, endpoint: Endpoint) -> Self {
        Self {
            name,
            channel: Mutex::new(endpoint.connect_lazy()),
            endpoint,
            is_known: AtomicBool::new(false),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn channel(&self) -> Channel {
        self.channel.lock().clone()
    }
}

pub struct Members {
    list: Vec<Member>,
    current: AtomicUsize,
    seen: watch::Sender<NewestKnown>,
    cluster: OnceLock<u64>,
}

/// An answer with etcd's header.
pub trait Headed {
    fn header(&self) -> Option<&ResponseHeader>;
}

macro_rules! headed {
    ($($name:ident),*) => { $(impl Headed for proto::$name {
        fn header(&self) -> Option<&ResponseHeader> { self.header.as_ref() }
    })* };
}
headed!(
    RangeResponse,
    TxnResponse,
    CompactionResponse,
    WatchResponse,
    LeaseGrantResponse,
    LeaseTimeToLiveResponse,
    AlarmResponse,
    StatusResponse,
    DefragmentResponse
);

/// A request that a member without a leader refuses at once, before it begins it.
pub fn led<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let yes = MetadataValue::from_static("true");
    request.metadata_mut().insert("hasleader", yes);
    request
}

impl Members {
    /// `list` is not empty.
    pub fn new(list: Vec<Member>) -> Self {
        Self {
            list,
            current: AtomicUsize::new(0),
            seen: watch::Sender::new(NewestKnown::default()),
            cluster: OnceLock::new(),
        }
    }

    pub fn list(&self) -> &[Member] {
        &self.list
    }

    pub fn cluster(&self) -> u64 {
        self.cluster.get().copied().unwrap_or(0)
    }

    pub fn seen(&self) -> watch::Receiver<NewestKnown> {
        self.seen.subscribe()
    }

    /// The number of the member that is asked now; [`Self::at`] takes any number.
    pub fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    pub fn at(&self, number: usize) -> &Member {
        &self.list[number % self.list.len()]
    }

    /// Lets the next member be asked, unless another request has seen to that.
    pub fn leave(&self, number: usize) {
        let _ = self.current.compare_exchange(
            number,
            number.wrapping_add(1),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Drops a connection on which nothing is heard: a new one is made when it is needed.
    pub fn hang_up(&self, number: usize) {
        let member = self.at(number);
        *member.channel.lock() = member.endpoint.connect_lazy();
    }

    /// Takes in what an answer reports. An answer for another cluster is none.
    pub fn accept(&self, member: &Member, header: Option<&ResponseHeader>) -> Result<(), Failure> {
        let Some(header) = header else {
            return Err(Failure::Open("an answer without etcd's header".into()));
        };
        if *self.cluster.get_or_init(|| header.cluster_id) != header.cluster_id {
            let why = format!("{} belongs to another cluster", member.name);
            return Err(Failure::NotBegun(why));
        }
        member.is_known.store(true, Ordering::Relaxed);
        let (revision, term) = (unsigned(header.revision), header.raft_term);
        self.seen.send_if_modified(|seen| {
            let is_newer = revision > seen.revision || term > seen.term;
            seen.revision = seen.revision.max(revision);
            seen.term = seen.term.max(term);
            is_newer
        });
        Ok(())
    }

    /// The member, once it has said that it belongs to the cluster.
    pub async fn known(&self, number: usize) -> Result<&Member, Failure> {
        let member = self.at(number);
        if !member.is_known.load(Ordering::Relaxed) {
            self.status(number).await?;
        }
        Ok(member)
    }

    /// What a member says of itself, leader or not.
    pub async fn status(&self, number: usize) -> Result<proto::StatusResponse, Failure> {
        let member = self.at(number);
        let mut client = MaintenanceClient::new(member.channel());
        let asked = client.status(proto::StatusRequest {});
        match timeout(STATUS_PATIENCE, asked).await {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                self.accept(member, answer.header.as_ref())?;
                Ok(answer)
            }
            Ok(Err(status)) => Err(match classify(&status, 0) {
                // Asking has no effect: it may be repeated.
                Failure::Open(why) => Failure::NotBegun(why),
                failure => failure,
            }),
            Err(_) => {
                self.hang_up(number);
                Err(Failure::NotBegun(format!("{} is silent", member.name)))
            }
        }
    }

    /// Asks one member once.
    async fn ask<T: Headed>(
        &self,
        number: usize,
        patience: Duration,
        call: impl AsyncFnOnce(Channel) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        let member = self.known(number).await?;
        match timeout(patience, call(member.channel())).await {
            Ok(Ok(answer)) => {
                let answer = answer.into_inner();
                self.accept(member, answer.header())?;
                Ok(answer)
            }
            Ok(Err(status)) => Err(classify(&status, 0)),
            Err(_) => {
                self.hang_up(number);
                Err(Failure::Open(format!("{} is silent", member.name)))
            }
        }
    }

    /// Asks what may be asked twice: one member after another until one answers, or the limit.
    pub async fn read<T: Headed, F>(
        &self,
        call: impl Fn(Channel) -> F + Send + Sync,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let begun = Instant::now();
        let mut silences = 0;
        loop {
            let patience = READ_PATIENCE.get(silences).copied().unwrap_or(LIMIT);
            let patience = patience.min(LIMIT.saturating_sub(begun.elapsed()));
            let number = self.current();
            let answer = self.ask(number, patience, async |c| call(c).await).await;
            let (Err(Failure::NotBegun(why)) | Err(Failure::Open(why))) = &answer else {
                return answer;
            };
            if begun.elapsed() + PAUSE > LIMIT {
                return Err(Failure::NotBegun(format!(
                    "no member answered for {} s, the last: {why}",
                    LIMIT.as_secs()
                )));
            }
            tracing::debug!(
                member = self.at(number).name,
                "asking another member: {why}"
            );
            self.leave(number);
            silences += usize::from(matches!(answer, Err(Failure::Open(_))));
            sleep(PAUSE).await;
        }
    }

    pub async fn reclaim_space(&self) -> Result<(), StoreError> {
        let fail = |status: Status| StoreError::Unavailable(super::failure::text(&status));
        for member in &self.list {
            let mut client = MaintenanceClient::new(member.channel());
            let asked = client.defragment(proto::DefragmentRequest {});
            timeout(DEFRAGMENT_LIMIT, asked)
                .await
                .map_err(|_| StoreError::Unavailable(format!("{} is silent", member.name)))?
                .map_err(fail)?;
        }
        // etcd takes an alarm back only from the member that is named.
        let raised = self
            .alarms(proto::alarm_request::AlarmAction::Get, 0)
            .await?;
        for alarm in raised.alarms.iter().filter(|a| a.alarm == NOSPACE) {
            let deactivate = proto::alarm_request::AlarmAction::Deactivate;
            self.alarms(deactivate, alarm.member_id).await?;
        }
        Ok(())
    }

    async fn alarms(
        &self,
        action: proto::alarm_request::AlarmAction,
        member_id: u64,
    ) -> Result<proto::AlarmResponse, StoreError> {
        let request = proto::AlarmRequest {
            action: action.into(),
            member_id,
            alarm: NOSPACE,
        };
        self.read(
            |channel| async move { MaintenanceClient::new(channel).alarm(led(request)).await },
        )
        .await
        .map_err(Failure::into_error)
    }
}
