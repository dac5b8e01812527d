//! A watch through one server over a whole run, across all its ends, as clients do it: it lists
//! again where the server no longer knows the revision.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::ObjectList;
use kube::{Api, ResourceExt};
use tests::streams::{Change, Event, Listed, Step};

/// Seconds after which the server ends a watch: often, so that resuming is tested, too.
const ENDS_AFTER: u32 = 5;
/// A watch that is silent for longer is dropped and resumed: its server may be paused.
const SILENCE: Duration = Duration::from_secs(8);
/// The server does not know the revision any more.
const GONE: u16 = 410;
/// Between two tries to connect.
const REST: Duration = Duration::from_millis(20);

/// What it has seen so far.
#[derive(Default)]
pub struct Seen {
    pub steps: Mutex<Vec<Step>>,
    /// The newest revision that an event or a bookmark told.
    revision: AtomicU64,
    pub connections: AtomicU64,
    /// Why it ended before it was told to.
    failure: Mutex<Option<String>>,
    stop: AtomicBool,
}

impl Seen {
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
    pub fn is_well(&self) -> Result<()> {
        let failure = self.failure.lock().map_err(|_| anyhow!("poisoned"))?;
        failure.as_ref().map_or(Ok(()), |f| bail!("{f}"))
    }

    fn step(&self, step: Step) -> Result<()> {
        let steps = self.steps.lock();
        steps.map_err(|_| anyhow!("poisoned"))?.push(step);
        Ok(())
    }

    /// Begins anew from a list, and gives its version.
    fn begin(&self, list: &ObjectList<ConfigMap>) -> Result<String> {
        let version = list.metadata.resource_version.clone();
        let version = version.context("no resourceVersion")?;
        let mut values = BTreeMap::new();
        for object in &list.items {
            if let Some(value) = object.data.as_ref().and_then(|d| d.get("value")) {
                values.insert(object.name_any(), value.parse()?);
            }
        }
        let revision = version.parse()?;
        let list = Listed { revision, values };
        // The first list leaves no gap.
        let after = match self.revision() {
            0 => revision,
            seen => seen,
        };
        self.step(Step::Relisted { after, list })?;
        self.revision.store(revision, Ordering::Release);
        Ok(version)
    }

    fn take(&self, object: &ConfigMap, change: impl FnOnce(u64) -> Change) -> Result<String> {
        let version = object.resource_version().context("no resourceVersion")?;
        let revision = version.parse()?;
        let value = object.data.as_ref().and_then(|d| d.get("value"));
        // Others are the cluster's own.
        if let Some(value) = value {
            let event = Event {
                revision,
                key: object.name_any(),
                change: change(value.parse()?),
            };
            self.step(Step::Event(event))?;
        }
        self.revision.store(revision, Ordering::Release);
        Ok(version)
    }

    /// Takes an event, and gives the version from which to go on; none to list anew.
    fn event(&self, event: WatchEvent<ConfigMap>) -> Result<Option<String>> {
        match event {
            WatchEvent::Added(object) => self.take(&object, Change::Added).map(Some),
            WatchEvent::Modified(object) => self.take(&object, Change::Modified).map(Some),
            WatchEvent::Deleted(object) => self.take(&object, |_| Change::Deleted).map(Some),
            WatchEvent::Bookmark(mark) => Ok(Some(mark.metadata.resource_version)),
            WatchEvent::Error(e) if e.code == GONE => Ok(None),
            WatchEvent::Error(e) => bail!("the watch was ended: {e:?}"),
        }
    }
}

/// Watches until it is told to stop.
pub async fn watch(api: Api<ConfigMap>, seen: Arc<Seen>) {
    if let Err(e) = follow(api, &seen).await
        && let Ok(mut failure) = seen.failure.lock()
    {
        *failure = Some(format!("{e:#}"));
    }
}

async fn follow(api: Api<ConfigMap>, seen: &Seen) -> Result<()> {
    let mut version = None;
    while !seen.stop.load(Ordering::Relaxed) {
        let Some(from) = &version else {
            let all = ListParams::default();
            match tokio::time::timeout(SILENCE, api.list(&all)).await {
                Ok(Ok(list)) => version = Some(seen.begin(&list)?),
                _ => tokio::time::sleep(REST).await,
            }
            continue;
        };
        let params = WatchParams::default().timeout(ENDS_AFTER);
        let stream = match tokio::time::timeout(SILENCE, api.watch(&params, from)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(kube::Error::Api(status))) if status.code == GONE => {
                version = None;
                continue;
            }
            Ok(Err(kube::Error::Api(status))) if status.code < 429 => {
                bail!("the watch was refused: {status:?}")
            }
            _ => {
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        seen.connections.fetch_add(1, Ordering::Relaxed);
        let mut stream = stream.boxed();
        while let Ok(Some(Ok(event))) = tokio::time::timeout(SILENCE, stream.next()).await {
            version = seen.event(event)?;
            if version.is_none() {
                break;
            }
        }
    }
    Ok(())
}
