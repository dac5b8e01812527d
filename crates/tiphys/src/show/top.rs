//! `tiphys top`: what nodes, pods and containers use; live in a terminal, once elsewhere.

use std::io::{IsTerminal, Read};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use client::Informer;
use clock::Random;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use serde::Serialize;
use terminal::glance::Read as Listed;
use terminal::top::{Next, Row, Screen, Sort, UsageSnapshot, View, keys, rows, table};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Output, Who, print, read, standard_output, tty};

/// Between two looks at what is used: kubelets measure no more often than once in some seconds.
const EVERY: Duration = Duration::from_secs(3);
/// Chunks of keys that wait to be read: a person types fewer.
const KEYS: usize = 64;

#[derive(Args)]
pub struct TopArgs {
    /// What is shown first; n, p and c change it.
    #[arg(value_enum, default_value_t = What::Pods)]
    what: What,
    /// Names that hold this text alone.
    filter: Option<String>,
    /// Pods of this namespace alone; of all otherwise.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Pods with these labels alone, such as app=web.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// What comes first: whoever uses most, or names from A to Z.
    #[arg(long, value_enum, default_value_t = By::Cpu)]
    sort_by: By,
    /// Print once and end, also in a terminal.
    #[arg(long)]
    once: bool,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    who: Who,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    #[value(alias = "node")]
    Nodes,
    #[value(alias = "pod")]
    Pods,
    #[value(alias = "container")]
    Containers,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Cpu,
    Memory,
    Name,
}

impl TopArgs {
    const fn view(&self) -> View {
        match self.what {
            What::Nodes => View::Nodes,
            What::Pods => View::Pods,
            What::Containers => View::Containers,
        }
    }
    const fn sort(&self) -> Sort {
        match self.sort_by {
            By::Cpu => Sort::Cpu,
            By::Memory => Sort::Memory,
            By::Name => Sort::Name,
        }
    }
    fn nodes(&self, client: &Client) -> Api<Node> {
        Api::all(client.clone())
    }
    fn pods(&self, client: &Client) -> Api<Pod> {
        match &self.namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        }
    }
}

pub async fn run(args: TopArgs) -> Result<()> {
    let client = args.who.client("tiphys-top").await?;
    let is_terminal = std::io::stdout().is_terminal();
    if args.once || !is_terminal || args.output != Output::Text {
        return once(&args, &client).await;
    }
    live(&args, &client).await
}

/// What `--output json` gives.
#[derive(Serialize)]
struct Answer {
    items: Vec<Row>,
    /// Why figures or objects are missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

async fn once(args: &TopArgs, client: &Client) -> Result<()> {
    let (nodes, pods, (node_use, container_use)) = tokio::join!(
        read::list(args.nodes(client), None),
        read::list(args.pods(client), args.selector.as_deref()),
        figures(client, args.namespace.as_deref()),
    );
    let seen = UsageSnapshot {
        now: jiff::Timestamp::now(),
        nodes,
        pods,
        node_use,
        container_use,
    };
    // Without figures there is still something to see; without objects there is not.
    let refused = match args.view() {
        View::Nodes => seen.nodes.as_ref().err(),
        View::Pods | View::Containers => seen.pods.as_ref().err(),
    };
    if let Some(why) = refused {
        bail!("{why}");
    }
    let filter = args.filter.as_deref().unwrap_or_default();
    let (items, missing) = rows(&seen, args.view(), args.sort(), filter);
    let answer = Answer { items, missing };
    let (style, width) = standard_output();
    let text = args.output.of(&answer, || {
        table(
            &answer.items,
            args.view(),
            args.namespace.is_none(),
            width,
            style,
        )
    })?;
    print(&format!("{text}\n"))?;
    if args.output == Output::Text {
        for missing in &answer.missing {
            crate::say::complain!("{missing}");
        }
    }
    Ok(())
}

type Figures = (
    Result<std::collections::BTreeMap<String, terminal::glance::Use>, String>,
    Result<std::collections::BTreeMap<(String, String, String), terminal::glance::Use>, String>,
);

async fn figures(client: &Client, namespace: Option<&str>) -> Figures {
    tokio::join!(
        read::node_use(client),
        read::container_use(client, namespace)
    )
}

/// A kind of which every change is seen; or why it may not be read.
struct Followed<K: kube::Resource>(Result<Informer<K>, String>);

impl<K> Followed<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    async fn start(api: Api<K>, labels: Option<&str>) -> Self {
        // A watch that is refused would only be tried again.
        let one = ListParams::default()
            .limit(1)
            .labels(labels.unwrap_or_default());
        if let Err(e) = api.list_metadata(&one).await {
            return Self(Err(client::said(&e)));
        }
        let config = Config::default().labels(labels.unwrap_or_default());
        Self(Ok(Informer::start(Random::system(), api, config)))
    }

    fn all(&self) -> Listed<K> {
        let informer = self.0.as_ref().map_err(String::clone)?;
        Ok(informer
            .list()
            .into_iter()
            .map(Arc::unwrap_or_clone)
            .collect())
    }
}

async fn live(args: &TopArgs, client: &Client) -> Result<()> {
    let (nodes, pods) = tokio::join!(
        Followed::start(args.nodes(client), None),
        Followed::start(args.pods(client), args.selector.as_deref()),
    );
    let mut figures = measured(client.clone(), args.namespace.clone());
    let waiting = || Err("waiting for the first figures".to_owned());
    let mut known: Figures = (waiting(), Err("waiting for the first figures".to_owned()));
    let filter = args.filter.clone().unwrap_or_default();
    let mut chosen = Screen::new(args.view(), args.sort(), filter, args.namespace.is_none());
    let (style, _) = standard_output();
    let mut resized = signal(SignalKind::window_change())?;
    let (mut interrupted, mut ended) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let mut typed = typed();
    let screen = tty::Screen::enter()?;
    loop {
        let seen = UsageSnapshot {
            now: jiff::Timestamp::now(),
            nodes: nodes.all(),
            pods: pods.all(),
            node_use: known.0.clone(),
            container_use: known.1.clone(),
        };
        let (width, height) = tty::size();
        screen.draw(&chosen.draw(&seen, width, height, style))?;
        tokio::select! {
            biased;
            _ = interrupted.recv() => return Ok(()),
            _ = ended.recv() => return Ok(()),
            Some(bytes) = typed.recv() => {
                for key in keys(&bytes) {
                    if chosen.press(key, height) == Next::Quit {
                        return Ok(());
                    }
                }
            }
            Some(next) = figures.recv() => known = next,
            _ = resized.recv() => {}
        }
    }
}

/// What is used, again and again, as long as somebody wants to know.
fn measured(client: Client, namespace: Option<String>) -> mpsc::Receiver<Figures> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let next = figures(&client, namespace.as_deref()).await;
            if sender.send(next).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// What is typed. A thread of its own reads it, since nothing can end a read of a terminal; the
/// process does.
fn typed() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(KEYS);
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        let mut stdin = std::io::stdin().lock();
        while let Ok(count @ 1..) = stdin.read(&mut bytes) {
            let got = bytes.get(..count).unwrap_or_default().to_vec();
            if sender.blocking_send(got).is_err() {
                return;
            }
        }
    });
    receiver
}
