//! What a level shows of its requests and queues, without changing them.

use std::time::Duration;

use super::{Counts, QueueSet, Ticket};
use crate::work::Work;

/// A queue as it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QueueShown {
    pub number: u32,
    pub waiting: usize,
    pub executing: u32,
    pub seats: u32,
    pub next: f64,
    pub initial_seats: u32,
    pub waiting_seats: u32,
    pub waiting_work: f64,
}

/// A request as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct RequestShown<'a, D> {
    pub queue: Option<u32>,
    /// Its place in the queue; none when it runs.
    pub place: Option<usize>,
    pub arrived: Duration,
    pub started: Option<Duration>,
    pub work: Work,
    pub details: &'a D,
}

impl<W, D> QueueSet<W, D> {
    pub fn limit(&self) -> u32 {
        self.limit
    }
    pub fn waiting(&self) -> u32 {
        self.waiting
    }
    pub fn waiting_seats(&self) -> u32 {
        self.waiting_seats
    }
    pub fn running(&self) -> u32 {
        self.running
    }
    /// Seats in use, also by what has ended.
    pub fn seats(&self) -> u32 {
        self.seats
    }
    pub fn progress(&self) -> f64 {
        self.progress
    }
    pub fn counts(&self) -> Counts {
        self.counts
    }
    pub fn is_idle(&self) -> bool {
        self.waiting == 0 && self.running == 0
    }
    /// Requests that wait in the queue of a ticket.
    pub fn length(&self, ticket: Ticket) -> usize {
        self.queues
            .get(&ticket.queue)
            .map_or(0, |q| q.waiting.len())
    }

    /// The queues that have, or had, something to do, in order.
    pub fn queues(&self) -> impl Iterator<Item = QueueShown> {
        self.queues.iter().map(|(number, q)| QueueShown {
            number: *number,
            waiting: q.waiting.len(),
            executing: q.executing,
            seats: q.seats,
            next: q.place(self.now),
            initial_seats: q.waiting.iter().map(|w| w.work.initial_seats).sum(),
            waiting_seats: q.waiting_seats,
            waiting_work: q.waiting_work,
        })
    }

    /// The requests: those that wait, by queue, and then those that run.
    pub fn requests(&self) -> impl Iterator<Item = RequestShown<'_, D>> {
        let waiting = self.queues.iter().flat_map(|(number, q)| {
            q.waiting.iter().enumerate().map(|(place, w)| RequestShown {
                queue: Some(*number),
                place: Some(place),
                arrived: w.arrived,
                started: None,
                work: w.work,
                details: &w.details,
            })
        });
        let executing = self.executing.iter().flatten().map(|e| RequestShown {
            queue: e.queue,
            place: None,
            arrived: e.arrived,
            started: Some(e.started),
            work: e.work,
            details: &e.details,
        });
        waiting.chain(executing)
    }
}
