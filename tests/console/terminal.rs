//! What a person sees of a cluster in a terminal: `status`, `top`, `logs`, completion and pages.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::command::{self, Running, eventually};
use tests::{BUSYBOX, Context};

fn tiphys(cx: &Context, line: &str) -> Command {
    let words = command::words(line);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = cx.cluster.tiphys(&words);
    command.env("KUBECONFIG", cx.cluster.kubeconfig());
    command
}

fn printed(cx: &Context, line: &str) -> Result<String> {
    command::run(tiphys(cx, line), "")?.ok()
}

fn as_json(cx: &Context, line: &str) -> Result<Value> {
    let text = printed(cx, line)?;
    serde_json::from_str(&text).with_context(|| format!("{line}: {text}"))
}

fn labelled(name: &str, app: &str, script: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": app } },
        "spec": { "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": BUSYBOX, "command": ["sh", "-c", script] }] } })
}

pub fn status_says_what_is_wrong_first(cx: &Context) -> Result<()> {
    cx.apply_json(&labelled("broken", "broken", "exit 3"))?;
    let data = cx.cluster.data();
    let line = format!("status --data-dir '{}'", data.display());
    let found = eventually("status finds the pod", || {
        let status = as_json(cx, &format!("{line} -o json"))?;
        let all = status["cluster"]["findings"].as_array().cloned();
        let own = all
            .unwrap_or_default()
            .into_iter()
            .find(|f| f["namespace"] == *cx.ns && f["reason"] == "CrashLoopBackOff");
        ensure!(
            status["processes"]["children"][0]["name"].is_string(),
            "it has processes: {status:#}"
        );
        own.with_context(|| format!("{status:#}"))
    })?;
    ensure!(
        found["level"] == "wrong" && found["name"] == "broken",
        "{found:#}"
    );
    // It is tried again now and then, and is not wrong for that moment.
    eventually("a person reads of it first", || {
        let text = printed(cx, &format!("{line} --all"))?;
        let wrong = text.find("pod/broken").context("the pod is named")?;
        let nodes = text
            .find("nodes      1 of 1 ready")
            .context("nodes are counted")?;
        ensure!(wrong < nodes && !text.contains('\x1b'), "{text}");
        ensure!(
            text.contains("exit code 3") && text.contains("tiphys why pod/broken"),
            "{text}"
        );
        Ok(())
    })?;
    eventually("and in YAML", || {
        let yaml = printed(cx, &format!("{line} -o yaml"))?;
        ensure!(yaml.contains("reason: CrashLoopBackOff"), "{yaml}");
        Ok(())
    })?;
    // A cluster that is not there is a failure.
    let nowhere = cx.cluster.scratch()?;
    let mut command = tiphys(cx, &format!("status --data-dir '{}'", nowhere.display()));
    command.env_remove("KUBECONFIG");
    let ran = command::run(command, "")?;
    ensure!(
        ran.code == 1 && ran.out.contains("cannot be looked at"),
        "{ran:?}"
    );
    Ok(())
}

pub fn top_prints_once_in_a_pipe_and_lives_in_a_terminal(cx: &Context) -> Result<()> {
    cx.apply_json(&labelled("busy", "busy", "while true; do :; done"))?;
    cx.wait_ready("busy")?;
    eventually("what the container uses is known", || {
        let line = format!("top containers -n {} -l app=busy -o json", cx.ns);
        let all = as_json(cx, &line)?;
        let row = &all["items"][0];
        let used = row["usage"]["cpuMillis"].as_i64().unwrap_or_default();
        ensure!(row["container"] == "main" && used > 50, "{all:#}");
        Ok(())
    })?;
    let nodes = printed(cx, "top nodes")?;
    ensure!(
        nodes.starts_with("NODE") && nodes.contains("node-1"),
        "{nodes}"
    );
    let none = printed(cx, &format!("top pods -n {} no-such-name", cx.ns))?;
    ensure!(none.lines().count() == 1, "titles alone: {none}");
    // In a terminal: by keys to the nodes, then out; what was on the screen comes back.
    let binary = cx.cluster.binary().display().to_string();
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--command"])
        .arg(format!("{binary} top -n {}", cx.ns))
        .arg("/dev/null")
        .env("KUBECONFIG", cx.cluster.kubeconfig())
        .env("TERM", "xterm");
    let mut live = Running::start(script).context("is util-linux' `script` there?")?;
    live.line(|l| l.contains("1 pod by CPU"))?;
    live.line(|l| l.contains("busy") && l.contains("Running"))?;
    let keys = live.stdin.as_mut().context("its keyboard")?;
    keys.write_all(b"n")?;
    keys.flush()?;
    live.line(|l| l.contains("1 node by CPU"))?;
    let keys = live.stdin.as_mut().context("its keyboard")?;
    keys.write_all(b"q")?;
    keys.flush()?;
    let code = live.end()?;
    ensure!(code == 0, "{code}: {:?}", live.text());
    // What it wrote last is read by a thread of its own.
    eventually("what was on the screen comes back", || {
        let text = live.text();
        ensure!(text.trim_end().ends_with("\x1b[?1049l"), "{text:?}");
        Ok(())
    })
}

