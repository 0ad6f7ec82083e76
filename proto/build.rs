//! Compiles the definitions in pure Rust, so that nobody has to install protoc.

use std::{env, path::PathBuf};

use prost::Message;

const NATIVE: &[&str] = &[
    "spine/v1/admin.proto",
    "spine/v1/catalog.proto",
    "spine/v1/common.proto",
    "spine/v1/health.proto",
    "spine/v1/kv.proto",
    "spine/v1/lease.proto",
    "spine/v1/lock.proto",
    "spine/v1/members.proto",
    "spine/v1/session.proto",
    "spine/v1/watch.proto",
];

const INTERNAL: &[&str] = &[
    "spine/internal/v1/condition.proto",
    "spine/internal/v1/digests.proto",
    "spine/internal/v1/forward.proto",
    "spine/internal/v1/hello.proto",
    "spine/internal/v1/membership.proto",
    "spine/internal/v1/raft.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=spine");
    let native = protox::compile(NATIVE, ["."])?;
    // What clients are told by reflection: the native API, and not what servers say to each other.
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("spine_v1.bin");
    std::fs::write(descriptors, native.encode_to_vec())?;
    generate(native)?;
    generate(protox::compile(INTERNAL, ["."])?)
}

fn generate(definitions: prost_types::FileDescriptorSet) -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .compile_fds(definitions)?;
    Ok(())
}
