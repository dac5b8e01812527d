//! What objects use of a namespace's quota, and what its limit ranges say of them: pure functions
//! on values. The API server refuses by them, the quota controller counts by them, so that both
//! count alike. It knows neither a store nor a request.
#![forbid(unsafe_code)]

pub mod amounts;
pub mod check;
pub mod devices;
pub mod evaluator;
pub mod limits;
pub mod pod;
pub mod scope;

pub use amounts::Amounts;
pub use check::{Charge, Limited, Operation, Quota, Refusal, Verdict, WriteRequest, check};
pub use devices::Devices;
pub use evaluator::Evaluator;
pub use scope::Scope;
