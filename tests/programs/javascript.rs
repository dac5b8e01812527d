//! The JavaScript client: its informer, its apply and its streams.

use std::process::Command;

use anyhow::{Result, ensure};
use tests::{BUSYBOX, Context, binary, command};

const SOURCE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/programs/javascript/informer.mjs"
);

pub fn an_informer_sees_all_changes(cx: &Context) -> Result<()> {
    // Modules are found beside the program, so it has to lie beside what was installed.
    let program = binary::programs()?.join("javascript/informer.mjs");
    std::fs::copy(SOURCE, &program)?;
    let mut node = Command::new("node");
    node.arg(program)
        .args([&cx.ns, BUSYBOX])
        .env("KUBECONFIG", cx.cluster.kubeconfig());
    let out = command::run(node, "")?.ok()?;
    ensure!(out.lines().last() == Some("done"), "{out}");
    Ok(())
}
