//! Compiles the interface file under `proto/` with a protobuf compiler written in Rust, so that
//! no `protoc` is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let set = protox::compile(["etcd.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        // What is sent is shared; what is received is copied out of its message, so that one
        // live value does not hold a whole page in memory.
        .bytes(".etcdserverpb.PutRequest")
        .bytes(".etcdserverpb.DeleteRangeRequest")
        .bytes(".etcdserverpb.RangeRequest")
        .bytes(".etcdserverpb.Compare")
        .compile_fds(set)?;
    Ok(())
}
