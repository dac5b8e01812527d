//! A plugin of a node for the tests, as a program: `node_plugin csi NAME KUBELET-ROOT DATA`,
//! `node_plugin device RESOURCE KUBELET-ROOT FILE` or `node_plugin dra NAME KUBELET-ROOT DATA SERVICE`;
//! and `node_plugin runtime FRONT BACK FILE`, which stands before the node's container runtime.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use tests::plugins::{claimed, folders, listed, troubled};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let mut next = move || words.next().context("a word is missing");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match next()?.as_str() {
        "csi" => {
            let name = next()?;
            let root = PathBuf::from(next()?);
            let data = PathBuf::from(next()?);
            runtime.block_on(folders::run(&root, folders::Folders { name, data }))
        }
        "device" => {
            let resource = next()?;
            let root = PathBuf::from(next()?);
            let file = PathBuf::from(next()?);
            runtime.block_on(listed::run(&root, listed::Listed { resource, file }))
        }
        "dra" => {
            let name = next()?;
            let root = PathBuf::from(next()?);
            let data = PathBuf::from(next()?);
            let service = next()?;
            let driver = claimed::Claimed { name, data };
            runtime.block_on(claimed::run(&root, &service, driver))
        }
        "runtime" => {
            let front = PathBuf::from(next()?);
            let back = PathBuf::from(next()?);
            let file = PathBuf::from(next()?);
            runtime.block_on(troubled::run(&front, &back, &file))
        }
        other => bail!("{other:?} is not a plugin"),
    }
}
