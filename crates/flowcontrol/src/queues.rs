//! The requests of one priority level: those that run, and those that wait in queues. No more seats
//! are taken than there are; of the requests that wait, that of the queue is next which has had
//! least.
//!
//! Fairness is kept as upstream keeps it, by a virtual time: the seat-seconds that each queue that
//! has something to do would have been given so far, had all been given the same. A queue has a
//! place on that scale, which its requests push ahead by what they cost: by an estimate when they
//! start, and by what they take while they run. Next is the queue whose first request would end
//! first there.
//!
//! Two things are otherwise than upstream. Virtual time goes on by the seats that are taken, and not
//! by those that could be: where a list does not fit into the seats that are left, the queues of
//! lists would fall behind a time that nobody can keep up with, and whoever comes new would wait
//! until they had caught up. And a queue is charged for a request while it runs: charged at its end,
//! who asks for much at once looks as if he had had little.
//!
//! Every call takes the time, which must not go backwards, and gives the waiting requests that
//! may run now. What runs must be handed to [`QueueSet::finish`]; whoever does not want to wait any
//! more calls [`QueueSet::cancel`].

mod queue;
mod shown;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::config::{Queuing, Response};
use crate::shuffle;
use crate::timed::{Integral, Observed, TimedRatio};
use crate::work::Work;

use queue::{Queue, Waiting};
pub use shown::{QueueShown, RequestShown};

/// What a request is taken to need, in seconds, until it is known; as upstream.
const ESTIMATE_SECONDS: f64 = 0.003;

/// Queues that stay in the table while they have nothing to do, so that it is not made and freed
/// with each request; a few hundred bytes each.
const KEPT: usize = 256;

/// Requests of several seats leave one of so many to those of one, which need not wait for them
/// there: a list holds its seats for long, and a small request of somebody else would wait for its
/// end. Upstream leaves none.
const SPARE_PART: u32 = 16;

/// Requests that waited and may run now, with what is to be handed back.
pub type Granted<W> = Vec<(W, Running)>;

/// A request that runs: the number of its place.
#[derive(Debug, PartialEq, Eq)]
pub struct Running(usize);

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    queue: u32,
    number: u64,
}

/// What becomes of a request that comes.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    Run(Running),
    /// Unless it is among those that are granted by the same call, it waits.
    Wait(Ticket),
    Refuse(Refusal),
}

/// Why a request does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// All seats are taken, and the level lets nobody wait.
    ConcurrencyLimit,
    /// All seats are taken, and so are the places in its queue.
    QueueFull,
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub dispatched: u64,
    pub rejected: u64,
    pub cancelled: u64,
}

struct Executing<D> {
    queue: Option<u32>,
    work: Work,
    arrived: Duration,
    started: Duration,
    details: D,
}

/// Seats that a request that has ended keeps until a time.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Lingering {
    until: Duration,
    queue: Option<u32>,
    seats: u32,
}

/// The requests of a priority level. `W` is what a waiting request is woken by, `D` what is shown of
/// a request.
pub struct QueueSet<W, D> {
    response: Response,
    /// Seats.
    limit: u32,
    /// By their numbers: those that have something to do, and up to [`KEPT`] in all that may soon
    /// have something again.
    queues: BTreeMap<u32, Queue<W, D>>,
    /// How many of them have something to do.
    active: u32,
    /// The queue that was served last; of several that have had equally little it comes last.
    robin: u32,
    /// Requests that ever came; it turns the hands.
    comers: u64,
    now: Duration,
    /// The virtual time.
    progress: f64,
    executing: Vec<Option<Executing<D>>>,
    free: Vec<usize>,
    lingering: BinaryHeap<Reverse<Lingering>>,
    waiting: u32,
    waiting_seats: u32,
    running: u32,
    seats: u32,
    /// Those of requests of several.
    wide: u32,
    counts: Counts,
    demand: Integral,
    /// What the figures show of the past.
    pub seat_use: TimedRatio,
    pub executing_ratio: TimedRatio,
    pub waiting_ratio: TimedRatio,
    pub demand_ratio: TimedRatio,
}

/// Bounds of the figures; as upstream.
const SEAT_USE: &[f64] = &[
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0,
];
const REQUESTS: &[f64] = &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];
const DEMAND: &[f64] = &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];

