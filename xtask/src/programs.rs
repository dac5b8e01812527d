//! Runs all test programs: cluster tests mostly wait, others mostly compute, so two run at a time. What a
//! program writes is kept in a file and shown whole when it failed; the last lines of a run name all
//! that failed, since whoever reads a long run reads its end.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::build;

/// The package of the cluster tests.
const SUITES: &str = "tests";
/// Its longest program: what begins with it does not end with it.
const LONGEST: &str = "nodes";

/// A test program that cargo has built.
struct Program {
    package: String,
    name: String,
    file: PathBuf,
    /// Of its package: where it runs.
    folder: PathBuf,
}

impl Program {
    /// One of those that a line of cargo's messages names.
    fn of_message(line: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_test = message["profile"]["test"].as_bool()?;
        let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
        is_test.then_some(())?;
        Some(Self {
            // The workspace's folders have the names of their packages.
            package: folder.file_name()?.to_str()?.to_owned(),
            name: message["target"]["name"].as_str()?.to_owned(),
            file: message["executable"].as_str()?.into(),
            folder: folder.to_owned(),
        })
    }
}

/// A program that failed.
struct Failed {
    title: String,
    /// Lines that say what.
    lines: Vec<String>,
}

/// Builds all test programs, then runs them, `side_by_side` or one after another; `env` is for each
/// of them.
pub fn run(env: &[(&str, OsString)], side_by_side: bool) -> Result<()> {
    let mut programs = built()?;
    programs.sort_by_key(|p| (p.package != SUITES, p.name != LONGEST));
    let kept = build::target_dir()?.join("test-output");
    fs::create_dir_all(&kept).with_context(|| kept.display().to_string())?;
    let begun = Instant::now();
    let count = programs.len();
    let (queue, failed) = (Mutex::new(VecDeque::from(programs)), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let lanes: &[bool] = if side_by_side {
            &[true, false]
        } else {
            &[true]
        };
        for is_for_suites in lanes {
            let (queue, failed, kept) = (&queue, &failed, &kept);
            scope.spawn(move || {
                while let Some(program) = next(queue, *is_for_suites) {
                    if let Some(found) = run_one(&program, env, kept) {
                        lock(failed).push(found);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = begun.elapsed().as_secs();
    println!(
        "{count} test programs, {} failed, {seconds} s",
        failed.len()
    );
    if failed.is_empty() {
        return Ok(());
    }
    for program in &failed {
        println!("FAILED {}", program.title);
        program.lines.iter().for_each(|line| println!("  {line}"));
    }
    bail!(
        "{} of {count} test programs failed; what they wrote is in {}",
        failed.len(),
        kept.display()
    )
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One lane takes suites, the other one begins at the other end.
fn next(queue: &Mutex<VecDeque<Program>>, is_for_suites: bool) -> Option<Program> {
    let mut queue = lock(queue);
    match is_for_suites {
        true => queue.pop_front(),
        false => queue.pop_back(),
    }
}

/// What `cargo test` would run, except examples in comments, of which there are none.
fn built() -> Result<Vec<Program>> {
    let mut command = build::cargo();
    command.args(["test", "--locked", "--workspace", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let programs: Vec<Program> = text.lines().filter_map(Program::of_message).collect();
    if programs.is_empty() {
        bail!("{command:?} names no test program");
    }
    Ok(programs)
}

/// Runs a program; gives what failed.
fn run_one(program: &Program, env: &[(&str, OsString)], kept: &Path) -> Option<Failed> {
    let file = program.file.file_name().unwrap_or_default();
    let log = kept.join(file).with_extension("log");
    let title = format!("{} {}", program.package, program.name);
    let begun = Instant::now();
    let outcome = started(program, env, &log);
    let seconds = begun.elapsed().as_secs_f64();
    let text = fs::read(&log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = match outcome {
        Ok(true) => {
            println!("ok     {title} ({seconds:.1} s){}", figures(&text));
            return None;
        }
        Ok(false) => failures(&text),
        Err(e) => vec![format!("{e:#}")],
    };
    println!("{text}");
    println!("FAILED {title} ({seconds:.1} s)");
    Some(Failed { title, lines })
}

/// Whether it ended well.
fn started(program: &Program, env: &[(&str, OsString)], log: &Path) -> Result<bool> {
    let file = File::create(log).with_context(|| log.display().to_string())?;
    let mut command = Command::new(&program.file);
    command.current_dir(&program.folder);
    command.env("CARGO_MANIFEST_DIR", &program.folder);
    command.env("CARGO_PKG_NAME", &program.package);
    command.envs(env.iter().map(|(k, v)| (k, v)));
    command.stdin(Stdio::null());
    command.stdout(file.try_clone()?).stderr(file);
    let status = command.status();
    Ok(status
        .with_context(|| format!("running {command:?}"))?
        .success())
}

/// What programs say of a test that failed: the standard runner's, and the cluster tests'.
fn failures(text: &str) -> Vec<String> {
    let said = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("FAILED ") || line.ends_with("... FAILED") || line.contains("panicked at")
    };
    text.lines().filter(said).map(str::to_owned).collect()
}

/// How many tests passed, as the standard runner says it.
fn figures(text: &str) -> String {
    let passed = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("test result: ok. ")?;
        rest.split_once(" passed")?.0.parse::<u32>().ok()
    });
    match passed.sum::<u32>() {
        0 => String::new(),
        count => format!(": {count} passed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_among_cargos_messages() {
        let line = |test: bool, file: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/crates/a/Cargo.toml",
                "target":{{"name":"b"}},"profile":{{"test":{test}}},"executable":{file}}}"#
            )
        };
        let found = Program::of_message(&line(true, r#""/t/b-1""#)).expect("a program");
        assert_eq!((found.package.as_str(), found.name.as_str()), ("a", "b"));
        assert_eq!(found.file, Path::new("/t/b-1"));
        assert_eq!(found.folder, Path::new("/w/crates/a"));
        for none in [
            line(false, r#""/t/b-1""#),
            line(true, "null"),
            String::new(),
        ] {
            assert!(Program::of_message(&none).is_none(), "{none}");
        }
    }

    #[test]
    fn what_failed_is_found_in_what_was_written() {
        let text = "test a ... ok\ntest b ... FAILED\n  FAILED nodes/x (1.0 s): why\nmore\n";
        assert_eq!(
            failures(text),
            ["test b ... FAILED", "  FAILED nodes/x (1.0 s): why"]
        );
        assert_eq!(
            figures("test result: ok. 7 passed; 0 failed\n"),
            ": 7 passed"
        );
        assert_eq!(figures(""), "");
    }
}
