//! The wire words that every part of Tiphys shares: names, `Status`, group/version/kind,
//! selectors, quantities, field errors. Pure: no I/O, no clock, no randomness.
//! It knows no kind; `schema` and `registry` do.
#![forbid(unsafe_code)]

pub mod cidr;
pub mod corefile;
pub mod cron_schedule;
pub mod csi;
pub mod declared_features;
pub mod duration;
pub mod fence;
pub mod field;
pub mod gvk;
mod host_port;
pub mod local_volumes;
pub mod meta;
pub mod names;
pub mod node_notes;
pub mod percent;
pub mod qos;
pub mod quantity;
pub mod resize;
pub mod selector;
pub mod status;
pub mod taint;
pub mod time;
pub mod version;

pub use fence::Fence;
pub use field::{FieldError, FieldErrorType, FieldPath};
pub use gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use host_port::host_port;
pub use quantity::Quantity;
pub use selector::{FieldSelector, LabelSelector};
pub use status::{Cause, Status};
