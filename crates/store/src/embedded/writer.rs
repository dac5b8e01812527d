//! The one thread that writes: takes what waits as a group, decides it, makes it durable with
//! one sync, publishes it, answers. It also lets values expire and keeps the log short.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use clock::Instant;

use super::disk::Log;
use super::{Answer, Job, Request, Shared, Special, record, snapshot};
use crate::contract::{Batch, EventKind, KeyValue, Outcome, Revision, StoreError, Txn};
use crate::transaction::{Logged, batch_of, logged, refusal};

/// Transactions under one sync at most: bounds the latency of the first of a group.
const GROUP_TXNS: usize = 256;
/// A group waits for the writers of the last one for this part of its sync at most.
const WAIT_DIVISOR: u32 = 2;
/// And never longer than this: clients come back within it, or have something else to do.
const MOST_WAIT: Duration = Duration::from_millis(2);
/// Values that expire in one transaction at most, so that clients' writes get their turn.
const EXPIRED_AT_ONCE: usize = 256;
/// Longest sleep when something is to expire: the clock may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// After a compaction, which comes every few minutes, a part of a segment is worth a snapshot: a
/// quiet store does not keep what a busy hour left.
const COMPACTED_DIVISOR: u64 = 8;
/// Wait before another try to let values expire after the disk refused.
const REFUSED_SLEEP: Duration = Duration::from_secs(1);

/// A decided group.
#[derive(Default)]
struct Plan {
    outcomes: Vec<Outcome>,
    batches: Vec<(Arc<Batch>, Vec<Logged>)>,
    body: Vec<u8>,
}

pub struct Writer {
    shared: Arc<Shared>,
    log: Log,
    queue: Receiver<Request>,
    /// The cause of the writer's end, once it cannot go on.
    dead: Option<StoreError>,
    /// Writes a snapshot beside the writing.
    snapshot: Option<std::thread::JoinHandle<()>>,
    last: LastGroup,
    /// When time was last looked at for history, and the newest revision then: what is before it
    /// goes at the next look.
    looked: (i64, Revision),
}

