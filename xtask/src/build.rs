//! Building the static binary, and running it.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::etcd;
use crate::machine::{self, must};

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_owned)
}

/// Cargo, in the workspace's folder. What cargo sets for this program's own package is taken
/// out of the environment: build scripts that look at `CARGO_MANIFEST_DIR` (ring's does) would run
/// again, and a third of the workspace be compiled again, each time that somebody calls cargo
/// after xtask or xtask after cargo.
pub fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_MANIFEST_") || text.starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command
}

pub fn target_dir() -> Result<PathBuf> {
    let output = cargo()
        .args(["metadata", "--format-version=1", "--no-deps"])
        .output()
        .context("asking cargo for its target directory")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let dir = metadata["target_directory"]
        .as_str()
        .context("cargo names no target directory")?;
    Ok(dir.into())
}

/// Builds the release binary and returns where it is. That it is static, and for which machine,
/// stands in `.cargo/config.toml`, so that a plain `cargo build --release` gives the same.
pub fn release() -> Result<PathBuf> {
    machine::prepare_build()?;
    must(cargo().args(["build", "--release", "--locked", "--package=tiphys"]))?;
    binary_of("release")
}

/// Builds the binary for daily work and for the cluster tests: without the optimisation of the
/// whole program, out of the same parts as the tests, so that after a change only what depends
/// on it is compiled. Cargo chooses features of dependencies for all that it is asked for
/// together: asked for `tiphys` alone, or for no test, it would compile half of them a second
/// time. So a small test is asked for, too.
pub fn quick() -> Result<PathBuf> {
    machine::prepare_build()?;
    must(cargo().args([
        "build",
        "--locked",
        "--workspace",
        "--bin=tiphys",
        "--test=decoders",
    ]))?;
    binary_of("debug")
}

/// Where cargo puts the binary of a profile.
fn binary_of(profile: &str) -> Result<PathBuf> {
    let folder = target_dir()?.join(host_tuple()?).join(profile);
    Ok(folder.join("tiphys"))
}

/// The machine's own target triple: cargo puts what is built for a named target below it.
fn host_tuple() -> Result<String> {
    let output = Command::new("rustc")
        .args(["--print", "host-tuple"])
        .current_dir(root())
        .output()
        .context("asking rustc for this machine's triple")?;
    let tuple = String::from_utf8(output.stdout).context("rustc names this machine's triple")?;
    Ok(tuple.trim().to_owned())
}

/// For those who want to see a cluster before they want a fast one.
const QUICK_BUILD: &str = "--quick-build";

/// Sets the machine up, builds, and becomes `tiphys up`.
pub fn up(args: &[String]) -> Result<()> {
    machine::prepare_node()?;
    let (quick_build, args): (Vec<&String>, Vec<&String>) =
        args.iter().partition(|a| *a == QUICK_BUILD);
    let binary = if quick_build.is_empty() {
        if !binary_of("release")?.exists() {
            println!(
                "building the release binary; with {QUICK_BUILD} one that is not optimised, in a third of the time"
            );
        }
        release()?
    } else {
        quick()?
    };
    let mut command = Command::new(binary);
    if args.iter().any(|a| a.starts_with("--servers")) {
        let etcd = etcd::prepare(&machine::test_tools()?)?;
        command.env("TIPHYS_ETCD", etcd);
    }
    let error = command.arg("up").args(args).exec();
    Err(error).context("running tiphys up")
}

pub fn bench(args: &[String]) -> Result<()> {
    let mut command = cargo();
    command
        .args(["run", "--release", "--locked", "--package=benches", "--"])
        .args(args);
    let names = |groups: &[&str]| args.iter().any(|a| groups.contains(&a.as_str()));
    if !names(&["api", "scheduler", "pods", "statistics", "idle", "rest"]) {
        match machine::test_tools().and_then(|folder| etcd::prepare(&folder)) {
            Ok(etcd) => drop(command.env("TIPHYS_ETCD", etcd)),
            Err(e) => println!("the store is measured without an etcd beside it: {e:#}"),
        }
    }
    let measures_names = names(&["dns", "all"])
        || !names(&[
            "api",
            "store",
            "scheduler",
            "decisions",
            "pods",
            "statistics",
            "idle",
            "rest",
            "memory",
            "definitions",
            "services",
            "policies",
        ]);
    if measures_names && let Err(e) = machine::prepare_resolver() {
        println!("DNS is measured without a dnsmasq beside it: {e:#}");
    }
    if !names(&["store"]) {
        command.env("TIPHYS_BINARY", release()?);
    }
    must(&mut command)
}
