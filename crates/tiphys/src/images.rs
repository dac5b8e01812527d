//! `tiphys image import|list|rm`: images of the nodes that `up` made, or of the one node that
//! runs on this machine.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use host::cri::images;
use serde::Serialize;
use supervisor::Layout;
use supervisor::process::Record;
use terminal::table::{self, Column};

use crate::flags::DataDir;
use crate::machine::host_name;
use crate::say::say;
use crate::show::{Output, standard_output};

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
    List {
        #[command(flatten)]
        data: DataDir,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Remove an image from every node.
    Rm {
        name: String,
        #[command(flatten)]
        data: DataDir,
    },
}

/// An image of a node.
#[derive(Serialize)]
struct NodeImage {
    node: String,
    image: String,
    digest: String,
}

fn lines(found: &[NodeImage]) -> Vec<String> {
    let columns = ["NODE", "IMAGE", "DIGEST"].map(Column::left);
    let cells = |f: &NodeImage| {
        [&f.node, &f.image, &f.digest]
            .map(|text| text.as_str().into())
            .into()
    };
    let rows: Vec<_> = found.iter().map(cells).collect();
    // Names are taken from here: nothing is cut.
    table::lines(&columns, &rows, None, standard_output().0)
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
        Action::List { data, output } => {
            let mut found = Vec::new();
            for (node, socket) in nodes(&data)? {
                found.extend(
                    images::list(&socket)
                        .await?
                        .into_iter()
                        .map(|image| NodeImage {
                            node: node.clone(),
                            image: image.name,
                            digest: image.digest,
                        }),
                );
            }
            say!("{}", output.of(&found, || lines(&found))?);
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
