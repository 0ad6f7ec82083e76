//! Everything of Spine that goes over a wire as protobuf: generated code, no logic.
//!
//! The definitions in `proto/spine` are the reference: each message and field says its unit, its bounds and its errors,
//! and rustdoc shows the same words here.

/// The native API, `spine.v1`: what clients speak.
pub mod v1 {
    #![allow(
        clippy::all,
        clippy::pedantic,
        missing_docs,
        unused_qualifications,
        unreachable_pub
    )]
    tonic::include_proto!("spine.v1");

    /// The definitions themselves, encoded: for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/spine_v1.bin"));
}

/// What servers of one cluster say to each other.
pub mod internal {
    /// The first version.
    pub mod v1 {
        #![allow(
            clippy::all,
            clippy::pedantic,
            missing_docs,
            unused_qualifications,
            unreachable_pub
        )]
        tonic::include_proto!("spine.internal.v1");
    }
}
