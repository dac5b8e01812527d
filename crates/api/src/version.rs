//! What every part says of its version and machine, so that no two of them differ.

/// The version of Kubernetes whose API this is, as servers and nodes report it.
pub const KUBERNETES: &str = "v1.36.2";

/// This machine's architecture in Go's words, which clients, images and node labels use.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        // arm, riscv64 and s390x have one name.
        other => other,
    }
}
