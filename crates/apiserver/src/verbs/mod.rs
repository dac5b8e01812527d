//! One function per verb, for all kinds. They alone own names, dry-run, preconditions,
//! resourceVersion, generation, finalizers, admission and managed fields.

pub mod admit;
pub mod commit;
pub mod convert;
pub mod create;
pub mod decode;
pub mod delete;
pub mod list;
pub mod managed_fields;
mod owners;
pub mod paging;
pub mod patch;
mod unpatchable;
mod unreadable;
pub mod update;
pub mod watch;
