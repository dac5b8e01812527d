//! A store with many objects: how soon it serves again after a start, what it holds in memory,
//! what it takes on disk. The embedded engine is opened by a process of its own, which holds
//! nothing else.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use store::{Embedded, Options, Store};

use super::{etcd, load};
use crate::plan::Plan;
use crate::report::{Report, Row};
use crate::server::memory_of;

const OBJECTS: u64 = 100_000;
const PREFIX: &str = "/registry/many/";
/// Names the folder that a child is to open.
const OPEN: &str = "TIPHYS_BENCH_OPEN";

struct Figures {
    ready_seconds: f64,
    resident_mb: f64,
    bytes_per_object: f64,
}

pub async fn run(dir: &Path, plan: &Plan, report: &mut Report) -> Result<()> {
    let count = if plan.quick { OBJECTS / 10 } else { OBJECTS };
    let theirs = match etcd::binary() {
        Some(binary) => Some(etcd_figures(&binary, &dir.join("etcd-many"), count).await?),
        None => None,
    };
    let ours = own_figures(&dir.join("embedded-many"), count).await?;
    let cases = [
        ("start", "s", |f: &Figures| f.ready_seconds),
        ("resident", "MB", |f: &Figures| f.resident_mb),
        ("on disk per object", "bytes", |f: &Figures| {
            f.bytes_per_object
        }),
    ] as [(&str, &'static str, fn(&Figures) -> f64); 3];
    for (what, unit, of) in cases {
        let name = |whose: &str| format!("{whose}: {count} objects of 1 KiB, {what}");
        let mut row = Row::value(&name("embedded"), unit, of(&ours));
        if let Some(theirs) = &theirs {
            let theirs = Row::value(&name("etcd"), unit, of(theirs));
            row = row.against(&theirs);
            report.add(theirs);
        }
        report.add(row);
    }
    Ok(())
}

async fn etcd_figures(binary: &Path, dir: &Path, count: u64) -> Result<Figures> {
    let server = etcd::Server::start(binary, dir).await?;
    load::fill(&server.connect().await?, PREFIX, count).await?;
    server.stop()?;
    let bytes = bytes_in(dir)?;
    let server = etcd::Server::start(binary, dir).await?;
    Ok(Figures {
        ready_seconds: server.ready_after.as_secs_f64(),
        resident_mb: memory_of(server.pid()).resident_mb,
        bytes_per_object: bytes as f64 / count as f64,
    })
}

async fn own_figures(dir: &Path, count: u64) -> Result<Figures> {
    let store = Embedded::open(dir, Options::default())?;
    load::fill(&store, PREFIX, count).await?;
    store.close();
    let bytes = bytes_in(dir)?;
    let output = Command::new(std::env::current_exe()?)
        .env(OPEN, dir)
        .output()
        .context("starting a child that opens the store")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text.split_whitespace().flat_map(str::parse).collect();
    let &[ready_seconds, resident_mb, found] = numbers.as_slice() else {
        bail!("{text}{}", String::from_utf8_lossy(&output.stderr));
    };
    if found as u64 != count {
        bail!("{found} of {count} objects are there again");
    }
    Ok(Figures {
        ready_seconds,
        resident_mb,
        bytes_per_object: bytes as f64 / count as f64,
    })
}

/// What a child does: opens the store, and says how long that took (from the call to the first
/// read), its memory, and how many objects are there. False when this is not a child.
pub async fn child() -> Result<bool> {
    let Some(dir) = std::env::var_os(OPEN) else {
        return Ok(false);
    };
    let begun = Instant::now();
    let store = Embedded::open(Path::new(&dir), Options::default())?;
    store.revision().await?;
    let seconds = begun.elapsed().as_secs_f64();
    let memory = memory_of(std::process::id());
    let page = store
        .range(PREFIX.into(), bytes::Bytes::new(), 1, 0)
        .await?;
    let found = page.items.len() as u64 + page.remaining;
    println!("{seconds} {} {found}", memory.resident_mb);
    Ok(true)
}

/// Bytes of all blocks of the files in a folder.
fn bytes_in(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = std::fs::metadata(&path)?;
        bytes += if meta.is_dir() {
            bytes_in(&path)?
        } else {
            meta.blocks() * 512
        };
    }
    Ok(bytes)
}
