//! kubectl's commands as its users type them: each check plays a script of `commands/`, one command line
//! after the other in one namespace, and compares what they say. The words are kubectl's; what is
//! tested is that the server lets it do what it does everywhere. Checks of the same commands in which
//! more than words is looked at are in `manage` and `read`.
//!
//! A script's lines begin with what they are:
//! - `$` a command line that succeeds, `!` one that fails, `~` one that fails in the end, which is given
//!   until it does;
//! - `<` a line that it reads, `<@name` all lines of a text that stands before as `@name`;
//! - `+` what it says somewhere, `-` what it does not say (`\n` begins a line);
//! - `=` all that it prints, line by line, but for space around;
//! - `#` a word to the reader.
//!
//! `$NS` stands for the check's namespace, `$DIR` for a folder of its own.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use tests::Context;
use tests::command::{eventually, run};

#[derive(Debug, Default)]
struct Step {
    line: String,
    fails: bool,
    in_the_end: bool,
    input: String,
    has: Vec<String>,
    lacks: Vec<String>,
    is: Option<String>,
}

/// The steps of a script whose words are filled in.
fn read(script: &str) -> Result<Vec<Step>> {
    let (mut steps, mut texts) = (Vec::<Step>::new(), BTreeMap::<&str, String>::new());
    let mut name = None;
    for line in script.lines().filter(|line| !line.trim().is_empty()) {
        let (mark, rest) = line.split_at(1);
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        if mark == "@" {
            name = Some(rest);
            continue;
        }
        if matches!(mark, "$" | "!" | "~") {
            name = None;
            steps.push(Step {
                line: rest.to_owned(),
                fails: mark != "$",
                in_the_end: mark == "~",
                ..Step::default()
            });
            continue;
        }
        if let (Some(name), "<") = (name, mark) {
            *texts.entry(name).or_default() += &format!("{rest}\n");
            continue;
        }
        if mark == "#" {
            continue;
        }
        let step = steps.last_mut().with_context(|| line.to_owned())?;
        match (mark, rest.strip_prefix('@')) {
            ("<", Some(name)) => step.input += texts.get(name).with_context(|| line.to_owned())?,
            ("<", None) => step.input += &format!("{rest}\n"),
            ("+", _) => step.has.push(rest.replace("\\n", "\n")),
            ("-", _) => step.lacks.push(rest.replace("\\n", "\n")),
            ("=", _) => match &mut step.is {
                Some(said) => *said += &format!("\n{rest}"),
                None => step.is = Some(rest.to_owned()),
            },
            _ => bail!("{line:?} is not a line of a script"),
        }
    }
    ensure!(!steps.is_empty(), "an empty script");
    Ok(steps)
}

/// The folder of a check.
fn folder(cx: &Context) -> Result<std::path::PathBuf> {
    Ok(cx.cluster.scratch()?.join(format!("commands-{}", cx.ns)))
}

/// Plays a script; `more` stands in for further words.
fn play_with(cx: &Context, script: &str, more: &[(&str, &str)]) -> Result<()> {
    let dir = folder(cx)?.display().to_string();
    let known = [("$NS", &*cx.ns), ("$DIR", &*dir)];
    let mut script = script.to_owned();
    for (word, is) in known.iter().chain(more) {
        script = script.replace(word, is);
    }
    // What kubectl knows of the kinds is of this check: one beside it may have asked before a kind came,
    // and write its answer down after.
    let known_kinds = cx.cluster.scratch()?.join(format!("kinds-{}", cx.ns));
    for step in read(&script)? {
        let give = || {
            let mut command = cx.command(&step.line);
            command.env("KUBECACHEDIR", &known_kinds);
            run(command, &step.input)
        };
        let ran = match step.in_the_end {
            true => eventually(&step.line, || {
                let ran = give()?;
                ensure!(ran.code != 0, "it succeeds: {}", ran.out);
                Ok(ran)
            })?,
            false => give()?,
        };
        let said = format!("{}{}", ran.out, ran.err);
        let line = &step.line;
        ensure!(
            (ran.code != 0) == step.fails,
            "`{line}` ended with {}: {said}",
            ran.code
        );
        for text in &step.has {
            ensure!(
                said.contains(text),
                "`{line}` does not say {text:?}: {said}"
            );
        }
        for text in &step.lacks {
            ensure!(!said.contains(text), "`{line}` says {text:?}: {said}");
        }
        if let Some(all) = &step.is {
            ensure!(ran.out.trim() == all, "`{line}` prints not {all:?}: {said}");
        }
    }
    Ok(())
}

macro_rules! scripts {
    ($($name:ident),+ $(,)?) => { $(
        pub fn $name(cx: &Context) -> Result<()> {
            let script = include_str!(concat!("commands/", stringify!($name), ".txt"));
            play_with(cx, script, &[])
        }
    )+ };
}

scripts![
    rollouts_are_followed_paused_and_undone,
    parts_of_objects_are_set,
    what_was_applied_is_remembered,
    an_object_that_cannot_be_changed_is_made_anew,
    apply_moves_to_the_server,
    conditions_are_waited_for,
    subcommands_create_what_they_say,
    pods_are_run_exposed_and_changed,
    labels_and_annotations_are_guarded,
    outputs_are_chosen,
    deletions_say_what_goes_along,
    rights_are_asked_for_and_reconciled,
    nodes_are_tainted_and_cordoned,
    a_custom_kind_is_used_as_any_other,
];

pub fn a_kustomization_is_built_applied_and_removed(cx: &Context) -> Result<()> {
    const FILES: [(&str, &str); 2] = [
        (
            "web.yaml",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 0\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec: {containers: [{name: c, image: 'i:1'}]}\n",
        ),
        (
            "kustomization.yaml",
            "namePrefix: my-\nlabels: [{pairs: {team: a}}]\nresources: [web.yaml]\nconfigMapGenerator: [{name: conf, literals: [colour=blue]}]\nimages: [{name: i, newTag: '7'}]\n",
        ),
    ];
    let dir = folder(cx)?;
    std::fs::create_dir_all(&dir)?;
    for (name, text) in FILES {
        std::fs::write(dir.join(name), text)?;
    }
    let script = include_str!("commands/a_kustomization_is_built_applied_and_removed.txt");
    play_with(cx, script, &[])
}

pub fn requests_for_certificates_are_decided(cx: &Context) -> Result<()> {
    use wire::pki::{Subject, make_request};
    let (pem, _) = make_request(&Subject::client("jane", &["dev"]))?;
    let mut encode = std::process::Command::new("base64");
    encode.arg("-w0");
    let encoded = run(encode, &pem)?.ok()?;
    let script = include_str!("commands/requests_for_certificates_are_decided.txt");
    play_with(cx, script, &[("$CSR", encoded.trim())])
}