impl<W, D> QueueSet<W, D> {
    pub fn new(response: Response, limit: u32, now: Duration) -> Self {
        let mut new = Self {
            response,
            limit,
            queues: BTreeMap::new(),
            active: 0,
            robin: 0,
            comers: 0,
            now,
            progress: 0.0,
            executing: Vec::new(),
            free: Vec::new(),
            lingering: BinaryHeap::new(),
            waiting: 0,
            waiting_seats: 0,
            running: 0,
            seats: 0,
            wide: 0,
            counts: Counts::default(),
            demand: Integral::new(now),
            seat_use: TimedRatio::new(SEAT_USE, now),
            executing_ratio: TimedRatio::new(REQUESTS, now),
            waiting_ratio: TimedRatio::new(REQUESTS, now),
            demand_ratio: TimedRatio::new(DEMAND, now),
        };
        new.set_wholes();
        new
    }

    /// Changes how requests wait, and the number of seats. What runs goes on; what waits in queues
    /// that are no longer there is still served.
    pub fn configure(&mut self, now: Duration, response: Response, limit: u32) -> Granted<W> {
        let mut granted = self.advance(now);
        self.response = response;
        self.limit = limit;
        self.set_wholes();
        self.dispatch(&mut granted);
        self.observe();
        granted
    }

    fn set_wholes(&mut self) {
        let seats = f64::from(self.limit.max(1));
        let places = match self.response {
            Response::Queue(q) => f64::from(q.queues) * f64::from(q.length_limit.max(1)),
            _ => 1.0,
        };
        self.seat_use.set_whole(self.now, seats);
        self.executing_ratio.set_whole(self.now, seats);
        self.demand_ratio.set_whole(self.now, seats);
        self.waiting_ratio.set_whole(self.now, places);
    }

    /// A request comes. `flow` is a number that all requests of its flow have, and hardly any
    /// others. `waiter` is called only when it does not run at once.
    pub fn start(
        &mut self,
        now: Duration,
        flow: u64,
        work: Work,
        details: D,
        waiter: impl FnOnce() -> W,
    ) -> (Start, Granted<W>) {
        let mut granted = self.advance(now);
        let Response::Queue(queuing) = self.response else {
            let start = if self.fits(work) {
                let running = self.run(None, work, now, details);
                self.observe();
                Start::Run(running)
            } else {
                self.counts.rejected += 1;
                Start::Refuse(Refusal::ConcurrencyLimit)
            };
            return (start, granted);
        };
        let number = self.choose(flow, queuing);
        if self.waiting == 0 && self.seats < self.limit && self.fits(work) {
            let running = self.run(Some(number), work, now, details);
            self.observe();
            return (Start::Run(running), granted);
        }
        let progress = self.progress;
        let queue = self.queue(number);
        if queue.waiting.len() >= queuing.length_limit as usize {
            self.forget_if_idle(number);
            self.counts.rejected += 1;
            return (Start::Refuse(Refusal::QueueFull), granted);
        }
        let ticket = Ticket {
            queue: number,
            number: self.comers,
        };
        let queue = self.queue(number);
        queue.waiting_seats += work.seats();
        queue.waiting_work += total(work);
        queue.waiting.push_back(Waiting {
            number: ticket.number,
            work,
            arrived: now,
            arrived_at: progress,
            waiter: waiter(),
            details,
        });
        self.count(number);
        self.waiting += 1;
        self.waiting_seats += work.seats();
        self.dispatch(&mut granted);
        self.observe();
        (Start::Wait(ticket), granted)
    }

    /// A request has ended.
    pub fn finish(&mut self, now: Duration, running: Running) -> Granted<W> {
        let mut granted = self.advance(now);
        let place = self.executing.get_mut(running.0);
        let Some(ended) = place.and_then(Option::take) else {
            return granted;
        };
        self.free.push(running.0);
        self.running -= 1;
        if let Some(queue) = ended.queue.and_then(|n| self.queues.get_mut(&n)) {
            queue.settle(self.now);
            queue.executing -= 1;
            queue.working = queue.working.saturating_sub(ended.work.initial_seats);
            // What it took is charged by now.
            queue.next -= estimate(ended.work);
            queue.count(&mut self.active);
        }
        if ended.work.latency.is_zero() {
            self.release(ended.queue, ended.work.seats());
        } else {
            self.lingering.push(Reverse(Lingering {
                until: now.saturating_add(ended.work.latency),
                queue: ended.queue,
                seats: ended.work.seats(),
            }));
        }
        self.dispatch(&mut granted);
        self.observe();
        granted
    }

