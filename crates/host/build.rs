//! Compiles the interface files under `proto/` with a protobuf compiler written in Rust,
//! so that no `protoc` is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let runtime = [
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
    let set = protox::compile(runtime, ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .include_file("protos.rs")
        .compile_fds(set)?;
    // The kubelet serves some of these itself, and tests serve the others.
    let plugins = [
        "pluginregistration.proto",
        "csi.proto",
        "deviceplugin.proto",
        "podresources.proto",
        "podresourcesv1alpha1.proto",
        "dra.proto",
        "drav1beta1.proto",
        "drahealth.proto",
    ];
    let set = protox::compile(plugins, ["proto"])?;
    tonic_prost_build::configure()
        .include_file("plugins.rs")
        .compile_fds(set)?;
    Ok(())
}
