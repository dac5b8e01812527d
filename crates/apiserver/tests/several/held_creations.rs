//! An admission plugin that holds creations between the last look and the commit, so that a test
//! can change what the decision rested on.

use std::sync::Arc;

use api::Status;
use apiserver::State;
use apiserver::admission::{Admit, Operation, Review};
use futures::future::BoxFuture;
use registry::Row;
use tokio::sync::Semaphore;

/// Holds creations of one resource.
pub struct Gate {
    resource: &'static str,
    arrived: Semaphore,
    open: Semaphore,
}

impl Gate {
    pub fn of(resource: &'static str) -> Arc<Self> {
        Arc::new(Self {
            resource,
            arrived: Semaphore::new(0),
            open: Semaphore::new(0),
        })
    }

    /// Waits until a creation is held.
    pub async fn holds(&self) {
        let arrived = self.arrived.acquire().await;
        arrived.expect("never closed").forget();
    }

    /// Lets what is held go on; from now on nothing is held.
    pub fn open(&self) {
        self.open.add_permits(1);
    }
}

impl Admit for Gate {
    fn name(&self) -> &'static str {
        "Gate"
    }
    fn handles(&self, operation: Operation, row: &Row, _: &str) -> bool {
        operation == Operation::Create && &*row.resource == self.resource
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        _: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            self.arrived.add_permits(1);
            let place = self.open.acquire().await.expect("never closed");
            // Stays open for the next try.
            drop(place);
            Ok(())
        })
    }
}
