//! The commands that show a person what the cluster does: `status`, `top`, `logs`. They read with
//! the rights of their user; how it looks is decided in the crate `terminal`.

pub mod docs;
mod follow;
pub mod logs;
pub mod progress;
mod read;
pub mod status;
mod stream;
pub mod top;
mod tty;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;
use terminal::style::Style;

use crate::say::say;

/// Who looks, and where.
#[derive(Args)]
pub struct Who {
    /// Kubeconfig of who looks; what it may not read is left out, and said so.
    #[arg(
        long,
        env = "KUBECONFIG",
        default_value = "/var/lib/tiphys/admin.kubeconfig"
    )]
    pub kubeconfig: PathBuf,
}

impl Who {
    pub async fn client(&self, agent: &str) -> Result<kube::Client> {
        Ok(client::from_kubeconfig(&self.kubeconfig, agent).await?)
    }
}

/// How an answer is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    Json,
    Yaml,
}

/// The flag of commands that answer.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct OutputFlag {
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

impl OutputFlag {
    /// Prints a value in the form that was asked for; as text, its lines.
    pub fn say<T: Serialize>(self, value: &T, lines: impl FnOnce() -> Vec<String>) -> Result<()> {
        say!("{}", self.output.of(value, lines)?);
        Ok(())
    }
}

impl Output {
    /// One of many values that come one after the other, in this form: as JSON a line each, as YAML a
    /// document each.
    pub fn one_of_many<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<String> {
        Ok(match self {
            Self::Text => text(),
            Self::Json => serde_json::to_string(value)?,
            Self::Yaml => format!("---\n{}", serde_norway::to_string(value)?.trim_end()),
        })
    }

    /// A value in this form; as text, its lines.
    pub fn of<T: Serialize>(
        self,
        value: &T,
        lines: impl FnOnce() -> Vec<String>,
    ) -> Result<String> {
        Ok(match self {
            Self::Text => lines().join("\n"),
            Self::Json => serde_json::to_string_pretty(value)?,
            Self::Yaml => serde_norway::to_string(value)?.trim_end().to_owned(),
        })
    }
}

/// Writes to standard output; whether somebody still reads it.
pub fn print(text: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        // The reader has seen enough, such as `head`.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e).context("writing to standard output"),
    }
}

/// Whether standard output is a terminal, in which colours, and how wide it is.
pub fn standard_output() -> (Style, Option<usize>) {
    let is_terminal = std::io::stdout().is_terminal();
    let of = |name: &str| std::env::var(name).ok();
    let style = Style::of(
        is_terminal,
        of("NO_COLOR").as_deref(),
        of("TERM").as_deref(),
    );
    (style, is_terminal.then(|| tty::size().0))
}