/// What the next group can be expected to be like.
#[derive(Default)]
struct LastGroup {
    txns: usize,
    /// How long it took to make it durable.
    sync: Duration,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, log: Log, queue: Receiver<Request>) -> Self {
        let looked = (
            shared.options.clock.seconds(),
            shared.state.read().revision(),
        );
        Self {
            shared,
            log,
            queue,
            dead: None,
            snapshot: None,
            last: LastGroup::default(),
            looked,
        }
    }

    /// Runs until the last handle is gone or the store is closed. The folder stays locked until
    /// a snapshot that is being written is complete: it removes segments in the end, which the
    /// folder's next owner must not be reading.
    pub fn run(mut self) {
        self.serve();
        self.await_snapshot();
    }

    fn await_snapshot(&mut self) {
        if let Some(thread) = self.snapshot.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of a snapshot panicked");
        }
    }

    fn serve(&mut self) {
        let mut refused = false;
        loop {
            let mut least_bytes = self.shared.options.segment_bytes;
            let received = match self.patience(refused) {
                None => self
                    .queue
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                Some(time) => self.queue.recv_timeout(time),
            };
            match received {
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(request) => {
                    let special = match request {
                        Request::Commit(job) => self.take_group(*job),
                        Request::Special(special) => Some(special),
                    };
                    match special {
                        None => {}
                        Some(Special::Close) => return,
                        Some(Special::Compacted) => least_bytes /= COMPACTED_DIVISOR,
                        Some(Special::Raise(to, answer)) => {
                            // The caller may have gone away.
                            let _ = answer.send(self.raise(to));
                        }
                    }
                }
            }
            refused = !self.expire();
            if self.forget_old() {
                least_bytes /= COMPACTED_DIVISOR;
            }
            self.keep_short(least_bytes);
        }
    }

    fn patience(&self, refused: bool) -> Option<Duration> {
        if self.dead.is_some() {
            return None;
        }
        if refused {
            return Some(REFUSED_SLEEP);
        }
        let state = self.shared.state.read();
        let has_past = state.oldest() < state.revision();
        let look = has_past.then_some(self.looked.0 + self.shared.options.history.seconds);
        let at = state.next_deadline().into_iter().chain(look).min()?;
        let seconds = u64::try_from(at - self.shared.options.clock.seconds()).unwrap_or(0);
        Some(Duration::from_secs(seconds).min(LONGEST_SLEEP))
    }

    /// Forgets versions by their age. Says whether it did.
    fn forget_old(&mut self) -> bool {
        let now = self.shared.options.clock.seconds();
        let (since, revision) = self.looked;
        // A clock that was set back begins again.
        if (0..self.shared.options.history.seconds).contains(&(now - since)) {
            return false;
        }
        let mut state = self.shared.state.write();
        let has_old = since <= now && revision > state.oldest();
        if has_old {
            state.forget(revision);
        }
        self.looked = (now, state.revision());
        has_old
    }

    /// `first` and all that waits, up to what ends the group. Writers that were answered a moment
    /// ago are about to write again: they are waited for a little, or the first of them to come
    /// back would have a sync for itself, and all others would wait for that.
    fn gather(&self, first: Job) -> (Vec<Job>, Option<Special>) {
        let mut jobs = vec![first];
        let patience = (self.last.sync / WAIT_DIVISOR).min(MOST_WAIT);
        let deadline = Instant::now() + patience;
        while jobs.len() < GROUP_TXNS {
            let next = match self.queue.try_recv() {
                Err(mpsc::TryRecvError::Empty) if jobs.len() < self.last.txns => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.queue.recv_timeout(left).ok()
                }
                other => other.ok(),
            };
            match next {
                Some(Request::Commit(job)) => jobs.push(*job),
                Some(Request::Special(special)) => return (jobs, Some(special)),
                None => break,
            }
        }
        (jobs, None)
    }

    /// Commits `first` and all that waits, up to what ends the group.
    fn take_group(&mut self, first: Job) -> Option<Special> {
        let (jobs, end) = self.gather(first);
        self.last.txns = jobs.len();
        let (txns, answers): (Vec<Txn>, Vec<Answer>) =
            jobs.into_iter().map(|j| (j.txn, j.answer)).unzip();
        match self.commit(txns) {
            Ok(outcomes) => {
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    // A client that went away has its write all the same.
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(e) => {
                for answer in answers {
                    let _ = answer.send(Err(e.clone()));
                }
            }
        }
        end
    }

    fn raise(&mut self, to: Revision) -> Result<Revision, StoreError> {
        if let Some(e) = &self.dead {
            return Err(e.clone());
        }
        let now = self.shared.state.read().revision();
        if now >= to {
            return Ok(now);
        }
        let mut body = Vec::new();
        record::put_txn(&mut body, to, &[]);
        self.append(&body)?;
        self.shared.state.write().raise(to);
        self.shared.newest.send_replace(to);
        Ok(to)
    }

    fn end(&mut self, cause: &StoreError) {
        tracing::error!("the store takes no more writes: {cause}");
        let why = format!("it takes no more writes until it is opened again: {cause}");
        self.dead = Some(StoreError::Unavailable(why));
    }

    /// Makes a frame durable; any failure but a full disk is the end of writing.
    fn append(&mut self, body: &[u8]) -> Result<(), StoreError> {
        let begun = Instant::now();
        let appended = self.log.append(body);
        self.last.sync = begun.elapsed();
        if let Err(e) = &appended
            && !matches!(e, StoreError::NoSpace(_))
        {
            self.end(e);
        }
        appended
    }

    fn commit(&mut self, txns: Vec<Txn>) -> Result<Vec<Outcome>, StoreError> {
        if let Some(e) = &self.dead {
            return Err(e.clone());
        }
        let plan = self.plan(txns);
        if plan.body.is_empty() {
            return Ok(plan.outcomes);
        }
        self.append(&plan.body)?;
        let revision = {
            let mut state = self.shared.state.write();
            for (batch, ops) in plan.batches {
                state.apply(batch, &ops, self.shared.options.history);
            }
            state.revision()
        };
        self.shared.newest.send_replace(revision);
        Ok(plan.outcomes)
    }

    /// Decides a group against the state and what the group itself has pending.
    fn plan(&self, txns: Vec<Txn>) -> Plan {
        let state = self.shared.state.read();
        let now = self.shared.options.clock.seconds();
        let mut pending: HashMap<Bytes, Option<KeyValue>> = HashMap::new();
        let mut revision = state.revision();
        let mut plan = Plan::default();
        for txn in txns {
            let current = |key: &[u8]| match pending.get(key) {
                Some(kv) => kv.clone(),
                None => state.live(key),
            };
            if let Some(refused) = refusal(&txn.compare, &current) {
                plan.outcomes.push(refused);
                continue;
            }
            let ops = logged(txn.ops, now);
            let batch = batch_of(revision + 1, &ops, current);
            if !batch.events.is_empty() {
                revision += 1;
                record::put_txn(&mut plan.body, revision, &ops);
                for event in &batch.events {
                    let kv = (event.kind == EventKind::Put).then(|| event.kv.clone());
                    pending.insert(event.kv.key.clone(), kv);
                }
                plan.batches.push((Arc::new(batch), ops));
            }
            plan.outcomes.push(Outcome::Committed(revision));
        }
        plan
    }

    /// Deletes what has expired. Says whether that went well.
    fn expire(&mut self) -> bool {
        if self.dead.is_some() {
            return true;
        }
        let now = self.shared.options.clock.seconds();
        let keys = self.shared.state.read().expired(now, EXPIRED_AT_ONCE);
        if keys.is_empty() {
            return true;
        }
        // One transaction each: a batch that deletes many would have one revision for all.
        let txns = keys
            .into_iter()
            .map(|key| Txn {
                compare: Vec::new(),
                ops: vec![crate::contract::Op::Delete { key }],
            })
            .collect();
        match self.commit(txns) {
            Ok(_) => true,
            Err(e) => {
                tracing::warn!("values that expired stay for now: {e}");
                false
            }
        }
    }

    /// Starts a new segment when this one has grown, and writes a snapshot beside the writing.
    fn keep_short(&mut self, least_bytes: u64) {
        let is_busy = self.snapshot.as_ref().is_some_and(|t| !t.is_finished());
        let live_bytes = self.shared.state.read().live_bytes();
        let is_long = self.log.is_long(least_bytes, live_bytes);
        if self.dead.is_some() || !is_long || is_busy {
            return;
        }
        self.await_snapshot();
        let (revision, live) = {
            let state = self.shared.state.read();
            (state.revision(), state.all_live())
        };
        if let Err(e) = self.log.rotate(revision + 1) {
            tracing::warn!("the log goes on in its segment: {e}");
            if !matches!(e, StoreError::NoSpace(_)) {
                self.end(&e);
            }
            return;
        }
        let (dir, faults) = (
            self.log.dir().to_owned(),
            self.shared.options.faults.clone(),
        );
        let bytes = self.log.snapshot_bytes();
        let write = move || match snapshot::write(&dir, revision, &live, &faults) {
            Ok(written) => bytes.store(written, Ordering::Relaxed),
            // Without it the log is only longer; the next rotation tries again.
            Err(e) => tracing::warn!("writing a snapshot: {e}"),
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "a snapshot is written to a disk beside the writing"
        )]
        let thread = std::thread::Builder::new()
            .name("store-snapshot".into())
            .spawn(write);
        match thread {
            Ok(thread) => self.snapshot = Some(thread),
            Err(e) => tracing::warn!("no snapshot now: {e}"),
        }
    }
}
