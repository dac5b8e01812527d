//! What is soaked by itself. Storms (`crates/sim/tests/storms`) of thousands of seeds: split over
//! processes, a few seeds each at a time, so that all processors are used and what one seed leaves in
//! memory goes. And checks of whole clusters that repeat what they do, as often as somebody says.

use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::machine::{self, must};
use crate::{build, check};

/// What is played unless somebody says otherwise.
const SEEDS: Range<u64> = 1..10_001;
/// Seeds that one process plays: what all seeds have in common it makes once.
const AT_A_TIME: u64 = 50;

/// Other storms than small ones, by their flags.
const OTHERS: [(&str, &str); 2] = [
    ("--wide", "wide_storms_pass"),
    ("--gangs", "gang_storms_pass"),
];

struct SoakOptions {
    /// Which storms, by the test that plays them.
    test: &'static str,
    seeds: Range<u64>,
    processes: usize,
}

fn asked(args: &[String]) -> Result<SoakOptions> {
    let processes = std::thread::available_parallelism().map_or(1, usize::from);
    let mut asked = SoakOptions {
        test: "small_storms_pass",
        seeds: SEEDS,
        processes,
    };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        if let Some(&(_, test)) = OTHERS.iter().find(|(other, _)| flag == other) {
            asked.test = test;
            continue;
        }
        let value = args
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--seed" => {
                let seed = value.parse().context("--seed is a number")?;
                asked.seeds = seed..seed + 1;
            }
            "--seeds" => {
                let (from, to) = value.split_once("..").context("--seeds is A..B")?;
                asked.seeds = from.parse()?..to.parse()?;
            }
            "--processes" => asked.processes = value.parse().context("--processes is a number")?,
            other => bail!("there is no flag {other}"),
        }
    }
    Ok(asked)
}

/// Builds the test, with optimisation and all that a debug build checks, and gives its path. What
/// others wrote is taken as the tests have it: to build that once more, as a profile of its own
/// would, takes longer than thousands of seeds. Nothing that the tests are built of is replaced.
fn binary() -> Result<String> {
    let output = build::cargo()
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "2")
        // Else each crate is cut into hundreds of parts, which are not optimised together.
        .env("CARGO_INCREMENTAL", "0")
        // Nor are those that are left put together once more.
        .env("CARGO_PROFILE_DEV_LTO", "off")
        .args(["test", "--locked", "--workspace", "--test=storms"])
        .args(["--no-run", "--message-format=json"])
        .stderr(Stdio::inherit())
        .output()
        .context("building the storms")?;
    ensure!(output.status.success(), "the storms cannot be built");
    let text = String::from_utf8(output.stdout).context("cargo's messages")?;
    let messages = text
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let mut made = messages.filter(|m| m["target"]["name"] == "storms");
    let path = made.find_map(|m| m["executable"].as_str().map(str::to_owned));
    path.context("cargo names no program of the storms")
}

/// What the seeds so far came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    revisions: u64,
    seconds: u64,
    most_written: u64,
    wrong: Vec<String>,
}

impl Sum {
    /// Takes in what a storm says of itself: `seed 5: 900 revisions in 300 s, at most 40 writes of KEY`.
    /// False for any other text.
    fn take(&mut self, line: &str) -> bool {
        let mut words = line.split_whitespace();
        let mut next = |word: &str| words.find(|w| *w == word).and_then(|_| words.next());
        let number = |word: Option<&str>| word.and_then(|w| w.parse::<u64>().ok());
        let Some((_, rest)) = line.split_once(": ") else {
            return false;
        };
        let revisions = number(rest.split_whitespace().next());
        let (seconds, most) = (number(next("in")), number(next("most")));
        let (Some(revisions), Some(seconds), Some(most)) = (revisions, seconds, most) else {
            return false;
        };
        self.seeds += 1;
        self.revisions += revisions;
        self.seconds += seconds;
        self.most_written = self.most_written.max(most);
        true
    }
}

