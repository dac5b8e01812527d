//! The columns that `kubectl get` shows, as upstream's printers name and fill them.

mod cells;
mod core;
mod events;
mod networking;
mod others;
mod pods;
mod workloads;

pub use cells::{NAME_AGE, NAME_CREATED};
pub use core::*;
pub use events::EVENTS;
pub use networking::*;
pub use others::*;
pub use pods::PODS;
pub use workloads::*;

use cells::{
    AGE, CONTAINERS, IMAGES, JOB_CONTAINERS, JOB_IMAGES, NAME, SELECTOR, col, int_col, len_col,
    text_col, wide, wide_col,
};
