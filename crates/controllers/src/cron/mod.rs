//! CronJob: a Job at each time that a schedule names.

use std::sync::Arc;

use client::{Informer, Informers};
use clock::Clock;
use control::{Controller, Count, Plan, Watches};
use k8s_openapi::api::batch::v1::{CronJob, Job};

use crate::common::{Key, controller_of, key_of, uid_of};

mod due;
pub mod plan;
#[cfg(test)]
mod tests;

pub use plan::Observed;

pub struct CronJobs {
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    clock: Clock,
}

impl CronJobs {
    pub fn new(informers: &Informers) -> Self {
        Self {
            crons: informers.of(),
            jobs: informers.of(),
            clock: informers.clock(),
        }
    }
}

impl Controller for CronJobs {
    const NAME: &'static str = "cronjob-controller";
    const QUEUE: &'static str = "cronjob";
    const ACCOUNT: &'static str = "cronjob-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        let clock = self.clock;
        watches.on_change_after(&self.crons, move |change| {
            let cron = change.new.as_ref().or(change.old.as_ref());
            let wait = plan::wait_of(change, clock.millis());
            cron.map(|c| (key_of(&**c), wait)).into_iter().collect()
        });
        watches.on(&self.jobs, |job| {
            let (namespace, _) = key_of(job);
            let owner = controller_of(job).filter(|o| o.kind == "CronJob");
            owner
                .map(|o| (namespace, o.name.clone()))
                .into_iter()
                .collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let cron = self.crons.get(namespace, name)?;
        let uid = uid_of(&*cron);
        let mut jobs: Vec<Arc<Job>> = self.jobs.owned_by(&uid);
        jobs.retain(|j| controller_of(&**j).is_some_and(|o| o.uid == uid));
        jobs.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Some(Observed { cron, jobs })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }

    fn metrics(&self, _: &Observed, plan: &Plan) -> Option<Count> {
        crate::metrics::crons(plan, plan::TIMESTAMP, self.clock.millis())
    }
}
