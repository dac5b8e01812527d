//! Which crate may depend on which: dependencies point downwards only, and a decider never knows
//! another decider, the API server or the store.

use anyhow::{Context, Result, bail};

use crate::build::cargo;

/// Every own crate with the own crates it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    // Pure.
    ("api", &[]),
    ("flowcontrol", &[]),
    ("access", &["api"]),
    ("quota", &["api"]),
    ("podsecurity", &["api"]),
    ("schema", &["api"]),
    ("cel", &["api"]),
    ("structural", &["cel", "schema", "api"]),
    ("policy", &["cel", "api"]),
    ("patch", &["schema", "api"]),
    (
        "registry",
        &[
            "patch",
            "policy",
            "structural",
            "flowcontrol",
            "cel",
            "schema",
            "api",
        ],
    ),
    // Time and chance: whoever waits, measures or draws may use it.
    ("clock", &[]),
    // What every component counts.
    ("metrics", &[]),
    // What every component's requests and work were a part of.
    ("traces", &[]),
    // What every component shows of itself beside its figures.
    ("zpages", &["metrics"]),
    // The built page.
    ("console", &[]),
    // What commands show.
    ("terminal", &["registry", "api"]),
    // State.
    ("store", &["clock"]),
    // Edge.
    ("wire", &["api", "clock"]),
    (
        "apiserver",
        &[
            "access",
            "registry",
            "flowcontrol",
            "quota",
            "podsecurity",
            "store",
            "patch",
            "policy",
            "schema",
            "cel",
            "wire",
            "api",
            "clock",
            "console",
            "metrics",
            "traces",
            "zpages",
        ],
    ),
    ("client", &["wire", "api", "clock", "metrics", "traces"]),
    ("control", &["client", "api", "clock", "metrics", "traces"]),
    // Deciders: each knows the API and nobody else.
    (
        "controllers",
        &[
            "control", "client", "policy", "quota", "api", "wire", "clock", "metrics", "traces",
        ],
    ),
    (
        "scheduler",
        &[
            "control", "client", "cel", "api", "clock", "metrics", "traces",
        ],
    ),
    (
        "dns",
        &["control", "client", "wire", "api", "clock", "metrics"],
    ),
    (
        "kubelet",
        &[
            "control", "client", "wire", "api", "host", "clock", "metrics", "traces", "zpages",
        ],
    ),
    (
        "proxy",
        &[
            "control", "client", "wire", "api", "host", "clock", "metrics",
        ],
    ),
    (
        "network",
        &[
            "control", "client", "wire", "api", "host", "clock", "metrics",
        ],
    ),
    // The only system calls.
    ("host", &["api", "clock", "traces"]),
    // Top.
    ("supervisor", &["host", "client", "wire", "api"]),
    (
        "tiphys",
        &[
            "apiserver",
            "clock",
            "supervisor",
            "controllers",
            "scheduler",
            "dns",
            "kubelet",
            "proxy",
            "network",
            "host",
            "registry",
            "store",
            "schema",
            "wire",
            "client",
            "control",
            "terminal",
            "api",
            "metrics",
            "traces",
            "zpages",
            "sim",
        ],
    ),
    // The whole cluster from one seed; the binary plays described clusters with it.
    (
        "sim",
        &[
            "apiserver",
            "controllers",
            "scheduler",
            "kubelet",
            "host",
            "control",
            "registry",
            "store",
            "client",
            "api",
            "clock",
        ],
    ),
    ("xtask", &[]),
    // What it throws at decoders is made without knowing them; its tests know all.
    ("fuzz", &[]),
    // The suite `ha` asks etcd's members which of them leads.
    ("tests", &["wire", "api", "client", "store", "host"]),
    // The group `store` measures the store itself, beside an etcd; `decisions` the scheduler's; those
    // of the network its parts.
    (
        "benches",
        &[
            "wire",
            "api",
            "client",
            "store",
            "scheduler",
            "proxy",
            "network",
            "dns",
            "host",
            "clock",
        ],
    ),
];

/// Compares what the manifests say with the table. Dev-dependencies are free.
pub fn check() -> Result<()> {
    let output = cargo()
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .output()
        .context("asking cargo for the workspace")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo names no packages")?;
    let wrong: Vec<String> = packages.iter().flat_map(wrong_arrows).collect();
    if !wrong.is_empty() {
        bail!("arrows between crates:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

fn wrong_arrows(package: &serde_json::Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let Some((_, allowed)) = ALLOWED.iter().find(|(n, _)| *n == name) else {
        return vec![format!("{name} is not in the table of xtask/src/arrows.rs")];
    };
    let dependencies = package["dependencies"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    dependencies
        .iter()
        .filter(|d| d["kind"] != "dev" && d["path"].is_string())
        .filter_map(|d| d["name"].as_str())
        .filter(|d| !allowed.contains(d))
        .map(|d| format!("{name} must not depend on {d}"))
        .collect()
}
