//! An etcd for the tests: the machine's own, else Debian 13's, unpacked into the target folder.
//! It is never installed, so that no service starts. apt downloads it, with a configuration and
//! state of its own; the mirror is that of the machine's sources, the signature is checked with
//! the keys that the machine trusts for Debian.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::machine::{find, must};

const PACKAGE: &str = "etcd-server";
/// Debian 13: its etcd 3.5 runs on Debian 12, too, whose own is 3.4.
const SUITE: &str = "trixie";
/// Debian's keys as the package debian-archive-keyring installs them; they cover the next release.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The binary to test with; unpacked into `folder` when the machine has none.
pub fn prepare(folder: &Path) -> Result<PathBuf> {
    let own = folder.join("etcd");
    if let Some(path) = std::env::var_os("TIPHYS_ETCD").map(PathBuf::from) {
        if path.is_file() {
            return Ok(path);
        }
        bail!("TIPHYS_ETCD names {}, which is not a file", path.display());
    }
    if let Some(path) = find("etcd") {
        return Ok(path);
    }
    if own.is_file() {
        return Ok(own);
    }
    let work = folder.join("etcd-download");
    std::fs::create_dir_all(&work)?;
    println!("fetching {PACKAGE} of Debian's {SUITE}");
    if let Err(e) = download(&work) {
        println!("{e:#}; taking this machine's release");
        must(&mut plain_apt(&work, &["update"]))?;
        must(&mut plain_apt(&work, &["download", PACKAGE]))?;
    }
    unpack(&work, &own)?;
    std::fs::remove_dir_all(&work)?;
    Ok(own)
}

fn plain_apt(work: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.current_dir(work).arg("-q").args(args);
    command
}

/// Downloads the package of the other suite, beside the machine's own lists.
fn download(work: &Path) -> Result<()> {
    let source = work.join("source.sources");
    std::fs::write(&source, source_for(&mirror()?))?;
    for dir in ["state/lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(work.join(dir))?;
    }
    let status = work.join("status");
    std::fs::write(&status, "")?;
    let options = [
        ("Dir::State", work.join("state")),
        ("Dir::State::status", status),
        ("Dir::Cache", work.join("cache")),
        ("Dir::Etc::sourcelist", source),
        ("Dir::Etc::sourceparts", "/dev/null".into()),
        ("Dir::Etc::preferencesparts", "/dev/null".into()),
    ]
    .map(|(name, path)| format!("-o{name}={}", path.display()));
    for args in [&["update"][..], &["download", PACKAGE]] {
        // Without this a failed fetch of lists is only a warning.
        let strict = "-oAPT::Update::Error-Mode=any";
        must(plain_apt(work, &[strict]).args(&options).args(args))?;
    }
    Ok(())
}

fn source_for(mirror: &str) -> String {
    let signed_by = if Path::new(KEYRING).is_file() {
        format!("Signed-By: {KEYRING}\n")
    } else {
        // Then apt takes the keys that it trusts anyhow.
        String::new()
    };
    format!("Types: deb\nURIs: {mirror}\nSuites: {SUITE}\nComponents: main\n{signed_by}")
}

/// Where the machine gets Debian's main packages from, by apt's own account.
fn mirror() -> Result<String> {
    let format = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)";
    let ask = || -> Result<Option<String>> {
        let output = Command::new("apt-get")
            .args(["indextargets", "--format", format, "Created-By: Packages"])
            .output()
            .context("running apt-get")?;
        Ok(debian_mirror(&String::from_utf8_lossy(&output.stdout)))
    };
    if let Some(mirror) = ask()? {
        return Ok(mirror);
    }
    // Origin and label are known only once the lists were fetched.
    must(Command::new("apt-get").args(["-q", "update"]))?;
    ask()?.context("apt knows no source of Debian's main packages")
}

fn debian_mirror(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let fields: Vec<&str> = line.split('|').collect();
        match fields.as_slice() {
            ["Debian", "Debian", "main", uri] => Some(uri.trim_end_matches('/').to_owned()),
            _ => None,
        }
    })
}

fn unpack(work: &Path, to: &Path) -> Result<()> {
    let package = std::fs::read_dir(work)?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.extension().is_some_and(|e| e == "deb"))
        .context("apt downloaded no package")?;
    let tree = work.join("tree");
    must(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&package)
            .arg(&tree),
    )?;
    // Beside, then renamed: never half a binary.
    let beside = to.with_extension("new");
    std::fs::copy(tree.join("usr/bin/etcd"), &beside).context("the package has no etcd")?;
    Ok(std::fs::rename(&beside, to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_debian_itself() {
        let targets = "Debian|Debian-Security|main|http://a.example/security/\n\
            Other|Other|main|http://b.example/\n\
            Debian|Debian|main|http://c.example/debian/\n";
        assert_eq!(
            debian_mirror(targets).as_deref(),
            Some("http://c.example/debian")
        );
        assert_eq!(debian_mirror(""), None);
    }
}
