//! `tiphys logs`: what the containers of several pods write, in the order of its times; and what
//! comes, over restarts.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::Value;
use terminal::logs::{Line, Mark, Naming, Record, Run, Source, Writer, earliest, runs};

use super::stream::{Lines, LogOptions};
use super::{Output, Who, follow, print, standard_output};
use crate::flags::go_duration;
use crate::say::complain;

/// Logs that are read at once: each is a connection of the server to a kubelet.
pub const MOST: usize = 100;
/// Lines of each log that are shown at first, of several logs.
const TAIL: i64 = 100;

#[derive(Args)]
pub struct LogsArgs {
    /// A pod, or all pods of KIND/NAME: deployment, statefulset, daemonset, replicaset, job or
    /// service.
    #[arg(required_unless_present = "selector", conflicts_with = "selector")]
    of: Option<String>,
    /// All pods with these labels, such as app=web.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Namespace of the pods.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Pods of all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "of"])]
    all_namespaces: bool,
    /// This container alone; otherwise all of a pod.
    #[arg(short, long)]
    container: Option<String>,
    /// Go on with what comes: also of containers that start again, and of pods that are new.
    #[arg(short, long, conflicts_with = "previous")]
    follow: bool,
    /// What the runs before the present ones wrote.
    #[arg(short, long)]
    previous: bool,
    /// The last lines of each log, or -1 for all; 100 by default, all of one log alone.
    #[arg(long, allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Lines of the last while, such as 5m.
    #[arg(long, value_parser = go_duration)]
    since: Option<i64>,
    /// Show when each line was written.
    #[arg(long)]
    timestamps: bool,
    /// As JSON an object for each line, as YAML a document.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    who: Who,
}

/// The pods that are meant.
pub struct Pods {
    pub api: Api<Pod>,
    pub labels: Option<String>,
    pub name: Option<String>,
    pub container: Option<String>,
}

impl Pods {
    async fn list(&self) -> Result<Vec<Pod>> {
        let params = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields(),
            ..ListParams::default()
        };
        let all = self.api.list(&params).await;
        let all = all.map_err(|e| anyhow::Error::msg(client::said(&e)));
        Ok(all.context("looking for the pods")?.items)
    }

    pub fn fields(&self) -> Option<String> {
        let name = self.name.as_ref();
        name.map(|n| format!("metadata.name={n}"))
    }

    pub fn runs(&self, pod: &Pod) -> Vec<Run> {
        runs(pod, self.container.as_deref())
    }
}

/// Prints lines in the form that is wanted.
pub struct Printer {
    writer: Writer,
    form: Output,
}

impl Printer {
    /// Whether somebody still reads.
    pub fn print(&mut self, source: &Source, line: &Line) -> Result<bool> {
        let record = Record::new(source, line);
        let writer = &mut self.writer;
        let text = self
            .form
            .one_of_many(&record, || writer.line(source, line))?;
        print(&format!("{text}\n"))
    }

    /// Something about the logs that stands in none of them.
    pub fn note(&self, text: &str) {
        if std::io::stderr().is_terminal() {
            complain!(
                "{}",
                self.writer.style.paint(terminal::style::Tone::Quiet, text)
            );
        } else {
            complain!("{text}");
        }
    }
}

pub async fn run(args: LogsArgs) -> Result<()> {
    let client = args.who.client("tiphys-logs").await?;
    let pods = pods_of(&args, &client).await?;
    let list = pods.list().await?;
    if let (Some(name), true) = (&pods.name, list.is_empty()) {
        bail!("there is no pod {name} in {}", args.namespace);
    }
    ensure!(
        args.follow || !list.is_empty(),
        "no pod has these labels; with --follow, those that come are waited for"
    );
    let mut all: Vec<Run> = list.iter().flat_map(|p| pods.runs(p)).collect();
    known_container(&args, &list, &all)?;
    if all.len() > MOST {
        complain!("there are {} logs: {MOST} of them are shown", all.len());
        all.truncate(MOST);
    }
    let mut printer = printer(&args, &pods, &list);
    let wanted = wanted(&args, all.len());
    let mut histories = open(&wanted, &client, &all, &printer).await;
    if !print_merged(&mut histories, &mut printer).await? || !args.follow {
        return Ok(());
    }
    let marks = histories.into_iter().map(|h| (h.run, h.mark)).collect();
    follow::run(&client, &pods, (marks, wanted), &mut printer).await
}

