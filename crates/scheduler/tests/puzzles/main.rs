//! Puzzles for `tiphys why`: a manifest each, a question, and the one true cause.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod asking;
mod everyday;
mod pods;
mod workloads;
