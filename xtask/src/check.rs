//! The checks and the tests, each as one command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::build;
use crate::machine::{self, must};
use crate::{arrows, console, modules, programs};

fn cargo(args: &[&str]) -> Command {
    let mut command = build::cargo();
    command.args(args);
    command
}

/// Format, clippy, arrows, tidiness: what needs nothing but the toolchain.
fn quick() -> Result<()> {
    must(&mut cargo(&["fmt", "--all", "--check"]))?;
    tidy()?;
    clippy()
}

/// Arrows between crates and between files, and tidiness: needs no build.
pub fn tidy() -> Result<()> {
    arrows::check()?;
    modules::check()?;
    console::check_hash()?;
    crate::tidy::check()
}

fn clippy() -> Result<()> {
    must(&mut cargo(&[
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "--deny=warnings",
    ]))
}

/// Everything that is checked without running the code.
pub fn check() -> Result<()> {
    quick()?;
    console::check_build()?;
    install("cargo-deny")?;
    must(&mut cargo(&[
        "deny", "check", "bans", "licenses", "sources",
    ]))?;
    // What a crate does not use makes every build of it longer.
    install("cargo-machete")?;
    // It takes its own name for a folder when it seems to be run by a build.
    must(cargo(&["machete"]).env_remove("CARGO_PKG_NAME"))
}

/// A subcommand of cargo that the machine may lack.
fn install(name: &str) -> Result<()> {
    if machine::find(name).is_some() || home_has(name) {
        return Ok(());
    }
    // Never for the target and with the flags that this workspace's configuration names.
    must(cargo(&["install", "--locked", name]).current_dir("/"))
}

fn home_has(program: &str) -> bool {
    std::env::var_os("CARGO_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| std::path::Path::new(&h).join(".cargo")))
        .is_some_and(|home| home.join("bin").join(program).is_file())
}

/// What a change of one crate needs: clippy of it and of all that depends on it, its own tests
/// (without those that need a cluster), and a binary to try by hand. Nothing that the change does
/// not touch is compiled again.
pub fn fast(args: &[String]) -> Result<()> {
    let [package] = args else {
        bail!("which crate? `cargo xtask fast CRATE`");
    };
    must(&mut cargo(&["fmt", "--all", "--check"]))?;
    tidy()?;
    clippy()?;
    if !NEED_CLUSTER.contains(&package.as_str()) {
        let package = format!("--package={package}");
        must(&mut cargo(&["test", "--locked", &package]))?;
    }
    println!("{}", build::quick()?.display());
    Ok(())
}

/// Packages whose tests run whole clusters, and benchmarks.
const NEED_CLUSTER: [&str; 2] = ["tests", "benches"];

/// All tests; the long ones in their short form. The cluster tests run the quick binary, which
/// is made of what the tests are made of anyhow, and checks its arithmetic.
pub fn test() -> Result<()> {
    // Properties are tried with the same values each time, as all that is drawn here.
    run_tests(build::quick, true, &[("PROPTEST_RNG_SEED", "1")])
}

/// The long tests in full, with the binary that users get.
pub fn soak() -> Result<()> {
    // The long tests also measure.
    run_tests(build::release, false, &[("TIPHYS_SOAK", "1")])
}

fn run_tests(
    build: fn() -> Result<PathBuf>,
    side_by_side: bool,
    env: &[(&str, &str)],
) -> Result<()> {
    let prepared = machine::prepare_tests()?;
    let others = machine::prepare_programs()?;
    console::packages()?;
    quick()?;
    let mut all = environment(prepared, build()?)?;
    all.push(("TIPHYS_PROGRAMS", others.into_os_string()));
    all.extend(env.iter().map(|(name, value)| (*name, value.into())));
    programs::run(&all, side_by_side)
}

/// What cluster tests get in their environment, of what [`machine::prepare_tests`] gives and the very binary that they
/// run.
pub fn environment(
    (tools, etcd): (PathBuf, PathBuf),
    binary: PathBuf,
) -> Result<Vec<(&'static str, OsString)>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::env::split_paths(&path).chain([tools]))?;
    Ok(vec![
        ("TIPHYS_BINARY", binary.into_os_string()),
        ("TIPHYS_ETCD", etcd.into_os_string()),
        ("PATH", path),
    ])
}
