//! HorizontalPodAutoscaler: as many replicas as the use of the present ones asks for.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use client::discovery::Discovery;
use client::{Informer, Informers};
use control::action::Target;
use control::{Controller, Count, Plan, Watches};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::common::{Key, key_of};
use crate::metrics::{self, Alive};

mod gather;
mod history;
mod options;
pub mod plan;
pub mod replicas;
#[cfg(test)]
mod tests;

pub use options::{Options, Starts};
pub use plan::Observed;

use history::History;

/// What is remembered between plans.
#[derive(Default)]
struct Memory {
    histories: HashMap<Key, History>,
    /// Which pods each autoscaler's target had the last time.
    selectors: HashMap<Key, api::LabelSelector>,
}

pub struct Autoscalers {
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    memory: Mutex<Memory>,
    discovery: OnceCell<Discovery>,
    alive: Alive,
    options: Options,
}

impl Autoscalers {
    pub fn new(informers: &Informers, options: Options) -> Self {
        Self {
            options,
            autoscalers: informers.of(),
            pods: informers.of(),
            memory: Mutex::default(),
            discovery: OnceCell::new(),
            alive: Alive::default(),
        }
    }

    /// The pods that a scale selects, and who else selects one of them.
    fn selected(&self, key: &Key, selector: &api::LabelSelector, observed: &mut Observed) {
        let mut pods = self.pods.list_namespace(&key.0);
        pods.retain(|p| selector.matches(&p.metadata.labels));
        pods.sort_by_cached_key(|p| p.name_any());
        let mut memory = self.memory.lock();
        memory.selectors.insert(key.clone(), selector.clone());
        let mut others = memory.selectors.iter().filter(|(other, selector)| {
            let same = other.0 == key.0 && *other != key;
            same && pods.iter().any(|p| selector.matches(&p.metadata.labels))
        });
        observed.others = others.by_ref().map(|(other, _)| other.clone()).collect();
        observed.others.sort();
        observed.pods = pods;
    }
}

impl Controller for Autoscalers {
    const NAME: &'static str = "horizontal-pod-autoscaler";
    const QUEUE: &'static str = "horizontalpodautoscaler";
    const ACCOUNT: &'static str = "horizontal-pod-autoscaler";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        metrics::show_scalers(&self.autoscalers, &self.alive);
        // Its own status is not a reason to look again: metrics are looked at in their period.
        watches.on_change(&self.autoscalers, |change| {
            let spec = |o: &Option<std::sync::Arc<HorizontalPodAutoscaler>>| {
                o.as_ref().map(|o| o.spec.clone())
            };
            if spec(&change.old) == spec(&change.new) {
                return Vec::new();
            }
            let either = change.new.iter().chain(&change.old).next();
            either.map(|o| key_of(&**o)).into_iter().collect()
        });
        watches.expect_from(&self.pods);
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        let Some(autoscaler) = self.autoscalers.get(&key.0, &key.1) else {
            let mut memory = self.memory.lock();
            memory.histories.remove(key);
            memory.selectors.remove(key);
            return None;
        };
        Some(Observed {
            autoscaler,
            scale: Err("it was not asked for".into()),
            pods: Vec::new(),
            others: Vec::new(),
            samples: Vec::new(),
            options: self.options,
        })
    }

    async fn gather(
        &self,
        client: &Client,
        mut observed: Observed,
    ) -> Result<Observed, kube::Error> {
        let new = || async { Discovery::new(client.clone()) };
        let discovery = self.discovery.get_or_init(new).await;
        let hpa = observed.autoscaler.clone();
        observed.scale = gather::scale(client, discovery, &hpa).await;
        let Ok(scale) = &observed.scale else {
            return Ok(observed);
        };
        let text = scale.selector().to_owned();
        let Some(selector) = api::LabelSelector::parse(&text)
            .ok()
            .filter(|_| !text.is_empty())
        else {
            return Ok(observed);
        };
        let key = key_of(&*hpa);
        self.selected(&key, &selector, &mut observed);
        let specs = hpa.spec.metrics.as_ref();
        for spec in specs.into_iter().flatten() {
            let sample = gather::sample(client, discovery, &key.0, &text, spec).await;
            observed.samples.push(sample);
        }
        Ok(observed)
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        let mut memory = self.memory.lock();
        match memory.histories.entry(key_of(&*observed.autoscaler)) {
            // As upstream, one that is new is looked at when a period has passed: what its pods use at
            // once says nothing yet, and scaling down by it would take them away.
            Entry::Vacant(new) => {
                new.insert(History::default());
                Plan {
                    wake_after_millis: Some(observed.options.period_millis),
                    ..Plan::default()
                }
            }
            Entry::Occupied(mut known) => plan::plan(observed, known.get_mut(), now_millis),
        }
    }

    fn metrics(&self, observed: &Observed, plan: &Plan) -> Option<Count> {
        let kinds = observed.autoscaler.spec.metrics.iter().flatten();
        let metrics = kinds.map(|m| m.type_.clone()).zip(&observed.samples);
        let seen = metrics::OfScaler {
            from: observed.scale.as_ref().ok().map(plan::Scale::wanted),
            metrics: metrics.map(|(kind, s)| (kind, s.is_err())).collect(),
        };
        metrics::scalers(seen, plan)
    }

    fn failed(&self, key: &Key, target: &Target, error: &kube::Error) {
        let mut memory = self.memory.lock();
        let Some(history) = memory.histories.get_mut(key) else {
            return;
        };
        if target.resource.plural == "horizontalpodautoscalers" {
            history.not_written();
        } else {
            history.not_scaled(client::said(error));
        }
    }
}