    /// A waiting request is given up. `None` when it does not wait: then it was granted.
    pub fn cancel(&mut self, now: Duration, ticket: Ticket) -> (Option<W>, Granted<W>) {
        let mut granted = self.advance(now);
        let Some(queue) = self.queues.get_mut(&ticket.queue) else {
            return (None, granted);
        };
        queue.settle(self.now);
        let at = queue
            .waiting
            .binary_search_by_key(&ticket.number, |w| w.number);
        let Some(gone) = at.ok().and_then(|at| queue.waiting.remove(at)) else {
            return (None, granted);
        };
        queue.waiting_seats -= gone.work.seats();
        queue.waiting_work -= total(gone.work);
        queue.count(&mut self.active);
        self.waiting -= 1;
        self.waiting_seats -= gone.work.seats();
        self.counts.rejected += 1;
        self.counts.cancelled += 1;
        self.forget_if_idle(ticket.queue);
        // It may have been one for which others had to wait.
        self.dispatch(&mut granted);
        self.observe();
        (Some(gone.waiter), granted)
    }

    /// Lets time pass.
    pub fn pass(&mut self, now: Duration) -> Granted<W> {
        let granted = self.advance(now);
        self.observe();
        granted
    }

    /// When something waits that may run by time alone: then [`QueueSet::pass`] is to be called.
    pub fn wakes_at(&self) -> Option<Duration> {
        if self.waiting == 0 {
            return None;
        }
        self.lingering.peek().map(|Reverse(l)| l.until)
    }

    /// What it could use since the last call.
    pub fn take_demand(&mut self, now: Duration) -> Observed {
        self.demand.take(now)
    }

    /// Brings virtual time up to `now`, and gives back seats whose time is over.
    fn advance(&mut self, now: Duration) -> Granted<W> {
        let mut granted = Vec::new();
        while let Some(Reverse(first)) = self.lingering.peek()
            && first.until <= now
        {
            let Some(Reverse(over)) = self.lingering.pop() else {
                break;
            };
            self.move_to(over.until);
            self.release(over.queue, over.seats);
            self.dispatch(&mut granted);
            self.observe();
        }
        self.move_to(now);
        granted
    }

