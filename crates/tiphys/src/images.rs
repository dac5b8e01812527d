//! `tiphys image import|list|rm`: images of the nodes that `up` made, or of the one node that
//! runs on this machine.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use host::cri::images;
use serde::Serialize;
use serde_json::json;
use supervisor::Layout;
use supervisor::process::Record;
use terminal::progress::Unit;
use terminal::table::{self, Column};

use crate::flags::DataDir;
use crate::machine::host_name;
use crate::show::progress::Work;
use crate::show::{Output, OutputFlag, standard_output};

#[derive(Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Import an OCI or docker archive to every node.
    Import {
        /// The archive, as `docker save` or `skopeo copy … oci-archive:FILE` makes it.
        archive: PathBuf,
        /// The image's name, if the archive does not say it.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        data: DataDir,
        #[command(flatten)]
        form: OutputFlag,
    },
    /// List the images of every node.
    List {
        #[command(flatten)]
        data: DataDir,
        #[command(flatten)]
        form: OutputFlag,
    },
    /// Remove an image from every node.
    Rm {
        /// The image's name, as `image list` shows it.
        name: String,
        #[command(flatten)]
        data: DataDir,
        #[command(flatten)]
        form: OutputFlag,
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
    let config = supervisor::up::read_config(&layout)?;
    for node in config.map(|c| c.nodes).unwrap_or_default() {
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
            form,
        } => {
            let mut done = Vec::new();
            let work = Work::begin();
            for (node, socket) in nodes(&data)? {
                let file =
                    fs::File::open(&archive).with_context(|| format!("{}", archive.display()))?;
                let (all, sent) = (file.metadata()?.len(), Arc::new(AtomicU64::new(0)));
                let counted = sent.clone();
                let what = format!("importing {} to {node}", archive.display());
                work.step(what, Unit::Bytes, move || {
                    (counted.load(Ordering::Relaxed), all)
                });
                let names = images::import_oci_tar(&socket, file, name.as_deref(), &sent).await?;
                if form.output == Output::Text {
                    work.say(&format!("{node}: {}", names.join(", ")));
                }
                done.push(json!({ "node": node, "images": names }));
            }
            drop(work);
            if form.output != Output::Text {
                form.say(&done, Vec::new)?;
            }
        }
        Action::List { data, form } => {
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
            form.say(&found, || lines(&found))?;
        }
        Action::Rm { name, data, form } => {
            let mut from = Vec::new();
            for (node, socket) in nodes(&data)? {
                if images::remove(&socket, &name).await? {
                    from.push(node);
                }
            }
            if from.is_empty() {
                bail!("no node has {name}");
            }
            let value = json!({ "image": name, "nodes": from });
            let line = |node: &String| format!("{node}: removed {name}");
            form.say(&value, || from.iter().map(line).collect())?;
        }
    }
    Ok(())
}