pub fn logs_of_several_pods_are_followed_over_restarts(cx: &Context) -> Result<()> {
    // Each run says who it is, and ends soon.
    let script = "echo run $(cat /proc/sys/kernel/random/uuid); sleep 2";
    cx.apply_json(&labelled("one", "talk", script))?;
    cx.apply_json(&labelled("two", "talk", script))?;
    cx.wait_ready("one")?;
    cx.wait_ready("two")?;
    let line = format!("logs -l app=talk -n {}", cx.ns);
    let follow = Running::start(tiphys(cx, &format!("{line} --follow")))?;
    let mut seen = BTreeSet::new();
    let mut of = |pod: &str| -> Result<()> {
        let said = follow.line(|l| l.starts_with(&format!("{pod} run ")))?;
        ensure!(seen.insert(said.clone()), "it is said twice: {said}");
        Ok(())
    };
    of("one")?;
    of("one")?;
    // One that comes later joins in.
    cx.apply_json(&labelled("three", "talk", script))?;
    of("three")?;
    of("two")?;
    let text = follow.text();
    drop(follow);
    let runs: Vec<&str> = text.lines().filter(|l| l.contains(" run ")).collect();
    let different: BTreeSet<&&str> = runs.iter().collect();
    ensure!(runs.len() == different.len(), "each line once: {text}");
    ensure!(text.contains("one/main: started again"), "{text}");
    // What is there already, in the order of its times, for programs as well.
    let text = printed(cx, &format!("{line} -o json"))?;
    let lines: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let times: Vec<&str> = lines.iter().filter_map(|l| l["time"].as_str()).collect();
    ensure!(times.len() > 1 && times.is_sorted(), "{text}");
    let ran = command::run(tiphys(cx, &format!("logs no-such -n {}", cx.ns)), "")?.failed()?;
    ensure!(ran.contains("there is no pod no-such"), "{ran}");
    Ok(())
}

pub fn shells_complete_and_pages_are_made(cx: &Context) -> Result<()> {
    let completion = printed(cx, "completion bash")?;
    let script = format!("{completion}\ncomplete -p tiphys");
    let mut bash = Command::new("bash");
    bash.arg("-c").arg(script);
    let said = command::run(bash, "")?.ok()?;
    ensure!(said.contains("tiphys"), "{said}");
    let dir = cx.cluster.scratch()?;
    printed(cx, &format!("man --dir '{}'", dir.display()))?;
    let page = std::fs::read_to_string(dir.join("tiphys-logs.1"))?;
    ensure!(page.contains("follow"), "{page}");
    Ok(())
}

/// How a terminal is addressed: what begins colours and whatever else is not text.
const ESCAPE: char = '\u{1b}';

/// What a terminal of its own shows of a command, with this in the environment.
fn in_terminal(cx: &Context, line: &str, (name, value): (&str, &str)) -> Result<String> {
    let mut script = Command::new("script");
    let line = format!("{} {line}", cx.cluster.binary().display());
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.env("KUBECONFIG", cx.cluster.kubeconfig());
    script.env_remove("NO_COLOR").env("TERM", "xterm-256color");
    script.env(name, value);
    command::run(script, "")?.ok()
}

pub fn a_terminal_has_colours_and_a_pipe_has_none(cx: &Context) -> Result<()> {
    let stays = |name: &str| {
        let script = format!("echo said by {name}; exec sleep 1000000");
        labelled(name, "both", &script)
    };
    for name in ["one", "two"] {
        cx.apply_json(&stays(name))?;
        cx.wait_ready(name)?;
    }
    let logs = format!("logs -l app=both -n {}", cx.ns);
    eventually("both have said it", || {
        let text = printed(cx, &logs)?;
        ensure!(
            text.contains("said by one") && text.contains("said by two"),
            "{text}"
        );
        Ok(())
    })?;
    let status = format!("status --data-dir '{}'", cx.cluster.data().display());
    for line in [status.as_str(), "top pods --once", &logs] {
        let piped = printed(cx, line)?;
        ensure!(
            !piped.is_empty() && !piped.contains(ESCAPE),
            "{line}: {piped:?}"
        );
        for refuses in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let plain = in_terminal(cx, line, refuses)?;
            ensure!(!plain.contains(ESCAPE), "{line}, {refuses:?}: {plain:?}");
        }
    }
    for line in [&status, &logs] {
        let coloured = in_terminal(cx, line, ("LANG", "C.UTF-8"))?;
        ensure!(coloured.contains(ESCAPE), "{line}: {coloured:?}");
    }
    Ok(())
}

/// An answer is all that comes on standard output; how far the work is goes elsewhere, and in a pipe it
/// has nothing that is for terminals.
pub fn programs_read_what_commands_answer(cx: &Context) -> Result<()> {
    let data = cx.cluster.data();
    let images = as_json(
        cx,
        &format!("image list --data-dir '{}' -o json", data.display()),
    )?;
    ensure!(images.as_array().is_some_and(|all| !all.is_empty()));
    let token = as_json(cx, "token create -o json")?;
    let id = token["id"].as_str().context("no id")?;
    ensure!(token["token"].as_str().is_some_and(|t| t.contains(id)));
    ensure!(as_json(cx, "token list -o json")?.to_string().contains(id));
    ensure!(as_json(cx, &format!("token delete {id} -o json"))?["id"] == id);
    let file = cx.cluster.scratch()?.join("backup");
    let line = format!("snapshot save '{}' -o json", file.display());
    let ran = command::run(tiphys(cx, &line), "")?;
    ensure!(!ran.err.contains([ESCAPE, '\r']), "{ran:?}");
    let saved: Value = serde_json::from_str(&ran.ok()?)?;
    ensure!(saved["keys"].as_u64() > Some(0), "{saved}");
    let held = as_json(cx, &format!("snapshot status '{}' -o json", file.display()))?;
    ensure!(held["revision"] == saved["revision"], "{held} {saved}");
    let yaml = printed(cx, &format!("snapshot status '{}' -o yaml", file.display()))?;
    ensure!(yaml.contains("revision: "), "{yaml}");
    Ok(())
}
