//! Compiles the interface files under `proto/` with a protobuf compiler written in Rust,
//! so that no `protoc` is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "cri.proto",
        "images.proto",
        "content.proto",
        "leases.proto",
        "snapshots.proto",
        "diff.proto",
        "events.proto",
        "task_events.proto",
        "health.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let set = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .include_file("protos.rs")
        .compile_fds(set)?;
    Ok(())
}
