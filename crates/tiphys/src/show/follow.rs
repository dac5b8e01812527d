//! Logs as they are written: one task for each container, which reads its runs one after the other.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use clock::Random;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use terminal::logs::{Line, Mark, Open, Opened, Run, Source, runs};
use terminal::pods::has_ended;
use tokio::sync::mpsc;

use super::logs::{MOST, Pods, Printer};
use super::stream::{Lines, LogOptions};

/// Lines that wait to be printed: whoever writes more is read more slowly.
const WAITING: usize = 1_000;
/// Runs of a container that wait until the one before is read.
const RUNS: usize = 16;
/// Until a log that broke is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// Which container it is from.
type TaggedReport = (Source, What);

/// What a task reports.
enum What {
    Line(Line),
    Note(String),
}

/// Prints what comes after what the marks say, until the pod that was named has ended, or nobody
/// reads any more. Of a log of which nothing was shown, what was wanted of it is wanted still.
pub async fn run(
    client: &Client,
    pods: &Pods,
    (marks, wanted): (Vec<(Run, Mark)>, LogOptions),
    printer: &mut Printer,
) -> Result<()> {
    let (sender, mut said) = mpsc::channel::<TaggedReport>(WAITING);
    let mut tasks = Tasks {
        client: client.clone(),
        opened: Opened::default(),
        queues: HashMap::new(),
        refused: false,
        sender: Some(sender),
    };
    for (run, mark) in marks {
        tasks.note(&run, (mark, wanted.clone()), printer);
    }
    let config = Config {
        label_selector: pods.labels.clone(),
        field_selector: pods.fields(),
        ..Config::default()
    };
    let mut events = pin!(client::events(Random::system(), pods.api.clone(), config));
    loop {
        tokio::select! {
            biased;
            line = said.recv() => match line {
                Some((source, What::Line(line))) => {
                    if !printer.print(&source, &line)? {
                        return Ok(());
                    }
                }
                Some((source, What::Note(text))) => {
                    printer.note(&format!("{}/{}: {text}", source.pod, source.container));
                }
                // All has been read of the pod that was named.
                None => return Ok(()),
            },
            Some(event) = events.next(), if tasks.sender.is_some() => {
                tasks.see(event, pods, printer);
            }
        }
    }
}

struct Tasks {
    client: Client,
    opened: Opened,
    queues: HashMap<Source, mpsc::Sender<Open>>,
    /// It was said that there are too many.
    refused: bool,
    /// None when no more containers are to come.
    sender: Option<mpsc::Sender<TaggedReport>>,
}

impl Tasks {
    fn see(&mut self, event: Event<Pod>, pods: &Pods, printer: &Printer) {
        match event {
            Event::Apply(pod) | Event::InitApply(pod) => {
                for run in pods.runs(&pod) {
                    // All of one that is new.
                    self.note(&run, Default::default(), printer);
                }
                if pods.name.is_some() && has_ended(&pod) {
                    self.finish();
                }
            }
            Event::Delete(pod) => {
                let uid = pod.metadata.uid.unwrap_or_default();
                // What it has written is read to its end.
                self.queues.retain(|source, _| source.uid != uid);
                if pods.name.is_some() {
                    self.finish();
                }
            }
            Event::Init | Event::InitDone => {}
        }
    }

    /// No more comes; what is being read is read to its end.
    fn finish(&mut self) {
        self.queues.clear();
        self.sender = None;
    }

    fn note(&mut self, run: &Run, from: (Mark, LogOptions), printer: &Printer) {
        let Some(open) = self.opened.note(run) else {
            return;
        };
        let Some(sender) = &self.sender else { return };
        if !self.queues.contains_key(&run.source) {
            // Those of pods that are gone have ended.
            self.queues.retain(|_, queue| !queue.is_closed());
            if self.queues.len() >= MOST {
                if !std::mem::replace(&mut self.refused, true) {
                    printer.note(&format!("{MOST} logs are followed: more are left out"));
                }
                return;
            }
            let (queue, runs) = mpsc::channel(RUNS);
            let container = Container {
                client: self.client.clone(),
                source: run.source.clone(),
                mark: from.0,
                wanted: from.1,
                said: sender.clone(),
            };
            tokio::spawn(container.follow(runs));
            self.queues.insert(run.source.clone(), queue);
        }
        if let Some(queue) = self.queues.get(&run.source) {
            // A full queue means that its log is far behind: the newest run is read with the next.
            let _ = queue.try_send(open);
        }
    }
}

/// One container whose log is followed.
struct Container {
    client: Client,
    source: Source,
    mark: Mark,
    /// Of its first run.
    wanted: LogOptions,
    said: mpsc::Sender<TaggedReport>,
}

impl Container {
    async fn follow(mut self, mut runs: mpsc::Receiver<Open>) {
        while let Some(open) = runs.recv().await {
            if !open.first && !self.say(What::Note("started again".to_owned())).await {
                return;
            }
            if open.missed && !self.read(true).await {
                return;
            }
            while self.read(false).await {
                // The connection ended, or the run did.
                if !runs.is_empty() || !self.still_runs().await {
                    break;
                }
                tokio::time::sleep(AGAIN).await;
            }
            if self.said.is_closed() {
                return;
            }
        }
    }

    /// Reads the log to its end; whether somebody still listens.
    async fn read(&mut self, previous: bool) -> bool {
        let since = self.mark.since();
        // What was shown already says where to go on.
        let limits = std::mem::take(&mut self.wanted);
        let limits = if since.is_none() {
            limits
        } else {
            LogOptions::default()
        };
        let wanted = LogOptions {
            since,
            follow: !previous,
            previous,
            ..limits
        };
        self.mark.begin();
        let mut lines = match Lines::open(&self.client, &self.source, &wanted).await {
            Ok(lines) => lines,
            // The run before may be forgotten.
            Err(_) if previous => return true,
            Err(e) => return self.say(What::Note(client::said(&e))).await,
        };
        self.wanted = LogOptions::default();
        loop {
            match lines.next().await {
                Ok(Some(line)) => {
                    if self.mark.is_new(&line) && !self.say(What::Line(line)).await {
                        return false;
                    }
                }
                // A broken connection is tried again as an ended one is.
                Ok(None) | Err(_) => return true,
            }
        }
    }

    async fn say(&self, what: What) -> bool {
        self.said.send((self.source.clone(), what)).await.is_ok()
    }

    /// Whether the container's present run goes on, so that its log does.
    async fn still_runs(&self) -> bool {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.source.namespace);
        match pods.get_opt(&self.source.pod).await {
            Ok(Some(pod)) => {
                let own = |r: &Run| r.source == self.source;
                runs(&pod, None).iter().any(own) && is_running(&pod, &self.source.container)
            }
            Ok(None) => false,
            // A server that is away comes back.
            Err(_) => true,
        }
    }
}

fn is_running(pod: &Pod, container: &str) -> bool {
    let Some(status) = &pod.status else {
        return false;
    };
    let all = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let mut all = all.into_iter().flatten().flatten();
    all.any(|c| c.name == container && c.state.as_ref().is_some_and(|s| s.running.is_some()))
}
