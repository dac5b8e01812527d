//! What all simulations stand on: their runtime, when they begin, how they fail.

/// When every run begins: 2026-01-01T00:00:00Z.
pub(crate) const BEGINNING: i64 = 1_767_225_600;

/// What went wrong with the simulation itself.
#[derive(Debug)]
pub struct Failed(pub String);

/// The runtime that a cluster lives in: one thread, and a clock that goes on only when all wait.
///
/// # Errors
/// Where the machine has no more descriptors.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
}
