//! The store itself, without API server: the embedded engine beside an etcd of one member (no
//! TLS, its own default settings) on the same disk, in one run, under the same load through the
//! same trait. Next to them the disk's own rate of synchronous writes. Ratios are to etcd.

mod etcd;
mod load;
mod many;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use store::{Embedded, Options, Store};

use crate::disk;
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::scratch;
use load::{Load, LoadResult};

pub use many::child;

/// Writers at once.
const WRITERS: [usize; 4] = [1, 16, 64, 256];
const READERS: [usize; 2] = [1, 64];
const WATCHERS: usize = 1000;

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    disk::run(plan, report)?;
    let dir = scratch()?;
    let ours: Arc<dyn Store> = Arc::new(Embedded::open(
        &dir.path().join("embedded"),
        Options::default(),
    )?);
    let etcd = match etcd::binary() {
        Some(binary) => Some(etcd::Server::start(&binary, &dir.path().join("etcd")).await?),
        None => {
            println!("no etcd: set TIPHYS_ETCD to its binary, or run `cargo xtask etcd`");
            None
        }
    };
    let theirs = match &etcd {
        Some(server) => Some(server.connect().await?),
        None => None,
    };
    let theirs = theirs.map(|s| Arc::new(s) as Arc<dyn Store>);
    let mut pair = Pair {
        ours,
        theirs,
        report,
    };
    let seconds = if plan.quick { 1 } else { 5 };
    let time = Duration::from_secs(seconds);
    for writers in WRITERS {
        let load = Load::Write;
        pair.measure("durable writes of 1 KiB", load, writers, time)
            .await?;
    }
    for readers in READERS {
        pair.measure("reads of one key", Load::Read, readers, time)
            .await?;
    }
    let events = if plan.quick { 20 } else { 100 };
    pair.watch(events).await?;
    drop(pair);
    drop(etcd);
    many::run(dir.path(), plan, report).await
}

/// Both stores, theirs if there is one.
struct Pair<'a> {
    ours: Arc<dyn Store>,
    theirs: Option<Arc<dyn Store>>,
    report: &'a mut Report,
}

impl Pair<'_> {
    async fn measure(&mut self, what: &str, load: Load, conc: usize, time: Duration) -> Result<()> {
        let theirs = match &self.theirs {
            Some(store) => Some(load::closed_loop(store, load, conc, time).await?),
            None => None,
        };
        let ours = load::closed_loop(&self.ours, load, conc, time).await?;
        self.add(what, conc, ours, theirs);
        Ok(())
    }

    async fn watch(&mut self, events: usize) -> Result<()> {
        let theirs = match &self.theirs {
            Some(store) => Some(load::fan_out(store, WATCHERS, events).await?),
            None => None,
        };
        let ours = load::fan_out(&self.ours, WATCHERS, events).await?;
        self.add("events delivered to all watchers", WATCHERS, ours, theirs);
        Ok(())
    }

    fn add(
        &mut self,
        what: &str,
        concurrency: usize,
        ours: LoadResult,
        theirs: Option<LoadResult>,
    ) {
        let row = |whose: &str, seen: LoadResult| Row {
            case: format!("{whose}: {what}"),
            concurrency,
            per_second: Some(seen.per_second()),
            p50_ms: Some(seen.percentile_ms(50.0)),
            p99_ms: Some(seen.percentile_ms(99.0)),
            ..Row::default()
        };
        let theirs = theirs.map(|seen| row("etcd", seen));
        let mut ours = row("embedded", ours);
        if let Some(theirs) = theirs {
            ours = ours.against(&theirs);
            self.report.add(theirs);
        }
        self.report.add(ours);
    }
}
