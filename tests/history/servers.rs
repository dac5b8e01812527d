//! The servers under test and, where they keep their objects there, an etcd of several members:
//! real processes that are killed and paused while clients use them.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use tempfile::TempDir;
use tests::Context;
use tests::command::{Running, eventually};
use tests::slot::Slot;

use crate::stores::etcd;

/// Longest time between the return of what was hit and the next hit: long enough for some
/// hundred operations, short enough for hundreds of kills in minutes.
const MOST_BETWEEN: Duration = Duration::from_millis(400);

/// Longest pause: some clients give up meanwhile, others do not (`clients::PATIENCE`).
const MOST_PAUSED: Duration = Duration::from_millis(1_500);

/// Answers that must come after a hit before the next: the store goes on, and its log grows.
const ANSWERS_BETWEEN: u64 = 10;

/// What was done to the processes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Hits {
    pub server_kills: usize,
    pub server_pauses: usize,
    pub member_kills: usize,
    pub member_pauses: usize,
}

impl Hits {
    pub fn all(&self) -> usize {
        self.server_kills + self.server_pauses + self.member_kills + self.member_pauses
    }
    pub fn add(&mut self, other: Self) {
        self.server_kills += other.server_kills;
        self.server_pauses += other.server_pauses;
        self.member_kills += other.member_kills;
        self.member_pauses += other.member_pauses;
    }
}

pub struct Plant<'a> {
    cx: &'a Context<'a>,
    slots: Vec<Slot>,
    servers: Vec<Mutex<Option<Running>>>,
    etcd: Option<Mutex<etcd::Cluster>>,
    pub random: Mutex<StdRng>,
    /// Removed when all processes are gone.
    dir: TempDir,
}

