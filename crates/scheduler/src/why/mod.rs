//! `tiphys why`: why something is as it is, and the smallest change that would help. A pure function
//! of the state of a cluster: the same code that decides about pods is asked about each node, and
//! where a change is supposed, about a copy of the state.

mod answer;
mod change;
mod claim;
mod deployment;
mod load;
mod namespace;
mod pod;
mod report;
mod service;
mod state;

pub use answer::{Question, QuestionKind, answer};
pub use change::Change;
pub use report::{Answer, NodeAnswer, Profiles, Refusal, WhyError};
pub use state::State;
