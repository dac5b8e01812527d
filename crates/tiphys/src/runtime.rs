//! The threads that this process works with.

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Handle, Runtime};
use wire::serve::Lanes;

/// How many polls of tasks may pass before a busy worker asks the kernel what has arrived. With the
/// runtime's own 61, somebody's small request is not even seen while 61 pieces of another's lists
/// are made and sent; asking costs less than a microsecond.
const POLLS_PER_LOOK: u32 = 8;
/// How far threads that send large answers give way to all others, as `nice` has it: while others want
/// the processor they get a tenth of it.
const GIVES_WAY: i32 = 10;

/// A runtime of several threads.
pub fn several() -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder
        // Two cores are common; more threads would only hold more stacks and arenas.
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)))
        .event_interval(POLLS_PER_LOOK)
        .enable_all();
    builder
}

/// Threads for connections that are sent much ([`wire::serve::lanes`]); they end when it is dropped.
pub struct LargeLane(Option<Runtime>);

impl LargeLane {
    pub fn start() -> Result<Self> {
        let made = several()
            .thread_name("large-answers")
            .on_thread_start(|| {
                // Of this thread alone. Where that is not allowed they are as others.
                let _ = rustix::process::setpriority_process(None, GIVES_WAY);
            })
            .build();
        Ok(Self(Some(made.context("threads for large answers")?)))
    }

    /// The lanes of a server that runs in this runtime.
    pub fn beside(&self, small: Handle) -> Lanes {
        match &self.0 {
            Some(large) => Lanes::new(small, large.handle().clone()),
            None => Lanes::ONE,
        }
    }
}

impl Drop for LargeLane {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // It may be dropped by a task, which must not wait.
            runtime.shutdown_background();
        }
    }
}
