//! The lines that `up` prints: what is ready, and how long after the start.

use crate::say::{complain, say};
use std::time::Instant;

pub struct Progress {
    started: Instant,
}

impl Progress {
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }
    pub fn done(&mut self, what: &str) {
        say!("[{:6.2} s] {what}", self.started.elapsed().as_secs_f64());
    }
    pub fn failed(&mut self, what: &str) {
        complain!("[{:6.2} s] {what}", self.started.elapsed().as_secs_f64());
    }
}