    fn move_to(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.now).as_secs_f64();
        self.now = self.now.max(now);
        if passed <= 0.0 || self.active == 0 {
            return;
        }
        self.progress += passed * f64::from(self.seats) / f64::from(self.active);
    }

    /// The queue of the flow's hand in which least waits.
    fn choose(&mut self, flow: u64, queuing: Queuing) -> u32 {
        let turn = self.comers;
        self.comers += 1;
        let hand = shuffle::deal(flow, queuing.queues, queuing.hand_size);
        let hand = hand.queues();
        let size = hand.len().max(1);
        let start = (turn % size as u64) as usize;
        let turned = hand.iter().cycle().skip(start).take(size);
        if self.waiting == 0 {
            return hand.get(start).copied().unwrap_or(0);
        }
        let waits = |n: &u32| self.queues.get(n).map_or(0.0, |q| q.waiting_work);
        turned
            .copied()
            .min_by(|a, b| waits(a).total_cmp(&waits(b)))
            .unwrap_or(0)
    }

    /// A queue; one that had nothing to do begins at the present.
    fn queue(&mut self, number: u32) -> &mut Queue<W, D> {
        let queue = self.queues.entry(number);
        let queue = queue.or_insert_with(Queue::new);
        queue.settle(self.now);
        if queue.has_nothing() {
            queue.next = self.progress;
        }
        queue
    }

    /// Whether there are seats for it. One that wants more than there are runs alone; beside others,
    /// one of several seats leaves some to those of one.
    fn fits(&self, work: Work) -> bool {
        let seats = work.seats();
        match self.response {
            Response::Exempt => true,
            _ if seats > self.limit => self.running == 0,
            _ if self.seats.saturating_add(seats) > self.limit => false,
            _ if seats == 1 || self.running == 0 => true,
            _ => self.wide.saturating_add(seats) <= self.limit.saturating_sub(self.spare()),
        }
    }

    /// Seats that only requests of one take.
    fn spare(&self) -> u32 {
        self.limit / SPARE_PART
    }

    /// Whether a request of one seat takes nothing from those of several if it goes before them.
    fn has_spare(&self) -> bool {
        self.seats < self.limit && self.seats.saturating_sub(self.wide) < self.spare()
    }

    fn run(
        &mut self,
        number: Option<u32>,
        mut work: Work,
        arrived: Duration,
        details: D,
    ) -> Running {
        if work.final_seats > self.limit && self.limit > 0 && self.response != Response::Exempt {
            // The same work, in the seats that there are.
            let seconds = work.final_work() / f64::from(self.limit);
            work.final_seats = self.limit;
            work.latency = Duration::try_from_secs_f64(seconds).unwrap_or(work.latency);
        }
        self.running += 1;
        self.seats = self.seats.saturating_add(work.seats());
        if work.seats() > 1 {
            self.wide = self.wide.saturating_add(work.seats());
        }
        self.counts.dispatched += 1;
        if let Some(number) = number {
            let queue = self.queue(number);
            queue.executing += 1;
            queue.seats += work.seats();
            queue.working += work.initial_seats;
            queue.next += total(work);
            self.count(number);
        }
        let entry = Some(Executing {
            queue: number,
            work,
            arrived,
            started: self.now,
            details,
        });
        match self.free.pop() {
            Some(at) => {
                if let Some(place) = self.executing.get_mut(at) {
                    *place = entry;
                }
                Running(at)
            }
            None => {
                self.executing.push(entry);
                Running(self.executing.len() - 1)
            }
        }
    }

    fn release(&mut self, number: Option<u32>, seats: u32) {
        self.seats = self.seats.saturating_sub(seats);
        if seats > 1 {
            self.wide = self.wide.saturating_sub(seats);
        }
        if let Some(number) = number {
            if let Some(queue) = self.queues.get_mut(&number) {
                queue.seats = queue.seats.saturating_sub(seats);
            }
            self.forget_if_idle(number);
        }
    }

    fn count(&mut self, number: u32) {
        if let Some(queue) = self.queues.get_mut(&number) {
            queue.count(&mut self.active);
        }
    }

    fn forget_if_idle(&mut self, number: u32) {
        if self.queues.len() <= KEPT {
            return;
        }
        let queue = self.queues.get(&number);
        if queue.is_some_and(|q| q.has_nothing() && q.seats == 0) {
            self.queues.remove(&number);
        }
    }

    /// Runs what can run of what waits, in the order of fairness. When the next one does not fit, it
    /// and all others wait for it, so that one that needs many seats gets them; but not in the seats
    /// that are not for it.
    fn dispatch(&mut self, granted: &mut Granted<W>) {
        while self.waiting > 0 && self.seats < self.limit {
            let next = self.next_queue(|_| true);
            let next = next.filter(|(_, work)| self.fits(*work)).or_else(|| {
                let has_spare = self.has_spare();
                let small = |work: Work| has_spare && work.seats() == 1;
                self.next_queue(small)
            });
            let Some((number, work)) = next else {
                return;
            };
            let now = self.now;
            let queue = self.queues.get_mut(&number);
            let Some((place, next, queue)) =
                queue.and_then(|q| Some((q.place(now), q.waiting.pop_front()?, q)))
            else {
                return;
            };
            queue.waiting_seats -= work.seats();
            queue.waiting_work = if queue.waiting.is_empty() {
                // No rounding is left behind.
                0.0
            } else {
                queue.waiting_work - total(work)
            };
            self.waiting -= 1;
            self.waiting_seats -= work.seats();
            self.robin = number;
            let running = self.run(Some(number), work, next.arrived, next.details);
            // It keeps its place, also one that has nothing to do at this moment.
            if let Some(queue) = self.queues.get_mut(&number) {
                queue.next = place + total(work);
            }
            granted.push((next.waiter, running));
        }
    }

    /// The queue whose first request would end first in virtual time, of those whose first request
    /// may be next, and that request's work; of several, the one behind the one that was served last.
    fn next_queue(&self, may_be: impl Fn(Work) -> bool) -> Option<(u32, Work)> {
        let mut best: Option<(f64, u32, u32, Work)> = None;
        for (number, queue) in &self.queues {
            let Some(first) = queue.waiting.front().filter(|first| may_be(first.work)) else {
                continue;
            };
            let end = queue.place(self.now) + total(first.work);
            let distance = number.wrapping_sub(self.robin).wrapping_sub(1);
            let is_better = match best {
                None => true,
                Some((e, d, ..)) => end.total_cmp(&e).then(distance.cmp(&d)).is_lt(),
            };
            if is_better {
                best = Some((end, distance, *number, first.work));
            }
        }
        best.map(|(_, _, number, work)| (number, work))
    }

    fn observe(&mut self) {
        let now = self.now;
        let seats = f64::from(self.seats);
        let wanted = seats + f64::from(self.waiting_seats);
        self.demand.set(now, wanted);
        self.demand_ratio.set(now, wanted);
        self.seat_use.set(now, seats);
        self.executing_ratio.set(now, f64::from(self.running));
        self.waiting_ratio.set(now, f64::from(self.waiting));
    }
}

/// What a request is taken to cost while it runs, in seat-seconds, until it is known.
fn estimate(work: Work) -> f64 {
    f64::from(work.initial_seats) * ESTIMATE_SECONDS
}

/// The same, with what it costs after its end.
fn total(work: Work) -> f64 {
    estimate(work) + work.final_work()
}

#[cfg(test)]
mod tests;
