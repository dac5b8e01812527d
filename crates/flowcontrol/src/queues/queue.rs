//! One queue of a priority level: what waits in it, and how far what it was given has pushed it ahead in
//! virtual time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::work::Work;

/// A request that waits.
pub(super) struct Waiting<W, D> {
    pub(super) number: u64,
    pub(super) work: Work,
    pub(super) arrived: Duration,
    /// The virtual time at which it came.
    pub(super) arrived_at: f64,
    pub(super) waiter: W,
    pub(super) details: D,
}

/// Its requests that wait, the first first, and figures of them and of those that run.
pub(super) struct Queue<W, D> {
    pub(super) waiting: VecDeque<Waiting<W, D>>,
    pub(super) waiting_seats: u32,
    pub(super) waiting_work: f64,
    pub(super) executing: u32,
    pub(super) seats: u32,
    /// Seats of its requests that run; they push it ahead.
    pub(super) working: u32,
    /// Its place in virtual time at `settled`.
    pub(super) next: f64,
    pub(super) settled: Duration,
    /// Whether it is counted among those that have something to do.
    pub(super) is_active: bool,
}

impl<W, D> Queue<W, D> {
    pub(super) fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_seats: 0,
            waiting_work: 0.0,
            executing: 0,
            seats: 0,
            working: 0,
            next: 0.0,
            settled: Duration::ZERO,
            is_active: false,
        }
    }

    pub(super) fn has_nothing(&self) -> bool {
        self.waiting.is_empty() && self.executing == 0
    }

    /// Its place in virtual time.
    pub(super) fn place(&self, now: Duration) -> f64 {
        let took = now.saturating_sub(self.settled).as_secs_f64();
        let place = self.next + f64::from(self.working) * took;
        // A queue that could not use what it was given does not save it up: its first request is not
        // treated as if it had come earlier than it did.
        let first = self.waiting.front();
        first.map_or(place, |first| place.max(first.arrived_at))
    }

    /// Before something about it changes.
    pub(super) fn settle(&mut self, now: Duration) {
        self.next = self.place(now);
        self.settled = now;
    }

    /// Counts it among the active ones, or takes it out, as it is now.
    pub(super) fn count(&mut self, active: &mut u32) {
        let is_active = !self.has_nothing();
        match (self.is_active, is_active) {
            (false, true) => *active += 1,
            (true, false) => *active -= 1,
            _ => {}
        }
        self.is_active = is_active;
    }
}
