//! `tiphys image import|list|rm`: images of the nodes that `up` made, or of the one node that
//! runs on this machine.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use host::cri::images;
use supervisor::Layout;
use supervisor::process::Record;

use crate::flags::DataDir;
use crate::machine::host_name;
use crate::say::say;

#[derive(Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Import an OCI or docker archive to every node.
    Import {
        archive: PathBuf,
        /// The image's name, if the archive does not say it.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        data: DataDir,
    },
    /// List the images of every node.
    List(DataDir),
    /// Remove an image from every node.
    Rm {
        name: String,
        #[command(flatten)]
        data: DataDir,
    },
}

/// Each running node with the socket of its containerd, as this process reaches it.
fn nodes(data: &DataDir) -> Result<Vec<(String, String)>> {
    let layout = Layout::new(&std::path::absolute(&data.data_dir)?);
    let mut out = Vec::new();
    for node in supervisor::up::read_config(&layout)
        .map(|c| c.nodes)
        .unwrap_or_default()
    {
        if let Some(record) = Record::read(&layout.record(&node.name)).filter(Record::is_alive) {
            // The node's /run is its own; its first process leads to it.
            let socket = format!(
                "/proc/{}/root/run/tiphys/containerd/containerd.sock",
                record.pid
            );
            out.push((node.name, socket));
        }
    }
    let own = "/run/tiphys/containerd/containerd.sock";
    if out.is_empty() && fs::exists(own)? {
        out.push((host_name(), own.into()));
    }
    if out.is_empty() {
        bail!("no node runs on this machine");
    }
    Ok(out)
}

pub async fn run(args: ImageArgs) -> Result<()> {
    match args.action {
        Action::Import {
            archive,
            name,
            data,
        } => {
            for (node, socket) in nodes(&data)? {
                let file =
                    fs::File::open(&archive).with_context(|| format!("{}", archive.display()))?;
                let names = images::import_oci_tar(&socket, file, name.as_deref()).await?;
                say!("{node}: {}", names.join(", "));
            }
        }
        Action::List(data) => {
            let mut rows = vec![["NODE".into(), "IMAGE".into(), "DIGEST".into()]];
            for (node, socket) in nodes(&data)? {
                for image in images::list(&socket).await? {
                    rows.push([node.clone(), image.name, image.digest]);
                }
            }
            columns(&rows).iter().for_each(|line| say!("{line}"));
        }
        Action::Rm { name, data } => {
            let mut found = false;
            for (node, socket) in nodes(&data)? {
                if images::remove(&socket, &name).await? {
                    say!("{node}: removed {name}");
                    found = true;
                }
            }
            if !found {
                bail!("no node has {name}");
            }
        }
    }
    Ok(())
}

/// Lines whose columns are as wide as what stands in them.
fn columns<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|i| width(i).unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let text: String = cells.map(|(cell, w)| format!("{cell:<w$}   ")).collect();
        text.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_does_not_run_into_the_next_column() {
        let long = format!("registry.example/{}", "x".repeat(60));
        let rows = [["NODE", "IMAGE"], ["n", &long], ["node-10", "a"]];
        let lines = columns(&rows.map(|row| row.map(str::to_owned)));
        assert_eq!(lines[0], "NODE      IMAGE");
        assert_eq!(lines[1], format!("n         {long}"));
        assert_eq!(lines[2], "node-10   a");
        let rows = [[long.clone(), "b".into()], ["a".into(), "c".into()]];
        assert_eq!(columns(&rows)[0], format!("{long}   b"));
    }
}
