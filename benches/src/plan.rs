//! What a run measures, and how thoroughly.

use std::path::PathBuf;
use std::time::Duration;

/// What every group needs to know.
pub struct Plan {
    pub binary: PathBuf,
    pub quick: bool,
    pub only: String,
    /// How long each API case runs.
    pub time: Duration,
}
