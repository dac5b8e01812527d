//! Points of the write path at which tests make the disk fail.

use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Point {
    BeforeWrite,
    /// Half of the frame is written.
    MidWrite,
    BeforeSync,
    /// Durable, but nobody has an answer yet.
    AfterSync,
    MidRotation,
    MidSnapshot,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    None,
    /// The writer stops as if the machine had.
    Crash,
    NoSpace,
}

/// What happens at a point.
pub type Faults = Arc<dyn Fn(Point) -> Fault + Send + Sync>;

/// A disk that never fails by our doing.
pub fn none() -> Faults {
    Arc::new(|_| Fault::None)
}
