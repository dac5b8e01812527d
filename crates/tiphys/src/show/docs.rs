//! Completion for shells, and manual pages: made of the command line's own description.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::print;
use crate::cli::Cli;

#[derive(Args)]
pub struct CompletionArgs {
    /// The shell: `source <(tiphys completion bash)` completes commands and flags at once.
    shell: Shell,
}

pub fn completion(args: &CompletionArgs) -> Result<()> {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tiphys", &mut out);
    print(&String::from_utf8_lossy(&out)).map(drop)
}

#[derive(Args)]
pub struct ManArgs {
    /// Write one page for each command into this folder, such as /usr/local/share/man/man1;
    /// otherwise the page of all is printed (`tiphys man | man -l -`).
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub fn man(args: &ManArgs) -> Result<()> {
    match &args.dir {
        Some(dir) => pages(dir),
        None => {
            let mut out = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut out)?;
            print(&String::from_utf8_lossy(&out)).map(drop)
        }
    }
}

fn pages(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir)
        .with_context(|| format!("writing pages into {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page() {
        let dir = tempfile::tempdir().expect("dir");
        pages(dir.path()).expect("pages");
        for page in [
            "tiphys",
            "tiphys-status",
            "tiphys-logs",
            "tiphys-snapshot-save",
        ] {
            let text = std::fs::read_to_string(dir.path().join(format!("{page}.1")));
            assert!(text.is_ok_and(|t| t.starts_with(".")), "{page}");
        }
    }

    #[test]
    fn each_shell_completes_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tiphys", &mut out);
            let text = String::from_utf8_lossy(&out).into_owned();
            assert!(
                text.contains("logs") && text.contains("completion"),
                "{shell}"
            );
        }
    }
}
