//! A cluster that a file describes, played in virtual time: the real API server, controllers and
//! scheduler over hollow nodes. The same description gives the same report.

mod captured;
mod census;
mod chance;
mod ending;
mod event;
mod file;
mod form;
mod hollow;
mod listed;
mod load;
mod objects;
mod place;
mod play;
mod report;
mod volumes;

pub use file::Description;
pub use form::DescriptionError;
pub use report::{Evictions, Pending, Report, Sample, Waits, Workload};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// What the file asks for is refused; it names the place in the file.
    #[error("{0}")]
    Refused(String),
    /// The simulation itself has failed.
    #[error("the simulation has failed: {0}")]
    Failed(String),
}

/// Plays a description to its end, in a runtime of its own whose clock is virtual.
///
/// # Errors
/// When something of it is refused, or the control plane does not come up.
pub fn simulate(description: &Description) -> Result<Report, SimulateError> {
    played(description).map_err(|error| match error {
        SimulateError::Failed(_) => error,
        SimulateError::Description(_) | SimulateError::Refused(_) => {
            let told = error.to_string();
            match description.place(&told) {
                Some(place) => SimulateError::Refused(format!("{told} at {place}")),
                None => SimulateError::Refused(told),
            }
        }
    })
}

fn played(description: &Description) -> Result<Report, SimulateError> {
    description.check()?;
    let runtime = crate::runtime().map_err(|e| SimulateError::Failed(e.to_string()))?;
    runtime.block_on(play::play(description))
}