impl<'a> Plant<'a> {
    /// Starts one server with the embedded store, or so many on an etcd of `members`.
    pub fn start(cx: &'a Context<'a>, servers: usize, members: usize, seed: u64) -> Result<Self> {
        let etcd = (members > 0).then(|| {
            let members = cx.cluster.block_on(etcd::Cluster::start(members, &[]));
            Mutex::new(members)
        });
        let plant = Self {
            cx,
            slots: (0..servers).map(|_| Slot::take()).collect::<Result<_>>()?,
            servers: (0..servers).map(|_| Mutex::new(None)).collect(),
            etcd,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            dir: tempfile::Builder::new()
                .prefix("tiphys-history-")
                .tempdir()?,
        };
        for number in 0..servers {
            plant.launch(number)?;
            // One after another: the first makes the cluster that the others join.
            eventually("a server of the history is ready", || plant.ready(number))
                .with_context(|| plant.text(number))?;
        }
        Ok(plant)
    }

    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    fn folder(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("server-{number}"))
    }

    fn launch(&self, number: usize) -> Result<()> {
        let (folder, slot) = (self.folder(number), &self.slots[number]);
        std::fs::create_dir_all(&folder)?;
        let mut command = self.cx.cluster.tiphys(&[
            "server",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
        ]);
        command
            .arg(format!("--data-dir={}", folder.join("data").display()))
            .arg(format!("--port={}", slot.port()))
            .arg(format!("--service-cidr={}", self.slots[0].service_cidr()))
            .arg(format!("--pod-cidr={}", self.slots[0].pod_cidr()))
            .arg(format!(
                "--kubeconfig-out={}",
                self.kubeconfig(number).display()
            ));
        if let Some(etcd) = &self.etcd {
            let etcd = etcd.lock().map_err(|_| anyhow!("poisoned"))?;
            let files = etcd.pki().write_server(&folder);
            let token = self.dir.path().join("server-token");
            command
                .arg("--datastore=etcd")
                .arg(format!("--etcd-endpoints={}", etcd.endpoints().join(",")))
                .arg(format!("--server-token-file={}", token.display()));
            let names = ["cafile", "certfile", "keyfile"];
            for (name, file) in names.iter().zip(files) {
                command.arg(format!("--etcd-{name}={}", file.display()));
            }
        }
        let running = Running::start(command)?;
        *self.servers[number]
            .lock()
            .map_err(|_| anyhow!("poisoned"))? = Some(running);
        Ok(())
    }

    fn kubeconfig(&self, number: usize) -> PathBuf {
        self.folder(number).join("admin.kubeconfig")
    }

    fn ready(&self, number: usize) -> Result<()> {
        ensure!(
            self.servers[number]
                .lock()
                .map_err(|_| anyhow!("poisoned"))?
                .as_ref()
                .is_some_and(Running::is_running),
            "the server has ended"
        );
        let client = self.client(number)?;
        let request = http::Request::get("/readyz").body(Vec::new())?;
        let answer = async { client.request_text(request).await };
        Ok(self.cx.cluster.block_on(answer).map(drop)?)
    }

    /// An administrator's client of one server that never repeats a request by itself: a
    /// repeated creation would be refused because of its own success.
    pub fn client(&self, number: usize) -> Result<kube::Client> {
        wire::install_crypto();
        let file = Kubeconfig::read_from(self.kubeconfig(number))?;
        self.cx.cluster.block_on(async {
            let options = KubeConfigOptions::default();
            let mut config = kube::Config::from_custom_kubeconfig(file, &options).await?;
            config.default_retry = false;
            Ok(kube::Client::try_from(config)?)
        })
    }

    /// What a server printed since it was last started.
    pub fn text(&self, number: usize) -> String {
        let running = self.servers[number].lock().ok();
        running
            .and_then(|r| r.as_ref().map(Running::text))
            .unwrap_or_default()
    }

    fn chance(&self, of: u32) -> bool {
        self.below(of) == 0
    }

    fn below(&self, limit: u32) -> u32 {
        self.random
            .lock()
            .map_or(0, |mut r| r.random_range(0..limit.max(1)))
    }

    /// Sleeps at random up to this: the moment of a hit is what is random.
    fn wait(&self, most: Duration) {
        let ms = self.below(u32::try_from(most.as_millis()).unwrap_or(u32::MAX));
        std::thread::sleep(Duration::from_millis(ms.into()));
    }

    /// Hits the processes one after another, until there were `count` hits. `answers` counts
    /// what clients got.
    pub fn trouble(&self, count: usize, answers: &AtomicU64) -> Result<Hits> {
        let mut hits = Hits::default();
        while hits.all() < count {
            let before = answers.load(Ordering::Relaxed);
            match (&self.etcd, self.chance(2)) {
                (Some(etcd), true) => self.hit_member(etcd, &mut hits)?,
                _ => self.hit_server(&mut hits)?,
            }
            eventually("clients are answered after a hit", || {
                let now = answers.load(Ordering::Relaxed);
                ensure!(now >= before + ANSWERS_BETWEEN, "{} answers", now - before);
                Ok(())
            })
            .with_context(|| {
                let texts: Vec<String> = (0..self.servers()).map(|n| self.text(n)).collect();
                texts.join("\n---\n")
            })?;
            self.wait(MOST_BETWEEN);
        }
        Ok(hits)
    }

    fn hit_server(&self, hits: &mut Hits) -> Result<()> {
        let number = self.below(u32::try_from(self.servers())?) as usize;
        let lock = || self.servers[number].lock().map_err(|_| anyhow!("poisoned"));
        if self.chance(5) {
            let signal = |signal| lock()?.as_ref().context("it runs")?.signal(signal);
            signal(Signal::STOP)?;
            self.wait(MOST_PAUSED);
            hits.server_pauses += 1;
            if self.chance(2) {
                return signal(Signal::CONT);
            }
            // A paused one is killed: what it held is lost.
        }
        // Dropping it kills it and waits.
        drop(lock()?.take());
        hits.server_kills += 1;
        self.launch(number)?;
        while self.chance(4) {
            // Also while it starts.
            self.wait(MOST_BETWEEN);
            drop(lock()?.take());
            hits.server_kills += 1;
            self.launch(number)?;
        }
        Ok(())
    }

    fn hit_member(&self, etcd: &Mutex<etcd::Cluster>, hits: &mut Hits) -> Result<()> {
        let lock = || etcd.lock().map_err(|_| anyhow!("poisoned"));
        let members = u32::try_from(lock()?.members.len())?;
        let number = self.below(members) as usize;
        if self.chance(2) {
            lock()?.signal(number, Signal::STOP);
            self.wait(MOST_PAUSED);
            lock()?.signal(number, Signal::CONT);
            hits.member_pauses += 1;
        } else {
            lock()?.kill(number);
            self.wait(MOST_BETWEEN);
            lock()?.launch(number);
            hits.member_kills += 1;
        }
        Ok(())
    }
}