/// A container that no pod has is a mistake; one that has not run yet is none.
fn known_container(args: &LogsArgs, list: &[Pod], found: &[Run]) -> Result<()> {
    let Some(wanted) = args.container.as_ref().filter(|_| found.is_empty()) else {
        return Ok(());
    };
    let specs = || list.iter().filter_map(|p| p.spec.as_ref());
    let main = specs().flat_map(|s| &s.containers).map(|c| &c.name);
    let init = specs()
        .flat_map(|s| s.init_containers.iter().flatten())
        .map(|c| &c.name);
    let names: BTreeSet<&String> = main.chain(init).collect();
    ensure!(
        list.is_empty() || names.contains(wanted),
        "there is no container {wanted}; there are {}",
        names.into_iter().cloned().collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

fn printer(args: &LogsArgs, pods: &Pods, list: &[Pod]) -> Printer {
    let containers = |p: &Pod| {
        let spec = p.spec.as_ref();
        spec.map_or(0, |s| {
            s.containers.len() + s.init_containers.iter().flatten().count()
        })
    };
    let naming = Naming {
        namespace: args.all_namespaces,
        // By a selector there may be more later.
        pod: pods.name.is_none(),
        container: args.container.is_none() && list.iter().any(|p| containers(p) > 1),
    };
    let (style, _) = standard_output();
    Printer {
        writer: Writer::new(naming, style, args.timestamps),
        form: args.output,
    }
}

/// What a container has written so far.
struct History {
    run: Run,
    lines: Option<Lines>,
    head: Option<Line>,
    mark: Mark,
}

/// What is wanted of each of so many logs at first.
fn wanted(args: &LogsArgs, logs: usize) -> LogOptions {
    let usual = (logs > 1).then_some(TAIL);
    LogOptions {
        tail: args.tail.or(usual).filter(|n| *n >= 0),
        // Seconds, and at least one.
        since_seconds: args.since.map(|nanos| (nanos / 1_000_000_000).max(1)),
        previous: args.previous,
        ..LogOptions::default()
    }
}

async fn open(
    wanted: &LogOptions,
    client: &Client,
    all: &[Run],
    printer: &Printer,
) -> Vec<History> {
    let one = |run: &Run| {
        let (run, wanted) = (run.clone(), wanted.clone());
        async move { (Lines::open(client, &run.source, &wanted).await, run) }
    };
    let mut out = Vec::new();
    for (opened, run) in futures::future::join_all(all.iter().map(one)).await {
        let lines = match opened {
            Ok(lines) => Some(lines),
            Err(e) => {
                let Source { pod, container, .. } = &run.source;
                printer.note(&format!("{pod}/{container}: {}", client::said(&e)));
                None
            }
        };
        out.push(History {
            run,
            lines,
            head: None,
            mark: Mark::default(),
        });
    }
    out
}

/// Prints all of them in the order of their times, one line of each in memory; whether somebody
/// still reads.
async fn print_merged(all: &mut [History], printer: &mut Printer) -> Result<bool> {
    for history in all.iter_mut() {
        history.step().await?;
    }
    loop {
        let heads = all.iter().enumerate();
        let heads = heads.filter_map(|(at, h)| Some((at, h.head.as_ref()?)));
        let next = earliest(heads).and_then(|at| all.get_mut(at));
        let Some(history) = next else { return Ok(true) };
        if let Some(line) = history.step().await?
            && !printer.print(&history.run.source, &line)?
        {
            return Ok(false);
        }
    }
}

impl History {
    /// Takes the head, and reads the next.
    async fn step(&mut self) -> Result<Option<Line>> {
        let next = match &mut self.lines {
            Some(lines) => lines.next().await?,
            None => None,
        };
        if let Some(line) = &next {
            self.mark.is_new(line);
        } else {
            self.lines = None;
        }
        Ok(std::mem::replace(&mut self.head, next))
    }
}

async fn pods_of(args: &LogsArgs, client: &Client) -> Result<Pods> {
    let api = match args.all_namespaces {
        true => Api::all(client.clone()),
        false => Api::namespaced(client.clone(), &args.namespace),
    };
    let (name, labels) = match (&args.of, &args.selector) {
        (_, Some(selector)) => (None, Some(selector.clone())),
        (Some(of), None) => match of.trim_start_matches("pod/").split_once('/') {
            None => (Some(of.trim_start_matches("pod/").to_owned()), None),
            Some((kind, name)) => {
                let selector = selector_of(client, &args.namespace, kind, name).await?;
                (None, Some(selector))
            }
        },
        (None, None) => bail!("name a pod, or labels with -l"),
    };
    Ok(Pods {
        api,
        labels,
        name,
        container: args.container.clone(),
    })
}

/// What selects the pods of a workload or Service.
async fn selector_of(client: &Client, namespace: &str, kind: &str, name: &str) -> Result<String> {
    let (base, plural) = match kind {
        "deployment" | "deployments" | "deploy" => ("apis/apps/v1", "deployments"),
        "statefulset" | "statefulsets" | "sts" => ("apis/apps/v1", "statefulsets"),
        "daemonset" | "daemonsets" | "ds" => ("apis/apps/v1", "daemonsets"),
        "replicaset" | "replicasets" | "rs" => ("apis/apps/v1", "replicasets"),
        "job" | "jobs" => ("apis/batch/v1", "jobs"),
        "service" | "services" | "svc" => ("api/v1", "services"),
        other => bail!(
            "logs of {other} are none of these: pod, deployment, statefulset, daemonset, replicaset, job, service"
        ),
    };
    let path = format!("/{base}/namespaces/{namespace}/{plural}/{name}");
    let object: Value = client
        .request(Request::get(path).body(Vec::new())?)
        .await
        .map_err(|e| anyhow::Error::msg(client::said(&e)))?;
    selector_text(&object["spec"]["selector"])
        .with_context(|| format!("{kind}/{name} selects no pods"))
}

/// A selector of labels, in one line: a workload's, or the plain map of a Service.
fn selector_text(selector: &Value) -> Option<String> {
    let labels = match &selector["matchLabels"] {
        Value::Null if selector["matchExpressions"].is_null() => selector,
        labels => labels,
    };
    let of = |v: &Value| v.as_str().map(str::to_owned);
    let labels = labels.as_object().into_iter().flatten();
    let mut all: Vec<String> = labels
        .filter_map(|(k, v)| Some(format!("{k}={}", v.as_str()?)))
        .collect();
    for rule in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let key = of(&rule["key"])?;
        let values = rule["values"].as_array().into_iter().flatten();
        let values = values.filter_map(of).collect::<Vec<_>>().join(",");
        all.push(match rule["operator"].as_str()? {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key,
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        });
    }
    (!all.is_empty()).then(|| all.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_of_workloads_and_services_become_text() {
        let text = |v: Value| selector_text(&v);
        assert_eq!(text(json!({ "app": "web" })).as_deref(), Some("app=web"));
        let full = json!({ "matchLabels": { "app": "web" }, "matchExpressions": [
            { "key": "tier", "operator": "In", "values": ["a", "b"] },
            { "key": "old", "operator": "DoesNotExist" }] });
        assert_eq!(text(full).as_deref(), Some("app=web,tier in (a,b),!old"));
        let only = json!({ "matchExpressions": [{ "key": "x", "operator": "Exists" }] });
        assert_eq!(text(only).as_deref(), Some("x"));
        // Without a selector it is not all pods that are meant, but none.
        assert_eq!(text(Value::Null), None);
        assert_eq!(text(json!({})), None);
    }
}
