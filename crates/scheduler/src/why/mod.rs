//! `tiphys why`: why something is as it is, and the smallest change that would help. A pure function
//! of the state of a cluster: the same code that decides about pods is asked about each node, and
//! where a change is supposed, about a copy of the state.

mod answer;
mod autoscaler;
mod budget;
mod change;
mod claim;
mod cron_job;
mod daemon_set;
mod deployment;
mod job;
mod load;
mod namespace;
mod node;
mod pod;
mod readiness;
mod report;
mod reported;
mod service;
mod state;
mod stateful_set;
mod workload;

pub use answer::{Question, QuestionKind, answer};
pub use change::Change;
pub use report::{Answer, NodeAnswer, Profiles, Refusal, WhyError};
pub use state::State;
