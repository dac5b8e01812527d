//! Rounds: clients call, a fault strikes, clients go on; then the books are checked.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;
use tests::command::eventually;
use tests::linear::{self, Answer, Call};
use tests::streams::{self, Listed, Step, Written};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::clients::{Caller, Round, Shared, Told};
use crate::servers::Control;
use crate::watcher::{Seen, watch};

/// Few keys for many clients: they are to meet.
const KEYS: usize = 3;
const CLIENTS: usize = 6;
/// Answers before a fault strikes and after it has passed. Short histories are decided quickly.
const ANSWERS: usize = 60;
/// How long something is paused: below and above the clients' patience, and once so long that
/// etcd's leader would be another, if there were more than one member.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(150),
    Duration::from_millis(700),
    Duration::from_millis(1800),
];

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    KillServer(usize),
    PauseServer(usize),
    KillEtcd,
    PauseEtcd,
}

struct Game {
    control: Control,
    runtime: Runtime,
    apis: Vec<Api<ConfigMap>>,
    shared: Arc<Shared>,
    seen: Vec<Arc<Seen>>,
    watches: Vec<JoinHandle<()>>,
    written: Vec<Written>,
    lists: Vec<(usize, Listed)>,
    attempted: BTreeSet<u64>,
    answered: usize,
    open: usize,
}

/// Plays rounds with the faults in turn, and checks what was told.
pub fn play(name: &str, control: Control, faults: &[Fault], rounds: usize) -> Result<()> {
    let begun = Instant::now();
    let mut game = Game::start(control)?;
    for number in 0..rounds {
        let fault = faults.get(number % faults.len()).context("no faults")?;
        let pause = PAUSES.get(number / faults.len() % PAUSES.len());
        let outcome = game.round(number, *fault, *pause.context("no pause")?);
        outcome.with_context(|| {
            let printed = game.control.text();
            format!("round {number}, {fault:?}; the processes printed:\n{printed}")
        })?;
    }
    let told = game.end()?;
    writeln!(
        std::io::stderr(),
        "{name}: {rounds} faults, {told} in {:.1} s",
        begun.elapsed().as_secs_f64()
    )?;
    Ok(())
}

