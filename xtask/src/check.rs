//! The checks and the tests, each as one command.

use std::process::Command;

use anyhow::Result;

use crate::build::{self, root};
use crate::machine::{self, must};
use crate::{arrows, tidy};

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(args);
    command
}

/// Format, clippy, arrows, tidiness: what needs nothing but the toolchain.
fn quick() -> Result<()> {
    must(&mut cargo(&["fmt", "--all", "--check"]))?;
    arrows::check()?;
    tidy::check()?;
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
    if machine::find("cargo-deny").is_none() && !home_has("cargo-deny") {
        must(&mut cargo(&["install", "--locked", "cargo-deny"]))?;
    }
    must(&mut cargo(&[
        "deny", "check", "bans", "licenses", "sources",
    ]))
}

fn home_has(program: &str) -> bool {
    std::env::var_os("CARGO_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| std::path::Path::new(&h).join(".cargo")))
        .is_some_and(|home| home.join("bin").join(program).is_file())
}

/// All tests; the long ones in their short form.
pub fn test() -> Result<()> {
    run_tests(&[])
}

/// The long tests in full.
pub fn soak() -> Result<()> {
    run_tests(&[("TIPHYS_SOAK", "1")])
}

fn run_tests(env: &[(&str, &str)]) -> Result<()> {
    let (tools, etcd) = machine::prepare_tests()?;
    quick()?;
    // The cluster tests run this very binary.
    let binary = build::release()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::env::split_paths(&path).chain([tools]))?;
    must(
        cargo(&["test", "--locked", "--workspace"])
            .env("TIPHYS_BINARY", binary)
            .env("TIPHYS_ETCD", etcd)
            .env("PATH", path)
            .envs(env.iter().copied()),
    )
}