fn play(binary: &str, test: &str, seeds: &Range<u64>, sum: &Mutex<Sum>) -> Result<()> {
    let mut child = Command::new(binary)
        .args(["--nocapture", "--exact", test])
        .env("TIPHYS_SEEDS", format!("{}..{}", seeds.start, seeds.end))
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {binary}"))?;
    let mut told = Vec::new();
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        let mut sum = sum.lock().unwrap_or_else(|e| e.into_inner());
        if !sum.take(&line) {
            told.push(line);
        }
    }
    let ended = child.wait()?;
    if !ended.success() {
        let what = format!("seeds {}..{}: {ended}", seeds.start, seeds.end);
        println!("{}\n{what}", told.join("\n"));
        sum.lock()
            .unwrap_or_else(|e| e.into_inner())
            .wrong
            .push(what);
    }
    Ok(())
}

/// Plays storms; fails when one of them does.
pub fn storms(args: &[String]) -> Result<()> {
    let asked = asked(args)?;
    let binary = binary()?;
    let (begun, sum, next) = (
        Instant::now(),
        Mutex::<Sum>::default(),
        Mutex::new(asked.seeds.start),
    );
    let take = || {
        let mut next = next.lock().unwrap_or_else(|e| e.into_inner());
        let from = *next;
        *next = (from + AT_A_TIME).min(asked.seeds.end);
        (from < *next).then_some(from..*next)
    };
    let work = || -> Result<()> {
        while let Some(seeds) = take() {
            play(&binary, asked.test, &seeds, &sum)?;
            let sum = sum.lock().unwrap_or_else(|e| e.into_inner());
            println!(
                "{} seeds in {} s: {} virtual hours, {} revisions, at most {} writes of one object; {} processes failed",
                sum.seeds,
                begun.elapsed().as_secs(),
                sum.seconds / 3_600,
                sum.revisions,
                sum.most_written,
                sum.wrong.len()
            );
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let all: Vec<_> = (0..asked.processes).map(|_| scope.spawn(work)).collect();
        for one in all {
            one.join().unwrap_or_else(|_| bail!("a thread panicked"))?;
        }
        Ok(())
    })?;
    let sum = sum.into_inner().unwrap_or_else(|e| e.into_inner());
    ensure!(sum.wrong.is_empty(), "{:#?}", sum.wrong);
    Ok(())
}

/// Checks of clusters that do something again and again (`times` in `tests/src/lib.rs`).
struct Repeated {
    name: &'static str,
    suite: &'static str,
    check: &'static str,
}

const REPEATED: [Repeated; 2] = [
    Repeated {
        name: "rolling",
        suite: "nodes",
        check: "traffic/a_rolling_update_loses_no_request",
    },
    Repeated {
        name: "takeover",
        suite: "nodes",
        check: "balancer/an_address_of_the_pool_keeps_sources_and_outlives_its_node",
    },
];
/// How often, unless somebody says otherwise.
const TIMES: u32 = 20;

fn times(args: &[String]) -> Result<u32> {
    match args {
        [] => Ok(TIMES),
        [flag, value] if flag == "--times" => value.parse().context("--times is a number"),
        _ => bail!("there is no flag but --times N"),
    }
}

/// Runs one check of a cluster, with the binary that users get; what it counts is printed while it
/// runs.
pub fn repeated(name: &str, args: &[String]) -> Result<()> {
    let known = REPEATED.iter().find(|r| r.name == name);
    let known = known.with_context(|| format!("there is nothing to soak by the name {name:?}"))?;
    let times = times(args)?;
    let prepared = machine::prepare_tests()?;
    let all = check::environment(prepared, build::release()?)?;
    // The whole workspace: one package alone would give dependencies other features.
    let suite = format!("--test={}", known.suite);
    let mut command = build::cargo();
    command.args(["test", "--locked", "--workspace", &suite]);
    command.args(["--", known.check]).envs(all);
    must(command.env("TIPHYS_TIMES", times.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_storm_says_is_read() {
        let mut sum = Sum::default();
        assert!(sum.take("seed 5: 900 revisions in 300 s, at most 40 writes of /registry/a"));
        assert!(!sum.take("seed 6: [ \"it is wrong\" ]"));
        assert!(!sum.take("running 1 test"));
        let read = (sum.seeds, sum.revisions, sum.seconds, sum.most_written);
        assert_eq!(read, (1, 900, 300, 40));
    }

    #[test]
    fn how_often_is_read() {
        let args = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(times(&[]).unwrap(), TIMES);
        assert_eq!(times(&args(&["--times", "3"])).unwrap(), 3);
        for wrong in [&["--times"][..], &["--times", "x"], &["--seed", "3"]] {
            assert!(times(&args(wrong)).is_err(), "{wrong:?}");
        }
    }
}
