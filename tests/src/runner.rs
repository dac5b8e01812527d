//! Runs a suite: starts its cluster, its checks, and ends the cluster. A failed check says what
//! was seen, and the others go on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::cluster::{Cluster, Setup};
use crate::context::Context;

/// A check by its name.
pub type Check = (&'static str, fn(&Context<'_>) -> Result<()>);

/// Names checks after their functions: `/module/function`.
#[macro_export]
macro_rules! checks {
    ($($($part:ident)::+),* $(,)?) => {
        &[$((concat!($("/", stringify!($part)),+), $($part)::+)),*]
    };
}

/// A suite of checks that share a cluster.
pub struct Suite {
    pub name: &'static str,
    pub setup: Setup,
    /// How many checks run side by side.
    pub side_by_side: usize,
    pub checks: &'static [Check],
}

/// What the command line asks for: names (parts of them suffice) as `cargo test -- NAME` gives
/// them, and `--list`. Other flags of the usual runner are taken and mean nothing here.
struct RunnerArgs {
    list: bool,
    names: Vec<String>,
}

impl RunnerArgs {
    fn of_args() -> Self {
        let args: Vec<String> = std::env::args().skip(1).collect();
        Self {
            list: args.iter().any(|a| a == "--list"),
            names: args.into_iter().filter(|a| !a.starts_with('-')).collect(),
        }
    }
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|n| name.contains(n.as_str()))
    }
}

/// Runs the suite as a test program's `main`.
pub fn run(suite: &Suite) -> ExitCode {
    let wish = RunnerArgs::of_args();
    let wanted: Vec<&Check> = suite
        .checks
        .iter()
        .filter(|(name, _)| wish.wants(name))
        .collect();
    if wish.list {
        for (name, _) in wanted {
            println!("{}: test", &name[1..]);
        }
        return ExitCode::SUCCESS;
    }
    if wanted.is_empty() {
        println!("{}: no check has such a name", suite.name);
        return ExitCode::SUCCESS;
    }
    let started = Instant::now();
    println!("{}: {} checks", suite.name, wanted.len());
    let cluster = match Cluster::start(suite.setup.clone()) {
        Ok(cluster) => cluster,
        Err(e) => {
            eprintln!("{}: the cluster did not start: {e:#}", suite.name);
            return ExitCode::FAILURE;
        }
    };
    println!("  up after {:.1} s", started.elapsed().as_secs_f64());
    let mut failed = run_checks(suite, &cluster, &wanted);
    if !failed.is_empty() {
        match cluster.keep_logs(&format!("{}-{}", suite.name, std::process::id())) {
            Ok(dir) => eprintln!("logs: {}", dir.display()),
            Err(e) => eprintln!("logs could not be kept: {e:#}"),
        }
    }
    if let Err(e) = cluster.end() {
        eprintln!("FAILED {}: the end of the cluster: {e:#}", suite.name);
        failed.push("end");
    }
    println!(
        "{}: {} passed, {} failed in {:.1} s {}",
        suite.name,
        (wanted.len() + 1).saturating_sub(failed.len()),
        failed.len(),
        started.elapsed().as_secs_f64(),
        failed.join(" "),
    );
    ExitCode::from(u8::from(!failed.is_empty()))
}

fn run_checks(suite: &Suite, cluster: &Cluster, wanted: &[&Check]) -> Vec<&'static str> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..suite.side_by_side {
            scope.spawn(|| {
                while let Some((name, check)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let outcome = run_check(cluster, name, *check);
                    let seconds = started.elapsed().as_secs_f64();
                    match outcome {
                        Ok(()) => println!("  ok     {} ({seconds:.1} s)", &name[1..]),
                        Err(e) => {
                            eprintln!("  FAILED {} ({seconds:.1} s): {e:#}", &name[1..]);
                            eprintln!("{}", describe(cluster, &namespace(name)));
                            if let Ok(mut failed) = failed.lock() {
                                failed.push(*name);
                            }
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_default()
}

fn namespace(check: &str) -> String {
    let name: String = check.rsplit('/').next().unwrap_or(check).replace('_', "-");
    // Room for names that are made of it: a namespace has at most 63 characters.
    name.chars()
        .take(55)
        .collect::<String>()
        .trim_end_matches('-')
        .to_owned()
}

fn run_check(cluster: &Cluster, name: &str, check: fn(&Context<'_>) -> Result<()>) -> Result<()> {
    let ns = namespace(name);
    cluster.make_namespace(&ns)?;
    let context = Context { cluster, ns };
    let outcome = catch_unwind(AssertUnwindSafe(|| check(&context))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(anyhow!("panicked: {}", text.unwrap_or_default()))
    });
    if outcome.is_ok() {
        // Its end is another check's matter.
        cluster
            .kubectl(&format!("delete namespace {} --wait=false", context.ns))?
            .ok()?;
    }
    outcome
}

/// What a person wants to see of a failed check.
fn describe(cluster: &Cluster, ns: &str) -> String {
    let mut out = String::new();
    for line in [
        format!("get all,endpointslices,events --namespace {ns} -o wide"),
        format!("describe pods --namespace {ns}"),
        "describe nodes".to_owned(),
        "get pods --all-namespaces -o wide".to_owned(),
    ] {
        out.push_str(&format!("--- kubectl {line}\n"));
        match cluster.kubectl(&line) {
            Ok(ran) => out.push_str(&format!("{}{}", ran.out, ran.err)),
            Err(e) => out.push_str(&format!("{e:#}\n")),
        }
    }
    out.push_str(&cluster.logs(25));
    out
}
