//! The commands for people, as a terminal shows them and as a pipe gets them: `status`, `top`, `logs`,
//! backups; and what a shell completes.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::Context;
use tests::command::{self, Ran, eventually, words};
use tests::context::pod;

/// How a terminal is addressed: what begins colours and whatever else is not text.
const ESCAPE: char = '\u{1b}';

/// A command line of the binary, as the administrator.
fn line(cx: &Context, line: &str) -> String {
    format!("{} {line}", cx.cluster.binary().display())
}

fn with_environment(cx: &Context, mut command: Command, environment: &[(&str, &str)]) -> Command {
    command.env("KUBECONFIG", cx.cluster.kubeconfig());
    command.env("TIPHYS_DATA_DIR", cx.cluster.data());
    command.env_remove("NO_COLOR").env("TERM", "xterm-256color");
    command.envs(environment.iter().copied());
    command
}

/// Its output goes through a pipe.
fn in_pipe(cx: &Context, text: &str) -> Result<Ran> {
    let mut command = Command::new(cx.cluster.binary());
    command.args(words(text));
    command::run(with_environment(cx, command, &[]), "")
}

/// In a terminal of its own, whose text comes as one.
fn in_terminal(cx: &Context, text: &str, environment: &[(&str, &str)]) -> Result<String> {
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line(cx, text)]);
    script.arg("/dev/null");
    command::run(with_environment(cx, script, environment), "")?.ok()
}

pub fn a_terminal_has_colours_and_a_pipe_has_none(cx: &Context) -> Result<()> {
    for name in ["talks-a", "talks-b"] {
        let mut talks = pod(name, &format!("echo said by {name}; exec sleep 1000000"));
        talks["metadata"]["labels"]["set"] = "talks".into();
        cx.apply_json(&talks)?;
        cx.wait_ready(name)?;
    }
    let logs = format!("logs -l set=talks -n {}", cx.ns);
    eventually("both have said it", || {
        let ran = in_pipe(cx, &logs)?.ok()?;
        for name in ["talks-a", "talks-b"] {
            ensure!(ran.contains(&format!("said by {name}")), "{ran}");
        }
        Ok(())
    })?;
    for text in ["status", "top pods --once", &logs] {
        let piped = in_pipe(cx, text)?.ok()?;
        ensure!(!piped.is_empty(), "{text} says nothing");
        ensure!(!piped.contains(ESCAPE), "{text} in a pipe: {piped:?}");
        let refused = in_terminal(cx, text, &[("NO_COLOR", "1")])?;
        ensure!(!refused.contains(ESCAPE), "{text}, NO_COLOR: {refused:?}");
        let dumb = in_terminal(cx, text, &[("TERM", "dumb")])?;
        ensure!(!dumb.contains(ESCAPE), "{text}, TERM=dumb: {dumb:?}");
    }
    for text in ["status", &logs] {
        let coloured = in_terminal(cx, text, &[])?;
        ensure!(coloured.contains(ESCAPE), "{text}: {coloured:?}");
    }
    cx.kubectl("delete pod talks-a talks-b --wait=false")
        .map(drop)
}

pub fn programs_read_what_people_see(cx: &Context) -> Result<()> {
    cx.shell_pod("used", "while true; do sleep 0.01; done")?;
    let json = |text: &str| -> Result<Value> {
        let answer = in_pipe(cx, &format!("{text} --output json"))?.ok()?;
        serde_json::from_str(&answer).with_context(|| answer.clone())
    };
    let status = json("status")?;
    ensure!(status["cluster"].is_object() && status["processes"].is_object());
    let yaml = in_pipe(cx, "status --output yaml")?.ok()?;
    ensure!(yaml.starts_with("cluster:"), "{yaml}");
    eventually("it is listed", || {
        let top = json(&format!("top pods used --namespace {}", cx.ns))?;
        let items = top["items"].as_array().context("no items")?;
        ensure!(items.len() == 1, "{top:#}");
        Ok(())
    })?;
    let images = json("image list")?;
    ensure!(images.as_array().is_some_and(|all| !all.is_empty()));
    let token = json("token create")?;
    let id = token["id"].as_str().context("no id")?;
    ensure!(token["token"].as_str().is_some_and(|t| t.contains(id)));
    ensure!(json("token list")?.to_string().contains(id));
    ensure!(json(&format!("token delete {id}"))?["id"] == id);
    // An answer is all that comes where programs read; how far it is goes elsewhere.
    let file = cx.cluster.scratch()?.join("backup");
    let ran = in_pipe(cx, &format!("snapshot save {} -o json", file.display()))?;
    ensure!(!ran.err.contains([ESCAPE, '\r']), "{ran:?}");
    let saved: Value = serde_json::from_str(&ran.ok()?)?;
    ensure!(saved["keys"].as_u64() > Some(0), "{saved}");
    let held = json(&format!("snapshot status {}", file.display()))?;
    ensure!(held["revision"] == saved["revision"], "{held} {saved}");
    cx.kubectl("delete pod used --wait=false").map(drop)
}

pub fn a_shell_completes_and_man_reads(cx: &Context) -> Result<()> {
    let folder = cx.cluster.scratch()?;
    let mut bash = Command::new("bash");
    let complete = "source <(tiphys completion bash) && complete -p tiphys";
    let binary = cx.cluster.binary().parent().context("no folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    bash.args(["-c", complete]);
    bash.env("PATH", format!("{}:{path}", binary.display()));
    let known = command::run(bash, "")?.ok()?;
    ensure!(known.contains("tiphys"), "{known}");
    let pages = folder.join("man");
    in_pipe(cx, &format!("man --dir {}", pages.display()))?.ok()?;
    for page in ["tiphys", "tiphys-snapshot-save", "tiphys-why"] {
        let text = std::fs::read_to_string(pages.join(format!("{page}.1")))?;
        ensure!(
            text.contains(".SH NAME") && text.contains(".SH OPTIONS"),
            "{page}"
        );
    }
    Ok(())
}