impl Game {
    fn start(control: Control) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let mut game = Self {
            control,
            runtime,
            apis: Vec::new(),
            shared: Shared::new(),
            seen: Vec::new(),
            watches: Vec::new(),
            written: Vec::new(),
            lists: Vec::new(),
            attempted: BTreeSet::new(),
            answered: 0,
            open: 0,
        };
        for server in 0..game.control.servers.len() {
            let api = game.api(server)?;
            let seen = Arc::<Seen>::default();
            let watch = watch(game.api(server)?, seen.clone());
            game.watches.push(game.runtime.spawn(watch));
            eventually("the watch has begun", || {
                seen.is_well()?;
                ensure!(seen.revision() > 0);
                Ok(())
            })?;
            game.seen.push(seen);
            game.apis.push(api);
        }
        Ok(game)
    }

    /// A client of its own, with its own connections.
    fn api(&self, server: usize) -> Result<Api<ConfigMap>> {
        let path = self.control.kubeconfig(server);
        let client = client::from_kubeconfig(&path, "histories");
        Ok(Api::namespaced(self.runtime.block_on(client)?, "default"))
    }

    fn round(&mut self, number: usize, fault: Fault, pause: Duration) -> Result<()> {
        let round = Arc::new(Round {
            number,
            keys: (0..KEYS).map(|i| format!("r{number}-{i}")).collect(),
            shared: self.shared.clone(),
            told: Mutex::default(),
            answered: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let mut callers = Vec::new();
        for i in 0..CLIENTS {
            let api = self.api(i % self.apis.len())?;
            let seed = u64::try_from(number * CLIENTS + i)?;
            let caller = Caller::new(api, round.clone(), seed);
            callers.push(self.runtime.spawn(caller.run()));
        }
        // A different moment in each round.
        let struck = flow(&round, ANSWERS + number * 7 % 40)
            .and_then(|()| self.strike(fault, pause))
            .and_then(|()| flow(&round, ANSWERS));
        round.stop.store(true, Ordering::Relaxed);
        for caller in callers {
            self.runtime.block_on(caller)?;
        }
        struck?;
        self.finish(&round)?;
        let mut told = round.told.lock().map_err(|_| anyhow!("poisoned"))?;
        self.judge(number, std::mem::take(&mut *told))
    }

    fn strike(&mut self, fault: Fault, pause: Duration) -> Result<()> {
        let control = &mut self.control;
        let process = match fault {
            Fault::KillServer(i) | Fault::PauseServer(i) => control.servers.get_mut(i),
            Fault::KillEtcd | Fault::PauseEtcd => control.etcd.as_mut(),
        };
        let process = process.context("there is no such process")?;
        match fault {
            Fault::KillServer(i) => {
                process.kill();
                control.start_server(i)
            }
            Fault::KillEtcd => {
                process.kill();
                process.start()?;
                process.listens()
            }
            Fault::PauseServer(_) | Fault::PauseEtcd => {
                process.pause(true)?;
                // The time itself is the fault.
                std::thread::sleep(pause);
                process.pause(false)
            }
        }
    }

    /// Reads all keys through every server, and waits until all watches have come so far.
    fn finish(&mut self, round: &Arc<Round>) -> Result<()> {
        for (i, api) in self.apis.iter().enumerate() {
            let mark = format!("mark-{}-{i}", round.number);
            let revision = eventually("a last write is acknowledged", || {
                let object = serde_json::from_value(serde_json::json!({
                    "metadata": { "generateName": mark },
                }))?;
                let create = PostParams::default();
                let made = self.runtime.block_on(api.create(&create, &object))?;
                let version = made.metadata.resource_version.context("no version")?;
                Ok(version.parse::<u64>()?)
            })?;
            let mut caller = Caller::new(api.clone(), round.clone(), 0);
            self.runtime.block_on(caller.finish())?;
            for seen in &self.seen {
                eventually("the watch has come so far", || {
                    ensure!(seen.is_well().is_err() || seen.revision() >= revision);
                    Ok(())
                })?;
                seen.is_well()?;
            }
        }
        Ok(())
    }

    fn judge(&mut self, number: usize, told: Told) -> Result<()> {
        ensure!(told.wrong.is_empty(), "wrong answers: {:?}", told.wrong);
        for (key, ops) in &told.ops {
            linear::check(ops).with_context(|| format!("{key}: {} calls", ops.len()))?;
            // Only writes leave something open.
            let open = |op: &&linear::Op| op.answer == Answer::Unknown && op.call != Call::Get;
            self.open += ops.iter().filter(open).count();
            self.answered += ops.len();
        }
        self.written.extend(told.written);
        self.lists
            .extend(told.lists.into_iter().map(|l| (number, l)));
        self.attempted.extend(told.attempted);
        Ok(())
    }

    /// Ends the watches, and holds what they saw against what clients were told.
    fn end(self) -> Result<String> {
        self.seen.iter().for_each(|s| s.stop());
        for watch in self.watches {
            self.runtime.block_on(watch)?;
        }
        let (mut connections, mut told, mut relists) = (0, Vec::new(), 0);
        for seen in &self.seen {
            seen.is_well()?;
            let steps = seen.steps.lock().map_err(|_| anyhow!("poisoned"))?;
            streams::is_in_order(&steps)?;
            told.push(streams::tells_all(&steps, &self.written, &self.attempted)?);
            for number in 0..=self.lists.last().map_or(0, |l| l.0) {
                let lists = self.lists.iter().filter(|l| l.0 == number);
                let lists: Vec<Listed> = lists.map(|l| l.1.clone()).collect();
                streams::lists_agree(&steps, &format!("r{number}-"), &lists)
                    .with_context(|| format!("round {number}"))?;
            }
            connections += seen.connections.load(Ordering::Relaxed);
            let lists = steps.iter();
            relists += lists.filter(|s| matches!(s, Step::Relisted { .. })).count() - 1;
        }
        streams::revisions_follow_time(&self.written)?;
        Ok(format!(
            "{} calls ({} writes acknowledged, {} left open), {} lists; each watch told {told:?} of the writes over {connections} connections, {relists} lists anew",
            self.answered,
            self.written.len(),
            self.open,
            self.lists.len()
        ))
    }
}

/// Waits until so many more calls are answered.
fn flow(round: &Round, more: usize) -> Result<()> {
    let before = round.answered.load(Ordering::Relaxed);
    eventually("calls are answered", || {
        let now = round.answered.load(Ordering::Relaxed);
        ensure!(now >= before + more, "{} of {more}", now - before);
        Ok(())
    })
}
