//! What commands show to a person in a terminal: the cluster at a glance, who uses what, the logs of
//! several pods. Values in, text out: it reads nothing, and knows no terminal but its size and
//! whether it wants colours.
#![forbid(unsafe_code)]

pub mod glance;
pub mod logs;
pub mod plot;
pub mod pods;
pub mod progress;
pub mod style;
pub mod table;
pub mod top;
pub mod words;
